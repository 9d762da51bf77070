//! The HTTP API: reads requests, calls the flow, writes the answer. Decides nothing but who may speak at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use chrono::{DateTime, Utc};
use http_body_util::LengthLimitError;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::app::App;
use super::audit::{Event, Record, Source};
use super::challenge::Whose;
use super::config::Mode;
use super::failure::Failure;
use super::health::Health;
use super::identity::Identity;
use super::listen::{Handler, Peer, WebhookClient};
use super::metrics::{self, Metrics};
use super::{admit, authorize, challenge, digest, exchange, explain, grant, history, mint};
use crate::secret::Secret;
use crate::wire::challenge::{ApiError, ChallengeRequest, Decline, LevelTerms, StepUpTerms, WebhookTerms};
use crate::wire::review::{AdmissionReview, SubjectAccessReview};
use crate::wire::token::TokenRequest;

/// Longest `User-Agent` that is kept, in characters.
const LONGEST_USER_AGENT: usize = 200;
/// Least time between two warnings that the webhook rules are stale, in seconds.
const STALE_WARNING_EVERY: i64 = 60;
/// Largest body of a request that is no review. An ID token has at most 16 KiB, its form encoding three times that.
const MAX_PERSONAL_BODY: usize = 128 * 1024;

type Answer = Response<Body>;
type Asked = Request<Body>;

/// The API over the flows.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    router: TowerToHyperService<Router>,
}

struct Shared {
    app: Arc<App>,
    health: Arc<Health>,
    /// When it was last said that the webhook rules are stale, in seconds since 1970.
    stale_warned: AtomicI64,
}

/// What became of a request, for the metrics: an extension of the response, where the status alone does not tell.
#[derive(Clone, Copy)]
struct Decided(&'static str);

impl Api {
    /// All endpoints of `app`.
    pub fn new(app: Arc<App>, health: Arc<Health>) -> Self {
        let shared = Arc::new(Shared { app, health, stale_warned: AtomicI64::new(0) });
        let router = Router::new()
            .route("/authorize", post(authorize))
            .route("/authorize/{digest}", post(authorize))
            .route("/admit", post(admit))
            .route("/admit/{digest}", post(admit))
            .route("/v1/digest", get(personal_digest))
            .route("/v1/challenges", get(pending_challenges).post(request_challenges))
            .route("/v1/challenges/{id}/decline", post(decline))
            .route("/v1/explain", post(explain))
            .route("/v1/step-up", get(step_up_terms))
            .route("/v1/grants", get(grants))
            .route("/v1/history", get(history))
            .route("/v1/grants/{id}", delete(revoke))
            .route("/token", post(token))
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_page))
            .fallback(async || Problem::new(404, "not_found", "there is nothing at this address"))
            .method_not_allowed_fallback(async || {
                Problem::new(405, "method_not_allowed", "this address takes another HTTP method")
            })
            .with_state(Arc::clone(&shared));
        Self { shared, router: TowerToHyperService::new(router) }
    }
}

impl Handler for Api {
    fn metrics(&self) -> &Metrics {
        &self.shared.app.metrics
    }

    async fn answer(&self, request: Asked) -> Answer {
        let arrived = Instant::now();
        let endpoint = endpoint_of(request.uri().path());
        let limit = self.shared.app.config.limits.request_timeout;
        let answer = match tokio::time::timeout(limit, self.router.call(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(never)) => match never {},
            Err(_) => {
                Problem::new(503, "temporarily_unavailable", "the request took too long; try again").into_response()
            }
        };
        let decision =
            answer.extensions().get::<Decided>().map_or_else(|| by_status(answer.status()), |decided| decided.0);
        self.metrics().answered(endpoint, decision, arrived.elapsed());
        answer
    }
}

/// A label: one of few, whatever is asked for.
fn endpoint_of(path: &str) -> &'static str {
    match path {
        "/authorize" => "authorize",
        "/admit" => "admit",
        "/token" => "token",
        "/jwks" => "jwks",
        "/.well-known/openid-configuration" => "discovery",
        "/healthz" => "healthz",
        "/readyz" => "readyz",
        "/metrics" => "metrics",
        "/v1/digest" => "digest",
        "/v1/step-up" => "step-up",
        _ if path.starts_with("/authorize/") => "authorize",
        _ if path.starts_with("/admit/") => "admit",
        _ if path.starts_with("/v1/challenges") => "challenges",
        "/v1/explain" => "explain",
        "/v1/history" => "history",
        _ if path.starts_with("/v1/grants") => "grants",
        _ => "other",
    }
}

fn by_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => "refused",
        400..=499 => "invalid",
        500..=599 => "error",
        _ => "ok",
    }
}

// The API server's webhooks.

