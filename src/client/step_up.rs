//! From challenges to an elevated token.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::client::api::Server;
use crate::client::cache::{self, Elevated, Person, SignIn};
use crate::client::error::Error;
use crate::client::idp::{Ask, Provider};
use crate::client::lock::Lock;
use crate::client::parent::{self, Asker, Scope};
use crate::client::profile::Profile;
use crate::client::prompt::{self, Interrupt, Open, Screen, Wish};
use crate::client::sign_in::stronger_sign_in;
use crate::client::{Clock, output, session};
use crate::wire::challenge::{Challenge, DeclineCause, ReasonRule};
use crate::wire::token::{GRANT_TYPE, ID_TOKEN_TYPE, TokenError, TokenRequest, TokenResponse};

/// A kept sign-in must be good for this many seconds more, or the exchange might come too late.
const MARGIN: i64 = 5;
/// How often a person may try to give a reason that the server accepts.
const REASONS: usize = 3;
/// No elevated token lives longer than this many seconds, whatever its maker says.
const LONGEST_LIFE: u64 = 24 * 60 * 60;
/// The server carries no more grants than this along in one token.
const MOST_CARRIED: usize = 16;

/// How to take challenges up.
#[derive(Clone, Debug)]
pub struct StepUpOptions {
    /// Why, if it was said beforehand.
    pub reason: Option<String>,
    /// Wanted life of the grant in seconds; the rule's own is the most.
    pub ttl: Option<u64>,
    /// Who may use the elevated token.
    pub bind: Bind,
    /// Whether a person is there to be asked.
    pub interactive: bool,
}

/// Who may use an elevated token (invariant 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Only the caller, which has it in its memory: it is kept nowhere.
    Caller,
    /// The process that started us.
    Parent,
    /// This terminal; where there is none, the process that started us.
    Terminal,
    /// Every process of this user.
    Anyone,
}

/// Whoever makes an elevated token of a sign-in.
pub trait Grantor {
    /// Exchanges a sign-in, which is in the request too. A refusal is [`Error::Refused`].
    fn exchange(&self, sign_in: &SignIn, request: &TokenRequest) -> Result<TokenResponse, Error>;

    /// Ends a challenge without a grant.
    fn decline(&self, challenge: &str, cause: DeclineCause) -> Result<(), Error>;
}

impl Grantor for Server {
    fn exchange(&self, _sign_in: &SignIn, request: &TokenRequest) -> Result<TokenResponse, Error> {
        self.exchange(request)
    }

    fn decline(&self, challenge: &str, cause: DeclineCause) -> Result<(), Error> {
        self.decline(challenge, cause)
    }
}

/// Takes `challenges` up: with a sign-in that is still fresh enough, else with one prompt; one elevated token for all
/// of them, cached for whom `options.bind` says. Declines them at the server when the person does, or time runs out.
pub fn take_up(
    profile: &Profile,
    challenges: &[Challenge],
    options: &StepUpOptions,
    clock: Clock,
) -> Result<Elevated, Error> {
    let session = session::current(profile, clock)?;
    let server = Server::new(profile, &session.base_token)?;
    let turn = Turn::take(profile, options.interactive, clock)?;
    let mut challenges = challenges.to_vec();
    if turn.waited() {
        let pending = server.all_challenges()?.challenges;
        challenges.retain(|challenge| pending.iter().any(|other| other.id == challenge.id));
    }
    turn.take_up(&server, &challenges, options)
}

/// The right to prompt: one at a time for each person and cluster (invariant 8). A lock of its own: whoever needs no
/// step-up must not wait for somebody's sign-in.
#[derive(Debug)]
pub struct Turn<'a> {
    profile: &'a Profile,
    lock: Lock,
    /// Since when we have been waiting for it.
    since: DateTime<Utc>,
    clock: Clock,
}

