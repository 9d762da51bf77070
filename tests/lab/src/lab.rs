//! A lab for as long as its value lives.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::pki::Pki;
use crate::plan::{Options, Plan, Ports, Programs};
use crate::process::Daemon;
use crate::role::Tie;
use crate::session::{Outcome, Session};

/// A running lab. Everything stops when it is dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they have to stop.
    _controller_manager: Daemon,
    _api_server: Daemon,
    stepup_server: Mutex<Option<Daemon>>,
    provider: Mutex<Option<Daemon>>,
    _etcd: Daemon,
    plan: Plan,
    sessions: AtomicUsize,
    namespaces: AtomicUsize,
}

impl Lab {
    /// Starts everything, with `directory` for its files (made if need be), and returns when all of it is ready.
    pub fn start(directory: &Path, programs: &Programs, options: Options) -> Result<Self> {
        let plan = Plan::prepare(directory, Ports::free()?, programs, options)?;
        plan.write_stepup_files()?;
        let tie = Tie::ToParent;
        let etcd = plan.start_etcd(tie)?;
        // The API server fetches both issuers' keys when it starts, and tries again only ten seconds later.
        let provider = plan.start_provider(tie)?;
        let stepup_server = plan.start_stepup_server(tie)?;
        plan.render()?;
        let api_server = plan.start_api_server(tie)?;
        let controller_manager = plan.start_controller_manager(tie)?;
        plan.apply_objects()?;
        Ok(Self {
            _controller_manager: controller_manager,
            _api_server: api_server,
            stepup_server: Mutex::new(Some(stepup_server)),
            provider: Mutex::new(Some(provider)),
            _etcd: etcd,
            plan,
            sessions: AtomicUsize::new(0),
            namespaces: AtomicUsize::new(1),
        })
    }

    /// A second lab, of the same programs, for a test that stops or changes parts of one.
    pub fn another(&self, name: &str, options: Options) -> Result<Self> {
        Self::start(&self.plan.file(&format!("other/{name}")), &self.plan.programs, options)
    }

    /// A new namespace whose name is `prefix`, a hyphen, and a number of its own.
    pub fn namespace(&self, prefix: &str) -> Result<String> {
        let name = format!("{prefix}-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        self.admin(&["create", "namespace", &name])?;
        Ok(name)
    }

    /// A new session of `name` (alice, bob or carol), set up and signed in.
    pub fn session(&self, name: &str) -> Result<Session> {
        let session = self.new_session(name)?;
        session.set_up(&[])?;
        session.log_in()?;
        Ok(session)
    }

    /// A new session of `name` that has yet to be set up and signed in.
    pub fn new_session(&self, name: &str) -> Result<Session> {
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let home = self.plan.file(&format!("home/{name}-{number}"));
        Session::new(&self.plan, name, &home, &home.join("kubeconfig.yaml"))
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
        restart(&self.stepup_server, || self.plan.start_stepup_server(Tie::ToParent))
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

/// The complete lines of a file of JSON Lines.
fn json_lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display())))
        .collect()
}
