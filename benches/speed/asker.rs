//! Plays a kubectl, as far as its plugin can see: a program of that name, with that command line, that runs the plugin
//! time and again and prints how long each run took, in nanoseconds.
//!
//! `BENCH_PLUGIN`, `BENCH_HOME`, `BENCH_PROFILES` (separated by commas) and `BENCH_RUNS` say what to run. Each run is the
//! first of its parent, as for a kubectl that asks once; a line has a figure for each profile, measured in turn.

use std::process::{Command, Stdio};
use std::time::Instant;

fn main() {
    let told = |name: &str| std::env::var(name).expect(name);
    let (plugin, home, profiles) = (told("BENCH_PLUGIN"), told("BENCH_HOME"), told("BENCH_PROFILES"));
    let profiles: Vec<&str> = profiles.split(',').collect();
    let runs: usize = told("BENCH_RUNS").parse().expect("a number of runs");
    for run in 0..runs {
        let mut figures = vec![0; profiles.len()];
        for turn in 0..profiles.len() {
            // Each follows each other equally often.
            let index = (run + turn) % profiles.len();
            let _ = std::fs::remove_dir_all(format!("{home}/state/{}/parents", profiles[index]));
            let _ = std::fs::create_dir_all(format!("{home}/state/{}/parents", profiles[index]));
            let mut command = Command::new(&plugin);
            command.args(["get-token", "--profile", profiles[index]]).env_clear().env("KUBECTL_STEPUP_HOME", &home);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let begun = Instant::now();
            command.status().expect("the plugin can be run");
            figures[index] = begun.elapsed().as_nanos();
        }
        let line: Vec<String> = figures.iter().map(ToString::to_string).collect();
        println!("{}", line.join(" "));
    }
}
