//! A profile: which identity provider, which stepup-server, and how to sign in. Written by `setup`, named in the
//! kubeconfig. `<config>/profiles/NAME.json`.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use crate::client::cache;
use crate::client::error::Error;
use crate::client::paths::{Files, Paths};
use crate::client::resource;
use crate::client::session;
use crate::secret::Secret;

/// The version of the file that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// Settings of one profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// [`VERSION`].
    pub version: u32,
    /// Its name: the file's, the kubeconfig's `--profile`.
    pub name: String,
    /// Issuer URL of the identity provider.
    pub issuer: String,
    /// OAuth client identifier.
    pub client_id: String,
    /// OAuth client secret, where the provider insists on one for a native client.
    #[serde(default)]
    pub client_secret: Option<Secret>,
    /// Scopes of the base sign-in.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// PEM file of the CA that signs the provider's certificate, instead of the system's.
    #[serde(default)]
    pub issuer_ca: Option<PathBuf>,
    /// How the base sign-in goes.
    #[serde(default)]
    pub flow: Flow,
    /// `login_hint` for every sign-in.
    #[serde(default)]
    pub login_hint: Option<String>,
    /// Whether to open the browser, where there is one.
    #[serde(default = "yes")]
    pub open_browser: bool,
    /// stepup-server; without it, and without the next one, this is a plain OpenID Connect plugin.
    #[serde(default)]
    pub server: Option<ServerSettings>,
    /// Step-up without stepup-server: the token of a stronger sign-in opens more by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_only: Option<ProviderOnly>,
    /// How the step-up sign-in goes.
    #[serde(default)]
    pub step_up: StepUpSettings,
    /// Where this profile's files are.
    #[serde(skip)]
    pub files: Files,
}

/// Where stepup-server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerSettings {
    /// Its URL.
    pub url: String,
    /// PEM file of the CA that signs its certificate, instead of the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// What a step-up is like where the API server itself tells strong tokens of the provider from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderOnly {
    /// Values of `acr` that the cluster takes for strong, most wanted first.
    pub acr_values: Vec<String>,
    /// How long ago the sign-in may have been, in seconds.
    #[serde(default = "five_minutes")]
    pub max_age: u64,
    /// How long the stronger token is used, in seconds; its own life is the most.
    #[serde(default = "five_minutes")]
    pub ttl: u64,
    /// When to step up beforehand: lines as `resource::patterns` reads them. A hint: the cluster decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<String>,
    /// A ConfigMap with more such lines under the key `protected`: `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_config_map: Option<String>,
}

impl ProviderOnly {
    /// With every default, and nothing in it.
    pub fn new() -> Self {
        Self {
            acr_values: Vec::new(),
            max_age: five_minutes(),
            ttl: five_minutes(),
            protected: Vec::new(),
            digest_config_map: None,
        }
    }

    /// Namespace and name of the ConfigMap.
    pub fn config_map(&self) -> Option<(&str, &str)> {
        self.digest_config_map.as_deref()?.split_once('/')
    }

    fn check(&self) -> Result<(), String> {
        if self.acr_values.is_empty() {
            return Err(
                "without stepup-server, say which acr the cluster takes for strong: --step-up-acr VALUE".to_owned()
            );
        }
        if self.acr_values.iter().any(|acr| acr.is_empty() || acr.contains(char::is_whitespace)) {
            return Err("an acr value is one word".to_owned());
        }
        if self.ttl == 0 || self.max_age == 0 {
            return Err("providerOnly.ttl and providerOnly.maxAge must be more than 0".to_owned());
        }
        for line in &self.protected {
            resource::patterns(line).map_err(|error| format!("{line:?}: {error}"))?;
        }
        let is_name = |text: &str| {
            !text.is_empty()
                && text.len() <= 253
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        };
        match (&self.digest_config_map, self.config_map()) {
            (Some(_), Some((namespace, name))) if is_name(namespace) && is_name(name) => Ok(()),
            (Some(text), _) => Err(format!("{text:?} is not NAMESPACE/NAME of a ConfigMap")),
            (None, _) => Ok(()),
        }
    }
}

impl Default for ProviderOnly {
    fn default() -> Self {
        Self::new()
    }
}

fn five_minutes() -> u64 {
    300
}

/// How the step-up sign-in goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StepUpSettings {
    /// How the provider is told to ask for more.
    pub method: Method,
    /// Which OAuth flow.
    pub flow: Flow,
    /// Another client to sign in as, where the provider binds the stronger sign-in to the client.
    pub client_id: Option<String>,
    /// Its secret, where the provider insists on one.
    pub client_secret: Option<Secret>,
    /// Scopes beside those of the base sign-in, where the provider binds the stronger sign-in to a scope.
    pub scopes: Vec<String>,
    /// Whether to look at kubectl's command line and step up before its first request, where that cannot be repeated.
    pub preflight: bool,
}

