//! The flows together, on the real policy, store, audit log and signer, with a provider that says what it is told to.
//! Time is walked by hand. Each invariant of SECURITY.md has a story here that tries to break it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};

use super::app::App;
use super::audit::{Audit, Event, Record, Source};
use super::config::{Config, IdentityProvider, Level, People, RequiredClaim, Sink};
use super::exchange::Refusal;
use super::identity::{Identities, Identity};
use super::metrics::Metrics;
use super::mint::Signer;
use super::policy::Policy;
use super::store::{Sqlite, Store};
use super::testing::{FakeProvider, SigningKey, config};
use super::{admit, authorize, challenge, digest, exchange, explain, grant};
use crate::action::Action;
use crate::wire::challenge::{Challenge, ChallengeList, ChallengeRequest, DeclineCause};
use crate::wire::review::{AccessAnswer, AdmissionResponse};
use crate::wire::token::{GRANT_TYPE, ID_TOKEN_TYPE, TokenRequest, TokenResponse};

const POLICY: &str = r#"
rules:
- name: delete-namespace
  description: Deleting a namespace deletes everything in it.
  actions: [{verbs: [delete], apiGroups: [""], resources: [namespaces], names: ["prod*"]}]
  require: {acr: [mfa], maxAge: 5m}
  grant: {ttl: 5m, uses: 1, covers: object}
- name: prod-secrets
  actions: [{verbs: [get], apiGroups: [""], resources: [secrets], namespaces: [prod]}]
  require: {acr: [mfa]}
  grant: {ttl: 5m, uses: unlimited, covers: kind}
- name: config
  actions: [{verbs: [delete, update], apiGroups: [""], resources: [configmaps], namespaces: [prod]}]
  require: {acr: [mfa], reason: {required: true, pattern: "OPS-[0-9]+", hint: a change ticket}}
  grant: {ttl: 5m, uses: 1, covers: object}
- name: volumes
  actions: [{verbs: [delete], apiGroups: [""], resources: [persistentvolumeclaims], namespaces: [prod]}]
  require: {acr: [mfa]}
  grant: {ttl: 5m, uses: 3, covers: kind}
- name: vault
  actions: [{verbs: [get], apiGroups: [""], resources: [secrets], namespaces: [vault]}]
  require: {acr: [mfa]}
  grant: {ttl: 5m, uses: 1, covers: object}
- name: jobs
  actions: [{verbs: [create], apiGroups: [batch], resources: [jobs], namespaces: [prod]}]
  require: {acr: [mfa]}
  grant: {ttl: 5m, uses: 1, covers: object}
- name: exec
  actions: [{verbs: [connect], apiGroups: [""], resources: [pods/exec], namespaces: [pay]}]
  require: {acr: [mfa]}
  grant: {ttl: 5m, uses: 1, covers: object}
- name: become-admin
  actions: [{verbs: [assume], apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], names: [cluster-admin]}]
  require: {acr: [mfa]}
  grant: {ttl: 10m, uses: unlimited, covers: object, groups: ["stepup:cluster-admin"]}
- name: watched
  enforcement: audit
  actions: [{verbs: [delete], apiGroups: [""], resources: [services]}]
  require: {acr: [mfa]}
  grant: {ttl: 5m, uses: 1, covers: object}
"#;

/// A server without its network side.
struct Server {
    app: App,
    store: Arc<Sqlite>,
    provider: FakeProvider,
    key: SigningKey,
    dir: tempfile::TempDir,
}

/// The moment at which the stories begin: the date that the provider's answers carry.
fn start() -> DateTime<Utc> {
    "2027-01-15T08:00:00Z".parse().unwrap()
}

fn source() -> Source {
    // Answered in no time: stories walk it by hand.
    source_for(-60_000)
}

/// The request has been here for so many milliseconds when it is decided.
fn source_for(millis: i64) -> Source {
    let (now, by) = (Instant::now(), std::time::Duration::from_millis(millis.unsigned_abs()));
    let arrived = if millis < 0 { now.checked_add(by) } else { now.checked_sub(by) };
    Source { addr: IpAddr::V4(Ipv4Addr::LOCALHOST), user_agent: Some("test".into()), arrived: arrived.unwrap() }
}

impl Server {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let key = SigningKey::p256();
        let provider = FakeProvider::start(&[key.jwk("k")]).await;
        let dir = tempfile::tempdir().unwrap();
        let entry = IdentityProvider {
            levels: vec![
                Level { name: "pwd".into(), acr_values: vec!["urn:pwd".into()] },
                Level { name: "mfa".into(), acr_values: vec!["urn:mfa".into()] },
            ],
            can_step_up: People { users: vec![], groups: vec!["oidc:mfa".into()] },
            ..provider.entry()
        };
        let mut config = config(dir.path(), vec![entry]);
        config.administrators.groups = vec!["oidc:admins".into()];
        change(&mut config);
        let (app, store) = open(config).await;
        Self { app, store, provider, key, dir }
    }

    /// The same after `kill -9`: a second server on the first one's files.
    async fn killed_and_restarted(&mut self) {
        self.store.unlock();
        let (app, store) = open(self.app.config.clone()).await;
        std::mem::forget((std::mem::replace(&mut self.app, app), std::mem::replace(&mut self.store, store)));
    }

    fn id_token(&self, user: &str, acr: &str, signed_in: DateTime<Utc>, now: DateTime<Utc>) -> crate::secret::Secret {
        self.key.token(
            "ES256",
            "k",
            &json!({
                "iss": self.provider.issuer, "aud": "kubernetes-step-up", "sub": user, "groups": ["developers", "mfa"],
                "acr": acr, "auth_time": signed_in.timestamp(), "iat": now.timestamp(),
                "exp": (now + Duration::minutes(5)).timestamp(),
            }),
        )
    }

    async fn exchange(&self, request: TokenRequest, now: DateTime<Utc>) -> Result<TokenResponse, Refusal> {
        exchange::exchange(&self.app, request, &source(), now).await
    }

    /// Answers the challenge with a fresh sign-in of `user`.
    async fn step_up(&self, user: &str, challenge: &str, now: DateTime<Utc>) -> Result<TokenResponse, Refusal> {
        self.exchange(for_challenge(self.id_token(user, "urn:mfa", now, now), challenge), now).await
    }

    async fn admit(&self, review: &Value, now: DateTime<Utc>) -> AdmissionResponse {
        let review = serde_json::from_str(&review.to_string()).unwrap();
        admit::review(&self.app, review, &source(), now).await.response
    }

    async fn authorize(&self, review: &Value, now: DateTime<Utc>) -> Value {
        let review = serde_json::from_str(&review.to_string()).unwrap();
        let answer: AccessAnswer = authorize::review(&self.app, review, &source(), now).await;
        serde_json::to_value(answer).unwrap()["status"].clone()
    }

    async fn pending(&self, asker: &Identity, now: DateTime<Utc>) -> ChallengeList {
        challenge::pending(&self.app, asker, challenge::Whose::Credential, now).await.unwrap()
    }

    /// Id of the newest pending challenge.
    async fn newest(&self, asker: &Identity, now: DateTime<Utc>) -> String {
        self.pending(asker, now).await.challenges[0].id.clone()
    }

    /// Asks beforehand for the role of `become-admin`.
    async fn asks_for_the_role(&self, asker: &Identity, now: DateTime<Utc>) -> Challenge {
        let assume = Action {
            name: Some("cluster-admin".into()),
            ..Action::new("assume", "rbac.authorization.k8s.io", "clusterroles")
        };
        let request = ChallengeRequest { actions: vec![assume] };
        challenge::request(&self.app, asker, request, &source(), now).await.unwrap().challenges.remove(0)
    }

    fn audit(&self) -> Vec<Record> {
        records(&self.dir.path().join("audit.jsonl"))
    }

    fn events(&self) -> Vec<Event> {
        self.audit().into_iter().map(|record| record.event).collect()
    }
}

