//! `POST /authorize`: the authorization webhook. Judges what admission never sees: reads, special verbs, non-resource
//! requests and the admission configuration itself; and changes of what may not be read, which admission sees too late.
//! Denies, or has no opinion; never allows, so that RBAC still decides.

use chrono::{DateTime, Utc};

use crate::action::Action;
use crate::server::app::{ATTEMPTS, App, Unavailable};
use crate::server::audit::{Event, Record, Source};
use crate::server::challenge::{self, Occasion};
use crate::server::grant::{self, Member, Moment, Presented, Usage};
use crate::server::policy::{Decision, Request, Requirement};
use crate::server::protected::{demanded, hopeless, how_to_elevate, step_up_required, used};
use crate::server::store::{Committed, GrantRecord, Standing, Transaction, Versioned};
use crate::wire::review::{AccessAnswer, AccessSpec, SubjectAccessReview};

/// Groups with this prefix are added by elevated tokens alone.
pub const GRANTED_GROUP: &str = "stepup:";

/// Answers a `SubjectAccessReview`.
pub async fn review(app: &App, review: SubjectAccessReview, source: &Source, now: DateTime<Utc>) -> AccessAnswer {
    match decide(app, &review.spec, source, now).await {
        Ok(answer) => answer,
        Err(unavailable) => {
            tracing::error!(error = %unavailable, user = review.spec.user, "a protected request was refused");
            AccessAnswer::denied(unavailable.public_message().to_owned())
        }
    }
}

async fn decide(
    app: &App,
    spec: &AccessSpec,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<AccessAnswer, Unavailable> {
    let Some(action) = Action::of_review(spec) else { return Ok(AccessAnswer::no_opinion()) };
    if spec.groups.iter().any(|group| is_granted(group))
        && let Some(refusal) = Box::pin(ended_role(app, spec, &action, source, now)).await?
    {
        return Ok(refusal);
    }
    let policy = app.policy();
    let decide = |action: &Action| {
        policy.decide(&Request {
            user: &spec.user,
            groups: &spec.groups,
            extra: &spec.extra,
            action,
            object: None,
            old_object: None,
        })
    };
    if !action.reaches_admission() {
        let decision = decide(&action);
        if matches!(decision, Decision::Unprotected) {
            return Ok(AccessAnswer::no_opinion());
        }
        // Apart: most requests should not carry about what only these few need.
        return Box::pin(judge(app, spec, action, decision, source, now)).await;
    }
    // Authorization comes before admission: a denial here would end the command in a 403 instead of the 429. But of what
    // may not be read, the API server would quote something before admission is asked.
    let Some(read) = action.read_of_changed() else { return Ok(AccessAnswer::no_opinion()) };
    let Decision::Protected { requirement, .. } = decide(&read) else { return Ok(AccessAnswer::no_opinion()) };
    let requirement = policy.under(&requirement.rules, &spec.user, &spec.groups, &action).unwrap_or(requirement);
    let audit = Record { rules: requirement.rules.clone(), ..refusal(spec, &action, now) };
    let protected = Protected { app, spec, action, read: Some(read), requirement, audit, source, now };
    Box::pin(protected.decide()).await
}

/// Answers a request that a rule is about.
async fn judge(
    app: &App,
    spec: &AccessSpec,
    action: Action,
    decision: Decision<'_>,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<AccessAnswer, Unavailable> {
    match demanded(app, decision, refusal(spec, &action, now), source).await {
        None => Ok(AccessAnswer::no_opinion()),
        Some((requirement, audit)) => {
            Protected { app, spec, action, read: None, requirement, audit, source, now }.decide().await
        }
    }
}

/// A protected request that admission will not see, or not in time, and what it takes to decide it.
struct Protected<'a> {
    app: &'a App,
    spec: &'a AccessSpec,
    action: Action,
    /// What it would show although it is no read. Then it is only let pass: admission takes the use.
    read: Option<Action>,
    requirement: Requirement,
    audit: Record,
    source: &'a Source,
    now: DateTime<Utc>,
}

