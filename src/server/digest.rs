//! `GET /v1/digest`: what is protected from one person, for their client to know when to ask beforehand. A hint: nothing
//! here decides about a request, so it may say too much and, where it would become too long, does.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::action::ActionPattern;
use crate::server::app::App;
use crate::server::config::Mode;
use crate::server::identity::Identity;
use crate::server::policy::{Enforcement, Policy};
use crate::wire::digest::{Digest, Protected};

/// After this it should be replaced, whatever became of the policy.
const LIFE: TimeDelta = TimeDelta::hours(24);
/// Most patterns in it: a client reads all of them before each command.
const MOST_PATTERNS: usize = 5000;

/// The digest of the policy in force for `asker`. Empty for somebody who cannot step up: there is nothing to ask them.
pub fn of(app: &App, asker: &Identity, now: DateTime<Utc>) -> Digest {
    let policy = app.policy();
    let groups = asker.cluster_groups();
    let can_step_up = app.can_step_up(&asker.user, &groups);
    let digests = policy.matching().digests();
    Digest {
        iss: app.config.public_url.clone(),
        sub: asker.user.clone(),
        iat: now.timestamp(),
        exp: (now + LIFE).timestamp(),
        policy: [&digests.authorization[..], &digests.admission].concat(),
        denials_are_final: app.config.mode == Mode::Groups,
        protected: if can_step_up { protected(&policy, &asker.user, &groups) } else { Vec::new() },
    }
}

/// What the enforced rules about this user protect. Conditions are left out: they need the object.
fn protected(policy: &Policy, user: &str, groups: &[String]) -> Vec<Protected> {
    let about = |rule: &&crate::server::policy::Rule| {
        rule.enforcement == Enforcement::Enforce && rule.subjects.include(user, groups)
    };
    let rules = policy.rules().iter().filter(about);
    let all: Vec<Protected> =
        rules.map(|rule| Protected { rule: rule.name.clone(), actions: rule.actions.clone() }).collect();
    let size = |protected: &[Protected]| protected.iter().map(|part| part.actions.len()).sum::<usize>();
    if size(&all) <= MOST_PATTERNS { all } else { vec![Protected { rule: String::new(), actions: widened(all) }] }
}

/// The same in fewer patterns: first without names, then without namespaces, as the webhook rules are widened too.
fn widened(all: Vec<Protected>) -> Vec<ActionPattern> {
    let any = || vec!["*".to_owned()];
    let mut patterns: Vec<ActionPattern> = all.into_iter().flat_map(|part| part.actions).collect();
    let steps: [fn(&mut ActionPattern, Vec<String>); 2] =
        [|pattern, any| pattern.names = any, |pattern, any| pattern.namespaces = any];
    for step in steps {
        for pattern in &mut patterns {
            step(pattern, any());
        }
        let mut seen = HashSet::new();
        patterns.retain(|pattern| seen.insert(serde_json::to_string(pattern).unwrap_or_default()));
        if patterns.len() <= MOST_PATTERNS {
            return patterns;
        }
    }
    // What is cut off is not asked for beforehand: it ends in the cluster's own answer, as without a digest.
    patterns.truncate(MOST_PATTERNS);
    patterns
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;
    use std::time::Duration;

    use super::*;
    use crate::server::config::{Level, Levels, Mode};

    fn policy(rules: &str) -> Policy {
        let mfa = Level { name: "mfa".to_owned(), acr_values: vec!["urn:mfa".to_owned()] };
        let providers = BTreeMap::from([("corp".to_owned(), vec![mfa])]);
        let levels = Levels { providers, max_ttl: Duration::from_mins(15), mode: Mode::Webhooks, authorization: true };
        Policy::parse(&format!("guardrails: off\nrules:\n{rules}"), "policy.yaml", &levels).unwrap()
    }

    fn rule(name: &str, more: &str, namespace: &str, object: &str) -> String {
        format!(
            "- name: {name}\n  actions:\n  - verbs: [get]\n    apiGroups: ['']\n    resources: [secrets]\n    \
             namespaces: ['{namespace}']\n    names: ['{object}']\n{more}"
        )
    }

    #[test]
    fn it_has_the_enforced_rules_about_this_user_and_no_others() {
        let policy = policy(
            &[
                rule("all", "", "prod", "*"),
                rule("watched", "  enforcement: audit\n", "prod", "*"),
                rule("bobs", "  subjects:\n    users: [bob]\n", "prod", "*"),
                rule("developers", "  subjects:\n    groups: [developers]\n", "prod", "*"),
            ]
            .concat(),
        );
        let names = |user: &str, groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
            protected(&policy, user, &groups).into_iter().map(|part| part.rule).collect::<Vec<_>>()
        };
        assert_eq!(names("alice", &[]), ["all"]);
        assert_eq!(names("alice", &["developers"]), ["all", "developers"]);
        assert_eq!(names("bob", &[]), ["all", "bobs"]);
        assert_eq!(names("system:serviceaccount:a:b", &[]), [""; 0], "no rule names it");
    }

    #[test]
    fn a_very_large_policy_says_more_rather_than_less_and_stays_small() {
        let mut rules = String::new();
        for number in 0..=MOST_PATTERNS {
            let _ = write!(
                rules,
                "{}",
                rule(&format!("r{number}"), "", &format!("ns-{}", number % 7), &format!("o-{number}"))
            );
        }
        let told = protected(&policy(&rules), "alice", &[]);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].actions.len(), 7);
        assert!(told[0].actions.iter().all(|pattern| pattern.names == ["*"] && pattern.namespaces != ["*"]));
    }
}
