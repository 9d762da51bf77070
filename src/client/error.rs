//! What can go wrong for the person at the keyboard: what failed, whose fault it is, what to type next.

use std::io;
use std::path::{Path, PathBuf};

use crate::wire::challenge::DeclineCause;
use crate::wire::token::TokenError;

/// Every failure of `kubectl-stepup`. No variant ever carries a token, code or secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense. (clap reports most of these itself.)
    #[error("{0}")]
    Usage(String),
    /// There is no such profile.
    #[error("there is no profile {name:?}")]
    NoProfile {
        /// What was asked for.
        name: String,
    },
    /// A file of ours, or one that we were told to read, says something that makes no sense.
    #[error("{}: {problem}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// `read`, `write`, …
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something local failed.
    #[error("{0}")]
    Failed(String),
    /// Nobody is signed in, and nobody is there to be asked.
    #[error("not signed in: {why}")]
    NotSignedIn {
        /// Profile to sign in to.
        profile: String,
        /// `no session`, `the session has expired`, …
        why: String,
    },
    /// The step-up (or login) did not happen.
    #[error("{what}")]
    Declined {
        /// What to tell the server.
        cause: DeclineCause,
        /// Who ended it and how.
        what: String,
    },
    /// A step-up needs a person, and nobody is there.
    #[error("a step-up is needed, and nobody is here to sign in: run kubectl stepup elevate in a terminal")]
    NobodyThere,
    /// The challenges were answered, or lapsed, while we waited for our turn.
    #[error("the step-up was answered by another command meanwhile, or has lapsed")]
    Overtaken,
    /// stepup-server understood and said no.
    #[error("stepup-server refused: {}", refusal(.0))]
    Refused(TokenError),
    /// The identity provider could not be reached or failed.
    #[error("identity provider {issuer}: {problem}")]
    Provider {
        /// Its issuer URL.
        issuer: String,
        /// What went wrong.
        problem: String,
    },
    /// stepup-server could not be reached or failed.
    #[error("stepup-server {url}: {problem}")]
    Server {
        /// Its URL.
        url: String,
        /// What went wrong.
        problem: String,
    },
}

fn refusal(refused: &TokenError) -> &str {
    if refused.error_description.is_empty() { &refused.error } else { &refused.error_description }
}

impl Error {
    /// The exit code, as `kubectl-stepup --help` documents it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotSignedIn { .. } => 3,
            Self::Declined { .. } | Self::NobodyThere | Self::Overtaken => 4,
            Self::Refused(_) => 5,
            Self::Provider { .. } => 6,
            Self::Server { .. } => 7,
            Self::NoProfile { .. } | Self::BadFile { .. } | Self::File { .. } | Self::Failed(_) => 1,
        }
    }

    /// What to type next, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoProfile { name } => {
                let make = format!("make it with: kubectl stepup setup --profile {name} --issuer URL --client-id ID");
                // sudo changes HOME, and with it whose profiles these are.
                Some(match std::env::var("SUDO_USER") {
                    Ok(user) if !user.is_empty() => {
                        format!(
                            "under sudo it would be root's: leave sudo out, or keep {user}'s with sudo -E; or {make}"
                        )
                    }
                    _ => make,
                })
            }
            Self::NotSignedIn { profile, .. } => {
                Some(format!("sign in with: kubectl stepup login --profile {profile}"))
            }
            _ => None,
        }
    }

    /// For `map_err` on file operations.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }
}
