//! `get-token`, the client-go exec plugin: the hot path.
//!
//! client-go runs it before the first request of every command and, as the answer expires at once, before nearly every
//! further one. So it reads one file and answers: no network, no keyring, no threads, no profile even. Only a later call
//! of the same process, which may have been denied meanwhile, asks stepup-server for challenges.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};

use crate::client::api::Server;
use crate::client::cache::{self, Elevated, Session};
use crate::client::error::Error;
use crate::client::parent::{Asker, Intent, Process, Scope};
use crate::client::paths::{self, Files, Paths};
use crate::client::profile::{self, Profile};
use crate::client::step_up::{Bind, StepUpOptions, Turn};
use crate::client::{Clock, output, prompt, session};
use crate::secret::Secret;
use crate::wire::challenge::{Challenge, ChallengeList};
use crate::wire::exec_credential::{ApiVersion, ExecCredential, ExecInfo};

/// Just under the second that a 429 asks the client to wait (`Retry-After: 1`), so that client-go
/// (`now.After(expirationTimestamp)`) always runs us again before it repeats a denied request.
const LIFE: TimeDelta = TimeDelta::milliseconds(900);
/// A denial of this process is at most this old when client-go runs us again.
const RECENT: TimeDelta = TimeDelta::seconds(5);
/// How long not to ask a server that could not be reached: nothing unprotected is to be delayed.
const LEAVE_ALONE: Duration = Duration::from_secs(15);
const UNREACHABLE: &str = "server-unreachable";

/// Print a token for the Kubernetes API server, as an ExecCredential (kubectl runs this; people do not).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Profile to use
    #[arg(long, env = "KUBECTL_STEPUP_PROFILE", default_value = "default")]
    pub profile: profile::Name,
    /// Why protected actions of this command are needed
    #[arg(long, env = "KUBECTL_STEPUP_REASON")]
    pub reason: Option<String>,
}

/// Runs the plugin.
pub fn run(args: &Args) -> ExitCode {
    let version = asked_version();
    match token(args, Utc::now) {
        Ok(answer) => {
            let credential = ExecCredential::new(version, &answer.token, expiration(answer.expires_at, Utc::now()));
            match output::protocol(&credential) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => output::failure(&error),
    }
}

/// The version that client-go wants. Some programs run plugins with an empty KUBERNETES_EXEC_INFO, or none
/// (Azure/kubelogin#150).
fn asked_version() -> ApiVersion {
    match env::var("KUBERNETES_EXEC_INFO") {
        Ok(text) if !text.trim().is_empty() => {
            let info = serde_json::from_str(&text).unwrap_or_else(|_| {
                output::note("kubectl-stepup: KUBERNETES_EXEC_INFO makes no sense; answering in version v1");
                ExecInfo::default()
            });
            info.api_version
        }
        _ => ApiVersion::default(),
    }
}

/// What client-go is told of the token's life: never more than [`LIFE`], never the past.
fn expiration(token_expires_at: i64, now: DateTime<Utc>) -> DateTime<Utc> {
    let soon = now + LIFE;
    DateTime::from_timestamp(token_expires_at, 0).map_or(soon, |expires| expires.clamp(now, soon))
}

/// A token to print.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    token: Secret,
    /// Unix seconds.
    expires_at: i64,
}

impl From<Session> for Answer {
    fn from(session: Session) -> Self {
        Self { token: session.base_token, expires_at: session.base_expires_at }
    }
}

impl From<Elevated> for Answer {
    fn from(elevated: Elevated) -> Self {
        Self { token: elevated.token, expires_at: elevated.expires_at }
    }
}

fn token(args: &Args, clock: Clock) -> Result<Answer, Error> {
    let paths = Paths::find();
    let mut files = paths.of(args.profile.as_str());
    let live = |files: &Files| cache::session(files).filter(|session| session.is_live(clock(), session::MARGIN));
    let session = if let Some(session) = live(&files) {
        session
    } else {
        let profile = Profile::load(&paths, &args.profile)?;
        let session = session::current_or_login(&profile, clock)?;
        files = profile.files;
        session
    };
    let Some(asker) = Asker::find() else {
        // A platform that does not tell: every call may follow a denial.
        return Ok(after_denial_or_base(args, &paths, &files, session, None, clock));
    };
    if is_first_call(&files, args.profile.as_str(), asker.process) {
        return Ok(held(&files, asker.surroundings(), clock()).map_or_else(|| session.into(), Into::into));
    }
    if !session.step_up_enabled || !asker.intent().can_be_repeated() {
        return Ok(newest_held(&files, &asker, clock()).map_or_else(|| session.into(), Into::into));
    }
    Ok(after_denial_or_base(args, &paths, &files, session, Some(asker), clock))
}

/// Whether this is the first time that `process` asks. Later calls may come after a denial.
fn is_first_call(files: &Files, profile: &str, process: Process) -> bool {
    let marked =
        |files: &Files| OpenOptions::new().write(true).create_new(true).open(files.parents().join(process.to_string()));
    let outcome = marked(files).or_else(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        let files = files.clone().settled(profile);
        let _ = paths::make_private_dir(&files.parents());
        marked(&files)
    });
    match outcome {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AlreadyExists,
    }
}

