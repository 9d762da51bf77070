//! `stepup-server`: policy, webhooks, challenges and grants, tokens, audit.

pub mod config;
pub mod policy;
