//! No token, code, password or key is in any log, error, audit record, process list or core dump.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lab::person::Account;
use lab::process::await_that;
use lab::{Lab, Options, Outcome, Session, Test};
use serde_json::Value;

use crate::raw::Raw;

pub fn tests() -> Vec<Test> {
    lab::tests![nothing_secret_shows_anywhere, no_core_dump_holds_a_secret]
}

const LIMIT: Duration = Duration::from_secs(30);

fn nothing_secret_shows_anywhere(shared: &Lab) -> Result<()> {
    let given = shared.directory().join("other/provider-secrets");
    let options = Options {
        provider_environment: vec![("LAB_PROVIDER_SECRETS".to_owned(), given.to_string_lossy().into_owned())],
        ..Options::default()
    };
    let lab = &shared.another("no-secret", options)?;
    // Everything that the server could possibly say.
    let config = fs::read_to_string(lab.config_file())?;
    fs::write(lab.config_file(), config.replace("level: info", "level: trace"))?;
    lab.restart_stepup_server()?;

    let done = AtomicBool::new(false);
    let mut day = Day::new(lab)?;
    let processes = thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| watch_processes(&done));
        let lived = day.live(lab);
        done.store(true, Ordering::Release);
        let processes = watcher.join().expect("no panic");
        lived.map(|()| processes)
    })?;
    for program in [&b"get-token"[..], b"stepup-server", b"lab-browser", b"KUBERNETES_EXEC_INFO"] {
        let is_seen = processes.iter().any(|seen| find(seen, program).is_some());
        ensure!(is_seen, "{} was never seen among the processes", String::from_utf8_lossy(program));
    }
    let mut places = day.shown;
    places.extend(processes.into_iter().map(|seen| ("a process's arguments or environment".to_owned(), seen)));
    for file in lab.log_files()? {
        places.push((file.display().to_string(), fs::read(&file)?));
    }
    places.push(("the browser's log".to_owned(), day.alice.browser_log().into_bytes()));

    let mut secrets = secrets(lab, &given, &day.kept)?;
    secrets.extend(day.secrets);
    let kinds =
        ["device_code", "code_verifier", "code", "id_token", "refresh_token", "elevated", "kept", "key", "password"];
    for kind in kinds.iter().chain(&["run", "proxy", "client"]) {
        ensure!(secrets.iter().any(|secret| secret.kind == *kind), "the story has met no {kind}");
    }
    let mut leaks = Vec::new();
    for (place, content) in &places {
        for secret in &secrets {
            if secret.is_in(content) {
                leaks.push(format!("{} in {place}: {}", secret.kind, secret.line_of(content)));
            }
        }
    }
    leaks.dedup();
    ensure!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
    // Where they have to be, nobody else may look.
    only_private_files_hold(&secrets, lab)
}

/// A person's day.
struct Day {
    alice: Session,
    /// What the commands printed, and where.
    shown: Vec<(String, Vec<u8>)>,
    /// The files of tokens, as they were after each command.
    kept: Vec<Value>,
    /// What neither the provider nor those files know of.
    secrets: Vec<Secret>,
}

/// What this client's secret is, is told to kubectl-stepup alone.
const CLIENT: (&str, &str) = ("kubernetes-step-up", "client-secret-0f6cbb7e");

impl Day {
    fn new(lab: &Lab) -> Result<Self> {
        let alice = lab.new_session("alice")?.with("RUST_LOG", "trace").with("RUST_BACKTRACE", "full");
        alice.set_up(&["--preflight", "off"])?;
        Ok(Self { alice, shown: vec![], kept: vec![], secrets: vec![] })
    }

    fn run(&mut self, program: &str, arguments: &[&str]) -> Result<Outcome> {
        let outcome = Outcome::of(self.alice.command(program).args(arguments))?;
        let line = format!("{program} {}", arguments.join(" "));
        // The plugin's own standard output is the one place where a token belongs; its caller reads it.
        if arguments.first() != Some(&"get-token") {
            self.shown.push((format!("output of {line}"), outcome.stdout.clone().into_bytes()));
        }
        self.shown.push((format!("messages of {line}"), outcome.stderr.clone().into_bytes()));
        for directory in ["cache/alice/elevated", "cache/.step-up"] {
            for file in files_under(&self.alice.home().join(directory)).unwrap_or_default() {
                self.kept.extend(fs::read(file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()));
            }
        }
        Ok(outcome)
    }

