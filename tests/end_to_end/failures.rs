//! Whatever fails, nothing protected passes, nothing unprotected is held up, nothing is used twice, and no record is missing.
//!
//! What stops or changes parts of a lab has one to itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::process::await_that;
use lab::trouble::{SmallDisk, WrongClock};
use lab::{Lab, Options, Outcome, Session, Test};
use reqwest::Method;
use serde_json::{Value, json};

use crate::raw::{Answer, MFA, Raw};

pub fn tests() -> Vec<Test> {
    lab::tests![
        a_server_or_provider_that_is_down_stops_what_is_protected_alone,
        a_full_disk_or_a_wrong_clock_stops_what_is_protected_alone,
        killed_at_any_moment_nothing_is_used_twice_and_no_record_is_missing,
    ]
}

/// Longest that a command may take whose step-up cannot succeed: the webhook's time-outs and client-go's repeats.
const LIMIT: Duration = Duration::from_secs(45);
/// Longest that an ordinary command may take on a busy machine.
const ORDINARY: Duration = Duration::from_secs(20);
const DAY: i64 = 86_400;
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// What the cluster's people go on doing all the time.
struct Unprotected<'a> {
    lab: &'a Lab,
    alice: &'a Session,
    bob: &'a Session,
}

impl Unprotected<'_> {
    /// Reads, writes and deletes as always; so do the controllers.
    fn go_on(&self, when: &str) -> Result<()> {
        let Self { lab, alice, bob } = self;
        let begun = Instant::now();
        let namespace = lab.namespace("dev")?;
        for (person, name) in [(alice, "a"), (bob, "b")] {
            let done = |arguments: &[&str]| -> Result<Outcome> {
                let outcome = person.kubectl(&[arguments, &["-n", namespace.as_str()]].concat())?;
                outcome.succeeded().with_context(|| format!("{when}: {} {arguments:?}", person.name()))
            };
            done(&["create", "secret", "generic", name, "--from-literal=k=v"])?;
            done(&["get", "secrets"])?;
            done(&["delete", "secret", name])?;
        }
        // What a rule only records is as free, recorded or not.
        let watched = lab.namespace("prod")?;
        lab.admin(&["create", "configmap", "settings", "-n", &watched])?;
        let delete = bob.kubectl(&["delete", "configmap", "settings", "-n", &watched])?;
        delete.succeeded().with_context(|| format!("{when}: what is only recorded"))?;
        bob.kubectl(&["delete", "namespace", &namespace, "--wait=false"])?.succeeded().context(when.to_owned())?;
        // The namespace controller cleans up behind it, secrets and all.
        await_that(ORDINARY, || match lab.admin(&["get", "namespace", &namespace]) {
            Ok(_) => bail!("{when}: the namespace controller does not get on"),
            Err(_) => Ok(()),
        })?;
        ensure!(begun.elapsed() < ORDINARY * 2, "{when}: it took {} s", begun.elapsed().as_secs());
        Ok(())
    }
}

/// What is refused while something is wrong, with these words for the person.
struct Refused<'a> {
    lab: &'a Lab,
    person: &'a Session,
    namespace: &'a str,
}

impl Refused<'_> {
    /// A protected write: nothing happens, and all of `words` are among what the person sees.
    fn write(&self, words: &[&str]) -> Result<Outcome> {
        let outcome = self.command(&["delete", "namespace", self.namespace], words)?;
        self.lab.admin(&["get", "namespace", self.namespace])?;
        Ok(outcome)
    }

    /// A protected read.
    fn read(&self, words: &[&str]) -> Result<Outcome> {
        self.command(&["get", "secrets", "-n", self.namespace], words)
    }

    fn command(&self, arguments: &[&str], words: &[&str]) -> Result<Outcome> {
        let begun = Instant::now();
        let outcome = self.person.kubectl(arguments)?;
        let seen = format!("kubectl {}: {}\n{}", arguments.join(" "), outcome.status, outcome.stderr);
        ensure!(!outcome.status.success(), "{seen}");
        ensure!(begun.elapsed() < LIMIT, "it took {} s: {seen}", begun.elapsed().as_secs());
        for word in words {
            ensure!(outcome.stderr.contains(word), "no {word:?} in\n{seen}");
        }
        Ok(outcome)
    }
}

