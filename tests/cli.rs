//! Black-box tests of `kubectl-stepup` as people type it: help, exit codes, `setup` on real kinds of kubeconfigs.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

/// A home directory with nothing in it, and the program in it.
struct Home {
    directory: TempDir,
}

/// What a run left behind.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    fn with_kubeconfig(self, text: &str) -> Self {
        fs::write(self.kubeconfig(), text).unwrap();
        self
    }

    fn read_kubeconfig(&self) -> String {
        fs::read_to_string(self.kubeconfig()).unwrap()
    }

    fn run(&self, line: &str) -> Run {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_kubectl-stepup"))
            .args(line.split_whitespace())
            .env_clear()
            .env("HOME", self.directory.path())
            .env("KUBECTL_STEPUP_HOME", self.path("stepup"))
            .env("KUBECTL_STEPUP_PROMPT", "never")
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", PathBuf::from(env!("CARGO_BIN_EXE_kubectl-stepup")).parent().unwrap())
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        Run {
            code: status.code().unwrap(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// `setup` with what a new profile needs; nobody is asked over the network.
    fn setup(&self, more: &str) -> Run {
        self.run(&format!("setup --offline --issuer https://idp.example --client-id kubernetes {more}"))
    }
}

impl Run {
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn fails(self, code: i32, stderr: &str) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(stderr), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        self
    }
}

/// stepup-server as far as the client can tell: says what it was told to, and remembers what it was asked.
struct FakeServer {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeServer {
    /// `answers` are method and path, status and JSON.
    fn start(answers: Vec<(&'static str, u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                let request = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
                let (mut length, mut authorized) = (0, false);
                loop {
                    let mut header = String::new();
                    stream.read_line(&mut header).unwrap();
                    let header = header.trim().to_ascii_lowercase();
                    if let Some(value) = header.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    authorized |= header == "authorization: bearer base-token";
                    if header.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                assert!(authorized, "{request} came without the base token");
                log.lock().unwrap().push(format!("{request} {}", String::from_utf8(body).unwrap()).trim().to_owned());
                let found = answers.iter().find(|(known, _, _)| *known == request);
                let (status, json) = found.map_or((404, "{}"), |(_, status, json)| (*status, json.as_str()));
                let length = if status == 204 { 0 } else { json.len() };
                write!(
                    stream.get_mut(),
                    "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                )
                .unwrap();
                stream.get_mut().write_all(&json.as_bytes()[..length]).unwrap();
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A home in which alice is signed in, with a token that lives for ever, and a grant that this machine holds for
/// every process.
fn signed_in(server: &str) -> Home {
    let home = Home::new();
    home.setup(&format!("--server {server}")).ok();
    let cache = home.path("stepup/cache/default");
    fs::create_dir_all(cache.join("elevated")).unwrap();
    fs::write(
        cache.join("session.json"),
        r#"{"version":1,"baseToken":"base-token","baseExpiresAt":4102444800,"stepUpEnabled":true,
            "issuer":"https://idp.example","clientId":"kubernetes","person":{"user":"alice","subject":"u-alice"}}"#,
    )
    .unwrap();
    let held = format!(r#"[{{"token":"elevated-token","expiresAt":4102444800,"grant":{GRANT}}}]"#);
    fs::write(cache.join("elevated/anyone.json"), held).unwrap();
    home
}

const GRANT: &str = r#"{"id":"gr-1","user":"oidc:alice","rule":"namespaces","permits":[],"covers":["delete namespaces/prod"],
    "reason":"OPS-1","acr":"mfa","authTime":"2026-01-01T00:00:00Z","createdAt":"2026-01-01T00:00:00Z",
    "expiresAt":"2100-01-01T00:00:00Z","usesLeft":1}"#;

fn grants() -> String {
    format!(r#"{{"serverTime":"2026-01-01T00:00:00Z","grants":[{GRANT}]}}"#)
}

fn challenges(pending: &str, unprotected: &str) -> String {
    format!(
        r#"{{"user":"oidc:alice","serverTime":"2026-01-01T00:00:00Z","challenges":[{pending}],"unprotected":[{unprotected}]}}"#
    )
}

const CHALLENGE: &str = r#"{"id":"ch-1","rule":"secrets","description":"","acrValues":["mfa"],
    "actions":[{"verb":"get","resource":"secrets","namespace":"prod","name":"db"}],
    "grant":{"ttl":300,"uses":1,"covers":["get secrets/db -n prod"]},
    "createdAt":"2026-01-01T00:00:00Z","expiresAt":"2100-01-01T00:00:00Z"}"#;

const ENTRY: &str = "- name: default
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      args:
      - get-token
      - --profile
      - default
      command: kubectl-stepup
      installHint: \"kubectl-stepup is not on your PATH: ask your cluster's administrator where to get it\"
      interactiveMode: IfAvailable
      provideClusterInfo: false
";

#[test]
fn help_has_examples_and_exit_codes() {
    let home = Home::new();
    let help = home.run("--help").ok().stdout;
    assert!(help.contains("Exit codes:\n  0  done\n"), "{help}");
    for command in ["setup", "login", "elevate", "drop", "completion"] {
        let help = home.run(&format!("{command} --help")).ok().stdout;
        assert!(help.contains("Examples:\n"), "{help}");
    }
}

#[test]
fn usage_errors_are_2_and_say_what_to_do() {
    let home = Home::new();
    home.run("elevat").fails(2, "elevate");
    home.run("get-token --nonsense").fails(2, "--nonsense");
    home.run("setup --offline").fails(2, "needs --issuer and --client-id");
    home.setup("--server-ca ca.pem").fails(2, "--server-ca needs --server");
    home.run("setup --offline --issuer http://idp.example --client-id x").fails(2, "must start with https://");
    assert!(!home.kubeconfig().exists(), "nothing is written before all of it was checked");
    assert!(!home.path("stepup").exists());
}

#[test]
fn without_a_profile_the_way_to_one_is_named() {
    let home = Home::new();
    home.run("login").fails(1, "kubectl stepup setup --profile default");
    home.run("status --profile work").fails(1, "kubectl stepup setup --profile work");
}

#[test]
fn setup_makes_what_is_missing_and_says_what_is_next() {
    let home = Home::new();
    let run = home.setup("").ok();
    assert!(run.stdout.contains("kubectl config set-context --current --user=default"), "{}", run.stdout);
    assert!(run.stdout.ends_with("Next: kubectl stepup login\n"), "{}", run.stdout);
    assert_eq!(home.read_kubeconfig(), format!("apiVersion: v1\nkind: Config\nusers:\n{ENTRY}"));
    for private in [home.kubeconfig(), home.path("stepup/config/profiles/default.json")] {
        assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn setup_again_changes_nothing_and_says_so() {
    let home = Home::new();
    home.setup("").ok();
    let before = home.read_kubeconfig();
    let again = home.setup("").ok();
    assert!(again.stdout.contains("nothing changed"), "{}", again.stdout);
    assert_eq!(home.read_kubeconfig(), before);
    let more = home.run("setup --offline --server https://stepup.example").ok();
    assert!(more.stdout.starts_with("Wrote "), "{}", more.stdout);
    let profile = fs::read_to_string(home.path("stepup/config/profiles/default.json")).unwrap();
    assert!(profile.contains("https://stepup.example") && profile.contains("https://idp.example"), "{profile}");
}

#[test]
fn setup_leaves_everything_else_byte_for_byte() {
    let rest = "# my clusters   \ncontexts:\n- {context: {cluster: a, user: bob}, name: a}   # flow\nkind: Config\nusers:\n-   name: bob   # odd spacing\n    user:\n        token: hush\n# end\napiVersion: v1\n";
    let home = Home::new().with_kubeconfig(rest);
    home.setup("").ok();
    assert_eq!(home.read_kubeconfig(), rest.replace("hush\n", &format!("hush\n{ENTRY}")));
}

#[test]
fn dry_run_shows_the_change_without_secrets_and_makes_none() {
    let before = "apiVersion: v1\nkind: Config\nusers:\n- name: bob\n  user:\n    token: hush\n";
    let home = Home::new().with_kubeconfig(before);
    fs::write(home.path("secret"), "shh-client-secret\n").unwrap();
    let run = home.setup("--client-secret-file secret --dry-run").ok();
    let added = format!("+{}\n", ENTRY.trim_end().replace('\n', "\n+"));
    assert!(run.stdout.ends_with(&format!(" - name: bob\n   user:\n     token: ***\n{added}")), "{}", run.stdout);
    assert!(!run.stdout.contains("hush") && !run.stdout.contains("shh-client-secret"), "{}", run.stdout);
    assert_eq!(home.read_kubeconfig(), before);
    assert!(!home.path("stepup").exists());
}

#[test]
fn other_credentials_stay_unless_told_otherwise() {
    let before = "users:\n- name: default\n  user:\n    client-key: k.pem\n    client-certificate: c.pem\n";
    let home = Home::new().with_kubeconfig(before);
    home.setup("").fails(2, "already signs in with client-certificate, client-key");
    assert_eq!(home.read_kubeconfig(), before);
    assert!(!home.path("stepup").exists());
    let run = home.setup("--overwrite").ok();
    assert!(run.stdout.contains("Replaced client-key of user \"default\"."), "{}", run.stdout);
    assert_eq!(home.read_kubeconfig(), format!("users:\n{ENTRY}"));
}

#[test]
fn a_broken_kubeconfig_is_named_with_its_line_and_left_alone() {
    let before = "users:\n- name: [\n";
    let home = Home::new().with_kubeconfig(before);
    let run = home.setup("").fails(1, "kubeconfig:");
    assert!(run.stderr.contains("not a valid kubeconfig"), "{}", run.stderr);
    assert_eq!(home.read_kubeconfig(), before);
}

#[test]
fn bad_certificate_and_secret_files_are_named() {
    let home = Home::new();
    fs::write(home.path("ca.pem"), "not a certificate").unwrap();
    fs::write(home.path("two"), "two words").unwrap();
    home.setup("--issuer-ca ca.pem").fails(1, "ca.pem: ");
    home.setup("--issuer-ca missing.pem").fails(1, "cannot read missing.pem");
    home.setup("--client-secret-file two").fails(1, "a client secret is one word");
}

#[test]
fn what_cannot_be_reached_is_a_warning() {
    let home = Home::new();
    // Port 9 (discard) of this very machine: refused at once.
    let run = home.run("setup --issuer http://127.0.0.1:9 --client-id x --server http://127.0.0.1:9").ok();
    assert!(run.stderr.contains("Warning: the identity provider cannot be asked now"), "{}", run.stderr);
    assert!(run.stderr.contains("Warning: stepup-server cannot be asked now"), "{}", run.stderr);
    assert!(run.stdout.contains("Next: kubectl stepup login"));
}

#[test]
fn the_context_decides_on_profile_and_is_switched_by_name_only() {
    let home = Home::new().with_kubeconfig(
        "current-context: x\ncontexts:\n- context: {cluster: c, user: bob, namespace: pay}\n  name: x\n",
    );
    home.setup("--profile work --context x").ok();
    home.setup("--profile other").ok();
    assert!(home.read_kubeconfig().contains("- context: {cluster: c, user: \"work\", namespace: pay}\n"));
    // Two profiles, none called default: the context says which.
    let status = home.run("status -o json");
    assert_eq!(status.code, 3, "{}{}", status.stdout, status.stderr);
    let json: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&json["profile"], &json["signedIn"]), (&"work".into(), &false.into()));
    home.run("status --context nowhere").fails(2, "no context \"nowhere\"");
}

#[test]
fn not_signed_in_is_3() {
    let home = Home::new();
    home.setup("--server https://stepup.example").ok();
    home.run("elevate --for delete ns prod").fails(3, "kubectl stepup login");
    home.run("elevate --for delte ns prod").fails(2, "is not a verb");
    home.run("elevate --for delete widgets w").fails(2, "widgets.example.com");
    let status = home.run("status");
    assert_eq!(status.code, 3);
    assert!(status.stdout.contains("Signed in     no: kubectl stepup login --profile default"), "{}", status.stdout);
    assert_eq!(home.run("drop").ok().stdout, "This terminal holds no grants. (All of them: --all.)\n");
    assert_eq!(home.run("logout").ok().stdout, "Nobody is signed in to profile default.\n");
}

#[test]
fn completion_answers_shells_and_kubectl() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(home.run(&format!("completion {shell}")).ok().stdout.contains("kubectl-stepup"));
    }
    // As kubectl_complete-stepup calls it.
    let run = home.run("__complete -- elev").ok();
    assert_eq!(run.stdout, "elevate\tStep up now, for what was just refused or for what you are about to do\n:4\n");
}

#[test]
fn status_shows_grants_and_what_is_waiting_and_never_a_token() {
    let server = FakeServer::start(vec![
        ("GET /v1/challenges?all=true", 200, challenges(CHALLENGE, "")),
        ("GET /v1/grants", 200, grants()),
    ]);
    let home = signed_in(&server.url);
    let text = home.run("status").ok().stdout;
    for part in [
        "Signed in     as oidc:alice",
        "gr-1",
        "one use left, all your processes",
        "      delete namespaces/prod\n      reason: OPS-1\n",
        "get secrets/db -n prod  (rule secrets",
        "this machine's clock is",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let json = home.run("status -o json").ok().stdout;
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed["grants"][0]["held"], "anyone");
    assert_eq!(parsed["challenges"][0]["actions"][0], "get secrets/db -n prod");
    assert_eq!(parsed["stepUp"]["reachable"], true);
    assert!(!text.contains("-token\"") && !json.contains("elevated-token") && !json.contains("base-token"), "{json}");
}

#[test]
fn status_works_while_the_server_is_down() {
    let home = signed_in("http://127.0.0.1:9");
    let text = home.run("status").ok().stdout;
    assert!(text.contains("http://127.0.0.1:9, which cannot be asked now:"), "{text}");
    assert!(text.contains("gr-1"), "what is known here is shown: {text}");
    let json: serde_json::Value = serde_json::from_str(&home.run("status -o json").ok().stdout).unwrap();
    assert_eq!(json["stepUp"]["reachable"], false);
    home.run("elevate").fails(7, "stepup-server http://127.0.0.1:9");
}

#[test]
fn login_when_signed_in_says_so() {
    let home = signed_in("http://127.0.0.1:9");
    let run = home.run("login").ok();
    assert_eq!(
        run.stdout,
        "Already signed in as alice, profile default. To sign in again: kubectl stepup login --force\n"
    );
}

#[test]
fn elevate_says_when_no_step_up_is_needed_or_nothing_is_waiting() {
    let unprotected = r#"{"verb":"delete","resource":"pods","namespace":"dev","name":"x"}"#;
    let server = FakeServer::start(vec![
        ("GET /v1/challenges?all=true", 200, challenges("", "")),
        ("POST /v1/challenges", 200, challenges("", unprotected)),
    ]);
    let home = signed_in(&server.url);
    home.run("elevate").fails(1, "nothing is waiting for a step-up");
    let run = home.run("elevate --for delete po x -n dev").ok();
    assert_eq!(run.stdout, "No step-up is needed to delete pods/x -n dev.\n");
    let asked = r#"POST /v1/challenges {"actions":[{"verb":"delete","resource":"pods","namespace":"dev","name":"x"}]}"#;
    assert!(server.asked().iter().any(|other| other == asked), "{:?}", server.asked());
}

#[test]
fn drop_revokes_on_the_server_and_forgets_here() {
    let server =
        FakeServer::start(vec![("GET /v1/grants", 200, grants()), ("DELETE /v1/grants/gr-1", 204, String::new())]);
    let home = signed_in(&server.url);
    let held = home.path("stepup/cache/default/elevated/anyone.json");
    assert_eq!(home.run("drop --all").ok().stdout, "gr-1 is given up.\n");
    assert_eq!(server.asked(), ["GET /v1/grants", "DELETE /v1/grants/gr-1"]);
    assert!(!fs::read_to_string(&held).unwrap_or_default().contains("elevated-token"));
}

#[test]
fn drop_forgets_the_token_even_if_the_server_is_down() {
    let home = signed_in("http://127.0.0.1:9");
    let held = home.path("stepup/cache/default/elevated/anyone.json");
    let run =
        home.run("drop gr-1").fails(7, "gr-1: its token is deleted here, but the server still has the grant, until ");
    assert!(run.stderr.contains("stepup-server http://127.0.0.1:9"), "{}", run.stderr);
    assert!(!fs::read_to_string(&held).unwrap_or_default().contains("elevated-token"));
}
