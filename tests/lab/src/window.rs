//! A terminal window with a shell in it, where a person types one command after the other.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::session::{Outcome, Session};
use crate::terminal::Terminal;

/// Longer than any command of a test takes; waiting for a person or a client's retries is part of it.
const LIMIT: Duration = Duration::from_mins(2);
/// The shell's prompt, so that every prompt tells how the command before it ended.
const PROMPT: (&str, &str) = ("<exit ", ">$ ");

/// A shell on a terminal of its own. What it runs is killed with the window.
#[derive(Debug)]
pub struct Window {
    terminal: Terminal,
    profile: String,
}

impl Window {
    pub(crate) fn open(session: &Session) -> Result<Self> {
        let terminal = Terminal::run("sh".as_ref(), |command| {
            session.arrange(command);
            command.env("KUBECTL_STEPUP_PROMPT", "auto").env_remove("ENV");
            // A line that rewrites itself could take the shell's prompt with it.
            command.env("NO_COLOR", "1");
            command.env("PS1", format!("{}$?{}", PROMPT.0, PROMPT.1));
        })?;
        let mut window = Self { terminal, profile: session.name().to_owned() };
        window.outcome()?;
        // What is typed would otherwise be seen among what is printed.
        window.run("stty -echo")?.succeeded()?;
        Ok(window)
    }

    /// Types a command line and waits for it to end.
    pub fn run(&mut self, line: &str) -> Result<Outcome> {
        self.start(line)?;
        self.outcome()
    }

    /// Types a line: a command, or an answer to what a command asks.
    pub fn start(&mut self, line: &str) -> Result<()> {
        self.terminal.type_line(line)
    }

    /// Waits until `text` appears.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        self.terminal.expect(text, LIMIT)
    }

    /// Waits until `text` appears, and says whether it does before the command ends.
    pub fn shows(&mut self, text: &str) -> Result<bool> {
        self.terminal.expect_before(text, PROMPT.0, LIMIT)
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&mut self) -> Result<()> {
        self.terminal.interrupt()
    }

    /// Waits for the command to end. On a terminal stdout and stderr arrive as one, so both of the outcome are all of it.
    pub fn outcome(&mut self) -> Result<Outcome> {
        self.terminal.expect(PROMPT.0, LIMIT)?;
        self.terminal.expect(PROMPT.1, LIMIT)?;
        let text = self.terminal.text();
        let (before, code) = text.rsplit_once(PROMPT.0).context("no prompt")?;
        let code: i32 = code.split('>').next().unwrap_or_default().parse().context("no exit code in the prompt")?;
        let shown = before.rsplit_once(PROMPT.1).map_or(before, |(_, shown)| shown);
        let status = ExitStatus::from_raw(if code > 128 { code - 128 } else { code << 8 });
        Ok(Outcome { status, stdout: shown.to_owned(), stderr: shown.to_owned() })
    }

    /// The token that the next command in this window would begin with.
    pub fn token(&mut self) -> Result<String> {
        // A shell in between, because kubectl-stepup knows commands by their process.
        let printed = self.run(&format!("sh -c 'kubectl-stepup get-token --profile {}; :'", self.profile))?;
        token_in(&printed.succeeded()?.stdout)
    }
}

/// The token of a printed `ExecCredential`.
pub(crate) fn token_in(printed: &str) -> Result<String> {
    let credential: Value = printed
        .lines()
        .find_map(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("no credential in {printed}"))?;
    Ok(credential["status"]["token"].as_str().context("a credential without a token")?.to_owned())
}
