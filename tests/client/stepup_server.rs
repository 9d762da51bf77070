//! A fake stepup-server: what it has pending, what it was told, what it issued.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::http::{Request, Response, Server};

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a whim of its own")]
struct State {
    pending: Vec<Value>,
    declined: Vec<(String, String)>,
    exchanges: Vec<HashMap<String, String>>,
    refusals: VecDeque<Option<Value>>,
    bearers: Vec<String>,
    is_down: bool,
    asked: Vec<Value>,
    forgets: bool,
    protects_nothing: bool,
    wants_names: bool,
    digests: usize,
    /// Challenges for what somebody is about to do, by resource.
    protected: HashMap<String, Value>,
    max_age: u64,
    reason: Option<String>,
    grant_name: Option<&'static str>,
    clock_ahead: i64,
    readiness: Option<Value>,
    refuses_tokens: bool,
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

    /// Whoever asks about this resource beforehand hears of the challenge `id`. `group`: one that the grant adds.
    pub fn protect(&self, resource: &str, id: &str, uses: Option<u32>, group: Option<&str>) {
        let now = Utc::now();
        let challenge = json!({
            "id": id, "rule": format!("rule-{resource}"), "actions": [], "acrValues": ["urn:mfa"], "maxAge": 300,
            "grant": {"ttl": 300, "uses": uses, "covers": [resource], "groups": group.into_iter().collect::<Vec<_>>()},
            "createdAt": now, "expiresAt": now + TimeDelta::minutes(10),
        });
        self.state.lock().unwrap().protected.insert(resource.to_owned(), challenge);
    }

    /// The rule about this resource is one of those.
    pub fn want_reason_for(&self, resource: &str) {
        let mut state = self.state.lock().unwrap();
        let reason = json!({"pattern": state.reason, "hint": "a ticket"});
        state.protected.get_mut(resource).unwrap()["reason"] = reason;
    }

    /// Grants are called so, and a number.
    pub fn call_grants(&self, name: &'static str) {
        self.state.lock().unwrap().grant_name = Some(name);
    }

    /// Whoever looks once more at what is pending finds nothing any more.
    pub fn taken_up_after_the_next_look(&self) {
        self.state.lock().unwrap().forgets = true;
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

    /// How far its clock is ahead of ours, in seconds.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.state.lock().unwrap().clock_ahead = seconds;
    }

    /// What it says of itself, unless all is well.
    pub fn set_readiness(&self, report: Value) {
        self.state.lock().unwrap().readiness = Some(report);
    }

    /// It takes nobody's token.
    pub fn refuse_tokens(&self) {
        self.state.lock().unwrap().refuses_tokens = true;
    }

    /// The policy has changed: nothing is protected any more.
    pub fn protect_nothing(&self) {
        self.state.lock().unwrap().protects_nothing = true;
    }

    /// Its grants are for one object, and who asks has to say which.
    pub fn want_names(&self) {
        self.state.lock().unwrap().wants_names = true;
    }

    /// What it was asked about beforehand.
    pub fn asked(&self) -> Vec<Value> {
        self.state.lock().unwrap().asked.clone()
    }

