//! One person at one computer: a home, a kubeconfig, a browser.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::plan::{CLIENT_ID, Lock, Plan};
use crate::process::await_that;
use crate::role::{self, Tie};
use crate::terminal::Terminal;
use crate::window::{Window, token_in};

/// Clients that repeat a request ten times and people who take their time are well within it.
const LIMIT: Duration = Duration::from_mins(3);

/// A person at a computer of their own. Several sessions of one person share nothing but the person.
#[derive(Clone, Debug)]
pub struct Session {
    name: String,
    home: PathBuf,
    kubeconfig: PathBuf,
    environment: Vec<(OsString, OsString)>,
    setup: Vec<OsString>,
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Session {
    /// `name`'s home, without a kubeconfig user yet.
    pub(crate) fn new(plan: &Plan, name: &str, home: &Path, kubeconfig: &Path) -> Result<Self> {
        Self::at(plan, (&plan.issuer(), CLIENT_ID), name, home, kubeconfig)
    }

    /// The same, for somebody who signs in at this issuer as this client.
    pub(crate) fn at(plan: &Plan, provider: (&str, &str), name: &str, home: &Path, kubeconfig: &Path) -> Result<Self> {
        fs::create_dir_all(home)?;
        plan.write_kubeconfig(kubeconfig, name, &json!([]))?;
        Ok(Self {
            name: name.to_owned(),
            home: home.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            environment: environment(plan, name, home, kubeconfig),
            setup: setup_arguments(plan, provider, name, kubeconfig),
        })
    }

    /// Who it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `KUBECTL_STEPUP_HOME`.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The kubeconfig, whose only user runs kubectl-stepup.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Sets a variable for everything that this session runs from now on.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The programs of a directory come before all others, from now on.
    pub fn with_programs_of(self, directory: &Path) -> Result<Self> {
        let path = self.environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone());
        let others = path.context("a session has a PATH")?;
        let all = std::env::join_paths([directory.to_owned()].into_iter().chain(std::env::split_paths(&others)))?;
        Ok(self.with("PATH", all))
    }

    /// Runs `kubectl stepup setup`; `more` are further arguments.
    pub fn set_up(&self, more: &[&str]) -> Result<()> {
        let mut command = self.command("kubectl-stepup");
        command.args(&self.setup).args(more);
        Outcome::of(&mut command)?.succeeded().map(drop)
    }

    /// Signs in, by device flow and the lab's browser.
    pub fn log_in(&self) -> Result<()> {
        self.stepup(&["login"])?.succeeded().map(drop)
    }

    /// A command in this person's environment: `kubectl`, `kubectl-stepup`, or any program of the machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.arrange(&mut command);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `kubectl` without a terminal.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Outcome> {
        Outcome::of(self.detached("kubectl")?.args(arguments))
    }

    /// Runs `kubectl-stepup` without a terminal.
    pub fn stepup(&self, arguments: &[&str]) -> Result<Outcome> {
        Outcome::of(self.detached("kubectl-stepup")?.args(arguments))
    }

    /// Runs a shell script without a terminal.
    pub fn script(&self, script: &str) -> Result<Outcome> {
        Outcome::of(self.detached("sh")?.args(["-c", script]))
    }

    /// Runs a program as a cron job or an editor in the background would: there is no terminal, and nobody is there.
    pub fn background(&self, program: &str, arguments: &[&str]) -> Result<Outcome> {
        Outcome::of(self.detached(program)?.env("KUBECTL_STEPUP_PROMPT", "auto").args(arguments))
    }

    /// A command without any terminal, not even that of the person who runs the tests.
    pub fn detached(&self, program: impl AsRef<Path>) -> Result<Command> {
        let mut command = role::command(Tie::Detached, program.as_ref())?;
        self.arrange(&mut command);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a program on a terminal of its own, as if in a new window.
    pub fn terminal(&self, program: &str, arguments: &[&str]) -> Result<Terminal> {
        Terminal::run(Path::new(program), |command| {
            self.arrange(command);
            command.env("KUBECTL_STEPUP_PROMPT", "auto").args(arguments);
        })
    }

    /// Opens a terminal window with a shell in it.
    pub fn window(&self) -> Result<Window> {
        Window::open(self)
    }

    /// The token that a new command outside of all windows would begin with.
    pub fn token(&self) -> Result<String> {
        let get_token = format!("kubectl-stepup get-token --profile {}; :", self.name);
        token_in(&self.background("sh", &["-c", &get_token])?.succeeded()?.stdout)
    }

    /// How many sign-ins this session's browser has completed with a password, so far.
    pub fn sign_ins(&self) -> usize {
        self.browser_log().lines().filter(|line| line.contains(": password of ")).count()
    }

    /// What this session's browser did.
    pub fn browser_log(&self) -> String {
        fs::read_to_string(browser_log(&self.home)).unwrap_or_default()
    }

    /// Waits until the browser's log has `text` in it.
    pub fn await_browser(&self, text: &str, limit: Duration) -> Result<()> {
        await_that(limit, || {
            let log = self.browser_log();
            if log.contains(text) { Ok(()) } else { bail!("the browser's log has no {text:?}:\n{log}") }
        })
    }

    pub(crate) fn arrange(&self, command: &mut Command) {
        // The developer's own screen is not this person's.
        for name in ["DISPLAY", "WAYLAND_DISPLAY", "KUBERNETES_EXEC_INFO"] {
            command.env_remove(name);
        }
        command.env("HOME", &self.home).envs(self.environment.iter().cloned()).current_dir(&self.home);
    }
}

