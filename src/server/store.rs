//! Where challenges, grants and verdicts are kept: one trait, and embedded SQLite behind it.
//!
//! The trait is a small document store with optimistic concurrency. A flow reads documents, decides purely, and commits
//! a [`Transaction`] that holds only if nothing it read has changed ([`Committed::Conflict`] otherwise, and the flow
//! decides again). That is all a replicated store has to offer to take SQLite's place: compare-and-swap on a few keys.
//!
//! Audit records travel in the same transaction (a transactional outbox): whatever happened has its record, even if the
//! process dies before the record reached the audit log. See [`crate::server::audit`].

pub mod sqlite;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionPattern};
use crate::server::audit::Record;
use crate::wire::challenge::{DeclineCause, Grant};
use crate::wire::review::AdmissionResponse;

pub use sqlite::Sqlite;

/// A store's answer, some time later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The store could not be read or written. Protected requests are refused while that lasts.
#[derive(Debug, thiserror::Error)]
#[error("the store is unavailable: {0}")]
pub struct StoreError(pub String);

/// Keeps challenges, grants and verdicts.
pub trait Store: Send + Sync + 'static {
    /// The grant with this identifier, live or not.
    fn grant<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Versioned<GrantRecord>>>;
    /// Grants that are not yet past their expiry, newest first; of one user, or of all.
    fn grants<'a>(&'a self, user: Option<&'a str>, now: DateTime<Utc>) -> Answer<'a, Vec<Versioned<GrantRecord>>>;
    /// The challenge kept under this key.
    fn challenge_by_key<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Versioned<ChallengeRecord>>>;
    /// The challenge with this identifier.
    fn challenge<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Versioned<ChallengeRecord>>>;
    /// Challenges of a user that are not yet past their expiry, newest first, whatever their state.
    fn challenges<'a>(&'a self, user: &'a str, now: DateTime<Utc>) -> Answer<'a, Vec<Versioned<ChallengeRecord>>>;
    /// The verdict that was given to the admission review with this uid.
    fn verdict<'a>(&'a self, uid: &'a str) -> Answer<'a, Option<AdmissionResponse>>;
    /// Applies all of `transaction`, durably, or none of it.
    fn commit(&self, transaction: Transaction) -> Answer<'_, Committed>;
    /// Audit records that were committed and not yet [acknowledged](Store::acknowledge).
    fn unacknowledged(&self) -> Answer<'_, Vec<Record>>;
    /// The audit log has these records; they need not be kept any more.
    fn acknowledge(&self, records: &[Record]);
    /// The person's own records, older than `before`, newest first (see [`crate::server::history`]).
    fn history<'a>(&'a self, user: &'a str, before: DateTime<Utc>, limit: u32) -> Answer<'a, Vec<Record>>;
    /// Keeps records for their people's histories that go with no change of the store. Best effort: the audit log has
    /// them.
    fn remember(&self, records: &[Record]);
    /// Forgets what expired before `before`.
    fn purge(&self, before: DateTime<Utc>) -> Answer<'_, ()>;
    /// Digest of the policy that was last put in force, by this process or one before it.
    fn policy_digest(&self) -> Answer<'_, Option<String>>;
    /// Whether the store can be written at this moment.
    fn probe(&self) -> Answer<'_, ()>;
}

/// A document, and the version it had when it was read.
#[derive(Clone, Debug)]
pub struct Versioned<T> {
    /// Version to expect when writing.
    pub version: i64,
    /// The document.
    pub document: T,
}

/// What a commit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Committed {
    /// All of it is durable.
    Done,
    /// Something it rests on has changed; nothing was written.
    Conflict,
}

/// Changes that belong together.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Grants to write, each with the version it was read at (`None`: it is new).
    pub grants: Vec<(Option<i64>, GrantRecord)>,
    /// Challenges to write, likewise.
    pub challenges: Vec<(Option<i64>, ChallengeRecord)>,
    /// Keys of challenges to forget, to keep a user within bounds.
    pub evicted: Vec<String>,
    /// Verdict on an admission review; a conflict if its uid has one.
    pub verdict: Option<(DateTime<Utc>, AdmissionResponse)>,
    /// A thing that may happen once (`grant/collection/object`); a conflict if it has. Kept until the given time.
    pub once: Option<(DateTime<Utc>, String)>,
    /// Digest of the policy that is in force from now on.
    pub policy_digest: Option<String>,
    /// What the audit log will say of it.
    pub audit: Vec<Record>,
}

/// A grant as the server keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// What the client may see of it.
    #[serde(flatten)]
    pub grant: Grant,
    /// Identity provider of the sign-in; `None` in a record of before it was kept.
    #[serde(default)]
    pub provider: Option<String>,
    /// Names of the rules it was made under.
    pub rules: Vec<String>,
    /// Challenge it answers, if one was on record.
    pub challenge: Option<String>,
    /// Identifiers of grants that its token carries along.
    pub carries: Vec<String>,
    /// When it was given up or taken away.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Uses that were taken a moment ago, and that more of the same request may belong to.
    #[serde(default)]
    pub open: Vec<OpenUse>,
}

