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
    let paths = Paths::find();
    let files = paths.of(args.profile.as_str());
    let asker = Asker::find();
    // A platform that does not tell: every call may follow a denial.
    let is_first = asker.is_some_and(|asker| is_first_call(&files, args.profile.as_str(), asker.process));
    let call = Call { args, paths, asker, is_first, clock: Utc::now };
    let version = asked_version(is_first);
    match call.token(files) {
        Ok(answer) => {
            let expires = expiration(answer.expires_at, Utc::now());
            match output::protocol(&ExecCredential::new(version, &answer.token, expires)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => output::failure(&error),
    }
}

/// The version that client-go wants. Some programs run plugins with an empty KUBERNETES_EXEC_INFO, or none
/// (Azure/kubelogin#150).
fn asked_version(is_first: bool) -> ApiVersion {
    match env::var("KUBERNETES_EXEC_INFO") {
        Ok(text) if !text.trim().is_empty() => {
            let info = serde_json::from_str(&text).unwrap_or_else(|_| {
                if is_first {
                    output::note("kubectl-stepup: KUBERNETES_EXEC_INFO makes no sense; answering in version v1");
                }
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

/// One call of the plugin.
struct Call<'a> {
    args: &'a Args,
    paths: Paths,
    asker: Option<Asker>,
    is_first: bool,
    clock: Clock,
}

impl Call<'_> {
    fn token(&self, files: Files) -> Result<Answer, Error> {
        let (session, files) = self.session(files)?;
        let asker = self.asker.as_ref();
        if !self.is_first && session.step_up_enabled {
            // Nothing that goes wrong here keeps a valid token from the caller: the API server then says what is missing.
            match self.after_denial(&files, &session) {
                Ok(Some(elevated)) => return Ok(elevated.into()),
                Ok(None) => {}
                Err(error) => output::note(format_args!("kubectl-stepup: {error}")),
            }
        }
        let held = asker.and_then(|asker| held(&files, self.visible(asker), (self.clock)()));
        Ok(held.map_or_else(|| session.into(), Into::into))
    }

    /// The base session, and where its files are.
    fn session(&self, files: Files) -> Result<(Session, Files), Error> {
        let is_live = |session: &Session| session.is_live((self.clock)(), session::MARGIN);
        if let Some(session) = cache::session(&files).filter(is_live) {
            return Ok((session, files));
        }
        let profile = Profile::load(&self.paths, &self.args.profile)?;
        Ok((session::current_or_login(&profile, self.clock)?, profile.files))
    }

    /// Scopes whose elevated tokens the asking process may use, its own first. Nothing is its own at its first call.
    fn visible(&self, asker: &Asker) -> impl Iterator<Item = Scope> {
        let own = (!self.is_first).then_some(Scope::Process(asker.process));
        own.into_iter().chain(asker.surroundings())
    }

    /// The elevated token that answers a denial of this process, if there was one.
    fn after_denial(&self, files: &Files, session: &Session) -> Result<Option<Elevated>, Error> {
        let clock = self.clock;
        let intent = self.asker.as_ref().map_or(Intent::Unknown, Asker::intent);
        if !intent.can_be_repeated() || was_unreachable(files, clock()) {
            return Ok(None);
        }
        let profile = Profile::load(&self.paths, &self.args.profile)?;
        let server = Server::new(&profile, &session.base_token)?;
        let mut denials = Denials { asker: self.asker.as_ref(), intent, ours: Vec::new() };
        let pending = server.challenges().inspect_err(|error| {
            if let Error::Server { .. } = error {
                let _ = cache::write_bytes(&files.state(UNREACHABLE), b"");
            }
        })?;
        let Some(challenge) = denials.newest_in(&pending) else { return Ok(None) };
        if let Some(elevated) = self.covering(&challenge, files) {
            return Ok(Some(elevated));
        }
        let options = StepUpOptions {
            reason: self.args.reason.clone(),
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
        match self.covering(&challenge, files) {
            Some(elevated) => Ok(Some(elevated)),
            None => turn.take_up(&server, &[challenge], &options).map(Some),
        }
    }

    /// A token held for this process that already covers `challenge`.
    fn covering(&self, challenge: &Challenge, files: &Files) -> Option<Elevated> {
        let (grant, asker) = (challenge.covered_by.as_ref()?, self.asker.as_ref()?);
        let held = self.visible(asker).flat_map(|scope| cache::elevated(files, &scope, (self.clock)()));
        held.into_iter().find(|elevated| elevated.has(grant))
    }
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

/// Finds the denial of this process among the pending challenges: the server cannot tell which of a person's processes
/// made a request.
struct Denials<'a> {
    asker: Option<&'a Asker>,
    intent: Intent,
    /// Challenges that were ours when we first looked.
    ours: Vec<String>,
}

impl Denials<'_> {
    /// The newest challenge that was just raised by a request that this process may have made and will repeat: one that
    /// its arguments name, if there is one.
    fn newest_in(&mut self, pending: &ChallengeList) -> Option<Challenge> {
        let is_recent = |challenge: &Challenge| {
            challenge.denied_at.is_some_and(|denied_at| pending.server_time - denied_at <= RECENT)
        };
        let may_be_ours = |challenge: &&Challenge| {
            let seen = self.ours.contains(&challenge.id);
            seen || is_recent(challenge) && challenge.actions.iter().any(|action| self.intent.may(action))
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
}

fn was_unreachable(files: &Files, now: DateTime<Utc>) -> bool {
    let Ok(modified) = fs::metadata(files.state(UNREACHABLE)).and_then(|data| data.modified()) else { return false };
    SystemTime::from(now).duration_since(modified).is_ok_and(|age| age < LEAVE_ALONE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + milliseconds).unwrap()
    }

    fn challenge(id: &str, verb: &str, denied_at: Option<DateTime<Utc>>) -> Challenge {
        serde_json::from_value(json!({
            "id": id, "rule": "r", "actions": [{"verb": verb, "resource": "namespaces", "name": "prod"}],
            "acrValues": ["mfa"], "grant": {"ttl": 300, "covers": []},
            "createdAt": at(0), "deniedAt": denied_at, "expiresAt": at(600_000),
        }))
        .unwrap()
    }

    #[test]
    fn what_client_go_is_told_expires_before_a_429_is_repeated_and_never_in_the_past() {
        let token_expires = at(60_000).timestamp();
        for now in (0..60_000).step_by(333).map(at) {
            let told = expiration(token_expires, now);
            assert!(told >= now && told - now < TimeDelta::seconds(1), "{now} {told}");
            assert!(told <= at(60_000));
        }
        assert_eq!(expiration(token_expires, at(0)), at(900));
        assert_eq!(expiration(token_expires, at(59_500)), at(60_000));
        assert_eq!(expiration(token_expires, at(61_000)), at(61_000));
    }

    #[test]
    fn a_session_is_renewed_before_it_ends() {
        let session = Session {
            version: 1,
            base_token: Secret::new("t"),
            base_expires_at: at(60_000).timestamp(),
            step_up_enabled: true,
            issuer: String::new(),
            client_id: String::new(),
            user: String::new(),
        };
        let life = |margin| (0..70).take_while(|second| session.is_live(at(second * 1000), margin)).count();
        assert_eq!((life(0), life(session::MARGIN)), (60, 50));
    }

    #[test]
    fn a_denial_is_ours_while_it_is_recent_and_for_as_long_as_we_wait_for_our_turn() {
        let mut denials = Denials { asker: None, intent: Intent::Write(&["delete"]), ours: Vec::new() };
        let pending = |seconds: i64| ChallengeList {
            user: "alice".to_owned(),
            server_time: at(seconds * 1000),
            challenges: vec![
                challenge("patched", "patch", Some(at(0))),
                challenge("asked-beforehand", "delete", None),
                challenge("denied", "delete", Some(at(0))),
            ],
            unprotected: vec![],
        };
        assert_eq!(denials.newest_in(&pending(5)).unwrap().id, "denied");
        assert_eq!(denials.newest_in(&pending(99)).unwrap().id, "denied", "we know it from before");
        denials.ours.clear();
        assert_eq!(denials.newest_in(&pending(6)), None);
    }
}
