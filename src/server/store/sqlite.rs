//! [`Store`] on embedded SQLite: write-ahead log, every commit flushed, so that it survives `kill -9` and power loss.
//!
//! One thread writes. It takes every transaction that is waiting, applies each in a savepoint of its own, and flushes
//! once for all of them (group commit), so that the cost of `fsync` is shared under load. Reads go over a second
//! connection and never wait for the writer.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::{Answer, ChallengeRecord, Committed, GrantRecord, Store, StoreError, Transaction, Versioned};
use crate::server::audit::Record;
use crate::wire::review::AdmissionResponse;

/// How many transactions share one flush at most.
const BATCH: usize = 256;
/// How long a verdict is remembered: much longer than any API server waits for a webhook (30 s).
const VERDICT_LIFE: chrono::Duration = chrono::Duration::hours(1);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS grants (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, expires INTEGER NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS grants_of_user ON grants (user, expires);
CREATE TABLE IF NOT EXISTS challenges (
    key TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, user TEXT NOT NULL, expires INTEGER NOT NULL,
    version INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS challenges_of_user ON challenges (user, expires);
CREATE TABLE IF NOT EXISTS verdicts (uid TEXT PRIMARY KEY, expires INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS once (name TEXT PRIMARY KEY, expires INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
";

/// The embedded store.
pub struct Sqlite {
    reader: Mutex<Connection>,
    writer: mpsc::Sender<Job>,
}

enum Job {
    Commit(Box<Transaction>, oneshot::Sender<Result<Committed, StoreError>>),
    Acknowledge(Vec<String>),
    Purge(DateTime<Utc>, oneshot::Sender<Result<(), StoreError>>),
    Probe(oneshot::Sender<Result<(), StoreError>>),
}

impl Sqlite {
    /// Opens the database at `path`, making it (0600) if there is none.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, is no database, or was written by a newer version of this program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let in_file = |error: rusqlite::Error| StoreError(format!("{}: {error}", path.display()));
        make_private(path).map_err(|error| StoreError(format!("{}: {error}", path.display())))?;
        let connection = Connection::open(path).map_err(in_file)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(in_file)?;
        if version > 1 {
            return Err(StoreError(format!(
                "{} has layout {version}, which is newer than this program's: run the version that wrote it, or newer",
                path.display()
            )));
        }
        connection.pragma_update(None, "journal_mode", "WAL").map_err(in_file)?;
        // FULL: in WAL mode every commit is flushed, not just every checkpoint.
        connection.pragma_update(None, "synchronous", "FULL").map_err(in_file)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(in_file)?;
        connection.execute_batch(SCHEMA).map_err(in_file)?;
        let reader = Connection::open(path).map_err(in_file)?;
        reader.pragma_update(None, "query_only", true).map_err(in_file)?;
        reader.busy_timeout(Duration::from_secs(5)).map_err(in_file)?;
        let (writer, jobs) = mpsc::channel();
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(connection, &jobs))
            .map_err(|error| StoreError(error.to_string()))?;
        Ok(Self { reader: Mutex::new(reader), writer })
    }

    /// A short read, done in place: an indexed look-up in pages that are nearly always in memory costs less than a
    /// change of threads.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Answer<'static, T>
    where
        T: Send + 'static,
    {
        let connection: MutexGuard<'_, Connection> = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let result = read(&connection).map_err(|error| StoreError(error.to_string()));
        Box::pin(std::future::ready(result))
    }

    fn ask<T: Send + 'static>(&self, job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job) -> Answer<'_, T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.writer.send(job(reply));
        Box::pin(async move {
            let gone = || StoreError("its writer has stopped".to_owned());
            sent.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }
}

#[cfg(unix)]
fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    // SQLite gives its -wal and -shm files the mode of the database.
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

#[cfg(not(unix))]
fn make_private(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

fn versioned<T: DeserializeOwned>(row: &rusqlite::Row<'_>) -> rusqlite::Result<Versioned<T>> {
    let body: String = row.get(1)?;
    let document = serde_json::from_str(&body)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error)))?;
    Ok(Versioned { version: row.get(0)?, document })
}

fn one<T: DeserializeOwned>(connection: &Connection, sql: &str, key: &str) -> rusqlite::Result<Option<Versioned<T>>> {
    connection.prepare_cached(sql)?.query_row([key], versioned).optional()
}

impl Store for Sqlite {
    fn grant<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Versioned<GrantRecord>>> {
        self.read(|connection| one(connection, "SELECT version, body FROM grants WHERE id = ?1", id))
    }

    fn grants<'a>(&'a self, user: Option<&'a str>, now: DateTime<Utc>) -> Answer<'a, Vec<Versioned<GrantRecord>>> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT version, body FROM grants WHERE (?1 IS NULL OR user = ?1) AND expires > ?2
                     ORDER BY rowid DESC",
                )?
                .query_map(params![user, now.timestamp_millis()], versioned)?
                .collect()
        })
    }

    fn challenge_by_key<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Versioned<ChallengeRecord>>> {
        self.read(|connection| one(connection, "SELECT version, body FROM challenges WHERE key = ?1", key))
    }

    fn challenge<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Versioned<ChallengeRecord>>> {
        self.read(|connection| one(connection, "SELECT version, body FROM challenges WHERE id = ?1", id))
    }

    fn challenges<'a>(&'a self, user: &'a str, now: DateTime<Utc>) -> Answer<'a, Vec<Versioned<ChallengeRecord>>> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT version, body FROM challenges WHERE user = ?1 AND expires > ?2 ORDER BY rowid DESC",
                )?
                .query_map(params![user, now.timestamp_millis()], versioned)?
                .collect()
        })
    }

    fn verdict<'a>(&'a self, uid: &'a str) -> Answer<'a, Option<AdmissionResponse>> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT 0, body FROM verdicts WHERE uid = ?1")?
                .query_row([uid], versioned)
                .optional()
                .map(|found| found.map(|verdict| verdict.document))
        })
    }

    fn commit(&self, transaction: Transaction) -> Answer<'_, Committed> {
        self.ask(|reply| Job::Commit(Box::new(transaction), reply))
    }

    fn unacknowledged(&self) -> Answer<'_, Vec<Record>> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT 0, body FROM outbox ORDER BY rowid")?
                .query_map([], |row| versioned(row).map(|found| found.document))?
                .collect()
        })
    }

    fn acknowledge(&self, records: &[Record]) {
        // Lazily, with the next flush: a record acknowledged too late is found in the log again, and not written twice.
        let _ = self.writer.send(Job::Acknowledge(records.iter().map(|record| record.id.clone()).collect()));
    }

    fn purge(&self, before: DateTime<Utc>) -> Answer<'_, ()> {
        self.ask(|reply| Job::Purge(before, reply))
    }

    fn probe(&self) -> Answer<'_, ()> {
        self.ask(Job::Probe)
    }
}

