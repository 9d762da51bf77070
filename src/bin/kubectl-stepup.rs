//! `kubectl-stepup`, which kubectl runs as `kubectl stepup`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stepup::client::cli::main()
}
