//! The base session: load, refresh, sign in, sign out.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::client::cache::{self, Session};
use crate::client::error::Error;
use crate::client::idp::{Ask, Provider, SignInNeeded, Tokens};
use crate::client::lock::Lock;
use crate::client::output;
use crate::client::preflight::digest::{self, Kept};
use crate::client::profile::{Flow, Profile};
use crate::client::prompt::{self, Screen};
use crate::client::sign_in::sign_in;
use crate::client::{Clock, secrets};
use crate::secret::Secret;

/// A base token is refreshed this many seconds before it expires.
pub const MARGIN: i64 = 10;
/// Clocks further apart than this many seconds are worth a word.
const SKEW: i64 = 60;
/// Longest wait for another process's refresh.
const REFRESH: Duration = Duration::from_mins(1);

/// How to sign in.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoginOptions {
    /// Another flow than the profile's.
    pub flow: Option<Flow>,
    /// Print the URL only.
    pub no_browser: bool,
}

/// What a login left behind.
#[derive(Debug)]
pub struct Login {
    /// The new session.
    pub session: Session,
    /// Where its refresh token is kept; `None` when the provider issued none.
    pub refresh_token: Option<secrets::Place>,
}

/// What a logout did.
#[derive(Debug, PartialEq, Eq)]
pub enum Logout {
    /// The provider revoked the refresh token, and everything here is gone.
    Revoked,
    /// Everything here is gone; the provider was not told (it offers no revocation, or could not be reached: why).
    Forgotten(String),
    /// Nobody was signed in.
    NotSignedIn,
}

/// Signs in, with a prompt on stderr, and stores the session. The caller wants a person to be there.
pub fn login(profile: &Profile, options: LoginOptions, clock: Clock) -> Result<Login, Error> {
    let _lock = lock(profile, prompt::PATIENCE + REFRESH)?;
    prompted(profile, options, clock)
}

/// The session, refreshed when the base token has expired; never prompts. [`Error::NotSignedIn`] when there is none.
pub fn current(profile: &Profile, clock: Clock) -> Result<Session, Error> {
    match live(profile, clock()) {
        Some(session) => Ok(session),
        None => renewed(profile, REFRESH, clock),
    }
}

/// The session, refreshed when the base token has expired, with a login when it cannot be and a person is there (`who`
/// looks). For programs, which call again and again: a provider that is out of reach is left alone for a while.
pub fn current_or_login(profile: &Profile, who: impl FnOnce() -> bool, clock: Clock) -> Result<Session, Error> {
    let since = clock();
    if let Some(session) = live(profile, since) {
        return Ok(session);
    }
    if let Some(failure) = Failure::of(profile).filter(|failure| failure.is_recent(since)) {
        return last_seconds(profile, since).ok_or_else(|| failure.into_error(profile, since));
    }
    let is_there = who();
    // Somebody may be in the middle of a sign-in, which will do for us too.
    let limit = if is_there { prompt::PATIENCE + REFRESH } else { REFRESH };
    match renewed(profile, limit, clock) {
        Err(Error::NotSignedIn { profile: name, why }) => {
            if !is_there {
                return Err(Error::NotSignedIn { profile: name, why });
            }
            let _lock = lock(profile, limit)?;
            if let Some(session) = live(profile, clock()) {
                return Ok(session);
            }
            prompt::may_prompt(profile, prompt::Wish::Program, since, clock())?;
            Screen::open().say(&format!("Not signed in to {}: {why}", profile.issuer));
            prompted(profile, LoginOptions::default(), clock).map(|login| login.session)
        }
        outcome => outcome,
    }
}

/// Revokes the refresh token where the provider can, and forgets session, elevated tokens and sign-ins.
pub fn logout(profile: &Profile) -> Result<Logout, Error> {
    let _lock = lock(profile, REFRESH)?;
    let token = secrets::load(profile).unwrap_or_else(|error| {
        match error {
            // To be signed out is what is wanted.
            Error::NotSignedIn { why, .. } => output::note(format_args!("kubectl-stepup: {why}")),
            error => output::note(format_args!("kubectl-stepup: {error}")),
        }
        None
    });
    let had_session = cache::read::<serde_json::Value>(&profile.files.session()).is_some();
    let told =
        token.as_ref().map(|token| Provider::discover(profile, None).and_then(|provider| provider.revoke(token)));
    forget(profile)?;
    Ok(match told {
        Some(Ok(true)) => Logout::Revoked,
        Some(Ok(false)) => Logout::Forgotten("the provider offers no revocation".to_owned()),
        Some(Err(error)) => Logout::Forgotten(error.to_string()),
        None if had_session => Logout::Forgotten("there was no refresh token".to_owned()),
        None => Logout::NotSignedIn,
    })
}

