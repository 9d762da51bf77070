//! Programs on a pseudo-terminal: what a person would see, and what a person would type.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::role::{self, Tie};

/// A program that runs on a terminal of its own, as leader of its session. Killed on drop, with its process group.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    seen: Arc<Seen>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    output: Mutex<Output>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Output {
    text: String,
    /// How much of `text` earlier calls of `expect` have passed.
    passed: usize,
    ended: bool,
}

impl Terminal {
    /// Runs `program`; `arrange` adds arguments and environment.
    pub fn run(program: &Path, arrange: impl FnOnce(&mut Command)) -> Result<Self> {
        Self::start(program, Show::Nothing, arrange)
    }

    /// The same, and everything also appears on standard output: as it is if that is a terminal, in plain lines if not.
    pub fn run_shown(program: &Path, arrange: impl FnOnce(&mut Command)) -> Result<Self> {
        Self::start(program, if io::stdout().is_terminal() { Show::Raw } else { Show::Lines }, arrange)
    }

    fn start(program: &Path, show: Show, arrange: impl FnOnce(&mut Command)) -> Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        tcsetwinsize(&controller, Winsize { ws_row: 50, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 })?;
        let name = ptsname(&controller, Vec::new())?;
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())).to_owned();
        let terminal: OwnedFd = OpenOptions::new().read(true).write(true).open(path)?.into();

        let mut command = role::command(Tie::Terminal, program)?;
        command.env("TERM", "xterm-256color");
        arrange(&mut command);
        command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
        let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        // The terminal hangs up only when nobody holds it open any more, and `command` does.
        drop(command);

        let seen = Arc::new(Seen::default());
        let screen = File::from(controller.try_clone()?);
        let reader = thread::spawn({
            let seen = Arc::clone(&seen);
            move || read_all(screen, &seen, show)
        });
        Ok(Self { child, keyboard: File::from(controller), seen, reader: Some(reader) })
    }

    /// Types `text` and Enter.
    pub fn type_line(&mut self, text: &str) -> Result<()> {
        Ok(self.keyboard.write_all(format!("{text}\n").as_bytes())?)
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&mut self) -> Result<()> {
        Ok(self.keyboard.write_all(b"\x03")?)
    }

    /// Waits until `text` appears after what earlier calls waited for.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.expect_either(text, None, limit).map(drop)
    }

    /// The same, and whether it does before `end` appears, which a later call may still wait for.
    pub fn expect_before(&mut self, text: &str, end: &str, limit: Duration) -> Result<bool> {
        self.expect_either(text, Some(end), limit)
    }

    fn expect_either(&mut self, text: &str, end: Option<&str>, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let mut output = self.seen.output.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = &output.text[output.passed..];
            let end_at = end.and_then(|end| new.find(end));
            if let Some(at) = new.find(text).filter(|at| end_at.is_none_or(|end_at| *at < end_at)) {
                output.passed += at + text.len();
                return Ok(true);
            }
            if end_at.is_some() {
                return Ok(false);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if output.ended || left.is_zero() {
                let how = if output.ended { "the program ended" } else { "time is up" };
                bail!("{how}, and {text:?} did not appear in:\n{}", standing_text(&output.text));
            }
            (output, _) = self.seen.changed.wait_timeout(output, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Everything seen so far, as it is left standing on the screen: without escape sequences and what was overwritten.
    pub fn text(&self) -> String {
        standing_text(&self.seen.output.lock().unwrap_or_else(PoisonError::into_inner).text)
    }

    /// Everything that was written to it so far, escape sequences and all.
    pub fn written(&self) -> String {
        self.seen.output.lock().unwrap_or_else(PoisonError::into_inner).text.clone()
    }

    /// Number of the process that leads the session.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the program to end; gives its status and everything that was seen.
    pub fn finish(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let status = self.wait(limit)?;
        Ok((status, self.text()))
    }

    /// Waits for the program to end, and for all that it wrote.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("still running after {} s:\n{}", limit.as_secs(), self.text());
            }
            sleep(Duration::from_millis(10));
        };
        // Children that outlive it may hold the terminal open: what they print is no part of this.
        self.hang_up();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(status)
    }

    fn hang_up(&self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.hang_up();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What of a terminal appears on standard output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Nothing,
    Raw,
    Lines,
}

fn read_all(mut screen: File, seen: &Seen, show: Show) {
    let mut buffer = [0; 4096];
    let mut pending = Vec::new();
    let mut line = String::new();
    // Linux ends a terminal that nobody has open any more with EIO, not with an end of file.
    while let Ok(length @ 1..) = screen.read(&mut buffer) {
        pending.extend_from_slice(&buffer[..length]);
        let whole = pending.len() - incomplete_utf8(&pending);
        let text = String::from_utf8_lossy(&pending[..whole]).into_owned();
        pending.drain(..whole);
        if show == Show::Raw {
            print(&text);
        } else if show == Show::Lines {
            line.push_str(&text);
            if let Some(end) = line.rfind('\n') {
                print(&standing_text(&line[..=end]));
                line.drain(..=end);
            }
        }
        seen.output.lock().unwrap_or_else(PoisonError::into_inner).text.push_str(&text);
        seen.changed.notify_all();
    }
    print(&standing_text(&line));
    seen.output.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    seen.changed.notify_all();
}

/// A screen that is gone is no reason to stop watching.
fn print(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// What a terminal shows in the end of what was written to it, as far as programs of this kind go: escape sequences are
/// left out, and a carriage return begins the line anew.
fn standing_text(written: &str) -> String {
    let mut text = String::new();
    let mut line = String::new();
    let mut characters = written.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' if characters.peek() != Some(&'\n') => line.clear(),
            '\r' => {}
            '\n' => {
                text.push_str(&line);
                text.push('\n');
                line.clear();
            }
            '\x1b' => {
                if characters.next_if_eq(&'[').is_some() {
                    while characters.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
                }
                characters.next();
            }
            other => line.push(other),
        }
    }
    text + &line
}

/// How many bytes at the end are the beginning of a character whose rest has yet to come.
fn incomplete_utf8(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => bytes.len() - error.valid_up_to(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overwritten_does_not_stand() {
        assert_eq!(standing_text("one\r\n\x1b[1mtw\x1b[0mo, 5 s\r\x1b[2Ktwo, 4 s\r\x1b[2Kthree\n"), "one\nthree\n");
    }

    #[test]
    fn a_character_in_two_parts_waits_for_its_rest() {
        let bytes = "é".as_bytes();
        assert_eq!(incomplete_utf8(&bytes[..1]), 1);
        assert_eq!(incomplete_utf8(bytes), 0);
    }
}
