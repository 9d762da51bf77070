//! A person's own step-ups and refusals: copies of their audit records, kept in the store for a month.
//!
//! The audit log is the truth, and no place to read from: it may be rotated away, or be another program's standard input.
//! The copies go into the store with the change they tell of; those of refusals, which change nothing, as soon as it is
//! written next.

use chrono::{DateTime, Duration, Utc};

use crate::server::app::App;
use crate::server::audit::{Event, Record};
use crate::server::failure::Failure;
use crate::server::grant::is_administrator;
use crate::server::identity::Identity;
use crate::wire::history::{Entry, History, What};

/// How long records are kept, in days.
pub const KEPT_DAYS: u32 = 30;
/// How many are kept for one person.
pub const KEPT_RECORDS: u32 = 1000;
/// How many are told at once.
pub const MOST_ENTRIES: u32 = 500;
/// The same where nobody says how many.
const USUAL_ENTRIES: u32 = 50;

/// What is wanted of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Somebody else's: for administrators.
    pub user: Option<String>,
    /// How many entries.
    pub limit: Option<u32>,
    /// Older than this.
    pub before: Option<DateTime<Utc>>,
}

/// The history of `asker`, or for administrators of anybody, newest first.
pub async fn history(app: &App, asker: &Identity, wanted: Wanted, now: DateTime<Utc>) -> Result<History, Failure> {
    let user = wanted.user.unwrap_or_else(|| asker.user.clone());
    if user != asker.user && !is_administrator(app, asker) {
        return Err(Failure::forbidden("only administrators see the history of others"));
    }
    let limit = wanted.limit.unwrap_or(USUAL_ENTRIES).clamp(1, MOST_ENTRIES);
    let records = app.store.history(&user, wanted.before.unwrap_or(DateTime::<Utc>::MAX_UTC), limit).await?;
    let entries = records.into_iter().filter_map(entry).collect();
    Ok(History { user, server_time: now, kept_days: KEPT_DAYS, entries })
}

/// Until when a record is kept for its person's history; `None`: it does not belong there.
pub fn kept_until(record: &Record) -> Option<DateTime<Utc>> {
    (!record.user.is_empty() && what(record.event).is_some())
        .then(|| record.time + Duration::days(i64::from(KEPT_DAYS)))
}

fn what(event: Event) -> Option<What> {
    match event {
        Event::Challenge => Some(What::Asked),
        Event::Mint => Some(What::Granted),
        Event::Use => Some(What::Used),
        Event::Decline => Some(What::Declined),
        Event::Refusal => Some(What::Refused),
        Event::Revoke => Some(What::GivenUp),
        // Said by the grant that follows, or not noticed by the person at all.
        Event::StepUp | Event::WouldChallenge | Event::PolicyChange => None,
    }
}

fn entry(record: Record) -> Option<Entry> {
    Some(Entry {
        what: what(record.event)?,
        id: record.id,
        time: record.time,
        actions: record.actions,
        rules: record.rules,
        acr: record.acr,
        reason: record.reason,
        grant: record.grant,
        code: record.code,
        message: record.message,
        source: record.source,
        by: record.by,
    })
}
