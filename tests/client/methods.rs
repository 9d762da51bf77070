//! The ways to step up, and finding out which of them works.

use serde_json::json;

use crate::home::{Home, Run};
use crate::provider::{Heeds, Manners, STRONG_CLIENT, STRONG_SECRET};

fn setup(home: &Home, more: &[&str]) -> Run {
    home.run(&[&["setup", "--profile", "p"], more].concat())
}

#[test]
fn a_step_up_by_scope_asks_for_it_beside_the_ordinary_ones_and_for_no_class() {
    let home = Home::builder()
        .step_up(json!({"method": "scope", "scopes": ["mfa", "openid"]}))
        .manners(|manners| manners.heeds = Heeds::Scope("mfa"))
        .build();
    home.server.deny("ch-1", "delete", "prod");
    assert_eq!(home.kubectl("delete namespace prod", 2)[1].token(), "elevated-1");
    let asked = &home.provider.device_requests()[0];
    assert_eq!((asked["scope"].as_str(), asked["max_age"].as_str()), ("openid mfa", "300"));
    assert!(!asked.contains_key("acr_values"), "{asked:?}");
}

#[test]
fn a_step_up_by_client_signs_in_as_it_with_its_secret() {
    let home = Home::builder()
        .step_up(json!({"method": "client", "clientId": STRONG_CLIENT, "clientSecret": STRONG_SECRET}))
        .manners(|manners| manners.heeds = Heeds::Client(STRONG_CLIENT))
        .build();
    home.server.deny("ch-1", "delete", "prod");
    let runs = home.kubectl("delete namespace prod", 2);
    assert_eq!(runs[1].token(), "elevated-1");
    assert!(!runs[1].stderr.contains(STRONG_SECRET));
    let asked = &home.provider.device_requests()[0];
    assert_eq!(asked["client_id"], STRONG_CLIENT);
    assert!(!asked.contains_key("acr_values"), "{asked:?}");
}

#[test]
fn setup_writes_the_method_and_a_new_method_forgets_the_settings_of_another() {
    let home = Home::new();
    home.write("secret", &json!(0));
    std::fs::write(home.path("secret"), format!("{STRONG_SECRET}\n")).unwrap();
    let secret = home.path("secret");
    let written = |more: &[&str]| {
        let run = setup(&home, &[&["--offline", "--overwrite"], more].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(!run.stdout.contains(STRONG_SECRET), "{}", run.stdout);
        home.read("config/profiles/p.json")["stepUp"].clone()
    };
    let step_up = written(&["--step-up-method", "scope", "--step-up-scope", "mfa more", "--step-up-flow", "browser"]);
    assert_eq!((&step_up["method"], &step_up["flow"]), (&json!("scope"), &json!("browser")));
    assert_eq!(step_up["scopes"], json!(["mfa", "more"]));

    let client = ["--step-up-method", "client", "--step-up-client-id", STRONG_CLIENT, "--step-up-client-secret-file"];
    let client = [&client[..], &[secret.to_str().unwrap()]].concat();
    assert!(!setup(&home, &[&["--offline", "--dry-run"], &client[..]].concat()).stdout.contains(STRONG_SECRET));
    let step_up = written(&client);
    assert_eq!((&step_up["method"], &step_up["clientId"]), (&json!("client"), &json!(STRONG_CLIENT)));
    assert_eq!((&step_up["scopes"], &step_up["clientSecret"]), (&json!([]), &json!(STRONG_SECRET)));

    let step_up = written(&["--step-up-method", "acr_values"]);
    assert_eq!((&step_up["clientId"], &step_up["clientSecret"]), (&json!(null), &json!(null)));
    assert_eq!(step_up["method"], "acr_values");
}

#[test]
fn settings_that_make_no_sense_are_refused_and_say_what_is_missing() {
    let home = Home::new();
    let before = home.read("config/profiles/p.json");
    std::fs::write(home.path("secret"), "s3cret").unwrap();
    let secret = home.path("secret");
    for (more, told) in [
        (&["--step-up-method", "scope"][..], "--step-up-scope SCOPE"),
        (&["--step-up-method", "scope", "--step-up-scope", "openid"], "that the ordinary sign-in does not ask for"),
        (&["--step-up-method", "client"], "--step-up-client-id ID"),
        (&["--step-up-method", "client", "--step-up-client-id", "kubernetes"], "another client than"),
        (&["--step-up-client-secret-file", secret.to_str().unwrap()], "--step-up-client-id"),
        (&["--step-up-client-id", ""], "clientId is empty"),
        (&["--try", "--dry-run"], "--dry-run"),
        (&["--step-up-method", "sms"], "acr-values, scope, client"),
    ] {
        setup(&home, more).fails(2, told);
        assert_eq!(home.read("config/profiles/p.json"), before);
    }
}

#[test]
fn try_keeps_the_first_way_whose_sign_in_holds_what_was_asked_for() {
    let try_all = ["--step-up-scope", "mfa", "--step-up-client-id", STRONG_CLIENT, "--step-up-flow", "device", "--try"];
    for (heeds, method, tries) in [(Heeds::AcrValues, "acr_values", 1), (Heeds::Scope("mfa"), "scope", 2)] {
        let home = Home::builder().manners(|manners| manners.heeds = heeds).build();
        let run = setup(&home, &try_all);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains("works: acr urn:mfa"), "{}", run.stdout);
        if tries > 1 {
            assert!(run.stdout.contains("asked for urn:mfa or urn:hwk, it came back with urn:pwd"), "{}", run.stdout);
        }
        assert_eq!(home.read("config/profiles/p.json")["stepUp"]["method"], method);
        assert_eq!(home.provider.device_requests().len(), tries);
        home.assert_no_secret(&format!("{}{}", run.stdout, run.stderr));
    }
}

