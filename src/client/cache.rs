//! The files that hold tokens: `session.json`, `elevated/SCOPE.json`, and the sign-ins that may serve again. 0600,
//! replaced atomically; a file that makes no sense is set aside with a message and is never fatal.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::error::Error;
use crate::client::output;
use crate::client::parent::{self, Scope};
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
    /// Whether to look ahead at what kubectl is about to do.
    #[serde(default)]
    pub preflight: bool,
    /// Issuer the token came from.
    #[serde(default)]
    pub issuer: String,
    /// Client it was issued to.
    #[serde(default)]
    pub client_id: String,
    /// Who signed in.
    #[serde(default)]
    pub person: Person,
}

/// Who signed in, as the provider says it. The cluster and stepup-server go by the token itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Person {
    /// For people: `preferred_username`, `email` or `sub`.
    pub user: String,
    /// For the provider (`sub`).
    pub subject: String,
}

impl Person {
    /// Whether it is the same one. Some providers give each client another `sub` for one person (OpenID Connect Core 8.1):
    /// there the name has to do.
    pub fn is(&self, other: &Self) -> bool {
        let is_same = |one: &str, other: &str| !one.is_empty() && one == other;
        is_same(&self.subject, &other.subject) || is_same(&self.user, &other.user)
    }
}

impl Session {
    /// Whether the base token is good for `margin` seconds from `now`.
    pub fn is_live(&self, now: DateTime<Utc>, margin: i64) -> bool {
        self.base_expires_at > now.timestamp() + margin
    }
}

impl Elevated {
    /// The API server refuses a token from the second on in which it expires, and nothing repeats a 401: one that is
    /// about to is not handed out any more, seconds before.
    pub const MARGIN: i64 = 2;

    /// Whether it can be used.
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.expires_at > now.timestamp() + Self::MARGIN
    }

    /// Whether this token carries the grant `id`.
    pub fn has(&self, id: &str) -> bool {
        self.grant.id == id || self.carries.iter().any(|carried| carried == id)
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
    /// Who signed in.
    pub person: Person,
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
    held.retain(|elevated| elevated.is_live(now));
    held
}

/// Every live elevated token of every scope that somebody can still use, with the scope's file name (for `status` and
/// `drop`).
pub fn all_elevated(files: &Files, now: DateTime<Utc>) -> Vec<(String, Elevated)> {
    let mut all = Vec::new();
    for path in entries(&files.elevated()).filter(|path| !has_ended(path)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let held: Vec<Elevated> = read(&path).unwrap_or_default();
        all.extend(held.into_iter().filter(|held| held.is_live(now)).map(|held| (name.clone(), held)));
    }
    all
}

/// Whether the process has ended that a file of elevated tokens is for.
fn has_ended(path: &Path) -> bool {
    let name = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    name.strip_prefix("process-").and_then(parent::still_runs) == Some(false)
}

/// Forgets the elevated tokens that carry the grant `id`, in every scope. (The server is told by `api::Server::revoke`.)
pub fn forget_grant(files: &Files, id: &str) -> Result<(), Error> {
    for path in entries(&files.elevated()) {
        let Some(mut held) = read::<Vec<Elevated>>(&path) else { continue };
        let before = held.len();
        held.retain(|elevated| !elevated.has(id));
        if held.is_empty() {
            remove(&path)?;
        } else if held.len() != before {
            write(&path, &held)?;
        }
    }
    Ok(())
}

/// Adds an elevated token to its scope.
pub fn keep_elevated(files: &Files, scope: &Scope, elevated_token: &Elevated, now: DateTime<Utc>) -> Result<(), Error> {
    let mut held = elevated(files, scope, now);
    held.insert(0, elevated_token.clone());
    write(&files.elevated().join(scope.file_name()), &held)
}

/// The sign-in that was kept for `scope`, of those in `sign_ins` (see `Profile::sign_ins`).
pub fn sign_in(sign_ins: &Path, scope: &Scope) -> Option<SignIn> {
    read(&sign_ins.join(scope.file_name()))
}

/// Forgets the sign-in that was kept for `scope`; for every scope, where it is `None`.
pub fn forget_sign_in(sign_ins: &Path, scope: Option<&Scope>) -> Result<(), Error> {
    match scope {
        Some(scope) => remove(&sign_ins.join(scope.file_name())),
        None => everything(sign_ins).try_for_each(|path| remove(&path)),
    }
}

