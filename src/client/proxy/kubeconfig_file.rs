//! The kubeconfig that leads through a proxy: for one run, in a directory of this user alone, gone at the end.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use rustls::crypto::aws_lc_rs;
use serde_json::{Value, json};

use super::gate;
use crate::client::cache;
use crate::client::error::Error;
use crate::client::kubeconfig::Route;
use crate::client::parent::{self, Process};
use crate::secret::Secret;

/// What our directories' names begin with; the process and something random follow.
const PREFIX: &str = "kubectl-stepup-run-";
/// Name of the extension that says that a kubeconfig is one of ours.
const MARK: &str = "kubectl-stepup.io/proxy";

/// A kubeconfig for as long as the value lives.
#[derive(Debug)]
pub struct KubeconfigFile {
    path: PathBuf,
    /// The directory that was made for it alone.
    directory: Option<PathBuf>,
    text: String,
}

impl KubeconfigFile {
    /// In a directory of its own.
    pub fn temporary(text: String, now: DateTime<Utc>) -> Result<Self, Error> {
        let parent = runtime_directory();
        sweep(&parent, now);
        let me = Process::me().map_or_else(|| std::process::id().to_string(), |me| me.to_string());
        let random = gate::random(&aws_lc_rs::default_provider(), 9)?;
        let directory = parent.join(format!("{PREFIX}{me}-{random}"));
        let mut builder = fs::DirBuilder::new();
        // Not one that is there already: among the temporary files, others may have made it.
        builder.recursive(false);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&directory).map_err(Error::file("make directory", &directory))?;
        let file = Self { path: directory.join("kubeconfig"), directory: Some(directory), text };
        cache::write_bytes(&file.path, file.text.as_bytes())?;
        Ok(file)
    }

    /// At a place of somebody's choice. What is there already is replaced only if it is an older one of ours.
    pub fn at(path: &Path, text: String) -> Result<Self, Error> {
        match fs::read(path) {
            Ok(old) if !is_ours(&old) => {
                return Err(Error::Usage(format!(
                    "{} exists and was not made by kubectl stepup proxy: choose another file",
                    path.display()
                )));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file("read", path)(error)),
            _ => {}
        }
        let path = std::path::absolute(path).map_err(Error::file("find", path))?;
        cache::write_bytes(&path, text.as_bytes())?;
        Ok(Self { path, directory: None, text })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for KubeconfigFile {
    fn drop(&mut self) {
        // Best effort: what is left is worth nothing without the proxy.
        match &self.directory {
            Some(directory) => drop(fs::remove_dir_all(directory)),
            // Another proxy may have taken the place meanwhile, with a secret of its own.
            None if fs::read_to_string(&self.path)
                .is_ok_and(|text| is_ours(text.as_bytes()) && has_secret_of(&text, &self.text)) =>
            {
                let _ = fs::remove_file(&self.path);
            }
            None => {}
        }
    }
}

/// The kubeconfig's text: the route's contexts under their own names, all of them through the proxy at `url`.
pub fn text(route: &Route, url: &str, authority: &str, secret: &Secret) -> String {
    let cluster = &route.cluster.name;
    let user = route.current.user.as_deref().unwrap_or("kubectl-stepup");
    let contexts = route.siblings.iter().map(|sibling| {
        let mut context = json!({"cluster": cluster, "user": user});
        if let Some(namespace) = &sibling.namespace {
            context["namespace"] = json!(namespace);
        }
        json!({"name": sibling.context, "context": context})
    });
    let mut credentials = route.impersonation.clone();
    credentials.insert("token".to_owned(), json!(secret.expose()));
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": route.current.context,
        "contexts": contexts.collect::<Vec<Value>>(),
        "clusters": [{"name": cluster, "cluster": {
            "server": url,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": user, "user": credentials}],
        "preferences": {},
        "extensions": [{"name": MARK, "extension": {"madeBy": concat!("kubectl-stepup ", env!("CARGO_PKG_VERSION"))}}],
    });
    let mut text = serde_json::to_string_pretty(&config).unwrap_or_default();
    text.push('\n');
    text
}

fn parsed(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text).ok()
}

/// Tools write kubeconfigs anew (`kubectl config use-context`), as YAML; the mark stays.
fn is_ours(text: &[u8]) -> bool {
    match parsed(text) {
        Some(config) => config["extensions"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == MARK)),
        None => String::from_utf8_lossy(text).lines().any(|line| line.trim() == format!("name: {MARK}")),
    }
}

