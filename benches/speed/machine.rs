//! The machine: what it is, which of its processors a program runs on, and what a program has used.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::process::Daemon;
use lab::role::Tie;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// First argument that asks this program to bind itself to a processor and become another program.
pub const PINNED: &str = "bench-pinned";

/// Kernel's unit of processor time in `/proc/PID/stat`: `USER_HZ` is 100 on every Linux of today.
const TICK: Duration = Duration::from_millis(10);

/// One line about this machine.
pub fn facts() -> Result<String> {
    let model = fs::read_to_string("/proc/cpuinfo")?
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()))
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "{model}, {} cores, Linux {}, load before the run {}",
        processors()?.len(),
        kernel.trim(),
        load.split(' ').next().unwrap_or("unknown")
    ))
}

/// The processors that this process may use.
pub fn processors() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("cannot read the processor affinity")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect())
}

/// The processor for the server under test, and those for the load: the same one where there is no other.
pub fn split() -> Result<(usize, Vec<usize>)> {
    let processors = processors()?;
    let (&server, load) = processors.split_first().context("no processor")?;
    Ok((server, if load.is_empty() { vec![server] } else { load.to_vec() }))
}

/// Binds the calling thread, and those that it starts from now on.
pub fn pin(processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &processor in processors {
        set.set(processor);
    }
    sched_setaffinity(None, &set).context("cannot set the processor affinity")
}

/// Starts `program` on one processor. It ends when the value is dropped, and with this process.
pub fn start_pinned(
    name: &str,
    processor: usize,
    program: &Path,
    arguments: &[OsString],
    log: &Path,
) -> Result<Daemon> {
    Daemon::start(name, &std::env::current_exe()?, Tie::ToParent, log, |command| {
        command.arg(PINNED).arg(processor.to_string()).arg(program).args(arguments);
    })
}

/// Plays the role of [`PINNED`]; returns only when it cannot.
pub fn become_pinned(arguments: &[OsString]) -> Result<()> {
    let [processor, program, arguments @ ..] = arguments else { anyhow::bail!("no program given") };
    pin(&[processor.to_str().context("no processor")?.parse()?])?;
    Err(Command::new(program).args(arguments).exec().into())
}

/// Processor time that a process has used so far.
pub fn processor_time(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no stat")?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u32>().ok()).context("no such field");
    Ok(TICK * (ticks(11)? + ticks(12)?))
}

/// Resident memory of a process, in MB.
pub fn resident(pid: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<f64>()? / 1024.0)
}
