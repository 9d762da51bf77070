//! `mode: groups`: no webhook anywhere. People lack the right, and the token of a grant carries a group that has it.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::window::Window;
use lab::{Lab, Lock, Options, Session, Test};
use serde_json::Value;

use crate::objects::{PASSWORD_AS_SHOWN, secret};
use crate::raw::{self, MFA, Raw};

pub fn tests() -> Vec<Test> {
    lab::tests![groups_open_what_webhooks_would]
}

const LIMIT: std::time::Duration = std::time::Duration::from_mins(1);

const POLICY: &str = "
defaults:
  require: {acr: [mfa], maxAge: 5m}
rules:
- name: delete-namespace
  description: Deleting a namespace that matters
  subjects: {groups: [developers]}
  actions: [{verbs: [delete], apiGroups: [''], resources: [namespaces], names: [prod, 'prod-*']}]
- name: read-secrets
  description: Reading production secrets
  subjects: {groups: [developers]}
  actions: [{verbs: [get], apiGroups: [''], resources: [secrets], namespaces: [prod, staging]}]
- name: exec-payment
  description: A shell in a payment pod
  subjects: {groups: [developers]}
  actions: [{verbs: [connect], apiGroups: [''], resources: [pods/exec], namespaces: [payment]}]
- name: assume-cluster-admin
  subjects: {groups: [developers]}
  actions: [{verbs: [assume], apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], names: [cluster-admin]}]
  grant: {groups: ['stepup:cluster-admin']}
";

