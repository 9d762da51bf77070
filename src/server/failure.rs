//! What the callers of `/v1` are told when something cannot be done.

use crate::server::app::Unavailable;
use crate::wire::challenge::ApiError;

/// A request to `/v1` that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The caller's fault; says what to do.
    #[error("{description}")]
    Caller {
        /// HTTP status code, 400 to 499.
        status: u16,
        /// Code, for programs.
        error: &'static str,
        /// Sentence, for people.
        description: String,
    },
    /// Ours. Logged where the response is made; the caller learns which part it is, and no more.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Failure {
    /// 400: the request makes no sense.
    pub fn bad_request(description: impl Into<String>) -> Self {
        Self::Caller { status: 400, error: "invalid_request", description: description.into() }
    }

    /// 403: understood, and refused.
    pub fn forbidden(description: impl Into<String>) -> Self {
        Self::Caller { status: 403, error: "access_denied", description: description.into() }
    }

    /// 404: there is no such thing, or it is somebody else's.
    pub fn not_found(description: impl Into<String>) -> Self {
        Self::Caller { status: 404, error: "not_found", description: description.into() }
    }

    /// 409: it is over already.
    pub fn conflict(description: impl Into<String>) -> Self {
        Self::Caller { status: 409, error: "conflict", description: description.into() }
    }

    /// HTTP status code of the response.
    pub fn status(&self) -> u16 {
        match self {
            Self::Caller { status, .. } => *status,
            Self::Unavailable(_) => 503,
        }
    }

    /// Body of the response.
    pub fn body(&self) -> ApiError {
        match self {
            Self::Caller { error, description, .. } => {
                ApiError { error: (*error).to_owned(), error_description: description.clone() }
            }
            Self::Unavailable(unavailable) => ApiError {
                error: "temporarily_unavailable".to_owned(),
                error_description: unavailable.public_message().to_owned(),
            },
        }
    }
}

impl From<crate::server::store::StoreError> for Failure {
    fn from(error: crate::server::store::StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}
