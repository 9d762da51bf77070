//! The policy: which requests are protected, what they require, what a grant of it allows.
//!
//! [`Policy::decide`] is a function of the policy and the request: no I/O, no clock. Reading the file is
//! [`Policy::load`], in `read`; finding the rules that could be about a request is `index`; what the API server is told
//! to send us at all is `matching`.

pub mod condition;
pub mod groups;
mod index;
pub mod matching;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use regex::Regex;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use self::condition::{Condition, Facts};
use self::index::Index;
use self::matching::Matching;
use crate::action::{Action, ActionPattern, glob_matches, is_glob};
use crate::server::config::{Config, Levels};
use crate::server::document;
use crate::wire::challenge::ReasonRule;
use crate::wire::review::Extra;

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    index: Index,
    matching: Matching,
    warnings: Vec<String>,
    digest: String,
}

/// One request, as a webhook or a person describes it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Username.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// Extra values of the user.
    pub extra: &'a Extra,
    /// What is to be done, [normalized](Action::normalized).
    pub action: &'a Action,
    /// The object as it would be, where admission shows it.
    pub object: Option<&'a RawValue>,
    /// The object as it is, where admission shows it.
    pub old_object: Option<&'a RawValue>,
}

/// What the policy says of a request.
#[must_use]
#[derive(Debug)]
pub enum Decision<'p> {
    /// No rule is about it.
    Unprotected,
    /// No enforced rule is about it, but these rules with `enforcement: audit` would have asked.
    Audit(Vec<WouldAsk<'p>>),
    /// It needs a grant.
    Protected {
        /// What every enforced rule about it requires, merged.
        requirement: Requirement,
        /// Rules with `enforcement: audit` that would have asked too.
        would_ask: Vec<WouldAsk<'p>>,
    },
}

/// A rule with `enforcement: audit` that would have asked.
#[derive(Clone, Debug)]
pub struct WouldAsk<'p> {
    /// The rule.
    pub rule: &'p Rule,
    /// Why its condition could not be evaluated, so that it counts as met.
    pub fault: Option<String>,
}

impl Deref for WouldAsk<'_> {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        self.rule
    }
}

/// What it takes to be granted one request, and what the grant will be.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// Names of the rules it merges, in the order of the policy. A grant satisfies a request when it permits the action
    /// and was made under all rules that protect it.
    pub rules: Vec<String>,
    /// For the prompt.
    pub description: String,
    /// Values of `acr` any of which will do, at whatever provider, most wanted first. Empty: the rules contradict each
    /// other and nothing satisfies them.
    pub acr_values: Vec<String>,
    /// The same by provider. What counts is the provider that the person signed in at, see [`Self::acr_values_for`].
    pub acr_by_provider: BTreeMap<String, Vec<String>>,
    /// How long ago the sign-in may have been.
    pub max_age: Option<Duration>,
    /// Whether and how a reason must be given.
    pub reason: Option<ReasonRequirement>,
    /// Longest life of the grant.
    pub ttl: Duration,
    /// Number of uses; `None`: any number until it expires.
    pub uses: Option<u32>,
    /// What the grant will permit.
    pub permits: Vec<ActionPattern>,
    /// The same in words.
    pub covers: Vec<String>,
    /// Groups that the elevated token will add.
    pub groups: Vec<String>,
    /// Whether nobody looks its groups up, so that its token is good until it expires.
    pub irrevocable: bool,
    /// Conditions that could not be evaluated and therefore count as met: `rule: error`. For the log.
    pub faults: Vec<String>,
}

impl Requirement {
    /// Whether its grant would open `action`. One that RBAC enforces by groups opens what its rules plainly say.
    pub fn opens(&self, action: &Action) -> bool {
        self.permits.iter().any(|pattern| pattern.permits(action))
    }

    /// Whether its grant would open no request: it is for one object, and `action` does not say which.
    pub fn lacks_name(&self, action: &Action) -> bool {
        action.lacks_name() && self.permits == [ActionPattern::exactly(action)]
    }

    /// Permits what `other` does as well, each thing once: the token says all of it, and proxies take no header that is
    /// longer than some kilobytes.
    pub fn permit_also(&mut self, other: Self) {
        for pattern in other.permits {
            if !self.permits.contains(&pattern) {
                self.permits.push(pattern);
            }
        }
        self.covers = distinct(self.covers.drain(..).chain(other.covers));
    }

    /// Values of `acr` that satisfy it when `provider` says them, most wanted first.
    pub fn acr_values_for(&self, provider: &str) -> &[String] {
        self.acr_by_provider.get(provider).map_or(&[], Vec::as_slice)
    }