/// A use of a grant, as far as it tells whether another question of the API server belongs to the same request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenUse {
    /// Identifier of this use.
    pub id: String,
    /// What the whole request does.
    pub action: Action,
    /// Identifier of the grant whose token it came with.
    pub credential: String,
    /// Digest of what it does, to which object.
    pub effect: Option<String>,
    /// When the use was taken.
    pub opened_at: DateTime<Utc>,
}

/// A challenge as the server keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeRecord {
    /// Identifier.
    pub id: String,
    /// Digest of user, credential, rules and actions: the same request again is the same challenge.
    pub key: String,
    /// Whose it is, as the cluster knows them.
    pub user: String,
    /// `jti` of the base token that was used; `None` where it has none, or was not a base token.
    pub credential: Option<String>,
    /// Names of the rules that protect the actions.
    pub rules: Vec<String>,
    /// Their descriptions, for the prompt.
    pub description: String,
    /// What was tried.
    pub actions: Vec<Action>,
    /// How sure it is that the user tried it.
    #[serde(default)]
    pub standing: Standing,
    /// Classes that will do.
    pub acr_values: Vec<String>,
    /// The same by identity provider: what counts is the provider that the person signs in at.
    pub acr_by_provider: BTreeMap<String, Vec<String>>,
    /// Greatest age of the sign-in, in seconds.
    pub max_age: Option<u64>,
    /// Patterns that the reason must match, if one is required.
    pub reason: Option<ReasonTerms>,
    /// Life of the grant, in seconds.
    pub ttl: u64,
    /// Uses of the grant; `None`: any number.
    pub uses: Option<u32>,
    /// What the grant will permit.
    pub permits: Vec<ActionPattern>,
    /// The same in words.
    pub covers: Vec<String>,
    /// Groups that the grant will add.
    pub groups: Vec<String>,
    /// Whether its token will be good until it expires, whatever becomes of the grant.
    #[serde(default)]
    pub irrevocable: bool,
    /// When it was raised.
    pub created_at: DateTime<Utc>,
    /// When it was last answered with a denial.
    pub denied_at: Option<DateTime<Utc>>,
    /// Rounds of denials; see [`crate::server::challenge`].
    pub rounds: u32,
    /// When it lapses.
    pub expires_at: DateTime<Utc>,
    /// How it stands.
    pub state: ChallengeState,
}

/// How sure it is that somebody made the request of a challenge, least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The authorizer was asked about them. Whoever may create access reviews can bring that about.
    #[default]
    Question,
    /// The same, with the id of a credential.
    Credential,
    /// They sent a write, or asked us themselves.
    Request,
}

/// A reason is required.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonTerms {
    /// Regular expressions, each of which the whole reason must match.
    pub patterns: Vec<String>,
    /// What to tell the person.
    pub hint: Option<String>,
}

/// How a challenge stands. One that has expired is whatever it was, and no longer counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum ChallengeState {
    /// Waiting for its step-up.
    Pending,
    /// Given up.
    Declined {
        /// When.
        at: DateTime<Utc>,
        /// Why.
        cause: DeclineCause,
    },
    /// A grant was made for it.
    Redeemed {
        /// Identifier of the grant.
        grant: String,
    },
}

#[cfg(test)]
pub(crate) mod samples {
    //! Documents for tests.

    use super::*;

    /// A fixed moment.
    pub fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    /// A pending challenge made at [`now`].
    pub fn challenge_record(id: &str, user: &str) -> ChallengeRecord {
        ChallengeRecord {
            id: id.into(),
            key: format!("key of {id}"),
            user: user.into(),
            credential: None,
            rules: vec!["delete-namespace".into()],
            description: String::new(),
            actions: vec![],
            standing: Standing::Request,
            acr_values: vec!["mfa".into()],
            acr_by_provider: BTreeMap::new(),
            max_age: None,
            reason: None,
            ttl: 300,
            uses: Some(1),
            permits: vec![],
            covers: vec![],
            groups: vec![],
            irrevocable: false,
            created_at: now(),
            denied_at: None,
            rounds: 0,
            expires_at: now() + chrono::Duration::minutes(10),
            state: ChallengeState::Pending,
        }
    }

    /// A grant of one use, made at [`now`] for five minutes.
    pub fn grant_record(id: &str, user: &str) -> GrantRecord {
        GrantRecord {
            grant: Grant {
                id: id.into(),
                user: user.into(),
                rule: "delete-namespace".into(),
                permits: vec![],
                covers: vec![],
                groups: vec![],
                reason: None,
                acr: "mfa".into(),
                auth_time: now(),
                created_at: now(),
                expires_at: now() + chrono::Duration::minutes(5),
                uses_left: Some(1),
                irrevocable: false,
            },
            provider: None,
            rules: vec!["delete-namespace".into()],
            challenge: None,
            carries: vec![],
            revoked_at: None,
            open: vec![],
        }
    }
}
