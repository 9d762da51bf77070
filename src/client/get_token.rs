//! `get-token`, the client-go exec plugin: the hot path.

use std::process::ExitCode;

use crate::client::profile;

/// Print a token for the Kubernetes API server, as an ExecCredential (kubectl runs this; people do not).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Profile to use
    #[arg(long, env = "KUBECTL_STEPUP_PROFILE", default_value = "default")]
    pub profile: profile::Name,
    /// Why protected actions of this command are needed
    #[arg(long, env = "KUBECTL_STEPUP_REASON")]
    pub reason: Option<String>,
}

/// Runs the plugin.
pub fn run(args: &Args) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}
