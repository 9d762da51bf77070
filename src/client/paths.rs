//! Where things are kept: settings, cached tokens, locks and marks.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use directories::ProjectDirs;

use crate::client::error::Error;

/// Environment variable that puts everything under one directory of its own.
pub const HOME: &str = "KUBECTL_STEPUP_HOME";

/// Our directories. None of them need exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    config: PathBuf,
    cache: PathBuf,
    state: PathBuf,
    is_fallback: bool,
}

impl Paths {
    /// `$KUBECTL_STEPUP_HOME/{config,cache,state}`, else the platform's own places, else (no home directory, as for
    /// many service accounts) a private directory that lasts as long as the login session or the boot.
    ///
    /// Touches no file.
    pub fn find() -> Self {
        if let Some(home) = env::var_os(HOME).filter(|home| !home.is_empty()) {
            return Self::under(Path::new(&home));
        }
        match ProjectDirs::from("", "", "kubectl-stepup") {
            Some(dirs) => Self {
                config: dirs.config_dir().to_owned(),
                cache: dirs.cache_dir().to_owned(),
                state: dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).to_owned(),
                is_fallback: false,
            },
            None => Self { is_fallback: true, ..Self::under(&fallback_home()) },
        }
    }

    /// `home/{config,cache,state}`.
    pub fn under(home: &Path) -> Self {
        Self { config: home.join("config"), cache: home.join("cache"), state: home.join("state"), is_fallback: false }
    }

    /// The directory of profiles: `NAME.json` each.
    pub fn profiles(&self) -> PathBuf {
        self.config.join("profiles")
    }

    /// Everything that belongs to one profile.
    pub fn of(&self, profile: &str) -> Files {
        Files {
            settings: self.profiles().join(format!("{profile}.json")),
            cache: self.cache.join(profile),
            state: self.state.join(profile),
            is_fallback: self.is_fallback,
        }
    }
}

/// Where to keep things when there is no home directory, or it cannot be written to: the login session's own directory,
/// else a directory among the temporary ones. They last until the machine restarts at the latest.
fn fallback_home() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|directory| directory.is_absolute()) {
        Some(directory) => directory.join("kubectl-stepup"),
        #[cfg(unix)]
        None => env::temp_dir().join(format!("kubectl-stepup-{}", rustix::process::getuid().as_raw())),
        #[cfg(not(unix))]
        None => env::temp_dir().join("kubectl-stepup"),
    }
}

/// Whether `directory` is ours alone, and no link: others may write to the directory that it is in.
#[cfg(unix)]
fn is_ours_alone(directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(directory).is_ok_and(|data| {
        let others = data.mode() & 0o077;
        data.is_dir() && data.uid() == rustix::process::getuid().as_raw() && others == 0
    })
}

#[cfg(not(unix))]
fn is_ours_alone(directory: &Path) -> bool {
    directory.is_dir()
}

#[cfg(unix)]
fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(not(unix))]
fn is_writable(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|data| !data.permissions().readonly())
}

/// The files of one profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    settings: PathBuf,
    cache: PathBuf,
    state: PathBuf,
    is_fallback: bool,
}

impl Files {
    /// The same files, or where they can be written if they cannot be here (a read-only home directory). Makes the
    /// directories.
    #[must_use]
    pub fn settled(self, profile: &str) -> Self {
        let works = |directory: &Path| make_private_dir(directory).is_ok() && is_writable(directory);
        if !self.is_fallback && works(&self.cache) && works(&self.state) {
            return self;
        }
        let home = fallback_home();
        if make_private_dir(&home).is_err() || !is_ours_alone(&home) {
            return self;
        }
        let Paths { cache, state, .. } = Paths::under(&home);
        Self { cache: cache.join(profile), state: state.join(profile), is_fallback: true, ..self }
    }

    /// Why things are kept in an unusual place, if they are.
    pub fn remark(&self) -> Option<String> {
        self.is_fallback.then(|| {
            format!(
                "there is no home directory to write to: tokens are kept in {} until the machine restarts",
                self.cache.display()
            )
        })
    }

    /// The profile itself.
    pub fn settings(&self) -> &Path {
        &self.settings
    }

    /// The base token: the one file that the hot path reads.
    pub fn session(&self) -> PathBuf {
        self.cache.join("session.json")
    }

    /// Elevated tokens, one file for each scope.
    pub fn elevated(&self) -> PathBuf {
        self.cache.join("elevated")
    }

    /// Fresh sign-ins that may serve again (`max_age`), one file for each scope.
    pub fn step_up(&self) -> PathBuf {
        self.cache.join("step-up")
    }

    /// One empty file for each process that has asked for a token.
    pub fn parents(&self) -> PathBuf {
        self.state.join("parents")
    }

    /// Everything that is cached for this profile.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A file of bookkeeping, such as a lock.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }
}

/// Makes a directory, and those above it, for this user alone.
pub fn make_private_dir(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::file("make directory", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directories_are_for_this_user_alone() {
        let home = tempfile::tempdir().unwrap();
        let files = Paths::under(home.path()).of("p").settled("p");
        assert_eq!(files.remark(), None);
        let mode = fs::metadata(files.cache()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(is_ours_alone(files.cache()));
    }

    #[test]
    fn a_directory_that_others_may_enter_or_a_link_is_not_ours() {
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!is_ours_alone(&open));
        let link = home.path().join("link");
        std::os::unix::fs::symlink(home.path(), &link).unwrap();
        assert!(!is_ours_alone(&link));
    }
}
