//! The identity provider: OpenID Connect discovery, sign-in by device flow (RFC 8628) or by browser on this machine
//! (RFC 8252), both with PKCE, refresh with rotation, revocation (RFC 7009), and verification of ID tokens.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use oauth2::basic::BasicErrorResponseType;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthenticationFlow, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod,
    CoreDeviceAuthorizationResponse, CoreGrantType, CoreIdToken, CoreIdTokenClaims, CoreJsonWebKey, CoreJsonWebKeySet,
    CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType,
    CoreSubjectIdentifierType, CoreTokenResponse,
};
use openidconnect::{
    AdditionalProviderMetadata, AuthType, AuthenticationContextClass, AuthorizationCode, ClientId, ClientSecret,
    CsrfToken, DeviceAuthorizationUrl, DeviceCodeErrorResponseType, EndpointMaybeSet, EndpointNotSet, EndpointSet,
    ErrorResponseType, HttpRequest, HttpResponse, LoginHint, Nonce, OAuth2TokenResponse, PkceCodeChallenge,
    PkceCodeVerifier, ProviderMetadata, RedirectUrl, RefreshToken, RequestTokenError, RevocationUrl, Scope,
    StandardErrorResponse, SyncHttpClient, TokenResponse, TokenUrl,
};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::client::cache::Person;
use crate::client::error::Error;
use crate::client::http::{HttpClient, Problem, describe};
use crate::client::profile::{self, OAuthClient, Profile, secure_url};
use crate::client::prompt::Waiting;
use crate::secret::Secret;
use crate::wire::challenge::DeclineCause;

const CONNECT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(20);
/// Whatever interval the provider names.
const QUICKEST_POLL: Duration = Duration::from_secs(1);
/// Where the browser comes back to. The port is any (RFC 8252, section 7.3); this is the path to register.
const CALLBACK: &str = "/callback";

/// Endpoints that OpenID Connect Discovery leaves to other specifications.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MoreMetadata {
    device_authorization_endpoint: Option<DeviceAuthorizationUrl>,
    revocation_endpoint: Option<RevocationUrl>,
}

impl AdditionalProviderMetadata for MoreMetadata {}

type Metadata = ProviderMetadata<
    MoreMetadata,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

type OidcClient =
    CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

/// What to ask the provider for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Scopes; `openid` is added.
    pub scopes: Vec<String>,
    /// Authentication context classes, most wanted first.
    pub acr_values: Vec<String>,
    /// How long ago the sign-in may have been, in seconds.
    pub max_age: Option<u64>,
    /// Whom to offer.
    pub login_hint: Option<String>,
}

/// What a sign-in or a refresh brought: verified.
#[derive(Debug)]
pub struct Tokens {
    /// The ID token.
    pub id_token: Secret,
    /// The refresh token, where the provider issued one.
    pub refresh_token: Option<Secret>,
    /// Who signed in.
    pub person: Person,
    /// Whom the ID token is for (`aud`).
    pub audiences: Vec<String>,
    /// Authentication context class.
    pub acr: Option<String>,
    /// When the person signed in.
    pub auth_time: Option<DateTime<Utc>>,
    /// When the ID token expires, by this machine's clock.
    pub expires_at: DateTime<Utc>,
    /// How far this machine's clock is ahead of the provider's, in seconds.
    pub skew: i64,
}

/// A device sign-in that waits for the person.
#[derive(Debug)]
pub struct DeviceSignIn {
    answer: CoreDeviceAuthorizationResponse,
    verifier: PkceCodeVerifier,
}

/// A browser sign-in that waits for the person.
#[derive(Debug)]
pub struct BrowserSignIn {
    url: Url,
    redirect: RedirectUrl,
    listener: TcpListener,
    state: CsrfToken,
    nonce: Nonce,
    verifier: PkceCodeVerifier,
}

/// Why a session cannot be renewed without the person.
#[derive(Debug)]
pub struct SignInNeeded(pub String);

/// The profile's identity provider.
#[derive(Debug)]
pub struct Provider {
    http: HttpClient,
    metadata: Metadata,
    client_id: ClientId,
    client_secret: Option<ClientSecret>,
}

