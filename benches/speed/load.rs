//! The load: connections that keep asking, each one request at a time, as the API server's webhook clients do.
//!
//! HTTP/1.1 is spoken by hand, so that the load costs much less than the server and one processor of load fills one
//! processor of server.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::CONTENT_TYPE;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lab::pki::Pki;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::floor::certificates;
use crate::machine;
use crate::stats::Samples;

/// How long the server may get used to a load before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// What is asked.
#[derive(Clone, Debug)]
pub struct Load {
    /// Path of the request.
    pub path: String,
    /// Bodies, sent in turn.
    pub bodies: Arc<Vec<Body>>,
    /// What every answer has in its body.
    pub expected: &'static str,
    /// How it is asked.
    pub protocol: Protocol,
    /// Requests at a time.
    pub at_a_time: usize,
    /// For how long.
    pub duration: Duration,
}

/// The protocol of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A connection for each request at a time: what the API server's admission webhooks use.
    Http1,
    /// One connection with a stream for each request at a time: what its authorization webhook uses.
    Http2,
}

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    /// Time of each request.
    pub latencies: Samples,
    /// Requests a second.
    pub rate: f64,
    /// Share of one processor that the server used.
    pub server_share: f64,
}

impl Outcome {
    /// Requests a second of the server's processor time: what a noisy neighbour or a slow load does not change.
    pub fn rate_of_full_core(&self) -> f64 {
        self.rate / self.server_share
    }
}

/// In place of this a body gets a number that no other request has.
pub const UNIQUE: &str = "0000000000000000";

/// The body of a request.
#[derive(Clone, Debug)]
pub struct Body {
    text: Vec<u8>,
    unique: Option<usize>,
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self { unique: text.find(UNIQUE), text: text.into_bytes() }
    }
}

impl Body {
    /// As request `count` of task `number` sends it.
    fn write(&self, number: usize, count: usize, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend_from_slice(&self.text);
        if let Some(place) = self.unique {
            let place = start + place;
            to[place..place + UNIQUE.len()].copy_from_slice(format!("{number:06x}{count:010x}").as_bytes());
        }
    }
}

/// Puts the load on the server with process id `pid` at `port`.
pub fn run(pki: &Pki, port: u16, pid: i32, load: &Load) -> Result<Outcome> {
    let (_, processors) = machine::split()?;
    let all = machine::processors()?;
    machine::pin(&processors)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(processors.len()).enable_all().build()?;
    let outcome = runtime.block_on(drive(pki, port, pid, load));
    machine::pin(&all)?;
    outcome
}

async fn drive(pki: &Pki, port: u16, pid: i32, load: &Load) -> Result<Outcome> {
    let tls = Arc::new(tls(pki, load.protocol)?);
    let begin = Instant::now() + WARM_UP;
    let end = begin + load.duration;
    let mut tasks = Vec::new();
    let shared = match load.protocol {
        Protocol::Http1 => None,
        Protocol::Http2 => Some(Http2::connect(&tls, port).await?),
    };
    for number in 0..load.at_a_time {
        let (load, tls, shared) = (load.clone(), Arc::clone(&tls), shared.clone());
        tasks.push(tokio::spawn(async move {
            let client = match shared {
                Some(http2) => Client::Http2(http2),
                None => Client::Http1(Http1::connect(&tls, port).await?),
            };
            client.ask_until(end, begin, number, &load).await
        }));
    }
    tokio::time::sleep_until(begin.into()).await;
    let used_before = machine::processor_time(pid)?;
    tokio::time::sleep_until(end.into()).await;
    let used = machine::processor_time(pid)?.saturating_sub(used_before);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    ensure!(!latencies.is_empty(), "no request was answered");
    let seconds = load.duration.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a number of requests")]
    let rate = latencies.len() as f64 / seconds;
    Ok(Outcome { latencies: latencies.into(), rate, server_share: used.as_secs_f64() / seconds })
}

enum Client {
    Http1(Http1),
    Http2(Http2),
}

impl Client {
    /// Asks one request after the other; gives the times of those that ended between `begin` and `end`.
    async fn ask_until(mut self, end: Instant, begin: Instant, number: usize, load: &Load) -> Result<Vec<Duration>> {
        let (mut latencies, mut body) = (Vec::new(), Vec::new());
        // Each task starts elsewhere, so that they do not ask the same at the same time.
        for count in number.. {
            body.clear();
            load.bodies[(number * 7 + count) % load.bodies.len()].write(number, count, &mut body);
            let asked = Instant::now();
            let answer = match &mut self {
                Self::Http1(client) => client.ask(&load.path, &body).await?,
                Self::Http2(client) => client.ask(&load.path, Bytes::copy_from_slice(&body)).await?,
            };
            let answered = Instant::now();
            if !contains(&answer, load.expected.as_bytes()) {
                bail!("expected {:?}, got {}", load.expected, String::from_utf8_lossy(&answer));
            }
            if answered >= end {
                break;
            }
            if answered >= begin {
                latencies.push(answered - asked);
            }
        }
        Ok(latencies)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// One HTTP/1.1 connection.
struct Http1 {
    stream: TlsStream<TcpStream>,
    request: Vec<u8>,
    received: Vec<u8>,
}

impl Http1 {
    async fn connect(tls: &Arc<rustls::ClientConfig>, port: u16) -> Result<Self> {
        Ok(Self { stream: connect(tls, port).await?, request: Vec::new(), received: Vec::new() })
    }

    async fn ask(&mut self, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.request.clear();
        self.request.extend_from_slice(
            format!(
                "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: kube-apiserver-admission\r\n\
                 Accept: application/json, */*\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .as_bytes(),
        );
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await?;
        self.stream.flush().await?;
        self.received.clear();
        let head_end = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the server closed the connection");
        };
        let head = std::str::from_utf8(&self.received[..head_end])?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&self.received));
        let length: usize = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .context("an answer without a length")?
            .1
            .trim()
            .parse()?;
        while self.received.len() < head_end + length {
            ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the server closed the connection");
        }
        Ok(self.received[head_end..head_end + length].to_vec())
    }
}

/// One HTTP/2 connection, for all.
#[derive(Clone)]
struct Http2(http2::SendRequest<Full<Bytes>>);

impl Http2 {
    async fn connect(tls: &Arc<rustls::ClientConfig>, port: u16) -> Result<Self> {
        let stream = connect(tls, port).await?;
        let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(requests))
    }

    async fn ask(&mut self, path: &str, body: Bytes) -> Result<Vec<u8>> {
        let request = hyper::Request::post(format!("https://127.0.0.1{path}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let answer = self.0.send_request(request).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(answer.into_body().collect().await?.to_bytes().to_vec())
    }
}

async fn connect(tls: &Arc<rustls::ClientConfig>, port: u16) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(TlsConnector::from(Arc::clone(tls)).connect(ServerName::try_from("127.0.0.1")?, stream).await?)
}

fn tls(pki: &Pki, protocol: Protocol) -> Result<rustls::ClientConfig> {
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(certificates(&pki.ca)?);
    let key = PrivateKeyDer::from_pem_slice(&std::fs::read(Path::new(&pki.webhook_client.key))?)?;
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_client_auth_cert(certificates(&pki.webhook_client.certificate)?, key)?;
    config.alpn_protocols = vec![match protocol {
        Protocol::Http1 => b"http/1.1".to_vec(),
        Protocol::Http2 => b"h2".to_vec(),
    }];
    Ok(config)
}
