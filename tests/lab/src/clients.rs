//! The clients of others that people use a cluster with: those that the lab builds, and every other kubectl of this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use serde_json::Value;

use crate::binaries::{self, versions};
use crate::plan::{link, write_executable};
use crate::suite;

/// A client.
#[derive(Clone, Debug)]
pub struct Client {
    /// With its version: `kubectl 1.33`, `helm 4.3.1`.
    pub name: String,
    /// How to talk to it.
    pub kind: Kind,
    /// Where its program is, under the name that [`Kind::program`] says.
    pub directory: PathBuf,
}

/// What a client's command line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// kubectl's.
    Kubectl,
    /// helm's.
    Helm,
    /// A program of the lab's own, made with a client library: see `tests/lab/clients`.
    Library,
}

impl Kind {
    /// The name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Kubectl => "kubectl",
            Self::Helm => "helm",
            Self::Library => "client",
        }
    }
}

/// Builds what is missing in the cache.
pub(crate) fn prepare() -> Result<()> {
    binaries::helm()?;
    binaries::helm_4()?;
    binaries::go_client()?;
    binaries::javascript_client()?;
    suite::python_client().map(drop)
}

/// All of them, each with a directory of its own below `directory`.
pub(crate) fn all(directory: &Path, control_plane: &Path) -> Result<Vec<Client>> {
    let kubectl =
        Kubectl { minor: minor(versions::kubectl()).unwrap_or_default(), path: control_plane.join("kubectl") };
    let mut kubectls = others_than(kubectl.minor);
    kubectls.push(kubectl);
    let mut clients = Vec::new();
    for Kubectl { minor, path } in kubectls {
        let client = client(directory, format!("kubectl 1.{minor}"), Kind::Kubectl)?;
        link(&path, &client.directory.join("kubectl"))?;
        clients.push(client);
    }
    for (version, built) in [(versions::helm(), binaries::helm()?), (versions::helm_4(), binaries::helm_4()?)] {
        let client = client(directory, format!("helm {version}"), Kind::Helm)?;
        link(&built.join("helm"), &client.directory.join("helm"))?;
        clients.push(client);
    }
    if let Some(installed) = suite::python_client()? {
        // The library keeps what it has discovered in the temporary directory, for ever.
        let start = format!("export TMPDIR=\"$HOME\"\nexec '{0}/venv/bin/python' '{0}/client.py'", installed.display());
        clients.push(library(directory, "Python", versions::python_client(), &start)?);
    }
    let start = format!("exec node '{}/client.mjs'", binaries::javascript_client()?.display());
    clients.push(library(directory, "JavaScript", versions::javascript_client(), &start)?);
    let client = client(directory, format!("client-go {}", versions::go_client()), Kind::Library)?;
    link(&binaries::go_client()?.join("client"), &client.directory.join(client.kind.program()))?;
    clients.push(client);
    Ok(clients)
}

fn client(directory: &Path, name: String, kind: Kind) -> Result<Client> {
    let directory = directory.join(name.replace(' ', "-"));
    fs::create_dir_all(&directory)?;
    Ok(Client { name, kind, directory })
}

fn library(directory: &Path, name: &str, version: &str, start: &str) -> Result<Client> {
    let client = client(directory, format!("{name} {version}"), Kind::Library)?;
    write_executable(&client.directory.join(client.kind.program()), &format!("#!/bin/sh\n{start} \"$@\"\n"))?;
    Ok(client)
}

/// A kubectl, and its minor version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kubectl {
    minor: u32,
    path: PathBuf,
}

/// Every kubectl of this machine whose minor version is not `own`, one for each version, oldest first.
///
/// They are in the directories of `PATH`, and where the kubectls there lead to by links: some come with a whole row of older
/// ones beside them.
fn others_than(own: u32) -> Vec<Kubectl> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let behind = on_path
        .iter()
        .filter_map(|directory| Some(directory.join("kubectl").canonicalize().ok()?.parent()?.to_owned()));
    let mut found = BTreeMap::new();
    for directory in on_path.iter().cloned().chain(behind) {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        let candidates = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_kubectl));
        for path in candidates.map(|entry| entry.path()) {
            if let Some(minor) = version_of(&path).as_deref().and_then(minor).filter(|minor| *minor != own) {
                found.entry(minor).or_insert(path);
            }
        }
    }
    found.into_iter().map(|(minor, path)| Kubectl { minor, path }).collect()
}

/// `kubectl`, `kubectl.1.33` and `kubectl-1.33`; not `kubectl-stepup` and other plugins.
fn is_kubectl(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("kubectl") else { return false };
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    rest.is_empty() || rest.strip_prefix(['.', '-']).is_some_and(|version| version.split('.').all(is_number))
}

/// The version of a kubectl, as it says itself. None of one that only picks another: its version is that of nothing.
fn version_of(kubectl: &Path) -> Option<String> {
    let mut command = Command::new(kubectl);
    command.args(["version", "--client", "--output=json"]).env("KUBECONFIG", "/dev/null").stdin(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    let said: Value = serde_json::from_slice(&output.stdout).ok()?;
    let version = said["clientVersion"]["gitVersion"].as_str()?;
    (!version.contains("dispatcher")).then(|| version.trim_start_matches('v').to_owned())
}

/// The minor number of `1.33.1`.
fn minor(version: &str) -> Option<u32> {
    let mut numbers = version.split('.');
    (numbers.next()? == "1").then_some(())?;
    numbers.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectls_are_told_from_plugins() {
        for name in ["kubectl", "kubectl.1.27", "kubectl-1.33", "kubectl-1.33.1"] {
            assert!(is_kubectl(name), "{name}");
        }
        for name in ["kubectl-stepup", "kubectl_complete-stepup", "kubectl.sh", "kubectl.", "kubectx", "kubectl-1.x"] {
            assert!(!is_kubectl(name), "{name}");
        }
    }

    #[test]
    fn minor_versions() {
        assert_eq!(minor("1.33.1"), Some(33));
        assert_eq!(minor("1.34.0-rc.1"), Some(34));
        assert_eq!(minor("2.0.0"), None);
        assert_eq!(minor(""), None);
    }
}
