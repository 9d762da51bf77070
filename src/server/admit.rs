//! `POST /admit`: the validating admission webhook. Judges writes and connections.
//!
//! A protected write without a grant is answered 429 with `retryAfterSeconds: 1`: client-go waits, finds its exec
//! credential expired, runs the plugin again and repeats the same request with the elevated token. Connections (exec,
//! attach, port-forward) are never repeated by clients, so they get the 403 that says what to type.
//!
//! What it answers to an admission review, it answers to a repeat with the same uid: a grant's use is consumed in the
//! same commit as the verdict.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;

use crate::action::Action;
use crate::server::app::{ATTEMPTS, App, Unavailable};
use crate::server::audit::{Event, Record, Source, Verdict};
use crate::server::challenge::{self, Answer, Occasion};
use crate::server::grant::{self, Member, Presented, Usage};
use crate::server::policy::{Decision, Request, Requirement, WouldAsk};
use crate::server::store::{ChallengeRecord, Committed, GrantRecord, Transaction, Versioned};
use crate::wire::challenge::DeclineCause;
use crate::wire::review::{
    AdmissionAnswer, AdmissionRequest, AdmissionResponse, AdmissionReview, Operation, Status, StatusCause,
    StatusDetails,
};

/// What client-go waits before it runs the plugin again: the plugin's answers expire within a second.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Answers an admission review.
pub async fn review(app: &App, review: AdmissionReview, source: &Source, now: DateTime<Utc>) -> AdmissionAnswer {
    let request = review.request;
    let response = match decide(app, &request, source, now).await {
        Ok(response) => response,
        Err(unavailable) => {
            tracing::error!(error = %unavailable, uid = request.uid, "a protected request was refused");
            refusal(&request.uid, 503, "ServiceUnavailable", unavailable.public_message().to_owned())
        }
    };
    AdmissionAnswer { api_version: review.api_version, kind: review.kind, response }
}

async fn decide(
    app: &App,
    request: &AdmissionRequest,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<AdmissionResponse, Unavailable> {
    let action = action_of(request);
    let policy = app.policy();
    let decision = policy.decide(&Request {
        user: &request.user_info.username,
        groups: &request.user_info.groups,
        extra: &request.user_info.extra,
        action: &action,
        object: request.object.as_deref(),
        old_object: request.old_object.as_deref(),
    });
    if matches!(decision, Decision::Unprotected) {
        return Ok(allowed(&request.uid));
    }
    // Apart: most requests should not carry about what only these few need.
    Box::pin(judge(app, request, action, decision, source, now)).await
}

/// Answers a request that a rule is about.
async fn judge(
    app: &App,
    request: &AdmissionRequest,
    action: Action,
    decision: Decision<'_>,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<AdmissionResponse, Unavailable> {
    let audit = Record {
        user: request.user_info.username.clone(),
        actions: vec![action.to_string()],
        uid: Some(request.uid.clone()),
        dry_run: request.dry_run == Some(true),
        ..Record::new(Event::Refusal, now)
    };
    match decision {
        Decision::Unprotected => Ok(allowed(&request.uid)),
        Decision::Audit(would_ask) => {
            note_would_ask(app, &would_ask, &audit, source).await;
            Ok(allowed(&request.uid))
        }
        Decision::Protected { requirement, would_ask } => {
            note_would_ask(app, &would_ask, &audit, source).await;
            note_faults(app, &requirement);
            let audit = Record { rules: requirement.rules.clone(), ..audit };
            let protected = Protected { app, request, action, requirement, audit, source, now };
            protected.decide().await
        }
    }
}

/// A protected write or connection, and what it takes to decide it.
struct Protected<'a> {
    app: &'a App,
    request: &'a AdmissionRequest,
    action: Action,
    requirement: Requirement,
    audit: Record,
    source: &'a Source,
    now: DateTime<Utc>,
}

