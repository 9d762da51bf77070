//! Part 4: what the API server's webhooks cost, on one processor, whatever the number of rules.

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use lab::pki::Pki;
use lab::process::{Daemon, await_that, free_ports};
use stepup::server::store::{Committed, GrantRecord, Sqlite, Store, Transaction};
use stepup::wire::challenge::Grant;

use crate::load::{self, Body, Load, Outcome, Protocol};
use crate::report::{self, Table, count, millis, ratio};
use crate::{floor, machine, reviews};

const RULES: [usize; 3] = [10, 1_000, 100_000];
/// How long a server may take to start; it is printed how long it took.
const START_LIMIT: Duration = Duration::from_mins(3);
/// How long each load lasts.
const DURATION: Duration = Duration::from_secs(3);
/// Requests at a time that keep one processor busy without waiting for each other for long.
const AT_A_TIME: usize = 8;
/// Requests at a time that wait for the disk: they share its flushes.
const AT_A_TIME_DURABLE: usize = 64;
/// What is aimed at, in requests a second.
const AIM: f64 = 20_000.0;

/// Prints the table.
pub fn measure(directory: &Path, program: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let (processor, load_processors) = machine::split()?;
    report::part("stepup-server on one processor, over TLS with client certificate and keep-alive");
    report::note(&format!(
        "server on processor {processor}, load from {load_processors:?}; the floor is hyper and rustls with a constant \
         answer, measured right after with the same load"
    ));
    let mut table = Table::new(&[
        "",
        "rules",
        "requests/s",
        "p50",
        "p99",
        "server CPU",
        "requests/CPU s",
        "floor's",
        "time x floor",
    ]);
    let mut starts = Vec::new();
    let mut unprotected = Vec::new();
    for rules in RULES {
        let world = World::start(&directory.join(rules.to_string()), program, processor, rules)?;
        starts.push(format!(
            "{} rules: ready in {:.2} s, {:.0} MB resident",
            count_of(rules),
            world.ready_after.as_secs_f64(),
            world.server.resident()?
        ));
        for (name, load, is_unprotected) in loads(rules) {
            let outcome = world.server.under(&world.pki, &load)?;
            let floor = world.floor.under(&world.pki, &load)?;
            table.row([
                name.to_owned(),
                count_of(rules),
                count(outcome.rate),
                millis(outcome.latencies.median()),
                millis(outcome.latencies.quantile(0.99)),
                format!("{:.0} %", outcome.server_share * 100.0),
                count(outcome.rate_of_full_core()),
                count(floor.rate_of_full_core()),
                ratio(floor.rate_of_full_core(), outcome.rate_of_full_core()),
            ]);
            if is_unprotected {
                unprotected.push((name, outcome));
            }
        }
    }
    table.print();
    for line in &starts {
        report::note(line);
    }
    report_aims(&unprotected);
    Ok(())
}

fn report_aims(unprotected: &[(&str, Outcome)]) {
    let slowest = unprotected.iter().map(|(_, outcome)| outcome.rate_of_full_core()).fold(f64::INFINITY, f64::min);
    report::aim(
        &format!("{} requests/s of one processor where no rule protects (slowest: {})", count(AIM), count(slowest)),
        slowest >= AIM,
    );
    let mut worst = 1.0_f64;
    for (name, few) in &unprotected[..unprotected.len() / RULES.len()] {
        let same = unprotected.iter().filter(|(other, _)| other == name);
        worst =
            same.fold(worst, |worst, (_, outcome)| worst.max(few.rate_of_full_core() / outcome.rate_of_full_core()));
    }
    report::aim(&format!("flat in the number of rules (most rules against fewest: {worst:.2} x)"), worst < 1.25);
}

