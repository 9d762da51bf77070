//! One request, from the client to the API server and back: unchanged, streaming, and once more with an elevated token
//! when it is refused for want of a step-up.

use std::sync::Arc;
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue,
    UPGRADE,
};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::body::{Answer, Kept};
use super::gate::{Gate, Refusal, strip_hop_by_hop};
use super::step_ups::{Denial, Pass, StepUps, contains};
use super::upstream::{Failure, InFlight, Upstream};
use crate::action::Action;
use crate::client::error::Error;
use crate::request_info;
use crate::secret::Secret;
use crate::wire::review::AccessSpec;

/// Refusals are short; whatever is longer is none of stepup-server's.
const LARGEST_REFUSAL: usize = 64 << 10;
/// How often one request is taken up: a second time when another request has taken the one use of a grant first.
const ROUNDS: usize = 2;
/// How often one attempt is made when connections break.
const TRIES: usize = 4;
/// What is read at once from either side of an upgraded connection.
const COPY: usize = 64 << 10;

/// All that requests share.
pub struct Forward {
    pub gate: Gate,
    pub upstream: Upstream,
    pub step_ups: Arc<StepUps>,
    pub replay_limit: usize,
    /// `kubectl stepup run`: what to call us in messages.
    pub command: &'static str,
}

/// What became of one attempt.
enum Outcome {
    Passed(Response<Answer>, Option<OnUpgrade>),
    Refused(Response<Full<Bytes>>, Denial),
}

impl Forward {
    /// Answers a request. Never fails: what goes wrong is an answer too. `is_known` hears of a client who may come in.
    pub async fn answer(self: Arc<Self>, mut request: Request<Incoming>, is_known: &Notify) -> Response<Answer> {
        let path = match self.gate.admit(&request) {
            Ok(path) => path,
            Err(refusal) => return refusal.answer(),
        };
        is_known.notify_one();
        // What is done in somebody else's name is nothing that this person could be granted.
        let is_own = !request.headers().contains_key("impersonate-user");
        let action = request_info::action(request.method().as_str(), path, request.uri().query()).filter(|_| is_own);
        let client_side = asked_protocol(&request).map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
        let (mut parts, body) = request.into_parts();
        clean(&mut parts.headers);
        let (protocol, client_side) = client_side.unzip();
        let call = Call { forward: &self, parts, body: Kept::new(body, self.replay_limit), protocol, action };
        match call.answer().await {
            Ok((answer, None)) => answer,
            Ok((answer, Some(server_side))) => {
                if let Some(client_side) = client_side {
                    tokio::spawn(connect(client_side, server_side));
                }
                answer
            }
            Err(refusal) => refusal.answer(),
        }
    }
}

/// A request on its way.
struct Call<'a> {
    forward: &'a Forward,
    parts: Parts,
    body: Kept,
    /// The protocol that the connection shall be upgraded to.
    protocol: Option<HeaderValue>,
    action: Option<Action>,
}

