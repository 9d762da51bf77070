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
        }
    }
}

fn fallback_home() -> PathBuf {
    env::temp_dir().join("kubectl-stepup")
}

/// The files of one profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    settings: PathBuf,
    cache: PathBuf,
    state: PathBuf,
}

impl Files {
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
