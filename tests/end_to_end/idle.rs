//! A tool that shows a cluster all day, and whose person has gone: an informer, and a request every second besides.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Options, Session, Test};
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    lab::tests![a_tool_whose_session_has_ended_asks_nobody_and_goes_on_after_a_sign_in]
}

const LIMIT: Duration = Duration::from_mins(2);

/// How long the tool is left alone. Long enough for whatever would be tried again after a while.
fn while_nobody_looks() -> Duration {
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    Duration::from_mins(if is_ci { 10 } else { 1 })
}

fn a_tool_whose_session_has_ended_asks_nobody_and_goes_on_after_a_sign_in(lab: &Lab) -> Result<()> {
    let options =
        Options { provider_environment: vec![("LAB_TTL_ID_TOKEN".into(), "15".into())], ..Options::default() };
    let lab = lab.another("idle", options)?;
    let namespace = lab.namespace("dev")?;
    lab.admin(&["create", "configmap", "before", "-n", &namespace])?;
    let alice = lab.session("alice")?;
    let counted = Counted::plugin_of(&lab, &alice)?;

    let tool = Tool::begin(&lab, &counted.person, &namespace)?;
    tool.expect(|line| line == "ADDED before")?;
    tool.expect(|line| line == "LISTED")?;
    // Its person signs out at the provider; here nobody hears of it until the token has to be renewed.
    fs::remove_file(alice.home().join("state").join(alice.name()).join("refresh-token"))?;
    tool.expect(|line| line.starts_with("FAILED"))?;

    let (log, before) = (alice.browser_log(), counted.runs()?.len());
    let until = Instant::now() + while_nobody_looks();
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        if let Ok(line) = tool.lines.recv_timeout(left) {
            ensure!(line.starts_with("FAILED"), "{line}");
        }
    }
    ensure!(alice.browser_log() == log, "somebody was asked:\n{}", alice.browser_log());
    // A browser is one way to be asked; what a prompt would say is seen where the tool's messages go.
    let said = fs::read_to_string(&tool.messages)?;
    ensure!(said.contains("kubectl stepup login"), "nobody was told what to do:\n{said}");
    for prompt in ["user_code", "Sign in at", "Step-up required", "Not signed in to"] {
        ensure!(!said.contains(prompt), "somebody was asked:\n{said}");
    }
    // What each costs is shown, and judged by `make bench`: here other tests are in the way.
    let mut runs = counted.runs()?.split_off(before);
    ensure!(runs.len() > 10, "the plugin ran {} times: the tool has given up", runs.len());
    runs.sort();
    let median = runs[runs.len() / 2].as_secs_f64() * 1000.0;
    lab::suite::show(&format!("idle tool: {} runs of the plugin, the median took {median:.1} ms", runs.len()));

    // The tool was not to be told: it comes back by itself.
    alice.log_in()?;
    tool.expect(|line| line == "LISTED")?;
    lab.admin(&["create", "configmap", "after", "-n", &namespace])?;
    tool.expect(|line| line == "ADDED after")
}

/// A plugin whose runs are counted and timed.
struct Counted {
    /// Somebody to whom it is the plugin.
    person: Session,
    log: PathBuf,
}

impl Counted {
    fn plugin_of(lab: &Lab, person: &Session) -> Result<Self> {
        let (directory, log) = (person.home().join("counted"), person.home().join("runs"));
        fs::create_dir(&directory)?;
        let real = lab.program("kubectl-stepup");
        // The plugin has to be the tool's own child, so its end is seen by what it leaves open until then.
        let script = format!(
            r#"#!/usr/bin/env bash
exec 9> >(exec >>'{}'; begun=$EPOCHREALTIME; read -r; ended=$EPOCHREALTIME; echo $((${{ended/[.,]/}} - ${{begun/[.,]/}})))
exec '{}' "$@"
"#,
            log.display(),
            real.display()
        );
        let plugin = directory.join("kubectl-stepup");
        fs::write(&plugin, script)?;
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
        let mut kubeconfig: Value = serde_json::from_slice(&fs::read(person.kubeconfig())?)?;
        kubeconfig["users"][0]["user"]["exec"]["command"] = json!(plugin);
        fs::write(person.kubeconfig(), kubeconfig.to_string())?;
        Ok(Self { person: person.clone().with("KUBECTL_STEPUP_PROMPT", "auto"), log })
    }

    /// How long each run took that has ended.
    fn runs(&self) -> Result<Vec<Duration>> {
        fs::read_to_string(&self.log)?.lines().map(|micros| Ok(Duration::from_micros(micros.parse()?))).collect()
    }
}

/// The tool, without a terminal, as a desktop program's.
struct Tool {
    child: Child,
    lines: Receiver<String>,
    /// What it and its plugin say beside.
    messages: PathBuf,
}

impl Tool {
    fn begin(lab: &Lab, person: &Session, namespace: &str) -> Result<Self> {
        let clients = lab.clients()?;
        let client = clients.iter().find(|client| client.name.starts_with("client-go")).context("no client-go")?;
        let mut command = person.detached(Path::new(&client.directory).join("client"))?;
        command.args(["inform", namespace]).stdin(Stdio::null()).stdout(Stdio::piped());
        let messages = person.home().join("messages");
        command.stderr(fs::File::create(&messages)?);
        let mut child = command.spawn()?;
        let from = BufReader::new(child.stdout.take().context("stdout")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || from.lines().map_while(std::io::Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, lines, messages })
    }

    fn expect(&self, is_it: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).context("it has not come")?;
            if is_it(&line) {
                return Ok(());
            }
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
