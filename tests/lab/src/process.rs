//! Programs that run in the background, each with a log file.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::role::{self, Tie};

/// How long a program may take to stop when asked politely.
const GRACE: Duration = Duration::from_secs(10);
/// How often a condition outside this process is looked at.
const POLL: Duration = Duration::from_millis(20);

/// One process, for certain: a process id alone may have been given to another since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    pid: i32,
    /// Clock ticks since boot (`/proc/PID/stat`, field 22).
    started: u64,
}

impl ProcessId {
    /// The process that has `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may itself contain both spaces and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // A zombie has ended; only its parent has yet to hear of it.
        (*fields.first()? != "Z").then_some(())?;
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    /// Whether the very process still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// The number alone.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// Asks the process to stop, waits, and kills its whole group if it does not.
    pub fn stop(self) {
        if !self.is_alive() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, Signal::TERM);
            let deadline = Instant::now() + GRACE;
            while self.is_alive() && Instant::now() < deadline {
                sleep(POLL);
            }
            if self.is_alive() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

/// A program in the background. Unless it is detached it is killed on drop, with its whole process group.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    id: ProcessId,
    log: PathBuf,
    tie: Tie,
}

impl Daemon {
    /// Starts `program`, its output appended to `DIR/NAME.log`.
    pub fn start(
        name: &str,
        program: &Path,
        tie: Tie,
        log_directory: &Path,
        arrange: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        fs::create_dir_all(log_directory)?;
        let log = log_directory.join(format!("{name}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = role::command(tie, program)?;
        arrange(&mut command);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let pid = i32::try_from(child.id())?;
        let id = ProcessId::of(pid).with_context(|| format!("{name} ended at once, see {}", log.display()))?;
        Ok(Self { name: name.to_owned(), child, id, log, tie })
    }

    /// Which process it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends it a signal: `Signal::STOP`, `Signal::CONT`, `Signal::KILL`, …
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.id.pid).context("no process")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Stops it politely and waits until it has gone.
    pub fn stop(&mut self) {
        let _ = self.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(POLL);
        }
        self.kill();
    }

    /// Waits until `ready` gives something; fails at once when the program ends, and after `limit` in any case.
    pub fn await_ready<T>(&mut self, limit: Duration, mut ready: impl FnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}):\n{}", self.name, self.log_tail());
            }
            match ready() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!(
                        "{} is not ready after {} s:\n{}",
                        self.name,
                        limit.as_secs(),
                        self.log_tail()
                    )));
                }
                Err(_) => sleep(POLL),
            }
        }
    }

    fn end(&mut self, signal: Signal) {
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), Pid::from_raw(self.id.pid)) {
            // The group exists from the moment that the child has taken up its role; until then there is just the child.
            if kill_process_group(pid, signal).is_err() {
                let _ = kill_process(pid, signal);
            }
            let _ = self.child.wait();
        }
    }

    fn log_tail(&self) -> String {
        const LINES: usize = 15;
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.tie != Tie::Detached {
            self.end(Signal::KILL);
        }
    }
}

/// Waits until `done` gives something; fails with its last error after `limit`.
pub fn await_that<T>(limit: Duration, mut done: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match done() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("gave up after {} s", limit.as_secs())));
            }
            Err(_) => sleep(POLL),
        }
    }
}

/// `N` free TCP ports of the loopback interface, all different. The kernel gives none of them to a client: a server that is
/// started anew finds its port free. And none is given twice by this program: servers take seconds until they listen, while
/// other labs choose their ports.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let for_clients = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768);
    ensure!(for_clients > LOWEST_PORT, "every port from {LOWEST_PORT} on is for clients (ip_local_port_range)");
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = (0..1_000)
            .map(|_| LOWEST_PORT + random_number() % (for_clients - LOWEST_PORT))
            .filter(|port| !given.contains(port))
            .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .context("no free port")?;
        *port = listener.local_addr()?.port();
        given.insert(*port);
    }
    Ok(ports)
}

/// Services of the machine have lower ones.
const LOWEST_PORT: u16 = 15_000;

/// As random as the keys that the standard library makes for each of its maps.
fn random_number() -> u16 {
    let hash = RandomState::new().hash_one(());
    u16::try_from(hash % u64::from(u16::MAX)).unwrap_or_default()
}

/// Whether a process with this number exists, whoever it belongs to.
pub fn exists(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_a_dead_one_is_nobody() {
        let me = ProcessId::of(i32::try_from(std::process::id()).expect("a pid")).expect("I run");
        assert!(me.is_alive());
        let another = ProcessId { started: me.started + 1, ..me };
        assert!(!another.is_alive());
    }

    #[test]
    fn free_ports_are_different() {
        let [a, b, c] = free_ports().expect("three ports");
        assert!(a != b && b != c && a != c);
        assert!([a, b, c].iter().all(|port| *port >= LOWEST_PORT));
    }
}