fn groups_open_what_webhooks_would(shared: &Lab) -> Result<()> {
    let options = Options { lock: Lock::Groups, policy: Some(POLICY.to_owned()), ..Options::default() };
    let lab = &shared.another("groups", options)?;
    set_up(lab)?;
    let alice = lab.session("alice")?;
    let mut window = alice.window()?;

    // RBAC alone refuses, with its own words: nobody asks stepup-server.
    let (get, exec) = ("kubectl get secret db -n prod -o yaml", "kubectl -n payment exec api-0 -- echo inside");
    window.run(get)?.failed_with("cannot get resource \"secrets\"")?;
    window.run(exec)?.failed_with("\"pods/exec\"")?;
    window.run("kubectl delete namespace prod")?.failed_with("cannot delete resource \"namespaces\"")?;
    let hint = window.run("kubectl stepup elevate")?.failed_with("nothing is waiting for a step-up")?.stdout;
    ensure!(hint.contains("--for"), "{hint}");
    ensure!(lab.audit_records()?.iter().all(|record| record["event"] != "challenge"), "somebody was asked");

    // One step-up for the whole rule, for a while: the prompt and the report do not promise less.
    let said = window.run("kubectl stepup elevate --ttl 4m --for get secret db -n prod")?.succeeded()?.stdout;
    ensure!(
        said.contains("as often as you like, for 4 min") || said.contains("as often as you like, for 3 min"),
        "{said}"
    );
    ensure!(said.contains("get,list,watch secrets -n prod,staging"), "{said}");
    ensure!(said.contains("cannot be ended early"), "{said}");
    for command in [get, "kubectl get secrets -n prod", get] {
        window.run(command)?.succeeded().context(command)?;
    }
    let shown = window.run(get)?.succeeded()?.stdout;
    ensure!(shown.contains(PASSWORD_AS_SHOWN), "{shown}");
    // It adds this group and no other, and only here.
    let groups = groups_of(&window.run("kubectl auth whoami -o json")?.succeeded()?.stdout)?;
    ensure!(groups == ["developers", "mfa", "stepup:read-secrets", "system:authenticated"], "{groups:?}");
    window.run("kubectl get secrets -n default")?.failed_with("cannot list resource \"secrets\"")?;
    window.run("kubectl get secrets -A")?.failed_with("cannot list resource \"secrets\"")?;
    window.run("kubectl delete namespace prod")?.failed_with("cannot delete resource \"namespaces\"")?;
    alice.window()?.run(get)?.failed_with("cannot get resource \"secrets\"")?;
    // What no group opens is not asked for in vain.
    window.run("kubectl stepup elevate --for get secrets -A")?.failed_with("is more than a grant can open")?;

    // The next rule: no further sign-in, one token for both, which ends with the first of them.
    let sign_ins = alice.sign_ins();
    window.run("kubectl stepup elevate --for exec api-0 -n payment")?.succeeded()?;
    ensure!(alice.sign_ins() == sign_ins, "{}", alice.browser_log());
    window.run(exec)?.succeeded()?.stdout.find("inside").context("nothing came out of the pod")?;
    window.run(get)?.succeeded()?;
    let status: Value = serde_json::from_str(&window.run("kubectl stepup status -o json")?.succeeded()?.stdout)?;
    let grants = status["grants"].as_array().context("no grants")?;
    let end =
        |rule: &str| grants.iter().find(|grant| grant["rule"] == rule).map(|grant| grant["expiresAt"].to_string());
    let (secrets, exec_payment) = (end("read-secrets").context("gone")?, end("exec-payment").context("none")?);
    ensure!(exec_payment <= secrets, "a token outlives what it carries: {status}");
    ensure!(grants.iter().all(|grant| grant["usesLeft"].is_null() && grant["irrevocable"] == true), "{status}");

    // A copy of the token is good until it expires; dropping says so, and forgets it here.
    let copy = window.token()?;
    let dropped = window.run("kubectl stepup drop")?.succeeded()?.stdout;
    ensure!(dropped.contains("a copy of its token would be good until"), "{dropped}");
    window.run(get)?.failed_with("cannot get resource \"secrets\"")?;
    lab.kubectl_with_token(&copy, &["get", "secret", "db", "-n", "prod"])?.succeeded()?;

    // One command: the proxy knows RBAC's words for what a group would open.
    let run = |command: &str| format!("kubectl stepup run -- {command}");
    window.run(&run(get))?.succeeded()?.stdout.find(PASSWORD_AS_SHOWN).context("no secret")?;
    window.run(&run(exec))?.succeeded()?.stdout.find("inside").context("nothing came out of the pod")?;
    window.run(&run("kubectl get secrets -n default"))?.failed_with("cannot list resource \"secrets\"")?;
    window.run(get)?.failed_with("cannot get resource \"secrets\"")?;

    // A write, and base again afterwards; a glob was told and left out, not widened.
    window.run("kubectl stepup elevate --for delete namespace prod")?.succeeded()?;
    window.run("kubectl delete namespace prod-1")?.failed_with("cannot delete resource \"namespaces\"")?;
    window.run("kubectl delete namespace prod")?.succeeded()?;
    window.run("kubectl stepup drop --all")?.succeeded()?;
    window.run("kubectl delete namespace staging")?.failed_with("cannot delete resource \"namespaces\"")?;

    // A role that is assumed comes with its own group.
    window.run("kubectl stepup elevate --for assume clusterrole cluster-admin")?.succeeded()?;
    window.run("kubectl get nodes")?.succeeded()?;
    // Whoever may see that there is no webhook is not told to make one.
    let told: Value = serde_json::from_str(&window.run("kubectl stepup doctor -o json")?.succeeded()?.stdout)?;
    let state = |check: &str| {
        let checks = told["checks"].as_array().into_iter().flatten();
        checks.filter(|found| found["check"] == check).map(|found| &found["state"]).collect::<Vec<_>>()
    };
    ensure!(told["healthy"] == true && state("admission webhook") == ["ok"], "{told:#}");
    ensure!(state("authorization webhook") == ["ok"], "{told:#}");

    in_one_command(lab)?;
    nobody_else(lab)?;
    the_doctor_misses_what_is_not_there(lab, &alice)
}

/// Neither of the webhooks: none is missed where groups alone are the lock, both are where the API server's flags were
/// forgotten. In the end, not even trust in the provider.
fn the_doctor_misses_what_is_not_there(lab: &Lab, alice: &Session) -> Result<()> {
    let text = alice.stepup(&["doctor"])?.succeeded()?.stdout;
    ensure!(text.contains("ok       authorization webhook  none, and none is needed"), "{text}");

    let config = fs::read_to_string(lab.config_file())?;
    let clients = format!("webhookClients:\n  ca: {}\n  names: [kube-apiserver]\n", lab.pki().webhook_ca.display());
    fs::write(lab.config_file(), config.replace("mode: groups\n", &clients))?;
    lab.restart_stepup_server()?;
    let text = alice.stepup(&["doctor"])?.succeeded()?.stdout;
    ensure!(text.contains("unknown  authorization webhook") && text.contains("or it does not ask"), "{text}");
    // To somebody whom RBAC lets through.
    lab.admin(&["create", "clusterrolebinding", "too-much", "--clusterrole=cluster-admin", "--user=alice"])?;
    let text = alice.stepup(&["doctor"])?.failed_with("")?.stdout;
    for problem in ["is let through unasked", "none called admit.kubectl-stepup.io: protected writes pass unasked"] {
        ensure!(text.contains(problem), "no {problem:?} in\n{text}");
    }

    // The API server reads this file again by itself.
    let file = lab.directory().join("rendered/authentication.yaml");
    let trusting = fs::read_to_string(&file)?;
    let audience = trusting.lines().find(|line| line.trim().trim_matches(['-', ' ', '"', '\'']) == "kubernetes");
    fs::write(&file, trusting.replace(audience.context("no audience")?, "    - somebody-else"))?;
    await_that(2 * LIMIT, || {
        let text = alice.stepup(&["doctor"])?.stdout;
        ensure!(text.contains("problem  API server"), "{text}");
        ensure!(text.contains("it does not trust this issuer and client"), "{text}");
        Ok(())
    })
}

