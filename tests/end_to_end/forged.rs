//! Stolen, replayed and forged: none of it is worth anything, and each attempt is on record.

use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey};
use lab::{Lab, Test, http};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData};
use reqwest::Method;
use serde_json::{Value, json};

use crate::raw::{self, Answer, MFA, Raw};

pub fn tests() -> Vec<Test> {
    lab::tests![
        a_stolen_base_token_cannot_elevate,
        a_used_token_is_worth_nothing,
        nobody_redeems_the_challenge_of_another,
        nobody_uses_the_grant_of_another,
        a_forged_sign_in_is_refused_and_recorded,
        a_stolen_signing_key_is_no_master_key,
        an_impersonator_gets_nothing_out_of_credential_ids,
        reviews_come_from_the_api_server_alone,
    ]
}

const NAMESPACES: &str = "/api/v1/namespaces";

fn a_stolen_base_token_cannot_elevate(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let namespace = lab.namespace("prod")?;
    let stolen = raw.sign_in("alice", None)?;
    let path = format!("{NAMESPACES}/{namespace}");
    let challenge = Answer::of(raw.api(Method::DELETE, &path, &stolen))?.challenge()?;
    // What the token's owner may see, its thief may see; but not answer.
    let pending = Answer::of(raw.v1(Method::GET, "challenges", &stolen))?.expect(200)?;
    ensure!(pending.body["challenges"][0]["id"] == challenge.as_str(), "{}", pending.text());

    let action =
        json!([{"type": "kubectl-stepup.io/action", "verb": "delete", "resource": "namespaces", "name": namespace}])
            .to_string();
    for (agent, what_for) in [("thief/1", ("challenge", &challenge)), ("thief/2", ("authorization_details", &action))] {
        let request = raw.exchange(&stolen, &[(what_for.0, what_for.1)]).header("user-agent", agent);
        let answer = Answer::of(request)?.expect(400)?;
        ensure!(answer.body["error"] == "insufficient_user_authentication", "{}", answer.text());
        ensure!(answer.body["acr_values"] == MFA, "{}", answer.text());
        let records = raw.records_of(agent)?;
        ensure!(records.len() == 1, "one record of {agent}, not {records:?}");
        ensure!(
            records[0]["event"] == "refusal"
                && records[0]["decision"] == "denied"
                && records[0]["user"] == "alice"
                && records[0]["acr"] == "urn:stepup:pwd"
                && records[0]["code"] == "insufficient_user_authentication",
            "{}",
            records[0]
        );
    }
    lab.admin(&["get", "namespace", &namespace]).map(drop)
}

/// Requests that race for one use.
const REQUESTS: usize = 12;

fn a_used_token_is_worth_nothing(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let namespace = lab.namespace("dev")?;
    let path = raw.network_policy(&namespace, "web")?;
    let step_up = raw.sign_in("alice", Some(MFA))?;
    let challenge = raw.challenge_of_patch(&path, &step_up)?;
    let (elevated, grant) = raw.elevate(&step_up, &[("challenge", &challenge)])?;

    // All at once, so that every one of them could be the first.
    let start = &Barrier::new(REQUESTS);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let requests: Vec<_> = (0..REQUESTS)
            .map(|number| {
                // Each another change: the same one again within seconds is no other use.
                let body = json!({"metadata": {"annotations": {"touched": number.to_string()}}}).to_string();
                let request = raw.patch(&path, &elevated).body(body);
                scope.spawn(move || {
                    start.wait();
                    Answer::of(request).map(|answer| answer.status)
                })
            })
            .collect();
        requests.into_iter().map(|request| request.join().expect("no panic")).collect::<Result<_>>()
    })?;
    ensure!(statuses.iter().filter(|&&status| status == 200).count() == 1, "{statuses:?}");
    ensure!(statuses.iter().all(|status| [200, 429, 403].contains(status)), "{statuses:?}");

    // Nor later, nor for something else. For what is not protected it is as good as any token of its owner.
    let replayed = Answer::of(raw.patch(&path, &elevated))?;
    ensure!([429, 403].contains(&replayed.status), "{}", replayed.text());
    let deletion = Answer::of(raw.api(Method::DELETE, &path, &elevated))?;
    ensure!(deletion.status == 429, "{}", deletion.text());
    Answer::of(raw.api(Method::GET, &path, &elevated))?.expect(200)?;
    let uses = raw.await_records(|record| record["event"] == "use" && record["grant"] == grant.as_str())?;
    ensure!(uses.len() == 1, "one use, not {uses:?}");
    // A grant is made once for a challenge, too.
    let again = Answer::of(raw.exchange(&step_up, &[("challenge", &challenge)]))?;
    ensure!(again.status == 400 && again.body["error"] == "invalid_grant", "{}", again.text());
    Ok(())
}

