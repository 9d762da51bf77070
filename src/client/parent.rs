//! Who is asking: the parent process, its terminal, and what its arguments hint at.

use std::fmt;

/// A process, told from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process number.
    pub pid: u32,
    /// When it started, in the kernel's own units since boot; 0 where the platform does not tell.
    pub started: u64,
}

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
    /// One terminal session.
    Terminal {
        /// The session's leader.
        leader: Process,
        /// The terminal's device number.
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
