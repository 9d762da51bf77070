//! `stepup-server`: see [`stepup::server::cli`].

fn main() -> std::process::ExitCode {
    stepup::server::cli::main()
}