impl<'a> Turn<'a> {
    /// Waits for it.
    pub fn take(profile: &'a Profile, is_interactive: bool, clock: Clock) -> Result<Self, Error> {
        let since = clock();
        let announce = is_interactive.then_some("the sign-in of another command");
        let limit = prompt::PATIENCE + Duration::from_secs(30);
        let lock = Lock::take(&profile.prompt_lock(), limit, announce)?;
        Ok(Self { profile, lock, since, clock })
    }

    /// Whether somebody else had it first, and may have answered our challenges too.
    pub fn waited(&self) -> bool {
        self.lock.waited
    }

    /// See [`take_up`].
    pub fn take_up(
        self,
        server: &dyn Grantor,
        challenges: &[Challenge],
        options: &StepUpOptions,
    ) -> Result<Elevated, Error> {
        if challenges.is_empty() {
            return Err(Error::Overtaken);
        }
        let Self { profile, lock: _lock, since, clock } = self;
        let story = Story { profile, server, challenges, options, asker: Asker::find(), since, clock };
        let outcome = story.run();
        if let Err(error) = &outcome {
            story.tell(error);
        }
        cache::sweep(&profile.files, clock());
        outcome
    }
}

/// One step-up.
struct Story<'a> {
    profile: &'a Profile,
    server: &'a dyn Grantor,
    challenges: &'a [Challenge],
    options: &'a StepUpOptions,
    asker: Option<Asker>,
    since: DateTime<Utc>,
    clock: Clock,
}

