//! What a person would be asked for an action, and what they would get: the policy, told beforehand. Nothing is raised,
//! recorded or changed.

use chrono::{DateTime, Utc};

use crate::action::{Action, ActionPattern};
use crate::server::app::App;
use crate::server::challenge::MOST_ACTIONS;
use crate::server::failure::Failure;
use crate::server::identity::Identity;
use crate::server::policy::{Decision, Policy, Request, Requirement};
use crate::server::store::GrantRecord;
use crate::wire::challenge::{ChallengeRequest, GrantTerms};
use crate::wire::explain::{Explained, Explanation, NamedRule, Protection};
use crate::wire::review::Extra;

/// More verbs than this nobody reads.
const MOST_VERBS: usize = 8;
/// A name that no pattern means in particular.
const ANOTHER: &str = "another-one-than-this";

/// Explains what `asker` would be asked for the actions of `request`. Conditions over an object that is not there yet
/// count as met.
pub async fn explain(
    app: &App,
    asker: &Identity,
    request: ChallengeRequest,
    now: DateTime<Utc>,
) -> Result<Explanation, Failure> {
    if request.actions.is_empty() || request.actions.len() > MOST_ACTIONS {
        return Err(Failure::bad_request(format!("name between 1 and {MOST_ACTIONS} actions")));
    }
    let held: Vec<GrantRecord> = app
        .store
        .grants(Some(&asker.user), now)
        .await?
        .into_iter()
        .map(|grant| grant.document)
        .filter(|grant| grant.is_live(now) && grant.has_uses())
        .collect();
    let (policy, groups) = (app.policy(), asker.cluster_groups());
    let mut actions = Vec::new();
    for action in request.actions {
        let action = action.checked().map_err(|error| Failure::bad_request(error.to_string()))?;
        actions.push(explained(&policy, &asker.user, &groups, &held, action));
    }
    Ok(Explanation {
        user: asker.user.clone(),
        server_time: now,
        can_step_up: app.can_step_up(&asker.user, &groups),
        actions,
    })
}

fn explained(policy: &Policy, user: &str, groups: &[String], held: &[GrantRecord], action: Action) -> Explained {
    let extra = Extra::new();
    let request = Request { user, groups, extra: &extra, action: &action, object: None, old_object: None };
    let (requirement, recorded) = match policy.decide(&request) {
        Decision::Unprotected => (None, Vec::new()),
        Decision::Audit(rules) => (None, rules),
        Decision::Protected { requirement, would_ask } => (Some(requirement), would_ask),
    };
    Explained {
        protection: requirement.map(|requirement| protection(policy, held, &requirement, &action)),
        recorded_by: recorded.iter().map(|rule| rule.name.clone()).collect(),
        action,
    }
}

fn protection(policy: &Policy, held: &[GrantRecord], requirement: &Requirement, action: &Action) -> Protection {
    let rules = policy.rules().iter().filter(|rule| requirement.rules.contains(&rule.name));
    let patterns: Vec<&ActionPattern> = rules.clone().flat_map(|rule| &rule.actions).collect();
    Protection {
        rules: rules.map(|rule| NamedRule { name: rule.name.clone(), description: rule.description.clone() }).collect(),
        acr_values: requirement.acr_values.clone(),
        max_age: requirement.max_age.map(|age| age.as_secs()),
        reason: requirement.wire_reason(),
        grant: GrantTerms {
            ttl: requirement.ttl.as_secs(),
            uses: requirement.uses,
            covers: requirement.covers.clone(),
            groups: requirement.groups.clone(),
            irrevocable: requirement.irrevocable,
        },
        not_covered: left_out(&patterns, &requirement.permits, action),
        covered_by: held.iter().find(|grant| grant.covers(requirement, action)).map(|grant| grant.grant.id.clone()),
    }
}

