//! A trial step-up: one stronger sign-in by the profile's method, and what came of it. What was asked proves nothing
//! (some providers silently ignore `acr_values` and `max_age`); what came back does.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use crate::client::Clock;
use crate::client::api::Server;
use crate::client::cache::{Person, Session};
use crate::client::error::Error;
use crate::client::idp::{Ask, Provider, Tokens};
use crate::client::profile::{Flow, Method, Profile, StepUpSettings};
use crate::client::prompt::Screen;
use crate::client::session;
use crate::client::sign_in::stronger_sign_in;
use crate::wire::challenge::StepUpTerms;

/// What a trial asks for as `max_age`, in seconds: a session that the browser still has must not answer it.
const MAX_AGE: u64 = 5;
/// Clocks and rounding: an `auth_time` that is off by so much proves nothing.
const SLACK: TimeDelta = TimeDelta::seconds(5);

/// What the sign-in of a trial must come back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Authentication context classes, any of which will do, most wanted first.
    pub acr_values: Vec<String>,
    /// Clients whose step-ups stepup-server accepts; empty: whatever it accepts is not known.
    pub audiences: Vec<String>,
    /// Who signed in ordinarily; `None`: not known.
    pub person: Option<Person>,
}

impl Wanted {
    /// What stepup-server wants of whoever is signed in, its strongest level; without it, what the profile says that the
    /// cluster wants. Never prompts; fails with [`Error::NotSignedIn`] when nobody is signed in.
    pub fn find(profile: &Profile, clock: Clock) -> Result<Self, Error> {
        let session = session::current(profile, clock)?;
        if let Some(settings) = &profile.provider_only {
            let acr_values = settings.acr_values.clone();
            return Ok(Self { acr_values, audiences: Vec::new(), person: Some(session.person) });
        }
        let terms = Server::new(profile, &session.base_token)?.step_up_terms()?;
        Ok(Self::of(&session, terms))
    }

    fn of(session: &Session, terms: StepUpTerms) -> Self {
        Self {
            acr_values: terms.levels.into_iter().next_back().map(|level| level.acr_values).unwrap_or_default(),
            audiences: terms.audiences,
            person: Some(session.person.clone()),
        }
    }
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Trial {
    /// How it was asked.
    pub method: StepUpSettings,
    /// What came back.
    pub seen: Seen,
    /// Why step-ups by this method will be refused; empty when it works.
    pub faults: Vec<Fault>,
}

/// What the ID token of a trial says, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `acr`.
    pub acr: Option<String>,
    /// `auth_time`, by the provider's clock.
    pub auth_time: Option<DateTime<Utc>>,
    /// `aud`.
    pub audiences: Vec<String>,
    /// Who signed in.
    pub person: Person,
    /// How far this machine's clock is ahead of the provider's, in seconds.
    pub skew: i64,
}

/// Why a sign-in that succeeded is no step-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Without `acr`.
    NoAcr,
    /// With another `acr` than what was asked for.
    OtherAcr {
        /// What came.
        acr: String,
        /// What would do.
        wanted: Vec<String>,
    },
    /// Without `auth_time`.
    NoAuthTime,
    /// The sign-in was made before it was asked for: the provider used a session of its own.
    Stale {
        /// How many seconds before.
        by: i64,
    },
    /// Somebody else signed in.
    OtherUser {
        /// Who.
        user: String,
        /// Who was to.
        wanted: String,
    },
    /// stepup-server takes no step-up that is for this audience.
    OtherAudience {
        /// What came.
        audiences: Vec<String>,
        /// What would do.
        wanted: Vec<String>,
    },
}

