//! Completion scripts and man pages are made from the command line's definition and checked in. These tests fail when
//! they differ; `UPDATE=1 cargo test --all-features --test generated` writes them anew.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

#[test]
fn completion_scripts_are_up_to_date() {
    for (shell, name) in [
        (Shell::Bash, "kubectl-stepup.bash"),
        (Shell::Zsh, "_kubectl-stepup"),
        (Shell::Fish, "kubectl-stepup.fish"),
        (Shell::PowerShell, "_kubectl-stepup.ps1"),
    ] {
        let mut script = Vec::new();
        stepup::client::commands::completion::write_script(shell, &mut script);
        compare(&Path::new("completions").join(name), &script);
    }
}

#[test]
fn man_pages_are_up_to_date() {
    let mut expected = pages(stepup::client::cli::command());
    #[cfg(feature = "server")]
    expected.extend(server_pages());
    for (name, page) in &expected {
        compare(&Path::new("packaging/man").join(name), page);
    }
    // A page of a command that is gone would stay for ever.
    #[cfg(feature = "server")]
    for entry in fs::read_dir(root().join("packaging/man")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(expected.iter().any(|(expected, _)| *expected == name), "packaging/man/{name} documents nothing");
    }
}

#[cfg(feature = "server")]
fn server_pages() -> Vec<(String, Vec<u8>)> {
    use clap::CommandFactory as _;

    pages(stepup::server::cli::Cli::command())
}

/// The page of a program and those of its subcommands.
fn pages(program: Command) -> Vec<(String, Vec<u8>)> {
    let name = program.get_name().to_owned();
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut pages = vec![page(&name, program.clone())];
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages.push(page(&format!("{name}-{}", command.get_name()), command.clone()));
    }
    pages
}

fn page(name: &str, command: Command) -> (String, Vec<u8>) {
    // clap wants names that live as long as the program; a test does not run long.
    let leaked: &'static str = name.to_owned().leak();
    let version = concat!("kubectl-stepup ", env!("CARGO_PKG_VERSION"));
    let mut text = Vec::new();
    // No date: the same definition gives the same page.
    clap_mangen::Man::new(command.name(leaked).display_name(leaked))
        .title(name.to_uppercase())
        .source(version)
        .manual("kubectl-stepup manual")
        .render(&mut text)
        .unwrap();
    (format!("{name}.1"), text)
}

fn compare(path: &Path, expected: &[u8]) {
    let file = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{} is out of date: UPDATE=1 cargo test --all-features --test generated",
        path.display()
    );
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
