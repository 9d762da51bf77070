#[cfg(unix)]
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn wanted() -> Wanted {
    Wanted {
        user: "alice".into(),
        profile: "default".into(),
        api_version: ExecApiVersion::V1,
        context: None,
        cluster: None,
        overwrite: false,
        cluster_info: false,
    }
}

fn changed(before: &str, wanted: &Wanted) -> Result<String, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    fs::write(&path, before).unwrap();
    let files = Files::find(Some(&path), None, None).unwrap();
    for edit in plan(&files, wanted)? {
        edit.write()?;
    }
    let after = fs::read_to_string(&path).unwrap();
    assert!(plan(&files, wanted).unwrap().is_empty(), "a second run changes something:\n{after}");
    Ok(after)
}

fn refusal(before: &str, wanted: &Wanted) -> String {
    changed(before, wanted).unwrap_err().to_string()
}

const EXEC: &str = "    exec:
      apiVersion: client.authentication.k8s.io/v1
      args:
      - get-token
      - --profile
      - default
      command: kubectl-stepup
      installHint: \"kubectl-stepup is not on your PATH: ask your cluster's administrator where to get it\"
      interactiveMode: IfAvailable
      provideClusterInfo: false
";

/// Kubeconfigs without the user, each with what stands around where it has to go.
const CORPUS: [&str; 16] = [
    "",
    "# nothing yet\n",
    "---\n",
    "apiVersion: v1\nkind: Config\nusers: []\n",
    "apiVersion: v1\nkind: Config\nusers: [] # none yet\ncontexts: []\n",
    "apiVersion: v1\nkind: Config\nusers: null\npreferences: {}\n",
    "apiVersion: v1\nkind: Config\nusers:\n# later\ncurrent-context: \"\"\n",
    "apiVersion: v1\nkind: Config\npreferences: {}",
    "apiVersion: v1\nusers:\n- name: bob\n  user:\n    token: abc # his\n# between\ncontexts:\n- context: {cluster: c, user: bob}\n  name: x\n",
    "apiVersion: v1\nusers:\n    - name: bob\n      user:\n          client-key-data: |\n              AAAA\n\n\t# a tab\ncontexts: []\n",
    "apiVersion: v1\r\nusers:\r\n- name: b\u{f6}b\r\n  user: {token: abc}\r\n# end\r\n",
    "apiVersion: v1\nusers:\n-\n  name: bob\n  user: {}\nkind: Config\n...\n",
    "{\"apiVersion\":\"v1\",\"kind\":\"Config\",\"users\":[{\"name\":\"bob\",\"user\":{}}]}\n",
    "{\n    \"apiVersion\": \"v1\",\n    \"users\": [\n        {\n            \"name\": \"bob\",\n            \"user\": {}\n        }\n    ]\n}\n",
    "{\n  \"kind\": \"Config\",\n  \"users\": []\n}\n",
    "{\n  \"kind\": \"Config\",\n  \"users\": null\n}",
];

#[test]
fn a_user_is_added_and_every_other_line_stays() {
    for before in CORPUS {
        let after = changed(before, &wanted()).unwrap_or_else(|error| panic!("{error}\n{before}"));
        let mut lines = after.lines();
        for line in before.lines().filter(|line| !line.contains("users:") && !line.contains("\"users\"")) {
            // JSON needs a comma after what used to be last.
            let same = |found: &str| found == line || found == format!("{line},");
            assert!(lines.any(same), "lost {line:?} of\n{before}\nin\n{after}");
        }
        assert_eq!(before.contains("\r\n"), after.contains("\r\n"), "{after:?}");
        assert!(!after.replace("\r\n", "").contains('\r'));
        let document = Document::parse(&after).unwrap();
        let exec = node_at(&document, &["users", "alice", "user", "exec"]).unwrap();
        assert_eq!(profile_argument(exec).as_deref(), Some("default"), "{after}");
        assert!(is_ours(exec));
    }
}

#[test]
fn a_missing_file_is_made_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/config");
    let files = Files::find(None, None, Some(directory.path())).unwrap();
    assert_eq!(files.default, directory.path().join(".kube/config"));
    let files = Files::find(Some(&path), None, None).unwrap();
    let edits = plan(&files, &wanted()).unwrap();
    assert!(edits[0].diff().starts_with("--- /dev/null\n"), "{}", edits[0].diff());
    edits[0].write().unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("apiVersion: v1\nkind: Config\nusers:\n- name: alice\n  user:\n{EXEC}")
    );
    #[cfg(unix)]
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no lock and no temporary file stays");
}

#[test]
fn the_layout_of_the_list_is_followed() {
    let after = changed("users:\n  - name: bob\n    user: {}\n\n# tail\nkind: Config\n", &wanted()).unwrap();
    assert!(
        after.starts_with("users:\n  - name: bob\n    user: {}\n  - name: alice\n    user:\n      exec:\n"),
        "{after}"
    );
    assert!(after.ends_with("\n\n# tail\nkind: Config\n"), "{after}");
}

