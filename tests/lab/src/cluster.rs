//! The control plane: etcd, API server, controller manager, and the objects that every lab has.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::http;
use crate::plan::{Lock, Plan, write};
use crate::process::Daemon;
use crate::provider_only;
use crate::role::Tie;

/// How long a part may take to start on a busy machine; ordinarily it is a few seconds.
const START_LIMIT: Duration = Duration::from_mins(2);

impl Plan {
    pub(crate) fn start_etcd(&self, tie: Tie) -> Result<Daemon> {
        let client_url = format!("http://127.0.0.1:{}", self.ports.etcd);
        let peer_url = format!("http://127.0.0.1:{}", self.ports.etcd_peer);
        let mut etcd = Daemon::start("etcd", &self.program("etcd"), tie, &self.log_directory(), |command| {
            command
                .args(["--data-dir", "etcd", "--log-level", "warn"])
                .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
                .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &format!("default={peer_url}")])
                // A lab may lose its last writes in a power cut.
                .arg("--unsafe-no-fsync")
                .current_dir(&self.directory);
        })?;
        let client = reqwest::blocking::Client::builder().no_proxy().build()?;
        etcd.await_ready(START_LIMIT, || {
            Ok(client.get(format!("{client_url}/readyz")).send()?.error_for_status().map(drop)?)
        })?;
        Ok(etcd)
    }

    pub(crate) fn start_api_server(&self, tie: Tie) -> Result<Daemon> {
        self.write_admin_kubeconfig()?;
        write(&self.file("audit-policy.yaml"), AUDIT_POLICY)?;
        let file = |name: &str| self.file(name).into_os_string();
        let program = self.program("kube-apiserver");
        let mut api_server = Daemon::start("kube-apiserver", &program, tie, &self.log_directory(), |command| {
            command
                .args(["--etcd-servers", &format!("http://127.0.0.1:{}", self.ports.etcd)])
                .args(["--bind-address", "127.0.0.1", "--external-hostname", "127.0.0.1"])
                .args(["--secure-port", &self.ports.api_server.to_string()])
                .arg("--cert-dir")
                .arg(file("apiserver"))
                .arg("--tls-cert-file")
                .arg(&self.pki.api_server.certificate)
                .arg("--tls-private-key-file")
                .arg(&self.pki.api_server.key)
                .arg("--client-ca-file")
                .arg(&self.pki.client_ca)
                .args(["--service-account-issuer", "https://kubernetes.default.svc"])
                .arg("--service-account-key-file")
                .arg(&self.pki.service_account_public_key)
                .arg("--service-account-signing-key-file")
                .arg(&self.pki.service_account_key)
                .args(["--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none"])
                .arg("--allow-privileged")
                .arg("--kubelet-certificate-authority")
                .arg(&self.pki.ca)
                .arg("--kubelet-client-certificate")
                .arg(&self.pki.admin.certificate)
                .arg("--kubelet-client-key")
                .arg(&self.pki.admin.key)
                .arg("--audit-policy-file")
                .arg(file("audit-policy.yaml"))
                .arg("--audit-log-path")
                .arg(self.kube_audit_log())
                .arg("--authentication-config")
                .arg(file("rendered/authentication.yaml"));
            match self.options.lock {
                Lock::Webhooks => command
                    .arg("--authorization-config")
                    .arg(file("rendered/authorization.yaml"))
                    .arg("--admission-control-config-file")
                    .arg(file("rendered/admission-control.yaml")),
                Lock::Groups | Lock::Provider => command.args(["--authorization-mode", "Node,RBAC"]),
            };
        })?;
        let admin = http::client_with_certificate(&self.pki.ca, &self.pki.admin)?;
        let url = format!("{}/readyz", self.api_server_url());
        api_server.await_ready(START_LIMIT, || Ok(admin.get(&url).send()?.error_for_status().map(drop)?))?;
        Ok(api_server)
    }

    /// Without it a deleted namespace stays `Terminating`, and `kubectl delete namespace` waits for ever.
    pub(crate) fn start_controller_manager(&self, tie: Tie) -> Result<Daemon> {
        let program = self.program("kube-controller-manager");
        Daemon::start("kube-controller-manager", &program, tie, &self.log_directory(), |command| {
            command
                .arg("--kubeconfig")
                .arg(self.admin_kubeconfig())
                .arg("--controllers=namespace-controller,serviceaccount-controller,garbage-collector-controller")
                .arg("--service-account-private-key-file")
                .arg(&self.pki.service_account_key)
                // As in a real cluster: each controller is `system:serviceaccount:kube-system:…`.
                .args(["--use-service-account-credentials", "--leader-elect=false", "--secure-port", "0"])
                // How soon the controllers notice new resources and deleted namespaces.
                .args(["--namespace-sync-period", "5s"]);
        })
    }

    /// Applies the lab's roles, and what `render` wrote to be applied.
    pub(crate) fn apply_objects(&self) -> Result<()> {
        self.apply(&roles(self.options.lock).to_string())?;
        // There is no rbac.yaml where no rule has anything to bind, and no webhook where groups do.
        for rendered in [self.file("rendered/rbac.yaml"), self.file("rendered/validating-webhook.yaml")] {
            if rendered.exists() {
                let manifest = fs::read_to_string(rendered)?;
                // A role can only be where its namespace is.
                let namespaces = manifest.lines().filter_map(|line| line.strip_prefix("    namespace: "));
                for name in namespaces.map(|name| name.trim_matches('"')).collect::<BTreeSet<_>>() {
                    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                    self.apply(&namespace.to_string())?;
                }
                self.apply(&manifest)?;
            }
        }
        if self.options.lock == Lock::Provider {
            self.apply(&provider_only::objects())?;
        }
        Ok(())
    }

    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        let mut kubectl = Command::new(self.program("kubectl"))
            .arg("--kubeconfig")
            .arg(self.admin_kubeconfig())
            .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        kubectl.stdin.take().context("no pipe to kubectl")?.write_all(manifest.as_bytes())?;
        let output = kubectl.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn write_admin_kubeconfig(&self) -> Result<()> {
        let admin = &self.pki.admin;
        let user = json!({"client-certificate": admin.certificate, "client-key": admin.key});
        self.write_kubeconfig(&self.admin_kubeconfig(), "admin", &json!([{"name": "admin", "user": user}]))
    }

    /// A kubeconfig whose only context is user `user` on the lab's cluster.
    pub(crate) fn write_kubeconfig(&self, path: &Path, user: &str, users: &Value) -> Result<()> {
        let cluster = json!({"server": self.api_server_url(), "certificate-authority": self.pki.ca});
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
            "users": users,
        });
        write(path, &serde_json::to_string_pretty(&kubeconfig)?)
    }
}

