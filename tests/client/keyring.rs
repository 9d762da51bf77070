//! Where the refresh token is kept: in the OS keyring, or in a file where none answers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::home::{Builder, Home, Run};
use crate::needs;
use crate::secret_service::{Mood, SecretService};

/// A desktop with a keyring, if there can be one here. It lasts for as long as its directory.
fn desktop() -> Option<(tempfile::TempDir, SecretService)> {
    if !needs::program("dbus-daemon") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let keyring = SecretService::start(directory.path());
    Some((directory, keyring))
}

fn at(keyring: &SecretService) -> Builder {
    Home::builder()
        .signed_out()
        .env("KUBECTL_STEPUP_SECRETS", "keyring")
        .env("DBUS_SESSION_BUS_ADDRESS", keyring.address())
}

#[track_caller]
fn log_in(home: &Home) -> Run {
    let run = home.run(&["login", "--profile", "p", "--force"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    home.assert_no_secret(&format!("{}{}", run.stdout, run.stderr));
    run
}

/// The base token is no longer good for anything.
fn expire(home: &Home) {
    fs::remove_file(home.path("cache/p/session.json")).unwrap();
}

const NO_KEYRING: &str = "no OS keyring answers here";

#[test]
fn a_login_puts_it_into_the_keyring_a_refresh_replaces_it_and_a_logout_takes_it_out() {
    let Some((_desktop, keyring)) = desktop() else { return };
    let home = at(&keyring).build();
    let run = log_in(&home);
    assert!(run.stdout.contains("kept in: OS keyring"), "{}", run.stdout);
    let item = format!("p in {}", home.path("").display().to_string().trim_end_matches('/'));
    assert_eq!(keyring.secrets(), [(item.clone(), "refresh-0".to_owned())]);
    assert!(!home.path("state/p/refresh-token").exists(), "and nowhere else");

    expire(&home);
    let refreshed = home.get_token();
    assert!(!refreshed.token().is_empty());
    assert_eq!(refreshed.stderr, "");
    assert_eq!((keyring.secrets(), keyring.created()), (vec![(item, "refresh-1".to_owned())], 1));
    assert!(!home.path("state/p/refresh-token").exists());

    let run = home.run(&["logout", "--profile", "p"]);
    assert_eq!((run.code, run.stderr.contains("keyring")), (0, false), "{}", run.stderr);
    assert_eq!(home.provider.revoked(), ["refresh-1"]);
    assert_eq!(keyring.secrets(), []);
}

#[test]
fn the_file_of_a_time_without_keyring_goes_when_there_is_one() {
    let Some((_desktop, keyring)) = desktop() else { return };
    let home = at(&keyring).build();
    home.write("state/p/refresh-token", &json!("refresh-of-old"));
    home.write("state/p/secrets.json", &json!({"place": "file"}));
    log_in(&home);
    assert!(!home.path("state/p/refresh-token").exists());
    assert_eq!(keyring.secrets().len(), 1);
}

/// Azure/kubelogin#740.
#[test]
fn two_logins_at_once_make_one_item() {
    let Some((_desktop, keyring)) = desktop() else { return };
    let home = at(&keyring).build();
    let logins: Vec<_> =
        (0..2).map(|_| home.command(&["login", "--profile", "p", "--force"]).spawn().unwrap()).collect();
    for login in logins {
        let run = Run::of(&login.wait_with_output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(!run.stderr.contains(NO_KEYRING), "{}", run.stderr);
    }
    assert_eq!((keyring.secrets().len(), keyring.created()), (1, 1));
    assert!(!home.path("state/p/refresh-token").exists());
}

/// keyring-rs#133: servers, WSL and containers have none.
#[test]
fn without_a_keyring_a_private_file_is_used_and_that_is_said_once() {
    let home = Home::builder()
        .signed_out()
        .env("KUBECTL_STEPUP_SECRETS", "")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus")
        .build();
    let run = log_in(&home);
    assert_eq!(run.stderr.matches(NO_KEYRING).count(), 1, "{}", run.stderr);
    let file = home.path("state/p/refresh-token");
    assert!(run.stderr.contains(&format!("kept in {} (0600)", file.display())), "{}", run.stderr);
    assert!(run.stdout.contains("kept in: file (0600)"), "{}", run.stdout);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    expire(&home);
    let run = home.get_token();
    assert!(!run.token().is_empty());
    assert_eq!(run.stderr, "", "it has been said");
    assert_eq!(home.read("state/p/refresh-token"), json!("refresh-1"));
}

#[test]
fn a_bus_without_a_keyring_is_none_either() {
    let Some((_desktop, keyring)) = desktop() else { return };
    keyring.withdraw();
    let home = at(&keyring).build();
    assert!(log_in(&home).stderr.contains(NO_KEYRING));
    assert_eq!(home.read("state/p/refresh-token"), json!("refresh-0"));
}

#[test]
fn a_keyring_that_is_locked_is_waited_for_while_somebody_unlocks_it() {
    let Some((_desktop, keyring)) = desktop() else { return };
    let home = at(&keyring).build();
    log_in(&home);
    expire(&home);
    keyring.set(Mood::UnlockedAfter(Duration::from_secs(4)));
    let run = home.get_token();
    assert!(!run.token().is_empty());
    assert!(run.stderr.contains("waiting for the OS keyring"), "{}", run.stderr);
    assert_eq!((home.provider.refreshes(), home.provider.device_requests().len()), (1, 1));
    assert_eq!(keyring.secrets()[0].1, "refresh-1");
}

#[test]
fn a_login_with_a_keyring_that_gives_no_answer_goes_on_with_a_file() {
    let Some((_desktop, keyring)) = desktop() else { return };
    for mood in [Mood::Locked, Mood::Mute, Mood::Dismissed] {
        keyring.set(mood);
        // Somebody at another machine sees no window of this one.
        let home = at(&keyring).env("SSH_TTY", "/dev/pts/9").build();
        let begun = Instant::now();
        let run = log_in(&home);
        assert!(begun.elapsed() < Duration::from_secs(20), "{mood:?}: {:?}", begun.elapsed());
        assert_eq!(run.stderr.matches(NO_KEYRING).count(), 1, "{mood:?}: {}", run.stderr);
        assert_eq!(home.read("state/p/refresh-token"), json!("refresh-0"));
    }
}

/// Somebody who signed in at the desktop comes over SSH.
#[test]
fn a_keyring_that_no_longer_answers_means_signing_in_again() {
    for mood in [Mood::Locked, Mood::Mute, Mood::Dismissed] {
        let Some((_desktop, keyring)) = desktop() else { return };
        let home = at(&keyring).env("SSH_TTY", "/dev/pts/9").build();
        log_in(&home);
        expire(&home);
        keyring.set(mood);

        let background = home.command(&["get-token", "--profile", "p"]).env("KUBECTL_STEPUP_PROMPT", "never").output();
        let run = Run::of(&background.unwrap());
        run.fails(3, "not signed in: the refresh token is in the OS keyring, and ");
        assert!(run.stderr.contains("kubectl stepup login --profile p"), "{mood:?}: {}", run.stderr);
        if mood != Mood::Dismissed {
            assert!(run.stderr.contains("it does not answer"), "{mood:?}: {}", run.stderr);
        }

        let begun = Instant::now();
        let run = home.get_token();
        assert!(!run.token().is_empty());
        assert!(begun.elapsed() < Duration::from_secs(20), "it waits for the keyring once: {:?}", begun.elapsed());
        assert!(run.stderr.contains("the refresh token is in the OS keyring, and "), "{mood:?}: {}", run.stderr);
        assert!(run.stderr.contains("ABCD-EFGH") && run.stderr.contains(NO_KEYRING), "{mood:?}: {}", run.stderr);
        home.assert_no_secret(&run.stderr);
        assert_eq!(home.provider.refreshes(), 0);

        // From here on the file serves; signing out takes the old one out of the keyring, once that answers.
        expire(&home);
        assert!(!home.get_token().token().is_empty());
        assert_eq!(home.provider.refreshes(), 1);
        keyring.set(Mood::Open);
        assert_eq!(keyring.secrets().len(), 1);
        assert_eq!(home.run(&["logout", "--profile", "p"]).code, 0);
        assert_eq!(keyring.secrets(), [], "{mood:?}");
    }
}

#[test]
fn a_logout_that_cannot_reach_the_keyring_says_what_is_left() {
    let Some((_desktop, keyring)) = desktop() else { return };
    let home = at(&keyring).prompt("never").build();
    log_in(&home);
    keyring.set(Mood::Locked);
    let begun = Instant::now();
    let run = home.run(&["logout", "--profile", "p"]);
    run.fails(1, "cannot delete from the OS keyring: it does not answer");
    assert!(begun.elapsed() < Duration::from_secs(6), "it waits once: {:?}", begun.elapsed());
    assert!(!home.path("cache/p/session.json").exists());
    keyring.set(Mood::Open);
    assert_eq!(home.run(&["logout", "--profile", "p"]).code, 0);
    assert_eq!(keyring.secrets(), []);
    assert_eq!(home.provider.revoked(), ["refresh-0"]);
}

#[test]
fn the_doctor_says_that_the_keyring_does_not_answer_and_what_to_do() {
    let Some((_desktop, keyring)) = desktop() else { return };
    let home = at(&keyring).prompt("never").build();
    log_in(&home);
    keyring.set(Mood::Mute);
    let run = home.run(&["doctor", "--profile", "p"]);
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert!(run.stdout.contains("the refresh token is in the OS keyring, and it does not answer"), "{}", run.stdout);
    assert!(run.stdout.contains("unlock the keyring"), "{}", run.stdout);
}
