//! `kubectl-stepup`: the client-go exec plugin and the command.
//!
//! Start at [`get_token`], the exec plugin. What it cannot answer from one cache file goes on to [`session`] (the base
//! token: refresh and login) or to [`step_up`] (challenge, fresh sign-in, exchange, elevated token).
//! Programs whose requests client-go does not repeat are served by [`proxy`].

use chrono::{DateTime, Utc};

pub mod api;
pub mod api_server;
pub mod cache;
pub mod cli;
pub mod commands;
pub mod error;
pub mod get_token;
pub mod http;
pub mod idp;
pub mod kubeconfig;
pub mod lock;
pub mod output;
pub mod parent;
pub mod paths;
pub mod preflight;
pub mod profile;
pub mod prompt;
pub mod provider_only;
pub mod proxy;
pub mod resource;
pub mod secrets;
pub mod session;
pub mod sign_in;
pub mod step_up;
pub mod trial;
pub mod words;

/// Reads the clock. Only flows that wait for somebody take one; everything else is told what time it is.
pub type Clock = fn() -> DateTime<Utc>;
