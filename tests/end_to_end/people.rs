//! Who is asked, who is told, and who is left alone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::{Lab, Options, Test};
use serde_json::{Value, json};

use crate::objects::{deployment, names, namespace_with_deployments, namespace_with_secret, network_policy};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![
        bob_hears_at_once_that_he_cannot,
        a_service_account_that_a_rule_names_hears_so,
        controllers_are_left_alone,
        who_says_no_at_the_provider_is_told_so,
        who_presses_ctrl_c_is_told_so,
        a_prompt_that_nobody_answers_ends,
        nobody_is_asked_in_the_background,
        a_program_without_the_plugin_is_told_in_the_end,
    ]
}

/// Bob has no second factor. Quickly: by the first answer, without a retry.
fn bob_hears_at_once_that_he_cannot(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    lab.apply(&deployment(&namespace, "web"))?;
    let bob = lab.someone_like("bob")?;
    let log = bob.browser_log();
    let no = format!("{} cannot step up: no second factor is known for this identity", bob.name());

    bob.kubectl(&["delete", "namespace", &namespace])?.failed_with(&no)?;
    bob.kubectl(&["scale", "deployment", "web", "--replicas=0", "-n", &namespace])?.failed_with(&no)?;
    bob.kubectl(&["get", "secret", "db", "-n", &namespace])?.failed_with(&no)?;
    bob.kubectl(&["get", "secrets", "-A"])?.failed_with(&no)?;
    bob.stepup(&["elevate", "--for", "delete", "namespace", &namespace])?.failed_with("second factor")?;

    lab.answered(&namespace, "delete", "namespaces", &[403])?;
    lab.answered(&namespace, "patch", "deployments/scale", &[403])?;
    lab.answered(&namespace, "get", "secrets", &[403])?;
    ensure!(bob.browser_log() == log, "bob was asked to sign in:\n{}", bob.browser_log());
    let records = lab.records_about(&namespace)?;
    let refused = |record: &Value| record["event"] == "refusal" && record["code"] == "cannot-step-up";
    ensure!(records.len() == 3 && records.iter().all(refused), "{records:?}");
    Ok(())
}

fn a_service_account_that_a_rule_names_hears_so(lab: &Lab) -> Result<()> {
    lab.admin(&["create", "namespace", "robots"])?;
    lab.admin(&[
        "create",
        "rolebinding",
        "robots",
        "--clusterrole=lab-developer",
        "--group=system:serviceaccounts:robots",
        "-n",
        "robots",
    ])?;
    let token = |name: &str| -> Result<String> {
        lab.admin(&["create", "serviceaccount", name, "-n", "robots"])?;
        Ok(lab.admin(&["create", "token", name, "-n", "robots"])?.trim().to_owned())
    };
    let (deployer, other) = (token("deployer")?, token("other")?);
    lab.admin(&["create", "configmap", "settings", "-n", "robots"])?;
    let delete = ["delete", "configmap", "settings", "-n", "robots"];

    lab.kubectl_with_token(&deployer, &delete)?.failed_with("system:serviceaccount:robots:deployer cannot step up")?;
    lab.answered("robots", "delete", "configmaps", &[403])?;
    lab.kubectl_with_token(&other, &delete)?.succeeded()?;
    lab.answered("robots", "delete", "configmaps", &[403, 200])?;

    let records = lab.records_about("robots")?;
    ensure!(records.len() == 1, "{records:?}");
    Ok(())
}

/// A deleted namespace with protected things in it is really cleaned up: by the namespace controller, unasked.
fn controllers_are_left_alone(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    lab.apply(&deployment(&namespace, "web"))?;
    lab.apply(&network_policy(&namespace, "closed"))?;
    let reader = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reader", "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    });
    lab.apply(&reader)?;
    let alice = lab.someone_like("alice")?;

    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;

    ensure!(lab.admin(&["get", "namespace", &namespace]).is_err(), "the namespace is still there");
    let events = lab.kube_audit_events()?;
    let cleaned: Vec<&Value> = events
        .iter()
        .filter(|event| {
            event["objectRef"]["namespace"] == *namespace
                && event["user"]["username"] == "system:serviceaccount:kube-system:namespace-controller"
        })
        .collect();
    for resource in ["secrets", "deployments", "networkpolicies", "roles"] {
        let done = |event: &&&Value| event["verb"] == "deletecollection" && event["objectRef"]["resource"] == resource;
        let event = cleaned.iter().find(done).with_context(|| format!("nobody deleted the {resource}"))?;
        ensure!(event["responseStatus"]["code"] == 200, "{event}");
    }
    let others: Vec<Value> =
        lab.records_about(&namespace)?.into_iter().filter(|record| record["user"] != alice.name()).collect();
    ensure!(others.is_empty(), "{others:?}");
    Ok(())
}

