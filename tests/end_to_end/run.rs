//! `kubectl stepup run -- CMD` and `kubectl stepup proxy`: programs that repeat nothing themselves, in one command.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use lab::process::{Signal, await_that};
use lab::{Lab, Outcome, Session, Test};
use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};

use crate::no_secret::files_under;
use crate::objects::{PASSWORD_AS_SHOWN, deployment, names, namespace_with_deployments, namespace_with_secret};
use crate::streams::{comes_back, forwarded};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![
        reads_a_secret_in_one_command,
        who_asks_before_trying_is_told_of_rights_that_a_step_up_brings,
        a_grant_of_a_run_is_for_that_run,
        a_declined_step_up_leaves_the_refusal,
        nobody_there_is_the_base_identity,
        a_watch_goes_on_and_on,
        a_shell_in_a_pod_over_websockets,
        a_shell_in_a_pod_over_spdy,
        forwards_a_port,
        follows_a_log,
        writes_wait_for_no_retry,
        a_large_manifest_is_repeated,
        a_large_upload_comes_through_whole,
        a_body_above_the_limit_says_what_to_do,
        fifty_reads_are_one_prompt,
        twenty_deletions_take_a_grant_each,
        helm_reads_its_secrets,
        a_shell_is_a_run_too,
        what_the_terminal_holds_counts,
        the_reason_is_given_along,
        exit_codes_are_passed_on,
        signals_are_passed_on_and_nothing_is_left,
        ctrl_c_is_for_the_program,
        ctrl_c_at_a_prompt_declines_and_the_program_goes_on,
        no_token_is_in_its_environment_or_arguments,
        nobody_else_gets_in,
        contexts_keep_their_names,
        a_foreign_context_gets_no_token,
        a_proxy_serves_until_it_is_told_to_end,
        a_proxy_ends_cleanly_when_it_is_told_to,
        a_proxy_ends_by_itself,
        a_run_outlives_its_token,
        revoked_is_revoked,
    ]
}

/// Runs `kubectl stepup run -- LINE` as a shell would, without a terminal and with somebody there all the same.
fn run(person: &Session, line: &str) -> Result<Outcome> {
    person.script(&format!("kubectl stepup run -- {line}"))
}

fn reads_a_secret_in_one_command(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();

    let shown = run(&alice, &format!("kubectl get secret db -n {namespace} -o yaml"))?.succeeded()?;

    ensure!(shown.stdout.contains(PASSWORD_AS_SHOWN), "{}", shown.stdout);
    ensure!(shown.stderr.contains(&format!("Step-up required: get secrets/db -n {namespace}")), "{}", shown.stderr);
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "get", "secrets", &[403, 200])?;
    ensure!(lab.story_of(&namespace)? == ["challenge", "step-up", "mint", "use"], "{:?}", lab.story_of(&namespace)?);
    Ok(())
}

/// As k9s does. What RBAC forbids is forbidden all the same.
fn who_asks_before_trying_is_told_of_rights_that_a_step_up_brings(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let may = |what: &str| format!("kubectl auth can-i {what} -n {namespace}");

    let bare = alice.script(&may("list secrets"))?;
    ensure!(bare.stdout.starts_with("no - step-up required"), "{}", bare.stdout);
    let told = run(&alice, &may("list secrets"))?.succeeded()?;
    ensure!(told.stdout.starts_with("yes"), "{}", told.stdout);
    ensure!(run(&alice, &may("delete nodes"))?.stdout.starts_with("no"), "RBAC has the last word");
    ensure!(alice.sign_ins() == before, "who asks is not asked:\n{}", alice.browser_log());

    let ask_then_try = format!("{} && kubectl get secrets -n {namespace}", may("list secrets"));
    run(&alice, &format!("sh -c '{ask_then_try}'"))?.succeeded()?;
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    Ok(())
}

