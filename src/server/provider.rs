//! An identity provider as this server sees it: discovery document, signing keys, clock.
//!
//! Everything is fetched when it is first needed and then kept. While a provider is down, the keys that are already
//! known go on working; what needs a new key fails with a clear text.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::redirect;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

/// Longest wait for discovery document and keys together. Shorter than a request's own limit, so that the person is told
/// what is wrong instead of "timed out".
const FETCH_TIMEOUT: Duration = Duration::from_secs(6);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest discovery document or key set.
const MAX_DOCUMENT: usize = 256 * 1024;
/// Most keys that are looked at in a key set.
const MAX_KEYS: usize = 100;
/// Age at which the keys are fetched again, beside the request that noticed: a key that the provider withdrew must not
/// be honoured for ever.
const REFRESH_AFTER: TimeDelta = TimeDelta::minutes(10);
/// Least time between two fetches, so that tokens with made-up key ids do not become a flood at the provider.
const MIN_INTERVAL: TimeDelta = TimeDelta::seconds(10);
/// The same after a failure: shorter, the next person's sign-in waits for it.
const RETRY_INTERVAL: TimeDelta = TimeDelta::seconds(2);

/// Difference of the clocks from which on it is told.
pub const NOTABLE_SKEW: TimeDelta = TimeDelta::seconds(60);

/// The provider could not be asked for its keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

/// Why a provider cannot be used at all: a fault in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The CA file could not be read.
    #[error("cannot read the CA file {path}: {source}", path = path.display())]
    ReadCa {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The CA file holds no usable certificate.
    #[error("{path} holds no PEM certificate that can be used as a CA", path = path.display())]
    NoCa {
        /// The file.
        path: PathBuf,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client: {0}")]
    Client(#[source] reqwest::Error),
}

/// A key that the provider signs with.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    kid: Option<String>,
    kind: KeyKind,
    /// The one algorithm that the provider allows for the key, where it says so.
    algorithm: Option<String>,
    key: DecodingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl VerifyingKey {
    /// For `jsonwebtoken`.
    pub fn key(&self) -> &DecodingKey {
        &self.key
    }

    /// Reads one entry of a key set. `None`: not a public key for signatures that we can check, which is no fault:
    /// providers publish encryption keys and newer curves in the same set.
    fn from_jwk(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        if jwk.get("key_ops").and_then(Value::as_array).is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return None;
        }
        let (kind, key) = match (text("kty")?, text("crv")) {
            ("RSA", _) => (KeyKind::Rsa, DecodingKey::from_rsa_components(text("n")?, text("e")?)),
            ("EC", Some("P-256")) => (KeyKind::P256, DecodingKey::from_ec_components(text("x")?, text("y")?)),
            ("EC", Some("P-384")) => (KeyKind::P384, DecodingKey::from_ec_components(text("x")?, text("y")?)),
            ("OKP", Some("Ed25519")) => (KeyKind::Ed25519, DecodingKey::from_ed_components(text("x")?)),
            _ => return None,
        };
        Some(Self {
            kid: text("kid").map(ToOwned::to_owned),
            kind,
            algorithm: text("alg").map(ToOwned::to_owned),
            key: key.ok()?,
        })
    }

    /// Whether a signature by `algorithm` can be this key's: the key's own type decides, not the token's header
    /// (RFC 8725, section 3.1).
    fn fits(&self, algorithm: Algorithm) -> bool {
        let kind = match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => KeyKind::Rsa,
            Algorithm::ES256 => KeyKind::P256,
            Algorithm::ES384 => KeyKind::P384,
            Algorithm::EdDSA => KeyKind::Ed25519,
            _ => return false,
        };
        let name = format!("{algorithm:?}");
        self.kind == kind && self.algorithm.as_ref().is_none_or(|only| *only == name)
    }
}

/// The keys of a provider that could have made a signature.
#[derive(Debug)]
pub enum Candidates {
    /// One of these, or the signature is wrong.
    Keys(Vec<VerifyingKey>),
    /// There is a key of that id, of another type than the algorithm needs.
    WrongType,
    /// The provider has no such key.
    Unknown,
}

