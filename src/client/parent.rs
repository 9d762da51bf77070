//! Who is asking: the parent process, its terminal, and what its arguments hint at.
//!
//! Linux tells all of it in `/proc`, cheaply enough for the hot path. Elsewhere `sysinfo` asks the system; Windows has no
//! sessions of terminals, and there a terminal is the shell in it.

#[cfg(target_os = "linux")]
#[path = "parent/linux.rs"]
mod platform;
// With the tests also where it is not used, so that there it is compiled and compared at all.
#[cfg(all(test, target_os = "linux"))]
mod others;
#[cfg(not(target_os = "linux"))]
#[path = "parent/others.rs"]
mod platform;

use std::ffi::OsString;
use std::fmt;

use crate::client::preflight::command_line::CommandLine;

/// A process, told from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process number.
    pub pid: u32,
    /// When it started: in the kernel's own units since boot (Linux), in unix seconds (elsewhere).
    pub started: u64,
}

impl Process {
    /// This very process; `None` where the platform does not tell.
    pub fn me() -> Option<Self> {
        platform::process(std::process::id())
    }

    /// A variable of the environment that the process was started with; of our own, which we have from it, where the
    /// platform does not tell.
    pub fn variable(self, name: &str) -> Option<OsString> {
        platform::variable(self, name).unwrap_or_else(|_| std::env::var_os(name))
    }
}

/// The platform does not let us know.
#[derive(Debug)]
struct Untold;

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.started)
    }
}

/// For whom an elevated token is (invariant 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One process: the command that asked.
    Process(Process),
    /// One login session: a terminal window, or what a service manager or script runner started as one.
    Terminal {
        /// The session's leader.
        leader: Process,
        /// The terminal's device number; 0 for a session without one.
        tty: u64,
    },
    /// Every process of this user: the person said so (`--share`).
    Anyone,
}

impl Scope {
    /// Name of this scope's file.
    pub fn file_name(&self) -> String {
        match self {
            Self::Process(process) => format!("process-{process}.json"),
            Self::Terminal { leader, tty } => format!("terminal-{leader}-{tty}.json"),
            Self::Anyone => "anyone.json".to_owned(),
        }
    }
}

/// The process that started us, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Our parent.
    pub process: Process,
    /// Its own parent, where there is no terminal.
    pub grandparent: Option<Process>,
    /// The session that we run in, with its terminal if it has one.
    pub terminal: Option<Scope>,
}

impl Asker {
    /// Finds out; `None` where the platform does not tell.
    pub fn find() -> Option<Self> {
        let asker = platform::asker()?;
        // kubectl becomes its plugin, except on Windows, where it stays until the plugin ends.
        let is_plugin = |line: CommandLine| line.command() == "stepup";
        match asker.grandparent {
            Some(grandparent) if cfg!(windows) && CommandLine::parse(&asker.arguments()).is_some_and(is_plugin) => {
                Some(Self { process: grandparent, grandparent: None, ..asker })
            }
            _ => Some(asker),
        }
    }

    /// The scope of `kubectl stepup elevate`: the terminal's session, or the script that runs it.
    pub fn terminal_or_parent(&self) -> Scope {
        self.terminal.unwrap_or(Scope::Process(self.process))
    }

    /// The scope in which a sign-in for a program that runs us as its plugin serves again: that of its terminal, which on
    /// Windows is the shell that started it.
    pub fn terminal_of_program(&self) -> Scope {
        let shell = self.grandparent.filter(|_| cfg!(windows)).map(Scope::Process);
        self.terminal.or(shell).unwrap_or(Scope::Process(self.process))
    }

    /// The parent's arguments, its program first; none where the platform does not tell, or where they are longer than
    /// any person's.
    pub fn arguments(&self) -> Vec<String> {
        platform::arguments(self.process)
    }

    /// Whether the parent is a kubectl that completes a command line for a shell.
    pub fn is_completing(&self) -> bool {
        CommandLine::parse(&self.arguments()).is_some_and(|line| line.is_completing())
    }
}

