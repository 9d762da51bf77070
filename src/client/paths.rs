//! Where things are kept: settings, cached tokens, locks and marks.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

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
    /// Touches no file, but makes that private directory where it has to be one that others could have made.
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
            None => Self { is_fallback: true, ..Self::under(&fallback_home().unwrap_or_else(|| NOWHERE.into())) },
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

/// Names that are tried among the temporary files: whoever takes them all could as well fill the disk.
const CANDIDATES: usize = 100;
/// How long a file may be in use that is to be replaced.
const IN_USE: Duration = Duration::from_secs(1);
/// Where nothing can be: not even a profile of somebody else's.
const NOWHERE: &str = if cfg!(unix) { "/dev/null/kubectl-stepup" } else { "NUL\\kubectl-stepup" };

/// Where to keep things when there is no home directory, or it cannot be written to: the login session's own directory,
/// else a directory among the temporary ones. They last until the machine restarts at the latest. `None`: there is none
/// that is ours alone.
fn fallback_home() -> Option<PathBuf> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|directory| directory.is_absolute());
    // With somebody else's environment (`sudo -E`) it is theirs.
    let of_session = runtime.filter(|directory| is_or_becomes_ours(directory)).map(|own| own.join("kubectl-stepup"));
    let of_session = of_session.filter(|directory| is_or_becomes_ours(directory));
    #[cfg(unix)]
    let name = format!("kubectl-stepup-{}", rustix::process::getuid().as_raw());
    #[cfg(not(unix))]
    let name = "kubectl-stepup".to_owned();
    of_session.or_else(|| own_directory(&env::temp_dir(), &name))
}

/// The directory `name` of `shared`, or `name.1`, `name.2`, …: the first that is ours alone, so that it is found again, else
/// the first that can be made so. Others may write to `shared` too: what is called like ours may be theirs.
fn own_directory(shared: &Path, name: &str) -> Option<PathBuf> {
    let candidate = |number| match number {
        0 => shared.join(name),
        number => shared.join(format!("{name}.{number}")),
    };
    let ours = (0..CANDIDATES).map(candidate).find(|directory| is_ours_alone(directory));
    ours.or_else(|| (0..CANDIDATES).map(candidate).find(|directory| is_or_becomes_ours(directory)))
}

/// Makes `directory` if it is not there, and looks whose it is only then: between the two somebody else may have made it.
fn is_or_becomes_ours(directory: &Path) -> bool {
    make_dir(directory).is_ok() && is_ours_alone(directory)
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
        let Some(home) = fallback_home() else { return self };
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

    /// What is protected from this person, for preflight.
    pub fn digest(&self) -> PathBuf {
        self.cache.join("digest")
    }

    /// Elevated tokens, one file for each scope.
    pub fn elevated(&self) -> PathBuf {
        self.cache.join("elevated")
    }

    /// Fresh sign-ins that may serve again (`max_age`), whatever their profile: one directory for each client of a provider,
    /// in it one file for each scope. (No profile's name begins with a dot.)
    pub fn all_sign_ins(&self) -> PathBuf {
        self.cache.parent().unwrap_or(&self.cache).join(".step-up")
    }

    /// One empty file for each process that has asked for a token.
    pub fn parents(&self) -> PathBuf {
        self.state.join("parents")
    }

    /// Everything that is cached for this profile.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A file of bookkeeping for all profiles together.
    pub fn shared_state(&self, name: &str) -> PathBuf {
        self.state.parent().unwrap_or(&self.state).join(name)
    }

    /// A file of bookkeeping, such as a lock.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }
}

/// Lets a file that was just made belong to whom its directory belongs to: root in somebody's home (`sudo`) must leave
/// nothing behind that its owner cannot open. Only for files that were made anew, with `create_new`: what was there
/// already may be a link that leads anywhere.
#[cfg(unix)]
pub fn hand_over(file: &fs::File, directory: &Path) {
    use std::os::unix::fs::{MetadataExt, fchown};
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if let Ok(owner) = fs::metadata(directory)
        && owner.uid() != 0
    {
        // Whatever comes of it, the file is there.
        let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

/// Files of others are no matter elsewhere.
#[cfg(not(unix))]
pub fn hand_over(_file: &fs::File, _directory: &Path) {}

/// Makes a directory, and those above it, for this user alone; for its owner, where it is root in somebody's home.
pub fn make_private_dir(path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path.ancestors().take_while(|part| !part.exists()).collect();
    let made = make_dir(path);
    for directory in missing.iter().rev() {
        if let (Ok(open), Some(above)) = (open_no_link(directory), directory.parent()) {
            hand_over(&open, above);
        }
    }
    made
}

/// Renames a file over the one that is there. On Windows a file cannot be replaced while some other program has it open,
/// such as one that reads it; never for long, so that it is tried again for a while.
pub fn replace(new: &Path, path: &Path) -> io::Result<()> {
    const SHARING_VIOLATION: i32 = 32;
    let began = Instant::now();
    loop {
        match fs::rename(new, path) {
            Err(error)
                if cfg!(windows)
                    && began.elapsed() < IN_USE
                    && (error.kind() == io::ErrorKind::PermissionDenied
                        || error.raw_os_error() == Some(SHARING_VIOLATION)) =>
            {
                thread::sleep(IN_USE / 100);
            }
            outcome => return outcome,
        }
    }
}

/// Opens what must not be a link: in somebody's home, where root must not be led elsewhere.
fn open_no_link(directory: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::DIRECTORY;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    options.open(directory)
}

fn make_dir(path: &Path) -> Result<(), Error> {
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
    fn a_directory_of_others_is_passed_over_and_ours_is_found_again() {
        let shared = tempfile::tempdir().unwrap();
        let planted = shared.path().join("us");
        fs::create_dir(&planted).unwrap();
        fs::set_permissions(&planted, fs::Permissions::from_mode(0o777)).unwrap();
        std::os::unix::fs::symlink(&planted, shared.path().join("us.1")).unwrap();
        fs::write(shared.path().join("us.2"), "").unwrap();
        let ours = shared.path().join("us.3");
        for _ in 0..2 {
            assert_eq!(own_directory(shared.path(), "us").as_ref(), Some(&ours));
        }
        fs::remove_dir(&planted).unwrap();
        assert_eq!(own_directory(shared.path(), "us"), Some(ours), "also when a better name becomes free");
        assert_eq!(own_directory(&shared.path().join("us.2"), "us"), None);
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
