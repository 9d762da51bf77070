//! A lab for as long as its value lives.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::clients::{self, Client};
use crate::keycloak::{Keycloak, Realm, Starting};
use crate::pki::Pki;
use crate::plan::{Lock, Options, Plan, Ports, Programs};
use crate::process::{Daemon, await_that};
use crate::role::Tie;
use crate::session::{Outcome, Session};
use crate::trouble::Wrapper;

/// How long the API server may take to write down what it has answered.
const AUDIT_LIMIT: Duration = Duration::from_secs(10);
/// How long the cluster may take to have what a pod needs.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A running lab. Everything stops when it is dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they have to stop.
    _kubelet: Daemon,
    _controller_manager: Daemon,
    _api_server: Daemon,
    stepup_server: Mutex<Option<Daemon>>,
    provider: Mutex<Option<Daemon>>,
    keycloak: Option<Starting>,
    _etcd: Daemon,
    plan: Plan,
    sessions: AtomicUsize,
    namespaces: AtomicUsize,
    people: AtomicUsize,
}

impl Lab {
    /// Starts everything, with `directory` for its files (made if need be), and returns when all of it is ready.
    pub fn start(directory: &Path, programs: &Programs, options: Options) -> Result<Self> {
        let plan = Plan::prepare(directory, Ports::free()?, programs, options)?;
        plan.write_stepup_files()?;
        let tie = Tie::ToParent;
        let keycloak = plan.start_keycloak(tie)?;
        let etcd = plan.start_etcd(tie)?;
        // The API server fetches both issuers' keys when it starts, and tries again only ten seconds later.
        let provider = plan.start_provider(tie)?;
        let stepup_server = match plan.options.lock {
            Lock::Provider => None,
            Lock::Webhooks | Lock::Groups => Some(plan.start_stepup_server(tie, &Wrapper::default())?),
        };
        plan.render()?;
        let api_server = plan.start_api_server(tie)?;
        let controller_manager = plan.start_controller_manager(tie)?;
        let kubelet = plan.start_kubelet(tie)?;
        plan.apply_objects()?;
        Ok(Self {
            _kubelet: kubelet,
            _controller_manager: controller_manager,
            _api_server: api_server,
            stepup_server: Mutex::new(stepup_server),
            provider: Mutex::new(Some(provider)),
            keycloak,
            _etcd: etcd,
            plan,
            sessions: AtomicUsize::new(0),
            namespaces: AtomicUsize::new(1),
            people: AtomicUsize::new(1),
        })
    }

    /// A second lab, of the same programs, for a test that stops or changes parts of one.
    pub fn another(&self, name: &str, options: Options) -> Result<Self> {
        let directory = self.plan.file(&format!("other/{name}"));
        if directory.exists() {
            // Of the test's first try.
            std::fs::remove_dir_all(&directory)?;
        }
        Self::start(&directory, &self.plan.programs, options)
    }