impl Protected<'_> {
    /// Decides, and decides again while what it read changes under it.
    async fn decide(&self) -> Result<AdmissionResponse, Unavailable> {
        // Set when the objects seen so far may show that the open collection request is over and this is another.
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            if let Some(response) = self.attempt(&mut fresh).await? {
                return Ok(response);
            }
        }
        Err(Unavailable::Contended)
    }

    async fn attempt(&self, fresh: &mut bool) -> Result<Option<AdmissionResponse>, Unavailable> {
        let user = &self.request.user_info;
        if let Some(verdict) = self.app.store.verdict(&self.request.uid).await? {
            // Its record may be overdue: then it is written now, or the verdict does not leave.
            self.app.record(Vec::new()).await?;
            return Ok(Some(verdict));
        }
        let grants = match grant::presented(self.app, &user.username, &user.extra).await? {
            Presented::Foreign(id) => return self.refuse_foreign(id).await.map(Some),
            Presented::Base(credential) => return self.deny(credential.as_deref(), None).await,
            Presented::Elevated(grants) => grants,
        };
        let member = member(self.request);
        match grant::covering(&grants, &self.requirement, &self.action, &member, *fresh, self.now) {
            Some((grant, usage)) => {
                *fresh = matches!(usage, Usage::GoOn(_));
                self.allow(grant, usage).await
            }
            // Its grant is over, or for something else: the person has base rights. The token's id is no base token's,
            // so the challenge is the user's alone.
            None => self.deny(None, grants.first().map(|own| own.document.grant.created_at)).await,
        }
    }

    /// Lets the request through on `grant`; `None` when something changed meanwhile.
    async fn allow(
        &self,
        grant: &Versioned<GrantRecord>,
        usage: Usage,
    ) -> Result<Option<AdmissionResponse>, Unavailable> {
        let record = &grant.document;
        let response = AdmissionResponse { audit_annotations: annotations(record), ..allowed(&self.request.uid) };
        let audit = used(&self.audit, record).from(self.source);
        if self.audit.dry_run {
            // Nothing is persisted, so nothing is consumed; it happened all the same.
            self.app.record(vec![audit]).await?;
            return Ok(Some(response));
        }
        let mut transaction =
            Transaction { verdict: Some((self.now, response.clone())), audit: vec![audit], ..Transaction::default() };
        match usage {
            Usage::Free => {}
            Usage::Take(after) => transaction.grants = vec![(Some(grant.version), *after)],
            Usage::GoOn(once) => transaction.once = Some((record.grant.expires_at, once)),
        }
        Ok((self.app.commit(transaction).await? == Committed::Done).then_some(response))
    }

    async fn deny(
        &self,
        credential: Option<&str>,
        stepped_up_at: Option<DateTime<Utc>>,
    ) -> Result<Option<AdmissionResponse>, Unavailable> {
        let user = &self.request.user_info;
        if let Some(refusal) = hopeless(self.app, &user.username, &user.groups, &self.requirement, &self.action) {
            return self.refuse(refusal.code, refusal.message).await.map(Some);
        }
        let occasion = Occasion {
            user: &user.username,
            credential,
            requirement: &self.requirement,
            actions: std::slice::from_ref(&self.action),
            stepped_up_at,
        };
        let audit = self.audit.clone().from(self.source);
        let denied = challenge::deny(self.app, occasion, audit, self.now, |challenge, answer| {
            Some(self.challenge_response(challenge, answer))
        })
        .await?;
        Ok(denied.map(|(challenge, answer)| self.challenge_response(&challenge, answer)))
    }

    fn challenge_response(&self, challenge: &ChallengeRecord, answer: Answer) -> AdmissionResponse {
        let uid = &self.request.uid;
        let mut response = match answer {
            Answer::Ask if self.request.operation != Operation::Connect => {
                let message = format!(
                    "{}; the kubectl-stepup plugin asks you for it (without the plugin, type: kubectl stepup elevate)",
                    step_up_required(&self.requirement, &self.action)
                );
                let details = StatusDetails { retry_after_seconds: Some(RETRY_AFTER_SECONDS), causes: vec![] };
                refusal_with(uid, 429, "TooManyRequests", message, details)
            }
            Answer::Ask => refusal(uid, 403, "Forbidden", how_to_elevate(&self.requirement, &self.action)),
            Answer::NotTakenUp => {
                let message = format!(
                    "{}, and nobody took it up: type \"kubectl stepup elevate\", then repeat the command",
                    step_up_required(&self.requirement, &self.action)
                );
                refusal(uid, 403, "Forbidden", message)
            }
            Answer::Declined(cause) => {
                let message =
                    format!("{}, and {}", step_up_required(&self.requirement, &self.action), why_it_ended(cause));
                refusal(uid, 403, "Forbidden", message)
            }
        };
        if let Some(details) = response.status.as_mut().and_then(|status| status.details.as_mut()) {
            details
                .causes
                .push(StatusCause { reason: "kubectl-stepup.io/challenge".to_owned(), message: challenge.id.clone() });
            for rule in &self.requirement.rules {
                let reason = "kubectl-stepup.io/rule".to_owned();
                details.causes.push(StatusCause { reason, message: rule.clone() });
            }
        }
        response.audit_annotations = BTreeMap::from([
            ("rule".to_owned(), self.requirement.rules.join(",")),
            ("challenge".to_owned(), challenge.id.clone()),
        ]);
        response
    }

    async fn refuse_foreign(&self, id: String) -> Result<AdmissionResponse, Unavailable> {
        tracing::warn!(user = self.request.user_info.username, grant = id, "a grant was presented by somebody else");
        let message =
            format!("{}; the grant you present is not yours", step_up_required(&self.requirement, &self.action));
        self.refuse("foreign-grant", message).await
    }

    /// Refuses for good: no challenge, nothing to take up.
    async fn refuse(&self, code: &str, message: String) -> Result<AdmissionResponse, Unavailable> {
        self.app.record(vec![self.audit.clone().from(self.source).refused(code, &message)]).await?;
        let mut response = refusal(&self.request.uid, 403, "Forbidden", message);
        response.audit_annotations.insert("rule".to_owned(), self.requirement.rules.join(","));
        Ok(response)
    }
}

