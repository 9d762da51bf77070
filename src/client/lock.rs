//! Locks between processes: one refresh, one prompt.
//!
//! Each is a file of its own that nobody reads or replaces (locking the cache file itself breaks on Windows), in a
//! directory of this user alone. The operating system lets go of it when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::error::Error;
use crate::client::output;
use crate::client::paths;
use crate::client::prompt::{self, Interrupt};

const POLL: Duration = Duration::from_millis(25);
/// How long to wait before saying so.
const PATIENCE: Duration = Duration::from_secs(1);

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
    /// Whether somebody else held it first: what was read before is stale now.
    pub waited: bool,
}

impl Lock {
    /// Takes the lock at `path`. Says what it waits for after a second, if `announce` says what; gives up after
    /// `limit`, and at Ctrl-C.
    pub fn take(path: &Path, limit: Duration, announce: Option<&str>) -> Result<Self, Error> {
        if let Some(directory) = path.parent() {
            paths::make_private_dir(directory)?;
        }
        let file = open(path).map_err(Error::file("open lock", path))?;
        let began = Instant::now();
        let mut announce = announce;
        let mut waited = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: Some(file), waited }),
                // A file system without locks (some network homes): going on unlocked loses single flight, not safety.
                Err(TryLockError::Error(error)) if is_without_locks(&error) => {
                    return Ok(Self { _file: None, waited });
                }
                Err(TryLockError::Error(error)) => return Err(Error::file("lock", path)(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            waited = true;
            if Interrupt::has_happened() {
                return Err(prompt::declined_here());
            }
            if began.elapsed() > limit {
                return Err(Error::Failed(format!(
                    "another kubectl-stepup has held {} for {} seconds",
                    path.display(),
                    limit.as_secs()
                )));
            }
            if began.elapsed() > PATIENCE
                && let Some(what) = announce.take()
            {
                output::note(format_args!("kubectl-stepup: waiting for {what}"));
            }
            thread::sleep(POLL);
        }
    }
}

/// Whether the file system has none. NFS without its lock daemon says so in its own way (`ENOLCK`).
fn is_without_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
}

fn open(path: &Path) -> io::Result<File> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(made) => {
            paths::hand_over(&made, path.parent().unwrap_or(Path::new(".")));
            Ok(made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().create(true).truncate(false).write(true).open(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn fifty_at_once_go_one_by_one_and_the_later_ones_know_that_they_waited() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state/default/lock");
        let (inside, fetches) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let cache = home.path().join("cached");
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    let _lock = Lock::take(&path, LONG, None).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
                    if !cache.exists() {
                        fetches.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(50));
                        std::fs::write(&cache, "x").unwrap();
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_wait_is_bounded_and_a_dropped_lock_is_free() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let held = Lock::take(&path, LONG, None).unwrap();
        assert!(!held.waited);
        let refused = Lock::take(&path, Duration::from_millis(60), None).unwrap_err();
        assert!(refused.to_string().contains("another kubectl-stepup"), "{refused}");
        drop(held);
        assert!(Lock::take(&path, LONG, None).is_ok());
    }
}
