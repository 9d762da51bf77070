//! `kubectl stepup explain`.

use std::process::ExitCode;

use super::{Chosen, Named, needs_server, server};
use crate::action::Action;
use crate::client::cli::{Explain, Format};
use crate::client::error::Error;
use crate::client::words::{duration, plain, uses};
use crate::client::{Clock, output};
use crate::wire::explain::{Explained, Explanation, Protection};

/// Columns of the names on the left.
const INDENT: usize = 14;

/// Says what would be asked for the actions that were named, and what would be granted.
pub fn run(args: &Explain, clock: Clock) -> Result<ExitCode, Error> {
    let chosen = Chosen::find(&args.target)?;
    let actions = named(args).actions(&chosen)?;
    needs_server(
        &chosen.profile,
        "what would be asked is up to the cluster: kubectl auth can-i says what you may do now",
    )?;
    let (_, server) = server(&chosen.profile, clock)?;
    let explanation = server.explain(&actions)?;
    match args.output {
        Format::Json => output::json(&explanation),
        Format::Text => lines(&explanation, chosen.profile.has_preflight())
            .iter()
            .flat_map(|line| output::fitted(line, INDENT))
            .for_each(output::line),
    }
    Ok(ExitCode::SUCCESS)
}

fn named(args: &Explain) -> Named<'_> {
    Named {
        words: &args.what,
        subresource: args.subresource.as_deref(),
        namespace: args.namespace.as_deref(),
        all_namespaces: args.all_namespaces,
        cluster_scoped: args.cluster_scoped,
    }
}

fn lines(explanation: &Explanation, has_preflight: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for explained in &explanation.actions {
        let action = plain(&explained.action.to_string());
        match &explained.protection {
            None => lines.push(format!("{action}: no step-up is needed.")),
            Some(protection) => {
                lines.push(format!("{action}: needs a step-up."));
                lines.extend(protected(explained, protection, has_preflight));
            }
        }
        if !explained.recorded_by.is_empty() {
            let rules = plain(&explained.recorded_by.join(", "));
            lines.push(row("recorded", &format!("that you did it, by {rules} (enforcement: audit)")));
        }
    }
    if !explanation.can_step_up && explanation.actions.iter().any(|explained| explained.protection.is_some()) {
        lines.push(format!(
            "You ({}) cannot step up: this cluster knows of no second factor of yours. Ask its administrator.",
            plain(&explanation.user)
        ));
    }
    lines
}

fn protected(explained: &Explained, protection: &Protection, has_preflight: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for rule in &protection.rules {
        let separator = if rule.description.trim().is_empty() { "" } else { ": " };
        lines.push(row("rule", &plain(&format!("{}{separator}{}", rule.name, rule.description.trim()))));
    }
    lines.push(row("sign-in", &sign_in(protection)));
    if let Some(reason) = &protection.reason {
        lines.push(row(
            "reason",
            &match (&reason.hint, &reason.pattern) {
                (Some(hint), _) => format!("required: {}", plain(hint)),
                (None, Some(pattern)) => format!("required, and must match {}", plain(pattern)),
                (None, None) => "required".to_owned(),
            },
        ));
    }
    let grant = &protection.grant;
    lines.push(row("grant", &format!("{}, {}", duration(grant.ttl), uses(grant.uses))));
    lines.extend(
        grant
            .covers
            .iter()
            .enumerate()
            .map(|(number, covered)| row(if number == 0 { "covers" } else { "" }, &plain(covered))),
    );
    if !grant.groups.is_empty() {
        lines.push(row("adds", &format!("the groups {}", plain(&grant.groups.join(", ")))));
    }
    let mut not_covered: Vec<String> = protection.not_covered.iter().map(|what| plain(what)).collect();
    not_covered.push("your other commands and terminals (kubectl stepup elevate --share would)".to_owned());
    lines.extend(not_covered.iter().enumerate().map(|(number, what)| row(if number == 0 { "not" } else { "" }, what)));
    lines.push(row("asked", &how(&explained.action, has_preflight)));
    if let Some(grant) = &protection.covered_by {
        lines.push(row("now", &format!("your grant {} covers it, where its token is held", plain(grant))));
    }
    lines
}

fn sign_in(protection: &Protection) -> String {
    if protection.acr_values.is_empty() {
        return "none will do: the rules contradict each other. Tell your cluster's administrator".to_owned();
    }
    let age = match protection.max_age {
        None => String::new(),
        Some(0) => ", just made".to_owned(),
        Some(age) => format!(", made in the last {}", duration(age)),
    };
    format!("{}{age}", plain(&protection.acr_values.join(" or ")))
}

/// When the question comes.
fn how(action: &Action, has_preflight: bool) -> String {
    if action.reaches_admission() && !action.is_connect() {
        "inside the command, which then goes on (kubectl, helm and others made with client-go)".to_owned()
    } else if has_preflight {
        "by kubectl, before its first request; for other programs: kubectl stepup run, or elevate first".to_owned()
    } else {
        "not by the command, which is refused: kubectl stepup elevate first, or kubectl stepup run".to_owned()
    }
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:<width$}{text}", width = INDENT - 2)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;

    fn explanation(protection: &serde_json::Value) -> Explanation {
        serde_json::from_value(json!({
            "user": "alice", "serverTime": DateTime::UNIX_EPOCH, "canStepUp": true,
            "actions": [{"action": {"verb": "delete", "resource": "namespaces", "namespace": "prod", "name": "prod"},
                "protection": protection}],
        }))
        .unwrap()
    }

    #[test]
    fn the_unprotected_is_said_to_be_so() {
        assert_eq!(lines(&explanation(&json!(null)), false), ["delete namespaces/prod: no step-up is needed."]);
    }

    #[test]
    fn all_that_a_step_up_asks_and_gives_is_said() {
        let text = lines(
            &explanation(&json!({
                "rules": [{"name": "delete-namespace", "description": "Deleting \u{1b}[31mit"}],
                "acrValues": ["mfa", "hwk"], "maxAge": 300, "reason": {"hint": "a ticket"},
                "grant": {"ttl": 300, "uses": 1, "covers": ["delete namespaces/prod"], "groups": ["stepup:x"]},
                "notCovered": ["delete namespaces other than prod"], "coveredBy": "gr-1",
            })),
            false,
        );
        assert_eq!(
            text,
            [
                "delete namespaces/prod: needs a step-up.",
                "  rule        delete-namespace: Deleting [31mit",
                "  sign-in     mfa or hwk, made in the last 5 min",
                "  reason      required: a ticket",
                "  grant       5 min, one use",
                "  covers      delete namespaces/prod",
                "  adds        the groups stepup:x",
                "  not         delete namespaces other than prod",
                "              your other commands and terminals (kubectl stepup elevate --share would)",
                "  asked       inside the command, which then goes on (kubectl, helm and others made with client-go)",
                "  now         your grant gr-1 covers it, where its token is held",
            ]
        );
    }

    #[test]
    fn who_cannot_step_up_is_told() {
        let mut explanation = explanation(&json!({
            "rules": [{"name": "r"}], "acrValues": [], "grant": {"ttl": 60, "covers": []},
        }));
        explanation.can_step_up = false;
        let text = lines(&explanation, false).join("\n");
        assert!(text.contains("the rules contradict each other") && text.contains("cannot step up"), "{text}");
    }
}
