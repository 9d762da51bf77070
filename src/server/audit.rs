//! The audit log: who did what, when, from where, by which rule, with which sign-in and for which reason.
//!
//! JSON Lines, one record an event, flushed to disk before the answer that it tells of leaves. Records of events that
//! change the store are committed with that change first (`store`'s outbox) and written here next; whatever a crash
//! leaves between the two is written at the next start, once ([`Audit::open`]).
//!
//! Standard output is no such place: what was printed is with whoever reads it, and cannot be looked up. What the store
//! does not know to be written is printed again at the next start, with the id it had: nothing is lost, and a crash may
//! repeat its last moment.
//!
//! No record holds a token, a code or a key.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::server::config::Sink;

/// How much of a log's end is searched, in bytes, for records that a crash may or may not have left there.
const RECOVERY_WINDOW: u64 = 64 * 1024 * 1024;
/// How much earlier than the record in it a file may seem to be changed: file systems have clocks of their own.
const MTIME_SLACK: TimeDelta = TimeDelta::minutes(1);
/// How many records share one flush at most.
const BATCH: usize = 512;
/// Room on the disk, in bytes, without which the log is as good as full.
#[cfg(target_os = "linux")]
const ROOM: u64 = 16 * 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A protected request was answered with "step-up required".
    Challenge,
    /// A rule that only audits would have asked for a step-up; the request went on.
    WouldChallenge,
    /// A fresh sign-in was verified and found good enough.
    StepUp,
    /// Something was refused: a weak or forged token, a person who cannot step up, somebody else's challenge.
    Refusal,
    /// A grant was made and its token signed.
    Mint,
    /// A grant let a protected request through.
    Use,
    /// A challenge was declined or timed out.
    Decline,
    /// A grant was given up or taken away.
    Revoke,
    /// The policy was replaced, or a replacement was refused.
    PolicyChange,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Identifier of this record; it occurs once.
    pub id: String,
    /// When.
    pub time: DateTime<Utc>,
    /// What.
    pub event: Event,
    /// `allowed` or `denied` for an event that answers a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Verdict>,
    /// Who, as the cluster knows them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// On whose behalf somebody else acted: an administrator who revokes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Network address that the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// What the asker called itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Rules that it was about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Actions, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// Authentication context class that came back from the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// When the person signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<DateTime<Utc>>,
    /// Why, in the person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// Challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
    /// `uid` of the AdmissionReview.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Whether the request was a dry run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Code of a refusal or of a decline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Time from the arrival of the request to this record, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_micros: Option<u64>,
}

/// What a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It may go on, as far as we are concerned.
    Allowed,
    /// It may not.
    Denied,
}

/// Where a request came from, and when it arrived.
#[derive(Clone, Debug)]
pub struct Source {
    /// Network address of the peer.
    pub addr: IpAddr,
    /// Its `User-Agent`, cut to a sane length.
    pub user_agent: Option<String>,
    /// When the request arrived, to measure latency by.
    pub arrived: std::time::Instant,
}

impl Record {
    /// A record of `event` at `now`, with nothing else said yet.
    pub fn new(event: Event, now: DateTime<Utc>) -> Self {
        Self {
            id: crate::server::random_id("au"),
            time: now,
            event,
            decision: None,
            user: String::new(),
            by: None,
            source: None,
            user_agent: None,
            rules: Vec::new(),
            actions: Vec::new(),
            acr: None,
            auth_time: None,
            reason: None,
            grant: None,
            challenge: None,
            uid: None,
            dry_run: false,
            code: None,
            message: None,
            latency_micros: None,
        }
    }

    /// The same, from `source`.
    #[must_use]
    pub fn from(mut self, source: &Source) -> Self {
        self.source = Some(source.addr);
        self.user_agent.clone_from(&source.user_agent);
        self.latency_micros = u64::try_from(source.arrived.elapsed().as_micros()).ok();
        self
    }

    /// The same, about a refusal: its code and its sentence.
    #[must_use]
    pub fn refused(mut self, code: &str, message: &str) -> Self {
        self.decision = Some(Verdict::Denied);
        self.code = Some(code.to_owned());
        self.message = Some(message.to_owned());
        self
    }
}

