//! `kubectl stepup doctor`: what it finds, and what it says to do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use chrono::Utc;
use serde_json::{Value, json};
use stepup::client::paths::Paths;
use stepup::client::preflight::digest;
use stepup::wire::digest::{Digest, Protected};

use crate::api_server::{self, ApiServer};
use crate::home::{Builder, Home, Run};

const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-stepup");

/// A machine as it should be, but for what a test changes.
fn healthy() -> Builder {
    Home::builder().prompt("never")
}

/// What the doctor says there, with a kubeconfig and a kubectl.
fn doctor(home: &Home) -> Value {
    let bin = home.path("bin");
    fs::create_dir_all(&bin).unwrap();
    if !bin.join("kubectl-stepup").exists() {
        symlink(PLUGIN, bin.join("kubectl-stepup")).unwrap();
    }
    let who = json!({"status": {"userInfo": {"username": "alice"}}});
    script(home, "kubectl", &format!("case \"$*\" in *whoami*) echo '{who}';; *) echo no >&2; exit 1;; esac"));
    if !home.path("kubeconfig").exists() {
        kubeconfig(home, &json!({}));
    }
    diagnose(home, &format!("{}:/usr/bin:/bin", bin.display()))
}

fn diagnose(home: &Home, path: &str) -> Value {
    let mut command = home.command(&["doctor", "--profile", "p", "-o", "json"]);
    command.env("PATH", path).env("KUBECONFIG", home.path("kubeconfig"));
    let run = Run::of(&command.output().unwrap());
    home.assert_no_secret(&format!("{}{}", run.stdout, run.stderr));
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(run.code == 0, told["healthy"] == true, "{told:#}");
    told
}

fn script(home: &Home, name: &str, text: &str) {
    let file = home.path("bin").join(name);
    let _ = fs::remove_file(&file);
    fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A kubeconfig whose user runs the plugin, with these settings in place of the usual ones.
fn kubeconfig(home: &Home, exec: &Value) {
    let mut plugin = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": "kubectl-stepup", "interactiveMode": "IfAvailable",
        "args": ["get-token", "--profile", "p"],
    });
    for (name, value) in exec.as_object().unwrap() {
        plugin[name] = value.clone();
    }
    home.write(
        "kubeconfig",
        &json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "work",
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "contexts": [{"name": "work", "context": {"cluster": "c", "user": "me"}}],
            "users": [{"name": "me", "user": {"exec": plugin}}],
        }),
    );
}

/// That the doctor has found this problem, says so and what to do about it.
#[track_caller]
fn finds(told: &Value, check: &str, says: &str, fix: &str) {
    let findings = told["checks"].as_array().unwrap();
    let found = findings.iter().any(|finding| {
        let has = |name: &str, text: &str| finding[name].as_str().is_some_and(|said| said.contains(text));
        finding["check"] == check && finding["state"] == "problem" && has("says", says) && has("fix", fix)
    });
    assert!(found, "no problem of {check}: {says:?} with {fix:?} in {told:#}");
    assert_eq!(told["healthy"], false);
}

#[test]
fn where_nothing_is_wrong_it_finds_nothing() {
    let told = doctor(&healthy().build());
    assert_eq!(told["healthy"], true, "{told:#}");
    let names: Vec<&str> =
        told["checks"].as_array().unwrap().iter().map(|found| found["check"].as_str().unwrap()).collect();
    for check in ["plugin", "kubeconfig", "profile", "refresh token", "session", "identity provider", "stepup-server"] {
        assert!(names.contains(&check), "{check} in {names:?}");
    }
}

#[test]
fn a_plugin_that_kubectl_does_not_find_or_another_one() {
    let home = healthy().build();
    kubeconfig(&home, &json!({}));
    finds(&diagnose(&home, "/usr/bin:/bin"), "plugin", "none is on your PATH", "a directory of your PATH");

    fs::create_dir_all(home.path("bin")).unwrap();
    script(&home, "kubectl-stepup", "echo kubectl-stepup 0.0.9");
    finds(&doctor(&home), "plugin", "version \"0.0.9\"", "remove the older one");
}