async fn open(config: Config) -> (App, Arc<Sqlite>) {
    let now = start();
    let policy = Policy::parse(POLICY, "policy.yaml", &config.levels()).unwrap();
    let super::config::Store::Sqlite { path } = &config.store;
    let store = Arc::new(Sqlite::open(path).unwrap());
    let unacknowledged = store.unacknowledged().await.unwrap();
    let audit = Audit::open(&config.audit.sinks, &unacknowledged).unwrap();
    let identities = Identities::new(&config).unwrap();
    let signer = Signer::open(&config.token.keys, config.token.sign_with, now).unwrap();
    let kept = Arc::clone(&store);
    (App::new(config, policy, kept, audit, identities, signer, Metrics::new()), store)
}

fn records(path: &Path) -> Vec<Record> {
    let log = std::fs::read_to_string(path).unwrap();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn for_challenge(subject_token: crate::secret::Secret, challenge: &str) -> TokenRequest {
    TokenRequest {
        grant_type: GRANT_TYPE.into(),
        subject_token,
        subject_token_type: ID_TOKEN_TYPE.into(),
        challenge: Some(challenge.into()),
        authorization_details: None,
        reason: Some("OPS-1".into()),
        ttl: None,
        carry: None,
    }
}

/// The person behind a base token.
fn asker(user: &str, jti: Option<&str>) -> Identity {
    Identity {
        provider: "corp".into(),
        user: user.into(),
        groups: vec!["oidc:developers".into(), "oidc:mfa".into()],
        jti: jti.map(Into::into),
        acr: Some("urn:pwd".into()),
        auth_time: None,
    }
}

fn user_info(user: &str, jti: &str) -> Value {
    json!({"username": user, "groups": ["oidc:developers", "oidc:mfa", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": [format!("JTI={jti}")]}})
}

#[allow(clippy::needless_pass_by_value, reason = "reads better where it is called")]
fn delete(uid: &str, resource: &str, namespace: &str, name: &str, user: Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": uid, "operation": "DELETE", "userInfo": user, "namespace": namespace, "name": name, "dryRun": false,
        "kind": {"group": "", "version": "v1", "kind": "X"},
        "resource": {"group": "", "version": "v1", "resource": resource},
        "object": null, "oldObject": {"metadata": {"name": name, "uid": format!("uid of {name}")}},
        "options": {"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"}}})
}

fn delete_namespace(uid: &str, name: &str, user: &str, jti: &str) -> Value {
    delete(uid, "namespaces", name, name, user_info(user, jti))
}

/// One object of a deletecollection.
fn delete_of_collection(uid: &str, object: &str, user: &str, jti: &str) -> Value {
    let mut review = delete(uid, "configmaps", "prod", object, user_info(user, jti));
    review["request"]["name"] = json!("");
    review
}

fn access(verb: &str, resource: &str, namespace: &str, name: &str, user: &str, jti: &str) -> Value {
    let info = user_info(user, jti);
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": user, "groups": info["groups"], "extra": info["extra"],
        "resourceAttributes": {"verb": verb, "resource": resource, "namespace": namespace, "name": name, "version": "v1"}}})
}

fn code(response: &AdmissionResponse) -> u16 {
    response.status.as_ref().map_or(200, |status| status.code)
}

fn message(response: &AdmissionResponse) -> &str {
    response.status.as_ref().map_or("", |status| &status.message)
}

fn error_of(result: Result<TokenResponse, Refusal>) -> String {
    result.unwrap_err().body().error
}

#[tokio::test]
async fn a_denied_deletion_steps_up_once_and_is_normal_again() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());

    let denied = server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    assert_eq!(code(&denied), 429);
    let status = denied.status.unwrap();
    assert_eq!(status.details.unwrap().retry_after_seconds, Some(1));
    assert!(status.message.contains("delete namespaces/prod") && status.message.contains("delete-namespace"));

    let challenge = server.pending(&alice, now).await.challenges.remove(0);
    assert_eq!((challenge.acr_values.as_slice(), challenge.max_age), (["urn:mfa".to_owned()].as_slice(), Some(300)));
    let token = server.step_up("alice", &challenge.id, now).await.unwrap();
    assert_eq!((token.expires_in, token.grant.uses_left), (300, Some(1)));

    let retry = delete_namespace("2", "prod", "alice", &token.grant.id);
    let allowed = server.admit(&retry, now + Duration::seconds(1)).await;
    assert!(allowed.allowed, "{allowed:?}");
    assert_eq!(allowed.audit_annotations["grant"], token.grant.id);
    assert_eq!(allowed.audit_annotations["acr"], "urn:mfa");
    assert_eq!(allowed.audit_annotations["reason"], "OPS-1");

    // The same question again gets the same answer; the next request is challenged again.
    assert_eq!(server.admit(&retry, now + Duration::seconds(2)).await, allowed);
    let mut next = delete_namespace("3", "prod", "alice", &token.grant.id);
    next["request"]["oldObject"]["metadata"]["uid"] = json!("made anew");
    assert_eq!(code(&server.admit(&next, now + Duration::seconds(3)).await), 429);
    assert_eq!(server.events(), [Event::Challenge, Event::StepUp, Event::Mint, Event::Use, Event::Challenge]);
}

#[tokio::test]
async fn the_elevated_token_says_who_what_and_for_how_long() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let token = server.step_up("alice", &id, now).await.unwrap();
    let claims = token.access_token.expose().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["iss"], server.app.config.public_url);
    assert_eq!(claims["aud"], "kubernetes");
    assert_eq!(claims["username"], "alice");
    assert_eq!(claims["groups"], json!(["oidc:developers", "oidc:mfa"]));
    assert_eq!(claims["jti"], token.grant.id);
    assert_eq!(claims["acr"], "urn:mfa");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
    let (max_ttl, life) = (900, claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap());
    assert!(life > 300 && life <= max_ttl, "{life}: for API servers whose clock is behind");
    assert_eq!(claims["actions"][0]["names"], json!(["prod"]));
}

#[tokio::test]
async fn a_grant_is_for_its_user_its_action_and_its_time() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let grant = server.step_up("alice", &id, now).await.unwrap().grant;

    for (uid, name, user, later, expected) in [
        ("other-object", "prod-eu", "alice", 1, 429),
        ("other-user", "prod", "carol", 1, 403),
        ("too-late", "prod", "alice", 300, 429),
        ("clock-set-back", "prod", "alice", -86_400, 429),
        ("in-time", "prod", "alice", 299, 200),
    ] {
        let review = delete_namespace(uid, name, user, &grant.id);
        let response = server.admit(&review, now + Duration::seconds(later)).await;
        assert_eq!(code(&response), expected, "{uid}: {response:?}");
    }
}

#[tokio::test]
async fn fifty_at_once_use_a_single_use_once() {
    let server = Arc::new(Server::start().await);
    let now = start();
    server.admit(&delete_namespace("first", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let grant = server.step_up("alice", &id, now).await.unwrap().grant;
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let (server, grant) = (Arc::clone(&server), grant.id.clone());
            tokio::spawn(async move {
                server.admit(&delete_namespace(&format!("uid-{n}"), "prod", "alice", &grant), start()).await.allowed
            })
        })
        .collect();
    let mut allowed = 0;
    for task in tasks {
        allowed += usize::from(task.await.unwrap());
    }
    assert_eq!(allowed, 1);
    assert_eq!(server.events().iter().filter(|&&event| event == Event::Use).count(), 1);
}

#[tokio::test]
async fn three_uses_are_three() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let deletion =
        |uid: &str, name: &str, jti: &str| delete(uid, "persistentvolumeclaims", "prod", name, user_info("alice", jti));
    server.admit(&deletion("1", "a", "base"), now).await;
    let grant = server.step_up("alice", &server.newest(&alice, now).await, now).await.unwrap().grant;
    assert_eq!(grant.uses_left, Some(3));
    for (uid, name, left) in [("2", "a", Some(2)), ("3", "b", Some(1)), ("3", "b", Some(1)), ("4", "c", None)] {
        assert!(server.admit(&deletion(uid, name, &grant.id), now).await.allowed, "{uid}");
        let live = grant::list(&server.app, &alice, false, now).await.unwrap().grants;
        assert_eq!(live.first().and_then(|grant| grant.uses_left), left, "{uid}");
    }
    assert_eq!(code(&server.admit(&deletion("5", "d", &grant.id), now).await), 429);
    assert_eq!(server.events().iter().filter(|&&event| event == Event::Use).count(), 3);
}