#[test]
fn try_says_of_each_way_why_it_does_not_work_and_leaves_the_profile() {
    type Change = fn(&mut Manners);
    let cases: [(Change, &str); 6] = [
        (|manners| manners.acr = None, "does not say how you signed in (no acr)"),
        (|manners| manners.acr = Some("urn:other"), "it came back with urn:other"),
        (|manners| manners.tells_auth_time.0 = false, "does not say when you signed in (no auth_time)"),
        (|manners| manners.age = 600, "did not heed max_age"),
        (|manners| manners.user = "mallory", "mallory signed in, not alice"),
        (|manners| manners.denies = true, "was refused at the identity provider"),
    ];
    for (change, told) in cases {
        let home = Home::new();
        home.provider.change(change);
        let before = home.read("config/profiles/p.json")["stepUp"]["method"].clone();
        let run = setup(&home, &["--step-up-flow", "device", "--try"]);
        assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(told), "{told:?} is not in {}", run.stdout);
        assert!(run.stderr.contains("no way to step up works"), "{}", run.stderr);
        assert_eq!(home.read("config/profiles/p.json")["stepUp"]["method"], before);
        assert_eq!(home.server.exchanges().len(), 0, "a trial makes no grant");
    }
}

#[test]
fn try_needs_somebody_and_a_server() {
    let home = Home::builder().prompt("never").build();
    setup(&home, &["--try"]).fails_saying(1, "nobody is here");
    let home = Home::builder().without_server().build();
    setup(&home, &["--try"]).fails_saying(2, "--try needs --server");
}

#[test]
fn without_a_server_try_and_doctor_go_by_what_the_profile_says_the_cluster_wants() {
    let home = Home::builder().without_server().manners(|manners| manners.heeds = Heeds::Scope("mfa")).build();
    let doctor = || {
        home.run(&["doctor", "--step-up", "--profile", "p"]).stdout.replace("\n                                ", " ")
    };
    let ways = ["--step-up-acr", "urn:mfa", "--step-up-scope", "mfa", "--step-up-flow", "device"];
    assert_eq!(setup(&home, &ways).code, 0);
    let told = doctor();
    assert!(told.contains("asked for urn:mfa, it came back with urn:pwd"), "{told}");
    assert!(told.contains("scope mfa in the device flow works: acr urn:mfa") && told.contains("--try"), "{told}");

    let run = setup(&home, &[&ways[..], &["--try"]].concat());
    assert!(run.code == 0 && run.stdout.contains("scope mfa in the device flow works"), "{run:?}");
    assert_eq!(home.read("config/profiles/p.json")["stepUp"]["method"], "scope");
    let told = doctor();
    assert!(told.contains("scope mfa in the device flow works") && !told.contains("came back with"), "{told}");
}

#[test]
fn try_signs_in_ordinarily_first_where_nobody_is() {
    let home = Home::builder().signed_out().manners(|manners| manners.heeds = Heeds::AcrValues).build();
    let run = setup(&home, &["--step-up-flow", "device", "--try"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let asked = home.provider.device_requests();
    assert_eq!((asked.len(), asked[0].contains_key("acr_values")), (2, false));
    assert!(!home.get_token().token().is_empty());
}
