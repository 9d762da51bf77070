//! The base session: refresh with rotation, login, logout.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::home::{Home, Run, get};
use crate::provider::Manners;

#[test]
fn an_expired_base_token_is_refreshed_once_and_the_new_refresh_token_is_kept() {
    let home = Home::builder().signed_in_for(5).build();
    let token = home.get_token().token();
    assert_ne!(token, home.base_token);
    assert_eq!(home.get_token().token(), token, "the second call is served from the cache");
    assert_eq!(home.provider.refreshes(), 1);
    assert_eq!(home.read("state/p/refresh-token"), json!(home.provider.refresh_token()));
    assert_eq!(home.browsed(), [""; 0]);
}

#[test]
fn a_provider_that_does_not_rotate_keeps_the_refresh_token() {
    let home = Home::builder().signed_in_for(0).manners(|manners| manners.rotates = false).build();
    assert_ne!(home.get_token().token(), home.base_token);
    assert_eq!(home.read("state/p/refresh-token"), json!("refresh-0"));
}

#[test]
fn fifty_at_once_make_one_refresh() {
    let home =
        Home::builder().signed_in_for(0).manners(|manners| manners.refresh_takes = Duration::from_millis(200)).build();
    let children: Vec<_> = (0..50).map(|_| home.command(&["get-token", "--profile", "p"]).spawn().unwrap()).collect();
    let mut tokens: Vec<String> =
        children.into_iter().map(|child| Run::of(&child.wait_with_output().unwrap()).token()).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    assert_eq!(home.provider.refreshes(), 1);
}

/// A tool that asks every second must not wait for a provider's timeouts each time, nor hammer it.
#[test]
fn a_provider_that_is_out_of_reach_is_left_alone_for_a_while() {
    let home = Home::builder().signed_in_for(0).manners(|manners| manners.is_down = true).build();
    let first = home.get_token();
    first.fails(6, "identity provider");
    let asked = home.provider.server.hits();
    let again = home.get_token();
    again.fails(6, "s ago)");
    assert_eq!(home.provider.server.hits(), asked, "it was asked again");
    // A person who types something has it tried.
    home.run(&["status", "--profile", "p"]);
    assert!(home.provider.server.hits() > asked);
    // Its keys, its metadata: whatever it was, after the quiet time it is tried again, and then forgotten.
    home.write("state/p/refresh-failed.json", &json!({"at": "2020-01-01T00:00:00Z", "times": 9, "problem": "old"}));
    home.provider.change(|manners| manners.is_down = false);
    assert_ne!(home.get_token().token(), home.base_token);
    assert!(!home.path("state/p/refresh-failed.json").exists());
}

/// A provider that rotates accepts the old refresh token no more, whatever becomes of the rest of its answer.
#[test]
fn a_rotated_refresh_token_is_kept_though_the_rest_of_the_answer_is_no_good() {
    let home = Home::builder().signed_in_for(0).manners(|manners| manners.publishes_no_keys = true).build();
    home.get_token().fails(6, "its ID token does not verify");
    assert_eq!(home.read("state/p/refresh-token"), json!(home.provider.refresh_token()));
    assert_eq!(home.provider.refreshes(), 1);
}

#[test]
fn another_persons_sign_in_takes_over_no_token() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    assert_eq!(home.run(&["elevate", "--profile", "p", "--share"]).code, 0);
    assert_eq!(home.get_token().token(), "elevated-1");

    // The same person again keeps what was granted.
    assert_eq!(home.run(&["login", "--profile", "p", "--force"]).code, 0);
    assert_eq!(home.get_token().token(), "elevated-1");

    home.provider.change(|manners| manners.user = "bob");
    assert_eq!(home.run(&["login", "--profile", "p", "--force"]).code, 0);
    assert!(!home.get_token().token().starts_with("elevated"), "bob's commands go out as alice");
    // Nor does alice's sign-in answer for bob, though it is fresh.
    home.server.deny("ch-2", "delete", "prod");
    let asked = home.provider.device_requests().len();
    home.run(&["elevate", "--profile", "p"]);
    assert_eq!(home.provider.device_requests().len(), asked + 1);
}

