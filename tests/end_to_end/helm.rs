//! A client that is not kubectl, with client-go inside: the plugin serves it just the same.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use lab::{Lab, Outcome, Test};
use serde_json::json;

use crate::objects::{deployment, names};

pub fn tests() -> Vec<Test> {
    lab::tests![uninstalls_in_one_command, uninstalls_many_protected_objects_at_once]
}

/// The release contains a network policy, whose deletion is protected wherever it is.
fn uninstalls_in_one_command(lab: &Lab) -> Result<()> {
    lab.install_helm()?;
    let namespace = lab.namespace("shop")?;
    let alice = lab.someone_like("alice")?;
    write_chart(&alice.home().join("chart"))?;
    let mut install = alice.command("helm");
    install.args(["install", "shop", "chart", "--namespace", &namespace, "--kubeconfig"]).arg(lab.admin_kubeconfig());
    Outcome::of(&mut install)?.succeeded()?;
    let before = alice.sign_ins();

    let mut uninstall = alice.command("helm");
    Outcome::of(uninstall.args(["uninstall", "shop", "--namespace", &namespace]))?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    let left = lab.admin(&["get", "networkpolicies,configmaps", "-n", &namespace, "-l", "app=shop", "-o", "name"])?;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
}

/// helm deletes objects of a kind at the same time, so that their denials come in together.
fn uninstalls_many_protected_objects_at_once(lab: &Lab) -> Result<()> {
    lab.install_helm()?;
    let namespace = lab.namespace("shop")?;
    let alice = lab.someone_like("alice")?;
    let chart = alice.home().join("chart");
    write_chart(&chart)?;
    for name in ["a", "b", "c", "d", "e", "f"] {
        let mut deployment = deployment(&namespace, name);
        deployment["metadata"]["labels"] = json!({"app": "shop", "critical": "true"});
        fs::write(chart.join(format!("templates/{name}.yaml")), deployment.to_string())?;
    }
    let mut install = alice.command("helm");
    install.args(["install", "shop", "chart", "--namespace", &namespace, "--kubeconfig"]).arg(lab.admin_kubeconfig());
    Outcome::of(&mut install)?.succeeded()?;
    let before = alice.sign_ins();

    Outcome::of(alice.command("helm").args(["uninstall", "shop", "--namespace", &namespace]))?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    ensure!(names(lab, "deployments", &namespace)?.is_empty());
    Ok(())
}

fn write_chart(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory.join("templates"))?;
    fs::write(directory.join("Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 1.0.0\n")?;
    let object = |kind: &str, version: &str, rest: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: shop\n  labels: {{app: shop}}\n{rest}")
    };
    fs::write(directory.join("templates/settings.yaml"), object("ConfigMap", "v1", "data: {colour: blue}\n"))?;
    let policy = object("NetworkPolicy", "networking.k8s.io/v1", "spec: {podSelector: {}}\n");
    Ok(fs::write(directory.join("templates/policy.yaml"), policy)?)
}
