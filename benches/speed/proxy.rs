//! Part 6: what `kubectl stepup proxy` costs, against a direct connection: to the lab's API server, which is what people
//! have, and to a server that does nothing at all, where there is nothing to hide behind.

#![allow(clippy::cast_precision_loss, reason = "numbers of requests and bytes")]

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http2 as client;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lab::pki::Pki;
use lab::process::{Daemon, await_that, free_ports};
use lab::role::Tie;
use lab::{Lab, Session};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use stepup::client::cache;
use stepup::client::paths::Paths;
use stepup::client::profile::Profile;
use stepup::secret::Secret;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::floor::certificates;
use crate::machine;
use crate::report::{self, Table, count, millis};
use crate::stats::Samples;

/// First argument that asks this program to be the server that does nothing.
pub const ROLE: &str = "bench-upstream";

const GETS: usize = 10_000;
/// GETs of one round; rounds of both ways take turns, so that what slows the machine slows both.
const ROUND: usize = 500;
/// GETs at a time, on one connection: a busy controller, or a few tools.
const AT_A_TIME: usize = 10;
const STREAM: u64 = 1 << 30;
const STREAMS: usize = 5;
const PIECE: usize = 64 << 10;
const GET_AIM: f64 = 0.10;
const STREAM_AIM: f64 = 0.05;
const START_LIMIT: Duration = Duration::from_mins(1);
const WINDOW: u32 = 4 << 20;

/// Where to ask.
struct Way {
    authority: String,
    tls: TlsConnector,
    token: String,
}