#[test]
fn fifty_at_once_make_one_login() {
    let home = Home::builder().signed_out().manners(|manners| manners.pending_polls = 1).build();
    let children: Vec<_> = (0..50).map(|_| home.command(&["get-token", "--profile", "p"]).spawn().unwrap()).collect();
    let mut tokens: Vec<String> =
        children.into_iter().map(|child| Run::of(&child.wait_with_output().unwrap()).token()).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    assert_eq!(home.provider.device_requests().len(), 1);
    assert_eq!(home.browsed().len(), 1);
}

#[test]
fn one_refusal_answers_for_everybody_who_waited() {
    let home = Home::builder()
        .signed_out()
        .manners(|manners| {
            manners.denies = true;
            manners.pending_polls = 1;
        })
        .build();
    let children: Vec<_> = (0..10).map(|_| home.command(&["get-token", "--profile", "p"]).spawn().unwrap()).collect();
    for child in children {
        assert_eq!(Run::of(&child.wait_with_output().unwrap()).code, 4);
    }
    assert_eq!(home.provider.device_requests().len(), 1);
}

#[test]
fn a_refresh_token_that_a_sibling_has_rotated_is_read_again() {
    let home =
        Home::builder().signed_in_for(0).manners(|manners| manners.refresh_takes = Duration::from_millis(400)).build();
    // Another machine with the same home rotates while our refresh is on its way.
    let ours = home.command(&["get-token", "--profile", "p"]).spawn().unwrap();
    let newer = home.provider.rotate();
    let deadline = Instant::now() + Duration::from_secs(5);
    while home.provider.server.hits() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    home.write("state/p/refresh-token", &json!(newer));
    assert_ne!(Run::of(&ours.wait_with_output().unwrap()).token(), home.base_token);
    assert_eq!((home.provider.refused_refreshes(), home.provider.refreshes()), (1, 1));
}

#[test]
fn a_dead_session_prompts_where_somebody_is_and_fails_where_nobody_is() {
    let home = Home::builder().signed_in_for(0).prompt("never").build();
    home.provider.rotate();
    home.get_token().fails(3, "kubectl stepup login --profile p");
    assert_eq!(home.provider.device_requests().len(), 0);

    let home = Home::builder().signed_in_for(0).build();
    home.provider.rotate();
    let run = home.get_token();
    assert_ne!(run.token(), home.base_token);
    assert!(run.stderr.contains("ABCD-EFGH"), "{}", run.stderr);
    home.assert_no_secret(&run.stderr);
}

/// Dex says that a used or expired refresh token is an invalid request.
#[test]
fn a_session_that_is_refused_in_other_words_is_dead_too() {
    for refusal in ["invalid_request", "interaction_required"] {
        let home = Home::builder().signed_in_for(0).manners(|manners| manners.refusal = refusal).build();
        home.provider.rotate();
        let run = home.get_token();
        assert_ne!(run.token(), home.base_token);
        assert!(run.stderr.contains("would not renew the session") && run.stderr.contains(refusal), "{}", run.stderr);
        home.assert_no_secret(&run.stderr);
    }
    // What a sign-in would not mend is no reason for one.
    let home = Home::builder().signed_in_for(0).manners(|manners| manners.refusal = "invalid_client").build();
    home.provider.rotate();
    home.get_token().fails(6, "invalid_client");
    assert_eq!(home.provider.device_requests().len(), 0);
}

#[test]
fn a_provider_that_renews_no_id_tokens_is_signed_in_to_again() {
    let nobody = Home::builder().signed_in_for(0).prompt("never").manners(|manners| manners.renews_no_id_tokens = true);
    nobody.build().get_token().fails(3, "renews no ID tokens");
    let home = Home::builder().signed_in_for(0).manners(|manners| manners.renews_no_id_tokens = true).build();
    assert_ne!(home.get_token().token(), home.base_token);
}

#[test]
fn an_id_token_for_several_clients_must_have_been_issued_to_us() {
    for (tells, code) in [(true, 0), (false, 6)] {
        let manners = |manners: &mut Manners| manners.also_for = Some(("somebody-else", tells));
        let run = Home::builder().signed_out().manners(manners).build().run(&["login", "--profile", "p"]);
        assert_eq!(run.code, code, "{run:?}");
        assert!(tells || run.stderr.contains("was not issued to \"kubernetes\""), "{run:?}");
    }
}

