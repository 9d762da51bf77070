//! What must be true, each shown on a real API server. All tests share one lab, see [`lab::suite`].

mod bad_input;
mod failures;
mod forged;
mod helm;
mod no_secret;
mod normal_again;
mod objects;
mod one_command;
mod people;
mod raw;
mod reads;

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
        failures::tests(),
        no_secret::tests(),
        bad_input::tests(),
        forged::tests(),
        one_command::tests(),
        helm::tests(),
        normal_again::tests(),
        reads::tests(),
        people::tests(),
    ]
    .concat();
    lab::suite::main(&directory, &programs, tests)
}