    /// What the client is told about the reason. Several patterns do not fit one field: the hint has to do then.
    pub fn wire_reason(&self) -> Option<ReasonRule> {
        let reason = self.reason.as_ref()?;
        let pattern = match reason.patterns.as_slice() {
            [pattern] => {
                let anchored = pattern.as_str();
                let source = anchored.strip_prefix(r"\A(?:").and_then(|rest| rest.strip_suffix(r")\z"));
                Some(source.unwrap_or(anchored).to_owned())
            }
            _ => None,
        };
        Some(ReasonRule { pattern, hint: reason.hint.clone() })
    }
}

/// A reason is required, and must match every pattern.
#[derive(Clone, Debug)]
pub struct ReasonRequirement {
    /// Anchored: the whole reason must match.
    pub patterns: Vec<Regex>,
    /// What to tell the person.
    pub hint: Option<String>,
}

impl ReasonRequirement {
    /// Whether `reason` will do.
    pub fn accepts(&self, reason: &str) -> bool {
        !reason.trim().is_empty() && self.patterns.iter().all(|pattern| pattern.is_match(reason))
    }
}

/// One rule of the policy.
#[derive(Debug)]
pub struct Rule {
    /// Unique.
    pub name: String,
    /// For people.
    pub description: String,
    /// Whom it is about.
    pub subjects: Subjects,
    /// What it protects.
    pub actions: Vec<ActionPattern>,
    /// Whether it asks, or only records that it would have asked.
    pub enforcement: Enforcement,
    /// Groups that the elevated token of a grant adds.
    pub groups: Vec<String>,
    condition: Option<Condition>,
    acr: BTreeMap<String, Vec<String>>,
    max_age: Option<Duration>,
    reason: Option<Reason>,
    ttl: Duration,
    uses: Option<u32>,
    covers: Covers,
    /// Whether RBAC enforces it by a group of its own, so that a grant can open what the group opens and nothing else.
    by_group: bool,
    /// Whether nobody looks the groups of its grants up, so that they are good until the token expires.
    irrevocable: bool,
}

impl Rule {
    /// The cluster roles that it lets people assume, as it names them: globs too.
    pub fn assumed_roles(&self) -> impl Iterator<Item = &str> {
        let assumes = |pattern: &&ActionPattern| {
            pattern.verbs.iter().any(|verb| verb == "assume")
                && pattern.resources.iter().any(|resource| resource == "clusterroles")
        };
        self.actions.iter().filter(assumes).flat_map(|pattern| &pattern.names).map(String::as_str)
    }
}

/// What a rule does about the requests it protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Asks for a step-up.
    Enforce,
    /// Records and counts what it would have asked, and asks nothing.
    Audit,
}

/// What one step-up covers, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Covers {
    Object,
    Kind,
    Namespace,
    Rule,
}

#[derive(Clone, Debug)]
struct Reason {
    pattern: Option<Regex>,
    hint: Option<String>,
}

/// Whom a rule is about.
///
/// Rules are about people. `system:` users (nodes, controllers, service accounts) are outside of every rule that does
/// not name them, or the cluster's own garbage collection would stall; so are members of `system:masters`, whom
/// authorization cannot stop either. A `system:` user is named by a pattern that begins with `system:` or `=system:`, among `users` or,
/// unless it is the group of everybody, among `groups`. A member of `system:masters` is named by that group, or by the
/// username to the letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subjects {
    /// Globs over usernames.
    pub users: Vec<String>,
    /// Globs over groups.
    pub groups: Vec<String>,
    /// Globs over usernames that are left out.
    pub exclude_users: Vec<String>,
    /// Globs over groups that are left out.
    pub exclude_groups: Vec<String>,
}

/// What names of users and groups of the cluster itself begin with.
pub(super) const SYSTEM: &str = "system:";
/// The group that passes every authorizer.
pub(super) const MASTERS: &str = "system:masters";
/// Groups that everybody is in.
const EVERYBODY: [&str; 2] = ["system:authenticated", "system:unauthenticated"];

/// Whether a glob over users or groups means some of the cluster itself, to the letter or not.
pub(super) fn names_system(glob: &str) -> bool {
    glob.strip_prefix('=').unwrap_or(glob).starts_with(SYSTEM)
}

impl Subjects {
    /// Every person.
    pub fn everybody() -> Self {
        Self { users: vec!["*".to_owned()], ..Self::default() }
    }

