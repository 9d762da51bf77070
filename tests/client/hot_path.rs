//! What client-go runs for nearly every request.

use std::fs;
use std::process::Stdio;

use serde_json::json;

use crate::home::{Home, Run};

#[test]
fn the_first_call_of_a_process_prints_the_base_token_and_connects_to_nobody() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    let run = home.get_token();
    assert_eq!(run.token(), home.base_token);
    assert_eq!(run.stderr, "");
    assert_eq!((home.provider.server.hits(), home.server.server.hits()), (0, 0));
}

#[test]
fn the_answer_is_in_the_version_that_was_asked_for() {
    for (info, version) in [
        (
            r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","spec":{"interactive":true}}"#,
            "v1",
        ),
        (r#"{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","spec":{}}"#, "v1beta1"),
        // Lens sends nothing, others rubbish.
        ("", "v1"),
        ("{", "v1"),
        (r#"{"apiVersion":"client.authentication.k8s.io/v7"}"#, "v1"),
    ] {
        let home = Home::builder().env("KUBERNETES_EXEC_INFO", info).build();
        let run = home.get_token();
        assert_eq!(run.token(), home.base_token);
        assert_eq!(run.credential()["apiVersion"], format!("client.authentication.k8s.io/{version}"), "{info}");
        assert_eq!(run.stderr.lines().count(), usize::from(info == "{" || info.contains("v7")), "{}", run.stderr);
    }
    let home = Home::new();
    let output = home.command(&["get-token", "--profile", "p"]).env_remove("KUBERNETES_EXEC_INFO").output().unwrap();
    assert_eq!(Run::of(&output).token(), home.base_token);
}

#[test]
fn standard_input_is_never_read() {
    let home = Home::new();
    let manifest = home.path("manifest");
    fs::write(&manifest, "kind: Namespace\n").unwrap();
    let mut file = fs::File::open(&manifest).unwrap();
    let mut command = home.command(&["get-token", "--profile", "p"]);
    let output = command.stdin(Stdio::from(file.try_clone().unwrap())).output().unwrap();
    assert_eq!(Run::of(&output).token(), home.base_token);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut file, &mut rest).unwrap();
    assert_eq!(rest, "kind: Namespace\n");
}

#[test]
fn without_stepup_server_no_call_connects_to_anybody() {
    let home = Home::builder().without_server().build();
    for run in home.kubectl("delete namespace prod", 3) {
        assert_eq!(run.token(), home.base_token);
    }
    assert_eq!((home.provider.server.hits(), home.server.server.hits()), (0, 0));
}

#[test]
fn a_reading_kubectl_never_asks_for_challenges() {
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    for run in home.kubectl("get pods -w", 3) {
        assert_eq!(run.token(), home.base_token);
    }
    assert_eq!(home.server.server.hits(), 0);
    assert_eq!(home.browsed(), [""; 0]);
}

#[test]
fn a_corrupt_session_is_set_aside_and_refreshed() {
    let home = Home::new();
    fs::write(home.path("cache/p/session.json"), format!("{{\"baseToken\": \"{}\"", home.base_token)).unwrap();
    let run = home.get_token();
    assert_ne!(run.token(), home.base_token);
    assert!(run.stderr.contains("session.corrupt"), "{}", run.stderr);
    home.assert_no_secret(&run.stderr);
    assert_eq!(home.provider.refreshes(), 1);
    assert_eq!(home.get_token().stderr, "", "it says so once");
}

#[test]
fn corrupt_bookkeeping_is_never_fatal() {
    let home = Home::new();
    for name in ["cache/p/elevated/anyone.json", "state/p/prompts.json"] {
        home.write(name, &json!(7));
    }
    let run = home.get_token();
    assert_eq!(run.token(), home.base_token);
    assert!(run.stderr.contains("anyone.corrupt"), "{}", run.stderr);
}

#[test]
fn a_state_directory_that_cannot_be_written_costs_no_token() {
    let home = Home::new();
    // Not even root can make a directory where a file is.
    fs::remove_dir_all(home.path("state")).unwrap();
    fs::write(home.path("state"), "").unwrap();
    assert_eq!(home.get_token().token(), home.base_token);
}

#[test]
fn a_missing_profile_says_what_to_type() {
    let home = Home::new();
    let run = home.run(&["get-token", "--profile", "other"]);
    run.fails(1, "kubectl stepup setup --profile other");
    home.run(&["get-token", "--profile", "../p"]).fails(2, "profile name");
}
