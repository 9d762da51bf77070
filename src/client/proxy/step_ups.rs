//! Whose name requests go out in: the base token, or an elevated one that a step-up of this run has brought.
//!
//! Elevated tokens of a run live in its memory and nowhere else. stepup-server decides what they are good for; what is
//! remembered here of their uses only saves asking it.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::action::Action;
use crate::client::api::Server;
use crate::client::cache::{Elevated, Session};
use crate::client::error::Error;
use crate::client::get_token;
use crate::client::parent::{self, Asker};
use crate::client::preflight::digest::{self, Kept};
use crate::client::profile::{Profile, ProviderOnly};
use crate::client::prompt::{self, Interrupt};
use crate::client::provider_only::{self, OwnToken};
use crate::client::step_up::{self, Bind, StepUpOptions, Turn};
use crate::client::{Clock, output, session};
use crate::secret::Secret;
use crate::wire::challenge::{Challenge, ChallengeList};

/// A token is no longer presented this many seconds before it expires.
const MARGIN: i64 = 2;
/// Verbs that requests have. Others (`impersonate`, `bind`, …) are authorized beside the request itself.
const REQUESTS: [&str; 10] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "connect", "proxy"];
/// How long what the terminal holds (`kubectl stepup elevate`, `drop`) may have changed without us.
const SURROUNDINGS: Duration = Duration::from_secs(1);
/// How long a server that could not be reached is left alone.
const LEAVE_ALONE: Duration = Duration::from_secs(15);
/// How long the requests that a rule protects pass unasked after somebody declined: tools that poll (k9s) would ask
/// again every two seconds. Twice as long each time.
const QUIET: Duration = Duration::from_secs(30);
const MOST_QUIET: Duration = Duration::from_mins(15);
/// How long an action that no step-up helps is not asked about again.
const HOPELESS: Duration = Duration::from_mins(1);
/// How long a message is not repeated.
const SAID: Duration = Duration::from_mins(1);
/// Most actions that are remembered as such.
const MOST_HOPELESS: usize = 1000;

/// Tokens for requests, and the way to more of them.
pub struct StepUps {
    profile: Profile,
    options: StepUpOptions,
    interrupt: Interrupt,
    asker: Option<Asker>,
    clock: Clock,
    known: Mutex<Known>,
    /// One refresh at a time.
    refreshing: tokio::sync::Mutex<()>,
    /// One question at a time about what RBAC has refused. Whoever holds it waits for the server, and never for a person.
    asking: tokio::sync::Mutex<()>,
    /// One step-up at a time: whoever waits may be served by what it brings.
    turn: tokio::sync::Mutex<()>,
}

struct Known {
    session: Session,
    /// What the terminal holds, newest first, and when that was read.
    surroundings: (Option<Elevated>, Option<Instant>),
    own: Vec<Own>,
    /// By rule: until when to be quiet, and for how long that was.
    quiet: HashMap<String, (Instant, Duration)>,
    /// When the last step-up ended without a token.
    ended_at: Option<Instant>,
    unreachable: Option<Instant>,
    hopeless: HashMap<Action, Instant>,
    /// What was said last, and when: tools that poll would fill the screen with it.
    said: Option<(String, Instant)>,
}

/// An elevated token of this run.
struct Own {
    elevated: Elevated,
    /// Requests that may still be made with it, as far as we know.
    uses_left: Option<u32>,
    /// Counts the requests that are being made with it.
    in_flight: Arc<()>,
    since: Instant,
}

/// A token for one request.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The token.
    pub token: Secret,
    /// Whether it carries a grant that permits the request, as far as we know.
    pub covers: bool,
    _in_flight: Option<Arc<()>>,
}

/// What a refused request was told.
#[derive(Clone, Debug)]
pub struct Denial {
    /// The challenge that admission named.
    pub challenge: Option<String>,
    /// Everything that was said.
    pub body: hyper::body::Bytes,
    /// Whether stepup-server has said it, and not just RBAC.
    pub is_ours: bool,
    /// Whether these are words of the API server, of RBAC and of admission policies alike. An application behind it has
    /// others, and may have done what was asked.
    pub is_of_api_server: bool,
    /// What was tried, in the person's own name.
    pub action: Option<Action>,
    /// The token that was refused.
    pub token: Secret,
    /// [`Pass::covers`] of it.
    pub was_covered: bool,
    /// When the request was sent.
    pub since: Instant,
}