    /// Whether the rule is about this user.
    pub fn include(&self, user: &str, groups: &[String]) -> bool {
        let system = user.starts_with(SYSTEM);
        let master = groups.iter().any(|group| group == MASTERS);
        let by_user =
            |glob: &String| glob_matches(glob, user) && (!system || names_system(glob)) && (!master || !is_glob(glob));
        let by_group = |glob: &String| {
            groups.iter().any(|group| {
                glob_matches(glob, group)
                    && (!system || (names_system(glob) && !EVERYBODY.contains(&group.as_str())))
                    && (!master || (names_system(glob) && group == MASTERS))
            })
        };
        (self.users.iter().any(by_user) || self.groups.iter().any(by_group))
            && !self.exclude_users.iter().any(|glob| glob_matches(glob, user))
            && !self.exclude_groups.iter().any(|glob| groups.iter().any(|group| glob_matches(glob, group)))
    }
}

/// Why a policy cannot be used: every problem that was found, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

impl Policy {
    /// Reads the file and compiles it against the configuration.
    pub fn load(file: &Path, config: &Config) -> Result<Self, PolicyError> {
        let text = document::read(file).map_err(PolicyError)?;
        Self::parse(&text, &file.display().to_string(), &config.levels())
    }

    /// Compiles `text`; `file` is for messages.
    pub fn parse(text: &str, file: &str, levels: &Levels) -> Result<Self, PolicyError> {
        let read::Draft { rules, warnings } = read::read(text, file, levels).map_err(PolicyError)?;
        let mut index = Index::default();
        for (rule, entry) in rules.iter().zip(0..) {
            for (pattern, number) in rule.actions.iter().zip(0..) {
                index.add(index::Entry { rule: entry, pattern: number }, pattern);
            }
        }
        let matching = Matching::of(&rules);
        Ok(Self { rules, index, matching, warnings, digest: digest(text.as_bytes()) })
    }

