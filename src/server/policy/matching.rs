//! stub
use super::Rule;

/// x
#[derive(Debug)]
pub struct Matching {
    digest: String,
}

impl Matching {
    pub(super) fn of(_: &[Rule]) -> Self {
        Self { digest: String::new() }
    }
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}