fn a_grant_of_a_run_is_for_that_run(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let get = format!("kubectl get secret db -n {namespace}");
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;

    // As often as one likes, and all of the kind, with one prompt.
    let script = format!("{get} && kubectl get secrets -n {namespace} && {get}");
    window.run(&format!("kubectl stepup run -- sh -c '{script}'"))?.succeeded()?;
    ensure!(lab.story_of(&namespace)?.iter().filter(|event| *event == "mint").count() == 1);

    window.run(&get)?.failed_with("step-up required")?;
    ensure!(!alice.home().join("cache").join(alice.name()).join("elevated").exists(), "its token was kept");
    Ok(())
}

fn a_declined_step_up_leaves_the_refusal(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?.with("LAB_BROWSER", "deny");

    let refused = run(&alice, &format!("kubectl get secret db -n {namespace}"))?;

    let refused = refused.failed_with("step-up required to get secrets/db")?;
    ensure!(refused.stderr.matches("user_code=").count() == 1, "{}", refused.stderr);
    ensure!(refused.stderr.contains("the sign-in was refused at the identity provider"), "{}", refused.stderr);
    ensure!(lab.story_of(&namespace)?.contains(&"decline".to_owned()), "{:?}", lab.story_of(&namespace)?);
    Ok(())
}

fn nobody_there_is_the_base_identity(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let (secret, free) = (format!("kubectl get secret db -n {namespace}"), "kubectl get configmaps -n default");
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();

    let refused = alice.background("sh", &["-c", &format!("kubectl stepup run -- {secret}")])?;
    refused.failed_with("step-up required to get secrets/db")?;
    alice.background("sh", &["-c", &format!("kubectl stepup run -- {free}")])?.succeeded()?;

    ensure!(alice.sign_ins() == before, "somebody was asked:\n{}", alice.browser_log());
    Ok(())
}

fn a_watch_goes_on_and_on(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let arguments = ["stepup", "run", "--", "kubectl", "get", "secrets", "-n", &namespace, "--watch"];
    let mut watch = alice.terminal("kubectl", &arguments)?;
    watch.expect("db", LIMIT)?;
    for name in ["one", "two", "three"] {
        lab.admin(&["create", "secret", "generic", name, "-n", &namespace])?;
        watch.expect(name, LIMIT)?;
    }
    watch.interrupt()?;
    let (status, seen) = watch.finish(LIMIT)?;
    ensure!(!status.success() && seen.matches("user_code=").count() == 1, "{status}\n{seen}");
    Ok(())
}

fn a_shell_in_a_pod_over_websockets(lab: &Lab) -> Result<()> {
    exec(lab, &lab.someone_like("alice")?)
}

/// As every kubectl before 1.31, and newer ones where something on the way breaks WebSockets.
fn a_shell_in_a_pod_over_spdy(lab: &Lab) -> Result<()> {
    exec(lab, &lab.someone_like("alice")?.with("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"))
}

fn exec(lab: &Lab, alice: &Session) -> Result<()> {
    let namespace = lab.namespace("payment")?;
    lab.pod(&namespace, "api-0", "node", &[])?;
    let before = alice.sign_ins();

    let through = run(alice, &format!("kubectl exec -i -n {namespace} api-0 -- cat < kubeconfig.yaml"))?.succeeded()?;
    ensure!(through.stdout == fs::read_to_string(alice.kubeconfig())?, "{}", through.stdout);
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());

    let lines = run(alice, &format!("kubectl exec -n {namespace} api-0 -- count 20000"))?.succeeded()?.stdout;
    ensure!(lines.lines().count() == 20_000 && lines.ends_with("line 20000\n"), "{} lines", lines.lines().count());
    let status = run(alice, &format!("kubectl exec -n {namespace} api-0 -- exit 7"))?;
    ensure!(status.status.code() == Some(7), "{status:?}");
    let attached = run(alice, &format!("kubectl attach -i -n {namespace} api-0 < kubeconfig.yaml"))?.succeeded()?;
    ensure!(attached.stdout.contains("attached"), "{}", attached.stdout);
    Ok(())
}

