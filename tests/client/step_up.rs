//! From a denial to an elevated token, inside one command.

use std::time::Duration;

use chrono::Utc;
use serde_json::json;

use crate::home::{Home, Run};

#[test]
fn the_second_call_of_a_process_takes_the_challenge_up_with_one_prompt() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    let runs = home.kubectl("delete namespace prod", 3);
    assert_eq!(runs[0].token(), home.base_token);
    assert_eq!(runs[1].token(), "elevated-1");
    assert_eq!(runs[2].token(), "elevated-1", "nothing is pending any more: the token of this command");

    let asked = home.provider.device_requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["scope"], "openid", "a step-up wants no refresh token");
    assert_eq!((asked[0]["acr_values"].as_str(), asked[0]["max_age"].as_str()), ("urn:mfa", "300"));
    assert_eq!(asked[0]["login_hint"], "alice@example.com");
    assert_eq!(home.browsed().len(), 1);

    let exchanges = home.server.exchanges();
    assert_eq!(exchanges.len(), 1);
    assert_eq!(exchanges[0]["challenge"], "ch-1");
    assert!(home.server.bearers().iter().all(|bearer| *bearer == home.base_token));

    let prompt = &runs[1].stderr;
    for part in
        ["delete namespaces/prod", "delete-namespace", "5 min, one use", "/device?user_code=ABCD-EFGH", "Ctrl-C"]
    {
        assert!(prompt.contains(part), "{part:?} is not in {prompt}");
    }
    assert!(!prompt.contains('\u{1b}'), "the rule's description must not drive the terminal");
    home.assert_no_secret(prompt);
}

#[test]
fn another_command_has_base_rights_only() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    assert_eq!(home.kubectl("delete namespace prod", 2)[1].token(), "elevated-1");
    for run in home.kubectl("delete namespace other", 2) {
        assert_eq!(run.token(), home.base_token);
    }
}

#[test]
fn a_sign_in_that_is_fresh_enough_is_not_asked_again() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "a");
    home.server.deny("ch-2", "delete", "b");
    let runs = home.kubectl("delete namespace a b", 3);
    assert_eq!((runs[1].token().as_str(), runs[2].token().as_str()), ("elevated-1", "elevated-2"));
    assert_eq!(home.provider.device_requests().len(), 1, "one sign-in for both");
    assert!(!runs[2].stderr.contains("Sign in"), "{}", runs[2].stderr);
    assert_eq!(home.server.exchanges()[1]["carry"], "gr-1", "one token does everything");
}

#[test]
fn a_kept_sign_in_that_the_server_finds_too_old_is_replaced_once() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "a");
    home.server.deny("ch-2", "delete", "b");
    home.server.judge();
    home.server.refuse("insufficient_user_authentication", "you signed in 301 s ago");
    let runs = home.kubectl("delete namespace a b", 3);
    assert_eq!((runs[1].token().as_str(), runs[2].token().as_str()), ("elevated-1", "elevated-3"));
    assert_eq!(home.provider.device_requests().len(), 2);
    assert_eq!(home.server.declined(), []);
}

#[test]
fn a_fresh_sign_in_that_is_refused_is_not_repeated() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "a");
    home.server.refuse("invalid_grant", "the provider's key is not known");
    let runs = home.kubectl("delete namespace a", 2);
    assert_eq!(runs[1].token(), home.base_token);
    assert!(runs[1].stderr.contains("the provider's key is not known"), "{}", runs[1].stderr);
    assert_eq!(home.provider.device_requests().len(), 1);
    // So the command's next try is a 403, and no prompt.
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "too-weak".to_owned())]);
}

/// The browser knows another account.
#[test]
fn a_step_up_of_somebody_else_says_so_and_ends_there() {
    let home = Home::builder().manners(|manners| manners.user = "alice-admin").build();
    home.server.deny("ch-1", "delete", "a");
    home.server.refuse("invalid_grant", "no such challenge is pending for you: try the command again");
    let runs = home.kubectl("delete namespace a", 3);
    assert!(runs.iter().all(|run| run.token() == home.base_token));
    assert!(runs[1].stderr.contains("alice-admin signed in, not alice"), "{}", runs[1].stderr);
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "too-weak".to_owned())]);
    assert_eq!(home.provider.device_requests().len(), 1);
}

