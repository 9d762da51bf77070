//! Processes of macOS, Windows and other systems, by `sysinfo`, which asks each of them in its own way.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

use super::{Asker, Process, Scope, Untold};

pub(super) fn asker() -> Option<Asker> {
    let parent = Relative::find(std::process::id())?.parent()?;
    let terminal = terminal();
    let grandparent = match terminal {
        Some(_) => None,
        None => parent.parent().map(|grandparent| grandparent.process),
    };
    Some(Asker { process: parent.process, grandparent, terminal })
}

/// A process with what tells who started it.
struct Relative {
    process: Process,
    above: Option<u32>,
    /// Its program first; none where there are no shims.
    arguments: Vec<String>,
}

impl Relative {
    fn find(pid: u32) -> Option<Self> {
        let arguments = if cfg!(windows) { UpdateKind::Always } else { UpdateKind::Never };
        look(pid, ProcessRefreshKind::nothing().with_cmd(arguments), |process| Self {
            process: Process { pid, started: process.start_time() },
            above: process.parent().map(Pid::as_u32),
            arguments: words(process.cmd()),
        })
    }

    /// The process that started this one, or that started its shim.
    fn parent(&self) -> Option<Self> {
        // Windows still tells the number of one that has ended, and may have given it to another since: a younger one.
        let above =
            |child: &Self| Self::find(child.above?).filter(|above| above.process.started <= child.process.started);
        let mut parent = above(self)?;
        while parent.is_shim_of(self) {
            parent = above(&parent)?;
        }
        Some(parent)
    }

    /// Whether this is what package managers of Windows put on the PATH in place of what they have installed: a program of
    /// the same name that starts it with the same arguments, and stays until it has ended.
    fn is_shim_of(&self, other: &Self) -> bool {
        let name = |program: &str| Path::new(program).file_stem().map(OsStr::to_ascii_lowercase);
        match (self.arguments.split_first(), other.arguments.split_first()) {
            (Some((mine, rest)), Some((its, its_rest))) => name(mine) == name(its) && rest == its_rest,
            _ => false,
        }
    }
}

/// The session that we run in, if it has a terminal.
#[cfg(unix)]
fn terminal() -> Option<Scope> {
    std::fs::File::open(TERMINAL).ok()?;
    let leader = look(std::process::id(), ProcessRefreshKind::nothing(), sysinfo::Process::session_id)??.as_u32();
    // 0 is a session of another namespace, or jail; on macOS it is the kernel's number besides.
    let leader = process(leader).filter(|leader| leader.pid != 0)?;
    Some(Scope::Terminal { leader, tty: 0 })
}

#[cfg(unix)]
const TERMINAL: &str = "/dev/tty";

#[cfg(unix)]
pub(super) fn is_in_foreground() -> Option<bool> {
    let foreground = rustix::termios::tcgetpgrp(std::fs::File::open(TERMINAL).ok()?);
    Some(foreground.is_ok_and(|group| group == rustix::process::getpgrp()))
}

#[cfg(not(unix))]
fn terminal() -> Option<Scope> {
    None
}

pub(super) fn process(pid: u32) -> Option<Process> {
    let started = look(pid, ProcessRefreshKind::nothing(), sysinfo::Process::start_time)?;
    Some(Process { pid, started })
}

pub(super) fn arguments(process: Process) -> Vec<String> {
    let what = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
    look(process.pid, what, |process| words(process.cmd())).unwrap_or_default()
}

fn words(arguments: &[OsString]) -> Vec<String> {
    arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

pub(super) fn variable(process: Process, name: &str) -> Result<Option<OsString>, Untold> {
    let value_of = |environment: &[OsString]| {
        let value = environment.iter().find_map(|variable| {
            let (its_name, value) = variable.to_str()?.split_once('=')?;
            let is_it = if cfg!(windows) { its_name.eq_ignore_ascii_case(name) } else { its_name == name };
            is_it.then(|| OsString::from(value))
        });
        // Nobody has an empty environment: we were not let see it.
        if environment.is_empty() { Err(Untold) } else { Ok(value) }
    };
    let what = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
    look(process.pid, what, |process| value_of(process.environ())).unwrap_or(Err(Untold))
}

pub(super) fn is_running(process: Process) -> bool {
    self::process(process.pid) == Some(process)
}

/// Looks at one process; `None` where there is none of that number.
fn look<T>(pid: u32, what: ProcessRefreshKind, read: impl FnOnce(&sysinfo::Process) -> T) -> Option<T> {
    let mut system = System::new().ok()?;
    let pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    system.process(pid).map(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_has_the_name_and_the_arguments_of_what_it_starts() {
        let started_as = |line: &str| Relative {
            process: Process { pid: 7, started: 7 },
            above: None,
            arguments: line.split_whitespace().map(str::to_owned).collect(),
        };
        let kubectl = started_as("C:/real/kubectl.exe get pods");
        assert!(started_as("C:/shims/Kubectl.EXE get pods").is_shim_of(&kubectl));
        assert!(started_as("kubectl get pods").is_shim_of(&kubectl));
        for other in ["cmd get pods", "kubectl get secrets", "kubectl", ""] {
            assert!(!started_as(other).is_shim_of(&kubectl), "{other}");
        }
        assert!(!started_as("").is_shim_of(&started_as("")), "whose arguments nobody tells");
    }
}