/// 50 MB that nobody can guess, into a pod and back.
fn a_large_upload_comes_through_whole(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("payment")?;
    lab.pod(&namespace, "api-0", "node", &[])?;
    let alice = lab.someone_like("alice")?;
    alice.script("head -c 50000000 /dev/urandom > sent")?.succeeded()?;
    for websockets in ["true", "false"] {
        let alice = alice.clone().with("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
        run(&alice, &format!("kubectl exec -i -n {namespace} api-0 -- cat < sent > back"))?.succeeded()?;
        alice.script("cmp sent back")?.succeeded().with_context(|| format!("WebSockets: {websockets}"))?;
    }
    Ok(())
}

fn forwards_a_port(lab: &Lab) -> Result<()> {
    for websockets in ["true", "false"] {
        let namespace = lab.namespace("payment")?;
        lab.pod(&namespace, "api-0", "node", &[])?;
        let alice = lab.someone_like("alice")?.with("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
        let arguments = ["stepup", "run", "--", "kubectl", "-n", &namespace, "port-forward", "api-0", ":7"];
        let mut forward = alice.terminal("kubectl", &arguments)?;
        let mut echo = forwarded(&mut forward)?;
        for round in 0..3 {
            comes_back(&mut echo, &format!("there and back {round}"))?;
        }
    }
    Ok(())
}

fn follows_a_log(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    lab.pod(&namespace, "web", "node", &[])?;
    let bob = lab.someone_like("bob")?;
    let arguments = ["stepup", "run", "--", "kubectl", "-n", &namespace, "logs", "-f", "web"];
    let mut follow = bob.terminal("kubectl", &arguments)?;
    follow.expect("line 12", LIMIT)
}

/// The proxy repeats the request itself: the client never sees the 429.
fn writes_wait_for_no_retry(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["web"])?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();

    let done = run(&alice, &format!("kubectl scale deployment web --replicas=3 -n {namespace} -v=8"))?.succeeded()?;

    ensure!(!done.stderr.contains("429 Too Many Requests"), "the client saw the refusal:\n{}", done.stderr);
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    lab.answered(&namespace, "patch", "deployments/scale", &[429, 200])?;
    ensure!(lab.object(&["deployment", "web", "-n", &namespace])?["spec"]["replicas"] == 3);
    run(&alice, &format!("kubectl delete namespace {namespace}"))?.succeeded()?;
    Ok(())
}

/// A manifest of 200 KB: what its request is like when it is repeated is what it was like.
fn large_manifest(alice: &Session, namespace: &str) -> Result<()> {
    let mut manifest = deployment(namespace, "web");
    let note = (0..36_000).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    manifest["metadata"]["annotations"] = json!({"note": note});
    manifest["spec"]["replicas"] = json!(7);
    Ok(fs::write(alice.home().join("web.json"), manifest.to_string())?)
}

fn a_large_manifest_is_repeated(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["web"])?;
    let alice = lab.someone_like("alice")?;
    large_manifest(&alice, &namespace)?;

    run(&alice, "kubectl apply --server-side --force-conflicts -f web.json")?.succeeded()?;

    lab.answered(&namespace, "patch", "deployments", &[429, 200])?;
    let applied = lab.object(&["deployment", "web", "-n", &namespace])?;
    ensure!(applied["metadata"]["annotations"]["note"].as_str().is_some_and(|note| note.len() > 200_000));
    Ok(())
}

fn a_body_above_the_limit_says_what_to_do(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_deployments(lab, "prod", &["web"])?;
    let alice = lab.someone_like("alice")?;
    large_manifest(&alice, &namespace)?;
    let mut window = alice.window()?;
    let apply = "kubectl stepup run --replay-limit 64Ki -- kubectl apply --server-side --force-conflicts -f web.json";

    let refused = window.run(apply)?.failed_with("step-up required to")?.stdout;
    ensure!(refused.contains("--replay-limit") && refused.contains("kubectl stepup elevate"), "{refused}");
    ensure!(refused.contains("rule production-deployments"), "{refused}");

    // What it says works.
    window.run("kubectl stepup elevate")?.succeeded()?;
    window.run(apply)?.succeeded()?;
    ensure!(lab.object(&["deployment", "web", "-n", &namespace])?["spec"]["replicas"] == 7);
    Ok(())
}

