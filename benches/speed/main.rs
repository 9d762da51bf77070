//! `make bench`: how fast the programs are, beside a floor or a peer that is measured in the same run.
//!
//! Nothing here passes or fails: every table names its aim, and says whether this run, on this machine, met it. Release
//! builds; servers listen on free loopback ports and end with this process.
//!
//! `cargo bench --all-features --bench speed -- [plugin] [preflight] [command] [server] [retry] [proxy]` runs some of the parts.

#![allow(missing_docs, reason = "a program, not a library")]

mod command;
mod floor;
mod load;
mod machine;
mod plugin;
mod preflight;
mod proxy;
mod report;
mod retry;
mod reviews;
mod server;
mod stats;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use lab::{Lab, Options, Programs};

/// The parts, in the order in which they run.
const PARTS: [&str; 6] = ["plugin", "preflight", "command", "server", "retry", "proxy"];

fn main() -> ExitCode {
    if let Some(code) = lab::role::play() {
        return code;
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((role, rest)) if role == machine::PINNED => machine::become_pinned(rest),
        Some((role, rest)) if role == floor::ROLE => floor::run(rest),
        Some((role, rest)) if role == proxy::ROLE => proxy::serve(rest),
        _ => run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::problem(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString]) -> Result<()> {
    // Cargo adds `--bench`.
    let wanted: Vec<&str> =
        arguments.iter().filter_map(|argument| argument.to_str()).filter(|argument| *argument != "--bench").collect();
    if let Some(unknown) = wanted.iter().find(|part| !PARTS.contains(part)) {
        bail!("there is no part {unknown:?}; there are {}", PARTS.join(", "));
    }
    let wants = |part: &str| wanted.is_empty() || wanted.contains(&part);
    let place = tempfile::Builder::new().prefix("stepup-bench-").tempdir()?;
    report::heading(&machine::facts()?);

    if wants("plugin") {
        plugin::measure(&place.path().join("plugin"), &kubectl_stepup())?;
    }
    if wants("preflight") {
        preflight::measure(&place.path().join("preflight"), &kubectl_stepup())?;
    }
    if wants("server") {
        server::measure(&place.path().join("server"), &stepup_server())?;
    }
    if wants("command") || wants("retry") || wants("proxy") {
        let programs = Programs { kubectl_stepup: kubectl_stepup(), stepup_server: stepup_server() };
        let lab = Lab::start(&place.path().join("lab"), &programs, Options::default())?;
        let alice = lab.session("alice")?;
        if wants("command") {
            command::measure(&alice)?;
        }
        if wants("retry") {
            retry::measure(&lab, &alice)?;
        }
        if wants("proxy") {
            proxy::measure(&place.path().join("proxy"), &kubectl_stepup(), &lab, &alice)?;
        }
    }
    Ok(())
}

/// The programs that cargo has built beside this one, in the same profile.
fn kubectl_stepup() -> PathBuf {
    env!("CARGO_BIN_EXE_kubectl-stepup").into()
}

fn stepup_server() -> PathBuf {
    env!("CARGO_BIN_EXE_stepup-server").into()
}
