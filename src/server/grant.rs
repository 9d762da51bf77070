//! Grants: what a person may do for a short time, who presents one, and what using it takes.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};

use crate::action::Action;
use crate::server::app::{ATTEMPTS, App, Unavailable};
use crate::server::audit::{Event, Record, Source};
use crate::server::failure::Failure;
use crate::server::identity::Identity;
use crate::server::policy::Requirement;
use crate::server::random_id;
use crate::server::store::{ChallengeRecord, Committed, GrantRecord, OpenUse, Transaction, Versioned};
use crate::wire::challenge::GrantList;
use crate::wire::review::{CREDENTIAL_ID, Extra};

/// How long one deletecollection request may go on: the API server's own limit for a request (`--request-timeout`).
const COLLECTION_WINDOW: Duration = Duration::seconds(60);
/// How long after a use the same thing done to the same object is still that use.
const REPEATS: Duration = Duration::seconds(3);
/// How often it is.
const MOST_REPEATS: u32 = 5;
/// Most uses that are remembered for it.
const MOST_OPEN: usize = 8;
/// How far the clock may have gone back since a grant was made before the grant is no longer trusted.
const CLOCK_SLACK: Duration = Duration::seconds(60);

/// What a request was presented with.
#[derive(Debug)]
#[must_use]
pub enum Presented {
    /// A base token, with its `jti` where it has one.
    Base(Option<String>),
    /// An elevated token of this user: its own grant first, then those that it carries.
    Elevated(Vec<Versioned<GrantRecord>>),
    /// The id of somebody else's grant. Only who may impersonate can bring that about.
    Foreign(String),
}

/// Looks up what a request of `user` was presented with.
///
/// Extra values alone prove nothing (whoever may impersonate can set them), so a grant counts only for its own user.
pub async fn presented(app: &App, user: &str, extra: &Extra) -> Result<Presented, Unavailable> {
    let Some(jti) = credential_id(extra) else { return Ok(Presented::Base(None)) };
    let Some(own) = app.store.grant(jti).await? else { return Ok(Presented::Base(Some(jti.to_owned()))) };
    if own.document.grant.user != user {
        return Ok(Presented::Foreign(jti.to_owned()));
    }
    let mut grants = vec![own];
    for id in grants[0].document.carries.clone() {
        if let Some(carried) = app.store.grant(&id).await?
            && carried.document.grant.user == user
        {
            grants.push(carried);
        }
    }
    Ok(Presented::Elevated(grants))
}

/// `jti` of the token that a request came with, where the API server says so and says it once.
fn credential_id(extra: &Extra) -> Option<&str> {
    match extra.get(CREDENTIAL_ID)?.as_slice() {
        [value] => value.strip_prefix("JTI="),
        _ => None,
    }
}

/// What it takes to use a grant for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Usage {
    /// Nothing: the grant may be used any number of times until it expires.
    Free,
    /// One of its uses: the grant afterwards.
    Take(Box<GrantRecord>),
    /// Nothing more: the request goes on that a use was taken for. The name may occur once.
    GoOn(String),
}

impl Usage {
    /// What it changes in the store.
    pub fn transaction(self, grant: &Versioned<GrantRecord>) -> Transaction {
        match self {
            Self::Free => Transaction::default(),
            Self::Take(after) => Transaction { grants: vec![(Some(grant.version), *after)], ..Transaction::default() },
            Self::GoOn(once) => {
                Transaction { once: Some((grant.document.grant.expires_at, once)), ..Transaction::default() }
            }
        }
    }
}

/// One object of a request, as far as it tells requests, and the objects of a collection request, apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its uid, or its name.
    pub id: String,
    /// When it was made, to the second.
    pub created_at: Option<DateTime<Utc>>,
    /// Digest of what is done, to which object; `None`: nothing can be said to be the same once more.
    pub effect: Option<String>,
}

/// When a request is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When it came. What it may do is judged by that.
    pub arrived_at: DateTime<Utc>,
    /// What time it is by now: its body has been read, and others of the same grant went before.
    pub decided_at: DateTime<Utc>,
}

impl Moment {
    /// This very moment, for a request from `source` that came at `arrived_at`.
    pub fn of(source: &Source, arrived_at: DateTime<Utc>) -> Self {
        Self { arrived_at, decided_at: arrived_at + source.arrived.elapsed() }
    }
}