async fn authorize(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let Asks { review, source, now } = review_of::<SubjectAccessReview>(&shared, request).await?;
    check_kind(&review.api_version, &review.kind, "authorization.k8s.io/v1", "SubjectAccessReview")?;
    let app = Arc::clone(&shared.app);
    let answer = run_to_the_end(async move { authorize::review(&app, review, &source, now).await }).await?;
    let decided = if answer.status.is_denied() { "denied" } else { "no_opinion" };
    Ok(decided_json(&answer, decided))
}

async fn admit(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let Asks { review, source, now } = review_of::<AdmissionReview>(&shared, request).await?;
    check_kind(&review.api_version, &review.kind, "admission.k8s.io/v1", "AdmissionReview")?;
    if review.request.uid.is_empty() {
        return Err(Problem::invalid("the review's request has no uid"));
    }
    let app = Arc::clone(&shared.app);
    let answer = run_to_the_end(async move { admit::review(&app, review, &source, now).await }).await?;
    let decided = match (answer.response.allowed, answer.response.status.as_ref().map(|status| status.code)) {
        (true, _) => "allowed",
        (false, Some(429)) => "challenged",
        (false, Some(500..=599)) => "error",
        (false, _) => "denied",
    };
    Ok(decided_json(&answer, decided))
}

/// A question of the API server.
struct Asks<R> {
    review: R,
    source: Source,
    now: DateTime<Utc>,
}

/// What both webhooks have in common: who may ask, how much, and what is told when it makes no sense. The API server
/// treats every other answer than 200 by the webhook's failure policy, which is to deny.
async fn review_of<R: DeserializeOwned>(shared: &Shared, request: Asked) -> Result<Asks<R>, Problem> {
    // Before the body is read: strangers send no megabytes.
    check_webhook_client(shared, &request)?;
    let now = Utc::now();
    note_stale_rules(shared, request.uri().path(), now);
    let source = source_of(&request);
    let body = read_body(request, shared.app.config.limits.body_bytes).await?;
    let review = serde_json::from_slice(&body)
        .map_err(|problem| Problem::invalid(format!("this is not a review: {problem}")))?;
    Ok(Asks { review, source, now })
}

fn check_webhook_client(shared: &Shared, request: &Asked) -> Result<(), Problem> {
    let (code, description) = match request.extensions().get::<Arc<Peer>>().map(|peer| &peer.webhook_client) {
        Some(WebhookClient::Allowed(_)) => return Ok(()),
        Some(WebhookClient::OtherName(names)) => {
            tracing::warn!(?names, "a review came with a client certificate of a wrong name");
            (
                "wrong_name",
                "reviews are taken from the API server only: the client certificate has none of the names in \
                 webhookClients.names",
            )
        }
        Some(WebhookClient::NoCertificate) | None => (
            "no_certificate",
            "reviews are taken from the API server only: a client certificate signed by webhookClients.ca is required",
        ),
    };
    shared.app.metrics.webhook_client_refused(code);
    Err(Problem::new(403, "access_denied", description))
}

fn check_kind(version: &str, kind: &str, wanted_version: &str, wanted_kind: &str) -> Result<(), Problem> {
    if (version, kind) == (wanted_version, wanted_kind) {
        return Ok(());
    }
    Err(Problem::invalid(format!("this address takes a {wanted_kind} of {wanted_version}")))
}

/// The rendered webhook address carries the digest of the match rules it belongs to. Another digest than the policy's
/// own means that the cluster still asks by old rules, and may not ask about what is newly protected. It is a part of the
/// path, because the API server takes no query in a webhook's address.
fn note_stale_rules(shared: &Shared, path: &str, now: DateTime<Utc>) {
    let policy = shared.app.policy();
    let current = policy.matching().digests();
    let is_stale = match (path.strip_prefix("/authorize/"), path.strip_prefix("/admit/")) {
        (Some(digest), _) => digest != current.authorization,
        (_, Some(digest)) => digest != current.admission,
        (None, None) => false,
    };
    if !is_stale {
        return;
    }
    shared.app.metrics.digest_was_stale();
    let (now, last) = (now.timestamp(), shared.stale_warned.load(Ordering::Relaxed));
    if (now - last).abs() >= STALE_WARNING_EVERY
        && shared.stale_warned.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        tracing::warn!(
            "the cluster's webhook rules were rendered from another policy than the one in force: what it newly protects \
             may not be protected yet; run `stepup-server render` and apply the result"
        );
    }
}

// People.

async fn personal_digest(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    match shared.app.signer.sign_as(crate::wire::digest::TYPE, &digest::of(&shared.app, &asker, now)) {
        Ok(signed) => Ok(not_stored(with_type(StatusCode::OK, "application/jwt", signed.expose().to_owned()))),
        Err(problem) => {
            tracing::error!(error = %problem, "a digest could not be signed");
            Err(Problem::new(500, "server_error", "stepup-server cannot sign; its log says more"))
        }
    }
}

