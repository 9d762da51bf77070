//! `kubectl stepup proxy`, and what it has in common with `run`.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{Chosen, kubeconfig_files};
use crate::client::cli::{Proxy as Args, Through};
use crate::client::error::Error;
use crate::client::kubeconfig::Route;
use crate::client::prompt::{self, Interrupt};
use crate::client::proxy::kubeconfig_file::KubeconfigFile;
use crate::client::proxy::{Proxy, StepUps};
use crate::client::{Clock, output, session};

/// How long what still waits for a person may take to give up.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until it is told to end.
pub fn run(args: &Args, clock: Clock) -> Result<ExitCode, Error> {
    with_runtime(async {
        let mut signals = Signals::listen()?;
        let (opened, interrupt) = open(&args.through, "kubectl stepup proxy", clock, &mut signals).await?;
        let Opened { proxy, context, .. } = opened;
        let kubeconfig = match &args.kubeconfig_out {
            Some(path) => KubeconfigFile::at(path, proxy.kubeconfig().to_owned())?,
            None => KubeconfigFile::temporary(proxy.kubeconfig().to_owned(), clock())?,
        };
        output::line(kubeconfig.path().display());
        output::note(format_args!(
            "kubectl-stepup: serving context {context:?} at https://{}; Ctrl-C ends it",
            proxy.address()
        ));
        let serving = tokio::spawn(proxy.serve());
        // A time that no clock can show never comes.
        let end =
            args.lifetime.and_then(|seconds| tokio::time::Instant::now().checked_add(Duration::from_secs(seconds)));
        loop {
            tokio::select! {
                signal = signals.next() => {
                    // Ctrl-C at a prompt declines; a second one ends the proxy, whatever it still waits for.
                    let declines = signal == Signal::INT && prompt::is_open() && !interrupt.happened();
                    interrupt.raise();
                    if !declines {
                        break;
                    }
                }
                () = until(end) => break,
            }
        }
        interrupt.raise();
        serving.abort();
        drop(kubeconfig);
        Ok(ExitCode::SUCCESS)
    })
}

async fn until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// A proxy that listens, and whom it serves.
pub(super) struct Opened {
    pub proxy: Proxy,
    pub profile: String,
    pub context: String,
}

/// Opens a proxy for the current context, with somebody signed in to its profile.
pub(super) async fn open(
    through: &Through,
    command: &'static str,
    clock: Clock,
    signals: &mut Signals,
) -> Result<(Opened, Interrupt), Error> {
    let interrupt = Interrupt::outlive();
    let chosen = Chosen::find(&through.target)?;
    let route = route(through, &chosen)?;
    let profile = chosen.profile;
    let signing_in = {
        let profile = profile.clone();
        tokio::task::spawn_blocking(move || session::current_or_login(&profile, prompt::person_is_there, clock))
    };
    tokio::pin!(signing_in);
    let session = loop {
        tokio::select! {
            session = &mut signing_in => {
                break session.map_err(|_| Error::Failed("the session could not be read".to_owned()))??;
            }
            _ = signals.next() => {
                // What does not wait for a person heeds nothing, and is left behind.
                if interrupt.happened() || !prompt::is_open() {
                    return Err(prompt::declined_here());
                }
                interrupt.raise();
            }
        }
    };
    let name = profile.name.clone();
    let step_ups = Arc::new(StepUps::new(profile, session, through.reason.clone(), interrupt.clone(), clock));
    let context = route.current.context.clone();
    let proxy = Proxy::listen(&route, step_ups, through.replay_limit, command, clock()).await?;
    Ok((Opened { proxy, profile: name, context }, interrupt))
}

/// The way to the API server. The base token goes there, so it must be one that it is for.
fn route(through: &Through, chosen: &Chosen) -> Result<Route, Error> {
    let target = &through.target;
    let route = match kubeconfig_files(target.kubeconfig.as_deref()) {
        Some(files) => files.route(target.context.as_deref())?,
        None => None,
    };
    let Some(route) = route else {
        return Err(Error::Usage(
            "the kubeconfig has no current context: choose one with --context, or with kubectl config use-context"
                .to_owned(),
        ));
    };
    match (&route.current.profile, &target.profile) {
        (Some(profile), _) if *profile == chosen.profile.name => Ok(route),
        // Only where it was said in this very command: a variable may have been set for another cluster.
        (None, Some(_)) => Ok(route),
        (Some(other), _) => Err(Error::Usage(format!(
            "context {:?} signs in with profile {other:?}, not {:?}: choose another --context, or another --profile",
            route.current.context, chosen.profile.name
        ))),
        (None, None) => Err(Error::Usage(format!(
            "context {:?} does not sign in with kubectl-stepup: choose another with --context; or, if its API server takes \
             the tokens of profile {:?}, say --profile {}",
            route.current.context, chosen.profile.name, chosen.profile.name
        ))),
    }
}

/// Runs a story that waits for many things at once.
pub(super) fn with_runtime(story: impl Future<Output = Result<ExitCode, Error>>) -> Result<ExitCode, Error> {
    // One thread: it serves one person, and what it would gain from more it loses in waking them up.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Failed(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(story);
    runtime.shutdown_timeout(GRACE);
    outcome
}

#[cfg(unix)]
pub(super) use rustix::process::Signal;

/// What a console tells the programs in it, by the names of the signals that it is like.
#[cfg(not(unix))]
#[allow(clippy::upper_case_acronyms)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Ctrl-C.
    INT,
    /// Ctrl-Break.
    QUIT,
    /// Its window is closed: what has not ended in five seconds is ended.
    HUP,
}

/// What would have ended us.
#[cfg(unix)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// From now on, nothing of it does.
    pub(super) fn listen() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let cannot = |error: std::io::Error| Error::Failed(format!("cannot listen to signals: {error}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
            quit: signal(SignalKind::quit()).map_err(cannot)?,
            terminate: signal(SignalKind::terminate()).map_err(cannot)?,
            hang_up: signal(SignalKind::hangup()).map_err(cannot)?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hang_up.recv() => Signal::HUP,
        }
    }
}

#[cfg(not(unix))]
pub(super) struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    quit: tokio::signal::windows::CtrlBreak,
    hang_up: tokio::signal::windows::CtrlClose,
}

#[cfg(not(unix))]
impl Signals {
    pub(super) fn listen() -> Result<Self, Error> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close};
        let cannot = |error: std::io::Error| Error::Failed(format!("cannot listen to the console: {error}"));
        Ok(Self {
            interrupt: ctrl_c().map_err(cannot)?,
            quit: ctrl_break().map_err(cannot)?,
            hang_up: ctrl_close().map_err(cannot)?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.hang_up.recv() => Signal::HUP,
        }
    }
}
