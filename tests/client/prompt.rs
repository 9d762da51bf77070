//! What the person sees: on a terminal, on a narrow one, over SSH, in a log.

use serde_json::json;

use crate::home::Home;
use crate::preflight::pattern;

const ELEVATE: &str = "\"$PLUGIN\" elevate --profile p; echo $? >1.code";

/// Lines as they stand on the screen: without escape sequences, and without what was overwritten.
fn standing(seen: &str) -> Vec<String> {
    let mut text = String::new();
    let mut rest = seen;
    while let Some((before, after)) = rest.split_once('\x1b') {
        text.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic()).unwrap();
        rest = &after[end + 1..];
    }
    text.push_str(rest);
    text.lines().map(|line| line.rsplit('\r').next().unwrap_or_default().to_owned()).collect()
}

fn denied() -> Home {
    let home = Home::builder().prompt("auto").build();
    home.server.deny("ch-1", "delete", "prod");
    home
}

#[test]
fn a_terminal_shows_url_and_code_on_lines_of_their_own_and_counts_down() {
    let home = Home::builder().prompt("auto").manners(|manners| manners.pending_polls = 3).build();
    home.server.deny("ch-1", "delete", "prod");
    let seen = home.shell_on_terminal(&format!("stty cols 80 rows 50; {ELEVATE}")).text();
    let lines = standing(&seen);
    let server = home.server.server.url.strip_prefix("http://").unwrap();
    for line in [
        "Step-up required: delete namespaces/prod",
        &format!("  where   {server}, profile p"),
        "  rule    delete-namespace: Namespaces that [2Jmatter",
        "  grant   5 min, one use: delete namespaces/prod",
        &format!("    {}/device?user_code=ABCD-EFGH", home.provider.server.url),
        "    ABCD-EFGH",
    ] {
        assert!(lines.iter().any(|other| other == line), "no {line:?} in {lines:#?}");
    }
    let mut counted: Vec<&str> = seen
        .split("Waiting for the sign-in, ")
        .skip(1)
        .filter_map(|after| Some(after.split_once(" left (Ctrl-C to decline)")?.0))
        .collect();
    assert!(counted.len() >= 2 && counted.iter().all(|left| left.len() == "4:59".len()), "{seen:?}");
    counted.dedup();
    assert!(counted.len() >= 2 && counted.is_sorted_by(|before, after| before > after), "it counts down: {counted:?}");
    assert!(!lines.iter().any(|line| line.contains("Waiting")), "the countdown goes when it is over: {lines:#?}");
    assert!(!seen.contains("\x1b[2Jmatter"), "a server must not drive the terminal");
    assert!(!seen.contains('█'), "who sits at this machine needs no QR code");
}

#[test]
fn the_prompt_of_a_kubectl_says_where_it_goes() {
    let home = Home::builder().preflight(vec![pattern("get", "secrets", "prod")]).build();
    let contexts = ["here", "there"].map(|name| json!({"name": name, "context": {"cluster": name, "user": "u"}}));
    let clusters = [("here", "https://api.here:6443/k8s"), ("there", "https://api.there")]
        .map(|(name, server)| json!({"name": name, "cluster": {"server": server}}));
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here", "contexts": contexts, "clusters": clusters,
        "users": [{"name": "u", "user": {}}],
    });
    home.write("kubeconfig", &kubeconfig);
    let file = home.path("kubeconfig");
    for (more, place) in [
        ("", "api.here:6443, context here, profile p"),
        ("--context there", "api.there, context there, profile p"),
        ("--server https://api.elsewhere:8443", "api.elsewhere:8443, context here, profile p"),
    ] {
        let arguments = format!("get secret db -n prod --kubeconfig {} {more}", file.display());
        let told = &home.kubectl(&arguments, 1)[0].stderr;
        assert!(told.contains(&format!("  where   {place}\n")), "{more}: {told}");
    }
}

#[test]
fn a_narrow_terminal_breaks_lines_between_words_and_never_a_url() {
    let home = denied();
    let seen = home.shell_on_terminal(&format!("stty cols 40 rows 50; {ELEVATE}")).text();
    let lines = standing(&seen);
    let url = format!("{}/device?user_code=ABCD-EFGH", home.provider.server.url);
    assert!(lines.contains(&url), "{lines:#?}");
    let prompt = lines.iter().take_while(|line| !line.contains("may now"));
    assert!(prompt.filter(|line| **line != url).all(|line| line.chars().count() <= 40), "{lines:#?}");
    assert!(lines.contains(&"          that [2Jmatter".to_owned()), "{lines:#?}");
}