impl Provider {
    /// Fetches the provider's metadata. `client` signs in instead of the profile's own.
    pub fn discover(profile: &Profile, client: Option<OAuthClient<'_>>) -> Result<Self, Error> {
        let http = HttpClient::new(profile.issuer_ca.as_deref(), CONNECT, TOTAL)?;
        let failed = |problem: String| Error::Provider { issuer: profile.issuer.clone(), problem };
        let url = format!("{}/.well-known/openid-configuration", profile.issuer.trim_end_matches('/'));
        let request = http.request(Method::GET, &url).header("accept", "application/json");
        let answer = http.send(request).map_err(|Problem(problem)| failed(problem))?;
        if answer.status().as_u16() != 200 {
            return Err(failed(format!("{}, not with its metadata: is the issuer URL right?", describe(&answer))));
        }
        let metadata: Metadata = serde_json::from_slice(answer.body()).map_err(|error| match describe(&answer) {
            page if page.contains("a web page") => failed(format!("{page}, not with its metadata")),
            _ => failed(format!("its metadata makes no sense: {error}")),
        })?;
        // Whether there is a slash at the end is a matter of taste to some providers; anything else is another issuer.
        let stated = metadata.issuer().as_str();
        if stated.trim_end_matches('/') != profile.issuer.trim_end_matches('/') {
            return Err(failed(format!("it says that its issuer is {stated}: use that one")));
        }
        let client = client.unwrap_or_else(|| profile.client());
        let provider = Self {
            http,
            client_id: ClientId::new(client.id.to_owned()),
            client_secret: client.secret.map(|secret| ClientSecret::new(secret.expose().to_owned())),
            metadata,
        };
        provider.check_endpoints().map_err(failed)?;
        Ok(provider)
    }

    /// Codes and refresh tokens go to these: over TLS, or not off this machine.
    fn check_endpoints(&self) -> Result<(), String> {
        let more = self.metadata.additional_metadata();
        let endpoints = [
            ("authorization_endpoint", Some(self.metadata.authorization_endpoint().url())),
            ("token_endpoint", self.metadata.token_endpoint().map(TokenUrl::url)),
            ("jwks_uri", Some(self.metadata.jwks_uri().url())),
            (
                "device_authorization_endpoint",
                more.device_authorization_endpoint.as_ref().map(DeviceAuthorizationUrl::url),
            ),
            ("revocation_endpoint", more.revocation_endpoint.as_ref().map(RevocationUrl::url)),
        ];
        endpoints
            .into_iter()
            .filter_map(|(name, url)| Some((name, url?)))
            .try_for_each(|(name, url)| secure_url(name, url))
    }

    /// Asks for a device code, with PKCE always: some providers demand it, the others ignore it.
    pub fn start_device(&self, ask: &Ask) -> Result<DeviceSignIn, Error> {
        let Some(endpoint) = &self.metadata.additional_metadata().device_authorization_endpoint else {
            return Err(self.failed("it offers no device sign-in (RFC 8628): use --flow browser"));
        };
        let client = self.client().set_device_authorization_url(endpoint.clone());
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut request = client
            .exchange_device_code()
            .add_scopes(ask.more_scopes())
            .add_extra_param("code_challenge", challenge.as_str().to_owned())
            .add_extra_param("code_challenge_method", "S256");
        if !ask.acr_values.is_empty() {
            request = request.add_extra_param("acr_values", ask.acr_values.join(" "));
        }
        if let Some(max_age) = ask.max_age {
            request = request.add_extra_param("max_age", max_age.to_string());
        }
        if let Some(hint) = &ask.login_hint {
            request = request.add_extra_param("login_hint", hint.clone());
        }
        let answer: CoreDeviceAuthorizationResponse =
            request.request(&self.http).map_err(|error| self.refused("start a device sign-in", error))?;
        Ok(DeviceSignIn { answer, verifier })
    }

