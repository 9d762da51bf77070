//! Policies of any size, and the reviews that are asked of them.

use std::fmt::Write;

use serde_json::{Value, json};
use stepup::action::ActionPattern;
use stepup::wire::review::CREDENTIAL_ID;

use crate::load::{Body, UNIQUE};

/// The person whose requests these are.
pub const USER: &str = "alice@example.com";
/// The grant that the protected requests present.
pub const GRANT: &str = "gr-bench";
/// How many different requests there are of each kind.
const REQUESTS: usize = 500;

/// What the rules of a policy are about, in turn: things that people protect, each in namespaces of its own.
const KINDS: [&str; 5] = [
    r#"verbs: [get, delete], apiGroups: [""], resources: [secrets], namespaces: [NAMESPACE]"#,
    "verbs: [update, patch, delete], apiGroups: [apps], resources: [deployments, deployments/scale], namespaces: [NAMESPACE], names: [api, web]",
    r#"verbs: [delete], apiGroups: [""], resources: [namespaces], names: [NAMESPACE]"#,
    r#"verbs: [create], apiGroups: [""], resources: [pods/exec, pods/attach], namespaces: ["NAMESPACE-*"]"#,
    r#"verbs: [create, update, patch, delete], apiGroups: [""], resources: [configmaps], namespaces: [NAMESPACE], names: ["settings-*"]"#,
];

/// A policy of so many rules.
pub fn policy(rules: usize) -> String {
    let mut text = String::from(
        "defaults:\n  require: {acr: [mfa], maxAge: 5m}\n  grant: {ttl: 10m, uses: unlimited, covers: rule}\nrules:\n",
    );
    for (number, kind) in (0..rules).zip(KINDS.iter().cycle()) {
        let pattern = kind.replace("NAMESPACE", &namespace(number));
        let _ = writeln!(text, "- name: rule-{number}\n  actions: [{{{pattern}}}]");
    }
    text
}

fn namespace(rule: usize) -> String {
    format!("team-{rule}")
}

/// The rule in the middle of those about secrets (0) or deployments (1): the one that the protected requests meet.
fn protected_rule(kind: usize, rules: usize) -> usize {
    rules / KINDS.len() / 2 * KINDS.len() + kind
}

/// `/authorize`: reads of the kinds of things that rules are about, none of them protected.
pub fn unprotected_reads() -> Vec<Body> {
    let secrets = (0..REQUESTS).map(|number| access("get", "", "secrets", &format!("app-{number}"), "db"));
    let pods = (0..REQUESTS).map(|number| access("list", "", "pods", &namespace(number), ""));
    secrets.zip(pods).flat_map(|(secret, pod)| [secret.into(), pod.into()]).collect()
}

/// `/admit`: writes of the kinds of things that rules are about, none of them protected.
pub fn unprotected_writes() -> Vec<Body> {
    let elsewhere = (0..REQUESTS).map(|number| write_of_deployment(&format!("app-{number}"), "web"));
    let other_name = (0..REQUESTS).map(|number| write_of_deployment(&namespace(number), "worker"));
    elsewhere.zip(other_name).flat_map(|(elsewhere, other)| [elsewhere.into(), other.into()]).collect()
}

/// `/authorize`: protected reads, covered by [`GRANT`].
pub fn protected_reads(rules: usize) -> Vec<Body> {
    let namespace = namespace(protected_rule(0, rules));
    (0..REQUESTS).map(|number| access("get", "", "secrets", &namespace, &format!("db-{number}")).into()).collect()
}

/// `/admit`: protected writes, covered by [`GRANT`].
pub fn protected_writes(rules: usize) -> Vec<Body> {
    vec![write_of_deployment(&namespace(protected_rule(1, rules)), "web").into()]
}

/// Names of the rules that the protected requests meet.
pub fn granted_rules(rules: usize) -> Vec<String> {
    [0, 1].map(|kind| format!("rule-{}", protected_rule(kind, rules))).into()
}

/// What the grant permits.
pub fn granted_actions() -> Vec<ActionPattern> {
    let pattern = |verb: &str, group: &str, resource: &str| ActionPattern {
        verbs: vec![verb.to_owned()],
        api_groups: vec![group.to_owned()],
        resources: vec![resource.to_owned()],
        namespaces: vec!["*".to_owned()],
        names: vec!["*".to_owned()],
        non_resource_urls: vec![],
    };
    vec![pattern("get", "", "secrets"), pattern("patch", "apps", "deployments")]
}

fn groups() -> Value {
    json!(["developers", "team-payments", "mfa", "system:authenticated"])
}

fn extra() -> Value {
    json!({CREDENTIAL_ID: [format!("JTI={GRANT}")]})
}

/// A `SubjectAccessReview`, as the API server's webhook authorizer sends it.
fn access(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> String {
    json!({
        "kind": "SubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {"creationTimestamp": null},
        "spec": {
            "resourceAttributes": {
                "namespace": namespace, "verb": verb, "group": group, "version": "v1", "resource": resource, "name": name,
            },
            "user": USER, "groups": groups(), "extra": extra(),
        },
        "status": {"allowed": false},
    })
    .to_string()
}

/// An `AdmissionReview` of a patch, with the object before and after: some 5 KB.
fn write_of_deployment(namespace: &str, name: &str) -> String {
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let gvr = json!({"group": "apps", "version": "v1", "resource": "deployments"});
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": format!("8f0b1c52-6d1e-4b43-{UNIQUE}"),
            "kind": gvk, "resource": gvr, "requestKind": gvk, "requestResource": gvr,
            "name": name, "namespace": namespace, "operation": "UPDATE",
            "userInfo": {"username": USER, "groups": groups(), "extra": extra()},
            "object": deployment(namespace, name, 5), "oldObject": deployment(namespace, name, 3),
            "dryRun": false,
            "options": {"kind": "PatchOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl-patch"},
        },
    })
    .to_string()
}

fn deployment(namespace: &str, name: &str, replicas: u32) -> Value {
    let environment: Vec<Value> =
        (0..12).map(|number| json!({"name": format!("SETTING_{number}"), "value": "x".repeat(40)})).collect();
    json!({
        "kind": "Deployment", "apiVersion": "apps/v1",
        "metadata": {
            "name": name, "namespace": namespace, "uid": "0d5b9a3e-8f0e-4f6c-9f5a-2b1c7f3a9e77",
            "resourceVersion": "123456", "generation": 7, "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"app": name, "team": namespace, "tier": "backend"},
            "annotations": {"deployment.kubernetes.io/revision": "7"},
            "managedFields": [{"manager": "kubectl", "operation": "Update", "apiVersion": "apps/v1",
                "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {}}}}}}],
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{
                        "name": "main", "image": "registry.example.com/team/app:1.2.3", "env": environment,
                        "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
                        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10},
                        "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
                    }],
                    "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                },
            },
        },
        "status": {"observedGeneration": 7, "replicas": 3, "readyReplicas": 3, "availableReplicas": 3},
    })
}