/// Scopes, besides the asking process itself, whose elevated tokens it may use: narrowest first. What is shared is for
/// whoever asks, known or not.
pub fn surroundings(asker: Option<Asker>) -> impl Iterator<Item = Scope> {
    // Without a session `elevate` binds to the process that started it (a script); kubectl is a child of that one.
    let own = asker.and_then(|asker| asker.terminal.or(asker.grandparent.map(Scope::Process)));
    own.into_iter().chain([Scope::Anyone])
}

/// Whether we are in the foreground of our terminal, so that what is typed there reaches us: whoever reads from the
/// background is stopped (`SIGTTIN`). `None` where we have no terminal.
#[cfg(unix)]
pub fn is_in_foreground() -> Option<bool> {
    platform::is_in_foreground()
}

/// Whether the process that a file name was made for (see [`Process`]'s `Display`) still runs; `None` when `text` is no
/// such name.
pub fn still_runs(text: &str) -> Option<bool> {
    let (pid, started) = text.split_once('-')?;
    Some(platform::is_running(Process { pid: pid.parse().ok()?, started: started.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asker_is_our_parent_and_runs() {
        const PARENT: &str = "KUBECTL_STEPUP_TEST_PARENT";
        let Some(parent) = std::env::var_os(PARENT) else {
            // Not every platform tells who our own parent is; we are one ourselves then.
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "client::parent::tests::the_asker_is_our_parent_and_runs"]);
            let output = child.env(PARENT, std::process::id().to_string()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        };
        let asker = Asker::find().unwrap();
        assert_eq!(asker.process.pid.to_string(), parent.into_string().unwrap());
        assert_eq!(still_runs(&asker.process.to_string()), Some(true));
        assert_eq!(still_runs(&format!("{}-1", asker.process.pid)), Some(false));
        assert_eq!(still_runs("rubbish"), None);
        assert!(!asker.arguments().is_empty() && !asker.is_completing());
        assert!(asker.process.variable("PATH").is_some());
    }

    /// What other platforms are asked for, this one is asked for too, and must say the same by both ways.
    #[cfg(target_os = "linux")]
    #[test]
    fn other_platforms_tell_the_same() {
        let (here, there) = (platform::asker().unwrap(), others::asker().unwrap());
        assert_eq!((here.process.pid, there.process.pid), (std::os::unix::process::parent_id(), here.process.pid));
        let leader = |asker: Asker| match asker.terminal {
            Some(Scope::Terminal { leader, .. }) => Some(leader.pid),
            _ => None,
        };
        // Linux knows sessions without a terminal besides.
        if platform::is_in_foreground().is_some() {
            assert_eq!(leader(here), leader(there));
        }
        // Groups outside our PID namespace, if we are in one, only the former can tell apart.
        let (here_first, there_first) = (platform::is_in_foreground(), others::is_in_foreground());
        assert!(here_first == there_first || here_first == Some(true), "{here_first:?}, {there_first:?}");
        assert_eq!(platform::arguments(here.process), others::arguments(there.process));
        for name in ["PATH", "HOME", "KUBECTL_STEPUP_NO_SUCH_VARIABLE"] {
            let (here, there) = (platform::variable(here.process, name), others::variable(there.process, name));
            assert_eq!(here.unwrap(), there.unwrap(), "{name}");
        }
        assert!(!others::is_running(Process { started: there.process.started + 7, ..there.process }));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(is_found_running(child.id()));
        let ended = others::process(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!others::is_running(ended) && others::process(ended.pid).is_none());
        assert!(others::arguments(ended).is_empty() && others::variable(ended, "PATH").is_err());
    }

    /// Whether a process that is looked up twice is the same both times. On Linux sysinfo reckons its start from that of
    /// the system, which the kernel tells anew whenever somebody sets the clock.
    #[cfg(target_os = "linux")]
    fn is_found_running(pid: u32) -> bool {
        let boot_time = || {
            let stat = std::fs::read_to_string("/proc/stat").unwrap();
            stat.lines().find(|line| line.starts_with("btime ")).unwrap().to_owned()
        };
        loop {
            let before = boot_time();
            let is_running = others::is_running(others::process(pid).unwrap());
            if boot_time() == before {
                return is_running;
            }
        }
    }
}
