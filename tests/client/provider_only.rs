//! Without stepup-server: the stronger sign-in's own token opens more.

use serde_json::json;
use stepup::action::ActionPattern;

use crate::api_server::{ApiServer, plain, status};
use crate::home::{Home, Run};
use crate::proxy::Proxy;

/// Secrets of production are in the list.
fn home() -> Home {
    let secrets: ActionPattern = serde_json::from_value(json!({
        "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "namespaces": ["prod"],
    }))
    .unwrap();
    let home = Home::builder().without_server().preflight(vec![secrets]).denials_are_final().build();
    let mut profile = home.read("config/profiles/p.json");
    profile["providerOnly"] = json!({"acrValues": ["urn:mfa"], "protected": ["get secrets -n prod"]});
    home.write("config/profiles/p.json", &profile);
    home
}

/// RBAC, for which a stronger token is another one.
fn api_server(home: &Home) -> ApiServer {
    let base = home.base_token.clone();
    ApiServer::start(move |asked| {
        if asked.token() == base {
            status(403, "Forbidden", "it is forbidden: User \"alice\" cannot do it")
        } else {
            plain(200, "application/json", "{}")
        }
    })
}

#[test]
fn what_a_program_is_refused_is_stepped_up_at_the_provider_if_the_list_has_it() {
    let home = home();
    let api = api_server(&home);
    let mut proxy = Proxy::before(&home, &api);
    assert_eq!(proxy.get("/api/v1/namespaces/prod/pods").status, 403, "this is RBAC's last word");
    assert_eq!(proxy.get("/api/v1/namespaces/dev/secrets/db").status, 403);
    assert_eq!(home.provider.device_requests().len(), 0);
    for path in ["/api/v1/namespaces/prod/secrets/db", "/api/v1/secrets", "/api/v1/namespaces/prod/secrets/db"] {
        assert_eq!(proxy.get(path).status, 200, "{path}");
    }
    assert_eq!(home.provider.device_requests().len(), 1, "one token is as good as another");
    assert_eq!(proxy.get("/api/v1/namespaces/prod/pods").status, 403, "the rest goes on with base rights");
    assert!(!home.path("cache/p/elevated").exists(), "nothing is kept for others");
    let said = proxy.end();
    assert_eq!(said.matches("Step-up required").count(), 1, "{said}");
    home.assert_no_secret(&said);
}

#[test]
fn what_the_list_has_is_told_as_a_right_to_programs_that_ask_before_they_try() {
    let home = home();
    let api = ApiServer::start(|asked| {
        let mut review: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
        review["status"] = json!({"allowed": false});
        plain(201, "application/json", review.to_string())
    });
    let proxy = Proxy::before(&home, &api);
    assert_eq!(proxy.asks_whether_it_may("get", "secrets")["status"]["allowed"], true);
    assert_eq!(proxy.asks_whether_it_may("get", "pods")["status"]["allowed"], false);
    assert_eq!(home.provider.device_requests().len(), 0, "nobody is asked for that");
}

/// It may have done what was asked, so that to send it again would do it twice.
#[test]
fn what_an_application_behind_the_api_server_refuses_is_not_sent_again() {
    let home = home();
    let api = ApiServer::start(|_| status(403, "Forbidden", "the shop is closed"));
    let proxy = Proxy::before(&home, &api);
    assert_eq!(proxy.get("/api/v1/namespaces/prod/secrets/db").status, 403);
    assert_eq!((api.asked().len(), home.provider.device_requests().len()), (1, 0));
}

#[test]
fn a_program_whose_step_up_was_declined_is_not_asked_again_for_a_while() {
    let home = home();
    home.provider.change(|manners| manners.denies = true);
    let api = api_server(&home);
    let mut proxy = Proxy::before(&home, &api);
    for _ in 0..3 {
        assert_eq!(proxy.get("/api/v1/namespaces/prod/secrets/db").status, 403);
    }
    assert_eq!(home.provider.device_requests().len(), 1);
    let said = proxy.end();
    assert!(said.contains("not asked again for 30 s"), "{said}");
}

#[test]
fn what_only_a_server_knows_is_said_to_be_so() {
    let home = home();
    for command in [&["history"][..], &["explain", "get", "secrets", "-n", "prod"]] {
        let run = home.run(&[command, &["--profile", "p"]].concat());
        run.fails(1, "without stepup-server");
        assert!(!run.stderr.contains("--server"), "that would end it: {}", run.stderr);
    }
}

#[test]
fn preflight_can_be_turned_off_and_on() {
    let home = home();
    let setup = |more: &[&str]| {
        let run = home.run(&[&["setup", "--profile", "p", "--offline"], more].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
    };
    let get = || -> Run { home.kubectl("get secret db -n prod", 1).remove(0) };
    setup(&["--preflight", "off"]);
    assert_eq!((get().token(), home.provider.device_requests().len()), (home.base_token.clone(), 0));
    setup(&["--preflight", "on"]);
    assert_ne!(get().token(), home.base_token);
    assert_eq!(home.provider.device_requests().len(), 1);
}

#[test]
fn preflight_is_on_from_the_start_of_a_new_profile() {
    let home = home();
    let issuer = home.provider.server.url.as_str();
    let new = ["setup", "--profile", "q", "--issuer", issuer, "--client-id", "kubernetes", "--offline"];
    let run = home.run(&[&new[..], &["--step-up-acr", "urn:mfa", "--preflight", "on"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    home.run(&[&["setup", "--profile", "r"], &new[3..], &["--preflight", "on"]].concat())
        .fails(2, "--preflight on needs");
}