/// `all=true`: those that were raised for other base tokens of this person too.
async fn pending_challenges(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    let whose = if asks_for_all(&request) { Whose::Person } else { Whose::Credential };
    Ok(personal(&challenge::pending(&shared.app, &asker, whose, now).await?))
}

/// What the asker's identity provider has to bring for a step-up, as configured: clients try their own way against it.
async fn step_up_terms(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    let config = &shared.app.config;
    let providers = &config.identity_providers;
    let provider = providers
        .iter()
        .find(|provider| provider.name == asker.provider)
        .ok_or_else(|| Problem::new(404, "not_found", "your identity provider is not in the configuration"))?;
    Ok(personal(&StepUpTerms {
        provider: provider.name.clone(),
        audiences: provider.step_up_audiences.clone(),
        levels: provider
            .levels
            .iter()
            .map(|level| LevelTerms { name: level.name.clone(), acr_values: level.acr_values.clone() })
            .collect(),
        webhooks: Some(WebhookTerms {
            admission: config.mode == Mode::Webhooks,
            authorization: config.has_authorizer(),
        }),
    }))
}

async fn request_challenges(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    let wanted: ChallengeRequest = body_of(request).await?;
    let app = Arc::clone(&shared.app);
    let raised = run_to_the_end(async move { challenge::request(&app, &asker, wanted, &source, now).await }).await??;
    Ok(personal(&raised))
}

async fn decline(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
    request: Asked,
) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    let id = id_of(id)?;
    let Decline { cause } = body_of(request).await?;
    let app = Arc::clone(&shared.app);
    run_to_the_end(async move { challenge::decline(&app, &asker, &id, cause, &source, now).await }).await??;
    Ok(with_status(StatusCode::NO_CONTENT, Body::empty()))
}

async fn explain(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    let wanted: ChallengeRequest = body_of(request).await?;
    Ok(personal(&explain::explain(&shared.app, &asker, wanted, now).await?))
}

async fn grants(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    Ok(personal(&grant::list(&shared.app, &asker, asks_for_all(&request), now).await?))
}

fn asks_for_all(request: &Asked) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "all=true"))
}

async fn history(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    let wanted = history_wanted(request.uri().query().unwrap_or_default()).map_err(Problem::invalid)?;
    Ok(personal(&history::history(&shared.app, &asker, wanted, now).await?))
}

fn history_wanted(query: &str) -> Result<history::Wanted, String> {
    let mut wanted = history::Wanted::default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "user" => wanted.user = Some(value.into_owned()),
            "limit" => wanted.limit = Some(value.parse().map_err(|_| "limit is not a number".to_owned())?),
            "before" => wanted.before = Some(value.parse().map_err(|_| "before is not a time (RFC 3339)".to_owned())?),
            _ => {}
        }
    }
    Ok(wanted)
}

async fn revoke(State(shared): State<Arc<Shared>>, id: Result<Path<String>, PathRejection>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let asker = asker(&shared, request.headers(), &source, now).await?;
    let id = id_of(id)?;
    let app = Arc::clone(&shared.app);
    run_to_the_end(async move { grant::revoke(&app, &asker, &id, &source, now).await }).await??;
    Ok(with_status(StatusCode::NO_CONTENT, Body::empty()))
}

async fn token(State(shared): State<Arc<Shared>>, request: Asked) -> Outcome {
    let (now, source) = (Utc::now(), source_of(&request));
    let is_form =
        request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(|kind| {
            kind.split(';').next().unwrap_or_default().trim() == "application/x-www-form-urlencoded"
        });
    if !is_form {
        return Err(Problem::invalid("the body must be application/x-www-form-urlencoded"));
    }
    let wanted = token_request(&read_body(request, MAX_PERSONAL_BODY).await?).map_err(Problem::invalid)?;
    let app = Arc::clone(&shared.app);
    match run_to_the_end(async move { exchange::exchange(&app, wanted, &source, now).await }).await? {
        Ok(response) => Ok(personal(&response)),
        Err(refusal) => {
            if let exchange::Refusal::Unavailable(cause) = &refusal {
                tracing::error!(error = %cause, "a step-up could not be exchanged");
            }
            Ok(not_stored(json(status(refusal.status()), &refusal.body())))
        }
    }
}

/// Reads the form. Each field at most once, and an empty one is none (RFC 6749, section 3.2).
fn token_request(body: &[u8]) -> Result<TokenRequest, String> {
    let mut fields = Map::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        if value.is_empty() {
            continue;
        }
        let value = match &*name {
            "ttl" => value.parse::<u64>().map_err(|_| "ttl is not a number of seconds".to_owned())?.into(),
            _ => Value::from(value.into_owned()),
        };
        if fields.insert(name.into_owned(), value).is_some() {
            return Err("a field is there twice".to_owned());
        }
    }
    // All values are texts and the one number is checked, so what can be wrong is a missing field.
    serde_json::from_value(fields.into()).map_err(|problem| problem.to_string())
}