/// Audit annotations are recorded with the metadata. The lab's own readiness probes are nobody's business.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: [/readyz, /livez, /healthz]
- level: None
  users: ['system:apiserver', 'system:kube-controller-manager', 'system:kube-scheduler']
  verbs: [get, list, watch]
- level: Metadata
";

/// Developers may do everything ordinary. What is protected, webhooks protect by the policy; without them, nobody has the
/// right to it.
fn roles(lock: Lock) -> Value {
    let all = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let reads = ["get", "list", "watch"];
    let lacking = json!([
        rule(&[""], &["configmaps", "services", "serviceaccounts", "pods", "pods/log", "events"], &all),
        rule(&[""], &["namespaces"], &["get", "list", "watch", "create"]),
        rule(&["apps"], &["replicasets"], &all),
        rule(&["apps"], &["deployments"], &reads),
        rule(&["networking.k8s.io"], &["networkpolicies"], &reads),
    ]);
    let mut developer = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "lab-developer"},
        "rules": [
            rule(&[""], &["namespaces", "secrets", "configmaps", "services", "serviceaccounts", "pods", "pods/log", "events"], &all),
            rule(&[""], &["pods/exec", "pods/attach", "pods/portforward", "pods/eviction"], &["get", "create"]),
            // `kubectl debug`.
            rule(&[""], &["pods/ephemeralcontainers"], &["patch"]),
            // As much as `kubectl drain` needs.
            rule(&[""], &["nodes"], &["get", "patch"]),
            rule(&["apps"], &["deployments", "deployments/scale", "replicasets"], &all),
            rule(&["networking.k8s.io"], &["networkpolicies"], &all),
            // Somebody who may change roles can give themselves anything, so RBAC wants both verbs beside the change itself.
            rule(
                &["rbac.authorization.k8s.io"],
                &["roles", "rolebindings", "clusterroles", "clusterrolebindings"],
                &[&all[..], &["bind", "escalate"]].concat(),
            ),
        ],
    });
    if lock != Lock::Webhooks {
        developer["rules"] = lacking;
    }
    let binding = |name: &str, role: &str, group: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            developer,
            binding("lab-developers", "lab-developer", "developers"),
        ],
    })
}
