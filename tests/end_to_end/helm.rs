//! A client that is not kubectl, with client-go inside: the plugin serves it just the same.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use lab::{Lab, Outcome, Test};

pub fn tests() -> Vec<Test> {
    lab::tests![uninstalls_in_one_command]
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
