//! Tests that share one lab.
//!
//! The ordinary test harness has no place to stop a lab after the last test, so the test binary has a `main` of its own:
//!
//! ```text
//! mod one_command; // has: pub fn tests() -> Vec<lab::Test> { lab::tests![deletes_a_namespace] }
//!
//! fn main() -> std::process::ExitCode {
//!     lab::suite::main(directory, &programs, one_command::tests())
//! }
//! ```

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::lab::Lab;
use crate::plan::{Options, Programs};
use crate::{role, standing};

/// Most of a test's time is spent waiting for other processes, so there is room for more of them than for processors.
const TESTS_AT_A_TIME: usize = 6;

/// One test, given the lab that all of them share.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// `module::function`.
    pub name: &'static str,
    /// Fails by its error or by a panic. It shares the lab with tests that run at the same time: what stops or
    /// changes parts of a lab takes [`Lab::another`].
    pub run: fn(&Lab) -> Result<()>,
}

/// `tests![a, b]` is a list of the functions `a` and `b` as [`Test`]s of the module it stands in.
#[macro_export]
macro_rules! tests {
    ($($function:ident),* $(,)?) => {
        vec![$($crate::Test {
            name: concat!(module_path!(), "::", stringify!($function)),
            run: $function,
        }),*]
    };
}

/// Runs those of `tests` that the command line asks for, in a lab whose files are in `directory`, and stops the lab.
pub fn main(directory: &Path, programs: &Programs, tests: Vec<Test>) -> ExitCode {
    if let Some(code) = role::play() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TESTS_AT_A_TIME);
    let wanted = tests.iter().any(|test| is_wanted(&arguments, short_name(test.name)));
    if arguments.list || !wanted {
        let trials = tests.into_iter().map(|test| Trial::test(short_name(test.name), || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }

    // One at a time: two runs would share the directory.
    let (_only_me, lab) = match standing::lock(directory).and_then(|lock| {
        standing::wipe(directory)?;
        Ok((lock, start(directory, programs)?))
    }) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("the lab did not start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let lab = Arc::new(lab);
    let trials = tests.into_iter().map(|test| {
        let lab = Arc::clone(&lab);
        Trial::test(short_name(test.name), move || (test.run)(&lab).map_err(|error| Failed::from(format!("{error:#}"))))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(lab);
    if conclusion.has_failed() {
        eprintln!("the lab's files and logs are in {}", directory.display());
    } else {
        let _ = fs::remove_dir_all(directory);
    }
    conclusion.exit_code()
}

fn start(directory: &Path, programs: &Programs) -> Result<Lab> {
    let begun = Instant::now();
    let lab = Lab::start(directory, programs, Options::default())?;
    println!("the lab is up after {:.1} s", begun.elapsed().as_secs_f32());
    Ok(lab)
}

/// Without the name of the test binary's crate.
fn short_name(name: &str) -> &str {
    name.split_once("::").map_or(name, |(_, rest)| rest)
}

/// As the harness will filter.
fn is_wanted(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter.as_str()) };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches) && !arguments.ignored
}