impl Default for StepUpSettings {
    fn default() -> Self {
        Self {
            method: Method::default(),
            flow: Flow::default(),
            client_id: None,
            client_secret: None,
            scopes: Vec::new(),
            preflight: true,
        }
    }
}

impl StepUpSettings {
    /// Why they make no sense for a client that signs in as `client_id` with `base_scopes`.
    fn check(&self, client_id: &str, base_scopes: &[String]) -> Result<(), String> {
        if let Some(bad) = self.scopes.iter().find(|scope| scope.is_empty() || scope.contains(char::is_whitespace)) {
            return Err(format!("stepUp.scopes: {bad:?} is no scope: one word each"));
        }
        if self.client_id.as_ref().is_some_and(String::is_empty) {
            return Err("stepUp.clientId is empty".to_owned());
        }
        if self.client_secret.is_some() && self.client_id.is_none() {
            return Err("the secret for step-ups needs a client of their own: --step-up-client-id".to_owned());
        }
        match self.method {
            Method::AcrValues => Ok(()),
            Method::Scope if self.scopes.iter().any(|scope| !base_scopes.contains(scope)) => Ok(()),
            Method::Scope => Err("step-up by scope needs a scope that the ordinary sign-in does not ask for: \
                                  --step-up-scope SCOPE"
                .to_owned()),
            Method::Client if self.client_id.as_deref().is_some_and(|id| id != client_id) => Ok(()),
            Method::Client => {
                Err("step-up by client needs another client than that of the ordinary sign-in: --step-up-client-id ID"
                    .to_owned())
            }
        }
    }
}

/// For people: `acr_values in the device flow`.
impl fmt::Display for StepUpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.method, &self.client_id) {
            (Method::AcrValues, None) => f.write_str("acr_values")?,
            (Method::AcrValues, Some(client)) => write!(f, "acr_values to client {client}")?,
            (Method::Scope, _) => write!(f, "scope {}", self.scopes.join(" "))?,
            (Method::Client, client) => write!(f, "client {}", client.as_deref().unwrap_or_default())?,
        }
        f.write_str(match self.flow {
            Flow::Device => " in the device flow",
            Flow::Browser => " in the browser flow",
        })
    }
}

/// How a provider is told to ask for more than a password. Whatever the method, `max_age` goes along, and what came
/// back decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "client", derive(clap::ValueEnum))]
pub enum Method {
    /// `acr_values` name the wanted class (OpenID Connect Core 3.1.2.1)
    #[default]
    #[cfg_attr(feature = "client", value(alias = "acr_values"))]
    AcrValues,
    /// An extra scope that the provider binds to a stronger sign-in
    Scope,
    /// Another client that the provider binds to a stronger sign-in
    Client,
}

/// An OAuth client to sign in as.
#[derive(Clone, Copy, Debug)]
pub struct OAuthClient<'a> {
    /// Its identifier.
    pub id: &'a str,
    /// Its secret, where it has one.
    pub secret: Option<&'a Secret>,
}

/// An OAuth flow for a person at a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "client", derive(clap::ValueEnum))]
pub enum Flow {
    /// URL and code, in a browser anywhere (RFC 8628).
    #[default]
    Device,
    /// Browser on this machine: code + PKCE on a loopback port (RFC 8252).
    Browser,
}

impl Profile {
    /// A new profile with every default. [`Profile::save`] writes it.
    pub fn new(paths: &Paths, name: &Name, issuer: &str, client_id: &str) -> Self {
        Self {
            version: VERSION,
            name: name.0.clone(),
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            client_secret: None,
            scopes: default_scopes(),
            issuer_ca: None,
            flow: Flow::default(),
            login_hint: None,
            open_browser: true,
            server: None,
            provider_only: None,
            step_up: StepUpSettings::default(),
            files: paths.of(&name.0),
        }
    }

