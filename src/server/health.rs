//! `/readyz`: what works and what does not, in words.

use std::sync::{PoisonError, RwLock};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::app::App;
use super::policy::matching::Digests;
use super::provider::NOTABLE_SKEW;

/// How long a report stands. Everybody may ask, and each probe of store and audit log is a write.
const STANDS_FOR: std::time::Duration = std::time::Duration::from_secs(1);

/// What the server's own watchers found, and the last report.
#[derive(Debug, Default)]
pub struct Health {
    policy: Fault,
    keys: Fault,
    tls: Fault,
    last: Mutex<Option<(Instant, Report)>>,
}

/// What is wrong with one part, if anything is.
#[derive(Debug, Default)]
pub struct Fault(RwLock<Option<String>>);

impl Fault {
    /// It works, or this is why not. `true`: that is news.
    pub fn set(&self, fault: Option<String>) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let news = *known != fault;
        *known = fault;
        news
    }

    fn get(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether protected requests can be decided: store and audit log work. All else is only told.
    pub ready: bool,
    store: Part,
    audit: Part,
    policy: PolicyPart,
    signing_keys: KeysPart,
    tls: Part,
    identity_providers: Vec<ProviderPart>,
}

#[derive(Clone, Debug, Serialize)]
struct Part {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyPart {
    ok: bool,
    rules: usize,
    match_digests: Digests,
    /// Why the file as it is now is not in force; an older version is.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KeysPart {
    ok: bool,
    current: String,
    published: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProviderPart {
    name: String,
    /// A provider that was not needed yet is well.
    ok: bool,
    /// When its keys were last fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The provider's clock less ours, where it is more than a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_skew_seconds: Option<i64>,
}

impl From<Option<String>> for Part {
    fn from(error: Option<String>) -> Self {
        Self { ok: error.is_none(), error }
    }
}

impl Health {
    /// State of the policy file.
    pub fn policy(&self) -> &Fault {
        &self.policy
    }

    /// State of the signing keys' directory.
    pub fn keys(&self) -> &Fault {
        &self.keys
    }

    /// State of the TLS files.
    pub fn tls(&self) -> &Fault {
        &self.tls
    }

    /// Looks at everything, unless somebody just did.
    pub async fn report(&self, app: &App) -> Report {
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < STANDS_FOR
        {
            return report.clone();
        }
        let report = self.look(app).await;
        *last = Some((Instant::now(), report.clone()));
        report
    }

    async fn look(&self, app: &App) -> Report {
        let store = Part::from(app.store.probe().await.err().map(|error| error.to_string()));
        let audit = Part::from(app.catch_up().await.err().map(|error| error.to_string()));
        let policy = app.policy();
        let policy_error = self.policy.get();
        let keys_error = self.keys.get();
        let (current, published) = app.signer.status();
        Report {
            ready: store.ok && audit.ok,
            store,
            audit,
            policy: PolicyPart {
                ok: policy_error.is_none(),
                rules: policy.rules().len(),
                match_digests: policy.matching().digests().clone(),
                error: policy_error,
            },
            signing_keys: KeysPart { ok: keys_error.is_none(), current, published, error: keys_error },
            tls: Part::from(self.tls.get()),
            identity_providers: app
                .identities
                .health()
                .map(|(name, health)| ProviderPart {
                    name: name.to_owned(),
                    ok: health.error.is_none(),
                    seen: health.seen,
                    error: health.error,
                    clock_skew_seconds: health
                        .skew
                        .filter(|skew| skew.abs() > NOTABLE_SKEW)
                        .map(|skew| skew.num_seconds()),
                })
                .collect(),
        }
    }
}