fn fifty_reads_are_one_prompt(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let script = format!(
        "for n in $(seq 50); do kubectl get secret db -n {namespace} -o jsonpath={{.data.password}} > $n.out 2> $n.err & done; wait"
    );
    fs::write(alice.home().join("fifty"), script)?;

    run(&alice, "sh fifty")?.succeeded()?;

    for number in 1..=50 {
        let read = |kind: &str| fs::read_to_string(alice.home().join(format!("{number}.{kind}")));
        ensure!(read("out")? == PASSWORD_AS_SHOWN, "{number}: {}", read("err")?);
    }
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    Ok(())
}

/// Each deletion is a use of its own, and the one sign-in is fresh enough for all of them.
fn twenty_deletions_take_a_grant_each(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let all: Vec<String> = (1..=20).map(|number| format!("web-{number}")).collect();
    for name in &all {
        lab.apply(&deployment(&namespace, name))?;
    }
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let script =
        format!("for n in $(seq 20); do kubectl delete deployment web-$n -n {namespace} 2> $n.err & done; wait");
    fs::write(alice.home().join("twenty"), script)?;

    run(&alice, "sh twenty")?.succeeded()?;

    ensure!(names(lab, "deployments", &namespace)?.is_empty(), "left: {:?}", names(lab, "deployments", &namespace)?);
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    Ok(())
}

/// helm keeps its releases in secrets, and reads them before anything else.
fn helm_reads_its_secrets(lab: &Lab) -> Result<()> {
    lab.install_helm()?;
    let namespace = lab.namespace("prod")?;
    let alice = lab.someone_like("alice")?;
    let chart = alice.home().join("chart");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 1.0.0\n")?;
    fs::write(
        chart.join("templates/settings.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: shop\ndata: {colour: blue}\n",
    )?;
    let before = alice.sign_ins();

    run(&alice, &format!("helm install shop chart -n {namespace}"))?.succeeded()?;
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    let list = run(&alice, &format!("helm list -n {namespace} -o json"))?.succeeded()?.stdout;
    ensure!(serde_json::from_str::<Value>(&list)?[0]["name"] == "shop", "{list}");
    run(&alice, &format!("helm upgrade shop chart -n {namespace}"))?.succeeded()?;
    run(&alice, &format!("helm uninstall shop -n {namespace}"))?.succeeded()?;
    Ok(())
}

fn a_shell_is_a_run_too(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let mut shell = alice.terminal("kubectl", &["stepup", "run", "--", "bash", "--norc", "-i"])?;
    shell.type_line(&format!("kubectl get secret db -n {namespace} -o name; echo done-$?"))?;
    shell.expect("secret/db", LIMIT)?;
    shell.expect("done-0", LIMIT)?;
    // Ours works in it, and a run in a run is none.
    shell.type_line("kubectl stepup status | head -2; echo status-$?")?;
    shell.expect("status-0", LIMIT)?;
    shell.type_line("kubectl stepup run -- true; echo again-$?")?;
    shell.expect("this runs in kubectl stepup run already", LIMIT)?;
    shell.expect("again-2", LIMIT)?;
    shell.type_line("exit 5")?;
    let (status, seen) = shell.finish(LIMIT)?;
    ensure!(status.code() == Some(5), "{status}\n{seen}");
    ensure!(seen.matches("user_code=").count() == 1, "{seen}");
    Ok(())
}

fn what_the_terminal_holds_counts(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let mut window = alice.window()?;
    window.run("kubectl stepup elevate --for assume clusterrole cluster-admin")?.succeeded()?;

    // The role, and with it what takes a step-up of its own.
    let script = format!("kubectl get nodes && kubectl get secret db -n {namespace} && kubectl get nodes");
    window.run(&format!("kubectl stepup run -- sh -c '{script}'"))?.succeeded()?;
    Ok(())
}

fn the_reason_is_given_along(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let alice = lab.someone_like("alice")?;
    let create = |name: &str| format!("kubectl create role {name} --verb=get --resource=configmaps -n {namespace}");

    let without = run(&alice, &create("a"))?;
    without.failed_with("reason")?;
    alice.script(&format!("kubectl stepup run --reason OPS-123 -- {}", create("b")))?.succeeded()?;

    ensure!(names(lab, "roles", &namespace)? == ["b"]);
    Ok(())
}

fn exit_codes_are_passed_on(lab: &Lab) -> Result<()> {
    let bob = lab.someone_like("bob")?;
    for (line, code) in [
        ("true", 0),
        ("sh -c 'exit 42'", 42),
        ("sh -c 'kill -TERM $$'", 143),
        ("sh -c 'kill -KILL $$'", 137),
        ("no-such-program", 127),
        ("/", 126),
        ("kubectl get configmaps no-such -n default", 1),
    ] {
        let ended = run(&bob, line)?;
        ensure!(ended.status.code() == Some(code), "{line}: {ended:?}");
    }
    let usage = bob.script("kubectl stepup run")?;
    ensure!(usage.status.code() == Some(2), "{usage:?}");
    Ok(())
}

/// `kubectl-stepup run -- sh SCRIPT`, in the background, with a temporary directory of its own.
fn start(person: &Session, script: &str) -> Result<(Child, PathBuf)> {
    let temporary = person.home().join("tmp");
    fs::create_dir_all(&temporary)?;
    let mut command = Command::new("setsid");
    command.args(["kubectl-stepup", "run", "--", "sh", "-c", script]);
    let child = arranged(person, &mut command)
        .env("TMPDIR", &temporary)
        .env_remove("XDG_RUNTIME_DIR")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((child, temporary))
}

/// The person's environment, for a program of another's.
fn arranged<'c>(person: &Session, command: &'c mut Command) -> &'c mut Command {
    let model = person.command("true");
    for (name, value) in model.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(person.home()).stdin(Stdio::null())
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("no process")?;
    Ok(kill_process(pid, signal)?)
}

