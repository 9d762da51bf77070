//! A second identity provider, which is quite another: Keycloak, as it comes, beside the lab's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::keycloak::{ROTATING, Realm, SHARED};
use lab::process::await_that;
use lab::{Lab, Session, Test};
use serde_json::Value;

use crate::raw::{claims, header};

const LIMIT: Duration = Duration::from_mins(2);
/// As `tests/lab/keycloak/realm.json` has them.
const CLIENT: &str = "kubernetes";
const STEP_UP_CLIENT: (&str, &str) = ("kubernetes-step-up", "lab-step-up-secret");
const CLIENT_WITH_BRIEF_TOKENS: &str = "kubernetes-brief";
const CLIENT_WITH_BRIEF_CODES: &str = "kubernetes-hurried";
const BY_SCOPE: [&str; 4] = ["--step-up-method", "scope", "--step-up-scope", "stepup-mfa"];

pub fn tests() -> Vec<Test> {
    lab::tests![
        follows_a_new_signing_key_without_a_restart,
        outlives_its_token_within_one_command,
        rotates_the_refresh_token_and_a_used_one_ends_the_session,
        signs_in_by_device_and_by_browser_as_somebody_of_its_own,
        steps_up_by_a_scope_in_the_device_flow,
        steps_up_by_a_client_in_the_device_flow,
        steps_up_by_acr_values_and_max_age_in_the_browser_flow,
        acr_values_in_the_device_flow_are_found_not_to_work_and_are_refused,
        finds_out_which_way_to_step_up_works,
        who_has_no_second_factor_is_told_after_a_while,
        who_says_no_at_the_consent_page_is_told_so,
        a_session_that_was_ended_elsewhere_has_to_sign_in_again,
        serves_two_providers_in_one_cluster,
    ]
}

/// Set up, signed in, and known to the API server: it looks for the keys of a provider that was not there every ten
/// seconds.
fn signed_in(lab: &Lab, realm: Realm, client: &str, name: &str) -> Result<Session> {
    let person = lab.keycloak_session(realm, client, name)?;
    person.log_in()?;
    await_that(LIMIT, || person.kubectl(&["auth", "whoami"])?.succeeded())?;
    Ok(person)
}

fn who_am_i(person: &Session) -> Result<Value> {
    let said = person.kubectl(&["auth", "whoami", "-o", "json"])?.succeeded()?.stdout;
    Ok(serde_json::from_str::<Value>(&said)?["status"]["userInfo"].clone())
}

/// One protected command, stepped up for inside it. `person` is set up for a way that works.
fn deletes_a_protected_namespace(lab: &Lab, person: &Session) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let before = person.sign_ins();

    person.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;

    lab.answered(&namespace, "delete", "namespaces", &[429, 200])?;
    ensure!(person.sign_ins() == before + 1, "one sign-in, not\n{}", person.browser_log());
    ensure!(person.browser_log().contains("one-time code"), "{}", person.browser_log());
    let records = lab.records_about(&namespace)?;
    let used = records.iter().find(|record| record["event"] == "use").context("no use recorded")?;
    ensure!(used["user"] == SHARED.user(person.name()) && used["acr"] == "urn:stepup:mfa", "{used}");
    Ok(())
}

/// Both providers know an alice: to the cluster they are two people.
fn signs_in_by_device_and_by_browser_as_somebody_of_its_own(lab: &Lab) -> Result<()> {
    let alice = signed_in(lab, SHARED, CLIENT, "alice")?;
    let me = who_am_i(&alice)?;
    ensure!(me["username"] == SHARED.user(alice.name()), "{me}");
    ensure!(me["groups"].as_array().is_some_and(|groups| groups.contains(&"developers".into())), "{me}");

    let before = alice.sign_ins();
    alice.stepup(&["login", "--force", "--flow", "browser"])?.succeeded()?;
    ensure!(alice.sign_ins() == before + 1 && alice.browser_log().contains("went back to the program"));
    ensure!(who_am_i(&alice)?["username"] == SHARED.user(alice.name()));
    Ok(())
}

fn steps_up_by_a_scope_in_the_device_flow(lab: &Lab) -> Result<()> {
    let alice = signed_in(lab, SHARED, CLIENT, "alice")?;
    alice.stepup(&[&["setup", "--profile", alice.name()], &BY_SCOPE[..]].concat())?.succeeded()?;
    deletes_a_protected_namespace(lab, &alice)
}