fn nobody_redeems_the_challenge_of_another(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let path = raw.network_policy(&lab.namespace("dev")?, "web")?;
    let alice = raw.sign_in("alice", Some(MFA))?;
    let challenge = raw.challenge_of_patch(&path, &alice)?;

    for (person, acr) in [("bob", None), ("carol", Some(MFA))] {
        let token = raw.sign_in(person, acr)?;
        let agent = format!("redeemer/{person}");
        let request = raw.exchange(&token, &[("challenge", &challenge)]).header("user-agent", &agent);
        let answer = Answer::of(request)?.expect(400)?;
        ensure!(answer.body["error"] == "invalid_grant", "{}", answer.text());
        let records = raw.records_of(&agent)?;
        ensure!(records.len() == 1 && records[0]["user"] == person, "one record of {person}, not {records:?}");
        ensure!(records[0]["event"] == "refusal" && records[0]["code"] == "invalid_grant", "{}", records[0]);
        // It is not so much as seen, or declined, by anybody else.
        let pending = Answer::of(raw.v1(Method::GET, "challenges", &token))?.expect(200)?;
        ensure!(!pending.text().contains(&challenge), "{}", pending.text());
        let decline = raw.v1(Method::POST, &format!("challenges/{challenge}/decline"), &token);
        Answer::of(decline.json(&json!({"cause": "declined"})))?.expect(404)?;
    }

    let (elevated, _) = raw.elevate(&alice, &[("challenge", &challenge)])?;
    Answer::of(raw.patch(&path, &elevated))?.expect(200).map(drop)
}

fn nobody_uses_the_grant_of_another(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    // Carol would not do: she is an administrator.
    let (namespace, other) = (lab.namespace("dev")?, lab.name_like("alice"));
    let (of_alice, of_another) = (raw.network_policy(&namespace, "a")?, raw.network_policy(&namespace, "c")?);
    let (alice, other) = (raw.sign_in("alice", Some(MFA))?, raw.sign_in(&other, Some(MFA))?);
    let challenge = raw.challenge_of_patch(&of_alice, &alice)?;
    let (elevated, grant) = raw.elevate(&alice, &[("challenge", &challenge)])?;

    Answer::of(raw.v1(Method::DELETE, &format!("grants/{grant}"), &other))?.expect(404)?;
    Answer::of(raw.v1(Method::GET, "grants?all=true", &other))?.expect(403)?;
    // A token of one's own that asks to carry the other's grant along.
    let challenge = raw.challenge_of_patch(&of_another, &other)?;
    let (carrying, _) = raw.elevate(&other, &[("challenge", &challenge), ("carry", &grant)])?;
    Answer::of(raw.patch(&of_alice, &carrying))?.expect(429)?;
    Answer::of(raw.patch(&of_another, &carrying))?.expect(200)?;

    Answer::of(raw.patch(&of_alice, &elevated))?.expect(200).map(drop)
}

/// A token that is not what it says it is.
struct Forged {
    name: &'static str,
    token: String,
    /// Code of the refusal at `/token`.
    exchange: &'static str,
    /// Code of the refusal at `/v1`; `None`: as a base token it is good.
    v1: Option<&'static str>,
    /// Whether the API server lets it in; `None`: that is between the API server and the provider.
    api_server: Option<bool>,
}

