//! The matrix as it is written down: `docs/compatibility.md`.

use std::fmt::Write;
use std::path::PathBuf;
use std::slice::from_ref;

use lab::clients::Kind;

use super::action::{Action, Place};
use super::{Mode, Why};

/// What was found, or what is expected: for each mode the clients and their cells, in the order of [`Action::ALL`].
#[derive(Clone, Debug, Default)]
pub struct Table {
    bare: Vec<Row>,
    run: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    client: String,
    cells: Vec<String>,
}

impl Table {
    fn rows(&self, mode: Mode) -> &[Row] {
        match mode {
            Mode::Bare => &self.bare,
            Mode::Run => &self.run,
        }
    }

    fn rows_mut(&mut self, mode: Mode) -> &mut Vec<Row> {
        match mode {
            Mode::Bare => &mut self.bare,
            Mode::Run => &mut self.run,
        }
    }

    fn row(&self, mode: Mode, client: &str) -> Option<&Row> {
        self.rows(mode).iter().find(|row| row.client == client)
    }

    /// Adds the client's next cell.
    pub fn put(&mut self, mode: Mode, client: &str, cell: String) {
        let rows = self.rows_mut(mode);
        match rows.iter_mut().find(|row| row.client == client) {
            Some(row) => row.cells.push(cell),
            None => rows.push(Row { client: client.to_owned(), cells: vec![cell] }),
        }
    }

    /// Reads what [`Table::document`] has written.
    pub fn read(document: &str) -> Self {
        let mut table = Self::default();
        for mode in Mode::ALL {
            let Some((_, section)) = document.split_once(heading(mode)) else { continue };
            let lines = section.lines().skip_while(|line| !line.starts_with('|'));
            // The first two are the head.
            for line in lines.take_while(|line| line.starts_with('|')).skip(2) {
                let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
                let client = cells.next().unwrap_or_default();
                table.rows_mut(mode).push(Row { client, cells: cells.collect() });
            }
        }
        table
    }

    /// This, and those rows of `other` that another machine may have found.
    pub fn with_what_was_not_here(mut self, other: &Self) -> Self {
        for mode in Mode::ALL {
            let elsewhere: Vec<Row> = other.not_in(&self, mode).filter(|row| !self.is_outdated(row)).cloned().collect();
            let rows = self.rows_mut(mode);
            rows.extend(elsewhere);
            rows.sort_by_key(|row| minor_of_kubectl(&row.client).unwrap_or(u32::MAX));
        }
        self
    }

    /// Whether a row that is not here is so because its client is now another version. There may be any number of kubectls.
    fn is_outdated(&self, row: &Row) -> bool {
        let family = |client: &str| client.split_once(' ').map_or(client.to_owned(), |(family, _)| family.to_owned());
        let is_of_family = |here: &Row| family(&here.client) == family(&row.client);
        minor_of_kubectl(&row.client).is_none() && self.bare.iter().any(is_of_family)
    }

    fn not_in<'a>(&'a self, other: &'a Self, mode: Mode) -> impl Iterator<Item = &'a Row> {
        self.rows(mode).iter().filter(move |row| other.row(mode, &row.client).is_none())
    }

    /// Where it is not as expected. A kubectl that nobody has written down is expected to do as the newest does; what is not
    /// on this machine is not missed.
    pub fn differences_from(&self, expected: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for mode in Mode::ALL {
            let newest = expected.rows(mode).iter().rfind(|row| minor_of_kubectl(&row.client).is_some());
            for row in self.rows(mode) {
                let newest = newest.filter(|_| minor_of_kubectl(&row.client).is_some());
                let Some(wanted) = expected.row(mode, &row.client).or(newest) else {
                    differences.push(format!("{}{}: there is no such row", mode.prefix(), row.client));
                    continue;
                };
                for (action, (found, wanted)) in Action::ALL.iter().zip(row.cells.iter().zip(&wanted.cells)) {
                    if found != wanted {
                        let (prefix, client, name) = (mode.prefix(), &row.client, action.name());
                        differences.push(format!("{prefix}{client}, {name}: found {found:?}, not {wanted:?}"));
                    }
                }
            }
            let outdated = expected.not_in(self, mode).filter(|row| self.is_outdated(row));
            differences.extend(outdated.map(|row| format!("{}{}: is now another", mode.prefix(), row.client)));
        }
        differences
    }

