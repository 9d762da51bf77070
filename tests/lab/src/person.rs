//! The people of the lab, as the identity provider knows them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::totp;

/// What the provider knows of a person.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// The first factor.
    pub password: String,
    /// The second factor (base32), for those who have one.
    pub totp_secret: Option<String>,
    /// Groups, as the ID token says them.
    pub groups: Vec<String>,
}

static ACCOUNTS: LazyLock<BTreeMap<String, Account>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../oidc-provider/people.json")).expect("people.json is part of this package")
});

impl Account {
    /// The account of `name`. There are any number of people like alice: `alice-1`, `alice-2`, …
    pub fn of(name: &str) -> Result<&'static Self> {
        let like = match name.rsplit_once('-') {
            Some((like, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => like,
            _ => name,
        };
        ACCOUNTS.get(like).with_context(|| format!("the lab knows nobody called {name}"))
    }

    /// Everybody's name.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ACCOUNTS.keys().map(String::as_str)
    }

    /// The one-time code of this moment.
    pub fn code(&self) -> Result<String> {
        totp::current_code(self.totp_secret.as_deref().context("this person has no second factor")?)
    }
}
