//! Step-up authentication for Kubernetes.
//!
//! One package, two programs: [`client`] is `kubectl-stepup`, the client-go exec plugin and command; [`server`] is
//! `stepup-server`, the policy, webhook and token server. They share [`action`] (what is done to the cluster, and
//! patterns over that), [`request_info`] (which action an HTTP request is), [`wire`] (the JSON and forms of the protocols) and [`secret`], and never import each other.

pub mod action;
#[cfg(feature = "client")]
pub mod client;
#[cfg(any(feature = "client", feature = "server"))]
pub mod no_core;
pub mod request_info;
pub mod secret;
#[cfg(feature = "server")]
pub mod server;
pub mod wire;