impl Story<'_> {
    fn run(&self) -> Result<Elevated, Error> {
        let demand = Demand::of(self.challenges);
        let mut reason = self.options.reason.clone().filter(|reason| !reason.trim().is_empty());
        if let Some(kept) = self.kept_sign_in(&demand) {
            reason = self.reason_without_sign_in(&demand, reason)?;
            match self.exchange(&kept, &demand, reason.as_mut()) {
                // The server knows better how fresh it is, and may have been told other keys or levels meanwhile.
                Err(Error::Refused(refusal)) if wants_fresh_sign_in(&refusal) => {}
                outcome => return outcome,
            }
        }
        if !self.options.interactive {
            return Err(Error::NobodyThere);
        }
        let fresh = self.prompted(|| self.fresh_sign_in(&demand, &mut reason))?;
        match self.exchange(&fresh, &demand, reason.as_mut()) {
            Err(Error::Refused(refusal)) if refusal.error == "insufficient_user_authentication" => {
                Err(Error::Declined { cause: DeclineCause::TooWeak, what: too_weak(&refusal) })
            }
            Err(Error::Refused(refusal)) => Err(match self.person().filter(|person| !person.is(&fresh.person)) {
                Some(person) => Error::Declined {
                    cause: DeclineCause::TooWeak,
                    what: format!(
                        "{} signed in, not {}: sign out of the other account in the browser, then try again",
                        fresh.person.user, person.user
                    ),
                },
                None => Error::Refused(refusal),
            }),
            outcome => outcome,
        }
    }

    /// Asks the person something, within what they can bear.
    fn prompted<T>(&self, ask: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let wish = match self.options.bind {
            Bind::Terminal | Bind::Anyone => Wish::Person,
            Bind::Parent | Bind::Caller => Wish::Program,
        };
        prompt::may_prompt(self.profile, wish, self.since, (self.clock)())?;
        let outcome = ask();
        prompt::remember(self.profile, &outcome, (self.clock)());
        outcome
    }

    /// Whose session it is.
    fn person(&self) -> Option<Person> {
        cache::session(&self.profile.files).map(|session| session.person)
    }

    /// The sign-in of this terminal, if it will do.
    fn kept_sign_in(&self, demand: &Demand) -> Option<SignIn> {
        let kept = cache::sign_in(&self.profile.sign_ins(), &self.terminal()?)?;
        let is_ours = self.person().is_some_and(|person| person.is(&kept.person));
        (is_ours && demand.is_met_by(&kept, (self.clock)())).then_some(kept)
    }

    /// Where a sign-in serves again.
    fn terminal(&self) -> Option<Scope> {
        self.asker.map(|asker| match self.options.bind {
            Bind::Parent => asker.terminal_of_program(),
            Bind::Caller | Bind::Terminal | Bind::Anyone => asker.terminal_or_parent(),
        })
    }

    /// Shows what is asked for, and takes the person through the sign-in.
    fn fresh_sign_in(&self, demand: &Demand, reason: &mut Option<String>) -> Result<SignIn, Error> {
        let provider = Provider::discover(self.profile, Some(self.profile.step_up_client()))?;
        let screen = Screen::open();
        let _open = Open::now();
        prompt::show_challenges(&screen, self.profile, self.challenges, reason.as_deref());
        *reason = self.reason(demand, reason.take())?;
        let ask = Ask::to_step_up(self.profile, &demand.acr_values, demand.max_age);
        let tokens = stronger_sign_in(&provider, &ask, self.profile, &screen, self.clock)?;
        let fresh = SignIn {
            id_token: tokens.id_token,
            person: tokens.person,
            acr: tokens.acr,
            // By this machine's clock, as all of it: the provider's may be ahead, or behind.
            auth_time: tokens.auth_time.map(|time| time.timestamp() + tokens.skew),
            expires_at: tokens.expires_at.timestamp(),
        };
        if let Some(terminal) = self.terminal() {
            complain(cache::keep_sign_in(&self.profile.sign_ins(), &terminal, &fresh));
        }
        Ok(fresh)
    }

    /// The reason where no sign-in is asked for. If it is to be typed, it is said what for.
    fn reason_without_sign_in(&self, demand: &Demand, given: Option<String>) -> Result<Option<String>, Error> {
        if given.is_some() || demand.reason.is_none() || !self.options.interactive {
            return self.reason(demand, given);
        }
        self.prompted(|| {
            let _open = Open::now();
            prompt::show_challenges(&Screen::open(), self.profile, self.challenges, None);
            self.reason(demand, None)
        })
    }

    /// The reason, asked for when a rule demands one and none was given.
    fn reason(&self, demand: &Demand, given: Option<String>) -> Result<Option<String>, Error> {
        match (given, &demand.reason) {
            (Some(reason), _) => Ok(Some(reason)),
            (None, None) => Ok(None),
            (None, Some(rule)) if !self.options.interactive => Err(prompt::no_reason(rule)),
            (None, Some(rule)) => prompt::ask_reason(&Screen::open(), &Interrupt::listen(), rule, None).map(Some),
        }
    }

    /// Exchanges the sign-in for one elevated token that carries all grants: those of `challenges`, and those that this
    /// scope holds already.
    fn exchange(&self, sign_in: &SignIn, demand: &Demand, mut reason: Option<&mut String>) -> Result<Elevated, Error> {
        let scope = self.scope();
        let mut carry: Vec<String> = Vec::new();
        for held in self.visible_scopes().flat_map(|scope| cache::elevated(&self.profile.files, &scope, (self.clock)()))
        {
            for id in [held.grant.id].into_iter().chain(held.carries) {
                // Each of several tokens may carry it.
                if !carry.contains(&id) {
                    carry.push(id);
                }
            }
        }
        let mut last = None;
        for challenge in self.challenges {
            carry.truncate(MOST_CARRIED);
            // The life that the server tells begins before its answer is here.
            let now = (self.clock)();
            let response = self.accepted(sign_in, challenge, demand, reason.as_deref_mut(), &carry)?;
            let life = TimeDelta::seconds(response.expires_in.min(LONGEST_LIFE).cast_signed());
            let elevated = Elevated {
                token: response.access_token,
                expires_at: (now + life).timestamp(),
                carries: carry.clone(),
                grant: response.grant,
            };
            if let Some(scope) = &scope {
                let kept = cache::keep_elevated(&self.profile.files, scope, &elevated, now);
                match self.options.bind {
                    // Nobody else will present it.
                    Bind::Terminal | Bind::Anyone => kept?,
                    Bind::Caller | Bind::Parent => complain(kept),
                }
            }
            carry.insert(0, elevated.grant.id.clone());
            last = Some(elevated);
        }
        last.ok_or(Error::Overtaken)
    }

    /// One exchange, again with another reason while the server finds fault with just that.
    fn accepted(
        &self,
        sign_in: &SignIn,
        challenge: &Challenge,
        demand: &Demand,
        mut reason: Option<&mut String>,
        carry: &[String],
    ) -> Result<TokenResponse, Error> {
        let mut tries = REASONS;
        loop {
            let request = TokenRequest {
                grant_type: GRANT_TYPE.to_owned(),
                subject_token: sign_in.id_token.clone(),
                subject_token_type: ID_TOKEN_TYPE.to_owned(),
                challenge: Some(challenge.id.clone()),
                authorization_details: None,
                reason: reason.as_deref().cloned(),
                ttl: self.options.ttl,
                carry: (!carry.is_empty()).then(|| carry.join(" ")),
            };
            tries -= 1;
            match (self.server.exchange(sign_in, &request), &mut reason, &demand.reason) {
                (Err(Error::Refused(refusal)), Some(reason), Some(rule))
                    if is_about_reason(&refusal) && self.options.interactive && tries > 0 =>
                {
                    let again = Some(refusal.error_description.as_str());
                    **reason = prompt::ask_reason(&Screen::open(), &Interrupt::listen(), rule, again)?;
                }
                (outcome, ..) => return outcome,
            }
        }
    }

    /// Who may use the token; `None`: only who asked for it now.
    fn scope(&self) -> Option<Scope> {
        match self.options.bind {
            Bind::Caller => None,
            Bind::Anyone => Some(Scope::Anyone),
            Bind::Terminal => self.asker.map(|asker| asker.terminal_or_parent()),
            Bind::Parent => self.asker.map(|asker| Scope::Process(asker.process)),
        }
    }

    /// Scopes whose grants a token of this scope may carry: its own, and those that are wider.
    fn visible_scopes(&self) -> impl Iterator<Item = Scope> {
        let surroundings = self.asker.into_iter().flat_map(|asker| parent::surroundings(Some(asker)));
        let own = match self.options.bind {
            Bind::Caller | Bind::Anyone => None,
            Bind::Terminal | Bind::Parent => self.scope(),
        };
        let bind = self.options.bind;
        let wider = surroundings.filter(move |scope| match bind {
            Bind::Caller | Bind::Parent => true,
            Bind::Terminal | Bind::Anyone => *scope == Scope::Anyone,
        });
        own.into_iter().chain(wider)
    }

    /// Tells the server why nothing came of it, so that the command's next try is answered with a 403 that says so.
    fn tell(&self, error: &Error) {
        let cause = match error {
            Error::Declined { cause, .. } => *cause,
            Error::Provider { .. } => DeclineCause::ProviderFailed,
            // It would be refused again, after one more prompt.
            Error::Refused(refusal) if is_about_reason(refusal) => DeclineCause::NoReason,
            Error::Refused(_) => DeclineCause::TooWeak,
            _ => return,
        };
        for challenge in self.challenges {
            complain(self.server.decline(&challenge.id, cause));
        }
    }
}

