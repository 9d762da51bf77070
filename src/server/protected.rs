//! What both webhooks do about a request that a rule is about, and how they word it.

use crate::action::Action;
use crate::server::app::App;
use crate::server::audit::{Event, Record, Source, Verdict};
use crate::server::policy::{Decision, Requirement, WouldAsk};
use crate::server::store::GrantRecord;
use crate::wire::challenge::DeclineCause;

/// What is demanded of the request, and the record of it so far; `None` where it goes on unasked. What rules under trial
/// would have asked, and conditions that could not be evaluated, are noted.
pub async fn demanded(
    app: &App,
    decision: Decision<'_>,
    audit: Record,
    source: &Source,
) -> Option<(Requirement, Record)> {
    match decision {
        Decision::Unprotected => None,
        Decision::Audit(would_ask) => {
            note_would_ask(app, &would_ask, &audit, source).await;
            None
        }
        Decision::Protected { requirement, would_ask } => {
            note_would_ask(app, &would_ask, &audit, source).await;
            note_faults(app, &requirement);
            let audit = Record { rules: requirement.rules.clone(), ..audit };
            Some((requirement, audit))
        }
    }
}

/// Why somebody need not be asked at all.
pub struct Hopeless {
    /// For audit records.
    pub code: &'static str,
    /// For the person.
    pub message: String,
}

/// Whether asking this user to step up would be in vain.
pub fn hopeless(
    app: &App,
    user: &str,
    groups: &[String],
    requirement: &Requirement,
    action: &Action,
) -> Option<Hopeless> {
    if requirement.acr_values.is_empty() {
        let message = format!(
            "{}, but these rules contradict each other and no sign-in satisfies them all: tell your cluster's administrator",
            step_up_required(requirement, action)
        );
        return Some(Hopeless { code: "contradictory-rules", message });
    }
    (!app.can_step_up(user, groups)).then(|| Hopeless {
        code: "cannot-step-up",
        message: format!(
            "{}, and {user} cannot step up: no second factor is known for this identity",
            step_up_required(requirement, action)
        ),
    })
}

/// `step-up required to delete namespaces/prod (rule delete-namespace)`.
pub fn step_up_required(requirement: &Requirement, action: &Action) -> String {
    let rules = if requirement.rules.len() == 1 { "rule" } else { "rules" };
    format!("step-up required to {action} ({rules} {})", requirement.rules.join(", "))
}

/// The text of a denial that the plugin cannot answer within the command.
pub fn how_to_elevate(requirement: &Requirement, action: &Action) -> String {
    format!("{}: type \"kubectl stepup elevate\", then repeat the command", step_up_required(requirement, action))
}

/// Why a challenge ended, after "and".
pub fn why_it_ended(cause: DeclineCause) -> &'static str {
    match cause {
        DeclineCause::Declined => "it was declined; repeat the command in a few seconds to be asked again",
        DeclineCause::NoReason => {
            "a reason is required: set KUBECTL_STEPUP_REASON and repeat the command, or type \"kubectl stepup elevate --reason TEXT\" first"
        }
        DeclineCause::TimedOut => "nobody completed the sign-in in time; repeat the command to be asked again",
        DeclineCause::ProviderFailed => {
            "the identity provider could not be reached; repeat the command once it is back"
        }
        DeclineCause::TooWeak => {
            "the sign-in was not enough (too weak, too old, or another account's); check your second factor at the identity provider"
        }
    }
}

/// The record of a use of `grant`.
pub fn used(audit: &Record, grant: &GrantRecord) -> Record {
    Record {
        event: Event::Use,
        decision: Some(Verdict::Allowed),
        acr: Some(grant.grant.acr.clone()),
        auth_time: Some(grant.grant.auth_time),
        reason: grant.grant.reason.clone(),
        grant: Some(grant.grant.id.clone()),
        challenge: grant.challenge.clone(),
        ..audit.clone()
    }
}

/// Records what rules with `enforcement: audit` would have asked. Such a rule must never stand in anybody's way, so a
/// log that cannot be written is reported, and the request goes on.
async fn note_would_ask(app: &App, would_ask: &[WouldAsk<'_>], audit: &Record, source: &Source) {
    if would_ask.is_empty() {
        return;
    }
    let record = Record {
        event: Event::WouldChallenge,
        decision: Some(Verdict::Allowed),
        rules: would_ask.iter().map(|asked| asked.rule.name.clone()).collect(),
        ..audit.clone()
    };
    if let Err(error) = app.record(vec![record.from(source)]).await {
        tracing::error!(%error, "what a rule would have asked could not be recorded");
    }
}

/// Reports conditions that could not be evaluated and therefore count as met.
fn note_faults(app: &App, requirement: &Requirement) {
    for fault in &requirement.faults {
        tracing::warn!(fault, "a condition could not be evaluated and counts as met");
        app.metrics.condition_failed(fault.split(':').next().unwrap_or_default());
    }
}
