//! Reads and streams in one unmodified kubectl command: the plugin looks at kubectl's command line, and steps up before
//! the first request.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::{Lab, Options, Session, Test};
use serde_json::{Value, json};
use stepup::client::preflight::command_line::CommandLine;
use stepup::client::preflight::plan::{Kind, Plan};

use crate::objects::{PASSWORD_AS_SHOWN, namespace_with_secret};
use crate::streams::{comes_back, forwarded};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![
        fifty_reads_at_once_are_one_prompt_and_fifty_answers,
        what_kubectl_asks_for_is_what_its_arguments_were_taken_for,
        every_stream_and_every_wait_in_one_command,
        reads_a_secret_in_one_command,
        every_way_to_read_a_secret_in_one_command,
        the_place_is_the_kubeconfigs,
        watches_in_one_command,
        edits_and_applies_what_must_be_read_first,
        a_shell_in_a_pod_in_one_command,
        a_shell_in_a_pod_in_one_command_over_spdy,
        forwards_a_port_in_one_command,
        another_command_has_base_rights,
        nobody_there_is_the_base_identity,
        declining_ends_in_the_refusal,
        completion_and_questions_about_rights_never_prompt,
        plugins_and_aliases_of_kubectl_never_prompt,
        a_kubectl_of_another_name_is_refused_as_ever,
        what_only_the_cluster_knows_by_its_name_in_one_command,
        misleading_arguments_open_nothing,
        a_new_rule_is_known_after_its_first_refusal,
    ]
}

/// Somebody like alice, with preflight on.
fn someone(lab: &Lab) -> Result<Session> {
    let person = lab.someone_like("alice")?;
    person.set_up(&["--preflight", "on"])?;
    Ok(person)
}

fn write_executable(path: &Path, script: &str) -> Result<()> {
    fs::write(path, script)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// How often a secret of the namespace was refused.
fn refusals(lab: &Lab, namespace: &str) -> Result<usize> {
    let events = lab.kube_audit_events()?;
    let about = |event: &&Value| {
        event["objectRef"]["namespace"] == namespace && event["responseStatus"]["code"].as_u64() == Some(403)
    };
    Ok(events.iter().filter(about).count())
}

fn reads_a_secret_in_one_command(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let before = alice.sign_ins();

    let shown = alice.kubectl(&["get", "secret", "db", "-n", &namespace, "-o", "yaml"])?.succeeded()?;

    ensure!(shown.stdout.contains(PASSWORD_AS_SHOWN), "{}", shown.stdout);
    ensure!(shown.stderr.contains(&format!("get secrets/db -n {namespace}")), "{}", shown.stderr);
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "get", "secrets", &[200])?;
    ensure!(lab.story_of(&namespace)? == ["challenge", "step-up", "mint", "use"], "{:?}", lab.story_of(&namespace)?);
    Ok(())
}

fn every_way_to_read_a_secret_in_one_command(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let api = format!("/api/v1/namespaces/{namespace}/secrets");
    let alice = someone(lab)?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;

    for command in [
        format!("get secrets -n {namespace}"),
        format!("get secret/db --namespace={namespace} -o yaml"),
        format!("-n{namespace} get secrets db -oname"),
        format!("get cm,secrets -n {namespace}"),
        format!("get secrets --field-selector metadata.name=db -n {namespace}"),
        "get secrets -A".to_owned(),
        format!("describe secret db -n {namespace}"),
        format!("describe secrets -n {namespace}"),
        format!("get --raw {api}/db"),
        format!("get --raw '{api}?watch=true&timeoutSeconds=1'"),
        format!("wait --for=jsonpath='{{.type}}'=Opaque secret/db -n {namespace}"),
        format!("label secret db -n {namespace} seen=yes"),
    ] {
        window.run(&format!("kubectl {command}"))?.succeeded().with_context(|| command.clone())?;
    }

    // The sign-in stays fresh for the terminal; every command has a grant of its own, also the one that changes what it has
    // read.
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    ensure!(refusals(lab, &namespace)? == 0, "a request was refused first");
    let minted = lab.story_of(&namespace)?.iter().filter(|event| *event == "mint").count();
    ensure!(minted == 11, "{minted} grants named the namespace, and one was for all");
    Ok(())
}

