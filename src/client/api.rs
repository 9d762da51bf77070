//! stepup-server, as the client sees it.

use chrono::{DateTime, Utc};

use crate::action::Action;
use crate::client::error::Error;
use crate::client::profile::Profile;
use crate::secret::Secret;
use crate::wire::challenge::{ChallengeList, DeclineCause, GrantList};
use crate::wire::token::{TokenRequest, TokenResponse};

/// A connection to stepup-server with short timeouts, in the name of one base token.
#[derive(Debug)]
pub struct Server {
    url: String,
}

impl Server {
    /// The profile's server, in the name of `base_token`. Fails when the profile has no server.
    pub fn new(profile: &Profile, base_token: &Secret) -> Result<Self, Error> {
        let _ = (profile, base_token);
        Err(Error::Failed("not built yet".to_owned()))
    }

    /// `GET /v1/challenges`: pending ones of this person, newest first.
    pub fn challenges(&self) -> Result<ChallengeList, Error> {
        Err(Error::Server { url: self.url.clone(), problem: "not built yet".to_owned() })
    }

    /// `POST /v1/challenges`: challenges for what the person is about to do.
    pub fn ask(&self, actions: &[Action]) -> Result<ChallengeList, Error> {
        let _ = actions;
        self.challenges()
    }

    /// `POST /v1/challenges/{id}/decline`.
    pub fn decline(&self, challenge: &str, cause: DeclineCause) -> Result<(), Error> {
        let _ = (challenge, cause);
        self.challenges().map(drop)
    }

    /// `GET /v1/grants`: this person's, or everybody's for administrators.
    pub fn grants(&self, all: bool) -> Result<GrantList, Error> {
        let _ = all;
        Err(Error::Server { url: self.url.clone(), problem: "not built yet".to_owned() })
    }

    /// `DELETE /v1/grants/{id}`.
    pub fn revoke(&self, grant: &str) -> Result<(), Error> {
        let _ = grant;
        self.challenges().map(drop)
    }

    /// `POST /token`. A refusal of the server is [`Error::Refused`].
    pub fn exchange(&self, request: &TokenRequest) -> Result<TokenResponse, Error> {
        let _ = request;
        Err(Error::Server { url: self.url.clone(), problem: "not built yet".to_owned() })
    }
}

/// How far this machine's clock is ahead of the server's, in seconds, from an answer just received.
pub fn skew(server_time: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (now - server_time).num_seconds()
}
