//! `kubectl stepup run -- CMD`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{ExitCode, ExitStatus};

use tokio::process::{Child, Command};

use super::proxy::{Signal, Signals, open, with_runtime};
use crate::client::cli::Run;
use crate::client::error::Error;
use crate::client::proxy::kubeconfig_file::KubeconfigFile;
use crate::client::{Clock, output};

/// Says which kubeconfig a program was given, to itself and to what it starts.
const MARK: &str = "KUBECTL_STEPUP_RUN";
/// Variables by which programs find a kubeconfig: those that are always set, and those that are set if they were.
const ALWAYS: [&str; 2] = ["KUBECONFIG", "KUBE_CONFIG_PATH"];
const IF_SET: [&str; 2] = ["KUBE_CONFIG_PATHS", "K8S_AUTH_KUBECONFIG"];

/// Runs a program whose requests go through a proxy that steps up, and ends as it ends.
pub fn run(args: &Run, clock: Clock) -> Result<ExitCode, Error> {
    if env::var_os(MARK).is_some_and(|file| env::var_os("KUBECONFIG") == Some(file)) {
        return Err(Error::Usage(
            "this runs in kubectl stepup run already: whatever it does steps up; leave the second one out".to_owned(),
        ));
    }
    with_runtime(async {
        let mut signals = Signals::listen()?;
        let (opened, interrupt) = open(&args.through, "kubectl stepup run", clock, &mut signals).await?;
        let kubeconfig = KubeconfigFile::temporary(opened.proxy.kubeconfig().to_owned(), clock())?;
        let command = command(&args.command, &kubeconfig, &opened.profile);
        let serving = tokio::spawn(opened.proxy.serve());
        let outcome = match command {
            None => Err(Error::Usage("no command given: kubectl stepup run -- COMMAND".to_owned())),
            Some(mut command) => match command.spawn() {
                Ok(child) => Ok(wait(child, &mut signals, &interrupt).await),
                Err(error) => Ok(cannot_start(&args.command[0], &error)),
            },
        };
        // Nobody waits for an answer any more.
        interrupt.raise();
        serving.abort();
        outcome
    })
}

fn command(words: &[OsString], kubeconfig: &KubeconfigFile, profile: &str) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments);
    for name in ALWAYS.into_iter().chain(IF_SET.into_iter().filter(|name| env::var_os(name).is_some())) {
        command.env(name, kubeconfig.path());
    }
    command.env(MARK, kubeconfig.path());
    // What it runs of ours (`kubectl stepup elevate`) cannot find the profile in that kubeconfig.
    command.env(super::RUN_PROFILE, profile);
    for (name, other) in [("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")] {
        // Programs look at one of them first: set by us alone, it would hide what the other says.
        let list = env::var_os(name).or_else(|| env::var_os(other));
        if let Some(list) = past_proxies(list.as_deref(), has_proxy()) {
            command.env(name, list);
        }
    }
    Some(command)
}

/// Not every program knows that this very machine is not behind a proxy.
fn past_proxies(list: Option<&OsStr>, has_proxy: bool) -> Option<OsString> {
    if !has_proxy {
        return None;
    }
    let mut list = list.unwrap_or_default().to_owned();
    if !list.is_empty() {
        list.push(",");
    }
    list.push("127.0.0.1");
    Some(list)
}

fn has_proxy() -> bool {
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().any(|name| env::var_os(name).is_some())
}

/// Waits for the program's end. What reaches us and not it is passed on: Ctrl-C reaches both.
async fn wait(mut child: Child, signals: &mut Signals, interrupt: &crate::client::prompt::Interrupt) -> ExitCode {
    loop {
        tokio::select! {
            status = child.wait() => return status.map_or(ExitCode::FAILURE, exit_code),
            signal = signals.next() => {
                interrupt.raise();
                pass_on(&child, signal);
            }
        }
    }
}

#[cfg(unix)]
fn pass_on(child: &Child, signal: Signal) {
    use rustix::process::{Pid, kill_process};

    use crate::client::parent;

    let is_typed = matches!(signal, Signal::INT | Signal::QUIT) && parent::is_in_foreground() == Some(true);
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let (Some(pid), false) = (pid, is_typed) {
        // It may be gone this very moment.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(not(unix))]
fn pass_on(_: &Child, _: Signal) {}

/// As a shell has it: 128 and the signal's number for a program that a signal has ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    #[cfg(unix)]
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let by_signal = None;
    let code = status.code().or(by_signal).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// As a shell has it: 127 for a program that is not there, 126 for one that cannot be run.
fn cannot_start(program: &OsStr, error: &io::Error) -> ExitCode {
    output::note(format_args!("kubectl-stepup: cannot run {}: {error}", program.display()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_of_the_environment_does_not_stand_between_a_program_and_us() {
        let list = |list: Option<&str>| past_proxies(list.map(OsStr::new), true).unwrap();
        assert_eq!(list(None), "127.0.0.1");
        assert_eq!(list(Some("a,b")), "a,b,127.0.0.1");
        assert_eq!(past_proxies(Some(OsStr::new("a")), false), None);
    }
}