fn the_place_is_the_kubeconfigs(lab: &Lab) -> Result<()> {
    let (namespace, other) = (namespace_with_secret(lab, "prod")?, lab.namespace("dev")?);
    let alice = someone(lab)?;
    let mut window = alice.window()?;
    window.run(&format!("kubectl config set-context --current --namespace={namespace}"))?.succeeded()?;

    window.run("kubectl get secret db")?.succeeded()?;
    window.run(&format!("kubectl get secrets -n {other}"))?.succeeded()?;

    // Another file, which only the one command knows.
    let copy = alice.home().join("copy.yaml");
    fs::copy(alice.kubeconfig(), &copy)?;
    window.run(&format!("kubectl config set-context --current --namespace={other}"))?.succeeded()?;
    window.run(&format!("KUBECONFIG={} kubectl get secret db", copy.display()))?.succeeded()?;
    window.run(&format!("kubectl --kubeconfig {} get secret db", copy.display()))?.succeeded()?;
    window.run("kubectl get secrets")?.succeeded()?;

    // Another context, which only the one command is in.
    let there = format!("set-context there --cluster=lab --user={} --namespace={namespace}", alice.name());
    window.run(&format!("kubectl config {there}"))?.succeeded()?;
    window.run("kubectl --context there get secret db")?.succeeded()?;
    window.run("kubectl get secret db --context=there")?.succeeded()?;
    ensure!(refusals(lab, &namespace)? == 0);
    ensure!(lab.story_of(&other)?.is_empty());
    Ok(())
}

fn watches_in_one_command(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let mut watch = alice.terminal("kubectl", &["get", "secrets", "-n", &namespace, "--watch"])?;
    watch.expect("db", LIMIT)?;
    for name in ["one", "two"] {
        lab.admin(&["create", "secret", "generic", name, "-n", &namespace])?;
        watch.expect(name, LIMIT)?;
    }
    watch.interrupt()?;
    let (_, seen) = watch.finish(LIMIT)?;
    ensure!(seen.matches("user_code=").count() == 1, "{seen}");

    let mut one = alice.terminal("kubectl", &["get", "secret", "db", "-n", &namespace, "-w"])?;
    one.expect("db", LIMIT)?;
    lab.admin(&["label", "secret", "db", "-n", &namespace, "seen=yes"])?;
    one.interrupt()?;
    ensure!(refusals(lab, &namespace)? == 0);
    Ok(())
}

fn edits_and_applies_what_must_be_read_first(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let before = alice.sign_ins();
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: db, namespace: {namespace}}}\nstringData: {{user: app}}\n"
    );
    fs::write(alice.home().join("db.yaml"), manifest)?;
    let mut window = alice.window()?;

    let editor = alice.home().join("editor");
    write_executable(&editor, "#!/bin/sh\nsed -i 's/^metadata:/&\\n  labels: {a: b}/' \"$1\"\n")?;
    window.run(&format!("KUBE_EDITOR={} kubectl edit secret db -n {namespace}", editor.display()))?.succeeded()?;
    window.run("kubectl apply -f db.yaml")?.succeeded()?;
    window.run("kubectl diff -f db.yaml")?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    ensure!(refusals(lab, &namespace)? == 0);
    let secret = lab.object(&["secret", "db", "-n", &namespace])?;
    ensure!(secret["metadata"]["labels"]["a"] == "b" && secret["data"]["user"].is_string(), "{secret}");
    Ok(())
}

fn a_shell_in_a_pod_in_one_command(lab: &Lab) -> Result<()> {
    exec(lab, &someone(lab)?)
}

/// As every kubectl before 1.31, and newer ones where something on the way breaks WebSockets.
fn a_shell_in_a_pod_in_one_command_over_spdy(lab: &Lab) -> Result<()> {
    exec(lab, &someone(lab)?.with("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"))
}

fn exec(lab: &Lab, alice: &Session) -> Result<()> {
    let namespace = lab.namespace("payment")?;
    lab.pod(&namespace, "api-0", "node", &[])?;
    let before = alice.sign_ins();
    let kubectl = |line: &str| alice.script(&format!("kubectl {line}"));

    let through = kubectl(&format!("exec -i -n {namespace} api-0 -- cat < kubeconfig.yaml"))?.succeeded()?.stdout;
    ensure!(through == fs::read_to_string(alice.kubeconfig())?, "{through}");
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    ensure!(kubectl(&format!("-n {namespace} exec api-0 -- exit 7"))?.status.code() == Some(7));
    let attached = kubectl(&format!("attach -i -n {namespace} api-0 < kubeconfig.yaml"))?.succeeded()?.stdout;
    ensure!(attached.contains("attached"), "{attached}");
    kubectl(&format!("cp {namespace}/api-0:/greeting copied"))?.succeeded()?;
    ensure!(fs::read_to_string(alice.home().join("copied"))? == "hello");
    ensure!(refusals(lab, &namespace)? == 0);
    let uses = lab.story_of(&namespace)?.into_iter().filter(|event| event == "use").count();
    ensure!(uses == 4, "a use for each connection, not {uses}");
    Ok(())
}

