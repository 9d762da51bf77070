//! Trouble that a server can be in: a clock that is wrong, a disk that is full, a network that ends at a proxy.
//!
//! Each is a [`Wrapper`]: a command line that arranges the trouble and then becomes the program.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::ProcessId;

/// The beginning of a command line; the program and its arguments come after it. Empty: nothing is arranged.
#[derive(Clone, Debug, Default)]
pub struct Wrapper(pub(crate) Vec<OsString>);

impl Wrapper {
    /// The program has these variables, whatever it would have had.
    pub fn environment(variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| format!("{name}={value}").into());
        Self(["env".into()].into_iter().chain(variables).collect())
    }
}

/// Something that sets the clock wrong, in the eyes of one program.
#[derive(Clone, Debug)]
pub struct WrongClock(PathBuf);

impl WrongClock {
    /// Compiles it into `directory`.
    pub fn new(directory: &Path) -> Result<Self> {
        let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
        fs::write(&source, include_str!("clock.c"))?;
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(&source)
            .output();
        let output = output.context("cannot run cc")?;
        if !output.status.success() {
            bail!("cc: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self(library))
    }

    /// The clock is ahead by so many seconds, or behind.
    pub fn ahead(&self, seconds: i64) -> Wrapper {
        let mut preload = OsString::from("LD_PRELOAD=");
        preload.push(&self.0);
        Wrapper(vec!["env".into(), preload, format!("LAB_CLOCK_SHIFT={seconds}").into()])
    }
}

/// A directory on a disk that is soon full. The disk is in memory, and there for one program alone: it goes when the
/// program ends, however that comes about.
#[derive(Clone, Debug)]
pub struct SmallDisk {
    directory: PathBuf,
}

/// Enough for the store's write-ahead log (4 MiB) besides itself.
const MIB: usize = 16;

impl SmallDisk {
    /// The disk will be seen at `directory`, which is made.
    pub fn at(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Runs the program with this disk and `other`.
    pub fn and(&self, other: &Self) -> Wrapper {
        let script = "mount -t tmpfs -o size=$0m small \"$1\" && mount -t tmpfs -o size=$0m small \"$2\" && \
                      shift 2 && exec \"$@\"";
        let mut words: Vec<OsString> = vec!["unshare".into(), "--mount".into()];
        if !rustix::process::geteuid().is_root() {
            // Who is nobody special may mount where nobody else sees it.
            words.extend(["--user".into(), "--map-root-user".into()]);
        }
        words.extend(["sh".into(), "-c".into(), script.into(), MIB.to_string().into()]);
        words.extend([self.directory.clone().into(), other.directory.clone().into()]);
        Wrapper(words)
    }

    /// A file of the disk, as seen from outside of the program.
    pub fn file(&self, program: ProcessId, name: &str) -> PathBuf {
        let inside = self.directory.strip_prefix("/").unwrap_or(&self.directory);
        Path::new("/proc").join(program.pid().to_string()).join("root").join(inside).join(name)
    }

    /// Fills the disk to the last byte.
    pub fn fill(&self, program: ProcessId) -> Result<()> {
        let path = self.file(program, "filler");
        let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        for size in [64 * 1024, 1024, 1] {
            let block = vec![b'x'; size];
            for _ in 0..MIB * 1024 * 1024 {
                if file.write(&block).is_err() {
                    break;
                }
            }
        }
        // Files have whole pages: what is left of the last page of each is not for others, but the log has its own.
        match OpenOptions::new().append(true).open(&path)?.write(&[b'x'; 8192]) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
            outcome => bail!("{} is not full: {outcome:?}", self.directory.display()),
        }
    }

    /// Makes room again.
    pub fn free(&self, program: ProcessId) -> Result<()> {
        Ok(fs::remove_file(self.file(program, "filler"))?)
    }
}
