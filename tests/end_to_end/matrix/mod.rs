//! Every client and every action, each on the real API server: does one command do, does it take two, or is it refused?
//!
//! Nothing is declared: the command is run as it is, and if it is refused, `kubectl stepup elevate` and the same command once
//! more. What was found is compared with `docs/compatibility.md`, which `make matrix` writes.

mod action;
mod table;

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use lab::clients::{Client, Kind};
use lab::window::Window;
use lab::{Lab, Options, Session, Test, suite};

use action::{Action, Place};
use table::Table;

/// Most of a cell's time is spent waiting: for the second of `Retry-After`, for the provider.
const CELLS_AT_A_TIME: usize = 4;
/// Asks for `docs/compatibility.md` to be written, not compared.
const WRITE: &str = "WRITE_MATRIX";

pub fn tests() -> Vec<Test> {
    lab::tests![every_client_and_every_action]
}

/// With or without `kubectl stepup run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The command itself.
    Bare,
    /// The command under `kubectl stepup run --`.
    Run,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Bare, Self::Run];

    fn prefix(self) -> &'static str {
        match self {
            Self::Bare => "",
            Self::Run => "kubectl stepup run -- ",
        }
    }
}

/// What it took.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// The command, and one sign-in within it.
    One,
    /// The command, `kubectl stepup elevate` with one sign-in, and the command again.
    Two(Why),
    /// That did not help either; all that was shown.
    Refused(String),
    /// This client cannot do it.
    Nothing(Why),
}

/// Why one command did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// 403.
    Forbidden,
    /// 403, and the client keeps to itself what the server said.
    ForbiddenUnsaid,
    /// 429, at once the end.
    NotRepeated,
    /// 429 and more, with the token that was refused.
    SameToken,
    /// There is no command for it.
    NoSuchCommand,
}

impl Why {
    const ALL: [Self; 5] =
        [Self::Forbidden, Self::ForbiddenUnsaid, Self::NotRepeated, Self::SameToken, Self::NoSuchCommand];

    /// The number of its note.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    pub fn note(self) -> &'static str {
        match self {
            Self::Forbidden => {
                "A read or a connection is refused with a 403, which no client repeats; preflight is for kubectl alone. The \
                 message says\n   to type `kubectl stepup elevate`. (helm reads its releases, which are secrets, before it \
                 does anything else.)"
            }
            Self::ForbiddenUnsaid => "The same, and this client keeps the message to itself: it shows but the status.",
            Self::NotRepeated => {
                "This client does not repeat a write that is answered 429 with `Retry-After`, as client-go does."
            }
            Self::SameToken => {
                "This client repeats a write that is answered 429, but with the token that it had: it does not run the \
                 plugin again. Its third\n   try is answered 403."
            }
            Self::NoSuchCommand => "helm has no command that does it.",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => write!(f, "one"),
            Self::Two(why) => write!(f, "two ({})", why.number()),
            Self::Refused(shown) => {
                write!(f, "refused: {}", shown.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default())
            }
            Self::Nothing(why) => write!(f, "– ({})", why.number()),
        }
    }
}

/// One cell: what is tried with what.
struct Cell<'a> {
    client: &'a Client,
    action: Action,
    mode: Mode,
}

