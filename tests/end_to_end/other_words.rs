//! One request, several questions: what the API server asks about in other words, more than once, or answers with more
//! than was asked for. Shown on the real one, because each of these rests on what it does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Session, Test};
use reqwest::Method;
use reqwest::blocking::RequestBuilder;
use serde_json::{Value, json};

use crate::objects::{PASSWORD_AS_SHOWN, await_next_second, names, namespace_with_secret};
use crate::raw::{Answer, MFA, Raw};

pub fn tests() -> Vec<Test> {
    lab::tests![
        no_write_reads_a_protected_secret,
        impersonation_is_asked_about_in_every_mode,
        a_signer_is_asked_about_by_its_domain_too,
        a_proxied_service_is_known_whatever_its_port,
        a_pod_without_grace_takes_one_use,
        pods_without_grace_take_one_use,
        a_job_with_a_generated_name_takes_one_command,
    ]
}

fn no_write_reads_a_protected_secret(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let namespace = namespace_with_secret(lab, "prod")?;
    let alice = raw.sign_in(&lab.name_like("alice"), None)?;
    let all = format!("/api/v1/namespaces/{namespace}/secrets");
    let one = format!("{all}/db");
    let copy = json!([{"op": "copy", "from": "/data/password", "path": "/type"}]);
    let other =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "type": "x", "data": {"a": "?"}});
    let requests: [(&str, &str, Method, Option<Value>); 12] = [
        ("a patch that changes nothing", "", Method::PATCH, Some(json!({}))),
        ("a dry run of it", "dryRun=All", Method::PATCH, Some(json!({}))),
        // What cannot be done is answered with what stands in its way, before admission is asked.
        ("a patch with a field that there is not", "fieldValidation=Strict", Method::PATCH, Some(json!({"x": 1}))),
        ("a dry run of it", "fieldValidation=Strict&dryRun=All", Method::PATCH, Some(json!({"x": 1}))),
        ("a patch of another type", "", Method::PATCH, Some(json!({"type": {}}))),
        ("a patch that moves the password", "", Method::PATCH, Some(copy)),
        ("an update that makes no sense", "", Method::PUT, Some(other)),
        (
            "an apply by the server",
            "fieldManager=x",
            Method::PATCH,
            Some(json!({"apiVersion": "v1", "kind": "Secret"})),
        ),
        ("a dry run of a deletion", "dryRun=All&propagationPolicy=Foreground", Method::DELETE, None),
        ("of a deletion of all", "dryRun=All", Method::DELETE, None),
        ("of all everywhere", "dryRun=All&fieldSelector=metadata.name%3Ddb", Method::DELETE, None),
        ("a deletion of all", "propagationPolicy=Foreground", Method::DELETE, None),
    ];
    for (what, query, method, body) in requests {
        let path = if what.contains("all") { &all } else { &one };
        let mut request: RequestBuilder = raw.api(method.clone(), &format!("{path}?{query}"), &alice);
        if let Some(body) = body {
            let kind = match method {
                Method::PUT => "application/json",
                _ if body.is_array() => "application/json-patch+json",
                _ if query.contains("fieldManager") => "application/apply-patch+yaml",
                _ => "application/merge-patch+json",
            };
            request = request.header("content-type", kind).body(body.to_string());
        }
        let answer = Answer::of(request)?;
        ensure!([429, 403].contains(&answer.status), "{what}: {}", answer.text());
        ensure!(!answer.text().contains(PASSWORD_AS_SHOWN), "{what}: {}", answer.text());
        ensure!(answer.message().contains("(rule read-secrets)"), "{what}: {}", answer.text());
    }
    ensure!(names(lab, "secrets", &namespace)?.contains(&"db".to_owned()));
    Ok(())
}

/// Lets `user` do everything, by verbs `*`: RBAC then allows constrained impersonation as well as the old kind.
fn let_do_everything(lab: &Lab, user: &str) -> Result<()> {
    let rule = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
    bind(lab, user, &[rule])
}

fn bind(lab: &Lab, user: &str, rules: &[Value]) -> Result<()> {
    let (api, name) = ("rbac.authorization.k8s.io", format!("other-words-{user}"));
    lab.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": format!("{api}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
        {"apiVersion": format!("{api}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": api, "kind": "User", "name": user}]},
    ]}))
}

fn impersonation_is_asked_about_in_every_mode(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let alice = lab.someone_like("alice")?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let get = |who: &[&str]| alice.kubectl(&[&["get", "--raw", path.as_str()], who].concat());
    // RBAC gives a bystander nothing; that the impersonation itself went through, it says.
    let may_impersonate = |alice: &Session| {
        let bystander = alice.name().replace("alice", "nobody");
        let list = ["get", "--raw", path.as_str(), "--as", &bystander];
        let told = format!("User \"{bystander}\" cannot list");
        lab::process::await_that(Duration::from_secs(30), || alice.kubectl(&list)?.failed_with(&told).map(drop))
    };
    // By what the constrained kind needs, and nothing else: who may list as somebody, and be them.
    let constrained = [
        json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["impersonate-on:user-info:list"]}),
        json!({"apiGroups": ["authentication.k8s.io"], "resources": ["users"], "verbs": ["impersonate:user-info"]}),
    ];
    for everything in [false, true] {
        if everything {
            let_do_everything(lab, alice.name())?;
        } else {
            bind(lab, alice.name(), &constrained)?;
        }
        may_impersonate(&alice)?;
        get(&["--as", "auditor"])?.failed_with("step-up required to impersonate users/auditor (rule auditors)")?;
    }
    get(&["--as", "system:node:node"])?.failed_with("step-up required to impersonate users/system:node:node")?;
    get(&["--as", "system:serviceaccount:kube-system:default"])?.failed_with("(rule guardrails)")?;
    // Many groups are asked about at once first.
    let many = ["--as", "x", "--as-group", "a", "--as-group", "b", "--as-group", "c", "--as-group"];
    get(&[&many[..], &["auditors"]].concat())?.failed_with("step-up required to impersonate groups/auditors")?;
    get(&[&many[..], &["d"]].concat())?.failed_with("User \"x\" cannot list")?;

    // One step-up is enough for all that is asked about it. (Of somebody who was refused nothing else within the second:
    // which of two was the last, nobody could tell then.)
    let alice = lab.someone_like("alice")?;
    let_do_everything(lab, alice.name())?;
    may_impersonate(&alice)?;
    let mut window = alice.window()?;
    let list = format!("kubectl get --raw {path} --as auditor");
    window.run(&list)?.failed_with("step-up required to impersonate")?;
    window.run("kubectl stepup elevate")?.succeeded()?;
    window.run(&list)?.failed_with("User \"auditor\" cannot list")?;
    Ok(())
}

