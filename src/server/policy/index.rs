//! Finds the patterns that could be about an action without looking at all of them.
//!
//! By API group, resource and subresource, then namespace, then name; each step knows literals, literal beginnings of
//! globs, and everything else. It finds too many rather than too few: the pattern itself has the last word.

use std::collections::HashMap;

use crate::action::{Action, ActionPattern, IMPERSONATION_GROUPS, Target, is_glob};

/// Which pattern of which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) rule: u32,
    pub(super) pattern: u32,
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Index {
    groups: HashMap<Box<str>, ByResource>,
    any_group: ByResource,
    paths: Globs<Vec<Entry>>,
}

#[derive(Debug, Default)]
struct ByResource {
    /// `*`: every resource and subresource.
    everything: ByNamespace,
    named: HashMap<Box<str>, BySubresource>,
    any: BySubresource,
}

#[derive(Debug, Default)]
struct BySubresource {
    none: ByNamespace,
    named: HashMap<Box<str>, ByNamespace>,
    any: ByNamespace,
}

#[derive(Debug, Default)]
struct ByNamespace {
    namespaces: Globs<ByName>,
    /// For collections across all namespaces.
    all: Vec<Entry>,
}

#[derive(Debug, Default)]
struct ByName {
    names: Globs<Vec<Entry>>,
    /// For collections, creations whose name is not known yet, and many names at once.
    all: Vec<Entry>,
}

/// Values by glob.
#[derive(Debug, Default)]
struct Globs<T> {
    any: T,
    literals: HashMap<Box<str>, T>,
    prefixes: HashMap<Box<str>, T>,
    /// Lengths of the prefixes, each once.
    lengths: Vec<usize>,
}

/// A pattern with more namespaces times names than this is found by its namespaces alone.
const MAX_PAIRS: usize = 1000;

impl Index {
    pub(super) fn add(&mut self, entry: Entry, pattern: &ActionPattern) {
        for path in &pattern.non_resource_urls {
            self.paths.at(path).push(entry);
        }
        for group in &pattern.api_groups {
            let group = match group.as_str() {
                "*" => &mut self.any_group,
                group => self.groups.entry(group.into()).or_default(),
            };
            for resource in &pattern.resources {
                group.at(resource).add(entry, pattern);
            }
        }
    }

    /// Shows `see` every entry that could protect `action`, some perhaps more than once.
    pub(super) fn visit(&self, action: &Action, mut see: impl FnMut(Entry)) {
        let see = &mut see;
        if let Some(path) = &action.path {
            self.paths.visit(path, &mut |entries: &Vec<Entry>| entries.iter().copied().for_each(&mut *see));
            return;
        }
        // Impersonation is about both groups, whichever it is asked about.
        let other = IMPERSONATION_GROUPS.iter().filter(|group| action.is_impersonation() && **group != action.group);
        let named = std::iter::once(action.group.as_str()).chain(other.copied());
        for group in named.filter_map(|group| self.groups.get(group)).chain([&self.any_group]) {
            group.everything.visit(action, see);
            for resource in group.named.get(action.resource.as_str()).into_iter().chain([&group.any]) {
                match action.subresource.as_deref() {
                    None => resource.none.visit(action, see),
                    Some("*") => {
                        let all = resource.named.values().chain([&resource.any]);
                        all.for_each(|subresource| subresource.visit(action, see));
                    }
                    Some(subresource) => {
                        if let Some(named) = resource.named.get(subresource) {
                            named.visit(action, see);
                        }
                        resource.any.visit(action, see);
                    }
                }
            }
        }
    }
}

impl ByResource {
    fn at(&mut self, pattern: &str) -> &mut ByNamespace {
        if pattern == "*" {
            return &mut self.everything;
        }
        let (resource, subresource) = match pattern.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (pattern, None),
        };
        let resource = match resource {
            "*" => &mut self.any,
            resource => self.named.entry(resource.into()).or_default(),
        };
        match subresource {
            None => &mut resource.none,
            Some("*") => &mut resource.any,
            Some(subresource) => resource.named.entry(subresource.into()).or_default(),
        }
    }
}

impl ByNamespace {
    fn add(&mut self, entry: Entry, pattern: &ActionPattern) {
        self.all.push(entry);
        let too_many = pattern.namespaces.len().saturating_mul(pattern.names.len()) > MAX_PAIRS;
        for namespace in &pattern.namespaces {
            let by_name = self.namespaces.at(namespace);
            by_name.all.push(entry);
            if too_many {
                by_name.names.any.push(entry);
            } else {
                pattern.names.iter().for_each(|name| by_name.names.at(name).push(entry));
            }
        }
    }

    fn visit(&self, action: &Action, see: &mut impl FnMut(Entry)) {
        if self.all.is_empty() {
            return;
        }
        let in_namespace = &mut |by_name: &ByName| match action.target() {
            Target::Named { name, own } => {
                for name in std::iter::once(name).chain(own) {
                    by_name.names.visit(name, &mut |entries: &Vec<Entry>| entries.iter().copied().for_each(&mut *see));
                }
            }
            Target::Any | Target::Beginning(_) => by_name.all.iter().copied().for_each(&mut *see),
        };
        match &action.namespace {
            Some(namespace) => self.namespaces.visit(namespace, in_namespace),
            // Only a pattern for any namespace is about what is in none, unless the request may be for all of them.
            None if matches!(action.verb.as_str(), "list" | "watch" | "deletecollection") => {
                self.all.iter().copied().for_each(see);
            }
            None => in_namespace(&self.namespaces.any),
        }
    }
}

impl<T: Default> Globs<T> {
    fn at(&mut self, glob: &str) -> &mut T {
        if !is_glob(glob) {
            let literal = glob.strip_prefix('=').unwrap_or(glob);
            return self.literals.entry(literal.into()).or_default();
        }
        match &glob[..glob.find(['*', '?']).unwrap_or(0)] {
            "" => &mut self.any,
            prefix => {
                if !self.lengths.contains(&prefix.len()) {
                    self.lengths.push(prefix.len());
                }
                self.prefixes.entry(prefix.into()).or_default()
            }
        }
    }

    fn visit(&self, text: &str, see: &mut impl FnMut(&T)) {
        see(&self.any);
        if let Some(found) = self.literals.get(text) {
            see(found);
        }
        for &length in &self.lengths {
            if let Some(found) = text.get(..length).and_then(|prefix| self.prefixes.get(prefix)) {
                see(found);
            }
        }
    }
}