    fn stepup(&mut self, line: &str) -> Result<Outcome> {
        self.run("kubectl-stepup", &line.split(' ').collect::<Vec<_>>())
    }

    fn live(&mut self, lab: &Lab) -> Result<()> {
        let prod = lab.namespace("prod")?;
        lab.admin(&["create", "secret", "generic", "db", "-n", &prod, "--from-literal=k=v"])?;
        self.stepup("login")?.succeeded()?;
        self.run("kubectl", &["get", "namespaces", "-v=9"])?.succeeded()?;
        self.run("kubectl", &["get", "secrets", "-n", &prod])?.failed_with("step-up required")?;
        self.stepup("status")?.succeeded()?;
        self.stepup("elevate --share")?.succeeded()?;
        self.run("kubectl", &["get", "secrets", "-n", &prod, "-v=9"])?.succeeded()?;
        self.run("kubectl", &["delete", "namespace", &prod, "-v=9"])?.succeeded()?;
        self.stepup("elevate --share --for assume clusterrole cluster-admin")?.succeeded()?;
        self.stepup("status -o json")?.succeeded()?;
        self.stepup("get-token --profile alice")?.succeeded()?;
        for line in ["--help", "login --help", "get-token --help", "status --help", "completion bash", "--version", "x"]
        {
            self.stepup(line)?;
        }
        // The browser on this machine: authorization code, state, verifier.
        self.stepup("login --force --flow browser")?.succeeded()?;
        self.proxies(lab)?;
        self.looks_around(lab)?;
        self.another_client(lab)?;
        self.things_break()?;
        self.stepup("drop --all")?;
        self.stepup("logout")?.succeeded().map(drop)
    }

    /// Programs that go through a proxy know a secret that lets them in.
    fn proxies(&mut self, lab: &Lab) -> Result<()> {
        let prod = lab.namespace("prod")?;
        lab.admin(&["create", "secret", "generic", "db", "-n", &prod, "--from-literal=k=v"])?;
        let get = format!("kubectl get secret db -n {prod} -v=9");
        let [run, proxy] = ["run", "proxy"].map(|name| lab.directory().join(format!("{name}-kubeconfig")));
        let script = format!("{get} && cat /proc/self/environ && cp \"$KUBECONFIG\" '{}'", run.display());
        self.run("kubectl-stepup", &["run", "--", "sh", "-c", &script])?.succeeded()?;
        ensure!(lab.story_of(&prod)?.contains(&"mint".to_owned()), "nobody stepped up");
        let script = format!(
            "kubectl-stepup proxy --for 60s --kubeconfig-out \"$0\" & \
             until [ -s \"$0\" ]; do sleep 0.1; done; KUBECONFIG=$0 {get}; code=$?; cp \"$0\" \"$0.copy\"; kill $!; wait; exit $code"
        );
        self.run("sh", &["-c", &script, &proxy.to_string_lossy()])?.succeeded()?;
        for (kind, file) in [("run", run), ("proxy", proxy.with_extension("copy"))] {
            let config: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
            let text = config["users"][0]["user"]["token"].as_str().context("no token in the kubeconfig")?;
            self.secrets.push(Secret::new(kind, text));
        }
        Ok(())
    }

    /// Preflight, and the commands that tell.
    fn looks_around(&mut self, lab: &Lab) -> Result<()> {
        let prod = lab.namespace("prod")?;
        lab.admin(&["create", "secret", "generic", "db", "-n", &prod, "--from-literal=k=v"])?;
        self.stepup("setup --profile alice --preflight on")?.succeeded()?;
        self.stepup("login --force")?.succeeded()?;
        self.run("kubectl", &["get", "secret", "db", "-n", &prod, "-v=9"])?.succeeded()?;
        self.stepup("doctor")?.succeeded()?;
        self.stepup("doctor -o json")?.succeeded()?;
        self.stepup("doctor --step-up")?.succeeded()?;
        self.stepup("explain delete namespace prod")?.succeeded()?;
        self.stepup("history")?.succeeded()?;
        self.stepup("history -o json")?.succeeded()?;
        self.stepup("setup --profile alice --preflight off")?.succeeded().map(drop)
    }