/// The writer: batch after batch, until the store is dropped.
///
/// Acknowledgements alone are not worth a flush: they ride with the next transaction, or go after a quiet second.
fn write_all(mut connection: Connection, jobs: &mpsc::Receiver<Job>) {
    let mut acknowledged = Vec::new();
    loop {
        let first = match jobs.recv_timeout(Duration::from_secs(1)) {
            Ok(job) => Some(job),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
        let idle = first.is_none();
        let mut batch = Vec::new();
        for job in first.into_iter().chain(jobs.try_iter().take(BATCH - 1)) {
            match job {
                Job::Acknowledge(ids) => acknowledged.extend(ids),
                job => batch.push(job),
            }
        }
        if !batch.is_empty() || (idle && !acknowledged.is_empty()) {
            write_batch(&mut connection, batch, &mut acknowledged);
        }
    }
    write_batch(&mut connection, Vec::new(), &mut acknowledged);
}

/// Tells an asker how it went, once the flush has.
type Reply = Box<dyn FnOnce(Result<(), StoreError>)>;

/// Applies a batch in one transaction; each reply is sent only once the flush has succeeded.
fn write_batch(connection: &mut Connection, batch: Vec<Job>, acknowledged: &mut Vec<String>) {
    let mut replies: Vec<Reply> = Vec::new();
    let result =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).and_then(|mut outer| {
            for job in batch {
                let savepoint = outer.savepoint()?;
                match job {
                    Job::Commit(transaction, reply) => {
                        let outcome = apply(&savepoint, &transaction).map_err(|error| StoreError(error.to_string()));
                        if matches!(outcome, Ok(Committed::Done)) {
                            savepoint.commit()?;
                        } else {
                            savepoint.finish()?;
                        }
                        replies.push(Box::new(move |flushed| {
                            let _ = reply.send(flushed.and(outcome));
                        }));
                    }
                    Job::Acknowledge(_) => unreachable!("write_all has taken them out"),
                    Job::Purge(before, reply) => {
                        let before = before.timestamp_millis();
                        for table in ["grants", "challenges", "verdicts", "once"] {
                            savepoint.execute(&format!("DELETE FROM {table} WHERE expires < ?1"), [before])?;
                        }
                        savepoint.commit()?;
                        replies.push(Box::new(move |flushed| {
                            let _ = reply.send(flushed);
                        }));
                    }
                    Job::Probe(reply) => {
                        // A write, so that a full disk or a read-only file shows; the name never expires into meaning.
                        savepoint.execute("INSERT OR REPLACE INTO once (name, expires) VALUES ('probe', 0)", [])?;
                        savepoint.commit()?;
                        replies.push(Box::new(move |flushed| {
                            let _ = reply.send(flushed);
                        }));
                    }
                }
            }
            for id in acknowledged.iter() {
                outer.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])?;
            }
            outer.commit()
        });
    if result.is_ok() {
        acknowledged.clear();
    }
    // Jobs that were not reached when something failed have dropped their reply channel: their asker sees an error too.
    for reply in replies {
        reply(result.as_ref().map(|&()| ()).map_err(|error| StoreError(error.to_string())));
    }
}

