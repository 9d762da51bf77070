//! `kubectl stepup explain`.

use std::process::ExitCode;

use super::{Chosen, Named, needs_server, server};
use crate::action::Action;
use crate::client::cli::{Explain, Format};
use crate::client::error::Error;
use crate::client::preflight::digest::Kept;
use crate::client::words::{duration, plain, uses};
use crate::client::{Clock, output};
use crate::wire::challenge::WebhookTerms;
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
        Format::Text => {
            // Without them it is as with most servers.
            let webhooks = server.step_up_terms().ok().and_then(|terms| terms.webhooks);
            let asking = Asking {
                has_preflight: chosen.profile.has_preflight(),
                webhooks: webhooks.unwrap_or(WebhookTerms { admission: true, authorization: true }),
                digest: Kept::read(&chosen.profile.files),
            };
            lines(&explanation, &asking).iter().flat_map(|line| output::fitted(line, INDENT)).for_each(output::line);
        }
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

/// What decides when somebody is asked.
struct Asking {
    has_preflight: bool,
    webhooks: WebhookTerms,
    /// What is protected, as far as we know.
    digest: Option<Kept>,
}

fn lines(explanation: &Explanation, asking: &Asking) -> Vec<String> {
    let mut lines = Vec::new();
    for explained in &explanation.actions {
        let action = plain(&explained.action.to_string());
        match &explained.protection {
            None => lines.push(format!("{action}: no step-up is needed.")),
            Some(protection) => {
                lines.push(format!("{action}: needs a step-up."));
                lines.extend(protected(explained, protection, asking));
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

fn protected(explained: &Explained, protection: &Protection, asking: &Asking) -> Vec<String> {
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
    lines.push(row("asked", asking.about(&explained.action)));
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

impl Asking {
    /// When the question about `action` comes.
    fn about(&self, action: &Action) -> &'static str {
        let WebhookTerms { admission, authorization } = self.webhooks;
        // A change of what may not be read is denied like a read.
        let is_hidden = || {
            let read = action.read_of_changed().filter(|_| authorization);
            read.is_some_and(|read| self.digest.as_ref().is_some_and(|digest| digest.protects(&read)))
        };
        if admission && action.reaches_admission() && !action.is_connect() && !is_hidden() {
            "inside the command, which then goes on (kubectl, helm and others made with client-go)"
        } else if admission && !authorization && !action.reaches_admission() {
            "never: this cluster asks stepup-server about writes and connections only"
        } else if self.has_preflight {
            "by kubectl, before its first request; for other programs: kubectl stepup run, or elevate first"
        } else {
            "not by the command, which is refused: kubectl stepup elevate first, or kubectl stepup run"
        }
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

    fn asking(admission: bool, authorization: bool) -> Asking {
        Asking { has_preflight: false, webhooks: WebhookTerms { admission, authorization }, digest: None }
    }

    #[test]
    fn when_it_is_asked_depends_on_what_the_cluster_asks_the_server() {
        let action = |verb: &str| Action { name: Some("db".to_owned()), ..Action::new(verb, "", "secrets") };
        for (admission, authorization, verb, expected) in [
            (true, true, "delete", "inside the command"),
            (true, true, "get", "not by the command"),
            (true, false, "get", "never"),
            (true, false, "patch", "inside the command"),
            (false, false, "delete", "not by the command"),
        ] {
            let told = asking(admission, authorization).about(&action(verb));
            assert!(told.starts_with(expected), "{admission} {authorization} {verb}: {told}");
        }
        let kept = asking(false, false);
        assert!(Asking { has_preflight: true, ..kept }.about(&action("delete")).starts_with("by kubectl, before"));
    }

    #[test]
    fn the_unprotected_is_said_to_be_so() {
        assert_eq!(
            lines(&explanation(&json!(null)), &asking(true, true)),
            ["delete namespaces/prod: no step-up is needed."]
        );
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
            &asking(true, true),
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
        let text = lines(&explanation, &asking(true, true)).join("\n");
        assert!(text.contains("the rules contradict each other") && text.contains("cannot step up"), "{text}");
    }
}