impl Outcome {
    /// Runs `command`, without input, to its end; kills it when it takes longer than any command of a test should.
    pub fn of(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        if let Ok(output) = receiver.recv_timeout(LIMIT) {
            return Ok(output?.into());
        }
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
        }
        bail!("still running after {} s: {:?}", LIMIT.as_secs(), command.get_args())
    }

    /// An error that shows everything, unless the command succeeded.
    pub fn succeeded(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("{}\nstdout:\n{}\nstderr:\n{}", self.status, self.stdout, self.stderr)
    }

    /// An error that shows everything, unless the command failed and its standard error has `text` in it.
    pub fn failed_with(self, text: &str) -> Result<Self> {
        if !self.status.success() && self.stderr.contains(text) {
            return Ok(self);
        }
        bail!("expected a failure with {text:?}: {}\nstdout:\n{}\nstderr:\n{}", self.status, self.stdout, self.stderr)
    }
}

impl From<Output> for Outcome {
    fn from(Output { status, stdout, stderr }: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status, stdout: text(stdout), stderr: text(stderr) }
    }
}

/// The variables that a person of the lab has; also what `target/lab/env` exports.
pub(crate) fn environment(plan: &Plan, name: &str, home: &Path, kubeconfig: &Path) -> Vec<(OsString, OsString)> {
    let mut path = plan.file("bin").into_os_string();
    if let Some(inherited) = std::env::var_os("PATH") {
        path.push(":");
        path.push(inherited);
    }
    let mut variables: Vec<(OsString, OsString)> = lab_variables(plan).map(|(name, value)| (name.into(), value)).into();
    variables.extend([
        ("PATH".into(), path),
        ("KUBECONFIG".into(), kubeconfig.into()),
        ("KUBECACHEDIR".into(), home.join("kubectl-cache").into()),
        ("KUBECTL_STEPUP_HOME".into(), home.into()),
        // No keyring: the developer's own is not this person's.
        ("DBUS_SESSION_BUS_ADDRESS".into(), "unix:path=/nonexistent".into()),
        // Somebody is always there: the lab's browser.
        ("KUBECTL_STEPUP_PROMPT".into(), "always".into()),
        ("BROWSER".into(), plan.program("lab-browser").into()),
        ("LAB_BROWSER_USER".into(), name.into()),
        ("LAB_BROWSER_LOG".into(), browser_log(home).into()),
    ]);
    variables
}

/// What tests and people may want to know of the lab.
pub(crate) fn lab_variables(plan: &Plan) -> [(&'static str, OsString); 9] {
    [
        ("LAB_ADMIN_KUBECONFIG", plan.admin_kubeconfig().into()),
        ("LAB_SERVER_URL", plan.server_url().into()),
        ("LAB_CA", plan.pki.ca.clone().into()),
        ("LAB_ISSUER", plan.issuer().into()),
        ("LAB_CLIENT_ID", CLIENT_ID.into()),
        ("LAB_AUDIT_LOG", plan.audit_log().into()),
        ("LAB_KUBE_AUDIT_LOG", plan.kube_audit_log().into()),
        ("LAB_POLICY", plan.policy_file().into()),
        ("LAB_CONFIG", plan.config_file().into()),
    ]
}

fn browser_log(home: &Path) -> PathBuf {
    home.join("browser.log")
}

fn setup_arguments(plan: &Plan, (issuer, client_id): (&str, &str), name: &str, kubeconfig: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        OsString::from("setup"),
        "--profile".into(),
        name.into(),
        "--user".into(),
        name.into(),
        "--kubeconfig".into(),
        kubeconfig.into(),
        "--issuer".into(),
        issuer.into(),
        "--issuer-ca".into(),
        plan.pki.ca.clone().into(),
        "--client-id".into(),
        client_id.into(),
        "--login-hint".into(),
        name.into(),
    ]
    .into();
    let server = ["--server".into(), plan.server_url().into(), "--server-ca".into(), plan.pki.ca.clone().into()];
    // Without a server, what there is instead is up to the test.
    arguments.extend(server.into_iter().filter(|_| plan.options.lock != Lock::Provider));
    arguments
}
