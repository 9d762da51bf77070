//! [`Store`] on embedded SQLite: write-ahead log, every commit flushed, so that it survives `kill -9` and power loss.
//!
//! One thread writes. It takes every transaction that is waiting, applies each in a savepoint of its own, and flushes
//! once for all of them (group commit), so that the cost of `fsync` is shared under load. Reads go over a second
//! connection and never wait for the writer.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use url::Url;

use super::{Answer, ChallengeRecord, Committed, GrantRecord, Store, StoreError, Transaction, Versioned};
use crate::server::audit::Record;
use crate::server::history::{KEPT_RECORDS, kept_until};
use crate::wire::review::AdmissionResponse;

/// How many transactions share one flush at most.
const BATCH: usize = 256;
/// Most that a purge forgets of each kind before it lets others write.
const FORGOTTEN_AT_ONCE: u32 = 500;
/// Every so many records of a history, those that are too many are looked for.
const TRIMMED_EVERY: i64 = 32;
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
CREATE TABLE IF NOT EXISTS history (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, time INTEGER NOT NULL, expires INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS history_of_user ON history (user, time);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS history_by_expiry ON history (expires);
CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
";

/// End of the name of the file beside the database whose lock says that a server has it.
const LOCK: &str = ".lock";
/// Ends of the names of all files beside the database: that one, and those that SQLite makes.
pub const COMPANIONS: [&str; 3] = [LOCK, "-wal", "-shm"];

/// Name of the fact which policy was last in force.
const POLICY: &str = "policy";

/// The embedded store.
pub struct Sqlite {
    reader: Mutex<Connection>,
    /// `None`: it is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// Held as long as anything may be written.
    lock: File,
}

enum Job {
    Commit(Box<Transaction>, oneshot::Sender<Result<Committed, StoreError>>),
    Acknowledge(Vec<String>),
    Remember(Vec<Record>),
    /// Answers whether there is more to forget.
    Purge(DateTime<Utc>, oneshot::Sender<Result<bool, StoreError>>),
    Probe(oneshot::Sender<Result<(), StoreError>>),
}

impl Sqlite {
    /// Opens the database at `path`, making it (0600) if there is none, for this process alone: another one would take
    /// what is about to be written to the audit log for what a crash has left, and write it a second time.
    ///
    /// # Errors
    ///
    /// Another process has the database; the file cannot be opened, is no database, or was written by a newer version of
    /// this program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let in_file = |error: rusqlite::Error| StoreError(format!("{}: {error}", path.display()));
        private(path).map_err(|error| StoreError(format!("{}: {error}", path.display())))?;
        let lock = lock(path)?;
        let connection = Connection::open(path).map_err(in_file)?;
        refuse_newer(&connection, path)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(in_file)?;
        // FULL: in WAL mode every commit is flushed, not just every checkpoint.
        connection.pragma_update(None, "synchronous", "FULL").map_err(in_file)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(in_file)?;
        connection.execute_batch(SCHEMA).map_err(in_file)?;
        let reader = Connection::open(path).map_err(in_file)?;
        reader.pragma_update(None, "query_only", true).map_err(in_file)?;
        reader.busy_timeout(Duration::from_secs(5)).map_err(in_file)?;
        let (jobs, queue) = mpsc::channel();
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(connection, &queue))
            .map_err(|error| StoreError(error.to_string()))?;
        Ok(Self { reader: Mutex::new(reader), jobs: Some(jobs), writer: Some(writer), lock })
    }

    /// Whether the database at `path`, if there is one, is such that [`Sqlite::open`] takes it. Writes nothing.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no database, was written by a newer version of this program, or is damaged where the
    /// server reads it when it starts.
    pub fn check(path: &Path) -> Result<(), StoreError> {
        if !path.exists() {
            return Ok(());
        }
        let in_file = |error: rusqlite::Error| StoreError(format!("{}: {error}", path.display()));
        let connection = Connection::open_with_flags(
            read_only(path)?,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(in_file)?;
        refuse_newer(&connection, path)?;
        let outbox = "SELECT count(*) FROM sqlite_master WHERE name = 'outbox'";
        if connection.query_row(outbox, [], |row| row.get::<_, i64>(0)).map_err(in_file)? > 0 {
            outbox_of(&connection).map_err(in_file)?;
        }
        Ok(())
    }

    /// `None`: the writer has stopped.
    fn send(&self, job: Job) -> Option<()> {
        self.jobs.as_ref()?.send(job).ok()
    }

    /// Lets go of the lock, as the system does when a process is killed.
    #[cfg(test)]
    pub fn unlock(&self) {
        self.lock.unlock().unwrap();
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
        let sent = self.send(job(reply));
        Box::pin(async move {
            let gone = || StoreError("its writer has stopped".to_owned());
            sent.ok_or_else(gone)?;
            answer.await.map_err(|_| gone())?
        })
    }
}