    /// Polls until the person has signed in, has refused, or `waiting` is over.
    pub fn finish_device(&self, sign_in: DeviceSignIn, waiting: &Waiting) -> Result<Tokens, Error> {
        let DeviceSignIn { answer, verifier } = sign_in;
        if waiting.is_over() {
            return Err(waiting.ending());
        }
        let client = self.client();
        let polling = Polling { http: &self.http, trouble: RefCell::default() };
        let polled = client
            .exchange_device_access_token(&answer)
            .map_err(|error| self.failed(&error.to_string()))?
            .add_extra_param("code_verifier", verifier.into_secret())
            // Once the wait is over it is the end of time, which ends the polling.
            .set_time_fn(|| if waiting.is_over() { DateTime::<Utc>::MAX_UTC } else { waiting.now() })
            .request(&polling, |interval| waiting.pause(interval.max(QUICKEST_POLL)), Some(answer.expires_in()));
        let doing = "finish the device sign-in";
        let in_trouble = |trouble| self.failed(&format!("cannot {doing}: {trouble}"));
        let tokens: CoreTokenResponse = polled.map_err(|error| match (&error, polling.trouble.take()) {
            (RequestTokenError::ServerResponse(told), trouble) => match (told.error(), trouble) {
                (DeviceCodeErrorResponseType::AccessDenied, _) => refused_there(),
                (DeviceCodeErrorResponseType::ExpiredToken, Some(trouble)) if !waiting.was_interrupted() => {
                    in_trouble(trouble)
                }
                (DeviceCodeErrorResponseType::ExpiredToken, _) => waiting.ending(),
                _ => self.refused(doing, error),
            },
            (_, Some(trouble)) => in_trouble(trouble),
            (_, None) => self.refused(doing, error),
        })?;
        self.verified(&tokens, None, waiting.now())
    }

