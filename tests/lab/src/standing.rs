//! The lab that stays: `make lab` starts it and returns, `make lab-down` stops it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::person::Account;
use crate::plan::{Options, Plan, Ports, Programs, write};
use crate::process::{Daemon, ProcessId};
use crate::role::Tie;
use crate::session::{Session, environment};
use crate::trouble::Wrapper;

/// What runs, kept in `state.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    ports: Ports,
    processes: BTreeMap<String, ProcessId>,
    /// What each was made of when it was started.
    #[serde(default)]
    made_of: BTreeMap<String, String>,
}

/// What `up` found and did.
#[derive(Debug)]
pub struct Up {
    /// Names of the programs that it started.
    pub started: Vec<String>,
}

/// Stops in this order; the reverse is the order of starting.
const STOP_ORDER: [&str; 6] =
    ["kubelet", "kube-controller-manager", "kube-apiserver", "stepup-server", "oidc-provider", "etcd"];

/// Starts what does not run, and writes `env`.
pub fn up(directory: &Path, programs: &Programs) -> Result<Up> {
    let _only_me = lock(directory)?;
    let mut state = if let Some(state) = State::read(directory)? {
        state
    } else {
        wipe(directory)?;
        State { ports: Ports::free()?, processes: BTreeMap::new(), made_of: BTreeMap::new() }
    };
    let plan = Plan::prepare(directory, state.ports, programs, Options::default())?;
    plan.write_stepup_files()?;
    // From here on `down` knows what to stop, whatever happens.
    state.write(directory)?;

    let mut started = Vec::new();
    let mut ensure = |name: &str, start: &dyn Fn() -> Result<Daemon>| -> Result<()> {
        let made_of = plan.made_of(name)?;
        if let Some(running) = state.processes.get(name).filter(|id| id.is_alive()) {
            if state.made_of.get(name) == Some(&made_of) {
                return Ok(());
            }
            eprintln!("lab: {name} has changed");
            running.stop();
        }
        eprintln!("lab: starting {name}");
        state.made_of.insert(name.to_owned(), made_of);
        state.processes.insert(name.to_owned(), start()?.id());
        state.write(directory)?;
        started.push(name.to_owned());
        Ok(())
    };
    let tie = Tie::Detached;
    ensure("etcd", &|| plan.start_etcd(tie))?;
    ensure("oidc-provider", &|| plan.start_provider(tie))?;
    ensure("stepup-server", &|| plan.start_stepup_server(tie, &Wrapper::default()))?;
    plan.render()?;
    ensure("kube-apiserver", &|| plan.start_api_server(tie))?;
    ensure("kube-controller-manager", &|| plan.start_controller_manager(tie))?;
    ensure("kubelet", &|| plan.start_kubelet(tie))?;
    plan.apply_objects()?;
    let people = set_up_people(&plan)?;
    write(&directory.join("env"), &env_file(&plan, &people))?;
    Ok(Up { started })
}

/// Stops everything that `up` started; says whether there was anything.
pub fn down(directory: &Path) -> Result<bool> {
    if !directory.exists() {
        return Ok(false);
    }
    let _only_me = lock(directory)?;
    let Some(state) = State::read(directory)? else { return Ok(false) };
    for name in STOP_ORDER {
        if let Some(id) = state.processes.get(name) {
            id.stop();
        }
    }
    let _ = fs::remove_file(directory.join("env"));
    fs::remove_file(State::file(directory))?;
    Ok(true)
}

/// Sessions of everybody, in one home: each person has a profile and a kubeconfig.
fn set_up_people(plan: &Plan) -> Result<Vec<Session>> {
    Account::names()
        .map(|name| {
            let kubeconfig = plan.file(&format!("kubeconfig/{name}.yaml"));
            let session = Session::new(plan, name, &plan.file("home"), &kubeconfig)?;
            session.set_up(&[]).with_context(|| format!("setting {name} up"))?;
            Ok(session)
        })
        .collect()
}

/// A file for a shell to source: alice's environment, and where the others are.
fn env_file(plan: &Plan, people: &[Session]) -> String {
    let mut text = String::from("# The lab's environment: source this file. `make lab-down` ends the lab.\n");
    let mut export = |name: &str, value: &str| {
        let _ = writeln!(text, "export {name}={value}");
    };
    let home = plan.file("home");
    for (name, value) in environment(plan, "alice", &home, &plan.file("kubeconfig/alice.yaml")) {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        match name.as_ref() {
            "PATH" => export("PATH", &format!("{}:\"$PATH\"", quoted(&plan.file("bin").to_string_lossy()))),
            "LAB_BROWSER_LOG" => export(&name, &quoted(&plan.file("log/browser.log").to_string_lossy())),
            // The sign-in page says who it is for; a browser of one's own choice need not be told.
            "LAB_BROWSER_USER" => {}
            _ => export(&name, &quoted(&value)),
        }
    }
    for person in people.iter().filter(|person| person.name() != "alice") {
        let name = format!("LAB_{}_KUBECONFIG", person.name().to_uppercase());
        export(&name, &quoted(&person.kubeconfig().to_string_lossy()));
    }
    text
}

/// As one word of a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl State {
    fn file(directory: &Path) -> std::path::PathBuf {
        directory.join("state.json")
    }

    fn read(directory: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(Self::file(directory)) {
            Ok(text) => Ok(Some(serde_json::from_str(&text).context("state.json of the lab")?)),
            Err(_) => Ok(None),
        }
    }

    fn write(&self, directory: &Path) -> Result<()> {
        write(&Self::file(directory), &serde_json::to_string_pretty(self)?)
    }
}

/// Waits for its turn to change what is in `directory`.
pub(crate) fn lock(directory: &Path) -> Result<File> {
    fs::create_dir_all(directory)?;
    let file = File::create(directory.join("lock"))?;
    file.lock()?;
    Ok(file)
}

/// Removes what an earlier lab left behind.
pub(crate) fn wipe(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() == "lock" {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}
