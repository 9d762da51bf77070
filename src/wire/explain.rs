//! `POST /v1/explain`: what would be asked of a person for an action, and what they would get for it. Nothing is raised,
//! recorded or changed by asking.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::wire::challenge::{GrantTerms, ReasonRule};

/// Answer; the request is a [`crate::wire::challenge::ChallengeRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Username as the cluster knows the asker.
    pub user: String,
    /// The server's clock.
    pub server_time: DateTime<Utc>,
    /// Whether the asker can step up at all: has a second factor that the server knows of.
    pub can_step_up: bool,
    /// The actions, in the order in which they were named.
    pub actions: Vec<Explained>,
}

/// What the policy says of one action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The action.
    pub action: Action,
    /// What it takes; `None`: nothing, no rule protects it from the asker.
    #[serde(default)]
    pub protection: Option<Protection>,
    /// Rules that would protect it if they did not only record (`enforcement: audit`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recorded_by: Vec<String>,
}

/// What it takes to be granted an action, and what the grant would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protection {
    /// The rules that protect it: all of them must be satisfied.
    pub rules: Vec<NamedRule>,
    /// Authentication context classes, any of which will do, most wanted first.
    pub acr_values: Vec<String>,
    /// How long ago the sign-in may have been, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// Whether and how a reason must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonRule>,
    /// What the grant would be like.
    pub grant: GrantTerms,
    /// What the same rules protect nearby and the grant would not cover, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_covered: Vec<String>,
    /// A live grant of the asker that covers the action already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_by: Option<String>,
}

/// A rule, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedRule {
    /// Its name.
    pub name: String,
    /// What it is for; may be empty.
    #[serde(default)]
    pub description: String,
}