/// What `rules` protect near `action` and a grant with `permits` would not open: other objects of the kind, other
/// namespaces, and other things to do to the same objects.
fn left_out(rules: &[&ActionPattern], permits: &[ActionPattern], action: &Action) -> Vec<String> {
    let is_permitted = |action: &Action| permits.iter().any(|pattern| pattern.permits(action));
    let is_protected = |action: &Action| rules.iter().any(|pattern| pattern.protects(action));
    let mut left_out = Vec::new();
    let (verb, resource) = (&action.verb, action.full_resource());
    let is_namespace = action.group.is_empty() && action.resource == "namespaces";
    if let (Some(name), None) = (&action.name, &action.path) {
        let other = Action { name: Some(ANOTHER.to_owned()), ..action.clone() }.normalized();
        if !is_permitted(&other) && names_others(rules, name) {
            left_out.push(format!("{verb} {resource} other than {name}"));
        }
    }
    if let (Some(namespace), false) = (&action.namespace, is_namespace) {
        let elsewhere = Action { namespace: Some(ANOTHER.to_owned()), ..action.clone() };
        if !is_permitted(&elsewhere) && rules.iter().any(|rule| is_wider(&rule.namespaces, namespace)) {
            left_out.push(format!("{verb} {resource} in other namespaces than {namespace}"));
        }
    }
    let mut verbs = 0;
    for other in verbs_of(rules) {
        // What is done to one object, and what is done to a collection, each as clients ask for it.
        let collection = matches!(other.as_str(), "list" | "watch" | "deletecollection");
        let name = if collection { None } else { action.name.clone() };
        if action.path.is_none() && action.subresource.is_none() && !collection && name.is_none() && other != "create" {
            continue;
        }
        let near = Action { verb: other, name, ..action.clone() }.normalized();
        let near = if is_namespace && collection { Action { namespace: None, ..near } } else { near };
        if near.verb != *verb && is_protected(&near) && !is_permitted(&near) && verbs < MOST_VERBS {
            verbs += 1;
            left_out.push(near.to_string());
        }
    }
    left_out
}

/// Verbs that the patterns protect, plainly or by implication.
fn verbs_of(rules: &[&ActionPattern]) -> Vec<String> {
    let implied = |verb: &str| -> &'static [&'static str] {
        match verb {
            "get" => &["get", "list", "watch"],
            "list" | "watch" => &["list", "watch"],
            "update" | "patch" => &["update", "patch"],
            "delete" => &["delete", "deletecollection"],
            "*" => &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
            _ => &[],
        }
    };
    let mut verbs: Vec<String> = Vec::new();
    for verb in rules.iter().flat_map(|rule| &rule.verbs) {
        let plain = (verb != "*").then(|| verb.clone());
        for verb in plain.into_iter().chain(implied(verb).iter().map(ToString::to_string)) {
            if !verbs.contains(&verb) {
                verbs.push(verb);
            }
        }
    }
    verbs
}

/// Whether the patterns are about more objects than the one called `name`.
fn names_others(rules: &[&ActionPattern], name: &str) -> bool {
    rules.iter().any(|rule| is_wider(&rule.names, name))
}

fn is_wider(globs: &[String], one: &str) -> bool {
    globs.iter().any(|glob| glob.strip_prefix('=').unwrap_or(glob) != one)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pattern(value: Value) -> ActionPattern {
        serde_json::from_value(value).unwrap()
    }

    fn action(verb: &str, resource: &str, namespace: &str, name: Option<&str>) -> Action {
        let namespace = (resource != "namespaces").then(|| namespace.to_owned());
        Action {
            verb: verb.into(),
            group: String::new(),
            resource: resource.into(),
            subresource: None,
            namespace,
            name: name.map(Into::into),
            path: None,
        }
        .normalized()
    }

    #[test]
    fn one_object_leaves_its_neighbours_out() {
        let rule = pattern(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}));
        let read = action("get", "secrets", "payments", Some("db"));
        let told = left_out(&[&rule], &[ActionPattern::exactly(&read)], &read);
        assert_eq!(
            told,
            [
                "get secrets other than db",
                "get secrets in other namespaces than payments",
                "list secrets -n payments",
                "watch secrets -n payments"
            ]
        );
    }

    #[test]
    fn a_namespace_is_its_own_namespace() {
        let rule =
            pattern(json!({"verbs": ["delete"], "apiGroups": [""], "resources": ["namespaces"], "names": ["prod*"]}));
        let delete = action("delete", "namespaces", "", Some("prod"));
        let told = left_out(&[&rule], &[ActionPattern::exactly(&delete)], &delete);
        assert_eq!(told, ["delete namespaces other than prod", "deletecollection namespaces"]);
    }

    #[test]
    fn a_grant_for_the_whole_rule_leaves_nothing_plain_out() {
        let rule = pattern(json!({"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"]}));
        let update = action("patch", "configmaps", "dev", Some("a"));
        assert_eq!(left_out(&[&rule], std::slice::from_ref(&rule), &update), [""; 0]);
    }

    #[test]
    fn the_only_object_of_a_rule_has_no_neighbours() {
        let rule = pattern(json!({"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"],
            "names": ["a"], "namespaces": ["dev"]}));
        let update = action("patch", "configmaps", "dev", Some("a"));
        assert_eq!(left_out(&[&rule], &[ActionPattern::exactly(&update)], &update), [""; 0]);
    }
}
