//! What the API server asks its webhooks: `SubjectAccessReview` (authorization.k8s.io/v1) and `AdmissionReview`
//! (admission.k8s.io/v1).
//!
//! Unknown fields are ignored, as Kubernetes asks of webhooks; what we decide by must be there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Values of `userInfo.extra` and `spec.extra`.
pub type Extra = BTreeMap<String, Vec<String>>;

/// Key under which the API server puts `JTI=<jti>` of the token a request came with.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// `SubjectAccessReview`, as the API server's webhook authorizer posts it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectAccessReview {
    /// `authorization.k8s.io/v1`.
    pub api_version: String,
    /// `SubjectAccessReview`.
    pub kind: String,
    /// The question.
    pub spec: AccessSpec,
}

/// Who wants to do what.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessSpec {
    /// Username.
    #[serde(default)]
    pub user: String,
    /// The user's groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Extra values of the user, [`CREDENTIAL_ID`] among them.
    #[serde(default)]
    pub extra: Extra,
    /// Request for an object or a collection.
    #[serde(default)]
    pub resource_attributes: Option<ResourceAttributes>,
    /// Any other request.
    #[serde(default)]
    pub non_resource_attributes: Option<NonResourceAttributes>,
}

/// Request for an object or a collection.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceAttributes {
    /// Namespace; empty for cluster-scoped objects and for all namespaces.
    pub namespace: String,
    /// RBAC verb.
    pub verb: String,
    /// API group.
    pub group: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Name; for list and watch with a field selector on `metadata.name`, that name.
    pub name: String,
}

/// Request for a path that is no resource.
#[derive(Debug, Deserialize)]
pub struct NonResourceAttributes {
    /// URL path.
    #[serde(default)]
    pub path: String,
    /// Lower-case HTTP method.
    #[serde(default)]
    pub verb: String,
}

/// Answer to a `SubjectAccessReview`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessAnswer {
    /// `authorization.k8s.io/v1`.
    pub api_version: &'static str,
    /// `SubjectAccessReview`.
    pub kind: &'static str,
    /// The answer.
    pub status: AccessStatus,
}

/// `allowed` is always false: we deny or have no opinion, and leave allowing to the authorizers behind us.
#[derive(Debug, Serialize)]
pub struct AccessStatus {
    allowed: bool,
    denied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl AccessStatus {
    /// Whether it was denied; there was no opinion otherwise.
    pub fn is_denied(&self) -> bool {
        self.denied
    }
}

impl AccessAnswer {
    /// The next authorizer decides.
    pub fn no_opinion() -> Self {
        Self::new(false, None)
    }

    /// Denied, whatever the other authorizers would say.
    pub fn denied(reason: String) -> Self {
        Self::new(true, Some(reason))
    }

    fn new(denied: bool, reason: Option<String>) -> Self {
        Self {
            api_version: "authorization.k8s.io/v1",
            kind: "SubjectAccessReview",
            status: AccessStatus { allowed: false, denied, reason },
        }
    }
}

/// `AdmissionReview` with its request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionReview {
    /// `admission.k8s.io/v1`.
    pub api_version: String,
    /// `AdmissionReview`.
    pub kind: String,
    /// The question.
    pub request: AdmissionRequest,
}

/// One write or connection on its way in.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionRequest {
    /// Identifier of this question; a repeat of it must get the same answer.
    pub uid: String,
    /// Resource by which the webhook's rules match. Where the client asked for an equivalent one in another API group or
    /// version, the API server has converted the request to this one (`matchPolicy: Equivalent`).
    pub resource: GroupResource,
    /// Subresource.
    #[serde(default)]
    pub sub_resource: String,
    /// Name; empty for deletecollection and for creations with a generated name.
    #[serde(default)]
    pub name: String,
    /// Namespace; empty for cluster-scoped objects.
    #[serde(default)]
    pub namespace: String,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: Operation,
    /// Who asks.
    pub user_info: UserInfo,
    /// The object as it would be; absent for `DELETE`.
    #[serde(default)]
    pub object: Option<Box<RawValue>>,
    /// The object as it is; absent for `CREATE` and `CONNECT`.
    #[serde(default)]
    pub old_object: Option<Box<RawValue>>,
    /// Whether nothing will be persisted.
    #[serde(default)]
    pub dry_run: Option<bool>,
    /// How it is to be done: `DeleteOptions` and the like.
    #[serde(default)]
    pub options: Option<Box<RawValue>>,
}

/// Group and plural resource. Rules are about every version.
#[derive(Debug, Deserialize)]
pub struct GroupResource {
    /// API group.
    pub group: String,
    /// Plural resource.
    pub resource: String,
}

/// What admission calls the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// POST, or a patch that creates.
    Create,
    /// PUT or PATCH of an object that exists.
    Update,
    /// DELETE of an object, or of one object of a collection.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

/// Who makes a request.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct UserInfo {
    /// Username.
    #[serde(default)]
    pub username: String,
    /// Groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Extra values, [`CREDENTIAL_ID`] among them.
    #[serde(default)]
    pub extra: Extra,
}

/// Answer to an `AdmissionReview`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionAnswer {
    /// `admission.k8s.io/v1`.
    pub api_version: String,
    /// `AdmissionReview`.
    pub kind: String,
    /// The answer.
    pub response: AdmissionResponse,
}

/// Verdict on one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionResponse {
    /// The request's uid.
    pub uid: String,
    /// Whether it may go on.
    pub allowed: bool,
    /// What the client is told when it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Added to the cluster's audit event, each under `<webhook name>/<key>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub audit_annotations: BTreeMap<String, String>,
}

/// `metav1.Status`: the API server passes code, reason, message and details on to the client, and turns
/// `retryAfterSeconds` into a `Retry-After` header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// `TooManyRequests`, `Forbidden`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
}

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDetails {
    /// Seconds after which the client may try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
    /// Machine-readable causes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
}

/// `metav1.StatusCause`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCause {
    /// `kubectl-stepup.io/challenge` and the like.
    pub reason: String,
    /// The value.
    pub message: String,
}
