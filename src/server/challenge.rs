//! Challenges: "this request needs more". Raised by a denial or asked for beforehand, pending until a step-up answers
//! them, the person declines, or they lapse.
//!
//! A denied write is answered 429 so that client-go comes back with the elevated token, but not for ever: client-go would
//! repeat ten times. Denials within one second of each other are one *round* (several commands at once); of every three
//! rounds in a row the third is answered 403. A challenge that was declined stays declined for a few seconds, so that the
//! repeat of the very request ends in a 403 that says so; after that, the person may try again.

use chrono::{DateTime, Duration, Utc};
use sha2::{Digest, Sha256};

use crate::action::{Action, ActionPattern};
use crate::server::app::{ATTEMPTS, App, Unavailable};
use crate::server::audit::{Event, Record, Source, Verdict};
use crate::server::failure::Failure;
use crate::server::identity::Identity;
use crate::server::policy::{Decision, Policy, Request, Requirement};
use crate::server::random_id;
use crate::server::store::{ChallengeRecord, ChallengeState, Committed, ReasonTerms, Standing, Transaction, Versioned};
use crate::wire::challenge::{Challenge, ChallengeList, ChallengeRequest, DeclineCause, GrantTerms, ReasonRule};
use crate::wire::review::{AdmissionResponse, Extra};

/// Denials closer together than this are one round. client-go repeats after a second, so a repeat is never as close.
const ROUND: Duration = Duration::milliseconds(900);
/// Rounds further apart than this have nothing to do with each other.
const SAME_COMMAND: Duration = Duration::seconds(10);
/// Rounds that are answered 429 before one is answered 403.
const ROUNDS_OF_429: u32 = 2;
/// How long the requests of a declined challenge are refused without asking again: longer than it takes the commands
/// that waited to repeat their requests, shorter than it takes a person to type the next one.
const DECLINE_STANDS: Duration = Duration::seconds(2);
/// Most actions that one request to `/v1/challenges` may name.
pub const MOST_ACTIONS: usize = 100;

/// How a protected request without a grant is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// Step-up required.
    Ask,
    /// Asked often enough: nobody takes it up.
    NotTakenUp,
    /// The person, or the clock, said no a moment ago.
    Declined(DeclineCause),
}

/// Which of a person's challenges are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those that requests with this very base token raised: what a waiting command may have met.
    Credential,
    /// All: base tokens are renewed, and the person remains.
    Person,
}

/// One protected request that was made, or is about to be.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// Who, as the cluster knows them.
    pub user: &'a str,
    /// `jti` of their base token.
    pub credential: Option<&'a str>,
    /// What it requires.
    pub requirement: &'a Requirement,
    /// What it is.
    pub actions: &'a [Action],
    /// When the grant was made that it was presented with, and that does not cover it.
    pub stepped_up_at: Option<DateTime<Utc>>,
    /// How sure it is that this user made it.
    pub standing: Standing,
}

impl Occasion<'_> {
    /// The challenge it raises, if none is pending for it.
    pub fn challenge(&self, ttl: std::time::Duration, now: DateTime<Utc>) -> ChallengeRecord {
        let requirement = self.requirement;
        ChallengeRecord {
            id: random_id("ch"),
            key: self.key(),
            user: self.user.to_owned(),
            credential: self.credential.map(ToOwned::to_owned),
            rules: requirement.rules.clone(),
            description: requirement.description.clone(),
            actions: self.actions.to_vec(),
            standing: self.standing,
            acr_values: requirement.acr_values.clone(),
            acr_by_provider: requirement.acr_by_provider.clone(),
            max_age: requirement.max_age.map(|age| age.as_secs()),
            reason: reason_terms(requirement),
            ttl: requirement.ttl.as_secs(),
            uses: requirement.uses,
            permits: requirement.permits.clone(),
            covers: requirement.covers.clone(),
            groups: requirement.groups.clone(),
            irrevocable: requirement.irrevocable,
            created_at: now,
            denied_at: None,
            rounds: 0,
            expires_at: now + ttl,
            state: ChallengeState::Pending,
        }
    }

    /// Digest of who asks for what under which rules.
    fn key(&self) -> String {
        let whole = serde_json::to_vec(&(self.user, self.credential, &self.requirement.rules, self.actions))
            .expect("strings and actions serialize");
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, Sha256::digest(whole))
    }
}