#[test]
fn over_ssh_there_is_a_qr_code_if_there_is_room_and_no_browser_of_text() {
    for (rows, has_code) in [(60, true), (20, false)] {
        let home = denied();
        let script = format!("export SSH_CONNECTION='192.0.2.1 1 192.0.2.2 22'; stty cols 80 rows {rows}; {ELEVATE}");
        let seen = home.shell_on_terminal(&script).text();
        assert_eq!(seen.contains('█'), has_code, "{seen}");
        assert!(standing(&seen).iter().all(|line| line.chars().count() <= 80), "{seen}");
    }
    let home = denied();
    let script = format!("export SSH_TTY=/dev/pts/9; unset BROWSER DISPLAY; {ELEVATE}");
    assert!(home.shell_on_terminal(&script).text().contains("ABCD-EFGH"));
    assert_eq!(home.browsed(), [""; 0]);
}

#[test]
fn nobody_who_has_gone_or_a_job_in_the_background_gets_a_tab() {
    for script in ["touch -a -d '20 minutes ago' $(tty); {}", "set -m; ({}) & wait"] {
        let home = denied();
        let seen = home.shell_on_terminal(&script.replace("{}", ELEVATE)).text();
        assert!(seen.contains("ABCD-EFGH") && seen.contains("may now"), "{script}: {seen}");
        assert_eq!(home.browsed(), [""; 0], "{script}");
    }
    let home = denied();
    assert!(home.shell_on_terminal(ELEVATE).text().contains("may now"));
    assert_eq!(home.browsed().len(), 1, "who is there gets one");
}

#[test]
fn a_storm_of_prompts_ends_and_who_types_is_asked_all_the_same() {
    let home = Home::builder().prompt("auto").signed_out().manners(|manners| manners.denies = true).build();
    let mut other = home.read("config/profiles/p.json");
    other["name"] = json!("q");
    home.write("config/profiles/q.json", &other);
    let storm = "for profile in p q p q p q p; do \"$PLUGIN\" get-token --profile $profile </dev/null; done";
    let seen = home.shell_on_terminal(storm).text();
    assert_eq!(home.provider.device_requests().len(), 5, "{seen}");
    assert!(seen.contains("there were 5 prompts in the last minute"), "{seen}");
    home.shell_on_terminal("\"$PLUGIN\" login --profile p").text();
    assert_eq!(home.provider.device_requests().len(), 6);
}

/// A program that stays (k9s) asks again and again; a kubectl was typed by somebody.
#[test]
fn a_program_that_nobody_uses_asks_for_no_sign_in_once_it_runs() {
    let home = Home::builder().prompt("auto").signed_out().manners(|manners| manners.denies = true).build();
    let asked = |script: &str| {
        let before = home.provider.device_requests().len();
        let seen = home.shell_on_terminal(script).text();
        (home.provider.device_requests().len() - before, seen)
    };
    let call = "\"$PLUGIN\" get-token --profile p </dev/null";
    let leave = "touch -a -d '2 minutes ago' $(tty)";
    let (times, seen) = asked(&format!("{leave}; {call}; {leave}; {call}; {call}"));
    assert_eq!(times, 1, "only when it was started: {seen}");
    assert!(seen.contains("kubectl stepup login --profile p"), "{seen}");
    let (times, seen) = asked(&format!("{call}; {call}"));
    assert_eq!(times, 2, "who is before it is asked: {seen}");
    let script = format!("{leave}; {call}; {leave}; {call}");
    let (times, seen) = asked(&format!("cat >get <<'end'\n{script}\nend\nbash -c 'exec -a kubectl sh get pods'"));
    assert_eq!(times, 2, "a kubectl was typed: {seen}");
}

/// As `always` promises: whoever sets it has reasons.
#[test]
fn always_has_no_limit() {
    let home = Home::builder().prompt("always").signed_out().manners(|manners| manners.denies = true).build();
    for _ in 0..7 {
        home.get_token().fails(4, "refused");
    }
    assert_eq!(home.provider.device_requests().len(), 7);
}

#[test]
fn no_color_means_plain_lines() {
    for setting in ["NO_COLOR=1", "TERM=dumb"] {
        let home = denied();
        let script = format!("export SSH_TTY=/dev/pts/9 {setting}; stty cols 80 rows 60; {ELEVATE}");
        let seen = home.shell_on_terminal(&script).text();
        assert!(!seen.contains('\x1b') && !seen.contains('█'), "{setting}: {seen:?}");
        assert!(seen.contains("within 5 min (Ctrl-C to decline)"), "{seen}");
    }
}

#[test]
fn over_ssh_a_browser_sign_in_says_which_port_to_forward() {
    let home = Home::builder().prompt("auto").flow("browser").build();
    home.server.deny("ch-1", "delete", "prod");
    let mut terminal = home.shell_on_terminal(&format!("export SSH_TTY=/dev/pts/9; {ELEVATE}"));
    terminal.expect("ssh -L");
}
