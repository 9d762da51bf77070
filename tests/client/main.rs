//! Black-box tests of the plugin: the built binary, a fake identity provider and a fake stepup-server.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

mod api_server;
mod command_lines;
mod doctor;
mod environments;
#[path = "../fuzz/hint.rs"]
mod hint;
mod home;
mod hot_path;
mod http;
mod keyring;
mod methods;
mod needs;
mod oddities;
mod peers;
mod preflight;
mod prompt;
mod provider;
mod provider_only;
mod proxy;
mod secret_service;
mod session;
mod step_up;
mod stepup_server;