#[tokio::test]
async fn killed_between_use_and_answer_nothing_is_used_twice_and_no_record_is_missing() {
    let mut server = Server::start().await;
    let now = start();
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let grant = server.step_up("alice", &id, now).await.unwrap().grant;
    let retry = delete_namespace("2", "prod", "alice", &grant.id);

    // The commit is made; the process dies before the record reaches the log and the answer leaves.
    let found = server.app.store.grant(&grant.id).await.unwrap().unwrap();
    let mut spent = found.document.clone();
    spent.grant.uses_left = Some(0);
    let record = Record { uid: Some("2".into()), ..Record::new(Event::Use, now) };
    let verdict = AdmissionResponse { uid: "2".into(), allowed: true, status: None, audit_annotations: [].into() };
    let transaction = super::store::Transaction {
        grants: vec![(Some(found.version), spent)],
        verdict: Some((now, verdict.clone())),
        audit: vec![record.clone()],
        ..Default::default()
    };
    assert_eq!(server.app.store.commit(transaction).await.unwrap(), super::store::Committed::Done);
    server.killed_and_restarted().await;

    assert!(server.audit().contains(&record));
    assert_eq!(server.admit(&retry, now).await, verdict);
    assert_eq!(code(&server.admit(&delete_namespace("3", "prod", "alice", &grant.id), now).await), 429);
}

#[tokio::test]
async fn nobody_redeems_another_ones_challenge() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    assert_eq!(error_of(server.step_up("carol", &id, now).await), "invalid_grant");
    assert!(server.pending(&asker("carol", Some("base")), now).await.challenges.is_empty());
    let carol = asker("carol", None);
    let declined = challenge::decline(&server.app, &carol, &id, DeclineCause::Declined, &source(), now).await;
    assert_eq!(declined.unwrap_err().status(), 404);
    // Another base token of the same user sees nothing of it either.
    let renewed = asker("alice", Some("other"));
    assert!(server.pending(&renewed, now).await.challenges.is_empty());
    // Unless she asks for it, as `elevate` does: base tokens are renewed.
    let all = challenge::pending(&server.app, &renewed, challenge::Whose::Person, now).await.unwrap();
    assert_eq!(all.challenges.iter().map(|challenge| &challenge.id).collect::<Vec<_>>(), [&id]);
    assert!(server.step_up("alice", &id, now).await.is_ok());
    let refused: Vec<_> = server.audit().into_iter().filter(|record| record.event == Event::Refusal).collect();
    assert_eq!((refused.len(), refused[0].user.as_str()), (1, "carol"));
}

#[tokio::test]
async fn what_came_back_counts_and_not_what_was_asked() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    for (acr, age, expected) in [
        ("urn:pwd", 0, "insufficient_user_authentication"),
        ("urn:mfa-lookalike", 0, "insufficient_user_authentication"),
        ("urn:mfa", 301, "insufficient_user_authentication"),
        ("urn:mfa", -151, "invalid_grant"),
    ] {
        let token = server.id_token("alice", acr, now - Duration::seconds(age), now);
        let refusal = server.exchange(for_challenge(token, &id), now).await.unwrap_err().body();
        assert_eq!(refusal.error, expected, "{acr} {age}: {}", refusal.error_description);
        if refusal.error == "insufficient_user_authentication" {
            assert_eq!((refusal.acr_values.as_deref(), refusal.max_age), (Some("urn:mfa"), Some(300)));
        }
    }
    assert_eq!(server.events().iter().filter(|&&event| event == Event::Refusal).count(), 4);
    let token = server.id_token("alice", "urn:mfa", now - Duration::seconds(300), now);
    assert!(server.exchange(for_challenge(token, &id), now).await.is_ok());
}

#[tokio::test]
async fn a_sign_in_that_seems_old_by_two_clocks_is_said_to_be_so() {
    let server = Server::start().await;
    // The provider's clock stands still at `start`.
    let now = start() + Duration::seconds(120);
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let token = server.id_token("alice", "urn:mfa", now - Duration::seconds(301), now);
    let refusal = server.exchange(for_challenge(token, &id), now).await.unwrap_err().body();
    assert!(
        refusal.error_description.ends_with("(the clock of the identity provider is 120 s behind this server's)"),
        "{}",
        refusal.error_description
    );
}

#[tokio::test]
async fn a_challenge_is_redeemed_once() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    assert!(server.step_up("alice", &id, now).await.is_ok());
    assert_eq!(error_of(server.step_up("alice", &id, now).await), "invalid_grant");
}

#[tokio::test]
async fn the_reason_is_asked_for_and_kept() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete("1", "configmaps", "prod", "a", user_info("alice", "base")), now).await;
    let challenge = server.pending(&asker("alice", Some("base")), now).await.challenges.remove(0);
    assert_eq!(challenge.reason.unwrap().hint.as_deref(), Some("a change ticket"));
    let with = |reason: Option<&str>| TokenRequest {
        reason: reason.map(Into::into),
        ..for_challenge(server.id_token("alice", "urn:mfa", now, now), &challenge.id)
    };
    for reason in [None, Some(""), Some("because"), Some("see OPS-1 please"), Some("OPS-1\nOPS-2")] {
        assert_eq!(error_of(server.exchange(with(reason), now).await), "invalid_request", "{reason:?}");
    }
    let token = server.exchange(with(Some(" OPS-17 ")), now).await.unwrap();
    assert_eq!(token.grant.reason.as_deref(), Some("OPS-17"));
    assert_eq!(server.audit().last().unwrap().reason.as_deref(), Some("OPS-17"));
}

#[tokio::test]
async fn reads_are_denied_with_what_to_type_and_never_allowed() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let elsewhere = server.authorize(&access("get", "secrets", "dev", "db", "alice", "base"), now).await;
    assert_eq!(elsewhere, json!({"allowed": false, "denied": false}));
    for (verb, namespace, name) in [("get", "prod", "db"), ("list", "prod", ""), ("list", "", ""), ("watch", "", "")] {
        let answer = server.authorize(&access(verb, "secrets", namespace, name, "alice", "base"), now).await;
        assert_eq!(answer["denied"], true, "{verb} {namespace}");
        assert!(answer["reason"].as_str().unwrap().contains("kubectl stepup elevate"));
    }
    let challenges = server.pending(&alice, now).await.challenges;
    let of_one = challenges.iter().find(|challenge| challenge.actions[0].name.is_some()).unwrap();
    let grant = server.step_up("alice", &of_one.id, now).await.unwrap().grant;
    for (verb, namespace, name, denied) in [
        ("get", "prod", "db", false),
        ("list", "prod", "", false),
        ("list", "", "", true),
        ("get", "prod", "db", false),
    ] {
        let answer = server.authorize(&access(verb, "secrets", namespace, name, "alice", &grant.id), now).await;
        assert_eq!((&answer["denied"], &answer["allowed"]), (&json!(denied), &json!(false)), "{verb} {namespace}");
    }
}

#[tokio::test]
async fn writes_are_left_to_admission() {
    let server = Server::start().await;
    let answer = server.authorize(&access("delete", "namespaces", "prod", "prod", "alice", "base"), start()).await;
    assert_eq!(answer, json!({"allowed": false, "denied": false}));
    let mut webhooks = access("delete", "validatingwebhookconfigurations", "", "stepup", "alice", "base");
    webhooks["spec"]["resourceAttributes"]["group"] = json!("admissionregistration.k8s.io");
    assert_eq!(server.authorize(&webhooks, start()).await["denied"], true);
}

