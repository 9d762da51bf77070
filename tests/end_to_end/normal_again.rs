//! Everything is normal again afterwards: a grant is for one action, for those who asked for it, and not for long.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::{Lab, Session, Test};
use serde_json::Value;

use crate::objects::{deployment, names, namespace_with_deployments, namespace_with_secret};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![
        the_next_delete_is_challenged_again,
        a_fresh_sign_in_serves_again_and_each_action_has_its_own_grant,
        another_terminal_has_base_rights,
        another_namespace_has_base_rights,
        elevate_is_for_this_terminal,
        elevate_without_a_terminal_is_for_its_script,
        a_shared_grant_is_for_all_of_the_person_and_nobody_else,
        a_dropped_grant_is_over,
        an_administrator_takes_a_grant_away,
        a_dry_run_consumes_nothing,
        a_grant_expires,
    ]
}

fn the_next_delete_is_challenged_again(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?;
    let delete = ["delete", "namespace", &namespace];
    let before = alice.sign_ins();

    alice.kubectl(&delete)?.succeeded()?;
    lab.admin(&["create", "namespace", &namespace])?;
    alice.kubectl(&delete)?.succeeded()?;

    lab.answered(&namespace, "delete", "namespaces", &[429, 200, 429, 200])?;
    ensure!(alice.sign_ins() == before + 2, "two commands without a terminal share nothing:\n{}", alice.browser_log());
    Ok(())
}

fn a_fresh_sign_in_serves_again_and_each_action_has_its_own_grant(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["api", "web"])?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;

    window.run(&format!("kubectl delete deployment api -n {namespace}"))?.succeeded()?;
    window.run(&format!("kubectl delete deployment web -n {namespace}"))?.succeeded()?;

    lab.answered(&namespace, "delete", "deployments", &[429, 200, 429, 200])?;
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    let story = lab.story_of(&namespace)?;
    let once = ["challenge", "step-up", "mint", "use"];
    ensure!(story == [once, once].concat(), "{story:?}");
    let records = lab.records_about(&namespace)?;
    let grants: Vec<&Value> =
        records.iter().filter(|record| record["event"] == "mint").map(|record| &record["grant"]).collect();
    ensure!(grants.len() == 2 && grants[0] != grants[1], "{grants:?}");
    let sign_ins: Vec<&Value> =
        records.iter().filter(|record| record["event"] == "step-up").map(|record| &record["authTime"]).collect();
    ensure!(sign_ins[0] == sign_ins[1] && !sign_ins[0].is_null(), "{sign_ins:?}");
    Ok(())
}

fn another_terminal_has_base_rights(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["api", "web"])?;
    let alice = lab.someone_like("alice")?;
    let (mut here, mut there) = (alice.window()?, alice.window()?);
    let before = alice.sign_ins();

    here.run(&format!("kubectl delete deployment api -n {namespace}"))?.succeeded()?;
    there.run(&format!("kubectl delete deployment web -n {namespace}"))?.succeeded()?;

    ensure!(alice.sign_ins() == before + 2, "a sign-in for each terminal, not\n{}", alice.browser_log());
    lab.answered(&namespace, "delete", "deployments", &[429, 200, 429, 200])
}

fn another_namespace_has_base_rights(lab: &Lab) -> Result<()> {
    let (this, other) = (namespace_with_secret(lab, "prod")?, namespace_with_secret(lab, "prod")?);
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    window.run(&format!("kubectl stepup elevate --for get secret db -n {this}"))?.succeeded()?;
    window.run(&format!("kubectl stepup elevate --for delete namespace {this}"))?.succeeded()?;

    window.run(&format!("kubectl get secret db -n {this}"))?.succeeded()?;
    window.run(&format!("kubectl get secret db -n {other}"))?.failed_with("kubectl stepup elevate")?;

    // The sign-in is fresh, so this goes through, with a grant of its own: the one for the first namespace is left alone.
    window.run(&format!("kubectl delete namespace {other} --wait=false"))?.succeeded()?;
    lab.answered(&other, "delete", "namespaces", &[429, 200])?;
    window.run(&format!("kubectl delete namespace {this} --wait=false"))?.succeeded()?;
    lab.answered(&this, "delete", "namespaces", &[200])
}

fn elevate_is_for_this_terminal(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?;
    let (mut here, mut there) = (alice.window()?, alice.window()?);
    let before = alice.sign_ins();
    here.run(&format!("kubectl stepup elevate --for delete namespace {namespace}"))?.succeeded()?;
    let delete = format!("kubectl delete namespace {namespace} --wait=false");

    there.run(&format!("KUBECTL_STEPUP_PROMPT=never {delete}"))?.failed_with("nobody took it up")?;
    alice.background("kubectl", &["delete", "namespace", &namespace])?.failed_with("step-up required")?;
    here.run(&delete)?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    let story = lab.story_of(&namespace)?;
    ensure!(story.last().is_some_and(|last| last == "use"), "{story:?}");
    ensure!(story.iter().filter(|event| *event == "mint").count() == 1, "{story:?}");
    Ok(())
}

/// A script has no terminal; its grant is for the script and what it runs.
fn elevate_without_a_terminal_is_for_its_script(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let elevate = format!("kubectl-stepup elevate --for get secret db -n {namespace}");
    let get = format!("kubectl get secret db -n {namespace}");

    let script = format!("{elevate} && {get} -o name");
    let printed = alice.script(&script)?.succeeded()?.stdout;
    ensure!(printed.contains("secret/db"), "{printed}");
    alice.kubectl(&["get", "secret", "db", "-n", &namespace])?.failed_with("step-up required")?;
    Ok(())
}

