//! A profile: which identity provider, which stepup-server, and how to sign in. Written by `setup`, named in the
//! kubeconfig. `<config>/profiles/NAME.json`.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::client::cache;
use crate::client::error::Error;
use crate::client::paths::{Files, Paths};
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
    /// stepup-server; without it this is a plain OpenID Connect plugin.
    #[serde(default)]
    pub server: Option<ServerSettings>,
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

/// How the step-up sign-in goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StepUpSettings {
    /// How the provider is told to ask for more.
    pub method: Method,
    /// Which OAuth flow.
    pub flow: Flow,
    /// Another client to sign in as, where the provider binds the stronger sign-in to the client.
    pub client_id: Option<String>,
    /// Scopes beside `openid`, where the provider binds the stronger sign-in to a scope.
    pub scopes: Vec<String>,
}

/// How a provider is told to ask for more than a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// `acr_values` and `max_age` (OpenID Connect Core 3.1.2.1).
    #[default]
    AcrValues,
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
        Ok(())
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

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
