//! Keycloak, beside the lab's own provider: its realm is `tests/lab/keycloak/realm.json` with the lab's people in it.
//!
//! It takes its time to start, so it is started first and awaited by whoever needs it.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::http;
use crate::person::Account;
use crate::plan::Plan;
use crate::process::Daemon;
use crate::role::Tie;

/// The realm that tests share.
pub const SHARED: Realm = Realm { name: "lab", provider: "keycloak" };
/// A realm whose keys a test may change.
pub const ROTATING: Realm = Realm { name: "rotating", provider: "rotating" };
const REALMS: [Realm; 2] = [SHARED, ROTATING];

/// How many people there are like alice, like bob and like carol.
const PEOPLE_OF_A_KIND: usize = 20;
/// On two busy processors.
const START_LIMIT: Duration = Duration::from_mins(4);
const ADMINISTRATOR: (&str, &str) = ("lab-admin", "lab-admin-password");

/// A realm of the lab's Keycloak: an identity provider of its own. Its name in stepup-server's configuration is also what
/// its users' names begin with.
#[derive(Clone, Copy, Debug)]
pub struct Realm {
    /// Its name at Keycloak.
    pub name: &'static str,
    /// Its name in stepup-server's configuration.
    pub provider: &'static str,
}

impl Realm {
    /// What the cluster calls `person` of this realm.
    pub fn user(self, person: &str) -> String {
        format!("{}:{person}", self.provider)
    }
}

/// Keycloak, started: perhaps not ready yet.
#[derive(Debug)]
pub(crate) struct Starting {
    keycloak: Keycloak,
    daemon: Mutex<(Daemon, bool)>,
}

/// Keycloak, running.
#[derive(Debug)]
pub struct Keycloak {
    address: String,
    client: Client,
    people: AtomicUsize,
}

impl Plan {
    /// Its issuer of `realm`.
    pub(crate) fn keycloak_issuer(&self, realm: Realm) -> String {
        format!("https://127.0.0.1:{}/realms/{}", self.ports.keycloak, realm.name)
    }