impl Call<'_> {
    async fn answer(&self) -> Result<(Response<Answer>, Option<OnUpgrade>), Refusal> {
        let step_ups = &self.forward.step_ups;
        let mut pass = step_ups.pass(self.action.as_ref()).await.map_err(|error| no_token(&error))?;
        for _ in 0..ROUNDS {
            let (refused, denial) = match self.attempt(&pass).await? {
                Outcome::Passed(answer, upgraded) => return Ok((answer, upgraded)),
                Outcome::Refused(refused, denial) => (refused, denial),
            };
            if !self.body.can_be_repeated() {
                return Ok(if denial.is_ours { (self.too_large(&denial).answer(), None) } else { whole(refused) });
            }
            pass = match step_ups.take_up(denial).await {
                Some(pass) => pass,
                None => return Ok(whole(refused)),
            };
        }
        match self.attempt(&pass).await? {
            Outcome::Passed(answer, upgraded) => Ok((answer, upgraded)),
            Outcome::Refused(refused, _) => Ok(whole(refused)),
        }
    }

    async fn attempt(&self, pass: &Pass) -> Result<Outcome, Refusal> {
        // What has come by now is in the pass, or was passed over: only what comes later can make a difference.
        let since = Instant::now();
        let mut tries = TRIES;
        let (answer, in_flight) = loop {
            tries -= 1;
            match self.send(&pass.token).await {
                Ok(answer) => break answer,
                Err(failure) if tries > 0 && self.may_be_sent_again(&failure) => {}
                Err(failure) => return Err(unreachable(&failure)),
            }
        };
        self.judge(answer, in_flight, pass, since).await
    }

    async fn send(&self, token: &Secret) -> Result<(Response<Incoming>, InFlight), Failure> {
        let mut request = Request::new(self.body.play());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.headers_mut() = self.parts.headers.clone();
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .unwrap_or_else(|_| HeaderValue::from_static(""));
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        if self.asks_about_rights() {
            take_json(request.headers_mut());
        }
        match &self.protocol {
            None => self.forward.upstream.send(request).await,
            Some(protocol) => {
                request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                request.headers_mut().insert(UPGRADE, protocol.clone());
                let answer = self.forward.upstream.send_upgrade(request).await?;
                Ok((answer, InFlight::default()))
            }
        }
    }

    /// Tells a refusal for want of a step-up from every other answer.
    async fn judge(
        &self,
        mut answer: Response<Incoming>,
        in_flight: InFlight,
        pass: &Pass,
        since: Instant,
    ) -> Result<Outcome, Refusal> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(&mut answer);
            let protocol = answer.headers().get(UPGRADE).cloned();
            let mut answer = answer.map(|_| Answer::Whole(Full::default()));
            strip_hop_by_hop(answer.headers_mut());
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            if let Some(protocol) = protocol {
                answer.headers_mut().insert(UPGRADE, protocol);
            }
            return Ok(Outcome::Passed(answer, Some(upgraded)));
        }
        strip_hop_by_hop(answer.headers_mut());
        let is_review = self.asks_about_rights() && answer.status().is_success() && is_json(&answer);
        if !is_review && !may_be_a_refusal(&answer) {
            return Ok(Outcome::Passed(
                answer.map(|incoming| Answer::Passing { incoming, _in_flight: in_flight }),
                None,
            ));
        }
        let (mut parts, mut body) = answer.into_parts();
        let mut seen = Vec::new();
        while seen.len() <= LARGEST_REFUSAL {
            match body.frame().await {
                None if is_review => {
                    let body = Bytes::from(seen);
                    let told = self.told_of_rights(&body, pass, since).await.unwrap_or(body);
                    parts.headers.remove(CONTENT_LENGTH);
                    let answer = Response::from_parts(parts, Answer::Whole(Full::new(told)));
                    return Ok(Outcome::Passed(answer, None));
                }
                None => {
                    let body = Bytes::from(seen);
                    let denial = self.denial(parts.status, body.clone(), pass, since);
                    let answer = Response::from_parts(parts, Full::new(body));
                    return Ok(match denial {
                        Some(denial) => Outcome::Refused(answer, denial),
                        None => Outcome::Passed(answer.map(Answer::Whole), None),
                    });
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        seen.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(bad_gateway(&format!("the API server's answer broke off: {error}")));
                }
            }
        }
        let answer = Response::from_parts(
            parts,
            Answer::Seen { seen: Some(Bytes::from(seen)), incoming: body, _in_flight: in_flight },
        );
        Ok(Outcome::Passed(answer, None))
    }

    /// What stepup-server has said in a refusal; or RBAC, where a grant may add a group that it wants.
    fn denial(&self, status: StatusCode, body: Bytes, pass: &Pass, since: Instant) -> Option<Denial> {
        let challenge = if contains(&body, b"kubectl-stepup.io/challenge") { challenge_id(&body) } else { None };
        let is_ours = challenge.is_some() || is_of_stepup_server(&body);
        (is_ours || status == StatusCode::FORBIDDEN).then(|| Denial {
            challenge,
            is_of_api_server: contains(&body, b"forbidden: "),
            body,
            is_ours,
            action: self.action.clone(),
            token: pass.token.clone(),
            was_covered: pass.covers,
            since,
        })
    }

    /// Whether the person's own rights are asked about (`SelfSubjectAccessReview`).
    fn asks_about_rights(&self) -> bool {
        self.action.as_ref().is_some_and(|action| {
            action.verb == "create"
                && action.group == "authorization.k8s.io"
                && action.resource == "selfsubjectaccessreviews"
        })
    }

    /// What a program is told of a right that it has only after a step-up: that it has it. Some (k9s) ask before they try,
    /// and would never try.
    async fn told_of_rights(&self, body: &Bytes, pass: &Pass, since: Instant) -> Option<Bytes> {
        let mut review: Value = serde_json::from_slice(body).ok()?;
        if review["status"]["allowed"] != false {
            return None;
        }
        let spec: AccessSpec = serde_json::from_value(review["spec"].clone()).ok()?;
        let reason = review["status"]["reason"].as_str().unwrap_or_default();
        let denial = Denial {
            challenge: None,
            body: body.clone(),
            is_ours: is_of_stepup_server(reason.as_bytes()),
            is_of_api_server: true,
            action: Some(Action::of_review(&spec)?),
            token: pass.token.clone(),
            was_covered: false,
            since,
        };
        if !self.forward.step_ups.would_take_up(&denial).await {
            return None;
        }
        let reason = format!("after a step-up, which {} asks for when it is tried", self.forward.command);
        review["status"] = json!({"allowed": true, "reason": reason});
        serde_json::to_vec(&review).ok().map(Bytes::from)
    }

    /// Whether a request may be sent again after a failure, as Go's clients do: it was not looked at; or it only reads, and
    /// the server closed the connection just when we used it (RFC 9110, section 9.2.2).
    fn may_be_sent_again(&self, failure: &Failure) -> bool {
        let only_reads = matches!(self.parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let was_idle = matches!(failure, Failure::Broken { was_used: true, .. });
        self.body.can_be_repeated() && (failure.is_unseen() || only_reads && was_idle)
    }

    fn too_large(&self, denial: &Denial) -> Refusal {
        let what = match &self.action {
            Some(action) => format!("step-up required to {action}"),
            None => "step-up required".to_owned(),
        };
        let rule = rule_in(&denial.body).map_or(String::new(), |rule| format!(" ({rule})"));
        Refusal {
            status: StatusCode::FORBIDDEN,
            reason: "Forbidden",
            message: format!(
                "{what}{rule}, and the request is larger than the {} bytes that {} keeps to repeat it: type \"kubectl \
                 stepup elevate\", then repeat the command; or let it keep more, with --replay-limit",
                self.forward.replay_limit, self.forward.command
            ),
        }
    }
}

