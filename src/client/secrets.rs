//! Where the refresh token is kept: the OS keyring, or a 0600 file where there is none (servers, WSL, containers).
//!
//! Only called under the session lock, so that two processes never create the same keyring item (Azure/kubelogin#740).

use std::env;
use std::fmt;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use keyring::Entry;
use serde::{Deserialize, Serialize};

use crate::client::cache;
use crate::client::error::Error;
use crate::client::output;
use crate::client::paths;
use crate::client::profile::Profile;
use crate::client::prompt;
use crate::secret::Secret;

/// Environment variable that says where to keep new refresh tokens: `keyring` or `file`.
pub const WHERE: &str = "KUBECTL_STEPUP_SECRETS";

const SERVICE: &str = "kubectl-stepup";
/// How long a keyring may take that is not locked.
const GRACE: Duration = Duration::from_secs(3);
/// How long a person may take to unlock it.
const PATIENCE: Duration = Duration::from_secs(30);
const REMEMBERED: &str = "secrets.json";
const FILE: &str = "refresh-token";

/// Where a secret is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The OS keyring: Secret Service, Keychain or Credential Manager.
    Keyring,
    /// A file that only this user can read.
    File,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyring => "OS keyring",
            Self::File => "file (0600)",
        })
    }
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    place: Place,
    /// An older refresh token is still in the keyring: it did not answer when it was to be replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    left_in_keyring: bool,
}

impl Remembered {
    fn read(profile: &Profile) -> Option<Self> {
        cache::read(&profile.files.state(REMEMBERED))
    }
}

/// Where this profile's refresh token is kept, as far as we remember; touches no keyring.
pub fn place(profile: &Profile) -> Option<Place> {
    Remembered::read(profile).map(|remembered| remembered.place)
}

/// The refresh token, if there is one. From a keyring that does not answer (it is locked, on a desktop that somebody
/// reaches over SSH) there is none to be had: [`Error::NotSignedIn`], which a sign-in mends.
pub fn load(profile: &Profile) -> Result<Option<Secret>, Error> {
    match place(profile) {
        Some(Place::Keyring) => with_entry(profile, |entry| match entry.get_secret() {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok().map(Secret::new)),
            Err(keyring::Error::NoEntry) => Ok(None),
            Err(error) => Err(plain(&error)),
        })
        .map_err(|problem| Error::NotSignedIn {
            profile: profile.name.clone(),
            why: format!("the refresh token is in the OS keyring, and {problem}"),
        }),
        Some(Place::File) | None => Ok(cache::read(&profile.files.state(FILE))),
    }
}

/// Keeps the refresh token, and says so when it is not in the keyring. A renewed one goes where the one before was; for
/// that of a new sign-in the keyring is tried again.
pub fn store(profile: &Profile, token: &Secret, is_renewal: bool) -> Result<Place, Error> {
    let before = Remembered::read(profile);
    let wanted = match env::var(WHERE).as_deref() {
        Ok("file") => Place::File,
        _ if is_renewal => before.as_ref().map_or(Place::Keyring, |before| before.place),
        _ => Place::Keyring,
    };
    let bytes = Secret::clone(token);
    let kept = match wanted {
        Place::File => None,
        Place::Keyring => Some(with_entry(profile, move |entry| {
            // As bytes: on Windows the text would be stored in UTF-16, of which only 1280 units fit.
            entry.set_secret(bytes.expose().as_bytes()).map_err(|error| plain(&error))
        })),
    };
    let place = match kept {
        Some(Ok(())) => {
            cache::remove(&profile.files.state(FILE))?;
            Place::Keyring
        }
        Some(Err(_)) => {
            cache::write(&profile.files.state(FILE), token)?;
            let file = profile.files.state(FILE);
            output::note(format_args!(
                "kubectl-stepup: no OS keyring answers here, so the refresh token is kept in {} (0600)",
                file.display()
            ));
            Place::File
        }
        None => {
            cache::write(&profile.files.state(FILE), token)?;
            Place::File
        }
    };
    let was_in_keyring = before.as_ref().is_some_and(|before| before.place == Place::Keyring || before.left_in_keyring);
    let now = Remembered { place, left_in_keyring: place == Place::File && was_in_keyring };
    if before.as_ref() != Some(&now) {
        cache::write(&profile.files.state(REMEMBERED), &now)?;
    }
    Ok(place)
}

