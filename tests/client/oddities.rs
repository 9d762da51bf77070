//! What providers do that a good one would not, and what stands between us and them.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::json;

use crate::home::{Home, Run};

/// RFC 8628, section 3.2: five seconds then. The provider complains of a poll that comes too early.
#[test]
fn without_an_interval_it_polls_every_five_seconds() {
    let home =
        Home::builder().signed_out().manners(|manners| (manners.interval, manners.pending_polls) = (None, 1)).build();
    assert_eq!(home.run(&["login", "--profile", "p"]).code, 0);
    assert_eq!(home.provider.polls(), 2);
}

/// RFC 8628, section 3.5: five seconds more, from then on.
#[test]
fn told_to_slow_down_it_does_for_good() {
    let home =
        Home::builder().signed_out().manners(|manners| (manners.slow_downs, manners.pending_polls) = (1, 2)).build();
    assert_eq!(home.run(&["login", "--profile", "p"]).code, 0);
    assert_eq!(home.provider.polls(), 3);
}

#[test]
fn an_id_token_without_acr_signs_in_and_is_no_step_up() {
    let home = Home::builder().signed_out().manners(|manners| manners.acr = None).build();
    assert_eq!(home.run(&["login", "--profile", "p"]).code, 0);
    home.server.deny("ch-1", "delete", "prod");
    home.server.refuse("insufficient_user_authentication", "the identity provider does not say how you signed in");
    let base = home.get_token().token();
    let runs = home.kubectl("delete namespace prod", 2);
    assert_eq!(runs[1].token(), base);
    assert!(
        runs[1].stderr.contains("the sign-in was not enough: the identity provider does not say"),
        "{}",
        runs[1].stderr
    );
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "too-weak".to_owned())]);
}

#[test]
fn a_refresh_without_auth_time_is_a_refresh() {
    let home = Home::builder().signed_in_for(0).manners(|manners| manners.tells_auth_time.1 = false).build();
    assert_ne!(home.get_token().token(), home.base_token);
    assert_eq!(home.provider.refreshes(), 1);
}

/// Sign-in, step-up and its reuse: all by this machine's clock, whatever the provider's says; and the difference is named.
#[test]
fn two_minutes_between_the_clocks_are_named_and_do_no_harm() {
    for (ahead, word) in [(120, "behind"), (-120, "ahead")] {
        let home = Home::builder().signed_out().manners(|manners| manners.clock_ahead = ahead).build();
        let login = home.run(&["login", "--profile", "p"]);
        assert_eq!(login.code, 0, "{}", login.stderr);
        let named = login.stderr.contains(&format!(" s {word} of the identity provider's"));
        assert!(named, "{}", login.stderr);
        home.server.deny("ch-1", "delete", "prod");
        home.server.deny("ch-2", "delete", "dev");
        let _ = home.shell("{ $PLUGIN elevate --profile p && $PLUGIN elevate --profile p; } >out 2>&1");
        assert_eq!(home.server.exchanges().len(), 2);
        assert_eq!(home.provider.device_requests().len(), 2, "login and one step-up: it is still fresh");
    }
}

#[test]
fn a_token_endpoint_that_answers_with_a_page_is_quoted_without_secrets() {
    for (status, page, told) in [
        (200, "<html><title>Sign in to the network", "it answers 200 and a web page (\"Sign in to the network"),
        (502, "<html><h1>502 Bad Gateway</h1>", "it answers 502 and a web page (\"502 Bad Gateway"),
    ] {
        let home =
            Home::builder().signed_in_for(0).manners(|manners| manners.token_page = Some((status, page))).build();
        let run = home.get_token();
        run.fails(6, told);
        home.assert_no_secret(&run.stderr);

        // A page that may be another in a moment is polled for until the code ends.
        let home = Home::builder()
            .signed_out()
            .manners(|manners| (manners.token_page, manners.code_life) = (Some((status, page)), 3))
            .build();
        let run = home.run(&["login", "--profile", "p"]);
        run.fails(6, told);
        home.assert_no_secret(&run.stderr);
    }
}

/// The person signs in while what stands before the provider is restarted.
#[test]
fn a_page_that_passes_does_not_end_a_sign_in() {
    let home = Home::builder()
        .signed_out()
        .manners(|manners| manners.token_page = Some((502, "<html><h1>502 Bad Gateway</h1>")))
        .build();
    let child = home.command(&["login", "--profile", "p"]).spawn().unwrap();
    home.url_in_browser();
    let hits = home.provider.server.hits();
    while home.provider.server.hits() == hits {
        thread::yield_now();
    }
    home.provider.change(|manners| manners.token_page = None);
    let run = Run::of(&child.wait_with_output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[test]
fn setup_takes_over_how_the_provider_writes_its_issuer() {
    for (profile, metadata) in [("", "/"), ("/", ""), ("/realm", "/realm/")] {
        let home = Home::builder()
            .signed_out()
            .issuer_suffix(profile)
            .manners(|manners| manners.issuer_suffix = metadata)
            .build();
        let run = home.run(&["setup", "--profile", "p"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("with its slash or without"), "{}", run.stderr);
        assert_eq!(home.read("config/profiles/p.json")["issuer"], json!(home.provider.issuer()));
        assert_eq!(home.run(&["login", "--profile", "p"]).code, 0);
    }
}

/// Redirects would take tokens wherever the answer points, so they are followed nowhere, and `setup` says what will happen.
#[test]
fn setup_says_of_an_issuer_that_points_elsewhere_where_it_points() {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let elsewhere = home.provider.server.url.clone();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut line = String::new();
            let mut reader = BufReader::new(client.try_clone().unwrap());
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {}
            let path = line.split(' ').nth(1).unwrap();
            let _ = write!(client, "HTTP/1.1 302 Found\r\nlocation: {elsewhere}{path}\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let run = home.run(&["setup", "--profile", "q", "--issuer", &issuer, "--client-id", "kubernetes"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let told = format!("it answers 302 and points to {}", home.provider.server.url);
    assert!(run.stderr.contains(&told), "{}", run.stderr);
    assert_eq!(home.provider.server.hits(), 0);
}

#[test]
fn a_provider_on_ipv6_is_one_too() {
    for flow in ["device", "browser"] {
        let home = Home::builder().signed_out().flow(flow).manners(|manners| manners.address = "[::1]:0").build();
        assert!(home.provider.server.url.starts_with("http://[::1]:"));
        let child = home.command(&["login", "--profile", "p"]).spawn().unwrap();
        if flow == "browser" {
            home.sign_in_by_browser();
        }
        let run = Run::of(&child.wait_with_output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
}

/// What is not encrypted stays on this machine, whatever proxy it has for the rest. (That providers over TLS are asked through
/// one, the lab's tests show.)
#[test]
fn what_is_not_encrypted_is_kept_from_a_proxy() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let home = Home::builder().signed_out().env("http_proxy", &address).env("ALL_PROXY", &address).build();
    assert_eq!(home.run(&["login", "--profile", "p"]).code, 0);
    assert_eq!(home.run(&["elevate", "--profile", "p", "--for", "get", "secrets", "-n", "prod"]).code, 0);
    assert_eq!(proxy.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody has come");
}

#[test]
fn a_proxy_that_is_not_there_is_an_error_and_no_way_around_it() {
    let home = Home::builder().signed_out().env("https_proxy", "http://127.0.0.1:9").build();
    let mut profile = home.read("config/profiles/p.json");
    profile["issuer"] = json!("https://192.0.2.1");
    home.write("config/profiles/p.json", &profile);
    home.run(&["login", "--profile", "p"]).fails(6, "cannot connect");
}
