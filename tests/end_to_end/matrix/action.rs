//! The actions: what each takes, what is typed, and how it is seen that it was done.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::clients::{Client, Kind};
use lab::process::{await_that, free_ports};
use lab::window::Window;
use lab::{Lab, Outcome, Session};
use serde_json::json;

use crate::objects::{PASSWORD_AS_SHOWN, deployment, names};

const LIMIT: Duration = Duration::from_mins(1);
/// What goes through a forwarded port.
const THERE_AND_BACK: &str = "there-and-back";
/// What comes when a watch goes on.
const LATER: &str = "later";

/// A column of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    GetSecret,
    ListAll,
    Watch,
    Exec,
    PortForward,
    Logs,
    Delete,
    Apply,
    Patch,
    Scale,
    DeleteCollection,
    Evict,
}

/// Where a cell has its objects.
pub struct Place {
    pub namespace: String,
    /// The node that the pod is on.
    pub node: String,
    /// A port of this machine.
    pub port: u16,
    /// The chart that helm is given.
    pub chart: PathBuf,
}

impl Action {
    pub const ALL: [Self; 12] = [
        Self::GetSecret,
        Self::ListAll,
        Self::Watch,
        Self::Exec,
        Self::PortForward,
        Self::Logs,
        Self::Delete,
        Self::Apply,
        Self::Patch,
        Self::Scale,
        Self::DeleteCollection,
        Self::Evict,
    ];

    /// The head of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::GetSecret => "get secret",
            Self::ListAll => "list -A",
            Self::Watch => "watch",
            Self::Exec => "exec",
            Self::PortForward => "port-forward",
            Self::Logs => "logs",
            Self::Delete => "delete",
            Self::Apply => "apply",
            Self::Patch => "patch",
            Self::Scale => "scale",
            Self::DeleteCollection => "deletecollection",
            Self::Evict => "drain, evict",
        }
    }

    /// Whether a client of this kind can do it.
    pub fn is_for(self, kind: Kind) -> bool {
        let helms = [Self::GetSecret, Self::ListAll, Self::Delete, Self::Apply, Self::Patch];
        kind != Kind::Helm || helms.contains(&self)
    }

    /// What is typed, if a client of this kind can do it.
    pub fn line(self, kind: Kind, place: &Place) -> Option<String> {
        let Place { namespace, node, port, chart } = place;
        let chart = chart.display();
        let line = match (self, kind) {
            (Self::GetSecret, Kind::Kubectl) => format!("get secret database -o yaml -n {namespace}"),
            (Self::GetSecret, Kind::Helm) => format!("get manifest shop -n {namespace}"),
            (Self::GetSecret, Kind::Library) => format!("get {namespace} database"),
            (Self::ListAll, Kind::Kubectl) => "get secrets -A".to_owned(),
            (Self::ListAll, Kind::Helm) => "list -A".to_owned(),
            (Self::ListAll, Kind::Library) => "list".to_owned(),
            (Self::Watch, Kind::Kubectl) => format!("get secrets --watch -n {namespace}"),
            (Self::Watch, Kind::Library) => format!("watch {namespace}"),
            (Self::Exec, Kind::Kubectl) => format!("exec api-0 -n {namespace} -- count 3"),
            (Self::Exec, Kind::Library) => format!("exec {namespace} api-0 count 3"),
            (Self::PortForward, Kind::Kubectl) => format!("port-forward api-0 {port}:7 -n {namespace}"),
            (Self::PortForward, Kind::Library) => format!("port-forward {namespace} api-0 7 {THERE_AND_BACK}"),
            (Self::Logs, Kind::Kubectl) => format!("logs api-0 -n {namespace}"),
            (Self::Logs, Kind::Library) => format!("logs {namespace} api-0"),
            (Self::Delete, Kind::Kubectl) => format!("delete deployment web -n {namespace}"),
            (Self::Delete, Kind::Helm) => format!("uninstall shop -n {namespace}"),
            (Self::Delete, Kind::Library) => format!("delete {namespace} web"),
            (Self::Apply, Kind::Kubectl) => "apply -f web.json".to_owned(),
            (Self::Apply, Kind::Helm) => format!("upgrade --install shop {chart} --set replicas=2 -n {namespace}"),
            (Self::Apply, Kind::Library) => format!("apply {namespace} web web.json"),
            (Self::Patch, Kind::Kubectl) => format!("patch deployment web -p '{PATCH}' -n {namespace}"),
            (Self::Patch, Kind::Helm) => format!("rollback shop 1 -n {namespace}"),
            (Self::Patch, Kind::Library) => format!("patch {namespace} web '{PATCH}'"),
            (Self::Scale, Kind::Kubectl) => format!("scale deployment web --replicas=2 -n {namespace}"),
            (Self::Scale, Kind::Library) => format!("scale {namespace} web 2"),
            // `kubectl delete --all` is another thing: it lists, and deletes one by one.
            (Self::DeleteCollection, Kind::Kubectl) => {
                format!("delete --raw /apis/apps/v1/namespaces/{namespace}/deployments")
            }
            (Self::DeleteCollection, Kind::Library) => format!("delete-collection {namespace}"),
            (Self::Evict, Kind::Kubectl) => format!("drain {node} --force"),
            (Self::Evict, Kind::Library) => format!("evict {namespace} api-0"),
            (_, Kind::Helm) => return None,
        };
        Some(format!("{} {line}", kind.program()))
    }

    /// Makes what it is about.
    pub fn place(self, lab: &Lab, client: &Client, person: &Session) -> Result<Place> {
        let namespace = lab.namespace("prod")?;
        let [port] = free_ports()?;
        let place = Place { node: format!("node-{namespace}"), chart: chart(lab), port, namespace };
        let Place { namespace, node, .. } = &place;
        if client.kind == Kind::Helm {
            release(self, lab, person, &place)?;
            return Ok(place);
        }
        match self {
            Self::GetSecret | Self::ListAll | Self::Watch => {
                lab.apply(&json!({
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": "database", "namespace": namespace},
                    "stringData": {"password": "hunter2"},
                }))?;
            }
            Self::Exec | Self::PortForward | Self::Logs => lab.pod(namespace, "api-0", "node", &[])?,
            Self::Evict => {
                lab.node(node)?;
                lab.pod(namespace, "api-0", node, &[])?;
            }
            Self::Delete | Self::Patch | Self::Scale => lab.apply(&deployment(namespace, "web"))?,
            Self::DeleteCollection => {
                lab.apply(&deployment(namespace, "web"))?;
                lab.apply(&deployment(namespace, "api"))?;
            }
            Self::Apply => {
                let mut web = deployment(namespace, "web");
                lab.apply(&web)?;
                web["metadata"]["labels"] = json!({"colour": "blue"});
                fs::write(person.home().join("web.json"), web.to_string())?;
            }
        }
        Ok(place)
    }

    /// An error unless it was done, going by what the cluster has now and the command has shown.
    pub fn ensure_done(self, lab: &Lab, kind: Kind, place: &Place, shown: &str) -> Result<()> {
        let namespace = &place.namespace;
        let web = || lab.object(&["deployment", "web", "-n", namespace]);
        let is_there = |text: &str| Ok(shown.contains(text));
        let is_empty = |resource: &str| {
            await_that(LIMIT, || {
                let left = names(lab, resource, namespace)?;
                ensure!(left.is_empty(), "left: {left:?}");
                Ok(true)
            })
        };
        let is_done = match self {
            Self::GetSecret if kind == Kind::Helm => is_there("example.test/app:1"),
            Self::GetSecret => is_there(PASSWORD_AS_SHOWN),
            Self::ListAll => is_there(namespace),
            Self::Exec | Self::Logs => is_there("line 3"),
            Self::PortForward => is_there(THERE_AND_BACK),
            Self::Watch => is_there(LATER),
            Self::Delete | Self::DeleteCollection => is_empty("deployments"),
            Self::Evict => is_empty("pods"),
            Self::Patch if kind == Kind::Helm => Ok(web()?["spec"]["replicas"] == 1),
            Self::Apply if kind == Kind::Helm => Ok(web()?["spec"]["replicas"] == 2),
            Self::Apply | Self::Patch => Ok(web()?["metadata"]["labels"]["colour"] == "blue"),
            Self::Scale => Ok(web()?["spec"]["replicas"] == 2),
        };
        ensure!(is_done?, "it succeeded, but was not done:\n{shown}");
        Ok(())
    }
}