fn steps_up_by_a_client_in_the_device_flow(lab: &Lab) -> Result<()> {
    let carol = signed_in(lab, SHARED, CLIENT, "carol")?;
    let secret = carol.home().join("client-secret");
    fs::write(&secret, STEP_UP_CLIENT.1)?;
    let secret = secret.to_str().context("a path")?;
    let client = ["--step-up-client-id", STEP_UP_CLIENT.0, "--step-up-client-secret-file", secret];
    let setup = ["setup", "--profile", carol.name(), "--step-up-method", "client"];
    carol.stepup(&[&setup[..], &client].concat())?.succeeded()?;
    deletes_a_protected_namespace(lab, &carol)
}

fn steps_up_by_acr_values_and_max_age_in_the_browser_flow(lab: &Lab) -> Result<()> {
    let alice = signed_in(lab, SHARED, CLIENT, "alice")?;
    alice.stepup(&["setup", "--profile", alice.name(), "--step-up-flow", "browser"])?.succeeded()?;
    deletes_a_protected_namespace(lab, &alice)
}

/// Keycloak silently ignores them there: what came back decides, for the trial and for the server.
fn acr_values_in_the_device_flow_are_found_not_to_work_and_are_refused(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = signed_in(lab, SHARED, CLIENT, "alice")?;

    let tried = alice.stepup(&[
        "setup",
        "--profile",
        alice.name(),
        "--step-up-method",
        "acr-values",
        "--step-up-flow",
        "device",
        "--try",
    ])?;
    ensure!(
        tried.stdout.contains("asked for urn:stepup:mfa, it came back with urn:stepup:pwd"),
        "{}{}",
        tried.stdout,
        tried.stderr
    );
    tried.failed_with("no way to step up works")?;
    let told = alice.stepup(&["doctor", "--step-up"])?;
    let problem = told.stdout.lines().find(|line| line.starts_with("problem  step-up ")).context("no problem")?;
    ensure!(problem.contains("asked for urn:stepup:mfa, it came back with urn:stepup:pwd"), "{}", told.stdout);
    let fix = format!("kubectl stepup setup --profile {} --try", alice.name());
    ensure!(told.status.code() == Some(1) && told.stdout.contains(&fix), "{}", told.stdout);

    let refused = alice.kubectl(&["delete", "namespace", &namespace])?;
    refused.failed_with("the identity provider says you signed in with urn:stepup:pwd; urn:stepup:mfa is needed")?;
    lab.answered(&namespace, "delete", "namespaces", &[429, 403])?;
    lab.admin(&["get", "namespace", &namespace])?;
    let story = lab.story_of(&namespace)?;
    ensure!(!story.iter().any(|event| event == "mint" || event == "use"), "{story:?}");
    Ok(())
}

fn finds_out_which_way_to_step_up_works(lab: &Lab) -> Result<()> {
    let alice = signed_in(lab, SHARED, CLIENT, "alice")?;
    let tries = |more: &[&str]| -> Result<String> {
        let outcome = alice.stepup(&[&["setup", "--profile", alice.name(), "--try"], more].concat())?;
        let outcome = outcome.succeeded()?;
        ensure!(outcome.stdout.contains("works: acr urn:stepup:mfa"), "{}", outcome.stdout);
        Ok(outcome.stdout)
    };
    let found = tries(&["--step-up-scope", "stepup-mfa"])?;
    ensure!(found.contains("acr_values in the device flow does not work: asked for urn:stepup:mfa"), "{found}");
    ensure!(found.contains("scope stepup-mfa in the device flow works"), "{found}");
    deletes_a_protected_namespace(lab, &alice)?;

    // Without the scope there is the browser.
    let found = tries(&["--step-up-method", "acr-values"])?;
    ensure!(found.contains("acr_values in the browser flow works"), "{found}");
    Ok(())
}

