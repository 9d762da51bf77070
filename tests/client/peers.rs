//! What people suffer with the tools that they use today, and not with this one.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::home::{Home, Run, get};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until `home`'s browser was opened so many times, and gives the last URL.
fn browsed(home: &Home, times: usize) -> url::Url {
    let deadline = Instant::now() + LIMIT;
    while home.browsed().len() < times {
        assert!(Instant::now() < deadline, "the browser was opened {} times, not {times}", home.browsed().len());
        thread::sleep(Duration::from_millis(10));
    }
    home.browsed().last().unwrap().parse().unwrap()
}

fn callback(url: &url::Url) -> String {
    url.query_pairs().find(|(name, _)| name == "redirect_uri").unwrap().1.into_owned()
}

/// int128/kubelogin#389: ports.
#[test]
fn logins_by_browser_to_several_clusters_at_once_have_ports_of_their_own() {
    let homes: Vec<Home> = (0..3).map(|_| Home::builder().signed_out().flow("browser").build()).collect();
    let logins: Vec<_> = homes.iter().map(|home| home.command(&["login", "--profile", "p"]).spawn().unwrap()).collect();
    let urls: Vec<url::Url> = homes.iter().map(|home| browsed(home, 1)).collect();
    let mut callbacks: Vec<String> = urls.iter().map(callback).collect();
    callbacks.sort();
    callbacks.dedup();
    assert_eq!(callbacks.len(), 3, "{callbacks:?}");
    // Who began last comes back first.
    for url in urls.iter().rev() {
        assert_eq!(get(&get(url.as_str()).1).0, 200);
    }
    for login in logins {
        let run = Run::of(&login.wait_with_output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
}

/// int128/kubelogin#389: prompts.
#[test]
fn logins_by_browser_to_one_cluster_at_once_come_one_after_the_other() {
    let home = Home::builder().signed_out().flow("browser").build();
    let login = || home.command(&["login", "--profile", "p", "--force"]).spawn().unwrap();
    let logins = [login(), login()];
    let first = browsed(&home, 1);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(home.browsed().len(), 1, "one prompt at a time");
    assert_eq!(get(&get(first.as_str()).1).0, 200);
    let second = browsed(&home, 2);
    assert_ne!(first, second);
    assert_eq!(get(&get(second.as_str()).1).0, 200);
    for login in logins {
        let run = Run::of(&login.wait_with_output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    assert_eq!(home.provider.device_requests().len(), 2);
}

/// int128/kubelogin#1144, and the one mistake that makes every kubectl wait for one sign-in: locking before reading.
#[test]
fn a_lock_that_somebody_holds_keeps_no_live_token_from_anybody() {
    let home = Home::new();
    let lock = File::create(home.path("state/p/lock")).unwrap();
    lock.lock().unwrap();
    let begun = Instant::now();
    for run in home.kubectl("get pods", 3) {
        assert_eq!(run.token(), home.base_token);
    }
    // Nobody holds the file of tokens itself: it is replaced under everybody's eyes.
    let newer = home.provider.id_token(Some("urn:pwd"), 0, 300);
    let mut session = home.read("cache/p/session.json");
    session["baseToken"] = serde_json::json!(newer);
    home.write("cache/p/session.new", &session);
    fs::rename(home.path("cache/p/session.new"), home.path("cache/p/session.json")).unwrap();
    assert_eq!(home.get_token().token(), newer);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(home.provider.server.hits(), 0);
}

/// int128/kubelogin#717.
#[test]
fn url_and_code_are_there_before_a_browser_that_fails() {
    for flow in ["device", "browser"] {
        let home = Home::builder().signed_out().build();
        let browser = home.path("failing-browser");
        let (said, seen) = (home.path("said"), home.path("seen"));
        // What had been said when it was first called.
        fs::write(
            &browser,
            format!(
                "#!/bin/sh\ncp '{}' '{1}'.$$\nln '{1}'.$$ '{1}'\nexec /bin/false\n",
                said.display(),
                seen.display()
            ),
        )
        .unwrap();
        fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = home.command(&["login", "--profile", "p", "--force", "--flow", flow]);
        command.env("BROWSER", &browser).stderr(Stdio::from(File::create(&said).unwrap()));
        let mut login = command.spawn().unwrap();
        let deadline = Instant::now() + LIMIT;
        while !seen.exists() {
            assert!(Instant::now() < deadline, "no browser was tried");
            thread::sleep(Duration::from_millis(10));
        }
        let before = fs::read_to_string(&seen).unwrap();
        let url = before.split_whitespace().find(|word| word.starts_with("http://")).expect(&before).to_owned();
        if flow == "device" {
            assert!(url.ends_with("/device?user_code=ABCD-EFGH") && before.contains("code   ABCD-EFGH"), "{before}");
        } else {
            // It is enough to go on with.
            assert_eq!(get(&get(&url).1).0, 200);
        }
        assert!(login.wait().unwrap().success(), "{}", fs::read_to_string(&said).unwrap());
    }
    let home = Home::builder().signed_out().env("BROWSER", "/bin/false").build();
    let run = home.run(&["login", "--profile", "p"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("/device?user_code=ABCD-EFGH"), "{}", run.stderr);
}