#[test]
fn a_kubeconfig_whose_plugin_cannot_work() {
    for (exec, says) in [
        (json!({"interactiveMode": "Always"}), "every script would fail"),
        (json!({"interactiveMode": null}), "no interactiveMode"),
        (json!({"apiVersion": "client.authentication.k8s.io/v1alpha1"}), "which nobody speaks"),
        (json!({"command": "aws"}), "does not sign in with kubectl-stepup"),
    ] {
        let home = healthy().build();
        kubeconfig(&home, &exec);
        finds(&doctor(&home), "kubeconfig", says, "kubectl stepup setup --profile p");
    }
    let home = healthy().build();
    home.write("kubeconfig", &json!({"apiVersion": "v1", "kind": "Config"}));
    finds(&doctor(&home), "kubeconfig", "no current context", "kubectl stepup setup --profile p");
    fs::write(home.path("kubeconfig"), "users: [").unwrap();
    finds(&doctor(&home), "kubeconfig", "kubeconfig", "correct the file");
}

#[test]
fn a_provider_that_has_no_device_sign_in_or_cannot_be_reached() {
    let home = healthy().manners(|manners| manners.offers_device = false).build();
    finds(&doctor(&home), "identity provider", "offers no device sign-in", "--flow browser --step-up-flow browser");
    let home = healthy().manners(|manners| manners.is_down = true).build();
    finds(&doctor(&home), "identity provider", "503", "--issuer-ca");
}

#[test]
fn a_clock_that_is_off() {
    let home = healthy().manners(|manners| manners.clock_ahead = 90).build();
    finds(&doctor(&home), "clock", "s behind the identity provider's", "NTP");
    let home = healthy().build();
    home.server.set_clock_ahead(-90);
    finds(&doctor(&home), "clock", "s ahead of stepup-server's", "NTP");
}

#[test]
fn a_server_whose_certificate_is_not_trusted_that_is_not_ready_or_does_not_know_the_token() {
    let stranger = ApiServer::start(|_| api_server::plain(200, "application/json", "{\"ready\": true}"));
    let home = healthy().build();
    let mut profile = home.read("config/profiles/p.json");
    profile["server"]["url"] = json!(stranger.url());
    home.write("config/profiles/p.json", &profile);
    finds(&doctor(&home), "stepup-server", "certificate", "--server-ca");
    assert!(stranger.asked().is_empty(), "it has heard nothing");

    let home = healthy().build();
    home.server.set_readiness(json!({"ready": false, "store": {"ok": false, "error": "disk full"}}));
    finds(&doctor(&home), "stepup-server", "is not ready: store: disk full", "administrator");

    let home = healthy().build();
    home.server.refuse_tokens();
    finds(&doctor(&home), "your account", "does not accept your token", "kubectl stepup login --force");
}

#[test]
fn a_digest_that_is_old_or_not_there() {
    let home = healthy().preflight(vec![]).build();
    let now = Utc::now().timestamp();
    let digest = |age: i64| Digest {
        iss: home.server.server.url.clone(),
        sub: "alice".to_owned(),
        iat: now - age,
        exp: now - age + 86_400,
        policy: "p".to_owned(),
        denials_are_final: false,
        protected: vec![Protected { rule: "r".to_owned(), actions: vec![] }],
    };
    let files = Paths::under(&home.path("")).of("p");
    digest::keep(&files, &digest(3 * 86_400)).unwrap();
    finds(&doctor(&home), "preflight", "old, and expired", "kubectl stepup status");
    digest::keep(&files, &digest(60)).unwrap();
    assert_eq!(doctor(&home)["healthy"], true);
    fs::remove_file(home.path("cache/p/digest")).unwrap();
    finds(&doctor(&home), "preflight", "no digest", "kubectl stepup status");

    // Without a server it is the list in the profile or in a ConfigMap.
    let mut profile = home.read("config/profiles/p.json");
    profile["server"] = json!(null);
    profile["providerOnly"] = json!({"acrValues": ["urn:mfa"]});
    home.write("config/profiles/p.json", &profile);
    finds(&doctor(&home), "preflight", "no digest", "kubectl stepup status");
}

#[test]
fn an_api_server_that_does_not_trust_the_issuer_or_knows_somebody_else() {
    let home = healthy().build();
    doctor(&home);
    let path = format!("{}:/usr/bin:/bin", home.path("bin").display());
    script(&home, "kubectl", "echo 'error: You must be logged in to the server (Unauthorized)' >&2; exit 1");
    finds(&diagnose(&home, &path), "API server", "does not trust this issuer", "stepup-server render");
    script(&home, "kubectl", "echo '{\"status\": {\"userInfo\": {\"username\": \"corp:alice\"}}}'");
    finds(&diagnose(&home, &path), "your account", "the API server as corp:alice", "username and groups");
    script(&home, "kubectl", "exec sleep 60");
    finds(&diagnose(&home, &path), "API server", "gave no answer in 9 s", "kubectl auth whoami");
}