    /// Another client for step-ups, with a secret, that the provider does not know.
    fn another_client(&mut self, lab: &Lab) -> Result<()> {
        let (client, secret) = CLIENT;
        let basic = BASE64_STANDARD.encode(format!("{client}:{secret}"));
        self.secrets.extend([Secret::new("client", secret), Secret::new("client", &basic)]);
        let file = lab.directory().join("client-secret");
        fs::write(&file, secret)?;
        let file = file.to_string_lossy().into_owned();
        let to_it =
            ["--step-up-method", "client", "--step-up-client-id", client, "--step-up-client-secret-file", &file];
        let setup = ["setup", "--profile", "alice"];
        self.run("kubectl-stepup", &[&setup[..], &to_it, &["--dry-run"]].concat())?.succeeded()?;
        self.run("kubectl-stepup", &[&setup[..], &to_it].concat())?.succeeded()?;
        let profile = fs::read_to_string(self.alice.home().join("config/profiles/alice.json"))?;
        ensure!(profile.contains(secret), "the profile does not have it");
        // So that no earlier sign-in will do.
        self.stepup("logout")?.succeeded()?;
        self.stepup("login")?.succeeded()?;
        self.stepup("elevate --for delete namespace prod")?.failed_with("invalid_client")?;
        self.stepup("doctor --step-up")?.failed_with("")?;
        self.stepup("status -o json")?.succeeded()?;
        let one = &to_it[2..];
        self.run("kubectl-stepup", &[&setup[..], &["--try"], one].concat())?.succeeded()?;
        self.stepup("elevate --for delete namespace prod")?.succeeded().map(drop)
    }

    /// What breaks, breaks without a word of what it held.
    fn things_break(&mut self) -> Result<()> {
        let session = self.alice.home().join("cache/alice/session.json");
        let whole = fs::read_to_string(&session)?;
        for (from, to) in
            [("\"version\":1", "\"version\":\"1\""), ("{", "["), ("\"baseToken\":", "\"baseToken\":1,\"x\":")]
        {
            fs::write(&session, whole.replacen(from, to, 1))?;
            self.stepup("get-token --profile alice")?;
            self.stepup("status")?;
        }
        let refresh = self.alice.home().join("state/alice/refresh-token");
        let broken = format!("[{}", fs::read_to_string(&refresh)?);
        fs::write(&refresh, broken)?;
        let _ = fs::remove_file(&session);
        self.stepup("status")?;
        self.stepup("login")?.succeeded()?;
        // A provider that does not know the token any more, and a server that does not know the signature.
        let token = fs::read_to_string(&session)?.replace("\"baseToken\":\"", "\"baseToken\":\"x");
        fs::write(&session, token)?;
        self.run("kubectl", &["get", "namespaces", "-v=9"])?;
        self.stepup("status")?;
        self.stepup("elevate --for delete namespace prod")?;
        self.stepup("login --force")?.succeeded().map(drop)
    }
}

/// Something that must not show, and what is enough of it to count as shown.
struct Secret {
    kind: String,
    needles: Vec<Vec<u8>>,
}

impl Secret {
    /// A token counts by each of its parts: half of it is too much.
    fn new(kind: &str, text: &str) -> Self {
        let mut needles = vec![text.as_bytes().to_vec()];
        if let [_, payload, signature] = text.split('.').collect::<Vec<_>>()[..] {
            needles.extend([payload, signature].map(|part| part.as_bytes().to_vec()));
        }
        Self { kind: kind.to_owned(), needles }
    }

    fn is_in(&self, content: &[u8]) -> bool {
        self.needles.iter().any(|needle| find(content, needle).is_some())
    }