/// What one sign-in must be like to answer all challenges.
#[derive(Debug, PartialEq, Eq)]
struct Demand {
    acr_values: Vec<String>,
    max_age: Option<u64>,
    reason: Option<ReasonRule>,
}

impl Demand {
    fn of(challenges: &[Challenge]) -> Self {
        let mut acr_values = challenges.first().map(|first| first.acr_values.clone()).unwrap_or_default();
        for challenge in challenges {
            acr_values.retain(|acr| challenge.acr_values.contains(acr));
        }
        if acr_values.is_empty() {
            // Nothing answers all: let the provider see every wish, and the server judge.
            acr_values = challenges.iter().flat_map(|challenge| challenge.acr_values.iter().cloned()).collect();
        }
        Self {
            acr_values,
            max_age: challenges.iter().filter_map(|challenge| challenge.max_age).min(),
            reason: challenges.iter().find_map(|challenge| challenge.reason.clone()),
        }
    }

    fn is_met_by(&self, sign_in: &SignIn, now: DateTime<Utc>) -> bool {
        let now = now.timestamp() + MARGIN;
        let is_fresh = |max_age: u64| {
            let max_age = i64::try_from(max_age).unwrap_or(i64::MAX);
            sign_in.auth_time.is_some_and(|auth_time| auth_time.saturating_add(max_age) > now)
        };
        sign_in.expires_at > now
            && sign_in.acr.as_ref().is_some_and(|acr| self.acr_values.contains(acr))
            && self.max_age.is_none_or(is_fresh)
    }
}

