//! Part 2: what preflight adds to a command that it has nothing to ask about; and what a run costs a tool that asks all day
//! and whose person has gone.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use stepup::action::ActionPattern;
use stepup::client::cache;
use stepup::client::paths::Paths;
use stepup::client::preflight::digest;
use stepup::wire::digest::{Digest, Protected};

use crate::machine;
use crate::plugin::{build, session};
use crate::report::{self, Table, millis};
use crate::stats::Samples;

const RUNS: usize = 3000;
/// How many namespaces have something that is protected; each has four patterns.
const NAMESPACES: usize = 250;
/// In milliseconds.
const MISS_AIM: f64 = 0.2;
const IDLE_AIM: f64 = 5.0;
/// What the command line is about is protected elsewhere, so that the whole list is looked through.
const COMMAND: [&str; 5] = ["get", "secret", "settings", "-n", "somewhere"];

/// Prints the table.
pub fn measure(directory: &Path, kubectl_stepup: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let home = directory.join("home");
    prepare(&home)?;
    let kubectl = build(directory, "kubectl", include_str!("asker.rs"))?;

    let everywhere = machine::processors()?;
    machine::pin(&machine::split()?.1)?;
    let output = Command::new(kubectl)
        .args(COMMAND)
        .env_clear()
        .env("BENCH_PLUGIN", kubectl_stepup)
        .env("BENCH_HOME", &home)
        .env("BENCH_PROFILES", "off,on,ended")
        .env("BENCH_RUNS", RUNS.to_string())
        .stdin(Stdio::null())
        .output()?;
    machine::pin(&everywhere)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rounds = String::from_utf8(output.stdout)?.lines().map(figures).collect::<Result<Vec<_>>>()?;
    ensure!(rounds.len() == RUNS, "{} rounds", rounds.len());

    report::part(&format!(
        "get-token for `kubectl {}`, {RUNS} runs each, in turn; {} patterns are protected elsewhere",
        COMMAND.join(" "),
        NAMESPACES * 4
    ));
    let mut table = Table::new(&["", "median", "p99"]);
    let of = |index: usize| Samples::from(rounds.iter().map(|round| round[index]).collect::<Vec<_>>());
    for (index, name) in
        ["preflight off", "preflight on: a miss", "a session that has ended, and nobody there"].into_iter().enumerate()
    {
        let samples = of(index);
        table.row([name.to_owned(), millis(samples.median()), millis(samples.quantile(0.99))]);
    }
    table.print();
    let mut added: Vec<f64> =
        rounds.iter().map(|round| (round[1].as_secs_f64() - round[0].as_secs_f64()) * 1e3).collect();
    added.sort_unstable_by(f64::total_cmp);
    let added = added[RUNS / 2];
    report::aim(
        &format!("a miss adds less than {MISS_AIM} ms (median of the differences: {added:+.3} ms)"),
        added < MISS_AIM,
    );
    let ended = of(2).median().as_secs_f64() * 1e3;
    report::aim(
        &format!("no run of an idle tool whose session has ended above {IDLE_AIM} ms (median: {ended:.2} ms)"),
        ended <= IDLE_AIM,
    );
    Ok(())
}

fn figures(line: &str) -> Result<[Duration; 3]> {
    let figures =
        line.split(' ').map(|figure| Ok(Duration::from_nanos(figure.parse()?))).collect::<Result<Vec<_>>>()?;
    figures.try_into().ok().context("three figures")
}

/// Three profiles: without preflight, with it, and one whose session has ended and cannot be renewed.
fn prepare(home: &Path) -> Result<()> {
    let paths = Paths::under(home);
    let signed_in = session();
    let mut with_preflight = session();
    with_preflight.preflight = true;
    let mut ended = session();
    ended.base_expires_at = Utc::now().timestamp() - 60;
    for (profile, session) in [("off", &signed_in), ("on", &with_preflight), ("ended", &ended)] {
        let files = paths.of(profile);
        cache::write(&files.session(), session).context("cannot write the session")?;
        let settings = serde_json::json!({
            "version": 1, "name": profile, "issuer": session.issuer, "clientId": session.client_id,
            "server": {"url": "https://stepup.example.com"},
        });
        cache::write(files.settings(), &settings).context("cannot write the profile")?;
    }
    let pattern = |verb: &str, resource: &str, namespace: &str| ActionPattern {
        verbs: vec![verb.to_owned()],
        api_groups: vec![String::new()],
        resources: vec![resource.to_owned()],
        namespaces: vec![namespace.to_owned(), format!("{namespace}-*")],
        names: vec!["*".to_owned()],
        non_resource_urls: Vec::new(),
    };
    let in_namespace = |number: usize| {
        let namespace = format!("team-{number}");
        let about = [("get", "secrets"), ("connect", "pods/exec"), ("delete", "configmaps"), ("update", "services")];
        about.map(|(verb, resource)| pattern(verb, resource, &namespace))
    };
    let now = Utc::now().timestamp();
    let digest = Digest {
        iss: "https://stepup.example.com".to_owned(),
        sub: "alice".to_owned(),
        iat: now,
        exp: now + 86_400,
        policy: "bench".to_owned(),
        denials_are_final: false,
        protected: vec![Protected {
            rule: "bench".to_owned(),
            actions: (0..NAMESPACES).flat_map(in_namespace).collect(),
        }],
    };
    digest::keep(&paths.of("on"), &digest).context("cannot write the list of what is protected")
}
