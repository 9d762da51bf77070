//! `make demo`: the project's story on one screen, and an error if any of it is not so.

use std::io::IsTerminal;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::plan::{Options, Programs};
use crate::process::await_that;
use crate::session::Session;
use crate::terminal::Terminal;

const COMMAND_LIMIT: Duration = Duration::from_mins(3);

/// Runs the demo in a lab of its own. With `interactive` a person signs in, in a browser of their choice.
pub fn run(directory: &Path, programs: &Programs, interactive: bool) -> Result<()> {
    let screen = Screen { colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    screen.tell("Starting a Kubernetes control plane, an OpenID provider and stepup-server on this machine …");
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    let lab = Lab::start(directory, programs, Options::default())?;
    let mut alice = lab.new_session("alice")?;
    alice.set_up(if interactive { &["--no-browser"] } else { &[] })?;
    if interactive {
        screen.tell(
            "You are alice. In another terminal `make credentials` shows her password and current one-time code.",
        );
        screen.tell("Your browser does not know the lab's certificate authority: accept its warning.");
    } else {
        screen.tell(
            "You are alice. A program in place of a browser signs her in: password, and one-time code when asked.",
        );
    }
    alice = alice.with("KUBECTL_STEPUP_PROMPT", if interactive { "auto" } else { "always" });
    let story = Story { screen, lab: &lab, alice: &alice, interactive };

    story.screen.chapter("The day begins: an ordinary sign-in");
    story.types(&["kubectl", "stepup", "login"])?;
    story.types(&["kubectl", "create", "namespace", "prod"])?;
    let sign_ins = alice.sign_ins();

    story.screen.chapter("The policy says: deleting prod takes a fresh sign-in with a second factor");
    story.types(&["kubectl", "delete", "namespace", "prod"])?;

    story.screen.chapter("What happened meanwhile");
    if !interactive {
        ensure!(alice.sign_ins() == sign_ins + 1, "expected exactly one more sign-in:\n{}", alice.browser_log());
    }
    story.show_requests()?;
    ensure!(
        alice.kubectl(&["get", "namespace", "prod"])?.stderr.contains("NotFound"),
        "the namespace prod is still there"
    );

    story.screen.chapter("Everything is normal again");
    story.types(&["kubectl", "stepup", "status"])?;
    story.types(&["kubectl", "get", "namespaces"])?;

    story.screen.chapter("The audit log of stepup-server");
    story.show_audit()?;
    println!();
    story.screen.tell("As it should be. `make lab` gives you a lab that stays.");
    Ok(())
}

struct Story<'a> {
    screen: Screen,
    lab: &'a Lab,
    alice: &'a Session,
    interactive: bool,
}

impl Story<'_> {
    /// Shows a command as typed at a prompt, and everything that appears on the terminal until it has ended.
    fn types(&self, words: &[&str]) -> Result<()> {
        let line = words.join(" ");
        self.screen.command(&line);
        let status = if self.interactive {
            let mut command = self.alice.command(words[0]);
            command.args(&words[1..]).stdin(Stdio::inherit()).status()?
        } else {
            let terminal = Terminal::run_shown(Path::new(words[0]), |command| {
                self.alice.arrange(command);
                command.args(&words[1..]);
            })?;
            terminal.finish(COMMAND_LIMIT)?.0
        };
        ensure!(status.success(), "`{line}` failed ({status})");
        Ok(())
    }

    /// What the API server was asked about the namespace, and how it answered.
    fn show_requests(&self) -> Result<()> {
        let about_prod = |event: &Value| {
            event["stage"] == "ResponseComplete"
                && event["verb"] == "delete"
                && event["objectRef"]["resource"] == "namespaces"
                && event["objectRef"]["name"] == "prod"
        };
        let events: Vec<Value> = self.lab.kube_audit_events()?.into_iter().filter(about_prod).collect();
        for event in &events {
            let annotations = event["annotations"].as_object().into_iter().flatten();
            let ours: Vec<String> = annotations
                .filter(|(name, _)| name.contains("kubectl-stepup"))
                .map(|(name, value)| format!("{}={}", name.rsplit('/').next().unwrap_or(name), text(value)))
                .collect();
            println!(
                "  {}  DELETE /api/v1/namespaces/prod  by {}  {} {}  {}",
                clock(&event["requestReceivedTimestamp"]),
                text(&event["user"]["username"]),
                event["responseStatus"]["code"],
                meaning(&event["responseStatus"]["code"]),
                ours.join(" "),
            );
        }
        let codes: Vec<&Value> = events.iter().map(|event| &event["responseStatus"]["code"]).collect();
        ensure!(
            matches!(codes.as_slice(), [first, .., last] if **first == 429 && **last == 200),
            "expected a 429 and then a 200, the API server's audit log says {codes:?}"
        );
        Ok(())
    }

    /// stepup-server's records, a line each.
    fn show_audit(&self) -> Result<()> {
        const EXPECTED: [&str; 4] = ["challenge", "step-up", "mint", "use"];
        let records = await_that(Duration::from_secs(5), || {
            let records = self.lab.audit_records()?;
            let missing = EXPECTED.iter().find(|event| !records.iter().any(|record| record["event"] == **event));
            match missing {
                Some(event) => bail!("the audit log has no {event:?}"),
                None => Ok(records),
            }
        })?;
        for record in &records {
            let details: Vec<String> = ["user", "actions", "rules", "acr", "reason", "grant", "challenge", "decision"]
                .iter()
                .filter(|name| !record[**name].is_null())
                .map(|name| format!("{name}={}", text(&record[*name])))
                .collect();
            println!("  {}  {:<9}  {}", clock(&record["time"]), text(&record["event"]), details.join(" "));
        }
        Ok(())
    }
}

/// Plain text, with a little emphasis where the terminal has colours.
struct Screen {
    colours: bool,
}

impl Screen {
    fn tell(&self, line: &str) {
        println!("{}", self.paint("2", line));
    }

    fn chapter(&self, title: &str) {
        println!("\n{}", self.paint("1", &format!("# {title}")));
    }

    fn command(&self, line: &str) {
        println!("\n{} {line}", self.paint("1;32", "alice$"));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The time of day of an RFC 3339 timestamp, to the tenth of a second.
fn clock(timestamp: &Value) -> &str {
    let timestamp = timestamp.as_str().unwrap_or_default();
    timestamp.get(11..21).unwrap_or(timestamp)
}

fn meaning(code: &Value) -> &'static str {
    match code.as_u64() {
        Some(200) => "done",
        Some(429) => "step-up required",
        _ => "",
    }
}

/// A JSON value as a person writes it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
