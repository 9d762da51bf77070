//! A fake stepup-server: what it has pending, what it was told, what it issued.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::http::{Request, Response, Server};

#[derive(Default)]
struct State {
    pending: Vec<Value>,
    declined: Vec<(String, String)>,
    exchanges: Vec<HashMap<String, String>>,
    refusals: VecDeque<Option<Value>>,
    bearers: Vec<String>,
    is_down: bool,
    max_age: u64,
    reason: Option<String>,
}

pub struct StepupServer {
    pub server: Server,
    state: Arc<Mutex<State>>,
}

impl StepupServer {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State { max_age: 300, ..State::default() }));
        let server = Server::start({
            let state = Arc::clone(&state);
            move |_, request| answer(&request, &mut state.lock().unwrap())
        });
        Self { server, state }
    }

    /// A request of this kind was just denied.
    pub fn deny(&self, id: &str, verb: &str, namespace: &str) {
        self.deny_at(id, verb, namespace, 1);
    }

    /// The same, some seconds ago.
    pub fn deny_at(&self, id: &str, verb: &str, namespace: &str, ago: i64) {
        let mut state = self.state.lock().unwrap();
        let now = Utc::now();
        let mut challenge = json!({
            "id": id, "rule": "delete-namespace", "description": "Namespaces that \u{1b}[2Jmatter",
            "actions": [{"verb": verb, "resource": "namespaces", "namespace": namespace, "name": namespace}],
            "acrValues": ["urn:mfa"], "maxAge": state.max_age,
            "grant": {"ttl": 300, "uses": 1, "covers": [format!("{verb} namespaces/{namespace}")]},
            "createdAt": now, "deniedAt": ago, "expiresAt": now + TimeDelta::minutes(10),
        });
        if let Some(pattern) = &state.reason {
            challenge["reason"] = json!({"pattern": pattern, "hint": "a ticket"});
        }
        state.pending.insert(0, challenge);
    }

    /// A live grant already covers the challenge `id`.
    pub fn cover(&self, id: &str, grant: &str) {
        for challenge in self.state.lock().unwrap().pending.iter_mut().filter(|challenge| challenge["id"] == id) {
            challenge["coveredBy"] = json!(grant);
        }
    }

    /// Rules demand a reason that starts like this.
    pub fn demand_reason(&self, start: &str) {
        self.state.lock().unwrap().reason = Some(start.to_owned());
    }

    /// The next exchange is refused like this.
    pub fn refuse(&self, error: &str, description: &str) {
        let refusal = json!({"error": error, "error_description": description});
        self.state.lock().unwrap().refusals.push_back(Some(refusal));
    }

    /// The next exchange is judged on its merits.
    pub fn judge(&self) {
        self.state.lock().unwrap().refusals.push_back(None);
    }

    pub fn set_down(&self, is_down: bool) {
        self.state.lock().unwrap().is_down = is_down;
    }

    pub fn declined(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().declined.clone()
    }

    pub fn exchanges(&self) -> Vec<HashMap<String, String>> {
        self.state.lock().unwrap().exchanges.clone()
    }

    pub fn bearers(&self) -> Vec<String> {
        self.state.lock().unwrap().bearers.clone()
    }
}

fn answer(request: &Request, state: &mut State) -> Response {
    if state.is_down {
        return Response::new(502, "text/html", "<html>bad gateway</html>");
    }
    if let Some(bearer) = &request.bearer {
        state.bearers.push(bearer.clone());
    }
    let path: Vec<&str> = request.path.split('?').next().unwrap_or_default().split('/').skip(1).collect();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["v1", "challenges"]) => {
            let now = Utc::now();
            let mut pending = state.pending.clone();
            // However long the test has taken to get here.
            for challenge in &mut pending {
                let ago = challenge["deniedAt"].as_i64().map(TimeDelta::seconds).unwrap();
                challenge["deniedAt"] = json!(now - ago);
            }
            Response::json(200, &json!({"user": "alice", "serverTime": now, "challenges": pending}))
        }
        ("POST", ["v1", "challenges", id, "decline"]) => {
            let cause = request.json()["cause"].as_str().unwrap_or_default().to_owned();
            state.declined.push(((*id).to_owned(), cause));
            state.pending.retain(|challenge| challenge["id"] != *id);
            Response::new(204, "text/plain", String::new())
        }
        ("POST", ["token"]) => exchange(&request.form(), state),
        _ => Response::json(404, &json!({"error": "not_found", "error_description": "no such thing"})),
    }
}

fn exchange(form: &HashMap<String, String>, state: &mut State) -> Response {
    let refusal = |error: &str, what: &str| Response::json(400, &json!({"error": error, "error_description": what}));
    let number = state.exchanges.len() + 1;
    state.exchanges.push(form.clone());
    if let Some(Some(refusal)) = state.refusals.pop_front() {
        return Response::json(400, &refusal);
    }
    let Some(at) =
        state.pending.iter().position(|challenge| form.get("challenge").is_some_and(|id| challenge["id"] == *id))
    else {
        return refusal("invalid_grant", "no such challenge is pending for you");
    };
    if let Some(start) = &state.reason
        && !form.get("reason").is_some_and(|reason| reason.starts_with(start))
    {
        return refusal("invalid_request", "this reason will not do (a ticket): give another with --reason");
    }
    let challenge = state.pending.remove(at);
    let now = Utc::now();
    let grant = json!({
        "id": format!("gr-{number}"), "user": "alice", "rule": challenge["rule"], "permits": [],
        "covers": challenge["grant"]["covers"], "acr": "urn:mfa", "authTime": now, "createdAt": now,
        "expiresAt": now + TimeDelta::seconds(300), "usesLeft": 1,
    });
    Response::json(
        200,
        &json!({
            "access_token": format!("elevated-{number}"), "issued_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_type": "Bearer", "expires_in": 300, "grant": grant,
        }),
    )
}