impl OpenUse {
    /// Whether a question belongs to the request that this use was taken for.
    ///
    /// A deletecollection is one request, but the API server reviews its objects one by one, each with a uid of its own. An
    /// object that was made after the use was taken must be another request's: the API server lists a collection first. (If
    /// its clock is ahead, a new object may seem to be of another request; that one is then asked to step up again, and
    /// goes on.)
    ///
    /// Other writes are reviewed again when the object has changed meanwhile (`GuaranteedUpdate` in k8s.io/apiserver), and
    /// deletions when they come to nothing but a deletion (`Store.Delete`: a pod without grace is validated twice). What does
    /// the same to the same object within seconds, and came after the use was taken and not beside it, is not told apart from
    /// that. (Objects of a collection may be reviewed beside each other: `--delete-collection-workers`.) Of reads nothing is
    /// ever the same: each gives the object away.
    fn takes_in(&self, action: &Action, member: &Member, credential: &str, now: DateTime<Utc>) -> bool {
        let is_in_time = if self.action.verb == "deletecollection" {
            member.created_at.is_none_or(|created_at| created_at <= self.opened_at) && now >= self.opened_at
        } else {
            now > self.opened_at
        };
        let is_same = || self.action == *action && self.effect.is_some() && self.effect == member.effect;
        (action.continues(&self.action) || is_same())
            && self.credential == credential
            && is_in_time
            && now < self.ends_at()
    }

    fn ends_at(&self) -> DateTime<Utc> {
        self.opened_at + if self.action.verb == "deletecollection" { COLLECTION_WINDOW } else { REPEATS }
    }
}

impl GrantRecord {
    /// Whether it counts at all: not expired, not revoked, and not from the future (a clock that was set back).
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && now < self.grant.expires_at && now >= self.grant.created_at - CLOCK_SLACK
    }

    /// Whether it was made for a request like this: under all the rules that protect it now, with a sign-in that still
    /// satisfies them, and permitting the action.
    pub fn covers(&self, requirement: &Requirement, action: &Action) -> bool {
        let max_age = requirement.max_age.map(|age| age.as_secs());
        self.satisfies(&requirement.rules, &requirement.acr_by_provider, max_age) && self.permits(action)
    }

    /// Whether it would do for a challenge.
    pub fn answers(&self, challenge: &ChallengeRecord) -> bool {
        self.satisfies(&challenge.rules, &challenge.acr_by_provider, challenge.max_age)
            && challenge.actions.iter().all(|action| self.permits(action))
    }

    fn permits(&self, action: &Action) -> bool {
        self.grant.permits.iter().any(|pattern| pattern.permits(action))
    }

    /// Whether it was made under these rules, with a sign-in that was good and fresh enough for what they require now.
    fn satisfies(&self, rules: &[String], acr: &BTreeMap<String, Vec<String>>, max_age: Option<u64>) -> bool {
        let is_good = match &self.provider {
            Some(provider) => acr.get(provider).is_some_and(|accepted| accepted.contains(&self.grant.acr)),
            None => acr.values().flatten().any(|accepted| *accepted == self.grant.acr),
        };
        let age = (self.grant.created_at - self.grant.auth_time).num_seconds().max(0).unsigned_abs();
        is_good && max_age.is_none_or(|max_age| age <= max_age) && rules.iter().all(|rule| self.rules.contains(rule))
    }

    /// Whether a use is left.
    pub fn has_uses(&self) -> bool {
        self.grant.uses_left != Some(0)
    }

    /// Whether its owner may see an object that `action` changes and `read` reads: the change can still be made, or goes on;
    /// or any number of reads can.
    pub fn shows_changed(&self, requirement: &Requirement, action: &Action, read: &Action, now: DateTime<Utc>) -> bool {
        let goes_on = || self.open.iter().any(|open| open.action == *action && now < open.ends_at());
        let may_change = || self.covers(requirement, action) && (self.has_uses() || goes_on());
        let may_read = || self.covers(requirement, read) && self.grant.uses_left.is_none();
        self.is_live(now) && (may_change() || may_read())
    }

    /// What using it for `action` takes; `None` when it is used up.
    ///
    /// `credential` is the grant whose token the request came with. `seen`: how often what is asked has turned out to have
    /// gone on under the open use already.
    pub fn usage(
        &self,
        action: &Action,
        member: &Member,
        credential: &str,
        seen: u32,
        Moment { arrived_at: now, decided_at }: Moment,
    ) -> Option<Usage> {
        let Some(left) = self.grant.uses_left else { return Some(Usage::Free) };
        if let Some(open) = self.open.iter().find(|open| open.takes_in(action, member, credential, now)) {
            let name = format!("{}/{}/{seen}", open.id, member.id);
            match action.continues(&open.action) {
                false if seen < MOST_REPEATS => return Some(Usage::GoOn(name)),
                true if seen == 0 => return Some(Usage::GoOn(format!("{name}/{action}"))),
                _ => {}
            }
        }
        let mut after = self.clone();
        after.grant.uses_left = Some(left.checked_sub(1)?);
        after.open.retain(|open| now < open.ends_at());
        after.open.truncate(MOST_OPEN - 1);
        let open = OpenUse {
            id: random_id("us"),
            action: action.clone(),
            credential: credential.to_owned(),
            effect: member.effect.clone(),
            opened_at: if action.verb == "deletecollection" { now } else { decided_at },
        };
        after.open.insert(0, open);
        Some(Usage::Take(Box::new(after)))
    }
}