fn apply(connection: &Connection, transaction: &Transaction) -> rusqlite::Result<Committed> {
    for (expected, record) in &transaction.grants {
        let key = [record.grant.id.as_str(), record.grant.user.as_str()];
        let expires = record.grant.expires_at.timestamp_millis();
        let written = match expected {
            None => connection
                .prepare_cached("INSERT OR IGNORE INTO grants (id, user, expires, version, body) VALUES (?1, ?2, ?3, 1, ?4)")?
                .execute(params![key[0], key[1], expires, json(record)])?,
            Some(version) => connection
                .prepare_cached("UPDATE grants SET expires = ?3, version = version + 1, body = ?4 WHERE id = ?1 AND user = ?2 AND version = ?5")?
                .execute(params![key[0], key[1], expires, json(record), version])?,
        };
        if written == 0 {
            return Ok(Committed::Conflict);
        }
    }
    for key in &transaction.evicted {
        connection.prepare_cached("DELETE FROM challenges WHERE key = ?1")?.execute([key])?;
    }
    for (expected, record) in &transaction.challenges {
        let expires = record.expires_at.timestamp_millis();
        let written = match expected {
            None => connection
                .prepare_cached("INSERT OR IGNORE INTO challenges (key, id, user, expires, version, body) VALUES (?1, ?2, ?3, ?4, 1, ?5)")?
                .execute(params![record.key, record.id, record.user, expires, json(record)])?,
            Some(version) => connection
                .prepare_cached("UPDATE challenges SET id = ?2, user = ?3, expires = ?4, version = version + 1, body = ?5 WHERE key = ?1 AND version = ?6")?
                .execute(params![record.key, record.id, record.user, expires, json(record), version])?,
        };
        if written == 0 {
            return Ok(Committed::Conflict);
        }
    }
    if let Some((now, verdict)) = &transaction.verdict {
        let expires = (*now + VERDICT_LIFE).timestamp_millis();
        if connection
            .prepare_cached("INSERT OR IGNORE INTO verdicts (uid, expires, body) VALUES (?1, ?2, ?3)")?
            .execute(params![verdict.uid, expires, json(verdict)])?
            == 0
        {
            return Ok(Committed::Conflict);
        }
    }
    if let Some((until, name)) = &transaction.once
        && connection
            .prepare_cached("INSERT OR IGNORE INTO once (name, expires) VALUES (?1, ?2)")?
            .execute(params![name, until.timestamp_millis()])?
            == 0
    {
        return Ok(Committed::Conflict);
    }
    for record in &transaction.audit {
        connection
            .prepare_cached("INSERT INTO outbox (id, body) VALUES (?1, ?2)")?
            .execute(params![record.id, json(record)])?;
    }
    Ok(Committed::Done)
}

fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("our own documents have string keys and no failing Serialize")
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;
    use crate::server::audit::Event;
    use crate::server::store::samples::{challenge_record, grant_record, now};

    fn store() -> (tempfile::TempDir, Sqlite) {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&dir.path().join("stepup.db")).unwrap();
        (dir, store)
    }

    fn verdict(uid: &str) -> AdmissionResponse {
        AdmissionResponse { uid: uid.into(), allowed: true, status: None, audit_annotations: [].into() }
    }

    #[tokio::test]
    async fn of_fifty_writers_that_read_the_same_version_one_wins() {
        let (_dir, store) = store();
        let grant = grant_record("gr-1", "alice");
        let first = Transaction { grants: vec![(None, grant.clone())], ..Transaction::default() };
        assert_eq!(store.commit(first).await.unwrap(), Committed::Done);
        let version = store.grant("gr-1").await.unwrap().unwrap().version;

        let mut won = 0;
        let commits: Vec<_> = (0..50)
            .map(|n| {
                store.commit(Transaction {
                    grants: vec![(Some(version), grant.clone())],
                    verdict: Some((now(), verdict(&format!("uid-{n}")))),
                    ..Transaction::default()
                })
            })
            .collect();
        for commit in commits {
            won += usize::from(commit.await.unwrap() == Committed::Done);
        }
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn a_conflict_leaves_nothing_of_the_transaction_behind() {
        let (_dir, store) = store();
        let mut verdicts = 0;
        let twice = || Transaction {
            grants: vec![(None, grant_record("gr-1", "alice"))],
            challenges: vec![(None, challenge_record("ch-1", "alice"))],
            verdict: Some((now(), verdict("uid"))),
            audit: vec![Record::new(Event::Use, now())],
            ..Transaction::default()
        };
        assert_eq!(store.commit(twice()).await.unwrap(), Committed::Done);
        let again = Transaction { grants: vec![(None, grant_record("gr-2", "alice"))], ..twice() };
        assert_eq!(store.commit(again).await.unwrap(), Committed::Conflict);
        assert!(store.grant("gr-2").await.unwrap().is_none());
        assert_eq!(store.unacknowledged().await.unwrap().len(), 1);
        verdicts += usize::from(store.verdict("uid").await.unwrap().is_some());
        assert_eq!(verdicts, 1);
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_the_process_died() {
        let (dir, store) = store();
        let record = Record::new(Event::Use, now());
        let transaction = Transaction {
            grants: vec![(None, grant_record("gr-1", "alice"))],
            audit: vec![record.clone()],
            ..Transaction::default()
        };
        assert_eq!(store.commit(transaction).await.unwrap(), Committed::Done);
        // As a killed process leaves it: nothing closed, no checkpoint.
        std::mem::forget(store);

        let store = Sqlite::open(&dir.path().join("stepup.db")).unwrap();
        assert!(store.grant("gr-1").await.unwrap().is_some());
        assert_eq!(store.unacknowledged().await.unwrap(), std::slice::from_ref(&record));
        store.acknowledge(&[record]);
        // The purge goes through the same queue, so it ends after the acknowledgement was applied.
        store.purge(now() - Duration::days(1)).await.unwrap();
        assert!(store.unacknowledged().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_has_expired_is_forgotten() {
        let (_dir, store) = store();
        let transaction = Transaction {
            grants: vec![(None, grant_record("gr-1", "alice"))],
            challenges: vec![(None, challenge_record("ch-1", "alice"))],
            ..Transaction::default()
        };
        assert_eq!(store.commit(transaction).await.unwrap(), Committed::Done);
        assert_eq!(store.grants(Some("alice"), now()).await.unwrap().len(), 1);
        assert_eq!(store.grants(None, now() + Duration::days(1)).await.unwrap().len(), 0);
        assert!(store.grants(Some("bob"), now()).await.unwrap().is_empty());
        store.purge(now() + Duration::days(1)).await.unwrap();
        assert!(store.grant("gr-1").await.unwrap().is_none());
        assert!(store.challenge("ch-1").await.unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn the_database_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, _store) = store();
        let mode = std::fs::metadata(dir.path().join("stepup.db")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stepup.db");
        std::fs::write(&path, "not a database, and rather long for one; SQLite reads the header first").unwrap();
        let error = Sqlite::open(&path).err().unwrap().to_string();
        assert!(error.contains("stepup.db"), "{error}");
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("not a database"));
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stepup.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
        assert!(Sqlite::open(&path).err().unwrap().to_string().contains("newer"));
    }
}
