//! No stepup-server at all: the cluster tells the provider's strong tokens from others by `acr` and `auth_time`. It is set
//! up by the samples in `packaging/provider-only`, and by nothing else.

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey};
use lab::{Lab, Lock, Options, Session, Test};
use serde_json::{Value, json};

use crate::groups::{groups_of, watches};
use crate::no_secret::files_under;
use crate::objects::{PASSWORD_AS_SHOWN, namespace_with_secret};
use crate::raw::{self, MFA, Raw};

pub fn tests() -> Vec<Test> {
    lab::tests![the_provider_alone_steps_up]
}

fn the_provider_alone_steps_up(shared: &Lab) -> Result<()> {
    let lab = &shared.another("provider-only", Options { lock: Lock::Provider, ..Options::default() })?;
    let namespace = &namespace_with_secret(lab, "prod")?;
    for name in ["one", "two", "three", "four"] {
        lab.admin(&["create", "configmap", name, "-n", namespace])?;
    }
    lab.pod(namespace, "api-0", "node", &[])?;
    let alice = &session(lab, "alice")?;

    one_command(lab, alice, namespace)?;
    by_hand(lab, alice, namespace)?;
    programs(alice, namespace)?;
    only_for_who_asked(alice, namespace)?;
    by_lines_of_the_profile_alone(lab, namespace)?;
    nobody_else(lab, namespace)?;

    let out = alice.stepup(&["logout"])?.succeeded()?.stdout;
    ensure!(out.contains("all tokens here are deleted"), "{out}");
    let mut held = Vec::new();
    for directory in ["cache/alice/elevated", "cache/.step-up"] {
        held.extend(files_under(&alice.home().join(directory)).unwrap_or_default());
    }
    ensure!(held.is_empty(), "a strong token outlived the logout: {held:?}");
    Ok(())
}

/// A person whose profile has no server. The list of what is protected is the cluster's, and one line of their own.
fn session(lab: &Lab, name: &str) -> Result<Session> {
    let session = lab.new_session(name)?;
    let list = ["--digest-configmap", "kube-public/stepup", "--protect", "get configmaps"];
    session.set_up(&[&["--step-up-acr", MFA][..], &list].concat())?;
    session.log_in()?;
    let kubeconfig = std::fs::read_to_string(session.kubeconfig())?;
    ensure!(kubeconfig.contains("provideClusterInfo") && kubeconfig.contains("true"), "{kubeconfig}");
    Ok(session)
}

/// Reads, connections and writes step up inside the command, and what is not protected asks for nothing.
fn one_command(lab: &Lab, alice: &Session, namespace: &str) -> Result<()> {
    let signed_in = alice.sign_ins();
    let mut window = alice.window()?;
    let get = format!("kubectl get secret db -n {namespace} -o yaml");

    // Of these the second is in the list, and the base token may do it nevertheless.
    for command in ["kubectl get pods -A", "kubectl get configmaps -A", "kubectl auth whoami"] {
        window.run(command)?.succeeded().context(command)?;
    }
    ensure!(alice.sign_ins() == signed_in, "an unprotected command asked for a sign-in:\n{}", alice.browser_log());

    let shown = window.run(&get)?.succeeded()?.stdout;
    ensure!(shown.contains(PASSWORD_AS_SHOWN) && shown.contains("Step-up required: get secrets/db"), "{shown}");
    ensure!(alice.sign_ins() == signed_in + 1, "one sign-in, not\n{}", alice.browser_log());

    // Normal again, and the sign-in is still fresh enough for more commands.
    let groups = groups_of(&window.run("kubectl auth whoami -o json")?.succeeded()?.stdout)?;
    ensure!(groups == ["developers", "mfa", "stepup:base", "system:authenticated"], "{groups:?}");
    window.run("kubectl get secrets -A")?.succeeded()?;
    let shown = window.run(&format!("kubectl -n {namespace} exec api-0 -- echo inside"))?.succeeded()?.stdout;
    ensure!(shown.contains("inside"), "{shown}");
    watches(lab, &mut window, namespace)?;
    // A write that the base token has no right to, and one that only the admission policy holds up.
    let other = lab.namespace("dev")?;
    window.run(&format!("kubectl delete namespace {other}"))?.succeeded()?;
    window.run(&format!("kubectl delete configmap one -n {namespace}"))?.succeeded()?;
    ensure!(alice.sign_ins() == signed_in + 1, "{}", alice.browser_log());

    // What was kept as the base token is none of the stronger ones.
    let base = raw::claims(&alice.token()?)?;
    ensure!(base["acr"] != MFA, "a strong token was kept as the base token: {base}");
    window.run("kubectl stepup drop")?.succeeded()?;
    Ok(())
}

