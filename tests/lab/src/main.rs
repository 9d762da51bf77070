//! `lab`: starts and stops the lab, and shows what it is for.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lab::person::Account;
use lab::{Programs, standing};

/// A real control plane, OpenID provider and stepup-server, on this machine.
#[derive(Parser)]
#[command(name = "lab")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start what does not run yet, and return.
    Up(Place),
    /// Stop all of it.
    Down(Place),
    /// Tell the project's story in a lab of its own; fail if it is not so.
    Demo {
        /// A person signs in, in a browser.
        #[arg(long)]
        interactive: bool,
        /// Where the lab's files are; emptied first.
        #[arg(long, default_value = "target/demo")]
        directory: PathBuf,
    },
    /// Draw what stands on a person's terminal, in a lab of its own.
    Pictures {
        /// Where the SVG files go.
        pictures: PathBuf,
        /// Where the lab's files are; emptied first.
        #[arg(long, default_value = "target/pictures")]
        directory: PathBuf,
    },
    /// Build and install the lab's parts into the user's cache, without starting anything.
    Prepare,
    /// Print a person's password and the one-time code of this moment.
    Credentials {
        /// alice, bob or carol.
        person: String,
    },
}

#[derive(clap::Args)]
struct Place {
    /// Where the lab's files are.
    #[arg(long, default_value = "target/lab")]
    directory: PathBuf,
}

fn main() -> ExitCode {
    if let Some(code) = lab::role::play() {
        return code;
    }
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Up(Place { directory }) => {
            let up = standing::up(&directory, &programs()?)?;
            if up.started.is_empty() {
                println!("The lab is up already.");
            } else {
                println!("The lab is up.");
            }
            println!("  . {}/env    then: kubectl stepup login", directory.display());
        }
        Task::Down(Place { directory }) => {
            let stopped = standing::down(&directory)?;
            println!("{}", if stopped { "The lab is down." } else { "No lab was up." });
        }
        Task::Demo { interactive, directory } => lab::demo::run(&directory, &programs()?, interactive)?,
        Task::Pictures { pictures, directory } => lab::picture::run(&directory, &programs()?, &pictures)?,
        Task::Prepare => lab::prepare()?,
        Task::Credentials { person } => {
            let account = Account::of(&person)?;
            println!("username: {person}\npassword: {}", account.password);
            if account.totp_secret.is_some() {
                println!("one-time code: {}", account.code()?);
            }
        }
    }
    Ok(())
}

/// The programs under test are built beside this one.
fn programs() -> Result<Programs> {
    let me = std::env::current_exe()?;
    let directory = me.parent().context("no directory")?;
    Ok(Programs { kubectl_stepup: directory.join("kubectl-stepup"), stepup_server: directory.join("stepup-server") })
}