/// The API server quotes an object when it says why a change of it cannot be made, and asks admission only after that.
#[tokio::test]
async fn a_change_of_what_may_not_be_read_is_judged_like_the_read() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let is_denied = async |verb: &str, resource: &str, namespace: &str, jti: &str, seconds: i64| {
        let review = access(verb, resource, namespace, "db", "alice", jti);
        let answer = server.authorize(&review, now + Duration::seconds(seconds)).await;
        assert_eq!(answer["allowed"], false);
        answer["denied"] == true
    };
    for (verb, resource, namespace, expected) in [
        ("patch", "secrets", "dev", false),
        ("delete", "secrets", "prod", false),
        ("create", "secrets", "prod", false),
        ("patch", "configmaps", "prod", false),
        ("update", "secrets", "prod", true),
        ("patch", "secrets", "prod", true),
    ] {
        assert_eq!(is_denied(verb, resource, namespace, "base", 0).await, expected, "{verb} {resource} -n {namespace}");
    }
    let refusal = server.authorize(&access("patch", "secrets", "prod", "db", "alice", "base"), now).await;
    let refusal = refusal["reason"].as_str().unwrap();
    assert!(refusal.starts_with("step-up required to patch secrets/db -n prod (rule prod-secrets): type"), "{refusal}");

    let grant_for = async |verb: &str, namespace: &str| {
        assert!(is_denied(verb, "secrets", namespace, "base", 0).await);
        let asks = |challenge: &&Challenge| {
            challenge.actions[0].verb == verb && challenge.actions[0].namespace.as_deref() == Some(namespace)
        };
        let challenges = server.pending(&alice, now).await.challenges;
        server.step_up("alice", &challenges.iter().find(asks).unwrap().id, now).await.unwrap().grant.id
    };
    let any_change = grant_for("patch", "prod").await;
    assert!(!is_denied("patch", "secrets", "prod", &any_change, 1).await);
    assert!(!is_denied("update", "secrets", "prod", &any_change, 1).await);
    assert!(is_denied("patch", "secrets", "vault", &any_change, 1).await);
    assert!(is_denied("patch", "secrets", "prod", &any_change, 300).await, "over");
    // Who may read it as often as they like is shown nothing new, and admission asks.
    let any_read = grant_for("get", "prod").await;
    assert!(!is_denied("patch", "secrets", "prod", &any_read, 1).await);
    let one_read = grant_for("get", "vault").await;
    assert!(is_denied("patch", "secrets", "vault", &one_read, 1).await);

    // Admission takes the use; the change may go on under it for a moment.
    let one_change = grant_for("patch", "vault").await;
    assert!(!is_denied("patch", "secrets", "vault", &one_change, 1).await);
    let mut change = delete("1", "secrets", "vault", "db", user_info("alice", &one_change));
    change["request"]["operation"] = json!("UPDATE");
    change["request"]["object"] = json!({"metadata": {"name": "db", "uid": "uid of db"}, "data": {"k": "new"}});
    change["request"]["options"] = json!({"kind": "PatchOptions", "apiVersion": "meta.k8s.io/v1"});
    let answer = server.admit(&change, now + Duration::seconds(2)).await;
    assert!(answer.allowed, "{answer:?}");
    assert!(is_denied("patch", "secrets", "vault", &one_change, 10).await, "used up");
}

#[tokio::test]
async fn connections_get_a_403_that_says_what_to_type() {
    let server = Server::start().await;
    let mut exec = delete("1", "pods", "pay", "api-0", user_info("alice", "base"));
    exec["request"]["operation"] = json!("CONNECT");
    exec["request"]["subResource"] = json!("exec");
    let denied = server.admit(&exec, start()).await;
    assert_eq!(code(&denied), 403);
    assert!(message(&denied).contains("kubectl stepup elevate"));
    assert_eq!(server.pending(&asker("alice", Some("base")), start()).await.challenges.len(), 1);
}

#[tokio::test]
async fn a_deletecollection_is_one_use_and_another_is_not() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete_of_collection("1", "a", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let grant = server.step_up("alice", &id, now).await.unwrap().grant.id;
    for (uid, object) in [("2", "a"), ("3", "b"), ("4", "c")] {
        assert!(server.admit(&delete_of_collection(uid, object, "alice", &grant), now).await.allowed, "{object}");
    }
    assert!(server.admit(&delete_of_collection("3", "b", "alice", &grant), now).await.allowed, "a repeat");
    assert!(server.admit(&delete_of_collection("5", "b", "alice", &grant), now).await.allowed, "reviewed twice");
    let mut otherwise = delete_of_collection("orphan", "b", "alice", &grant);
    otherwise["request"]["options"]["propagationPolicy"] = json!("Orphan");
    assert!(!server.admit(&otherwise, now).await.allowed, "another request");
    let one = delete("6", "configmaps", "prod", "d", user_info("alice", &grant));
    assert!(!server.admit(&one, now).await.allowed, "not a collection");
    let later = now + Duration::seconds(60);
    assert!(!server.admit(&delete_of_collection("7", "e", "alice", &grant), later).await.allowed, "a minute later");
}

#[tokio::test]
async fn a_write_that_is_reviewed_again_is_one_use_and_another_write_is_not() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let later = |millis: i64| now + Duration::milliseconds(millis);
    let deletion = |uid: &str, jti: &str| delete(uid, "configmaps", "prod", "a", user_info("alice", jti));
    server.admit(&deletion("1", "base"), now).await;
    let grant = server.step_up("alice", &server.newest(&alice, now).await, now).await.unwrap().grant.id;
    // A pod without grace is validated twice, each time under a uid of its own.
    assert!(server.admit(&deletion("2", &grant), later(0)).await.allowed);
    assert!(server.admit(&deletion("3", &grant), later(20)).await.allowed);
    let mut orphan = deletion("4", &grant);
    orphan["request"]["options"]["propagationPolicy"] = json!("Orphan");
    assert_eq!(code(&server.admit(&orphan, later(30)).await), 429, "done otherwise");
    let mut next = deletion("5", &grant);
    next["request"]["oldObject"]["metadata"]["uid"] = json!("made anew");
    assert_eq!(code(&server.admit(&next, later(40)).await), 429, "another object of this name");
    assert_ne!(code(&server.admit(&deletion("6", &grant), later(3_000)).await), 200, "seconds later");

    let update = |uid: &str, jti: &str, version: &str, data: &str| {
        let mut review = deletion(uid, jti);
        let metadata = json!({"name": "a", "uid": "uid of a", "resourceVersion": version});
        review["request"]["operation"] = json!("UPDATE");
        review["request"]["oldObject"] = json!({"metadata": metadata, "data": {"k": "v", "of": version}});
        review["request"]["object"] = json!({"metadata": metadata, "data": {"k": data, "of": version}});
        review
    };
    let now = later(60_000);
    server.admit(&update("7", "base", "1", "new"), now).await;
    let grant = server.step_up("alice", &server.newest(&alice, now).await, now).await.unwrap().grant.id;
    let later = |millis: i64| now + Duration::milliseconds(millis);
    assert!(server.admit(&update("8", &grant, "1", "new"), later(0)).await.allowed);
    // A conflict: the same patch, of a newer version.
    assert!(server.admit(&update("9", &grant, "2", "new"), later(20)).await.allowed);
    assert_eq!(code(&server.admit(&update("10", &grant, "2", "other"), later(30)).await), 429);
    let uses = server.events().into_iter().filter(|&event| event == Event::Use).count();
    assert_eq!(uses, 4, "each is on record");
}

/// A request takes its time: to be read, and to wait for others of the same grant.
#[tokio::test]
async fn a_write_that_came_beside_another_is_another() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let deletion = |uid: &str, jti: &str| delete(uid, "configmaps", "prod", "a", user_info("alice", jti));
    server.admit(&deletion("1", "base"), now).await;
    let grant = server.step_up("alice", &server.newest(&alice, now).await, now).await.unwrap().grant.id;
    let admit = async |uid: &str, arrived: i64, takes: i64| {
        let review = serde_json::from_str(&deletion(uid, &grant).to_string()).unwrap();
        let at = now + Duration::milliseconds(arrived);
        code(&admit::review(&server.app, review, &source_for(takes), at).await.response)
    };
    assert_eq!(admit("2", 0, 2_000).await, 200);
    assert_eq!(admit("3", 10, 2_000).await, 429, "sent beside it: the use was not taken when this came");
    // As long after it as the first took, and whatever this machine took on top.
    assert_eq!(admit("4", 4_500, -60_000).await, 200, "reviewed once more");
}

/// `kubectl auth can-i` is a question like the read itself, so it takes the use; nobody reads twice on one.
#[tokio::test]
async fn a_read_is_read_once_whatever_asks() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let read = |jti: &str| access("get", "secrets", "vault", "db", "alice", jti);
    server.authorize(&read("base"), now).await;
    let grant = server.step_up("alice", &server.newest(&alice, now).await, now).await.unwrap().grant.id;
    for (millis, denied) in [(0, false), (1, true), (900, true), (5_000, true)] {
        let answer = server.authorize(&read(&grant), now + Duration::milliseconds(millis)).await;
        assert_eq!(answer["denied"], denied, "{millis}");
    }
}