fn signals_are_passed_on_and_nothing_is_left(lab: &Lab) -> Result<()> {
    let bob = lab.someone_like("bob")?;
    for (which, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        // The child says that it lives; then it waits for the signal.
        let (mut child, temporary) = start(&bob, "touch started; exec sleep 600")?;
        await_that(LIMIT, || ensure_exists(&bob.home().join("started")))?;
        let directory = only_entry(&temporary)?;
        let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
        ensure!(mode(&directory)? == 0o700 && mode(&directory.join("kubeconfig"))? == 0o600);
        signal(&child, which)?;
        let status = child.wait()?;
        ensure!(status.code() == Some(code), "{which:?}: {status}");
        ensure!(fs::read_dir(&temporary)?.next().is_none(), "{which:?} left something behind");
        fs::remove_file(bob.home().join("started"))?;
    }
    // What is killed outright leaves its directory, and the next run takes it away.
    let (mut child, temporary) = start(&bob, "touch started; sleep 1; touch over")?;
    await_that(LIMIT, || ensure_exists(&bob.home().join("started")))?;
    signal(&child, Signal::KILL)?;
    child.wait()?;
    let left = only_entry(&temporary)?;
    // Not at once: a run in another container seems to be gone, too.
    let (mut child, _) = start(&bob, "true")?;
    child.wait()?;
    ensure!(left.exists());
    File::open(&left)?.set_modified(SystemTime::now() - Duration::from_hours(25))?;
    let (mut child, _) = start(&bob, "true")?;
    child.wait()?;
    ensure!(!left.exists(), "{} is still there", left.display());
    await_that(LIMIT, || ensure_exists(&bob.home().join("over")))
}

fn ensure_exists(path: &Path) -> Result<()> {
    ensure!(path.exists(), "there is no {}", path.display());
    Ok(())
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(directory)?;
    let first = entries.next().context("nothing there")??.path();
    ensure!(entries.next().is_none(), "more than one");
    Ok(first)
}

