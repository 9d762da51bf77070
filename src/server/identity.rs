//! Who a token is about: verification of base tokens and of step-up ID tokens.
//!
//! A token is `Unverified` until its signature was checked with a key of the provider that it names; only then are its claims
//! read for more than the issuer. The mapping to a username and groups is the API server's own, so that a person has
//! the same name here and there. Whether a step-up is strong and fresh enough is not decided here: that depends on the
//! requirement.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cel::{Env, Program};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::Algorithm;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::config::{Claim, Config, IdentityProvider, RequiredClaim};
use super::provider::{Candidates, Provider, ProviderError, ProviderHealth, same_issuer, shortened};
use crate::secret::Secret;
use crate::server::policy::condition::value_of;

/// Largest token that is looked at. The API server takes headers of at most 1 MiB; real ID tokens have 1 to 4 KiB.
pub const MAX_TOKEN: usize = 16 * 1024;
/// How far the provider's clock may be ahead of ours: two minutes, and what a token takes to get here. A sign-in may count
/// as fresh for so much longer. A clock that is behind makes tokens expire and sign-ins age so much earlier, which needs
/// no leeway to be safe, but a hint (`exchange`).
pub(super) const LEEWAY: TimeDelta = TimeDelta::seconds(150);
/// Signature algorithms that are accepted: asymmetric ones only (RFC 8725, section 3.2). With HS* everybody who knows
/// the client's secret, or the public key where code mixes the two up, could sign.
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
/// What only the API server itself may be called.
const RESERVED: &str = "system:";

/// Who a verified token is about, in the cluster's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the identity provider in the configuration.
    pub provider: String,
    /// Username, mapped as the API server maps it.
    pub user: String,
    /// Groups, mapped likewise.
    pub groups: Vec<String>,
    /// The token's own id, where the provider gives one.
    pub jti: Option<String>,
    /// Authentication context class of the sign-in, where the provider says it.
    pub acr: Option<String>,
    /// When the person signed in. Always there in a step-up token.
    pub auth_time: Option<DateTime<Utc>>,
}

impl Identity {
    /// Groups as the API server has them: it puts everybody who has signed in into one more. They are what rules and
    /// `canStepUp` are about; a token says its own alone.
    pub fn cluster_groups(&self) -> Vec<String> {
        self.groups.iter().cloned().chain(["system:authenticated".to_owned()]).collect()
    }
}

/// Why a token is refused. The text is for the person who sent it and never holds any part of the token but names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Larger than [`MAX_TOKEN`].
    #[error("the token has {0} bytes, more than the {MAX_TOKEN} that are accepted")]
    TooLarge(usize),
    /// Not a signed JWT.
    #[error("this is not an ID token: {0}")]
    Malformed(&'static str),
    /// A claim is there twice: two readers could see two different values.
    #[error("the token has a claim twice")]
    DuplicateClaim,
    /// Signed with an algorithm that is not accepted, `none` among them.
    #[error(
        "the token's signature algorithm is not accepted: it must be one of RS256 to RS512, PS256 to PS512, ES256, ES384, EdDSA"
    )]
    Algorithm,
    /// An access token, by its type.
    #[error("this is an access token; an ID token is needed")]
    AccessToken,
    /// An elevated token of this server.
    #[error("this is an elevated token of this server; a token of the identity provider is needed")]
    OwnToken,
    /// No provider of that name in the configuration.
    #[error("the token's issuer {0:?} is none of this server's identity providers")]
    Issuer(String),
    /// Almost.
    #[error(
        "the token's issuer is {stated:?}, the configuration says {configured:?}: only the slash at the end differs, but it has to be the same"
    )]
    IssuerSlash {
        /// What the token says.
        stated: String,
        /// What the configuration says.
        configured: String,
    },
    /// The provider's keys cannot be had.
    #[error("the identity provider {provider:?} cannot be reached, so the token cannot be checked: {cause}")]
    ProviderUnavailable {
        /// Name of the provider in the configuration.
        provider: String,
        /// What went wrong.
        cause: String,
    },
    /// The provider does not know the key.
    #[error("the token was signed with a key that the identity provider {0:?} does not publish")]
    UnknownKey(String),
    /// The algorithm does not go with the key.
    #[error("the token's signature algorithm does not match its key")]
    KeyMismatch,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// Made for somebody else.
    #[error("the token is not for this server: its audience must be one of {0}")]
    Audience(String),
    /// For several audiences, and made for a client that is none of ours.
    #[error("the token has several audiences and was issued to another client (azp)")]
    AuthorizedParty,
    /// Over.
    #[error(
        "the token expired {} ago: sign in again; if you just did, check the clocks of this server and of the identity \
         provider", seconds(.0)
    )]
    Expired(TimeDelta),
    /// Not yet begun.
    #[error("the token is not valid for another {}: check the clocks of this server and of the identity provider", seconds(.0))]
    NotYetValid(TimeDelta),
    /// Made in the future.
    #[error("the token was issued {} in the future: check the clocks of this server and of the identity provider", seconds(.0))]
    IssuedInFuture(TimeDelta),
    /// Signed in in the future.
    #[error("the token says that the sign-in was {} in the future: check the clocks of this server and of the identity provider", seconds(.0))]
    AuthTimeInFuture(TimeDelta),
    /// A step-up token that does not say when the person signed in.
    #[error(
        "the token does not say when the sign-in was (auth_time): the identity provider must be told to include it"
    )]
    NoAuthTime,
    /// A claim is missing or has the wrong type.
    #[error("the token's claim {claim:?} {problem}")]
    Claim {
        /// Name of the claim.
        claim: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The configured expression cannot be applied to the claims.
    #[error("the configured expression for the {what} cannot be applied to this token: {cause}")]
    Mapping {
        /// `username` or `groups`.
        what: &'static str,
        /// What went wrong.
        cause: String,
    },
    /// Mapped to a name that only the cluster itself uses.
    #[error("the token maps to a {0} that starts with \"system:\", which only the cluster itself may use")]
    Reserved(&'static str),
}

impl Refused {
    /// For audit records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "token_too_large",
            Self::Malformed(_) => "token_malformed",
            Self::DuplicateClaim => "duplicate_claim",
            Self::Algorithm => "algorithm",
            Self::AccessToken => "access_token",
            Self::OwnToken => "own_token",
            Self::Issuer(_) | Self::IssuerSlash { .. } => "issuer",
            Self::ProviderUnavailable { .. } => "provider_unavailable",
            Self::UnknownKey(_) => "unknown_key",
            Self::KeyMismatch => "key_mismatch",
            Self::Signature => "signature",
            Self::Audience(_) => "audience",
            Self::AuthorizedParty => "authorized_party",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::IssuedInFuture(_) => "issued_in_future",
            Self::AuthTimeInFuture(_) => "auth_time_in_future",
            Self::NoAuthTime => "no_auth_time",
            Self::Claim { .. } => "claim",
            Self::Mapping { .. } => "mapping",
            Self::Reserved(_) => "reserved_name",
        }
    }

    /// Whether this is no fault of the token: it may be fine, and cannot be checked now.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::ProviderUnavailable { .. })
    }
}

