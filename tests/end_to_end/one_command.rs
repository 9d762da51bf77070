//! Step up inside one command: nothing else is typed, and what was asked for is done whole, and once.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::{Lab, Outcome, Session, Test};
use serde_json::{Value, json};

use crate::objects::{await_next_second, deployment, names, namespace_with_deployments, network_policy};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![
        deletes_a_namespace,
        deletes_a_namespace_on_a_terminal,
        deletes_three_namespaces_with_one_sign_in,
        scales_a_deployment,
        applies_a_manifest_from_stdin,
        applies_a_manifest_from_stdin_through_run,
        applies_a_manifest_on_the_server_side,
        patches_once,
        deletes_all_of_a_kind_with_one_sign_in,
        deletes_a_collection_with_one_use,
        changes_a_role_for_a_reason_that_was_given,
        asks_for_a_reason_on_the_terminal,
        parallel_commands_share_one_prompt,
        serves_other_programs,
        leaves_the_unprotected_alone,
        records_what_it_only_watches,
    ]
}

fn deletes_a_namespace(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();

    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "delete", "namespaces", &[429, 200])?;
    ensure!(lab.story_of(&namespace)? == ["challenge", "step-up", "mint", "use"]);
    alice.kubectl(&["get", "namespace", &namespace])?.failed_with("NotFound")?;
    Ok(())
}

fn deletes_a_namespace_on_a_terminal(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?;

    let terminal = alice.terminal("kubectl", &["delete", "namespace", &namespace])?;
    let (status, seen) = terminal.finish(LIMIT)?;

    ensure!(status.success(), "{status}:\n{seen}");
    ensure!(seen.matches("/device?user_code=").count() == 1, "one prompt, not\n{seen}");
    ensure!(seen.contains(&format!("Step-up required: delete namespaces/{namespace}\n")), "{seen}");
    ensure!(seen.contains("rule    delete-namespace: Deleting a namespace that matters\n"), "{seen}");
    ensure!(seen.contains(&format!("namespace \"{namespace}\" deleted")), "{seen}");
    Ok(())
}

fn deletes_three_namespaces_with_one_sign_in(lab: &Lab) -> Result<()> {
    let (a, b, c) = (lab.namespace("prod")?, lab.namespace("prod")?, lab.namespace("payment")?);
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();

    alice.kubectl(&["delete", "namespace", &a, &b, &c])?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    let mut grants = Vec::new();
    for namespace in [&a, &b, &c] {
        lab.answered(namespace, "delete", "namespaces", &[429, 200])?;
        ensure!(lab.story_of(namespace)? == ["challenge", "step-up", "mint", "use"]);
        grants.push(grant_used(lab, namespace)?);
    }
    grants.dedup();
    ensure!(grants.len() == 3, "a grant for each namespace, not {grants:?}");
    Ok(())
}

fn scales_a_deployment(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["web"])?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();

    alice.kubectl(&["scale", "deployment", "web", "--replicas=3", "-n", &namespace])?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "patch", "deployments/scale", &[429, 200])?;
    ensure!(lab.object(&["deployment", "web", "-n", &namespace])?["spec"]["replicas"] == 3);
    Ok(())
}

/// The manifest is on stdin, where a prompt could eat it (kubernetes#70261), and large.
fn applies_a_manifest_from_stdin(lab: &Lab) -> Result<()> {
    applies(lab, &["apply", "-f", "-"])
}

/// What is typed to `run` is for the program that it runs.
fn applies_a_manifest_from_stdin_through_run(lab: &Lab) -> Result<()> {
    applies(lab, &["stepup", "run", "--", "kubectl", "apply", "-f", "-"])
}

fn applies_a_manifest_on_the_server_side(lab: &Lab) -> Result<()> {
    applies(lab, &["apply", "--server-side", "-f", "-"])
}

fn applies(lab: &Lab, apply: &[&str]) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?;
    let mut manifest = deployment(&namespace, "web");
    // To create a deployment takes no step-up, to change one does.
    with_stdin(&alice, apply, &manifest)?.succeeded()?;
    let before = alice.sign_ins();
    let note = (0..9_000).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    manifest["metadata"]["annotations"] = json!({"note": note});
    manifest["spec"]["replicas"] = json!(7);
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = json!("example.test/app:2");

    with_stdin(&alice, apply, &manifest)?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    let applied = lab.object(&["deployment", "web", "-n", &namespace])?;
    ensure!(applied["metadata"]["annotations"]["note"] == note, "the annotation has not come through whole");
    ensure!(applied["spec"]["replicas"] == 7, "{}", applied["spec"]);
    ensure!(applied["spec"]["template"]["spec"]["containers"][0]["image"] == "example.test/app:2");
    Ok(())
}

