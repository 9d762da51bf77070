//! `stepup-server serve`: puts the parts together, runs them, and ends them in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use notify::event::ModifyKind;
use notify::{EventKind, Watcher};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::app::{App, Unavailable};
use super::audit::{Audit, AuditError, Event, Record};
use super::config::{self, Config};
use super::health::Health;
use super::http::Api;
use super::identity::{Identities, IdentityError};
use super::listen::{self, Tls, TlsError};
use super::log::{self, BadLevel};
use super::metrics::Metrics;
use super::mint::{KeyError, Signer};
use super::policy::matching::Digests;
use super::policy::{self, Policy, PolicyError};
use super::store::{Sqlite, Store, StoreError, Transaction};

/// How often the certificate files and the policy file are looked at, whether or not the system reports a change:
/// network file systems report none.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often the directory of the signing keys is read.
const KEYS_EVERY: Duration = Duration::from_secs(30);
/// How often what is over is forgotten.
const PURGE_EVERY: Duration = Duration::from_mins(1);
/// How long what is over is kept: the API server repeats a review within its own timeout, half a minute at most.
const KEEP: TimeDelta = TimeDelta::hours(1);
/// How long a burst of changes to the policy's directory may take: one save is several.
const SETTLE: Duration = Duration::from_millis(100);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is the part of its name")]
pub enum ServeError {
    #[error(transparent)]
    Log(#[from] BadLevel),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("signing keys: {0}")]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Runs the server until it is told to stop (SIGTERM, SIGINT).
pub fn run(config: Config) -> Result<(), ServeError> {
    log::start(&config.log)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let stop = stop_on_signals()?;
        let running = Running::start(config, Utc::now()).await?;
        running.until(stop).await;
        Ok(())
    })
}

/// The server, ready to accept connections.
pub struct Running {
    app: Arc<App>,
    health: Arc<Health>,
    tls: Arc<Tls>,
    listener: TcpListener,
}

impl Running {
    /// Opens everything. What can be wrong with the configuration is found here.
    pub async fn start(config: Config, now: DateTime<Utc>) -> Result<Self, ServeError> {
        let policy = Policy::load(&config.policy, &config)?;
        for warning in policy.warnings() {
            tracing::warn!(warning, "policy");
        }
        if let Some(warning) = config.audit.warning() {
            tracing::warn!(warning, "audit log");
        }
        let tls = Arc::new(Tls::open(&config)?);
        let identities = Identities::new(&config)?;
        let signer = Signer::open(&config.token.keys, config.token.sign_with, now)?;
        let config::Store::Sqlite { path } = &config.store;
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(path)?);
        let unacknowledged = store.unacknowledged().await?;
        let audit = Audit::open(&config.audit.sinks, &unacknowledged)?;
        store.acknowledge(&unacknowledged);
        let metrics = Metrics::new();
        metrics.policy_loaded(policy.rules().len());
        let addr = config.listen;
        let listener = TcpListener::bind(addr).await.map_err(|source| ServeError::Listen { addr, source })?;
        let addr = listener.local_addr()?;
        let app = Arc::new(App::new(config, policy, store, audit, identities, signer, metrics));
        record_policy(&app, now).await?;
        tracing::info!(%addr, version = env!("CARGO_PKG_VERSION"), "listening on {addr}");
        Ok(Self { app, health: Arc::default(), tls, listener })
    }

    /// Address that it listens on.
    pub fn addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is true and the requests under way are answered.
    pub async fn until(self, stop: watch::Receiver<bool>) {
        let Self { app, health, tls, listener } = self;
        let background = [
            tokio::spawn(watch_policy(Arc::clone(&app), Arc::clone(&health))),
            tokio::spawn(watch_keys(Arc::clone(&app), Arc::clone(&health))),
            tokio::spawn(watch_tls(Arc::clone(&app), Arc::clone(&health), Arc::clone(&tls))),
            tokio::spawn(purge(Arc::clone(&app))),
        ];
        let limits = app.config.limits.clone();
        listen::serve(listener, tls, &limits, Api::new(app, health), stop).await;
        for task in background {
            task.abort();
            // What it holds of the store goes with it.
            let _ = task.await;
        }
        tracing::info!("stopped");
    }
}

