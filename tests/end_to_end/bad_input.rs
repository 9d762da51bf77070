//! Bad input: a clear error each, never a panic, never a hang.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::pki::Certified;
use lab::process::await_that;
use lab::{Lab, Outcome, Session, Test, http};
use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::raw::{Answer, Raw};

pub fn tests() -> Vec<Test> {
    lab::tests![
        connections_that_make_no_sense,
        reviews_that_make_no_sense,
        requests_of_people_that_make_no_sense,
        server_files_that_make_no_sense,
        keys_and_stores_that_make_no_sense,
        client_files_that_make_no_sense,
        exec_infos_that_make_no_sense,
        mutated_reviews_and_forms,
    ]
}

/// Longer than any limit of the server's own: its headers (5 s), its requests (10 s).
const LIMIT: Duration = Duration::from_secs(20);

fn tcp(lab: &Lab) -> Result<TcpStream> {
    let stream = TcpStream::connect(lab.server_url().trim_start_matches("https://"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn tls(lab: &Lab, certificate: Option<&Certified>) -> Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&lab.pki().ca)?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(files) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&files.certificate)?],
            PrivateKeyDer::from_pem_file(&files.key)?,
        )?,
    };
    let name = ServerName::try_from("127.0.0.1")?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, tcp(lab)?))
}

/// All until the other side closes. That it closes without a word, or resets, is an answer too; that it does neither in
/// time is an error.
fn read_to_end(stream: &mut impl Read) -> Result<Vec<u8>> {
    let begun = Instant::now();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                bail!("no end after {} s: {:?}", begun.elapsed().as_secs(), String::from_utf8_lossy(&answer))
            }
            Err(_) => return Ok(answer),
        }
        ensure!(begun.elapsed() < LIMIT, "no end of answers");
    }
}