fn wants_fresh_sign_in(refusal: &TokenError) -> bool {
    matches!(refusal.error.as_str(), "insufficient_user_authentication" | "invalid_grant")
}

fn is_about_reason(refusal: &TokenError) -> bool {
    refusal.error == "invalid_request" && refusal.error_description.contains("reason")
}

fn too_weak(refusal: &TokenError) -> String {
    let needed = refusal.acr_values.as_deref().map_or(String::new(), |acr| format!(" (needed: {acr})"));
    format!("the sign-in was not enough: {}{needed}", refusal.error_description)
}

fn complain(outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        output::note(format_args!("kubectl-stepup: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn challenge(acr_values: &[&str], max_age: Option<u64>) -> Challenge {
        serde_json::from_value(json!({
            "id": "ch-1", "rule": "r", "actions": [], "acrValues": acr_values, "maxAge": max_age,
            "grant": {"ttl": 300, "covers": []}, "createdAt": at(0), "expiresAt": at(600),
        }))
        .unwrap()
    }

    fn sign_in(acr: Option<&str>, auth_time: Option<i64>) -> SignIn {
        SignIn {
            id_token: crate::secret::Secret::new("t"),
            person: cache::Person::default(),
            acr: acr.map(str::to_owned),
            auth_time: auth_time.map(|seconds| at(seconds).timestamp()),
            expires_at: at(300).timestamp(),
        }
    }

    #[test]
    fn several_challenges_are_answered_by_what_answers_each() {
        let demand = Demand::of(&[challenge(&["mfa", "hwk"], Some(300)), challenge(&["hwk", "mfa", "pwd"], Some(60))]);
        assert_eq!((demand.acr_values, demand.max_age), (vec!["mfa".to_owned(), "hwk".to_owned()], Some(60)));
        let nothing_does = Demand::of(&[challenge(&["mfa"], None), challenge(&["hwk"], None)]);
        assert_eq!((nothing_does.acr_values, nothing_does.max_age), (vec!["mfa".to_owned(), "hwk".to_owned()], None));
    }

    #[test]
    fn a_sign_in_serves_until_it_is_too_old_or_its_token_expires() {
        let life = |max_age, sign_in: &SignIn| {
            let demand = Demand::of(&[challenge(&["mfa"], max_age)]);
            (0..600).take_while(|second| demand.is_met_by(sign_in, at(*second))).count()
        };
        let signed_in = sign_in(Some("mfa"), Some(0));
        let margin = usize::try_from(MARGIN).unwrap();
        assert_eq!(life(Some(60), &signed_in), 60 - margin);
        assert_eq!(life(Some(3600), &signed_in), 300 - margin, "the ID token itself has expired");
        assert_eq!(life(None, &signed_in), 300 - margin);
        assert_eq!(life(Some(0), &signed_in), 0);
        assert_eq!(life(None, &sign_in(Some("pwd"), Some(0))), 0, "another class");
        assert_eq!(life(None, &sign_in(None, Some(0))), 0);
        assert_eq!(life(Some(60), &sign_in(Some("mfa"), None)), 0, "it does not say when");
    }
}