fn a_shared_grant_is_for_all_of_the_person_and_nobody_else(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let get = ["get", "secret", "db", "-n", &namespace];
    alice.window()?.run(&format!("kubectl stepup elevate --share --for get secret db -n {namespace}"))?.succeeded()?;

    alice.window()?.run(&format!("kubectl {}", get.join(" ")))?.succeeded()?;
    alice.background("kubectl", &get)?.succeeded()?;

    // Another computer of the same person, and another person.
    lab.session(alice.name())?.kubectl(&get)?.failed_with("step-up required")?;
    lab.someone_like("carol")?.kubectl(&get)?.failed_with("step-up required")?;
    Ok(())
}

fn a_dropped_grant_is_over(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let get = ["get", "secret", "db", "-n", &namespace];
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    window.run(&format!("kubectl stepup elevate --for get secret db -n {namespace}"))?.succeeded()?;
    let token = window.token()?;
    lab.kubectl_with_token(&token, &get)?.succeeded()?;

    window.run("kubectl stepup drop")?.succeeded()?;

    window.run(&format!("kubectl {}", get.join(" ")))?.failed_with("step-up required")?;
    ensure!(window.token()? != token, "the elevated token is still on this machine");
    // A copy of the token is worth no more than a base token either.
    lab.kubectl_with_token(&token, &get)?.failed_with("step-up required")?;
    ensure!(lab.story_of(&namespace)?.contains(&"revoke".to_owned()));
    ensure!(grants(&alice)?.is_empty());
    Ok(())
}

fn an_administrator_takes_a_grant_away(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let get = ["get", "secret", "db", "-n", &namespace];
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    window.run(&format!("kubectl stepup elevate --for get secret db -n {namespace}"))?.succeeded()?;
    let token = window.token()?;
    let grant = grants(&alice)?.first().context("no grant")?["id"].as_str().context("no id")?.to_owned();

    // To anybody else it is as if there were no such grant.
    lab.someone_like("bob")?.stepup(&["drop", &grant])?.failed_with("no such grant")?;
    lab.someone_like("bob")?.stepup(&["status", "--all"])?.failed_with("only administrators")?;
    lab.kubectl_with_token(&token, &get)?.succeeded()?;
    let carol = lab.session("carol")?;
    ensure!(!carol.stepup(&["status"])?.succeeded()?.stdout.contains(&grant));
    let all = carol.stepup(&["status", "--all"])?.succeeded()?.stdout;
    let line = all.lines().find(|line| line.contains(&grant)).context("the administrator does not see it")?;
    ensure!(line.ends_with(alice.name()), "{line}");
    carol.stepup(&["drop", &grant])?.succeeded()?;

    lab.kubectl_with_token(&token, &get)?.failed_with("step-up required")?;
    window.run(&format!("kubectl {}", get.join(" ")))?.failed_with("step-up required")?;
    let records = lab.records_about(&namespace)?;
    let revoked = records.iter().find(|record| record["event"] == "revoke").context("no revocation recorded")?;
    ensure!(revoked["by"] == "carol" && revoked["user"] == alice.name() && revoked["grant"] == *grant, "{revoked}");
    Ok(())
}

fn a_dry_run_consumes_nothing(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["web"])?;
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    let delete = format!("kubectl delete deployment web -n {namespace}");
    window.run(&format!("kubectl stepup elevate --for delete deployment web -n {namespace}"))?.succeeded()?;

    for _ in 0..2 {
        window.run(&format!("{delete} --dry-run=server"))?.succeeded()?;
        ensure!(names(lab, "deployments", &namespace)? == ["web"]);
    }
    window.run(&delete)?.succeeded()?;

    // No challenge, neither for the dry runs nor afterwards.
    lab.answered(&namespace, "delete", "deployments", &[200, 200, 200])?;
    let uses: Vec<Value> =
        lab.records_about(&namespace)?.into_iter().filter(|record| record["event"] == "use").collect();
    let dry: Vec<bool> = uses.iter().map(|record| record["dryRun"] == true).collect();
    ensure!(dry == [true, true, false], "{uses:?}");
    lab.apply(&deployment(&namespace, "web"))?;
    window.run(&delete)?.succeeded()?;
    lab.answered(&namespace, "delete", "deployments", &[200, 200, 200, 429, 200])
}

fn a_grant_expires(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let get = ["get", "secret", "db", "-n", &namespace];
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    window.run(&format!("kubectl stepup elevate --ttl 4s --for get secret db -n {namespace}"))?.succeeded()?;
    let token = window.token()?;
    lab.kubectl_with_token(&token, &get)?.succeeded()?;

    await_that(LIMIT, || lab.kubectl_with_token(&token, &get)?.failed_with("").map(drop))?;

    window.run(&format!("kubectl {}", get.join(" ")))?.failed_with("step-up required")?;
    ensure!(grants(&alice)?.is_empty());
    Ok(())
}

/// The person's live grants, as `kubectl stepup status` tells them.
fn grants(person: &Session) -> Result<Vec<Value>> {
    let status: Value = serde_json::from_str(&person.stepup(&["status", "-o", "json"])?.succeeded()?.stdout)?;
    Ok(status["grants"].as_array().context("no grants in the status")?.clone())
}
