//! TO BE DELETED when `stepup-server render` and `serve` exist: the API server without our webhooks.

use anyhow::Result;
use serde_json::json;

use crate::plan::{CLIENT_ID, Plan, write};

impl Plan {
    pub(crate) fn write_rendered_by_hand(&self) -> Result<()> {
        let ca = std::fs::read_to_string(&self.pki.ca)?;
        let authentication = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": self.issuer(), "certificateAuthority": ca, "audiences": [CLIENT_ID]},
                "claimMappings": {"username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "groups", "prefix": ""}},
            }],
        });
        let authorization = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": [{"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}],
        });
        let admission =
            json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": []});
        write(&self.file("rendered/authentication.yaml"), &authentication.to_string())?;
        write(&self.file("rendered/authorization.yaml"), &authorization.to_string())?;
        write(&self.file("rendered/admission-control.yaml"), &admission.to_string())?;
        write(
            &self.file("rendered/validating-webhook.yaml"),
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "none", "namespace": "default"}})
                .to_string(),
        )
    }
}
