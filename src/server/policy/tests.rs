#![allow(clippy::unwrap_used, clippy::format_push_string)]

use serde_json::value::to_raw_value;

use super::*;
use crate::server::config::{Level, Mode};

fn levels() -> Levels {
    let level = |name: &str, acr: &[&str]| Level {
        name: name.to_owned(),
        acr_values: acr.iter().map(ToString::to_string).collect(),
    };
    Levels {
        providers: BTreeMap::from([(
            "corp".to_owned(),
            vec![
                level("pwd", &["urn:stepup:pwd"]),
                level("mfa", &["urn:stepup:mfa", "urn:stepup:otp"]),
                level("hwk", &["urn:stepup:hwk"]),
            ],
        )]),
        max_ttl: Duration::from_mins(15),
        mode: Mode::Webhooks,
        authorization: true,
    }
}

#[test]
fn without_an_authorizer_it_is_said_what_does_not_hold() {
    let text = r#"
rules:
- name: secrets
  actions: [{verbs: [get, delete], apiGroups: [""], resources: [secrets]}]
  require: {maxAge: 5m}
- name: deletions
  actions: [{verbs: [delete, connect], apiGroups: ["*"], resources: [namespaces, pods/exec]}]
  require: {maxAge: 5m}
- name: paths
  actions: [{verbs: [get], nonResourceURLs: [/metrics]}]
  require: {maxAge: 5m}
- name: everything
  actions: [{verbs: ["*"], apiGroups: [apps], resources: ["*"]}]
  require: {maxAge: 5m}
- name: become-admin
  actions: [{verbs: [assume], apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], names: [admin]}]
  require: {maxAge: 5m}
  grant: {groups: ["stepup:admin"]}
"#;
    let told = |authorization: bool| {
        let levels = Levels { authorization, ..levels() };
        let policy = Policy::parse(text, "policy.yaml", &levels).unwrap();
        policy.warnings().iter().filter(|warning| warning.contains("webhooks.authorization")).cloned().collect()
    };
    assert_eq!(told(true), Vec::<String>::new());
    let told: Vec<String> = told(false);
    let starts = [
        "rule `secrets` does not hold for get, list, watch of secrets: ",
        "rule `paths` does not hold for /metrics: ",
        "rule `everything` does not hold for reads and special verbs of *: ",
        "rule `become-admin`: stepup:admin cannot be taken away before the token expires: ",
        "rule `guardrails` does not hold for create, delete, deletecollection, patch, update of admissionregistration.k8s.io; ",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start), "{told}");
    }
}

fn policy(text: &str) -> Policy {
    Policy::parse(text, "policy.yaml", &levels()).unwrap()
}

fn errors(text: &str) -> String {
    Policy::parse(text, "policy.yaml", &levels()).unwrap_err().to_string()
}

/// `delete namespaces/prod`, `list secrets -A`, `patch apps deployments/scale -n prod web`.
fn action(text: &str) -> Action {
    let mut words = text.split_whitespace();
    let mut action = Action::new(words.next().unwrap(), "", "");
    while let Some(word) = words.next() {
        match word {
            "-n" => action.namespace = words.next().map(ToOwned::to_owned),
            "-A" => {}
            path if path.starts_with('/') => action.path = Some(path.to_owned()),
            resource if action.resource.is_empty() => {
                let (resource, subresource) = match resource.split_once('/') {
                    Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
                    None => (resource, None),
                };
                action.subresource = subresource;
                let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
                action.resource = resource.to_owned();
                action.group = group.to_owned();
            }
            name => action.name = Some(name.to_owned()),
        }
    }
    action.normalized()
}

fn decide<'p>(policy: &'p Policy, user: &str, groups: &[&str], text: &str) -> Decision<'p> {
    let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
    let (action, extra) = (action(text), Extra::new());
    policy.decide(&Request { user, groups: &groups, extra: &extra, action: &action, object: None, old_object: None })
}

fn rules_for(policy: &Policy, user: &str, groups: &[&str], text: &str) -> Vec<String> {
    match decide(policy, user, groups, text) {
        Decision::Protected { requirement, .. } => requirement.rules,
        Decision::Audit(rules) => rules.iter().map(|rule| format!("audit {}", rule.name)).collect(),
        Decision::Unprotected => vec![],
    }
}

fn requirement(policy: &Policy, text: &str) -> Requirement {
    match decide(policy, "alice", &[], text) {
        Decision::Protected { requirement, .. } => requirement,
        other => panic!("{text}: {other:?}"),
    }
}

const CASES: &str = r#"
rules:
- name: delete-namespace
  actions: [{verbs: [delete], apiGroups: [""], resources: [namespaces], names: [prod, "prod-*"]}]
- name: read-secrets
  actions: [{verbs: [get], apiGroups: [""], resources: [secrets], namespaces: [pay]}]
- name: network-policies
  actions: [{verbs: [create, update, delete], apiGroups: [policy.networking.k8s.io], resources: [adminnetworkpolicies]}]
- name: roll-out
  actions: [{verbs: [update], apiGroups: [apps], resources: [deployments, deployments/scale], namespaces: [prod], names: [web]}]
- name: exec
  actions: [{verbs: [connect], apiGroups: [""], resources: [pods/exec, pods/attach], namespaces: [pay]}]
