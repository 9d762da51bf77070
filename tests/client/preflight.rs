//! Step-up before the first request of a kubectl that would not repeat it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::json;
use stepup::action::ActionPattern;

use crate::home::{Builder, Home, Run};

/// A verb, of objects of the core group, in a namespace.
pub fn pattern(verb: &str, resource: &str, namespace: &str) -> ActionPattern {
    serde_json::from_value(json!({
        "verbs": [verb], "apiGroups": [""], "resources": [resource], "namespaces": [namespace],
    }))
    .unwrap()
}

/// Secrets and shells of production are protected, and deleting a namespace.
fn builder() -> Builder {
    Home::builder().preflight(vec![
        pattern("get", "secrets", "prod"),
        pattern("connect", "pods/exec", "prod"),
        pattern("delete", "namespaces", "*"),
    ])
}

#[test]
fn a_protected_read_is_stepped_up_for_before_its_first_request() {
    let home = builder().build();
    let runs = home.kubectl("get secret db -n prod", 3);
    for run in &runs {
        assert_eq!(run.token(), "elevated-1", "{}", run.stderr);
    }
    let action = json!([{"verb": "get", "resource": "secrets", "namespace": "prod", "name": "db"}]);
    assert_eq!(home.server.asked(), [action]);
    assert_eq!((home.provider.device_requests().len(), home.browsed().len()), (1, 1));
    assert!(runs[0].stderr.contains("Step-up required: get secrets/db -n prod"), "{}", runs[0].stderr);
    assert_eq!(home.server.exchanges().len(), 1);
}

#[test]
fn another_command_starts_with_base_rights() {
    let home = builder().build();
    assert_eq!(home.kubectl("exec api-0 -n prod -- ls", 1)[0].token(), "elevated-1");
    assert_eq!(home.kubectl("get pods -n prod", 1)[0].token(), home.base_token);
}

#[test]
fn what_is_not_protected_connects_to_nobody() {
    let home = builder().build();
    for arguments in [
        "get secret db -n dev",
        "get secrets",
        "get pods -n prod",
        "describe configmap secrets -n prod",
        "logs api-0 -n prod",
        "exec api-0 -n dev -- get secrets -n prod",
        // What is repeated after a 429 needs nothing beforehand.
        "delete namespace prod",
        "scale deploy/web -n prod --replicas=1",
    ] {
        let run = &home.kubectl(arguments, 1)[0];
        assert_eq!((run.token(), run.stderr.as_str()), (home.base_token.clone(), ""), "{arguments}");
    }
    assert_eq!((home.provider.server.hits(), home.server.server.hits()), (0, 0));
}

#[test]
fn where_rbac_alone_enforces_writes_are_asked_for_beforehand_too() {
    let home = builder().denials_are_final().build();
    let runs = home.kubectl("delete namespace prod", 3);
    for run in &runs {
        assert_eq!(run.token(), "elevated-1", "{}", run.stderr);
    }
    let action = json!([{"verb": "delete", "resource": "namespaces", "namespace": "prod", "name": "prod"}]);
    assert_eq!(home.server.asked(), [action]);
    // Nobody raises challenges there that a later call could find.
    assert_eq!(home.server.exchanges().len(), 1);
}

/// Which pod `deploy/web` leads to is not known before, and the cluster's answer then says what to type.
#[test]
fn a_question_that_is_refused_is_told_and_costs_no_token() {
    let home = builder().build();
    home.server.want_names();
    let run = &home.kubectl("exec deploy/web -n prod -- ls", 1)[0];
    assert_eq!(run.token(), home.base_token, "{}", run.stderr);
    assert!(run.stderr.contains("names no object"), "{}", run.stderr);
    assert_eq!(home.provider.device_requests().len(), 0);
    // It was an answer: the server is there, and is asked the next time.
    assert_eq!(home.kubectl("exec web-1 -n prod -- ls", 1)[0].token(), "elevated-1");
}

