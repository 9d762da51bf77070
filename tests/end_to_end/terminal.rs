//! The person at the terminal: what they are told beforehand and afterwards.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::{Lab, Options, Session, Test};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![
        explains_what_would_be_asked_and_asks_nothing,
        the_doctor_finds_nothing_wrong_where_nothing_is,
        the_doctor_names_what_is_wrong,
        the_doctor_finds_that_the_api_server_cannot_ask,
        a_person_sees_their_own_history_and_nobody_elses,
        what_streams_goes_on_when_its_token_has_expired,
        tab_completes_in_a_real_kubectl_and_never_prompts,
        a_kubectl_that_is_told_v1beta1_steps_up_in_one_command,
    ]
}

fn explains_what_would_be_asked_and_asks_nothing(lab: &Lab) -> Result<()> {
    let (alice, bob) = (lab.someone_like("alice")?, lab.someone_like("bob")?);
    let log = alice.browser_log();

    let text = alice.stepup(&["explain", "get", "secret", "db", "-n", "prod-x"])?.succeeded()?.stdout;
    for line in [
        "get secrets/db -n prod-x: needs a step-up.",
        "read-secrets: Reading production secrets",
        "urn:stepup:mfa, made in the last 5 min",
        "5 min, any number of uses",
        "get,list,watch secrets -n prod-x",
        "get secrets in other namespaces than prod-x",
    ] {
        ensure!(text.contains(line), "no {line:?} in\n{text}");
    }
    let text = alice.stepup(&["explain", "get", "configmap", "x"])?.succeeded()?.stdout;
    ensure!(text == "get configmaps/x -n default: no step-up is needed.\n", "{text}");

    let told = json_of(&bob, &["explain", "delete", "namespace", "prod", "-o", "json"])?;
    ensure!(told["canStepUp"] == false, "{told}");
    let protection = &told["actions"][0]["protection"];
    ensure!(protection["rules"][0]["name"] == "delete-namespace", "{told}");
    ensure!(protection["grant"]["uses"] == 1 && protection["maxAge"] == 300, "{told}");
    ensure!(protection["notCovered"][0] == "delete namespaces other than prod", "{told}");

    ensure!(alice.browser_log() == log, "alice was asked to sign in:\n{}", alice.browser_log());
    ensure!(lab.records_about("prod-x")?.is_empty(), "{:?}", lab.records_about("prod-x")?);
    ensure!(json_of(&alice, &["status", "-o", "json"])?["challenges"] == json!([]));
    Ok(())
}

fn the_doctor_finds_nothing_wrong_where_nothing_is(lab: &Lab) -> Result<()> {
    let alice = lab.someone_like("alice")?;
    let sign_ins = alice.sign_ins();

    let told = json_of(&alice, &["doctor", "-o", "json"])?;

    ensure!(told["healthy"] == true, "{told:#}");
    for check in [
        "plugin",
        "kubeconfig",
        "profile",
        "session",
        "identity provider",
        "stepup-server",
        "your account",
        "clock",
        "API server",
        "authorization webhook",
    ] {
        ensure!(state_of(&told, check) == "ok", "{check}: {told:#}");
    }
    // What only administrators can tell is said to be so.
    ensure!(state_of(&told, "admission webhook") == "unknown", "{told:#}");
    ensure!(alice.sign_ins() == sign_ins, "alice was asked to sign in");
    ensure!(json_of(&alice, &["status", "-o", "json"])?["challenges"] == json!([]), "the probe's challenge is left");

    // With an elevated token at hand it can tell that the API server takes those too.
    let mut window = alice.window()?;
    window.run("kubectl stepup elevate --for get secrets -n prod-y")?.succeeded()?;
    let text = window.run("kubectl stepup doctor")?.succeeded()?.stdout;
    ensure!(text.contains("the API server accepts those of stepup-server"), "{text}");
    let trial = window.run("kubectl stepup doctor --step-up")?.succeeded()?.stdout;
    ensure!(trial.contains("works: acr urn:stepup:mfa"), "{trial}");
    Ok(())
}

