//! `get-token`, the client-go exec plugin: the hot path.
//!
//! client-go runs it before the first request of every command and, as the answer expires at once, before nearly every
//! further one. So it reads one file and answers: no network, no keyring, no threads, no profile even. Only a later call
//! of the same process, which may have been denied meanwhile, asks stepup-server for challenges; and, where preflight is
//! on, the first call of a kubectl that is about to do something that is protected and would not be repeated.

use std::env;
use std::fs::OpenOptions;
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::action::Action;
use crate::client::api::Server;
use crate::client::cache::{self, Elevated, Session};
use crate::client::error::Error;
use crate::client::parent::{self, Asker, Process, Scope};
use crate::client::paths::{self, Files, Paths};
use crate::client::preflight::digest::{self, Kept};
use crate::client::preflight::{Hint, Repeats};
use crate::client::profile::{self, Profile, ProviderOnly};
use crate::client::provider_only::{self, OwnToken};
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
/// And at least this old: it has waited the second of its 429 (`Retry-After: 1`), by the server's clock and ours.
const RIPE: TimeDelta = TimeDelta::milliseconds(900);
/// A program that nothing tells about gives way this long to the one that was denied, if that is another: it comes a
/// second after its denial to the moment, and an idle tool that happens to ask just then must not take its grant.
const GIVE_WAY: Duration = Duration::from_millis(300);
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
        Self { token: elevated.token, expires_at: elevated.expires_at - Elevated::MARGIN }
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
        let stepped_up = match self.is_first {
            true if session.preflight => self.beforehand(&files, &session),
            false if session.step_up_enabled => self.after_denial(&files, &session),
            _ => Ok(None),
        };
        // Nothing that goes wrong here keeps a valid token from the caller: the API server then says what is missing.
        match stepped_up {
            Ok(Some(elevated)) => return Ok(elevated.into()),
            Ok(None) => {}
            Err(error) => output::note(format_args!("kubectl-stepup: {error}")),
        }
        let held = held(&files, self.visible(), (self.clock)());
        Ok(held.map_or_else(|| session.into(), Into::into))
    }

    /// The base session, and where its files are.
    fn session(&self, files: Files) -> Result<(Session, Files), Error> {
        let is_live = |session: &Session| session.is_live((self.clock)(), session::MARGIN);
        if let Some(session) = cache::session(&files).filter(is_live) {
            return Ok((session, files));
        }
        let profile = Profile::load(&self.paths, &self.args.profile)?;
        let session = session::current_or_login(&profile, || self.person_may_sign_in(), self.clock)?;
        if !was_unreachable(&profile.files, (self.clock)()) {
            digest::renew(&profile, digest::WITH_SESSION, self.clock);
        }
        Ok((session, profile.files))
    }

    /// Whether to ask for an ordinary sign-in. A command was typed just now, and so was what any program asks for first;
    /// one that stays (k9s, an informer) asks again and again, whether or not anybody is before it.
    fn person_may_sign_in(&self) -> bool {
        let is_typed = || self.is_first || Hint::about(self.asker.as_ref()).is_known();
        prompt::person_is_there() && (is_typed() || prompt::person_is_typing())
    }

    /// Scopes whose elevated tokens the asking process may use, its own first. Nothing is its own at its first call.
    fn visible(&self) -> impl Iterator<Item = Scope> {
        let own = self.asker.filter(|_| !self.is_first).map(|asker| Scope::Process(asker.process));
        own.into_iter().chain(parent::surroundings(self.asker))
    }

    /// The elevated token for what kubectl is about to do, where that is protected and would not be repeated.
    fn beforehand(&self, files: &Files, session: &Session) -> Result<Option<Elevated>, Error> {
        let clock = self.clock;
        let Some(asker) = &self.asker else { return Ok(None) };
        let repeats = if session.step_up_enabled { Repeats::Writes } else { Repeats::Nothing };
        let protected = Hint::about(Some(asker)).protected(repeats, || Kept::read(files));
        if protected.is_empty() || was_unreachable(files, clock()) {
            return Ok(None);
        }
        let profile = Profile::load(&self.paths, &self.args.profile)?;
        let interactive = prompt::person_is_there();
        if !interactive && cache::sign_in(&profile.sign_ins(), &asker.terminal_of_program()).is_none() {
            // What somebody armed this terminal with may do; if not, nobody is here to be asked for more.
            let is_armed = held(files, self.visible(), clock()).is_some();
            return if is_armed { Ok(None) } else { Err(Error::NobodyThere) };
        }
        if let Some(settings) = &profile.provider_only {
            return self.at_the_provider(&profile, settings, session, protected, interactive);
        }
        // Without it the command fails anyway, so it is worth waiting for.
        let server = Server::patient(&profile, &session.base_token)?;
        let ask = || noting_failure(files, server.ask(&protected));
        if held(files, self.visible(), clock()).is_some()
            && let Some(elevated) = self.covering(&ask()?.challenges, files)
        {
            return Ok(Some(elevated));
        }
        // One at a time from here: fifty at once ask the server one after the other, each for a grant of its own.
        let turn = Turn::take(&profile, interactive, clock)?;
        let answer = ask()?;
        if answer.challenges.is_empty() {
            digest::refresh(&profile, &server, &answer.user, digest::AFTER_SURPRISE, clock());
            return Ok(None);
        }
        let elevated = turn.take_up(&server, &answer.challenges, &self.options(interactive))?;
        digest::refresh(&profile, &server, &answer.user, digest::USUAL_AGE, clock());
        Ok(Some(elevated))
    }

    /// The same where there is no stepup-server: the token of a stronger sign-in, if the base token will not do.
    fn at_the_provider(
        &self,
        profile: &Profile,
        settings: &ProviderOnly,
        session: &Session,
        protected: Vec<Action>,
        interactive: bool,
    ) -> Result<Option<Elevated>, Error> {
        let clock = self.clock;
        // One strong token is as good as another.
        if self.asker.is_some() && held(&profile.files, self.visible(), clock()).is_some() {
            return Ok(None);
        }
        let locked = provider_only::locked(profile, &session.base_token, protected)?;
        if locked.is_empty() {
            return Ok(None);
        }
        let turn = Turn::take(profile, interactive, clock)?;
        let own = OwnToken { settings, person: &session.person, clock };
        let challenge = provider_only::challenge(settings, &locked, clock());
        turn.take_up(&own, &[challenge], &self.options(interactive)).map(Some)
    }

    /// The elevated token that answers a denial of this process, if there was one.
    fn after_denial(&self, files: &Files, session: &Session) -> Result<Option<Elevated>, Error> {
        let clock = self.clock;
        let hint = Hint::about(self.asker.as_ref());
        if !hint.can_be_repeated() || was_unreachable(files, clock()) {
            return Ok(None);
        }
        let profile = Profile::load(&self.paths, &self.args.profile)?;
        let server = Server::new(&profile, &session.base_token)?;
        let mut denials = Denials { hint, ours: Vec::new() };
        let pending = noting_failure(files, server.challenges())?;
        let Some(mut challenge) = denials.newest_in(&pending) else {
            digest::refresh(&profile, &server, &pending.user, digest::USUAL_AGE, clock());
            return Ok(None);
        };
        if !denials.hint.is_known() {
            thread::sleep(GIVE_WAY);
            let Some(still) = denials.newest_in(&server.challenges()?) else { return Ok(None) };
            challenge = still;
        }
        if let Some(elevated) = self.covering(std::slice::from_ref(&challenge), files) {
            return Ok(Some(elevated));
        }
        let options = self.options(prompt::person_is_there());
        let turn = Turn::take(&profile, options.interactive, clock)?;
        if !turn.waited() {
            return turn.take_up(&server, &[challenge], &options).map(Some);
        }
        // Whoever went first may have answered this one, and a denial is no longer recent after somebody's sign-in.
        let Some(challenge) = denials.newest_in(&server.challenges()?) else { return Ok(None) };
        match self.covering(std::slice::from_ref(&challenge), files) {
            Some(elevated) => Ok(Some(elevated)),
            None => turn.take_up(&server, &[challenge], &options).map(Some),
        }
    }

    fn options(&self, interactive: bool) -> StepUpOptions {
        StepUpOptions { reason: self.args.reason.clone(), ttl: None, bind: Bind::Parent, interactive }
    }

    /// A token held for this process that already covers all of `challenges`.
    fn covering(&self, challenges: &[Challenge], files: &Files) -> Option<Elevated> {
        let grants: Vec<&String> =
            challenges.iter().map(|challenge| challenge.covered_by.as_ref()).collect::<Option<_>>()?;
        self.asker?;
        let held = self.visible().flat_map(|scope| cache::elevated(files, &scope, (self.clock)()));
        held.into_iter().find(|elevated| grants.iter().all(|grant| elevated.has(grant)))
    }
}

