//! What `/metrics` shows: Prometheus names and units, and labels whose number of values is bounded.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::audit::{Event, Record};

/// Media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Most rules that get a label of their own: a policy may have a hundred thousand, and lose and gain them for months.
const MAX_RULES: usize = 1000;
/// The label that the others share.
const OTHER_RULES: &str = "(other)";

type ByEndpoint = Family<EndpointLabel, Histogram, fn() -> Histogram>;

/// Counters, gauges and the registry that names them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: ByEndpoint,
    challenges: Family<ChallengeLabels, Counter>,
    grants_minted: Counter,
    grant_uses: Counter,
    grants_revoked: Counter,
    step_ups: Counter,
    step_up_refusals: Family<CodeLabel, Counter>,
    policy_rules: Gauge,
    policy_reloads: Family<ResultLabel, Counter>,
    audit_records: Counter,
    audit_errors: Counter,
    match_digest_stale: Counter,
    condition_errors: Family<RuleLabel, Counter>,
    webhook_clients_refused: Family<CodeLabel, Counter>,
    connections: Gauge,
    connections_refused: Family<CodeLabel, Counter>,
    tls_reloads: Family<ResultLabel, Counter>,
    /// Rules that have a label.
    rules: Mutex<HashSet<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChallengeLabels {
    rule: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: String,
}

/// Codes are our own constants, so there are few.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let buckets: fn() -> Histogram = || Histogram::new(BUCKETS);
        let mut metrics = Self {
            registry: Registry::with_prefix("stepup"),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(buckets),
            challenges: Family::default(),
            grants_minted: Counter::default(),
            grant_uses: Counter::default(),
            grants_revoked: Counter::default(),
            step_ups: Counter::default(),
            step_up_refusals: Family::default(),
            policy_rules: Gauge::default(),
            policy_reloads: Family::default(),
            audit_records: Counter::default(),
            audit_errors: Counter::default(),
            match_digest_stale: Counter::default(),
            condition_errors: Family::default(),
            webhook_clients_refused: Family::default(),
            connections: Gauge::default(),
            connections_refused: Family::default(),
            tls_reloads: Family::default(),
            rules: Mutex::default(),
        };
        metrics.register();
        metrics
    }

    /// Names them. The encoder adds `_total` to counters.
    fn register(&mut self) {
        let to = &mut self.registry;
        to.register("build", "Version of the server", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        to.register("requests", "Requests by endpoint and decision", self.requests.clone());
        to.register_with_unit(
            "request_duration",
            "Time from the end of a request's header to its answer",
            Unit::Seconds,
            self.request_duration.clone(),
        );
        to.register("challenges", "Challenges by rule and what became of them", self.challenges.clone());
        to.register("grants_minted", "Grants that were made", self.grants_minted.clone());
        to.register("grant_uses", "Protected requests that a grant let through", self.grant_uses.clone());
        to.register("grants_revoked", "Grants that were given up or taken away", self.grants_revoked.clone());
        to.register("step_ups", "Step-ups that were verified and good enough", self.step_ups.clone());
        to.register(
            "step_up_refusals",
            "Tokens, step-ups and requests refused, by code",
            self.step_up_refusals.clone(),
        );
        to.register("policy_rules", "Rules of the policy in force", self.policy_rules.clone());
        to.register("policy_reloads", "Changes of the policy file, by result", self.policy_reloads.clone());
        to.register("audit_records", "Audit records that became durable", self.audit_records.clone());
        to.register("audit_errors", "Failures to write the audit log", self.audit_errors.clone());
        to.register(
            "match_digest_stale",
            "Reviews by webhook rules that were rendered from another policy: run `stepup-server render` again",
            self.match_digest_stale.clone(),
        );
        to.register(
            "condition_errors",
            "Conditions that failed, so that their rule protected the request",
            self.condition_errors.clone(),
        );
        to.register(
            "webhook_clients_refused",
            "Reviews from callers that are not the API server, by code",
            self.webhook_clients_refused.clone(),
        );
        to.register("connections", "Open connections", self.connections.clone());
        to.register(
            "connections_refused",
            "Connections that were closed before their first request, by code",
            self.connections_refused.clone(),
        );
        to.register("tls_reloads", "Changes of the certificate files, by result", self.tls_reloads.clone());
    }

    /// All of it, in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }

    /// A request was answered.
    pub fn answered(&self, endpoint: &'static str, decision: &'static str, took: Duration) {
        self.requests.get_or_create(&RequestLabels { endpoint, decision }).inc();
        self.request_duration.get_or_create(&EndpointLabel { endpoint }).observe(took.as_secs_f64());
    }

    /// Something happened that has an audit record.
    pub fn observe(&self, record: &Record) {
        self.audit_records.inc();
        let outcome = match record.event {
            Event::Challenge => "raised",
            Event::WouldChallenge => "would_challenge",
            Event::Mint => {
                self.grants_minted.inc();
                "met"
            }
            Event::Decline => "declined",
            Event::StepUp => {
                self.step_ups.inc();
                return;
            }
            Event::Use => {
                self.grant_uses.inc();
                return;
            }
            Event::Revoke => {
                self.grants_revoked.inc();
                return;
            }
            Event::Refusal => {
                let code = record.code.clone().unwrap_or_else(|| "unknown".to_owned());
                self.step_up_refusals.get_or_create(&CodeLabel { code }).inc();
                return;
            }
            Event::PolicyChange => return,
        };
        for rule in &record.rules {
            self.challenges.get_or_create(&ChallengeLabels { rule: self.rule_label(rule), outcome }).inc();
        }
    }

    /// The audit log could not be written.
    pub fn audit_failed(&self) {
        self.audit_errors.inc();
    }

    /// A policy of this many rules is in force.
    pub fn policy_loaded(&self, rules: usize) {
        self.policy_rules.set(i64::try_from(rules).unwrap_or(i64::MAX));
    }

    /// The policy file changed, and the new one was taken or not.
    pub fn policy_reloaded(&self, taken: bool) {
        self.policy_reloads.get_or_create(&result(taken)).inc();
    }

    /// A review came by webhook rules that do not belong to the policy in force.
    pub fn digest_was_stale(&self) {
        self.match_digest_stale.inc();
    }

    /// A rule's condition failed.
    pub fn condition_failed(&self, rule: &str) {
        self.condition_errors.get_or_create(&RuleLabel { rule: self.rule_label(rule) }).inc();
    }

    /// A review came from somebody who is not the API server.
    pub fn webhook_client_refused(&self, code: &str) {
        self.webhook_clients_refused.get_or_create(&CodeLabel { code: code.to_owned() }).inc();
    }

    /// The number of open connections changed.
    pub fn connection_opened(&self) {
        self.connections.inc();
    }

    /// The number of open connections changed.
    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// A connection came to nothing.
    pub fn connection_refused(&self, code: &str) {
        self.connections_refused.get_or_create(&CodeLabel { code: code.to_owned() }).inc();
    }

    /// The certificate files changed, and were taken or not.
    pub fn tls_reloaded(&self, taken: bool) {
        self.tls_reloads.get_or_create(&result(taken)).inc();
    }

    fn rule_label(&self, rule: &str) -> String {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.contains(rule) || (rules.len() < MAX_RULES && rules.insert(rule.to_owned())) {
            rule.to_owned()
        } else {
            OTHER_RULES.to_owned()
        }
    }
}