fn the_doctor_names_what_is_wrong(lab: &Lab) -> Result<()> {
    let alice = lab.new_session("alice")?;
    let run = alice.stepup(&["doctor"])?;
    ensure!(run.status.code() == Some(1) && run.stdout.contains("kubectl stepup setup"), "{}", run.stdout);

    alice.set_up(&["--preflight", "off"])?;
    let run = alice.stepup(&["doctor"])?;
    ensure!(run.status.code() == Some(1), "{}", run.stdout);
    ensure!(run.stdout.contains("problem  session") && run.stdout.contains("kubectl stepup login"), "{}", run.stdout);

    // Nobody listens there.
    let elsewhere = ["setup", "--profile", alice.name(), "--server", "https://127.0.0.1:1", "--offline"];
    alice.stepup(&elsewhere)?.succeeded()?;
    alice.log_in()?;
    let run = alice.stepup(&["doctor"])?;
    ensure!(run.stdout.contains("problem  stepup-server"), "{}", run.stdout);
    ensure!(run.stdout.contains("ok       API server"), "{}", run.stdout);
    Ok(())
}

/// stepup-server takes webhook clients of another name only, so it turns the API server away.
fn the_doctor_finds_that_the_api_server_cannot_ask(shared: &Lab) -> Result<()> {
    let lab = shared.another("unasked", Options::default())?;
    let alice = lab.someone_like("alice")?;
    let config = fs::read_to_string(lab.config_file())?;
    let other = config.replace("names: [kube-apiserver]", "names: [somebody-else]");
    ensure!(config != other, "{config}");
    fs::write(lab.config_file(), other)?;
    lab.restart_stepup_server()?;

    let told = alice.stepup(&["doctor"])?;

    ensure!(told.status.code() == Some(1), "{}", told.stdout);
    for line in [
        "problem  authorization webhook  the API server cannot ask stepup-server: ",
        "an administrator: can every API server reach stepup-server, with its client certificate?",
        "ok       stepup-server",
        "ok       API server",
    ] {
        ensure!(told.stdout.contains(line), "no {line:?} in\n{}", told.stdout);
    }
    Ok(())
}

/// kubernetes/kubectl#1716. Nobody is signed in, so whatever needs a token would have to ask.
fn tab_completes_in_a_real_kubectl_and_never_prompts(lab: &Lab) -> Result<()> {
    let alice = lab.new_session("alice")?;
    alice.set_up(&[])?;
    let bin = alice.home().join("bin");
    fs::create_dir_all(&bin)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completion/kubectl_complete-stepup");
    fs::copy(script, bin.join("kubectl_complete-stepup"))?;
    let programs = lab.program("kubectl");
    let path = [Some(bin.as_path()), programs.parent(), Some(Path::new("/usr/bin")), Some(Path::new("/bin"))];
    let alice = alice.with("PATH", env::join_paths(path.into_iter().flatten())?);

    for prompt in ["auto", "always"] {
        let mut window = alice.clone().with("KUBECTL_STEPUP_PROMPT", prompt).window()?;
        let completed = window.run("kubectl __complete stepup ele")?.succeeded()?.stdout;
        ensure!(completed.contains("elevate\tStep up now"), "{completed}");
        let completed = window.run("kubectl __complete stepup elevate --fo")?.succeeded()?.stdout;
        ensure!(completed.contains("--for"), "{completed}");
        window.run("kubectl __complete stepup ''")?.succeeded()?;
        // kubectl's own, which would list pods.
        window.run("kubectl __complete get pods ''")?;
        ensure!(alice.browser_log().is_empty(), "somebody was asked:\n{}", alice.browser_log());
    }
    Ok(())
}

fn a_kubectl_that_is_told_v1beta1_steps_up_in_one_command(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.new_session(&lab.name_like("alice"))?;
    alice.set_up(&["--exec-api-version", "v1beta1"])?;
    alice.log_in()?;
    let kubeconfig = fs::read_to_string(alice.kubeconfig())?;
    ensure!(kubeconfig.contains("client.authentication.k8s.io/v1beta1"), "{kubeconfig}");
    let before = alice.sign_ins();
    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "delete", "namespaces", &[429, 200])
}