/// The protocol that an HTTP/1.1 request asks to change to (RFC 9110, section 7.8).
fn asked_protocol<B>(request: &Request<B>) -> Option<HeaderValue> {
    let wants = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
    };
    let asks = request.version() == Version::HTTP_11 && request.headers().get_all(CONNECTION).iter().any(wants);
    // Nobody who has a TLS connection means to change to HTTP/2 that way (RFC 9113, section 3.1).
    request.headers().get(UPGRADE).filter(|protocol| asks && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).cloned()
}

/// What the API server is told is what the client says, without what was for us.
fn clean(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(AUTHORIZATION);
    // Answered when the body is read.
    headers.remove(EXPECT);
    headers.remove(hyper::header::HOST);
    // Our own name and port: nothing to the server, and a reason to refuse for what stands before it.
    headers.remove(hyper::header::ORIGIN);
}

/// Asks for JSON alone, where the client takes that too.
fn take_json(headers: &mut HeaderMap) {
    let takes_json = |accept: &HeaderValue| {
        accept.to_str().is_ok_and(|accept| accept.contains("application/json") || accept.contains("*/*"))
    };
    if headers.get(ACCEPT).is_none_or(takes_json) {
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    }
}

fn is_json<B>(answer: &Response<B>) -> bool {
    let is_json = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/json");
    answer.headers().get(CONTENT_TYPE).is_some_and(is_json) && !answer.headers().contains_key(CONTENT_ENCODING)
}

/// Statuses come as JSON, Protobuf or CBOR; their texts are plain UTF-8 in each.
fn may_be_a_refusal<B>(answer: &Response<B>) -> bool {
    let is_status = |kind: &HeaderValue| {
        let kind = kind.as_bytes();
        [&b"application/json"[..], b"application/vnd.kubernetes.protobuf", b"application/cbor", b"text/plain"]
            .iter()
            .any(|known| kind.len() >= known.len() && kind[..known.len()].eq_ignore_ascii_case(known))
    };
    matches!(answer.status(), StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS)
        && answer.headers().get(CONTENT_TYPE).is_some_and(is_status)
}

