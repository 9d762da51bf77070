//! A fake identity provider that checks what it is asked, and fails the test when that is wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use chrono::{TimeDelta, Utc};
use openidconnect::PrivateSigningKey;
use openidconnect::core::{CoreEdDsaPrivateSigningKey, CoreJwsSigningAlgorithm};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::http::{Request, Response, Server};

pub const CLIENT: &str = "kubernetes";

/// How it behaves; the defaults are those of a good provider and a person who signs in at once.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a way to misbehave")]
pub struct Manners {
    /// `acr` of what it signs.
    pub acr: Option<&'static str>,
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
    /// Rotates refresh tokens.
    pub rotates: bool,
    /// A path after the host, with or without slash at the end, as the metadata has it.
    pub issuer_suffix: &'static str,
    /// How long a refresh takes.
    pub refresh_takes: Duration,
    /// How far its clock is ahead of ours, in seconds.
    pub clock_ahead: i64,
    /// Life of device codes, in seconds.
    pub code_life: u64,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            acr: Some("urn:mfa"),
            age: 0,
            pending_polls: 0,
            denies: false,
            ignores: false,
            interval: Some(1),
            life: 300,
            is_down: false,
            rotates: true,
            issuer_suffix: "",
            refresh_takes: Duration::ZERO,
            clock_ahead: 0,
            code_life: 600,
        }
    }
}

#[derive(Default)]
struct State {
    manners: Manners,
    complaints: Vec<String>,
    device: HashMap<String, String>,
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
        let state = Arc::new(Mutex::new(State { manners, refresh_token: "refresh-0".into(), ..State::default() }));
        state.lock().unwrap().secrets.push("refresh-0".into());
        let server = Server::start({
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
        sign(&issuer, &self.key, &mut state, acr, age, life)
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
    age: i64,
    life: i64,
) -> String {
    let now = Utc::now().timestamp() + state.manners.clock_ahead;
    state.serial += 1;
    let mut claims = json!({
        "iss": issuer, "sub": "u-1", "aud": CLIENT, "iat": now, "exp": now + life, "auth_time": now - age,
        "preferred_username": "alice", "jti": format!("jti-{}", state.serial),
    });
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
        return Response::new(503, "text/html", "<html>Down for maintenance: refresh-0</html>");
    }
    let issuer = format!("{base}{}", state.manners.issuer_suffix);
    let path = request.path.split('?').next().unwrap_or_default();
    match (request.method.as_str(), path.trim_start_matches(state.manners.issuer_suffix.trim_end_matches('/'))) {
        ("GET", "/.well-known/openid-configuration") => Response::json(
            200,
            &json!({
                "issuer": issuer, "jwks_uri": format!("{base}/jwks"), "token_endpoint": format!("{base}/token"),
                "authorization_endpoint": format!("{base}/auth"),
                "device_authorization_endpoint": format!("{base}/device"),
                "revocation_endpoint": format!("{base}/revoke"),
                "response_types_supported": ["code"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["EdDSA", "RS256", "none-of-our-business"],
            }),
        ),
        ("GET", "/jwks") => Response::json(200, &json!({"keys": [key.as_verification_key()]})),
        ("GET", "/auth") => authorize(request, &mut state),
        ("POST", "/device") => device(base, request.form(), &mut state),
        ("POST", "/token") => token(&issuer, &request.form(), key, state),
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

fn device(base: &str, form: HashMap<String, String>, state: &mut State) -> Response {
    let has = |key: &str, value: &str| form.get(key).is_some_and(|given| given == value);
    if !has("client_id", CLIENT) || !has("code_challenge_method", "S256") || !form.contains_key("code_challenge") {
        state.complaints.push(format!("a device request without client or PKCE: {form:?}"));
    }
    if !form.get("scope").is_some_and(|scope| scope.split(' ').any(|scope| scope == "openid")) {
        state.complaints.push("a device request without scope openid".into());
    }
    state.polls = 0;
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
    let error =
        |error: &str| Response::json(400, &json!({"error": error, "error_description": format!("that is {error}")}));
    let text = |key: &str| form.get(key).map(String::as_str).unwrap_or_default();
    let is_refresh = text("grant_type") == "refresh_token";
    if is_refresh {
        std::thread::sleep(state.manners.refresh_takes);
        if text("refresh_token") != state.refresh_token {
            state.refused_refreshes += 1;
            return error("invalid_grant");
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
        if state.manners.ignores || state.polls <= state.manners.pending_polls {
            return error("authorization_pending");
        }
        if state.manners.denies {
            return error("access_denied");
        }
    }
    let (acr, age) = if is_refresh { (Some("urn:pwd"), 600) } else { (state.manners.acr, state.manners.age) };
    let life = state.manners.life;
    let id_token = sign(issuer, key, &mut state, acr, age, life);
    let mut body =
        json!({"access_token": "access-secret", "token_type": "Bearer", "expires_in": 60, "id_token": id_token});
    let wants_offline = state.device.get("scope").is_some_and(|scope| scope.contains("offline_access"));
    if (is_refresh && state.manners.rotates) || (!is_refresh && wants_offline) {
        body["refresh_token"] = json!(state.refresh_token);
        let token = state.refresh_token.clone();
        state.secrets.push(token);
    }
    Response::json(200, &body)
}
