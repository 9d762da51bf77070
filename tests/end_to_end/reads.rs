//! What clients do not repeat by themselves: reads, connections, and roles that are assumed for a while. The refusal says
//! what to type, and then it works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use lab::process::await_that;
use lab::{Lab, Test};
use serde_json::Value;

use crate::objects::{PASSWORD_AS_SHOWN, namespace_with_secret};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![
        a_secret_takes_elevate_and_nothing_else,
        every_way_to_read_a_secret_is_refused,
        a_list_across_all_namespaces_is_refused,
        reading_across_all_namespaces_takes_a_grant_of_its_own,
        an_unprotected_secret_is_just_read,
        a_shell_in_a_pod_takes_elevate,
        an_assumed_role_lasts_until_it_is_given_up,
        an_assumed_role_ends_by_itself,
    ]
}

fn a_secret_takes_elevate_and_nothing_else(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let get = format!("kubectl get secret db -n {namespace} -o yaml");
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;

    let refused = window.run(&get)?.failed_with("Forbidden")?.stdout;
    ensure!(refused.contains("step-up required to get secrets/db"), "{refused}");
    ensure!(refused.contains("type \"kubectl stepup elevate\", then repeat the command"), "{refused}");
    ensure!(!refused.contains(PASSWORD_AS_SHOWN), "{refused}");
    ensure!(alice.sign_ins() == before, "a read asked for a sign-in:\n{}", alice.browser_log());

    window.run("kubectl stepup elevate")?.succeeded()?;
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());

    let shown = window.run(&get)?.succeeded()?.stdout;
    ensure!(shown.contains(PASSWORD_AS_SHOWN), "{shown}");
    // As often as one likes, and all of the kind in this namespace.
    window.run(&get)?.succeeded()?;
    window.run(&format!("kubectl get secrets -n {namespace}"))?.succeeded()?;
    lab.answered(&namespace, "get", "secrets", &[403, 200, 200])?;
    let uses = lab.story_of(&namespace)?.into_iter().filter(|event| event == "use").count();
    ensure!(uses == 3, "{uses} uses recorded");
    Ok(())
}

fn every_way_to_read_a_secret_is_refused(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let api = format!("/api/v1/namespaces/{namespace}/secrets");

    for arguments in [
        vec!["get", "secret", "db", "-n", &namespace],
        vec!["get", "secrets", "-n", &namespace],
        vec!["describe", "secret", "db", "-n", &namespace],
        vec!["get", "secrets", "--watch-only", "-n", &namespace],
        vec!["get", "secrets", "--field-selector", "metadata.name=db", "-n", &namespace],
        vec!["get", "--raw", &format!("{api}?watch=true&timeoutSeconds=5")],
        vec!["get", "--raw", &format!("{api}/db?watch=true")],
        vec!["get", "--raw", &format!("/api/v1/watch/namespaces/{namespace}/secrets?timeoutSeconds=5")],
    ] {
        let refused = alice.kubectl(&arguments)?;
        ensure!(!refused.stdout.contains(PASSWORD_AS_SHOWN), "{arguments:?}: {}", refused.stdout);
        refused.failed_with("type \"kubectl stepup elevate\"").with_context(|| arguments.join(" "))?;
    }

    ensure!(alice.sign_ins() == before, "a read asked for a sign-in:\n{}", alice.browser_log());
    Ok(())
}

fn a_list_across_all_namespaces_is_refused(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    // To read one namespace's secrets is not to read everybody's.
    window.run(&format!("kubectl stepup elevate --for get secrets -n {namespace}"))?.succeeded()?;
    window.run(&format!("kubectl get secrets -n {namespace}"))?.succeeded()?;

    for everywhere in [
        "get secrets -A",
        "get secrets -A --watch-only",
        "get secrets -A --field-selector metadata.namespace=default",
        "get --raw /api/v1/secrets?limit=1",
        "get --raw /api/v1/watch/secrets?timeoutSeconds=5",
    ] {
        let refused = window.run(&format!("kubectl {}", everywhere.replace('?', "\\?")))?;
        refused.failed_with("type \"kubectl stepup elevate\"").with_context(|| everywhere.to_owned())?;
    }
    Ok(())
}

