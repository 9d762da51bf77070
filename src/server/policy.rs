//! The policy: which requests are protected, what they require, what a grant of it allows. Pure: no I/O, no clock.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use regex::Regex;
use serde_json::value::RawValue;

use crate::action::{Action, ActionPattern};
use crate::server::config::{Config, Levels};
use crate::wire::challenge::ReasonRule;
use crate::wire::review::Extra;

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
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
    /// Conditions that could not be evaluated and therefore count as met: `rule: error`. For the log.
    pub faults: Vec<String>,
}

impl Requirement {
    /// Values of `acr` that satisfy it when `provider` says them, most wanted first.
    pub fn acr_values_for(&self, provider: &str) -> &[String] {
        self.acr_by_provider.get(provider).map_or(&[], Vec::as_slice)
    }

    /// What the client is told about the reason.
    pub fn wire_reason(&self) -> Option<ReasonRule> {
        let reason = self.reason.as_ref()?;
        let pattern = match reason.patterns.as_slice() {
            [pattern] => Some(pattern.as_str().to_owned()),
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
    /// Whether it asks, or only records that it would have asked.
    pub enforcement: Enforcement,
}

/// What a rule does about the requests it protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Asks for a step-up.
    Enforce,
    /// Records and counts what it would have asked, and asks nothing.
    Audit,
}

/// Why a policy cannot be used: every problem that was found, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

impl Policy {
    /// Reads the file and compiles it against the configuration.
    pub fn load(file: &Path, config: &Config) -> Result<Self, PolicyError> {
        let text =
            std::fs::read_to_string(file).map_err(|error| PolicyError(format!("{}: {error}", file.display())))?;
        Self::parse(&text, &file.display().to_string(), &config.levels())
    }

    /// Compiles `text`; `file` is for messages.
    pub fn parse(_text: &str, file: &str, _levels: &Levels) -> Result<Self, PolicyError> {
        Err(PolicyError(format!("{file}: reading policies is not built yet")))
    }

    /// What the policy says of a request.
    pub fn decide(&self, _request: &Request<'_>) -> Decision<'_> {
        Decision::Unprotected
    }

    /// The rules, in the order of the file; the guardrails last.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Things that are allowed and probably not meant.
    pub fn warnings(&self) -> &[String] {
        &[]
    }

    /// Digest, in hex, of the match rules that `render` derives from this policy: the API server sends it back as
    /// `?match=`, so that a stale rendering is noticed.
    pub fn match_digest(&self) -> &str {
        ""
    }

    /// The longest life of a grant of any rule.
    pub fn longest_ttl(&self) -> Duration {
        Duration::ZERO
    }
}