    /// Opens a loopback port for the browser to come back to, and makes the URL to send it to.
    pub fn start_browser(&self, ask: &Ask) -> Result<BrowserSignIn, Error> {
        let cannot = |error: io::Error| Error::Failed(format!("cannot listen on 127.0.0.1: {error}"));
        // Either may be missing (RFC 8252, section 7.3); providers know the first one better.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .or_else(|error| TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).map_err(|_| error))
            .map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let redirect = RedirectUrl::new(format!("http://{address}{CALLBACK}"))
            .map_err(|error| Error::Failed(error.to_string()))?;
        let client = self.client().set_redirect_uri(redirect.clone());
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut request = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random)
            .add_scopes(ask.more_scopes())
            .set_pkce_challenge(challenge);
        for acr in &ask.acr_values {
            request = request.add_auth_context_value(AuthenticationContextClass::new(acr.clone()));
        }
        if let Some(max_age) = ask.max_age {
            request = request.set_max_age(Duration::from_secs(max_age));
        }
        if let Some(hint) = &ask.login_hint {
            request = request.set_login_hint(LoginHint::new(hint.clone()));
        }
        let (url, state, nonce) = request.url();
        Ok(BrowserSignIn { url, redirect, listener, state, nonce, verifier })
    }

    /// Waits for the browser to come back with a code, and redeems it.
    pub fn finish_browser(&self, sign_in: BrowserSignIn, waiting: &Waiting) -> Result<Tokens, Error> {
        let code = loop {
            if waiting.is_over() {
                return Err(waiting.ending());
            }
            match sign_in.listener.accept() {
                Ok((stream, _)) => {
                    if let Some(code) = self.code_from(&stream, &sign_in.state)? {
                        break code;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => waiting.pause(Duration::from_millis(100)),
                // A connection that the browser has given up before we took it.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                Err(error) => return Err(Error::Failed(format!("cannot listen on 127.0.0.1: {error}"))),
            }
        };
        let client = self.client().set_redirect_uri(sign_in.redirect);
        let tokens: CoreTokenResponse = client
            .exchange_code(code)
            .map_err(|error| self.failed(&error.to_string()))?
            .set_pkce_verifier(sign_in.verifier)
            .request(&self.http)
            .map_err(|error| self.refused("redeem the code", error))?;
        self.verified(&tokens, Some(&sign_in.nonce), waiting.now())
    }

    /// Reads one request of the browser. `None`: it was not the one we wait for.
    fn code_from(&self, stream: &TcpStream, state: &CsrfToken) -> Result<Option<AuthorizationCode>, Error> {
        let Some(callback) = read_callback(stream) else {
            answer(stream, "404 Not Found", "Nothing is here.");
            return Ok(None);
        };
        let parameter =
            |name: &str| callback.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        // A page elsewhere can send the browser here too: only our own request knows the state (RFC 6749, section 10.12).
        let ours = parameter("state").is_some_and(|stated| stated == *state.secret())
            // And only our own provider may answer it (RFC 9207).
            && parameter("iss").is_none_or(|issuer| issuer == self.metadata.issuer().as_str());
        if !ours {
            answer(stream, "400 Bad Request", "This is not the sign-in that kubectl-stepup waits for.");
            return Ok(None);
        }
        if let Some(code) = parameter("code") {
            answer(stream, "200 OK", "Signed in. You may close this page and go back to the terminal.");
            return Ok(Some(AuthorizationCode::new(code)));
        }
        answer(stream, "200 OK", "Not signed in. You may close this page and go back to the terminal.");
        match parameter("error").as_deref() {
            Some("access_denied") => Err(refused_there()),
            Some(error) => Err(self.failed(&told(error, parameter("error_description").as_ref()))),
            None => Err(self.failed("its answer has neither a code nor an error")),
        }
    }

    /// New tokens for a refresh token, or why it takes a new sign-in to have any.
    ///
    /// `rotated` gets the next refresh token before anything else can fail.
    pub fn refresh(
        &self,
        token: &Secret,
        rotated: impl FnOnce(&Secret),
        now: DateTime<Utc>,
    ) -> Result<Result<Tokens, SignInNeeded>, Error> {
        let token = RefreshToken::new(token.expose().to_owned());
        let client = self.client();
        let request = client.exchange_refresh_token(&token).map_err(|error| self.failed(&error.to_string()))?;
        match request.request(&self.http) {
            Ok(tokens) => {
                if let Some(next) = tokens.refresh_token() {
                    rotated(&Secret::new(next.secret().clone()));
                }
                // Which a provider may leave out of this answer (OpenID Connect Core, section 12.2).
                if tokens.id_token().is_none() {
                    return Ok(Err(SignInNeeded("the identity provider renews no ID tokens".to_owned())));
                }
                self.verified(&tokens, None, now).map(Ok)
            }
            Err(RequestTokenError::ServerResponse(answer)) if takes_a_sign_in(answer.error().as_ref()) => {
                Ok(Err(SignInNeeded(match answer.error() {
                    BasicErrorResponseType::InvalidGrant => {
                        "the identity provider no longer accepts the session".to_owned()
                    }
                    error => format!(
                        "the identity provider would not renew the session: {}",
                        told(error.as_ref(), answer.error_description())
                    ),
                })))
            }
            Err(error) => Err(self.refused("refresh the session", error)),
        }
    }

    /// Revokes a refresh token. `false`: the provider does not offer that.
    pub fn revoke(&self, token: &Secret) -> Result<bool, Error> {
        let Some(endpoint) = &self.metadata.additional_metadata().revocation_endpoint else { return Ok(false) };
        let mut form = vec![("token", token.expose()), ("token_type_hint", "refresh_token")];
        let mut request = self.http.request(Method::POST, endpoint.as_str());
        match &self.client_secret {
            Some(secret) if matches!(self.auth_type(), AuthType::BasicAuth) => {
                let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                request = request.basic_auth(encode(&self.client_id), Some(encode(secret.secret())));
            }
            Some(secret) => form.extend([("client_id", self.client_id.as_str()), ("client_secret", secret.secret())]),
            None => form.push(("client_id", &self.client_id)),
        }
        let answer = self.http.send(request.form(&form)).map_err(|Problem(problem)| self.failed(&problem))?;
        if answer.status().is_success() {
            return Ok(true);
        }
        Err(self.failed(&format!("it would not revoke the refresh token: {}", describe(&answer))))
    }

    fn client(&self) -> OidcClient {
        CoreClient::from_provider_metadata(self.metadata.clone(), self.client_id.clone(), self.client_secret.clone())
            .set_auth_type(self.auth_type())
    }

    fn auth_type(&self) -> AuthType {
        // Basic is the default (OpenID Connect Discovery, section 3) unless the provider says that it cannot.
        let methods = self.metadata.token_endpoint_auth_methods_supported();
        match methods {
            Some(methods) if !methods.contains(&CoreClientAuthMethod::ClientSecretBasic) => AuthType::RequestBody,
            _ => AuthType::BasicAuth,
        }
    }

    /// Checks signature, issuer, audience, expiry and nonce of the ID token.
    fn verified(&self, tokens: &CoreTokenResponse, nonce: Option<&Nonce>, now: DateTime<Utc>) -> Result<Tokens, Error> {
        let id_token: &CoreIdToken =
            tokens.id_token().ok_or_else(|| self.failed("it sent no ID token: is `openid` among the scopes?"))?;
        let theirs = self.http.date().unwrap_or(now);
        let keys = CoreJsonWebKeySet::fetch(self.metadata.jwks_uri(), &self.http)
            .map_err(|error| self.failed(&format!("cannot fetch its keys: {error}")))?;
        let client = CoreClient::from_provider_metadata(
            self.metadata.clone().set_jwks(keys),
            self.client_id.clone(),
            self.client_secret.clone(),
        );
        // Expiry by the provider's clock: this machine's may be wrong, and the API server judges anyway.
        let verifier = client.id_token_verifier().set_time_fn(|| theirs).set_other_audience_verifier_fn(|_| true);
        let claims: &CoreIdTokenClaims = id_token
            .claims(&verifier, |stated: Option<&Nonce>| match nonce {
                Some(nonce) if stated.map(Nonce::secret) != Some(nonce.secret()) => {
                    Err("the nonce is not ours".to_owned())
                }
                _ => Ok(()),
            })
            .map_err(|error| self.failed(&format!("its ID token does not verify: {error}")))?;
        // One of several audiences is us; whom it was issued to is then said apart (OpenID Connect Core, section 3.1.3.7).
        if claims.audiences().len() > 1 && claims.authorized_party() != Some(&self.client_id) {
            return Err(self.failed(&format!(
                "its ID token is for several clients, and was not issued to {:?}: it has no azp that says so",
                self.client_id.as_str()
            )));
        }
        let user = match (claims.preferred_username(), claims.email()) {
            (Some(name), _) => name.as_str(),
            (None, Some(email)) => email.as_str(),
            (None, None) => claims.subject().as_str(),
        };
        Ok(Tokens {
            id_token: Secret::new(id_token.to_string()),
            refresh_token: tokens.refresh_token().map(|token| Secret::new(token.secret().clone())),
            person: Person { user: user.to_owned(), subject: claims.subject().to_string() },
            audiences: claims.audiences().iter().map(|audience| audience.as_str().to_owned()).collect(),
            acr: claims.auth_context_ref().map(|acr| acr.as_str().to_owned()),
            auth_time: claims.auth_time(),
            expires_at: claims.expiration().checked_add_signed(now - theirs).unwrap_or(DateTime::<Utc>::MAX_UTC),
            skew: (now - theirs).num_seconds(),
        })
    }

    fn failed(&self, problem: &str) -> Error {
        Error::Provider { issuer: self.metadata.issuer().to_string(), problem: problem.to_owned() }
    }

    fn refused<T: ErrorResponseType + Display + 'static>(
        &self,
        doing: &str,
        error: RequestTokenError<Problem, StandardErrorResponse<T>>,
    ) -> Error {
        let why = match error {
            RequestTokenError::ServerResponse(answer) => told(&answer.error().to_string(), answer.error_description()),
            RequestTokenError::Request(Problem(problem)) | RequestTokenError::Other(problem) => problem,
            // The text of the answer stays out of it: there may be a token in it.
            RequestTokenError::Parse(error, _) => format!("its answer makes no sense at {}", error.path()),
        };
        self.failed(&format!("cannot {doing}: {why}"))
    }
}