impl StepUps {
    /// For a profile that somebody is signed in to.
    pub fn new(profile: Profile, session: Session, reason: Option<String>, interrupt: Interrupt, clock: Clock) -> Self {
        let known = Known {
            session,
            surroundings: (None, None),
            own: Vec::new(),
            quiet: HashMap::new(),
            ended_at: None,
            unreachable: None,
            hopeless: HashMap::new(),
            said: None,
        };
        Self {
            profile,
            options: StepUpOptions { reason, ttl: None, bind: Bind::Caller, interactive: false },
            interrupt,
            asker: Asker::find(),
            clock,
            known: Mutex::new(known),
            refreshing: tokio::sync::Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The token for a request: one of this run that covers it, else what any command here would begin with.
    pub async fn pass(self: &Arc<Self>, action: Option<&Action>) -> Result<Pass, Error> {
        if let Some(pass) = action.and_then(|action| self.known().own_pass(action, None, (self.clock)().timestamp())) {
            return Ok(pass);
        }
        if let Some(pass) = self.surroundings(action) {
            return Ok(pass);
        }
        Ok(Pass { token: self.base_token().await?, covers: false, _in_flight: None })
    }

    /// Takes up what a refused request was told: by what somebody else's step-up has brought meanwhile, else by one of
    /// its own. `None`: nothing came of it, and the refusal stands.
    ///
    /// Goes on when the request is given up: the person may be in the middle of it, and the next request profits.
    pub async fn take_up(self: &Arc<Self>, denial: Denial) -> Option<Pass> {
        let this = Arc::clone(self);
        tokio::spawn(async move { this.taken_up(denial).await }).await.ok().flatten()
    }

    /// Whether a program may be told that it has a right which a review denies it: what it does then is taken up. Nobody is
    /// asked yet.
    pub async fn would_take_up(self: &Arc<Self>, denial: &Denial) -> bool {
        if denial.is_ours {
            return true;
        }
        // Where webhooks refuse what is protected, they say so, and the rest is RBAC's last word.
        let rbac_refuses = self.profile.provider_only.is_some() || !self.known().session.step_up_enabled;
        rbac_refuses && !matches!(self.beyond_help(denial).await, Break(None))
    }

    async fn taken_up(self: Arc<Self>, denial: Denial) -> Option<Pass> {
        // Whoever has the turn may be waiting for a person: nobody waits for that who need not.
        if let Break(settled) = self.settled(&denial) {
            return settled;
        }
        if !denial.is_ours
            && let Break(settled) = self.beyond_help(&denial).await
        {
            return settled;
        }
        let _turn = self.turn.lock().await;
        if let Break(settled) = self.settled(&denial) {
            return settled;
        }
        let this = Arc::clone(&self);
        // What is said goes to a terminal, which may be stopped: nobody else shall wait for it.
        let asked =
            tokio::task::spawn_blocking(move || this.step_up(&denial).inspect_err(|error| this.note_end(error)));
        asked.await.ok()?.ok().flatten()
    }

    /// What comes of a denial, where that can be told without asking anybody.
    fn settled(&self, denial: &Denial) -> ControlFlow<Option<Pass>> {
        // With a grant that permits it, it was refused by somebody whom no grant impresses: a quota, or an application
        // that may have done what was asked. Another grant would have it done twice.
        if !denial.is_ours && denial.was_covered {
            return Break(None);
        }
        let mut known = self.known();
        if known.ended_at.is_some_and(|ended| ended >= denial.since) {
            return Break(None);
        }
        let now = (self.clock)().timestamp();
        if let Some(action) = &denial.action
            && let Some(pass) = known.own_pass(action, Some(denial.since), now)
        {
            return Break(Some(pass));
        }
        if known.unreachable.is_some_and(|at| at.elapsed() < LEAVE_ALONE) {
            return Break(None);
        }
        let is_hopeless = denial.action.as_ref().is_none_or(|action| known.is_hopeless(action));
        if !denial.is_ours && is_hopeless { Break(None) } else { Continue(()) }
    }

    /// The same for what RBAC has refused, by asking the server whether a grant would change that: outside of all turns, one
    /// request after the other.
    async fn beyond_help(self: &Arc<Self>, denial: &Denial) -> ControlFlow<Option<Pass>> {
        let _one_at_a_time = self.asking.lock().await;
        self.settled(denial)?;
        let (this, denial) = (Arc::clone(self), denial.clone());
        let asked =
            tokio::task::spawn_blocking(move || this.has_help(&denial).inspect_err(|error| this.note_end(error)));
        let has_help = asked.await.is_ok_and(|asked| asked.unwrap_or(false));
        if has_help { Continue(()) } else { Break(None) }
    }

    fn has_help(&self, denial: &Denial) -> Result<bool, Error> {
        self.interrupt.lower();
        if self.profile.provider_only.is_some() {
            return Ok(denial.is_of_api_server && self.is_listed(denial));
        }
        if self.profile.server.is_none() {
            return Ok(false);
        }
        let session = session::current(&self.profile, self.clock)?;
        let server = Server::new(&self.profile, &session.base_token)?;
        self.challenge(&server, denial).map(|challenge| challenge.is_some())
    }

    /// Whether it is in the list of what takes a stronger sign-in, where there is no stepup-server to ask.
    fn is_listed(&self, denial: &Denial) -> bool {
        let Some(action) = &denial.action else { return false };
        digest::renew(&self.profile, digest::USUAL_AGE, self.clock);
        let is_listed = Kept::read(&self.profile.files).is_some_and(|kept| kept.protects(action));
        if !is_listed {
            self.known().remember_hopeless(action.clone());
        }
        is_listed
    }

    /// Without stepup-server: a stronger sign-in at the provider, whose token is good for all that the list has.
    fn step_up_at_the_provider(&self, settings: &ProviderOnly, denial: &Denial) -> Result<Option<Pass>, Error> {
        let actions: Vec<Action> = denial.action.iter().cloned().collect();
        let challenge = provider_only::challenge(settings, &actions, (self.clock)());
        if let Some(pass) = self.known().any_pass((self.clock)().timestamp()) {
            return Ok((pass.token != denial.token).then_some(pass));
        }
        if self.known().is_quiet(&challenge.rule) {
            return Ok(None);
        }
        let session = session::current(&self.profile, self.clock)?;
        let options = StepUpOptions { interactive: prompt::person_is_there(), ..self.options.clone() };
        let turn = Turn::take(&self.profile, options.interactive, self.clock)?;
        let own = OwnToken { settings, person: &session.person, clock: self.clock };
        let outcome = turn.take_up(&own, std::slice::from_ref(&challenge), &options);
        self.kept(&challenge, outcome).map(Some)
    }

    /// Keeps what came of a step-up; after a refusal, is quiet for a while.
    fn kept(&self, challenge: &Challenge, outcome: Result<Elevated, Error>) -> Result<Pass, Error> {
        match outcome {
            Ok(elevated) => {
                let mut known = self.known();
                known.quiet.remove(&challenge.rule);
                Ok(known.keep(elevated))
            }
            Err(error) => {
                if let Error::Declined { .. } = error {
                    let quiet = self.known().be_quiet(&challenge.rule);
                    note(format_args!(
                        "{error}; not asked again for {} s about rule {} (kubectl stepup elevate asks at once)",
                        quiet.as_secs(),
                        challenge.rule
                    ));
                }
                Err(error)
            }
        }
    }

    /// Asks the server what was denied, and the person for a step-up.
    fn step_up(&self, denial: &Denial) -> Result<Option<Pass>, Error> {
        self.interrupt.lower();
        if let Some(settings) = &self.profile.provider_only {
            return self.step_up_at_the_provider(settings, denial);
        }
        if self.profile.server.is_none() {
            return Ok(None);
        }
        for _ in 0..2 {
            let session = session::current(&self.profile, self.clock)?;
            let server = Server::new(&self.profile, &session.base_token)?;
            let Some(challenge) = self.challenge(&server, denial)? else { return Ok(None) };
            if let Some(pass) = self.known().covering(&challenge, (self.clock)().timestamp()) {
                // It was presented, and refused all the same.
                return Ok((pass.token != denial.token).then_some(pass));
            }
            if self.known().is_quiet(&challenge.rule) {
                return Ok(None);
            }
            let options = StepUpOptions { interactive: prompt::person_is_there(), ..self.options.clone() };
            match step_up::take_up(&self.profile, std::slice::from_ref(&challenge), &options, self.clock) {
                // Answered by another command meanwhile: the server knows by which grant.
                Err(Error::Overtaken) => {}
                outcome => return self.kept(&challenge, outcome).map(Some),
            }
        }
        Ok(None)
    }

    /// The challenge of a denial, as the server has it.
    fn challenge(&self, server: &Server, denial: &Denial) -> Result<Option<Challenge>, Error> {
        if denial.is_ours
            && let Some(challenge) = denial.challenge_in(server.all_challenges()?)
        {
            return Ok(Some(challenge));
        }
        // No longer pending, or pending for a base token that has been refreshed since; or the answer was RBAC's.
        let Some(action) = denial.action.clone() else { return Ok(None) };
        let asked = server.ask(std::slice::from_ref(&action))?.challenges.into_iter().next();
        // A grant that adds no group does not change what RBAC says.
        let helps = |challenge: &Challenge| denial.is_ours || !challenge.grant.groups.is_empty();
        let challenge = asked.filter(helps);
        if challenge.is_none() && !denial.is_ours {
            self.known().remember_hopeless(action);
        }
        Ok(challenge)
    }

    fn note_end(&self, error: &Error) {
        let mut known = self.known();
        match error {
            Error::Server { .. } => known.unreachable = Some(Instant::now()),
            Error::Declined { .. } | Error::NobodyThere | Error::Provider { .. } => {
                known.ended_at = Some(Instant::now());
            }
            _ => {}
        }
        let text = error.to_string();
        let was_said = |(said, at): &(String, Instant)| *said == text && at.elapsed() < SAID;
        if !matches!(error, Error::Declined { .. }) && !known.said.as_ref().is_some_and(was_said) {
            note(&text);
            known.said = Some((text, Instant::now()));
        }
    }

    /// What the terminal holds, as for any command that is started in it.
    fn surroundings(&self, action: Option<&Action>) -> Option<Pass> {
        let mut known = self.known();
        if known.surroundings.1.is_none_or(|read| read.elapsed() >= SURROUNDINGS) {
            let held = get_token::held(&self.profile.files, parent::surroundings(self.asker), (self.clock)());
            known.surroundings = (held, Some(Instant::now()));
        }
        let now = (self.clock)().timestamp();
        let held = known.surroundings.0.as_ref()?;
        // Without stepup-server a stronger token opens whatever one can.
        let covers = self.profile.provider_only.is_some()
            || action.is_some_and(|action| held.grant.permits.iter().any(|pattern| pattern.permits(action)));
        (held.expires_at > now + MARGIN).then(|| Pass { token: held.token.clone(), covers, _in_flight: None })
    }

    /// The base token, refreshed when it is about to expire; with a sign-in when it cannot be and a person is there.
    async fn base_token(self: &Arc<Self>) -> Result<Secret, Error> {
        if let Some(token) = self.live_base_token() {
            return Ok(token);
        }
        let _one_at_a_time = self.refreshing.lock().await;
        if let Some(token) = self.live_base_token() {
            return Ok(token);
        }
        let this = Arc::clone(self);
        let refreshed = tokio::task::spawn_blocking(move || {
            this.interrupt.lower();
            session::current_or_login(&this.profile, prompt::person_is_there, this.clock)
        });
        let session = refreshed.await.map_err(|_| Error::Failed("the session could not be refreshed".to_owned()))??;
        let token = session.base_token.clone();
        self.known().session = session;
        Ok(token)
    }

    fn live_base_token(&self) -> Option<Secret> {
        let known = self.known();
        known.session.is_live((self.clock)(), session::MARGIN).then(|| known.session.base_token.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// A token of this run that covers `action` and has uses left; one use is taken. `since`: only one that came later.
    fn own_pass(&mut self, action: &Action, since: Option<Instant>, now: i64) -> Option<Pass> {
        self.own.retain(|own| own.elevated.expires_at > now + MARGIN);
        let covers = |own: &&mut Own| {
            own.uses_left != Some(0)
                && since.is_none_or(|since| own.since > since)
                && own.elevated.grant.permits.iter().any(|pattern| pattern.permits(action))
        };
        self.own.iter_mut().find(covers).map(Own::take)
    }

    /// The token of this run whose grant the server says covers `challenge`, unless its uses are being taken right now.
    fn covering(&mut self, challenge: &Challenge, now: i64) -> Option<Pass> {
        let grant = challenge.covered_by.as_ref()?;
        let is_it = |own: &&mut Own| {
            let is_idle = own.elevated.grant.uses_left.is_none() || Arc::strong_count(&own.in_flight) == 1;
            own.elevated.grant.id == *grant && own.elevated.expires_at > now + MARGIN && is_idle
        };
        self.own.iter_mut().find(is_it).map(Own::take)
    }

    /// Any token of this run: without stepup-server one is as good as another.
    fn any_pass(&mut self, now: i64) -> Option<Pass> {
        self.own.iter_mut().find(|own| own.elevated.expires_at > now + MARGIN).map(Own::take)
    }

    /// Keeps a token, and gives the pass of the request that it was got for.
    fn keep(&mut self, elevated: Elevated) -> Pass {
        let uses_left = elevated.grant.uses_left;
        let mut own = Own { elevated, uses_left, in_flight: Arc::default(), since: Instant::now() };
        let pass = own.take();
        self.own.insert(0, own);
        pass
    }

    fn is_quiet(&self, rule: &str) -> bool {
        self.quiet.get(rule).is_some_and(|(until, _)| Instant::now() < *until)
    }

    fn be_quiet(&mut self, rule: &str) -> Duration {
        let before = self.quiet.get(rule).map(|(_, before)| *before);
        let quiet = before.map_or(QUIET, |before| (before * 2).min(MOST_QUIET));
        self.quiet.insert(rule.to_owned(), (Instant::now() + quiet, quiet));
        quiet
    }

    fn is_hopeless(&self, action: &Action) -> bool {
        self.hopeless.get(action).is_some_and(|at| at.elapsed() < HOPELESS)
    }

    fn remember_hopeless(&mut self, action: Action) {
        if self.hopeless.len() >= MOST_HOPELESS {
            self.hopeless.retain(|_, at| at.elapsed() < HOPELESS);
        }
        if self.hopeless.len() < MOST_HOPELESS {
            self.hopeless.insert(action, Instant::now());
        }
    }
}

impl Own {
    fn take(&mut self) -> Pass {
        self.uses_left = self.uses_left.map(|uses| uses.saturating_sub(1));
        let in_flight = self.elevated.grant.uses_left.map(|_| Arc::clone(&self.in_flight));
        Pass { token: self.elevated.token.clone(), covers: true, _in_flight: in_flight }
    }
}

impl Denial {
    /// The challenge among the pending ones: by its id, else by the words that the API server repeats to the client.
    fn challenge_in(&self, pending: ChallengeList) -> Option<Challenge> {
        // Words can be forged by whatever the API server passes on; an id cannot.
        let is_about_this = |action: &Action| {
            self.action.as_ref().is_some_and(|tried| tried == action) || !REQUESTS.contains(&action.verb.as_str())
        };
        let says = |challenge: &Challenge| {
            let is_named = |action: &Action| contains(&self.body, format!("step-up required to {action} (").as_bytes());
            challenge.actions.iter().any(|action| is_about_this(action) && is_named(action))
                && contains(&self.body, challenge.rule.as_bytes())
        };
        let is_it = |challenge: &Challenge| match &self.challenge {
            Some(id) => challenge.id == *id,
            None => says(challenge),
        };
        pending.challenges.into_iter().find(is_it)
    }
}

/// Whether `text` has `part` in it.
pub fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

fn note(text: impl Display) {
    output::note(format_args!("kubectl-stepup: {text}"));
}