fn has_secret_of(text: &str, own: &str) -> bool {
    let own = parsed(own.as_bytes());
    let token = own.as_ref().and_then(|own| own["users"][0]["user"]["token"].as_str());
    token.is_some_and(|token| text.contains(token))
}

/// Where a login session keeps what ends with it; else among the temporary files.
fn runtime_directory() -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime.filter(|directory| directory.is_absolute() && directory.is_dir()).unwrap_or_else(env::temp_dir)
}

/// Removes what runs have left behind that were killed. Not at once: one that runs in another PID namespace seems to be gone,
/// too.
fn sweep(parent: &Path, now: DateTime<Utc>) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let mut parts = rest.splitn(3, '-');
        let (Some(pid), Some(started)) = (parts.next(), parts.next()) else { continue };
        let is_gone = parent::still_runs(&format!("{pid}-{started}")) == Some(false);
        if is_gone && cache::is_older_than_a_day(&entry.path(), now) {
            // Others' are theirs: that fails.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::client::kubeconfig::{Cluster, Current, Sibling};

    use super::*;

    fn route() -> Route {
        let sibling = |context: &str, namespace: Option<&str>| Sibling {
            context: context.to_owned(),
            namespace: namespace.map(ToOwned::to_owned),
        };
        Route {
            current: Current {
                context: "prod".to_owned(),
                cluster: Some("one".to_owned()),
                user: Some("me".to_owned()),
                namespace: Some("shop".to_owned()),
                profile: Some("p".to_owned()),
            },
            siblings: vec![sibling("prod", Some("shop")), sibling("prod-system", None)],
            cluster: Cluster { name: "one".to_owned(), server: "https://api".to_owned(), ..Cluster::default() },
            impersonation: serde_json::from_value(json!({"as": "bob"})).unwrap(),
        }
    }

    fn sample(secret: &str) -> String {
        text(&route(), "https://127.0.0.1:1/k8s", "PEM", &Secret::new(secret))
    }

    #[test]
    fn contexts_keep_their_names_and_namespaces() {
        let config: Value = serde_json::from_str(&sample("s3cret")).unwrap();
        assert_eq!(config["current-context"], "prod");
        assert_eq!(config["contexts"][0]["context"], json!({"cluster": "one", "user": "me", "namespace": "shop"}));
        assert_eq!(config["contexts"][1]["name"], "prod-system");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:1/k8s");
        assert_eq!(config["users"][0]["user"], json!({"as": "bob", "token": "s3cret"}));
    }

    #[cfg(unix)]
    #[test]
    fn a_temporary_one_is_private_and_leaves_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let file = KubeconfigFile::temporary(sample("s"), Utc::now()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let directory = file.path().parent().unwrap().to_owned();
        assert_eq!((mode(file.path()), mode(&directory)), (0o600, 0o700));
        drop(file);
        assert!(!directory.exists());
    }

    #[test]
    fn a_chosen_place_is_taken_only_if_it_is_free_or_ours() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config");
        fs::write(&path, "apiVersion: v1\nkind: Config\n").unwrap();
        assert!(KubeconfigFile::at(&path, sample("s")).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "apiVersion: v1\nkind: Config\n");
        fs::write(&path, format!("extensions:\n- extension: {{}}\n  name: {MARK}\n")).unwrap();
        let first = KubeconfigFile::at(&path, sample("s1")).unwrap();
        let second = KubeconfigFile::at(&path, sample("s2")).unwrap();
        drop(first);
        assert!(path.exists(), "it is another's now");
        drop(second);
        assert!(!path.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_killed_runs_left_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let (dead, other) = (home.path().join(format!("{PREFIX}1-1-abc")), home.path().join("other"));
        let alive = home.path().join(format!("{PREFIX}{}-abc", Process::me().unwrap()));
        for directory in [&dead, &other, &alive] {
            fs::create_dir(directory).unwrap();
        }
        let now = Utc::now();
        sweep(home.path(), now);
        assert!(dead.exists(), "it may run where we cannot see it");
        sweep(home.path(), now + chrono::TimeDelta::hours(25));
        assert_eq!((dead.exists(), other.exists(), alive.exists()), (false, true, true));
    }
}