#[test]
fn completion_plugins_aliases_and_whoami_never_prompt() {
    let home = builder().build();
    for arguments in [
        "__complete get secrets -n prod d",
        "__completeNoDesc get secrets -n prod d",
        "completion bash",
        "neat get secrets -n prod",
        "getn secrets -n prod",
        "auth whoami",
        "auth can-i get secrets -n prod",
        "config view",
        "version",
        "explain secrets",
    ] {
        assert_eq!(home.kubectl(arguments, 1)[0].token(), home.base_token, "{arguments}");
    }
    let secret: [&[u8]; 5] = [b"get", b"secret", b"db", b"-n", b"prod"];
    for program in ["kubectl-neat", "/opt/kubectl-neat", "k", "oc", "kubectl_"] {
        assert_eq!(process_called(&home, program, &secret).token(), home.base_token, "{program}");
    }
    assert_eq!((home.provider.server.hits(), home.server.server.hits()), (0, 0));
}

/// Which write a review, and would be asked about where nothing is repeated.
#[test]
fn who_one_is_and_what_one_may_do_is_never_asked_about() {
    let everything = ActionPattern { api_groups: vec!["*".to_owned()], ..pattern("create", "*", "*") };
    let home = Home::builder().preflight(vec![everything]).denials_are_final().build();
    for arguments in ["auth whoami", "auth can-i create pods -n prod", "auth can-i --list"] {
        assert_eq!(home.kubectl(arguments, 1)[0].token(), home.base_token, "{arguments}");
    }
    assert_eq!((home.provider.server.hits(), home.server.server.hits()), (0, 0));
    assert_eq!(home.kubectl("create configmap c", 1)[0].token(), "elevated-1");
}

#[test]
fn a_profile_without_preflight_looks_at_nothing() {
    let home = builder().build();
    let mut session = home.read("cache/p/session.json");
    session["preflight"] = json!(false);
    home.write("cache/p/session.json", &session);
    assert_eq!(home.kubectl("get secret db -n prod", 1)[0].token(), home.base_token);
    assert_eq!(home.server.server.hits(), 0);
}

#[test]
fn nobody_there_means_no_prompt_and_no_question() {
    for prompt in ["never", "auto"] {
        let home = builder().prompt(prompt).build();
        let run = &home.kubectl("get secret db -n prod", 1)[0];
        assert_eq!(run.token(), home.base_token);
        assert!(run.stderr.contains("kubectl stepup elevate"), "{}", run.stderr);
        assert_eq!((home.provider.server.hits(), home.server.server.hits()), (0, 0));
        assert_eq!(home.browsed(), [""; 0]);
    }
}

#[test]
fn a_person_at_a_terminal_is_asked() {
    let home = builder().prompt("auto").build();
    let mut terminal = home.kubectl_on_terminal("get secrets -A", 1, false);
    terminal.expect("Step-up required: list secrets -A");
    assert_eq!(terminal.finish()[0].token(), "elevated-1");
}

#[test]
fn declining_goes_on_with_the_base_token() {
    let home = builder().manners(|manners| manners.denies = true).build();
    let runs = home.kubectl("get secret db -n prod", 2);
    assert_eq!(runs[0].token(), home.base_token);
    assert!(runs[0].stderr.contains("refused at the identity provider"), "{}", runs[0].stderr);
    assert_eq!(runs[1].token(), home.base_token);
    assert_eq!(home.server.declined(), [("ch-asked-1".to_owned(), "declined".to_owned())]);
    assert_eq!(home.provider.device_requests().len(), 1);
}

#[test]
fn a_server_that_is_down_costs_one_try_and_no_token() {
    let home = builder().build();
    home.server.set_down(true);
    let run = &home.kubectl("get secret db -n prod", 1)[0];
    assert_eq!(run.token(), home.base_token);
    assert!(run.stderr.contains("stepup-server"), "{}", run.stderr);
    let hits = home.server.server.hits();
    let run = &home.kubectl("get secret db -n prod", 1)[0];
    assert_eq!((run.token(), run.stderr.as_str()), (home.base_token.clone(), ""));
    assert_eq!(home.server.server.hits(), hits, "it is left alone for a while");
}

