//! The one place that prints. stdout is a protocol: for `get-token` it is the `ExecCredential` and nothing else.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::client::error::Error;

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

/// Writes one line to stderr, for the person.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
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

/// Whether stderr takes colours and a line that rewrites itself: a terminal, and `NO_COLOR` is not set.
pub fn is_rich() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