#[test]
fn a_covered_challenge_is_answered_with_the_token_that_covers_it() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "a");
    home.server.deny("ch-2", "delete", "b");
    home.server.cover("ch-1", "gr-1");
    // The newest, ch-2, is taken up first and becomes gr-1.
    let runs = home.kubectl("delete namespace a b", 3);
    assert_eq!((runs[1].token().as_str(), runs[2].token().as_str()), ("elevated-1", "elevated-1"));
    assert_eq!(home.server.exchanges().len(), 1);
}

#[test]
fn a_challenge_that_is_not_ours_is_left_alone() {
    let home = Home::new();
    home.server.deny_at("ch-old", "delete", "prod", 6);
    home.server.deny("ch-patch", "patch", "prod");
    for run in home.kubectl("delete namespace prod", 3) {
        assert_eq!(run.token(), home.base_token);
    }
    assert_eq!(home.provider.server.hits(), 0);
    assert_eq!(home.server.declined(), []);
}

#[test]
fn refusing_at_the_provider_declines_and_the_base_token_goes_on() {
    let home = Home::builder().manners(|manners| manners.denies = true).build();
    home.server.deny("ch-1", "delete", "prod");
    let runs = home.kubectl("delete namespace prod", 3);
    assert_eq!(runs[1].token(), home.base_token);
    assert!(runs[1].stderr.contains("refused at the identity provider"), "{}", runs[1].stderr);
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "declined".to_owned())]);
    assert_eq!(runs[2].token(), home.base_token);
    assert_eq!(home.provider.device_requests().len(), 1);
}

#[test]
fn a_code_that_nobody_uses_times_out_and_the_next_prompt_waits() {
    let home = Home::builder()
        .manners(|manners| {
            manners.ignores = true;
            manners.code_life = 1;
        })
        .build();
    home.server.deny("ch-1", "delete", "prod");
    assert_eq!(home.kubectl("delete namespace prod", 2)[1].token(), home.base_token);
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "timed-out".to_owned())]);
    home.server.deny("ch-2", "delete", "prod");
    let runs = home.kubectl("delete namespace prod", 2);
    assert!(runs[1].stderr.contains("nobody answered"), "{}", runs[1].stderr);
    assert_eq!(home.provider.device_requests().len(), 1);
    assert_eq!(home.browsed().len(), 1);
}

#[test]
fn a_provider_that_fails_is_told_to_the_server() {
    let home = Home::new();
    home.provider.change(|manners| manners.is_down = true);
    home.server.deny("ch-1", "delete", "prod");
    let runs = home.kubectl("delete namespace prod", 2);
    assert_eq!(runs[1].token(), home.base_token);
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "provider-failed".to_owned())]);
}

#[test]
fn a_sign_in_that_comes_back_weak_is_said_and_declined() {
    let home = Home::builder().manners(|manners| manners.acr = Some("urn:pwd")).build();
    home.server.deny("ch-1", "delete", "prod");
    home.server.refuse("insufficient_user_authentication", "the identity provider says you signed in with urn:pwd");
    let runs = home.kubectl("delete namespace prod", 2);
    assert_eq!(runs[1].token(), home.base_token);
    assert!(runs[1].stderr.contains("signed in with urn:pwd"), "{}", runs[1].stderr);
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "too-weak".to_owned())]);
    assert_eq!(home.provider.device_requests().len(), 1, "no loops");
}

#[test]
fn nobody_there_means_no_prompt_and_the_base_token() {
    for prompt in ["never", "auto"] {
        let home = Home::builder().prompt(prompt).build();
        home.server.deny("ch-1", "delete", "prod");
        let runs = home.kubectl("delete namespace prod", 2);
        assert_eq!(runs[1].token(), home.base_token);
        assert!(runs[1].stderr.contains("kubectl stepup elevate"), "{}", runs[1].stderr);
        assert_eq!(home.provider.server.hits(), 0);
        assert_eq!(home.browsed(), [""; 0]);
        assert_eq!(home.server.declined(), []);
    }
}

#[test]
fn a_server_that_is_down_costs_the_base_token_nothing_and_is_left_alone_for_a_while() {
    let home = Home::new();
    home.server.set_down(true);
    let runs = home.kubectl("delete namespace prod", 4);
    for run in &runs {
        assert_eq!(run.token(), home.base_token);
    }
    assert!(runs[1].stderr.contains("stepup-server"), "{}", runs[1].stderr);
    assert_eq!(home.server.server.hits(), 1);
}