fn a_person_sees_their_own_history_and_nobody_elses(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let (alice, bob) = (lab.someone_like("alice")?, lab.someone_like("bob")?);
    bob.kubectl(&["delete", "namespace", &namespace])?.failed_with("cannot step up")?;
    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;
    alice.stepup(&["elevate", "--for", "delete", "namespace", "prod-no-more"])?.succeeded()?;
    alice.stepup(&["drop", "--all"])?.succeeded()?;

    let history = json_of(&alice, &["history", "-o", "json"])?;
    let what: Vec<&str> =
        history["entries"].as_array().context("entries")?.iter().filter_map(|entry| entry["what"].as_str()).collect();
    ensure!(what == ["given-up", "granted", "asked", "used", "granted", "asked"], "{history:#}");
    ensure!(history["entries"][3]["actions"] == json!([format!("delete namespaces/{namespace}")]), "{history:#}");
    let text = bob.stepup(&["history"])?.succeeded()?.stdout;
    ensure!(text.contains("  refused    delete namespaces/") && !text.contains("granted"), "{text}");
    bob.stepup(&["history", "--user", alice.name()])?.failed_with("only administrators")?;
    Ok(())
}

/// The API server looks at a token when a request begins, and client-go closes no connection for a new one.
fn what_streams_goes_on_when_its_token_has_expired(lab: &Lab) -> Result<()> {
    let options =
        Options { provider_environment: vec![("LAB_TTL_ID_TOKEN".into(), "15".into())], ..Options::default() };
    let lab = lab.another("expired", options)?;
    let alice = lab.session("alice")?;
    let (dev, prod) = (lab.namespace("dev")?, lab.namespace("prod")?);
    lab.pod(&dev, "web", "node", &[])?;

    let base = alice.token()?;
    lab.admin(&["create", "configmap", "early", "-n", &dev])?;
    let watch = Stream::begin(&alice, &["get", "configmaps", "-n", &dev, "-w", "-o", "name"])?;
    watch.expect("configmap/early")?;
    let logs = Stream::begin(&alice, &["logs", "-f", "web", "-n", &dev])?;
    logs.expect("line 1")?;
    let mut exec = Stream::begin(&alice, &["exec", "-i", "web", "-n", &dev, "--", "cat"])?;
    exec.write("before")?;
    exec.expect("before")?;
    let mut window = alice.window()?;
    window.run(&format!("kubectl stepup elevate --for get secrets -n {prod} --ttl 10s"))?.succeeded()?;
    let elevated = window.token()?;
    ensure!(elevated != base, "the window has no elevated token");
    window.start(&format!("kubectl get secrets -n {prod} -w -o name; echo ended"))?;
    await_that(LIMIT, || {
        let events = lab.kube_audit_events()?;
        let watches = |event: &Value| {
            event["verb"] == "watch"
                && event["objectRef"]["namespace"] == *prod
                && event["objectRef"]["resource"] == "secrets"
        };
        ensure!(events.iter().any(watches), "the watch of secrets has not begun");
        Ok(())
    })?;

    for token in [&base, &elevated] {
        await_that(LIMIT, || lab.kubectl_with_token(token, &["get", "namespaces"])?.failed_with("Unauthorized"))?;
    }

    lab.admin(&["create", "configmap", "late", "-n", &dev])?;
    watch.expect("configmap/late")?;
    logs.goes_on()?;
    exec.write("after")?;
    exec.expect("after")?;
    lab.admin(&["create", "secret", "generic", "late", "-n", &prod])?;
    window.expect("secret/late")?;
    Ok(())
}

/// A kubectl that goes on until it is dropped.
struct Stream {
    child: Child,
    lines: Receiver<String>,
}

impl Stream {
    fn begin(person: &Session, arguments: &[&str]) -> Result<Self> {
        let mut command = person.command("kubectl");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let from = BufReader::new(child.stdout.take().context("stdout")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || from.lines().map_while(std::io::Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, lines })
    }

    fn write(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.child.stdin.as_mut().context("stdin")?, "{line}")?)
    }

    /// Whether there is more than what has come so far.
    fn goes_on(&self) -> Result<()> {
        while self.lines.try_recv().is_ok() {}
        self.lines.recv_timeout(LIMIT).context("nothing more has come").map(drop)
    }

    fn expect(&self, line: &str) -> Result<()> {
        loop {
            let next = self.lines.recv_timeout(LIMIT).with_context(|| format!("{line:?} has not come"))?;
            if next == line {
                return Ok(());
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn state_of<'a>(told: &'a Value, check: &str) -> &'a str {
    let checks = told["checks"].as_array().into_iter().flatten();
    let mut states = checks.filter(|finding| finding["check"] == check).map(|finding| &finding["state"]);
    states.next().and_then(Value::as_str).unwrap_or("missing")
}

fn json_of(person: &Session, arguments: &[&str]) -> Result<Value> {
    serde_json::from_str(&person.stepup(arguments)?.succeeded()?.stdout).context("JSON")
}