/// A certificate signing request for a signer of `lab.example`, whose approval the policy protects by name.
fn a_signer_is_asked_about_by_its_domain_too(lab: &Lab) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::new(vec![])?.serialize_request(&key)?.pem()?;
    let rights = |signers: &str| {
        [
            json!({"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["get"]}),
            json!({"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"],
                "verbs": ["update"]}),
            json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["approve"],
                "resourceNames": [signers]}),
        ]
    };
    for signers in ["lab.example/*", "lab.example/web"] {
        let alice = lab.someone_like("alice")?;
        bind(lab, alice.name(), &rights(signers))?;
        let name = format!("{}-request", alice.name());
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &request);
        lab.apply(&json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {"request": text, "signerName": "lab.example/web", "usages": ["client auth"]}}))?;
        let mut window = alice.window()?;
        let approve = format!("kubectl certificate approve {name}");
        window.run(&approve)?.failed_with("Forbidden").with_context(|| signers.to_owned())?;
        window.run("kubectl stepup elevate")?.succeeded()?;
        window.run(&approve)?.succeeded().with_context(|| signers.to_owned())?;
    }
    Ok(())
}

fn a_proxied_service_is_known_whatever_its_port(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("ledger")?;
    let alice = lab.someone_like("alice")?;
    let_do_everything(lab, alice.name())?;
    let get = |service: &str| {
        alice.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{namespace}/services/{service}/proxy/")])
    };
    for service in ["payments", "payments:80", "https:payments:443", "http:payments:web", ":payments:"] {
        get(service)?.failed_with("(rule ledger)").with_context(|| service.to_owned())?;
    }
    get("other:80")?.failed_with("services \"other\" not found")?;
    Ok(())
}

/// A pod that no node has is gone at once: its deletion is validated twice.
fn pod(lab: &Lab, namespace: &str, name: &str) -> Result<()> {
    lab.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "app", "image": "example.test/app:1"}]},
    }))
}

fn a_pod_without_grace_takes_one_use(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("ledger")?;
    let alice = lab.someone_like("alice")?;
    for options in [&["--force", "--grace-period=0"][..], &["--now"], &[]] {
        pod(lab, &namespace, "api")?;
        let delete = ["delete", "pod", "api", "-n", &namespace];
        alice.kubectl(&[&delete[..], options].concat())?.succeeded()?;
        ensure!(names(lab, "pods", &namespace)?.is_empty(), "{options:?}");
    }
    ensure!(alice.sign_ins() == 1 + 3, "one step-up for each command, not\n{}", alice.browser_log());
    lab.answered(&namespace, "delete", "pods", &[429, 200, 429, 200, 429, 200])
}

fn pods_without_grace_take_one_use(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let namespace = lab.namespace("ledger")?;
    for name in ["a", "b", "c"] {
        pod(lab, &namespace, name)?;
    }
    let alice = raw.sign_in(&lab.name_like("alice"), Some(MFA))?;
    let all = format!("/api/v1/namespaces/{namespace}/pods?gracePeriodSeconds=0");
    let challenge = Answer::of(raw.api(Method::DELETE, &all, &alice))?.challenge()?;
    let (elevated, grant) = raw.elevate(&alice, &[("challenge", &challenge)])?;

    Answer::of(raw.api(Method::DELETE, &all, &elevated))?.expect(200)?;

    ensure!(names(lab, "pods", &namespace)?.is_empty());
    let uses = raw.await_records(|record| record["event"] == "use" && record["grant"] == grant.as_str())?;
    ensure!(uses.len() >= 3, "{uses:?}");
    await_next_second()?;
    pod(lab, &namespace, "d")?;
    let another = Answer::of(raw.api(Method::DELETE, &all, &elevated))?;
    ensure!([429, 403].contains(&another.status), "a new pod is another request's: {}", another.text());
    Ok(())
}

fn a_job_with_a_generated_name_takes_one_command(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("ledger")?;
    let alice = lab.someone_like("alice")?;
    let_do_everything(lab, alice.name())?;
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "backup-", "namespace": namespace},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "example.test/app:1"}]}}},
    });
    let file = alice.home().join("job.json");
    std::fs::write(&file, job.to_string())?;

    alice.kubectl(&["create", "-f", "job.json"])?.succeeded()?;

    let jobs = names(lab, "jobs", &namespace)?;
    ensure!(jobs.len() == 1 && jobs[0].starts_with("backup-"), "{jobs:?}");
    lab.answered(&namespace, "create", "jobs", &[429, 201])
}