/// Keeps a sign-in for `scope`.
pub fn keep_sign_in(sign_ins: &Path, scope: &Scope, sign_in: &SignIn) -> Result<(), Error> {
    write(&sign_ins.join(scope.file_name()), sign_in)
}

/// Forgets every elevated token of the profile.
pub fn forget_elevated(files: &Files) -> Result<(), Error> {
    everything(&files.elevated()).try_for_each(|path| remove(&path))
}

/// Forgets what was set aside, and what processes that were killed did not finish writing: tokens, most likely.
pub fn forget_remains(files: &Files) -> Result<(), Error> {
    directories(files)
        .iter()
        .flat_map(|directory| everything(directory))
        .filter(|path| is_remains(path))
        .try_for_each(|path| remove(&path))
}

fn is_remains(path: &Path) -> bool {
    matches!(path.extension().and_then(OsStr::to_str), Some("corrupt" | "new"))
}

/// Where this profile's files are, besides those of each scope.
fn directories(files: &Files) -> Vec<PathBuf> {
    [files.session(), files.state("x")].iter().filter_map(|path| path.parent()).map(Path::to_owned).collect()
}

/// Removes what is of no more use: tokens that have expired, and after a day what processes left that are gone. A process
/// of another PID namespace, or of another machine with the same home, seems to be gone all the same.
pub fn sweep(files: &Files, now: DateTime<Utc>) {
    let is_over = |path: &Path| {
        let expires: Vec<i64> = match read::<Vec<Elevated>>(path) {
            Some(held) => held.iter().map(|elevated| elevated.expires_at).collect(),
            None => return false,
        };
        expires.into_iter().all(|expires| expires <= now.timestamp())
    };
    for path in entries(&files.elevated()).filter(|path| is_over(path)) {
        let _ = fs::remove_file(path);
    }
    let has_expired = |path: &Path| read::<SignIn>(path).is_some_and(|sign_in| sign_in.expires_at <= now.timestamp());
    let sign_ins = fs::read_dir(files.all_sign_ins()).into_iter().flatten().flatten();
    for path in sign_ins.flat_map(|directory| entries(&directory.path())).filter(|path| has_expired(path)) {
        let _ = fs::remove_file(path);
    }
    let mut old: Vec<PathBuf> = directories(files).iter().flat_map(|directory| everything(directory)).collect();
    old.retain(|path| is_remains(path));
    let is_of_the_dead =
        |path: &PathBuf| path.file_name().and_then(OsStr::to_str).and_then(parent::still_runs) == Some(false);
    old.extend(everything(&files.parents()).filter(is_of_the_dead));
    for path in old.iter().filter(|path| is_older_than_a_day(path, now)) {
        let _ = fs::remove_file(path);
    }
}

/// Whether nothing was written to it for a day.
pub fn is_older_than_a_day(path: &Path, now: DateTime<Utc>) -> bool {
    const DAY: Duration = Duration::from_hours(24);
    age(path, now).is_some_and(|age| age > DAY)
}

/// How long ago a file was written; `None` where there is none, or where that is still to come.
pub fn age(path: &Path, now: DateTime<Utc>) -> Option<Duration> {
    let modified = fs::metadata(path).and_then(|data| data.modified()).ok()?;
    SystemTime::from(now).duration_since(modified).ok()
}

/// The JSON files of a directory.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    everything(directory).filter(|path| path.extension() == Some(OsStr::new("json")))
}

/// All files of a directory.
fn everything(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())).map(|entry| entry.path())
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

/// What a file is called that makes no sense.
pub fn set_aside_as(path: &Path) -> PathBuf {
    path.with_extension("corrupt")
}