/// Ctrl-C reaches the program as if there were no run; what it then does still has its proxy.
fn ctrl_c_is_for_the_program(lab: &Lab) -> Result<()> {
    let bob = lab.someone_like("bob")?;
    let script = "trap 'echo caught; kubectl get configmaps -n default -o name; echo asked $?; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut terminal = bob.terminal("kubectl", &["stepup", "run", "--", "sh", "-c", script])?;
    terminal.expect("ready", LIMIT)?;
    terminal.interrupt()?;
    terminal.expect("caught", LIMIT)?;
    terminal.expect("asked 0", LIMIT)?;
    let (status, seen) = terminal.finish(LIMIT)?;
    ensure!(status.code() == Some(9), "{status}\n{seen}");
    Ok(())
}

/// A program that ignores Ctrl-C, as a shell with a job of its own or a full-screen tool does.
fn ctrl_c_at_a_prompt_declines_and_the_program_goes_on(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?.with("LAB_BROWSER", "ignore");
    let get = format!("kubectl get secret db -n {namespace} -o name");
    let script =
        format!("trap '' INT; {get}; echo first $?; {get}; echo second $?; kubectl get ns default; echo third $?");
    let mut terminal = alice.terminal("kubectl", &["stepup", "run", "--", "sh", "-c", &script])?;
    terminal.expect("user_code=", LIMIT)?;
    terminal.interrupt()?;
    terminal.expect("first 1", LIMIT)?;
    // Not asked again at once, and the proxy is still there.
    terminal.expect("second 1", LIMIT)?;
    terminal.expect("third", LIMIT)?;
    let (status, seen) = terminal.finish(LIMIT)?;
    ensure!(status.success() && seen.contains("third 0"), "{status}\n{seen}");
    ensure!(seen.matches("user_code=").count() == 1, "{seen}");
    Ok(())
}

fn no_token_is_in_its_environment_or_arguments(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let script = format!(
        "kubectl get secret db -n {namespace} -o name; env; cat /proc/$$/cmdline /proc/$PPID/cmdline /proc/$PPID/environ; \
         echo; echo kubeconfig:; cat $KUBECONFIG"
    );
    let seen = run(&alice, &format!("sh -c '{script}'"))?.succeeded()?.stdout;
    let (surroundings, config) = seen.split_once("kubeconfig:\n").context("it got no further")?;
    for part in ["KUBECONFIG=", "KUBE_CONFIG_PATH=", "run\0--\0sh\0-c\0"] {
        ensure!(surroundings.contains(part), "no {part:?} in {surroundings}");
    }

    let kept = files_under(&alice.home().join("cache/.step-up"))?.pop().context("no sign-in was kept")?;
    let kept: Value = serde_json::from_str(&fs::read_to_string(kept)?)?;
    let refresh = fs::read_to_string(alice.home().join("state").join(alice.name()).join("refresh-token"))?;
    let refresh: String = serde_json::from_str(&refresh)?;
    let (base, strong) = (alice.token()?, kept["idToken"].as_str().context("no token was kept")?);
    // The middle of a token and its end: half of one is too much. What every token of the provider begins with, too.
    let parts = [base.as_str(), strong].into_iter().flat_map(|token| token.split('.'));
    for secret in parts.chain([refresh.as_str(), "eyJ"]) {
        ensure!(!secret.is_empty() && !seen.contains(secret), "a token is in {seen}");
    }
    let config: Value = serde_json::from_str(config)?;
    let bearer = config["users"][0]["user"]["token"].as_str().context("no token in the kubeconfig")?;
    ensure!(!surroundings.contains(bearer), "the secret of the run is in {surroundings}");
    Ok(())
}