/// The API server quotes what it cannot change, so a change of what may not be read is refused like a read.
#[test]
fn a_change_of_what_may_not_be_read_is_stepped_up_for_beforehand() {
    let home = builder().build();
    for typed in ["patch secret db -n prod -p {}", "edit secret db -n prod"] {
        assert_eq!(home.kubectl(typed, 1)[0].token(), format!("elevated-{}", home.server.asked().len()));
        let asked = home.server.asked().pop().unwrap();
        let verbs: Vec<_> = asked.as_array().unwrap().iter().map(|action| action["verb"].as_str().unwrap()).collect();
        assert_eq!(verbs, ["get", "patch"], "{typed}");
    }
    // Other writes are repeated after their denial.
    let asked = home.server.asked().len();
    for typed in ["delete secret db -n prod", "create secret generic db -n prod", "delete namespace prod"] {
        assert_eq!(home.kubectl(typed, 1)[0].token(), home.base_token, "{typed}");
    }
    assert_eq!(home.server.asked().len(), asked);
}

#[test]
fn a_hint_that_the_server_knows_better_about_prompts_nobody() {
    let home = builder().build();
    home.server.protect_nothing();
    let run = &home.kubectl("get secret db -n prod", 1)[0];
    assert_eq!(run.token(), home.base_token);
    assert_eq!(home.provider.server.hits(), 0);
}

#[test]
fn a_digest_that_cannot_be_believed_is_ignored_with_a_note() {
    let home = builder().build();
    let before = std::fs::read(home.path("cache/p/digest")).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
    std::fs::File::options().write(true).open(home.path("cache/p/digest")).unwrap().set_modified(old).unwrap();
    let run = &home.kubectl("get secret db -n prod", 1)[0];
    assert_eq!(run.token(), "elevated-1");
    assert!(run.stderr.contains("could not be renewed"), "{}", run.stderr);
    assert_eq!(std::fs::read(home.path("cache/p/digest")).unwrap(), before, "what was known stays");
    // It is not tried again for a while.
    let run = &home.kubectl("get secret db -n prod", 1)[0];
    assert!(!run.stderr.contains("could not be renewed"), "{}", run.stderr);
    assert_eq!(home.server.digests(), 1);
}

/// When one was last asked for was a matter of the session before.
#[test]
fn a_new_sign_in_fetches_a_digest_at_once() {
    let home = builder().signed_out().build();
    home.write("state/p/digest-tried", &json!(""));
    assert!(!home.get_token().token().is_empty());
    assert_eq!(home.server.digests(), 1);
}

#[test]
fn a_digest_that_makes_no_sense_or_is_missing_asks_for_nothing() {
    let home = builder().build();
    for text in ["", "{}", "\u{0}\n\u{0}", "{}\n9\ta\tb\tc\n"] {
        std::fs::write(home.path("cache/p/digest"), text).unwrap();
        assert_eq!(home.kubectl("get secret db -n prod", 1)[0].token(), home.base_token, "{text:?}");
    }
    std::fs::remove_file(home.path("cache/p/digest")).unwrap();
    assert_eq!(home.kubectl("get secret db -n prod", 1)[0].token(), home.base_token);
    assert_eq!(home.server.server.hits(), 0);
}

#[test]
fn fifty_at_once_make_one_prompt_and_each_gets_its_own_grant() {
    let home = builder().manners(|manners| manners.pending_polls = 2).build();
    std::fs::write(
        home.path("get"),
        "\"$PLUGIN\" get-token --profile p >$OUT.out 2>$OUT.err </dev/null; echo $? >$OUT.code\n",
    )
    .unwrap();
    let get = home.path("get");
    let runs = home.shell(&format!(
        "here=$PWD; cd {}
         for n in $(seq 50); do OUT=$here/$n bash -c 'exec -a kubectl sh get secret db -n prod' & done; wait",
        get.parent().unwrap().display()
    ));
    let mut tokens: Vec<String> = runs(50).iter().map(Run::token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 50);
    assert!(tokens.iter().all(|token| token.starts_with("elevated-")));
    assert_eq!((home.provider.device_requests().len(), home.browsed().len()), (1, 1));
}