    /// A new namespace whose name is `prefix`, a hyphen, and a number of its own.
    pub fn namespace(&self, prefix: &str) -> Result<String> {
        let name = format!("{prefix}-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        self.admin(&["create", "namespace", &name])?;
        Ok(name)
    }

    /// A new node of this name, that pods can be bound to.
    pub fn node(&self, name: &str) -> Result<()> {
        self.plan.register_node(name)
    }

    /// A new pod that runs on `node` (the lab has one called `node`) and is ready for exec, attach, logs and port-forward.
    /// `command` is one that the lab's kubelet knows and what the log is made of; empty for three lines.
    pub fn pod(&self, namespace: &str, name: &str, node: &str, command: &[&str]) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "example.test/app:1", "command": command}],
            },
        });
        // The namespace's service account takes a moment to be there.
        await_that(START_LIMIT, || self.apply(&pod))?;
        self.admin(&["wait", "--for=condition=Ready", "--timeout=60s", "pod", name, "-n", namespace]).map(drop)
    }

    /// A new session of `name` (alice, bob or carol), set up and signed in; without preflight, so that what the cluster
    /// refuses is seen.
    pub fn session(&self, name: &str) -> Result<Session> {
        let session = self.new_session(name)?;
        session.set_up(&["--preflight", "off"])?;
        session.log_in()?;
        Ok(session)
    }

    /// A person whom no other test meets, and who is otherwise like `name` (same password and second factor, same
    /// groups), set up and signed in.
    pub fn someone_like(&self, name: &str) -> Result<Session> {
        self.session(&self.name_like(name))
    }

    /// The name of such a person.
    pub fn name_like(&self, name: &str) -> String {
        format!("{name}-{}", self.people.fetch_add(1, Ordering::Relaxed))
    }

    /// A new session of `name` that has yet to be set up and signed in.
    pub fn new_session(&self, name: &str) -> Result<Session> {
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let home = self.plan.file(&format!("home/{name}-{number}"));
        Session::new(&self.plan, name, &home, &home.join("kubeconfig.yaml"))
    }

    /// Keycloak, ready. Only the lab that the tests share has it.
    pub fn keycloak(&self) -> Result<&Keycloak> {
        self.keycloak.as_ref().context("this lab has no Keycloak")?.ready()
    }

    /// A person of Keycloak whom no other test meets, and who is otherwise like `name`, at a computer of their own that
    /// is set up for `realm` and the client `client_id`.
    pub fn keycloak_session(&self, realm: Realm, client_id: &str, name: &str) -> Result<Session> {
        let name = self.keycloak()?.name_like(name)?;
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let home = self.plan.file(&format!("home/{}-{name}-{number}", realm.provider));
        let session = Session::at(
            &self.plan,
            (&self.plan.keycloak_issuer(realm), client_id),
            &name,
            &home,
            &home.join("kubeconfig.yaml"),
        )?;
        session.set_up(&["--preflight", "off"])?;
        Ok(session)
    }

    /// Runs `kubectl` as the administrator, whom no policy stops; gives its output.
    pub fn admin(&self, arguments: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new(self.plan.program("kubectl"));
        command.arg("--kubeconfig").arg(self.plan.admin_kubeconfig()).args(arguments);
        Ok(Outcome::of(&mut command)?.succeeded().with_context(|| format!("kubectl {}", arguments.join(" ")))?.stdout)
    }

    /// Puts `helm` into everybody's `PATH`.
    pub fn install_helm(&self) -> Result<()> {
        self.plan.install_helm()
    }

    /// The clients of others: those that the lab builds, and every other kubectl of this machine.
    pub fn clients(&self) -> Result<Vec<Client>> {
        clients::all(&self.plan.file("clients"), &self.plan.control_plane)
    }

    /// Creates or changes what `manifest` describes, as the administrator.
    pub fn apply(&self, manifest: &Value) -> Result<()> {
        self.plan.apply(&manifest.to_string())
    }

    /// One object as it is now: `["deployment", "web", "-n", "prod"]`.
    pub fn object(&self, which: &[&str]) -> Result<Value> {
        let text = self.admin(&[&["get", "-o", "json"], which].concat())?;
        serde_json::from_str(&text).context("kubectl get -o json")
    }

    /// Runs `kubectl` with a token and no plugin, as any program without kubectl-stepup.
    pub fn kubectl_with_token(&self, token: &str, arguments: &[&str]) -> Result<Outcome> {
        let mut command = std::process::Command::new(self.plan.program("kubectl"));
        command.env_remove("KUBECONFIG").env("HOME", self.plan.file("home/nobody"));
        command.args(["--server", &self.plan.api_server_url(), "--token", token, "--certificate-authority"]);
        command.arg(&self.plan.pki.ca).args(arguments);
        Outcome::of(&mut command)
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.plan.directory
    }

    /// Its keys and certificates.
    pub fn pki(&self) -> &Pki {
        &self.plan.pki
    }

    /// The provider's address.
    pub fn issuer(&self) -> String {
        self.plan.issuer()
    }

    /// stepup-server's address.
    pub fn server_url(&self) -> String {
        self.plan.server_url()
    }

    /// The API server's address.
    pub fn api_server_url(&self) -> String {
        self.plan.api_server_url()
    }

    /// A program of the people's `PATH`: `kubectl`, `kubectl-stepup`, `stepup-server`, `lab-browser`, …
    pub fn program(&self, name: &str) -> PathBuf {
        self.plan.program(name)
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.plan.admin_kubeconfig()
    }

    /// stepup-server's configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.plan.config_file()
    }

    /// stepup-server's policy file. An edit that protects other kinds of things needs [`Lab::update_cluster`] too.
    pub fn policy_file(&self) -> PathBuf {
        self.plan.policy_file()
    }

    /// Renders again what the cluster knows of the policy, and applies it.
    pub fn update_cluster(&self) -> Result<()> {
        self.plan.render()?;
        self.plan.apply_objects()
    }

    /// stepup-server's audit records so far.
    pub fn audit_records(&self) -> Result<Vec<Value>> {
        json_lines(&self.plan.audit_log())
    }

    /// The API server's audit events so far.
    pub fn kube_audit_events(&self) -> Result<Vec<Value>> {
        json_lines(&self.plan.kube_audit_log())
    }

    /// The answers (HTTP status) that the API server gave to requests for one object, oldest first.
    pub fn answers(&self, verb: &str, resource: &str, name: &str) -> Result<Vec<u64>> {
        let events = self.kube_audit_events()?;
        let about = events.iter().filter(|event| {
            event["stage"] == "ResponseComplete"
                && event["verb"] == verb
                && event["objectRef"]["resource"] == resource
                && event["objectRef"]["name"] == name
        });
        Ok(about.filter_map(|event| event["responseStatus"]["code"].as_u64()).collect())
    }

    /// The answers (HTTP status) that one person's requests have got so far, oldest first.
    pub fn answers_to(&self, person: &str) -> Result<Vec<u64>> {
        // One person's are few, and the log may be long.
        let log = std::fs::read_to_string(self.plan.kube_audit_log())?;
        let events =
            log.lines().filter(|line| line.contains(person)).filter_map(|line| serde_json::from_str(line).ok());
        let complete =
            events.filter(|event: &Value| event["stage"] == "ResponseComplete" && event["user"]["username"] == person);
        Ok(complete.filter_map(|event| event["responseStatus"]["code"].as_u64()).collect())
    }

    /// An error unless the API server's answers (HTTP status) to requests in one namespace were `expected`, oldest first.
    /// A namespace is in itself; requests of the administrator and of controllers do not count. `resource` is as in `deployments` and `deployments/scale`.
    pub fn answered(&self, namespace: &str, verb: &str, resource: &str, expected: &[u64]) -> Result<()> {
        // It writes an event down when the answer has left: the client may be quicker.
        await_that(AUDIT_LIMIT, || {
            let events = self.kube_audit_events()?;
            let about = events.iter().filter(|event| {
                let object = &event["objectRef"];
                let (kind, sub) = resource.split_once('/').unwrap_or((resource, ""));
                event["stage"] == "ResponseComplete"
                    && event["verb"] == verb
                    && object["namespace"] == namespace
                    && object["resource"] == kind
                    && object["subresource"].as_str().unwrap_or_default() == sub
                    && !is_the_cluster(event["user"]["username"].as_str().unwrap_or_default())
            });
            let answers: Vec<u64> = about.filter_map(|event| event["responseStatus"]["code"].as_u64()).collect();
            ensure!(answers == expected, "{verb} {resource} in {namespace} was answered {answers:?}, not {expected:?}");
            Ok(())
        })
    }

    /// stepup-server's audit records that are about an object or namespace of this name.
    pub fn records_about(&self, name: &str) -> Result<Vec<Value>> {
        let is_about =
            |action: &Value| action.as_str().is_some_and(|action| action.split([' ', '/']).any(|word| word == name));
        let mut records = self.audit_records()?;
        records.retain(|record| record["actions"].as_array().is_some_and(|actions| actions.iter().any(is_about)));
        Ok(records)
    }

    /// What those records tell of, oldest first: `challenge`, `step-up`, `mint`, `use`, …
    pub fn story_of(&self, name: &str) -> Result<Vec<String>> {
        let event = |record: &Value| record["event"].as_str().unwrap_or_default().to_owned();
        Ok(self.records_about(name)?.iter().map(event).collect())
    }

    /// Every log file of the lab: of its programs, its audit and its browsers.
    pub fn log_files(&self) -> Result<Vec<PathBuf>> {
        let mut files = vec![self.plan.audit_log()];
        for entry in std::fs::read_dir(self.plan.log_directory())? {
            files.push(entry?.path());
        }
        Ok(files)
    }

    /// Does something to stepup-server's process: signal, kill, stop. Only for a lab that a test has to itself.
    pub fn with_stepup_server<T>(&self, act: impl FnOnce(&mut Daemon) -> T) -> Result<T> {
        with(&self.stepup_server, act)
    }

    /// Does something to the provider's process. Only for a lab that a test has to itself.
    pub fn with_provider<T>(&self, act: impl FnOnce(&mut Daemon) -> T) -> Result<T> {
        with(&self.provider, act)
    }

    /// Kills stepup-server if it runs, and starts it again.
    pub fn restart_stepup_server(&self) -> Result<()> {
        self.restart_stepup_server_under(&Wrapper::default())
    }

    /// The same, in trouble.
    pub fn restart_stepup_server_under(&self, wrapper: &Wrapper) -> Result<()> {
        restart(&self.stepup_server, || self.plan.start_stepup_server(Tie::ToParent, wrapper))
    }

    /// Kills the provider if it runs, and starts it again. It forgets all sessions and refresh tokens.
    pub fn restart_provider(&self) -> Result<()> {
        restart(&self.provider, || self.plan.start_provider(Tie::ToParent))
    }
}

fn with<T>(daemon: &Mutex<Option<Daemon>>, act: impl FnOnce(&mut Daemon) -> T) -> Result<T> {
    let mut daemon = daemon.lock().unwrap_or_else(PoisonError::into_inner);
    match daemon.as_mut() {
        Some(daemon) => Ok(act(daemon)),
        None => bail!("it does not run"),
    }
}

fn restart(daemon: &Mutex<Option<Daemon>>, start: impl FnOnce() -> Result<Daemon>) -> Result<()> {
    let mut daemon = daemon.lock().unwrap_or_else(PoisonError::into_inner);
    // The port has to be free first.
    drop(daemon.take());
    *daemon = Some(start()?);
    Ok(())
}

/// Whether somebody is part of the cluster or keeps it: no person of a story.
fn is_the_cluster(user: &str) -> bool {
    user == "lab-admin" || user == "system:apiserver" || user.starts_with("system:serviceaccount:kube-system:")
}

/// The complete lines of a file of JSON Lines.
fn json_lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display())))
        .collect()
}