fn nobody_else_gets_in(lab: &Lab) -> Result<()> {
    let bob = lab.someone_like("bob")?;
    let (mut child, temporary) = start(&bob, "cp $KUBECONFIG copy; touch started; exec sleep 600")?;
    await_that(LIMIT, || ensure_exists(&bob.home().join("started")))?;
    let config: Value = serde_json::from_str(&fs::read_to_string(bob.home().join("copy"))?)?;
    let url = config["clusters"][0]["cluster"]["server"].as_str().context("no server")?.to_owned();
    let token = config["users"][0]["user"]["token"].as_str().context("no token")?.to_owned();
    let client =
        reqwest::blocking::Client::builder().danger_accept_invalid_certs(true).http1_only().no_proxy().build()?;
    let path = format!("{url}/api/v1/namespaces/default/configmaps");
    let ask = |token: &str, header: Option<(&str, &str)>| -> Result<(u16, Value)> {
        let mut request = client.get(&path).header("Connection", "close");
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = request.send()?;
        Ok((answer.status().as_u16(), serde_json::from_str(&answer.text()?)?))
    };
    ensure!(ask(&token, None)?.0 == 200);
    let base = bob.token()?;
    for wrong in ["", "x", &base, &token[1..]] {
        let (code, status) = ask(wrong, None)?;
        ensure!(code == 401 && status["kind"] == "Status" && status["reason"] == "Unauthorized", "{status}");
    }
    for (name, value) in [("Origin", "https://evil.example"), ("Host", "evil.example")] {
        ensure!(ask(&token, Some((name, value)))?.0 == 403, "{name}");
    }
    // Not a word of it is anywhere that others may read.
    let others = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o077);
    ensure!(others(&only_entry(&temporary)?)? == 0);
    signal(&child, Signal::TERM)?;
    child.wait()?;
    ensure!(ask(&token, None).is_err(), "it listens still");
    Ok(())
}

fn contexts_keep_their_names(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let script = format!(
        "set -e
         cluster=$(kubectl config view -o jsonpath='{{.clusters[0].name}}')
         kubectl config set-context there --cluster=$cluster --user={user} --namespace={namespace}
         kubectl config set-context other --cluster=$cluster --user=somebody-else
         before=$(kubectl config current-context)
         test \"$before\" = \"$(kubectl stepup run -- kubectl config current-context)\"
         kubectl stepup run --context there -- kubectl config current-context
         kubectl stepup run --context there -- kubectl get secret db -o name
         kubectl stepup run -- kubectl --context there get secrets -o name
         kubectl stepup run -- kubectl config set-context --current --namespace=elsewhere
         kubectl stepup run -- kubectl --context other get configmaps",
        user = alice.name()
    );
    let shown = alice.script(&script)?.failed_with("context was not found for specified context: other")?;
    ensure!(shown.stdout.contains("there\nsecret/db\nsecret/db\n"), "{}", shown.stdout);
    let config = fs::read_to_string(alice.kubeconfig())?;
    ensure!(!config.contains("elsewhere") && !config.contains("127.0.0.1:0"), "{config}");
    Ok(())
}

/// A base token goes to the API server that it is for, and to no other.
fn a_foreign_context_gets_no_token(lab: &Lab) -> Result<()> {
    let alice = lab.someone_like("alice")?;
    let admin = lab.admin_kubeconfig();
    // A variable that names a profile says nothing about this API server; who names it in this very command does.
    let named = format!("KUBECTL_STEPUP_PROFILE={} ", alice.name());
    for variable in ["", &named] {
        let refused =
            alice.script(&format!("{variable}kubectl stepup run --kubeconfig {} -- true", admin.display()))?;
        ensure!(refused.status.code() == Some(2), "{refused:?}");
        refused.failed_with("does not sign in with kubectl-stepup")?;
    }
    let said = format!("kubectl stepup run --profile {} --kubeconfig {} -- true", alice.name(), admin.display());
    alice.script(&said)?.succeeded()?;
    let misspelt = alice.script("KUBECTL_STEPUP_PROFILE='my profile' kubectl stepup status")?;
    ensure!(misspelt.status.code() == Some(2), "{misspelt:?}");
    misspelt.failed_with("KUBECTL_STEPUP_PROFILE=\"my profile\": a profile name is")?;
    let unknown = alice.script("kubectl stepup run --context nowhere -- true")?;
    unknown.failed_with("there is no context \"nowhere\"")?;
    Ok(())
}