/// Whose base token this is (RFC 6750, section 2.1).
async fn asker(shared: &Shared, headers: &HeaderMap, source: &Source, now: DateTime<Utc>) -> Result<Identity, Problem> {
    let token = bearer(headers)
        .ok_or_else(|| Problem::new(401, "invalid_request", "sign in first: an ID token is needed as bearer token"))?;
    let refused = match shared.app.identities.verify_base(&token, now).await {
        Ok(identity) => return Ok(identity),
        Err(refused) => refused,
    };
    if refused.is_unavailable() {
        return Err(Problem::new(503, "temporarily_unavailable", refused.to_string()));
    }
    let record = Record::new(Event::Refusal, now).from(source).refused(refused.code(), &refused.to_string());
    shared.app.record(vec![record]).await.map_err(Failure::from)?;
    Err(Problem::new(401, "invalid_token", refused.to_string()))
}

fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim()))
}

/// An identifier that is no text names nothing.
fn id_of(id: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    id.map(|Path(id)| id).map_err(|_| Problem::new(404, "not_found", "there is nothing at this address"))
}

async fn body_of<T: DeserializeOwned>(request: Asked) -> Result<T, Problem> {
    let body = read_body(request, MAX_PERSONAL_BODY).await?;
    serde_json::from_slice(&body)
        .map_err(|problem| Problem::invalid(format!("the body is not what it should be: {problem}")))
}

// Everybody.

async fn discovery(State(shared): State<Arc<Shared>>) -> Answer {
    public(json(StatusCode::OK, &mint::discovery(&shared.app.config.public_url)))
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Answer {
    public(json(StatusCode::OK, &shared.app.signer.jwks()))
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Answer {
    let report = shared.health.report(&shared.app).await;
    let code = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    not_stored(json(code, &report))
}

async fn metrics_page(State(shared): State<Arc<Shared>>) -> Answer {
    with_type(StatusCode::OK, metrics::CONTENT_TYPE, shared.app.metrics.encode())
}

// Requests and responses.

fn source_of(request: &Asked) -> Source {
    let user_agent = request
        .headers()
        .get(USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .map(|agent| agent.chars().take(LONGEST_USER_AGENT).collect());
    let addr = request
        .extensions()
        .get::<Arc<Peer>>()
        .map_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |peer| peer.addr.ip().to_canonical());
    Source { addr, user_agent, arrived: Instant::now() }
}

async fn read_body(request: Asked, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(413, "too_large", format!("the body has more than {limit} bytes"));
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    to_bytes(request.into_body(), limit).await.map_err(|error| {
        let limited = std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<LengthLimitError>);
        if limited { too_large() } else { Problem::invalid("the body did not arrive whole") }
    })
}

/// Lets a flow finish even when the caller hangs up or runs out of time: between the change of the store and its audit
/// record there must be no cut.
async fn run_to_the_end<T: Send + 'static>(flow: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
    tokio::spawn(flow).await.map_err(|error| {
        tracing::error!(%error, "a request could not be finished");
        Problem::new(500, "server_error", "something went wrong in stepup-server; its log says what")
    })
}

/// Why a request gets no answer, as the caller is told.
struct Problem {
    status: u16,
    body: ApiError,
}

type Outcome = Result<Answer, Problem>;

impl Problem {
    fn new(status: u16, error: &str, description: impl Into<String>) -> Self {
        Self { status, body: ApiError { error: error.to_owned(), error_description: description.into() } }
    }