#[test]
fn json_stays_json() {
    for before in &CORPUS[12..] {
        let after = changed(before, &wanted()).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&after).unwrap_or_else(|error| panic!("{error}\n{after}"));
        let users = parsed["users"].as_array().unwrap();
        assert_eq!(users.last().unwrap()["user"]["exec"]["command"], "kubectl-stepup");
        assert_eq!(before.trim_end().contains('\n'), after.trim_end().contains('\n'), "{after}");
    }
    let after = changed(CORPUS[13], &wanted()).unwrap();
    assert!(after.contains("        },\n        {\n            \"name\": \"alice\",\n"), "{after}");
    assert!(after.ends_with("                }\n            }\n        }\n    ]\n}\n"), "{after}");
}

#[test]
fn our_own_entry_is_changed_where_it_differs_and_only_there() {
    let before = "users:\n- name: alice # me\n  user:\n    # the plugin\n    exec:\n      command: /opt/bin/kubectl-stepup\n      args: [get-token, --profile, old] # which\n      env:\n      - {name: HTTPS_PROXY, value: \"http://proxy\"}\n      apiVersion: client.authentication.k8s.io/v1beta1\n      interactiveMode: IfAvailable\n      provideClusterInfo: false\n";
    let after = changed(before, &wanted()).unwrap();
    assert_eq!(
        after,
        before
            .replace(
                "      args: [get-token, --profile, old] # which\n",
                "      args: # which\n      - get-token\n      - --profile\n      - default\n"
            )
            .replace("v1beta1", "v1")
            + "      installHint: \"kubectl-stepup is not on your PATH: ask your cluster's administrator where to get it\"\n"
    );
}

#[test]
fn another_plugin_is_replaced_and_named_without_its_secrets() {
    let before = "users:\n- name: alice\n  user:\n    exec: # kubelogin\n      command: kubectl\n      args:\n      - oidc-login\n      - --oidc-client-secret=hush\n      - --password\n      - hush\n    as: root # stays\n- name: bob\n  user: {token: hush}\n";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    fs::write(&path, before).unwrap();
    let edits = plan(&Files::find(Some(&path), None, None).unwrap(), &wanted()).unwrap();
    assert_eq!(
        edits[0].replaced,
        ["the credential plugin of user \"alice\": kubectl oidc-login --oidc-client-secret=*** --password ***"]
    );
    assert!(!edits[0].diff().contains("hush"), "{}", edits[0].diff());
    let after = &edits[0].after;
    let expected = EXEC.replacen("exec:", "exec: # kubelogin", 1);
    assert_eq!(
        *after,
        format!(
            "users:\n- name: alice\n  user:\n{expected}    as: root # stays\n- name: bob\n  user: {{token: hush}}\n"
        )
    );
}

#[test]
fn other_credentials_are_dropped_only_when_told_to() {
    for (before, expected) in [
        (
            "users:\n- name: alice\n  user:\n    client-certificate-data: QUJD\n    client-key-data: QUJD # mine\n    as: x\n- name: bob\n",
            format!("users:\n- name: alice\n  user:\n    as: x\n{EXEC}- name: bob\n"),
        ),
        (
            "users:\n- name: alice\n  user:\n    token: |\n      abc\n",
            format!("users:\n- name: alice\n  user:\n{EXEC}"),
        ),
    ] {
        let message = refusal(before, &wanted());
        assert!(message.contains("--overwrite"), "{message}");
        assert_eq!(changed(before, &Wanted { overwrite: true, ..wanted() }).unwrap(), expected);
    }
    let json = "{\"users\": [{\"name\": \"alice\", \"user\": {\"token\": \"x\", \"username\": \"u\", \"as\": \"y\"}}]}";
    let after = changed(json, &Wanted { overwrite: true, ..wanted() }).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&after).unwrap();
    assert_eq!(parsed["users"][0]["user"].as_object().unwrap().keys().collect::<Vec<_>>(), ["as", "exec"]);
}

#[test]
fn an_entry_without_content_is_filled() {
    for user in ["\n  user: {}", "\n  user: null", "\n  user:", "", "\n  user: {} # empty"] {
        let before = format!("users:\n- name: alice{user}\n- name: bob\n");
        let after = changed(&before, &wanted()).unwrap();
        assert_eq!(after.replace(" # empty", ""), format!("users:\n- name: alice\n  user:\n{EXEC}- name: bob\n"));
    }
}

#[test]
fn the_context_gets_the_user_and_keeps_the_rest() {
    let before = "contexts:\n- context:\n    cluster: prod\n    namespace: pay\n    user: bob # was\n  name: prod\ncurrent-context: prod\nusers: []\n";
    let with = |context: &str, cluster: Option<&str>| Wanted {
        context: Some(context.into()),
        cluster: cluster.map(Into::into),
        ..wanted()
    };
    let after = changed(before, &with("prod", None)).unwrap();
    assert!(after.starts_with(&before.replace("bob", "alice").replace("users: []\n", "")), "{after}");
    assert!(refusal(before, &with("other", None)).contains("--cluster"));
    assert!(refusal(before, &with("prod", Some("dev"))).contains("is for cluster \"prod\""));
    let after = changed(before, &with("new", Some("dev"))).unwrap();
    assert!(
        after.contains("  name: prod\n- context:\n    cluster: dev\n    user: alice\n  name: new\ncurrent"),
        "{after}"
    );
}