fn a_proxy_serves_until_it_is_told_to_end(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let out = alice.home().join("through.yaml");
    let out_text = out.display().to_string();
    let mut proxy = alice.terminal("kubectl", &["stepup", "proxy", "--kubeconfig-out", &out_text])?;
    proxy.expect(&out_text, LIMIT)?;
    proxy.expect("Ctrl-C ends it", LIMIT)?;
    ensure!(fs::metadata(&out)?.permissions().mode() & 0o777 == 0o600);

    // Programs elsewhere: nobody is there, but somebody is at the proxy.
    let get = format!("KUBECONFIG={out_text} kubectl get secret db -n {namespace} -o name");
    alice.background("sh", &["-c", &get])?.succeeded()?;
    proxy.expect("Step-up required: get secrets/db", LIMIT)?;
    alice.background("sh", &["-c", &get])?.succeeded()?;

    let taken = alice.script(&format!("kubectl stepup proxy --kubeconfig-out {}", alice.kubeconfig().display()))?;
    taken.failed_with("was not made by kubectl stepup proxy")?;

    proxy.interrupt()?;
    let (status, seen) = proxy.finish(LIMIT)?;
    ensure!(status.success(), "{status}\n{seen}");
    ensure!(!out.exists(), "the kubeconfig is still there");
    alice.background("sh", &["-c", &get])?.failed_with("")?;
    Ok(())
}

/// As by whatever started it, and by a terminal that is closed.
fn a_proxy_ends_cleanly_when_it_is_told_to(lab: &Lab) -> Result<()> {
    let bob = lab.someone_like("bob")?;
    let out = bob.home().join("through.yaml");
    for which in [Signal::TERM, Signal::HUP] {
        let mut command = Command::new("setsid");
        command.args(["kubectl", "stepup", "proxy", "--kubeconfig-out", "through.yaml"]);
        let mut proxy = arranged(&bob, &mut command).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        await_that(LIMIT, || ensure_exists(&out))?;
        bob.script("KUBECONFIG=through.yaml kubectl get configmaps -n default -o name")?.succeeded()?;

        signal(&proxy, which)?;

        let status = proxy.wait()?;
        ensure!(status.success(), "{which:?}: {status}");
        ensure!(!out.exists(), "{which:?}: the kubeconfig is still there");
    }
    Ok(())
}

fn a_proxy_ends_by_itself(lab: &Lab) -> Result<()> {
    let bob = lab.someone_like("bob")?;
    let ended = bob.script("kubectl stepup proxy --for 1s")?.succeeded()?;
    let path = ended.stdout.trim();
    ensure!(path.ends_with("/kubeconfig") && !Path::new(path).exists(), "{path}");
    Ok(())
}

/// The base token of a long run is renewed while it runs.
fn a_run_outlives_its_token(lab: &Lab) -> Result<()> {
    let lab = &lab.another(
        "short-tokens",
        lab::Options {
            provider_environment: vec![("LAB_TTL_ID_TOKEN".into(), "14".into())],
            ..lab::Options::default()
        },
    )?;
    let bob = lab.someone_like("bob")?;
    let script =
        "for n in $(seq 16); do kubectl get configmaps -n default -o name > /dev/null || exit 1; sleep 1; done";
    fs::write(bob.home().join("long"), script)?;
    run(&bob, "sh long")?.succeeded()?;
    Ok(())
}

fn revoked_is_revoked(lab: &Lab) -> Result<()> {
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = lab.someone_like("alice")?;
    let before = alice.sign_ins();
    let get = format!("kubectl get secret db -n {namespace} -o name");
    // The kept sign-in is fresh enough for the next grant.
    let script = format!("{get} && kubectl stepup drop --all && {get}");
    let out = run(&alice, &format!("sh -c '{script}'"))?.succeeded()?;
    ensure!(out.stdout.matches("secret/db").count() == 2, "{}", out.stdout);
    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    let mints = lab.story_of(&namespace)?.iter().filter(|event| *event == "mint").count();
    if mints != 2 {
        bail!("{mints} grants, not 2: {:?}", lab.story_of(&namespace)?);
    }
    Ok(())
}