impl ChallengeRecord {
    /// Whether it still waits for its step-up.
    pub fn is_pending(&self, now: DateTime<Utc>) -> bool {
        self.state == ChallengeState::Pending && now < self.expires_at
    }

    /// The same once more, at the terms that hold now.
    fn renewed(self, fresh: Self) -> Self {
        let standing = self.standing.max(fresh.standing);
        let Self { id, created_at, denied_at, rounds, .. } = self;
        Self { id, standing, created_at, denied_at, rounds, ..fresh }
    }

    /// The challenge as it may be answered now: at the terms of its rules in `policy`, and never at wider ones than it was
    /// raised with and shown to the person, who is in these groups. `None`: its rules do not ask that of them any more.
    pub fn under(self, policy: &Policy, groups: &[String]) -> Option<Self> {
        let mut all = self.actions.iter().map(|action| policy.under(&self.rules, &self.user, groups, action));
        let mut now = all.next()??;
        for other in all {
            now.permit_also(other?);
        }
        // Where RBAC opens what a grant is for, that may be less than what was asked for.
        let opened: Vec<&Action> = self.actions.iter().filter(|action| now.opens(action)).collect();
        now.permits.retain(|pattern| self.permits.contains(pattern));
        now.covers.retain(|words| self.covers.contains(words));
        now.groups.retain(|group| self.groups.contains(group));
        for action in opened {
            if !now.opens(action) {
                now.permits.push(ActionPattern::exactly(action));
                now.covers.push(action.to_string());
            }
        }
        let reason = match (self.reason, reason_terms(&now)) {
            (Some(mut then), Some(now)) => {
                then.patterns.extend(now.patterns);
                then.patterns.dedup();
                Some(ReasonTerms { hint: now.hint.or(then.hint), ..then })
            }
            (then, now) => then.or(now),
        };
        let fewer = |then: Option<u64>, now: Option<u64>| then.into_iter().chain(now).min();
        Some(Self {
            acr_values: now.acr_values,
            acr_by_provider: now.acr_by_provider,
            max_age: fewer(self.max_age, now.max_age.map(|age| age.as_secs())),
            reason,
            ttl: self.ttl.min(now.ttl.as_secs()),
            uses: self.uses.into_iter().chain(now.uses).min(),
            permits: now.permits,
            covers: now.covers,
            groups: now.groups,
            irrevocable: self.irrevocable || now.irrevocable,
            ..self
        })
    }

    fn last_raised(&self) -> DateTime<Utc> {
        self.denied_at.unwrap_or(self.created_at)
    }