/// The provider, as polls see it: trouble that may pass is no reason to give a person's sign-in up (RFC 8628, section
/// 3.5), and is told if it was there to the end.
struct Polling<'a> {
    http: &'a HttpClient,
    /// What was wrong with the last poll.
    trouble: RefCell<Option<String>>,
}

impl SyncHttpClient for Polling<'_> {
    type Error = Problem;

    fn call(&self, request: HttpRequest) -> Result<HttpResponse, Problem> {
        self.trouble.take();
        match self.http.ask(request) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(page)) => {
                self.trouble.replace(Some(page.description.clone()));
                // The library polls on after an error, and gives up after an answer that makes no sense.
                if page.may_pass { Err(Problem(page.description)) } else { Ok(HttpResponse::new(Vec::new())) }
            }
            Err(Problem(problem)) => {
                self.trouble.replace(Some(problem.clone()));
                Err(Problem(problem))
            }
        }
    }
}

impl Ask {
    /// What a step-up of `profile` asks for, to reach one of `acr_values`.
    pub fn to_step_up(profile: &Profile, acr_values: &[String], max_age: Option<u64>) -> Self {
        let settings = &profile.step_up;
        // The same claims as in the base token, or the server could not tell who it is; but no second session.
        let base = profile.scopes.iter().filter(|scope| *scope != "offline_access");
        let more = settings.scopes.iter().filter(|scope| !profile.scopes.contains(scope));
        Self {
            scopes: base.chain(more).cloned().collect(),
            acr_values: match settings.method {
                profile::Method::AcrValues => acr_values.to_vec(),
                // The provider decides by scope or client. Asked for a class besides, Keycloak leaves a flow out whose
                // own level is another.
                profile::Method::Scope | profile::Method::Client => Vec::new(),
            },
            max_age,
            login_hint: profile.login_hint.clone(),
        }
    }

