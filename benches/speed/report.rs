//! What is printed: the one place that writes to standard output.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its results")]

use std::time::Duration;

/// A table: the first column is text, the others are figures.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One with these columns.
    pub fn new(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Prints it.
    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[column] - cell.chars().count());
                if column == 0 {
                    line.push_str(cell);
                    line.push_str(&gap);
                } else {
                    line.push_str("   ");
                    line.push_str(&gap);
                    line.push_str(cell);
                }
            }
            println!("{}", line.trim_end());
        }
    }
}

/// The first lines of the run.
pub fn heading(facts: &str) {
    let build = if cfg!(debug_assertions) { "debug build (its figures mean little)" } else { "release build" };
    println!("kubectl-stepup {}, {build}, {facts}", env!("CARGO_PKG_VERSION"));
}

/// A part begins.
pub fn part(title: &str) {
    println!("\n{title}");
}

/// A line below a table.
pub fn note(text: &str) {
    println!("  {text}");
}

/// What was aimed at, and whether this run got there.
pub fn aim(aim: &str, met: bool) {
    println!("  aim: {aim}: {}", if met { "met" } else { "MISSED" });
}

/// Something went wrong.
pub fn problem(error: &anyhow::Error) {
    eprintln!("bench: {error:#}");
}

/// `1.23 ms`.
pub fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// `1.23`, for a ratio.
pub fn ratio(of: f64, to: f64) -> String {
    format!("{:.2} x", of / to)
}

/// `12,345`.
pub fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
