//! `POST /admit`: the validating admission webhook. Judges writes and connections.
//!
//! A protected write without a grant is answered 429 with `retryAfterSeconds: 1`: client-go waits, finds its exec
//! credential expired, runs the plugin again and repeats the same request with the elevated token. Connections (exec,
//! attach, port-forward) are never repeated by clients, so they get the 403 that says what to type.
//!
//! What it answers to an admission review, it answers to a repeat with the same uid: a grant's use is consumed in the
//! same commit as the verdict.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::action::Action;
use crate::server::app::{ATTEMPTS, App, Unavailable};
use crate::server::audit::{Event, Record, Source};
use crate::server::challenge::{self, Answer, Occasion};
use crate::server::grant::{self, Member, Moment, Presented, Usage};
use crate::server::policy::{Decision, Policy, Request, Requirement};
use crate::server::protected::{demanded, hopeless, how_to_elevate, step_up_required, used, why_it_ended};
use crate::server::store::{ChallengeRecord, Committed, GrantRecord, Standing, Transaction, Versioned};
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
    if app.config.webhooks.authorization && !action.reaches_admission() {
        // The authorizer has judged it. API servers before 1.37 show us reviews all the same.
        return Ok(allowed(&request.uid));
    }
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
    Box::pin(judge(app, &policy, request, action, decision, source, now)).await
}