    fn invalid(description: impl Into<String>) -> Self {
        Self::new(400, "invalid_request", description)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        if let Failure::Unavailable(cause) = &failure {
            tracing::error!(error = %cause, "a request could not be answered");
        }
        Self { status: failure.status(), body: failure.body() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Answer {
        let mut answer = not_stored(json(status(self.status), &self.body));
        if self.status == 401 {
            // RFC 6750, section 3: no error code for a request that brought no token.
            let challenge =
                if self.body.error == "invalid_token" { "Bearer error=\"invalid_token\"" } else { "Bearer" };
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        answer
    }
}

/// An answer for this person only.
fn personal(answer: &impl Serialize) -> Answer {
    not_stored(json(StatusCode::OK, answer))
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn decided_json(answer: &impl Serialize, decided: &'static str) -> Answer {
    let mut answer = json(StatusCode::OK, answer);
    answer.extensions_mut().insert(Decided(decided));
    answer
}

fn json(code: StatusCode, answer: &impl Serialize) -> Answer {
    match serde_json::to_vec(answer) {
        Ok(body) => with_type(code, "application/json", body),
        Err(problem) => {
            tracing::error!(error = %problem, "an answer could not be written as JSON");
            with_status(StatusCode::INTERNAL_SERVER_ERROR, Body::empty())
        }
    }
}

fn with_type(code: StatusCode, kind: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = with_status(code, body.into());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn with_status(code: StatusCode, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer
}

fn not_stored(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn public(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    answer
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::server::config::Sink;
    use crate::server::testing::{World, connect, read_all};

    fn access_review(user: &str, verb: &str, namespace: &str) -> Value {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": user, "groups": ["system:authenticated"],
            "resourceAttributes": {"verb": verb, "resource": "namespaces", "name": namespace, "namespace": namespace}}})
    }

    fn admission_review(uid: &str, namespace: &str, jti: &str) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": uid, "operation": "DELETE", "name": namespace, "namespace": namespace,
            "resource": {"group": "", "version": "v1", "resource": "namespaces"},
            "userInfo": {"username": "alice", "groups": ["system:authenticated"],
                "extra": {"authentication.kubernetes.io/credential-id": [format!("JTI={jti}")]}},
            "oldObject": {"metadata": {"name": namespace}}}})
    }

    async fn post(client: &reqwest::Client, world: &World, path: &str, body: &Value) -> (u16, Value) {
        let response = client.post(world.url(path)).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    #[tokio::test]
    async fn reviews_from_anyone_but_the_api_server_are_refused_before_their_body() {
        let world = World::new().await;
        let impostor = world.clients.issue("kubelet", &["node-1"]);
        for (certificate, code) in [(None, "no_certificate"), (Some(&impostor), "wrong_name")] {
            for path in ["/authorize", "/admit/x"] {
                let mut stream = connect(world.addr, &world.servers, certificate).await.unwrap();
                // The body never comes: the answer does not wait for it.
                let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let answer = read_all(stream).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("API server only"), "{answer}");
            }
            assert!(
                world.metrics().await.contains(&format!("stepup_webhook_clients_refused_total{{code=\"{code}\"}} 2"))
            );
        }
    }

    #[tokio::test]
    async fn the_api_server_gets_an_answer_to_what_is_not_protected() {
        let world = World::new().await;
        let client = world.api_server();
        let (status, answer) = post(&client, &world, "/authorize", &access_review("alice", "delete", "dev")).await;
        assert_eq!((status, &answer["status"]), (200, &json!({"allowed": false, "denied": false})));
        let (status, answer) = post(&client, &world, "/admit", &admission_review("u-1", "dev", "base-1")).await;
        assert_eq!((status, &answer["response"]), (200, &json!({"uid": "u-1", "allowed": true})));
        let metrics = world.metrics().await;
        assert!(
            metrics.contains("stepup_requests_total{endpoint=\"authorize\",decision=\"no_opinion\"} 1"),
            "{metrics}"
        );
        assert!(metrics.contains("stepup_requests_total{endpoint=\"admit\",decision=\"allowed\"} 1"), "{metrics}");
    }

    #[tokio::test]
    async fn what_is_no_review_is_told_so() {
        let world = World::new().await;
        let client = world.api_server();
        let mut other_kind = access_review("alice", "get", "dev");
        other_kind["kind"] = "TokenReview".into();
        let mut without_uid = admission_review("", "dev", "base-1");
        without_uid["request"]["uid"] = "".into();
        for (path, body, told) in [
            ("/authorize", String::new(), "not a review"),
            ("/authorize", "{".to_owned(), "not a review"),
            ("/authorize", "[]".to_owned(), "not a review"),
            ("/authorize", "[".repeat(10_000), "not a review"),
            ("/authorize", "\u{0}\u{1}".to_owned(), "not a review"),
            (
                "/authorize",
                r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview"}"#.to_owned(),
                "spec",
            ),
            ("/authorize", other_kind.to_string(), "takes a SubjectAccessReview"),
            ("/authorize", admission_review("u", "dev", "j").to_string(), "not a review"),
            ("/admit", access_review("alice", "get", "dev").to_string(), "not a review"),
            ("/admit", without_uid.to_string(), "no uid"),
        ] {
            let response = client.post(world.url(path)).body(body).send().await.unwrap();
            assert_eq!(response.status(), 400);
            let problem: ApiError = response.json().await.unwrap();
            assert_eq!(problem.error, "invalid_request");
            assert!(problem.error_description.contains(told), "{problem:?}");
        }
    }

    #[tokio::test]
    async fn an_oversized_body_is_refused_announced_or_not() {
        let world = World::with(|config| config.limits.body_bytes = 10_000).await;
        let api_server = world.clients.issue("kube-apiserver", &[]);
        let mut announced = connect(world.addr, &world.servers, Some(&api_server)).await.unwrap();
        announced.write_all(b"POST /admit HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n\r\n").await.unwrap();
        let answer = read_all(announced).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

        let mut chunked = connect(world.addr, &world.servers, Some(&api_server)).await.unwrap();
        let head = "POST /admit HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2af8\r\n";
        chunked.write_all(head.as_bytes()).await.unwrap();
        // The server may answer and close before it has read all of it.
        let _ = chunked.write_all(&[b' '; 0x2af8]).await;
        let answer = read_all(chunked).await.unwrap_or_default();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }

    #[tokio::test]
    async fn webhook_rules_of_another_policy_are_counted() {
        let world = World::new().await;
        let report: Value = world.client(None).get(world.url("/readyz")).send().await.unwrap().json().await.unwrap();
        let digests = &report["policy"]["matchDigests"];
        let [authorization, admission] = ["authorization", "admission"].map(|which| digests[which].as_str().unwrap());
        let review = access_review("alice", "get", "dev");
        for path in [
            "/authorize".to_owned(),
            format!("/authorize/{authorization}"),
            format!("/authorize/{authorization}?timeout=5s"),
        ] {
            assert_eq!(post(&world.api_server(), &world, &path, &review).await.0, 200);
        }
        assert!(world.metrics().await.contains("stepup_match_digest_stale_total 0"));
        assert_eq!(post(&world.api_server(), &world, &format!("/authorize/{admission}"), &review).await.0, 200);
        assert!(world.metrics().await.contains("stepup_match_digest_stale_total 1"));
    }

    #[tokio::test]
    async fn people_need_a_base_token_and_a_forged_one_is_recorded() {
        let world = World::new().await;
        let client = world.client(None);
        let bare = client.get(world.url("/v1/challenges")).send().await.unwrap();
        assert_eq!((bare.status().as_u16(), bare.headers()["www-authenticate"].to_str().unwrap()), (401, "Bearer"));

        let forged = crate::server::testing::SigningKey::p256().token("ES256", "k1", &world.claims("kubernetes"));
        let refused = client.get(world.url("/v1/grants")).bearer_auth(forged.expose()).send().await.unwrap();
        assert_eq!(refused.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
        let problem: ApiError = refused.json().await.unwrap();
        assert_eq!(
            (problem.error.as_str(), problem.error_description.as_str()),
            ("invalid_token", "the token's signature is wrong")
        );
        let log = world.audit_log();
        assert!(log.contains("\"code\":\"signature\"") && !log.contains(forged.expose()), "{log}");

        let answer = client.get(world.url("/v1/challenges")).bearer_auth(world.token("kubernetes").expose());
        let list: Value = answer.send().await.unwrap().json().await.unwrap();
        assert_eq!((&list["user"], &list["challenges"]), (&json!("alice"), &json!([])));
    }

    #[tokio::test]
    async fn explaining_tells_what_would_be_asked_and_leaves_no_trace() {
        let world = World::new().await;
        let before = world.audit_log();
        let (person, base) = (world.client(None), world.token("kubernetes"));
        let delete = |name: &str| json!({"verb": "delete", "resource": "namespaces", "name": name});
        let wanted = json!({"actions": [delete("prod"), delete("dev")]});
        let answer =
            person.post(world.url("/v1/explain")).bearer_auth(base.expose()).json(&wanted).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let told: Value = answer.json().await.unwrap();
        let protection = &told["actions"][0]["protection"];
        assert_eq!((&told["user"], &told["canStepUp"]), (&json!("alice"), &json!(true)));
        assert_eq!(protection["rules"][0]["name"], "delete-namespace");
        assert_eq!(protection["grant"]["covers"], json!(["delete namespaces/prod"]));
        assert_eq!(told["actions"][1]["protection"], json!(null));

        let pending = person.get(world.url("/v1/challenges")).bearer_auth(base.expose()).send().await.unwrap();
        assert_eq!(pending.json::<Value>().await.unwrap()["challenges"], json!([]));
        assert_eq!(world.audit_log(), before);

        let without_token = person.post(world.url("/v1/explain")).json(&wanted).send().await.unwrap();
        assert_eq!(without_token.status(), 401);
        for senseless in [json!({"actions": []}), json!({"actions": [{"verb": "*", "resource": "secrets"}]})] {
            let answer = person.post(world.url("/v1/explain")).bearer_auth(base.expose()).json(&senseless);
            assert_eq!(answer.send().await.unwrap().status(), 400);
        }
    }

    #[tokio::test]
    async fn a_digest_is_signed_and_dated_and_about_who_asks() {
        let world = World::new().await;
        let client = world.client(None);
        assert_eq!(client.get(world.url("/v1/digest")).send().await.unwrap().status(), 401);
        let base = world.token("kubernetes");
        let answer = client.get(world.url("/v1/digest")).bearer_auth(base.expose()).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/jwt");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let signed = answer.text().await.unwrap();

        let header = jsonwebtoken::decode_header(&signed).unwrap();
        assert_eq!(header.typ.as_deref(), Some(crate::wire::digest::TYPE));
        let keys: jsonwebtoken::jwk::JwkSet =
            client.get(world.url("/jwks")).send().await.unwrap().json().await.unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        validation.validate_aud = false;
        validation.set_issuer(&["https://stepup.example.com"]);
        let digest = jsonwebtoken::decode::<crate::wire::digest::Digest>(&signed, &key, &validation).unwrap().claims;
        assert_eq!((digest.sub.as_str(), digest.exp - digest.iat), ("alice", 24 * 3600));
        assert!(digest.protected.iter().any(|part| part.actions.iter().any(|pattern| pattern.verbs == ["delete"])));
        // It is no token: it names no audience, and no server of ours takes it for a sign-in.
        let as_base = client.get(world.url("/v1/grants")).bearer_auth(&signed).send().await.unwrap();
        assert_eq!(as_base.status(), 401);
    }

    #[tokio::test]
    async fn a_person_is_told_what_a_step_up_must_be_like() {
        let world = World::new().await;
        let url = world.url("/v1/step-up");
        assert_eq!(world.client(None).get(&url).send().await.unwrap().status(), 401);
        let answer = world.client(None).get(&url).bearer_auth(world.token("kubernetes").expose()).send().await.unwrap();
        let terms: Value = answer.json().await.unwrap();
        assert_eq!((&terms["provider"], &terms["audiences"]), (&json!("corp"), &json!(["kubernetes-step-up"])));
        assert_eq!(terms["levels"][0], json!({"name": "mfa", "acrValues": ["urn:stepup:mfa"]}));
        assert_eq!(terms["webhooks"], json!({"admission": true, "authorization": true}));
    }

    #[tokio::test]
    async fn a_person_is_told_which_webhooks_there_are() {
        for (mode, webhooks) in [
            (Mode::Webhooks, json!({"admission": true, "authorization": false})),
            (Mode::Groups, json!({"admission": false, "authorization": false})),
        ] {
            let world = World::with(|config| {
                config.mode = mode;
                // Nothing of it counts where there are no webhooks.
                config.webhooks.authorization = mode == Mode::Groups;
            })
            .await;
            let asked =
                world.client(None).get(world.url("/v1/step-up")).bearer_auth(world.token("kubernetes").expose());
            let terms: Value = asked.send().await.unwrap().json().await.unwrap();
            assert_eq!(terms["webhooks"], webhooks);
        }
    }

    #[tokio::test]
    async fn with_the_provider_down_people_are_told_so() {
        let world = World::new().await;
        world.provider.answer("/jwks", 500, "");
        let answer = world.client(None).get(world.url("/v1/grants")).bearer_auth(world.token("kubernetes").expose());
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), 503);
        let problem: ApiError = answer.json().await.unwrap();
        assert!(problem.error_description.contains("identity provider \"corp\" cannot be reached"), "{problem:?}");
    }

    #[tokio::test]
    async fn a_write_is_challenged_stepped_up_for_let_through_once_and_challenged_again() {
        let world = World::new().await;
        let (api_server, person) = (world.api_server(), world.client(None));
        let (_, denied) = post(&api_server, &world, "/admit", &admission_review("u-1", "prod", "base-1")).await;
        assert_eq!(denied["response"]["status"]["code"], 429);
        assert_eq!(denied["response"]["status"]["details"]["retryAfterSeconds"], 1);

        let base = world.token("kubernetes");
        let pending: Value = person
            .get(world.url("/v1/challenges"))
            .bearer_auth(base.expose())
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let challenge = pending["challenges"][0]["id"].as_str().unwrap().to_owned();
        let step_up = world.token("kubernetes-step-up");
        let form = [
            ("grant_type", crate::wire::token::GRANT_TYPE),
            ("subject_token", step_up.expose()),
            ("subject_token_type", crate::wire::token::ID_TOKEN_TYPE),
            ("challenge", &challenge),
            ("reason", ""),
            ("an_unknown_field", "is ignored"),
        ];
        let exchanged = person.post(world.url("/token")).form(&form).send().await.unwrap();
        assert_eq!(exchanged.status(), 200, "{}", exchanged.text().await.unwrap());
        assert_eq!(exchanged.headers()["cache-control"], "no-store");
        let exchanged: Value = exchanged.json().await.unwrap();
        let grant = exchanged["grant"]["id"].as_str().unwrap().to_owned();

        // The elevated token stands up to the published keys.
        let elevated = exchanged["access_token"].as_str().unwrap();
        let keys: jsonwebtoken::jwk::JwkSet =
            person.get(world.url("/jwks")).send().await.unwrap().json().await.unwrap();
        let kid = jsonwebtoken::decode_header(elevated).unwrap().kid.unwrap();
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        validation.set_audience(&["kubernetes"]);
        validation.set_issuer(&["https://stepup.example.com"]);
        let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&kid).unwrap()).unwrap();
        let claims = jsonwebtoken::decode::<Value>(elevated, &key, &validation).unwrap().claims;
        assert_eq!((&claims["username"], &claims["jti"]), (&json!("alice"), &json!(grant)));
        let as_base = person.get(world.url("/v1/grants")).bearer_auth(elevated).send().await.unwrap();
        assert_eq!(as_base.status(), 401, "an elevated token is no base token");

        for (uid, allowed) in [("u-2", true), ("u-2", true), ("u-3", false)] {
            let (_, answer) = post(&api_server, &world, "/admit", &admission_review(uid, "prod", &grant)).await;
            assert_eq!(answer["response"]["allowed"], allowed, "{uid}: {answer}");
        }
        let log = world.audit_log();
        for secret in [base.expose(), step_up.expose(), elevated] {
            assert!(!log.contains(secret.rsplit('.').next().unwrap()), "a token is in the audit log");
        }
        let metrics = world.metrics().await;
        for line in ["stepup_grants_minted_total 1", "stepup_grant_uses_total 1", "decision=\"challenged\"} 2"] {
            assert!(metrics.contains(line), "no {line} in {metrics}");
        }
    }

    #[tokio::test]
    async fn a_token_request_that_makes_no_sense_is_told_so() {
        let world = World::new().await;
        let client = world.client(None);
        let form = "application/x-www-form-urlencoded";
        for (kind, body, told) in [
            ("application/json", "{}".to_owned(), "must be application/x-www-form-urlencoded"),
            (form, String::new(), "missing field"),
            (form, "grant_type=a&grant_type=b".to_owned(), "twice"),
            (form, "grant_type=a&subject_token=b&subject_token_type=c&ttl=soon".to_owned(), "ttl is not a number"),
            (form, "%ff%00=%".to_owned(), "missing field"),
        ] {
            let answer = client.post(world.url("/token")).header("content-type", kind).body(body).send().await.unwrap();
            assert_eq!(answer.status(), 400);
            let problem: ApiError = answer.json().await.unwrap();
            assert_eq!(problem.error, "invalid_request");
            assert!(problem.error_description.contains(told), "{problem:?}");
        }
        let large =
            client.post(world.url("/token")).header("content-type", form).body("x".repeat(MAX_PERSONAL_BODY + 1));
        assert_eq!(large.send().await.unwrap().status(), 413);
    }

    #[tokio::test]
    async fn anything_else_is_a_clear_error_in_json() {
        let world = World::new().await;
        let client = world.client(None);
        for (method, path, status) in
            [("GET", "/", 404), ("GET", "/v1/", 404), ("PUT", "/token", 405), ("GET", "/admit", 405)]
        {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let answer = client.request(method, world.url(path)).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            assert!(!answer.json::<ApiError>().await.unwrap().error_description.is_empty());
        }
    }

    #[tokio::test]
    async fn readiness_names_what_does_not_work() {
        let world = World::new().await;
        let answer = world.client(None).get(world.url("/readyz")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let report: Value = answer.json().await.unwrap();
        assert_eq!(report["ready"], true);
        assert_eq!(report["identityProviders"], json!([{"name": "corp", "ok": true}]));
        assert_eq!(report["signingKeys"]["published"], 2);
        assert_eq!(world.client(None).get(world.url("/healthz")).send().await.unwrap().text().await.unwrap(), "ok\n");
        let discovery: Value = world
            .client(None)
            .get(world.url("/.well-known/openid-configuration"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(discovery["issuer"], "https://stepup.example.com");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn without_an_audit_log_the_server_is_not_ready_and_refuses_what_is_protected() {
        let world = World::with(|config| config.audit.sinks = vec![Sink::File { path: "/dev/full".into() }]).await;
        let answer = world.client(None).get(world.url("/readyz")).send().await.unwrap();
        assert_eq!(answer.status(), 503);
        let report: Value = answer.json().await.unwrap();
        assert_eq!((&report["audit"]["ok"], &report["store"]["ok"]), (&json!(false), &json!(true)));
        let client = world.api_server();
        let (_, denied) = post(&client, &world, "/admit", &admission_review("u-1", "prod", "base-1")).await;
        assert_eq!(denied["response"]["allowed"], false);
        let (_, allowed) = post(&client, &world, "/admit", &admission_review("u-2", "dev", "base-1")).await;
        assert_eq!(allowed["response"]["allowed"], true);
    }
}