/// Whether these are stepup-server's words, which the API server repeats.
fn is_of_stepup_server(text: &[u8]) -> bool {
    contains(text, b"step-up required to ") && contains(text, b" (rule")
}

/// `ch-` and 26 letters or digits.
fn challenge_id(body: &[u8]) -> Option<String> {
    const LENGTH: usize = "ch-".len() + 26;
    let is_id = |window: &&[u8]| {
        window.starts_with(b"ch-") && window[3..].iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    let id = body.windows(LENGTH).find(is_id)?;
    Some(String::from_utf8_lossy(id).into_owned())
}

/// `rule X`, as the refusal names it.
fn rule_in(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let (_, after) = text.split_once(" (rule")?;
    let (rule, _) = after.split_once(')')?;
    (rule.len() < 500 && !rule.contains(char::is_control)).then(|| format!("rule{rule}"))
}

fn whole(answer: Response<Full<Bytes>>) -> (Response<Answer>, Option<OnUpgrade>) {
    (answer.map(Answer::Whole), None)
}

fn no_token(error: &Error) -> Refusal {
    let hint = error.hint().map_or(String::new(), |hint| format!("; {hint}"));
    let (status, reason) = match error {
        Error::NotSignedIn { .. } | Error::Declined { .. } => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        _ => (StatusCode::BAD_GATEWAY, "BadGateway"),
    };
    Refusal { status, reason, message: format!("kubectl-stepup: {error}{hint}") }
}

fn unreachable(failure: &Failure) -> Refusal {
    bad_gateway(&failure.to_string())
}

fn bad_gateway(message: &str) -> Refusal {
    Refusal { status: StatusCode::BAD_GATEWAY, reason: "BadGateway", message: format!("kubectl-stepup: {message}") }
}

/// Carries an upgraded connection: whatever either side says goes to the other, until both are done.
async fn connect(client_side: OnUpgrade, server_side: OnUpgrade) {
    let (Ok(client), Ok(server)) = tokio::join!(client_side, server_side) else { return };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    // How it ends is between the two of them; an end that one side breaks off is none that the other should take for clean.
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, COPY, COPY).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_found_in_any_encoding_of_a_status() {
        let id = "ch-abcdefghijklmnopqrstuvwx23";
        let json = format!(r#"{{"causes":[{{"reason":"kubectl-stepup.io/challenge","message":"{id}"}}]}}"#);
        let protobuf = [b"k8s\0\x1bkubectl-stepup.io/challenge\x12\x1d", id.as_bytes(), b"\x1a"].concat();
        assert_eq!(challenge_id(json.as_bytes()).as_deref(), Some(id));
        assert_eq!(challenge_id(&protobuf).as_deref(), Some(id));
        assert_eq!(challenge_id(b"ch-short"), None);
    }

    #[test]
    fn the_rule_of_a_refusal_is_repeated() {
        let body = br#"{"message":"forbidden: step-up required to get secrets/db -n p (rule read-secrets): type"}"#;
        assert_eq!(rule_in(body).as_deref(), Some("rule read-secrets"));
        assert_eq!(rule_in(b"(rules a, b)"), None);
        assert_eq!(rule_in(b"x (rules a, b)").as_deref(), Some("rules a, b"));
    }

    #[test]
    fn only_http_1_1_is_upgraded() {
        let request = |version, connection: &str, upgrade: &str| {
            let request = Request::get("/").version(version).header(CONNECTION, connection).header(UPGRADE, upgrade);
            asked_protocol(&request.body(()).unwrap()).is_some()
        };
        assert!(request(Version::HTTP_11, "keep-alive, Upgrade", "SPDY/3.1"));
        assert!(request(Version::HTTP_11, "upgrade", "websocket"));
        assert!(!request(Version::HTTP_2, "upgrade", "websocket"));
        assert!(!request(Version::HTTP_11, "keep-alive", "websocket"));
        assert!(!request(Version::HTTP_11, "upgrade", "h2c"));
    }
}