/// A JSON patch that would show if it was carried out twice. What protects the deployment is a label of the object.
fn patches_once(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let mut web = deployment(&namespace, "web");
    web["metadata"]["labels"] = json!({"critical": "true"});
    lab.apply(&web)?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let sidecar = json!({"name": "sidecar", "image": "example.test/sidecar:1"});
    let patch = json!([{"op": "add", "path": "/spec/template/spec/containers/0", "value": sidecar}]).to_string();

    alice.kubectl(&["patch", "deployment", "web", "-n", &namespace, "--type=json", "--patch", &patch])?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "patch", "deployments", &[429, 200])?;
    let patched = lab.object(&["deployment", "web", "-n", &namespace])?;
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().context("containers")?;
    let names: Vec<&Value> = containers.iter().map(|container| &container["name"]).collect();
    ensure!(names == ["sidecar", "app"], "{names:?}");
    Ok(())
}

/// `kubectl delete --all` is a request for each object, and every object has a grant of its own.
fn deletes_all_of_a_kind_with_one_sign_in(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["api", "web", "worker"])?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();

    alice.kubectl(&["delete", "deployments", "--all", "-n", &namespace])?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "delete", "deployments", &[429, 200, 429, 200, 429, 200])?;
    ensure!(names(lab, "deployments", &namespace)?.is_empty());
    Ok(())
}

/// One deletecollection request is reviewed object by object; a single use has to do for all of it, and for no more.
/// `kubectl --raw` streams its body, so client-go cannot repeat the request by itself.
fn deletes_a_collection_with_one_use(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let delete = format!("kubectl delete --raw /apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;

    for round in 1..=2 {
        // Those of the second round are newer than the first request.
        await_next_second()?;
        for name in ["a", "b", "c", "d"] {
            lab.apply(&network_policy(&namespace, name))?;
        }
        window.run(&delete)?.failed_with("type: kubectl stepup elevate")?;
        ensure!(names(lab, "networkpolicies", &namespace)?.len() == 4);
        window.run("kubectl stepup elevate")?.succeeded()?;

        window.run(&delete)?.succeeded()?;

        ensure!(names(lab, "networkpolicies", &namespace)?.is_empty());
        lab.answered(&namespace, "deletecollection", "networkpolicies", &[429, 200].repeat(round))?;
    }
    let story = lab.story_of(&namespace)?;
    let count = |event: &str| story.iter().filter(|other| *other == event).count();
    ensure!((count("step-up"), count("mint"), count("use")) == (2, 2, 8), "{story:?}");
    Ok(())
}

fn changes_a_role_for_a_reason_that_was_given(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let create = ["create", "role", "reader", "--verb=get", "--resource=pods", "-n", &namespace];
    let alice = lab.someone_like("alice")?;

    // Without a terminal nobody can be asked for it, so the command ends; how to give one is said.
    alice.kubectl(&create)?.failed_with("KUBECTL_STEPUP_REASON")?;
    ensure!(names(lab, "roles", &namespace)?.is_empty());

    let alice = alice.with("KUBECTL_STEPUP_REASON", "OPS-4711");
    await_that(LIMIT, || alice.kubectl(&create)?.succeeded())?;

    ensure!(names(lab, "roles", &namespace)? == ["reader"]);
    let records = lab.records_about(&namespace)?;
    let record = |event: &str| records.iter().find(|record| record["event"] == event).with_context(|| event.to_owned());
    let (used, made) = (record("use")?, record("mint")?);
    for (what, is) in [
        ("user", json!(alice.name())),
        ("actions", json!([format!("create roles.rbac.authorization.k8s.io/reader -n {namespace}")])),
        ("rules", json!(["roles"])),
        ("source", json!("127.0.0.1")),
        ("acr", json!("urn:stepup:mfa")),
        ("authTime", made["authTime"].clone()),
        ("reason", json!("OPS-4711")),
        ("grant", made["grant"].clone()),
        ("challenge", made["challenge"].clone()),
        ("decision", json!("allowed")),
    ] {
        ensure!(used[what] == is && !is.is_null(), "{what} is not {is} in {used:#}");
    }
    ensure!(used["uid"].as_str().is_some_and(|uid| uid.len() == 36), "no uid in {used:#}");
    ensure!(used["latencyMicros"].as_u64().is_some_and(|micros| micros > 0), "no latency in {used:#}");
    await_that(LIMIT, || {
        let events = lab.kube_audit_events()?;
        let created = |event: &&Value| {
            event["objectRef"]["namespace"] == *namespace
                && event["objectRef"]["resource"] == "roles"
                && event["responseStatus"]["code"] == 201
        };
        let event = events.iter().find(created).context("the creation is not in the cluster's audit log")?;
        let annotations = event["annotations"].as_object().context("no annotations")?;
        for (name, is) in
            [("rule", &json!("roles")), ("grant", &used["grant"]), ("acr", &used["acr"]), ("reason", &used["reason"])]
        {
            let annotation = annotations.get(&format!("admit.kubectl-stepup.io/{name}"));
            ensure!(annotation == Some(is), "{name} is not {is} in {annotations:?}");
        }
        Ok(())
    })
}

fn asks_for_a_reason_on_the_terminal(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;

    window.start(&format!("kubectl create role reader --verb=get --resource=pods -n {namespace}"))?;
    window.expect("Reason (a change ticket such as OPS-123):")?;
    window.start("because")?;
    window.expect("this reason will not do")?;
    window.start("OPS-42")?;
    window.outcome()?.succeeded()?;

    let records = lab.records_about(&namespace)?;
    let used = records.iter().find(|record| record["event"] == "use").context("no use recorded")?;
    ensure!(used["reason"] == "OPS-42", "{used}");
    Ok(())
}

/// One prompt at a time: the second command waits for the first one's, and shares its sign-in.
fn parallel_commands_share_one_prompt(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["a", "b", "c", "d", "e", "f"])?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;

    // A script's: what an interactive shell puts into the background opens no browser.
    let all = format!("for name in a b c d e f; do kubectl delete deployment $name -n {namespace} & done; wait");
    let seen = window.run(&format!("sh -c '{all}'"))?.stdout;

    ensure!(names(lab, "deployments", &namespace)?.is_empty(), "{seen}");
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}\n{seen}", alice.browser_log());
    ensure!(seen.matches("/device?user_code=").count() == 1, "one prompt, not\n{seen}");
    Ok(())
}