/// The loads, and whether the load is one of requests that no rule protects.
fn loads(rules: usize) -> [(&'static str, Load, bool); 5] {
    let authorize = |bodies, protocol, at_a_time| load("/authorize", bodies, r#""denied":false"#, protocol, at_a_time);
    let admit = |bodies, at_a_time| load("/admit", bodies, r#""allowed":true"#, Protocol::Http1, at_a_time);
    [
        ("/authorize, unprotected, HTTP/2", authorize(reviews::unprotected_reads(), Protocol::Http2, AT_A_TIME), true),
        ("/authorize, unprotected", authorize(reviews::unprotected_reads(), Protocol::Http1, AT_A_TIME), true),
        ("/admit, unprotected, 5 KB", admit(reviews::unprotected_writes(), AT_A_TIME), true),
        (
            "/authorize, granted, durable",
            authorize(reviews::protected_reads(rules), Protocol::Http1, AT_A_TIME_DURABLE),
            false,
        ),
        ("/admit, granted, durable", admit(reviews::protected_writes(rules), AT_A_TIME_DURABLE), false),
    ]
}

fn load(path: &str, bodies: Vec<Body>, expected: &'static str, protocol: Protocol, at_a_time: usize) -> Load {
    Load { path: path.to_owned(), bodies: Arc::new(bodies), expected, protocol, at_a_time, duration: DURATION }
}

#[allow(clippy::cast_precision_loss, reason = "a number of rules")]
fn count_of(rules: usize) -> String {
    count(rules as f64)
}

/// A server with its policy, and the floor beside it on the same processor.
struct World {
    pki: Pki,
    server: Server,
    floor: Server,
    ready_after: Duration,
}

struct Server {
    daemon: Daemon,
    port: u16,
}

impl World {
    fn start(directory: &Path, program: &Path, processor: usize, rules: usize) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let pki = Pki::open(&directory.join("pki"))?;
        let [port, floor_port] = free_ports()?;
        fs::write(directory.join("policy.yaml"), reviews::policy(rules))?;
        let config = directory.join("config.yaml");
        fs::write(&config, self::config(&pki, port))?;
        grant(&directory.join("store.db"), rules)?;

        let begun = Instant::now();
        let arguments = ["serve".into(), config.into_os_string()];
        let server = Server::start("stepup-server", processor, program, &arguments, port, directory)?;
        let ready_after = begun.elapsed();
        let arguments: [OsString; 5] = [
            floor::ROLE.into(),
            floor_port.to_string().into(),
            pki.stepup_server.certificate.clone().into(),
            pki.stepup_server.key.clone().into(),
            pki.webhook_ca.clone().into(),
        ];
        let me = std::env::current_exe()?;
        let floor = Server::start("floor", processor, &me, &arguments, floor_port, directory)?;
        Ok(Self { pki, server, floor, ready_after })
    }
}

impl Server {
    fn start(
        name: &str,
        processor: usize,
        program: &Path,
        arguments: &[OsString],
        port: u16,
        directory: &Path,
    ) -> Result<Self> {
        let mut daemon = machine::start_pinned(name, processor, program, arguments, directory)?;
        daemon.await_ready(START_LIMIT, || Ok(TcpStream::connect(("127.0.0.1", port)).map(drop)?))?;
        Ok(Self { daemon, port })
    }

    fn under(&self, pki: &Pki, load: &Load) -> Result<Outcome> {
        // What the last load left for the disk is not this one's.
        await_that(Duration::from_secs(10), || self.is_idle())?;
        let floor_load;
        let load = if self.is_floor() {
            // One constant answer fits them all.
            floor_load = Load { expected: r#""status""#, ..load.clone() };
            &floor_load
        } else {
            load
        };
        load::run(pki, self.port, self.daemon.id().pid(), load).with_context(|| load.path.clone())
    }

    fn is_floor(&self) -> bool {
        self.daemon.log().file_stem().is_some_and(|name| name == "floor")
    }

    fn is_idle(&self) -> Result<()> {
        const SPAN: Duration = Duration::from_millis(100);
        let before = machine::processor_time(self.daemon.id().pid())?;
        std::thread::sleep(SPAN);
        if machine::processor_time(self.daemon.id().pid())? > before {
            bail!("the server is still busy");
        }
        Ok(())
    }

    fn resident(&self) -> Result<f64> {
        machine::resident(self.daemon.id().pid())
    }
}

/// A grant without a limit of uses, for every protected request of the load.
fn grant(database: &Path, rules: usize) -> Result<()> {
    let now = Utc::now();
    let grant = Grant {
        id: reviews::GRANT.to_owned(),
        user: reviews::USER.to_owned(),
        rule: "bench".to_owned(),
        permits: reviews::granted_actions(),
        covers: vec!["what the bench does".to_owned()],
        groups: vec![],
        reason: Some("OPS-1234".to_owned()),
        acr: "urn:stepup:mfa".to_owned(),
        auth_time: now,
        created_at: now,
        expires_at: now + Duration::from_mins(15),
        uses_left: None,
        irrevocable: false,
    };
    let record = GrantRecord {
        grant,
        provider: None,
        rules: reviews::granted_rules(rules),
        challenge: None,
        carries: vec![],
        revoked_at: None,
        open: vec![],
    };
    let store = Sqlite::open(database)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    match runtime.block_on(store.commit(Transaction { grants: vec![(None, record)], ..Transaction::default() }))? {
        Committed::Done => Ok(()),
        Committed::Conflict => bail!("the grant is there already"),
    }
}

fn config(pki: &Pki, port: u16) -> String {
    format!(
        "\
listen: 127.0.0.1:{port}
publicUrl: https://127.0.0.1:{port}
tls: {{certificate: {certificate}, key: {key}}}
webhookClients: {{ca: {client_ca}, names: [kube-apiserver]}}
identityProviders:
- name: bench
  issuer: https://127.0.0.1:1  # nobody signs in
  audiences: [kubernetes]
  username: {{claim: sub, prefix: ''}}
  levels: [{{name: pwd, acrValues: ['urn:stepup:pwd']}}, {{name: mfa, acrValues: ['urn:stepup:mfa']}}]
token: {{audience: kubernetes, keys: keys}}
store: {{sqlite: {{path: store.db}}}}
audit: {{sinks: [{{file: {{path: audit.jsonl}}}}]}}
policy: policy.yaml
",
        certificate = pki.stepup_server.certificate.display(),
        key = pki.stepup_server.key.display(),
        client_ca = pki.webhook_ca.display(),
    )
}