/// What the request does, in the words of a `SubjectAccessReview`.
pub fn action_of(request: &AdmissionRequest) -> Action {
    let verb = match request.operation {
        Operation::Create => "create",
        // A patch as well: the API server gives both the same options.
        Operation::Update => "update",
        // A deletecollection is reviewed object by object, with the name in the old object alone.
        Operation::Delete if request.name.is_empty() => "deletecollection",
        Operation::Delete => "delete",
        Operation::Connect => "connect",
    };
    Action {
        verb: verb.to_owned(),
        group: request.resource.group.clone(),
        resource: request.resource.resource.clone(),
        subresource: Some(request.sub_resource.clone()),
        namespace: Some(request.namespace.clone()),
        name: Some(request.name.clone()),
        path: None,
    }
    .normalized()
}

/// The object that is reviewed: in a collection request, only the old object tells which.
fn member(request: &AdmissionRequest) -> Member {
    #[derive(Default, Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Metadata {
        name: String,
        uid: String,
        creation_timestamp: Option<DateTime<Utc>>,
    }
    if !request.name.is_empty() {
        return Member { id: request.name.clone(), created_at: None };
    }
    let object = request.old_object.as_deref().and_then(|object| serde_json::from_str::<Object>(object.get()).ok());
    let Object { metadata } = object.unwrap_or_default();
    Member {
        id: if metadata.uid.is_empty() { metadata.name } else { metadata.uid },
        created_at: metadata.creation_timestamp,
    }
}

/// Why somebody need not be asked at all.
pub struct Hopeless {
    /// For audit records.
    pub code: &'static str,
    /// For the person.
    pub message: String,
}

/// Whether asking this user to step up would be in vain.
pub fn hopeless(
    app: &App,
    user: &str,
    groups: &[String],
    requirement: &Requirement,
    action: &Action,
) -> Option<Hopeless> {
    if requirement.acr_values.is_empty() {
        let message = format!(
            "{}, but these rules contradict each other and no sign-in satisfies them all: tell your cluster's administrator",
            step_up_required(requirement, action)
        );
        return Some(Hopeless { code: "contradictory-rules", message });
    }
    (!app.can_step_up(user, groups)).then(|| Hopeless {
        code: "cannot-step-up",
        message: format!(
            "{}, and {user} cannot step up: no second factor is known for this identity",
            step_up_required(requirement, action)
        ),
    })
}