/// Remembers a server that cannot be reached, so that nothing waits for it again at once.
fn noting_failure<T>(files: &Files, outcome: Result<T, Error>) -> Result<T, Error> {
    if let Err(Error::Server { .. }) = &outcome {
        let _ = cache::write_bytes(&files.state(UNREACHABLE), b"");
    }
    outcome
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
        Ok(mark) => {
            paths::hand_over(&mark, &files.parents());
            true
        }
        Err(error) => error.kind() != io::ErrorKind::AlreadyExists,
    }
}

/// The newest live elevated token of the first of `scopes` that has one.
pub fn held(files: &Files, scopes: impl Iterator<Item = Scope>, now: DateTime<Utc>) -> Option<Elevated> {
    scopes.flat_map(|scope| cache::elevated(files, &scope, now)).find(|elevated| elevated.grant.uses_left != Some(0))
}

/// Finds the denial of this process among the pending challenges: the server cannot tell which of a person's processes
/// made a request.
struct Denials {
    hint: Hint,
    /// Challenges that were ours when we first looked.
    ours: Vec<String>,
}

impl Denials {
    /// The newest challenge that was just raised by a request that this process may have made and will repeat: one that
    /// its arguments name, if there is one.
    fn newest_in(&mut self, pending: &ChallengeList) -> Option<Challenge> {
        let is_recent = |challenge: &Challenge| {
            challenge.denied_at.is_some_and(|at| (RIPE..=RECENT).contains(&(pending.server_time - at)))
        };
        let may_be_ours = |challenge: &&Challenge| {
            let seen = self.ours.contains(&challenge.id);
            seen || is_recent(challenge) && challenge.actions.iter().any(|action| self.hint.may(action))
        };
        let ours: Vec<&Challenge> = pending.challenges.iter().filter(may_be_ours).collect();
        let is_named = |challenge: &&&Challenge| challenge.actions.iter().any(|action| self.hint.names(action));
        let newest = ours.iter().find(is_named).or(ours.first()).map(|challenge| (*challenge).clone());
        self.ours = ours.iter().map(|challenge| challenge.id.clone()).collect();
        newest
    }
}

fn was_unreachable(files: &Files, now: DateTime<Utc>) -> bool {
    cache::age(&files.state(UNREACHABLE), now).is_some_and(|age| age < LEAVE_ALONE)
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
            preflight: false,
            issuer: String::new(),
            client_id: String::new(),
            person: cache::Person::default(),
        };
        let life = |margin| (0..70).take_while(|second| session.is_live(at(second * 1000), margin)).count();
        assert_eq!((life(0), life(session::MARGIN)), (60, 50));
    }

    #[test]
    fn a_denial_is_ours_while_it_is_recent_and_for_as_long_as_we_wait_for_our_turn() {
        let arguments = ["kubectl", "delete", "ns", "prod"].map(str::to_owned).to_vec();
        let mut denials = Denials { hint: Hint::of(arguments, |_| None), ours: Vec::new() };
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
        assert_eq!(denials.newest_in(&pending(0)), None, "whoever was denied just now still waits");
        assert_eq!(denials.newest_in(&pending(5)).unwrap().id, "denied");
        assert_eq!(denials.newest_in(&pending(99)).unwrap().id, "denied", "we know it from before");
        denials.ours.clear();
        assert_eq!(denials.newest_in(&pending(6)), None);
    }
}