fn a_server_or_provider_that_is_down_stops_what_is_protected_alone(shared: &Lab) -> Result<()> {
    let options = Options { provider_environment: vec![], ..Options::default() };
    let lab = &shared.another("outages", options)?;
    let raw = Raw::new(lab)?;
    let (alice, bob) = (lab.session("alice")?, lab.session("bob")?);
    let unprotected = Unprotected { lab, alice: &alice, bob: &bob };
    let namespace = lab.namespace("prod")?;
    let refused = Refused { lab, person: &alice, namespace: &namespace };
    unprotected.go_on("at first")?;
    // Something to remember.
    let path = raw.network_policy(&namespace, "web")?;
    let step_up = raw.sign_in("alice", Some(MFA))?;
    let challenge = raw.challenge_of_patch(&path, &step_up)?;
    let (elevated, _) = raw.elevate(&step_up, &[("challenge", &challenge)])?;
    let other = raw.network_policy(&namespace, "other")?;
    let pending = raw.challenge_of_patch(&other, &step_up)?;

    lab.with_stepup_server(lab::process::Daemon::kill)?;
    refused.write(&["kubectl-stepup.io"]).context("the server is dead")?;
    refused.read(&["/authorize/", "connection refused"]).context("the server is dead")?;
    ensure!(Answer::of(raw.patch(&path, &elevated))?.status != 200, "without a server even a grant is worth nothing");
    unprotected.go_on("the server is dead")?;
    let status = alice.stepup(&["status"])?.succeeded()?;
    ensure!(status.stdout.contains("which cannot be asked now"), "{}", status.stdout);
    alice.stepup(&["elevate"])?.failed_with("stepup-server")?;

    lab.restart_stepup_server()?;
    // Challenge and grant outlived it.
    Answer::of(raw.patch(&path, &elevated))?.expect(200)?;
    raw.elevate(&step_up, &[("challenge", &pending)])?;
    // It hangs: worse than dead, as connections are still accepted.
    lab.with_stepup_server(|server| server.signal(lab::process::Signal::STOP))??;
    refused.write(&["kubectl-stepup.io"]).context("the server hangs")?;
    refused.read(&["/authorize/"]).context("the server hangs")?;
    unprotected.go_on("the server hangs")?;
    lab.with_stepup_server(|server| server.signal(lab::process::Signal::CONT))??;
    raw.server_is_well()?;

    the_provider_is_down(lab, &raw, &unprotected, &refused)?;

    // All is well again, and works as ever.
    let before = alice.sign_ins();
    alice.stepup(&["login", "--force"])?.succeeded()?;
    await_that(LIMIT, || alice.kubectl(&["delete", "namespace", &namespace])?.succeeded())?;
    ensure!(alice.sign_ins() > before, "{}", alice.browser_log());
    raw.server_is_well()
}

fn the_provider_is_down(lab: &Lab, raw: &Raw, unprotected: &Unprotected, refused: &Refused) -> Result<()> {
    let step_up = raw.sign_in("alice", Some(MFA))?;
    lab.with_provider(lab::process::Daemon::kill)?;
    let outcome = refused.write(&["identity provider"])?;
    ensure!(outcome.stderr.contains(&lab.issuer()), "{}", outcome.stderr);
    refused.read(&["step-up required"])?;
    unprotected.go_on("the provider is down")?;
    // Who has signed in a moment ago needs the provider for nothing: its keys are known.
    let path = raw.network_policy(refused.namespace, "while-down")?;
    let challenge = raw.challenge_of_patch(&path, &step_up)?;
    let (elevated, _) = raw.elevate(&step_up, &[("challenge", &challenge)])?;
    Answer::of(raw.patch(&path, &elevated))?.expect(200)?;

    // A server that has never seen the keys says so, and takes them up as soon as they can be had.
    lab.restart_stepup_server()?;
    let answer = Answer::of(raw.v1(Method::GET, "challenges", &step_up))?.expect(503)?;
    ensure!(answer.message().contains("the identity provider \"lab\" cannot be reached"), "{}", answer.text());
    let answer = Answer::of(raw.exchange(&step_up, &[("challenge", &challenge)]))?.expect(503)?;
    ensure!(answer.message().contains("the identity provider \"lab\" cannot be reached"), "{}", answer.text());
    refused.write(&["identity provider"])?;
    unprotected.go_on("the provider is down, and the server does not know its keys")?;
    lab.restart_provider()?;
    await_that(LIMIT, || Answer::of(raw.v1(Method::GET, "challenges", &step_up))?.expect(200)).map(drop)
}

fn a_full_disk_or_a_wrong_clock_stops_what_is_protected_alone(shared: &Lab) -> Result<()> {
    let lab = &shared.another("trouble", Options::default())?;
    let raw = Raw::new(lab)?;
    let (alice, bob) = (lab.session("alice")?, lab.session("bob")?);
    let unprotected = Unprotected { lab, alice: &alice, bob: &bob };
    the_disk_is_full(lab, &raw, &unprotected).context("the disk is full")?;
    the_clock_is_wrong(lab, &raw, &unprotected).context("the clock is wrong")
}

