//! client-go's exec credential protocol, `client.authentication.k8s.io` v1 and v1beta1.
//!
//! client-go passes an [`ExecInfo`] in `KUBERNETES_EXEC_INFO` and reads an [`ExecCredential`] from stdout. Both versions have
//! the same fields; the answer must carry the version that was asked for.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// `client.authentication.k8s.io/v1`.
    #[default]
    #[serde(rename = "client.authentication.k8s.io/v1")]
    V1,
    /// `client.authentication.k8s.io/v1beta1`.
    #[serde(rename = "client.authentication.k8s.io/v1beta1")]
    V1Beta1,
}

/// What client-go says about the call, in `KUBERNETES_EXEC_INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecInfo {
    /// Version the answer must have.
    pub api_version: ApiVersion,
    /// The call's circumstances.
    #[serde(default)]
    pub spec: ExecSpec,
}

/// Circumstances of the call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecSpec {
    /// Whether client-go passed its own terminal on as the plugin's stdin.
    #[serde(default)]
    pub interactive: bool,
    /// The cluster, where the kubeconfig says `provideClusterInfo: true`.
    #[serde(default)]
    pub cluster: Option<ExecCluster>,
}

/// The cluster that the token is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecCluster {
    /// URL of the API server.
    #[serde(default)]
    pub server: String,
    /// Its certificate authorities: PEM in base64. Empty: the system's.
    #[serde(default, rename = "certificate-authority-data")]
    pub certificate_authority_data: String,
    /// Name that its certificate is for, where that is not the URL's host.
    #[serde(default, rename = "tls-server-name")]
    pub tls_server_name: String,
    /// Whether its certificate is not to be verified.
    #[serde(default, rename = "insecure-skip-tls-verify")]
    pub insecure_skip_tls_verify: bool,
    /// Proxy to reach it through.
    #[serde(default, rename = "proxy-url")]
    pub proxy_url: String,
}

/// The plugin's answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecCredential<'a> {
    api_version: ApiVersion,
    kind: &'static str,
    status: ExecStatus<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus<'a> {
    expiration_timestamp: String,
    token: &'a Secret,
}

impl<'a> ExecCredential<'a> {
    /// A bearer token that client-go keeps until `expires`, which may be much earlier than the token's own expiry.
    /// client-go accepts fractions of a second (RFC 3339).
    pub fn new(api_version: ApiVersion, token: &'a Secret, expires: DateTime<Utc>) -> Self {
        Self {
            api_version,
            kind: "ExecCredential",
            status: ExecStatus { expiration_timestamp: expires.to_rfc3339_opts(SecondsFormat::Millis, true), token },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_the_version_that_was_asked_for() {
        let info: ExecInfo = serde_json::from_str(
            r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1beta1","spec":{"interactive":true}}"#,
        )
        .unwrap();
        let token = Secret::new("t");
        let expires = DateTime::from_timestamp_millis(1_800_000_000_250).unwrap();
        assert_eq!(
            serde_json::to_string(&ExecCredential::new(info.api_version, &token, expires)).unwrap(),
            r#"{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{"expirationTimestamp":"2027-01-15T08:00:00.250Z","token":"t"}}"#
        );
        assert!(info.spec.interactive);
    }
}