fn reading_across_all_namespaces_takes_a_grant_of_its_own(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;

    window.run("kubectl get secrets -A")?.failed_with("step-up required to list secrets -A")?;
    window.run("kubectl stepup elevate")?.succeeded()?;

    let shown = window.run("kubectl get secrets -A")?.succeeded()?.stdout;
    ensure!(shown.contains(&namespace), "{shown}");
    Ok(())
}

fn an_unprotected_secret_is_just_read(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "dev")?;
    let bob = lab.someone_like("bob")?;

    let shown = bob.kubectl(&["get", "secrets", "-o", "yaml", "-n", &namespace])?.succeeded()?.stdout;

    ensure!(shown.contains(PASSWORD_AS_SHOWN), "{shown}");
    lab.answered(&namespace, "list", "secrets", &[200])?;
    ensure!(lab.story_of(&namespace)?.is_empty());
    Ok(())
}

fn a_shell_in_a_pod_takes_elevate(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("payment")?;
    lab.pod(&namespace, "api-0", "node", &[])?;
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;

    for verb in ["exec api-0 -- true", "attach api-0", "port-forward api-0 8080"] {
        let command = format!("kubectl -n {namespace} {verb}");
        let refused = window.run(&command)?.failed_with("step-up required").context(verb)?.stdout;
        ensure!(refused.contains("type \"kubectl stepup elevate\""), "{verb}: {refused}");
    }

    window.run(&format!("kubectl stepup elevate --for exec api-0 -n {namespace}"))?.succeeded()?;
    let exec = format!("kubectl -n {namespace} exec api-0 -- echo in the pod");
    let answer = window.run(&exec)?.succeeded()?.stdout;
    ensure!(answer.contains("in the pod"), "{answer}");
    window.run(&format!("kubectl -n {namespace} attach api-0"))?.failed_with("step-up required")?;
    Ok(())
}

fn an_assumed_role_lasts_until_it_is_given_up(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    window.run("kubectl get nodes")?.failed_with("cannot list resource \"nodes\"")?;

    window.run("kubectl stepup elevate --for assume clusterrole cluster-admin")?.succeeded()?;

    window.run("kubectl get nodes")?.succeeded()?;
    window.run("kubectl auth whoami")?.succeeded()?.stdout.find("stepup:cluster-admin").context("not in the group")?;
    // A role is no grant for what is protected: that takes its own.
    window.run(&format!("kubectl get secret db -n {namespace}"))?.failed_with("step-up required")?;
    let status: Value = serde_json::from_str(&window.run("kubectl stepup status -o json")?.succeeded()?.stdout)?;
    let grant = &status["grants"][0];
    ensure!(time(&grant["expiresAt"])? - time(&grant["createdAt"])? == chrono::TimeDelta::minutes(10), "{grant}");
    ensure!(alice.window()?.run("kubectl get nodes")?.failed_with("cannot list resource \"nodes\"").is_ok());
    let token = window.token()?;
    lab.kubectl_with_token(&token, &["get", "nodes"])?.succeeded()?;

    window.run("kubectl stepup drop")?.succeeded()?;

    window.run("kubectl get nodes")?.failed_with("cannot list resource \"nodes\"")?;
    // The token itself lives on, its group counts for nothing.
    let copy = lab.kubectl_with_token(&token, &["get", "nodes"])?;
    copy.failed_with("the grant that gave you stepup:cluster-admin has ended")?;
    Ok(())
}

fn an_assumed_role_ends_by_itself(lab: &Lab) -> Result<()> {
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    window.run("kubectl stepup elevate --ttl 4s --for assume clusterrole cluster-admin")?.succeeded()?;
    let token = window.token()?;
    lab.kubectl_with_token(&token, &["get", "nodes"])?.succeeded()?;

    await_that(LIMIT, || window.run("kubectl get nodes")?.failed_with("cannot list resource \"nodes\"").map(drop))?;

    // Who keeps a copy of the token keeps nothing of worth.
    await_that(LIMIT, || lab.kubectl_with_token(&token, &["get", "nodes"])?.failed_with("").map(drop))
}

fn time(value: &Value) -> Result<DateTime<Utc>> {
    Ok(value.as_str().context("no time")?.parse()?)
}
