//! `POST /token`: OAuth 2.0 Token Exchange (RFC 8693) from a fresh step-up ID token to an elevated token.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// `grant_type` of RFC 8693, section 2.1.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// Token type of the subject token: an OpenID Connect ID token (RFC 8693, section 3).
pub const ID_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:id_token";
/// Token type of what is issued (RFC 8693, section 3).
pub const JWT_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
/// `type` of an `authorization_details` entry (RFC 9396) that names one action.
pub const ACTION_DETAIL_TYPE: &str = "kubectl-stepup.io/action";

/// The request's form fields. Either `challenge` or `authorization_details` says what for.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    /// [`GRANT_TYPE`].
    pub grant_type: String,
    /// The step-up's ID token.
    pub subject_token: Secret,
    /// [`ID_TOKEN_TYPE`].
    pub subject_token_type: String,
    /// Identifier of the challenge that this step-up answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
    /// JSON array of RFC 9396 objects of [`ACTION_DETAIL_TYPE`]: the action's fields beside `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_details: Option<String>,
    /// Why, in the person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Wanted life of the grant in seconds; the rule's own is the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// Identifiers (separated by spaces) of live grants of the same user that the new token shall carry too, so that
    /// one terminal needs one token for all it may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry: Option<String>,
}

/// Success (RFC 8693, section 2.2.1), with the grant beside it.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The elevated token.
    pub access_token: Secret,
    /// [`JWT_TOKEN_TYPE`].
    pub issued_token_type: String,
    /// `Bearer`.
    pub token_type: String,
    /// Life of the token, in seconds.
    pub expires_in: u64,
    /// The grant that it carries.
    pub grant: crate::wire::challenge::Grant,
}

/// Failure (RFC 6749, section 5.2; RFC 9470, section 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenError {
    /// `invalid_request`, `invalid_grant`, `insufficient_user_authentication`, `access_denied`, …
    pub error: String,
    /// What is wrong and what to do about it.
    #[serde(default)]
    pub error_description: String,
    /// With `insufficient_user_authentication`: the classes that would do, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr_values: Option<String>,
    /// With `insufficient_user_authentication`: how old the sign-in may be, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
}