/// Bob gets a page to enrol a second factor on. Keycloak goes on saying that the sign-in is pending, and so it is.
fn who_has_no_second_factor_is_told_after_a_while(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let bob = lab.keycloak_session(SHARED, CLIENT_WITH_BRIEF_CODES, "bob")?;
    // With a code of some seconds two pages are enough to be late on a busy machine.
    await_that(LIMIT, || bob.log_in())?;
    await_that(LIMIT, || bob.kubectl(&["auth", "whoami"])?.succeeded())?;
    bob.stepup(&[&["setup", "--profile", bob.name()], &BY_SCOPE[..]].concat())?.succeeded()?;

    let refused = bob.kubectl(&["delete", "namespace", &namespace])?;
    ensure!(refused.stderr.contains("asks for one to be set up first"), "{}", refused.stderr);
    refused.failed_with("nobody completed the sign-in in time")?;

    ensure!(bob.browser_log().contains("was asked to enrol a second factor"), "{}", bob.browser_log());
    lab.answered(&namespace, "delete", "namespaces", &[429, 403])?;
    lab.admin(&["get", "namespace", &namespace]).map(drop)
}

fn who_says_no_at_the_consent_page_is_told_so(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let carol = signed_in(lab, SHARED, CLIENT, "carol")?;
    carol.stepup(&[&["setup", "--profile", carol.name()], &BY_SCOPE[..]].concat())?.succeeded()?;
    let reluctant = carol.clone().with("LAB_BROWSER", "deny");

    reluctant.kubectl(&["delete", "namespace", &namespace])?.failed_with("and it was declined")?;

    ensure!(carol.browser_log().contains(": denied\n"), "{}", carol.browser_log());
    lab.answered(&namespace, "delete", "namespaces", &[429, 403])
}

/// Refresh tokens are good for one use (`revokeRefreshToken`). A used one that comes again may be a thief's: Keycloak ends
/// the session.
fn rotates_the_refresh_token_and_a_used_one_ends_the_session(lab: &Lab) -> Result<()> {
    let alice = signed_in(lab, SHARED, CLIENT_WITH_BRIEF_TOKENS, "alice")?;
    let kept = alice.home().join("state").join(alice.name()).join("refresh-token");
    let first = fs::read_to_string(&kept).with_context(|| kept.display().to_string())?;
    let token = alice.token()?;

    // It is renewed ten seconds before it ends; this one lasts fifteen.
    await_that(LIMIT, || {
        ensure!(alice.token()? != token, "still the same token");
        Ok(())
    })?;
    let second = fs::read_to_string(&kept)?;
    ensure!(second != first, "the refresh token was not rotated");
    ensure!(who_am_i(&alice)?["username"] == SHARED.user(alice.name()));

    fs::write(&kept, &first)?;
    let log = alice.browser_log();
    await_that(LIMIT, || {
        alice
            .background("kubectl", &["get", "pods"])?
            .failed_with("the identity provider no longer accepts the session")
    })?;
    ensure!(alice.browser_log() == log, "somebody was asked in the background:\n{}", alice.browser_log());
    Ok(())
}

fn a_session_that_was_ended_elsewhere_has_to_sign_in_again(lab: &Lab) -> Result<()> {
    let carol = signed_in(lab, SHARED, CLIENT_WITH_BRIEF_TOKENS, "carol")?;
    // Keycloak ends what it has issued before, and counts in seconds.
    let issued = claims(&carol.token()?)?["iat"].as_u64().context("no iat")?;
    await_that(LIMIT, || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        ensure!(now > issued, "it is still the same second");
        Ok(())
    })?;

    lab.keycloak()?.end_sessions(SHARED, carol.name())?;

    // Its token is good to its end; it cannot be renewed.
    await_that(LIMIT, || {
        carol
            .background("kubectl", &["get", "pods"])?
            .failed_with(&format!("kubectl stepup login --profile {}", carol.name()))
    })?;
    let before = carol.sign_ins();
    carol.kubectl(&["get", "pods"])?.succeeded()?;
    ensure!(carol.sign_ins() == before + 1, "who is there is asked to sign in:\n{}", carol.browser_log());
    Ok(())
}