    /// The challenge after one more denial, and how that request is answered. `fresh` takes its place once it is over.
    ///
    /// `stepped_up_at`: somebody who has stepped up since the last denial, for another of a program's requests, is there
    /// and will come to this one.
    fn denied_again(
        existing: Option<Self>,
        fresh: Self,
        stepped_up_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> (Self, Answer) {
        let mut challenge = match existing {
            Some(existing) if existing.is_pending(now) => existing.renewed(fresh),
            Some(Self { state: ChallengeState::Declined { at, cause }, .. })
                if now >= at && now < at + DECLINE_STANDS =>
            {
                return (Self { state: ChallengeState::Declined { at, cause }, ..fresh }, Answer::Declined(cause));
            }
            _ => fresh,
        };
        let since = challenge.denied_at.map(|before| now - before);
        let is_taking_up = stepped_up_at.is_some_and(|at| challenge.denied_at.is_some_and(|before| at > before));
        if is_taking_up || since.is_none_or(|since| since >= SAME_COMMAND || since < Duration::zero()) {
            challenge.rounds = 1;
        } else if since.is_some_and(|since| since >= ROUND) {
            challenge.rounds += 1;
        } else {
            // The same round: its clock goes on from its first denial.
            return (challenge.clone(), challenge.answer());
        }
        challenge.denied_at = Some(now);
        let answer = challenge.answer();
        (challenge, answer)
    }

    fn answer(&self) -> Answer {
        if self.rounds.saturating_sub(1) % (ROUNDS_OF_429 + 1) == ROUNDS_OF_429 {
            Answer::NotTakenUp
        } else {
            Answer::Ask
        }
    }

    /// An audit record of `event` about it.
    fn record(&self, event: Event, source: &Source, now: DateTime<Utc>) -> Record {
        Record {
            user: self.user.clone(),
            rules: self.rules.clone(),
            actions: self.actions.iter().map(ToString::to_string).collect(),
            challenge: Some(self.id.clone()),
            ..Record::new(event, now).from(source)
        }
    }

    fn to_wire(&self, covered_by: Option<String>) -> Challenge {
        Challenge {
            id: self.id.clone(),
            rule: self.rules.join(", "),
            description: self.description.clone(),
            actions: self.actions.clone(),
            acr_values: self.acr_values.clone(),
            max_age: self.max_age,
            reason: self.reason.as_ref().map(|reason| ReasonRule {
                pattern: match reason.patterns.as_slice() {
                    [pattern] => Some(pattern.clone()),
                    _ => None,
                },
                hint: reason.hint.clone(),
            }),
            grant: GrantTerms {
                ttl: self.ttl,
                uses: self.uses,
                covers: self.covers.clone(),
                groups: self.groups.clone(),
                irrevocable: self.irrevocable,
            },
            created_at: self.created_at,
            denied_at: self.denied_at,
            expires_at: self.expires_at,
            covered_by,
        }
    }
}

/// Raises or renews the challenge of a denied request, with its audit record and, for an admission review, the verdict
/// that `respond` makes of the answer. `None`: something changed meanwhile, decide again.
pub async fn deny(
    app: &App,
    occasion: Occasion<'_>,
    audit: Record,
    now: DateTime<Utc>,
    respond: impl FnOnce(&ChallengeRecord, Answer) -> Option<AdmissionResponse>,
) -> Result<Option<(ChallengeRecord, Answer)>, Unavailable> {
    let fresh = occasion.challenge(app.config.limits.challenge_ttl, now);
    let existing = app.store.challenge_by_key(&fresh.key).await?;
    let version = existing.as_ref().map(|existing| existing.version);
    let (challenge, answer) =
        ChallengeRecord::denied_again(existing.map(|existing| existing.document), fresh, occasion.stepped_up_at, now);
    let room = if version.is_none() { room_for(app, &challenge, now).await? } else { Room::Free };
    let (code, message) = match answer {
        Answer::Ask => (None, None),
        Answer::NotTakenUp => (Some("not-taken-up"), None),
        Answer::Declined(cause) => (Some(code_of(cause)), None::<String>),
    };
    let audit = Record {
        event: if answer == Answer::Ask { Event::Challenge } else { Event::Refusal },
        decision: Some(Verdict::Denied),
        challenge: (room != Room::None).then(|| challenge.id.clone()),
        code: code.map(ToOwned::to_owned),
        message,
        ..audit
    };
    let transaction = Transaction {
        challenges: if room == Room::None { vec![] } else { vec![(version, challenge.clone())] },
        evicted: room.evicted(),
        verdict: respond(&challenge, answer).map(|verdict| (now, verdict)),
        audit: vec![audit],
        ..Transaction::default()
    };
    Ok((app.commit(transaction).await? == Committed::Done).then_some((challenge, answer)))
}

/// Whether there is room for one more challenge of a user.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    /// There is.
    Free,
    /// When the challenges with these keys go.
    Instead(Vec<String>),
    /// None: all that are pending have a better standing.
    None,
}

impl Room {
    fn evicted(self) -> Vec<String> {
        match self {
            Self::Instead(keys) => keys,
            Self::Free | Self::None => Vec::new(),
        }
    }
}

/// Makes room for a challenge, within what one user may have: what is over goes first, then what may be nobody's request,
/// the oldest first. Whoever may ask access reviews about somebody crowds out no request that they made.
async fn room_for(app: &App, fresh: &ChallengeRecord, now: DateTime<Utc>) -> Result<Room, Unavailable> {
    let room = app.config.limits.pending_challenges_per_user.saturating_sub(1);
    let mut all = app.store.challenges(&fresh.user, now).await?;
    let worth = |challenge: &ChallengeRecord| (challenge.is_pending(now), challenge.standing, challenge.last_raised());
    all.sort_by_key(|challenge| std::cmp::Reverse(worth(&challenge.document)));
    let over: Vec<ChallengeRecord> = all.into_iter().skip(room).map(|challenge| challenge.document).collect();
    Ok(match over.first() {
        None => Room::Free,
        Some(best) if best.is_pending(now) && best.standing > fresh.standing => Room::None,
        Some(_) => Room::Instead(over.into_iter().map(|challenge| challenge.key).collect()),
    })
}