fn refuse_newer(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| StoreError(format!("{}: {error}", path.display())))?;
    if version <= 1 {
        return Ok(());
    }
    Err(StoreError(format!(
        "{} has layout {version}, which is newer than this program's: run the version that wrote it, or newer",
        path.display()
    )))
}

/// The database's address for who only reads. Without a write-ahead log beside it nobody has it open, and SQLite is told so:
/// it would make one otherwise.
fn read_only(path: &Path) -> Result<String, StoreError> {
    let in_file = |what: &dyn std::fmt::Display| StoreError(format!("{}: {what}", path.display()));
    let absolute = std::path::absolute(path).map_err(|error| in_file(&error))?;
    let mut url = Url::from_file_path(absolute).map_err(|()| in_file(&"no path of a file"))?;
    url.set_query(Some(if beside(path, "-wal").exists() { "mode=ro" } else { "mode=ro&immutable=1" }));
    Ok(url.into())
}

/// A file that belongs to the database at `path`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn outbox_of(connection: &Connection) -> rusqlite::Result<Vec<Record>> {
    connection
        .prepare_cached("SELECT 0, body FROM outbox ORDER BY rowid")?
        .query_map([], |row| versioned(row).map(|found| found.document))?
        .collect()
}

impl Drop for Sqlite {
    /// The last acknowledgements are written, and then the next process may have the database.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // It has no panic to tell of that its askers have not heard.
            let _ = writer.join();
        }
        // It ends with the file in any case.
        let _ = self.lock.unlock();
    }
}

/// Takes the lock of the database at `path`. The system lets go of it when the process ends, however that comes about.
fn lock(path: &Path) -> Result<File, StoreError> {
    let in_file = |error: io::Error| StoreError(format!("{}: cannot be locked: {error}", path.display()));
    // By whatever name the database goes, it has one lock.
    let lock = beside(&path.canonicalize().map_err(in_file)?, LOCK);
    let file = private(&lock).map_err(in_file)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(in_file(error)),
        Err(TryLockError::WouldBlock) => Err(StoreError(format!(
            "{}: another stepup-server uses it, and holds {}; a store is for one server: stop that one, or give this one \
             another `store.sqlite.path`",
            path.display(),
            lock.display()
        ))),
    }
}

