//! The one place that prints. stdout is a protocol: for `get-token` it is the `ExecCredential` and nothing else.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::client::error::Error;
use crate::client::words::{plain_lines, wrapped};

/// Writes one line to stdout. A reader that went away is not our failure.
pub fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes `value` to stdout as indented JSON.
pub fn json(value: &impl Serialize) {
    let mut stdout = io::stdout().lock();
    let _ = serde_json::to_writer_pretty(&mut stdout, value);
    let _ = writeln!(stdout);
}

/// Writes `value` to stdout as one line of JSON: the answer to client-go.
pub fn protocol(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&text)?;
    stdout.flush()
}

/// Writes one line to stderr, for the person. What a server has put into it does not drive the terminal.
pub fn note(text: impl Display) {
    let text = plain_lines(&text.to_string());
    let mut stderr = io::stderr().lock();
    let columns = size().map(|(columns, _)| columns.max(40));
    for line in text.split('\n') {
        let lines = columns.map_or_else(|| vec![line.to_owned()], |columns| wrapped(line, columns, 2));
        for line in lines {
            let _ = writeln!(stderr, "{line}");
        }
    }
}

/// Writes text to stderr as it is.
pub fn raw(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// Shows what failed and what to type next, and says how to exit.
pub fn failure(error: &Error) -> ExitCode {
    note(format_args!("kubectl-stepup: {error}"));
    if let Some(hint) = error.hint() {
        note(format_args!("kubectl-stepup: {hint}"));
    }
    ExitCode::from(error.exit_code())
}

/// Whether stderr takes colours and a line that rewrites itself: a terminal that can, and `NO_COLOR` is not set.
pub fn is_rich() -> bool {
    io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// One line for stdout, broken between words where a terminal is too narrow for it; lines after the first begin with
/// `indent` spaces. For programs a line stays a line.
pub fn fitted(line: &str, indent: usize) -> Vec<String> {
    match size_of(io::stdout()) {
        Some((columns, _)) => wrapped(line, columns.max(40), indent),
        None => vec![line.to_owned()],
    }
}

/// Columns and rows of the terminal that stderr is.
pub fn size() -> Option<(usize, usize)> {
    size_of(io::stderr())
}

#[cfg(unix)]
fn size_of(stream: impl std::os::fd::AsFd) -> Option<(usize, usize)> {
    told(terminal_size::terminal_size_of(stream))
}

#[cfg(windows)]
fn size_of(stream: impl std::os::windows::io::AsHandle) -> Option<(usize, usize)> {
    told(terminal_size::terminal_size_of(stream))
}

fn told(size: Option<(terminal_size::Width, terminal_size::Height)>) -> Option<(usize, usize)> {
    size.map(|(width, height)| (usize::from(width.0), usize::from(height.0))).filter(|(columns, _)| *columns > 0)
}