fn set_aside(path: &Path, error: &serde_json::Error) {
    let aside = set_aside_as(path);
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
    let written = private_file(&new)
        .and_then(|mut file| {
            paths::hand_over(&file, directory);
            file.write_all(text)
        })
        .and_then(|()| paths::replace(&new, path));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::client::parent::Process;
    use crate::client::paths::Paths;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn held(id: &str, expires: i64) -> Elevated {
        let grant = json!({
            "id": id, "user": "alice", "rule": "r", "permits": [], "covers": [], "acr": "mfa",
            "authTime": at(0), "createdAt": at(0), "expiresAt": at(expires), "usesLeft": 1
        });
        Elevated {
            token: Secret::new(format!("token-{id}")),
            expires_at: at(expires).timestamp(),
            grant: serde_json::from_value(grant).unwrap(),
            carries: vec![],
        }
    }

    #[test]
    fn elevated_tokens_live_in_their_scope_until_they_expire_or_are_dropped() {
        let home = tempfile::tempdir().unwrap();
        let files = Paths::under(home.path()).of("p");
        let here = Scope::Process(Process::me().unwrap());
        let elsewhere = Scope::Process(Process { pid: 1, started: 999_999_999 });
        keep_elevated(&files, &here, &held("a", 60), at(0)).unwrap();
        keep_elevated(&files, &here, &Elevated { carries: vec!["a".into()], ..held("b", 30) }, at(0)).unwrap();
        let ids = |scope, now| elevated(&files, scope, now).into_iter().map(|e| e.grant.id).collect::<Vec<_>>();
        assert_eq!(ids(&here, at(1)), ["b", "a"], "newest first");
        assert_eq!(ids(&elsewhere, at(1)), [""; 0]);
        assert_eq!(ids(&here, at(27)), ["b", "a"]);
        assert_eq!(ids(&here, at(28)), ["a"], "a moment before it expires");
        assert_eq!(ids(&here, at(58)), [""; 0]);
        assert_eq!(all_elevated(&files, at(1)).len(), 2);
        keep_elevated(&files, &elsewhere, &held("c", 60), at(0)).unwrap();
        assert_eq!(all_elevated(&files, at(1)).len(), 2, "of a process that has ended");
        forget_grant(&files, "a").unwrap();
        assert_eq!(ids(&here, at(1)), [""; 0], "the token of b carried a, so it goes too");
    }

    #[test]
    fn sweeping_removes_what_has_expired_and_after_a_day_what_the_dead_have_left() {
        let home = tempfile::tempdir().unwrap();
        let files = Paths::under(home.path()).of("p");
        keep_elevated(&files, &Scope::Anyone, &held("a", 60), at(0)).unwrap();
        sweep(&files, at(57));
        assert_eq!(all_elevated(&files, at(0)).len(), 1);
        sweep(&files, at(60));
        assert_eq!(all_elevated(&files, at(0)).len(), 0);
        if cfg!(target_os = "linux") {
            // Whoever has no such process here may have it elsewhere: in a container with the same home.
            let ended = Scope::Process(Process { pid: 1, started: 999_999_999 });
            keep_elevated(&files, &ended, &held("c", 60), at(0)).unwrap();
            let left = [files.parents().join("1-999999999"), files.state("refresh-token.1.new")];
            let of_the_living = files.parents().join(Process::me().unwrap().to_string());
            for path in left.iter().chain([&of_the_living]) {
                write_bytes(path, b"").unwrap();
                fs::File::options().write(true).open(path).unwrap().set_modified(at(0).into()).unwrap();
            }
            sweep(&files, at(59));
            assert_eq!(elevated(&files, &ended, at(1)).len(), 1);
            assert!(left.iter().all(|path| path.exists()));
            sweep(&files, at(24 * 60 * 60 + 1));
            assert_eq!(elevated(&files, &ended, at(1)), []);
            assert!(of_the_living.exists() && !left.iter().any(|path| path.exists()));
        }
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_its_text_is_not_shown() {
        let home = tempfile::tempdir().unwrap();
        let files = Paths::under(home.path()).of("p");
        write_bytes(&files.session(), b"{\"version\": 1, \"baseToken\": 7}").unwrap();
        assert_eq!(session(&files), None);
        assert!(!files.session().exists());
        assert!(files.session().with_extension("corrupt").exists());
    }

    #[test]
    fn a_file_is_replaced_while_somebody_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file.json");
        write(&path, &1).unwrap();
        let reader = fs::File::open(&path).unwrap();
        let reading = std::thread::spawn(move || {
            // Windows may have the writer wait for it.
            std::thread::sleep(std::time::Duration::from_millis(50));
            serde_json::from_reader::<_, i32>(reader).unwrap()
        });
        write(&path, &2).unwrap();
        assert_eq!((read::<i32>(&path), reading.join().unwrap()), (Some(2), 1));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn files_are_for_this_user_alone_and_leave_nothing_behind() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("new/file.json");
        write(&path, &1).unwrap();
        write(&path, &2).unwrap();
        assert_eq!(read::<i32>(&path), Some(2));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(home.path().join("new")).unwrap().count(), 1);
    }
}
