//! Objects that the stories are about.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use lab::Lab;
use lab::process::await_that;
use serde_json::{Value, json};

/// A namespace of the test's own with deployments in it. (Nothing runs them: the lab has no nodes.)
pub fn namespace_with_deployments(lab: &Lab, prefix: &str, names: &[&str]) -> Result<String> {
    let namespace = lab.namespace(prefix)?;
    for name in names {
        lab.apply(&deployment(&namespace, name))?;
    }
    Ok(namespace)
}

/// A deployment of one container and one replica.
pub fn deployment(namespace: &str, name: &str) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "example.test/app:1"}]},
            },
        },
    })
}

/// A namespace of the test's own with the secret `db` in it, whose password is `hunter2`.
pub fn namespace_with_secret(lab: &Lab, prefix: &str) -> Result<String> {
    let namespace = lab.namespace(prefix)?;
    lab.apply(&secret(&namespace))?;
    Ok(namespace)
}

/// That secret.
pub fn secret(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "db", "namespace": namespace},
        "stringData": {"password": "hunter2"},
    })
}

/// `hunter2`, as `kubectl get secret -o yaml` shows it.
pub const PASSWORD_AS_SHOWN: &str = "aHVudGVyMg==";

/// A network policy that lets nothing in.
pub fn network_policy(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    })
}

/// Names of the objects of a kind in a namespace.
pub fn names(lab: &Lab, kind: &str, namespace: &str) -> Result<Vec<String>> {
    let list = lab.object(&[kind, "-n", namespace])?;
    let items = list["items"].as_array().context("a list")?;
    Ok(items.iter().filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned())).collect())
}

/// Objects say to the second when they were made: what is made after this is newer than what was there before.
pub fn await_next_second() -> Result<()> {
    let before = Utc::now().timestamp();
    await_that(Duration::from_secs(10), || {
        ensure!(Utc::now().timestamp() > before);
        Ok(())
    })
}
