//! The parts that a program of the lab plays by running itself again.
//!
//! A child that dies with its parent, leads a session of its own or has a terminal must do something between `fork` and
//! `exec`, which safe Rust has no place for. So the lab starts its own executable in a *role*, which arranges matters
//! for itself and then becomes the real program.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, ioctl_tiocsctty, set_parent_process_death_signal, setpgid, setsid};

use crate::browser;

/// First argument that asks for a role.
const MARK: &str = "lab-role";

static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();

/// How a program relates to the one that starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// It is killed when the thread that started it ends, however that comes about.
    ToParent,
    /// It lives on after its parent, in a session of its own.
    Detached,
    /// It leads a session whose terminal is its standard input, and is killed with its parent.
    Terminal,
}

/// Plays the role that this process was started for, if it was. Every `main` that uses the lab calls this first.
///
/// Returns the exit code to end with, or `None` in the ordinary case.
#[must_use]
pub fn play() -> Option<ExitCode> {
    if let Ok(executable) = std::env::current_exe() {
        // Only the first call counts, and all of them say the same.
        let _ = EXECUTABLE.set(executable);
    }
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != MARK {
        return None;
    }
    let outcome = match arguments.next().as_deref().and_then(OsStr::to_str) {
        Some("browser") => return Some(browser::main(arguments)),
        Some("tied") => become_tied(arguments, false),
        Some("terminal") => become_tied(arguments, true),
        Some("detached") => setsid().map_err(Into::into).and_then(|_| exec(arguments)),
        other => Err(anyhow::anyhow!("no such role: {other:?}")),
    };
    if let Err(error) = outcome {
        eprintln!("lab: {error:#}");
    }
    Some(ExitCode::from(127))
}

/// A command that runs `program` with `tie`.
pub fn command(tie: Tie, program: &Path) -> Result<Command> {
    let mut command = Command::new(executable()?);
    command.arg(MARK);
    match tie {
        Tie::ToParent => command.args(["tied", &std::process::id().to_string()]),
        Tie::Terminal => command.args(["terminal", &std::process::id().to_string()]),
        Tie::Detached => command.arg("detached"),
    };
    command.arg(program);
    Ok(command)
}

/// A shell script's command line that runs the lab's browser.
pub fn browser_command_line() -> Result<String> {
    Ok(format!("exec '{}' {MARK} browser \"$@\"", executable()?.display()))
}

fn executable() -> Result<&'static Path> {
    match EXECUTABLE.get() {
        Some(executable) => Ok(executable),
        None => bail!("this program's main does not call lab::play_role() first"),
    }
}

fn become_tied(mut arguments: impl Iterator<Item = OsString>, terminal: bool) -> Result<()> {
    let parent = arguments.next().context("no parent given")?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if parent_id().to_string().as_str() != parent {
        bail!("the parent is gone already");
    }
    if terminal {
        setsid()?;
        ioctl_tiocsctty(rustix::stdio::stdin()).context("standard input is no terminal")?;
    } else {
        setpgid(None, None::<Pid>)?;
    }
    exec(arguments)
}

fn exec(mut arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let program = arguments.next().context("no program given")?;
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