/// The record could not be made durable, so nothing it tells of may happen.
#[derive(Debug, thiserror::Error)]
#[error("the audit log is unavailable: {0}")]
pub struct AuditError(pub String);

/// The audit log.
#[derive(Clone)]
pub struct Audit {
    writer: mpsc::Sender<Job>,
}

struct Job {
    records: Vec<Record>,
    /// Whether they come again until they are durable everywhere.
    until_done: bool,
    reply: oneshot::Sender<Result<(), AuditError>>,
}

impl Audit {
    /// Opens every sink, first completing it with those of `unacknowledged` that it lacks.
    ///
    /// # Errors
    ///
    /// A sink cannot be opened or written.
    pub fn open(sinks: &[Sink], unacknowledged: &[Record]) -> Result<Self, AuditError> {
        let mut open = sinks.iter().map(OpenSink::open).collect::<Result<Vec<_>, _>>()?;
        for sink in &mut open {
            sink.recover(unacknowledged)?;
        }
        let (writer, jobs) = mpsc::channel();
        thread::Builder::new()
            .name("audit-writer".to_owned())
            .spawn(move || write_all(&mut open, &jobs))
            .map_err(|error| AuditError(error.to_string()))?;
        Ok(Self { writer })
    }

    /// Writes `records` to every sink and returns when they are durable there.
    ///
    /// # Errors
    ///
    /// A sink could not be written: whatever the records tell of must not go ahead.
    pub async fn write(&self, records: Vec<Record>) -> Result<(), AuditError> {
        self.send(records, false).await
    }

    /// The same for records that the caller brings again until they are durable everywhere: a sink that has them already
    /// gets them once.
    ///
    /// # Errors
    ///
    /// See [`Self::write`].
    pub async fn write_until_done(&self, records: Vec<Record>) -> Result<(), AuditError> {
        self.send(records, true).await
    }

    async fn send(&self, records: Vec<Record>, until_done: bool) -> Result<(), AuditError> {
        let gone = || AuditError("its writer has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        self.writer.send(Job { records, until_done, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn write_all(sinks: &mut [OpenSink], jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(BATCH - 1)).collect();
        let mut result = Ok(());
        for sink in &mut *sinks {
            // Every sink gets its try, so that one full disk does not empty the other log.
            result = result.and(sink.write(&batch));
        }
        if result.is_ok() {
            for sink in &mut *sinks {
                for record in batch.iter().flat_map(|job| &job.records) {
                    sink.ahead.remove(&record.id);
                }
            }
        }
        for job in batch {
            let _ = job.reply.send(result.as_ref().map(|&()| ()).map_err(|error| AuditError(error.0.clone())));
        }
    }
}

fn serialize_line(record: &Record, lines: &mut Vec<u8>) {
    serde_json::to_writer(&mut *lines, record).expect("a record has no failing Serialize and a Vec takes all");
    lines.push(b'\n');
}

struct OpenSink {
    place: Place,
    /// Records that are durable here, not everywhere, and will come again.
    ahead: HashSet<String>,
}

enum Place {
    File { path: PathBuf, file: File },
    Stdout,
}

impl OpenSink {
    fn open(sink: &Sink) -> Result<Self, AuditError> {
        let place = match sink {
            Sink::Stdout => Place::Stdout,
            Sink::File { path } => {
                let file = open_log(path).map_err(|error| unavailable(path, &error))?;
                Place::File { path: path.clone(), file }
            }
        };
        Ok(Self { place, ahead: HashSet::new() })
    }

    /// Completes a log that a crash cut short: ends a torn last line, and appends the records that did not make it.
    fn recover(&mut self, unacknowledged: &[Record]) -> Result<(), AuditError> {
        let mut missing: Vec<&Record> = unacknowledged.iter().collect();
        if let Place::File { path, file } = &mut self.place {
            let tail = read_tail(file).map_err(|error| unavailable(path, &error))?;
            if tail.last().is_some_and(|&byte| byte != b'\n') {
                file.write_all(b"\n").map_err(|error| unavailable(path, &error))?;
            }
            strike(&mut missing, &tail);
            for rotated in rotated_logs(path, &missing) {
                // One that cannot be read is as good as none: a record may come twice, and is never lost.
                if let Ok(tail) = File::open(rotated).and_then(|mut file| read_tail(&mut file)) {
                    strike(&mut missing, &tail);
                }
            }
        }
        let mut lines = Vec::new();
        for record in missing {
            serialize_line(record, &mut lines);
        }
        if lines.is_empty() { Ok(()) } else { self.append(&lines) }
    }