/// The newest live elevated token of the first of `scopes` that has one.
fn held(files: &Files, scopes: impl Iterator<Item = Scope>, now: DateTime<Utc>) -> Option<Elevated> {
    scopes.flat_map(|scope| cache::elevated(files, &scope, now)).find(|elevated| elevated.grant.uses_left != Some(0))
}

fn newest_held(files: &Files, asker: &Asker, now: DateTime<Utc>) -> Option<Elevated> {
    held(files, visible(asker), now)
}

fn visible(asker: &Asker) -> impl Iterator<Item = Scope> {
    [Scope::Process(asker.process)].into_iter().chain(asker.surroundings())
}

/// The elevated token that answers a denial of this process, or what it may use otherwise. Nothing that goes wrong here
/// keeps a valid token from the caller: the API server then says what is missing.
fn after_denial_or_base(
    args: &Args,
    paths: &Paths,
    files: &Files,
    session: Session,
    asker: Option<Asker>,
    clock: Clock,
) -> Answer {
    match after_denial(args, paths, files, &session, asker.as_ref(), clock) {
        Ok(Some(elevated)) => return elevated.into(),
        Ok(None) => {}
        Err(error) => output::note(format_args!("kubectl-stepup: {error}")),
    }
    let held = asker.and_then(|asker| newest_held(files, &asker, clock()));
    held.map_or_else(|| session.into(), Into::into)
}

fn after_denial(
    args: &Args,
    paths: &Paths,
    files: &Files,
    session: &Session,
    asker: Option<&Asker>,
    clock: Clock,
) -> Result<Option<Elevated>, Error> {
    if !session.step_up_enabled || was_unreachable(files, clock()) {
        return Ok(None);
    }
    let profile = Profile::load(paths, &args.profile)?;
    let server = Server::new(&profile, &session.base_token)?;
    let mut denials = Denials { asker, ours: Vec::new() };
    let pending = server.challenges().inspect_err(|error| {
        if let Error::Server { .. } = error {
            let _ = cache::write_bytes(&files.state(UNREACHABLE), b"");
        }
    })?;
    let Some(challenge) = denials.newest_in(&pending) else { return Ok(None) };
    if let Some(elevated) = denials.covering(&challenge, files, clock()) {
        return Ok(Some(elevated));
    }
    let options = StepUpOptions {
        reason: args.reason.clone(),
        ttl: None,
        bind: Bind::Parent,
        interactive: prompt::person_is_there(),
    };
    let turn = Turn::take(&profile, options.interactive, clock)?;
    if !turn.waited() {
        return turn.take_up(&server, &[challenge], &options).map(Some);
    }
    // Whoever went first may have answered this one, and a denial is no longer recent after somebody's sign-in.
    let Some(challenge) = denials.newest_in(&server.challenges()?) else { return Ok(None) };
    match denials.covering(&challenge, files, clock()) {
        Some(elevated) => Ok(Some(elevated)),
        None => turn.take_up(&server, &[challenge], &options).map(Some),
    }
}

/// Finds the denial of this process among the pending challenges: the server cannot tell which of a person's processes
/// made a request.
struct Denials<'a> {
    asker: Option<&'a Asker>,
    /// Challenges that were ours when we first looked.
    ours: Vec<String>,
}

impl Denials<'_> {
    /// The newest challenge that was just raised by a request that this process may have made and will repeat: one that
    /// its arguments name, if there is one.
    fn newest_in(&mut self, pending: &ChallengeList) -> Option<Challenge> {
        let intent = self.asker.map_or(Intent::Unknown, Asker::intent);
        let is_recent = |challenge: &Challenge| {
            challenge.denied_at.is_some_and(|denied_at| pending.server_time - denied_at <= RECENT)
        };
        let may_be_ours = |challenge: &&Challenge| {
            let seen = self.ours.contains(&challenge.id);
            seen || is_recent(challenge) && challenge.actions.iter().any(|action| intent.may(action))
        };
        let ours: Vec<&Challenge> = pending.challenges.iter().filter(may_be_ours).collect();
        let is_named = |challenge: &&&Challenge| {
            let named = |asker: &Asker| challenge.actions.iter().any(|action| asker.names(action));
            self.asker.is_some_and(named)
        };
        let newest = ours.iter().find(is_named).or(ours.first()).map(|challenge| (*challenge).clone());
        self.ours = ours.iter().map(|challenge| challenge.id.clone()).collect();
        newest
    }

    /// A token held for this process that already covers `challenge`.
    fn covering(&self, challenge: &Challenge, files: &Files, now: DateTime<Utc>) -> Option<Elevated> {
        let (grant, asker) = (challenge.covered_by.as_ref()?, self.asker?);
        let held = visible(asker).flat_map(|scope| cache::elevated(files, &scope, now));
        held.into_iter().find(|elevated| elevated.has(grant))
    }
}

fn was_unreachable(files: &Files, now: DateTime<Utc>) -> bool {
    let Ok(modified) = fs::metadata(files.state(UNREACHABLE)).and_then(|data| data.modified()) else { return false };
    SystemTime::from(now).duration_since(modified).is_ok_and(|age| age < LEAVE_ALONE)
}
