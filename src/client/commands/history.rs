//! `kubectl stepup history`.

use std::process::ExitCode;

use super::{Chosen, needs_server, server};
use crate::client::cli::{Format, History as Args};
use crate::client::error::Error;
use crate::client::words::plain;
use crate::client::{Clock, output};
use crate::wire::history::{Entry, History, What};

/// Columns of time and event on the left.
const INDENT: usize = 33;

/// Shows what became of the person's step-ups, newest first.
pub fn run(args: &Args, clock: Clock) -> Result<ExitCode, Error> {
    let profile = Chosen::find(&args.target)?.profile;
    needs_server(
        &profile,
        "what became of a request is in the cluster's audit log, and sign-ins are in the provider's",
    )?;
    let (_, server) = server(&profile, clock)?;
    let history = server.history(args.user.as_deref(), args.limit)?;
    match args.output {
        Format::Json => output::json(&history),
        Format::Text => lines(&history).iter().flat_map(|line| output::fitted(line, INDENT)).for_each(output::line),
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(history: &History) -> Vec<String> {
    if history.entries.is_empty() {
        return vec![format!("{}: nothing in the last {} days.", plain(&history.user), history.kept_days)];
    }
    history.entries.iter().map(line).collect()
}

fn line(entry: &Entry) -> String {
    let what = match entry.what {
        What::Asked => "asked",
        What::Granted => "granted",
        What::Used => "used",
        What::Declined => "declined",
        What::Refused => "refused",
        What::GivenUp => "given up",
    };
    let mut details = Vec::new();
    if !entry.rules.is_empty() {
        details.push(format!("rule {}", entry.rules.join(", ")));
    }
    details.extend(entry.acr.iter().map(|acr| format!("sign-in {acr}")));
    details.extend(entry.reason.iter().map(|reason| format!("reason {reason}")));
    details.extend(entry.grant.clone());
    details.extend(entry.by.iter().map(|by| format!("by {by}")));
    details.extend(entry.message.clone().or(entry.code.clone()));
    let actions = if entry.actions.is_empty() { String::new() } else { format!("{}  ", entry.actions.join("; ")) };
    let details = if details.is_empty() { String::new() } else { format!("({})", details.join("; ")) };
    let time = entry.time.format("%Y-%m-%d %H:%M:%SZ");
    format!("{time}  {what:<9}  {}", plain(&format!("{actions}{details}")).trim_end())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_when_what_and_why() {
        let history: History = serde_json::from_value(json!({
            "user": "alice", "serverTime": DateTime::UNIX_EPOCH, "keptDays": 30, "entries": [
                {"id": "au-1", "time": "2026-11-24T05:00:01Z", "what": "granted", "actions": ["delete namespaces/prod"],
                 "rules": ["delete-namespace"], "acr": "mfa", "reason": "OPS-1\u{1b}[2J", "grant": "gr-1"},
                {"id": "au-2", "time": "2026-11-24T05:00:00Z", "what": "declined", "actions": [], "rules": [],
                 "code": "timed-out"},
            ],
        }))
        .unwrap();
        assert_eq!(
            lines(&history),
            [
                "2026-11-24 05:00:01Z  granted    delete namespaces/prod  (rule delete-namespace; sign-in mfa; reason \
                 OPS-1[2J; gr-1)",
                "2026-11-24 05:00:00Z  declined   (timed-out)",
            ]
        );
    }
}
