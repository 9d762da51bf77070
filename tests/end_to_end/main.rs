//! What must be true, each shown on a real API server. All tests share one lab, see [`lab::suite`].

mod helm;
mod one_command;

use std::path::Path;
use std::process::ExitCode;

use lab::Programs;

fn main() -> ExitCode {
    let programs = Programs {
        kubectl_stepup: env!("CARGO_BIN_EXE_kubectl-stepup").into(),
        stepup_server: env!("CARGO_BIN_EXE_stepup-server").into(),
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab");
    let tests = [one_command::tests(), helm::tests()].concat();
    lab::suite::main(&directory, &programs, tests)
}
