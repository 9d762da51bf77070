//! What `stepup-server render` writes is what a real API server accepts, whatever the policy protects.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::{Lab, Options, Outcome};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub fn tests() -> Vec<lab::Test> {
    lab::tests![
        what_is_rendered_is_accepted,
        names_by_an_expression_are_the_same_everywhere,
        who_lacks_a_required_claim_does_not_come_in
    ]
}

/// How soon the API server takes up a file that has changed: it looks once a minute, and when it is told.
const RELOAD_LIMIT: Duration = Duration::from_secs(90);

const SAMPLE: &str = include_str!("../../packaging/policy.yaml");
const NO_ROLE: &str = "
rules:
- name: read-secrets
  actions: [{verbs: [get], apiGroups: [''], resources: [secrets], namespaces: [prod]}]
  require: {acr: [mfa], maxAge: 5m}
";
const A_ROLE: &str = "
guardrails: 'off'
rules:
- name: assume-admin
  actions: [{verbs: [assume], apiGroups: [rbac.authorization.k8s.io], resources: [clusterroles], names: [admin, 'team-*']}]
  require: {acr: [mfa], maxAge: 5m}
  grant: {groups: ['stepup:admin']}
";
const NOTHING: &str = "guardrails: 'off'\nrules: []\n";

fn what_is_rendered_is_accepted(shared: &Lab) -> Result<()> {
    let lab = &shared.another("rendered", Options::default())?;
    for (policy, binds) in [(SAMPLE, true), (NO_ROLE, false), (A_ROLE, true), (NOTHING, false)] {
        fs::write(lab.policy_file(), policy)?;
        let directory = tempfile::tempdir()?;
        let written = render(lab, &["--output", text(directory.path())?])?.stdout;
        let written: BTreeSet<&str> = written.lines().filter_map(|path| path.rsplit('/').next()).collect();

        // Every file for the API server is there, and `kubectl apply` takes the others.
        ensure!(written.contains("authentication.yaml") && written.contains("authorization.yaml"), "{written:?}");
        ensure!(written.contains("rbac.yaml") == binds, "{written:?} for {policy}");
        for file in ["validating-webhook.yaml", "rbac.yaml"].into_iter().filter(|file| written.contains(file)) {
            let path = directory.path().join(file);
            lab.admin(&["apply", "--dry-run=server", "-f", text(&path)?])?;
        }

        // The API server itself runs with what it is given: it says by its hash which file it has taken up.
        lab.update_cluster()?;
        let in_force = format!("{:x}", Sha256::digest(fs::read(lab.directory().join("rendered/authorization.yaml"))?));
        await_that(RELOAD_LIMIT, || {
            let metrics = lab.admin(&["get", "--raw", "/metrics"])?;
            let about = |line: &&str| line.starts_with("apiserver_authorization_config_controller_");
            let about: Vec<&str> = metrics.lines().filter(about).collect();
            ensure!(about.iter().any(|line| line.contains(&in_force)), "not {in_force}: {about:#?}");
            Ok(())
        })?;
    }

    // What nothing is left of is told, and nothing of the person's is removed.
    fs::write(lab.policy_file(), A_ROLE)?;
    let directory = tempfile::tempdir()?;
    let at = ["--output", text(directory.path())?];
    let rendered = render(lab, &at)?;
    ensure!(rendered.stderr.contains("`team-*`"), "a role that cannot be bound is not told: {}", rendered.stderr);
    fs::write(lab.policy_file(), NO_ROLE)?;
    let rendered = render(lab, &at)?;
    ensure!(rendered.stderr.contains("rbac.yaml is of an earlier rendering"), "{}", rendered.stderr);
    ensure!(directory.path().join("rbac.yaml").exists());
    let rendered = render(lab, &["rbac"])?;
    ensure!(rendered.stdout.is_empty() && rendered.stderr.contains("nothing to bind"), "{rendered:?}");
    Ok(())
}

/// The API server and stepup-server evaluate the same expression, each with a CEL of its own. A grant is for a username.
fn names_by_an_expression_are_the_same_everywhere(shared: &Lab) -> Result<()> {
    let username = r#"  username: {expression: "claims.email_verified == true ? 'people:' + claims.email.split('@')[0] : claims.sub"}"#;
    let lab = &shared.another("expression", Options { people: Some(username.to_owned()), ..Options::default() })?;
    let alice = lab.session("alice")?;
    let who = alice.kubectl(&["auth", "whoami", "-o", "json"])?.succeeded()?.stdout;
    let who: Value = serde_json::from_str(&who)?;
    let name = who["status"]["userInfo"]["username"].as_str().context("no name")?;
    ensure!(name.starts_with("people:alice"), "{name}");
    let doctor = alice.stepup(&["doctor"])?.succeeded()?.stdout;
    ensure!(doctor.contains(&format!("stepup-server knows you as {name}\n")), "{doctor}");

    let namespace = lab.namespace("prod")?;
    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;
    lab.answered(&namespace, "delete", "namespaces", &[429, 200])?;
    let users = lab.records_about(&namespace)?;
    ensure!(users.iter().all(|record| record["user"] == name), "{users:#?}");
    Ok(())
}

/// `--oidc-required-claim`, for the API server and for stepup-server.
fn who_lacks_a_required_claim_does_not_come_in(shared: &Lab) -> Result<()> {
    let people = "  username: {claim: sub, prefix: ''}\n  requiredClaims: [{claim: sub, value: alice}]".to_owned();
    let lab = &shared.another("required", Options { people: Some(people), ..Options::default() })?;
    let namespace = lab.namespace("prod")?;
    let alice = lab.session("alice")?;
    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;
    lab.answered(&namespace, "delete", "namespaces", &[429, 200])?;

    let other = lab.someone_like("alice")?;
    other.kubectl(&["get", "namespaces"])?.failed_with("must be logged in")?;
    other
        .stepup(&["elevate", "--for", "delete", "namespace", "prod"])?
        .failed_with("is not what the configuration requires")?;
    Ok(())
}

fn render(lab: &Lab, arguments: &[&str]) -> Result<Outcome> {
    Outcome::of(Command::new(lab.program("stepup-server")).arg("render").arg(lab.config_file()).args(arguments))?
        .succeeded()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
