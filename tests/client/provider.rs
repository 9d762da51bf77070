//! A fake identity provider that checks what it is asked, and fails the test when that is wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD as BASE64_PADDED, BASE64_URL_SAFE_NO_PAD as BASE64};
use chrono::{TimeDelta, Utc};
use openidconnect::PrivateSigningKey;
use openidconnect::core::{CoreEdDsaPrivateSigningKey, CoreJwsSigningAlgorithm};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::http::{Request, Response, Server};

pub const CLIENT: &str = "kubernetes";
/// Another client, which has a secret.
pub const STRONG_CLIENT: &str = "kubernetes-step-up";
pub const STRONG_SECRET: &str = "strong-client-secret";

/// How it behaves; the defaults are those of a good provider and a person who signs in at once.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a way to misbehave")]
pub struct Manners {
    /// `acr` of what it signs.
    pub acr: Option<&'static str>,
    /// What it takes to get that; without, the sign-in is an ordinary one (`urn:pwd`).
    pub heeds: Heeds,
    /// Who signs in.
    pub user: &'static str,
    /// Whether `auth_time` is in what it signs: at a sign-in, at a refresh.
    pub tells_auth_time: (bool, bool),
    /// Polls that are answered with `slow_down` first.
    pub slow_downs: u64,
    /// The token endpoint answers with this page, which ends with what it was sent.
    pub token_page: Option<(u16, &'static str)>,
    /// How long ago the person signed in, in seconds.
    pub age: i64,
    /// Polls that are answered with `authorization_pending` first.
    pub pending_polls: usize,
    /// The person refuses.
    pub denies: bool,
    /// The person never comes.
    pub ignores: bool,
    /// `interval` of the device answer.
    pub interval: Option<u64>,
    /// Life of ID tokens, in seconds.
    pub life: i64,
    /// Everything is answered with a web page.
    pub is_down: bool,
    /// Has no keys at its `jwks_uri`.
    pub publishes_no_keys: bool,
    /// Rotates refresh tokens.
    pub rotates: bool,
    /// A path after the host, with or without slash at the end, as the metadata has it.
    pub issuer_suffix: &'static str,
    /// How long a refresh takes.
    pub refresh_takes: Duration,
    /// How a refresh token is refused that it does not take.
    pub refusal: &'static str,
    /// Leaves the ID token out of what a refresh is answered with (OpenID Connect Core, section 12.2).
    pub renews_no_id_tokens: bool,
    /// Another audience of ID tokens, and whether `azp` tells whom they were issued to.
    pub also_for: Option<(&'static str, bool)>,
    /// Where it listens.
    pub address: &'static str,
    /// How far its clock is ahead of ours, in seconds.
    pub clock_ahead: i64,
    /// Life of device codes, in seconds.
    pub code_life: u64,
    /// Offers the device flow.
    pub offers_device: bool,
}

/// What makes a provider ask for more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Heeds {
    /// It always does.
    Anything,
    AcrValues,
    Scope(&'static str),
    Client(&'static str),
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            acr: Some("urn:mfa"),
            heeds: Heeds::Anything,
            user: "alice",
            tells_auth_time: (true, true),
            slow_downs: 0,
            token_page: None,
            age: 0,
            pending_polls: 0,
            denies: false,
            ignores: false,
            interval: Some(1),
            life: 300,
            is_down: false,
            publishes_no_keys: false,
            rotates: true,
            issuer_suffix: "",
            refresh_takes: Duration::ZERO,
            refusal: "invalid_grant",
            renews_no_id_tokens: false,
            also_for: None,
            address: "127.0.0.1:0",
            clock_ahead: 0,
            code_life: 600,
            offers_device: true,
        }
    }
}

#[derive(Default)]
struct State {
    manners: Manners,
    complaints: Vec<String>,
    device: HashMap<String, String>,
    /// When the next poll may come, and how long the one after has to wait.
    next_poll: Option<(Instant, Duration)>,
    device_requests: Vec<HashMap<String, String>>,
    polls: usize,
    refreshes: usize,
    refused_refreshes: usize,
    refresh_token: String,
    serial: usize,
    revoked: Vec<String>,
    secrets: Vec<String>,
    nonce: Option<String>,
}

pub struct Provider {
    pub server: Server,
    key: Arc<CoreEdDsaPrivateSigningKey>,
    state: Arc<Mutex<State>>,
}

impl Provider {
    pub fn start(manners: Manners) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let key = CoreEdDsaPrivateSigningKey::from_ed25519_pem(
            &pair.serialize_pem(),
            Some(openidconnect::JsonWebKeyId::new("k1".into())),
        )
        .unwrap();
        let key = Arc::new(key);
        let address = manners.address;
        let state = Arc::new(Mutex::new(State { manners, refresh_token: "refresh-0".into(), ..State::default() }));
        state.lock().unwrap().secrets.push("refresh-0".into());
        let server = Server::start_at(address, {
            let (key, state) = (Arc::clone(&key), Arc::clone(&state));
            move |base, request| {
                let ahead = TimeDelta::seconds(state.lock().unwrap().manners.clock_ahead);
                answer(base, &request, &key, &state).at(Utc::now() + ahead)
            }
        });
        Self { server, key, state }
    }