fn the_disk_is_full(lab: &Lab, raw: &Raw, unprotected: &Unprotected) -> Result<()> {
    let directory = lab.directory().join("stepup");
    let usual = fs::read_to_string(lab.config_file())?;
    let (for_audit, for_store) =
        (SmallDisk::at(&directory.join("audit-disk"))?, SmallDisk::at(&directory.join("store-disk"))?);
    let config = usual
        .replace("path: audit.jsonl", "path: audit-disk/audit.jsonl")
        .replace("path: stepup.db", "path: store-disk/stepup.db");
    fs::write(lab.config_file(), config)?;
    lab.restart_stepup_server_under(&for_audit.and(&for_store))?;
    let server = lab.with_stepup_server(|server| server.id())?;
    let audit = for_audit.file(server, "audit.jsonl");
    let namespace = lab.namespace("prod")?;
    let refused = Refused { lab, person: unprotected.alice, namespace: &namespace };
    let step_up = raw.sign_in("alice", Some(MFA))?;
    let mut number = 0;
    let mut granted = || -> Result<(String, String, String)> {
        number += 1;
        let path = raw.network_policy(&namespace, &format!("policy-{number}"))?;
        let challenge = raw.challenge_of_patch(&path, &step_up)?;
        let (elevated, grant) = raw.elevate(&step_up, &[("challenge", &challenge)])?;
        Ok((path, elevated, grant))
    };

    for (disk, words) in
        [(&for_audit, "stepup-server cannot write its audit log"), (&for_store, "stepup-server cannot reach its store")]
    {
        let (path, elevated, grant) = granted().context("while there is room")?;
        disk.fill(server)?;
        // The last page of each file has some room left.
        let full = await_that(LIMIT, || {
            let answer = Answer::of(raw.patch(&path, &step_up))?;
            if answer.status == 503 { Ok(answer) } else { bail!("{}", answer.text()) }
        })
        .context(words)?;
        ensure!(full.message().contains(words), "{words} expected: {}", full.text());
        let spent = Answer::of(raw.patch(&path, &elevated))?;
        ensure!(spent.status == 503 && spent.message().contains(words), "{}", spent.text());
        refused.write(&[words, "tell your cluster's administrator"])?;
        refused.read(&[words])?;
        let exchange = Answer::of(raw.v1(Method::POST, "challenges", &step_up).json(&json!({"actions": [
            {"verb": "delete", "resource": "namespaces", "name": namespace}]})))?;
        ensure!(exchange.status == 503 && exchange.message().contains(words), "{}", exchange.text());
        unprotected.go_on(words)?;
        let ready = raw.client().get(format!("{}/readyz", lab.server_url())).send()?;
        ensure!(ready.status() == 503, "not ready is what it is: {ready:?}");

        disk.free(server)?;
        // No restart is needed. What was refused for want of a record has cost its grant, and has its record now.
        let after = Answer::of(raw.patch(&path, &elevated))?;
        ensure!([200, 429, 403].contains(&after.status), "{}", after.text());
        let uses = records(&audit)?;
        let uses = uses.iter().filter(|record| record["event"] == "use" && record["grant"] == grant.as_str());
        ensure!(uses.count() == 1, "a use is on record, once: {}", after.text());
        let (path, elevated, _) = granted().context("there is room again")?;
        Answer::of(raw.patch(&path, &elevated))?.expect(200)?;
    }
    fs::write(lab.config_file(), usual)?;
    lab.restart_stepup_server()?;
    raw.server_is_well()
}

fn records(log: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("torn: {line}"))).collect()
}

fn the_clock_is_wrong(lab: &Lab, raw: &Raw, unprotected: &Unprotected) -> Result<()> {
    let clock = WrongClock::new(lab.directory())?;
    let namespace = lab.namespace("prod")?;
    let path = raw.network_policy(&namespace, "web")?;
    let step_up = raw.sign_in("alice", Some(MFA))?;
    let challenge = raw.challenge_of_patch(&path, &step_up)?;
    let (elevated, _) = raw.elevate(&step_up, &[("challenge", &challenge)])?;

    for (shift, direction) in [(DAY, "ahead"), (-DAY, "behind")] {
        lab.restart_stepup_server_under(&clock.ahead(shift))?;
        let refused = Refused { lab, person: unprotected.alice, namespace: &namespace };
        refused.write(&["clock"]).with_context(|| format!("a day {direction}"))?;
        refused.read(&["step-up required"])?;
        let answer = Answer::of(raw.exchange(&step_up, &[("challenge", &challenge)]))?.expect(400)?;
        ensure!(answer.message().contains("clock"), "{}", answer.text());
        // A grant from before is over, or from the future: not honoured either way.
        let answer = Answer::of(raw.patch(&path, &elevated))?;
        ensure!([429, 403].contains(&answer.status), "{direction}: {}", answer.text());
        unprotected.go_on(direction)?;
        let health: Value = raw.client().get(format!("{}/readyz", lab.server_url())).send()?.json()?;
        let skew = health["identityProviders"][0]["clockSkewSeconds"].as_i64();
        ensure!(skew.is_some_and(|skew| (skew + shift).abs() < 60), "{health}");
    }
    lab.restart_stepup_server()?;
    let (path, step_up) = (raw.network_policy(&namespace, "after")?, raw.sign_in("alice", Some(MFA))?);
    let challenge = raw.challenge_of_patch(&path, &step_up)?;
    let (elevated, _) = raw.elevate(&step_up, &[("challenge", &challenge)])?;
    Answer::of(raw.patch(&path, &elevated))?.expect(200)?;
    raw.server_is_well()
}