/// Answers a request that a rule is about.
async fn judge(
    app: &App,
    policy: &Policy,
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
    match demanded(app, decision, audit, source).await {
        None => Ok(allowed(&request.uid)),
        Some((requirement, audit)) => {
            let user = &request.user_info;
            let under = |action: Action| {
                let requirement = policy.under(&requirement.rules, &user.username, &user.groups, &action)?;
                Some((requirement, action))
            };
            let (requirement, action) =
                nameless(request, &action).and_then(under).unwrap_or_else(|| (requirement.clone(), action));
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
        // How often what is asked has turned out to have gone on under an open use already.
        let mut seen = 0;
        for _ in 0..ATTEMPTS {
            if let Some(response) = self.attempt(&mut seen).await? {
                return Ok(response);
            }
        }
        Err(Unavailable::Contended)
    }

    async fn attempt(&self, seen: &mut u32) -> Result<Option<AdmissionResponse>, Unavailable> {
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
        let (member, moment) = (member(self.request), Moment::of(self.source, self.now));
        match grant::covering(&grants, &self.requirement, &self.action, &member, *seen, moment) {
            Some((grant, usage)) => {
                *seen += u32::from(matches!(usage, Usage::GoOn(_)));
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
        let verdict = Some((self.now, response.clone()));
        let transaction = Transaction { verdict, audit: vec![audit], ..usage.transaction(grant) };
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
            standing: Standing::Request,
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
        subresource: Some(request.sub_resource.clone()),
        namespace: Some(request.namespace.clone()),
        name: Some(request.name.clone()),
        ..Action::new(verb, &request.resource.group, &request.resource.resource)
    }
    .normalized()
}

/// What the action is for a grant: a creation under a generated name is one of any name, since its repeat gets another.
///
/// The API server makes the name up before it asks (`names.SimpleNameGenerator` in k8s.io/apiserver: 58 bytes at most of
/// what the client wants it to begin with, and five of its own).
fn nameless(request: &AdmissionRequest, action: &Action) -> Option<Action> {
    let name = action.name.as_deref().filter(|_| action.verb == "create")?;
    let wanted = Metadata::of(request.object.as_deref()).generate_name;
    let stem = name.get(..name.len().checked_sub(GENERATED)?)?;
    let is_generated = !wanted.is_empty() && (wanted == stem || stem.len() == LONGEST_STEM && wanted.starts_with(stem));
    is_generated.then(|| Action { name: None, ..action.clone() })
}

/// Characters of a generated name that are made up.
const GENERATED: usize = 5;
/// Most characters of a generated name that are not.
const LONGEST_STEM: usize = 58;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    generate_name: String,
    uid: String,
    creation_timestamp: Option<DateTime<Utc>>,
}

impl Metadata {
    fn of(object: Option<&RawValue>) -> Self {
        #[derive(Default, Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        object.and_then(|object| serde_json::from_str::<Object>(object.get()).ok()).unwrap_or_default().metadata
    }
}

/// What is reviewed, as far as it tells whether it belongs to a request that has used a grant already: in a collection
/// request, only the old object tells which it is.
fn member(request: &AdmissionRequest) -> Member {
    let old = Metadata::of(request.old_object.as_deref());
    let is_named = !request.name.is_empty();
    let effect = match request.operation {
        Operation::Delete => {
            let object = if is_named { old.uid.as_str() } else { "collection" };
            let options = request.options.as_deref().map_or("", RawValue::get);
            (!object.is_empty()).then(|| digest(&[object, options]))
        }
        Operation::Update => changes(request).filter(|_| !old.uid.is_empty()).map(|made| digest(&[&old.uid, &made])),
        Operation::Create | Operation::Connect => None,
    };
    if is_named {
        return Member { id: request.name.clone(), created_at: None, effect };
    }
    let id = if old.uid.is_empty() { old.name } else { old.uid };
    Member { id, created_at: old.creation_timestamp, effect }
}

/// What an update makes of the object, wherever it differs: the same when the API server makes the same change of a newer
/// version of the object.
fn changes(request: &AdmissionRequest) -> Option<String> {
    let parsed = |object: &Option<Box<RawValue>>| {
        let mut object: Value = serde_json::from_str(object.as_deref()?.get()).ok()?;
        let metadata = object.get_mut("metadata")?.as_object_mut()?;
        metadata.retain(|key, _| !["resourceVersion", "generation", "managedFields"].contains(&key.as_str()));
        Some(object)
    };
    let (old, new) = (parsed(&request.old_object)?, parsed(&request.object)?);
    let mut differences = Vec::new();
    differ(&old, &new, "", &mut differences);
    serde_json::to_string(&differences).ok()
}

/// Where `new` differs from `old` (RFC 6901: a key may have slashes), and what is there in `new`: nothing where it is gone,
/// which is not `null`.
fn differ<'v>(old: &Value, new: &'v Value, path: &str, into: &mut Vec<(String, Vec<&'v Value>)>) {
    let below = |key: &str| format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            into.extend(old.keys().filter(|key| !new.contains_key(*key)).map(|key| (below(key), Vec::new())));
            for (key, value) in new {
                match old.get(key) {
                    Some(old) => differ(old, value, &below(key), into),
                    None => into.push((below(key), vec![value])),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differ(old, new, &below(&index.to_string()), into);
            }
        }
        _ if old == new => {}
        _ => into.push((path.to_owned(), vec![new])),
    }
}

fn digest(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    URL_SAFE_NO_PAD.encode(digest.finalize())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(old: &Value, new: &Value) -> AdmissionRequest {
        let request = json!({
            "uid": "1", "operation": "UPDATE", "name": "web", "namespace": "prod", "userInfo": {"username": "alice"},
            "resource": {"group": "apps", "version": "v1", "resource": "deployments"}, "object": new, "oldObject": old,
        });
        serde_json::from_str(&request.to_string()).unwrap()
    }

    fn deployment(version: &str, replicas: u32, images: &[&str]) -> Value {
        let containers: Vec<_> = images.iter().map(|image| json!({"image": image})).collect();
        json!({"metadata": {"uid": "u", "resourceVersion": version}, "spec": {"replicas": replicas, "containers": containers}})
    }

    #[test]
    fn the_same_change_of_a_newer_object_is_the_same_and_another_is_not() {
        let effect = |old: &Value, new: &Value| member(&update(old, new)).effect.unwrap();
        let to_zero = effect(&deployment("1", 3, &["a", "b"]), &deployment("1", 0, &["a", "b"]));
        // Somebody else has scaled it, or changed something else, meanwhile.
        assert_eq!(effect(&deployment("2", 5, &["a", "b"]), &deployment("2", 0, &["a", "b"])), to_zero);
        assert_eq!(effect(&deployment("2", 3, &["a", "c"]), &deployment("2", 0, &["a", "c"])), to_zero);
        for (old, new) in [
            (deployment("1", 3, &["a"]), deployment("1", 1, &["a"])),
            (deployment("1", 3, &["a", "b"]), deployment("1", 0, &["a", "c"])),
            (deployment("1", 3, &["a"]), deployment("1", 0, &["a", "b"])),
            (deployment("1", 0, &["a"]), deployment("1", 0, &["a"])),
        ] {
            assert_ne!(effect(&old, &new), to_zero, "{old} {new}");
        }
        let gone = json!({"metadata": {"uid": "u"}, "spec": {"containers": []}});
        assert_ne!(effect(&deployment("1", 3, &[]), &gone), effect(&deployment("1", 3, &[]), &deployment("1", 0, &[])));
        // A label may have a slash in its name, and a value may be null.
        let labelled = |labels: Value| json!({"metadata": {"uid": "u", "labels": labels}});
        let from = |old: Value, new: Value| effect(&labelled(old), &labelled(new));
        assert_ne!(
            from(json!({"a/b": "1", "a": {"b": "1"}}), json!({"a/b": "2", "a": {"b": "1"}})),
            from(json!({"a/b": "1", "a": {"b": "1"}}), json!({"a/b": "1", "a": {"b": "2"}}))
        );
        assert_ne!(
            from(json!({"a~1b": 1, "a/b": 1}), json!({"a/b": 1})),
            from(json!({"a~1b": 1, "a/b": 1}), json!({"a~1b": 1}))
        );
        assert_ne!(from(json!({"a": 1}), json!({"a": null})), from(json!({"a": 1}), json!({})));
        // What has no uid is no object that could be the same.
        assert_eq!(member(&update(&json!({"metadata": {}}), &json!({"metadata": {}}))).effect, None);
        assert_eq!(member(&update(&json!([]), &json!({}))).effect, None);
    }

    #[test]
    fn a_generated_name_is_any_name_and_a_chosen_one_is_not() {
        let create = |name: &str, generate_name: &str| {
            let request = json!({
                "uid": "1", "operation": "CREATE", "name": name, "namespace": "prod", "userInfo": {"username": "alice"},
                "resource": {"group": "batch", "version": "v1", "resource": "jobs"},
                "object": {"metadata": {"name": name, "generateName": generate_name}},
            });
            let request = serde_json::from_str(&request.to_string()).unwrap();
            let action = action_of(&request);
            nameless(&request, &action).map(|action| action.to_string())
        };
        let long = "a".repeat(70);
        assert_eq!(create("backup-x7k2p", "backup-").as_deref(), Some("create jobs.batch -n prod"));
        assert!(create(&format!("{}x7k2p", &long[..58]), &long).is_some());
        for (name, generate_name) in [
            ("backup", ""),
            ("backup", "back"),
            ("backup-1", "backup-"),
            ("other-x7k2p", "backup-"),
            ("a", "a"),
            ("é", "é"),
        ] {
            assert_eq!(create(name, generate_name), None, "{name} {generate_name}");
        }
    }
}
