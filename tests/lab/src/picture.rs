//! `make pictures`: what stands on a person's terminal, as SVG for the README. What is drawn is what the built programs
//! wrote to a pseudo-terminal in a lab of its own.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::lab::Lab;
use crate::plan::{Options, Programs};

const LIMIT: Duration = Duration::from_mins(1);
/// Pixels of a character. Half of one is a square, as the QR code wants it.
const WIDTH: usize = 9;
const HEIGHT: usize = 18;
const COLUMNS: usize = 80;
const MARGIN: usize = 18;

/// What is typed on one terminal.
struct Picture {
    /// Of the file, without its extension.
    name: &'static str,
    commands: &'static [&'static str],
    /// The terminal is at the other end of an SSH connection, and the last command is drawn while it waits.
    waits_over_ssh: bool,
}

/// In the order in which they are taken: each may show what those before it did.
const PICTURES: [Picture; 3] = [
    Picture {
        name: "command",
        commands: &["kubectl delete namespace prod", "kubectl stepup status"],
        waits_over_ssh: false,
    },
    Picture {
        name: "explain",
        commands: &["kubectl stepup explain get secret db -n prod", "kubectl stepup history"],
        waits_over_ssh: false,
    },
    Picture { name: "prompt", commands: &["kubectl delete namespace prod"], waits_over_ssh: true },
];

/// How a character looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Plain,
    Bold,
    /// Black on white.
    Paper,
}

type Line = Vec<(char, Look)>;

/// Types what belongs on each picture on a terminal of 80 columns, and draws the terminals into `pictures`.
pub fn run(directory: &Path, programs: &Programs, pictures: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    let lab = Lab::start(directory, programs, Options::default())?;
    fs::create_dir_all(pictures)?;
    for picture in &PICTURES {
        // It may be there from the picture before.
        let _ = lab.admin(&["create", "namespace", "prod"]);
        let written = picture.take(&lab)?;
        fs::write(pictures.join(format!("{}.svg", picture.name)), drawn(&picture.title(), &lines_of(&written)))?;
    }
    Ok(())
}

impl Picture {
    fn title(&self) -> String {
        self.commands.join("; ")
    }

    /// Everything that is written to the terminal, escape sequences and all.
    fn take(&self, lab: &Lab) -> Result<String> {
        let typed = |command: &&str| format!("printf '\\033[1malice$\\033[0m %s\\n' '{command}'; {command}; ");
        let script: String = self.commands.iter().map(typed).collect();
        let script = format!("stty cols {COLUMNS} rows 60; {script}");
        let mut alice = lab.new_session("alice")?;
        alice.set_up(&[])?;
        alice.log_in()?;
        if self.waits_over_ssh {
            alice = alice.with("SSH_CONNECTION", "192.0.2.7 50022 192.0.2.1 22").with("LAB_BROWSER", "ignore");
        }
        let mut terminal = alice.terminal("sh", &["-c", &script])?;
        if self.waits_over_ssh {
            terminal.expect("Waiting for the sign-in, ", LIMIT)?;
            terminal.expect("left", LIMIT)?;
        } else {
            terminal.wait(LIMIT)?;
        }
        Ok(terminal.written())
    }
}

/// What stands on the terminal, as far as the prompt needs one: text, bold, black on white, a line that begins anew.
fn lines_of(written: &str) -> Vec<Line> {
    let mut lines = vec![Line::new()];
    let mut look = Look::Plain;
    let mut rest = written.chars().peekable();
    while let Some(character) = rest.next() {
        let line = lines.last_mut().expect("there is always one");
        match character {
            '\n' => lines.push(Line::new()),
            '\r' if rest.peek() != Some(&'\n') => line.clear(),
            '\x1b' => {
                let sequence: String =
                    std::iter::from_fn(|| rest.next_if(|c| !c.is_ascii_alphabetic())).collect::<String>();
                match (sequence.as_str(), rest.next()) {
                    ("[1", Some('m')) => look = Look::Bold,
                    ("[30;107", Some('m')) => look = Look::Paper,
                    (_, Some('m')) => look = Look::Plain,
                    _ => {}
                }
            }
            c if c.is_control() => {}
            c => line.push((c, look)),
        }
    }
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    // A terminal goes on in its next row.
    lines.into_iter().flat_map(rows_of).collect()
}