fn connections_that_make_no_sense(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let api_server = Some(&lab.pki().webhook_client);
    let request = |line: &str, headers: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n{body}").into_bytes()
    };
    let many = "X-Many: 1\r\n".repeat(100);
    let large = format!("X-Large: {}\r\n", "x".repeat(64 * 1024));
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    // Answered, with one of these; 0 is a closed connection.
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("nothing of HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20), &[0, 400]),
        ("zeros", vec![0; 10_000], &[0, 400]),
        ("line ends", b"\r\n".repeat(50_000), &[0, 400, 431]),
        ("an unknown version", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(), &[0, 400, 505]),
        ("no method", b" / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &[0, 400]),
        ("a strange method", request("G@T /healthz", "", ""), &[0, 400, 405]),
        ("a method of one's own", request("BREW /token", "", ""), &[405]),
        ("TRACE", request("TRACE /token", "", ""), &[405]),
        ("CONNECT", request("CONNECT evil.example:443", "", ""), &[0, 400, 404, 405]),
        ("a wrong method", request("DELETE /token", "", ""), &[405]),
        ("a wrong method of a review", request("PUT /admit", "", ""), &[405]),
        ("a long line", request(&format!("GET /{}", "x".repeat(100_000)), "", ""), &[0, 400, 414, 431]),
        ("a path that is no text", request("GET /v1/grants/%ff%00%2f..%2f", "", ""), &[400, 401, 404, 405]),
        ("a path of bytes", b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &[0, 400]),
        ("a very long header", request("GET /healthz", &large, ""), &[0, 400, 431]),
        ("too many headers", request("GET /healthz", &many, ""), &[0, 400, 431]),
        ("a header without a name", request("GET /healthz", ": x\r\n", ""), &[0, 400]),
        ("a header with a zero in it", request("GET /healthz", "X-Zero: a\0b\r\n", ""), &[0, 400]),
        ("a negative length", request("POST /token", "Content-Length: -1\r\n", ""), &[0, 400]),
        (
            "more than there can be",
            request("POST /token", "Content-Length: 99999999999999999999\r\n", ""),
            &[0, 400, 413],
        ),
        ("two lengths", request("POST /token", "Content-Length: 1\r\nContent-Length: 2\r\n", "xx"), &[0, 400]),
        (
            "a length and chunks",
            request("POST /token", &format!("{form}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
            &[0, 400],
        ),
        (
            "a chunk of no size",
            request("POST /token", &format!("{form}Transfer-Encoding: chunked\r\n"), "ZZ\r\nx"),
            &[0, 400],
        ),
        ("an encoding that is none", request("POST /token", "Transfer-Encoding: gzip, identity\r\n", "x"), &[0, 400]),
        ("too large a body", request("POST /token", &format!("{form}Content-Length: 200000\r\n"), ""), &[413]),
        ("too large a review", request("POST /admit", "Content-Length: 5000000\r\n", ""), &[413]),
        ("HTTP/2 without a handshake", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\xff\0\0\0\0\0".to_vec(), &[0, 400]),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, accepted) in &cases {
        for certificate in [None, api_server] {
            if certificate.is_none() && name.contains("review") {
                continue;
            }
            let mut stream = tls(lab, certificate)?;
            // The other side may have heard enough before the end.
            let _ = stream.write_all(bytes).and_then(|()| stream.flush());
            let answer = read_to_end(&mut stream).with_context(|| (*name).to_owned())?;
            let answer = String::from_utf8_lossy(&answer);
            let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0);
            if !accepted.contains(&status) {
                wrong.push(format!("{name}: {answer}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    raw.server_is_well()?;
    slow_connections(lab)?;
    raw.server_is_well()
}

type Case = Box<dyn Fn(&Lab) -> Result<()> + Send + Sync>;

/// All at the same time: each of them takes the server's whole patience, and none takes anybody else's.
fn slow_connections(lab: &Lab) -> Result<()> {
    let half = |bytes: &'static [u8]| {
        move |lab: &Lab| -> Result<()> {
            let mut stream = tcp(lab)?;
            stream.write_all(bytes)?;
            read_to_end(&mut stream).map(drop)
        }
    };
    let stalled = |bytes: &'static str| {
        move |lab: &Lab| -> Result<()> {
            let mut stream = tls(lab, None)?;
            stream.write_all(bytes.as_bytes())?;
            stream.flush()?;
            read_to_end(&mut stream).map(drop)
        }
    };
    let dripping = |lab: &Lab| -> Result<()> {
        let mut stream = tls(lab, None)?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\n")?;
        let begun = Instant::now();
        // A byte now and then is no progress: what counts is the whole header.
        while stream.write_all(b"X").and_then(|()| stream.flush()).is_ok() {
            ensure!(begun.elapsed() < LIMIT, "it listens for ever");
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    };
    let given_up = |lab: &Lab| -> Result<()> {
        let mut stream = tls(lab, None)?;
        stream.write_all(b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")?;
        stream.flush()?;
        stream.sock.shutdown(Shutdown::Write)?;
        read_to_end(&mut stream).map(drop)
    };
    let cases: Vec<(&str, Case)> = vec![
        ("nothing at all", Box::new(half(b""))),
        ("half a TLS record", Box::new(half(b"\x16\x03\x01\x02\x00\x01\x00"))),
        ("a TLS record that never ends", Box::new(half(b"\x16\x03\x01\xff\xff"))),
        ("plain HTTP", Box::new(half(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))),
        ("no request", Box::new(stalled("GET"))),
        ("no end of the header", Box::new(stalled("GET /healthz HTTP/1.1\r\nHost: x\r\n"))),
        (
            "no end of the body",
            Box::new(stalled(
                "POST /token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\na=",
            )),
        ),
        (
            "a chunk of every size",
            Box::new(stalled(
                "POST /token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx",
            )),
        ),
        ("a header byte by byte", Box::new(dripping)),
        ("gone in the middle", Box::new(given_up)),
    ];
    thread::scope(|scope| {
        let cases: Vec<_> = cases.iter().map(|(name, case)| (name, scope.spawn(move || case(lab)))).collect();
        // Meanwhile everybody else is served.
        for _ in 0..20 {
            let begun = Instant::now();
            Raw::new(lab)?.server_is_well()?;
            ensure!(begun.elapsed() < Duration::from_secs(5), "others wait for the slow ones");
        }
        cases
            .into_iter()
            .try_for_each(|(name, case)| case.join().expect("no panic").with_context(|| (*name).to_owned()))
    })
}

/// A review of something that the lab's policy protects, twice over: by its kind, and by a condition on its content.
fn admission(uid: &str) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": uid, "operation": "UPDATE", "name": "web", "namespace": "prod-fuzz", "dryRun": false,
        "userInfo": {"username": "fuzz", "groups": ["developers", "mfa", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=fuzz"]}},
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "object": {"metadata": {"name": "web", "labels": {"critical": "true"}}},
        "oldObject": {"metadata": {"name": "web", "labels": {"critical": "true"}}},
        "options": {"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"}}})
}

fn access() -> Value {
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": "fuzz", "groups": ["developers", "mfa", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": ["JTI=fuzz"]},
        "resourceAttributes": {"verb": "get", "group": "", "version": "v1", "resource": "secrets",
            "namespace": "prod-fuzz", "name": "db"}}})
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn reviews_that_make_no_sense(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let client = http::client_with_certificate(&lab.pki().ca, &lab.pki().webhook_client)?;
    let post = |path: &str, body: Vec<u8>| {
        Answer::of(
            client.post(format!("{}/{path}", lab.server_url())).header("content-type", "application/json").body(body),
        )
    };
    let without = |pointer: &str, name: &str| {
        let mut review = admission("u");
        review.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object").remove(name);
        review.to_string().into_bytes()
    };
    let with = |pointer: &str, value: Value| {
        let mut review = admission("u");
        *review.pointer_mut(pointer).expect("it is there") = value;
        review.to_string().into_bytes()
    };
    let text = admission("u").to_string();
    let mut no_text = text.clone().into_bytes();
    no_text.splice(20..22, *b"\xff\xfe");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("null", b"null".to_vec()),
        ("a list", b"[]".to_vec()),
        ("an empty object", b"{}".to_vec()),
        ("half of it", text.as_bytes()[..text.len() / 2].to_vec()),
        ("something after it", format!("{text}x").into_bytes()),
        ("a byte order mark", format!("\u{feff}{text}").into_bytes()),
        ("no text", no_text),
        ("YAML", b"apiVersion: admission.k8s.io/v1\nkind: AdmissionReview\n".to_vec()),
        ("very deep", nested(100_000).into_bytes()),
        ("very deep where the user should be", text.replace("\"fuzz\"", &nested(100_000)).into_bytes()),
        ("another kind", with("/kind", json!("SubjectAccessReview"))),
        ("another version", with("/apiVersion", json!("admission.k8s.io/v1beta1"))),
        ("no uid", without("/request", "uid")),
        ("an empty uid", with("/request/uid", json!(""))),
        ("no request", without("", "request")),
        ("no operation", without("/request", "operation")),
        ("an unknown operation", with("/request/operation", json!("STEAL"))),
        ("no user", without("/request", "userInfo")),
        ("a user of another type", with("/request/userInfo/username", json!(7))),
        ("groups of another type", with("/request/userInfo/groups", json!("mfa"))),
        ("a resource of another type", with("/request/resource", json!("deployments"))),
        ("a field twice", text.replacen("\"uid\":\"u\"", "\"uid\":\"u\",\"uid\":\"v\"", 1).into_bytes()),
        ("the user twice", text.replacen("\"username\"", "\"username\":\"system:admin\",\"username\"", 1).into_bytes()),
        ("no access review", access().to_string().into_bytes()),
    ];
    for (name, body) in cases {
        let answer = post("admit", body)?;
        ensure!(answer.status == 400 && !answer.message().is_empty(), "{name}: {}", answer.text());
    }
    let answer = post("admit", vec![b' '; (4 << 20) + 1])?;
    ensure!(answer.status == 413 && answer.message().contains("4194304 bytes"), "{}", answer.text());
    for body in [nested(100_000), admission("u").to_string(), access().to_string().replace("\"spec\"", "\"spek\"")] {
        let answer = post("authorize", body.into_bytes())?;
        ensure!(answer.status == 400 && !answer.message().is_empty(), "{}", answer.text());
    }

    // Well-formed, and hard to swallow: what cannot be evaluated is protected.
    for (name, old_object) in [
        ("a very deep object", nested(200_000)),
        ("a wide object", format!("[{}0]", "0,".repeat(500_000))),
        ("no object", "null".to_owned()),
        ("an object of another type", "7".to_owned()),
        ("labels of another type", r#"{"metadata":{"labels":7}}"#.to_owned()),
        ("a label of another type", r#"{"metadata":{"labels":{"critical":{"a":1e999}}}}"#.to_owned()),
    ] {
        let model = admission(name).to_string();
        let (before, after) = model.split_once("\"oldObject\":").context("it has an old object")?;
        let rest = after.split_once("}}},").or_else(|| after.split_once("}}}")).context("it ends")?.1;
        let separator = if rest.is_empty() || rest.starts_with('}') { "" } else { "," };
        let answer = post("admit", format!("{before}\"oldObject\":{old_object}{separator}{rest}").into_bytes())?;
        if answer.status == 200 {
            ensure!(answer.body["response"]["allowed"] == false, "{name}: {}", answer.text());
        } else {
            ensure!(answer.status == 400 && !answer.message().is_empty(), "{name}: {}", answer.text());
        }
    }
    // As long as names and lists may get.
    let long = with("/request/name", json!("x".repeat(1 << 20)));
    let crowd: Vec<String> = (0..20_000).map(|number| format!("group-{number}")).collect();
    for body in [long, with("/request/userInfo/groups", json!(crowd))] {
        ensure!(post("admit", body)?.status == 200, "it is well-formed");
    }
    raw.server_is_well()
}

fn requests_of_people_that_make_no_sense(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let token = raw.sign_in("carol", None)?;
    let url = |path: &str| format!("{}/{path}", lab.server_url());
    let form = |body: &str| {
        raw.client()
            .post(url("token"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.to_owned())
    };
    let kinds = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:id_token";
    for (name, body) in [
        ("nothing", String::new()),
        ("no form", "\u{1f600}&&==&%".to_owned()),
        ("no token", kinds.to_owned()),
        ("an empty token", format!("{kinds}&subject_token=&challenge=x")),
        ("a field twice", format!("{kinds}&subject_token={token}&subject_token={token}&challenge=x")),
        ("an unknown grant type", format!("grant_type=password&subject_token_type=x&subject_token={token}")),
        (
            "another token type",
            format!("{}&subject_token={token}&challenge=x", kinds.replace(":id_token", ":access_token")),
        ),
        ("nothing wanted", format!("{kinds}&subject_token={token}")),
        ("two things wanted", format!("{kinds}&subject_token={token}&challenge=x&authorization_details=[]")),
        ("an unknown challenge", format!("{kinds}&subject_token={token}&challenge=%00%ff")),
        ("a time that is none", format!("{kinds}&subject_token={token}&challenge=x&ttl=-1")),
        ("a very long time", format!("{kinds}&subject_token={token}&challenge=x&ttl=99999999999999999999")),
        ("details that are none", format!("{kinds}&subject_token={token}&authorization_details=x")),
        (
            "details of an unknown type",
            format!("{kinds}&subject_token={token}&authorization_details=[{{\"type\":\"x\"}}]"),
        ),
        ("no details", format!("{kinds}&subject_token={token}&authorization_details=[]")),
        ("deep details", format!("{kinds}&subject_token={token}&authorization_details={}", nested(20_000))),
        (
            "a wildcard for an action",
            format!(
                "{kinds}&subject_token={token}&authorization_details=[{{\"type\":\"kubectl-stepup.io/action\",\"verb\":\"*\",\"resource\":\"*\"}}]"
            ),
        ),
    ] {
        let answer = Answer::of(form(&body))?;
        ensure!(answer.status == 400 && !answer.message().is_empty(), "{name}: {}", answer.text());
        ensure!(!answer.text().contains(&token), "{name}: the answer repeats the token");
    }
    Answer::of(form(&format!("{kinds}&subject_token={}", "x".repeat(200_000))))?.expect(413)?;
    Answer::of(raw.client().post(url("token")).json(&json!({})))?.expect(400)?;

    let challenges = |body: &str| {
        let body = body.to_owned();
        Answer::of(raw.v1(Method::POST, "challenges", &token).header("content-type", "application/json").body(body))
    };
    let many = json!({"actions": vec![json!({"verb": "get", "resource": "pods"}); 101]}).to_string();
    for (name, body) in [
        ("nothing", ""),
        ("no actions", r#"{"actions":[]}"#),
        ("too many", &many),
        ("unknown fields", r#"{"actions":[{"verb":"get","resource":"pods","x":1}]}"#),
        ("a wildcard", r#"{"actions":[{"verb":"get","resource":"*"}]}"#),
        ("no verb", r#"{"actions":[{"verb":"","resource":"pods"}]}"#),
        ("a path and a resource", r#"{"actions":[{"verb":"get","resource":"pods","path":"/x"}]}"#),
        ("a field twice", r#"{"actions":[{"verb":"get","verb":"list","resource":"pods"}]}"#),
        ("very deep", &nested(50_000)),
    ] {
        let answer = challenges(body)?;
        ensure!(answer.status == 400 && !answer.message().is_empty(), "{name}: {}", answer.text());
    }
    for (method, path, status) in [
        (Method::DELETE, "grants/nobody-has-this", 404),
        (Method::DELETE, "grants/%00%ff..%2f", 404),
        (Method::POST, "challenges/x/decline", 400),
        (Method::PUT, "grants", 405),
    ] {
        let answer = Answer::of(raw.v1(method, path, &token))?;
        ensure!(answer.status == status && !answer.message().is_empty(), "{path}: {}", answer.text());
    }
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer a b c",
        "Bearer \u{e9}",
        &format!("Bearer {}", "x".repeat(20_000)),
    ] {
        let value = reqwest::header::HeaderValue::from_bytes(header.as_bytes())?;
        let answer = Answer::of(raw.client().get(url("v1/grants")).header("authorization", value))?;
        ensure!(answer.status == 401 && !answer.message().is_empty(), "{header:?}: {}", answer.text());
    }
    raw.server_is_well()
}

/// Runs a program that must come to an end soon, and complain without panicking.
fn complains(mut command: Command, what: &str) -> Result<Outcome> {
    let outcome = ends(&mut command).with_context(|| what.to_owned())?;
    let seen = format!("{what}: {}\n{}\n{}", outcome.status, outcome.stdout, outcome.stderr);
    ensure!(matches!(outcome.status.code(), Some(1..=7)), "{seen}");
    ensure!(!outcome.stderr.trim().is_empty(), "nothing is said: {seen}");
    ensure!(outcome.stderr.len() < 20_000, "too much is said: {} bytes", outcome.stderr.len());
    Ok(outcome)
}

fn ends(command: &mut Command) -> Result<Outcome> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (mut stdout, mut stderr) = (child.stdout.take().context("piped")?, child.stderr.take().context("piped")?);
    let (out, err) = thread::scope(|scope| {
        let watch = scope.spawn(|| await_that(LIMIT, || child.try_wait()?.context("it does not end")));
        let out = scope.spawn(move || read_to_end(&mut stdout));
        let err = read_to_end(&mut stderr);
        (out.join().expect("no panic"), err.and_then(|err| Ok((err, watch.join().expect("no panic")?))))
    });
    let (stderr, status) = err?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let outcome = Outcome { status, stdout: text(out?), stderr: text(stderr) };
    ensure!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    Ok(outcome)
}

fn server_files_that_make_no_sense(lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (config, policy) = (directory.path().join("config.yaml"), directory.path().join("policy.yaml"));
    let good_policy = fs::read_to_string(lab.policy_file())?;
    // Not the lab's own store, keys and log.
    let good = fs::read_to_string(lab.config_file())?;
    let check = |subcommand: &str| {
        let mut command = Command::new(lab.program("stepup-server"));
        command.arg(subcommand).arg(&config);
        command
    };
    fs::write(&config, &good)?;
    fs::write(&policy, &good_policy)?;
    Outcome::of(&mut check("check"))?.succeeded()?;

    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        ('b'..='k')
            .fold((String::new(), 'a'), |(text, before), name| {
                (format!("{text}{name}: &{name} [{}]\n", format!("*{before},").repeat(9).trim_end_matches(',')), name)
            })
            .0
    );
    let deep = format!("listen: {}", nested(20_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("no YAML", b"\x00\x01\x02".to_vec()),
        ("no text", b"listen: \xff\xfe".to_vec()),
        ("a list", b"- a\n- b\n".to_vec()),
        ("a bomb", bomb.clone().into_bytes()),
        ("very deep", deep.into_bytes()),
        ("very long", vec![b'a'; 20 << 20]),
        ("two documents", format!("{good}\n---\n{good}").into_bytes()),
        ("a key twice", format!("{good}\nlisten: 127.0.0.1:1\n").into_bytes()),
        ("an unknown key", good.replace("webhookClients:", "webhookClient:").into_bytes()),
        ("no address", good.replacen("listen: 127.0.0.1", "listen: nowhere", 1).into_bytes()),
        ("a number for a text", good.replace("audience: kubernetes", "audience: [1]").into_bytes()),
        ("a time that is none", format!("{good}\nlimits: {{requestTimeout: soon}}\n").into_bytes()),
        ("a size that is none", format!("{good}\nlimits: {{bodyBytes: -1}}\n").into_bytes()),
        ("a limit of nothing", format!("{good}\nlimits: {{connections: 0}}\n").into_bytes()),
        ("no https", good.replace("issuer: https:", "issuer: http:").into_bytes()),
        (
            "an expression that is none",
            good.replace("{claim: sub, prefix: ''}", "{expression: 'claims.'}").into_bytes(),
        ),
        ("a missing file", good.replace("policy: policy.yaml", "policy: nowhere.yaml").into_bytes()),
        ("a directory for a file", good.replace("policy: policy.yaml", "policy: .").into_bytes()),
        ("a certificate that is none", good.replace("  key: ", "  key: /dev/null # ").into_bytes()),
    ];
    for (name, content) in cases {
        fs::write(&config, content)?;
        let checked = complains(check("check"), &format!("check with {name}"))?;
        // It names the file, so that one knows where to look.
        ensure!(checked.stderr.contains(".yaml") || checked.stderr.contains('/'), "{name}: {}", checked.stderr);
        complains(check("serve"), &format!("serve with {name}"))?;
        complains(check("render"), &format!("render with {name}")).or_else(|error| {
            // What render does not need, it need not complain of.
            if name == "a certificate that is none" { Ok(checked) } else { Err(error) }
        })?;
    }

    fs::write(&config, &good)?;
    let rule = |text: &str| {
        format!(
            "rules:\n- name: r\n  actions: [{{verbs: [get], apiGroups: [''], resources: [pods]}}]\n  require: {{acr: [mfa]}}\n  {text}\n"
        )
    };
    for (name, content) in [
        ("nothing", String::new()),
        ("no rules", "guardrails: enforce\n".to_owned()),
        ("a text", "rules".to_owned()),
        ("a bomb", bomb),
        ("very deep", format!("rules: {}", nested(20_000))),
        ("a rule twice", good_policy.replace("name: read-secrets", "name: delete-namespace")),
        ("an unknown key", good_policy.replace("covers: object", "cover: object")),
        ("an unknown level", good_policy.replace("acr: [mfa]", "acr: [mfaa]")),
        ("an unknown word", good_policy.replace("covers: object", "covers: everything")),
        ("a condition that is none", rule("condition: 'object.'")),
        ("a condition of the wrong names", rule("condition: 'requst.user == 1'")),
        ("a deep condition", rule(&format!("condition: '{}1{} == 1'", "(".repeat(5_000), ")".repeat(5_000)))),
        ("a long condition", rule(&format!("condition: '{}true'", "true && ".repeat(20_000)))),
        ("a pattern that is none", good_policy.replace(r"^[A-Z]+-\d+$", "[")),
        ("a pattern that explodes", good_policy.replace(r"^[A-Z]+-\d+$", "((a{1000}){1000}){1000}")),
        ("a time that is none", good_policy.replace("ttl: 10m", "ttl: 10 fortnights")),
        ("no end of time", good_policy.replace("ttl: 10m", "ttl: 99999999999999999999h")),
        ("uses that are none", good_policy.replace("uses: unlimited", "uses: -1")),
    ] {
        fs::write(&policy, &content)?;
        let outcome = ends(&mut check("check")).with_context(|| name.to_owned())?;
        if name == "a long condition" {
            // Long is no fault; it only must not end in a crash.
            ensure!(matches!(outcome.status.code(), Some(0 | 1)), "{name}: {}", outcome.stderr);
            continue;
        }
        let outcome = complains(check("check"), &format!("a policy with {name}"))?;
        ensure!(outcome.stderr.contains("policy.yaml"), "{name}: {}", outcome.stderr);
        complains(check("serve"), &format!("serve with a policy with {name}"))?;
    }
    Ok(())
}

fn keys_and_stores_that_make_no_sense(lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("config.yaml");
    // Its paths are relative: not the lab's own store, keys and log.
    fs::copy(lab.config_file(), &config)?;
    fs::copy(lab.policy_file(), directory.path().join("policy.yaml"))?;
    let check = |subcommand: &str| {
        let mut command = Command::new(lab.program("stepup-server"));
        command.arg(subcommand).arg(&config);
        command
    };
    let (keys, store) = (directory.path().join("keys"), directory.path().join("stepup.db"));
    fs::create_dir(&keys)?;
    let newer = directory.path().join("newer.db");
    rusqlite::Connection::open(&newer)?.pragma_update(None, "user_version", 2)?;
    let key = fs::read(&lab.pki().stepup_server.key)?;
    for (name, file, mode, content, told) in [
        ("a key for everybody", keys.join("a.pem"), 0o644, key.clone(), "chmod 0600"),
        ("a key that is none", keys.join("b.pem"), 0o600, b"-----BEGIN PRIVATE KEY-----\n".to_vec(), "b.pem is not a"),
        ("a certificate for a key", keys.join("c.pem"), 0o600, fs::read(&lab.pki().ca)?, "c.pem is not a"),
        ("text for a store", store.clone(), 0o600, vec![b'x'; 4096], "not a database"),
        ("a newer store", store.clone(), 0o600, fs::read(&newer)?, "newer than this program's"),
    ] {
        fs::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        for subcommand in ["check", "serve"] {
            let outcome = complains(check(subcommand), &format!("{subcommand} with {name}"))?;
            ensure!(outcome.stderr.contains(told), "{subcommand} with {name}: {}", outcome.stderr);
        }
        fs::remove_file(&file)?;
    }
    Outcome::of(&mut check("check"))?.succeeded()?;
    Ok(())
}

fn client_files_that_make_no_sense(lab: &Lab) -> Result<()> {
    let session = lab.session("carol")?.with("KUBECTL_STEPUP_PROMPT", "never");
    let kubeconfig = session.home().join("broken.yaml");
    let whole = fs::read_to_string(session.kubeconfig())?;
    for (name, content) in [
        ("no YAML", b"a: [b\n: : :\n\t- x".to_vec()),
        ("no text", b"apiVersion: \xff\xfe".to_vec()),
        ("a list", b"- a\n".to_vec()),
        ("a text", b"kubeconfig".to_vec()),
        ("users that are none", b"apiVersion: v1\nkind: Config\nusers: {a: b}\n".to_vec()),
        ("very deep", format!("users: {}", nested(20_000)).into_bytes()),
        ("half of it", whole.as_bytes()[..whole.len() * 2 / 3].to_vec()),
        ("a directory", vec![]),
    ] {
        let _ = fs::remove_dir(&kubeconfig);
        if name == "a directory" {
            fs::remove_file(&kubeconfig)?;
            fs::create_dir(&kubeconfig)?;
        } else {
            fs::write(&kubeconfig, &content)?;
        }
        let mut command = session.command("kubectl-stepup");
        command.args(["setup", "--profile", "carol", "--offline", "--context", "lab", "--kubeconfig"]).arg(&kubeconfig);
        let outcome = complains(command, &format!("a kubeconfig with {name}"))?;
        ensure!(outcome.stderr.contains("broken.yaml"), "{name}: {}", outcome.stderr);
        // What makes no sense to us may to somebody else: it stays as it is.
        ensure!(name == "a directory" || fs::read(&kubeconfig)? == content, "{name}: it was changed");
    }

    let broken: [(&str, &[u8]); 7] = [
        ("nothing", b""),
        ("no JSON", b"{"),
        ("no text", b"\xff\xfe\x00"),
        ("another type", b"[1, 2]"),
        ("null", b"null"),
        ("a newer version", br#"{"version": 99}"#),
        ("a field twice", br#"{"version": 1, "version": 1, "name": "carol"}"#),
    ];
    let profile = session.home().join("config/profiles/carol.json");
    let kept = fs::read(&profile)?;
    for (name, content) in broken {
        fs::write(&profile, content)?;
        let mut command = session.command("kubectl-stepup");
        command.args(["status", "--profile", "carol"]);
        let outcome = complains(command, &format!("a profile with {name}"))?;
        ensure!(outcome.stderr.contains("carol"), "{name}: {}", outcome.stderr);
    }
    fs::write(&profile, kept)?;

    // Caches are set aside, and what they held is had again: here from the refresh token.
    let cache = session.home().join("cache/carol/session.json");
    for (name, content) in broken {
        fs::write(&cache, content)?;
        let outcome = get_token(&session, None)?;
        ensure!(outcome.status.success(), "a session with {name}: {}", outcome.stderr);
        is_credential(&outcome.stdout).with_context(|| format!("a session with {name}"))?;
    }
    Ok(())
}

fn get_token(session: &Session, info: Option<&OsStr>) -> Result<Outcome> {
    let mut command = session.command("kubectl-stepup");
    command.args(["get-token", "--profile", session.name()]);
    if let Some(info) = info {
        command.env("KUBERNETES_EXEC_INFO", info);
    }
    ends(&mut command)
}

/// Standard output is one ExecCredential with a token, and nothing else.
fn is_credential(stdout: &str) -> Result<()> {
    let credential: Value = serde_json::from_str(stdout).with_context(|| format!("{stdout:?}"))?;
    let version = credential["apiVersion"].as_str().unwrap_or_default();
    ensure!(
        credential["kind"] == "ExecCredential" && version.starts_with("client.authentication.k8s.io/v1"),
        "{credential}"
    );
    ensure!(credential["status"]["token"].as_str().is_some_and(|token| token.split('.').count() == 3), "no token");
    Ok(())
}

const EXEC_INFO: &str = r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":true,"cluster":{"server":"https://127.0.0.1:6443","certificate-authority-data":"eA=="}}}"#;

fn exec_infos_that_make_no_sense(lab: &Lab) -> Result<()> {
    let session = lab.session("carol")?.with("KUBECTL_STEPUP_PROMPT", "never");
    let mut infos: Vec<OsString> =
        ["", " ", "{}", "null", "[]", "{", "\"x\"", EXEC_INFO, r#"{"apiVersion":"v9"}"#].map(OsString::from).into();
    infos.push(nested(10_000).into());
    infos.push("x".repeat(100_000).into());
    infos.push(EXEC_INFO.replacen("\"kind\"", "\"kind\":1,\"kind\"", 1).into());
    infos.push(OsString::from_vec(b"{\"apiVersion\":\"\xff\xfe\"}".to_vec()));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..120 {
        let mutated = random.mutated(EXEC_INFO.as_bytes());
        infos.push(OsString::from_vec(mutated.into_iter().filter(|byte| *byte != 0).collect()));
    }
    for info in infos {
        let outcome = get_token(&session, Some(&info))?;
        let seen = || format!("{}: {}\n{}", info.display(), outcome.status, outcome.stderr);
        ensure!(outcome.status.success(), "{}", seen());
        is_credential(&outcome.stdout).with_context(seen)?;
    }
    Ok(())
}

/// xorshift64: the same cases in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// The same with a few things wrong.
    fn mutated(&mut self, model: &[u8]) -> Vec<u8> {
        const WORDS: [&[u8]; 20] = [
            b"null",
            b"true",
            b"-1",
            b"1e999",
            b"18446744073709551616",
            b"\"\"",
            b"[]",
            b"{}",
            b"\\u0000",
            b"\\ud800",
            b"\xff",
            b"\"*\"",
            b",",
            b":",
            b"\"",
            b"}",
            b"]",
            b"&",
            b"=",
            b"%00",
        ];
        let mut text = model.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(text.len());
            let end = (at + self.below(40)).min(text.len());
            match self.below(6) {
                0 if !text.is_empty() => text[at] ^= 1 << self.below(8),
                1 => drop(text.drain(at..end)),
                2 => {
                    let copy = text[at..end].to_vec();
                    text.splice(at..at, copy);
                }
                3 => drop(text.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
                4 => drop(text.splice(at..end, WORDS[self.below(WORDS.len())].iter().copied())),
                _ => {
                    let other = self.below(text.len());
                    let copy = text[other..(other + 20).min(text.len())].to_vec();
                    text.splice(at..at, copy);
                }
            }
        }
        text
    }

    /// The same with one value replaced: what parses gets further.
    fn mutated_json(&mut self, model: &Value) -> Value {
        let values = [
            json!(null),
            json!(true),
            json!(-1),
            json!(1.5),
            json!(""),
            json!("*"),
            json!("system:admin"),
            json!("\u{0}"),
            json!([]),
            json!({}),
            json!([[]]),
            json!("x".repeat(5_000)),
            json!(["a", null]),
        ];
        let mut pointers = Vec::new();
        collect(model, String::new(), &mut pointers);
        let mut changed = model.clone();
        for _ in 0..=self.below(2) {
            let pointer = &pointers[self.below(pointers.len())];
            if let Some(value) = changed.pointer_mut(pointer) {
                *value = values[self.below(values.len())].clone();
            }
        }
        changed
    }
}

fn collect(value: &Value, pointer: String, all: &mut Vec<String>) {
    let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| collect(value, format!("{pointer}/{}", escaped(name)), all));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| collect(value, format!("{pointer}/{index}"), all));
        }
        _ => {}
    }
    all.push(pointer);
}

const CASES: usize = 1_000;

fn mutated_reviews_and_forms(lab: &Lab) -> Result<()> {
    let raw = Raw::new(lab)?;
    let client = http::client_with_certificate(&lab.pki().ca, &lab.pki().webhook_client)?;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let url = |path: &str| format!("{}/{path}", lab.server_url());
    let what_decides = |review: &Value| {
        let request = &review["request"];
        ["operation", "name", "namespace", "subResource", "resource", "userInfo"].map(|name| request[name].clone())
    };
    let mut still_protected = 0;
    for number in 0..CASES {
        let model = admission(&format!("fuzz-{number}"));
        let body = if number % 2 == 0 {
            random.mutated(model.to_string().as_bytes())
        } else {
            random.mutated_json(&model).to_string().into_bytes()
        };
        let shown = String::from_utf8_lossy(&body).into_owned();
        let parsed: Option<Value> = serde_json::from_slice(&body).ok();
        let answer = Answer::of(client.post(url("admit")).body(body))?;
        ensure!([200, 400].contains(&answer.status), "{}: {shown}", answer.text());
        ensure!(answer.status == 200 || !answer.message().is_empty(), "{}: {shown}", answer.text());
        // Whatever else is wrong with it: what is still a change of that deployment by that person needs a step-up.
        if answer.status == 200 && parsed.is_some_and(|parsed| what_decides(&parsed) == what_decides(&model)) {
            ensure!(answer.body["response"]["allowed"] == false, "{}: {shown}", answer.text());
            still_protected += 1;
        }

        let model = access();
        let body = if number % 2 == 0 {
            random.mutated(model.to_string().as_bytes())
        } else {
            random.mutated_json(&model).to_string().into_bytes()
        };
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = Answer::of(client.post(url("authorize")).body(body))?;
        ensure!([200, 400].contains(&answer.status), "{}: {shown}", answer.text());
        ensure!(answer.status == 400 || answer.body["status"]["allowed"] == false, "{}: {shown}", answer.text());
    }

    ensure!(still_protected > CASES / 10, "only {still_protected} cases were still protected changes");

    let token = raw.sign_in("carol", None)?;
    let form = format!(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token={token}\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aid_token&challenge=ch-x&reason=OPS-1&ttl=60&carry=gr-a+gr-b"
    );
    let actions = json!({"actions": [{"verb": "delete", "resource": "namespaces", "name": "prod-fuzz"}]});
    for number in 0..CASES {
        let body = random.mutated(form.as_bytes());
        let shown = String::from_utf8_lossy(&body).into_owned();
        let request = raw.client().post(url("token")).header("content-type", "application/x-www-form-urlencoded");
        let answer = Answer::of(request.body(body))?;
        ensure!(answer.status == 400 && !answer.message().is_empty(), "{}: {shown}", answer.text());

        let body = if number % 2 == 0 {
            random.mutated(actions.to_string().as_bytes())
        } else {
            random.mutated_json(&actions).to_string().into_bytes()
        };
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = Answer::of(raw.v1(Method::POST, "challenges", &token).body(body))?;
        ensure!([200, 400].contains(&answer.status), "{}: {shown}", answer.text());
    }
    // Every record is whole: whatever was in the requests, a line is a line.
    lab.audit_records()?;
    raw.server_is_well()
}
