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

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::lab::Lab;
use crate::plan::{Options, Programs};
use crate::{binaries, role, standing};

/// Most of a test's time is spent waiting for other processes, so there is room for more of them than for processors.
const TESTS_AT_A_TIME: usize = 6;

/// So many tests may need another try.
const MOST_AGAIN: usize = 2;
/// What these look for must not happen at all.
const NEVER_AGAIN: [&str; 4] = ["forged::", "no_secret::", "failures::killed", "other_words::no_write_reads"];

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
    heed_interrupts();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TESTS_AT_A_TIME);
    let wanted = tests.iter().any(|test| is_wanted(&arguments, short_name(test.name)));
    if arguments.list || !wanted {
        let trials = tests.into_iter().map(|test| Trial::test(short_name(test.name), || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }

    let needs_keycloak = |name: &str| name.starts_with("keycloak::");
    let wants_keycloak =
        tests.iter().map(|test| short_name(test.name)).any(|name| needs_keycloak(name) && is_wanted(&arguments, name));
    let keycloak = match wants_keycloak.then(has_keycloak).transpose() {
        Ok(keycloak) => keycloak == Some(true),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };

    // One at a time: two runs would share the directory.
    let (_only_me, lab) = match standing::lock(directory).and_then(|lock| {
        standing::wipe(directory)?;
        Ok((lock, start(directory, programs, keycloak)?))
    }) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("the lab did not start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let lab = Arc::new(lab);
    let again = Arc::new(AtomicUsize::new(MOST_AGAIN));
    let trials = tests.into_iter().map(|test| {
        let lab = Arc::clone(&lab);
        let name = short_name(test.name);
        let again = Arc::clone(&again);
        Trial::test(name, move || attempt(test, &lab, &again).map_err(|error| Failed::from(format!("{error:#}"))))
            .with_ignored_flag(needs_keycloak(name) && !keycloak)
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

/// Ctrl-C ends this program, also if it was started where that is ignored (in the background of a script): what is ignored,
/// and not what is handled, is passed on to whatever is started, and tests press Ctrl-C.
fn heed_interrupts() {
    let always = Arc::new(AtomicBool::new(true));
    let _ = signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, always);
}

/// Runs a test, and once more where real processes that share two busy processors may have been late. That is told at the
/// end of `make test`; more than a few are no accident, and of what must never happen once is enough.
fn attempt(test: Test, lab: &Lab, again: &AtomicUsize) -> Result<()> {
    let name = short_name(test.name);
    let outcome = (test.run)(lab);
    let Err(error) = &outcome else { return outcome };
    let is_last = NEVER_AGAIN.iter().any(|prefix| name.starts_with(prefix))
        || again.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
    if is_last {
        return outcome;
    }
    let error = format!("{error:#}");
    show(&format!("run again: {name}: {}", error.lines().take(20).collect::<Vec<_>>().join(" | ")));
    (test.run)(lab)
}

/// Whether there is Keycloak, fetched and built now if need be. Without Java and Maven its tests are skipped.
pub(crate) fn has_keycloak() -> Result<bool> {
    Ok(unless_skipped("tests with Keycloak", binaries::keycloak())?.is_some())
}

/// Directory with the Python client, installed now if need be. Without Python, what is found out with it is skipped.
pub(crate) fn python_client() -> Result<Option<PathBuf>> {
    unless_skipped("trials of the Python client", binaries::python_client())
}

/// What was made ready. If it could not be, its tests are skipped, and that is said; where nothing may be skipped
/// (`CI=true`), it is an error.
fn unless_skipped(what: &str, made: Result<PathBuf>) -> Result<Option<PathBuf>> {
    match made {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if env::var("CI").is_ok_and(|ci| ci == "true") => Err(error),
        Err(error) => {
            eprintln!("will be skipped: {what}: {error:#}");
            Ok(None)
        }
    }
}

/// Shows a result that is more than a test's name, among the names.
pub fn show(text: &str) {
    println!("{text}");
}

fn start(directory: &Path, programs: &Programs, keycloak: bool) -> Result<Lab> {
    let begun = Instant::now();
    let lab = Lab::start(directory, programs, Options { keycloak, ..Options::default() })?;
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