#[tokio::test]
async fn a_creation_under_a_generated_name_is_granted_whatever_the_next_name() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let create = |uid: &str, name: &str, generate_name: &str, jti: &str| {
        let mut review = delete(uid, "jobs", "prod", name, user_info("alice", jti));
        review["request"]["operation"] = json!("CREATE");
        review["request"]["resource"] = json!({"group": "batch", "version": "v1", "resource": "jobs"});
        review["request"]["object"] = json!({"metadata": {"name": name, "generateName": generate_name}});
        review["request"]["oldObject"] = Value::Null;
        review
    };
    assert_eq!(code(&server.admit(&create("1", "backup-aaaaa", "backup-", "base"), now).await), 429);
    let challenge = server.pending(&alice, now).await.challenges.remove(0);
    assert_eq!(challenge.actions[0].to_string(), "create jobs.batch -n prod");
    let grant = server.step_up("alice", &challenge.id, now).await.unwrap().grant.id;
    assert!(server.admit(&create("2", "backup-bbbbb", "backup-", &grant), now).await.allowed);
    assert!(!server.admit(&create("3", "backup-ccccc", "backup-", &grant), now).await.allowed, "once");
    // A name that was chosen is that name.
    server.admit(&create("4", "nightly", "", "base"), now).await;
    let grant = server.step_up("alice", &server.newest(&alice, now).await, now).await.unwrap().grant.id;
    assert!(!server.admit(&create("5", "backup-ddddd", "backup-", &grant), now).await.allowed);
    assert!(server.admit(&create("6", "nightly", "", &grant), now).await.allowed);
}

#[tokio::test]
async fn nobody_whom_a_required_claim_keeps_out_comes_in_by_a_step_up() {
    let server = Server::start_with(|config| {
        let required = RequiredClaim { claim: "sub".into(), value: "alice".into() };
        config.identity_providers[0].required_claims = vec![required];
    })
    .await;
    let now = start();
    for (user, expected) in [("alice", None), ("carol", Some("invalid_grant"))] {
        assert_eq!(code(&server.admit(&delete_namespace(user, "prod", user, user), now).await), 429);
        let id = server.newest(&asker(user, Some(user)), now).await;
        let outcome = server.step_up(user, &id, now).await;
        assert_eq!(outcome.err().map(|refusal| refusal.body().error).as_deref(), expected, "{user}");
    }
}

#[tokio::test]
async fn a_step_up_counts_where_its_own_provider_lets_people_step_up() {
    let server = Server::start_with(|config| {
        let other = IdentityProvider {
            name: "other".into(),
            issuer: "https://other.example.com".into(),
            can_step_up: People { users: vec!["*".into()], groups: vec![] },
            ..config.identity_providers[0].clone()
        };
        config.identity_providers[0].can_step_up = People { users: vec!["carol".into()], groups: vec![] };
        config.identity_providers.push(other);
    })
    .await;
    let now = start();
    for (user, expected) in [("alice", Some("access_denied")), ("carol", None)] {
        assert_eq!(code(&server.admit(&delete_namespace(user, "prod", user, user), now).await), 429);
        let id = server.newest(&asker(user, Some(user)), now).await;
        let outcome = server.step_up(user, &id, now).await;
        assert_eq!(outcome.err().map(|refusal| refusal.body().error).as_deref(), expected, "{user}");
    }
}

#[tokio::test]
async fn a_challenge_is_answered_at_the_terms_of_the_present_policy() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let put_in_force = |rule: &str| {
        let text = format!("rules: [{{name: delete-namespace, {rule}}}]");
        server.app.replace_policy(Policy::parse(&text, "policy.yaml", &server.app.config.levels()).unwrap());
    };
    let action = r#"actions: [{verbs: [delete], apiGroups: [""], resources: [namespaces], names: ["prod*"]}]"#;
    let denied = |uid: &str| delete_namespace(uid, "prod", "alice", "base");
    server.admit(&denied("1"), now).await;
    let first = server.newest(&alice, now).await;

    // Stricter: what was shown before is not what is granted now.
    put_in_force(&format!("{action}, require: {{acr: [mfa], maxAge: 1m}}, grant: {{ttl: 1m, uses: 3, covers: rule}}"));
    let old = server.id_token("alice", "urn:mfa", now - Duration::seconds(61), now);
    assert_eq!(error_of(server.exchange(for_challenge(old, &first), now).await), "insufficient_user_authentication");
    let grant = server.step_up("alice", &first, now).await.unwrap().grant;
    assert_eq!((grant.expires_at - now, grant.uses_left), (Duration::minutes(1), Some(1)), "the stricter of both");
    assert_eq!(grant.covers, ["delete namespaces/prod"], "no more than was shown");

    // Renewed, it has the new terms and its own id.
    put_in_force(&format!("{action}, require: {{acr: [mfa]}}, grant: {{ttl: 2m, uses: 1, covers: object}}"));
    server.admit(&denied("2"), now).await;
    let second = server.newest(&alice, now).await;
    put_in_force(&format!(
        "{action}, require: {{acr: [mfa], reason: {{required: true}}}}, grant: {{ttl: 3m, uses: 2}}"
    ));
    server.admit(&denied("3"), now + Duration::seconds(1)).await;
    let renewed = server.pending(&alice, now).await.challenges.remove(0);
    assert_eq!((renewed.id, renewed.grant.ttl, renewed.grant.uses), (second.clone(), 180, Some(2)));
    assert!(renewed.reason.is_some() && renewed.denied_at == Some(now + Duration::seconds(1)));

    // What is not asked of them any more is not granted any more.
    for changed in [
        format!("{action}, subjects: {{groups: [sre]}}"),
        format!("{action}, enforcement: audit"),
        r#"actions: [{verbs: [delete], apiGroups: [""], resources: [namespaces], names: [other]}]"#.to_owned(),
    ] {
        put_in_force(&changed);
        assert_eq!(error_of(server.step_up("alice", &second, now).await), "invalid_grant", "{changed}");
    }
    put_in_force(&format!("{action}, subjects: {{groups: [\"system:authenticated\"]}}"));
    assert!(server.step_up("alice", &second, now).await.is_ok());
}

#[tokio::test]
async fn a_dry_run_needs_a_grant_and_consumes_nothing() {
    let server = Server::start().await;
    let now = start();
    let mut dry = delete_namespace("1", "prod", "alice", "base");
    dry["request"]["dryRun"] = json!(true);
    assert_eq!(code(&server.admit(&dry, now).await), 429);
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let grant = server.step_up("alice", &id, now).await.unwrap().grant.id;
    for uid in ["2", "3", "4"] {
        let mut dry = delete_namespace(uid, "prod", "alice", &grant);
        dry["request"]["dryRun"] = json!(true);
        assert!(server.admit(&dry, now).await.allowed);
    }
    assert!(server.admit(&delete_namespace("5", "prod", "alice", &grant), now).await.allowed);
    assert!(!server.admit(&delete_namespace("6", "prod", "alice", &grant), now).await.allowed);
}

#[tokio::test]
async fn people_who_cannot_step_up_are_told_at_once_and_machines_are_left_alone() {
    let server = Server::start().await;
    let mut bob = delete_namespace("1", "prod", "bob", "base");
    bob["request"]["userInfo"]["groups"] = json!(["oidc:developers", "system:authenticated"]);
    let refused = server.admit(&bob, start()).await;
    assert_eq!(code(&refused), 403);
    assert!(message(&refused).contains("cannot step up"), "{}", message(&refused));
    for machine in ["system:serviceaccount:kube-system:namespace-controller", "system:node:a", "system:apiserver"] {
        let review = delete_namespace(machine, "prod", machine, "base");
        assert!(server.admit(&review, start()).await.allowed, "{machine}");
        let answer = server.authorize(&access("list", "secrets", "prod", "", machine, "base"), start()).await;
        assert_eq!(answer["denied"], false, "{machine}");
    }
}