/// Opens a file for writing, making it for its owner alone. SQLite gives its own files the mode of the database.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
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
        self.read(outbox_of)
    }

    fn acknowledge(&self, records: &[Record]) {
        // Lazily, with the next flush: a record acknowledged too late is found in the log again, and not written twice.
        let _ = self.send(Job::Acknowledge(records.iter().map(|record| record.id.clone()).collect()));
    }

    fn history<'a>(&'a self, user: &'a str, before: DateTime<Utc>, limit: u32) -> Answer<'a, Vec<Record>> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT 0, body FROM history WHERE user = ?1 AND time < ?2 ORDER BY time DESC, rowid DESC LIMIT ?3",
                )?
                .query_map(params![user, before.timestamp_millis(), limit], |row| {
                    versioned(row).map(|found| found.document)
                })?
                .collect()
        })
    }

    fn remember(&self, records: &[Record]) {
        let theirs: Vec<Record> = records.iter().filter(|record| kept_until(record).is_some()).cloned().collect();
        if !theirs.is_empty() {
            let _ = self.send(Job::Remember(theirs));
        }
    }

    fn purge(&self, before: DateTime<Utc>) -> Answer<'_, ()> {
        Box::pin(async move {
            while self.ask(|reply| Job::Purge(before, reply)).await? {}
            Ok(())
        })
    }

    fn policy_digest(&self) -> Answer<'_, Option<String>> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT value FROM facts WHERE name = ?1")?
                .query_row([POLICY], |row| row.get(0))
                .optional()
        })
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
                    Job::Remember(records) => {
                        for record in &records {
                            remember(&savepoint, record)?;
                        }
                        savepoint.commit()?;
                    }
                    Job::Purge(before, reply) => {
                        let more = forget(&savepoint, before)?;
                        savepoint.commit()?;
                        replies.push(Box::new(move |flushed| {
                            let _ = reply.send(flushed.map(|()| more));
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

/// Forgets some of what expired before then; whether there is more. The only writer is not to be held up for long.
fn forget(connection: &Connection, before: DateTime<Utc>) -> rusqlite::Result<bool> {
    let mut more = false;
    for table in ["grants", "challenges", "verdicts", "once", "history"] {
        let sql = format!("DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE expires < ?1 LIMIT ?2)");
        let forgotten =
            connection.prepare_cached(&sql)?.execute(params![before.timestamp_millis(), FORGOTTEN_AT_ONCE])?;
        more |= forgotten >= FORGOTTEN_AT_ONCE as usize;
    }
    Ok(more)
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
    if let Some(digest) = &transaction.policy_digest {
        connection
            .prepare_cached("INSERT OR REPLACE INTO facts (name, value) VALUES (?1, ?2)")?
            .execute([POLICY, digest])?;
    }
    for record in &transaction.audit {
        connection
            .prepare_cached("INSERT INTO outbox (id, body) VALUES (?1, ?2)")?
            .execute(params![record.id, json(record)])?;
        remember(connection, record)?;
    }
    Ok(Committed::Done)
}

/// Keeps a copy for its person's history, if it belongs there.
fn remember(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    let Some(until) = kept_until(record) else { return Ok(()) };
    let (time, expires) = (record.time.timestamp_millis(), until.timestamp_millis());
    connection
        .prepare_cached("INSERT OR IGNORE INTO history (id, user, time, expires, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![record.id, record.user, time, expires, json(record)])?;
    if connection.last_insert_rowid() % TRIMMED_EVERY == 0 {
        connection
            .prepare_cached(
                "DELETE FROM history WHERE rowid IN
                 (SELECT rowid FROM history WHERE user = ?1 ORDER BY time DESC, rowid DESC LIMIT -1 OFFSET ?2)",
            )?
            .execute(params![record.user, KEPT_RECORDS])?;
    }
    Ok(())
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
        store.unlock();
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
    async fn a_history_stays_short_without_a_purge_and_a_purge_lets_others_write() {
        let (_dir, store) = store();
        let records = |user: &str, count: u32| -> Vec<Record> {
            let record = |n: u32| Record {
                user: user.into(),
                ..Record::new(Event::Use, now() + Duration::seconds(i64::from(n)))
            };
            (0..count).map(record).collect()
        };
        store.remember(&records("alice", 1200));
        store.remember(&records("bob", 40));
        store.probe().await.unwrap();
        let count = async |user: &str| store.history(user, now() + Duration::days(1), 5000).await.unwrap().len();
        let kept = count("alice").await;
        let most = usize::try_from(KEPT_RECORDS + u32::try_from(TRIMMED_EVERY).unwrap()).unwrap();
        assert!((usize::try_from(KEPT_RECORDS).unwrap()..most).contains(&kept), "{kept}");
        assert_eq!(count("bob").await, 40);
        let newest = store.history("alice", now() + Duration::days(1), 1).await.unwrap();
        assert_eq!(newest[0].time, now() + Duration::seconds(1199));
        // Much that has expired, in several steps, between which others have their turn.
        let purge = store.purge(now() + Duration::days(60));
        let (purged, probed) = tokio::join!(purge, store.probe());
        purged.and(probed).unwrap();
        assert_eq!((count("alice").await, count("bob").await), (0, 0));
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
        for file in ["stepup.db", "stepup.db.lock", "stepup.db-wal"] {
            let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_database_is_for_one_process_by_whatever_name_it_goes() {
        let (dir, store) = store();
        let (path, other) = (dir.path().join("stepup.db"), dir.path().join("other.db"));
        std::os::unix::fs::symlink(&path, &other).unwrap();
        for name in [&path, &other] {
            let error = Sqlite::open(name).err().unwrap().to_string();
            assert!(error.contains("another stepup-server uses it") && error.contains("stepup.db.lock"), "{error}");
        }
        drop(store);
        Sqlite::open(&other).unwrap();
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

    #[tokio::test]
    async fn a_check_finds_what_would_keep_it_from_opening_and_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("what? 100%.db");
        let files = || {
            let files = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
            let mut files: Vec<_> = files.map(|file| (file.file_name(), std::fs::read(file.path()).unwrap())).collect();
            files.sort();
            files
        };
        Sqlite::check(&path).unwrap();
        assert!(files().is_empty());
        let told = || Sqlite::check(&path).unwrap_err().to_string();

        std::fs::write(&path, "").unwrap();
        Sqlite::check(&path).unwrap();
        std::fs::write(&path, "not a database, and rather long for one; SQLite reads the header first").unwrap();
        assert!(told().contains("not a database"), "{}", told());
        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
        assert!(told().contains("newer"), "{}", told());
        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE outbox (id TEXT, body TEXT)").unwrap();
        Connection::open(&path).unwrap().execute_batch("INSERT INTO outbox VALUES ('1', 'no record')").unwrap();
        let before = files();
        Sqlite::check(&path).unwrap_err();
        assert_eq!(files(), before);
        std::fs::remove_file(&path).unwrap();

        // While it is in use, and after.
        let store = Sqlite::open(&path).unwrap();
        let transaction = Transaction { audit: vec![Record::new(Event::Use, now())], ..Transaction::default() };
        assert_eq!(store.commit(transaction).await.unwrap(), Committed::Done);
        Sqlite::check(&path).unwrap();
        drop(store);
        Sqlite::check(&path).unwrap();
    }
}