/// Code of a decline, for audit records.
pub fn code_of(cause: DeclineCause) -> &'static str {
    match cause {
        DeclineCause::Declined => "declined",
        DeclineCause::NoReason => "no-reason",
        DeclineCause::TimedOut => "timed-out",
        DeclineCause::ProviderFailed => "provider-failed",
        DeclineCause::TooWeak => "too-weak",
    }
}

/// The asker's pending challenges: those of the base token they ask with, and those recorded by user alone.
pub async fn pending(app: &App, asker: &Identity, whose: Whose, now: DateTime<Utc>) -> Result<ChallengeList, Failure> {
    let mut challenges: Vec<ChallengeRecord> = app
        .store
        .challenges(&asker.user, now)
        .await?
        .into_iter()
        .map(|challenge| challenge.document)
        .filter(|challenge| {
            let is_meant = whose == Whose::Person || is_of_credential(challenge, asker.jti.as_deref());
            is_meant && challenge.is_pending(now)
        })
        .collect();
    challenges.sort_by_key(|challenge| std::cmp::Reverse(challenge.last_raised()));
    list(app, asker, challenges, Vec::new(), now).await
}

fn is_of_credential(challenge: &ChallengeRecord, jti: Option<&str>) -> bool {
    match (&challenge.credential, jti) {
        (Some(of), Some(jti)) => of == jti,
        _ => true,
    }
}

