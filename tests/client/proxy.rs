//! `kubectl stepup proxy` and `run` before a fake API server that says what it got.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use stepup::client::paths::Paths;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::api_server::{ApiServer, Asked, plain, status, step_up_required};
use crate::home::Home;

const SECRETS: &str = "/api/v1/namespaces/prod/secrets";

/// A running `kubectl-stepup proxy`, and a client of it.
pub struct Proxy {
    child: Child,
    way: Way,
    stderr: Option<thread::JoinHandle<String>>,
}

/// Where a kubeconfig of ours leads.
pub struct Way {
    url: String,
    authority: Vec<u8>,
    token: String,
    runtime: Runtime,
}

impl std::ops::Deref for Proxy {
    type Target = Way;

    fn deref(&self) -> &Way {
        &self.way
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// The kubeconfig of a home: one cluster, signed in to with the profile.
fn kubeconfig(home: &Home, cluster: &Value) {
    home.write(
        "kubeconfig",
        &json!({
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "prod"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"exec": {"command": "kubectl-stepup", "args": ["get-token", "--profile", "p"]}}}],
        }),
    );
}

fn cluster_of(api: &ApiServer) -> Value {
    json!({"server": api.url(), "certificate-authority-data": STANDARD.encode(&api.certificate)})
}

impl Proxy {
    pub fn before(home: &Home, api: &ApiServer) -> Self {
        kubeconfig(home, &cluster_of(api));
        Self::start(home, &[])
    }