/// Forgets the refresh token.
pub fn forget(profile: &Profile) -> Result<(), Error> {
    cache::remove(&profile.files.state(FILE))?;
    cache::remove(&cache::set_aside_as(&profile.files.state(FILE)))?;
    let Some(Remembered { place, left_in_keyring }) = Remembered::read(profile) else { return Ok(()) };
    if place == Place::File && !left_in_keyring {
        return Ok(());
    }
    let deleted = with_entry(profile, |entry| match entry.delete_credential() {
        Ok(()) | Err(keyring::Error::NoEntry) => Ok(()),
        Err(error) => Err(plain(&error)),
    });
    match (deleted, place) {
        (Ok(()), Place::Keyring) => Ok(()),
        (Ok(()), Place::File) => {
            cache::write(&profile.files.state(REMEMBERED), &Remembered { place, left_in_keyring: false })
        }
        (Err(problem), Place::Keyring) => Err(Error::Failed(format!("cannot delete from the OS keyring: {problem}"))),
        (Err(problem), Place::File) => {
            output::note(format_args!(
                "kubectl-stepup: an older refresh token is still in the OS keyring: cannot delete it, {problem}"
            ));
            Ok(())
        }
    }
}

/// When a keyring did not answer this process. It is not waited for again at once: who signs in instead would wait twice.
static SILENT_SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// Does something with the profile's keyring item, in a thread of its own: a keyring that waits for somebody to unlock
/// it must not hold us for ever.
fn with_entry<T: Send + 'static>(
    profile: &Profile,
    act: impl FnOnce(&Entry) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let mut silent_since = SILENT_SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    let no_answer = "it does not answer (is it locked?)";
    if silent_since.is_some_and(|since| since.elapsed() < prompt::PATIENCE) {
        return Err(no_answer.to_owned());
    }
    let user = match env::var(paths::HOME) {
        // Two homes may hold profiles of one name.
        Ok(home) if !home.is_empty() => format!("{} in {home}", profile.name),
        _ => profile.name.clone(),
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let done = match Entry::store_status() {
            Ok(()) => Entry::new(SERVICE, &user).map_err(|error| plain(&error)).and_then(|entry| act(&entry)),
            Err(error) => Err(plain(error)),
        };
        let _ = sender.send(done);
    });
    let mut outcome = receiver.recv_timeout(GRACE);
    // It asks on the machine's own screen, which nobody sees from elsewhere.
    if outcome.is_err() && prompt::person_is_there() && !prompt::is_remote() {
        output::note("kubectl-stepup: waiting for the OS keyring (does it ask to be unlocked?)");
        outcome = receiver.recv_timeout(PATIENCE);
    }
    *silent_since = outcome.is_err().then(Instant::now);
    outcome.unwrap_or_else(|_| Err(no_answer.to_owned()))
}

/// The error without its payload: some variants carry the secret that would not fit.
fn plain(error: &keyring::Error) -> String {
    match error {
        keyring::Error::BadEncoding(_) | keyring::Error::BadDataFormat(..) => "what it holds makes no sense".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::client::paths::Paths;

    use super::*;

    #[test]
    fn a_token_goes_where_it_was_kept_before_and_comes_back() {
        let home = tempfile::tempdir().unwrap();
        let profile = Profile::new(&Paths::under(home.path()), &"p".parse().unwrap(), "https://idp", "k");
        cache::write(&profile.files.state(REMEMBERED), &Remembered { place: Place::File, left_in_keyring: false })
            .unwrap();
        assert_eq!(load(&profile).unwrap(), None);
        assert_eq!(store(&profile, &Secret::new("r1"), true).unwrap(), Place::File);
        assert_eq!(load(&profile).unwrap(), Some(Secret::new("r1")));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(profile.files.state(FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        forget(&profile).unwrap();
        assert_eq!(load(&profile).unwrap(), None);
    }
}