fn seconds(span: &TimeDelta) -> String {
    format!("{} s", span.num_seconds())
}

/// Why the configured identity providers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A provider would be ourselves.
    #[error(
        "identity provider {0:?}: its issuer is this server's own publicUrl; elevated tokens are no way to sign in"
    )]
    OwnIssuer(String),
    /// A CEL expression does not compile.
    #[error("identity provider {provider:?}: the expression for the {what} does not compile: {cause}")]
    Expression {
        /// The provider's name.
        provider: String,
        /// `username` or `groups`.
        what: &'static str,
        /// What the compiler said.
        cause: String,
    },
    /// The provider cannot be used.
    #[error("identity provider {provider:?}: {source}")]
    Provider {
        /// The provider's name.
        provider: String,
        /// Why.
        source: ProviderError,
    },
}

/// The configured identity providers.
#[derive(Debug)]
pub struct Identities {
    providers: Vec<Trusted>,
    /// Issuer of our own elevated tokens.
    own_issuer: String,
}

/// A provider, and what is accepted of it.
#[derive(Debug)]
struct Trusted {
    name: String,
    issuer: String,
    audiences: Vec<String>,
    step_up_audiences: Vec<String>,
    required_claims: Vec<RequiredClaim>,
    username: Mapping,
    groups: Option<Mapping>,
    provider: Arc<Provider>,
}

/// How claims become a username or groups.
enum Mapping {
    Claim { claim: String, prefix: String },
    Expression(Box<Program>),
}

impl Mapping {
    fn new(claim: &Claim) -> Result<Self, String> {
        match claim {
            Claim::Named { claim, prefix } => Ok(Self::Claim { claim: claim.clone(), prefix: prefix.clone() }),
            Claim::Expression(source) => {
                let program = expressions().compile(source).map_err(|errors| errors.to_string())?;
                Ok(Self::Expression(Box::new(program)))
            }
        }
    }
}

/// CEL as the API server has it for claim mappings: with optional values and the functions over texts and lists.
fn expressions() -> Arc<Env> {
    static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
        let mut env = Env::stdlib().with_optional_support(true);
        env.add_extension(cel::extensions::strings).expect("the extension does not clash with the standard library");
        Arc::new(env)
    });
    Arc::clone(&ENV)
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim { claim, prefix } => write!(f, "{prefix}{{{claim}}}"),
            Self::Expression(_) => f.write_str("expression"),
        }
    }
}

/// What a token is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Base,
    StepUp,
}

impl Identities {
    /// The providers of the configuration. None is asked for anything yet.
    pub fn new(config: &Config) -> Result<Self, IdentityError> {
        Ok(Self {
            providers: config
                .identity_providers
                .iter()
                .map(|provider| Trusted::new(provider, &config.public_url))
                .collect::<Result<_, _>>()?,
            own_issuer: config.public_url.clone(),
        })
    }

    /// Who sent this base token.
    pub async fn verify_base(&self, token: &Secret, now: DateTime<Utc>) -> Result<Identity, Refused> {
        self.verify(token, Use::Base, now).await
    }

    /// Whose fresh sign-in this ID token is. It says when that was; whether it is strong and recent enough is for the
    /// requirement to say.
    pub async fn verify_step_up(&self, token: &Secret, now: DateTime<Utc>) -> Result<Identity, Refused> {
        self.verify(token, Use::StepUp, now).await
    }

    /// State of each provider by name, for `/readyz`.
    pub fn health(&self) -> impl Iterator<Item = (&str, ProviderHealth)> {
        self.providers.iter().map(|trusted| (trusted.name.as_str(), trusted.provider.health()))
    }

    async fn verify(&self, token: &Secret, usage: Use, now: DateTime<Utc>) -> Result<Identity, Refused> {
        let unverified = Unverified::parse(token.expose())?;
        let trusted = self.issuer_of(&unverified)?;
        let claims = unverified.signed_claims(trusted, now).await?;
        trusted.check_audience(&claims, usage)?;
        trusted.check_required(&claims)?;
        let auth_time = check_times(&claims, usage, now)?;
        Ok(Identity {
            provider: trusted.name.clone(),
            user: trusted.username(&claims)?,
            groups: trusted.groups(&claims)?,
            jti: claims.text("jti")?.map(ToOwned::to_owned),
            acr: claims.text("acr")?.map(ToOwned::to_owned),
            auth_time,
        })
    }

    fn issuer_of(&self, token: &Unverified<'_>) -> Result<&Trusted, Refused> {
        let issuer = token.claims.text("iss")?.ok_or_else(|| missing("iss"))?;
        if same_issuer(issuer, &self.own_issuer) {
            return Err(Refused::OwnToken);
        }
        let alike = |trusted: &&Trusted| same_issuer(&trusted.issuer, issuer);
        let is_it = |trusted: &&Trusted| trusted.issuer == issuer;
        match self.providers.iter().find(is_it).or_else(|| self.providers.iter().find(alike)) {
            Some(trusted) if trusted.issuer == issuer => Ok(trusted),
            // The API server refuses it too (RFC 7519, section 4.1.1: compared to the letter), and says less.
            Some(trusted) => {
                Err(Refused::IssuerSlash { stated: shortened(issuer).to_owned(), configured: trusted.issuer.clone() })
            }
            None => Err(Refused::Issuer(shortened(issuer).to_owned())),
        }
    }
}