/// `step-up required to delete namespaces/prod (rule delete-namespace)`.
pub fn step_up_required(requirement: &Requirement, action: &Action) -> String {
    let rules = if requirement.rules.len() == 1 { "rule" } else { "rules" };
    format!("step-up required to {action} ({rules} {})", requirement.rules.join(", "))
}

/// The text of a denial that the plugin cannot answer within the command.
pub fn how_to_elevate(requirement: &Requirement, action: &Action) -> String {
    format!("{}: type \"kubectl stepup elevate\", then repeat the command", step_up_required(requirement, action))
}

/// Why a challenge ended, after "and".
pub fn why_it_ended(cause: DeclineCause) -> &'static str {
    match cause {
        DeclineCause::Declined => "it was declined; repeat the command in a few seconds to be asked again",
        DeclineCause::NoReason => {
            "a reason is required: set KUBECTL_STEPUP_REASON and repeat the command, or type \"kubectl stepup elevate --reason TEXT\" first"
        }
        DeclineCause::TimedOut => "nobody completed the sign-in in time; repeat the command to be asked again",
        DeclineCause::ProviderFailed => {
            "the identity provider could not be reached; repeat the command once it is back"
        }
        DeclineCause::TooWeak => {
            "the sign-in was not strong or recent enough; check your second factor at the identity provider"
        }
    }
}

/// The record of a use of `grant`.
pub fn used(audit: &Record, grant: &GrantRecord) -> Record {
    Record {
        event: Event::Use,
        decision: Some(Verdict::Allowed),
        acr: Some(grant.grant.acr.clone()),
        auth_time: Some(grant.grant.auth_time),
        reason: grant.grant.reason.clone(),
        grant: Some(grant.grant.id.clone()),
        challenge: grant.challenge.clone(),
        ..audit.clone()
    }
}

/// Records what rules with `enforcement: audit` would have asked. Such a rule must never stand in anybody's way, so a
/// log that cannot be written is reported, and the request goes on.
pub async fn note_would_ask(app: &App, would_ask: &[WouldAsk<'_>], audit: &Record, source: &Source) {
    if would_ask.is_empty() {
        return;
    }
    let record = Record {
        event: Event::WouldChallenge,
        decision: Some(Verdict::Allowed),
        rules: would_ask.iter().map(|asked| asked.rule.name.clone()).collect(),
        ..audit.clone()
    };
    if let Err(error) = app.record(vec![record.from(source)]).await {
        tracing::error!(%error, "what a rule would have asked could not be recorded");
    }
}

/// Reports conditions that could not be evaluated and therefore count as met.
pub fn note_faults(app: &App, requirement: &Requirement) {
    for fault in &requirement.faults {
        tracing::warn!(fault, "a condition could not be evaluated and counts as met");
        app.metrics.condition_failed(fault.split(':').next().unwrap_or_default());
    }
}

/// What the cluster's own audit log is to know of a use.
fn annotations(grant: &GrantRecord) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([
        ("rule".to_owned(), grant.rules.join(",")),
        ("grant".to_owned(), grant.grant.id.clone()),
        ("acr".to_owned(), grant.grant.acr.clone()),
        ("auth-time".to_owned(), grant.grant.auth_time.to_rfc3339_opts(SecondsFormat::Secs, true)),
    ]);
    if let Some(reason) = &grant.grant.reason {
        annotations.insert("reason".to_owned(), reason.clone());
    }
    annotations
}

fn allowed(uid: &str) -> AdmissionResponse {
    AdmissionResponse { uid: uid.to_owned(), allowed: true, status: None, audit_annotations: BTreeMap::new() }
}

fn refusal(uid: &str, code: u16, reason: &str, message: String) -> AdmissionResponse {
    refusal_with(uid, code, reason, message, StatusDetails::default())
}

fn refusal_with(uid: &str, code: u16, reason: &str, message: String, details: StatusDetails) -> AdmissionResponse {
    let status = Status { code, reason: reason.to_owned(), message, details: Some(details) };
    AdmissionResponse { uid: uid.to_owned(), allowed: false, status: Some(status), audit_annotations: BTreeMap::new() }
}