/// Nothing is restarted: the client, the API server and stepup-server all look for a key that they do not know.
fn follows_a_new_signing_key_without_a_restart(lab: &Lab) -> Result<()> {
    let alice = signed_in(lab, ROTATING, CLIENT, "alice")?;
    alice.stepup(&[&["setup", "--profile", alice.name()], &BY_SCOPE[..]].concat())?.succeeded()?;
    let old = key_of(&alice.token()?)?;
    // stepup-server too has seen the old key.
    alice.stepup(&["status"])?.succeeded()?;

    lab.keycloak()?.rotate_keys(ROTATING)?;
    alice.stepup(&["login", "--force"])?.succeeded()?;

    ensure!(key_of(&alice.token()?)? != old, "Keycloak signs with the old key");
    await_that(LIMIT, || alice.kubectl(&["auth", "whoami"])?.succeeded())?;
    // It does not fetch more often than every ten seconds.
    await_that(LIMIT, || {
        let status: Value = serde_json::from_str(&alice.stepup(&["status", "-o", "json"])?.succeeded()?.stdout)?;
        ensure!(status["stepUp"]["problem"].is_null() && status["stepUp"]["reachable"] == true, "{status}");
        Ok(())
    })?;
    let namespace = lab.namespace("prod")?;
    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;
    lab.answered(&namespace, "delete", "namespaces", &[429, 200])
}

/// `kid` of a token.
pub fn key_of(token: &str) -> Result<String> {
    Ok(header(token)?["kid"].as_str().context("no kid")?.to_owned())
}

/// A token lasts fifteen seconds here. A watch goes on after its end, and a later request of the same process has another.
fn outlives_its_token_within_one_command(lab: &Lab) -> Result<()> {
    let alice = signed_in(lab, SHARED, CLIENT_WITH_BRIEF_TOKENS, "alice")?;
    let namespace = lab.namespace("dev")?;
    let mut watch = Running::start(&alice, &["get", "configmaps", "-n", &namespace, "--watch", "-o", "name"])?;
    lab.admin(&["create", "configmap", "before", "-n", &namespace])?;
    watch.expect("configmap/before")?;
    let mut proxy = Running::start(&alice, &["proxy", "--port=0"])?;
    let serving = proxy.expect("127.0.0.1:")?;
    let address = serving.rsplit(' ').next().context("no address")?.to_owned();
    let lists = || -> Result<()> {
        let url = format!("http://{address}/api/v1/namespaces/{namespace}/configmaps");
        reqwest::blocking::get(url)?.error_for_status().map(drop).map_err(Into::into)
    };
    lists()?;
    let token = alice.token()?;

    // Signed by Keycloak, and over by its own word.
    let expired = || lab.kubectl_with_token(&token, &["auth", "whoami"])?.failed_with("Unauthorized").map(drop);
    await_that(LIMIT, expired)?;

    lists()?;
    lab.admin(&["create", "configmap", "after", "-n", &namespace])?;
    watch.expect("configmap/after")?;
    ensure!(alice.token()? != token);
    Ok(())
}

/// kubectl in the background, and what it prints. It is killed in the end.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(person: &Session, arguments: &[&str]) -> Result<Self> {
        let mut command = person.command("kubectl");
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("no pipe")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, lines })
    }

    /// Waits for a line with `text` in it.
    fn expect(&mut self, text: &str) -> Result<String> {
        loop {
            let line = self.lines.recv_timeout(LIMIT).with_context(|| format!("no {text:?}"))?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lab's own provider goes on as ever, and a name of one is nobody at the other.
fn serves_two_providers_in_one_cluster(lab: &Lab) -> Result<()> {
    lab.keycloak()?;
    let alice = lab.someone_like("alice")?;
    let other = signed_in(lab, SHARED, CLIENT, "alice")?;
    other.stepup(&[&["setup", "--profile", other.name()], &BY_SCOPE[..]].concat())?.succeeded()?;
    let namespace = lab.namespace("prod")?;
    let delete = ["delete", "namespace", &namespace, "--wait=false"];

    // Hers is pending; the other one has one of her own, and takes up that alone.
    alice.background("kubectl", &delete)?.failed_with("kubectl stepup elevate")?;
    other.kubectl(&delete)?.succeeded()?;

    let records = lab.records_about(&namespace)?;
    let users: Vec<&Value> =
        records.iter().filter(|record| record["event"] == "mint").map(|record| &record["user"]).collect();
    ensure!(users == [&Value::from(SHARED.user(other.name()))], "{users:?}");
    Ok(())
}