fn stop_on_signals() -> std::io::Result<watch::Receiver<bool>> {
    let (tell, stop) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests under way are answered first");
        // Nobody listens any more: then it is over already.
        let _ = tell.send(true);
    });
    Ok(stop)
}

/// Records that a policy is in force which is not the one before the restart.
///
/// While the audit log cannot be written the record is overdue, and goes before all others: nothing that is protected
/// passes without it.
async fn record_policy(app: &App, now: DateTime<Utc>) -> Result<(), StoreError> {
    let policy = app.policy();
    if app.store.policy_digest().await?.as_deref() == Some(policy.digest()) {
        return Ok(());
    }
    let transaction = Transaction {
        policy_digest: Some(policy.digest().to_owned()),
        audit: vec![loaded_policy(&policy, now)],
        ..Transaction::default()
    };
    match app.commit(transaction).await {
        Err(Unavailable::Store(error)) => Err(error),
        Err(error) => {
            tracing::error!(%error, "a policy is in force that is not the one of the last run, and that cannot be recorded");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// What the audit log says of a policy that is put in force.
fn loaded_policy(policy: &Policy, now: DateTime<Utc>) -> Record {
    let (rules, digest) = (policy.rules().len(), policy.digest());
    let Digests { authorization, admission } = policy.matching().digests();
    Record {
        code: Some("policy_loaded".to_owned()),
        message: Some(format!(
            "{rules} rules, match digests {authorization} and {admission}, sha256 of the file {digest}"
        )),
        ..Record::new(Event::PolicyChange, now)
    }
}

/// Digest of the policy file's content; `None` while it cannot be read.
fn digest_of(policy: &Path) -> Option<String> {
    std::fs::read(policy).ok().map(|content| policy::digest(&content))
}

/// Puts a changed policy file in force, and keeps the old one when the new one is invalid.
///
/// The directory is watched, not the file: editors put a new file in its place, and a ConfigMap is a link that is turned
/// to another directory. What counts is the content.
async fn watch_policy(app: Arc<App>, health: Arc<Health>) {
    let mut dealt_with = Some(app.policy().digest().to_owned());
    let path = app.config.policy.clone();
    let (tell, mut changes) = mpsc::channel(1);
    let _watcher = watch_directory(&path, tell);
    let mut regularly = ticks(LOOK_EVERY);
    loop {
        tokio::select! {
            Some(()) = changes.recv() => {
                sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
            }
            _ = regularly.tick() => {}
        }
        let digest = {
            let path = path.clone();
            beside_requests(move || digest_of(&path)).await
        };
        if digest != dealt_with && reload_policy(&app, &health, &path, Utc::now()).await {
            dealt_with = digest;
        }
    }
}

fn watch_directory(path: &Path, tell: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    // One pending change stands for all that come before it is looked at.
    let policy = path.to_owned();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| may_change(&policy, &event)) {
            let _ = tell.try_send(());
        }
    })
    .and_then(|mut watcher| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        watcher.watch(parent, notify::RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| {
            tracing::warn!(%error, "changes of the policy file are not reported by the system; it is looked at every {} s", LOOK_EVERY.as_secs());
        })
        .ok()
}

/// Whether the file at `policy` may be another one after `event` in its directory.
fn may_change(policy: &Path, event: &notify::Event) -> bool {
    match event.kind {
        // Reading is reported, too: even our own, which would make us read again for ever.
        EventKind::Access(_) => false,
        // The store and the audit log are often in the same directory, and change with the requests.
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {
            event.paths.iter().any(|path| path.file_name() == policy.file_name())
        }
        _ => true,
    }
}

/// `true`: this content is dealt with, and need not be looked at again.
async fn reload_policy(app: &Arc<App>, health: &Health, path: &Path, now: DateTime<Utc>) -> bool {
    let loaded = {
        let (app, path) = (Arc::clone(app), path.to_owned());
        beside_requests(move || Policy::load(&path, &app.config)).await
    };
    let record = match &loaded {
        Ok(policy) => loaded_policy(policy, now),
        Err(problem) => Record {
            code: Some("policy_invalid".to_owned()),
            message: Some(problem.to_string()),
            ..Record::new(Event::PolicyChange, now)
        },
    };
    if let Err(error) = app.record(vec![record]).await {
        // No change without its record. It is tried again with the next look.
        tracing::error!(%error, "the policy file has changed, and that cannot be recorded: the policy stays as it was");
        health.policy().set(Some(format!("the file has changed, and that could not be recorded: {error}")));
        return false;
    }
    app.metrics.policy_reloaded(loaded.is_ok());
    match loaded {
        Ok(policy) => {
            let stale = policy.matching().digests() != app.policy().matching().digests();
            tracing::info!(rules = policy.rules().len(), "a new policy is in force");
            for warning in policy.warnings() {
                tracing::warn!(warning, "policy");
            }
            if stale {
                tracing::warn!(
                    "the new policy needs other webhook rules: run `stepup-server render` and apply the result"
                );
            }
            app.metrics.policy_loaded(policy.rules().len());
            let kept = Transaction { policy_digest: Some(policy.digest().to_owned()), ..Transaction::default() };
            app.replace_policy(policy);
            if let Err(error) = app.store.commit(kept).await {
                tracing::warn!(%error, "the store does not know of the new policy: the next start will record it again");
            }
            health.policy().set(None);
        }
        Err(problem) => {
            tracing::error!(%problem, "the policy file is invalid: the policy stays as it was");
            health.policy().set(Some(problem.to_string()));
        }
    }
    true
}

async fn watch_keys(app: Arc<App>, health: Arc<Health>) {
    let mut regularly = ticks(KEYS_EVERY);
    loop {
        regularly.tick().await;
        let before = app.signer.status();
        let fault = app.signer.refresh(Utc::now()).err().map(|error| error.to_string());
        if let Some(error) = &fault
            && health.keys().set(fault.clone())
        {
            tracing::error!(error, "the signing keys could not be read again: those that are known stay");
        }
        let after = app.signer.status();
        if before != after {
            tracing::info!(current = after.0, published = after.1, "the signing keys have changed");
        }
        if fault.is_none() {
            health.keys().set(None);
        }
    }
}

async fn watch_tls(app: Arc<App>, health: Arc<Health>, tls: Arc<Tls>) {
    let mut regularly = ticks(LOOK_EVERY);
    loop {
        regularly.tick().await;
        match tls.refresh() {
            Ok(false) => {
                health.tls().set(None);
            }
            Ok(true) => {
                health.tls().set(None);
                app.metrics.tls_reloaded(true);
                tracing::info!("the TLS files have changed: new connections use them");
            }
            Err(error) => {
                if health.tls().set(Some(error.to_string())) {
                    app.metrics.tls_reloaded(false);
                    tracing::error!(%error, "the TLS files cannot be used: those that were read before stay");
                }
            }
        }
    }
}

async fn purge(app: Arc<App>) {
    let mut regularly = ticks(PURGE_EVERY);
    loop {
        regularly.tick().await;
        if let Err(error) = app.store.purge(Utc::now() - KEEP).await {
            tracing::warn!(%error, "what is over could not be removed from the store");
        }
    }
}

/// Does `work` on a thread of its own: a policy of a hundred thousand rules takes seconds to read, and the threads of the
/// runtime have requests to answer.
async fn beside_requests<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use serde_json::Value;

    use super::*;
    use crate::server::testing::{POLICY, World, eventually};

    /// [`POLICY`] with another name for its rule.
    fn renamed(rule: &str) -> String {
        POLICY.replace("delete-namespace", rule)
    }

    async fn report(world: &World) -> Value {
        // A report stands for a second.
        world.client(None).get(world.url("/readyz")).send().await.unwrap().json().await.unwrap()
    }

    async fn reloads(world: &World, result: &str) -> u64 {
        let name = format!("stepup_policy_reloads_total{{result=\"{result}\"}} ");
        world.metrics().await.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
    }

    #[test]
    fn the_policy_is_read_again_after_changes_that_may_concern_it_alone() {
        use notify::event::{AccessKind, AccessMode, CreateKind, DataChange, RenameMode};
        let policy = Path::new("/etc/stepup/policy.yaml");
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        for (kind, file, expected) in [
            (written, "policy.yaml", true),
            (renamed, "policy.yaml", true),
            (renamed, "..data", true),
            (EventKind::Create(CreateKind::File), "policy.yaml", true),
            (opened, "policy.yaml", false),
            (written, "audit.jsonl", false),
            (written, "stepup.db-wal", false),
        ] {
            let event = notify::Event::new(kind).add_path(Path::new("/etc/stepup").join(file));
            assert_eq!(may_change(policy, &event), expected, "{event:?}");
        }
    }

    #[tokio::test]
    async fn an_editor_that_replaces_the_policy_is_noticed_and_an_invalid_policy_is_not_taken() {
        let world = World::new().await;
        let (policy, new) = (world.dir().join("policy.yaml"), world.dir().join("policy.new"));
        fs::write(&new, renamed("another-rule")).unwrap();
        fs::rename(&new, &policy).unwrap();
        eventually(async || reloads(&world, "success").await == 1).await;
        assert_eq!(world.audit_log().matches("policy_loaded").count(), 2, "at the start, and now");

        fs::write(&new, "rules: [{name: 7}]").unwrap();
        fs::rename(&new, &policy).unwrap();
        eventually(async || reloads(&world, "failure").await == 1).await;
        eventually(async || report(&world).await["policy"]["ok"] == false).await;
        let state = report(&world).await;
        assert_eq!(state["ready"], true);
        assert!(state["policy"]["error"].as_str().unwrap().contains("policy.yaml"), "{state}");
        assert!(state["policy"]["rules"].as_u64().unwrap() > 0);
        assert!(world.audit_log().contains("policy_invalid"));

        fs::write(&policy, renamed("a-third-rule")).unwrap();
        eventually(async || reloads(&world, "success").await == 2).await;
        eventually(async || report(&world).await["policy"]["ok"] == true).await;
    }

    #[tokio::test]
    async fn a_policy_in_a_config_map_is_reloaded_when_its_link_is_turned() {
        // As the kubelet lays it out: policy.yaml -> ..data/policy.yaml, ..data -> a directory with a date for a name.
        let mount = tempfile::tempdir().unwrap();
        let version = |name: &str, rule: &str| {
            fs::create_dir(mount.path().join(name)).unwrap();
            fs::write(mount.path().join(name).join("policy.yaml"), renamed(rule)).unwrap();
        };
        version("..2027_01", "first");
        symlink("..2027_01", mount.path().join("..data")).unwrap();
        symlink("..data/policy.yaml", mount.path().join("policy.yaml")).unwrap();
        let world = World::with(|config| config.policy = mount.path().join("policy.yaml")).await;

        version("..2027_02", "second");
        symlink("..2027_02", mount.path().join("..data_tmp")).unwrap();
        fs::rename(mount.path().join("..data_tmp"), mount.path().join("..data")).unwrap();
        eventually(async || reloads(&world, "success").await == 1).await;
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_configuration_is_said_at_start() {
        let world = World::new().await;
        let entries = || vec![world.provider.entry()];
        let world_store = crate::server::testing::config(world.dir(), entries()).store;
        let config = |change: &dyn Fn(&mut Config)| {
            let mut config = crate::server::testing::config(world.dir(), entries());
            // The other one is in use.
            config.store = config::Store::Sqlite { path: world.dir().join("another.db") };
            change(&mut config);
            config
        };
        for (config, told) in [
            (config(&|config| config.listen = world.addr), "cannot listen on 127.0.0.1:"),
            (config(&|config| config.policy = "/nowhere/policy.yaml".into()), "/nowhere/policy.yaml"),
            (config(&|config| config.tls.key = "/nowhere/tls.key".into()), "cannot read /nowhere/tls.key"),
            (config(&|config| config.token.keys = "/dev/null/keys".into()), "signing keys: /dev/null"),
            (
                config(&|config| config.identity_providers[0].ca = Some("/nowhere/ca".into())),
                "identity provider \"corp\": cannot read",
            ),
            (
                config(&|config| config.audit.sinks = vec![config::Sink::File { path: "/nowhere/audit".into() }]),
                "/nowhere/audit",
            ),
            (config(&|config| config.store = config::Store::Sqlite { path: "/nowhere/store".into() }), "store"),
            (config(&|config| config.store = world_store.clone()), "another stepup-server uses it"),
        ] {
            let problem = Running::start(config, Utc::now()).await.map(|_| ()).unwrap_err().to_string();
            assert!(problem.contains(told), "{problem}");
        }
    }

    #[tokio::test]
    async fn a_policy_that_changed_while_nobody_served_is_recorded_at_the_start_once() {
        let provider = World::new().await.stop().await;
        let dir = provider.dir.path();
        let start = async || {
            let config = crate::server::testing::config(dir, vec![provider.entry()]);
            Running::start(config, Utc::now()).await.unwrap()
        };
        let recorded = || fs::read_to_string(dir.join("audit.jsonl")).unwrap().matches("policy_loaded").count();
        assert_eq!(recorded(), 1, "the first policy ever");
        drop(start().await);
        assert_eq!(recorded(), 1, "the same policy");

        fs::write(dir.join("policy.yaml"), renamed("another-rule")).unwrap();
        drop(start().await);
        assert_eq!(recorded(), 2);
        let log = fs::read_to_string(dir.join("audit.jsonl")).unwrap();
        let last: Record = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let digest = digest_of(&dir.join("policy.yaml")).unwrap();
        assert_eq!(last.event, Event::PolicyChange);
        assert!(last.message.unwrap().ends_with(&digest), "{log}");
        drop(start().await);
        assert_eq!(recorded(), 2);

        // What was recorded when it was taken up is not recorded at the next start.
        let running = start().await;
        fs::write(dir.join("policy.yaml"), renamed("a-third-rule")).unwrap();
        assert!(reload_policy(&running.app, &running.health, &dir.join("policy.yaml"), Utc::now()).await);
        assert_eq!(recorded(), 3);
        drop(running);
        drop(start().await);
        assert_eq!(recorded(), 3);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_new_policy_whose_record_cannot_be_written_is_recorded_before_anything_passes() {
        let provider = World::new().await.stop().await;
        let dir = provider.dir.path();
        let log = dir.join("full.jsonl");
        symlink("/dev/full", &log).unwrap();
        fs::write(dir.join("policy.yaml"), renamed("another-rule")).unwrap();
        let mut config = crate::server::testing::config(dir, vec![provider.entry()]);
        config.audit.sinks = vec![config::Sink::File { path: log.clone() }];
        let running = Running::start(config, Utc::now()).await.unwrap();
        assert!(running.app.catch_up().await.is_err());
        fs::remove_file(&log).unwrap();
        running.app.record(vec![Record::new(Event::Challenge, Utc::now())]).await.unwrap();
        let written = fs::read_to_string(&log).unwrap();
        assert!(written.lines().next().unwrap().contains("policy_loaded"), "{written}");
        assert_eq!(written.lines().count(), 2);
    }

    #[tokio::test]
    async fn a_stopped_server_starts_again_with_the_same_keys() {
        let world = World::new().await;
        let keys = |report: &Value| report["signingKeys"]["current"].clone();
        let before = keys(&report(&world).await);
        let provider = world.stop().await;
        let mut config = crate::server::testing::config(provider.dir.path(), vec![provider.entry()]);
        config.policy = provider.dir.path().join("empty.yaml");
        fs::write(&config.policy, "rules: []").unwrap();
        let running = Running::start(config, Utc::now()).await.unwrap();
        assert_eq!(Value::from(running.app.signer.status().0), before);
    }
}