#[test]
fn a_reason_comes_from_the_environment() {
    let home = Home::builder().env("KUBECTL_STEPUP_REASON", "OPS-1 clean up").build();
    home.server.demand_reason("OPS-");
    home.server.deny("ch-1", "delete", "prod");
    assert_eq!(home.kubectl("delete namespace prod", 2)[1].token(), "elevated-1");
    assert_eq!(home.server.exchanges()[0]["reason"], "OPS-1 clean up");
}

#[test]
fn a_reason_that_nobody_can_be_asked_for_declines_and_says_how_to_give_it() {
    let home = Home::new();
    home.server.demand_reason("OPS-");
    home.server.deny("ch-1", "delete", "prod");
    let runs = home.kubectl("delete namespace prod", 2);
    assert_eq!(runs[1].token(), home.base_token);
    assert!(runs[1].stderr.contains("KUBECTL_STEPUP_REASON"), "{}", runs[1].stderr);
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "no-reason".to_owned())]);
    assert_eq!(home.browsed(), [""; 0]);
}

#[test]
fn a_reason_is_asked_on_the_terminal_and_again_when_the_server_does_not_like_it() {
    let home = Home::builder().prompt("auto").build();
    home.server.demand_reason("OPS-");
    home.server.deny("ch-1", "delete", "prod");
    let mut terminal = home.kubectl_on_terminal("delete namespace prod", 2, false);
    terminal.expect("Reason (a ticket):");
    terminal.type_line("because");
    terminal.expect("this reason will not do");
    terminal.expect("Reason (a ticket):");
    terminal.type_line("OPS-7");
    assert_eq!(terminal.finish()[1].token(), "elevated-2");
    let reasons: Vec<_> = home.server.exchanges().iter().map(|exchange| exchange["reason"].clone()).collect();
    assert_eq!(reasons, ["because", "OPS-7"]);
    assert_eq!(home.provider.device_requests().len(), 1);
}

/// One sign-in serves both, but nobody gives a reason for they do not know what.
#[test]
fn a_reason_alone_is_asked_with_what_it_is_for() {
    let home = Home::builder().prompt("auto").build();
    home.server.demand_reason("OPS-");
    home.server.deny("ch-1", "delete", "a");
    home.server.deny("ch-2", "delete", "b");
    let mut terminal = home.kubectl_on_terminal("delete namespace a b", 3, false);
    for name in ["b", "a"] {
        terminal.expect(&format!("Step-up required: delete namespaces/{name}"));
        terminal.expect("Reason (a ticket):");
        terminal.type_line("OPS-7");
    }
    assert_eq!(terminal.finish()[2].token(), "elevated-2");
    assert_eq!(home.provider.device_requests().len(), 1);
}

#[test]
fn ctrl_c_declines() {
    let home = Home::builder().manners(|manners| manners.ignores = true).build();
    assert_eq!(home.get_token().token(), home.base_token);
    home.server.deny("ch-1", "delete", "prod");
    let child = home.command(&["get-token", "--profile", "p"]).spawn().unwrap();
    while home.provider.polls() == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let run = Run::of(&child.wait_with_output().unwrap());
    assert_eq!(run.token(), home.base_token);
    assert_eq!(home.server.declined(), [("ch-1".to_owned(), "declined".to_owned())]);
}

#[test]
fn a_person_whose_stderr_is_hidden_sees_the_prompt_on_the_terminal() {
    let home = Home::builder().prompt("auto").manners(|manners| manners.pending_polls = 1).build();
    home.server.deny("ch-1", "delete", "prod");
    let mut terminal = home.kubectl_on_terminal("delete namespace prod", 2, true);
    terminal.expect("ABCD-EFGH");
    let runs = terminal.finish();
    assert_eq!(runs[1].token(), "elevated-1");
    assert!(runs[1].stderr.contains("ABCD-EFGH"));
}

#[test]
fn fifty_at_once_make_one_prompt_and_each_gets_its_own_grant() {
    let home = Home::builder().manners(|manners| manners.pending_polls = 2).build();
    for number in 0..50 {
        home.server.deny(&format!("ch-{number}"), "delete", "prod");
    }
    // One process that runs many plugins at once, as helm and kubectl apply do.
    let plugin = "\"$PLUGIN\" get-token --profile p";
    let runs = home.shell(&format!(
        "{plugin} >0.out
         for n in $(seq 50); do {plugin} >$n.out 2>$n.err </dev/null & eval pid$n=$!; done
         for n in $(seq 50); do eval wait '$'pid$n; echo $? >$n.code; done"
    ));
    let mut tokens: Vec<String> = runs(50).iter().map(Run::token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 50);
    assert_eq!(home.provider.device_requests().len(), 1);
    assert_eq!(home.browsed().len(), 1);
}

