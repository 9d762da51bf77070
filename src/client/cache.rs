//! The files that hold tokens: `session.json`, `elevated/SCOPE.json`, `step-up/SCOPE.json`. 0600, replaced atomically;
//! a file that makes no sense is set aside with a message and is never fatal.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::error::Error;
use crate::client::output;
use crate::client::parent::Scope;
use crate::client::paths::{self, Files};
use crate::secret::Secret;
use crate::wire::challenge::Grant;

/// The base session: all that `get-token` needs on its hot path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// 1.
    pub version: u32,
    /// ID token of the ordinary sign-in.
    pub base_token: Secret,
    /// When it expires by this machine's clock, in unix seconds.
    pub base_expires_at: i64,
    /// Whether stepup-server is to be asked about denials.
    pub step_up_enabled: bool,
    /// Issuer the token came from.
    #[serde(default)]
    pub issuer: String,
    /// Client it was issued to.
    #[serde(default)]
    pub client_id: String,
    /// Who signed in, as the provider says it (`preferred_username`, `email` or `sub`): for people, not for decisions.
    #[serde(default)]
    pub user: String,
}

impl Session {
    /// Whether the base token is good for `margin` seconds from `now`.
    pub fn is_live(&self, now: DateTime<Utc>, margin: i64) -> bool {
        self.base_expires_at > now.timestamp() + margin
    }
}

/// An elevated token that this machine holds, with its grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Elevated {
    /// The token.
    pub token: Secret,
    /// When it expires by this machine's clock, in unix seconds.
    pub expires_at: i64,
    /// The grant whose id is its `jti`.
    pub grant: Grant,
    /// Identifiers of other grants that the token carries too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carries: Vec<String>,
}

/// A fresh sign-in that may serve again while `max_age` allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignIn {
    /// ID token of the step-up.
    pub id_token: Secret,
    /// Authentication context class it states.
    pub acr: Option<String>,
    /// When the person signed in, in unix seconds.
    pub auth_time: Option<i64>,
    /// When the ID token expires, in unix seconds.
    pub expires_at: i64,
}

/// Reads `session.json`.
pub fn session(files: &Files) -> Option<Session> {
    read(&files.session())
}

/// Elevated tokens of one scope that are alive, newest first.
pub fn elevated(files: &Files, scope: &Scope, now: DateTime<Utc>) -> Vec<Elevated> {
    let mut held: Vec<Elevated> = read(&files.elevated().join(scope.file_name())).unwrap_or_default();
    held.retain(|elevated| elevated.expires_at > now.timestamp());
    held
}

/// Every live elevated token of every scope, with the scope's file name (for `status` and `drop`).
pub fn all_elevated(files: &Files, now: DateTime<Utc>) -> Vec<(String, Elevated)> {
    let Ok(entries) = fs::read_dir(files.elevated()) else { return Vec::new() };
    let mut all = Vec::new();
    for entry in entries.flatten() {
        if entry.path().extension() != Some(OsStr::new("json")) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let held: Vec<Elevated> = read(&entry.path()).unwrap_or_default();
        all.extend(held.into_iter().filter(|held| held.expires_at > now.timestamp()).map(|held| (name.clone(), held)));
    }
    all
}

/// Forgets the elevated tokens that carry the grant `id`, in every scope. (The server is told by `api::Server::revoke`.)
pub fn forget_grant(files: &Files, id: &str) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(files.elevated()) else { return Ok(()) };
    for entry in entries.flatten() {
        let Some(mut held) = read::<Vec<Elevated>>(&entry.path()) else { continue };
        let before = held.len();
        held.retain(|elevated| elevated.grant.id != id && !elevated.carries.iter().any(|carried| carried == id));
        if held.is_empty() {
            remove(&entry.path())?;
        } else if held.len() != before {
            write(&entry.path(), &held)?;
        }
    }
    Ok(())
}

/// Reads a JSON file. `None` where there is none or it cannot be read; a file that makes no sense is set aside.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            output::note(format_args!("kubectl-stepup: cannot read {}: {error}", path.display()));
            return None;
        }
    };
    match serde_json::from_slice(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            set_aside(path, &error);
            None
        }
    }
}

fn set_aside(path: &Path, error: &serde_json::Error) {
    let aside = path.with_extension("corrupt");
    // Only the position: the message of serde_json may quote what it found, and what it found may be a token.
    let place = format!("line {}, column {}", error.line(), error.column());
    match fs::rename(path, &aside) {
        Ok(()) => output::note(format_args!(
            "kubectl-stepup: {} makes no sense ({place}); it is now {}",
            path.display(),
            aside.display()
        )),
        Err(_) => output::note(format_args!("kubectl-stepup: {} makes no sense ({place})", path.display())),
    }
}

/// Replaces a JSON file, for this user alone.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    write_bytes(path, &serde_json::to_vec(value).map_err(|error| Error::Failed(error.to_string()))?)
}

/// Replaces a JSON file that people read too.
pub fn write_pretty<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| Error::Failed(error.to_string()))?;
    text.push(b'\n');
    write_bytes(path, &text)
}

/// Replaces a file atomically: whoever reads it sees the old text or the new, and nobody else sees either.
pub fn write_bytes(path: &Path, text: &[u8]) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    paths::make_private_dir(directory)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = directory.join(name);
    let _ = fs::remove_file(&new);
    let written = private_file(&new).and_then(|mut file| file.write_all(text)).and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        Error::file("write", path)(error)
    })
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}