fn forwards_a_port_in_one_command(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("payment")?;
    lab.pod(&namespace, "api-0", "node", &[])?;
    let alice = someone(lab)?;
    let mut forward = alice.terminal("kubectl", &["-n", &namespace, "port-forward", "api-0", ":7"])?;
    comes_back(&mut forwarded(&mut forward)?, "there and back")?;
    ensure!(forward.text().matches("user_code=").count() == 1, "{}", forward.text());
    Ok(())
}

/// With a policy of its own: what the ordinary one does not protect.
fn every_stream_and_every_wait_in_one_command(lab: &Lab) -> Result<()> {
    let rule = |name: &str, verbs: &str, resources: &str| {
        format!(
            "- name: {name}\n  actions:\n  - verbs: [{verbs}]\n    apiGroups: ['', apps]\n    resources: [{resources}]\n    \
             namespaces: [prod, prod-*]\n"
        )
    };
    let policy = [
        "defaults:\n  require:\n    acr: [mfa]\n    maxAge: 10m\n  grant:\n    ttl: 5m\n    uses: unlimited\n    covers: kind\nrules:\n".to_owned(),
        rule("logs", "get", "pods/log"),
        rule("shells", "connect", "pods/exec, pods/attach, pods/portforward"),
        rule("evictions", "create", "pods/eviction"),
        rule("deployments", "get, update", "deployments, deployments/scale"),
    ];
    let lab = lab.another("preflight", of_policy(&policy.concat()))?;
    let namespace = lab.namespace("prod")?;
    lab.node("worker")?;
    lab.pod(&namespace, "web", "worker", &[])?;
    lab.apply(&crate::objects::deployment(&namespace, "web"))?;
    let alice = someone(&lab)?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;

    for command in [
        format!("logs web -n {namespace}"),
        format!("logs -l app=web -n {namespace} --ignore-errors"),
        format!("exec pod/web -n {namespace} -- true"),
        format!("get deploy -n {namespace}"),
        format!("scale deploy/web --replicas=2 -n {namespace}"),
        format!("rollout restart deploy/web -n {namespace}"),
        format!("rollout history deploy/web -n {namespace}"),
        format!("annotate deploy web a=b -n {namespace}"),
        format!("set image deploy/web app=example.test/app:2 -n {namespace}"),
        "drain worker --force".to_owned(),
    ] {
        window.run(&format!("kubectl {command}"))?.succeeded().with_context(|| command.clone())?;
    }

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    ensure!(refusals(&lab, &namespace)? == 0, "a request was refused first");
    lab.answered(&namespace, "create", "pods/eviction", &[429, 201])?;
    lab.pod(&namespace, "ticking", "node", &["ticks"])?;
    let mut follow = alice.terminal("kubectl", &["-n", &namespace, "logs", "-f", "ticking"])?;
    follow.expect("line 12", LIMIT).or_else(|_| follow.expect("tick 12", LIMIT))?;
    Ok(())
}

fn fifty_reads_at_once_are_one_prompt_and_fifty_answers(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let before = alice.sign_ins();
    let get = format!("kubectl get secret db -n {namespace} -o jsonpath={{.data.password}}");

    let run = format!("for n in $(seq 50); do {get} >$n.out 2>$n.err & done; wait");
    // In one session, as from one terminal; what runs in the background of a real one is nobody's to be asked.
    alice.script(&run)?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    for number in 1..=50 {
        let text = |what: &str| fs::read_to_string(alice.home().join(format!("{number}.{what}")));
        ensure!(text("out")? == PASSWORD_AS_SHOWN, "{}\n{}", text("out")?, text("err")?);
    }
    lab.answered(&namespace, "get", "secrets", &[200; 50])?;
    let story = lab.story_of(&namespace)?;
    let count = |wanted: &str| story.iter().filter(|event| *event == wanted).count();
    ensure!((count("mint"), count("use")) == (50, 50), "{} grants and {} uses", count("mint"), count("use"));
    Ok(())
}