    /// The issuer, as its metadata states it.
    pub fn issuer(&self) -> String {
        format!("{}{}", self.server.url, self.state.lock().unwrap().manners.issuer_suffix)
    }

    /// An ID token of this provider.
    pub fn id_token(&self, acr: Option<&str>, age: i64, life: i64) -> String {
        let issuer = self.issuer();
        let mut state = self.state.lock().unwrap();
        sign(&issuer, &self.key, &mut state, acr, Some(age), life)
    }

    pub fn change(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.state.lock().unwrap().manners);
    }

    /// Somebody else uses the refresh token: it changes.
    pub fn rotate(&self) -> String {
        let mut state = self.state.lock().unwrap();
        "refresh-by-sibling".clone_into(&mut state.refresh_token);
        state.refresh_token.clone()
    }

    pub fn refreshes(&self) -> usize {
        self.state.lock().unwrap().refreshes
    }

    pub fn refused_refreshes(&self) -> usize {
        self.state.lock().unwrap().refused_refreshes
    }

    pub fn refresh_token(&self) -> String {
        self.state.lock().unwrap().refresh_token.clone()
    }

    pub fn device_requests(&self) -> Vec<HashMap<String, String>> {
        self.state.lock().unwrap().device_requests.clone()
    }

    pub fn polls(&self) -> usize {
        self.state.lock().unwrap().polls
    }

    pub fn revoked(&self) -> Vec<String> {
        self.state.lock().unwrap().revoked.clone()
    }

    /// Every token, code and verifier that went over the wire.
    pub fn secrets(&self) -> Vec<String> {
        self.state.lock().unwrap().secrets.clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.state.lock().unwrap().complaints, [""; 0], "the provider was asked badly");
        }
    }
}

fn sign(
    issuer: &str,
    key: &CoreEdDsaPrivateSigningKey,
    state: &mut State,
    acr: Option<&str>,
    age: Option<i64>,
    life: i64,
) -> String {
    let now = Utc::now().timestamp() + state.manners.clock_ahead;
    state.serial += 1;
    let mut claims = json!({
        "iss": issuer, "sub": format!("u-{}", state.manners.user), "iat": now, "exp": now + life,
        "aud": state.device.get("client_id").map_or(CLIENT, String::as_str),
        "preferred_username": state.manners.user, "jti": format!("jti-{}", state.serial),
    });
    if let Some((other, tells)) = state.manners.also_for {
        let client = claims["aud"].clone();
        claims["aud"] = json!([other, client]);
        if tells {
            claims["azp"] = client;
        }
    }
    if let Some(age) = age {
        claims["auth_time"] = json!(now - age);
    }
    if let Some(acr) = acr {
        claims["acr"] = json!(acr);
    }
    if let Some(nonce) = state.nonce.take() {
        claims["nonce"] = json!(nonce);
    }
    let header = json!({"alg": "EdDSA", "kid": "k1", "typ": "JWT"});
    let text = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let signature = key.sign(&CoreJwsSigningAlgorithm::EdDsa, text.as_bytes()).unwrap();
    let token = format!("{text}.{}", BASE64.encode(signature));
    state.secrets.push(token.clone());
    token
}