    /// Appends what of a batch is not here yet.
    fn write(&mut self, batch: &[Job]) -> Result<(), AuditError> {
        let mut lines = Vec::new();
        for record in batch.iter().flat_map(|job| &job.records).filter(|record| !self.ahead.contains(&record.id)) {
            serialize_line(record, &mut lines);
        }
        self.append(&lines)?;
        let come_again = batch.iter().filter(|job| job.until_done).flat_map(|job| &job.records);
        self.ahead.extend(come_again.map(|record| record.id.clone()));
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), AuditError> {
        match &mut self.place {
            Place::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout
                    .write_all(lines)
                    .and_then(|()| stdout.flush())
                    .map_err(|error| AuditError(format!("standard output: {error}")))
            }
            Place::File { path, file } => append_durably(path, file, lines).map_err(|error| unavailable(path, &error)),
        }
    }
}

/// Takes the records out of `missing` that the end of a log has.
fn strike(missing: &mut Vec<&Record>, tail: &[u8]) {
    let present: HashSet<String> = tail
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Record>(line).ok())
        .map(|record| record.id)
        .collect();
    missing.retain(|record| !present.contains(&record.id));
}

/// What the log at `path` may have been renamed to since the first of `missing` was made: files beside it whose names begin
/// like its own (`audit.jsonl.1`, `audit-20270115.jsonl`).
fn rotated_logs(path: &Path, missing: &[&Record]) -> Vec<PathBuf> {
    let (Some(oldest), Some(stem)) = (missing.iter().map(|record| record.time).min(), path.file_stem()) else {
        return Vec::new();
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_rotated = |file: &fs::DirEntry| {
        let is_recent = |about: fs::Metadata| {
            let modified = about.modified().map(DateTime::<Utc>::from);
            about.is_file() && modified.is_ok_and(|modified| modified >= oldest - MTIME_SLACK)
        };
        file.file_name().as_encoded_bytes().starts_with(stem.as_encoded_bytes())
            && Some(file.file_name().as_os_str()) != path.file_name()
            && file.metadata().is_ok_and(is_recent)
    };
    let files = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    files.filter(is_rotated).map(|file| file.path()).collect()
}

fn unavailable(path: &Path, error: &io::Error) -> AuditError {
    AuditError(format!("{}: {error}", path.display()))
}

fn open_log(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// Appends and flushes. A write that fails half way is taken back, so that the next one starts on a line of its own.
fn append_durably(path: &Path, file: &mut File, lines: &[u8]) -> io::Result<()> {
    if rotated(path, file) {
        *file = open_log(path)?;
    }
    let before = file.metadata()?.len();
    if lines.is_empty() {
        check_room(file, before)?;
    }
    let written = file.write_all(lines).and_then(|()| file.sync_data());
    if written.is_err() {
        // The failed write is the error worth telling; if even this fails, the line ends when the log is opened again.
        let _ = file.set_len(before);
    }
    written
}

/// Whether the disk has room for what comes next: asked by a write of nothing, before it matters. Reserves that room;
/// where the file system does not know how, the next record will tell.
#[cfg(target_os = "linux")]
fn check_room(file: &File, end: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::KEEP_SIZE, end, ROOM) {
        Err(full @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(full.into()),
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn check_room(_file: &File, _end: u64) -> io::Result<()> {
    Ok(())
}

/// Whether the log was renamed or deleted under us (logrotate).
#[cfg(unix)]
fn rotated(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(ours)) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
        (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

#[cfg(not(unix))]
fn rotated(path: &Path, _file: &File) -> bool {
    !path.exists()
}

fn read_tail(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let window = length.min(RECOVERY_WINDOW);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length - window))?;
    file.take(window).read_to_end(&mut tail)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(user: &str) -> Record {
        Record { user: user.to_owned(), ..Record::new(Event::Use, DateTime::UNIX_EPOCH) }
    }

    fn users(path: &Path) -> Vec<String> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .filter_map(|line| serde_json::from_str::<Record>(line).ok())
            .map(|record| record.user)
            .collect()
    }

    #[tokio::test]
    async fn what_a_crash_left_out_is_written_once_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let sinks = [Sink::File { path: path.clone() }];
        let (written, lost) = (record("written"), record("lost"));
        Audit::open(&sinks, &[]).unwrap().write(vec![written.clone()]).await.unwrap();
        // A torn line, as power loss leaves it.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(br#"{"id":"au-to"#).unwrap();

        for _ in 0..2 {
            Audit::open(&sinks, &[written.clone(), lost.clone()]).unwrap();
            assert_eq!(users(&path), ["written", "lost"]);
        }
    }

    #[tokio::test]
    async fn a_renamed_log_is_followed_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(&[Sink::File { path: path.clone() }], &[]).unwrap();
        audit.write(vec![record("a")]).await.unwrap();
        fs::rename(&path, dir.path().join("audit.jsonl.1")).unwrap();
        audit.write(vec![record("b")]).await.unwrap();
        assert_eq!(users(&path), ["b"]);
        assert_eq!(users(&dir.path().join("audit.jsonl.1")), ["a"]);
    }

    #[tokio::test]
    async fn a_crash_just_after_a_rotation_repeats_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let sinks = [Sink::File { path: path.clone() }];
        for rotated in ["audit.jsonl.1", "audit-20270115.jsonl"] {
            let [before, after, lost] = ["before", "after", "lost"].map(record);
            let audit = Audit::open(&sinks, &[]).unwrap();
            audit.write(vec![before.clone()]).await.unwrap();
            fs::rename(&path, dir.path().join(rotated)).unwrap();
            audit.write(vec![after.clone()]).await.unwrap();
            Audit::open(&sinks, &[before.clone(), after, lost]).unwrap();
            assert_eq!(users(&path), ["after", "lost"], "{rotated}");
            fs::remove_file(&path).unwrap();
            Audit::open(&sinks, &[before]).unwrap();
            assert_eq!(users(&path), [""; 0], "{rotated}: nothing was written since");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_full_disk_is_an_error_and_never_a_lost_record() {
        assert!(Audit::open(&[Sink::File { path: "/dev/full".into() }], &[record("a")]).is_err());
        let audit = Audit::open(&[Sink::File { path: "/dev/full".into() }], &[]).unwrap();
        assert!(audit.write(vec![record("a")]).await.is_err());
    }

    #[tokio::test]
    async fn what_comes_again_because_one_log_failed_is_in_the_other_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |place: &str| dir.path().join(place).join("audit.jsonl");
        let sinks = ["a", "b"].map(|place| {
            fs::create_dir(dir.path().join(place)).unwrap();
            Sink::File { path: at(place) }
        });
        let audit = Audit::open(&sinks, &[]).unwrap();
        let [first, second, dropped] = ["first", "second", "dropped"].map(record);
        for failing in ["b", "a"] {
            let (place, away) = (dir.path().join(failing), dir.path().join("away"));
            fs::rename(&place, &away).unwrap();
            for again in [vec![first.clone()], vec![first.clone(), second.clone()], vec![]] {
                assert!(audit.write_until_done(again).await.is_err());
            }
            assert!(audit.write(vec![dropped.clone()]).await.is_err());
            fs::rename(&away, &place).unwrap();
            audit.write_until_done(vec![first.clone(), second.clone()]).await.unwrap();
            let working = at(if failing == "a" { "b" } else { "a" });
            assert_eq!(users(&working), ["first", "second", "dropped"], "{failing} failed");
            assert_eq!(users(&at(failing)), ["first", "second"], "{failing} failed");
            for place in ["a", "b"] {
                fs::write(at(place), "").unwrap();
            }
        }
        // A record of what is over and done with is nothing to look out for any more.
        audit.write(vec![first]).await.unwrap();
        assert_eq!((users(&at("a")), users(&at("b"))), (vec!["first".to_owned()], vec!["first".to_owned()]));
    }

    #[cfg(unix)]
    #[test]
    fn the_log_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        Audit::open(&[Sink::File { path: path.clone() }], &[]).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
