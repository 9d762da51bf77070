//! `GET /v1/history`: what became of a person's step-ups. A copy of part of the audit log, kept for a while.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Whose it is, as the cluster knows them.
    pub user: String,
    /// The server's clock.
    pub server_time: DateTime<Utc>,
    /// How long entries are kept, in days.
    pub kept_days: u32,
    /// Newest first.
    pub entries: Vec<Entry>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The audit record's identifier.
    pub id: String,
    /// When.
    pub time: DateTime<Utc>,
    /// `asked`, `granted`, `used`, `declined`, `refused` or `given-up`.
    pub what: What,
    /// What it was about, in words.
    pub actions: Vec<String>,
    /// Rules that it was about.
    pub rules: Vec<String>,
    /// Authentication context class of the sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// Reason that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// Code of a refusal or decline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Network address that stepup-server was asked from: the person's machine, or the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The administrator who did it, if it was not the person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A step-up was asked for.
    Asked,
    /// A grant was made.
    Granted,
    /// A grant let a request through.
    Used,
    /// The step-up was declined, or nobody made it in time.
    Declined,
    /// A request or sign-in was refused.
    Refused,
    /// A grant was given up or taken away.
    GivenUp,
}