fn every_client_and_every_action(lab: &Lab) -> Result<()> {
    let policy = include_str!("policy.yaml").to_owned();
    let lab = lab.another("matrix", Options { policy: Some(policy), ..Options::default() })?;
    let begun = Instant::now();
    action::write_chart(&lab)?;
    let clients = lab.clients()?;
    let cells: Vec<Cell<'_>> = clients
        .iter()
        .flat_map(|client| Action::ALL.map(|action| Mode::ALL.map(|mode| Cell { client, action, mode })))
        .flatten()
        .collect();

    let verdicts = in_parallel(&cells, |cell| cell.judge(&lab));

    let (mut found, mut problems) = (Table::default(), Vec::new());
    for (cell, verdict) in cells.iter().zip(verdicts) {
        let shown = verdict.as_ref().map_or("?".to_owned(), Verdict::to_string);
        found.put(cell.mode, &cell.client.name, shown);
        match verdict {
            Ok(Verdict::Refused(shown)) => problems.push(format!("{cell} is refused:\n{shown}")),
            Ok(_) => {}
            Err(error) => problems.push(format!("{cell}: {error:#}")),
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let committed = fs::read_to_string(&file).unwrap_or_default();
    let expected = Table::read(&committed);
    let seconds = begun.elapsed().as_secs();
    suite::show(&format!("\n{} cells in {seconds} s\n\n{}", cells.len(), found.shown_beside(&expected)));
    ensure!(problems.is_empty(), "{}", problems.join("\n\n"));

    if std::env::var_os(WRITE).is_some() {
        return Ok(fs::write(&file, found.with_what_was_not_here(&expected).document())?);
    }
    let differences = found.differences_from(&expected);
    ensure!(differences.is_empty(), "{} says otherwise:\n{}", file.display(), differences.join("\n"));
    ensure!(
        expected.document() == committed,
        "the tables of {} are right, but not its text: type \"make matrix\"",
        file.display()
    );
    Ok(())
}

/// The results of `work`, in the order of `items`.
fn in_parallel<I: Sync, R: Send>(items: &[I], work: impl Fn(&I) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(item)));
        }
    };
    let mut all: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..CELLS_AT_A_TIME).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}, {}", self.mode.prefix(), self.client.name, self.action.name())
    }
}

/// How one try of a command went.
struct Try {
    done: bool,
    shown: String,
}

impl Cell<'_> {
    fn judge(&self, lab: &Lab) -> Result<Verdict> {
        if !self.action.is_for(self.client.kind) {
            return Ok(Verdict::Nothing(Why::NoSuchCommand));
        }
        // Nothing that another cell brought about helps this one.
        let person = lab.new_session(&lab.name_like("alice"))?.with_programs_of(&self.client.directory)?;
        person.set_up(&[])?;
        person.log_in()?;
        let place = self.action.place(lab, self.client, &person)?;
        let mut window = person.window()?;
        let before = person.sign_ins();

        let asked = || person.sign_ins() - before;

        let first = self.attempt(lab, &place, &mut window)?;
        if first.done {
            ensure!(asked() == 1, "it was done with {} sign-ins:\n{}", asked(), first.shown);
            return Ok(Verdict::One);
        }
        ensure!(asked() == 0, "it was refused after a sign-in:\n{}", first.shown);
        let elevate = window.run("kubectl stepup elevate")?;
        if !elevate.status.success() {
            return Ok(Verdict::Refused(first.shown));
        }
        let why = why(lab, &person, &first)?;
        let second = self.attempt(lab, &place, &mut window)?;
        if !second.done {
            return Ok(Verdict::Refused(elevate.stdout + &second.shown));
        }
        ensure!(asked() == 1, "it was done with {} sign-ins:\n{}", asked(), second.shown);
        Ok(Verdict::Two(why))
    }

    fn attempt(&self, lab: &Lab, place: &Place, window: &mut Window) -> Result<Try> {
        let line = self.action.line(self.client.kind, place).context("a line")?;
        window.start(&format!("{}{line}", self.mode.prefix()))?;
        // What goes on until it is interrupted is done when it has been seen to work.
        let worked = match (self.action, self.client.kind) {
            (Action::Watch, _) => action::watches(lab, place, window)?,
            (Action::PortForward, Kind::Kubectl) => action::forwards(place, window)?,
            _ => {
                let outcome = window.outcome()?;
                let done = outcome.status.success();
                if done {
                    self.action.ensure_done(lab, self.client.kind, place, &outcome.stdout)?;
                }
                return Ok(Try { done, shown: outcome.stdout });
            }
        };
        if worked {
            window.interrupt()?;
        }
        Ok(Try { done: worked, shown: window.outcome()?.stdout })
    }
}

/// Why the person's command was refused, going by what it was answered and what it showed.
fn why(lab: &Lab, person: &Session, refused: &Try) -> Result<Why> {
    let answers = lab.answers_to(person.name())?;
    let count = |code: u64| answers.iter().filter(|answer| **answer == code).count();
    let is_said = refused.shown.contains("step-up required");
    Ok(match (count(429), count(403)) {
        (0, 1..) if is_said => Why::Forbidden,
        (0, 1..) => Why::ForbiddenUnsaid,
        (1, 0) if is_said => Why::NotRepeated,
        (2.., 1..) => Why::SameToken,
        _ => bail!("answered {answers:?}:\n{}", refused.shown),
    })
}
