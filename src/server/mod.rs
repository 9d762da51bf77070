//! `stepup-server`: policy, webhooks, challenges and grants, tokens, audit.

pub mod config;
pub mod identity;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod mint;
pub mod policy;
pub mod provider;
#[cfg(test)]
pub(crate) mod testing;