const PATCH: &str = r#"{"metadata":{"labels":{"colour":"blue"}}}"#;

/// Whether the watch that was begun shows what there is, and goes on with what comes.
pub fn watches(lab: &Lab, place: &Place, window: &mut Window) -> Result<bool> {
    if !window.shows("database")? {
        return Ok(false);
    }
    lab.admin(&["create", "secret", "generic", LATER, "-n", &place.namespace])?;
    window.shows(LATER)
}

/// Whether bytes go through the port that is being forwarded, and come back.
pub fn forwards(place: &Place, window: &mut Window) -> Result<bool> {
    if !window.shows(&format!("Forwarding from 127.0.0.1:{}", place.port))? {
        return Ok(false);
    }
    let mut echo = TcpStream::connect(("127.0.0.1", place.port))?;
    echo.set_read_timeout(Some(LIMIT))?;
    echo.write_all(THERE_AND_BACK.as_bytes())?;
    let mut back = [0; THERE_AND_BACK.len()];
    echo.read_exact(&mut back).context("nothing came back through the port")?;
    Ok(back == THERE_AND_BACK.as_bytes())
}

fn chart(lab: &Lab) -> PathBuf {
    lab.directory().join("chart")
}

/// The chart of a release with a deployment in it.
pub fn write_chart(lab: &Lab) -> Result<()> {
    let directory = chart(lab);
    fs::create_dir_all(directory.join("templates"))?;
    fs::write(directory.join("Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 1.0.0\n")?;
    fs::write(directory.join("values.yaml"), "replicas: 1\n")?;
    let mut web = deployment("{{ .Release.Namespace }}", "web");
    web["spec"]["replicas"] = json!("REPLICAS");
    let template = web.to_string().replace("\"REPLICAS\"", "{{ .Values.replicas }}");
    Ok(fs::write(directory.join("templates/web.yaml"), template)?)
}

/// Installs it as the administrator; for a rollback, a second revision with two replicas.
fn release(action: Action, lab: &Lab, person: &Session, place: &Place) -> Result<()> {
    let revisions = if action == Action::Patch { 1..=2 } else { 1..=1 };
    for replicas in revisions {
        let mut helm = person.command("helm");
        helm.args(["upgrade", "--install", "shop"]).arg(&place.chart).args(["--namespace", &place.namespace]);
        helm.args(["--set", &format!("replicas={replicas}"), "--kubeconfig"]).arg(lab.admin_kubeconfig());
        Outcome::of(&mut helm)?.succeeded()?;
    }
    Ok(())
}