/// A token that could be anybody's.
struct Unverified<'t> {
    algorithm: Algorithm,
    kid: Option<String>,
    message: &'t str,
    signature: &'t str,
    claims: Claims,
}

impl<'t> Unverified<'t> {
    fn parse(token: &'t str) -> Result<Self, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::TooLarge(token.len()));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Refused::Malformed("it is not a JWT"))?;
        let (header, payload) = message.split_once('.').ok_or(Refused::Malformed("it is not a JWT"))?;
        let Claims(header) = json(header)?;
        // RFC 7515, section 4.1.11: what we do not understand and must, we refuse. We understand no extension.
        if header.contains_key("crit") {
            return Err(Refused::Malformed("its header has critical extensions"));
        }
        let header = Claims(header);
        // RFC 9068, section 2.1. Other types say nothing: providers write "JWT", "id_token+jwt" or nothing.
        if header.text("typ")?.is_some_and(|typ| {
            let typ = typ.to_ascii_lowercase();
            typ == "at+jwt" || typ == "application/at+jwt"
        }) {
            return Err(Refused::AccessToken);
        }
        let algorithm = header
            .text("alg")?
            .filter(|name| ALGORITHMS.contains(name))
            .and_then(|name| Algorithm::from_str(name).ok())
            .ok_or(Refused::Algorithm)?;
        Ok(Self {
            algorithm,
            kid: header.text("kid")?.map(ToOwned::to_owned),
            message,
            signature,
            claims: json(payload)?,
        })
    }

    /// The claims, once the signature turned out to be the provider's.
    async fn signed_claims(self, trusted: &Trusted, now: DateTime<Utc>) -> Result<Claims, Refused> {
        let candidates =
            trusted.provider.candidates(self.kid.as_deref(), self.algorithm, now).await.map_err(|unavailable| {
                Refused::ProviderUnavailable { provider: trusted.name.clone(), cause: unavailable.to_string() }
            })?;
        let keys = match candidates {
            Candidates::Keys(keys) => keys,
            Candidates::WrongType => return Err(Refused::KeyMismatch),
            Candidates::Unknown => return Err(Refused::UnknownKey(trusted.name.clone())),
        };
        let signed = keys.iter().any(|key| {
            jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), key.key(), self.algorithm)
                .unwrap_or(false)
        });
        if signed { Ok(self.claims) } else { Err(Refused::Signature) }
    }
}

impl Trusted {
    fn new(config: &IdentityProvider, own_issuer: &str) -> Result<Self, IdentityError> {
        if same_issuer(&config.issuer, own_issuer) {
            return Err(IdentityError::OwnIssuer(config.name.clone()));
        }
        let provider = Provider::new(&config.issuer, config.ca.as_deref())
            .map_err(|source| IdentityError::Provider { provider: config.name.clone(), source })?;
        let mapping = |claim: &Claim, what| {
            Mapping::new(claim).map_err(|cause| IdentityError::Expression {
                provider: config.name.clone(),
                what,
                cause,
            })
        };
        Ok(Self {
            name: config.name.clone(),
            issuer: config.issuer.clone(),
            audiences: config.audiences.clone(),
            step_up_audiences: config.step_up_audiences.clone(),
            required_claims: config.required_claims.clone(),
            username: mapping(&config.username, "username")?,
            groups: config.groups.as_ref().map(|claim| mapping(claim, "groups")).transpose()?,
            provider: Arc::new(provider),
        })
    }

    fn check_audience(&self, claims: &Claims, usage: Use) -> Result<(), Refused> {
        let accepted = match usage {
            Use::Base => &self.audiences,
            Use::StepUp => &self.step_up_audiences,
        };
        let audiences = claims.texts("aud")?.ok_or_else(|| missing("aud"))?;
        if !audiences.iter().any(|audience| accepted.iter().any(|ours| ours == audience)) {
            return Err(Refused::Audience(accepted.join(", ")));
        }
        // OIDC Core 3.1.3.7, 3 to 5: among several audiences, `azp` is the client that the token was made for.
        if audiences.len() > 1 && !claims.text("azp")?.is_some_and(|party| accepted.iter().any(|ours| ours == party)) {
            return Err(Refused::AuthorizedParty);
        }
        Ok(())
    }

    /// As the API server does with `claimValidationRules`, so that nobody whom it keeps out comes in with an elevated token.
    fn check_required(&self, claims: &Claims) -> Result<(), Refused> {
        for RequiredClaim { claim, value } in &self.required_claims {
            if claims.text(claim)? != Some(value) {
                return Err(Refused::Claim { claim: claim.clone(), problem: "is not what the configuration requires" });
            }
        }
        Ok(())
    }

    fn username(&self, claims: &Claims) -> Result<String, Refused> {
        let user = match &self.username {
            Mapping::Claim { claim, prefix } => {
                let name = claims.text(claim)?.ok_or_else(|| missing(claim))?;
                // As the API server does: an address that the provider knows to be unconfirmed is nobody's name.
                if claim == "email"
                    && claims.0.get("email_verified").is_some_and(|verified| *verified != Value::Bool(true))
                {
                    return Err(Refused::Claim { claim: "email_verified".to_owned(), problem: "is not true" });
                }
                if name.is_empty() {
                    return Err(Refused::Claim { claim: claim.clone(), problem: "is empty" });
                }
                format!("{prefix}{name}")
            }
            Mapping::Expression(program) => match evaluate(program, claims, "username")? {
                cel::Value::String(name) if !name.is_empty() => name.to_string(),
                _ => return Err(Refused::Mapping { what: "username", cause: "it gives no text".to_owned() }),
            },
        };
        if user.starts_with(RESERVED) { Err(Refused::Reserved("username")) } else { Ok(user) }
    }