    /// Reads and checks a profile.
    pub fn load(paths: &Paths, name: &Name) -> Result<Self, Error> {
        let files = paths.of(&name.0);
        let text = match fs::read(files.settings()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoProfile { name: name.0.clone() });
            }
            text => text.map_err(Error::file("read", files.settings()))?,
        };
        let bad = |problem: String| Error::BadFile { path: files.settings().to_owned(), problem };
        let mut profile: Self = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if profile.version != VERSION {
            return Err(bad(format!(
                "it is of version {}, this kubectl-stepup reads version {VERSION}: update it",
                profile.version
            )));
        }
        profile.check().map_err(bad)?;
        profile.files = files.settled(name.as_str());
        profile.name.clone_from(&name.0);
        Ok(profile)
    }

    /// Whether there is any way to step up; an ordinary sign-in is all otherwise.
    pub fn steps_up(&self) -> bool {
        self.server.is_some() || self.provider_only.is_some()
    }

    /// Whether the plugin steps up for kubectl before its first request.
    pub fn has_preflight(&self) -> bool {
        self.step_up.preflight && self.steps_up()
    }

    /// Whether anything here asks what is protected: preflight, and `run` where there is no stepup-server to ask.
    pub fn has_digest(&self) -> bool {
        self.has_preflight() || self.provider_only.is_some()
    }

    /// Checks and writes the profile (0600: there may be a client secret in it). A session that it no longer fits is
    /// forgotten.
    pub fn save(&self) -> Result<(), Error> {
        self.check().map_err(Error::Usage)?;
        cache::write_pretty(self.files.settings(), self)?;
        session::fit(self)
    }

    /// Names of all profiles there are, sorted.
    pub fn names(paths: &Paths) -> Vec<Name> {
        let Ok(entries) = fs::read_dir(paths.profiles()) else { return Vec::new() };
        let mut names: Vec<Name> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json")?.parse().ok()).collect();
        names.sort();
        names
    }

    /// Whether all of it makes sense.
    pub fn check(&self) -> Result<(), String> {
        base_url("issuer", &self.issuer)?;
        if let Some(server) = &self.server {
            base_url("server.url", &server.url)?;
        }
        if self.client_id.is_empty() {
            return Err("clientId is empty".to_owned());
        }
        if let Some(provider_only) = &self.provider_only {
            if self.server.is_some() {
                return Err("a profile steps up at stepup-server or at the provider alone, not both".to_owned());
            }
            provider_only.check()?;
        }
        self.step_up.check(&self.client_id, &self.scopes)
    }

    /// The client of the base sign-in.
    pub fn client(&self) -> OAuthClient<'_> {
        OAuthClient { id: &self.client_id, secret: self.client_secret.as_ref() }
    }

    /// Where fresh step-up sign-ins are kept: with those of every profile that steps up as the same client of the same
    /// provider, so that one sign-in serves several clusters, each with a grant of its own (gravitational/teleport#68111).
    pub fn sign_ins(&self) -> PathBuf {
        self.files.all_sign_ins().join(self.step_up_key())
    }

    /// The lock of whoever prompts (invariant 8): of all profiles whose prompts one sign-in may answer.
    pub fn prompt_lock(&self) -> PathBuf {
        self.files.shared_state(&format!(".prompt-{}.lock", self.step_up_key()))
    }

    /// Provider and client, as a file name.
    fn step_up_key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.issuer.trim_end_matches('/'));
        hash.update([0]);
        hash.update(self.step_up_client().id);
        let beginning = hash.finalize().first_chunk().copied().unwrap_or_default();
        format!("{:016x}", u64::from_be_bytes(beginning))
    }

    /// The client of the step-up sign-in.
    pub fn step_up_client(&self) -> OAuthClient<'_> {
        match &self.step_up.client_id {
            Some(id) if *id != self.client_id => OAuthClient { id, secret: self.step_up.client_secret.as_ref() },
            _ => self.client(),
        }
    }
}

/// Tokens go to this URL: https, or http to this very machine (for tests and sidecars).
pub fn secure_url(what: &str, url: &Url) -> Result<(), String> {
    let is_loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        _ => return Err(format!("{what} {url} must start with https://")),
    }
    Ok(())
}

/// A base URL that people type: secure, and nothing but scheme, host and path.
fn base_url(what: &str, text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|error| format!("{what} {text:?} is not a URL: {error}"))?;
    secure_url(what, &url)?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{what} must be a plain URL, without user, query or fragment"));
    }
    Ok(())
}

fn default_scopes() -> Vec<String> {
    ["openid", "offline_access", "profile", "email"].map(str::to_owned).to_vec()
}

fn yes() -> bool {
    true
}

/// A profile's name: it becomes a file name and part of a kubeconfig, so letters, digits, `-`, `_` and `.` only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > 64 || text.starts_with(['.', '-']) || !text.chars().all(plain) {
            return Err(
                "a profile name is 1 to 64 letters, digits, '-', '_' or '.', and starts with a letter or digit"
                    .to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
