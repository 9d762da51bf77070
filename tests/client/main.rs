//! Black-box tests of the plugin: the built binary, a fake identity provider and a fake stepup-server.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

mod home;
mod hot_path;
mod http;
mod provider;
mod session;
mod step_up;
mod stepup_server;