const ROUNDS: u64 = 20;
/// Grants of each round, and requests that race for each of them.
const GRANTS: usize = 3;
const RACERS: usize = 4;

fn killed_at_any_moment_nothing_is_used_twice_and_no_record_is_missing(shared: &Lab) -> Result<()> {
    let lab = &shared.another("killed", Options::default())?;
    let raw = &Raw::new(lab)?;
    let namespace = lab.namespace("prod")?;
    let paths: Vec<String> =
        (0..GRANTS).map(|number| raw.network_policy(&namespace, &format!("policy-{number}"))).collect::<Result<_>>()?;
    // Deterministic, as far as the moments of a busy machine are: xorshift.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        // All of them together may take longer than a sign-in is fresh.
        let step_up = &raw.sign_in("alice", Some(MFA))?;
        // Something new each time: what changes nothing may be done again within seconds, and nobody could tell.
        let value = &round.to_string();
        let mut grants = Vec::new();
        for path in &paths {
            let challenge = Answer::of(raw.patch_to(path, step_up, value))?.challenge()?;
            let (elevated, grant) = raw.elevate(step_up, &[("challenge", &challenge)])?;
            grants.push((path, elevated, grant));
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = Duration::from_micros(random % 40_000);
        let started = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            for (path, elevated, _) in &grants {
                for _ in 0..RACERS {
                    let started = &started;
                    scope.spawn(move || {
                        started.store(true, Ordering::Release);
                        // Whatever the answer is, or whether there is one: the API server's log has it.
                        let _ = Answer::of(raw.patch_to(path, elevated, value));
                    });
                }
            }
            while !started.load(Ordering::Acquire) {
                thread::yield_now();
            }
            thread::sleep(moment);
            lab.with_stepup_server(lab::process::Daemon::kill)
        })?;
        lab.restart_stepup_server().with_context(|| format!("round {round}"))?;
        // Again, with all that the dead server knew: whoever was not answered may not have a second use.
        for (path, elevated, grant) in grants {
            let last = Answer::of(raw.patch_to(path, &elevated, value))?;
            ensure!([200, 429, 403].contains(&last.status), "round {round}: {}", last.text());
            all.push(grant);
        }
    }

    // Each change carries the id of its grant in the API server's own log, whatever stepup-server has to say.
    let events = await_that(LIMIT, || settled(lab))?;
    let mut changes: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &events {
        let credential = event["user"]["extra"]["authentication.kubernetes.io/credential-id"][0].as_str();
        if let Some(grant) = credential.and_then(|credential| credential.strip_prefix("JTI="))
            && event["verb"] == "patch"
            && event["responseStatus"]["code"] == 200
        {
            *changes.entry(grant).or_default() += 1;
        }
    }
    let records = lab.audit_records()?;
    let count = |event: &str, grant: &str| {
        records.iter().filter(|record| record["event"] == event && record["grant"] == grant).count()
    };
    for grant in &all {
        let changes = changes.get(grant.as_str()).copied().unwrap_or_default();
        let (mints, uses) = (count("mint", grant), count("use", grant));
        ensure!(mints == 1, "{grant} has {mints} records of its making");
        ensure!(changes <= 1, "{grant} was used {changes} times");
        // After its last try every grant is used up, whether or not its answer arrived. Other tries may have been the same
        // use going on: a change that came to nothing may be made again within seconds, which is on record too.
        ensure!((1..=RACERS + 1).contains(&uses), "{grant} changed {changes} objects and has {uses} records of use");
    }
    let mut ids: Vec<&str> = records.iter().filter_map(|record| record["id"].as_str()).collect();
    let total = ids.len();
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == total, "{} records are there twice", total - ids.len());
    raw.server_is_well()
}

/// The API server's events, once it has written down a request that was made after all others.
fn settled(lab: &Lab) -> Result<Vec<Value>> {
    let agent = "the-last-one";
    Answer::of(Raw::new(lab)?.admin(Method::GET, SECRETS).header("user-agent", agent))?.expect(200)?;
    let events = lab.kube_audit_events()?;
    ensure!(events.iter().any(|event| event["userAgent"] == agent), "the API server has yet to write down the end");
    Ok(events)
}