#[test]
fn what_cannot_be_changed_cleanly_is_refused_with_a_reason() {
    for (before, reason) in [
        ("users:\n- name: alice\n- name: alice\n", "two users called \"alice\""),
        ("a: &a {name: alice, user: {}}\nusers:\n- *a\n", "alias"),
        ("users:\n- name: alice\n  user: &u {as: x}\n- name: bob\n  user: *u\n", "anchor"),
        ("users:\n- name: bob\n  user: &u {as: x}\n- name: alice\n  user: *u\n", "alias"),
        ("x: &x {token: t}\nusers:\n- name: alice\n  user:\n    <<: *x\n", "merged"),
        ("users: []\nusers: []\n", "twice"),
        ("users: {alice: {}}\n", "not a list"),
        ("- a\n- b\n", "not a kubeconfig"),
        ("kind: Pod\nusers: []\n", "kind: Pod"),
        ("users: []\n---\nusers: []\n", ":2: not a valid kubeconfig: a second YAML document"),
        ("users:\n- name: [\n", "not a valid kubeconfig"),
        ("users:\n\t- name: x\n", ":2: not a valid kubeconfig"),
        ("users:\n- name: alice\n  user: text\n", "alias"),
    ] {
        let message = refusal(before, &wanted());
        assert!(message.contains(reason), "{message}\n{before}");
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    let files = Files::find(Some(&path), None, None).unwrap();
    let try_it = |text: &str| {
        fs::write(&path, text).unwrap();
        let _ = plan(&files, &wanted());
    };
    let seed = CORPUS[8];
    for at in 0..seed.len() {
        for junk in
            ["\0", "{", "[", "]", "}", ":", "- ", "\"", "'", "|", "&a ", "*a ", "!x ", "? ", "\t", "#", "---\n", "%"]
        {
            try_it(&[&seed[..at], junk, &seed[at..]].concat());
        }
        try_it(&seed[..at]);
    }
}

#[test]
fn of_several_files_the_one_with_the_user_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let env = std::env::join_paths([path("missing"), path("first"), path("second"), path("first")]).unwrap();
    fs::write(path("first"), "users: []\ncurrent-context: here\n").unwrap();
    fs::write(
        path("second"),
        "users:\n- {name: bob, user: {}}\ncurrent-context: there\ncontexts:\n- {name: here, context: {cluster: c, user: bob, namespace: pay}}\n",
    )
    .unwrap();
    let files = Files::find(None, Some(&env), None).unwrap();
    let target = |user: &str| plan(&files, &Wanted { user: user.into(), ..wanted() }).unwrap()[0].path.clone();
    assert_eq!(target("alice"), path("first"));
    assert_eq!(target("bob"), path("second"));
    for edit in plan(&files, &Wanted { user: "bob".into(), profile: "work".into(), ..wanted() }).unwrap() {
        edit.write().unwrap();
    }
    let current = files.current(None).unwrap().unwrap();
    assert_eq!(current.context, "here");
    assert_eq!(current.profile.as_deref(), Some("work"));
    assert_eq!(current.namespace.as_deref(), Some("pay"));
    let both = Wanted { context: Some("here".into()), ..wanted() };
    assert_eq!(plan(&files, &both).unwrap().len(), 2, "user in the first file, context in the second");
}

#[cfg(unix)]
#[test]
fn links_and_modes_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    fs::write(&real, "users: []\n").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("real", &link).unwrap();
    plan(&Files::find(Some(&link), None, None).unwrap(), &wanted()).unwrap()[0].write().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
    assert!(fs::read_to_string(&real).unwrap().contains("kubectl-stepup"));
}

#[test]
fn a_file_that_changed_meanwhile_or_is_locked_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    fs::write(&path, "users: []\n").unwrap();
    let edits = plan(&Files::find(Some(&path), None, None).unwrap(), &wanted()).unwrap();
    fs::write(&path, "users: [] # newer\n").unwrap();
    assert!(matches!(edits[0].write(), Err(Error::ChangedMeanwhile(_))));
    fs::write(&path, "users: []\n").unwrap();
    fs::write(directory.path().join("config.lock"), "").unwrap();
    assert!(matches!(edits[0].write(), Err(Error::Locked(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "users: []\n");
}

#[test]
fn a_byte_order_mark_stays() {
    let after = changed("\u{feff}users:\n- name: bob\n", &wanted()).unwrap();
    assert!(after.starts_with("\u{feff}users:\n- name: bob\n- name: alice\n"), "{after}");
}