fn another_command_has_base_rights(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let mut window = alice.window()?;
    window.run(&format!("kubectl get secret db -n {namespace}"))?.succeeded()?;
    // Same terminal, and nothing that preflight knows: what was granted to the command is not the terminal's.
    let token = window.token()?;
    lab.kubectl_with_token(&token, &["get", "secret", "db", "-n", &namespace])?.failed_with("step-up required")?;
    Ok(())
}

fn nobody_there_is_the_base_identity(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let before = alice.sign_ins();
    let get = ["get", "secret", "db", "-n", &namespace];

    let refused = alice.background("kubectl", &get)?.failed_with("step-up required to get secrets/db")?;
    ensure!(refused.stderr.contains("nobody is here to sign in"), "{}", refused.stderr);
    alice.clone().with("KUBECTL_STEPUP_PROMPT", "never").kubectl(&get)?.failed_with("step-up required")?;

    ensure!(alice.sign_ins() == before, "somebody was asked:\n{}", alice.browser_log());
    Ok(())
}

fn declining_ends_in_the_refusal(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?.with("LAB_BROWSER", "deny");

    let refused = alice.kubectl(&["get", "secret", "db", "-n", &namespace])?.failed_with("step-up required")?;

    ensure!(refused.stderr.matches("user_code=").count() == 1, "{}", refused.stderr);
    ensure!(lab.story_of(&namespace)?.contains(&"decline".to_owned()), "{:?}", lab.story_of(&namespace)?);
    Ok(())
}

fn completion_and_questions_about_rights_never_prompt(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;
    // What it completes with is not this test's.
    window.run(&format!("kubectl __complete get secrets -n {namespace} ''"))?;
    window.run("kubectl auth whoami")?.succeeded()?;
    let may = window.run(&format!("kubectl auth can-i get secrets -n {namespace}"))?.stdout;
    ensure!(may.contains("no"), "as things are: {may}");
    window.run("kubectl config view")?.succeeded()?;
    window.run(&format!("kubectl get pods -n {namespace}"))?.succeeded()?;
    ensure!(alice.sign_ins() == before, "somebody was asked:\n{}", alice.browser_log());
    Ok(())
}

/// What they ask for is known only to themselves, whatever their words look like.
fn plugins_and_aliases_of_kubectl_never_prompt(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let (get, bin) = (format!("secret db -n {namespace}"), alice.home().join("bin"));
    fs::create_dir_all(&bin)?;
    // Two plugins: a script, whose process is that of a shell, and a program, whose process has the plugin's name.
    let own = format!("kubectl get pods -n {namespace} && kubectl-stepup get-token --profile {}", alice.name());
    write_executable(&bin.join("kubectl-tidy"), &format!("#!/bin/sh\n{own} && exit 0\n"))?;
    symlink("/bin/sh", bin.join("kubectl-neat"))?;
    let kuberc = "apiVersion: kubectl.config.k8s.io/v1beta1\nkind: Preference\n\
                  aliases:\n- {name: fetch, command: get, appendArgs: [secret, db]}\n";
    fs::create_dir_all(alice.home().join(".kube"))?;
    fs::write(alice.home().join(".kube/kuberc"), kuberc)?;
    let alice = alice.with_programs_of(&bin)?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;

    window.run(&format!("kubectl tidy get {get}"))?.succeeded()?;
    // To a kubectl the script would be the value of a flag.
    window.run(&format!("kubectl neat -c '{own}; exit $?' get {get}"))?.succeeded()?;
    // It is kubectl that asks, in words of the person's own: refused, as by a kubectl of another name.
    window.run(&format!("kubectl fetch -n {namespace}"))?.failed_with("type \"kubectl stepup elevate\"")?;

    ensure!(alice.sign_ins() == before, "somebody was asked:\n{}", alice.browser_log());
    ensure!(refusals(lab, &namespace)? == 1, "the alias alone is refused");
    Ok(())
}

fn a_kubectl_of_another_name_is_refused_as_ever(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = someone(lab)?;
    let (get, here) = (format!("get secret db -n {namespace}"), alice.home().to_owned());
    symlink(lab.program("kubectl"), here.join("k"))?;
    symlink(lab.program("kubectl"), here.join("kubectl.1.37"))?;
    let mut window = alice.window()?;
    window.run(&format!("./k {get}"))?.failed_with("type \"kubectl stepup elevate\"")?;
    window.run(&format!("./kubectl.1.37 {get}"))?.succeeded()?;
    Ok(())
}