    fn start(home: &Home, more: &[&str]) -> Self {
        let out = home.path("through");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-stepup"));
        command.args(["proxy", "--kubeconfig-out"]).arg(&out).args(more);
        home.arrange(&mut command);
        command.env("KUBECONFIG", home.path("kubeconfig"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        assert_eq!(line.trim_end(), out.display().to_string());
        Self { child, way: Way::of(&out), stderr: Some(stderr) }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it ends by itself, soon.
    fn ends(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(4);
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Ends it, and gives what it said.
    pub fn end(&mut self) -> String {
        self.signal(rustix::process::Signal::TERM);
        assert!(self.child.wait().unwrap().success());
        self.stderr.take().unwrap().join().unwrap()
    }
}

impl Way {
    fn of(kubeconfig: &std::path::Path) -> Self {
        let config: Value = serde_json::from_slice(&std::fs::read(kubeconfig).unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            url: text(&config["clusters"][0]["cluster"]["server"]),
            authority: STANDARD.decode(text(&config["clusters"][0]["cluster"]["certificate-authority-data"])).unwrap(),
            token: text(&config["users"][0]["user"]["token"]),
            runtime: Runtime::new().unwrap(),
        }
    }

    fn address(&self) -> &str {
        self.url.strip_prefix("https://").unwrap().split('/').next().unwrap()
    }

    async fn connect(&self, alpn: &[u8]) -> TlsStream<tokio::net::TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&self.authority).unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = tokio::net::TcpStream::connect(self.address()).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address()))
            .header(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {}", self.token)).unwrap())
    }

    /// By HTTP/2.
    fn send<B>(&self, request: Request<B>) -> Got
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.runtime.block_on(async {
            let stream = TokioIo::new(self.connect(b"h2").await);
            let (mut client, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            read(client.send_request(request).await.unwrap()).await
        })
    }

    pub fn get(&self, path: &str) -> Got {
        self.send(self.request("GET", path).body(empty()).unwrap())
    }

    /// What it is told of a right in the namespace prod: the answered `SelfSubjectAccessReview`.
    pub fn asks_whether_it_may(&self, verb: &str, resource: &str) -> Value {
        let spec = json!({"resourceAttributes": {"namespace": "prod", "verb": verb, "resource": resource}});
        let review = json!({"kind": "SelfSubjectAccessReview", "spec": spec}).to_string();
        let request = self
            .request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header("accept", "application/vnd.kubernetes.protobuf,application/json")
            .body(Full::new(Bytes::from(review)));
        let got = self.send(request.unwrap());
        let length = got.headers.get("content-length").map(|length| length.to_str().unwrap().parse::<usize>().unwrap());
        assert!(got.status == 201 && length.is_none_or(|length| length == got.body.len()), "{got:?}");
        serde_json::from_slice(&got.body).unwrap()
    }

    /// By HTTP/1.1.
    fn send_http1(&self, mut request: Request<Full<Bytes>>) -> Got {
        self.runtime.block_on(async {
            let stream = TokioIo::new(self.connect(b"http/1.1").await);
            let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let host = request.uri().authority().unwrap().to_string();
            request.headers_mut().insert("host", HeaderValue::try_from(host).unwrap());
            *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
            read(client.send_request(request).await.unwrap()).await
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn empty() -> Full<Bytes> {
    Full::default()
}

async fn read(answer: Response<hyper::body::Incoming>) -> Got {
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Got { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// A body that is made while it is sent.
struct Growing(mpsc::Receiver<Frame<Bytes>>);

impl Body for Growing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

/// What the API server says as long as it has not seen an elevated token.
fn elevated_only(
    action: &'static str,
    rule: &'static str,
) -> impl Fn(&Asked) -> Response<http_body_util::combinators::BoxBody<Bytes, hyper::Error>> {
    move |asked| {
        if asked.token().starts_with("elevated-") {
            plain(200, "application/json", format!("{{\"with\":{:?}}}", asked.token()))
        } else {
            step_up_required(action, rule)
        }
    }
}

#[test]
fn requests_and_answers_pass_unchanged() {
    let home = Home::new();
    let api = ApiServer::start(|_| {
        let mut answer = plain(418, "text/x-odd", "short and stout");
        answer.headers_mut().insert("audit-id", HeaderValue::from_static("42"));
        answer.headers_mut().insert("warning", HeaderValue::from_static("299 - \"old\""));
        answer
    });
    let proxy = Proxy::before(&home, &api);
    let target = "/apis/x.example/v1/things/a%2Fb%20c?q=%26&watch=1&fieldSelector=a%3Db";
    let request = || {
        proxy
            .request("PATCH", target)
            .header("impersonate-user", "bob")
            .header("impersonate-extra-scopes", "view")
            .header("user-agent", "odd/1")
            .header("accept", "application/vnd.kubernetes.protobuf")
            .header("content-type", "application/apply-patch+yaml")
            .body(Full::new(Bytes::from_static(b"{\"a\":1}")))
            .unwrap()
    };
    for (got, asked) in [proxy.send(request()), proxy.send_http1(request())].into_iter().zip(0..) {
        assert_eq!((got.status, got.body.as_slice()), (418, &b"short and stout"[..]));
        assert_eq!(got.headers["audit-id"], "42");
        assert_eq!(got.headers["warning"], "299 - \"old\"");
        assert!(!got.headers.contains_key("access-control-allow-origin"));
        let asked = &api.asked()[asked];
        assert_eq!((asked.method.as_str(), asked.version), ("PATCH", hyper::Version::HTTP_2));
        assert_eq!(asked.uri, format!("{}{target}", api.url()));
        assert_eq!(asked.body, b"{\"a\":1}");
        for (name, value) in [
            ("impersonate-user", "bob"),
            ("impersonate-extra-scopes", "view"),
            ("user-agent", "odd/1"),
            ("accept", "application/vnd.kubernetes.protobuf"),
            ("content-length", "7"),
        ] {
            assert_eq!(asked.header(name), Some(value), "{name}");
        }
        assert_eq!(asked.token(), home.base_token, "the base token, and nothing of the client's");
        assert_eq!(asked.headers.get_all("authorization").iter().count(), 1);
    }
}

#[test]
fn streams_both_ways_at_once_with_trailers() {
    let home = Home::new();
    let api = ApiServer::start(|_| plain(200, "text/plain", ""));
    let proxy = Proxy::before(&home, &api);
    let (sender, receiver) = mpsc::channel(1);
    let request =
        proxy.request("POST", "/api/v1/namespaces/prod/services/x/proxy/echo").body(Growing(receiver)).unwrap();
    proxy.runtime.block_on(async {
        let stream = TokioIo::new(proxy.connect(b"h2").await);
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        // Each piece is back before the next is sent: nothing waits for more.
        for round in 0..20 {
            let piece = Bytes::from(format!("piece {round}"));
            sender.send(Frame::data(piece.clone())).await.unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        sender.send(Frame::trailers(trailers)).await.unwrap();
        drop(sender);
        let last = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(last["grpc-status"], "0");
    });
}

#[test]
fn a_body_far_above_the_limit_streams_through() {
    const PIECES: usize = 1024;
    let home = Home::new();
    let api = ApiServer::start(|_| plain(200, "text/plain", ""));
    kubeconfig(&home, &cluster_of(&api));
    let proxy = Proxy::start(&home, &["--replay-limit", "0"]);
    let (sender, receiver) = mpsc::channel(1);
    let request = proxy.request("POST", "/upload/echo").body(Growing(receiver)).unwrap();
    proxy.runtime.block_on(async {
        let stream = TokioIo::new(proxy.connect(b"h2").await);
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move {
            for _ in 0..PIECES {
                let _ = sender.send(Frame::data(Bytes::from(vec![7; 64 << 10]))).await;
            }
        });
        let mut body = client.send_request(request).await.unwrap().into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(length, PIECES * (64 << 10));
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    let kilobytes: usize = peak.split(' ').next().unwrap().parse().unwrap();
    assert!(kilobytes < 60_000, "64 MB went through, and it took {peak}");
}

#[test]
fn a_refused_read_is_stepped_up_once_and_what_follows_is_covered() {
    let home = Home::new();
    home.server.protect("secrets", "ch-1", None, None);
    let api = ApiServer::start(elevated_only("get secrets/db -n prod", "read-secrets"));
    let mut proxy = Proxy::before(&home, &api);
    for _ in 0..3 {
        let got = proxy.get(&format!("{SECRETS}/db"));
        assert_eq!((got.status, got.json()["with"].as_str()), (200, Some("elevated-1")));
    }
    // Another object is another action: the kept sign-in is fresh enough for its grant.
    assert_eq!(proxy.get(&format!("{SECRETS}/other")).json()["with"], "elevated-2");
    let tokens: Vec<bool> = api.asked().iter().map(|asked| asked.token() == home.base_token).collect();
    assert_eq!(tokens, [true, false, false, false, true, false]);
    assert_eq!(home.provider.device_requests().len(), 1, "one prompt");
    assert!(!home.path("cache/p/elevated").exists(), "nothing is kept for others");
    let said = proxy.end();
    assert_eq!(said.matches("Step-up required").count(), 1, "{said}");
    home.assert_no_secret(&said);
}

#[test]
fn a_challenge_is_understood_in_protobuf_and_as_429() {
    let home = Home::new();
    home.server.deny("ch-abcdefghijklmnopqrstuvwx23", "delete", "prod");
    let api = ApiServer::start(|asked| {
        if asked.token().starts_with("elevated-") {
            return plain(200, "application/json", "{}");
        }
        let body = b"k8s\0\x0a\x0bkubectl-stepup.io/challenge\x12\x1dch-abcdefghijklmnopqrstuvwx23\x18\x01";
        let mut answer = plain(429, "application/vnd.kubernetes.protobuf", Bytes::from_static(body));
        answer.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
        answer
    });
    let proxy = Proxy::before(&home, &api);
    let request =
        proxy.request("DELETE", "/api/v1/namespaces/prod").body(Full::new(Bytes::from_static(b"{}"))).unwrap();
    assert_eq!(proxy.send(request).status, 200);
    let bodies: Vec<Vec<u8>> = api.asked().into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies, [b"{}", b"{}"]);
}

#[test]
fn one_use_is_one_use_whatever_comes_at_once() {
    let home = Home::new();
    home.server.protect("secrets", "ch-1", Some(1), None);
    let uses = Arc::new(AtomicUsize::new(0));
    let api = ApiServer::start({
        let uses = Arc::clone(&uses);
        let spent = std::sync::Mutex::new(std::collections::HashSet::new());
        move |asked| {
            let is_fresh =
                asked.token().starts_with("elevated-") && spent.lock().unwrap().insert(asked.token().to_owned());
            if is_fresh {
                uses.fetch_add(1, Ordering::SeqCst);
                plain(200, "application/json", "{}")
            } else {
                step_up_required("get secrets/db -n prod", "read-secrets")
            }
        }
    });
    let proxy = Arc::new(Proxy::before(&home, &api));
    let all: Vec<_> = (0..10)
        .map(|_| {
            let proxy = Arc::clone(&proxy);
            thread::spawn(move || proxy.get(&format!("{SECRETS}/db")).status)
        })
        .collect();
    for one in all {
        assert_eq!(one.join().unwrap(), 200);
    }
    assert_eq!(uses.load(Ordering::SeqCst), 10);
    assert_eq!(home.provider.device_requests().len(), 1, "one prompt");
}

#[test]
fn what_rbac_refuses_is_asked_about_once_and_passes() {
    let home = Home::new();
    home.server.protect_nothing();
    let api = ApiServer::start(|_| status(403, "Forbidden", "secrets is forbidden: User \"alice\" cannot list it"));
    let mut proxy = Proxy::before(&home, &api);
    for _ in 0..3 {
        let got = proxy.get(SECRETS);
        assert_eq!(got.status, 403);
        assert!(got.message().contains("cannot list it"));
    }
    assert_eq!(home.server.asked().len(), 1, "stepup-server is asked once about the same");
    assert_eq!(api.asked().len(), 3);
    let said = proxy.end();
    assert!(!said.contains("Step-up"), "{said}");
}

/// Groups mode: RBAC says no until the grant's token has the group.
#[test]
fn what_rbac_refuses_is_stepped_up_where_the_grant_adds_a_group() {
    let home = Home::new();
    home.server.protect("secrets", "ch-1", None, Some("stepup:read-secrets"));
    home.server.protect("pods", "ch-2", None, None);
    let api = ApiServer::start(|asked| {
        if asked.token().starts_with("elevated-") {
            plain(200, "application/json", "{}")
        } else {
            status(403, "Forbidden", "secrets is forbidden: User \"alice\" cannot list it")
        }
    });
    let proxy = Proxy::before(&home, &api);
    assert_eq!(proxy.get(SECRETS).status, 200);
    assert_eq!(proxy.get("/api/v1/namespaces/prod/pods").status, 403, "its grant would change nothing");
    assert_eq!(home.provider.device_requests().len(), 1);
}

/// Some programs (k9s) ask whether they may before they try.
#[test]
fn rights_that_a_step_up_would_bring_are_told_as_rights_and_asked_for_when_they_are_used() {
    fn api(reason: &'static str) -> ApiServer {
        ApiServer::start(move |asked| {
            let mut review: Value = match serde_json::from_slice(&asked.body) {
                Ok(review) if asked.header("accept") == Some("application/json") => review,
                _ => return status(403, "Forbidden", "secrets is forbidden: User \"alice\" cannot list it"),
            };
            let is_denied = review["spec"]["resourceAttributes"]["resource"] != "configmaps";
            review["status"] = json!({"allowed": !is_denied, "reason": if is_denied { reason } else { "by RBAC" }});
            plain(201, "application/json", review.to_string())
        })
    }

    // By a webhook, which says so; what it does not say is RBAC's last word.
    let home = Home::new();
    let webhooks = api("step-up required to list secrets -n prod (rule read-secrets): type \"kubectl stepup elevate\"");
    let proxy = Proxy::before(&home, &webhooks);
    let told = proxy.asks_whether_it_may("list", "secrets");
    assert_eq!(
        (&told["status"]["allowed"], &told["spec"]["resourceAttributes"]["verb"]),
        (&json!(true), &json!("list"))
    );
    assert!(told["status"]["reason"].as_str().unwrap().contains("after a step-up"), "{told}");
    assert_eq!(
        proxy.asks_whether_it_may("list", "configmaps")["status"],
        json!({"allowed": true, "reason": "by RBAC"})
    );
    let rbac = api("no such role");
    let other = Proxy::before(&home, &rbac);
    assert_eq!(
        other.asks_whether_it_may("list", "secrets")["status"],
        json!({"allowed": false, "reason": "no such role"})
    );
    assert_eq!((home.server.asked().len(), home.provider.device_requests().len()), (0, 0), "nobody is asked");

    // By RBAC, where a grant would add a group.
    let home = Home::builder().denials_are_final().build();
    home.server.protect("secrets", "ch-1", None, Some("stepup:read-secrets"));
    home.server.protect("pods", "ch-2", None, None);
    let groups = api("");
    let proxy = Proxy::before(&home, &groups);
    assert_eq!(proxy.asks_whether_it_may("list", "secrets")["status"]["allowed"], true);
    assert_eq!(proxy.asks_whether_it_may("list", "pods")["status"]["allowed"], false, "its grant would change nothing");
    assert_eq!(home.provider.device_requests().len(), 0);
}

#[test]
fn a_body_above_the_limit_gets_the_challenge_and_what_to_do() {
    let home = Home::new();
    home.server.protect("configmaps", "ch-1", Some(1), None);
    let api = ApiServer::start(elevated_only("update configmaps/a -n prod", "config"));
    kubeconfig(&home, &cluster_of(&api));
    let proxy = Proxy::start(&home, &["--replay-limit", "1Ki"]);
    let put = |length: usize| {
        let request = proxy.request("PUT", "/api/v1/namespaces/prod/configmaps/a");
        proxy.send(request.body(Full::new(Bytes::from(vec![b' '; length]))).unwrap())
    };
    let got = put(1025);
    assert_eq!(got.status, 403, "no 429, which clients would repeat");
    let message = got.message();
    for part in [
        "step-up required to update configmaps/a -n prod (rule config)",
        "1024 bytes",
        "--replay-limit",
        "kubectl stepup elevate",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert_eq!(home.provider.device_requests().len(), 0, "nobody was asked in vain");
    assert_eq!(put(1024).status, 200);
    assert_eq!(api.asked().last().unwrap().body.len(), 1024);
}

/// The API server refuses before it has read the body; the rest of it is still on its way when the step-up is over.
#[test]
fn a_body_that_is_still_being_sent_is_repeated_whole() {
    let home = Home::new();
    home.server.protect("early", "ch-1", None, None);
    let api = ApiServer::start(elevated_only("create early -n prod", "early"));
    let proxy = Proxy::before(&home, &api);
    let (sender, receiver) = mpsc::channel(1);
    let request = proxy.request("POST", "/apis/a/v1/namespaces/prod/early").body(Growing(receiver)).unwrap();
    let status = proxy.runtime.block_on(async {
        let stream = TokioIo::new(proxy.connect(b"h2").await);
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send(Frame::data(Bytes::from_static(b"first, "))).await.unwrap();
        let answer = tokio::spawn(async move { client.send_request(request).await.unwrap().status() });
        while home.provider.device_requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sender.send(Frame::data(Bytes::from_static(b"then the rest"))).await.unwrap();
        drop(sender);
        answer.await.unwrap()
    });
    assert_eq!(status, StatusCode::OK);
    assert_eq!(api.asked().last().unwrap().body, b"first, then the rest");
}

#[test]
fn an_upgrade_is_stepped_up_before_and_copied_after() {
    let home = Home::new();
    home.server.protect("pods", "ch-1", None, None);
    let api = ApiServer::start(|asked| {
        if !asked.token().starts_with("elevated-") {
            return step_up_required("connect pods/exec api-0 -n pay", "exec");
        }
        assert_eq!((asked.version, asked.header("upgrade")), (hyper::Version::HTTP_11, Some("SPDY/3.1")));
        let mut answer = plain(101, "text/plain", "");
        answer.headers_mut().insert("connection", HeaderValue::from_static("Upgrade"));
        answer.headers_mut().insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
        answer.headers_mut().insert("x-stream-protocol-version", HeaderValue::from_static("v4.channel.k8s.io"));
        answer
    });
    let proxy = Proxy::before(&home, &api);
    proxy.runtime.block_on(async {
        let mut stream = proxy.connect(b"http/1.1").await;
        let host = proxy.url.strip_prefix("https://").unwrap();
        let request = format!(
            "POST /api/v1/namespaces/pay/pods/api-0/exec?command=sh HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\
             Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
            proxy.token
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("upgrade: spdy/3.1") && head.contains("x-stream-protocol-version"), "{head}");
        for round in 0_u8..20 {
            let piece = vec![round; 1 + usize::from(round) * 50];
            stream.write_all(&piece).await.unwrap();
            let mut back = vec![0; piece.len()];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(back, piece);
        }
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the end is passed on");
    });
}

#[test]
fn a_server_of_http_1_1_and_of_a_prefix() {
    let home = Home::new();
    let api = ApiServer::speaking(&[b"http/1.1"], |asked| plain(200, "text/plain", asked.uri.clone()));
    let mut cluster = cluster_of(&api);
    cluster["server"] = json!(format!("{}/k8s/clusters/c-1", api.url()));
    kubeconfig(&home, &cluster);
    let proxy = Proxy::start(&home, &[]);
    assert!(proxy.url.ends_with("/k8s/clusters/c-1"), "{}", proxy.url);
    for _ in 0..5 {
        assert_eq!(proxy.get("/k8s/clusters/c-1/api/v1/pods?limit=1").body, b"/k8s/clusters/c-1/api/v1/pods?limit=1");
    }
    assert_eq!(proxy.get("/v3/tokens").status, 404, "beyond the cluster there is nothing for it");
    assert_eq!(api.asked().len(), 5);
    assert_eq!(api.asked()[0].header("host"), Some(api.address.to_string().as_str()));
}

#[test]
fn the_certificate_decides() {
    let home = Home::new();
    let api = ApiServer::start(|_| plain(200, "text/plain", "ok"));
    let other = ApiServer::start(|_| plain(200, "text/plain", "ok"));
    let ca = |api: &ApiServer| STANDARD.encode(&api.certificate);
    for (cluster, expected) in [
        (json!({"server": api.url(), "certificate-authority-data": ca(&api)}), 200),
        (json!({"server": api.url(), "certificate-authority-data": ca(&other)}), 502),
        (json!({"server": api.url(), "insecure-skip-tls-verify": true}), 200),
        (json!({"server": api.url(), "certificate-authority-data": ca(&api), "tls-server-name": "api.example"}), 200),
        (json!({"server": api.url(), "certificate-authority-data": ca(&api), "tls-server-name": "wrong.example"}), 502),
        (json!({"server": api.url()}), 502),
    ] {
        kubeconfig(&home, &cluster);
        let proxy = Proxy::start(&home, &[]);
        let got = proxy.get("/api");
        assert_eq!(got.status, expected, "{cluster}");
        if expected == 502 {
            assert_eq!(got.json()["kind"], "Status");
            assert!(got.message().contains(&api.address.to_string()), "{}", got.message());
        }
    }
    assert_eq!(api.asked().len(), 3, "no token went to a server that could be anybody");
}

/// A proxy of the old kind, for `proxy-url`.
#[test]
fn a_proxy_on_the_way_is_used() {
    let home = Home::new();
    let api = ApiServer::start(|_| plain(200, "text/plain", "ok"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tunnel = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let mut server = TcpStream::connect(&target).unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        thread::spawn(move || std::io::copy(&mut server, &mut client));
        head
    });
    let mut cluster = cluster_of(&api);
    cluster["proxy-url"] = json!(format!("http://user:pass@127.0.0.1:{port}"));
    kubeconfig(&home, &cluster);
    let proxy = Proxy::start(&home, &[]);
    assert_eq!(proxy.get("/api").body, b"ok");
    let head = tunnel.join().unwrap();
    assert!(head.starts_with(&format!("CONNECT {} ", api.address)), "{head}");
    assert!(head.contains("Basic dXNlcjpwYXNz"), "{head}");
}

#[test]
fn a_server_that_is_away_is_said_to_be() {
    let home = Home::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    kubeconfig(&home, &json!({"server": format!("https://{free}"), "insecure-skip-tls-verify": true}));
    let proxy = Proxy::start(&home, &[]);
    let got = proxy.get("/api");
    assert_eq!(got.status, 502);
    assert!(got.message().contains(&format!("cannot connect to the API server {free}")), "{}", got.message());
}

#[test]
fn after_a_refusal_nobody_is_asked_again_for_a_while() {
    let home = Home::builder().manners(|manners| manners.denies = true).build();
    home.server.protect("secrets", "ch-1", None, None);
    let api = ApiServer::start(elevated_only("list secrets -n prod", "read-secrets"));
    let mut proxy = Proxy::before(&home, &api);
    // As k9s does.
    for _ in 0..5 {
        let got = proxy.get(SECRETS);
        assert_eq!(got.status, 403);
        assert!(got.message().contains("step-up required to list secrets -n prod"));
    }
    assert_eq!(home.provider.device_requests().len(), 1, "one prompt");
    let said = proxy.end();
    assert_eq!(said.matches("not asked again for 30 s").count(), 1, "{said}");
}

#[test]
fn without_a_server_it_is_a_plain_proxy() {
    let home = Home::builder().without_server().build();
    let api = ApiServer::start(elevated_only("get secrets/db -n prod", "read-secrets"));
    let proxy = Proxy::before(&home, &api);
    assert_eq!(proxy.get(&format!("{SECRETS}/db")).status, 403);
    assert_eq!(api.asked().len(), 1);
}

#[test]
fn a_token_that_expires_is_renewed_on_the_way() {
    let home = Home::builder().signed_in_for(5).build();
    let api = ApiServer::start(|_| plain(200, "text/plain", "ok"));
    let proxy = Proxy::before(&home, &api);
    assert_eq!(proxy.get("/api").status, 200);
    assert_eq!(home.provider.refreshes(), 1, "it was as good as expired at the start");
    assert_ne!(api.asked()[0].token(), home.base_token);
}

/// Programs look at one of the two first: what the other says must not be hidden from them.
#[test]
fn a_program_is_told_to_come_here_without_a_proxy_and_keeps_its_own_exceptions() {
    let home = Home::new();
    kubeconfig(&home, &json!({"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true}));
    for (name, expected) in [("NO_PROXY", ".corp,127.0.0.1"), ("no_proxy", ".corp,127.0.0.1")] {
        let mut command = home.command(&["run", "--", "sh", "-c", "echo $NO_PROXY $no_proxy"]);
        command.env("KUBECONFIG", home.path("kubeconfig")).env("HTTPS_PROXY", "http://127.0.0.1:1").env(name, ".corp");
        let run = crate::home::Run::of(&command.output().unwrap());
        assert_eq!(run.stdout.trim(), format!("{expected} {expected}"), "{run:?}");
    }
}

#[test]
fn nobody_signed_in_and_nobody_there_is_an_error_at_once() {
    let home = Home::builder().signed_out().prompt("never").build();
    kubeconfig(&home, &json!({"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true}));
    let mut command = home.command(&["run", "--", "true"]);
    let run = crate::home::Run::of(&command.env("KUBECONFIG", home.path("kubeconfig")).output().unwrap());
    run.fails(3, "kubectl stepup login --profile p");
}

/// A connection that the server closes just when it is used again costs a read nothing.
#[test]
fn a_connection_that_was_closed_meanwhile_is_made_anew() {
    let home = Home::new();
    let api = ApiServer::speaking(&[b"http/1.1"], |_| {
        let mut answer = plain(200, "text/plain", "ok");
        // Closed behind the answer's back: the client hears of it when it uses it again.
        answer.headers_mut().insert("connection", HeaderValue::from_static("close"));
        answer
    });
    let proxy = Proxy::before(&home, &api);
    let deadline = Instant::now() + Duration::from_secs(30);
    for _ in 0..50 {
        assert!(Instant::now() < deadline);
        assert_eq!(proxy.get("/api").body, b"ok");
    }
}

/// API servers do so now and then, to spread their clients (`--goaway-chance`): nothing is lost, writes least of all.
#[test]
fn a_server_that_goes_away_between_requests_loses_none() {
    let home = Home::new();
    let api = ApiServer::that_goes_away_after(3, |asked| plain(200, "text/plain", asked.body.clone()));
    let proxy = Arc::new(Proxy::before(&home, &api));
    let all: Vec<_> = (0..8)
        .map(|task| {
            let proxy = Arc::clone(&proxy);
            thread::spawn(move || {
                for round in 0..25 {
                    let body = format!("{task} {round}");
                    let request = proxy.request("POST", "/api/v1/namespaces/prod/configmaps");
                    let got = proxy.send(request.body(Full::new(Bytes::from(body.clone()))).unwrap());
                    assert_eq!((got.status, got.body.as_slice()), (200, body.as_bytes()));
                }
            })
        })
        .collect();
    for one in all {
        one.join().unwrap();
    }
    assert_eq!(api.asked().len(), 200, "each was done, and done once");
}

/// What runs behind the API server (an application that is reached through it) and quotas say 403 too, after whatever the
/// request does has been done, or a use has been taken.
#[test]
fn what_is_refused_after_its_step_up_by_somebody_else_is_not_sent_again() {
    for (uses, group) in [(None, None), (Some(1), None), (None, Some("stepup:apps"))] {
        let home = Home::new();
        home.server.protect("services", "ch-1", uses, group);
        let api = ApiServer::start(|asked| {
            if asked.token().starts_with("elevated-") {
                status(403, "Forbidden", "the shop is closed")
            } else {
                step_up_required("connect services/proxy shop -n prod", "apps")
            }
        });
        let proxy = Proxy::before(&home, &api);
        let order = || {
            let request = proxy.request("POST", "/api/v1/namespaces/prod/services/shop/proxy/orders");
            proxy.send(request.body(Full::new(Bytes::from_static(b"{}"))).unwrap())
        };
        let got = order();
        assert_eq!((got.status, got.message().as_str()), (403, "the shop is closed"));
        let elevated = || api.asked().iter().filter(|asked| asked.token().starts_with("elevated-")).count();
        assert_eq!((api.asked().len(), elevated()), (2, 1), "it was ordered once, with {uses:?} and {group:?}");
        // With the token at hand, too.
        let got = order();
        assert_eq!((got.status, elevated()), (403, 2), "with {uses:?} and {group:?}");
    }
}

#[test]
fn what_no_step_up_helps_does_not_wait_for_somebodys_prompt() {
    let home = Home::builder().manners(|manners| manners.ignores = true).build();
    home.server.protect("secrets", "ch-1", None, None);
    let api = ApiServer::start(|asked| {
        if asked.uri.contains("/secrets") {
            step_up_required("get secrets/db -n prod", "read-secrets")
        } else {
            status(403, "Forbidden", "User \"alice\" cannot list it")
        }
    });
    let proxy = Arc::new(Proxy::before(&home, &api));
    let asking = thread::spawn({
        let proxy = Arc::clone(&proxy);
        move || proxy.get(&format!("{SECRETS}/db")).status
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while home.provider.polls() == 0 {
        assert!(Instant::now() < deadline, "nobody was asked");
        thread::sleep(Duration::from_millis(10));
    }
    for path in ["/api/v1/namespaces/prod/pods", "/healthz/etcd", "/api/v1/namespaces/prod/pods"] {
        let began = Instant::now();
        assert_eq!(proxy.get(path).status, 403);
        assert!(began.elapsed() < Duration::from_secs(2), "{path} has waited for {:?}", began.elapsed());
    }
    proxy.signal(rustix::process::Signal::INT);
    assert_eq!(asking.join().unwrap(), 403);
}

/// Strangers on this machine connect and say nothing, with and without TLS, until the proxy has no file left.
#[test]
fn strangers_do_not_keep_the_owner_out() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let home = Home::new();
    let api = ApiServer::start(|_| plain(200, "text/plain", "ok"));
    let proxy = Proxy::before(&home, &api);
    prlimit(Some(Pid::from_child(&proxy.child)), Resource::Nofile, Rlimit { current: Some(256), maximum: Some(256) })
        .unwrap();
    let held = proxy.runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..400 {
            // One that gets no answer is as good as one that does.
            let connected = tokio::time::timeout(Duration::from_millis(50), proxy.connect(b"http/1.1")).await;
            held.extend(connected);
        }
        held
    });
    let silent: Vec<_> = (0..400).map(|_| TcpStream::connect(proxy.address()).unwrap()).collect();
    let began = Instant::now();
    assert_eq!(proxy.get("/api").body, b"ok");
    assert!(began.elapsed() < Duration::from_secs(8), "the owner has waited for {:?}", began.elapsed());
    drop((held, silent));
}

/// All of them are strangers at first, and none is cut off.
#[test]
fn many_at_once_may_come_in() {
    let home = Home::new();
    let api = ApiServer::start(|_| plain(200, "text/plain", "ok"));
    let proxy = Arc::new(Proxy::before(&home, &api));
    let come_in = || {
        let one = Arc::clone(&proxy);
        proxy.runtime.spawn(async move {
            let mut stream = one.connect(b"http/1.1").await;
            let (host, token) = (one.address(), &one.token);
            let get = format!("GET /api HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n");
            stream.write_all(get.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
        })
    };
    let all: Vec<_> = (0..200).map(|_| come_in()).collect();
    for one in all {
        proxy.runtime.block_on(one).unwrap();
    }
}

/// Who has shown that they know the secret stays, however long they say nothing.
#[test]
fn who_does_not_show_the_secret_in_time_is_turned_away() {
    let home = Home::new();
    let api = ApiServer::start(|_| plain(200, "text/plain", "ok"));
    let proxy = Proxy::before(&home, &api);
    proxy.runtime.block_on(async {
        let mut stranger = proxy.connect(b"http/1.1").await;
        let host = proxy.address();
        stranger.write_all(format!("GET /api HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        let mut known = proxy.connect(b"http/1.1").await;
        let get = format!("GET /api HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n", proxy.token);
        known.write_all(get.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), stranger.read_to_end(&mut all)).await;
        assert!(end.is_ok(), "still connected");
        assert!(all.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&all));
        known.write_all(get.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        known.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    });
}

#[test]
fn a_time_that_never_comes_is_no_end() {
    let home = Home::new();
    let api = ApiServer::start(|_| plain(200, "text/plain", "ok"));
    kubeconfig(&home, &cluster_of(&api));
    let mut proxy = Proxy::start(&home, &["--for", &u64::MAX.to_string()]);
    assert_eq!(proxy.get("/api").body, b"ok");
    let said = proxy.end();
    assert!(!said.contains("panicked"), "{said}");
}

/// No prompt is on the screen that Ctrl-C could decline: another command's is waited for, or the provider.
#[test]
fn ctrl_c_ends_a_proxy_that_waits_for_something_else_than_a_person() {
    for waits_for in ["a lock", "the provider"] {
        let home = Home::new();
        home.server.protect("secrets", "ch-1", None, None);
        let api = ApiServer::start(elevated_only("get secrets/db -n prod", "read-secrets"));
        let mut proxy = Proxy::before(&home, &api);
        let name = "p".parse().unwrap();
        let profile = stepup::client::profile::Profile::load(&Paths::under(&home.path("")), &name).unwrap();
        let lock = profile.prompt_lock();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let _held = if waits_for == "a lock" {
            std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
            Some(stepup::client::lock::Lock::take(&lock, Duration::from_secs(1), None).unwrap())
        } else {
            let mut settings = home.read("config/profiles/p.json");
            settings["issuer"] = json!(format!("http://{}", silent.local_addr().unwrap()));
            home.write("config/profiles/p.json", &settings);
            let mut session = home.read("cache/p/session.json");
            session["issuer"] = settings["issuer"].clone();
            home.write("cache/p/session.json", &session);
            proxy = Proxy::before(&home, &api);
            None
        };
        let request = proxy.request("GET", &format!("{SECRETS}/db")).body(empty()).unwrap();
        proxy.runtime.block_on(async {
            let stream = TokioIo::new(proxy.connect(b"h2").await);
            let (mut client, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            tokio::spawn(async move { client.send_request(request).await });
            while home.server.asked().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        });
        proxy.signal(rustix::process::Signal::INT);
        assert!(proxy.ends(), "it still waits for {waits_for}");
    }
}

/// The first Ctrl-C declines, and whoever is in a hurry presses it twice.
#[test]
fn a_second_ctrl_c_at_a_prompt_ends_the_proxy() {
    let home = Home::builder().manners(|manners| manners.ignores = true).build();
    home.server.protect("secrets", "ch-1", None, None);
    let api = ApiServer::start(elevated_only("get secrets/db -n prod", "read-secrets"));
    let mut proxy = Proxy::before(&home, &api);
    let request = proxy.request("GET", &format!("{SECRETS}/db")).body(empty()).unwrap();
    proxy.runtime.block_on(async {
        let stream = TokioIo::new(proxy.connect(b"h2").await);
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move { client.send_request(request).await });
        while home.provider.polls() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    proxy.signal(rustix::process::Signal::INT);
    thread::sleep(Duration::from_millis(20));
    proxy.signal(rustix::process::Signal::INT);
    assert!(proxy.ends(), "it goes on");
}

/// What is typed after a question was declined is for the program that runs.
#[test]
fn a_declined_question_eats_nothing_of_what_is_typed_later() {
    let home = Home::builder().prompt("auto").build();
    home.server.protect("secrets", "ch-1", None, None);
    home.server.demand_reason("OPS-");
    home.server.want_reason_for("secrets");
    let api = ApiServer::start(elevated_only("get secrets/db -n prod", "read-secrets"));
    kubeconfig(&home, &cluster_of(&api));
    let (config, declined) = (home.path("kubeconfig"), home.path("declined"));
    // The terminal's Ctrl-C reaches the program too, which is no friend of it.
    let program = format!(
        "trap \"\" INT; cp $KUBECONFIG {through}.new; mv {through}.new {through}; while ! test -e {declined}; do sleep 0.05; done; \
         echo ready; read line </dev/tty; echo got-$line",
        through = home.path("through").display(),
        declined = declined.display()
    );
    let script = format!("KUBECONFIG='{}' \"$PLUGIN\" run -- sh -c '{program}'; echo $? >1.code", config.display());
    let mut terminal = home.shell_on_terminal(&script);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !home.path("through").exists() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(20));
    }
    let way = Way::of(&home.path("through"));
    let asking = thread::spawn(move || way.get(&format!("{SECRETS}/db")).status);
    terminal.expect("Reason");
    terminal.press("\x03");
    assert_eq!(asking.join().unwrap(), 403);
    home.write("declined", &json!(true));
    terminal.expect("ready");
    terminal.type_line("hello");
    terminal.expect("got-hello");
    assert_eq!(home.provider.device_requests().len(), 0);
}