    fn groups(&self, claims: &Claims) -> Result<Vec<String>, Refused> {
        let groups: Vec<String> = match &self.groups {
            None => Vec::new(),
            Some(Mapping::Claim { claim, prefix }) => {
                let groups = claims.texts(claim)?.unwrap_or_default();
                groups.into_iter().map(|group| format!("{prefix}{group}")).collect()
            }
            Some(Mapping::Expression(program)) => texts_of(&evaluate(program, claims, "groups")?)
                .ok_or_else(|| Refused::Mapping { what: "groups", cause: "it gives no list of texts".to_owned() })?,
        };
        if groups.iter().any(|group| group.starts_with(RESERVED)) {
            Err(Refused::Reserved("group"))
        } else {
            Ok(groups)
        }
    }
}

/// When the person signed in, if the token says so and lives now.
fn check_times(claims: &Claims, usage: Use, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, Refused> {
    let expires_at = claims.time("exp")?.ok_or_else(|| missing("exp"))?;
    if expires_at <= now {
        return Err(Refused::Expired(now - expires_at));
    }
    if let Some(not_before) = claims.time("nbf")?
        && not_before > now + LEEWAY
    {
        return Err(Refused::NotYetValid(not_before - now));
    }
    let issued_at = claims.time("iat")?.ok_or_else(|| missing("iat"))?;
    if issued_at > now + LEEWAY {
        return Err(Refused::IssuedInFuture(issued_at - now));
    }
    let auth_time = claims.time("auth_time")?;
    match (auth_time, usage) {
        (None, Use::StepUp) => Err(Refused::NoAuthTime),
        (Some(auth_time), Use::StepUp) if auth_time > now + LEEWAY => Err(Refused::AuthTimeInFuture(auth_time - now)),
        _ => Ok(auth_time),
    }
}

/// The members of a JSON object, each there once.
struct Claims(Map<String, Value>);

impl Claims {
    fn text(&self, name: &str) -> Result<Option<&str>, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refused::Claim { claim: name.to_owned(), problem: "is not a text" }),
        }
    }

    /// A text or a list of texts.
    fn texts(&self, name: &str) -> Result<Option<Vec<&str>>, Refused> {
        let wrong = || Refused::Claim { claim: name.to_owned(), problem: "is neither a text nor a list of texts" };
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(vec![text])),
            Some(Value::Array(list)) => {
                list.iter().map(Value::as_str).collect::<Option<_>>().map(Some).ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }

    /// A NumericDate (RFC 7519, section 2), which may have a fraction.
    fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, Refused> {
        let wrong = || Refused::Claim { claim: name.to_owned(), problem: "is not a time in seconds" };
        let number = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number,
            Some(_) => return Err(wrong()),
        };
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a cast to an integer saturates, and the range is checked next"
        )]
        let seconds =
            number.as_i64().or_else(|| number.as_f64().map(|float| float.floor() as i64)).ok_or_else(wrong)?;
        // Years 1970 to 9999: beyond, arithmetic on times could overflow.
        if !(0..=253_402_300_799).contains(&seconds) {
            return Err(wrong());
        }
        DateTime::from_timestamp(seconds, 0).map(Some).ok_or_else(wrong)
    }
}

fn missing(claim: &str) -> Refused {
    Refused::Claim { claim: claim.to_owned(), problem: "is missing" }
}

fn json(part: &str) -> Result<Claims, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::Malformed("it is not base64url"))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        if error.to_string().starts_with(DUPLICATE) {
            Refused::DuplicateClaim
        } else {
            Refused::Malformed("it does not hold a JSON object")
        }
    })
}

const DUPLICATE: &str = "duplicate member";