/// Prints the table.
pub fn measure(directory: &Path, program: &Path, lab: &Lab, alice: &Session) -> Result<()> {
    report::part(&format!(
        "kubectl stepup proxy against a direct connection (TLS, HTTP/2): {} GETs, {AT_A_TIME} at a time, and streams of 1 GiB",
        count(GETS as f64)
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut table = Table::new(&["", "direct", "through the proxy", "more", "proxy CPU"]);
    let real = RealServer::start(lab, alice)?;
    let idle = IdleServer::start(directory, program)?;
    let gets = runtime.block_on(gets(
        &mut table,
        "API server: GET of a configmap",
        &real.direct,
        &real.proxied,
        real.pid,
        &real.get,
    ))?;
    let idle_gets = runtime.block_on(self::gets(
        &mut table,
        "idle server: GET of 1 KB",
        &idle.direct,
        &idle.proxied,
        idle.pid(),
        "/small",
    ))?;
    let stream = runtime.block_on(streams(
        &mut table,
        "API server: log of 1 GiB",
        &real.direct,
        &real.proxied,
        real.pid,
        &real.log,
    ))?;
    let idle_stream = runtime.block_on(streams(
        &mut table,
        "idle server: 1 GiB",
        &idle.direct,
        &idle.proxied,
        idle.pid(),
        "/stream",
    ))?;
    table.print();
    report::note(
        "the idle server answers from memory: the proxy has as much to do as server and client together, on the same processors",
    );
    for (what, more, aim) in [
        ("10,000 GETs of the API server", gets, GET_AIM),
        ("10,000 GETs of an idle server", idle_gets, GET_AIM),
        ("1 GiB from the API server", stream, STREAM_AIM),
        ("1 GiB from an idle server", idle_stream, STREAM_AIM),
    ] {
        report::aim(&format!("{what}: at most {:.0} % more time ({:+.1} %)", aim * 100.0, more * 100.0), more <= aim);
    }
    Ok(())
}

/// Adds a row; gives how much longer it takes through the proxy.
async fn gets(table: &mut Table, name: &str, direct: &Way, proxied: &Way, pid: i32, path: &str) -> Result<f64> {
    let (mut a, mut b) = (direct.connect().await?, proxied.connect().await?);
    let (mut direct_time, mut proxied_time) = (Vec::new(), Vec::new());
    let mut used = Duration::ZERO;
    // One round of each that does not count.
    for round in 0..=GETS / ROUND {
        let first = get_round(direct, &mut a, path).await?;
        let before = machine::processor_time(pid)?;
        let second = get_round(proxied, &mut b, path).await?;
        if round > 0 {
            direct_time.push(first);
            proxied_time.push(second);
            used += machine::processor_time(pid)?.saturating_sub(before);
        }
    }
    let per_request = |rounds: &[Duration]| rounds.iter().sum::<Duration>().div_f64(GETS as f64);
    let (direct_each, proxied_each) = (per_request(&direct_time), per_request(&proxied_time));
    let more = median_ratio(&direct_time, &proxied_time) - 1.0;
    table.row([
        name.to_owned(),
        format!("{} each", millis(direct_each)),
        format!("{} each", millis(proxied_each)),
        format!("{:+.1} %", more * 100.0),
        format!("{} each", millis(used.div_f64(GETS as f64))),
    ]);
    Ok(more)
}

async fn get_round(way: &Way, client: &mut Client, path: &str) -> Result<Duration> {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..AT_A_TIME {
        let (client, request) = (client.clone(), way.request(path)?);
        tasks.push(tokio::spawn(async move {
            for _ in 0..ROUND / AT_A_TIME {
                let answer = client.clone().send_request(request.clone()).await?;
                ensure!(answer.status().is_success(), "{}", answer.status());
                answer.into_body().collect().await?;
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(begun.elapsed())
}

async fn streams(table: &mut Table, name: &str, direct: &Way, proxied: &Way, pid: i32, path: &str) -> Result<f64> {
    let (mut a, mut b) = (direct.connect().await?, proxied.connect().await?);
    let (mut direct_time, mut proxied_time) = (Vec::new(), Vec::new());
    let mut used = Duration::ZERO;
    for _ in 0..STREAMS {
        direct_time.push(stream(direct, &mut a, path).await?);
        let before = machine::processor_time(pid)?;
        proxied_time.push(stream(proxied, &mut b, path).await?);
        used += machine::processor_time(pid)?.saturating_sub(before);
    }
    let more = median_ratio(&direct_time, &proxied_time) - 1.0;
    let rate = |times: Vec<Duration>| {
        format!("{} MB/s", count(STREAM as f64 / 1e6 / Samples::from(times).median().as_secs_f64()))
    };
    table.row([
        name.to_owned(),
        rate(direct_time),
        rate(proxied_time),
        format!("{:+.1} %", more * 100.0),
        format!("{:.2} s each", used.as_secs_f64() / STREAMS as f64),
    ]);
    Ok(more)
}

async fn stream(way: &Way, client: &mut Client, path: &str) -> Result<Duration> {
    let begun = Instant::now();
    let answer = client.send_request(way.request(path)?).await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    let (mut body, mut length) = (answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    ensure!(length == STREAM, "{length} bytes of {STREAM}");
    Ok(begun.elapsed())
}

fn median_ratio(direct: &[Duration], proxied: &[Duration]) -> f64 {
    let mut ratios: Vec<f64> = direct.iter().zip(proxied).map(|(a, b)| b.as_secs_f64() / a.as_secs_f64()).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

type Client = client::SendRequest<Empty<Bytes>>;

impl Way {
    fn new(url: &str, authority_pem: &[u8], token: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority_pem) {
            roots.add(certificate?)?;
        }
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let authority = url.strip_prefix("https://").context("no https URL")?.to_owned();
        Ok(Self { authority, tls: TlsConnector::from(Arc::new(config)), token: token.to_owned() })
    }

    /// The way that a kubeconfig of `kubectl stepup proxy` says.
    fn of(kubeconfig: &Path) -> Result<Self> {
        let config: Value = serde_json::from_slice(&fs::read(kubeconfig)?)?;
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned).context("no kubeconfig of a proxy");
        let cluster = &config["clusters"][0]["cluster"];
        let authority = STANDARD.decode(text(&cluster["certificate-authority-data"])?)?;
        Self::new(&text(&cluster["server"])?, &authority, &text(&config["users"][0]["user"]["token"])?)
    }

    async fn connect(&self) -> Result<Client> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        let host = self.authority.split(':').next().unwrap_or_default().to_owned();
        let stream = self.tls.connect(ServerName::try_from(host)?, stream).await?;
        let (client, connection) = client::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", self.token))?;
        bearer.set_sensitive(true);
        Ok(Request::get(format!("https://{}{path}", self.authority))
            .header(AUTHORIZATION, bearer)
            .header("accept", "application/json")
            .header("user-agent", "kubectl/v1.37.2 (linux/amd64)")
            .body(Empty::new())?)
    }
}

/// The lab's, with a proxy of alice's.
struct RealServer {
    direct: Way,
    proxied: Way,
    get: String,
    log: String,
    pid: i32,
    _proxy: Daemon,
}

impl RealServer {
    fn start(lab: &Lab, alice: &Session) -> Result<Self> {
        let namespace = lab.namespace("bench")?;
        let colours = json!({"data": {"colour": "blue".repeat(200)}});
        lab.admin(&["create", "configmap", "small", "-n", &namespace])?;
        lab.admin(&["patch", "configmap", "small", "-n", &namespace, "--patch", &colours.to_string()])?;
        lab.pod(&namespace, "stream", "node", &["zeros", &STREAM.to_string()])?;
        let model = alice.command("true");
        let proxy = start_proxy(alice.home(), &lab.program("kubectl-stepup"), |command| {
            for (name, value) in model.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
        })?;
        Ok(Self {
            direct: Way::new(&lab.api_server_url(), &fs::read(&lab.pki().ca)?, &alice.token()?)?,
            proxied: Way::of(&proxy.1)?,
            get: format!("/api/v1/namespaces/{namespace}/configmaps/small"),
            log: format!("/api/v1/namespaces/{namespace}/pods/stream/log"),
            pid: proxy.0.id().pid(),
            _proxy: proxy.0,
        })
    }
}

/// One that answers from memory, with a proxy whose person has just signed in.
struct IdleServer {
    direct: Way,
    proxied: Way,
    _server: Daemon,
    proxy: Daemon,
}

impl IdleServer {
    fn start(directory: &Path, program: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let pki = Pki::open(&directory.join("pki"))?;
        let [port] = free_ports()?;
        let me = std::env::current_exe()?;
        let mut server = Daemon::start("upstream", &me, Tie::ToParent, directory, |command| {
            command.arg(ROLE).arg(port.to_string()).arg(&pki.api_server.certificate).arg(&pki.api_server.key);
        })?;
        server.await_ready(START_LIMIT, || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).map(drop)?))?;
        let url = format!("https://127.0.0.1:{port}");
        let kubeconfig = json!({
            "current-context": "bench",
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            "clusters": [{"name": "bench", "cluster": {"server": url, "certificate-authority": pki.ca}}],
            "users": [{"name": "bench", "user": {"exec": {"command": "kubectl-stepup", "args": ["get-token", "--profile", "bench"]}}}],
        });
        fs::write(directory.join("kubeconfig"), kubeconfig.to_string())?;
        let issuer = "https://127.0.0.1:1";
        let name = "bench".parse().map_err(anyhow::Error::msg)?;
        let profile = Profile::new(&Paths::under(directory), &name, issuer, "bench");
        profile.save()?;
        let session = cache::Session {
            version: 1,
            base_token: Secret::new("a".repeat(1000)),
            base_expires_at: Utc::now().timestamp() + 3600,
            step_up_enabled: false,
            preflight: false,
            issuer: issuer.to_owned(),
            client_id: "bench".to_owned(),
            person: cache::Person { user: "bench".to_owned(), subject: "bench".to_owned() },
        };
        cache::write(&profile.files.session(), &session)?;
        let (proxy, out) = start_proxy(directory, program, |command| {
            command.env("KUBECTL_STEPUP_HOME", directory).env("KUBECONFIG", directory.join("kubeconfig"));
        })?;
        Ok(Self {
            direct: Way::new(&url, &fs::read(&pki.ca)?, session.base_token.expose())?,
            proxied: Way::of(&out)?,
            _server: server,
            proxy,
        })
    }

    fn pid(&self) -> i32 {
        self.proxy.id().pid()
    }
}

fn start_proxy(directory: &Path, program: &Path, arrange: impl FnOnce(&mut Command)) -> Result<(Daemon, PathBuf)> {
    let out = directory.join("proxy-kubeconfig");
    let mut proxy = Daemon::start("proxy", program, Tie::ToParent, directory, |command| {
        arrange(command);
        command.args(["proxy", "--kubeconfig-out"]).arg(&out);
    })?;
    proxy.await_ready(START_LIMIT, || Ok(fs::metadata(&out).map(drop)?))?;
    // It is there as soon as it is whole.
    await_that(START_LIMIT, || Way::of(&out).map(drop))?;
    Ok((proxy, out))
}

/// Plays the role of [`ROLE`].
pub fn serve(arguments: &[OsString]) -> Result<()> {
    let [port, certificate, key] = arguments else { anyhow::bail!("wrong arguments for the server") };
    let port: u16 = port.to_str().context("no port")?.parse()?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates(certificate.as_ref())?, PrivateKeyDer::from_pem_slice(&fs::read(key)?)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let io = TokioIo::new(stream);
                let builder = server::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(io, service_fn(answer)).await;
            });
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Zeros>>, Infallible> {
    static SMALL: [u8; 1024] = [b' '; 1024];
    let body = match request.uri().path() {
        "/stream" => Either::Right(Zeros(STREAM)),
        _ => Either::Left(Full::new(Bytes::from_static(&SMALL))),
    };
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// So many bytes.
struct Zeros(u64);

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; PIECE] = [0; PIECE];
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= PIECE as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}