#[tokio::test]
async fn a_declined_challenge_ends_in_a_403_that_says_so() {
    let server = Server::start().await;
    let alice = asker("alice", Some("base"));
    for (minute, cause, says) in [(0, DeclineCause::Declined, "declined"), (1, DeclineCause::TimedOut, "in time")] {
        let now = start() + Duration::minutes(minute);
        let namespace = format!("prod-{says}").replace(' ', "-");
        server.admit(&delete_namespace(&format!("{says} 1"), &namespace, "alice", "base"), now).await;
        let id = server.newest(&alice, now).await;
        challenge::decline(&server.app, &alice, &id, cause, &source(), now).await.unwrap();
        let retry = delete_namespace(&format!("{says} 2"), &namespace, "alice", "base");
        let refused = server.admit(&retry, now + Duration::seconds(1)).await;
        assert_eq!(code(&refused), 403);
        assert!(message(&refused).contains(says), "{}", message(&refused));
        let again = delete_namespace(&format!("{says} 3"), &namespace, "alice", "base");
        assert_eq!(code(&server.admit(&again, now + Duration::seconds(6)).await), 429);
    }
}

#[tokio::test]
async fn a_client_without_the_plugin_is_not_asked_for_ever() {
    let server = Server::start().await;
    let mut codes = Vec::new();
    for n in 0..3 {
        let review = delete_namespace(&format!("{n}"), "prod", "alice", "base");
        codes.push(code(&server.admit(&review, start() + Duration::milliseconds(1_010 * n)).await));
    }
    assert_eq!(codes, [429, 429, 403]);
}

#[tokio::test]
async fn without_store_or_audit_log_protected_requests_are_refused_and_others_are_not() {
    let server = Server::start_with(|config| {
        config.audit.sinks = vec![Sink::File { path: "/dev/full".into() }];
    })
    .await;
    let protected = server.admit(&delete_namespace("1", "prod", "alice", "base"), start()).await;
    assert_eq!(code(&protected), 503);
    assert!(message(&protected).contains("audit log"), "{}", message(&protected));
    assert!(!message(&protected).contains("/dev/full"), "a caller learns no paths");
    let read = server.authorize(&access("get", "secrets", "prod", "db", "alice", "base"), start()).await;
    assert_eq!(read["denied"], true);
    assert!(server.admit(&delete_namespace("2", "dev", "alice", "base"), start()).await.allowed);
    let watched = delete("3", "services", "prod", "web", user_info("alice", "base"));
    assert!(server.admit(&watched, start()).await.allowed, "a rule that only audits stands in nobody's way");
}