    fn more_scopes(&self) -> impl Iterator<Item = Scope> {
        self.scopes.iter().filter(|scope| *scope != "openid").map(|scope| Scope::new(scope.clone()))
    }
}

impl DeviceSignIn {
    /// Where to sign in, with the code in it where the provider offers that.
    pub fn url(&self) -> &str {
        match self.answer.verification_uri_complete() {
            Some(complete) => complete.secret(),
            None => self.answer.verification_uri().as_str(),
        }
    }

    /// The code that the page must show, or asks for.
    pub fn code(&self) -> &str {
        self.answer.user_code().secret()
    }

    /// How long the code lasts.
    pub fn expires_in(&self) -> Duration {
        self.answer.expires_in()
    }
}

impl BrowserSignIn {
    /// Where to sign in.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }
}

/// Whether a refresh was refused for good: with `invalid_grant`, or, as Dex does, with `invalid_request` (RFC 6749, section
/// 5.2), or for want of a person (OpenID Connect Core, section 3.1.2.6).
fn takes_a_sign_in(error: &str) -> bool {
    const ALL: [&str; 6] = [
        "invalid_grant",
        "invalid_request",
        "invalid_token",
        "interaction_required",
        "login_required",
        "consent_required",
    ];
    ALL.contains(&error)
}

fn told(error: &str, description: Option<&String>) -> String {
    match description {
        Some(description) if !description.is_empty() => format!("{description} ({error})"),
        _ => error.to_owned(),
    }
}

fn refused_there() -> Error {
    Error::Declined {
        cause: DeclineCause::Declined,
        what: "the sign-in was refused at the identity provider".to_owned(),
    }
}

/// How long a request of the browser may take to be here: it comes from this very machine. All of it, since whoever sends
/// a byte now and then could keep the browser waiting.
const HEAD: Duration = Duration::from_secs(2);

/// A connection that is read until then and no longer.
struct Until<'a>(&'a TcpStream, Instant);

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.0.set_read_timeout(Some(left))?;
        self.0.read(buffer)
    }
}

/// The request line's URL, if this is a GET of [`CALLBACK`].
fn read_callback(stream: &TcpStream) -> Option<Url> {
    stream.set_nonblocking(false).ok()?;
    let mut line = String::new();
    let mut reader = BufReader::new(Until(stream, Instant::now() + HEAD).take(16 << 10));
    reader.read_line(&mut line).ok()?;
    let target = line.strip_prefix("GET ")?.split(' ').next()?.to_owned();
    // The rest of the head is read so that closing does not reset the connection under the answer.
    while reader.read_line(&mut line).is_ok_and(|length| length > 2) {}
    let url = Url::parse("http://127.0.0.1").ok()?.join(&target).ok()?;
    (url.path() == CALLBACK).then_some(url)
}

fn answer(mut stream: &TcpStream, status: &str, text: &str) {
    let page = format!("<!doctype html><meta charset=utf-8><title>kubectl stepup</title><p>{text}</p>\n");
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncache-control: no-store\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    );
}