/// As the provider would sign, for [`Forged`] tokens: with its own key and header.
struct Forger {
    header: Value,
    claims: Value,
    provider: EncodingKey,
    own: EncodingKey,
}

impl Forger {
    fn new(lab: &Lab, model: &str) -> Result<Self> {
        let pem = std::fs::read(&lab.pki().provider_signing_key)?;
        Ok(Self {
            header: raw::header(model)?,
            claims: raw::claims(model)?,
            provider: EncodingKey::from_rsa_pem(&pem)?,
            own: EncodingKey::from_rsa_pem(KeyPair::generate_for(&PKCS_RSA_SHA256)?.serialize_pem().as_bytes())?,
        })
    }

    /// The model's claims, with others in their place; `null` removes one.
    fn claims(&self, changes: &Value) -> String {
        changed(&self.claims, changes).to_string()
    }

    /// Signed by the provider: what it would say if it were careless, or somebody had its key.
    fn signed(&self, changes: &Value) -> Result<String> {
        raw::token(&self.header.to_string(), &self.claims(changes), &self.provider, Algorithm::RS256)
    }

    fn with_header(&self, changes: &Value, key: &EncodingKey) -> Result<String> {
        let header = changed(&self.header, changes).to_string();
        raw::token(&header, &self.claims(&json!({})), key, Algorithm::RS256)
    }
}

