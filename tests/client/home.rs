//! A person's machine: profile, session, browser, and kubectl that runs the plugin.

use std::fs;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use stepup::action::ActionPattern;
use stepup::client::paths::Paths;
use stepup::client::preflight::digest;
use stepup::wire::digest::{Digest, Protected};
use tempfile::TempDir;

use crate::provider::{CLIENT, Manners, Provider};
use crate::stepup_server::StepupServer;

const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-stepup");

/// Builds a [`Home`].
pub struct Builder {
    manners: Manners,
    session: Option<i64>,
    has_server: bool,
    prompt: &'static str,
    environment: Vec<(String, String)>,
    flow: &'static str,
    issuer_suffix: &'static str,
    step_up: Value,
    protected: Option<Vec<ActionPattern>>,
    denials_are_final: bool,
}

pub struct Home {
    directory: TempDir,
    pub provider: Provider,
    pub server: StepupServer,
    pub base_token: String,
    prompt: &'static str,
    environment: Vec<(String, String)>,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Builder {
    /// Signed in; the base token lasts for `seconds`.
    pub fn signed_in_for(mut self, seconds: i64) -> Self {
        self.session = Some(seconds);
        self
    }

    pub fn signed_out(mut self) -> Self {
        self.session = None;
        self
    }

    pub fn manners(mut self, change: impl FnOnce(&mut Manners)) -> Self {
        change(&mut self.manners);
        self
    }

    /// Plain OpenID Connect, without stepup-server.
    pub fn without_server(mut self) -> Self {
        self.has_server = false;
        self
    }

    /// `KUBECTL_STEPUP_PROMPT`.
    pub fn prompt(mut self, when: &'static str) -> Self {
        self.prompt = when;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn flow(mut self, flow: &'static str) -> Self {
        self.flow = flow;
        self
    }

    /// What the profile has after the provider's URL.
    pub fn issuer_suffix(mut self, suffix: &'static str) -> Self {
        self.issuer_suffix = suffix;
        self
    }

    /// `stepUp` of the profile, where it is not the default.
    pub fn step_up(mut self, settings: Value) -> Self {
        self.step_up = settings;
        self
    }

    /// RBAC alone enforces the policy (`mode: groups`).
    pub fn denials_are_final(mut self) -> Self {
        self.denials_are_final = true;
        self
    }

    /// Preflight is on, and the digest has these patterns.
    pub fn preflight(mut self, protected: Vec<ActionPattern>) -> Self {
        self.protected = Some(protected);
        self
    }

    pub fn build(self) -> Home {
        let directory = tempfile::tempdir().unwrap();
        let provider = Provider::start(self.manners);
        let server = StepupServer::start();
        let issuer = format!("{}{}", provider.server.url, self.issuer_suffix);
        let base_token = provider.id_token(Some("urn:pwd"), 600, self.session.unwrap_or(300));
        let home = Home { directory, provider, server, base_token, prompt: self.prompt, environment: self.environment };
        let mut step_up = json!({"method": "acr_values", "flow": self.flow, "clientId": null, "scopes": [],
            "preflight": self.protected.is_some()});
        for (name, value) in self.step_up.as_object().unwrap() {
            step_up[name] = value.clone();
        }
        home.write(
            "config/profiles/p.json",
            &json!({
                "version": 1, "name": "p", "issuer": issuer, "clientId": CLIENT, "clientSecret": null,
                "scopes": ["openid", "offline_access"], "issuerCa": null, "flow": self.flow, "loginHint": "alice@example.com",
                "openBrowser": true,
                "server": self.has_server.then(|| json!({"url": home.server.server.url, "ca": null})),
                "stepUp": step_up,
            }),
        );
        if let Some(life) = self.session {
            home.write(
                "cache/p/session.json",
                &json!({
                    "version": 1, "baseToken": home.base_token, "baseExpiresAt": Utc::now().timestamp() + life,
                    "stepUpEnabled": self.has_server && !self.denials_are_final,
                    "preflight": self.protected.is_some(), "issuer": issuer, "clientId": CLIENT,
                    "person": {"user": "alice", "subject": "u-alice"},
                }),
            );
            home.write("state/p/refresh-token", &json!("refresh-0"));
            home.write("state/p/secrets.json", &json!({"place": "file"}));
        }
        if let Some(actions) = self.protected {
            let now = Utc::now().timestamp();
            let digest = Digest {
                iss: home.server.server.url.clone(),
                sub: "alice".to_owned(),
                iat: now,
                exp: now + 86_400,
                policy: "p".to_owned(),
                denials_are_final: self.denials_are_final,
                protected: vec![Protected { rule: "r".to_owned(), actions }],
            };
            digest::keep(&Paths::under(home.directory.path()).of("p"), &digest).unwrap();
        }
        let browser = home.path("browser");
        // As rude as browsers come: it writes to whatever it has, and stays.
        fs::write(
            &browser,
            format!(
                "#!/bin/sh\necho \"$1\" >>'{}'\necho noise\necho noise >&2\nexec sleep 3\n",
                home.path("browsed").display()
            ),
        )
        .unwrap();
        fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
        home
    }
}

impl Home {
    /// A person who is signed in for five minutes, to be prompted whenever it is needed.
    pub fn builder() -> Builder {
        Builder {
            manners: Manners::default(),
            session: Some(300),
            has_server: true,
            prompt: "always",
            environment: Vec::new(),
            flow: "device",
            issuer_suffix: "",
            step_up: json!({}),
            protected: None,
            denials_are_final: false,
        }
    }

    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A second profile, of another cluster whose people sign in at the same provider.
    pub fn another_cluster(&self, profile: &str) -> StepupServer {
        let server = StepupServer::start();
        let mut settings = self.read("config/profiles/p.json");
        settings["name"] = json!(profile);
        settings["server"]["url"] = json!(server.server.url);
        self.write(&format!("config/profiles/{profile}.json"), &settings);
        self.write(&format!("cache/{profile}/session.json"), &self.read("cache/p/session.json"));
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, value: &Value) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), value.to_string()).unwrap();
    }

    pub fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// The URLs that the browser was opened with, after a moment in which it would have been.
    pub fn browsed(&self) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_millis(if self.path("browsed").exists() { 0 } else { 300 });
        while Instant::now() < deadline && !self.path("browsed").exists() {
            thread::sleep(Duration::from_millis(10));
        }
        fs::read_to_string(self.path("browsed")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The URL that the browser is opened with, once it is.
    pub fn url_in_browser(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(url) = self.browsed().pop() {
                return url;
            }
            assert!(Instant::now() < deadline, "no browser was opened");
        }
    }

    /// Does what the person does there.
    pub fn sign_in_by_browser(&self) {
        let back = get(&self.url_in_browser()).1;
        assert_eq!(get(&back).0, 200);
    }

    pub fn arrange(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("KUBECTL_STEPUP_HOME", self.directory.path())
            .env("KUBECTL_STEPUP_PROMPT", self.prompt)
            .env("KUBECTL_STEPUP_SECRETS", "file")
            .env("KUBERNETES_EXEC_INFO", r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}"#)
            .env("BROWSER", self.path("browser"))
            .env("PLUGIN", PLUGIN)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
    }

    /// Runs `kubectl-stepup` once, in a session without a terminal; the parent is this test.
    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command(arguments).output().unwrap())
    }

    /// The same, to be changed and started by the test.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setsid");
        command.arg(PLUGIN).args(arguments);
        self.arrange(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn get_token(&self) -> Run {
        self.run(&["get-token", "--profile", "p"])
    }

    /// Something called kubectl, with these arguments, that runs the plugin `times` times: one process, as client-go does.
    pub fn kubectl(&self, arguments: &str, times: usize) -> Vec<Run> {
        let out = self.script(arguments, times, true);
        let mut command = Command::new("setsid");
        command.arg("bash").arg("-c").arg(format!("exec -a kubectl sh {arguments}")).current_dir(&out);
        self.arrange(&mut command);
        let status = command.stdin(Stdio::null()).status().unwrap();
        assert!(status.success());
        Self::runs(&out, times)
    }

    /// The same, on a terminal of its own. `hides_stderr`: as some programs do with the plugin's.
    pub fn kubectl_on_terminal(&self, arguments: &str, times: usize, hides_stderr: bool) -> Terminal {
        let out = self.script(arguments, times, hides_stderr);
        let mut command = Command::new("setsid");
        command.args(["-c", "bash", "-c", &format!("exec -a kubectl sh {arguments}")]).current_dir(&out);
        self.arrange(&mut command);
        Terminal::start(command, out, times)
    }

    /// A shell that runs `script` without a terminal; gives what it leaves behind in `1.out`, `1.err`, `1.code` and so on.
    pub fn shell(&self, script: &str) -> impl Fn(usize) -> Vec<Run> + use<> {
        let out = self.script("unused", 0, false);
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", script]).current_dir(&out);
        self.arrange(&mut command);
        assert!(command.stdin(Stdio::null()).status().unwrap().success());
        move |times| Self::runs(&out, times)
    }

    /// A shell that runs `script` on a terminal of its own; it may leave `1.out` and `1.code` behind.
    pub fn shell_on_terminal(&self, script: &str) -> Terminal {
        let out = self.script("unused", 0, false);
        let mut command = Command::new("setsid");
        command.args(["-c", "sh", "-c", script]).current_dir(&out);
        self.arrange(&mut command);
        Terminal::start(command, out, 1)
    }

    /// The shell reads a file that is called like kubectl's command, so that its arguments look like kubectl's.
    fn script(&self, arguments: &str, times: usize, hides_stderr: bool) -> PathBuf {
        let out = tempfile::Builder::new().prefix("kubectl").tempdir_in(self.directory.path()).unwrap().keep();
        let lines = (1..=times).map(|number| {
            let hide = if hides_stderr { format!("2>{number}.err") } else { String::new() };
            format!("\"$PLUGIN\" get-token --profile p </dev/null >{number}.out {hide}; echo $? >{number}.code\n")
        });
        let script: Vec<String> = lines.collect();
        fs::write(out.join(arguments.split(' ').next().unwrap()), script.concat()).unwrap();
        out
    }

    fn runs(out: &Path, times: usize) -> Vec<Run> {
        let text =
            |number: usize, what: &str| fs::read_to_string(out.join(format!("{number}.{what}"))).unwrap_or_default();
        (1..=times)
            .map(|number| Run {
                code: text(number, "code").trim().parse().unwrap_or(-1),
                stdout: text(number, "out"),
                stderr: text(number, "err"),
            })
            .collect()
    }

    /// That none of the secrets that were in play is in `text`.
    pub fn assert_no_secret(&self, text: &str) {
        for secret in self.provider.secrets().iter().chain([&self.base_token]) {
            assert!(secret.is_empty() || !text.contains(secret.as_str()), "a secret is in: {text}");
        }
        for number in 1..9 {
            assert!(!text.contains(&format!("elevated-{number}")), "an elevated token is in: {text}");
        }
    }
}