/// A provider that rotates takes the old refresh token no more: what has been asked for must be kept.
#[test]
fn ctrl_c_waits_for_the_renewed_token() {
    let home =
        Home::builder().signed_in_for(0).manners(|manners| manners.refresh_takes = Duration::from_secs(2)).build();
    let child = home.command(&["get-token", "--profile", "p"]).spawn().unwrap();
    // Its metadata, then the refresh.
    while home.provider.server.hits() < 2 {
        thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let run = Run::of(&child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stdout.as_str()), (130, ""), "{run:?}");
    assert_eq!(home.read("state/p/refresh-token"), json!(home.provider.refresh_token()));
    assert_eq!(home.provider.refreshes(), 1);
}

#[test]
fn a_background_caller_never_prompts() {
    let home = Home::builder().signed_out().prompt("auto").build();
    home.get_token().fails(3, "not signed in");
    assert_eq!(home.provider.server.hits(), 0);
    assert_eq!(home.browsed(), [""; 0]);
}

#[test]
fn completion_never_prompts() {
    for prompt in ["auto", "always"] {
        let home = Home::builder().signed_out().prompt(prompt).build();
        let runs = home.kubectl_on_terminal("__complete get pods x", 1, false).finish();
        assert_eq!(runs[0].code, 3);
        assert_eq!((home.browsed(), home.provider.device_requests().len()), (vec![], 0), "{prompt}");
    }
}

