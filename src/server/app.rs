//! What every flow works with, and the one way to make something durable.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::server::audit::{Audit, AuditError, Record};
use crate::server::config::{Config, IdentityProvider};
use crate::server::identity::Identities;
use crate::server::metrics::Metrics;
use crate::server::mint::Signer;
use crate::server::policy::Policy;
use crate::server::store::{Committed, Store, StoreError, Transaction};

/// The running server's parts.
pub struct App {
    /// What it was told.
    pub config: Config,
    /// The policy in force; replaced as a whole.
    policy: RwLock<Arc<Policy>>,
    /// Challenges, grants, verdicts.
    pub store: Arc<dyn Store>,
    /// The audit log.
    pub audit: Audit,
    /// Verifies base and step-up tokens.
    pub identities: Identities,
    /// Signs elevated tokens.
    pub signer: Signer,
    /// Counters.
    pub metrics: Metrics,
    /// Records of changes that were made while the audit log could not be written. They go before all others.
    overdue: Mutex<Vec<Record>>,
}

/// Most records that are [overdue](App::commit) in memory. What is more is in the store, and written at the next start.
const MOST_OVERDUE: usize = 10_000;

/// Something could not be decided or recorded safely. Protected requests are refused while that lasts.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Challenges and grants cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What happens cannot be recorded.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A document kept changing under the flow.
    #[error("too many changes to the same challenge or grant at once")]
    Contended,
}

impl Unavailable {
    /// What the caller is told: which part, and that it is not their fault. The details are for the server's log.
    pub fn public_message(&self) -> &'static str {
        match self {
            Self::Store(_) => {
                "stepup-server cannot reach its store, so nothing protected may pass: tell your cluster's administrator"
            }
            Self::Audit(_) => {
                "stepup-server cannot write its audit log, so nothing protected may pass: tell your cluster's administrator"
            }
            Self::Contended => "stepup-server got too many requests for the same grant at once: try again",
        }
    }
}

/// How often a flow decides again because what it read has changed, before it gives up with
/// [`Unavailable::Contended`].
pub const ATTEMPTS: usize = 64;

impl App {
    /// Puts the parts together.
    pub fn new(
        config: Config,
        policy: Policy,
        store: Arc<dyn Store>,
        audit: Audit,
        identities: Identities,
        signer: Signer,
        metrics: Metrics,
    ) -> Self {
        let (policy, overdue) = (RwLock::new(Arc::new(policy)), Mutex::default());
        Self { config, policy, store, audit, identities, signer, metrics, overdue }
    }

    /// The policy in force at this moment.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another policy in force.
    pub fn replace_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Makes records durable that go with no change of the store.
    pub async fn record(&self, records: Vec<Record>) -> Result<(), Unavailable> {
        self.store.remember(&records);
        self.write_overdue().await?;
        let outcome = self.audit.write(records.clone()).await;
        self.written(outcome, &records)
    }

    async fn write_overdue(&self) -> Result<(), Unavailable> {
        if self.overdue().is_empty() { Ok(()) } else { self.catch_up().await }
    }

    /// Writes what is overdue, if anything is, and makes sure that the audit log can be written.
    pub async fn catch_up(&self) -> Result<(), Unavailable> {
        let overdue = std::mem::take(&mut *self.overdue());
        if let Err(unavailable) = self.write_until_done(&overdue).await {
            self.overdue().splice(0..0, overdue);
            return Err(unavailable);
        }
        if !overdue.is_empty() {
            self.store.acknowledge(&overdue);
        }
        Ok(())
    }

    async fn write_until_done(&self, records: &[Record]) -> Result<(), Unavailable> {
        let outcome = self.audit.write_until_done(records.to_vec()).await;
        self.written(outcome, records)
    }

    /// Counts what is durable by now, or that nothing is.
    fn written(&self, outcome: Result<(), AuditError>, records: &[Record]) -> Result<(), Unavailable> {
        outcome.inspect_err(|_| self.metrics.audit_failed())?;
        for record in records {
            self.metrics.observe(record);
        }
        Ok(())
    }

    fn overdue(&self) -> MutexGuard<'_, Vec<Record>> {
        self.overdue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change and its records durable: in the store together, then in the audit log. Only then may the answer
    /// leave. When the audit log fails, the change stays made (a use is spent) and the caller must refuse; its records are
    /// written as soon as the log can be again.
    pub async fn commit(&self, transaction: Transaction) -> Result<Committed, Unavailable> {
        let records = transaction.audit.clone();
        if self.store.commit(transaction).await? == Committed::Conflict {
            return Ok(Committed::Conflict);
        }
        let logged = match self.write_overdue().await {
            Ok(()) => self.write_until_done(&records).await,
            still_down => still_down,
        };
        if let Err(unavailable) = logged {
            let mut overdue = self.overdue();
            let room = MOST_OVERDUE.saturating_sub(overdue.len());
            overdue.extend(records.into_iter().take(room));
            return Err(unavailable);
        }
        self.store.acknowledge(&records);
        Ok(Committed::Done)
    }

    /// Whether this person could step up at some provider.
    pub fn can_step_up(&self, user: &str, groups: &[String]) -> bool {
        self.config.identity_providers.iter().any(|provider| can_step_up_at(provider, user, groups))
    }

    /// Whether a step-up counts that this person made at the provider of this name.
    pub fn can_step_up_at(&self, provider: &str, user: &str, groups: &[String]) -> bool {
        let mut providers = self.config.identity_providers.iter();
        providers.any(|known| known.name == provider && can_step_up_at(known, user, groups))
    }
}

fn can_step_up_at(provider: &IdentityProvider, user: &str, groups: &[String]) -> bool {
    !user.starts_with("system:") && provider.lets_step_up(user, groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{admit, authorize, exchange, grant};

    /// The flows run on a runtime with several threads.
    #[allow(dead_code, reason = "it is enough that it compiles")]
    fn flows_are_send(app: &App, source: &crate::server::audit::Source, asker: &crate::server::identity::Identity) {
        fn send<T: Send>(_: T) {}
        let now = chrono::DateTime::UNIX_EPOCH;
        send(admit::review(app, serde_json::from_str("").expect("never run"), source, now));
        send(authorize::review(app, serde_json::from_str("").expect("never run"), source, now));
        send(exchange::exchange(app, serde_json::from_str("").expect("never run"), source, now));
        send(grant::revoke(app, asker, "", source, now));
    }
}