/// Challenges for what the asker is about to do.
pub async fn request(
    app: &App,
    asker: &Identity,
    request: ChallengeRequest,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<ChallengeList, Failure> {
    let Foreseen { groups, unprotected } = foresee(app, asker, request.actions)?;
    if !groups.is_empty() && !app.can_step_up(&asker.user, &asker.cluster_groups()) {
        app.record(vec![
            Record {
                user: asker.user.clone(),
                rules: groups.iter().flat_map(|(requirement, _)| requirement.rules.clone()).collect(),
                ..Record::new(Event::Refusal, now).from(source)
            }
            .refused("cannot-step-up", "has no second factor, or is not among those who may step up"),
        ])
        .await?;
        return Err(Failure::forbidden(
            "you cannot step up: your identity has no second factor that this cluster knows of; ask its administrator",
        ));
    }
    let mut challenges = Vec::new();
    for (requirement, actions) in &groups {
        let occasion = Occasion {
            user: &asker.user,
            credential: asker.jti.as_deref(),
            requirement,
            actions,
            stepped_up_at: None,
            standing: Standing::Request,
        };
        challenges.push(announce(app, occasion, source, now).await?);
    }
    list(app, asker, challenges, unprotected, now).await
}

/// The pending challenge for what somebody is about to do, made if there is none.
async fn announce(
    app: &App,
    occasion: Occasion<'_>,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<ChallengeRecord, Unavailable> {
    for _ in 0..ATTEMPTS {
        let fresh = occasion.challenge(app.config.limits.challenge_ttl, now);
        let existing = app.store.challenge_by_key(&fresh.key).await?;
        let version = existing.as_ref().map(|existing| existing.version);
        let room = if version.is_none() { room_for(app, &fresh, now).await? } else { Room::Free };
        let challenge = match existing {
            Some(Versioned { document, .. }) if document.is_pending(now) => document.renewed(fresh),
            _ => fresh,
        };
        let audit = challenge.record(Event::Challenge, source, now);
        // Nothing has a better standing than what somebody asks for themselves: there always is room.
        let evicted = room.evicted();
        let transaction = Transaction {
            challenges: vec![(version, challenge.clone())],
            evicted,
            audit: vec![audit],
            ..Transaction::default()
        };
        if app.commit(transaction).await? == Committed::Done {
            return Ok(challenge);
        }
    }
    Err(Unavailable::Contended)
}

/// What the policy says of actions that a person names beforehand.
pub struct Foreseen {
    /// What to require of which actions: together where one unlimited grant serves them, apart otherwise.
    pub groups: Vec<(Requirement, Vec<Action>)>,
    /// Actions that need nothing.
    pub unprotected: Vec<Action>,
}

fn reason_terms(requirement: &Requirement) -> Option<ReasonTerms> {
    requirement.reason.as_ref().map(|reason| ReasonTerms {
        patterns: reason.patterns.iter().map(ToString::to_string).collect(),
        hint: reason.hint.clone(),
    })
}

/// Asks the policy about actions that a person names beforehand. Conditions over an object that is not there yet count
/// as met.
pub fn foresee(app: &App, asker: &Identity, actions: Vec<Action>) -> Result<Foreseen, Failure> {
    if actions.is_empty() || actions.len() > MOST_ACTIONS {
        return Err(Failure::bad_request(format!("name between 1 and {MOST_ACTIONS} actions")));
    }
    let policy = app.policy();
    let (extra, groups) = (Extra::new(), asker.cluster_groups());
    let mut foreseen = Foreseen { groups: Vec::new(), unprotected: Vec::new() };
    for action in actions {
        let action = action.checked().map_err(|error| Failure::bad_request(error.to_string()))?;
        let request = Request {
            user: &asker.user,
            groups: &groups,
            extra: &extra,
            action: &action,
            object: None,
            old_object: None,
        };
        match policy.decide(&request) {
            Decision::Unprotected | Decision::Audit(_) => foreseen.unprotected.push(action),
            Decision::Protected { requirement, .. } if !requirement.opens(&action) => {
                return Err(Failure::bad_request(format!(
                    "{action} is more than a grant can open on this cluster, where groups do: ask for what is in {}",
                    requirement.covers.join("; ")
                )));
            }
            Decision::Protected { requirement, .. } if requirement.lacks_name(&action) => {
                return Err(Failure::bad_request(format!(
                    "{action} names no object, and a grant of rule {} is for one: say which",
                    requirement.rules.join(", ")
                )));
            }
            Decision::Protected { requirement, .. } => {
                // Limited uses are counted for each action apart, or three uses for three objects could be spent on one.
                let known = |(known, _): &&mut (Requirement, Vec<Action>)| {
                    known.uses.is_none() && known.rules == requirement.rules
                };
                match foreseen.groups.iter_mut().find(known) {
                    Some((known, actions)) => {
                        known.permit_also(requirement);
                        actions.push(action);
                    }
                    None => foreseen.groups.push((requirement, vec![action])),
                }
            }
        }
    }
    Ok(foreseen)
}

async fn list(
    app: &App,
    asker: &Identity,
    challenges: Vec<ChallengeRecord>,
    unprotected: Vec<Action>,
    now: DateTime<Utc>,
) -> Result<ChallengeList, Failure> {
    let grants = if challenges.is_empty() { Vec::new() } else { app.store.grants(Some(&asker.user), now).await? };
    let covered_by = |challenge: &ChallengeRecord| {
        grants
            .iter()
            .map(|grant| &grant.document)
            .find(|grant| grant.is_live(now) && grant.has_uses() && grant.answers(challenge))
            .map(|grant| grant.grant.id.clone())
    };
    Ok(ChallengeList {
        user: asker.user.clone(),
        server_time: now,
        challenges: challenges.iter().map(|challenge| challenge.to_wire(covered_by(challenge))).collect(),
        unprotected,
    })
}

/// Ends a challenge without a grant.
pub async fn decline(
    app: &App,
    asker: &Identity,
    id: &str,
    cause: DeclineCause,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        let found = app.store.challenge(id).await?;
        let Some(Versioned { version, document }) = found.filter(|found| found.document.user == asker.user) else {
            return Err(Failure::not_found("no such challenge"));
        };
        if !document.is_pending(now) {
            return Err(Failure::conflict("this challenge is over already"));
        }
        let challenge = ChallengeRecord { state: ChallengeState::Declined { at: now, cause }, ..document };
        let audit = Record { code: Some(code_of(cause).to_owned()), ..challenge.record(Event::Decline, source, now) };
        let transaction =
            Transaction { challenges: vec![(Some(version), challenge)], audit: vec![audit], ..Transaction::default() };
        if app.commit(transaction).await? == Committed::Done {
            return Ok(());
        }
    }
    Err(Unavailable::Contended.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::store::samples;

    fn at(millis: i64) -> DateTime<Utc> {
        samples::now() + Duration::milliseconds(millis)
    }

    fn fresh(now: DateTime<Utc>) -> ChallengeRecord {
        let expires_at = now + Duration::minutes(10);
        ChallengeRecord { created_at: now, expires_at, ..samples::challenge_record(&random_id("ch"), "alice") }
    }

    /// Denials at these times, in milliseconds, and how each is answered.
    fn answers(times: &[i64]) -> Vec<Answer> {
        let mut challenge = None;
        times
            .iter()
            .map(|&time| {
                let (next, answer) = ChallengeRecord::denied_again(challenge.take(), fresh(at(time)), None, at(time));
                challenge = Some(next);
                answer
            })
            .collect()
    }

    #[test]
    fn a_client_without_the_plugin_is_told_on_the_third_try() {
        use Answer::{Ask, NotTakenUp};
        assert_eq!(answers(&[0, 1_010, 2_020, 3_030, 4_040, 5_050]), [Ask, Ask, NotTakenUp, Ask, Ask, NotTakenUp]);
    }

    #[test]
    fn requests_that_wait_while_others_are_stepped_up_for_are_not_given_up() {
        let mut challenge = None;
        for time in (0..10).map(|round| round * 1_200) {
            // The grant is of just before: the last round's denials were answered, for one request of several.
            let (next, answer) =
                ChallengeRecord::denied_again(challenge.take(), fresh(at(time)), Some(at(time - 10)), at(time));
            assert_eq!(answer, Answer::Ask, "{time}");
            challenge = Some(next);
        }
        // With the same grant again, nobody takes it up.
        let old = Some(at(10_790));
        let mut answers = Vec::new();
        for time in [12_000, 13_200] {
            let (next, answer) = ChallengeRecord::denied_again(challenge.take(), fresh(at(time)), old, at(time));
            answers.push(answer);
            challenge = Some(next);
        }
        assert_eq!(answers, [Answer::Ask, Answer::NotTakenUp]);
    }

    #[test]
    fn many_commands_at_once_are_one_round() {
        let times: Vec<i64> = (0..50).map(|n| n * 10).chain((0..50).map(|n| 1_000 + n * 10)).collect();
        assert!(answers(&times).iter().all(|&answer| answer == Answer::Ask));
    }

    #[test]
    fn the_next_command_starts_anew() {
        assert_eq!(answers(&[0, 1_010, 30_000, 31_010]), [Answer::Ask; 4]);
    }

    #[test]
    fn a_decline_answers_the_retry_and_not_the_next_attempt() {
        let declined = ChallengeRecord {
            state: ChallengeState::Declined { at: at(60_000), cause: DeclineCause::TimedOut },
            ..fresh(at(0))
        };
        for _ in 0..3 {
            let (still, answer) =
                ChallengeRecord::denied_again(Some(declined.clone()), fresh(at(60_500)), None, at(60_500));
            assert_eq!(answer, Answer::Declined(DeclineCause::TimedOut));
            assert!(!still.is_pending(at(60_500)));
        }
        let (again, answer) = ChallengeRecord::denied_again(Some(declined), fresh(at(62_001)), None, at(62_001));
        assert_eq!(answer, Answer::Ask);
        assert!(again.is_pending(at(62_001)));
    }

    #[test]
    fn a_redeemed_or_lapsed_challenge_is_followed_by_a_new_one() {
        let redeemed = ChallengeRecord { state: ChallengeState::Redeemed { grant: "g".into() }, ..fresh(at(0)) };
        let lapsed = fresh(at(-600_001));
        for over in [redeemed, lapsed] {
            let old = over.id.clone();
            let (new, answer) = ChallengeRecord::denied_again(Some(over), fresh(at(0)), None, at(0));
            assert_eq!(answer, Answer::Ask);
            assert_ne!(new.id, old);
        }
    }
}
