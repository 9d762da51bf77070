//! The base session: load, refresh, sign in, sign out.

use std::fs;
use std::io;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::client::cache::{self, Session};
use crate::client::error::Error;
use crate::client::idp::{Ask, Provider, Tokens};
use crate::client::lock::Lock;
use crate::client::output;
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
    if let Some(session) = live(profile, clock()) {
        return Ok(session);
    }
    let _lock = lock(profile, REFRESH)?;
    match live(profile, clock()) {
        Some(session) => Ok(session),
        None => refreshed(profile, clock),
    }
}

/// The session, refreshed when the base token has expired, with a login when it cannot be and a person is there.
pub fn current_or_login(profile: &Profile, clock: Clock) -> Result<Session, Error> {
    let since = clock();
    match current(profile, clock) {
        Err(Error::NotSignedIn { profile: name, why }) => {
            if !prompt::person_is_there() {
                return Err(Error::NotSignedIn { profile: name, why });
            }
            let _lock = lock(profile, prompt::PATIENCE + REFRESH)?;
            if let Some(session) = live(profile, clock()) {
                return Ok(session);
            }
            prompt::may_prompt(profile, since, clock())?;
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
        output::note(format_args!("kubectl-stepup: {error}"));
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

/// Makes what is cached fit a profile that was changed: a session of another provider or client is forgotten.
pub fn fit(profile: &Profile) -> Result<(), Error> {
    let Some(mut session) = cache::session(&profile.files) else { return Ok(()) };
    if !is_of(&session, profile) {
        return forget(profile);
    }
    if session.step_up_enabled != profile.server.is_some() {
        session.step_up_enabled = profile.server.is_some();
        cache::write(&profile.files.session(), &session)?;
    }
    Ok(())
}

fn is_of(session: &Session, profile: &Profile) -> bool {
    session.issuer == profile.issuer && session.client_id == profile.client_id
}

fn forget(profile: &Profile) -> Result<(), Error> {
    cache::remove(&profile.files.session())?;
    for directory in [profile.files.elevated(), profile.files.step_up()] {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &directory)(error));
            }
            _ => {}
        }
    }
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

/// Under the lock: refreshes.
fn refreshed(profile: &Profile, clock: Clock) -> Result<Session, Error> {
    let before = cache::session(&profile.files);
    let not_signed_in = |why: &str| Error::NotSignedIn { profile: profile.name.clone(), why: why.to_owned() };
    let Some(token) = secrets::load(profile)? else {
        return Err(not_signed_in(match before {
            Some(_) => "the session has expired, and there is no refresh token",
            None => "there is no session",
        }));
    };
    let refresh = |token: &Secret| {
        let provider = Provider::discover(profile, None)?;
        provider.refresh(token, clock())
    };
    match refresh(&token) {
        Ok(Some(tokens)) => return Ok(keep(profile, tokens, true, clock()).session),
        Ok(None) => {}
        // Its last seconds are still worth using.
        Err(error) => {
            return before.filter(|session| session.is_live(clock(), 0) && is_of(session, profile)).ok_or(error);
        }
    }
    // Somebody without our lock (another machine that shares this home) may have rotated the token under us
    // (buildkite/cli#852).
    if let Some(session) = live(profile, clock()) {
        return Ok(session);
    }
    if let Some(newer) = secrets::load(profile)?.filter(|newer| *newer != token)
        && let Some(tokens) = refresh(&newer)?
    {
        return Ok(keep(profile, tokens, true, clock()).session);
    }
    secrets::forget(profile)?;
    Err(not_signed_in("the identity provider no longer accepts the session"))
}

/// Stores what a sign-in or refresh brought. A token that cannot be stored is still a token.
fn keep(profile: &Profile, tokens: Tokens, is_renewal: bool, now: DateTime<Utc>) -> Login {
    let complain = |error: Error| output::note(format_args!("kubectl-stepup: {error}"));
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
    let refresh_token = match (&tokens.refresh_token, is_renewal) {
        // First of all: when the provider rotates, the old one is worth nothing now.
        (Some(token), _) => secrets::store(profile, token, is_renewal).map_err(complain).ok(),
        (None, true) => secrets::place(profile),
        (None, false) => {
            secrets::forget(profile).unwrap_or_else(complain);
            None
        }
    };
    let session = Session {
        version: 1,
        base_token: tokens.id_token,
        base_expires_at: tokens.expires_at.timestamp(),
        step_up_enabled: profile.server.is_some(),
        issuer: profile.issuer.clone(),
        client_id: profile.client_id.clone(),
        user: tokens.user,
    };
    cache::write(&profile.files.session(), &session).unwrap_or_else(complain);
    cache::sweep(&profile.files, now);
    Login { session, refresh_token }
}