fn result(taken: bool) -> ResultLabel {
    ResultLabel { result: if taken { "success" } else { "failure" } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_units_are_conventional() {
        let metrics = Metrics::new();
        metrics.answered("admit", "denied", Duration::from_millis(3));
        metrics.policy_reloaded(false);
        metrics.condition_failed("delete-namespace");
        let page = metrics.encode();
        for line in [
            "stepup_requests_total{endpoint=\"admit\",decision=\"denied\"} 1",
            "stepup_request_duration_seconds_bucket{le=\"0.005\",endpoint=\"admit\"} 1",
            "stepup_policy_reloads_total{result=\"failure\"} 1",
            "stepup_condition_errors_total{rule=\"delete-namespace\"} 1",
            "stepup_audit_errors_total 0",
            "stepup_policy_rules 0",
            "# EOF",
        ] {
            assert!(page.contains(line), "no {line} in\n{page}");
        }
    }

    #[test]
    fn the_number_of_labels_is_bounded() {
        let metrics = Metrics::new();
        for rule in 0..MAX_RULES * 2 {
            metrics.condition_failed(&format!("rule-{rule}"));
        }
        let page = metrics.encode();
        assert_eq!(page.matches("stepup_condition_errors_total{").count(), MAX_RULES + 1);
        assert!(page.contains(&format!("rule=\"(other)\"}} {MAX_RULES}")));
    }
}