fn who_says_no_at_the_provider_is_told_so(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let delete = ["delete", "namespace", &namespace];
    let alice = lab.someone_like("alice")?;
    let reluctant = alice.clone().with("LAB_BROWSER", "deny");
    let before = alice.sign_ins();

    reluctant.kubectl(&delete)?.failed_with("and it was declined")?;

    lab.answered(&namespace, "delete", "namespaces", &[429, 403])?;
    ensure!(alice.browser_log().ends_with("denied\n") || alice.browser_log().contains(": denied\n"));
    ensure!(alice.sign_ins() == before);
    ensure!(lab.story_of(&namespace)? == ["challenge", "decline", "refusal"], "{:?}", lab.story_of(&namespace)?);
    // Who thinks better of it is asked again, a few seconds later.
    await_that(LIMIT, || alice.kubectl(&delete)?.succeeded())?;
    Ok(())
}

fn who_presses_ctrl_c_is_told_so(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?.with("LAB_BROWSER", "ignore");
    let mut window = alice.window()?;
    let delete = format!("kubectl delete namespace {namespace}");

    window.start(&delete)?;
    window.expect("/device?user_code=")?;
    window.interrupt()?;
    let interrupted = window.outcome()?;
    ensure!(!interrupted.status.success(), "{}", interrupted.stdout);

    // Ctrl-C ends kubectl too, so it is the next one that hears of it.
    let declined = || {
        let story = lab.story_of(&namespace)?;
        ensure!(story == ["challenge", "decline"], "{story:?}");
        Ok(())
    };
    await_that(LIMIT, declined)?;
    window.run(&delete)?.failed_with("and it was declined")?;
    lab.answered(&namespace, "delete", "namespaces", &[429, 403])?;
    lab.admin(&["get", "namespace", &namespace])?;
    Ok(())
}

fn a_prompt_that_nobody_answers_ends(lab: &Lab) -> Result<()> {
    let options = Options {
        provider_environment: vec![("LAB_TTL_DEVICE_CODE".to_owned(), "12".to_owned())],
        ..Options::default()
    };
    let lab = lab.another("short-codes", options)?;
    let namespace = lab.namespace("prod")?;
    let alice = lab.session("alice")?.with("LAB_BROWSER", "ignore");

    alice.kubectl(&["delete", "namespace", &namespace])?.failed_with("nobody completed the sign-in in time")?;

    lab.answered(&namespace, "delete", "namespaces", &[429, 403])?;
    let records = lab.records_about(&namespace)?;
    let decline = records.iter().find(|record| record["event"] == "decline").context("no decline recorded")?;
    ensure!(decline["code"] == "timed-out", "{decline}");
    lab.admin(&["get", "namespace", &namespace])?;
    Ok(())
}

fn nobody_is_asked_in_the_background(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["web"])?;
    let alice = lab.someone_like("alice")?;
    let log = alice.browser_log();

    alice
        .background("kubectl", &["delete", "namespace", &namespace])?
        .failed_with("nobody took it up: type \"kubectl stepup elevate\", then repeat the command")?;
    alice.background("kubectl", &["get", "secrets", "-n", &namespace])?.failed_with("kubectl stepup elevate")?;

    lab.answered(&namespace, "delete", "namespaces", &[429, 429, 403])?;
    ensure!(alice.browser_log() == log, "somebody was asked:\n{}", alice.browser_log());
    ensure!(names(lab, "deployments", &namespace)? == ["web"]);
    Ok(())
}

fn a_program_without_the_plugin_is_told_in_the_end(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?;
    let token = alice.token()?;

    lab.kubectl_with_token(&token, &["delete", "namespace", &namespace])?
        .failed_with("nobody took it up: type \"kubectl stepup elevate\", then repeat the command")?;

    lab.answered(&namespace, "delete", "namespaces", &[429, 429, 403])?;
    lab.admin(&["get", "namespace", &namespace])?;
    Ok(())
}
