//! stepup-server, as the client sees it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use openidconnect::HttpResponse;
use openidconnect::core::CoreJsonWebKeySet;
use reqwest::Method;
use reqwest::blocking::RequestBuilder;
use serde::de::DeserializeOwned;

use crate::action::Action;
use crate::client::error::Error;
use crate::client::http::{HttpClient, Problem, describe};
use crate::client::profile::Profile;
use crate::secret::Secret;
use crate::wire::challenge::{ChallengeList, ChallengeRequest, Decline, DeclineCause, GrantList, StepUpTerms};
use crate::wire::explain::Explanation;
use crate::wire::history::History;
use crate::wire::token::{TokenError, TokenRequest, TokenResponse};

const CONNECT: Duration = Duration::from_secs(2);
const TOTAL: Duration = Duration::from_secs(8);
/// The same for a command that fails without the server's answer: many of them at once take their time.
const PATIENT_CONNECT: Duration = Duration::from_secs(10);
const PATIENT_TOTAL: Duration = Duration::from_secs(20);

/// stepup-server, in the name of one base token. Impatient: a command waits for it.
#[derive(Debug)]
pub struct Server {
    http: HttpClient,
    url: String,
    base_token: Secret,
}

impl Server {
    /// The profile's server. Fails when the profile has none.
    pub fn new(profile: &Profile, base_token: &Secret) -> Result<Self, Error> {
        Self::within(profile, base_token, CONNECT, TOTAL)
    }

    /// The same with more patience, for what cannot go on without it.
    pub fn patient(profile: &Profile, base_token: &Secret) -> Result<Self, Error> {
        Self::within(profile, base_token, PATIENT_CONNECT, PATIENT_TOTAL)
    }

    fn within(profile: &Profile, base_token: &Secret, connect: Duration, total: Duration) -> Result<Self, Error> {
        let Some(server) = &profile.server else {
            if profile.provider_only.is_some() {
                // To name one would end what it is set up for.
                return Err(Error::Failed(format!(
                    "profile {} steps up at the identity provider, without stepup-server, which alone could answer this",
                    profile.name
                )));
            }
            return Err(Error::Failed(format!(
                "profile {:?} has no stepup-server: kubectl stepup setup --profile {} --server URL",
                profile.name, profile.name
            )));
        };
        Ok(Self {
            http: HttpClient::new(server.ca.as_deref(), connect, total)?,
            url: server.url.trim_end_matches('/').to_owned(),
            base_token: base_token.clone(),
        })
    }

    /// `GET /v1/challenges`: those that wait for this person, raised by requests with this base token; newest first.
    pub fn challenges(&self) -> Result<ChallengeList, Error> {
        self.json(self.request(Method::GET, "/v1/challenges"))
    }

    /// `GET /v1/challenges?all=true`: the same, for whichever base token they were raised.
    pub fn all_challenges(&self) -> Result<ChallengeList, Error> {
        self.json(self.request(Method::GET, "/v1/challenges?all=true"))
    }

    /// `GET /v1/digest`: what is protected from this person, signed. Nothing is verified yet.
    pub fn digest(&self) -> Result<String, Error> {
        let answer = self.send(self.request(Method::GET, "/v1/digest"))?;
        String::from_utf8(answer.into_body()).map_err(|_| self.failed("its digest is no text".to_owned()))
    }

    /// `GET /jwks`: the keys that it signs with.
    pub fn keys(&self) -> Result<CoreJsonWebKeySet, Error> {
        self.json(self.http.request(Method::GET, &format!("{}/jwks", self.url)))
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `POST /v1/challenges`: challenges for what the person is about to do.
    pub fn ask(&self, actions: &[Action]) -> Result<ChallengeList, Error> {
        let body = ChallengeRequest { actions: actions.to_vec() };
        self.json(self.request(Method::POST, "/v1/challenges").json(&body))
    }

    /// `POST /v1/explain`: what would be asked for these actions; raises and records nothing.
    pub fn explain(&self, actions: &[Action]) -> Result<Explanation, Error> {
        let body = ChallengeRequest { actions: actions.to_vec() };
        self.json(self.request(Method::POST, "/v1/explain").json(&body))
    }

    /// `POST /v1/challenges/{id}/decline`.
    pub fn decline(&self, challenge: &str, cause: DeclineCause) -> Result<(), Error> {
        let path = format!("/v1/challenges/{}/decline", segment(challenge));
        self.send(self.request(Method::POST, &path).json(&Decline { cause })).map(drop)
    }

    /// `GET /v1/step-up`: what a step-up sign-in of this person must be like.
    pub fn step_up_terms(&self) -> Result<StepUpTerms, Error> {
        self.json(self.request(Method::GET, "/v1/step-up"))
    }

    /// `GET /v1/grants`: this person's, or everybody's for administrators.
    pub fn grants(&self, all: bool) -> Result<GrantList, Error> {
        self.json(self.request(Method::GET, if all { "/v1/grants?all=true" } else { "/v1/grants" }))
    }

    /// `GET /v1/history`: this person's, or for administrators that of `user`.
    pub fn history(&self, user: Option<&str>, limit: u32) -> Result<History, Error> {
        let mut query = format!("limit={limit}");
        if let Some(user) = user {
            query = format!("{query}&user={}", segment(user));
        }
        self.json(self.request(Method::GET, &format!("/v1/history?{query}")))
    }

    /// `DELETE /v1/grants/{id}`.
    pub fn revoke(&self, grant: &str) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, &format!("/v1/grants/{}", segment(grant)))).map(drop)
    }

    /// `POST /token`. A refusal is [`Error::Refused`].
    pub fn exchange(&self, request: &TokenRequest) -> Result<TokenResponse, Error> {
        self.json(self.http.request(Method::POST, &format!("{}/token", self.url)).form(request))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, &format!("{}{path}", self.url)).bearer_auth(self.base_token.expose())
    }

    fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let answer = self.send(request)?;
        serde_json::from_slice(answer.body())
            .map_err(|_| self.failed(format!("{}, not as expected", describe(&answer))))
    }

    fn send(&self, request: RequestBuilder) -> Result<HttpResponse, Error> {
        let answer = self.http.send(request).map_err(|Problem(problem)| self.failed(problem))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        // `/token` and `/v1` share the shape of their errors (RFC 6749, section 5.2).
        match serde_json::from_slice::<TokenError>(answer.body()) {
            Ok(refusal) if status.is_client_error() => Err(Error::Refused(refusal)),
            Ok(refusal) => Err(self.failed(format!("{} ({})", refusal.error_description, status.as_u16()))),
            Err(_) => Err(self.failed(describe(&answer))),
        }
    }

    fn failed(&self, problem: String) -> Error {
        Error::Server { url: self.url.clone(), problem }
    }
}

/// An identifier that people type becomes one path segment, whatever is in it.
fn segment(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect()
}

/// How far this machine's clock is ahead of the server's, in seconds, from an answer just received.
pub fn skew(server_time: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (now - server_time).num_seconds()
}