/// What is known of a provider, for `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderHealth {
    /// When its keys were last fetched; `None`: never yet.
    pub seen: Option<DateTime<Utc>>,
    /// Why the last fetch failed, if it did.
    pub error: Option<String>,
    /// The provider's clock less ours, as of the last answer.
    pub skew: Option<TimeDelta>,
}

#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<Vec<VerifyingKey>>>,
    attempted: Option<DateTime<Utc>>,
    health: ProviderHealth,
}

/// An identity provider's keys.
#[derive(Debug)]
pub struct Provider {
    issuer: String,
    http: reqwest::Client,
    state: RwLock<State>,
    /// Held while fetching: many requests that need the same key make one fetch.
    fetching: tokio::sync::Mutex<()>,
}

impl Provider {
    /// A provider that will be asked when it is first needed. With `ca`, only certificates of that CA are accepted, as
    /// the API server's `certificateAuthority` has it.
    pub fn new(issuer: &str, ca: Option<&Path>) -> Result<Self, ProviderError> {
        let mut http = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("stepup-server/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = ca {
            let pem = std::fs::read(path).map_err(|source| ProviderError::ReadCa { path: path.into(), source })?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if certificates.is_empty() {
                return Err(ProviderError::NoCa { path: path.into() });
            }
            http = http.tls_certs_only(certificates);
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            http: http.build().map_err(ProviderError::Client)?,
            state: RwLock::default(),
            fetching: tokio::sync::Mutex::default(),
        })
    }

    /// Keys that may have signed a token with this key id and algorithm. Asks the provider when it must.
    pub async fn candidates(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
        now: DateTime<Utc>,
    ) -> Result<Candidates, Unavailable> {
        let attempted = self.read(|state| state.attempted);
        if let Some(keys) = self.read(|state| state.keys.clone()) {
            let found = matching(&keys, kid, algorithm);
            if !matches!(found, Candidates::Unknown) {
                self.refresh_when_old(now);
                return Ok(found);
            }
        }
        self.fetch_after(attempted, now).await;
        self.read(|state| match (&state.keys, &state.health.error) {
            (Some(keys), _) => Ok(matching(keys, kid, algorithm)),
            (None, error) => Err(Unavailable(error.clone().unwrap_or_else(|| "it was not asked yet".to_owned()))),
        })
    }

    /// State of this provider, for people.
    pub fn health(&self) -> ProviderHealth {
        self.read(|state| state.health.clone())
    }

    /// Fetches the keys once, for all who found at `attempted` that they need them.
    async fn fetch_after(&self, attempted: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        let _one_at_a_time = self.fetching.lock().await;
        let due = self.read(|state| {
            let interval = if state.health.error.is_some() { RETRY_INTERVAL } else { MIN_INTERVAL };
            state.attempted == attempted && state.attempted.is_none_or(|last| (now - last).abs() >= interval)
        });
        if due {
            self.fetch(now).await;
        }
    }

    fn refresh_when_old(self: &Arc<Self>, now: DateTime<Utc>) {
        let attempted = self.read(|state| state.attempted);
        // The absolute value: after the clock was set back, "later" may be long ago.
        if attempted.is_some_and(|last| (now - last).abs() < REFRESH_AFTER) || self.fetching.try_lock().is_err() {
            return;
        }
        let provider = Arc::clone(self);
        tokio::spawn(async move { provider.fetch_after(attempted, now).await });
    }

    async fn fetch(&self, now: DateTime<Utc>) {
        let fetched = match tokio::time::timeout(FETCH_TIMEOUT, self.discover()).await {
            Ok(fetched) => fetched,
            Err(_) => Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())),
        };
        // Only now is it an attempt: a caller that gave up in between must not keep the others from asking.
        self.write(|state| state.attempted = Some(now));
        match fetched {
            Ok(Fetched { keys, date }) => {
                let skew = date.map(|date| date.signed_duration_since(now));
                if let Some(skew) = skew.filter(|skew| skew.abs() > NOTABLE_SKEW) {
                    tracing::warn!(
                        issuer = self.issuer,
                        skew_seconds = skew.num_seconds(),
                        "the identity provider's clock differs from this server's: tokens may seem expired or from the future"
                    );
                }
                self.write(|state| {
                    state.keys = Some(Arc::new(keys));
                    state.health = ProviderHealth { seen: Some(now), error: None, skew };
                });
            }
            Err(error) => {
                tracing::warn!(issuer = self.issuer, error, "the identity provider's keys could not be fetched");
                self.write(|state| state.health.error = Some(error));
            }
        }
    }

    async fn discover(&self) -> Result<Fetched, String> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: Url,
        }
        #[derive(Deserialize)]
        struct KeySet {
            keys: Vec<Value>,
        }

        // OIDC Discovery 4.1: a trailing slash of the issuer is removed first.
        let url = format!("{}/.well-known/openid-configuration", self.issuer.strip_suffix('/').unwrap_or(&self.issuer));
        let (document, date) = self.get::<Discovery>(&url).await?;
        // OIDC Discovery 4.3: the same to the letter. The API server, which is told what the configuration says, has it so.
        if document.issuer != self.issuer {
            let hint =
                if same_issuer(&document.issuer, &self.issuer) { ": only the slash at the end differs" } else { "" };
            return Err(format!(
                "{url} says that its issuer is {:?}, the configuration says {:?}{hint}",
                shortened(&document.issuer),
                self.issuer
            ));
        }
        if self.issuer.starts_with("https:") && document.jwks_uri.scheme() != "https" {
            return Err(format!("{url} names keys that are not behind https"));
        }
        let (set, _) = self.get::<KeySet>(document.jwks_uri.as_str()).await?;
        let keys: Vec<_> = set.keys.iter().take(MAX_KEYS).filter_map(VerifyingKey::from_jwk).collect();
        if keys.is_empty() {
            return Err(format!("{} holds no key that could sign a token", document.jwks_uri));
        }
        Ok(Fetched { keys, date })
    }

    async fn get<T: for<'de> Deserialize<'de>>(&self, url: &str) -> Result<(T, Option<DateTime<Utc>>), String> {
        let mut response = self.http.get(url).send().await.map_err(|error| format!("{url}: {}", innermost(&error)))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("{url} answered {}", response.status()));
        }
        let date = response
            .headers()
            .get(reqwest::header::DATE)
            .and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok())
            .map(|date| date.to_utc());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| format!("{url}: {}", innermost(&error)))? {
            if body.len() + chunk.len() > MAX_DOCUMENT {
                return Err(format!("{url} sent more than {} KiB", MAX_DOCUMENT / 1024));
            }
            body.extend_from_slice(&chunk);
        }
        let document =
            serde_json::from_slice(&body).map_err(|error| format!("{url} is not what it should be: {error}"))?;
        Ok((document, date))
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }
}

struct Fetched {
    keys: Vec<VerifyingKey>,
    date: Option<DateTime<Utc>>,
}

/// Whether two issuers are the same but for one trailing slash, which providers and administrators tend to mix up.
pub fn same_issuer(one: &str, other: &str) -> bool {
    one.strip_suffix('/').unwrap_or(one) == other.strip_suffix('/').unwrap_or(other)
}

/// As much of a text from outside as a message should repeat.
pub(super) fn shortened(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(end, _)| &text[..end])
}

fn matching(keys: &[VerifyingKey], kid: Option<&str>, algorithm: Algorithm) -> Candidates {
    let named: Vec<_> = keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid).collect();
    if named.is_empty() {
        return Candidates::Unknown;
    }
    let fitting: Vec<_> = named.into_iter().filter(|key| key.fits(algorithm)).cloned().collect();
    if fitting.is_empty() { Candidates::WrongType } else { Candidates::Keys(fitting) }
}

/// The cause at the end of the chain: "connection refused" rather than "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