    /// What the policy says of a request.
    pub fn decide(&self, request: &Request<'_>) -> Decision<'_> {
        let mut about = Vec::new();
        self.index.visit(request.action, |index::Entry { rule: number, pattern }| {
            let rule = &self.rules[number as usize];
            if rule.actions[pattern as usize].protects(request.action)
                && rule.subjects.include(request.user, request.groups)
            {
                about.push(number);
            }
        });
        if about.is_empty() {
            return Decision::Unprotected;
        }
        about.sort_unstable();
        about.dedup();

        let facts = Facts::of(request);
        let (mut enforced, mut would_ask, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        for rule in about.into_iter().map(|number| &self.rules[number as usize]) {
            // What cannot be evaluated protects.
            let fault = match rule.condition.as_ref().map_or(Ok(true), |condition| condition.is_met(&facts)) {
                Ok(true) => None,
                Ok(false) => continue,
                Err(fault) => Some(fault),
            };
            match rule.enforcement {
                Enforcement::Audit => would_ask.push(WouldAsk { rule, fault }),
                Enforcement::Enforce => {
                    faults.extend(fault.map(|fault| format!("{}: {fault}", rule.name)));
                    enforced.push(rule);
                }
            }
        }
        match merge(&enforced, request.action, faults) {
            Some(requirement) => Decision::Protected { requirement, would_ask },
            None if would_ask.is_empty() => Decision::Unprotected,
            None => Decision::Audit(would_ask),
        }
    }

    /// What these rules require of an action that they were found to protect before: their conditions are not looked at
    /// again. `None`: one of them asks that of nobody any more, or not of this user.
    pub fn under(&self, rules: &[String], user: &str, groups: &[String], action: &Action) -> Option<Requirement> {
        let asks = |rule: &&Rule| {
            rule.enforcement == Enforcement::Enforce
                && rule.subjects.include(user, groups)
                && rule.actions.iter().any(|pattern| pattern.protects(action))
        };
        let named = rules.iter().map(|name| self.rules.iter().find(|rule| rule.name == *name).filter(asks));
        merge(&named.collect::<Option<Vec<_>>>()?, action, Vec::new())
    }

    /// The rules, in the order of the file; the guardrails last.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Things that are allowed and probably not meant.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What the API server is to ask about, as `render` writes it.
    pub fn matching(&self) -> &Matching {
        &self.matching
    }

    /// Digest of the text that it was compiled from: SHA-256, in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The longest life of a grant of any rule.
    pub fn longest_ttl(&self) -> Duration {
        self.rules.iter().map(|rule| rule.ttl).max().unwrap_or_default()
    }
}

/// Digest of a policy's text, as [`Policy::digest`] has it.
pub fn digest(text: &[u8]) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// One requirement that satisfies every one of `rules`.
fn merge(rules: &[&Rule], action: &Action, faults: Vec<String>) -> Option<Requirement> {
    let (first, others) = rules.split_first()?;
    let mut acr_by_provider = first.acr.clone();
    for rule in others {
        for (provider, values) in &mut acr_by_provider {
            let accepted = rule.acr.get(provider);
            values.retain(|acr| accepted.is_some_and(|accepted| accepted.contains(acr)));
        }
    }
    let covers = rules.iter().map(|rule| rule.covers).min().unwrap_or(Covers::Object);
    let permits = permitted(rules, action, covers);
    Some(Requirement {
        rules: rules.iter().map(|rule| rule.name.clone()).collect(),
        description: describe(rules),
        acr_values: distinct(acr_by_provider.values().flatten().cloned()),
        acr_by_provider,
        max_age: rules.iter().filter_map(|rule| rule.max_age).min(),
        reason: merge_reasons(rules),
        ttl: rules.iter().map(|rule| rule.ttl).min().unwrap_or_default(),
        uses: rules.iter().filter_map(|rule| rule.uses).min(),
        covers: if covers == Covers::Object {
            vec![action.to_string()]
        } else {
            distinct(permits.iter().map(in_words))
        },
        permits,
        groups: distinct(rules.iter().flat_map(|rule| &rule.groups).cloned()),
        irrevocable: rules.iter().any(|rule| rule.irrevocable),
        faults,
    })
}

fn permitted(rules: &[&Rule], action: &Action, covers: Covers) -> Vec<ActionPattern> {
    let own = || rules.iter().flat_map(|rule| &rule.actions).cloned();
    let mut permits = match covers {
        Covers::Object => vec![ActionPattern::exactly(action)],
        Covers::Kind => vec![ActionPattern::of_kind(action)],
        // What is in no namespace has no neighbours there, and the whole rule would be far more than that.
        Covers::Namespace => match &action.namespace {
            None => vec![ActionPattern::of_kind(action)],
            Some(namespace) => own().filter_map(|pattern| pattern.in_namespace(namespace)).collect(),
        },
        Covers::Rule => own().collect(),
    };
    // A rule's own patterns lean wide when they protect and narrow when they permit: a protected `get` protects `list`,
    // and does not permit it. What was asked for is always granted, unless a group has to open it.
    let by_group = rules.iter().any(|rule| rule.by_group);
    if !by_group && !permits.iter().any(|pattern| pattern.permits(action)) {
        permits.push(ActionPattern::exactly(action));
    }
    permits
}

fn merge_reasons(rules: &[&Rule]) -> Option<ReasonRequirement> {
    let reasons: Vec<_> = rules.iter().filter_map(|rule| rule.reason.as_ref()).collect();
    if reasons.is_empty() {
        return None;
    }
    let mut patterns: Vec<Regex> = Vec::new();
    for pattern in reasons.iter().filter_map(|reason| reason.pattern.as_ref()) {
        if !patterns.iter().any(|other| other.as_str() == pattern.as_str()) {
            patterns.push(pattern.clone());
        }
    }
    let hints = distinct(reasons.iter().filter_map(|reason| reason.hint.clone()));
    Some(ReasonRequirement { patterns, hint: (!hints.is_empty()).then(|| hints.join("; ")) })
}

/// Nobody reads more descriptions than this in a prompt.
const MAX_DESCRIPTIONS: usize = 3;

fn describe(rules: &[&Rule]) -> String {
    let text = |rule: &&Rule| if rule.description.is_empty() { rule.name.clone() } else { rule.description.clone() };
    let mut descriptions = distinct(rules.iter().map(text));
    if let Some(more @ 1..) = descriptions.len().checked_sub(MAX_DESCRIPTIONS) {
        descriptions.truncate(MAX_DESCRIPTIONS);
        descriptions.push(format!("and {more} more rules"));
    }
    descriptions.join("; ")
}

/// A pattern as a person reads it: `get,list secrets -n prod`.
fn in_words(pattern: &ActionPattern) -> String {
    let list = |globs: &[String]| globs.join(",").replace('=', "");
    let part = |before: &str, globs: &[String]| {
        let is_said = globs.iter().all(|glob| glob != "*" && !glob.is_empty());
        if is_said { format!("{before}{}", list(globs)) } else { String::new() }
    };
    let verbs = list(&pattern.verbs);
    if !pattern.non_resource_urls.is_empty() {
        return format!("{verbs} {}", list(&pattern.non_resource_urls));
    }
    let group = match pattern.api_groups.as_slice() {
        [core] if core.is_empty() => String::new(),
        groups => format!(".{}", groups.join(",")),
    };
    let (names, namespaces) = (part("/", &pattern.names), part(" -n ", &pattern.namespaces));
    format!("{verbs} {}{group}{names}{namespaces}", list(&pattern.resources))
}

/// Each one once, in order.
fn distinct(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    items.filter(|item| seen.insert(item.clone())).collect()
}