impl Run {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// The token of the answer, which is the one thing on stdout.
    #[track_caller]
    pub fn token(&self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        let credential = self.credential();
        assert_eq!(credential["kind"], "ExecCredential");
        let expires: DateTime<Utc> = credential["status"]["expirationTimestamp"].as_str().unwrap().parse().unwrap();
        assert!(expires - Utc::now() < TimeDelta::seconds(1), "{expires} is too far ahead");
        credential["status"]["token"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn credential(&self) -> Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "one line on stdout, not {:?}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    #[track_caller]
    pub fn fails(&self, code: i32, stderr: &str) {
        self.fails_saying(code, stderr);
        assert_eq!(self.stdout, "");
    }

    /// The same, after it has said something on stdout.
    #[track_caller]
    pub fn fails_saying(&self, code: i32, stderr: &str) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(self.stderr.contains(stderr), "{:?} is not in {}", stderr, self.stderr);
    }
}

/// kubectl on a pseudo-terminal.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: std::sync::mpsc::Receiver<Vec<u8>>,
    seen: String,
    /// How much of `seen` earlier calls of `expect` have passed.
    passed: usize,
    out: PathBuf,
    times: usize,
}

impl Terminal {
    fn start(mut command: Command, out: PathBuf, times: usize) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
        let child = command.spawn().unwrap();
        drop(command);
        let keyboard = File::from(controller);
        let (sender, screen) = std::sync::mpsc::channel();
        let mut from = keyboard.try_clone().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let _ = sender.send(buffer[..length].to_vec());
            }
        });
        Self { child, keyboard, screen, seen: String::new(), passed: 0, out, times }
    }

    /// Waits until `text` is on the screen, after what earlier calls waited for.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.seen[self.passed..].find(text) {
                self.passed += at + text.len();
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} did not appear in {}", self.seen);
            if let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(50)) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    pub fn type_line(&mut self, text: &str) {
        self.keyboard.write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end; everything that was written to the terminal, escape sequences and all.
    pub fn text(mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            match self.screen.recv_timeout(Duration::from_millis(50)) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
        assert!(Instant::now() < deadline, "still running: {}", self.seen);
        let _ = self.child.wait();
        self.seen.clone()
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Vec<Run> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "still running: {}", self.seen);
            thread::sleep(Duration::from_millis(10));
        }
        Home::runs(&self.out, self.times)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of a page.
pub fn get(url: &str) -> (u16, String) {
    let url = url::Url::parse(url).unwrap();
    let mut stream = TcpStream::connect(url.socket_addrs(|| None).unwrap()[0]).unwrap();
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