#[tokio::test]
async fn what_could_not_be_recorded_is_recorded_once_it_can_be() {
    let server = Server::start_with(|config| {
        let [Sink::File { path }] = &mut config.audit.sinks[..] else { panic!("one file") };
        *path = path.with_file_name("log").join("audit.jsonl");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
    })
    .await;
    let log = server.dir.path().join("log");
    server.admit(&delete_namespace("1", "prod", "alice", "base"), start()).await;
    let id = server.newest(&asker("alice", Some("base")), start()).await;
    let grant = server.step_up("alice", &id, start()).await.unwrap().grant;
    // Nothing can be written: the use is made and not recorded, so its request must not go on.
    std::fs::rename(&log, log.with_extension("away")).unwrap();
    let retry = server.admit(&delete_namespace("2", "prod", "alice", &grant.id), start()).await;
    assert_eq!(code(&retry), 503);
    let repeated = server.admit(&delete_namespace("2", "prod", "alice", &grant.id), start()).await;
    assert_eq!(code(&repeated), 503, "the verdict is known, and must not leave before its record");
    assert!(server.app.catch_up().await.is_err());

    std::fs::rename(log.with_extension("away"), &log).unwrap();
    for uid in ["3", "4"] {
        let again = server.admit(&delete_namespace(uid, "prod", "alice", &grant.id), start()).await;
        assert_eq!(code(&again), 429, "it was used");
    }
    let events: Vec<_> = records(&log.join("audit.jsonl")).into_iter().map(|record| record.event).collect();
    let expected = [Event::Challenge, Event::StepUp, Event::Mint, Event::Use, Event::Challenge, Event::Challenge];
    assert_eq!(events, expected);
    // The purge goes through the same queue, so it ends after the acknowledgement was applied.
    server.app.store.purge(start() - Duration::days(1)).await.unwrap();
    assert!(server.app.store.unacknowledged().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_does_not_fill_the_other() {
    let server = Server::start_with(|config| {
        let [Sink::File { path }] = &config.audit.sinks[..] else { panic!("one file") };
        let path = path.with_file_name("second").join("audit.jsonl");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        config.audit.sinks.push(Sink::File { path });
    })
    .await;
    let (second, away) = (server.dir.path().join("second"), server.dir.path().join("away"));
    let uids = |records: Vec<Record>| records.into_iter().filter_map(|record| record.uid).collect::<Vec<_>>();
    std::fs::rename(&second, &away).unwrap();
    for uid in ["1", "2", "3"] {
        assert_eq!(code(&server.admit(&delete_namespace(uid, "prod", "alice", "base"), start()).await), 503, "{uid}");
        // As everybody may ask for: whether the server is ready.
        assert!(server.app.catch_up().await.is_err());
    }
    assert_eq!(uids(server.audit()), ["1", "2", "3"]);
    let counted = |what: &str| server.app.metrics.encode().contains(what);
    assert!(counted("stepup_audit_records_total 0"), "none of them is durable everywhere");
    std::fs::rename(&away, &second).unwrap();
    server.app.catch_up().await.unwrap();
    assert!(counted("stepup_audit_records_total 3") && counted("outcome=\"raised\"} 3"));
    for log in [server.audit(), records(&second.join("audit.jsonl"))] {
        assert_eq!(uids(log), ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn the_provider_being_down_stops_step_ups_alone() {
    let server = Server::start().await;
    let now = start();
    server.provider.answer("/.well-known/openid-configuration", 503, "down");
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let refusal = server.step_up("alice", &id, now).await.unwrap_err();
    assert_eq!((refusal.status(), refusal.body().error.as_str()), (503, "temporarily_unavailable"));
    assert!(server.admit(&delete_namespace("2", "dev", "alice", "base"), now).await.allowed);
}

#[tokio::test]
async fn a_revoked_grant_counts_for_nothing_from_the_next_request_on() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let grant = server.step_up("alice", &id, now).await.unwrap().grant.id;
    let carol = asker("carol", None);
    assert_eq!(grant::revoke(&server.app, &carol, &grant, &source(), now).await.unwrap_err().status(), 404);
    assert_eq!(grant::list(&server.app, &carol, true, now).await.unwrap_err().status(), 403);
    let admin = Identity { groups: vec!["oidc:admins".into()], ..asker("root", None) };
    assert_eq!(grant::list(&server.app, &admin, true, now).await.unwrap().grants.len(), 1);
    grant::revoke(&server.app, &admin, &grant, &source(), now).await.unwrap();
    assert!(grant::list(&server.app, &asker("alice", None), false, now).await.unwrap().grants.is_empty());
    assert_eq!(code(&server.admit(&delete_namespace("2", "prod", "alice", &grant), now).await), 429);
    let revoked = server.audit().into_iter().find(|record| record.event == Event::Revoke).unwrap();
    assert_eq!((revoked.user.as_str(), revoked.by.as_deref()), ("alice", Some("root")));
}

#[tokio::test]
async fn an_assumed_role_ends_with_its_grant() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let challenge = server.asks_for_the_role(&alice, now).await;
    assert_eq!(challenge.grant.groups, ["stepup:cluster-admin"]);
    let grant = server.step_up("alice", &challenge.id, now).await.unwrap().grant.id;
    let as_admin = |jti: &str| {
        let mut review = access("get", "nodes", "", "n1", "alice", jti);
        review["spec"]["groups"] = json!(["oidc:developers", "stepup:cluster-admin"]);
        review
    };
    assert_eq!(server.authorize(&as_admin(&grant), now).await["denied"], false);
    assert_eq!(server.authorize(&as_admin("base"), now).await["denied"], true, "the group alone proves nothing");
    grant::revoke(&server.app, &alice, &grant, &source(), now).await.unwrap();
    assert_eq!(server.authorize(&as_admin(&grant), now).await["denied"], true);
}

/// Its group is in the token as long as that lasts, and with the group of what has ended every request is denied.
#[tokio::test]
async fn a_role_that_ends_soon_does_not_end_the_token_that_carries_it() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let challenge = server.asks_for_the_role(&alice, now).await;
    let role = server.step_up("alice", &challenge.id, now).await.unwrap().grant;
    for (minutes, ttl, carries) in [(4, 300, true), (6, 240, true), (8, 300, false)] {
        let now = now + Duration::minutes(minutes);
        server.admit(&delete_namespace(&format!("{minutes}"), "prod", "alice", &role.id), now).await;
        let token = server.id_token("alice", "urn:mfa", now, now);
        let request =
            TokenRequest { carry: Some(role.id.clone()), ..for_challenge(token, &server.newest(&alice, now).await) };
        let token = server.exchange(request, now).await.unwrap();
        let claims = token.access_token.expose().split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let has_role = claims["groups"].as_array().unwrap().contains(&json!("stepup:cluster-admin"));
        assert_eq!((token.expires_in, has_role), (ttl, carries), "after {minutes} min");
        assert!(!token.grant.irrevocable);
        // Something that is not protected at all, when the token is about to end.
        let mut nodes = access("get", "nodes", "", "n1", "alice", &token.grant.id);
        nodes["spec"]["groups"] = claims["groups"].clone();
        let late = now + Duration::seconds(i64::try_from(ttl).unwrap() - 1);
        assert_eq!(server.authorize(&nodes, late).await["denied"], false, "after {minutes} min");
    }
    // What is left out is not taken away: its own token goes on.
    let live = grant::list(&server.app, &alice, false, now + Duration::minutes(9)).await.unwrap().grants;
    assert!(live.iter().any(|grant| grant.id == role.id));
}

/// Nobody asks about requests with its group then: a copy of the token is good until it expires, and that is not put off.
#[tokio::test]
async fn without_an_authorizer_an_assumed_role_lasts_as_long_as_its_token_and_no_longer() {
    let server = Server::start_with(|config| config.webhooks.authorization = false).await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let challenge = server.asks_for_the_role(&alice, now).await;
    assert!(challenge.grant.irrevocable);
    let role = server.step_up("alice", &challenge.id, now).await.unwrap().grant;
    assert!(role.irrevocable);

    // A deletion is looked up, whoever carries it. Its token has the role as well, while that lives.
    for (minutes, ttl, carries) in [(6, 240, true), (8, 300, false)] {
        let now = now + Duration::minutes(minutes);
        server.admit(&delete_namespace(&format!("{minutes}"), "prod", "alice", &role.id), now).await;
        let token = server.id_token("alice", "urn:mfa", now, now);
        let request =
            TokenRequest { carry: Some(role.id.clone()), ..for_challenge(token, &server.newest(&alice, now).await) };
        let token = server.exchange(request, now).await.unwrap();
        let claims = token.access_token.expose().split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let has_role = claims["groups"].as_array().unwrap().contains(&json!("stepup:cluster-admin"));
        assert_eq!((token.expires_in, has_role), (ttl, carries), "after {minutes} min");
        assert_eq!(token.grant.irrevocable, carries, "of its token, a part");
    }
}

#[tokio::test]
async fn one_token_carries_what_its_terminal_was_granted_before() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    server.authorize(&access("get", "secrets", "prod", "db", "alice", "base"), now).await;
    let first = server.step_up("alice", &server.newest(&alice, now).await, now).await.unwrap().grant.id;
    server.admit(&delete_namespace("1", "prod", "alice", &first), now).await;
    let id = server.newest(&alice, now).await;
    let token = server.id_token("alice", "urn:mfa", now, now);
    let request = TokenRequest { carry: Some(format!("{first} gr-unknown")), ..for_challenge(token, &id) };
    let second = server.exchange(request, now).await.unwrap().grant.id;
    assert!(server.admit(&delete_namespace("2", "prod", "alice", &second), now).await.allowed);
    let read = server.authorize(&access("get", "secrets", "prod", "db", "alice", &second), now).await;
    assert_eq!(read["denied"], false);
    // What is carried ends with its own grant.
    grant::revoke(&server.app, &alice, &first, &source(), now).await.unwrap();
    let read = server.authorize(&access("get", "secrets", "prod", "db", "alice", &second), now).await;
    assert_eq!(read["denied"], true);
}

#[tokio::test]
async fn actions_may_be_named_in_the_exchange_itself() {
    let server = Server::start().await;
    let now = start();
    let asking = |details: Value| TokenRequest {
        challenge: None,
        authorization_details: Some(details.to_string()),
        ..for_challenge(server.id_token("alice", "urn:mfa", now, now), "")
    };
    let delete =
        json!({"type": "kubectl-stepup.io/action", "verb": "delete", "resource": "namespaces", "name": "prod"});
    let grant = server.exchange(asking(json!([delete])), now).await.unwrap().grant.id;
    assert!(server.admit(&delete_namespace("1", "prod", "alice", &grant), now).await.allowed);
    for (details, expected) in [
        (json!([{"type": "kubectl-stepup.io/action", "verb": "*", "resource": "*"}]), "invalid_request"),
        (
            json!([{"type": "kubectl-stepup.io/action", "verb": "get", "resource": "pods", "name": "a"}]),
            "invalid_request",
        ),
        (json!([{"type": "other", "verb": "get"}]), "invalid_authorization_details"),
        (
            json!([{"type": "kubectl-stepup.io/action", "verb": "get", "colour": "red"}]),
            "invalid_authorization_details",
        ),
        (json!([]), "invalid_request"),
        (json!("delete"), "invalid_authorization_details"),
    ] {
        assert_eq!(error_of(server.exchange(asking(details.clone()), now).await), expected, "{details}");
    }
}

#[tokio::test]
async fn what_names_no_object_opens_none() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let exec = |name: Option<&str>| Action {
        subresource: Some("exec".into()),
        namespace: Some("pay".into()),
        name: name.map(Into::into),
        ..Action::new("connect", "", "pods")
    };
    let ask = async |action: Action| {
        let request = ChallengeRequest { actions: vec![action] };
        challenge::request(&server.app, &alice, request, &source(), now).await
    };
    // Neither beforehand nor in the exchange: a grant of the rule is for one object.
    let refused = ask(exec(None)).await.unwrap_err();
    assert_eq!(refused.status(), 400);
    assert!(refused.to_string().contains("names no object"), "{refused}");
    let details = json!([{"type": "kubectl-stepup.io/action", "verb": "connect", "resource": "pods", "subresource": "exec",
        "namespace": "pay"}]);
    let request = TokenRequest {
        challenge: None,
        authorization_details: Some(details.to_string()),
        ..for_challenge(server.id_token("alice", "urn:mfa", now, now), "")
    };
    assert_eq!(error_of(server.exchange(request, now).await), "invalid_request");
    assert_eq!(ask(exec(Some("api-0"))).await.unwrap().challenges.len(), 1);
    // Where a step-up is for a kind of objects, it need not be known which it will be.
    let secrets = Action { namespace: Some("prod".into()), ..Action::new("get", "", "secrets") };
    assert_eq!(ask(secrets).await.unwrap().challenges[0].grant.covers, ["get,list,watch secrets -n prod"]);

    // "kubectl auth can-i get secrets -n vault" raises a challenge, too, and its grant answers that question alone.
    server.authorize(&access("get", "secrets", "vault", "", "alice", "base"), now).await;
    let all = server.pending(&alice, now).await.challenges;
    let asked = all.iter().find(|challenge| challenge.rule == "vault").unwrap();
    let grant = server.step_up("alice", &asked.id, now).await.unwrap().grant;
    let read = server.authorize(&access("get", "secrets", "vault", "db", "alice", &grant.id), now).await;
    assert_eq!(read["denied"], true, "a grant for no object in particular opened one");
}

