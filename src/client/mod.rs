//! `kubectl-stepup`: the client-go exec plugin and the command.

pub mod kubeconfig;
pub mod resource;
