//! The base session: load, refresh, sign in, sign out.

use crate::client::cache::Session;
use crate::client::error::Error;
use crate::client::profile::{Flow, Profile};
use crate::client::{Clock, secrets};

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
    let _ = (profile, options, clock);
    Err(Error::Failed("not built yet".to_owned()))
}

/// Revokes the refresh token where the provider can, and forgets session, elevated tokens and sign-ins.
pub fn logout(profile: &Profile) -> Result<Logout, Error> {
    let _ = profile;
    Err(Error::Failed("not built yet".to_owned()))
}

/// The session, refreshed when the base token has expired; never prompts. [`Error::NotSignedIn`] when there is none.
pub fn current(profile: &Profile, clock: Clock) -> Result<Session, Error> {
    let _ = (profile, clock);
    Err(Error::Failed("not built yet".to_owned()))
}