fn changed(object: &Value, changes: &Value) -> Value {
    let mut object = object.clone();
    for (name, value) in changes.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
    if let Some(members) = object.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    object
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn forged(lab: &Lab, model: &str, elevated: &str) -> Result<Vec<Forged>> {
    const WEAK: &str = "insufficient_user_authentication";
    let forger = Forger::new(lab, model)?;
    let now = Utc::now().timestamp();
    let [_, payload, signature] = model.split('.').collect::<Vec<_>>()[..] else { anyhow::bail!("no JWT") };
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = |header: &Value| format!("{}.{payload}.", encoded(&changed(&forger.header, header)));
    // The classical confusion: the public key, which everybody knows, as the secret of an HMAC.
    let public = KeyPair::from_pem(&std::fs::read_to_string(&lab.pki().provider_signing_key)?)?;
    let hmac = |secret: &[u8]| {
        let header = changed(&forger.header, &json!({"alg": "HS256"})).to_string();
        raw::token(&header, &forger.claims(&json!({})), &EncodingKey::from_secret(secret), Algorithm::HS256)
    };
    let own_ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let twice = forger.claims(&json!({})).replacen('{', r#"{"acr":"urn:stepup:pwd","#, 1);
    let everywhere =
        |name, token, code| Forged { name, token, exchange: code, v1: Some(code), api_server: Some(false) };
    let by_us = |name, token, code| Forged { name, token, exchange: code, v1: Some(code), api_server: None };
    let as_step_up = |name, token, code| Forged { name, token, exchange: code, v1: None, api_server: Some(true) };
    Ok(vec![
        everywhere("no signature (alg none)", unsigned(&json!({"alg": "none"})), "algorithm"),
        everywhere("no signature (alg None)", unsigned(&json!({"alg": "None"})), "algorithm"),
        everywhere("no signature, alg unchanged", unsigned(&json!({})), "signature"),
        everywhere("HS256 with the public key in PEM", hmac(public.public_key_pem().as_bytes())?, "algorithm"),
        everywhere("HS256 with the public key in DER", hmac(&public.subject_public_key_info())?, "algorithm"),
        everywhere("HS256 with an empty secret", hmac(b"")?, "algorithm"),
        everywhere("another key of the same id", forger.with_header(&json!({}), &forger.own)?, "signature"),
        everywhere("a key of an unknown id", forger.with_header(&json!({"kid": "mine"}), &forger.own)?, "unknown_key"),
        everywhere("no key id", forger.with_header(&json!({"kid": null}), &forger.own)?, "signature"),
        everywhere(
            "a key that the token brings along",
            forger.with_header(
                &json!({"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, "jku": "https://evil.example/jwks"}),
                &forger.own,
            )?,
            "signature",
        ),
        everywhere(
            "an algorithm of another kind of key",
            raw::token(
                &changed(&forger.header, &json!({"alg": "ES256"})).to_string(),
                &forger.claims(&json!({})),
                &EncodingKey::from_ec_pem(own_ec.serialize_pem().as_bytes())?,
                Algorithm::ES256,
            )?,
            "key_mismatch",
        ),
        everywhere(
            "other claims under a good signature",
            format!(
                "{}.{}.{signature}",
                encoded(&forger.header),
                encoded(&changed(&forger.claims, &json!({"sub": "carol"})))
            ),
            "signature",
        ),
        everywhere("another issuer", forger.signed(&json!({"iss": "https://evil.example"}))?, "issuer"),
        everywhere(
            "an issuer that begins alike",
            forger.signed(&json!({"iss": format!("{}0", lab.issuer())}))?,
            "issuer",
        ),
        everywhere("no issuer", forger.signed(&json!({"iss": null}))?, "claim"),
        everywhere(
            "our own issuer with the provider's key",
            forger.signed(&json!({"iss": lab.server_url()}))?,
            "own_token",
        ),
        everywhere("a token of another client", forger.signed(&json!({"aud": "another-client"}))?, "audience"),
        everywhere("no audience", forger.signed(&json!({"aud": null}))?, "claim"),
        everywhere("expired", forger.signed(&json!({"exp": now - 1}))?, "expired"),
        everywhere("without end", forger.signed(&json!({"exp": null}))?, "claim"),
        everywhere("not yet valid", forger.signed(&json!({"nbf": now + 3600}))?, "not_yet_valid"),
        everywhere("nobody", forger.signed(&json!({"sub": null}))?, "claim"),
        everywhere(
            "critical extensions",
            forger.with_header(&json!({"crit": ["x"], "x": 1}), &forger.provider)?,
            "token_malformed",
        ),
        everywhere("no token at all", "a.b.c".to_owned(), "token_malformed"),
        // The API server reads these otherwise, which is why we read them more strictly.
        by_us(
            "for several, and made for another client",
            forger.signed(&json!({"aud": ["kubernetes", "x"], "azp": "x"}))?,
            "authorized_party",
        ),
        by_us("made in the future", forger.signed(&json!({"iat": now + 3600}))?, "issued_in_future"),
        by_us(
            "a claim twice",
            raw::token(&forger.header.to_string(), &twice, &forger.provider, Algorithm::RS256)?,
            "duplicate_claim",
        ),
        by_us("an access token", forger.with_header(&json!({"typ": "at+jwt"}), &forger.provider)?, "access_token"),
        by_us("a name of the cluster's own", forger.signed(&json!({"sub": "system:admin"}))?, "reserved_name"),
        by_us("a group of the cluster's own", forger.signed(&json!({"groups": ["system:masters"]}))?, "reserved_name"),
        by_us("larger than any", forger.signed(&json!({"padding": "x".repeat(16 * 1024)}))?, "token_too_large"),
        by_us("an elevated token", elevated.to_owned(), "own_token"),
        // Good enough to sign in with, and not to step up with.
        as_step_up("signed in long ago", forger.signed(&json!({"auth_time": now - 301}))?, WEAK),
        as_step_up("a weak class", forger.signed(&json!({"acr": "urn:stepup:pwd"}))?, WEAK),
        as_step_up("a class that nobody knows", forger.signed(&json!({"acr": "urn:stepup:mfa2"}))?, WEAK),
        as_step_up("a level instead of a class", forger.signed(&json!({"acr": "mfa"}))?, WEAK),
        as_step_up("no class", forger.signed(&json!({"acr": null}))?, WEAK),
        as_step_up("signed in at no time", forger.signed(&json!({"auth_time": null}))?, "no_auth_time"),
        as_step_up("signed in in the future", forger.signed(&json!({"auth_time": now + 3600}))?, "auth_time_in_future"),
    ])
}

fn a_forged_sign_in_is_refused_and_recorded(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let path = raw.network_policy(&lab.namespace("dev")?, "web")?;
    let model = raw.sign_in("alice", Some(MFA))?;
    let challenge = raw.challenge_of_patch(&path, &model)?;
    let role = json!([{"type": "kubectl-stepup.io/action", "verb": "update", "resource": "networkpolicies",
        "group": "networking.k8s.io", "namespace": "dev", "name": "other"}]);
    let (elevated, _) = raw.elevate(&model, &[("authorization_details", &role.to_string())])?;

    let mut wrong = Vec::new();
    for (number, row) in forged(lab, &model, &elevated)?.into_iter().enumerate() {
        let mut complain = |what: String| wrong.push(format!("{}: {what}", row.name));
        // As a step-up.
        let agent = format!("forger/{number}/token");
        let answer = Answer::of(raw.exchange(&row.token, &[("challenge", &challenge)]).header("user-agent", &agent))?;
        if answer.status != 400 || answer.message().is_empty() {
            complain(format!("/token answered {}", answer.text()));
        }
        if let Some(problem) = not_recorded(&raw, &agent, row.exchange)? {
            complain(problem);
        }
        // As a base token.
        let agent = format!("forger/{number}/v1");
        let answer = Answer::of(raw.v1(Method::GET, "challenges", &row.token).header("user-agent", &agent))?;
        if answer.status != if row.v1.is_some() { 401 } else { 200 } {
            complain(format!("/v1 answered {}", answer.text()));
        }
        if let Some(problem) = row.v1.and_then(|code| not_recorded(&raw, &agent, code).transpose()).transpose()? {
            complain(problem);
        }
        // On the cluster itself.
        let answer = Answer::of(raw.api(Method::GET, &format!("{NAMESPACES}/default"), &row.token))?;
        if row.api_server.is_some_and(|good| answer.status != if good { 200 } else { 401 }) {
            complain(format!("the API server answered {}", answer.text()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // After all of that the challenge is still alice's to answer, with the real thing: what was refused, was refused for
    // what it was.
    let good = Forger::new(lab, &model)?.signed(&json!({}))?;
    let (elevated, _) = raw.elevate(&good, &[("challenge", &challenge)])?;
    Answer::of(raw.patch(&path, &elevated))?.expect(200).map(drop)
}

/// What is wrong with the record of a refusal, if anything is.
fn not_recorded(raw: &Raw, agent: &str, code: &str) -> Result<Option<String>> {
    let records = raw.records_of(agent)?;
    let good = matches!(records.as_slice(), [record]
        if record["event"] == "refusal" && record["decision"] == "denied" && record["code"] == code);
    Ok((!good).then(|| format!("one refusal with code {code} expected, not {}", Value::from(records))))
}

/// Tokens signed with stepup-server's own key: what a thief of the key could do.
fn a_stolen_signing_key_is_no_master_key(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let path = raw.network_policy(&lab.namespace("dev")?, "web")?;
    let step_up = raw.sign_in("alice", Some(MFA))?;
    let challenge = raw.challenge_of_patch(&path, &step_up)?;
    let (elevated, grant) = raw.elevate(&step_up, &[("challenge", &challenge)])?;
    let (header, model) = (raw::header(&elevated)?, raw::claims(&elevated)?);
    let stolen = signing_key(lab, &header)?;
    let own = EncodingKey::from_ec_pem(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem().as_bytes())?;
    let token = |key: &EncodingKey, changes: Value| {
        raw::token(&header.to_string(), &changed(&model, &changes).to_string(), key, Algorithm::ES256)
    };
    let now = Utc::now().timestamp();

    for (name, token) in [
        ("another key", token(&own, json!({}))?),
        ("system:masters", token(&stolen, json!({"groups": ["system:masters"]}))?),
        ("a system user", token(&stolen, json!({"username": "system:kube-controller-manager"}))?),
        ("longer than any grant", token(&stolen, json!({"nbf": now, "exp": now + 3600}))?),
        ("backdated for longer", token(&stolen, json!({"nbf": null, "exp": now + 3600}))?),
        ("another audience", token(&stolen, json!({"aud": "elsewhere"}))?),
        ("over", token(&stolen, json!({"nbf": now - 100, "exp": now - 10}))?),
    ] {
        let answer = Answer::of(raw.api(Method::GET, &format!("{NAMESPACES}/default"), &token))?;
        ensure!(answer.status == 401, "{name}: {}", answer.text());
    }
    // Signed by us, of a grant that nobody was given, or that is another's: the grant store says no.
    let made_up = token(&stolen, json!({"jti": "gr-madeup"}))?;
    ensure!(Answer::of(raw.patch(&path, &made_up))?.status == 429, "a grant that was never made");
    let foreign = token(&stolen, json!({"username": "carol", "sub": "carol"}))?;
    let answer = Answer::of(raw.patch(&path, &foreign))?.expect(403)?;
    ensure!(answer.message().contains("the grant you present is not yours"), "{}", answer.text());
    // A group that only a grant gives, without such a grant.
    let role = token(&stolen, json!({"groups": ["stepup:cluster-admin"]}))?;
    let answer = Answer::of(raw.api(Method::GET, "/api/v1/nodes", &role))?.expect(403)?;
    ensure!(answer.message().contains("the grant that gave you stepup:cluster-admin has ended"), "{}", answer.text());
    // The provider cannot give it either.
    let claims = raw::claims(&step_up)?;
    let provider = Forger { claims, ..Forger::new(lab, &step_up)? };
    let role = provider.signed(&json!({"groups": ["stepup:cluster-admin"]}))?;
    Answer::of(raw.api(Method::GET, "/api/v1/nodes", &role))?.expect(401)?;

    let uses = lab
        .audit_records()?
        .iter()
        .filter(|record| record["event"] == "use" && record["grant"] == grant.as_str())
        .count();
    ensure!(uses == 0, "the grant was used");
    Answer::of(raw.patch(&path, &elevated))?.expect(200).map(drop)
}

/// The key of this key id among stepup-server's.
fn signing_key(lab: &Lab, header: &Value) -> Result<EncodingKey> {
    let mut paths = std::fs::read_dir(lab.directory().join("stepup/keys"))?;
    // One key for each algorithm; an RSA key does not read as an EC key.
    let key = paths.find_map(|entry| EncodingKey::from_ec_pem(&std::fs::read(entry.ok()?.path()).ok()?).ok());
    ensure!(header["alg"] == "ES256", "{header}");
    key.context("stepup-server has no EC key")
}

const CREDENTIAL_ID: &str = "Impersonate-Extra-authentication.kubernetes.io%2Fcredential-id";

fn an_impersonator_gets_nothing_out_of_credential_ids(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let namespace = lab.namespace("dev")?;
    let path = raw.network_policy(&namespace, "web")?;
    let (alice, carol) = (raw.sign_in("alice", Some(MFA))?, raw.sign_in("carol", Some(MFA))?);
    let challenge = raw.challenge_of_patch(&path, &alice)?;
    let (_, grant) = raw.elevate(&alice, &[("challenge", &challenge)])?;
    let credential = format!("JTI={grant}");
    may_impersonate(&raw, &namespace, "carol")?;
    let as_person = |request: reqwest::blocking::RequestBuilder, person: &str| {
        request.header("Impersonate-User", person).header("Impersonate-Group", "developers")
    };

    // Without a credential id, impersonation is as it was: RBAC decides. With one, the guardrail asks for a step-up.
    let plain = as_person(raw.api(Method::GET, &path, &carol), "bob");
    Answer::of(plain)?.expect(200)?;
    for person in ["carol", "alice"] {
        let request = as_person(raw.patch(&path, &carol), person).header(CREDENTIAL_ID, &credential);
        let answer = Answer::of(request)?.expect(403)?;
        ensure!(
            answer.message().contains("step-up required to") && answer.message().contains("(rule guardrails)"),
            "{}",
            answer.text()
        );
    }
    let asked = raw.await_records(|record| {
        record["event"] == "challenge" && record["user"] == "carol" && record["rules"] == json!(["guardrails"])
    })?;
    ensure!(
        asked[0]["actions"]
            .to_string()
            .contains("userextras.authentication.k8s.io/authentication.kubernetes.io/credential-id"),
        "{asked:?}"
    );

    // The administrator's certificate (system:masters) passes every authorizer, ours too. For anybody but its owner the
    // grant is nevertheless worth nothing.
    let masters = |person: &str| {
        let request = raw
            .admin(Method::PATCH, &path)
            .header("content-type", "application/merge-patch+json")
            .body(r#"{"metadata":{"annotations":{"by":"masters"}}}"#);
        Answer::of(as_person(request, person).header(CREDENTIAL_ID, &credential))
    };
    let answer = masters("carol")?.expect(403)?;
    ensure!(answer.message().contains("the grant you present is not yours"), "{}", answer.text());
    let refusals = raw.await_records(|record| record["code"] == "foreign-grant" && record["user"] == "carol")?;
    ensure!(refusals.iter().all(|record| record["decision"] == "denied"), "{refusals:?}");
    // Who may be alice with all that she has, is alice: on this level nothing tells the two apart. SECURITY.md says so.
    masters("alice")?.expect(200)?;
    let again = masters("alice")?;
    ensure!([429, 403].contains(&again.status), "a use for an impersonator is a use: {}", again.text());
    Ok(())
}

/// Everything that RBAC has to offer for impersonation.
fn may_impersonate(raw: &Raw, name: &str, user: &str) -> Result<()> {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": format!("impersonator-{name}")},
        "rules": [
            {"apiGroups": [""], "resources": ["users", "groups"], "verbs": ["impersonate"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["*"]},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": format!("impersonator-{name}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("impersonator-{name}")},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    Answer::of(raw.admin(Method::POST, &format!("{rbac}/clusterroles")).json(&role))?.expect(201)?;
    Answer::of(raw.admin(Method::POST, &format!("{rbac}/clusterrolebindings")).json(&binding))?.expect(201)?;
    Ok(())
}

fn reviews_come_from_the_api_server_alone(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let pki = lab.pki();
    let alice = raw.sign_in("alice", Some(MFA))?;
    let access = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "alice", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "dev"}}});
    let admission = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "DELETE", "userInfo": {"username": "alice"}, "namespace": "dev", "name": "x",
        "resource": {"group": "", "version": "v1", "resource": "pods"}}});
    let genuine = http::client_with_certificate(&pki.ca, &pki.webhook_client)?;
    for (path, review) in
        [("authorize", &access), ("admit", &admission), ("authorize/x", &access), ("admit/x", &admission)]
    {
        let url = format!("{}/{path}", lab.server_url());
        // No certificate, whatever token comes with the request.
        for request in [raw.client().post(&url), raw.client().post(&url).bearer_auth(&alice)] {
            let answer = Answer::of(request.json(review))?.expect(403)?;
            ensure!(answer.message().contains("reviews are taken from the API server only"), "{}", answer.text());
        }
        // Certificates of other authorities, of the same and of other names: the handshake ends there.
        for other in [&pki.stranger, &pki.admin, &pki.stepup_server] {
            let client = http::client_with_certificate(&pki.ca, other)?;
            let answer = client.post(&url).json(review).send();
            ensure!(answer.is_err(), "{} was answered {answer:?}", other.certificate.display());
        }
        Answer::of(genuine.post(&url).json(review))?.expect(200)?;
    }
    Ok(())
}
