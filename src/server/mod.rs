//! `stepup-server`: policy, webhooks, challenges and grants, tokens, audit.

pub mod admit;
pub mod app;
pub mod audit;
pub mod authorize;
pub mod challenge;
pub mod check;
pub mod cli;
pub mod config;
pub mod digest;
pub mod document;
pub mod exchange;
pub mod explain;
pub mod failure;
pub mod grant;
pub mod health;
pub mod history;
pub mod http;
pub mod identity;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod mint;
pub mod output;
pub mod policy;
pub mod protected;
pub mod provider;
pub mod render;
pub mod serve;
pub mod store;
#[cfg(test)]
mod stories;
#[cfg(test)]
pub(crate) mod testing;

/// A new identifier: `prefix`, a dash and 26 letters and digits that hold 128 random bits (RFC 4648 base 32, lower case).
pub fn random_id(prefix: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works, or nothing here is safe");
    let mut bits = u128::from_be_bytes(bytes);
    let mut id = format!("{prefix}-");
    for _ in 0..26 {
        id.push(char::from(ALPHABET[usize::try_from(bits & 31).expect("five bits")]));
        bits >>= 5;
    }
    id
}