/// What the plugin knows of kubectl's commands, it knows of no other program's.
fn serves_other_programs(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?;
    let deployer = alice.home().join("deployer");
    let kubectl = lab.directory().join("bin/kubectl");
    std::os::unix::fs::symlink(kubectl, &deployer)?;
    let before = alice.sign_ins();

    let deployer = deployer.to_str().context("a path")?;
    Outcome::of(alice.command(deployer).args(["delete", "namespace", &namespace]))?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "delete", "namespaces", &[429, 200])
}

fn leaves_the_unprotected_alone(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let bob = lab.someone_like("bob")?;

    bob.kubectl(&["delete", "namespace", &namespace, "--wait=false"])?.succeeded()?;

    lab.answered(&namespace, "delete", "namespaces", &[200])?;
    ensure!(lab.story_of(&namespace)?.is_empty());
    Ok(())
}

/// A rule with `enforcement: audit` says who would be asked, and asks nobody.
fn records_what_it_only_watches(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let bob = lab.someone_like("bob")?;
    bob.kubectl(&["create", "configmap", "settings", "-n", &namespace])?.succeeded()?;

    bob.kubectl(&["delete", "configmap", "settings", "-n", &namespace])?.succeeded()?;

    lab.answered(&namespace, "delete", "configmaps", &[200])?;
    let records = lab.records_about(&namespace)?;
    ensure!(records.len() == 1, "{records:?}");
    ensure!(records[0]["event"] == "would-challenge" && records[0]["user"] == bob.name(), "{records:?}");
    ensure!(records[0]["rules"] == json!(["delete-configmaps"]), "{records:?}");
    Ok(())
}

fn with_stdin(person: &Session, arguments: &[&str], manifest: &Value) -> Result<Outcome> {
    let mut command = person.command("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("no pipe")?.write_all(manifest.to_string().as_bytes())?;
    Ok(child.wait_with_output()?.into())
}

fn grant_used(lab: &Lab, namespace: &str) -> Result<Value> {
    let records = lab.records_about(namespace)?;
    let used = records.iter().find(|record| record["event"] == "use").context("no use recorded")?;
    Ok(used["grant"].clone())
}