impl Protected<'_> {
    /// Decides, and decides again while what it read changes under it.
    async fn decide(&self) -> Result<AccessAnswer, Unavailable> {
        let mut seen = 0;
        for _ in 0..ATTEMPTS {
            if let Some(answer) = self.attempt(&mut seen).await? {
                return Ok(answer);
            }
        }
        Err(Unavailable::Contended)
    }

    async fn attempt(&self, seen: &mut u32) -> Result<Option<AccessAnswer>, Unavailable> {
        let grants = match grant::presented(self.app, &self.spec.user, &self.spec.extra).await? {
            Presented::Foreign(id) => {
                tracing::warn!(user = self.spec.user, grant = id, "a grant was presented by somebody else");
                let required = step_up_required(&self.requirement, &self.action);
                let message = format!("{required}; the grant you present is not yours");
                return self.refuse("foreign-grant", message).await.map(Some);
            }
            Presented::Base(credential) => return self.deny(credential.as_deref()).await,
            Presented::Elevated(grants) => grants,
        };
        if let Some(read) = &self.read {
            let shows = |grant: &Versioned<GrantRecord>| {
                grant.document.shows_changed(&self.requirement, &self.action, read, self.now)
            };
            return if grants.iter().any(shows) { Ok(Some(AccessAnswer::no_opinion())) } else { self.deny(None).await };
        }
        let (nothing, moment) = (Member::default(), Moment::of(self.source, self.now));
        match grant::covering(&grants, &self.requirement, &self.action, &nothing, *seen, moment) {
            Some((grant, usage)) => {
                *seen += u32::from(matches!(usage, Usage::GoOn(_)));
                self.go_on(grant, usage).await
            }
            None => self.deny(None).await,
        }
    }

    /// Has no opinion, because `grant` covers the request; `None` when something changed meanwhile.
    async fn go_on(&self, grant: &Versioned<GrantRecord>, usage: Usage) -> Result<Option<AccessAnswer>, Unavailable> {
        let audit = used(&self.audit, &grant.document).from(self.source);
        if usage == Usage::Free {
            self.app.record(vec![audit]).await?;
            return Ok(Some(AccessAnswer::no_opinion()));
        }
        let transaction = Transaction { audit: vec![audit], ..usage.transaction(grant) };
        let done = self.app.commit(transaction).await? == Committed::Done;
        Ok(done.then(AccessAnswer::no_opinion))
    }

    async fn deny(&self, credential: Option<&str>) -> Result<Option<AccessAnswer>, Unavailable> {
        let (user, groups) = (&self.spec.user, &self.spec.groups);
        if let Some(refusal) = hopeless(self.app, user, groups, &self.requirement, &self.action) {
            return self.refuse(refusal.code, refusal.message).await.map(Some);
        }
        if self.action.is_impersonation_of_all() {
            // The API server goes on to ask one by one, and whoever has to step up is told then.
            let required = step_up_required(&self.requirement, &self.action);
            return self.refuse("all-at-once", required).await.map(Some);
        }
        let occasion = Occasion {
            user,
            credential,
            requirement: &self.requirement,
            actions: std::slice::from_ref(&self.action),
            stepped_up_at: None,
            standing: if credential.is_some() { Standing::Credential } else { Standing::Question },
        };
        let audit = self.audit.clone().from(self.source);
        let denied = challenge::deny(self.app, occasion, audit, self.now, |_, _| None).await?;
        Ok(denied.map(|_| AccessAnswer::denied(how_to_elevate(&self.requirement, &self.action))))
    }

    async fn refuse(&self, code: &str, message: String) -> Result<AccessAnswer, Unavailable> {
        self.app.record(vec![self.audit.clone().from(self.source).refused(code, &message)]).await?;
        Ok(AccessAnswer::denied(message))
    }
}

/// A request with a group that only a grant gives, when that grant is over: denied, though the token itself may live on.
/// This is how revoking an assumed role takes effect at once.
async fn ended_role(
    app: &App,
    spec: &AccessSpec,
    action: &Action,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<Option<AccessAnswer>, Unavailable> {
    let grants = match grant::presented(app, &spec.user, &spec.extra).await? {
        Presented::Elevated(grants) => grants,
        Presented::Base(_) | Presented::Foreign(_) => Vec::new(),
    };
    let is_live = |group: &String| {
        grants.iter().any(|grant| grant.document.is_live(now) && grant.document.grant.groups.contains(group))
    };
    let Some(ended) = spec.groups.iter().find(|group| is_granted(group) && !is_live(group)) else { return Ok(None) };
    let message =
        format!("the grant that gave you {ended} has ended: give it up with \"kubectl stepup drop\", or step up again");
    let audit = refusal(spec, action, now).from(source);
    app.record(vec![audit.refused("grant-ended", &message)]).await?;
    Ok(Some(AccessAnswer::denied(message)))
}

/// The record of a refusal, as far as every one is alike.
fn refusal(spec: &AccessSpec, action: &Action, now: DateTime<Utc>) -> Record {
    Record { user: spec.user.clone(), actions: vec![action.to_string()], ..Record::new(Event::Refusal, now) }
}

fn is_granted(group: &str) -> bool {
    group.starts_with(GRANTED_GROUP)
}