/// RFC 8725, section 2.5 and RFC 7519, section 4: names must be unique. JSON readers differ in which of two they take.
impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom(DUPLICATE));
                    }
                }
                Ok(Claims(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn evaluate(program: &Program, claims: &Claims, what: &'static str) -> Result<cel::Value, Refused> {
    let mut context = cel::Context::with_env(expressions());
    context.add_variable_from_value("claims", value_of(Value::Object(claims.0.clone())));
    program.execute(&context).map_err(|error| {
        // Only the names from the expression: the values are the token's.
        let cause = match error {
            cel::ExecutionError::NoSuchKey(name) => format!("there is no {:?}", shortened(&name)),
            cel::ExecutionError::UndeclaredReference(name) => format!("{:?} is unknown", shortened(&name)),
            _ => "the claims do not have the types that it needs".to_owned(),
        };
        Refused::Mapping { what, cause }
    })
}

/// As the API server converts the result of a groups expression: a text, a list of texts, or nothing.
fn texts_of(value: &cel::Value) -> Option<Vec<String>> {
    match value {
        cel::Value::Null => Some(Vec::new()),
        cel::Value::String(text) if text.is_empty() => Some(Vec::new()),
        cel::Value::String(text) => Some(vec![text.to_string()]),
        cel::Value::List(list) => list
            .iter()
            .map(|item| match item {
                cel::Value::String(text) => Some(text.to_string()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use serde_json::json;

    use super::*;
    use crate::server::mint::Signer;
    use crate::server::testing::{FakeProvider, SigningKey, assemble, config};

    /// 2027-01-15T08:00:00Z.
    const NOW: i64 = 1_800_000_000;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).unwrap()
    }

    fn later(seconds: i64) -> DateTime<Utc> {
        now() + TimeDelta::seconds(seconds)
    }

    struct World {
        provider: FakeProvider,
        key: SigningKey,
        identities: Identities,
    }

    impl World {
        async fn new() -> Self {
            Self::with(|_| {}).await
        }

        async fn with(change: impl FnOnce(&mut IdentityProvider)) -> Self {
            let key = SigningKey::p256();
            let provider = FakeProvider::start(&[key.jwk("k1")]).await;
            let mut entry = provider.entry();
            change(&mut entry);
            let identities = Identities::new(&config(provider.dir.path(), vec![entry])).unwrap();
            Self { provider, key, identities }
        }

        /// Claims of a good step-up token.
        fn claims(&self) -> Value {
            json!({
                "iss": self.provider.issuer, "aud": "kubernetes-step-up", "sub": "alice", "groups": ["dev", "ops"],
                "iat": NOW - 5, "exp": NOW + 300, "auth_time": NOW - 10, "acr": "urn:stepup:mfa", "jti": "t-1",
            })
        }

        fn claims_with(&self, changes: &Value) -> Value {
            let mut claims = self.claims();
            for (name, value) in changes.as_object().unwrap() {
                if value == "REMOVE" {
                    claims.as_object_mut().unwrap().remove(name);
                } else {
                    claims[name] = value.clone();
                }
            }
            claims
        }

        async fn step_up(&self, token: &Secret) -> Result<Identity, Refused> {
            self.identities.verify_step_up(token, now()).await
        }

        async fn step_up_with(&self, changes: Value) -> Result<Identity, Refused> {
            self.step_up(&self.key.token("ES256", "k1", &self.claims_with(&changes))).await
        }
    }

    #[tokio::test]
    async fn a_good_step_up_token_says_who_how_and_when() {
        let world = World::new().await;
        assert_eq!(
            world.step_up_with(json!({})).await.unwrap(),
            Identity {
                provider: "corp".to_owned(),
                user: "alice".to_owned(),
                groups: vec!["oidc:dev".to_owned(), "oidc:ops".to_owned()],
                jti: Some("t-1".to_owned()),
                acr: Some("urn:stepup:mfa".to_owned()),
                auth_time: Some(later(-10)),
            }
        );
    }

    #[tokio::test]
    async fn a_base_token_needs_no_auth_time_and_its_own_audience() {
        let world = World::new().await;
        let claims =
            world.claims_with(&json!({"aud": "kubernetes", "auth_time": "REMOVE", "acr": "REMOVE", "jti": "REMOVE"}));
        let token = world.key.token("ES256", "k1", &claims);
        let identity = world.identities.verify_base(&token, now()).await.unwrap();
        assert_eq!((identity.auth_time, identity.acr, identity.jti), (None, None, None));
        assert_eq!(world.step_up(&token).await.unwrap_err().code(), "audience");
        let step_up = world.key.token("ES256", "k1", &world.claims());
        assert_eq!(world.identities.verify_base(&step_up, now()).await.unwrap_err().code(), "audience");
    }

    #[tokio::test]
    async fn forged_and_unfit_claims_are_refused() {
        let world = World::new().await;
        for (changes, code) in [
            (json!({"iss": "https://evil.example.com"}), "issuer"),
            (json!({"iss": format!("{}.evil.example.com", world.provider.issuer)}), "issuer"),
            (json!({"iss": format!("{}//", world.provider.issuer)}), "issuer"),
            (json!({"iss": format!("{}/", world.provider.issuer)}), "issuer"),
            (json!({"iss": "REMOVE"}), "claim"),
            (json!({"iss": [world.provider.issuer]}), "claim"),
            (json!({"iss": "https://stepup.example.com"}), "own_token"),
            (json!({"iss": "https://stepup.example.com/"}), "own_token"),
            (json!({"aud": "another-client"}), "audience"),
            (json!({"aud": ["another-client"]}), "audience"),
            (json!({"aud": []}), "audience"),
            (json!({"aud": "REMOVE"}), "claim"),
            (json!({"aud": {"kubernetes-step-up": true}}), "claim"),
            (json!({"aud": ["kubernetes-step-up", 7]}), "claim"),
            (json!({"aud": ["kubernetes-step-up", "other"]}), "authorized_party"),
            (json!({"aud": ["kubernetes-step-up", "other"], "azp": "other"}), "authorized_party"),
            (json!({"exp": NOW}), "expired"),
            (json!({"exp": NOW - 86_400}), "expired"),
            (json!({"exp": "REMOVE"}), "claim"),
            (json!({"exp": null}), "claim"),
            (json!({"exp": "1900000000"}), "claim"),
            (json!({"exp": 1e300}), "claim"),
            (json!({"exp": -1}), "claim"),
            (json!({"exp": u64::MAX}), "claim"),
            (json!({"nbf": NOW + 151}), "not_yet_valid"),
            (json!({"nbf": true}), "claim"),
            (json!({"iat": NOW + 86_400}), "issued_in_future"),
            (json!({"iat": "REMOVE"}), "claim"),
            (json!({"auth_time": "REMOVE"}), "no_auth_time"),
            (json!({"auth_time": null}), "no_auth_time"),
            (json!({"auth_time": "now"}), "claim"),
            (json!({"auth_time": NOW + 151}), "auth_time_in_future"),
            (json!({"acr": ["urn:stepup:mfa"]}), "claim"),
            (json!({"jti": 7}), "claim"),
            (json!({"sub": "REMOVE"}), "claim"),
            (json!({"sub": ""}), "claim"),
            (json!({"sub": ["alice"]}), "claim"),
            (json!({"sub": "system:admin"}), "reserved_name"),
            (json!({"groups": {"dev": true}}), "claim"),
            (json!({"groups": ["dev", 1]}), "claim"),
        ] {
            let refused = world.step_up_with(changes.clone()).await.unwrap_err();
            assert_eq!(refused.code(), code, "{changes}: {refused}");
        }
    }

    #[tokio::test]
    async fn odd_but_right_claims_are_accepted() {
        let world = World::new().await;
        for changes in [
            json!({"aud": ["kubernetes-step-up"]}),
            json!({"aud": ["other", "kubernetes-step-up"], "azp": "kubernetes-step-up"}),
            // Cross-client tokens of Google and Keycloak: one audience, and the client that asked for it.
            json!({"azp": "other"}),
            json!({"exp": 1_800_000_010.5}),
            json!({"nbf": NOW + 120, "iat": NOW + 120, "auth_time": NOW + 120}),
            json!({"groups": "REMOVE"}),
            json!({"groups": null}),
            json!({"groups": "dev"}),
            json!({"acr": null}),
        ] {
            assert!(world.step_up_with(changes.clone()).await.is_ok(), "{changes}");
        }
        assert_eq!(world.step_up_with(json!({"groups": "dev"})).await.unwrap().groups, ["oidc:dev"]);
    }

    #[tokio::test]
    async fn forged_signatures_are_refused() {
        let world = World::new().await;
        let payload = world.claims().to_string();
        let header = |alg: &str| json!({"alg": alg, "kid": "k1", "typ": "JWT"}).to_string();
        let published = world.key.jwk("k1").to_string();
        let hs256 = |message: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, published.as_bytes());
            hmac::sign(&key, message).as_ref().to_vec()
        };
        let good = world.key.token("ES256", "k1", &world.claims());
        let good = good.expose();
        let (message, signature) = good.rsplit_once('.').unwrap();
        let (head, _) = message.split_once('.').unwrap();
        let bob = URL_SAFE_NO_PAD.encode(world.claims_with(&json!({"sub": "bob"})).to_string());
        let other = SigningKey::p256();
        for (token, code) in [
            (assemble(&header("none"), &payload, |_| Vec::new()), "algorithm"),
            (assemble(&header("None"), &payload, |_| Vec::new()), "algorithm"),
            (assemble(&header("ES256"), &payload, |_| Vec::new()), "signature"),
            (assemble(&header("ES256"), &payload, |_| vec![0; 64]), "signature"),
            (assemble(&header("HS256"), &payload, hs256), "algorithm"),
            (assemble(&header("RS256"), &payload, |_| vec![0; 256]), "key_mismatch"),
            (assemble(&header("ES384"), &payload, |_| vec![0; 96]), "key_mismatch"),
            (assemble(&header("EdDSA"), &payload, |_| vec![0; 64]), "key_mismatch"),
            (assemble(r#"{"kid":"k1"}"#, &payload, |_| Vec::new()), "algorithm"),
            (assemble(r#"{"alg":["ES256"],"kid":"k1"}"#, &payload, |_| Vec::new()), "claim"),
            (other.token("ES256", "k1", &world.claims()), "signature"),
            (other.token_of(r#"{"alg":"ES256"}"#, &payload), "signature"),
            (other.token("ES256", "k2", &world.claims()), "unknown_key"),
            // A key of the attacker's own in the header (CVE-2018-0114 and its like) is not looked at.
            (other.token_of(&json!({"alg": "ES256", "jwk": other.jwk("k1")}).to_string(), &payload), "signature"),
            (
                world.key.token_of(r#"{"alg":"ES256","kid":"k1","crit":["b64"],"b64":false}"#, &payload),
                "token_malformed",
            ),
            (world.key.token_of(r#"{"alg":"ES256","kid":"k1","typ":"at+JWT"}"#, &payload), "access_token"),
            (world.key.token_of(r#"{"alg":"ES256","kid":"k1","kid":"k1"}"#, &payload), "duplicate_claim"),
            (world.key.token_of(&header("ES256"), &payload.replacen('{', r#"{"sub":"root","#, 1)), "duplicate_claim"),
            (Secret::new(format!("{head}.{bob}.{signature}")), "signature"),
            (Secret::new(format!("{message}.{signature}=")), "signature"),
            (Secret::new(format!("{message}.{signature}AA")), "signature"),
            (Secret::new(format!("{message}.")), "signature"),
            (Secret::new(message), "token_malformed"),
            (Secret::new(format!("{good}.{signature}")), "token_malformed"),
            (Secret::new(""), "token_malformed"),
            (Secret::new("..."), "token_malformed"),
            (Secret::new("a.b.c"), "token_malformed"),
            (Secret::new("🦀.🦀.🦀"), "token_malformed"),
            (Secret::new("x".repeat(MAX_TOKEN)), "token_malformed"),
            (Secret::new("x".repeat(MAX_TOKEN + 1)), "token_too_large"),
            (world.key.token_of(&header("ES256"), "[]"), "token_malformed"),
            (world.key.token_of(&header("ES256"), &"[".repeat(5000)), "token_malformed"),
        ] {
            match world.step_up(&token).await {
                Ok(_) => panic!("accepted, should be {code}"),
                Err(refused) if refused.code() == code => {
                    let text = format!("{refused} {refused:?}");
                    assert!(signature.is_empty() || !text.contains(signature), "{text}");
                }
                Err(refused) => panic!("{refused:?}, should be {code}"),
            }
        }
        assert!(world.step_up(&Secret::new(good)).await.is_ok());
    }

    #[tokio::test]
    async fn our_own_elevated_token_is_no_way_to_sign_in() {
        let world = World::new().await;
        let keys = world.provider.dir.path().join("keys");
        let signer = Signer::open(&keys, super::super::config::Algorithm::Es256, now()).unwrap();
        let token = signer.sign(&world.claims_with(&json!({"iss": "https://stepup.example.com"}))).unwrap();
        assert_eq!(world.step_up(&token).await.unwrap_err(), Refused::OwnToken);
        let token = signer.sign(&world.claims()).unwrap();
        assert_eq!(world.step_up(&token).await.unwrap_err().code(), "unknown_key");
        let mut entry = world.provider.entry();
        entry.issuer = "https://stepup.example.com/".to_owned();
        let refused = Identities::new(&config(world.provider.dir.path(), vec![entry])).unwrap_err();
        assert!(matches!(refused, IdentityError::OwnIssuer(_)));
    }

    #[tokio::test]
    async fn every_asymmetric_algorithm_works_with_its_own_key() {
        let keys = [
            ("ES256", SigningKey::p256()),
            ("ES384", SigningKey::p384()),
            ("RS256", SigningKey::rsa()),
            ("PS256", SigningKey::rsa()),
            ("EdDSA", SigningKey::ed25519()),
        ];
        let world = World::new().await;
        let mut published: Vec<_> = keys.iter().map(|(alg, key)| key.jwk(alg)).collect();
        published.push(json!({"kty": "oct", "kid": "secret", "k": "AAAA"}));
        published.push(json!({"kty": "EC", "crv": "P-521", "kid": "odd"}));
        world.provider.publish(&published);
        for (alg, key) in &keys {
            let identity = world.step_up(&key.token(alg, alg, &world.claims())).await;
            assert!(identity.is_ok(), "{alg}: {identity:?}");
        }
        let without_kid = keys[2].1.token_of(r#"{"alg":"RS256"}"#, &world.claims().to_string());
        assert!(world.step_up(&without_kid).await.is_ok());
    }

    #[tokio::test]
    async fn the_key_says_which_algorithm_it_is_for() {
        let world = World::new().await;
        let key = SigningKey::rsa();
        let mut jwk = key.jwk("rsa");
        jwk["alg"] = "RS256".into();
        world.provider.publish(&[jwk]);
        assert!(world.step_up(&key.token("RS256", "rsa", &world.claims())).await.is_ok());
        let pss = key.token("PS256", "rsa", &world.claims());
        assert_eq!(world.step_up(&pss).await.unwrap_err(), Refused::KeyMismatch);
    }

    #[tokio::test]
    async fn expressions_map_as_the_api_server_maps() {
        for (username, groups, changes, expected) in [
            ("'corp:' + claims.sub", "claims.groups", json!({}), Ok(("corp:alice", vec!["dev", "ops"]))),
            ("claims.sub", "claims.?roles.orValue([])", json!({}), Ok(("alice", vec![]))),
            ("claims.sub", "claims.team", json!({"team": "red"}), Ok(("alice", vec!["red"]))),
            ("claims.sub", "claims.team.split(',')", json!({"team": "a,b"}), Ok(("alice", vec!["a", "b"]))),
            ("claims.sub", "claims.team", json!({"team": ""}), Ok(("alice", vec![]))),
            (
                "claims.sub",
                "claims.realm.roles.map(r, 'kc:' + r)",
                json!({"realm": {"roles": ["x"]}}),
                Ok(("alice", vec!["kc:x"])),
            ),
            ("claims.level > 2 ? claims.sub : ''", "[]", json!({"level": 3}), Ok(("alice", vec![]))),
            ("claims.level > 2 ? claims.sub : ''", "[]", json!({"level": 2}), Err("mapping")),
            ("claims.email", "[]", json!({}), Err("mapping")),
            ("claims.iat", "[]", json!({}), Err("mapping")),
            ("claims.sub", "[1]", json!({}), Err("mapping")),
            ("claims.sub", "{'a': 'b'}", json!({}), Err("mapping")),
            ("'system:' + claims.sub", "[]", json!({}), Err("reserved_name")),
            ("claims.sub", "['system:masters']", json!({}), Err("reserved_name")),
        ] {
            let world = World::with(|entry| {
                entry.username = Claim::Expression(username.to_owned());
                entry.groups = Some(Claim::Expression(groups.to_owned()));
            })
            .await;
            let mapped = world.step_up_with(changes).await;
            let mapped = mapped.as_ref().map(|id| (id.user.as_str(), id.groups.iter().map(String::as_str).collect()));
            assert_eq!(mapped.map_err(Refused::code), expected, "{username} {groups}");
        }
    }

    #[tokio::test]
    async fn a_group_without_prefix_cannot_be_a_system_group() {
        let world =
            World::with(|entry| entry.groups = Some(Claim::Named { claim: "groups".into(), prefix: String::new() }))
                .await;
        let refused = world.step_up_with(json!({"groups": ["dev", "system:masters"]})).await.unwrap_err();
        assert_eq!(refused, Refused::Reserved("group"));
    }

    #[tokio::test]
    async fn an_unconfirmed_address_is_no_username() {
        let world =
            World::with(|entry| entry.username = Claim::Named { claim: "email".into(), prefix: String::new() }).await;
        for (verified, accepted) in
            [(json!(true), true), (json!("REMOVE"), true), (json!(false), false), (json!("true"), false)]
        {
            let outcome = world.step_up_with(json!({"email": "a@b", "email_verified": verified})).await;
            assert_eq!(outcome.is_ok(), accepted, "{verified}");
        }
    }

    #[tokio::test]
    async fn a_bad_expression_is_found_at_start() {
        let provider = FakeProvider::start(&[]).await;
        let mut entry = provider.entry();
        entry.username = Claim::Expression("claims.".to_owned());
        let refused = Identities::new(&config(provider.dir.path(), vec![entry])).unwrap_err();
        assert!(matches!(refused, IdentityError::Expression { what: "username", .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_new_key_is_fetched_once_and_made_up_ones_are_not_a_flood() {
        let world = World::new().await;
        assert!(world.step_up_with(json!({})).await.is_ok());
        assert_eq!(world.provider.hits(), 2);
        for _ in 0..5 {
            assert!(world.step_up_with(json!({})).await.is_ok());
        }
        assert_eq!(world.provider.hits(), 2);

        let new = SigningKey::p256();
        world.provider.publish(&[world.key.jwk("k1"), new.jwk("k2")]);
        let token = new.token("ES256", "k2", &world.claims());
        assert_eq!(world.identities.verify_step_up(&token, later(5)).await.unwrap_err().code(), "unknown_key");
        assert_eq!(world.provider.hits(), 2);
        assert!(world.identities.verify_step_up(&token, later(11)).await.is_ok());
        assert_eq!(world.provider.hits(), 4);
        for number in 0..20 {
            let token = new.token("ES256", &format!("made-up-{number}"), &world.claims());
            assert!(world.identities.verify_step_up(&token, later(12)).await.is_err());
        }
        assert_eq!(world.provider.hits(), 4);
    }

    #[tokio::test]
    async fn many_at_once_make_one_fetch() {
        let world = Arc::new(World::new().await);
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let world = Arc::clone(&world);
                tokio::spawn(async move { world.step_up_with(json!({})).await.is_ok() })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap());
        }
        assert_eq!(world.provider.hits(), 2);
    }

    #[tokio::test]
    async fn with_the_provider_down_known_keys_go_on_and_the_rest_is_told_so() {
        let world = World::new().await;
        world.provider.answer("/jwks", 503, "");
        let refused = world.step_up_with(json!({})).await.unwrap_err();
        assert!(refused.is_unavailable());
        assert!(refused.to_string().contains("/jwks answered 503"), "{refused}");

        // Back again: asked anew after a short while.
        world.provider.publish(&[world.key.jwk("k1")]);
        let token = world.key.token("ES256", "k1", &world.claims());
        assert!(world.identities.verify_step_up(&token, later(1)).await.unwrap_err().is_unavailable());
        assert!(world.identities.verify_step_up(&token, later(2)).await.is_ok());

        world.provider.answer("/jwks", 500, "");
        assert!(world.identities.verify_step_up(&token, later(200)).await.is_ok());
        let unknown = world.key.token("ES256", "k9", &world.claims());
        assert_eq!(world.identities.verify_step_up(&unknown, later(200)).await.unwrap_err().code(), "unknown_key");
        assert!(world.identities.verify_step_up(&token, later(201)).await.is_ok());
        let (name, health) = world.identities.health().next().unwrap();
        assert_eq!((name, health.seen), ("corp", Some(later(2))));
        assert!(health.error.is_some());
    }

    #[tokio::test]
    async fn a_provider_that_answers_nonsense_is_unavailable_and_says_why() {
        for (path, status, body, told) in [
            ("/.well-known/openid-configuration", 404, String::new(), "answered 404"),
            ("/.well-known/openid-configuration", 302, String::new(), "answered 302"),
            ("/.well-known/openid-configuration", 200, "<html>".to_owned(), "is not what it should be"),
            (
                "/.well-known/openid-configuration",
                200,
                json!({"issuer": "https://evil.example.com", "jwks_uri": "https://evil.example.com"}).to_string(),
                "its issuer is",
            ),
            ("/jwks", 200, json!({"keys": []}).to_string(), "holds no key"),
            ("/jwks", 200, json!({"keys": [1, null, {"kty": "oct", "k": "AA"}]}).to_string(), "holds no key"),
            ("/jwks", 200, " ".repeat(1 << 20), "sent more than"),
        ] {
            let world = World::new().await;
            world.provider.answer(path, status, body);
            let refused = world.step_up_with(json!({})).await.unwrap_err();
            assert!(refused.is_unavailable() && refused.to_string().contains(told), "{refused}");
        }
    }

    #[tokio::test]
    async fn an_issuer_is_the_same_to_the_letter_and_a_slash_too_many_is_named() {
        // The configuration has a slash that the provider does not, or the other way round.
        for (configured, stated) in [("/", ""), ("", "/")] {
            let world = World::with(|entry| entry.issuer.push_str(configured)).await;
            let issuer = format!("{}{stated}", world.provider.issuer);
            world.provider.discovery(&issuer);
            let refused = world.step_up_with(json!({"iss": issuer})).await.unwrap_err();
            assert!(refused.to_string().contains("only the slash at the end differs"), "{refused}");
            let other = format!("{}{configured}", world.provider.issuer);
            let refused = world.step_up_with(json!({"iss": other})).await.unwrap_err();
            assert!(refused.is_unavailable(), "{refused}");
            assert!(refused.to_string().contains("only the slash at the end differs"), "{refused}");
        }
        let world = World::with(|entry| entry.issuer.push('/')).await;
        let issuer = format!("{}/", world.provider.issuer);
        world.provider.discovery(&issuer);
        assert!(world.step_up_with(json!({"iss": issuer})).await.is_ok(), "some issuers really end in a slash");
    }

    #[tokio::test]
    async fn two_minutes_between_the_clocks_are_tolerated() {
        let world = World::new().await;
        let made = |at: i64| json!({"iat": at, "nbf": at, "auth_time": at, "exp": at + 300});
        for difference in [-120, 120] {
            let identity = world.step_up_with(made(NOW + difference)).await.unwrap();
            assert_eq!(identity.auth_time, Some(later(difference)));
        }
    }

    #[tokio::test]
    async fn a_provider_on_ipv6_is_one_too() {
        let key = SigningKey::p256();
        let provider = FakeProvider::start_at("[::1]:0", &[key.jwk("k1")]).await;
        let identities = Identities::new(&config(provider.dir.path(), vec![provider.entry()])).unwrap();
        let claims = json!({
            "iss": provider.issuer, "aud": "kubernetes-step-up", "sub": "alice", "iat": NOW, "exp": NOW + 300, "auth_time": NOW,
        });
        assert!(provider.issuer.starts_with("https://[::1]:"), "{}", provider.issuer);
        assert_eq!(identities.verify_step_up(&key.token("ES256", "k1", &claims), now()).await.unwrap().user, "alice");
    }

    #[tokio::test]
    async fn a_provider_with_another_ca_is_not_believed() {
        let impostor = FakeProvider::start(&[]).await;
        let world = World::with(|entry| entry.ca = Some(impostor.ca.clone())).await;
        let refused = world.step_up_with(json!({})).await.unwrap_err();
        assert!(refused.is_unavailable(), "{refused}");
        assert_eq!(world.provider.hits(), 0);
    }

    #[tokio::test]
    async fn the_difference_of_the_clocks_is_measured() {
        let world = World::new().await;
        let day_ahead = now() + TimeDelta::days(1);
        let refused =
            world.identities.verify_step_up(&world.key.token("ES256", "k1", &world.claims()), day_ahead).await;
        assert_eq!(refused.unwrap_err().code(), "expired");
        assert_eq!(world.identities.health().next().unwrap().1.skew, Some(TimeDelta::days(-1)));
    }

    #[test]
    fn refusals_name_the_clocks_when_it_is_the_clocks() {
        assert_eq!(
            Refused::IssuedInFuture(TimeDelta::days(1)).to_string(),
            "the token was issued 86400 s in the future: check the clocks of this server and of the identity provider"
        );
    }
}
