//! Black-box tests of `stepup-server serve` where no cluster is needed: starts, stops, and what they leave behind.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest that a test waits for what must happen. Only a failure takes that long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server's directory: certificates, configuration and policy, and what the server makes there.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap() };
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        site.write("ca.pem", &authority.pem());
        site.write("tls.pem", &leaf.pem());
        site.write("tls.key", &key.serialize_pem());
        site.write("policy.yaml", "rules: []\n");
        site.write("config.yaml", CONFIG);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// What a command says that ends by itself.
    fn run(&self, subcommand: &str) -> Output {
        let mut command = self.command(subcommand, &self.path("config.yaml"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(10));
        }
        child.wait_with_output().unwrap()
    }

    fn command(&self, subcommand: &str, config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stepup-server"));
        command.arg(subcommand).arg(config).current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// A server, once it listens.
    fn serve(&self) -> Serving {
        let mut command = self.command("serve", &self.path("config.yaml"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, log) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        let mut serving = Serving { child, stdout, log, logged: Vec::new() };
        serving.await_log("listening on");
        serving
    }

    /// Ids in the audit log, in its order.
    fn audited(&self) -> Vec<String> {
        fs::read_to_string(self.path("audit.jsonl")).unwrap().lines().map(id_of).collect()
    }
}

const CONFIG: &str = "
listen: 127.0.0.1:0
publicUrl: https://stepup.example
tls: {certificate: tls.pem, key: tls.key}
webhookClients: {ca: ca.pem}
identityProviders:
- name: corp
  issuer: https://idp.example
  audiences: [kubernetes]
  username: {claim: sub, prefix: ''}
  levels: [{name: mfa, acrValues: ['urn:mfa']}]
token: {audience: kubernetes, keys: keys}
store: {sqlite: {path: stepup.db}}
audit: {sinks: [{file: {path: audit.jsonl}}]}
policy: policy.yaml
log: {format: text}
";

/// Killed when it is dropped.
struct Serving {
    child: Child,
    stdout: Receiver<String>,
    log: Receiver<String>,
    logged: Vec<String>,
}

impl Serving {
    #[track_caller]
    fn await_log(&mut self, text: &str) {
        while !self.logged.last().is_some_and(|line| line.contains(text)) {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => self.logged.push(line),
                Err(error) => panic!("no {text:?} ({error}) in {:#?}", self.logged),
            }
        }
    }

    /// As a power cut would.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.stdout.iter().collect()
    }

    /// As a service manager would; gives what it has printed.
    fn stop(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.stdout.iter().collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

fn id_of(line: &str) -> String {
    let record: serde_json::Value = serde_json::from_str(line).unwrap();
    record["id"].as_str().unwrap().to_owned()
}

/// What was printed cannot be looked up: after a crash it may come again, as the same record. After a stop it does not.
#[test]
fn what_was_printed_is_printed_again_after_a_crash_at_most() {
    let site = Site::new();
    site.write("config.yaml", &CONFIG.replace("file: {path: audit.jsonl}", "stdout: {}"));
    let ids = |lines: Vec<String>| lines.iter().map(|line| id_of(line)).collect::<Vec<_>>();
    let first = ids(site.serve().stop());
    assert_eq!(first.len(), 1, "the policy");
    assert_eq!(site.serve().stop(), [""; 0]);

    site.write("policy.yaml", "rules: []\n# edited\n");
    let second = ids(site.serve().kill());
    assert_eq!(second.len(), 1);
    let third = ids(site.serve().stop());
    assert!(third.is_empty() || third == second, "{second:?} {third:?}");
    assert_eq!(site.serve().stop(), [""; 0]);
}

#[test]
fn an_audit_log_that_nobody_need_keep_is_warned_of() {
    let site = Site::new();
    let warning = "`audit.sinks` has no file";
    let told = |site: &Site| String::from_utf8(site.run("check").stderr).unwrap();
    assert!(!told(&site).contains(warning), "{}", told(&site));
    site.write("config.yaml", &CONFIG.replace("file: {path: audit.jsonl}", "stdout: {}"));
    let checked = site.run("check");
    assert!(checked.status.success() && told(&site).contains(warning), "{}", told(&site));
    assert!(site.serve().logged.iter().any(|line| line.contains(warning)));
}

#[test]
fn a_store_is_for_one_server_and_free_as_soon_as_that_is_killed() {
    let site = Site::new();
    let first = site.serve();
    // What the first has yet to acknowledge, the second would write again.
    let second = site.run("serve");
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success());
    assert!(told.contains("another stepup-server uses it") && told.contains("store.sqlite.path"), "{told}");
    assert_eq!(site.audited().len(), 1, "the policy of the first");
    assert!(site.run("check").status.success(), "a running server is no fault of its configuration");

    first.kill();
    site.serve().stop();
    site.serve().kill();
    assert_eq!(site.audited().len(), 1);
}
