//! Part 1: what the exec plugin costs where it has a token in its cache, beside programs that do nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use stepup::client::cache::{self, Session};
use stepup::client::paths::{Files, Paths};
use stepup::secret::Secret;

use crate::machine;
use crate::report::{self, Table, millis, ratio};
use crate::stats::Samples;

/// How often each program runs, in turn with the others.
const RUNS: usize = 3000;
/// How often the peak of memory is looked at; the largest counts.
const PEAKS: usize = 20;
/// Of an ID token with a few groups, in characters.
const TOKEN: usize = 1200;
/// What kubectl tells its plugin.
const EXEC_INFO: &str =
    r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}"#;

/// Prints the table.
pub fn measure(directory: &Path, kubectl_stepup: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let home = directory.join("home");
    let files = sign_in(&home)?;
    let empty = build(directory, "empty", "fn main() {}\n")?;
    let peak = build(directory, "peak", include_str!("peak.rs"))?;
    let programs = [
        Program { name: "/bin/true", path: "/bin/true".into(), arguments: &[], home: &home },
        Program { name: "an empty Rust program", path: empty, arguments: &[], home: &home },
        Program {
            name: "kubectl-stepup get-token",
            path: kubectl_stepup.to_owned(),
            arguments: &["get-token", "--profile", "bench"],
            home: &home,
        },
    ];

    let everywhere = machine::processors()?;
    machine::pin(&machine::split()?.1)?;
    let times = run_in_turn(&programs, &files)?;
    let peaks = programs.iter().map(|program| program.peak(&peak)).collect::<Result<Vec<_>>>()?;
    machine::pin(&everywhere)?;

    report::part(&format!(
        "get-token with a token in the cache: start to end, {RUNS} runs each, in turn (binary: {:.1} MB)",
        megabytes(fs::metadata(kubectl_stepup)?.len())
    ));
    let mut table = Table::new(&["", "median", "p99", "median x empty", "peak memory", "x empty"]);
    let (empty_median, empty_peak) = (times[1].median().as_secs_f64(), peaks[1]);
    for ((program, times), peak) in programs.iter().zip(&times).zip(&peaks) {
        table.row([
            program.name.to_owned(),
            millis(times.median()),
            millis(times.quantile(0.99)),
            ratio(times.median().as_secs_f64(), empty_median),
            format!("{peak:.1} MB"),
            ratio(*peak, empty_peak),
        ]);
    }
    table.print();
    let (median, peak) = (times[2].median().as_secs_f64(), peaks[2]);
    report::aim("within 2 x the empty program", median <= 2.0 * empty_median);
    report::aim("peak memory below 10 MB", peak < 10.0);
    Ok(())
}

/// A home in which somebody is signed in.
fn sign_in(home: &Path) -> Result<Files> {
    let files = Paths::under(home).of("bench");
    cache::write(&files.session(), &session()).context("cannot write the session")?;
    Ok(files)
}

/// Somebody's, for an hour, without preflight.
pub fn session() -> Session {
    Session {
        version: 1,
        base_token: Secret::new("x".repeat(TOKEN)),
        base_expires_at: Utc::now().timestamp() + 3600,
        step_up_enabled: true,
        preflight: false,
        issuer: "https://idp.example.com".to_owned(),
        client_id: "kubernetes".to_owned(),
        person: cache::Person { user: "alice".to_owned(), subject: "alice".to_owned() },
    }
}

/// Builds a program of one file with plain rustc.
pub fn build(directory: &Path, name: &str, source: &str) -> Result<PathBuf> {
    let (file, program) = (directory.join(format!("{name}.rs")), directory.join(name));
    fs::write(&file, source)?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition", "2024", "-C", "opt-level=3", "-C", "strip=symbols", "-o"])
        .args([&program, &file])
        .status()
        .context("cannot run rustc")?;
    ensure!(status.success(), "rustc cannot build {name}: {status}");
    Ok(program)
}

struct Program<'a> {
    name: &'static str,
    path: PathBuf,
    arguments: &'static [&'static str],
    home: &'a Path,
}

impl Program<'_> {
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
        command.env("KUBECTL_STEPUP_HOME", self.home).env("KUBERNETES_EXEC_INFO", EXEC_INFO);
        command
    }

    fn time(&self) -> Result<Duration> {
        let mut command = self.command(&self.path);
        command.args(self.arguments);
        let begun = Instant::now();
        let status = command.status().with_context(|| format!("cannot run {}", self.name))?;
        let took = begun.elapsed();
        ensure!(status.success(), "{}: {status}", self.name);
        Ok(took)
    }

    /// In MB.
    fn peak(&self, peak: &Path) -> Result<f64> {
        let mut most = 0;
        for _ in 0..PEAKS {
            let mut command = self.command(peak);
            let output = command.arg(&self.path).args(self.arguments).stdout(Stdio::piped()).output()?;
            ensure!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
            most = most.max(String::from_utf8(output.stdout)?.trim().parse::<u64>()?);
        }
        Ok(megabytes(most * 1024))
    }
}

fn run_in_turn(programs: &[Program<'_>], files: &Files) -> Result<Vec<Samples>> {
    let mut times = vec![Vec::with_capacity(RUNS); programs.len()];
    for run in 0..RUNS {
        for turn in 0..programs.len() {
            // Each program follows each other equally often.
            let index = (run + turn) % programs.len();
            forget_parents(files)?;
            times[index].push(programs[index].time()?);
        }
    }
    Ok(times.into_iter().map(Samples::from).collect())
}

/// Every run is to be the first of its parent, as for a kubectl that asks once; this program is the parent of all.
fn forget_parents(files: &Files) -> Result<()> {
    let entries = match fs::read_dir(files.parents()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