/// Makes what is cached fit a profile, or a digest, that was changed: a session of another provider or client is forgotten.
pub fn fit(profile: &Profile) -> Result<(), Error> {
    let Some(mut session) = cache::session(&profile.files) else { return Ok(()) };
    if !is_of(&session, profile) {
        return forget(profile);
    }
    let (step_up_enabled, preflight) = (has_challenges(profile), profile.has_preflight());
    if (session.step_up_enabled, session.preflight) != (step_up_enabled, preflight) {
        (session.step_up_enabled, session.preflight) = (step_up_enabled, preflight);
        cache::write(&profile.files.session(), &session)?;
    }
    Ok(())
}

/// Whether stepup-server is to be asked about denials. One that leaves them to RBAC knows of none.
fn has_challenges(profile: &Profile) -> bool {
    let leaves_them_to_rbac = || Kept::read(&profile.files)?.about().map(|about| about.denials_are_final);
    profile.server.is_some() && leaves_them_to_rbac() != Some(true)
}

fn is_of(session: &Session, profile: &Profile) -> bool {
    session.issuer == profile.issuer && session.client_id == profile.client_id
}

fn forget(profile: &Profile) -> Result<(), Error> {
    cache::remove(&profile.files.session())?;
    digest::forget(&profile.files)?;
    cache::forget_elevated(&profile.files)?;
    cache::forget_sign_in(&profile.sign_ins(), None)?;
    cache::forget_remains(&profile.files)?;
    secrets::forget(profile)
}

fn lock(profile: &Profile, limit: Duration) -> Result<Lock, Error> {
    let announce = prompt::person_is_there().then_some("another command that signs in or refreshes the session");
    Lock::take(&profile.files.state("lock"), limit, announce)
}

fn live(profile: &Profile, now: DateTime<Utc>) -> Option<Session> {
    cache::session(&profile.files).filter(|session| session.is_live(now, MARGIN) && is_of(session, profile))
}

/// Under the lock: signs in.
fn prompted(profile: &Profile, options: LoginOptions, clock: Clock) -> Result<Login, Error> {
    // After the session's own lock, never the other way round: whoever steps up has a session.
    let _turn = Lock::take(&profile.prompt_lock(), prompt::PATIENCE + REFRESH, Some("the sign-in of another command"))?;
    let signed_in = Provider::discover(profile, None).and_then(|provider| {
        let ask = Ask { scopes: profile.scopes.clone(), login_hint: profile.login_hint.clone(), ..Ask::default() };
        let flow = options.flow.unwrap_or(profile.flow);
        let open_browser = profile.open_browser && !options.no_browser;
        sign_in(&provider, &ask, flow, open_browser, &Screen::open(), clock)
    });
    prompt::remember(profile, &signed_in, clock());
    let tokens = signed_in?;
    Ok(keep(profile, tokens, false, clock()))
}

/// What is left of a token that should have been renewed.
fn last_seconds(profile: &Profile, now: DateTime<Utc>) -> Option<Session> {
    cache::session(&profile.files).filter(|session| session.is_live(now, 0) && is_of(session, profile))
}

/// The session, refreshed unless somebody else has done that while we waited.
fn renewed(profile: &Profile, limit: Duration, clock: Clock) -> Result<Session, Error> {
    let since = clock();
    let lock = lock(profile, limit)?;
    if let Some(session) = live(profile, clock()) {
        return Ok(session);
    }
    // Or has found out that it cannot be done: fifty at once do not wait for fifty timeouts.
    if let Some(failure) = Failure::of(profile).filter(|failure| lock.waited && failure.at >= since) {
        return Err(failure.into_error(profile, clock()));
    }
    refreshed(profile, clock)
}

/// That the identity provider could not be asked for a new token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    at: DateTime<Utc>,
    /// How many in a row.
    times: u32,
    problem: String,
}

impl Failure {
    const FILE: &str = "refresh-failed.json";

    fn of(profile: &Profile) -> Option<Self> {
        cache::read(&profile.files.state(Self::FILE))
    }

    fn note(profile: &Profile, problem: &str, now: DateTime<Utc>) {
        let times = Self::of(profile).map_or(0, |before| before.times).saturating_add(1);
        let _ = cache::write(&profile.files.state(Self::FILE), &Self { at: now, times, problem: problem.to_owned() });
    }

    fn forget(profile: &Profile) {
        let _ = cache::remove(&profile.files.state(Self::FILE));
    }

    /// Whether to leave the provider alone for now.
    fn is_recent(&self, now: DateTime<Utc>) -> bool {
        let quiet = TimeDelta::seconds(match self.times {
            0 | 1 => 15,
            2 => 30,
            _ => 60,
        });
        self.at <= now && now - self.at < quiet
    }

    fn into_error(self, profile: &Profile, now: DateTime<Utc>) -> Error {
        let ago = (now - self.at).num_seconds().max(0);
        Error::Provider { issuer: profile.issuer.clone(), problem: format!("{} (tried {ago} s ago)", self.problem) }
    }
}