    /// Both tables and their notes, and which of the expected rows could not be tried on this machine.
    pub fn shown_beside(&self, expected: &Self) -> String {
        let not_run: Vec<&str> = expected.not_in(self, Mode::Bare).map(|row| row.client.as_str()).collect();
        let not_run = match not_run[..] {
            [] => String::new(),
            _ => format!("\nNot on this machine, and so not run here: {}.\n", not_run.join(", ")),
        };
        format!("{}\n{}{not_run}", self.tables(), notes())
    }

    /// All of `docs/compatibility.md`.
    pub fn document(&self) -> String {
        format!("{BEGINNING}{}\n## Notes\n\n{}\n{}", self.tables(), notes(), what_is_run())
    }

    fn tables(&self) -> String {
        let mut text = String::new();
        for mode in Mode::ALL {
            let head = [""].into_iter().chain(Action::ALL.map(Action::name)).map(str::to_owned).collect();
            let rows = self.rows(mode).iter().map(|row| [from_ref(&row.client), &row.cells].concat());
            let _ = write!(
                text,
                "\n{}\n\n{}",
                heading(mode),
                markdown(&[head].into_iter().chain(rows).collect::<Vec<_>>())
            );
        }
        text
    }
}

fn notes() -> String {
    Why::ALL.iter().fold(String::new(), |notes, why| format!("{notes}{}. {}\n", why.number(), why.note()))
}

fn heading(mode: Mode) -> &'static str {
    match mode {
        Mode::Bare => "## The command itself",
        Mode::Run => "## Under `kubectl stepup run`",
    }
}

fn minor_of_kubectl(client: &str) -> Option<u32> {
    client.strip_prefix("kubectl 1.")?.parse().ok()
}

const BEGINNING: &str = "\
# Compatibility

What it takes until a client has done something that is protected. `make test` tries it again on a real API server
(Kubernetes 1.37), with every client that is on the machine; rows of other kubectls stay as they were found. `make matrix`
writes it down here.

- **one**: one command. It is run as it is, and asks once.
- **two**: two commands. It is refused; after `kubectl stepup elevate` in the same terminal, which asks once, it goes through.
- **refused**: that does not help either.
- **–**: the client cannot do it.

Every cell has a namespace, a person and a terminal of its own, so that nothing that was granted to another one helps.
Everybody is set up by `kubectl stepup setup`, which turns preflight on.
";

/// What is typed for each cell.
fn what_is_run() -> String {
    let place =
        Place { namespace: "NS".to_owned(), node: "NODE".to_owned(), port: 8080, chart: PathBuf::from("CHART") };
    let head = ["", "kubectl", "helm", "library"].map(str::to_owned).to_vec();
    let rows = Action::ALL.map(|action| {
        let line = |kind| action.line(kind, &place).map_or("–".to_owned(), |line| format!("`{line}`"));
        vec![action.name().to_owned(), line(Kind::Kubectl), line(Kind::Helm), line(Kind::Library)]
    });
    let libraries = "Python, JavaScript and client-go are small programs made with these libraries, in \
                     [tests/lab/clients](../tests/lab/clients).\n`kubectl delete --raw` is the one way of kubectl to delete a \
                     collection: `delete --all` lists, and deletes one by one.";
    format!("## What is run\n\n{libraries}\n\n{}", markdown(&[head].into_iter().chain(rows).collect::<Vec<_>>()))
}

/// A table whose columns are aligned in plain text too.
fn markdown(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text
}