/// A custom resource by its short name, which kubectl's own discovery tells.
fn what_only_the_cluster_knows_by_its_name_in_one_command(lab: &Lab) -> Result<()> {
    let lab = lab.another(
        "preflight-widgets",
        with_one_rule("{verbs: [get], apiGroups: [example.com], resources: [widgets], namespaces: ['prod-*']}"),
    )?;
    lab.apply(&widgets_and_who_may_read_them())?;
    let namespace = lab.namespace("prod")?;
    let widget = json!({
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "x", "namespace": namespace},
    });
    await_that(LIMIT, || lab.apply(&widget))?;
    let alice = someone(&lab)?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;
    window.run("kubectl api-resources")?.succeeded()?;
    ensure!(alice.sign_ins() == before, "somebody was asked:\n{}", alice.browser_log());

    let shown = window.run(&format!("kubectl get wd x -n {namespace} -o name"))?.succeeded()?.stdout;

    ensure!(shown.contains("widget.example.com/x"), "{shown}");
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "get", "widgets", &[200])
}

fn widgets_and_who_may_read_them() -> Value {
    let name = json!({"name": "widget-readers"});
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com",
                "scope": "Namespaced",
                "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
            },
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": name,
            "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get", "list", "watch"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "widget-readers"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "developers"}],
        },
    ]})
}

/// A program that calls itself kubectl, and to which the same words mean something else: the namespace that it reads is
/// called `secret`.
fn misleading_arguments_open_nothing(lab: &Lab) -> Result<()> {
    let clients = lab.clients()?;
    let client = clients.iter().find(|client| client.name.starts_with("client-go")).context("no client-go")?;
    let lab = lab.another(
        "preflight-misled",
        with_one_rule("{verbs: [get], apiGroups: [''], resources: [secrets], namespaces: ['prod-*', secret]}"),
    )?;
    let hinted = namespace_with_secret(&lab, "prod")?;
    lab.admin(&["create", "namespace", "secret"])?;
    lab.apply(&crate::objects::secret("secret"))?;
    let alice = someone(&lab)?;
    symlink(client.directory.join("client").canonicalize()?, alice.home().join("kubectl"))?;
    let before = alice.sign_ins();
    let mut window = alice.window()?;

    let refused = window.run(&format!("./kubectl get secret db -n {hinted}"))?.failed_with("step-up required")?;

    ensure!(!refused.stdout.contains(PASSWORD_AS_SHOWN), "{}", refused.stdout);
    ensure!(alice.sign_ins() <= before + 1, "more than one sign-in:\n{}", alice.browser_log());
    lab.answered("secret", "get", "secrets", &[403])?;
    ensure!(lab.story_of("secret")? == ["challenge"], "{:?}", lab.story_of("secret")?);
    // What was asked for is there for nobody: the grant is the command's, and that has ended.
    ensure!(lab.story_of(&hinted)? == ["challenge", "step-up", "mint"], "{:?}", lab.story_of(&hinted)?);
    Ok(())
}

/// A policy of one rule, which protects this.
fn with_one_rule(action: &str) -> Options {
    of_policy(&format!("defaults:\n  require: {{acr: [mfa]}}\nrules:\n- name: one\n  actions:\n  - {action}\n"))
}

fn of_policy(policy: &str) -> Options {
    Options { policy: Some(policy.to_owned()), ..Options::default() }
}

fn a_new_rule_is_known_after_its_first_refusal(lab: &Lab) -> Result<()> {
    let of_secrets = |namespace: &str| {
        with_one_rule(&format!("{{verbs: [get], apiGroups: [''], resources: [secrets], namespaces: [{namespace}]}}"))
    };
    let lab = lab.another("preflight-policy", of_secrets("elsewhere"))?;
    let namespace = namespace_with_secret(&lab, "prod")?;
    let alice = someone(&lab)?;
    let mut window = alice.window()?;
    fs::write(lab.policy_file(), of_secrets(&namespace).policy.context("no policy")?)?;
    lab.update_cluster()?;
    let get = format!("kubectl get secret db -n {namespace}");
    await_that(LIMIT, || window.run(&get)?.failed_with("step-up required").map(drop))?;
    window.run("kubectl stepup elevate")?.succeeded()?;
    window.run(&get)?.succeeded()?;
    window.run("kubectl stepup drop")?.succeeded()?;

    window.run(&get)?.succeeded()?;
    Ok(())
}