- name: profiles
  actions: [{verbs: [get], nonResourceURLs: [/debug/*]}]
- name: nodes
  subjects: {users: ["system:node:*"]}
  actions: [{verbs: [delete], apiGroups: [""], resources: [nodes]}]
- name: robots
  subjects: {groups: ["system:serviceaccounts:ci"], exclude: {users: ["system:serviceaccount:ci:trusted"]}}
  actions: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: [prod]}]
- name: masters
  subjects: {groups: ["system:masters"]}
  actions: [{verbs: [delete], apiGroups: [""], resources: [persistentvolumes]}]
- name: by-name
  subjects: {users: [root], groups: [sre]}
  actions: [{verbs: [delete], apiGroups: [""], resources: [persistentvolumes]}]
"#;

#[test]
fn what_is_protected_from_whom() {
    let policy = policy(CASES);
    let service_accounts = ["system:serviceaccounts", "system:serviceaccounts:ci", "system:authenticated"];
    for (user, groups, text, rules) in [
        // Every request that touches a protected object, whatever its form.
        ("alice", &[][..], "delete namespaces prod", &["delete-namespace"][..]),
        ("alice", &[], "delete namespaces prod-eu", &["delete-namespace"]),
        ("alice", &[], "delete namespaces dev", &[]),
        ("alice", &[], "deletecollection namespaces", &["delete-namespace"]),
        ("alice", &[], "get namespaces prod", &[]),
        ("alice", &[], "get secrets -n pay db", &["read-secrets"]),
        ("alice", &[], "list secrets -n pay", &["read-secrets"]),
        ("alice", &[], "watch secrets -n pay", &["read-secrets"]),
        ("alice", &[], "list secrets -A", &["read-secrets"]),
        ("alice", &[], "watch secrets -A", &["read-secrets"]),
        ("alice", &[], "list secrets -n dev", &[]),
        ("alice", &[], "get secrets -n dev db", &[]),
        ("alice", &[], "patch adminnetworkpolicies.policy.networking.k8s.io deny", &["network-policies"]),
        ("alice", &[], "create adminnetworkpolicies.policy.networking.k8s.io", &["network-policies"]),
        ("alice", &[], "patch deployments.apps/scale -n prod web", &["roll-out"]),
        ("alice", &[], "patch deployments.apps -n prod web", &["roll-out"]),
        ("alice", &[], "patch deployments.apps -n prod api", &[]),
        ("alice", &[], "patch deployments.apps/status -n prod web", &[]),
        ("alice", &[], "create pods/exec -n pay api-0", &["exec"]),
        ("alice", &[], "get pods/attach -n pay api-0", &["exec"]),
        ("alice", &[], "create pods/exec -n dev api-0", &[]),
        ("alice", &[], "get /debug/pprof", &["profiles"]),
        ("alice", &[], "post /debug/pprof", &["profiles"]),
        // What is answered with a protected object.
        ("alice", &[], "patch secrets -n pay db", &["read-secrets"]),
        ("alice", &[], "delete secrets -n pay db", &["read-secrets"]),
        ("alice", &[], "deletecollection secrets -A", &["read-secrets"]),
        ("alice", &[], "create secrets -n pay db", &[]),
        ("alice", &[], "get /metrics", &[]),
        // Rules are about people.
        (
            "system:serviceaccount:kube-system:namespace-controller",
            &["system:serviceaccounts"],
            "delete namespaces prod",
            &[],
        ),
        ("system:kube-controller-manager", &["system:authenticated"], "list secrets -A", &[]),
        ("system:apiserver", &["system:masters"], "get secrets -n pay db", &[]),
        ("system:node:a", &["system:nodes"], "delete nodes b", &["nodes"]),
        ("alice", &[], "delete nodes b", &[]),
        ("system:serviceaccount:ci:deployer", &service_accounts, "create configmaps -n prod x", &["robots"]),
        ("system:serviceaccount:ci:trusted", &service_accounts, "create configmaps -n prod x", &[]),
        ("system:serviceaccount:ci:deployer", &service_accounts, "create configmaps -n dev x", &[]),
        // Members of system:masters, only when they are named.
        ("admin", &["system:masters"], "delete namespaces prod", &[]),
        ("admin", &["system:masters"], "delete persistentvolumes v", &["masters"]),
        ("root", &["system:masters"], "delete persistentvolumes v", &["masters", "by-name"]),
        ("alice", &["sre"], "delete persistentvolumes v", &["by-name"]),
        ("admin", &["system:masters", "sre"], "delete persistentvolumes v", &["masters"]),
        ("alice", &["dev"], "delete persistentvolumes v", &[]),
        // What could switch us off.
        ("alice", &[], "delete validatingwebhookconfigurations.admissionregistration.k8s.io x", &["guardrails"]),
        ("alice", &[], "patch mutatingadmissionpolicybindings.admissionregistration.k8s.io x", &["guardrails"]),
        ("alice", &[], "get validatingwebhookconfigurations.admissionregistration.k8s.io x", &[]),
        ("alice", &[], "impersonate userextras.authentication.k8s.io/scopes x", &["guardrails"]),
        ("alice", &[], "impersonate:user-info userextras.authentication.k8s.io/scopes x", &["guardrails"]),
        ("alice", &[], "impersonate users bob", &[]),
        ("alice", &[], "impersonate users system:admin", &["guardrails"]),
        ("alice", &[], "impersonate groups system:masters", &["guardrails"]),
        ("alice", &[], "impersonate groups stepup:cluster-admin", &["guardrails"]),
        ("alice", &[], "impersonate groups developers", &[]),
        ("alice", &[], "impersonate serviceaccounts -n kube-system namespace-controller", &["guardrails"]),
        ("alice", &[], "impersonate:user-info groups.authentication.k8s.io *", &["guardrails"]),
        ("alice", &[], "impersonate:user-info groups.authentication.k8s.io developers", &[]),
        ("alice", &[], "impersonate:arbitrary-node nodes.authentication.k8s.io a", &["guardrails"]),
        ("alice", &[], "impersonate-on:user-info:get pods -n a b", &[]),
        ("alice", &[], "impersonate:serviceaccount serviceaccounts.authentication.k8s.io -n a b", &["guardrails"]),
        ("alice", &[], "get serviceaccounts -n a b", &[]),
        ("system:serviceaccount:a:b", &[], "patch validatingwebhookconfigurations.admissionregistration.k8s.io x", &[]),
    ] {
        assert_eq!(rules_for(&policy, user, groups, text), rules, "{user} {groups:?}: {text}");
    }
}

#[test]
fn everybody_is_not_a_way_to_name_system_users() {
    for subjects in
        [r#"{users: ["*"]}"#, r#"{groups: ["*"]}"#, r#"{groups: ["system:authenticated"]}"#, r#"{users: ["?ystem:*"]}"#]
    {
        let policy = policy(&format!(
            "rules: [{{name: a, subjects: {subjects}, actions: [{{verbs: ['*'], apiGroups: ['*'], resources: ['*']}}]}}]"
        ));
        let groups = ["system:authenticated", "system:nodes"];
        assert!(rules_for(&policy, "system:node:a", &groups, "delete pods -n a b").is_empty(), "{subjects}");
        assert!(rules_for(&policy, "admin", &["system:masters", groups[0]], "delete pods -n a b").is_empty());
    }
}

#[test]
fn a_machine_may_be_named_to_the_letter() {
    let rules = |subjects: &str, user: &str, groups: &[&str]| {
        let policy = policy(&format!(
            "rules: [{{name: a, subjects: {subjects}, actions: [{{verbs: ['*'], apiGroups: ['*'], resources: ['*']}}]}}]"
        ));
        rules_for(&policy, user, groups, "delete pods -n a b").len()
    };
    let robot = "system:serviceaccount:ci:x";
    assert_eq!(rules(r#"{users: ["=system:serviceaccount:ci:x"]}"#, robot, &[]), 1);
    assert_eq!(rules(r#"{groups: ["=system:serviceaccounts:ci"]}"#, robot, &["system:serviceaccounts:ci"]), 1);
    assert_eq!(rules(r#"{groups: ["=system:masters"]}"#, "admin", &["system:masters"]), 1);
    assert_eq!(rules(r#"{groups: ["=system:masters"]}"#, "alice", &["dev"]), 0);
    assert_eq!(rules(r#"{groups: ["=system:authenticated"]}"#, robot, &["system:authenticated"]), 0);
}

#[test]
fn all_rules_about_a_request_must_be_satisfied() {
    let policy = policy(
        r#"
defaults: {require: {acr: [mfa], maxAge: 10m}, grant: {ttl: 10m, uses: unlimited, covers: rule}}
rules:
- name: one
  description: read payment secrets
  actions: [{verbs: [get, list], apiGroups: [""], resources: [secrets], namespaces: [pay]}]
  require: {reason: {pattern: '[A-Z]+-\d+', hint: a ticket}}
  grant: {groups: ["stepup:b", "stepup:a"]}
- name: two
  description: read production secrets
  actions: [{verbs: [get, list], apiGroups: [""], resources: [secrets], namespaces: [prod]}]
  require: {acr: [hwk, pwd], maxAge: 1m, reason: {required: true}}
  grant: {ttl: 1m, uses: 3, covers: namespace, groups: ["stepup:a"]}
- name: three
  actions: [{verbs: [list], apiGroups: [""], resources: [secrets], namespaces: [other]}]
  enforcement: audit
"#,
    );
    let one = requirement(&policy, "get secrets -n pay db");
    assert_eq!(one.rules, ["one"]);
    assert_eq!(one.description, "read payment secrets");
    assert_eq!(one.acr_values, ["urn:stepup:mfa", "urn:stepup:otp", "urn:stepup:hwk"]);
    assert_eq!(one.acr_values_for("corp"), one.acr_values);
    assert!(one.acr_values_for("elsewhere").is_empty());
    assert_eq!((one.max_age, one.ttl, one.uses), (Some(Duration::from_mins(10)), Duration::from_mins(10), None));
    assert_eq!(one.covers, ["get,list secrets -n pay"]);
    assert_eq!(one.permits, policy.rules()[0].actions);
    let reason = one.wire_reason().unwrap();
    assert_eq!((reason.pattern.as_deref(), reason.hint.as_deref()), (Some(r"[A-Z]+-\d+"), Some("a ticket")));
    for (reason, good) in [("OPS-1", true), ("see OPS-1", false), ("OPS-1\n", false), ("", false), ("  ", false)] {
        assert_eq!(one.reason.as_ref().unwrap().accepts(reason), good, "{reason:?}");
    }

    let Decision::Protected { requirement: all, would_ask } = decide(&policy, "alice", &[], "list secrets -A") else {
        panic!("a list of everything touches both");
    };
    assert_eq!(all.rules, ["one", "two"]);
    assert_eq!(all.description, "read payment secrets; read production secrets");
    assert_eq!(all.acr_values, ["urn:stepup:mfa", "urn:stepup:otp", "urn:stepup:hwk"]);
    assert_eq!((all.max_age, all.ttl, all.uses), (Some(Duration::from_mins(1)), Duration::from_mins(1), Some(3)));
    assert_eq!(all.groups, ["stepup:b", "stepup:a"]);
    assert!(all.reason.as_ref().unwrap().accepts("OPS-1") && !all.reason.as_ref().unwrap().accepts("because"));
    assert!(all.permits.iter().any(|pattern| pattern.permits(&action("list secrets -A"))));
    assert_eq!(would_ask.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["three"]);

    assert!(
        matches!(decide(&policy, "alice", &[], "list secrets -n other"), Decision::Audit(rules) if rules.len() == 1)
    );
    assert_eq!(policy.longest_ttl(), Duration::from_mins(10));
}

#[test]
fn rules_that_contradict_each_other_cannot_be_satisfied() {
    let policy = policy(
        r#"
rules:
- {name: a, actions: [{verbs: [get], apiGroups: [""], resources: [secrets]}], require: {acr: ["urn:x"]}}
- {name: b, actions: [{verbs: [get], apiGroups: [""], resources: [secrets]}], require: {acr: ["urn:y"]}}
"#,
    );
    let requirement = requirement(&policy, "get secrets -n a b");
    assert_eq!(requirement.rules, ["a", "b"]);
    assert!(requirement.acr_values.is_empty() && requirement.acr_values_for("corp").is_empty());
}

#[test]
fn a_higher_level_satisfies_a_lower_one_and_the_strictest_is_the_default() {
    let policy = policy(
        r#"
rules:
- {name: low, actions: [{verbs: [get], apiGroups: [""], resources: [a]}], require: {acr: [pwd]}}
- {name: one-value, actions: [{verbs: [get], apiGroups: [""], resources: [b]}], require: {acr: ["urn:stepup:otp"]}}
- {name: unsaid, actions: [{verbs: [get], apiGroups: [""], resources: [c]}]}
"#,
    );
    let low = requirement(&policy, "get a x");
    assert_eq!(low.acr_values, ["urn:stepup:pwd", "urn:stepup:mfa", "urn:stepup:otp", "urn:stepup:hwk"]);
    assert_eq!(requirement(&policy, "get b x").acr_values, ["urn:stepup:otp"]);
    let unsaid = requirement(&policy, "get c x");
    assert_eq!(unsaid.acr_values, ["urn:stepup:hwk"]);
    assert_eq!((unsaid.ttl, unsaid.uses, unsaid.max_age), (Duration::from_mins(5), Some(1), None));
}

#[test]
fn a_level_of_one_provider_says_nothing_at_another() {
    let mut levels = levels();
    let weak = Level { name: "mfa".to_owned(), acr_values: vec!["1".to_owned()] };
    levels.providers.insert("other".to_owned(), vec![weak]);
    let text = "rules: [{name: a, actions: [{verbs: [get], apiGroups: [''], resources: [a]}], require: {acr: [mfa]}}]";
    let policy = Policy::parse(text, "p", &levels).unwrap();
    let requirement = requirement(&policy, "get a x");
    assert_eq!(requirement.acr_values_for("other"), ["1"]);
    assert!(!requirement.acr_values_for("corp").contains(&"1".to_owned()));
    assert_eq!(requirement.acr_values, ["urn:stepup:mfa", "urn:stepup:otp", "urn:stepup:hwk", "1"]);
}

#[test]
fn what_one_step_up_covers() {
    let policy = |covers: &str| {
        policy(&format!(
            "rules: [{{name: a, actions: [{{verbs: [get, delete], apiGroups: ['', apps], resources: [secrets, deployments], \
             namespaces: [prod, pay]}}], grant: {{covers: {covers}}}}}]"
        ))
    };
    for (covers, asked, permitted, not_permitted) in [
        (
            "object",
            "delete secrets -n prod a",
            &["delete secrets -n prod a"][..],
            &["delete secrets -n prod b", "get secrets -n prod a"][..],
        ),
        ("object", "list secrets -n prod", &["list secrets -n prod"], &["get secrets -n prod a", "list secrets -A"]),
        (
            "kind",
            "delete secrets -n prod a",
            &["delete secrets -n prod b"],
            &["delete secrets -n pay a", "get secrets -n prod a"],
        ),
        ("kind", "list secrets -n prod", &["get secrets -n prod a", "watch secrets -n prod"], &["list secrets -A"]),
        ("kind", "list secrets -A", &["list secrets -A", "get secrets -n pay a"], &["delete secrets -n pay a"]),
        (
            "namespace",
            "delete secrets -n prod a",
            &["get deployments.apps -n prod b"],
            &["get secrets -n pay a", "patch secrets -n prod a"],
        ),
        (
            "namespace",
            "list secrets -A",
            &["list secrets -A", "get secrets -n pay a"],
            &["delete secrets -n pay a", "get deployments.apps -n prod a"],
        ),
        ("rule", "delete secrets -n prod a", &["get deployments.apps -n pay b"], &["delete secrets -n dev a"]),
        ("rule", "list secrets -A", &["list secrets -A"], &["watch secrets -A"]),
        ("rule", "list secrets -n pay", &["list secrets -n pay"], &["watch secrets -n pay"]),
        (
            "namespace",
            "deletecollection secrets -n pay",
            &["deletecollection secrets -n pay"],
            &["deletecollection secrets -n prod"],
        ),
    ] {
        let policy = policy(covers);
        let requirement = requirement(&policy, asked);
        let permits = |text: &str| requirement.permits.iter().any(|pattern| pattern.permits(&action(text)));
        assert!(permits(asked), "{covers}: {asked}");
        for text in permitted {
            assert!(permits(text), "{covers}: {asked} should permit {text}");
        }
        for text in not_permitted {
            assert!(!permits(text), "{covers}: {asked} should not permit {text}");
        }
        assert!(!requirement.covers.is_empty());
    }
}

#[test]
fn what_covers_a_namespace_is_what_the_rule_says_there() {
    let policy = policy(
        "rules: [{name: a, grant: {covers: namespace}, actions: [\
         {verbs: [delete], apiGroups: [''], resources: [pods], namespaces: ['prod*']}, \
         {verbs: [get], apiGroups: [''], resources: [secrets], namespaces: [dev]}, \
         {verbs: [update], apiGroups: [''], resources: [configmaps]}]}]",
    );
    let requirement = requirement(&policy, "delete pods -n prod a");
    assert_eq!(requirement.covers, ["delete pods -n prod", "update configmaps -n prod"]);
    assert!(!requirement.opens(&action("get secrets -n prod db")), "the rule is about those of dev");
}

#[test]
fn a_condition_decides_and_whatever_goes_wrong_protects() {
    let policy = policy(
        r#"
rules:
- name: to-zero
  actions: [{verbs: [update], apiGroups: [apps], resources: [deployments]}]
  condition: object.spec.replicas == 0 && oldObject.spec.replicas > 0
- name: not-mine
  actions: [{verbs: [get], apiGroups: [""], resources: [secrets]}]
  condition: action.namespace != user.username
- name: careless
  actions: [{verbs: [get], apiGroups: [""], resources: [configmaps]}]
  condition: has(object.metadata.labels.secret)
- name: no-bool
  actions: [{verbs: [get], apiGroups: [""], resources: [pods]}]
  condition: user.username
  enforcement: audit
"#,
    );
    let raw = |replicas: i32| to_raw_value(&serde_json::json!({"spec": {"replicas": replicas}})).unwrap();
    let (zero, three) = (raw(0), raw(3));
    let odd = to_raw_value(&serde_json::json!({"spec": null})).unwrap();
    let (patch, extra) = (action("patch deployments.apps -n a web"), Extra::new());
    let mut request =
        Request { user: "alice", groups: &[], extra: &extra, action: &patch, object: None, old_object: None };
    for (object, old, protected, faults) in [
        (Some(&zero), Some(&three), true, 0),
        (Some(&three), Some(&zero), false, 0),
        (Some(&odd), Some(&three), true, 1),
        (Some(&zero), None, true, 1),
        (None, None, true, 1),
    ] {
        (request.object, request.old_object) = (object.map(AsRef::as_ref), old.map(AsRef::as_ref));
        match policy.decide(&request) {
            Decision::Protected { requirement, .. } => {
                assert_eq!((true, requirement.faults.len()), (protected, faults));
            }
            other => assert!(!protected, "{other:?}"),
        }
    }
    assert!(rules_for(&policy, "alice", &[], "get secrets -n alice a").is_empty());
    assert_eq!(rules_for(&policy, "alice", &[], "get secrets -n bob a"), ["not-mine"]);
    assert_eq!(rules_for(&policy, "alice", &[], "list secrets -A"), ["not-mine"]);
    assert_eq!(rules_for(&policy, "alice", &[], "get configmaps -n a b"), ["careless"]);
    let Decision::Audit(rules) = decide(&policy, "alice", &[], "get pods -n a b") else { panic!() };
    assert!(rules[0].fault.as_ref().unwrap().contains("not true or false"));
}

#[test]
fn mistakes_are_told_with_their_place_and_what_to_do() {
    let text = r#"
defaults:
  grants: {ttl: 5m}
guardrails: onn
rules:
- name: a
  action: []
- name: a
  actions:
  - {verbs: [gett, exec, Delete], apiGroups: [""], resources: [Pods, dep*, deployments.apps, a/b/c]}
  - {verbs: [get], resources: [pods]}
  - {verbs: [get], nonResourceURLs: [metrics], namespaces: [a]}
  - {verbs: [], apiGroups: [apps/v1], resources: [x], names: [], namespaces: ["a[bc]", ""]}
  condition: user.name =
  require: {acr: [mfaa], maxAge: 0s, reason: {pattern: "("}}
  grant: {ttl: 1h, uses: 0, covers: objects, groups: [admins]}
  enforcement: audits
- name: Bad Name
  subjects: {users: [], exclude: {user: [a]}}
  actions: [{verbs: [assume], apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], names: [admin]}]
- name: guardrails
  actions: [{verbs: [get], apiGroups: [""], resources: [pods]}]
  grant: {ttl: 0s, uses: many}
  require: {acr: []}
- just text
ruls: []
"#;
    let told = errors(text);
    for expected in [
        "policy.yaml:3:3: unknown key `grants` in `defaults`: did you mean `grant`?",
        "policy.yaml:4:13: `guardrails`: unknown value `onn`: it is one of enforce, audit, off",
        "`a.actions` is missing",
        "policy.yaml:7:3: unknown key `action` in `a`: did you mean `actions`?",
        "policy.yaml:8:9: `a.name`: there is another rule named `a`",
        "`gett`: unknown verb: did you mean `get`?",
        "`exec`: not a verb: write verbs [connect] and resources such as [pods/exec]",
        "`Delete`: unknown verb: did you mean `delete`?",
        "`Pods`: a resource is the plural in lower case",
        "`dep*`: a resource is written out",
        "`deployments.apps`: the resource without its group",
        "`a/b/c`: a resource is written `pods` or `pods/exec`",
        "name the API groups of the resources",
        "paths and resources do not mix",
        "`metrics`: a path begins with `/`",
        "name at least one verb",
        "`apps/v1`: the group without the version",
        "an empty list matches nothing",
        "only `*` and `?` are special",
        "not a CEL expression",
        "unknown level `mfaa`: did you mean `mfa`?",
        "a sign-in takes longer than this",
        "not a regular expression: unclosed group",
        "1h is longer than token.maxTtl of the configuration (15m)",
        "a grant that may be used 0 times is none",
        "unknown value `objects`: did you mean `object`?",
        "`admins`: a group that a grant adds begins with `stepup:`",
        "unknown value `audits`: did you mean `audit`?",
        "may have only the characters a-z, 0-9 and -",
        "the rule would be about nobody",
        "unknown key `user` in `Bad Name.subjects.exclude`: did you mean `users`?",
        "a role is assumed through groups",
        "the built-in rule has this name",
        "must be more than 0",
        "expected a number such as 1, or unlimited, not `many`",
        "name at least one level",
        "policy.yaml:25:3: `rules[4]` must be a mapping",
        "policy.yaml:26:1: unknown key `ruls`: did you mean `rules`?",
    ] {
        assert!(told.contains(expected), "{expected:?} is not in\n{told}");
    }
    assert!(told.lines().all(|line| line.starts_with("policy.yaml:")), "{told}");
    for text in ["", "[]", "rules", "rules: 5", "rules: [[]]", "\0", "a: b: c"] {
        assert!(errors(text).starts_with("policy.yaml:"), "{text:?}: {}", errors(text));
    }
    assert!(policy("rules: []\nguardrails: off").rules().is_empty());
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let mut levels = levels();
    levels
        .providers
        .insert("other".to_owned(), vec![Level { name: "low".to_owned(), acr_values: vec!["0".to_owned()] }]);
    let text = "guardrails: off\nrules: [{name: a, actions: [{verbs: [frobnicate], apiGroups: [''], resources: [a]}], \
                require: {acr: [mfa]}}]";
    let warnings = Policy::parse(text, "p", &levels).unwrap().warnings().join("\n");
    assert!(
        warnings.contains("frobnicate") && warnings.contains("at `other`") && warnings.contains("guardrails are off")
    );
}

/// Small numbers from a fixed seed (xorshift), so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn one<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn some(&mut self, list: &[&str]) -> Vec<String> {
        (0..=self.below(2)).map(|_| self.one(list).to_owned()).collect()
    }
}

const SOME_VERBS: [&str; 13] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "connect",
    "impersonate",
    "impersonate:user-info",
    "approve",
    "*",
];
const SOME_NAMES: [&str; 12] = ["a", "b", "ab", "abc", "prod", "prod-1", "é", "*", "a*", "*b", "prod-*", "a?c"];

fn random_pattern(dice: &mut Dice) -> ActionPattern {
    if dice.below(12) == 0 {
        return ActionPattern {
            verbs: dice.some(&SOME_VERBS),
            api_groups: vec![],
            resources: vec![],
            namespaces: vec!["*".into()],
            names: vec!["*".into()],
            non_resource_urls: dice.some(&["/a", "/a/*", "*", "/b?", "=/a*"]),
        };
    }
    // What the API server asks about in more than one way.
    let (groups, resources): (&[&str], &[&str]) = match dice.below(8) {
        0 => (&["", "authentication.k8s.io", "*"], &["users", "groups", "userextras/a", "userextras/*", "*", "*/a"]),
        1 => (&["certificates.k8s.io", "*"], &["signers", "*"]),
        2 => (&["", "*"], &["services/proxy", "pods/*", "*", "*/proxy"]),
        3 => (&["authorization.k8s.io", "*"], &["subjectaccessreviews", "*"]),
        _ => (&[], &[]),
    };
    if !groups.is_empty() {
        let mut names = dice.some(&["a", "a*", "b", "a/x", "a/*", "*", "system:node:a"]);
        names.truncate(1 + dice.below(2));
        return ActionPattern {
            verbs: dice.some(&SOME_VERBS),
            api_groups: dice.some(groups),
            resources: dice.some(resources),
            namespaces: if dice.below(4) == 0 { dice.some(&["a", "b*"]) } else { vec!["*".into()] },
            names,
            non_resource_urls: vec![],
        };
    }
    let resources = [
        "pods",
        "secrets",
        "namespaces",
        "pods/exec",
        "pods/*",
        "*",
        "*/exec",
        "*/*",
        "deployments/scale",
        "deployments",
    ];
    let globs = [&SOME_NAMES[..], &["=a*", "=b", "??", "*"]].concat();
    ActionPattern {
        verbs: dice.some(&SOME_VERBS),
        api_groups: dice.some(&["", "apps", "*"]),
        resources: dice.some(&resources),
        namespaces: dice.some(&globs),
        names: dice.some(&globs),
        non_resource_urls: vec![],
    }
}

fn random_action(dice: &mut Dice) -> Action {
    asked(dice).normalized()
}

/// As the API server asks.
fn asked(dice: &mut Dice) -> Action {
    let asked_in_many_ways: [(&str, &str, &[&str]); 12] = [
        ("impersonate", "users", &["a", "ab", "b", "system:node:a"]),
        ("impersonate", "groups", &["a", "b"]),
        ("impersonate:user-info", "users.authentication.k8s.io", &["a", "ab", "*"]),
        ("impersonate:user-info", "groups.authentication.k8s.io", &["a", "*"]),
        ("impersonate:arbitrary-node", "nodes.authentication.k8s.io", &["a", "*"]),
        ("impersonate:user-info", "userextras.authentication.k8s.io/a", &["a", "b"]),
        ("impersonate", "userextras.authentication.k8s.io/*", &["*"]),
        ("approve", "signers.certificates.k8s.io", &["a/x", "a/*", "b/x"]),
        ("connect", "services/proxy", &["a", "a:80", "https:a:443", "b:a"]),
        ("connect", "pods/proxy", &["a:80", "x:ab:1"]),
        ("create", "subjectaccessreviews.authorization.k8s.io", &[""]),
        ("impersonate-on:user-info:get", "pods", &["a"]),
    ];
    if dice.below(4) == 0 {
        let (verb, resource, names) = asked_in_many_ways[dice.below(asked_in_many_ways.len())];
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        return Action {
            subresource: Some(subresource.to_owned()),
            namespace: Some(dice.one(&["", "a", "b"]).to_owned()),
            name: Some(dice.one(names).to_owned()),
            ..Action::new(verb, group, resource)
        };
    }
    let path = (dice.below(12) == 0).then(|| dice.one(&["/a", "/a/b", "/b1", "/c", "/a*"]).to_owned());
    let resource = dice.one(&["pods", "secrets", "namespaces", "deployments"]);
    let subresource = dice.one(&["", "", "", "exec", "scale", "status"]).to_owned();
    let part = |dice: &mut Dice| (dice.below(3) > 0).then(|| dice.one(&SOME_NAMES).to_owned());
    Action {
        verb: dice.one(&SOME_VERBS[..12]).to_owned(),
        group: dice.one(&["", "", "apps", "batch"]).to_owned(),
        resource: if path.is_some() { String::new() } else { resource.to_owned() },
        subresource: Some(subresource),
        namespace: part(dice),
        name: part(dice),
        path,
    }
}

#[test]
fn the_index_finds_what_a_search_through_all_rules_finds() {
    let mut dice = Dice(0x5DEE_CE66_D1CE_4E5B);
    let mut found = 0;
    for _ in 0..60 {
        let patterns: Vec<_> = (0..40).map(|_| random_pattern(&mut dice)).collect();
        let mut index = Index::default();
        for (number, pattern) in patterns.iter().enumerate() {
            index.add(index::Entry { rule: u32::try_from(number).unwrap(), pattern: 0 }, pattern);
        }
        for _ in 0..200 {
            let action = random_action(&mut dice);
            let mut indexed = Vec::new();
            index.visit(&action, |entry| {
                if patterns[entry.rule as usize].protects(&action) {
                    indexed.push(entry.rule as usize);
                }
            });
            indexed.sort_unstable();
            indexed.dedup();
            let searched: Vec<_> = (0..patterns.len()).filter(|number| patterns[*number].protects(&action)).collect();
            assert_eq!(indexed, searched, "{action:?}");
            found += searched.len();
        }
    }
    assert!(found > 5_000, "{found}");
}

#[test]
fn a_decision_takes_as_long_with_many_rules_as_with_few() {
    let many = |rules: usize| {
        let mut text = "rules:\n".to_owned();
        for number in 0..rules {
            text += &format!(
                "- name: r{number}\n  actions: [{{verbs: [delete], apiGroups: [''], resources: [secrets], namespaces: \
                 [ns{number}, 'team-{number}-*'], names: [a, b]}}]\n"
            );
        }
        policy(&text)
    };
    let seen = |policy: &Policy, text: &str| {
        let mut seen = 0;
        policy.index.visit(&action(text), |_| seen += 1);
        seen
    };
    let (few, lots) = (many(10), many(2_000));
    for text in
        ["delete secrets -n ns7 a", "delete secrets -n team-7-x b", "delete secrets -n other a", "get pods -n ns7 a"]
    {
        assert_eq!(seen(&few, text), seen(&lots, text), "{text}");
        assert!(seen(&lots, text) <= 2);
    }
    assert_eq!(rules_for(&lots, "alice", &[], "delete secrets -n ns1999 a"), ["r1999"]);
}

/// The request of `action`, which need not be normalized, as the API server's CEL sees it: for the authorizer, and for
/// admission.
fn as_seen(user: &str, groups: &[String], action: &Action) -> (serde_json::Value, serde_json::Value) {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let mut review = serde_json::json!({"user": user, "groups": groups});
    if let Some(path) = &action.path {
        review["nonResourceAttributes"] = serde_json::json!({"path": path, "verb": action.verb});
    } else {
        review["resourceAttributes"] = serde_json::json!({
            "verb": action.verb, "group": action.group, "resource": action.resource, "version": "v1",
            "subresource": text(&action.subresource), "namespace": text(&action.namespace), "name": text(&action.name),
        });
    }
    let operation = match action.verb.as_str() {
        "create" => "CREATE",
        "update" | "patch" => "UPDATE",
        "connect" => "CONNECT",
        _ => "DELETE",
    };
    let mut admission = serde_json::json!({
        "operation": operation,
        "userInfo": {"username": user},
        "resource": {"group": action.group, "version": "v1", "resource": action.resource},
    });
    if !groups.is_empty() {
        admission["userInfo"]["groups"] = groups.into();
    }
    for (key, part) in [("subResource", &action.subresource), ("namespace", &action.namespace), ("name", &action.name)]
    {
        if let Some(part) = part.as_ref().filter(|part| !part.is_empty()) {
            admission[key] = part.as_str().into();
        }
    }
    (review, admission)
}

fn is_true(program: &cel::Program, request: serde_json::Value) -> bool {
    let mut context = condition::context();
    context.add_variable_from_value("request", condition::value_of(request));
    match program.execute(&context) {
        Ok(cel::Value::Bool(met)) => met,
        other => panic!("{other:?}"),
    }
}

/// As the API server matches `webhooks[].rules` (rules.Matcher in k8s.io/apiserver).
fn is_sent(rules: &[matching::AdmissionRule], admission: &serde_json::Value) -> bool {
    let has = |list: &[String], text: &str| list.iter().any(|item| item == "*" || item == text);
    let resource = admission["resource"]["resource"].as_str().unwrap();
    let subresource = admission["subResource"].as_str().unwrap_or_default();
    rules.iter().any(|rule| {
        rule.operations.contains(&admission["operation"].as_str().unwrap())
            && has(&rule.api_groups, admission["resource"]["group"].as_str().unwrap())
            && rule.resources.iter().any(|pattern| {
                let (left, right) = pattern.split_once('/').unwrap_or((pattern, ""));
                (left == "*" || left == resource) && (right == "*" || right == subresource)
            })
    })
}

const SOME_SUBJECTS: [&str; 8] = [
    "{}",
    r#"{"users": ["alice", "b*"]}"#,
    r#"{"groups": ["dev", "team-?"]}"#,
    r#"{"users": ["*"], "exclude": {"groups": ["oncall"], "users": ["bob"]}}"#,
    r#"{"users": ["system:serviceaccount:ci:*", "=system:node:a"]}"#,
    r#"{"groups": ["system:serviceaccounts:ci", "=system:masters"]}"#,
    r#"{"groups": ["system:*"], "exclude": {"users": ["system:node:*"]}}"#,
    r#"{"users": ["system:*"]}"#,
];

fn random_user(dice: &mut Dice) -> (&'static str, Vec<String>) {
    let users = ["alice", "bob", "ben", "eve", "system:node:a", "system:serviceaccount:ci:x", "system:kube-scheduler"];
    let groups = ["dev", "team-a", "oncall", "system:masters", "system:serviceaccounts:ci", "system:authenticated"];
    let count = dice.below(3);
    (dice.one(&users), (0..count).map(|_| dice.one(&groups).to_owned()).collect())
}

fn random_policy(dice: &mut Dice, rules: usize) -> Policy {
    let mut text = "guardrails: off\nrules:\n".to_owned();
    for number in 0..rules {
        let pattern = serde_json::to_string(&random_pattern(dice)).unwrap();
        let (subjects, enforcement) = (dice.one(&SOME_SUBJECTS), dice.one(&["enforce", "enforce", "audit"]));
        text +=
            &format!("- {{name: r{number}, subjects: {subjects}, actions: [{pattern}], enforcement: {enforcement}}}\n");
    }
    policy(&text)
}

/// A random action that has good chances with `pattern`, as the API server asks about it.
fn action_like(dice: &mut Dice, pattern: &ActionPattern) -> Action {
    let mut action = asked(dice);
    let one = |dice: &mut Dice, globs: &[String]| {
        let glob = &globs[dice.below(globs.len())];
        glob.strip_prefix('=').map_or_else(|| glob.replace('*', "x").replace('?', "a"), ToOwned::to_owned)
    };
    if action.path.is_some() || !pattern.non_resource_urls.is_empty() || dice.below(3) == 0 {
        return action;
    }
    if let Some(verb) = pattern.verbs.iter().find(|verb| *verb != "*") {
        action.verb.clone_from(verb);
    }
    action.group = pattern.api_groups[0].replace('*', "apps");
    let resource = pattern.resources[dice.below(pattern.resources.len())].replace('*', "pods");
    let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
    (action.resource, action.subresource) = (resource.to_owned(), Some(subresource.to_owned()));
    action.namespace = action.namespace.map(|_| one(dice, &pattern.namespaces));
    action.name = action.name.map(|_| one(dice, &pattern.names));
    action
}

#[test]
fn what_is_protected_reaches_us_and_little_else_does() {
    let mut dice = Dice(0x0DDB_1A5E_5BAD_5EED);
    let (mut protected, mut hidden, mut superfluous) = (0, 0, 0);
    for round in 0..16 {
        // Few rules are rendered to the letter; many are widened.
        let exact = round % 8 > 0;
        let policy = random_policy(&mut dice, if exact { 3 } else { 80 });
        let webhook = |matched: &matching::Matched| {
            assert!(matched.authorization().len() <= 8192 && matched.admission().len() <= 8192);
            let authorization = cel::Program::compile(matched.authorization()).unwrap();
            (authorization, cel::Program::compile(matched.admission()).unwrap(), matched.admission_rules().to_vec())
        };
        let (enforced, recorded) = (webhook(policy.matching().enforced()), webhook(policy.matching().recorded()));
        for _ in 0..220 {
            let (user, groups) = random_user(&mut dice);
            let pattern = policy.rules()[dice.below(policy.rules().len())].actions[0].clone();
            let mut asked = action_like(&mut dice, &pattern);
            if asked.verb == "connect" && !asked.is_connect() {
                continue;
            }
            if asked.verb == "deletecollection" {
                asked.name = None;
            }
            let action = asked.clone().normalized();
            // Nobody can write one.
            if action.resource == "userextras" && action.reaches_admission() {
                continue;
            }
            // A namespace is in itself, and only a connection's verb differs.
            asked.namespace.clone_from(&action.namespace);
            if action.is_connect() {
                asked.verb.clone_from(&action.verb);
            }
            let extra = Extra::new();
            let request =
                Request { user, groups: &groups, extra: &extra, action: &action, object: None, old_object: None };
            let decision = policy.decide(&request);
            let is_recorded = matches!(decision, Decision::Audit(_));
            let is_protected = matches!(decision, Decision::Protected { .. });
            let (as_review, as_admission) = as_seen(user, &groups, &asked);
            let reaches = |(authorization, admission, rules): &(cel::Program, cel::Program, Vec<_>)| {
                if action.reaches_admission() {
                    is_sent(rules, &as_admission) && is_true(admission, as_admission.clone())
                } else {
                    is_true(authorization, as_review.clone())
                }
            };
            let reaches_us = reaches(&enforced);
            let matched = policy.matching().enforced();
            if let Some(read) = action.read_of_changed() {
                // The authorizer is asked about it, too.
                let is_hidden =
                    matches!(policy.decide(&Request { action: &read, ..request }), Decision::Protected { .. });
                let is_asked = is_true(&enforced.0, as_review.clone());
                assert!(is_asked || !is_hidden, "{user} {groups:?} {asked:?}\n{matched:?}");
                hidden += usize::from(is_hidden && exact);
                superfluous += usize::from(is_asked && !is_hidden && exact && action.namespace.is_some());
            }
            assert!(reaches_us || !is_protected, "{user} {groups:?} {asked:?}\n{matched:?}");
            assert!(reaches_us || reaches(&recorded) || !is_recorded, "{user} {groups:?} {asked:?}");
            protected += usize::from(is_protected && exact);
            // Only made-up requests for one object in no namespace are taken for more than they are.
            superfluous += usize::from(reaches_us && !is_protected && exact && action.namespace.is_some());
        }
    }
    assert!(protected > 200 && hidden > 5, "{protected}, {hidden}");
    assert!(superfluous * 20 < protected, "{superfluous} of {protected}");
}

#[test]
fn a_revoked_role_is_asked_about_whatever_it_does() {
    let policy = policy("rules: []\nguardrails: off");
    let program = cel::Program::compile(policy.matching().enforced().authorization()).unwrap();
    for (groups, asked) in [(vec!["stepup:admin".to_owned()], true), (vec!["dev".to_owned()], false), (vec![], false)] {
        assert_eq!(is_true(&program, as_seen("alice", &groups, &action("get pods -n a b")).0), asked);
        assert_eq!(is_true(&program, as_seen("alice", &groups, &action("get /version")).0), asked);
    }
    assert!(policy.matching().enforced().admission_rules().is_empty());
}

#[test]
fn what_is_only_recorded_is_asked_about_apart() {
    let policy = policy(
        r#"
guardrails: off
rules:
- {name: asks, actions: [{verbs: [get, delete], apiGroups: [""], resources: [secrets]}]}
- {name: records, actions: [{verbs: [get, delete], apiGroups: [""], resources: [configmaps]}], enforcement: audit}
"#,
    );
    let (enforced, recorded) = (policy.matching().enforced(), policy.matching().recorded());
    let met = |expression: &str, review: &serde_json::Value| {
        is_true(&cel::Program::compile(expression).unwrap(), review.clone())
    };
    for (resource, of) in [("secrets", [true, false]), ("configmaps", [false, true]), ("pods", [false, false])] {
        let (review, _) = as_seen("alice", &[], &action(&format!("get {resource} -n a b")));
        let (_, admission) = as_seen("alice", &[], &action(&format!("delete {resource} -n a b")));
        assert_eq!([enforced, recorded].map(|matched| met(matched.authorization(), &review)), of, "{resource}");
        assert_eq!([enforced, recorded].map(|matched| met(matched.admission(), &admission)), of, "{resource}");
        assert_eq!(
            [enforced, recorded].map(|matched| is_sent(matched.admission_rules(), &admission)),
            of,
            "{resource}"
        );
    }
    // The end of an assumed role is enforced.
    let groups = ["stepup:admin".to_owned()];
    let (review, _) = as_seen("alice", &groups, &action("get pods -n a b"));
    assert_eq!([enforced, recorded].map(|matched| met(matched.authorization(), &review)), [true, false]);
}

#[test]
fn the_digest_follows_what_is_matched_and_nothing_else() {
    let digests = |actions: &str, rest: &str| {
        policy(&format!("rules: [{{name: a, actions: [{{{actions}}}], {rest}}}]")).matching().digests().clone()
    };
    let (delete, get) =
        ("verbs: [delete], apiGroups: [''], resources: [pods]", "verbs: [get], apiGroups: [''], resources: [pods]");
    assert_eq!(digests(delete, ""), digests(delete, "grant: {ttl: 1m}, description: other, condition: 'true'"));
    assert_ne!(digests(delete, ""), digests(get, ""));
    assert_ne!(digests(delete, ""), digests(delete, "subjects: {users: [alice]}"));
    assert_ne!(digests(delete, ""), digests(delete, "enforcement: audit"));
    assert_eq!(digests(delete, "").admission.len(), 16);

    // The API server reads the authorizer's address again only when the authorizer's conditions have changed.
    let more = digests("verbs: [delete], apiGroups: [''], resources: [secrets, pods]", "");
    assert_ne!(digests(delete, "").admission, more.admission);
    assert_eq!(digests(delete, "").authorization, more.authorization);
    assert_ne!(digests(delete, "").authorization, digests(get, "").authorization);
}

#[test]
fn whoever_may_not_read_an_object_may_not_read_it_by_another_way() {
    let policy = |verb: &str, resource: &str| {
        policy(&format!(
            "guardrails: off\nrules: [{{name: a, actions: [{{verbs: [{verb}], apiGroups: [\"\", apps], resources: [{resource}], \
             namespaces: [prod]}}]}}]"
        ))
    };
    let is_protected = |policy: &Policy, asked: &str| {
        let (extra, action) = (Extra::new(), action(asked));
        let request =
            Request { user: "alice", groups: &[], extra: &extra, action: &action, object: None, old_object: None };
        matches!(policy.decide(&request), Decision::Protected { .. })
    };
    for (verb, resource, asked, expected) in [
        ("get", "pods", "get pods/status -n prod a", true),
        ("get", "pods", "patch pods/status -n prod a", true),
        ("get", "pods", "update pods/ephemeralcontainers -n prod a", true),
        ("'*'", "pods", "get pods/resize -n prod a", true),
        ("get", "deployments", "get deployments.apps/status -n prod a", true),
        ("get", "pods", "get pods/status -n dev a", false),
        ("get", "pods", "get pods/log -n prod a", false),
        ("get", "deployments", "get deployments.apps/scale -n prod a", false),
        ("delete", "pods", "get pods/status -n prod a", false),
        ("list", "pods", "get pods/status -n prod a", false),
    ] {
        let policy = policy(verb, resource);
        assert_eq!(is_protected(&policy, asked), expected, "{verb} {resource}: {asked}");
    }
    assert_eq!(policy("get", "secrets").rules()[0].actions[0].resources, ["secrets"]);
    assert_eq!(policy("get", "'pods', 'pods/status'").rules()[0].actions[0].resources.len(), 4);
}

#[test]
fn thousands_of_rules_are_rendered_within_bounds() {
    let mut text = "rules:\n".to_owned();
    for number in 0..2_000 {
        text += &format!(
            "- {{name: r{number}, subjects: {{users: [u{number}]}}, actions: [{{verbs: ['*'], apiGroups: [g{number}], \
             resources: [r{number}], namespaces: [ns{number}]}}]}}\n"
        );
    }
    let policy = policy(&text);
    let enforced = policy.matching().enforced();
    assert!(enforced.authorization().len() <= 8192 && enforced.admission().len() <= 8192);
    assert_eq!(enforced.admission_rules().len(), 1);
}