/// Something called like that, with any arguments at all, runs the plugin.
fn process_called(home: &Home, program: &str, arguments: &[&[u8]]) -> Run {
    let plugin = home.command(&[]);
    let mut command = Command::new("sh");
    command.env_clear().envs(plugin.get_envs().filter_map(|(name, value)| Some((name, value?)))).arg0(program);
    // To the plugin the script is the value of a flag, and what follows are words.
    command.args(["-c", "\"$PLUGIN\" get-token --profile p; exit $?"]);
    command.args(arguments.iter().map(|argument| std::ffi::OsStr::from_bytes(argument)));
    Run::of(&command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap())
}

#[test]
fn arguments_of_any_kind_cost_no_token() {
    let home = builder().build();
    let large = vec![b'x'; 100_000];
    let many: Vec<&[u8]> = std::iter::repeat_n(large.as_slice(), 12).collect();
    for arguments in [
        vec![b"\xff\xfe".as_slice(), b"secret", b"\x80"],
        vec![b"", b"", b""],
        vec![b"--", b"--", b"-"],
        vec![b"-n"],
        many,
    ] {
        let run = process_called(&home, "kubectl", &arguments);
        assert_eq!(run.token(), home.base_token, "{}", run.stderr);
    }
    assert_eq!(home.server.server.hits(), 0);
    let secret: [&[u8]; 5] = [b"get", b"secret", b"db", b"-n", b"prod"];
    assert_eq!(process_called(&home, "/usr/bin/kubectl.1.30", &secret).token(), "elevated-1");
}

#[test]
fn a_bystander_leaves_another_commands_challenge_alone() {
    let home = builder().build();
    home.server.deny("ch-theirs", "delete", "prod");
    for arguments in ["delete pod prod", "delete namespace dev", "delete namespace/dev", "patch ns prod -p {}"] {
        for run in home.kubectl(arguments, 2) {
            assert_eq!(run.token(), home.base_token, "{arguments}");
        }
    }
    assert_eq!(home.provider.server.hits(), 0);
    assert_eq!(home.kubectl("delete namespace prod", 2)[1].token(), "elevated-1");
}

/// What somebody does as somebody else is nothing that their own rules speak of.
#[test]
fn a_kubeconfig_that_acts_as_somebody_else_asks_about_that_alone() {
    let acts_as = |home: &Home| {
        let exec = json!({"command": "kubectl-stepup", "args": ["get-token", "--profile", "p"]});
        home.write(
            "home/.kube/config",
            &json!({
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [
                    {"name": "u", "user": {"as": "bob", "as-groups": ["ops"], "exec": exec}},
                    {"name": "v", "user": {"exec": exec}},
                ],
            }),
        );
    };
    let home = builder().build();
    acts_as(&home);
    assert_eq!(home.kubectl("get secret db -n prod", 1)[0].token(), home.base_token);
    assert_eq!((home.provider.server.hits(), home.server.server.hits()), (0, 0));
    assert_eq!(home.kubectl("get secret db -n prod --user v", 1)[0].token(), "elevated-1");

    let home = Home::builder()
        .preflight(vec![pattern("get", "secrets", "prod"), pattern("impersonate", "groups", "*")])
        .build();
    acts_as(&home);
    assert_eq!(home.kubectl("get secret db -n prod", 1)[0].token(), "elevated-1");
    assert_eq!(home.server.asked(), [json!([{"verb": "impersonate", "resource": "groups", "name": "ops"}])]);
}