    /// How often it was asked for a digest, to which it answers with rubbish.
    pub fn digests(&self) -> usize {
        self.state.lock().unwrap().digests
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
        ("GET", ["readyz"]) => Response::json(200, state.readiness.as_ref().unwrap_or(&json!({"ready": true}))),
        (_, ["v1", ..]) if state.refuses_tokens => {
            Response::json(401, &json!({"error": "invalid_token", "error_description": "nobody we know"}))
        }
        ("GET", ["v1", "challenges"]) => {
            let now = Utc::now() + TimeDelta::seconds(state.clock_ahead);
            let mut pending = state.pending.clone();
            if std::mem::take(&mut state.forgets) {
                state.pending.clear();
            }
            // However long the test has taken to get here.
            for challenge in &mut pending {
                if let Some(ago) = challenge["deniedAt"].as_i64().map(TimeDelta::seconds) {
                    challenge["deniedAt"] = json!(now - ago);
                }
            }
            Response::json(200, &json!({"user": "alice", "serverTime": now, "challenges": pending}))
        }
        ("POST", ["v1", "challenges", id, "decline"]) => {
            let cause = request.json()["cause"].as_str().unwrap_or_default().to_owned();
            state.declined.push(((*id).to_owned(), cause));
            state.pending.retain(|challenge| challenge["id"] != *id);
            Response::new(204, "text/plain", String::new())
        }
        ("GET", ["v1", "step-up"]) => Response::json(
            200,
            &json!({
                "provider": "corp", "audiences": ["kubernetes", "kubernetes-step-up"],
                "levels": [{"name": "pwd", "acrValues": ["urn:pwd"]}, {"name": "mfa", "acrValues": ["urn:mfa", "urn:hwk"]}],
            }),
        ),
        ("POST", ["v1", "challenges"]) => {
            let actions = request.json()["actions"].clone();
            state.asked.push(actions.clone());
            if state.wants_names && actions[0]["name"].is_null() {
                let problem =
                    "connect pods/exec -n prod names no object, and a grant of rule exec is for one: say which";
                return Response::json(400, &json!({"error": "invalid_request", "error_description": problem}));
            }
            let (mut challenges, mut unprotected) = (Vec::new(), Vec::new());
            if let Some(known) = state.protected.get(actions[0]["resource"].as_str().unwrap_or_default()) {
                let mut challenge = known.clone();
                challenge["actions"] = actions;
                challenges.push(challenge.clone());
                challenge["deniedAt"] = json!(1);
                state.pending.retain(|pending| pending["id"] != challenge["id"]);
                state.pending.push(challenge);
            } else if state.protects_nothing || !state.protected.is_empty() {
                unprotected.clone_from(actions.as_array().unwrap());
            } else {
                let now = Utc::now();
                let challenge = json!({
                    "id": format!("ch-asked-{}", state.asked.len()), "rule": "read-secrets", "description": "Secrets",
                    "actions": actions, "acrValues": ["urn:mfa"], "maxAge": state.max_age,
                    "grant": {"ttl": 300, "covers": ["get secrets"]},
                    "createdAt": now, "expiresAt": now + TimeDelta::minutes(10),
                });
                state.pending.insert(0, challenge.clone());
                challenges.push(challenge);
            }
            let now = Utc::now();
            Response::json(
                200,
                &json!({"user": "alice", "serverTime": now, "challenges": challenges, "unprotected": unprotected}),
            )
        }
        ("DELETE", ["v1", "grants", _]) => Response::new(204, "text/plain", String::new()),
        ("GET", ["v1", "digest"]) => {
            state.digests += 1;
            Response::new(200, "application/jwt", "a.b.c")
        }
        ("GET", ["jwks"]) => Response::json(200, &json!({"keys": []})),
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
    let pattern = |action: &Value| {
        json!({
            "verbs": [action["verb"]], "apiGroups": [action["group"].as_str().unwrap_or_default()],
            "resources": [action["resource"]], "namespaces": [action["namespace"].as_str().unwrap_or("*")],
            "names": [action["name"].as_str().unwrap_or("*")],
        })
    };
    let permits: Vec<Value> = challenge["actions"].as_array().unwrap().iter().map(pattern).collect();
    let uses = if challenge["grant"]["uses"].is_null() { Value::Null } else { json!(1) };
    let grant = json!({
        "id": format!("{}{number}", state.grant_name.unwrap_or("gr-")), "user": "alice", "rule": challenge["rule"], "permits": permits,
        "covers": challenge["grant"]["covers"], "acr": "urn:mfa", "authTime": now, "createdAt": now,
        "expiresAt": now + TimeDelta::seconds(300), "usesLeft": uses,
    });
    Response::json(
        200,
        &json!({
            "access_token": format!("elevated-{number}"), "issued_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_type": "Bearer", "expires_in": 300, "grant": grant,
        }),
    )
}