    /// Starts it, if the lab is to have it, and does not wait.
    pub(crate) fn start_keycloak(&self, tie: Tie) -> Result<Option<Starting>> {
        let Some(distribution) = &self.keycloak else { return Ok(None) };
        let home = self.lay_keycloak_out(distribution)?;
        let address = format!("https://127.0.0.1:{}", self.ports.keycloak);
        let daemon = Daemon::start("keycloak", "java".as_ref(), tie, &self.log_directory(), |command| {
            command
                // It has little to do: memory and processors are for the others.
                .args(["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
                .args(["--add-opens=java.base/java.util=ALL-UNNAMED", "-Duser.language=en", "-Duser.country=US"])
                .args(["--add-opens=java.base/java.util.concurrent=ALL-UNNAMED"])
                .args(["--add-opens=java.base/java.security=ALL-UNNAMED"])
                .arg("-Djava.util.logging.manager=org.jboss.logmanager.LogManager")
                .arg(
                    "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=\
                     io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
                )
                .arg(format!("-Dkc.home.dir={}", home.display()))
                .arg(format!("-Djboss.server.config.dir={}", home.join("conf").display()))
                .arg("-cp")
                .arg(distribution.join("lib/quarkus-run.jar"))
                .args(["io.quarkus.bootstrap.runner.QuarkusEntryPoint", "start", "--optimized", "--import-realm"])
                .args(["--cache=local", "--http-host=127.0.0.1"])
                .arg(format!("--https-port={}", self.ports.keycloak))
                .arg(format!("--hostname={address}"))
                .arg(format!("--https-certificate-file={}", self.pki.provider.certificate.display()))
                .arg(format!("--https-certificate-key-file={}", self.pki.provider.key.display()))
                .env("KC_BOOTSTRAP_ADMIN_USERNAME", ADMINISTRATOR.0)
                .env("KC_BOOTSTRAP_ADMIN_PASSWORD", ADMINISTRATOR.1)
                .current_dir(&home);
        })?;
        let client = http::client(&self.pki.ca)?;
        let keycloak = Keycloak { address, client, people: AtomicUsize::new(1) };
        Ok(Some(Starting { keycloak, daemon: Mutex::new((daemon, false)) }))
    }

    /// A directory with everything of `distribution` and what this lab writes: the cache stays as it is.
    fn lay_keycloak_out(&self, distribution: &std::path::Path) -> Result<PathBuf> {
        let home = self.file("keycloak");
        let import = home.join("data/import");
        fs::create_dir_all(&import)?;
        for part in ["bin", "conf", "lib", "providers", "themes"] {
            crate::plan::link(&distribution.join(part), &home.join(part))?;
        }
        for (index, realm) in REALMS.iter().enumerate() {
            fs::write(import.join(format!("{}.json", realm.name)), realm_file(*realm, index)?.to_string())?;
        }
        Ok(home)
    }

    /// What stepup-server has to know of it.
    pub(crate) fn keycloak_config(&self) -> String {
        if self.keycloak.is_none() {
            return String::new();
        }
        let provider = |realm: Realm| {
            format!(
                "\
- name: {name}
  issuer: {issuer}
  ca: {ca}
  audiences: [kubernetes, kubernetes-brief, kubernetes-hurried]
  stepUpAudiences: [kubernetes, kubernetes-step-up, kubernetes-hurried]
  # Two providers may each have an alice.
  username: {{claim: preferred_username, prefix: '{name}:'}}
  groups: {{claim: groups, prefix: ''}}
  levels:
  - {{name: pwd, acrValues: ['urn:stepup:pwd']}}
  - {{name: mfa, acrValues: ['urn:stepup:mfa']}}
",
                name = realm.provider,
                issuer = self.keycloak_issuer(realm),
                ca = self.pki.ca.display(),
            )
        };
        REALMS.into_iter().map(provider).collect()
    }
}

/// The realm as Keycloak imports it.
fn realm_file(realm: Realm, index: usize) -> Result<Value> {
    // The flow that a client is bound to is named by its id, which is Keycloak's alone.
    let text = include_str!("../keycloak/realm.json")
        .replace("11111111-1111-4111-8111", &format!("{index:08}-1111-4111-8111"));
    let mut file: Value = serde_json::from_str(&text).context("realm.json")?;
    file["realm"] = realm.name.into();
    let mut users = Vec::new();
    let mut groups: Vec<&str> = Vec::new();
    for name in Account::names() {
        let account = Account::of(name)?;
        groups.extend(account.groups.iter().map(String::as_str));
        users.extend((1..=PEOPLE_OF_A_KIND).map(|number| user(&format!("{name}-{number}"), account)));
    }
    groups.sort_unstable();
    groups.dedup();
    file["groups"] = groups.into_iter().map(|name| json!({"name": name})).collect();
    file["users"] = users.into();
    Ok(file)
}

fn user(name: &str, account: &Account) -> Value {
    let mut credentials = vec![json!({"type": "password", "value": account.password})];
    if let Some(secret) = &account.totp_secret {
        let kind = json!({
            "subType": "totp", "digits": 6, "period": 30, "counter": 0, "algorithm": "HmacSHA1", "secretEncoding": "BASE32",
        });
        credentials.push(json!({
            "type": "otp", "userLabel": "one-time code", "secretData": json!({"value": secret}).to_string(),
            "credentialData": kind.to_string(),
        }));
    }
    json!({
        "username": name, "enabled": true, "email": format!("{name}@example.test"), "emailVerified": true,
        "firstName": name, "lastName": "Lab", "groups": account.groups, "realmRoles": ["offline_access"], "credentials": credentials,
    })
}

impl Starting {
    /// Waits until it is ready, the first time.
    pub(crate) fn ready(&self) -> Result<&Keycloak> {
        let mut daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let (process, is_ready) = &mut *daemon;
        if !*is_ready {
            let keycloak = &self.keycloak;
            process.await_ready(START_LIMIT, || {
                for realm in REALMS {
                    let url = format!("{}/realms/{}", keycloak.address, realm.name);
                    keycloak.client.get(url).send()?.error_for_status()?;
                }
                // Made last of all.
                keycloak.administrators_token().map(drop)
            })?;
            *is_ready = true;
        }
        Ok(&self.keycloak)
    }
}

impl Keycloak {
    /// The name of a person whom no other test meets, and who is otherwise like `name`.
    pub(crate) fn name_like(&self, name: &str) -> Result<String> {
        let number = self.people.fetch_add(1, Ordering::Relaxed);
        if number > PEOPLE_OF_A_KIND {
            bail!("Keycloak knows no more people: make PEOPLE_OF_A_KIND more");
        }
        Ok(format!("{name}-{number}"))
    }

    /// Ends every session of a person, as an administrator does when a laptop is lost.
    pub fn end_sessions(&self, realm: Realm, person: &str) -> Result<()> {
        let found = self.admin(Method::GET, realm, &format!("users?exact=true&username={person}"), None)?;
        let id = found[0]["id"].as_str().with_context(|| format!("Keycloak knows no {person}"))?;
        self.admin(Method::POST, realm, &format!("users/{id}/logout"), Some(&json!({}))).map(drop)
    }

    /// Gives a realm a new signing key; the one before is withdrawn.
    pub fn rotate_keys(&self, realm: Realm) -> Result<()> {
        let about = self.admin(Method::GET, realm, "", None)?;
        let key = json!({
            "name": "newer", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
            "parentId": about["id"],
            "config": {"priority": ["200"], "enabled": ["true"], "active": ["true"], "algorithm": ["RS256"], "keySize": ["2048"]},
        });
        let old = self.admin(Method::GET, realm, "components?type=org.keycloak.keys.KeyProvider", None)?;
        self.admin(Method::POST, realm, "components", Some(&key))?;
        let signs = |component: &&Value| component["providerId"] == "rsa-generated";
        for component in old.as_array().into_iter().flatten().filter(signs) {
            let id = component["id"].as_str().context("a component without id")?;
            self.admin(Method::DELETE, realm, &format!("components/{id}"), None)?;
        }
        Ok(())
    }

    fn administrators_token(&self) -> Result<String> {
        let form = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", ADMINISTRATOR.0),
            ("password", ADMINISTRATOR.1),
        ];
        let url = format!("{}/realms/master/protocol/openid-connect/token", self.address);
        let token: Value = self.client.post(url).form(&form).send()?.error_for_status()?.json()?;
        Ok(token["access_token"].as_str().context("no token")?.to_owned())
    }

    /// Keycloak's own administration.
    fn admin(&self, method: Method, realm: Realm, path: &str, body: Option<&Value>) -> Result<Value> {
        let token = self.administrators_token()?;
        let url = format!("{}/admin/realms/{}/{path}", self.address, realm.name);
        let mut request = self.client.request(method, url.trim_end_matches('/')).bearer_auth(&token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send()?;
        let status = answer.status();
        let text = answer.text()?;
        if !status.is_success() {
            bail!("Keycloak's administration: {path}: {status}: {text}");
        }
        if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
    }
}