/// The first grant that covers the request and could be used for it.
pub fn covering<'a>(
    grants: &'a [Versioned<GrantRecord>],
    requirement: &Requirement,
    action: &Action,
    member: &Member,
    seen: u32,
    moment: Moment,
) -> Option<(&'a Versioned<GrantRecord>, Usage)> {
    let credential = &grants.first()?.document.grant.id;
    grants
        .iter()
        .filter(|grant| grant.document.is_live(moment.arrived_at) && grant.document.covers(requirement, action))
        .find_map(|grant| Some((grant, grant.document.usage(action, member, credential, seen, moment)?)))
}

/// Live grants: the asker's own, or everybody's for an administrator who asks for `all`.
pub async fn list(app: &App, asker: &Identity, all: bool, now: DateTime<Utc>) -> Result<GrantList, Failure> {
    if all && !is_administrator(app, asker) {
        return Err(Failure::forbidden("only administrators see the grants of others"));
    }
    let user = (!all).then_some(asker.user.as_str());
    let grants = app.store.grants(user, now).await?;
    Ok(GrantList {
        server_time: now,
        grants: grants
            .into_iter()
            .filter(|grant| grant.document.is_live(now) && grant.document.has_uses())
            .map(|grant| grant.document.grant)
            .collect(),
    })
}

/// Gives a grant up: one's own, or anybody's for an administrator. From the next request on it counts for nothing.
pub async fn revoke(app: &App, asker: &Identity, id: &str, source: &Source, now: DateTime<Utc>) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        let found = app.store.grant(id).await?;
        // Somebody else's grant is answered like none: whose it is, is nobody else's business.
        let Some(Versioned { version, mut document }) =
            found.filter(|found| found.document.grant.user == asker.user || is_administrator(app, asker))
        else {
            return Err(Failure::not_found("no such grant"));
        };
        if !document.is_live(now) {
            return Ok(());
        }
        document.revoked_at = Some(now);
        let audit = Record {
            user: document.grant.user.clone(),
            by: (document.grant.user != asker.user).then(|| asker.user.clone()),
            rules: document.rules.clone(),
            actions: document.grant.covers.clone(),
            grant: Some(document.grant.id.clone()),
            ..Record::new(Event::Revoke, now).from(source)
        };
        let transaction =
            Transaction { grants: vec![(Some(version), document)], audit: vec![audit], ..Transaction::default() };
        if app.commit(transaction).await? == Committed::Done {
            return Ok(());
        }
    }
    Err(Unavailable::Contended.into())
}

