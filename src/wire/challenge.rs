//! stepup-server's own API under `/v1`: challenges and grants as the client sees them. No secret is in any of them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionPattern};

/// `POST /v1/challenges`: the actions a person is about to do, as `elevate --for` names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChallengeRequest {
    /// At least one action.
    pub actions: Vec<Action>,
}

/// Answer to `GET` and `POST /v1/challenges`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChallengeList {
    /// Username as the cluster knows the asker.
    pub user: String,
    /// The server's clock, to measure skew and the age of a challenge by.
    pub server_time: DateTime<Utc>,
    /// Pending challenges, newest first. After a `POST`: one for each rule that protects the actions that were named.
    pub challenges: Vec<Challenge>,
    /// After a `POST`: the actions that no rule protects from this user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unprotected: Vec<Action>,
}

/// "This request needs more" (RFC 9470), for one rule and the actions that met it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// Identifier, safe to show and to type: `ch-` and 26 characters.
    pub id: String,
    /// Name of the rule.
    pub rule: String,
    /// The rule's description, for the prompt.
    #[serde(default)]
    pub description: String,
    /// What was tried, or is about to be.
    pub actions: Vec<Action>,
    /// Authentication context classes, any of which will do (`acr_values`, OIDC Core 3.1.2.1), most wanted first.
    pub acr_values: Vec<String>,
    /// How long ago the sign-in may have been, in seconds (`max_age`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// Whether and how a reason must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonRule>,
    /// What the grant will be like.
    pub grant: GrantTerms,
    /// When it was first raised.
    pub created_at: DateTime<Utc>,
    /// When it was last answered with a denial; `None` when it was asked for beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_at: Option<DateTime<Utc>>,
    /// When it lapses.
    pub expires_at: DateTime<Utc>,
    /// A live grant of this user that already covers all its actions: present its token, no step-up is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered_by: Option<String>,
}

/// Answer to `GET /v1/step-up`: what a step-up sign-in of the asker must be like, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepUpTerms {
    /// Name of the identity provider in the server's configuration.
    pub provider: String,
    /// Clients whose ID tokens are taken for step-ups.
    pub audiences: Vec<String>,
    /// Levels at this provider, weakest first.
    pub levels: Vec<LevelTerms>,
    /// What the API server is configured to ask stepup-server about; `None`: an older server, which does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<WebhookTerms>,
}

/// Which webhooks there are. None of them: groups in the elevated token alone open what is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookTerms {
    /// The one that sees writes and connections.
    pub admission: bool,
    /// The one that sees reads, special verbs and the admission configuration.
    pub authorization: bool,
}

/// A level of assurance at one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LevelTerms {
    /// Name that policies use, such as `mfa`.
    pub name: String,
    /// Values of `acr` that reach it, the one to ask for first.
    pub acr_values: Vec<String>,
}

/// A reason is required.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReasonRule {
    /// Regular expression the whole reason must match (a ticket id, say); any text of one character or more otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// What to tell the person: "a change ticket such as OPS-123".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What a grant will allow, before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantTerms {
    /// Longest life, in seconds.
    pub ttl: u64,
    /// Number of uses; `None`: any number until it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// What it covers, in words: "delete namespaces/prod".
    pub covers: Vec<String>,
    /// Groups that the elevated token adds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Whether nobody looks the grant up when its token's groups are used, so that they are good until it expires,
    /// whatever becomes of the grant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub irrevocable: bool,
}

/// `POST /v1/challenges/{id}/decline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Decline {
    /// What ended it.
    pub cause: DeclineCause,
}

/// Why a challenge was not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeclineCause {
    /// The person said no (Ctrl-C, `n`, or "deny" at the provider).
    Declined,
    /// The rule demands a reason, none was given, and there was no terminal to ask on.
    NoReason,
    /// Nobody completed the sign-in in time.
    TimedOut,
    /// The identity provider could not be reached or failed.
    ProviderFailed,
    /// The sign-in was made, and the server found it too weak or too old.
    TooWeak,
}

/// Answer to `GET /v1/grants`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantList {
    /// The server's clock.
    pub server_time: DateTime<Utc>,
    /// Live grants, newest first.
    pub grants: Vec<Grant>,
}

/// What a person may do for a short time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Identifier, and the `jti` of its token.
    pub id: String,
    /// Whose it is, as the cluster knows them.
    pub user: String,
    /// Name of the rule it was made under.
    pub rule: String,
    /// What it permits.
    pub permits: Vec<ActionPattern>,
    /// The same in words.
    pub covers: Vec<String>,
    /// Groups that its token adds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Reason the person gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Authentication context class of the step-up.
    pub acr: String,
    /// When the person signed in for it.
    pub auth_time: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it lapses.
    pub expires_at: DateTime<Utc>,
    /// Uses left; `None`: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u32>,
    /// See [`GrantTerms::irrevocable`]; true as well of one whose token carries such a grant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub irrevocable: bool,
}

/// Error body of `/v1`, in the shape of RFC 6749, section 5.2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Code, for programs.
    pub error: String,
    /// Sentence, for people: what is wrong and what to do.
    #[serde(default)]
    pub error_description: String,
}