/// `elevate` arms the terminal until the token is dropped or expires, and what there is is shown.
fn by_hand(lab: &Lab, alice: &Session, namespace: &str) -> Result<()> {
    let base = alice.token()?;
    let secrets = ["get", "secrets", "-n", namespace];
    lab.kubectl_with_token(&base, &secrets)?.failed_with("cannot list resource \"secrets\"")?;
    let delete = ["delete", "configmap", "two", "-n", namespace];
    lab.kubectl_with_token(&base, &delete)?.failed_with("a step-up is required: type \"kubectl stepup elevate\"")?;

    let mut window = alice.window()?;
    let said = window.run(&format!("kubectl stepup elevate --for get secrets -n {namespace}"))?.succeeded()?.stdout;
    ensure!(said.contains("This terminal may now") && said.contains("cannot be ended early"), "{said}");
    let groups = groups_of(&window.run("kubectl auth whoami -o json")?.succeeded()?.stdout)?;
    let strong = ["stepup:mfa", "stepup:mfa:developers", "stepup:mfa:mfa"];
    ensure!(strong.iter().all(|group| groups.iter().any(|other| other == group)), "{groups:?}");
    window.run(&format!("kubectl delete configmap two -n {namespace}"))?.succeeded()?;

    let status: Value = serde_json::from_str(&window.run("kubectl stepup status -o json")?.succeeded()?.stdout)?;
    ensure!(status["providerOnly"] == true && status["grants"][0]["held"] == "terminal", "{status}");
    let text = window.run("kubectl stepup status")?.succeeded()?.stdout;
    ensure!(text.contains("at the identity provider") && text.contains("cannot be ended early"), "{text}");

    let strong = window.token()?;
    let dropped = window.run("kubectl stepup drop")?.succeeded()?.stdout;
    ensure!(dropped.contains("is forgotten here"), "{dropped}");
    let groups = groups_of(&window.run("kubectl auth whoami -o json")?.succeeded()?.stdout)?;
    ensure!(groups.iter().any(|group| group == "stepup:base"), "{groups:?}");
    // As it was said: what was copied lives on.
    lab.kubectl_with_token(&strong, &secrets)?.succeeded()?;
    Ok(())
}

/// Whatever a program is refused, by RBAC or by the admission policy, is stepped up for if it is in the list; the rest is not.
fn programs(alice: &Session, namespace: &str) -> Result<()> {
    let mut window = alice.window()?;
    let run = |what: &str| format!("kubectl stepup run -- {what}");
    let shown = window.run(&run(&format!("kubectl get secret db -n {namespace} -o yaml")))?.succeeded()?.stdout;
    ensure!(shown.contains(PASSWORD_AS_SHOWN), "{shown}");
    window.run(&run(&format!("kubectl delete configmap four -n {namespace}")))?.succeeded()?;
    window.run(&format!("kubectl get secrets -n {namespace}"))?.succeeded()?;
    for what in ["history", "explain get secrets"] {
        window.run(&format!("kubectl stepup {what}"))?.failed_with("")?;
    }
    Ok(())
}