/// Whether somebody may see and revoke what is others'.
pub fn is_administrator(app: &App, asker: &Identity) -> bool {
    app.config.administrators.include(&asker.user, &asker.groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::ActionPattern;
    use crate::server::store::samples::{grant_record, now};

    fn action(verb: &str, name: Option<&str>) -> Action {
        let namespace = Some("prod".into());
        Action { namespace, name: name.map(Into::into), ..Action::new(verb, "", "configmaps") }
    }

    fn granted(action: &Action) -> GrantRecord {
        let mut record = grant_record("gr-1", "alice");
        record.grant.permits = vec![ActionPattern::exactly(action)];
        record
    }

    fn member(id: &str) -> Member {
        let (created_at, effect) = (Some(now() - Duration::seconds(5)), Some("deleted".to_owned()));
        Member { id: id.into(), created_at, effect }
    }

    /// Judged as it comes.
    fn at(arrived_at: DateTime<Utc>) -> Moment {
        Moment { arrived_at, decided_at: arrived_at }
    }

    fn taken(usage: Option<Usage>) -> GrantRecord {
        match usage {
            Some(Usage::Take(after)) => *after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_single_use_is_taken_once() {
        let delete = action("delete", Some("a"));
        let spent = taken(granted(&delete).usage(&delete, &member("a"), "gr-1", 0, at(now())));
        assert_eq!(spent.grant.uses_left, Some(0));
        // At the same time: what comes beside the first is another request.
        assert_eq!(spent.usage(&delete, &member("a"), "gr-1", 0, at(now())), None);
    }

    #[test]
    fn the_same_thing_once_more_within_seconds_is_the_same_use_and_nothing_else_is() {
        let delete = action("delete", Some("a"));
        let spent = taken(granted(&delete).usage(&delete, &member("a"), "gr-1", 0, at(now())));
        let later = |millis: i64| now() + Duration::milliseconds(millis);
        let again = |member: &Member, credential: &str, seen: u32, millis: i64| {
            spent.usage(&delete, member, credential, seen, at(later(millis)))
        };
        let names: Vec<_> = (0..MOST_REPEATS).map(|seen| again(&member("a"), "gr-1", seen, 1)).collect();
        assert!(names.iter().all(|usage| matches!(usage, Some(Usage::GoOn(_)))), "{names:?}");
        assert!(names.iter().enumerate().all(|(n, name)| !names[..n].contains(name)), "each name once: {names:?}");
        let otherwise = |effect: Option<&str>| Member { effect: effect.map(Into::into), ..member("a") };
        assert_eq!(again(&member("a"), "gr-1", MOST_REPEATS, 1), None, "often enough");
        assert_eq!(again(&otherwise(Some("orphaned")), "gr-1", 0, 1), None, "another effect");
        assert_eq!(again(&otherwise(None), "gr-1", 0, 1), None, "no telling");
        assert_eq!(again(&member("a"), "gr-2", 0, 1), None, "another token");
        assert_eq!(again(&member("a"), "gr-1", 0, -1), None, "before");
        assert_eq!(again(&member("a"), "gr-1", 0, 3_000), None, "much later");
        assert_eq!(spent.usage(&action("update", Some("a")), &member("a"), "gr-1", 0, at(later(1))), None);
    }

    #[test]
    fn a_signers_domain_goes_on_once_after_the_signer() {
        let signer =
            |name: &str| Action { name: Some(name.into()), ..Action::new("approve", "certificates.k8s.io", "signers") };
        let later = now() + Duration::milliseconds(1);
        let read = Member { effect: Some(String::new()), ..Member::default() };
        let spent = taken(granted(&signer("a/*")).usage(&signer("a/x"), &read, "gr-1", 0, at(now())));
        assert!(matches!(spent.usage(&signer("a/*"), &read, "gr-1", 0, at(later)), Some(Usage::GoOn(_))));
        assert_eq!(spent.usage(&signer("a/*"), &read, "gr-1", 1, at(later)), None);
        assert_eq!(spent.usage(&signer("b/*"), &read, "gr-1", 0, at(later)), None);
        assert_eq!(spent.usage(&signer("a/y"), &read, "gr-1", 0, at(later)), None);
    }

    #[test]
    fn a_deletecollection_is_one_use_however_many_objects_it_has() {
        let delete = action("deletecollection", None);
        let open = taken(granted(&delete).usage(&delete, &member("first"), "gr-1", 0, at(now())));
        let usage =
            |member: &Member, seen: u32, then: DateTime<Utc>| open.usage(&delete, member, "gr-1", seen, at(then));
        let names: Vec<_> = ["first", "second", "third"].map(|object| usage(&member(object), 0, now())).into();
        assert!(names.iter().all(|usage| matches!(usage, Some(Usage::GoOn(_)))), "{names:?}");
        assert_ne!(names[0], names[1]);
        assert_ne!(names[1], names[2]);
        // An object that was seen often enough belongs to another request, and there is no use left for that.
        assert_eq!(usage(&member("second"), MOST_REPEATS, now()), None);
        // So does one that is deleted otherwise.
        assert_eq!(usage(&Member { effect: Some("orphaned".into()), ..member("x") }, 0, now()), None);
        // Nor was there anything to delete that is newer than the request.
        let newer = Member { created_at: Some(now() + Duration::seconds(1)), ..member("fourth") };
        assert_eq!(usage(&newer, 0, now() + Duration::seconds(2)), None);
        // Nor for another collection, nor after the longest time that a request may take.
        let elsewhere = Action { namespace: Some("dev".into()), ..delete.clone() };
        assert_eq!(open.usage(&elsewhere, &member("x"), "gr-1", 0, at(now())), None);
        assert_eq!(usage(&member("fourth"), 0, now() + COLLECTION_WINDOW), None);
    }

    #[test]
    fn a_grant_lives_from_its_making_to_its_expiry() {
        let mut record = grant_record("gr-1", "alice");
        assert!(record.is_live(now()));
        assert!(record.is_live(record.grant.expires_at - Duration::milliseconds(1)));
        assert!(!record.is_live(record.grant.expires_at));
        // The clock was set back by a day: the grant would live that much longer.
        assert!(!record.is_live(now() - Duration::days(1)));
        record.revoked_at = Some(now());
        assert!(!record.is_live(now()));
    }
}
