//! The keys that elevated tokens are signed with come and go, and a real API server keeps up.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::{Lab, Options, Session, Test, http};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::Value;

use crate::keycloak::key_of;
use crate::raw::header;

pub fn tests() -> Vec<Test> {
    lab::tests![signing_keys_rotate_without_a_restart_and_rs256_will_do]
}

/// The server looks at its keys twice a minute.
const LOOK_LIMIT: Duration = Duration::from_secs(45);
/// The API server looks for a key that it does not know at once, unless it has in the last half minute.
const TRUST_LIMIT: Duration = Duration::from_secs(45);
const HOUR: Duration = Duration::from_hours(1);

fn signing_keys_rotate_without_a_restart_and_rs256_will_do(shared: &Lab) -> Result<()> {
    let lab = &shared.another("signing-keys", Options::default())?;
    let keys = lab.directory().join("stepup/keys");
    let alice = lab.session("alice")?;
    let first = key_file(&keys, "es256-")?;
    date_back(&first, HOUR)?;
    let first_token = elevated(&alice)?;
    accepts(lab, &first_token)?;

    // A newer key that has been published long enough signs as soon as it is found.
    let second = keys.join("second.pem");
    put_key(&second, HOUR / 2)?;
    let first_key = key_of(&first_token)?;
    await_that(LOOK_LIMIT, || {
        ensure!(current_key(lab)? != first_key, "it signs with {first_key} still");
        Ok(())
    })?;
    let second_token = elevated(&alice)?;
    ensure!(key_of(&second_token)? == current_key(lab)?, "not the new key");
    await_that(TRUST_LIMIT, || accepts(lab, &second_token))?;
    accepts(lab, &first_token).context("the old key is published still")?;
    steps_up_in_one_command(lab, &alice)?;

    // Now that the API server knows the new key, the old one can go.
    fs::remove_file(&first)?;
    await_that(LOOK_LIMIT, || {
        ensure!(!published(lab)?.contains(&first_key), "{first_key} is published still");
        Ok(())
    })?;
    steps_up_in_one_command(lab, &alice)?;
    accepts(lab, &elevated(&alice)?)?;

    // What was stolen with the old key is trusted until the API server meets a key that it does not know.
    accepts(lab, &first_token).context("the API server had no reason to look for keys")?;
    put_key(&keys.join("third.pem"), HOUR / 3)?;
    fs::remove_file(&second)?;
    lab.restart_stepup_server()?;
    let third_token = elevated(&alice)?;
    await_that(TRUST_LIMIT, || accepts(lab, &third_token))?;
    for gone in [&first_token, &second_token] {
        // It remembers for ten seconds whom it has let in.
        await_that(TRUST_LIMIT, || lab.kubectl_with_token(gone, &["auth", "whoami"])?.failed_with("Unauthorized"))?;
    }

    // The key for the other algorithm has been there, and published, from the first start.
    let config = fs::read_to_string(lab.config_file())?;
    fs::write(lab.config_file(), config.replace("  keys: keys\n", "  keys: keys\n  signWith: RS256\n"))?;
    lab.restart_stepup_server()?;
    let token = elevated(&alice)?;
    ensure!(header(&token)?["alg"] == "RS256", "{}", header(&token)?);
    accepts(lab, &token)?;
    steps_up_in_one_command(lab, &alice)
}

/// An elevated token that is good for ten minutes.
fn elevated(person: &Session) -> Result<String> {
    let mut window = person.window()?;
    window.run("kubectl stepup elevate --for assume clusterrole cluster-admin")?.succeeded()?;
    window.token()
}

fn accepts(lab: &Lab, token: &str) -> Result<()> {
    lab.kubectl_with_token(token, &["auth", "whoami"])?.succeeded().map(drop)
}

fn steps_up_in_one_command(lab: &Lab, person: &Session) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    person.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;
    lab.answered(&namespace, "delete", "namespaces", &[429, 200])
}

/// The one key file whose name begins like this.
fn key_file(keys: &Path, start: &str) -> Result<PathBuf> {
    let files = fs::read_dir(keys)?.collect::<Result<Vec<_>, _>>()?;
    let file = files.iter().find(|file| file.file_name().to_string_lossy().starts_with(start));
    Ok(file.with_context(|| format!("no {start}"))?.path())
}

/// A new key, as if it had been put there some time ago.
fn put_key(path: &Path, age: Duration) -> Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem();
    // Under another name first, so that the server sees it with its date or not at all.
    let new = path.with_extension("new");
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    fs::write(&new, key)?;
    date_back(&new, age)?;
    Ok(fs::rename(&new, path)?)
}

fn date_back(path: &Path, age: Duration) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    Ok(file.set_modified(SystemTime::now() - age)?)
}

fn ask(lab: &Lab, path: &str) -> Result<Value> {
    let url = format!("{}{path}", lab.server_url());
    Ok(http::client(&lab.pki().ca)?.get(url).send()?.error_for_status()?.json()?)
}

/// `kid` of the key that signs.
fn current_key(lab: &Lab) -> Result<String> {
    let report = ask(lab, "/readyz")?;
    Ok(report["signingKeys"]["current"].as_str().context("no current key")?.to_owned())
}

/// `kid` of every key that is published.
fn published(lab: &Lab) -> Result<Vec<String>> {
    let keys = ask(lab, "/jwks")?;
    let keys = keys["keys"].as_array().context("no keys")?;
    Ok(keys.iter().filter_map(|key| key["kid"].as_str().map(ToOwned::to_owned)).collect())
}