/// Without the cluster's list there is that of the profile, which may be told of some namespaces alone.
fn by_lines_of_the_profile_alone(lab: &Lab, namespace: &str) -> Result<()> {
    let carol = lab.new_session("carol")?;
    carol.set_up(&["--step-up-acr", MFA, "--protect", "get secrets -n prod-*"])?;
    carol.log_in()?;
    let before = carol.sign_ins();
    let mut window = carol.window()?;

    window.run("kubectl get secrets -n default")?.failed_with("cannot list resource \"secrets\"")?;
    ensure!(carol.sign_ins() == before, "asked for what is in no list:\n{}", carol.browser_log());
    let shown = window.run(&format!("kubectl get secret db -n {namespace} -o yaml"))?.succeeded()?.stdout;
    ensure!(shown.contains(PASSWORD_AS_SHOWN), "{shown}");
    ensure!(carol.sign_ins() == before + 1, "one sign-in, not\n{}", carol.browser_log());
    Ok(())
}

/// Another terminal has base rights, and a program without anybody there is not asked.
fn only_for_who_asked(alice: &Session, namespace: &str) -> Result<()> {
    let mut armed = alice.window()?;
    armed.run("kubectl stepup elevate")?.succeeded()?;
    let before = alice.sign_ins();
    let refused = alice.background("kubectl", &["get", "secrets", "-n", namespace])?;
    refused.failed_with("cannot list resource \"secrets\"")?;
    ensure!(alice.sign_ins() == before, "{}", alice.browser_log());
    armed.run(&format!("kubectl get secrets -n {namespace}"))?.succeeded()?;
    armed.run("kubectl stepup drop --all")?.succeeded()?;
    Ok(())
}

/// Neither a person without a second factor, nor a token that is strong no more, nor one that names groups itself.
fn nobody_else(lab: &Lab, namespace: &str) -> Result<()> {
    let secrets = ["get", "secrets", "-n", namespace];
    let delete = ["delete", "configmap", "three", "-n", namespace];
    let asked = session(lab, "bob")?.kubectl(&secrets)?.failed_with("cannot list resource \"secrets\"")?;
    ensure!(asked.stderr.contains("Step-up required"), "{}", asked.stderr);
    let raw = Raw::new(lab)?;
    let bob = raw.sign_in("bob", None)?;
    lab.kubectl_with_token(&bob, &secrets)?.failed_with("cannot list resource \"secrets\"")?;
    lab.kubectl_with_token(&bob, &delete)?.failed_with("a step-up is required")?;

    let strong = raw.sign_in("alice", Some(MFA))?;
    lab.kubectl_with_token(&strong, &secrets)?.succeeded()?;
    let key = EncodingKey::from_rsa_pem(&std::fs::read(&lab.pki().provider_signing_key)?)?;
    let signed = |changes: Value| {
        let mut claims = raw::claims(&strong)?;
        for (name, value) in changes.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        raw::token(&raw::header(&strong)?.to_string(), &claims.to_string(), &key, Algorithm::RS256)
    };
    let signed_in = raw::claims(&strong)?["auth_time"].as_i64().context("no auth_time")?;
    // As a refresh token would renew it, an hour later; and a provider that does not say when.
    for changes in
        [json!({"auth_time": signed_in - 3600}), json!({"auth_time": null}), json!({"acr": "urn:stepup:pwd"})]
    {
        let token = signed(changes.clone())?;
        let refused = lab.kubectl_with_token(&token, &secrets)?;
        refused.failed_with("").with_context(|| changes.to_string())?;
        lab.kubectl_with_token(&token, &delete)?.failed_with("").with_context(|| changes.to_string())?;
    }
    for group in ["stepup:mfa", "stepup:mfa:developers", "system:masters"] {
        let forged = raw::with_groups(lab, &bob, &["developers", group])?;
        lab.kubectl_with_token(&forged, &["get", "pods", "-n", namespace])?.failed_with("Unauthorized")?;
    }
    lab.kubectl_with_token(&bob, &[&secrets[..], &["--as", "bob", "--as-group", "stepup:mfa:developers"]].concat())?
        .failed_with("cannot impersonate")?;
    lab.admin(&["get", "configmap", "three", "-n", namespace]).map(drop)
}