/// Under the lock: refreshes.
fn refreshed(profile: &Profile, clock: Clock) -> Result<Session, Error> {
    let before = cache::session(&profile.files);
    let not_signed_in = |why: &str| Error::NotSignedIn { profile: profile.name.clone(), why: why.to_owned() };
    let token = match secrets::load(profile) {
        Ok(token) => token,
        Err(error) => return last_seconds(profile, clock()).ok_or(error),
    };
    let Some(token) = token else {
        return Err(not_signed_in(match before {
            Some(_) => "the session has expired, and there is no refresh token",
            None => "there is no session",
        }));
    };
    let refresh = |token: &Secret| {
        let provider = Provider::discover(profile, None)?;
        // At once, whatever comes of the rest: when the provider rotates, the old one is worth nothing now.
        let rotated = |new: &Secret| {
            complain(secrets::store(profile, new, true));
        };
        prompt::uninterrupted(|| provider.refresh(token, rotated, clock()))
    };
    let outcome = refresh(&token);
    match &outcome {
        Err(Error::Provider { problem, .. }) => Failure::note(profile, problem, clock()),
        _ => Failure::forget(profile),
    }
    let SignInNeeded(why) = match outcome {
        Ok(Ok(tokens)) => return Ok(keep(profile, tokens, true, clock()).session),
        Ok(Err(needed)) => needed,
        // Its last seconds are still worth using.
        Err(error) => return last_seconds(profile, clock()).ok_or(error),
    };
    // Somebody without our lock (another machine that shares this home) may have rotated the token under us
    // (buildkite/cli#852).
    if let Some(session) = live(profile, clock()) {
        return Ok(session);
    }
    if let Some(newer) = secrets::load(profile)?.filter(|newer| *newer != token)
        && let Ok(tokens) = refresh(&newer)?
    {
        return Ok(keep(profile, tokens, true, clock()).session);
    }
    secrets::forget(profile)?;
    Err(not_signed_in(&why))
}

/// Stores what a sign-in or refresh brought. A token that cannot be stored is still a token.
fn keep(profile: &Profile, tokens: Tokens, is_renewal: bool, now: DateTime<Utc>) -> Login {
    if let Some(remark) = profile.files.remark() {
        output::note(format_args!("kubectl-stepup: {remark}"));
    }
    if tokens.skew.abs() > SKEW {
        output::note(format_args!(
            "kubectl-stepup: this machine's clock is {} s {} of the identity provider's",
            tokens.skew.abs(),
            if tokens.skew > 0 { "ahead" } else { "behind" }
        ));
    }
    let refresh_token = match &tokens.refresh_token {
        _ if is_renewal => secrets::place(profile),
        Some(token) => complain(secrets::store(profile, token, false)),
        None => {
            complain(secrets::forget(profile));
            None
        }
    };
    if let Some(settings) = &profile.provider_only
        && tokens.acr.as_ref().is_some_and(|acr| settings.acr_values.contains(acr))
    {
        output::note(
            "kubectl-stepup: the ordinary sign-in is as strong as a step-up: while it is fresh, it opens what is protected. \
             Your provider's own session does that; ask its administrator for shorter ones",
        );
    }
    if !is_renewal {
        // It was made for whoever was signed in before.
        complain(digest::forget(&profile.files));
        if !cache::session(&profile.files).is_some_and(|before| before.person.is(&tokens.person)) {
            // What somebody else was granted must not go out in this one's name.
            complain(cache::forget_elevated(&profile.files));
        }
    }
    let session = Session {
        version: 1,
        base_token: tokens.id_token,
        base_expires_at: tokens.expires_at.timestamp(),
        step_up_enabled: has_challenges(profile),
        preflight: profile.has_preflight(),
        issuer: profile.issuer.clone(),
        client_id: profile.client_id.clone(),
        person: tokens.person,
    };
    complain(cache::write(&profile.files.session(), &session));
    cache::sweep(&profile.files, now);
    Login { session, refresh_token }
}

/// Says what went wrong, where that is no reason to give up.
fn complain<T>(outcome: Result<T, Error>) -> Option<T> {
    outcome.inspect_err(|error| output::note(format_args!("kubectl-stepup: {error}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_is_out_of_reach_is_asked_less_and_less_often() {
        let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
        let quiet = |times| {
            let failure = Failure { at: at(0), times, problem: String::new() };
            (0..600).take_while(|second| failure.is_recent(at(*second))).count()
        };
        assert_eq!([1, 2, 3, 9].map(quiet), [15, 30, 60, 60]);
        let failure = Failure { at: at(0), times: 1, problem: String::new() };
        assert!(!failure.is_recent(at(-1)), "a clock that was put back does not keep us from asking");
    }
}
