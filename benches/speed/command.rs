//! Part 2: what the plugin adds to one kubectl command, on the lab's API server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Outcome, Session};
use serde_json::{Value, json};
use stepup::client::cache;
use stepup::client::paths::Paths;

use crate::report::{self, Table, millis};
use crate::stats::Samples;

/// How often each command runs, in turn with the other.
const RUNS: usize = 200;
/// How often the plugin runs again for the same parent.
const RERUNS: usize = 300;
const AIM: Duration = Duration::from_millis(2);

/// Prints the table.
pub fn measure(person: &Session) -> Result<()> {
    let with_token = static_token(person)?;
    let (mut ours, mut theirs, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let (plugin, token) = if run % 2 == 0 {
            let plugin = version(person, person.kubeconfig())?;
            (plugin, version(person, &with_token)?)
        } else {
            let token = version(person, &with_token)?;
            (version(person, person.kubeconfig())?, token)
        };
        ours.push(plugin);
        theirs.push(token);
        // A machine that is slow for a moment is slow for both.
        differences.push(plugin.as_secs_f64() - token.as_secs_f64());
    }
    differences.sort_unstable_by(f64::total_cmp);
    let paired = differences[differences.len() / 2];
    let (ours, theirs, again) = (Samples::from(ours), Samples::from(theirs), again(person)?);

    report::part(&format!("kubectl get --raw /version on a real API server, {RUNS} runs each, in turn"));
    let mut table = Table::new(&["", "median", "p99"]);
    for (name, samples) in [
        ("with a static token", &theirs),
        ("with kubectl-stepup", &ours),
        ("for comparison: get-token alone, called again by one command, asking stepup-server", &again),
    ] {
        table.row([name.to_owned(), millis(samples.median()), millis(samples.quantile(0.99))]);
    }
    table.print();
    report::aim(
        &format!("2 ms more at most (median of the differences: {:+.2} ms)", paired * 1e3),
        paired <= AIM.as_secs_f64(),
    );
    Ok(())
}

fn version(person: &Session, kubeconfig: &Path) -> Result<Duration> {
    let mut command = person.command("kubectl");
    command.args(["get", "--raw", "/version"]).env("KUBECONFIG", kubeconfig);
    time(&mut command)
}

/// The plugin, called by the same parent time and again, as by a command with many requests: it looks for challenges.
fn again(person: &Session) -> Result<Samples> {
    let times = (0..=RERUNS).map(|_| {
        let mut command = person.command("kubectl-stepup");
        time(command.args(["get-token", "--profile", person.name()]))
    });
    // The first call asks nobody.
    Ok(times.skip(1).collect::<Result<Vec<_>>>()?.into())
}

fn time(command: &mut Command) -> Result<Duration> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let begun = Instant::now();
    let output = command.output()?;
    let took = begun.elapsed();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

/// A kubeconfig with the person's base token in it.
fn static_token(person: &Session) -> Result<PathBuf> {
    let view = Outcome::of(person.command("kubectl").args(["config", "view", "--raw", "--output", "json"]))?;
    let mut kubeconfig: Value = serde_json::from_str(&view.succeeded()?.stdout)?;
    let session = cache::session(&Paths::under(person.home()).of(person.name())).context("nobody is signed in")?;
    kubeconfig["users"] = json!([{"name": person.name(), "user": {"token": session.base_token.expose()}}]);
    let path = person.home().join("static-token.json");
    fs::write(&path, kubeconfig.to_string())?;
    Ok(path)
}