/// Preflight knows that here a denial of a write is as final as that of a read.
fn in_one_command(lab: &Lab) -> Result<()> {
    let alice = lab.session("alice")?;
    alice.set_up(&["--preflight", "on"])?;
    let mut window = alice.window()?;
    lab.admin(&["create", "namespace", "prod"])?;
    lab.apply(&secret("staging"))?;
    let before = alice.sign_ins();
    window.run("kubectl get secret db -n staging")?.succeeded()?;
    let shown = window.run("kubectl -n payment exec api-0 -- echo inside")?.succeeded()?.stdout;
    ensure!(shown.contains("inside"), "{shown}");
    watches(lab, &mut window, "staging")?;
    window.run("kubectl delete namespace prod")?.succeeded()?;
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    // A command later nothing of it is left.
    let groups = groups_of(&window.run("kubectl auth whoami -o json")?.succeeded()?.stdout)?;
    ensure!(groups == ["developers", "mfa", "system:authenticated"], "{groups:?}");
    Ok(())
}

/// A watch that begins in a command of its own, and goes on.
pub fn watches(lab: &Lab, window: &mut Window, namespace: &str) -> Result<()> {
    window.start(&format!("kubectl get secrets -n {namespace} --watch -o name"))?;
    window.expect("secret/db")?;
    lab.admin(&["create", "secret", "generic", "late", "-n", namespace])?;
    window.expect("secret/late")?;
    window.interrupt()?;
    window.outcome().map(drop)
}

/// Neither who has no second factor, nor who writes a group into a token.
fn nobody_else(lab: &Lab) -> Result<()> {
    let bob = lab.session("bob")?;
    let mut window = bob.window()?;
    window.run("kubectl stepup elevate --for get secret db -n staging")?.failed_with("you cannot step up")?;
    window.run("kubectl get secrets -n staging")?.failed_with("cannot list resource \"secrets\"")?;

    // The provider's word is no good for such a group, and nobody may take one by impersonation.
    let raw = Raw::new(lab)?;
    let base = raw.sign_in("alice", None)?;
    raw::with_groups(lab, &base, &["developers"])
        .and_then(|token| lab.kubectl_with_token(&token, &["get", "pods", "-n", "staging"])?.succeeded())?;
    for group in ["stepup:read-secrets", "system:masters"] {
        let forged = raw::with_groups(lab, &base, &["developers", group])?;
        lab.kubectl_with_token(&forged, &["get", "pods", "-n", "staging"])?.failed_with("Unauthorized")?;
    }
    let as_group = ["get", "secrets", "-n", "staging", "--as", "alice", "--as-group", "stepup:read-secrets"];
    lab.kubectl_with_token(&base, &as_group)?.failed_with("cannot impersonate")?;
    // A strong sign-in alone is no grant either.
    let strong = raw.sign_in("alice", Some(MFA))?;
    lab.kubectl_with_token(&strong, &["get", "secrets", "-n", "staging"])?.failed_with("cannot list")?;
    Ok(())
}

fn set_up(lab: &Lab) -> Result<()> {
    lab.admin(&["create", "namespace", "prod-1"])?;
    lab.apply(&secret("prod"))?;
    lab.pod("payment", "api-0", "node", &[])
}

/// The groups that `kubectl auth whoami -o json` shows, sorted.
pub fn groups_of(whoami: &str) -> Result<Vec<String>> {
    let review: Value = serde_json::from_str(whoami)?;
    let groups = review["status"]["userInfo"]["groups"].as_array().context("no groups")?;
    let mut groups: Vec<String> = groups.iter().filter_map(|group| group.as_str().map(ToOwned::to_owned)).collect();
    groups.sort();
    Ok(groups)
}
