//! The protocols without our client: what somebody's script, good or bad, would send.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use lab::process::await_that;
use lab::{CLIENT_ID, Lab, http};
use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stepup::wire::token::{GRANT_TYPE, ID_TOKEN_TYPE};

/// The strongest class of the lab's provider.
pub const MFA: &str = "urn:stepup:mfa";
const LIMIT: Duration = Duration::from_secs(30);

/// Whoever can send requests to the lab.
pub struct Raw<'a> {
    lab: &'a Lab,
    http: Client,
    admin: Client,
}

/// What a request was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl<'a> Raw<'a> {
    pub fn new(lab: &'a Lab) -> Result<Self> {
        let http = http::client(&lab.pki().ca)?;
        let admin = http::client_with_certificate(&lab.pki().ca, &lab.pki().admin)?;
        Ok(Self { lab, http, admin })
    }

    pub fn client(&self) -> &Client {
        &self.http
    }

    /// Signs `person` in by device flow, as strongly as `acr` says: the ID token.
    pub fn sign_in(&self, person: &str, acr: Option<&str>) -> Result<String> {
        let discovery: Value =
            self.http.get(format!("{}/.well-known/openid-configuration", self.lab.issuer())).send()?.json()?;
        let endpoint = |name: &str| discovery[name].as_str().with_context(|| format!("no {name}"));
        let verifier = "a-verifier-of-at-least-forty-three-characters";
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        let mut form = vec![
            ("client_id", CLIENT_ID),
            ("scope", "openid offline_access profile email groups"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("login_hint", person),
        ];
        form.extend(acr.map(|acr| ("acr_values", acr)));
        let device: Value = self
            .http
            .post(endpoint("device_authorization_endpoint")?)
            .form(&form)
            .send()?
            .error_for_status()?
            .json()?;
        let url = device["verification_uri_complete"].as_str().context("no URL")?;
        let browser = Command::new(self.lab.program("lab-browser"))
            .arg(url)
            .env("LAB_BROWSER_USER", person)
            .stdin(Stdio::null())
            .status()?;
        ensure!(browser.success(), "the browser could not sign {person} in");
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", device["device_code"].as_str().context("no device code")?),
            ("client_id", CLIENT_ID),
            ("code_verifier", verifier),
        ];
        let answer = Answer::of(self.http.post(endpoint("token_endpoint")?).form(&form))?;
        Ok(answer.body["id_token"].as_str().with_context(|| answer.text())?.to_owned())
    }

    /// A request to the API server.
    pub fn api(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.lab.api_server_url())).bearer_auth(token)
    }

    /// A request to the API server as `system:masters`.
    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.admin.request(method, format!("{}{path}", self.lab.api_server_url()))
    }

    /// A request to stepup-server's `/v1`.
    pub fn v1(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/v1/{path}", self.lab.server_url())).bearer_auth(token)
    }

    /// `POST /token` with these fields beside those that never change.
    pub fn exchange(&self, subject_token: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let mut form =
            vec![("grant_type", GRANT_TYPE), ("subject_token", subject_token), ("subject_token_type", ID_TOKEN_TYPE)];
        form.extend(fields);
        self.http.post(format!("{}/token", self.lab.server_url())).form(&form)
    }

    /// The elevated token for a challenge, and the id of its grant.
    pub fn elevate(&self, step_up: &str, fields: &[(&str, &str)]) -> Result<(String, String)> {
        let answer = Answer::of(self.exchange(step_up, fields))?.expect(200)?;
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned).context("no text");
        Ok((text(&answer.body["access_token"])?, text(&answer.body["grant"]["id"])?))
    }

    /// A network policy in `namespace`, all changes of which the policy protects, each use once: its path.
    pub fn network_policy(&self, namespace: &str, name: &str) -> Result<String> {
        let collection = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name}, "spec": {"podSelector": {}}});
        Answer::of(self.admin(Method::POST, &collection).json(&object))?.expect(201)?;
        Ok(format!("{collection}/{name}"))
    }

    /// A change of the object at `path`.
    pub fn patch(&self, path: &str, token: &str) -> RequestBuilder {
        self.patch_to(path, token, "yes")
    }

    /// A change that leaves `value` there.
    pub fn patch_to(&self, path: &str, token: &str, value: &str) -> RequestBuilder {
        self.api(Method::PATCH, path, token)
            .header("content-type", "application/merge-patch+json")
            .body(format!(r#"{{"metadata":{{"annotations":{{"touched":"{value}"}}}}}}"#))
    }

    /// Tries that change without a step-up, and gives the challenge that it is answered with.
    pub fn challenge_of_patch(&self, path: &str, token: &str) -> Result<String> {
        Answer::of(self.patch(path, token))?.challenge()
    }

    /// stepup-server's audit records of requests with this `User-Agent`.
    pub fn records_of(&self, agent: &str) -> Result<Vec<Value>> {
        Ok(self.lab.audit_records()?.into_iter().filter(|record| record["userAgent"] == agent).collect())
    }

    /// Waits for audit records of which this holds, and gives them.
    pub fn await_records(&self, is_wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        await_that(LIMIT, || {
            let found: Vec<Value> = self.lab.audit_records()?.into_iter().filter(&is_wanted).collect();
            ensure!(!found.is_empty(), "no such audit record");
            Ok(found)
        })
    }

    /// stepup-server is well, and none of its threads has panicked.
    pub fn server_is_well(&self) -> Result<()> {
        let answer = self.http.get(format!("{}/healthz", self.lab.server_url())).send()?;
        ensure!(answer.status() == 200, "{answer:?}");
        let log = std::fs::read_to_string(self.lab.directory().join("log/stepup-server.log"))?;
        ensure!(!log.contains("panicked"), "stepup-server panicked:\n{log}");
        Ok(())
    }
}

impl Answer {
    /// Sends the request. What is no JSON is kept as a text.
    pub fn of(request: RequestBuilder) -> Result<Self> {
        let response = request.send()?;
        let status = response.status().as_u16();
        let text = response.text()?;
        Ok(Self { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    /// Itself, if that is its status.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "{status} expected: {}", self.text());
        Ok(self)
    }

    /// The challenge that a 429 of the API server names.
    pub fn challenge(self) -> Result<String> {
        let answer = self.expect(429)?;
        let causes = answer.body["details"]["causes"].as_array().context("no causes")?;
        let cause = causes.iter().find(|cause| cause["reason"] == "kubectl-stepup.io/challenge");
        Ok(cause.and_then(|cause| cause["message"].as_str()).context("no challenge is named")?.to_owned())
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        ["message", "error_description"].iter().find_map(|name| self.body[*name].as_str()).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        format!("{} {}", self.status, self.body)
    }
}

/// The claims of a token, whoever signed it.
pub fn claims(token: &str) -> Result<Value> {
    part(token, 1)
}

/// Its header.
pub fn header(token: &str) -> Result<Value> {
    part(token, 0)
}

fn part(token: &str, number: usize) -> Result<Value> {
    let part = token.split('.').nth(number).context("no JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

/// A token of this header and these claims, whatever they say, signed with this key.
pub fn token(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> Result<String> {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm)?;
    Ok(format!("{message}.{signature}"))
}

/// The provider's token `like` that one, but for its groups: what a provider would say that lets people choose theirs.
pub fn with_groups(lab: &Lab, like: &str, groups: &[&str]) -> Result<String> {
    let key = EncodingKey::from_rsa_pem(&std::fs::read(&lab.pki().provider_signing_key)?)?;
    let mut claims = claims(like)?;
    claims["groups"] = json!(groups);
    token(&header(like)?.to_string(), &claims.to_string(), &key, Algorithm::RS256)
}
