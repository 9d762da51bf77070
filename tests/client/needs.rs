//! What a test needs of its machine. Where it is not there the test is skipped, which `make test` says at its end; in CI
//! (`CI=true`) nothing may be skipped.

use std::io::Write;
use std::process::{Command, Stdio};
use std::{env, io, thread};

/// Whether this program is installed.
pub fn program(name: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\"", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    found || skipped(&format!("{name} is not installed"))
}

/// Whether the tests are run by root, who can become somebody else and mount a disk.
pub fn root() -> bool {
    rustix::process::geteuid().is_root() || skipped("only root can become somebody else or mount a disk")
}

fn skipped(why: &str) -> bool {
    assert!(env::var("CI").as_deref() != Ok("true"), "{why}, and nothing may be skipped in CI");
    // The harness keeps what a test prints to itself, unless it fails.
    let _ = writeln!(io::stderr(), "\nskipped: {}: {why}", thread::current().name().unwrap_or("a test"));
    false
}