#[test]
fn a_command_takes_up_the_denial_that_its_arguments_name() {
    let home = Home::new();
    home.server.deny("ch-prod", "delete", "prod");
    home.server.deny("ch-newer", "delete", "other");
    assert_eq!(home.kubectl("delete namespace prod", 2)[1].token(), "elevated-1");
    assert_eq!(home.server.exchanges()[0]["challenge"], "ch-prod");
}

#[test]
fn an_elevated_token_is_for_its_terminal() {
    let home = Home::builder().prompt("auto").build();
    let held = json!([{
        "token": "elevated-by-hand", "expiresAt": Utc::now().timestamp() + 60,
        "grant": {
            "id": "gr-9", "user": "alice", "rule": "r", "permits": [], "covers": [], "acr": "urn:mfa",
            "authTime": Utc::now(), "createdAt": Utc::now(), "expiresAt": Utc::now(),
        },
    }]);
    home.write("cache/p/elevated/terminal-1-1-1.json", &held);
    assert_eq!(home.get_token().token(), home.base_token);
    home.write("cache/p/elevated/anyone.json", &held);
    assert_eq!(home.get_token().token(), "elevated-by-hand");
}

/// gravitational/teleport#68111: fifty clusters, fifty prompts.
#[test]
fn one_sign_in_serves_every_cluster_of_its_provider_and_each_makes_its_own_grant() {
    let home = Home::new();
    let other = home.another_cluster("q");
    home.server.deny("ch-1", "delete", "prod");
    other.deny("ch-2", "delete", "prod");
    let each =
        "n=0; for p in p q; do n=$((n+1)); \"$PLUGIN\" elevate --profile $p >$n.out 2>$n.err; echo $? >$n.code; done";
    for run in home.shell(each)(2) {
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    assert_eq!((home.provider.device_requests().len(), home.browsed().len()), (1, 1));
    assert_eq!((home.server.exchanges().len(), other.exchanges().len()), (1, 1));
    assert_eq!(other.exchanges()[0]["challenge"], "ch-2");
    assert_eq!(other.exchanges()[0].get("carry"), None, "grants of one cluster are nothing to another");
}

/// An idle tool asks once a second, and may ask just when somebody's kubectl is about to come back.
#[test]
fn a_program_that_happens_to_ask_gives_way_to_the_command_that_was_denied() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    home.server.taken_up_after_the_next_look();
    let twice = "for n in 1 2; do \"$PLUGIN\" get-token --profile p >$n.out 2>$n.err; echo $? >$n.code; done";
    for run in home.shell(twice)(2) {
        assert_eq!((run.token(), run.stderr.as_str()), (home.base_token.clone(), ""));
    }
    assert_eq!(home.provider.device_requests(), []);
    // Whoever else it may be, such as helm, is served.
    home.server.deny("ch-2", "delete", "prod");
    assert_eq!(home.shell(twice)(2)[1].token(), "elevated-1");
}

#[test]
fn elevate_binds_to_the_terminal() {
    let home = Home::builder().prompt("auto").build();
    home.server.deny("ch-1", "delete", "prod");
    let mut terminal = home.shell_on_terminal(
        "\"$PLUGIN\" elevate --profile p && \"$PLUGIN\" get-token --profile p >1.out; echo $? >1.code; echo done",
    );
    terminal.expect("done");
    assert_eq!(terminal.finish()[0].token(), "elevated-1");
    assert_eq!(home.get_token().token(), home.base_token, "another terminal, or none, has base rights");
}

#[test]
fn identifiers_of_a_server_do_not_drive_the_terminal() {
    let home = Home::new();
    home.server.call_grants("gr-\u{1b}[2J-");
    home.server.deny("ch-1", "delete", "prod");
    home.server.deny("ch-2", "delete", "dev");
    let script =
        "for c in elevate elevate status drop; do \"$PLUGIN\" $c --profile p >>1.out 2>>1.err; done; echo $? >1.code";
    let run = &home.shell(script)(1)[0];
    assert_eq!(run.code, 0, "{}", run.stderr);
    for line in [
        "goes on with gr-[2J-1 from before",
        "kubectl stepup drop gr-[2J-2",
        "  gr-[2J-2  5 min left",
        "gr-[2J-1 is given up",
    ] {
        assert!(run.stdout.contains(line), "{line:?} is not in {}", run.stdout);
    }
    assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{:?}{:?}", run.stdout, run.stderr);
}