impl Trial {
    /// Whether step-ups by this method will do.
    pub fn works(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Takes the person through a step-up sign-in by the method that `profile` has now (change `profile.step_up` to try
/// another), and judges what came back. The caller wants a person to be there. Nothing is kept, and no grant is made.
///
/// An error is a sign-in that did not come about: [`Error::Provider`] says that the provider would not have it so,
/// [`Error::Declined`] that the person would not, or that nobody finished it in time (a provider that wants a second
/// factor to be enrolled first lets the time pass).
pub fn run(profile: &Profile, wanted: &Wanted, screen: &Screen, clock: Clock) -> Result<Trial, Error> {
    let provider = Provider::discover(profile, Some(profile.step_up_client()))?;
    let ask = Ask::to_step_up(profile, &wanted.acr_values, Some(MAX_AGE));
    let begun = clock();
    let tokens = stronger_sign_in(&provider, &ask, profile, screen, clock)?;
    let seen = Seen::of(tokens);
    let faults = seen.faults(wanted, begun);
    Ok(Trial { method: profile.step_up.clone(), seen, faults })
}

/// The ways to step up that can be tried with what the profile has, each with the settings that it takes and no others:
/// the profile's own method and flow first, then device flow before browser flow, and what needs nothing special at the
/// provider before what does. `method` and `flow` narrow them down.
pub fn candidates(profile: &Profile, method: Option<Method>, flow: Option<Flow>) -> Vec<StepUpSettings> {
    let now = &profile.step_up;
    let with = |method, flow, has_client: bool| {
        let mut settings = StepUpSettings { method, flow, ..now.clone() };
        if method != Method::Scope {
            settings.scopes = Vec::new();
        }
        if !has_client {
            (settings.client_id, settings.client_secret) = (None, None);
        }
        settings
    };
    let mut all = vec![with(now.method, now.flow, now.method == Method::Client)];
    for flow in [Flow::Device, Flow::Browser] {
        all.extend([
            with(Method::AcrValues, flow, false),
            with(Method::Scope, flow, false),
            with(Method::Client, flow, true),
            with(Method::AcrValues, flow, true),
        ]);
    }
    let mut fitting: Vec<StepUpSettings> = Vec::new();
    for settings in all {
        let is_wanted =
            method.is_none_or(|method| settings.method == method) && flow.is_none_or(|flow| settings.flow == flow);
        let candidate = Profile { step_up: settings.clone(), ..profile.clone() };
        if is_wanted && candidate.check().is_ok() && !fitting.contains(&settings) {
            fitting.push(settings);
        }
    }
    fitting
}

impl Seen {
    fn of(tokens: Tokens) -> Self {
        Self {
            acr: tokens.acr,
            auth_time: tokens.auth_time,
            audiences: tokens.audiences,
            person: tokens.person,
            skew: tokens.skew,
        }
    }

    /// What is wrong with it, for a sign-in that was asked for at `begun` (by this machine's clock).
    fn faults(&self, wanted: &Wanted, begun: DateTime<Utc>) -> Vec<Fault> {
        let mut faults = Vec::new();
        match &self.acr {
            None => faults.push(Fault::NoAcr),
            Some(acr) if !wanted.acr_values.contains(acr) => {
                faults.push(Fault::OtherAcr { acr: acr.clone(), wanted: wanted.acr_values.clone() });
            }
            Some(_) => {}
        }
        // `auth_time` is by the provider's clock.
        let asked_at = begun - TimeDelta::seconds(self.skew);
        let max_age = TimeDelta::seconds(i64::try_from(MAX_AGE).unwrap_or(i64::MAX));
        match self.auth_time {
            None => faults.push(Fault::NoAuthTime),
            Some(auth_time) if auth_time + max_age + SLACK < asked_at => {
                faults.push(Fault::Stale { by: (asked_at - auth_time).num_seconds() });
            }
            Some(_) => {}
        }
        if let Some(other) = wanted.person.as_ref().filter(|wanted| !wanted.is(&self.person)) {
            faults.push(Fault::OtherUser { user: self.person.user.clone(), wanted: other.user.clone() });
        }
        if !wanted.audiences.is_empty() && !self.audiences.iter().any(|audience| wanted.audiences.contains(audience)) {
            faults.push(Fault::OtherAudience { audiences: self.audiences.clone(), wanted: wanted.audiences.clone() });
        }
        faults
    }
}

/// What came back, and what to do about it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAcr => {
                f.write_str("the ID token does not say how you signed in (no acr): tell the provider to include it")
            }
            Self::OtherAcr { acr, wanted } => {
                write!(f, "asked for {}, it came back with {acr}: the provider did not heed it", wanted.join(" or "))
            }
            Self::NoAuthTime => f.write_str(
                "the ID token does not say when you signed in (no auth_time): tell the provider to include it",
            ),
            Self::Stale { by } => write!(
                f,
                "the sign-in is from {by} s before it was asked for: the provider did not heed max_age, and used a \
                 session of its own"
            ),
            Self::OtherUser { user, wanted } => write!(f, "{user} signed in, not {wanted}"),
            Self::OtherAudience { audiences, wanted } => write!(
                f,
                "stepup-server takes no step-up for {}, only for {}: add it to stepUpAudiences",
                audiences.join(", "),
                wanted.join(", ")
            ),
        }
    }
}

