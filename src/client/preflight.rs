//! Preflight: what a kubectl is about to do, going by its command line, so that the plugin can step up before the first
//! request.
//!
//! Reads, and connections such as exec, are denied with a 403 that nothing repeats, so inside one command there is no
//! second chance. But the plugin is kubectl's child and can read what kubectl was told to do: [`command_line`] takes that
//! apart, [`plan`] says which requests it leads to, with [`manifest`] and [`surroundings`] for what the arguments leave
//! open, and [`digest`] knows which of them are protected. All of it is a hint, and nothing trusts it: a wrong one costs
//! a prompt or a 403.

pub mod command_line;
pub mod digest;
pub mod manifest;
pub mod plan;
pub mod surroundings;

use std::ffi::OsString;

use self::command_line::CommandLine;
use self::digest::Kept;
use self::plan::{Others, Plan};
use self::surroundings::Surroundings;
use crate::action::Action;
use crate::client::parent::Asker;

/// What of a command is repeated after a denial, so that there is no need to ask beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// Writes: stepup-server answers them in a way that client-go repeats.
    Writes,
    /// Nothing: without stepup-server a denial is the end.
    Nothing,
}

/// What the process that asks for a token is about to do, or has just done.
#[derive(Debug)]
pub struct Hint {
    arguments: Vec<String>,
    is_kubectl: bool,
    plan: Plan,
    surroundings: Surroundings,
}

impl Hint {
    /// About the process that started us.
    pub fn about(asker: Option<&Asker>) -> Self {
        let process = asker.map(|asker| asker.process);
        let arguments = asker.map(Asker::arguments).unwrap_or_default();
        Self::of(arguments, move |name| match process {
            Some(process) => process.variable(name),
            None => std::env::var_os(name),
        })
    }

    /// Reads a process's arguments and, where that is needed, its environment.
    pub fn of(arguments: Vec<String>, variable: impl Fn(&str) -> Option<OsString> + 'static) -> Self {
        let line = CommandLine::parse(&arguments);
        let plan = line.as_ref().map_or_else(Plan::unknown, Plan::of);
        let is_kubectl = line.is_some();
        let surroundings = Surroundings::new(line.unwrap_or_default(), Box::new(variable));
        Self { arguments, is_kubectl, plan, surroundings }
    }

    /// What to step up for before the first request: requests that the digest says are protected, and that nothing
    /// repeats when they are denied. The digest is read only if there are such requests at all.
    pub fn protected(&self, repeats: Repeats, digest: impl FnOnce() -> Option<Kept>) -> Vec<Action> {
        if repeats == Repeats::Writes && self.plan.is_all_repeated() {
            return Vec::new();
        }
        let Some(digest) = digest() else { return Vec::new() };
        let protected = self.plan.protected(repeats, &digest, &self.surroundings);
        if protected.is_empty() {
            return protected;
        }
        // Looked up only now: most commands are about nothing that is protected. What they do as somebody else is nothing
        // that this person's rules speak of, but that they act as them is.
        let acts_as = Plan::of_impersonation(&self.surroundings.impersonation());
        if acts_as.requests.is_empty() { protected } else { acts_as.protected(repeats, &digest, &self.surroundings) }
    }

    /// Whether the arguments tell what the program does: it is a kubectl, and its command is one that we know.
    pub fn is_known(&self) -> bool {
        self.plan.others != Others::Any
    }

    /// Where a kubectl goes: URL of its API server, and the context. Of other programs nobody knows.
    pub fn place(&self) -> Option<(String, Option<&str>)> {
        let api_server = self.surroundings.api_server().filter(|_| self.is_kubectl)?;
        Some((api_server, self.surroundings.context()))
    }

    /// Whether a denial can be one that the command repeats, once it has a better token.
    pub fn can_be_repeated(&self) -> bool {
        self.plan.can_be_repeated()
    }

    /// Whether a denial of `action` can be one that this command met and will repeat.
    pub fn may(&self, action: &Action) -> bool {
        self.plan.may(action, &self.surroundings)
    }

    /// Whether its arguments name `action` or the object of it.
    pub fn names(&self, action: &Action) -> bool {
        let is_name = |name: &String| {
            let is_it = |word: &String| word == name || word.rsplit_once('/').is_some_and(|(_, last)| last == name);
            self.arguments.iter().skip(1).any(is_it)
        };
        self.plan.tells(action, &self.surroundings) || action.name.as_ref().is_some_and(is_name)
    }
}
