//! What the lab has in place of nodes: see `kubelet/main.go`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::http;
use crate::plan::Plan;
use crate::process::Daemon;
use crate::role::Tie;

/// The node that every lab has.
const NODE: &str = "node";
const START_LIMIT: Duration = Duration::from_mins(1);

impl Plan {
    /// Starts the kubelet of all nodes, and tells the API server where it is.
    pub(crate) fn start_kubelet(&self, tie: Tie) -> Result<Daemon> {
        let port_file = self.file("kubelet/port");
        let _ = fs::remove_file(&port_file);
        let mut kubelet = Daemon::start("kubelet", &self.program("kubelet"), tie, &self.log_directory(), |command| {
            command
                .arg("--api-server")
                .arg(self.api_server_url())
                .arg("--certificate-authority")
                .arg(&self.pki.ca)
                .arg("--client-certificate")
                .arg(&self.pki.admin.certificate)
                .arg("--client-key")
                .arg(&self.pki.admin.key)
                // The certificate says who runs on 127.0.0.1, and that is all that a lab's server has to say.
                .arg("--tls-cert-file")
                .arg(&self.pki.api_server.certificate)
                .arg("--tls-private-key-file")
                .arg(&self.pki.api_server.key)
                .arg("--client-ca-file")
                .arg(&self.pki.client_ca)
                .arg("--port-file")
                .arg(&port_file);
        })?;
        kubelet.await_ready(START_LIMIT, || self.kubelet_port())?;
        self.register_node(NODE)?;
        Ok(kubelet)
    }

    /// Makes a node of this name, or tells it where its kubelet is now.
    pub(crate) fn register_node(&self, name: &str) -> Result<()> {
        let admin = http::client_with_certificate(&self.pki.ca, &self.pki.admin)?;
        let status = json!({
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.kubelet_port()?}},
            "conditions": [{"type": "Ready", "status": "True"}],
        });
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status});
        // The status is a resource of its own; the first of the two requests ignores it.
        for path in ["", "/status"] {
            admin
                .patch(format!("{}/api/v1/nodes/{name}{path}?fieldManager=lab&force=true", self.api_server_url()))
                .header("Content-Type", "application/apply-patch+yaml")
                .body(node.to_string())
                .send()?
                .error_for_status()?;
        }
        Ok(())
    }

    fn kubelet_port(&self) -> Result<u16> {
        let text = fs::read_to_string(self.file("kubelet/port")).context("the kubelet has not said its port")?;
        Ok(text.parse()?)
    }
}