    /// The beginning of the line that it is on, up to the secret.
    fn line_of(&self, content: &[u8]) -> String {
        let at = self.needles.iter().find_map(|needle| find(content, needle)).unwrap_or_default();
        let from = content[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        String::from_utf8_lossy(&content[from.max(at.saturating_sub(300))..at]).into_owned()
    }
}

fn find(content: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, rest) = needle.split_first()?;
    let mut from = 0;
    while let Some(at) = content[from..].iter().position(|byte| byte == first) {
        if content[from + at + 1..].starts_with(rest) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// All that the provider gave out or was shown, all that the person's machine keeps, all keys.
fn secrets(lab: &Lab, given: &Path, kept: &[Value]) -> Result<Vec<Secret>> {
    let mut secrets = Vec::new();
    for line in fs::read_to_string(given)?.lines() {
        let (kind, text) = line.split_once(' ').context("a kind and a secret")?;
        secrets.push(Secret::new(kind, text));
    }
    let mut seen = HashSet::new();
    for snapshot in kept {
        for (kind, name) in [("elevated", "token"), ("kept", "idToken")] {
            for text in texts_named(snapshot, name) {
                if seen.insert(text.clone()) {
                    secrets.push(Secret::new(kind, &text));
                }
            }
        }
    }
    for person in Account::names() {
        secrets.push(Secret::new("password", &Account::of(person)?.password));
    }
    let mut files = vec![];
    for directory in ["pki", "stepup/keys"] {
        for entry in fs::read_dir(lab.directory().join(directory))? {
            files.push(entry?.path());
        }
    }
    for file in files {
        let text = fs::read_to_string(&file)?;
        if text.contains("PRIVATE KEY") {
            let line = text.lines().filter(|line| !line.starts_with("-----")).nth(1).context("a key has lines")?;
            secrets.push(Secret::new("key", line));
        }
    }
    Ok(secrets)
}

fn texts_named(value: &Value, name: &str) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| texts_named(item, name)).collect(),
        Value::Object(members) => members
            .iter()
            .flat_map(|(key, value)| match value {
                Value::String(text) if key == name => vec![text.clone()],
                other => texts_named(other, name),
            })
            .collect(),
        _ => vec![],
    }
}

/// Looks at every process that is one of ours or runs one of ours, all the time; gives what it has seen.
fn watch_processes(done: &AtomicBool) -> HashSet<Vec<u8>> {
    let mut seen = HashSet::new();
    while !done.load(Ordering::Acquire) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            let Ok(arguments) = fs::read(entry.path().join("cmdline")) else { continue };
            let is_ours = [&b"kubectl"[..], b"stepup", b"browser"].iter().any(|name| find(&arguments, name).is_some());
            if is_ours && seen.insert(arguments) {
                seen.extend(fs::read(entry.path().join("environ")));
            }
        }
        thread::sleep(Duration::from_millis(3));
    }
    seen
}

/// Files of a person's machine that hold a token are this person's alone.
fn only_private_files_hold(secrets: &[Secret], lab: &Lab) -> Result<()> {
    for file in files_under(&lab.directory().join("home"))? {
        let content = fs::read(&file)?;
        let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
        let holds = secrets.iter().any(|secret| secret.is_in(&content));
        ensure!(!holds || mode == 0o600, "{} holds a secret and has mode {mode:o}", file.display());
    }
    // The store keeps no token at all, not even for its owner.
    for file in ["stepup.db", "stepup.db-wal"] {
        let content = fs::read(lab.directory().join("stepup").join(file))?;
        ensure!(!secrets.iter().any(|secret| secret.is_in(&content)), "{file} holds a secret");
    }
    Ok(())
}

pub fn files_under(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { files.extend(files_under(&entry.path())?) } else { files.push(entry.path()) }
    }
    Ok(files)
}

fn no_core_dump_holds_a_secret(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    has_no_core_dump(lab.with_stepup_server(|server| server.id().pid())?).context("stepup-server")?;

    // The plugin, while it waits for somebody to sign in.
    let session = lab.session("alice")?.with("LAB_BROWSER", "ignore");
    fs::remove_file(session.home().join("cache/alice/session.json"))?;
    fs::remove_file(session.home().join("state/alice/refresh-token"))?;
    let mut plugin = Waiting(
        session
            .command("kubectl-stepup")
            .args([OsStr::new("get-token"), "--profile".as_ref(), "alice".as_ref()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    session.await_browser("ignored the URL", LIMIT)?;
    ensure!(plugin.0.try_wait()?.is_none(), "it does not wait");
    has_no_core_dump(i32::try_from(plugin.0.id())?).context("kubectl-stepup")?;
    raw.server_is_well()
}

/// Killed in the end.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_no_core_dump(pid: i32) -> Result<()> {
    let limits = await_that(LIMIT, || {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        ensure!(!limits.is_empty(), "it has ended");
        Ok(limits)
    })?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("no such limit")?;
    ensure!(core.split_whitespace().nth(4) == Some("0"), "{core}");
    // The kernel makes root the owner of what it shows of a process whose memory is nobody's business.
    ensure!(fs::metadata(format!("/proc/{pid}/mem"))?.uid() == 0, "others of this user can read its memory");
    Ok(())
}
