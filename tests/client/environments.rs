//! Where people work: tmux, containers without a home, homes that cannot be written to, `sudo`, a full disk.
//!
//! What needs another user or a disk of its own needs root, as in CI's containers; without, those tests are skipped.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::home::{Home, Run};
use crate::needs;

const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-stepup");
/// Nobody of this number is in any passwd file.
const NOBODY: u32 = 54321;

/// Lets the user without a name into the test's directory, where there is a copy of the plugin for them.
fn open_to_nobody(home: &Home) {
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(PLUGIN, home.path("kubectl-stepup")).unwrap();
    for (name, mode) in [("work", 0o700), ("runtime", 0o700)] {
        fs::create_dir_all(home.path(name)).unwrap();
        chown(home.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(home.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Runs the plugin as that user, with nothing in the environment but `variables`.
fn as_nobody(home: &Home, variables: &[(&str, &Path)], arguments: &[&str]) -> Run {
    Run::of(&command_of(NOBODY, home, variables, arguments).output().unwrap())
}

/// The same as any user, to be started by the test.
fn command_of(user: u32, home: &Home, variables: &[(&str, &Path)], arguments: &[&str]) -> Command {
    let mut command = Command::new("setsid");
    command.arg("setpriv").args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    command.arg(home.path("kubectl-stepup"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).current_dir(home.path("work"));
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("KUBECTL_STEPUP_PROMPT", "always");
    command.env("KUBECTL_STEPUP_SECRETS", "file").env("BROWSER", "/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_container_without_home_and_name_keeps_things_until_it_ends_and_says_where() {
    if !needs::root() || !needs::program("setpriv") {
        return;
    }
    let home = Home::builder().signed_out().build();
    open_to_nobody(&home);
    let work = home.path("work");
    let kubeconfig = work.join("kubeconfig");
    let run = |arguments: &[&str]| as_nobody(&home, &[("TMPDIR", &work), ("KUBECONFIG", &kubeconfig)], arguments);

    let (issuer, server) = (home.provider.server.url.as_str(), home.server.server.url.as_str());
    let setup = run(&[
        "setup",
        "--profile",
        "p",
        "--issuer",
        issuer,
        "--client-id",
        "kubernetes",
        "--server",
        server,
        "--offline",
    ]);
    assert_eq!(setup.code, 0, "{}", setup.stderr);
    let login = run(&["login", "--profile", "p"]);
    assert_eq!(login.code, 0, "{}", login.stderr);
    assert!(login.stderr.contains("no home directory to write to"), "{}", login.stderr);
    assert!(!run(&["get-token", "--profile", "p"]).token().is_empty());
    let kept = fs::metadata(work.join(format!("kubectl-stepup-{NOBODY}/cache/p/session.json"))).unwrap();
    assert_eq!((kept.uid(), kept.mode() & 0o777), (NOBODY, 0o600));
}

/// The directory of temporary files is everybody's: somebody may have been there first, with a profile of their own.
#[test]
fn what_others_have_put_among_the_temporary_files_is_not_ours() {
    if !needs::root() || !needs::program("setpriv") {
        return;
    }
    let home = Home::builder().signed_out().build();
    open_to_nobody(&home);
    let work = home.path("work");
    let run = |arguments: &[&str]| as_nobody(&home, &[("TMPDIR", &work)], arguments);
    let name = format!("kubectl-stepup-{NOBODY}");
    home.write(&format!("work/{name}/config/profiles/p.json"), &home.read("config/profiles/p.json"));
    std::os::unix::fs::symlink(work.join(&name), work.join(format!("{name}.1"))).unwrap();
    run(&["status", "--profile", "p"]).fails(1, "there is no profile \"p\"");

    let issuer = home.provider.server.url.as_str();
    let kubeconfig = work.join("kubeconfig");
    let kubeconfig = kubeconfig.to_str().unwrap();
    let setup =
        ["setup", "--profile", "p", "--issuer", issuer, "--client-id", "kubernetes", "--offline", "--kubeconfig"];
    let setup = run(&[&setup[..], &[kubeconfig]].concat());
    assert_eq!(setup.code, 0, "{}", setup.stderr);
    let kept = fs::metadata(work.join(format!("{name}.2/config/profiles/p.json"))).unwrap();
    assert_eq!((kept.uid(), kept.mode() & 0o777), (NOBODY, 0o600));
    // Found again, also when the one before it is free.
    fs::remove_dir_all(work.join(&name)).unwrap();
    let status = run(&["status", "--profile", "p"]);
    assert!(status.stdout.contains(issuer), "{}{}", status.stdout, status.stderr);
}

/// int128/kubelogin#628.
#[test]
fn two_users_who_share_a_directory_for_temporary_files_do_not_wait_for_each_other() {
    if !needs::root() || !needs::program("setpriv") {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let homes = [true, false].map(|ignores| {
        let home = Home::builder().signed_out().manners(|manners| manners.ignores = ignores).build();
        open_to_nobody(&home);
        home
    });
    let command = |number: usize, arguments: &[&str]| {
        let (home, user) = (&homes[number], NOBODY + u32::try_from(number).unwrap());
        let kubeconfig = shared.path().join(format!("kubeconfig-{number}"));
        let mut command = command_of(user, home, &[("TMPDIR", shared.path()), ("KUBECONFIG", &kubeconfig)], arguments);
        command.current_dir("/");
        command
    };
    for (number, home) in homes.iter().enumerate() {
        let setup = ["setup", "--profile", "p", "--issuer", &home.provider.server.url, "--client-id", "kubernetes"];
        let run = Run::of(&command(number, &[&setup[..], &["--offline"]].concat()).output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
    }

    let mut waiting = command(0, &["login", "--profile", "p"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while homes[0].provider.polls() == 0 {
        assert!(Instant::now() < deadline, "the first user was not asked");
        thread::sleep(Duration::from_millis(10));
    }
    let begun = Instant::now();
    let login = Run::of(&command(1, &["login", "--profile", "p"]).output().unwrap());
    assert_eq!(login.code, 0, "{}", login.stderr);
    assert!(!Run::of(&command(1, &["get-token", "--profile", "p"]).output().unwrap()).token().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(waiting.try_wait().unwrap().is_none(), "the first user still waits");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    // What is theirs is theirs alone.
    for user in [NOBODY, NOBODY + 1] {
        let kept = fs::metadata(shared.path().join(format!("kubectl-stepup-{user}"))).unwrap();
        assert_eq!((kept.uid(), kept.mode() & 0o777), (user, 0o700));
    }
}

#[test]
fn a_home_that_cannot_be_written_to_is_read_and_the_tokens_go_elsewhere() {
    if !needs::root() || !needs::program("setpriv") {
        return;
    }
    let home = Home::builder().signed_out().build();
    open_to_nobody(&home);
    let profile = home.read("config/profiles/p.json");
    home.write("home/.config/kubectl-stepup/profiles/p.json", &profile);
    let (of_root, runtime) = (home.path("home"), home.path("runtime"));
    let run = |arguments: &[&str]| as_nobody(&home, &[("HOME", &of_root), ("XDG_RUNTIME_DIR", &runtime)], arguments);

    let login = run(&["login", "--profile", "p"]);
    assert_eq!(login.code, 0, "{}", login.stderr);
    assert!(login.stderr.contains("no home directory to write to"), "{}", login.stderr);
    assert!(!run(&["get-token", "--profile", "p"]).token().is_empty());
    assert!(runtime.join("kubectl-stepup/cache/p/session.json").exists());
}

#[test]
fn root_in_somebodys_home_leaves_nothing_that_is_not_theirs() {
    if !needs::root() || !needs::program("setpriv") {
        return;
    }
    let home = Home::builder().signed_out().build();
    open_to_nobody(&home);
    let theirs = home.path("work");
    home.write("work/config/profiles/p.json", &home.read("config/profiles/p.json"));
    for path in ["work/config", "work/config/profiles", "work/config/profiles/p.json"] {
        chown(home.path(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // `sudo -E kubectl …`: root, with their environment.
    let as_root =
        |arguments: &[&str]| Run::of(&home.command(arguments).env("KUBECTL_STEPUP_HOME", &theirs).output().unwrap());
    let login = as_root(&["login", "--profile", "p"]);
    assert_eq!(login.code, 0, "{}", login.stderr);
    let token = as_root(&["get-token", "--profile", "p"]).token();

    let mut seen = 0;
    let mut left = vec![theirs.clone()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let (path, data) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            assert_eq!(data.uid(), NOBODY, "{}", path.display());
            seen += 1;
            if data.is_dir() {
                left.push(path);
            }
        }
    }
    assert!(seen > 8, "there is something to see");
    // And they go on with it.
    let run = as_nobody(&home, &[("KUBECTL_STEPUP_HOME", &theirs)], &["get-token", "--profile", "p"]);
    assert_eq!(run.token(), token);
}

/// As `sudo kubectl …`, which has another home.
#[test]
fn under_sudo_it_is_said_whose_profiles_these_are() {
    let home = Home::new();
    fs::create_dir(home.path("root")).unwrap();
    let mut command = home.command(&["get-token", "--profile", "p"]);
    command.env("SUDO_USER", "alice").env("KUBECTL_STEPUP_HOME", home.path("root"));
    let told = Run::of(&command.output().unwrap());
    told.fails(1, "there is no profile \"p\"");
    assert!(
        told.stderr.contains("under sudo it would be root's") && told.stderr.contains("alice's with sudo -E"),
        "{told:?}"
    );
}

/// Runs `script` where the directories that things are kept in are full, in a mount namespace of its own.
fn on_a_full_disk(home: &Home, script: &str) -> impl Fn(usize) -> Vec<Run> {
    let fill = "cd \"$KUBECTL_STEPUP_HOME\" && cp -r cache state elsewhere &&
        mount -t tmpfs -o size=64k small cache && mount -t tmpfs -o size=64k small state &&
        cp -r elsewhere/cache/p cache/ && cp -r elsewhere/state/p state/ &&
        for disk in cache state; do cat /dev/zero 2>/dev/null >$disk/filler; done
        cd - >/dev/null";
    for directory in ["elsewhere", "cache/p", "state/p"] {
        fs::create_dir_all(home.path(directory)).unwrap();
    }
    home.shell(&format!("cat >script <<'end'\n{fill}\n{script}\nend\nunshare --mount sh script"))
}

#[test]
fn on_a_full_disk_a_renewed_token_is_used_and_the_disk_is_named() {
    if !needs::root() || !needs::program("unshare") {
        return;
    }
    let home = Home::builder().signed_in_for(0).build();
    let script = "\"$PLUGIN\" get-token --profile p </dev/null >1.out 2>1.err; echo $? >1.code";
    let run = &on_a_full_disk(&home, script)(1)[0];
    assert_ne!(run.token(), home.base_token);
    assert!(run.stderr.contains("cannot write") && run.stderr.contains("No space left"), "{}", run.stderr);
    home.assert_no_secret(&run.stderr);
}

#[test]
fn on_a_full_disk_a_step_up_serves_the_command_that_waits_for_it_and_no_other() {
    if !needs::root() || !needs::program("unshare") {
        return;
    }
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    let ends = |number| format!("</dev/null >{number}.out 2>{number}.err; echo $? >{number}.code");
    let call = |number| format!("\"$PLUGIN\" get-token --profile p {}", ends(number));
    let kubectl = |calls: [String; 2]| {
        format!(
            "printf '%s\\n' '{}' '{}' >delete; bash -c 'exec -a kubectl sh delete namespace prod'",
            calls[0], calls[1]
        )
    };
    let runs = on_a_full_disk(&home, &format!("{}\n{}", kubectl([call(1), call(2)]), call(3)))(3);
    let tokens: Vec<String> = runs.iter().map(Run::token).collect();
    assert_eq!(tokens, [home.base_token.as_str(), "elevated-1", home.base_token.as_str()]);
    assert!(runs[1].stderr.contains("No space left"), "{}", runs[1].stderr);

    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    let elevate = format!("\"$PLUGIN\" elevate --profile p {}", ends(1));
    let run = &on_a_full_disk(&home, &elevate)(1)[0];
    assert!(run.code == 1 && run.stderr.contains("No space left") && run.stdout.is_empty(), "{run:?}");
}

/// As in a sandbox or a container that was given the terminal: to those in it, the session and the process group that they
/// are of have no numbers.
#[test]
fn in_a_pid_namespace_a_person_is_asked_on_the_terminal_of_the_shell_outside() {
    if !needs::root() || !needs::program("unshare") {
        return;
    }
    let home = Home::builder().prompt("auto").build();
    home.server.demand_reason("OPS-");
    home.server.deny("ch-1", "delete", "prod");
    let call = "\"$PLUGIN\" get-token --profile p </dev/null";
    let mut terminal = home.shell_on_terminal(&format!(
        "printf '%s\\n' '{call} >0.out' '{call} >1.out 2>1.err; echo $? >1.code' >delete
         unshare --pid --fork --mount-proc bash -c 'exec -a kubectl sh delete namespace prod'"
    ));
    terminal.expect("Reason (a ticket):");
    terminal.type_line("OPS-7");
    assert_eq!(terminal.finish()[0].token(), "elevated-1");
    assert_eq!(home.server.exchanges()[0]["reason"], "OPS-7");
}

/// Whose parent is outside (a plugin that is run by way of a container) has no process and no terminal to go by.
#[test]
fn a_plugin_that_knows_no_parent_has_what_is_shared() {
    if !needs::root() || !needs::program("unshare") {
        return;
    }
    let home = Home::new();
    home.server.deny("ch-1", "delete", "prod");
    assert_eq!(home.run(&["elevate", "--profile", "p", "--share"]).code, 0);
    let call = "unshare --pid --fork --mount-proc \"$PLUGIN\" get-token --profile p </dev/null >1.out 2>1.err; echo $? >1.code";
    assert_eq!(home.shell(call)(1)[0].token(), "elevated-1");
}

#[test]
fn in_tmux_the_prompt_fits_its_pane() {
    if !needs::program("tmux") {
        return;
    }
    let home = Home::builder().prompt("auto").manners(|manners| manners.pending_polls = 100).build();
    home.server.deny("ch-1", "delete", "prod");
    let socket = home.path("tmux");
    let tmux = |arguments: &[&str]| {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&socket).args(["-f", "/dev/null"]).args(arguments);
        command.env("KUBECTL_STEPUP_HOME", home.path("")).env("KUBECTL_STEPUP_PROMPT", "auto");
        command.env("BROWSER", "/bin/true").env("KUBECTL_STEPUP_SECRETS", "file");
        Run::of(&command.stdin(Stdio::null()).output().unwrap()).stdout
    };
    let elevate = format!("'{PLUGIN}' elevate --profile p");
    tmux(&["new-session", "-d", "-x", "60", "-y", "40", &elevate]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let pane = loop {
        let pane = tmux(&["capture-pane", "-p"]);
        if pane.contains("Waiting for the sign-in") {
            break pane;
        }
        assert!(Instant::now() < deadline, "{pane}");
        thread::sleep(Duration::from_millis(50));
    };
    tmux(&["kill-server"]);
    for line in ["Step-up required: delete namespaces/prod", "    ABCD-EFGH"] {
        assert!(pane.lines().any(|other| other == line), "no {line:?} in\n{pane}");
    }
}

/// What the kernel of WSL says of itself cannot be had here; that its variable is noticed can be shown.
#[test]
fn the_doctor_says_where_it_runs() {
    let home = Home::builder().prompt("never").env("WSL_DISTRO_NAME", "Ubuntu").env("SSH_TTY", "/dev/pts/1").build();
    let run = home.run(&["doctor", "--profile", "p", "-o", "json"]);
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    let checks = told["checks"].as_array().unwrap();
    let says = checks.iter().find(|check| check["check"] == "surroundings").unwrap()["says"].as_str().unwrap();
    assert!(says.contains("over SSH") && says.contains("in WSL") && says.contains("nobody is asked"), "{says}");
    home.assert_no_secret(&run.stdout);
}
