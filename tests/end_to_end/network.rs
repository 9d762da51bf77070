//! What stands between a person, the provider and the servers: proxies, authorities, clocks.

use std::io::{BufRead, BufReader, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use lab::trouble::{Wrapper, WrongClock};
use lab::{Lab, Options, Test};

pub fn tests() -> Vec<Test> {
    lab::tests![
        two_minutes_between_the_clocks_stop_nothing,
        a_provider_behind_a_proxy_is_asked_through_it,
        the_server_too_asks_a_provider_behind_a_proxy_through_it,
        a_private_authority_that_nobody_named_is_named,
    ]
}

/// A proxy for TLS (`CONNECT`, RFC 9110, section 9.3.6), and whom it was asked to connect to.
fn proxy() -> Result<(String, Arc<Mutex<Vec<String>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let log = Arc::clone(&log);
            thread::spawn(move || pass_on(client, &log));
        }
    });
    Ok((address, asked))
}

fn pass_on(client: TcpStream, log: &Mutex<Vec<String>>) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).context("not CONNECT")?;
    log.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let upstream = TcpStream::connect(target)?;
    write!(&client, "HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut up, mut back, mut down) = (upstream.try_clone()?, upstream, client);
    let forth = thread::spawn(move || {
        let _ = copy(&mut reader, &mut up);
        let _ = up.shutdown(Shutdown::Write);
    });
    let _ = copy(&mut back, &mut down);
    let _ = down.shutdown(Shutdown::Both);
    let _ = forth.join();
    Ok(())
}

/// Sign-in and step-up by a proxy (`HTTPS_PROXY`); stepup-server without (`NO_PROXY`).
fn a_provider_behind_a_proxy_is_asked_through_it(lab: &Lab) -> Result<()> {
    let (address, asked) = proxy()?;
    let namespace = lab.namespace("prod")?;
    let alice = lab.new_session(&lab.name_like("alice"))?;
    alice.set_up(&["--preflight", "off"])?;
    let server = lab.server_url().replace("127.0.0.1", "localhost");
    alice.stepup(&["setup", "--profile", alice.name(), "--server", &server])?.succeeded()?;
    let alice = alice.with("HTTPS_PROXY", &address).with("NO_PROXY", "localhost");

    alice.log_in()?;
    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;

    lab.answered(&namespace, "delete", "namespaces", &[429, 200])?;
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let provider = lab.issuer().replace("https://", "");
    ensure!(asked.len() >= 2 && asked.iter().all(|target| *target == provider), "{asked:?}, not {provider}");
    Ok(())
}

/// stepup-server needs the provider's keys. Nothing of it or of the proxies' rules exempts loopback by itself.
fn the_server_too_asks_a_provider_behind_a_proxy_through_it(shared: &Lab) -> Result<()> {
    let lab = shared.another("proxy", Options::default())?;
    let (address, asked) = proxy()?;
    let provider = lab.issuer().replace("https://", "");
    for (no_proxy, is_asked) in [("localhost", true), ("127.0.0.1", false)] {
        lab.restart_stepup_server_under(&Wrapper::environment(&[("HTTPS_PROXY", &address), ("NO_PROXY", no_proxy)]))?;
        let alice = lab.someone_like("alice")?;
        let namespace = lab.namespace("prod")?;

        alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;

        lab.answered(&namespace, "delete", "namespaces", &[429, 200])?;
        let asked = std::mem::take(&mut *asked.lock().unwrap_or_else(PoisonError::into_inner));
        ensure!(asked.is_empty() != is_asked, "NO_PROXY={no_proxy}: {asked:?}");
        ensure!(asked.iter().all(|target| *target == provider), "{asked:?}, not {provider}");
    }
    Ok(())
}

fn a_private_authority_that_nobody_named_is_named(lab: &Lab) -> Result<()> {
    let alice = lab.new_session(&lab.name_like("alice"))?;
    let setup = ["setup", "--offline", "--issuer", &lab.issuer(), "--client-id", "kubernetes"];
    alice.stepup(&setup)?.succeeded()?;
    let failed = alice.stepup(&["login", "--profile", "default"])?;
    ensure!(failed.status.code() == Some(6), "{}", failed.stderr);
    failed.failed_with("signed by an authority that is not trusted here").and_then(|failed| {
        ensure!(failed.stderr.contains("--issuer-ca"), "{}", failed.stderr);
        Ok(())
    })
}

/// stepup-server's clock differs from that of everybody else: the provider, the API server, the person.
fn two_minutes_between_the_clocks_stop_nothing(shared: &Lab) -> Result<()> {
    let lab = shared.another("two-minutes", Options::default())?;
    let clock = WrongClock::new(lab.directory())?;
    for shift in [120, -120] {
        lab.restart_stepup_server_under(&clock.ahead(shift))?;
        let alice = lab.someone_like("alice")?;
        let namespace = lab.namespace("prod")?;
        alice.kubectl(&["delete", "namespace", &namespace])?.succeeded().with_context(|| format!("{shift} s ahead"))?;
        lab.answered(&namespace, "delete", "namespaces", &[429, 200])?;
    }
    Ok(())
}
