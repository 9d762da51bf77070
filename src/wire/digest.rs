//! `GET /v1/digest`: what is protected from one person, as a compact JWS (RFC 7515). It is a hint for their client, so
//! that the client knows when to ask; what is decided is decided elsewhere.

use serde::{Deserialize, Serialize};

use crate::action::ActionPattern;

/// `typ` of its header: no token of another kind is taken for it, and it for no token.
pub const TYPE: &str = "stepup-digest+jwt";

/// The payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// URL of the server.
    pub iss: String,
    /// Username of the person, as the cluster knows them.
    pub sub: String,
    /// When it was made, in unix seconds.
    pub iat: i64,
    /// When it should have been replaced by a newer one, in unix seconds.
    pub exp: i64,
    /// Digest of the policy's match rules.
    pub policy: String,
    /// Whether nothing is repeated after a denial, because RBAC alone enforces the policy (`mode: groups`): then a client
    /// has to ask beforehand about writes too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denials_are_final: bool,
    /// What is protected from this person.
    pub protected: Vec<Protected>,
}

/// What one rule protects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protected {
    /// Name of the rule; empty where many rules were put together.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Its actions.
    pub actions: Vec<ActionPattern>,
}
