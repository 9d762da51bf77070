//! The one place where `stepup-server` writes to standard output and standard error, besides its log.
//!
//! A closed pipe (`stepup-server render … | head`) is no reason to complain, so failures to write are let go.

use std::fmt::Display;
use std::io::Write;

/// A line of result.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line about what is wrong or noteworthy.
pub fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
