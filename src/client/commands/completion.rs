//! `kubectl stepup completion SHELL`, and the answers to kubectl's own completion.

use std::io;

use clap_complete::Shell;

use crate::client::paths::Paths;
use crate::client::profile::Profile;
use crate::client::{cli, output, resource};

/// cobra's `ShellCompDirectiveNoFileComp`: what we say is all there is.
const NO_FILES: &str = ":4";
/// cobra's `ShellCompDirectiveDefault`: the shell may offer files.
const FILES: &str = ":0";

/// Prints the completion script for `kubectl-stepup`.
pub fn script(shell: Shell) {
    let mut text = Vec::new();
    write_script(shell, &mut text);
    output::line(String::from_utf8_lossy(&text).trim_end());
}

/// The completion script for `kubectl-stepup`.
pub fn write_script(shell: Shell, to: &mut dyn io::Write) {
    // kubectl's plugin is a program of its own to the shell: one word.
    clap_complete::generate(shell, &mut cli::command().bin_name("kubectl-stepup"), "kubectl-stepup", to);
}

/// Answers kubectl (`kubectl_complete-stepup`): candidates for the last word, one a line, and what cobra shall do.
///
/// Never signs in, never asks a server (kubectl#1716: completion at start-up triggered a login).
pub fn complete(words: &[String]) {
    let (candidates, directive) = candidates(words);
    for candidate in candidates {
        output::line(candidate);
    }
    output::line(directive);
}

fn candidates(words: &[String]) -> (Vec<String>, &'static str) {
    let Some((unfinished, before)) = words.split_last() else { return (Vec::new(), NO_FILES) };
    let root = cli::command();
    let visible = |command: &&clap::Command| !command.is_hide_set();
    let mut command = &root;
    let mut wants: Option<&clap::Arg> = None;
    let mut values = 0;
    let mut words_of_its_own = 0;
    for word in before {
        let flag = command.get_arguments().find(|arg| is_called(arg, word));
        if let Some(flag) = flag {
            wants = Some(flag).filter(|flag| flag.get_action().takes_values());
            values = 0;
        } else if wants.is_some_and(|flag| flag.get_num_args().is_some_and(|range| range.max_values() > values + 1)) {
            values += 1;
        } else if wants.take().is_none() {
            match command.find_subcommand(word) {
                Some(next) => command = next,
                None => words_of_its_own += 1,
            }
        }
    }
    if unfinished.starts_with('-') {
        let flags = command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            Some(described(&format!("--{}", arg.get_long()?), &help))
        });
        return (starting_with(unfinished, flags), NO_FILES);
    }
    if let Some(flag) = wants {
        return values_of(flag, values, unfinished);
    }
    if command.has_subcommands() {
        let commands = command.get_subcommands().filter(visible).map(|command| {
            described(command.get_name(), &command.get_about().map(ToString::to_string).unwrap_or_default())
        });
        return (starting_with(unfinished, commands), NO_FILES);
    }
    match command.get_positionals().next() {
        Some(positional) => values_of(positional, words_of_its_own, unfinished),
        None => (Vec::new(), NO_FILES),
    }
}

fn values_of(arg: &clap::Arg, index: usize, unfinished: &str) -> (Vec<String>, &'static str) {
    let known: Vec<String> = match arg.get_id().as_str() {
        "profile" => Profile::names(&Paths::find()).iter().map(ToString::to_string).collect(),
        "what" if index == 0 => resource::VERBS.iter().map(ToString::to_string).collect(),
        "what" if index == 1 => resource::names().map(ToOwned::to_owned).collect(),
        id if id.ends_with("_ca")
            || id.ends_with("_file")
            || matches!(id, "kubeconfig" | "kubeconfig_out" | "command") =>
        {
            return (Vec::new(), FILES);
        }
        _ => arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect(),
    };
    (starting_with(unfinished, known.into_iter()), NO_FILES)
}

fn is_called(arg: &clap::Arg, word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => word.strip_prefix('-').is_some_and(|short| {
            let mut letters = short.chars();
            letters.next().is_some_and(|letter| arg.get_short() == Some(letter)) && letters.next().is_none()
        }),
    }
}

/// A candidate with its description, as cobra wants them.
fn described(word: &str, help: &str) -> String {
    format!("{word}\t{}", help.lines().next().unwrap_or_default())
}

fn starting_with(unfinished: &str, candidates: impl Iterator<Item = String>) -> Vec<String> {
    candidates.filter(|candidate| candidate.starts_with(unfinished)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(ToOwned::to_owned).collect();
        let word = |candidate: String| candidate.split('\t').next().unwrap_or_default().to_owned();
        candidates(&words).0.into_iter().map(word).collect()
    }

    #[test]
    fn every_place_of_a_command_line_has_its_words() {
        assert!(offered("").contains(&"elevate".to_owned()));
        assert_eq!(offered("ele"), ["elevate"]);
        assert!(!offered("").contains(&"__complete".to_owned()));
        assert_eq!(offered("status -o "), ["text", "json"]);
        assert_eq!(offered("login --flow b"), ["browser"]);
        assert_eq!(offered("elevate --for del"), ["delete", "deletecollection"]);
        assert_eq!(offered("elevate --for delete namesp"), ["namespaces"]);
        assert!(offered("elevate --for delete ns ").is_empty());
        assert_eq!(offered("explain -n prod delete namesp"), ["namespaces"]);
        assert_eq!(offered("elevate --for delete ns prod --rea"), ["--reason"]);
        assert_eq!(offered("completion po"), ["powershell"]);
        assert_eq!(candidates(&["setup".into(), "--issuer-ca".into(), String::new()]).1, FILES);
    }
}