fn rows_of(line: Line) -> Vec<Line> {
    if line.is_empty() { vec![line] } else { line.chunks(COLUMNS).map(<[_]>::to_vec).collect() }
}

fn drawn(title: &str, lines: &[Line]) -> String {
    let (width, height) = (COLUMNS * WIDTH + 2 * MARGIN, lines.len() * HEIGHT + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" xml:space=\"preserve\">\n<title>{title}</title>\n<style>text{{font:15px ui-monospace,SFMono-Regular,\
         Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d8dee9;white-space:pre}}.b{{font-weight:bold;fill:#fff}}\
         </style>\n<rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#1d2330\"/>\n"
    );
    let (mut paper, mut ink) = (String::new(), String::new());
    for (row, line) in lines.iter().enumerate() {
        let mut begun = 0;
        while begun < line.len() {
            let look = line[begun].1;
            let end = begun + line[begun..].iter().take_while(|(_, other)| *other == look).count();
            let characters: String = line[begun..end].iter().map(|(character, _)| character).collect();
            match look {
                Look::Plain => text(&mut svg, begun, row, &characters, ""),
                Look::Bold => text(&mut svg, begun, row, &characters, "b"),
                Look::Paper => blocks(&mut paper, &mut ink, begun, row, &characters),
            }
            begun = end;
        }
    }
    let _ = writeln!(
        svg,
        "<path fill=\"#fff\" d=\"{paper}\"/>\n<path shape-rendering=\"crispEdges\" d=\"{ink}\"/>\n</svg>"
    );
    svg
}

fn text(svg: &mut String, column: usize, row: usize, characters: &str, class: &str) {
    let words = characters.trim_start();
    if words.is_empty() {
        return;
    }
    let column = column + characters.chars().count() - words.chars().count();
    let (x, y) = (MARGIN + column * WIDTH, MARGIN + row * HEIGHT + 14);
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let length = words.chars().count() * WIDTH;
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" textLength=\"{length}\"{class}>{words}</text>");
}

/// Half blocks as squares: no font may leave gaps in a QR code.
fn blocks(paper: &mut String, ink: &mut String, column: usize, row: usize, characters: &str) {
    let (x, y) = (MARGIN + column * WIDTH, MARGIN + row * HEIGHT);
    let _ = write!(paper, "M{x} {y}h{}v{HEIGHT}H{x}z", characters.chars().count() * WIDTH);
    let half = HEIGHT / 2;
    for (index, character) in characters.chars().enumerate() {
        let (from, height) = match character {
            '█' => (y, HEIGHT),
            '▀' => (y, half),
            '▄' => (y + half, half),
            _ => continue,
        };
        let _ = write!(ink, "M{} {from}h{WIDTH}v{height}h-{WIDTH}z", x + index * WIDTH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_stands_where_a_terminal_has_it() {
        let lines = lines_of("a\r\n\x1b[1mB\x1b[0mc\r\n\r\x1b[2Kold\r\x1b[2Knew\r\n\x1b[30;107m█▀\x1b[0m");
        let text: Vec<String> = lines.iter().map(|line| line.iter().map(|(c, _)| c).collect()).collect();
        assert_eq!(text, ["a", "Bc", "new", "█▀"]);
        assert_eq!((lines[1][0].1, lines[1][1].1, lines[3][0].1), (Look::Bold, Look::Plain, Look::Paper));
        let svg = drawn("a title", &lines);
        assert!(svg.contains(">new</text>") && !svg.contains(">old<"), "{svg}");
        let rows: Vec<usize> = lines_of(&format!("{}\r\n\r\nend\r\n", "x".repeat(81))).iter().map(Vec::len).collect();
        assert_eq!(rows, [80, 1, 0, 3]);
    }
}