/// For each command: what the API server's audit log says that it asked for is what the plan says.
fn what_kubectl_asks_for_is_what_its_arguments_were_taken_for(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    lab.pod(&namespace, "web", "node", &[])?;
    lab.apply(&crate::objects::deployment(&namespace, "web"))?;
    lab.admin(&["create", "configmap", "cm", "-n", &namespace])?;
    let bob = lab.someone_like("bob")?;
    let manifest =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: cm, namespace: {namespace}}}\ndata: {{a: b}}\n");
    let file = bob.home().join("cm.yaml");
    fs::write(&file, manifest)?;
    let file = file.display();
    for line in [
        "get configmap cm".to_owned(),
        "get configmaps".to_owned(),
        "get configmaps --field-selector metadata.name=cm".to_owned(),
        "get configmaps,pods".to_owned(),
        "get deploy/web configmap/cm".to_owned(),
        "describe configmap cm".to_owned(),
        "describe configmaps".to_owned(),
        "logs web".to_owned(),
        "logs -l app=web".to_owned(),
        "exec web -- true".to_owned(),
        "exec deploy/web -- true".to_owned(),
        "attach web".to_owned(),
        "debug web --image=example.test/tools:1 --attach=false".to_owned(),
        "debug web --image=example.test/tools:1 --attach=false --copy-to=copy".to_owned(),
        "events".to_owned(),
        "wait --for=jsonpath={.metadata.name}=cm configmap/cm".to_owned(),
        format!("apply -f {file}"),
        format!("apply --server-side --force-conflicts -f {file}"),
        format!("replace -f {file}"),
        "label configmap cm x=y".to_owned(),
        "annotate configmap/cm x=y".to_owned(),
        "patch configmap cm -p {}".to_owned(),
        "scale deploy/web --replicas=2".to_owned(),
        "set image deploy/web app=example.test/app:2".to_owned(),
        "rollout restart deploy/web".to_owned(),
        "expose deploy web --port=80".to_owned(),
        "create configmap new".to_owned(),
        "delete configmap new --wait=false".to_owned(),
        "delete configmaps --all --wait=false".to_owned(),
    ] {
        // Each has a namespace flag of its own place, so that no test of the place is lost on it.
        let arguments: Vec<&str> = ["-n", &namespace].into_iter().chain(line.split(' ')).collect();
        let from = lab.kube_audit_events()?.len();
        let outcome = bob.kubectl(&arguments)?;
        let planned = planned(&arguments);
        await_that(Duration::from_secs(10), || {
            let asked = asked(&lab.kube_audit_events()?[from..], bob.name(), &namespace);
            // Whether a client lists before it watches is a matter of its age.
            let is_there = |request: &String| {
                !line.starts_with("wait") || !request.starts_with("list ") || asked.contains(request)
            };
            let planned: BTreeSet<String> = planned.iter().filter(|request| is_there(request)).cloned().collect();
            ensure!(asked == planned, "{line}: asked {asked:?}, planned {planned:?}\n{}", outcome.stderr);
            Ok(())
        })?;
    }
    Ok(())
}

/// What reads and connections, and which resources, a plan has. Writes by any of the verbs of its kind.
fn planned(arguments: &[&str]) -> BTreeSet<String> {
    let arguments: Vec<String> = ["kubectl"].iter().chain(arguments).map(ToString::to_string).collect();
    let plan = Plan::of(&CommandLine::parse(&arguments).unwrap_or_default());
    let described = plan.requests.iter().filter_map(|request| {
        let Kind::Is(resource) = &request.kind else { return None };
        let sub = request.subresource.as_ref().map_or(String::new(), |sub| format!("/{sub}"));
        Some(format!("{} {}{sub}", kind_of_verb(request.verbs[0]), resource.resource))
    });
    described.collect()
}

fn asked(events: &[Value], user: &str, namespace: &str) -> BTreeSet<String> {
    let about = events.iter().filter(|event| {
        event["user"]["username"] == user
            && event["objectRef"]["namespace"] == namespace
            && event["stage"] == "ResponseComplete"
    });
    let described = about.map(|event| {
        let text = |key: &str| event["objectRef"][key].as_str().unwrap_or_default();
        let sub = if text("subresource").is_empty() { String::new() } else { format!("/{}", text("subresource")) };
        let verb = event["verb"].as_str().unwrap_or_default();
        let is_connection = matches!(text("subresource"), "exec" | "attach" | "portforward");
        format!("{} {}{sub}", if is_connection { "connect" } else { kind_of_verb(verb) }, text("resource"))
    });
    described.collect()
}

/// A plan does not know which of the ways to write kubectl will take.
fn kind_of_verb(verb: &str) -> &str {
    match verb {
        "patch" | "update" => "change",
        verb => verb,
    }
}
