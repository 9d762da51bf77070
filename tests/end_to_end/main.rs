//! What must be true, each shown on a real API server. All tests share one lab, see [`lab::suite`].

mod bad_input;
mod failures;
mod forged;
mod groups;
mod helm;
mod idle;
mod keycloak;
mod matrix;
mod network;
mod no_secret;
mod normal_again;
mod objects;
mod one_command;
mod other_words;
mod people;
mod preflight;
mod provider_only;
mod raw;
mod reads;
mod rendered;
mod run;
mod signing_keys;
mod streams;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use lab::Programs;

fn main() -> ExitCode {
    let programs = Programs {
        kubectl_stepup: env!("CARGO_BIN_EXE_kubectl-stepup").into(),
        stepup_server: env!("CARGO_BIN_EXE_stepup-server").into(),
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab");
    // Those that take longest first.
    let tests = [
        idle::tests(),
        matrix::tests(),
        failures::tests(),
        signing_keys::tests(),
        rendered::tests(),
        keycloak::tests(),
        groups::tests(),
        provider_only::tests(),
        no_secret::tests(),
        bad_input::tests(),
        forged::tests(),
        one_command::tests(),
        other_words::tests(),
        helm::tests(),
        normal_again::tests(),
        reads::tests(),
        people::tests(),
        network::tests(),
        preflight::tests(),
        terminal::tests(),
        streams::tests(),
        run::tests(),
    ]
    .concat();
    lab::suite::main(&directory, &programs, tests)
}