/// What a trial showed, in a line.
impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.works() {
            return write!(f, "{} works: acr {}", self.method, self.seen.acr.as_deref().unwrap_or_default());
        }
        write!(f, "{} does not work", self.method)?;
        for (index, fault) in self.faults.iter().enumerate() {
            write!(f, "{} {fault}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::paths::Paths;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn wanted() -> Wanted {
        Wanted {
            acr_values: texts(&["mfa", "hwk"]),
            audiences: texts(&["kubernetes-step-up"]),
            person: Some(Person { user: "alice".to_owned(), subject: "u-1".to_owned() }),
        }
    }

    fn seen() -> Seen {
        Seen {
            acr: Some("hwk".to_owned()),
            auth_time: Some(at(20)),
            audiences: texts(&["kubernetes-step-up"]),
            person: Person { user: "alice".to_owned(), subject: "u-1".to_owned() },
            skew: 0,
        }
    }

    #[test]
    fn what_came_back_is_judged() {
        let faults = |change: &dyn Fn(&mut Seen)| {
            let mut seen = seen();
            change(&mut seen);
            seen.faults(&wanted(), at(10))
        };
        assert_eq!(faults(&|_| {}), []);
        assert_eq!(faults(&|seen| seen.acr = None), [Fault::NoAcr]);
        assert!(
            matches!(&faults(&|seen| seen.acr = Some("pwd".into()))[..], [Fault::OtherAcr { acr, .. }] if acr == "pwd")
        );
        assert_eq!(faults(&|seen| seen.auth_time = None), [Fault::NoAuthTime]);
        assert_eq!(faults(&|seen| seen.auth_time = Some(at(-600))), [Fault::Stale { by: 610 }]);
        assert_eq!(faults(&|seen| seen.auth_time = Some(at(1))), [], "within what was asked for, and rounding");
        assert!(matches!(&faults(&|seen| seen.audiences = texts(&["web"]))[..], [Fault::OtherAudience { .. }]));
        let other = faults(&|seen| {
            seen.person.user = "bob".into();
            seen.person.subject = "u-2".into();
        });
        assert_eq!(other, [Fault::OtherUser { user: "bob".into(), wanted: "alice".into() }]);
        assert_eq!(faults(&|seen| seen.person.subject = "pairwise".into()), [], "the same name under another sub");
        assert_eq!(faults(&|seen| (seen.acr, seen.auth_time) = (None, None)), [Fault::NoAcr, Fault::NoAuthTime]);
    }

    #[test]
    fn freshness_is_by_the_clock_of_the_provider() {
        for skew in [-120, 0, 120] {
            let judged = |auth_time| {
                let seen = Seen { auth_time: Some(at(auth_time - skew)), skew, ..seen() };
                seen.faults(&wanted(), at(10))
            };
            assert_eq!(judged(15), [], "{skew}");
            assert_eq!(judged(-90), [Fault::Stale { by: 100 }], "{skew}");
        }
    }

    #[test]
    fn methods_are_tried_that_the_profile_has_settings_for() {
        let paths = Paths::under(std::path::Path::new("/nonexistent"));
        let mut profile = Profile::new(&paths, &"p".parse().unwrap(), "https://idp.example.com", "kubernetes");
        let names = |profile: &Profile, method, flow| -> Vec<String> {
            candidates(profile, method, flow).iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&profile, None, None), ["acr_values in the device flow", "acr_values in the browser flow"]);
        profile.step_up.scopes = texts(&["mfa"]);
        assert_eq!(
            names(&profile, None, Some(Flow::Device)),
            ["acr_values in the device flow", "scope mfa in the device flow"]
        );
        profile.step_up.client_id = Some("strong".to_owned());
        profile.step_up.method = Method::Client;
        profile.step_up.flow = Flow::Browser;
        assert_eq!(
            names(&profile, None, None),
            [
                "client strong in the browser flow",
                "acr_values in the device flow",
                "scope mfa in the device flow",
                "client strong in the device flow",
                "acr_values to client strong in the device flow",
                "acr_values in the browser flow",
                "scope mfa in the browser flow",
                "acr_values to client strong in the browser flow",
            ]
        );
        assert_eq!(names(&profile, Some(Method::Scope), Some(Flow::Browser)), ["scope mfa in the browser flow"]);
    }
}
