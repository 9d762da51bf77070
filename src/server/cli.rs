//! The command line of `stepup-server`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::server::check::{self, Report};
use crate::server::config::{Config, Mode};
use crate::server::output::{complain, say};
use crate::server::policy::Policy;
use crate::server::{render, serve};

/// Policy, webhooks and tokens for step-up authentication in Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "stepup-server", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 all is well, 1 it failed or problems were found, 2 wrong usage.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    #[command(after_help = "Example:\n  stepup-server serve /etc/stepup/stepup-server.yaml")]
    Serve {
        /// The configuration file.
        config: PathBuf,
    },
    /// Check configuration, policy and every file they name, without starting.
    ///
    /// Prints every problem. While the configuration file itself has mistakes, it prints only those.
    #[command(after_help = "Example:\n  stepup-server check /etc/stepup/stepup-server.yaml")]
    Check {
        /// The configuration file.
        config: PathBuf,
    },
    /// Print what the cluster needs, ready to apply.
    #[command(after_help = "Examples:\n  \
        stepup-server render stepup-server.yaml --output /etc/kubernetes/stepup\n  \
        stepup-server render stepup-server.yaml admission | kubectl apply -f -")]
    Render {
        /// The configuration file.
        config: PathBuf,
        /// Only this part; by default, all of them.
        part: Option<Part>,
        /// Write each part to its own file in this directory, instead of to standard output.
        #[arg(long, value_name = "DIR", conflicts_with = "part")]
        output: Option<PathBuf>,
    },
}

/// A part of what the cluster needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// AuthenticationConfiguration: for --authentication-config.
    Authentication,
    /// AuthorizationConfiguration: for --authorization-config.
    Authorization,
    /// Kubeconfig with which the API server calls /authorize.
    WebhookKubeconfig,
    /// AdmissionConfiguration: for --admission-control-config-file.
    AdmissionControl,
    /// Kubeconfig with which the API server calls /admit.
    AdmissionKubeconfig,
    /// ValidatingWebhookConfiguration: to apply.
    Admission,
    /// What those groups may do that only a grant gives: to apply.
    Rbac,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    crate::no_core::keep_memory_private();
    match Cli::parse().command {
        Command::Serve { config } => match Config::load(&config) {
            Ok(config) => finish(serve::run(config)),
            Err(error) => finish(Err(error)),
        },
        Command::Check { config } => {
            let Report { problems, warnings } = check::check(&config);
            warn(&warnings);
            problems.iter().for_each(complain);
            if !problems.is_empty() {
                return ExitCode::FAILURE;
            }
            say(format_args!("{} is fine", config.display()));
            ExitCode::SUCCESS
        }
        Command::Render { config, part, output } => finish(render(&config, part, output)),
    }
}

fn render(
    file: &std::path::Path,
    part: Option<Part>,
    output: Option<PathBuf>,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(file)?;
    let policy = Policy::load(&config.policy, &config)?;
    warn(policy.warnings());
    let directory = match output {
        Some(output) => Some(std::path::absolute(output)?),
        None => None,
    };
    let documents = render::render(&config, &policy, directory.as_deref())?;
    let binds = documents.iter().any(|document| document.part == Part::Rbac);
    let documents = documents.iter().filter(|document| part.is_none_or(|part| part == document.part));
    match directory {
        Some(directory) => {
            std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
            for document in documents {
                let path = directory.join(document.file);
                document.write(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                say(path.display());
            }
            let stale = directory.join(render::RBAC_FILE);
            if !binds && stale.exists() {
                warn(&[format!(
                    "{} is of an earlier rendering: {} now; `kubectl delete -f` it, then remove it",
                    stale.display(),
                    nothing_to_bind(&config)
                )]);
            }
        }
        None if part == Some(Part::Rbac) && !binds => {
            warn(&[format!("{}: there is nothing to bind", nothing_to_bind(&config))]);
        }
        None if config.mode == Mode::Groups
            && part.is_some_and(|part| !matches!(part, Part::Authentication | Part::Rbac)) =>
        {
            warn(&["there are no webhooks in `mode: groups`: the parts are authentication and rbac".to_owned()]);
        }
        None => {
            let texts: Vec<&str> = documents.map(|document| document.text.trim_end()).collect();
            say(texts.join("\n---\n"));
        }
    }
    Ok(())
}

fn nothing_to_bind(config: &Config) -> &'static str {
    match config.mode {
        Mode::Webhooks => "no rule lets anybody assume a role",
        Mode::Groups => "RBAC can say nothing of what the rules do",
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        complain(format_args!("warning: {warning}"));
    }
}

fn finish<E: std::fmt::Display>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