#[tokio::test]
async fn a_grant_for_many_actions_of_a_rule_says_each_thing_once() {
    let server = Server::start().await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let rules = "rules: [{name: reads, actions: [{verbs: [get], apiGroups: [''], resources: [secrets]}, {verbs: [get], \
                 apiGroups: [''], resources: [configmaps]}], grant: {uses: unlimited, covers: rule}}]";
    server.app.replace_policy(Policy::parse(rules, "policy.yaml", &server.app.config.levels()).unwrap());
    let read = |number: usize| Action {
        namespace: Some("prod".into()),
        name: Some(format!("a-{number}")),
        ..Action::new("get", "", if number.is_multiple_of(2) { "secrets" } else { "configmaps" })
    };
    let request = ChallengeRequest { actions: (0..100).map(read).collect() };
    let asked = challenge::request(&server.app, &alice, request, &source(), now).await.unwrap().challenges.remove(0);
    assert_eq!(asked.grant.covers, ["get secrets", "get configmaps"]);
    let token = server.step_up("alice", &asked.id, now).await.unwrap();
    assert_eq!(token.grant.covers, ["get secrets", "get configmaps"]);
    assert_eq!(token.grant.permits.len(), 2);
    let size = token.access_token.expose().len();
    assert!(size < 2_000, "{size} bytes");
}

/// The policy of a moment ago let another provider's level do, or an older sign-in.
#[tokio::test]
async fn a_grant_counts_as_its_own_providers_sign_in_under_the_policy_of_now() {
    let server = Server::start_with(|config| {
        let other = IdentityProvider {
            name: "other".into(),
            issuer: "https://other.example".into(),
            levels: vec![Level { name: "mfa".into(), acr_values: vec!["urn:pwd".into()] }],
            ..config.identity_providers[0].clone()
        };
        config.identity_providers.push(other);
    })
    .await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let policy = |require: &str| {
        let text = format!(
            "rules: [{{name: prod, actions: [{{verbs: [get], apiGroups: [''], resources: [secrets], namespaces: [prod]}}], \
             require: {{{require}}}, grant: {{uses: unlimited}}}}]"
        );
        server.app.replace_policy(Policy::parse(&text, "policy.yaml", &server.app.config.levels()).unwrap());
    };
    let read = |jti: &str| access("get", "secrets", "prod", "db", "alice", jti);
    policy("acr: [urn:pwd]");
    server.authorize(&read("base"), now).await;
    let id = server.newest(&alice, now).await;
    let signed_in = now - Duration::seconds(200);
    let weak = server.exchange(for_challenge(server.id_token("alice", "urn:pwd", signed_in, now), &id), now).await;
    let weak = weak.unwrap().grant.id;
    for (require, denied) in [
        ("acr: [urn:pwd]", false),
        ("acr: [urn:pwd], maxAge: 200s", false),
        ("acr: [urn:pwd], maxAge: 199s", true),
        ("acr: [mfa]", true),
    ] {
        policy(require);
        assert_eq!(server.authorize(&read(&weak), now).await["denied"], denied, "{require}");
        // What a client is told about its grants is what they are worth.
        let action =
            Action { namespace: Some("prod".into()), name: Some("db".into()), ..Action::new("get", "", "secrets") };
        let request = ChallengeRequest { actions: vec![action] };
        let asked =
            challenge::request(&server.app, &alice, request, &source(), now).await.unwrap().challenges.remove(0);
        assert_eq!(asked.covered_by.is_none(), denied, "{require}");
    }
}

/// The API server puts everybody with a token into that group, and no token says so.
#[tokio::test]
async fn everybody_who_has_signed_in_is_in_the_group_of_those() {
    let server = Server::start_with(|config| {
        config.identity_providers[0].can_step_up =
            People { users: vec![], groups: vec!["system:authenticated".into()] };
    })
    .await;
    let rule = "rules: [{name: signed-in, subjects: {groups: ['system:authenticated']}, actions: [{verbs: [delete], \
                apiGroups: [''], resources: [namespaces]}]}]";
    server.app.replace_policy(Policy::parse(rule, "policy.yaml", &server.app.config.levels()).unwrap());
    let (alice, now) = (asker("alice", Some("base")), start());
    let actions = vec![Action { name: Some("prod".into()), ..Action::new("delete", "", "namespaces") }];

    let request = || ChallengeRequest { actions: actions.clone() };
    let told = explain::explain(&server.app, &alice, request(), now).await.unwrap();
    assert!(told.can_step_up);
    assert_eq!(told.actions[0].protection.as_ref().unwrap().rules[0].name, "signed-in");
    let digest = digest::of(&server.app, &alice, now);
    assert!(digest.protected.iter().any(|protected| protected.rule == "signed-in"));
    assert_eq!(challenge::request(&server.app, &alice, request(), &source(), now).await.unwrap().challenges.len(), 1);

    assert_eq!(code(&server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await), 429);
    let token = server.step_up("alice", &server.newest(&alice, now).await, now).await.unwrap();
    let claims = token.access_token.expose().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["groups"], json!(["oidc:developers", "oidc:mfa"]), "that group is the API server's to add");
}

#[tokio::test]
async fn one_user_cannot_crowd_the_store() {
    let server = Server::start_with(|config| config.limits.pending_challenges_per_user = 3).await;
    let (alice, now) = (asker("alice", Some("base")), start());
    for n in 0..10 {
        let review = delete_namespace(&format!("uid {n}"), &format!("prod-{n}"), "alice", "base");
        server.admit(&review, now + Duration::seconds(n)).await;
    }
    let pending = server.pending(&alice, now + Duration::seconds(10)).await.challenges;
    let names: Vec<_> = pending.iter().map(|challenge| challenge.actions[0].name.clone().unwrap()).collect();
    assert_eq!(names, ["prod-9", "prod-8", "prod-7"]);
}

#[tokio::test]
async fn questions_about_somebody_crowd_out_no_request_of_theirs() {
    let server = Server::start_with(|config| config.limits.pending_challenges_per_user = 3).await;
    let (alice, now) = (asker("alice", Some("base")), start());
    let question = |n: i64, credential: Option<&str>| {
        let mut review = access("get", "secrets", "vault", &format!("s{n}"), "alice", credential.unwrap_or_default());
        if credential.is_none() {
            review["spec"]["extra"] = json!({});
        }
        review
    };
    let names = async |at: DateTime<Utc>| {
        let pending = server.pending(&alice, at).await.challenges;
        pending.into_iter().map(|challenge| challenge.actions[0].name.clone().unwrap()).collect::<Vec<_>>()
    };
    server.authorize(&question(0, None), now).await;
    server.admit(&delete_namespace("a", "prod-a", "alice", "base"), now + Duration::seconds(1)).await;
    server.admit(&delete_namespace("b", "prod-b", "alice", "base"), now + Duration::seconds(2)).await;
    // Somebody who may create access reviews asks about alice, again and again.
    for n in 1..10 {
        let answer = server.authorize(&question(n, None), now + Duration::seconds(2 + n)).await;
        assert_eq!(answer["denied"], true);
    }
    let at = now + Duration::seconds(20);
    assert_eq!(names(at).await, ["s9", "prod-b", "prod-a"]);
    server.authorize(&question(10, Some("base")), at).await;
    assert_eq!(names(at).await, ["s10", "prod-b", "prod-a"]);
    let answer = server.authorize(&question(11, None), at).await;
    assert_eq!((answer["denied"].as_bool(), names(at).await.len()), (Some(true), 3));
    assert_eq!(names(at).await, ["s10", "prod-b", "prod-a"]);
    server.admit(&delete_namespace("c", "prod-c", "alice", "base"), at).await;
    assert_eq!(names(at).await, ["prod-c", "prod-b", "prod-a"]);
}

#[tokio::test]
async fn no_token_is_in_the_audit_log() {
    let server = Server::start().await;
    let now = start();
    server.admit(&delete_namespace("1", "prod", "alice", "base"), now).await;
    let id = server.newest(&asker("alice", Some("base")), now).await;
    let weak = server.id_token("alice", "urn:pwd", now, now);
    let strong = server.id_token("alice", "urn:mfa", now, now);
    server.exchange(for_challenge(weak.clone(), &id), now).await.unwrap_err();
    let elevated = server.exchange(for_challenge(strong.clone(), &id), now).await.unwrap().access_token;
    let log = std::fs::read_to_string(server.dir.path().join("audit.jsonl")).unwrap();
    for token in [weak, strong, elevated] {
        for part in token.expose().split('.') {
            assert!(!log.contains(part));
        }
    }
}