#[test]
fn a_login_shows_url_and_code_and_opens_the_browser() {
    let home = Home::builder().signed_out().manners(|manners| manners.interval = None).build();
    let run = home.run(&["login", "--profile", "p"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("/device?user_code=ABCD-EFGH") && run.stderr.contains("ABCD-EFGH"), "{}", run.stderr);
    assert!(!run.stderr.contains('\u{1b}'), "stderr is no terminal: {:?}", run.stderr);
    assert_eq!(home.browsed().len(), 1);
    let asked = &home.provider.device_requests()[0];
    assert_eq!((asked["scope"].as_str(), asked["login_hint"].as_str()), ("openid offline_access", "alice@example.com"));
    assert!(!asked.contains_key("acr_values"));
    home.assert_no_secret(&format!("{}{}", run.stdout, run.stderr));
    assert!(!home.get_token().token().is_empty());
}

#[test]
fn a_login_without_browser_opens_none() {
    let home = Home::builder().signed_out().build();
    assert_eq!(home.run(&["login", "--profile", "p", "--no-browser"]).code, 0);
    assert_eq!(home.browsed(), [""; 0]);
}

#[test]
fn a_login_by_browser_takes_the_code_from_our_own_request_only() {
    let home = Home::builder().signed_out().flow("browser").build();
    let child = home.command(&["login", "--profile", "p"]).spawn().unwrap();
    let back = get(&home.url_in_browser()).1;
    assert!(back.starts_with("http://127.0.0.1:"), "{back}");
    let (address, _) = back.split_once("/callback").unwrap();
    assert_eq!(get(&format!("{address}/favicon.ico")).0, 404);
    assert_eq!(get(&format!("{address}/callback?code=stolen&state=guessed")).0, 400);
    assert_eq!(get(&back).0, 200);
    let run = Run::of(&child.wait_with_output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!home.get_token().token().is_empty());
}

/// Some program of this machine comes to the port before the browser does, and takes its time.
#[test]
fn whoever_drips_does_not_keep_the_browser_waiting() {
    let home = Home::builder().signed_out().flow("browser").build();
    let child = home.command(&["login", "--profile", "p"]).spawn().unwrap();
    let back = get(&home.url_in_browser()).1;
    let port = url::Url::parse(&back).unwrap().port().unwrap();
    let mut dripper = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let dripping = thread::spawn(move || {
        for _ in 0..30 {
            if dripper.write_all(b"G").is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(500));
        }
    });
    thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    assert_eq!(get(&back).0, 200);
    assert!(began.elapsed() < Duration::from_secs(6), "the browser waited for {:?}", began.elapsed());
    let run = Run::of(&child.wait_with_output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    dripping.join().unwrap();
}

#[test]
fn a_logout_revokes_and_forgets() {
    let home = Home::builder().prompt("never").build();
    let run = home.run(&["logout", "--profile", "p"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(home.provider.revoked(), ["refresh-0"]);
    home.get_token().fails(3, "kubectl stepup login");
}

#[test]
fn after_a_logout_no_token_is_left_in_any_file() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    assert_eq!(home.run(&["elevate", "--profile", "p", "--share"]).code, 0);
    // What was set aside, and what a process that was killed did not finish.
    for name in ["state/p/refresh-token.7.new", "cache/p/session.corrupt", "cache/p/elevated/anyone.corrupt"] {
        home.write(name, &json!(home.base_token));
    }
    let secrets = [home.provider.secrets(), vec![home.base_token.clone(), "elevated-1".to_owned()]].concat();
    let has_secret = |text: String| secrets.iter().any(|secret| text.contains(secret.as_str()));
    assert!(texts_under(&home.path("")).into_iter().any(|(_, text)| has_secret(text)), "there was something to forget");
    assert_eq!(home.run(&["logout", "--profile", "p"]).code, 0);
    let left: Vec<_> = texts_under(&home.path(""))
        .into_iter()
        .filter(|(_, text)| has_secret(text.clone()))
        .map(|(path, _)| path)
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// All files, and what is in them.
fn texts_under(directory: &std::path::Path) -> Vec<(std::path::PathBuf, String)> {
    let mut all = Vec::new();
    for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(texts_under(&path));
        } else {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            all.push((path, text));
        }
    }
    all
}

#[test]
fn a_provider_that_is_down_is_named_with_what_its_page_says() {
    let home = Home::builder().signed_in_for(0).build();
    home.provider.change(|manners| manners.is_down = true);
    let run = home.get_token();
    run.fails(6, &home.provider.server.url);
    assert!(run.stderr.contains("it answers 503 and a web page (\"Down for maintenance\")"), "{}", run.stderr);
    home.assert_no_secret(&run.stderr);
}

#[test]
fn the_last_seconds_of_a_token_serve_while_the_provider_is_down() {
    let home = Home::builder().signed_in_for(8).build();
    home.provider.change(|manners| manners.is_down = true);
    assert_eq!(home.get_token().token(), home.base_token);
}

#[test]
fn a_slash_at_the_end_of_the_issuer_is_a_matter_of_taste() {
    for (profile, metadata) in [("", "/"), ("/", ""), ("/realm", "/realm/")] {
        let home = Home::builder()
            .signed_out()
            .issuer_suffix(profile)
            .manners(|manners| manners.issuer_suffix = metadata)
            .build();
        let run = home.run(&["login", "--profile", "p"]);
        assert_eq!(run.code, 0, "{profile} {metadata}: {}", run.stderr);
    }
    let home = Home::builder().signed_out().manners(|manners| manners.issuer_suffix = "/other").build();
    home.run(&["login", "--profile", "p"]).fails(6, "it says that its issuer is");
}

#[test]
fn an_id_token_that_has_expired_is_not_taken() {
    let home = Home::builder().signed_out().manners(|manners| manners.life = -5).build();
    home.run(&["login", "--profile", "p"]).fails(6, "does not verify");
}

#[test]
fn a_clock_that_is_off_by_a_day_is_named_and_does_not_make_every_call_a_refresh() {
    for (ahead, word) in [(86_400, "behind"), (-86_400, "ahead")] {
        let home = Home::builder().signed_in_for(0).manners(|manners| manners.clock_ahead = ahead).build();
        let first = home.get_token();
        assert!(first.stderr.contains(word), "{}", first.stderr);
        assert_eq!(home.get_token().token(), first.token());
        assert_eq!(home.provider.refreshes(), 1);
    }
}

#[test]
fn without_a_home_to_write_to_the_session_is_kept_elsewhere_and_that_is_said() {
    let home = Home::builder().signed_out().build();
    home.write("config/kubectl-stepup/profiles/p.json", &home.read("config/profiles/p.json"));
    let run = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command.env_remove("KUBECTL_STEPUP_HOME").env("HOME", "/dev/null");
        command.env("XDG_CONFIG_HOME", home.path("config")).env("XDG_RUNTIME_DIR", home.path("run"));
        Run::of(&command.output().unwrap())
    };
    let login = run(&["login", "--profile", "p"]);
    assert_eq!(login.code, 0, "{}", login.stderr);
    assert!(login.stderr.contains("no home directory to write to"), "{}", login.stderr);
    assert!(home.path("run/kubectl-stepup/cache/p/session.json").exists());
    let hits = home.provider.server.hits();
    assert!(!run(&["get-token", "--profile", "p"]).token().is_empty());
    assert_eq!(home.provider.server.hits(), hits, "it is found again");
}