fn answer(base: &str, request: &Request, key: &CoreEdDsaPrivateSigningKey, state: &Mutex<State>) -> Response {
    let mut state = state.lock().unwrap();
    if state.manners.is_down {
        let sent: Vec<String> = request.form().into_values().collect();
        return Response::new(503, "text/html", format!("<html>Down for maintenance {}</html>", sent.join(" ")));
    }
    let issuer = format!("{base}{}", state.manners.issuer_suffix);
    let path = request.path.split('?').next().unwrap_or_default();
    match (request.method.as_str(), path.trim_start_matches(state.manners.issuer_suffix.trim_end_matches('/'))) {
        ("GET", "/.well-known/openid-configuration") => Response::json(
            200,
            &json!({
                "issuer": issuer, "jwks_uri": format!("{base}/jwks"), "token_endpoint": format!("{base}/token"),
                "authorization_endpoint": format!("{base}/auth"),
                "device_authorization_endpoint": state.manners.offers_device.then(|| format!("{base}/device")),
                "revocation_endpoint": format!("{base}/revoke"),
                "response_types_supported": ["code"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["EdDSA", "RS256", "none-of-our-business"],
            }),
        ),
        ("GET", "/jwks") if state.manners.publishes_no_keys => Response::json(200, &json!({"keys": []})),
        ("GET", "/jwks") => Response::json(200, &json!({"keys": [key.as_verification_key()]})),
        ("GET", "/auth") => authorize(request, &mut state),
        ("POST", "/device") => {
            let mut form = request.form();
            // A client with a secret names itself in the header (RFC 6749, section 2.3.1).
            if let Some(header) = &request.authorization {
                assert_eq!(*header, strong_credentials());
                form.insert("client_id".into(), STRONG_CLIENT.into());
            }
            device(base, form, &mut state)
        }
        ("POST", "/token") => {
            let is_strong = state.device.get("client_id").is_some_and(|client| client == STRONG_CLIENT);
            if is_strong && request.authorization != Some(strong_credentials()) {
                state.complaints.push("a client with a secret did not give it".into());
            }
            token(&issuer, &request.form(), key, state)
        }
        ("POST", "/revoke") => {
            let token = request.form().remove("token").unwrap_or_default();
            state.revoked.push(token);
            Response::json(200, &json!({}))
        }
        (method, path) => {
            state.complaints.push(format!("nobody should ask for {method} {path}"));
            Response::new(404, "text/html", "<html>")
        }
    }
}

fn strong_credentials() -> String {
    format!("Basic {}", BASE64_PADDED.encode(format!("{STRONG_CLIENT}:{STRONG_SECRET}")))
}

fn device(base: &str, form: HashMap<String, String>, state: &mut State) -> Response {
    let has = |key: &str, value: &str| form.get(key).is_some_and(|given| given == value);
    let is_client = has("client_id", CLIENT) || has("client_id", STRONG_CLIENT);
    if !is_client || !has("code_challenge_method", "S256") || !form.contains_key("code_challenge") {
        state.complaints.push(format!("a device request without client or PKCE: {form:?}"));
    }
    if !form.get("scope").is_some_and(|scope| scope.split(' ').any(|scope| scope == "openid")) {
        state.complaints.push("a device request without scope openid".into());
    }
    state.polls = 0;
    // RFC 8628, section 3.5: the first poll may come at once; without `interval` the others wait five seconds.
    state.next_poll = Some((Instant::now(), Duration::from_secs(state.manners.interval.unwrap_or(5))));
    state.device.clone_from(&form);
    state.device_requests.push(form);
    let mut body = json!({
        "device_code": "device-code-secret", "user_code": "ABCD-EFGH", "expires_in": state.manners.code_life,
        "verification_uri": format!("{base}/device"),
        "verification_uri_complete": format!("{base}/device?user_code=ABCD-EFGH"),
    });
    state.secrets.push("device-code-secret".into());
    if let Some(interval) = state.manners.interval {
        body["interval"] = json!(interval);
    }
    Response::json(200, &body)
}

/// The person signs in at once: the browser goes back with a code.
fn authorize(request: &Request, state: &mut State) -> Response {
    let url = url::Url::parse(&format!("http://x{}", request.path)).unwrap();
    let query: HashMap<String, String> = url.query_pairs().into_owned().collect();
    for required in ["code_challenge", "state", "nonce", "redirect_uri", "scope"] {
        if !query.contains_key(required) {
            state.complaints.push(format!("an authorization request without {required}"));
        }
    }
    state.nonce = query.get("nonce").cloned();
    let back = format!("{}?code=code-secret&state={}", query["redirect_uri"], query["state"]);
    state.secrets.push("code-secret".into());
    state.device.clone_from(&query);
    state.device_requests.push(query);
    Response::new(200, "text/plain", back)
}

fn token(
    issuer: &str,
    form: &HashMap<String, String>,
    key: &CoreEdDsaPrivateSigningKey,
    mut state: std::sync::MutexGuard<'_, State>,
) -> Response {
    let state = &mut *state;
    let error =
        |error: &str| Response::json(400, &json!({"error": error, "error_description": format!("that is {error}")}));
    let text = |key: &str| form.get(key).map(String::as_str).unwrap_or_default();
    if let Some((status, page)) = state.manners.token_page {
        // As some proxies do, it repeats what it was sent.
        let sent: Vec<&str> = form.values().map(String::as_str).collect();
        return Response::new(status, "text/html", format!("{page} {}</html>", sent.join(" ")));
    }
    let is_refresh = text("grant_type") == "refresh_token";
    if is_refresh {
        std::thread::sleep(state.manners.refresh_takes);
        if text("refresh_token") != state.refresh_token {
            state.refused_refreshes += 1;
            return error(state.manners.refusal);
        }
        state.refreshes += 1;
        if state.manners.rotates {
            state.refresh_token = format!("refresh-{}", state.refreshes);
        }
    } else {
        let verifier = text("code_verifier");
        state.secrets.push(verifier.to_owned());
        let challenge = BASE64.encode(Sha256::digest(verifier));
        if state.device.get("code_challenge") != Some(&challenge) {
            state.complaints.push("the code_verifier does not fit the code_challenge".into());
        }
        state.polls += 1;
        if let Some((next, wait)) = &mut state.next_poll {
            let now = Instant::now();
            let too_early = now < *next;
            *next = now + *wait;
            if too_early {
                state.complaints.push("a poll that came too early".into());
            }
            if state.manners.slow_downs > 0 {
                // RFC 8628, section 3.5: five seconds more, for this and all that follow.
                *wait += Duration::from_secs(5);
                *next = now + *wait;
                state.manners.slow_downs -= 1;
                return error("slow_down");
            }
        }
        if state.manners.ignores || state.polls <= state.manners.pending_polls {
            return error("authorization_pending");
        }
        if state.manners.denies {
            return error("access_denied");
        }
    }
    let asked = |name: &str, value: &str| {
        state.device.get(name).is_some_and(|values| values.split(' ').any(|given| given == value))
    };
    let is_strong = match state.manners.heeds {
        Heeds::Anything => true,
        Heeds::AcrValues => state.device.contains_key("acr_values"),
        Heeds::Scope(scope) => asked("scope", scope),
        Heeds::Client(client) => asked("client_id", client),
    };
    let (acr, age, tells) = if is_refresh {
        (Some("urn:pwd"), 600, state.manners.tells_auth_time.1)
    } else {
        (
            if is_strong { state.manners.acr } else { Some("urn:pwd") },
            state.manners.age,
            state.manners.tells_auth_time.0,
        )
    };
    let age = tells.then_some(age);
    let life = state.manners.life;
    let id_token = sign(issuer, key, state, acr, age, life);
    let mut body = json!({"access_token": "access-secret", "token_type": "Bearer", "expires_in": 60});
    if !(is_refresh && state.manners.renews_no_id_tokens) {
        body["id_token"] = json!(id_token);
    }
    let wants_offline = state.device.get("scope").is_some_and(|scope| scope.contains("offline_access"));
    if (is_refresh && state.manners.rotates) || (!is_refresh && wants_offline) {
        body["refresh_token"] = json!(state.refresh_token);
        let token = state.refresh_token.clone();
        state.secrets.push(token);
    }
    Response::json(200, &body)
}
