//! The API server, as the proxy reaches it: one TLS client with its own pool of connections.
//!
//! HTTP/2 requests share connections, up to a number of streams that every server allows; HTTP/1.1 connections serve one
//! request at a time. A connection that is to be upgraded (exec, port-forward) is always a new one that speaks HTTP/1.1.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderValue};
use hyper::service::Service as _;
use hyper::{Request, Response, Uri, Version};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::Playing;
use super::gate;
use crate::client::error::Error;
use crate::client::kubeconfig::Cluster;
use crate::client::profile;

/// As patient as client-go.
const CONNECT: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams of one connection: the API server's limit since CVE-2023-44487, and the least that RFC 9113 recommends.
const STREAMS: usize = 100;
/// As client-go: a connection that is silent for so long is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(15);
/// How much may be under way to us in one stream, and in all of a connection's: enough for a fast line.
pub const STREAM_WINDOW: u32 = 4 << 20;
pub const CONNECTION_WINDOW: u32 = 16 << 20;
/// Idle HTTP/1.1 connections that are kept.
const IDLE: usize = 32;

/// The API server.
pub struct Upstream {
    /// Scheme and authority of its URL.
    base: Uri,
    host: HeaderValue,
    /// Path of its URL, without a slash at the end.
    prefix: String,
    tls: Option<Tls>,
    dial: Dial,
    http2: Mutex<Vec<Http2>>,
    http1: Arc<Mutex<Vec<http1::SendRequest<Playing>>>>,
    /// How long a connection may take, and the TLS handshake after it.
    limits: (Duration, Duration),
    /// One connection at a time, so that the requests of a busy moment share it; or the failure, when that attempt began
    /// and what came of it.
    opening: tokio::sync::Mutex<Option<(Instant, String)>>,
    /// Whether there is nothing to share.
    speaks_http1: AtomicBool,
}

struct Tls {
    any: TlsConnector,
    http1: TlsConnector,
    name: ServerName<'static>,
}

#[derive(Clone)]
enum Dial {
    Direct(HttpConnector),
    Tunnel(Box<Tunnel<HttpConnector>>),
    Socks(Box<SocksV5<HttpConnector>>),
}

#[derive(Clone)]
struct Http2 {
    sender: http2::SendRequest<Playing>,
    streams: Arc<()>,
}

/// Held for as long as an answer is on its way: it counts as a stream of its connection.
#[derive(Clone, Debug, Default)]
pub struct InFlight(#[allow(dead_code, reason = "it is counted, not read")] Option<Arc<()>>);

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no connection.
    #[error("cannot connect to the API server {server}: {why}")]
    Connect {
        /// Host and port.
        server: String,
        /// Why.
        why: String,
    },
    /// The connection broke off after the request was sent.
    #[error("the connection to the API server {server} broke off: {source}")]
    Broken {
        /// Host and port.
        server: String,
        /// Why.
        source: hyper::Error,
        /// Whether it had served other requests: the server may have closed it in that very moment.
        was_used: bool,
    },
}

impl Failure {
    /// Whether the server has certainly not looked at the request (RFC 9113, section 8.7): it was about to close the
    /// connection, as API servers do now and then to spread their clients (`--goaway-chance`).
    pub fn is_unseen(&self) -> bool {
        let Self::Broken { source, .. } = self else { return false };
        let error = std::error::Error::source(source).and_then(|source| source.downcast_ref::<h2::Error>());
        error.is_some_and(|error| match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => true,
            Some(h2::Reason::NO_ERROR) => error.is_go_away(),
            _ => false,
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Connection {
    Http1(http1::SendRequest<Playing>, bool),
    Http2(Http2, bool),
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.base)
    }
}

impl Upstream {
    /// The API server of a kubeconfig's cluster.
    pub fn new(cluster: &Cluster) -> Result<Self, Error> {
        let failed = |problem: String| Error::Failed(format!("cluster {:?}: {problem}", cluster.name));
        let bad_url = || failed(format!("server {:?} is not a URL that starts with https://", cluster.server));
        let uri: Uri = cluster.server.parse().map_err(|_| bad_url())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(bad_url()) };
        // The base token goes there.
        let url = cluster.server.parse().map_err(|_| bad_url())?;
        profile::secure_url("server", &url).map_err(failed)?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if scheme == "https" {
            let name = cluster.tls_server_name.clone().unwrap_or_else(|| host.clone());
            let name = ServerName::try_from(name).map_err(|error| failed(error.to_string()))?;
            Some(Tls {
                any: TlsConnector::from(Arc::new(tls(cluster, &[b"h2", b"http/1.1"]).map_err(failed)?)),
                http1: TlsConnector::from(Arc::new(tls(cluster, &[b"http/1.1"]).map_err(failed)?)),
                name,
            })
        } else {
            None
        };
        let base = format!("{scheme}://{authority}/").parse().map_err(|_| bad_url())?;
        Ok(Self {
            host: HeaderValue::from_str(authority.as_str()).map_err(|_| bad_url())?,
            dial: Dial::to(&base, cluster.proxy_url.as_deref()).map_err(failed)?,
            base,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            tls,
            http2: Mutex::default(),
            http1: Arc::default(),
            limits: (CONNECT, HANDSHAKE),
            opening: tokio::sync::Mutex::default(),
            speaks_http1: AtomicBool::new(false),
        })
    }

    /// What all paths begin with, where it is not at the root of its host.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Sends a request whose target is a path with its query, on any connection.
    pub async fn send(&self, request: Request<Playing>) -> Result<(Response<Incoming>, InFlight), Failure> {
        let mut request = Some(request);
        loop {
            let connection = self.connection().await?;
            let Some(sending) = request.take() else { unreachable!("taken below, and put back before it goes on") };
            let (outcome, was_used) = match connection {
                Connection::Http2(Http2 { mut sender, streams }, was_used) => {
                    let outcome = sender.try_send_request(self.for_http2(sending)).await;
                    (outcome.map(|answer| (answer, InFlight(Some(streams)))), was_used)
                }
                Connection::Http1(mut sender, was_used) => {
                    let outcome = sender.try_send_request(self.for_http1(sending)).await;
                    if outcome.is_ok() {
                        self.give_back(sender);
                    }
                    (outcome.map(|answer| (answer, InFlight::default())), was_used)
                }
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(mut error) => match error.take_message() {
                    // It has not left: the connection was closed meanwhile, and another will do.
                    Some(unsent) if was_used => request = Some(unsent),
                    _ => return Err(self.broken(error.into_error(), was_used)),
                },
            }
        }
    }

    /// Sends a request that asks for another protocol, on a connection of its own.
    pub async fn send_upgrade(&self, request: Request<Playing>) -> Result<Response<Incoming>, Failure> {
        let connection = self.open(true).await.map_err(|why| self.cannot_connect(why))?;
        let Connection::Http1(mut sender, _) = connection else {
            return Err(self.cannot_connect("it speaks HTTP/2 only".to_owned()));
        };
        sender.send_request(self.for_http1(request)).await.map_err(|source| self.broken(source, false))
    }

    async fn connection(&self) -> Result<Connection, Failure> {
        if let Some(connection) = self.pooled() {
            return Ok(connection);
        }
        if self.speaks_http1.load(Ordering::Relaxed) {
            return self.open(false).await.map_err(|why| self.cannot_connect(why));
        }
        let since = Instant::now();
        let mut last_failure = self.opening.lock().await;
        if let Some(connection) = self.pooled() {
            return Ok(connection);
        }
        // A server that is away is not waited for by one request after the other.
        if let Some((_, why)) = last_failure.as_ref().filter(|(began, _)| *began >= since) {
            return Err(self.cannot_connect(why.clone()));
        }
        let began = Instant::now();
        let opened = self.open(false).await;
        *last_failure = opened.as_ref().err().map(|why| (began, why.clone()));
        opened.map_err(|why| self.cannot_connect(why))
    }

    fn pooled(&self) -> Option<Connection> {
        let mut http2 = lock(&self.http2);
        http2.retain(|connection| !connection.sender.is_closed());
        let free = http2.iter().find(|connection| Arc::strong_count(&connection.streams) <= STREAMS);
        if let Some(free) = free {
            // One reference is the pool's own, one is ours from now on.
            return Some(Connection::Http2(free.clone(), true));
        }
        let mut http1 = lock(&self.http1);
        while let Some(sender) = http1.pop() {
            if sender.is_ready() {
                return Some(Connection::Http1(sender, true));
            }
        }
        None
    }

    /// Once its answer has been read to the end, the connection can serve another request.
    fn give_back(&self, mut sender: http1::SendRequest<Playing>) {
        let pool = Arc::clone(&self.http1);
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = lock(&pool);
                idle.retain(|sender| !sender.is_closed());
                if idle.len() < IDLE {
                    idle.push(sender);
                }
            }
        });
    }

    /// Opens a connection, or says why there is none.
    async fn open(&self, only_http1: bool) -> Result<Connection, String> {
        let too_late = |_| "no answer in time".to_owned();
        let (connect, handshake) = self.limits;
        // Of all of it: a name to look up, and what a proxy on the way has to say, have no limits of their own.
        let stream = tokio::time::timeout(connect, self.dial.dial(&self.base)).await.map_err(too_late)??;
        let (stream, is_http2): (Box<dyn Stream>, bool) = match &self.tls {
            None => (Box::new(stream), false),
            Some(tls) => {
                let connector = if only_http1 { &tls.http1 } else { &tls.any };
                let shaken = tokio::time::timeout(handshake, connector.connect(tls.name.clone(), stream)).await;
                let stream = shaken.map_err(too_late)?.map_err(|error| error.to_string())?;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Box::new(stream), is_http2)
            }
        };
        let failed = |error: hyper::Error| error.to_string();
        let io = TokioIo::new(stream);
        if is_http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(64 << 10)
                .keep_alive_interval(SILENCE)
                .keep_alive_timeout(PING)
                .handshake(io)
                .await
                .map_err(failed)?;
            tokio::spawn(connection);
            let http2 = Http2 { sender, streams: Arc::new(()) };
            lock(&self.http2).push(http2.clone());
            return Ok(Connection::Http2(http2, false));
        }
        let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
        if !only_http1 {
            self.speaks_http1.store(true, Ordering::Relaxed);
        }
        tokio::spawn(connection.with_upgrades());
        Ok(Connection::Http1(sender, false))
    }

    fn for_http2(&self, mut request: Request<Playing>) -> Request<Playing> {
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(HOST);
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = request.uri().path_and_query().cloned().or(parts.path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request
    }

    fn for_http1(&self, mut request: Request<Playing>) -> Request<Playing> {
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert(HOST, self.host.clone());
        // A request that was to go by HTTP/2 first.
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).parse();
        if let Ok(uri) = target {
            *request.uri_mut() = uri;
        }
        request
    }

    fn cannot_connect(&self, why: String) -> Failure {
        Failure::Connect { server: self.server(), why }
    }

    fn broken(&self, source: hyper::Error, was_used: bool) -> Failure {
        Failure::Broken { server: self.server(), source, was_used }
    }

    fn server(&self) -> String {
        self.base.authority().map(ToString::to_string).unwrap_or_default()
    }
}

impl Dial {
    /// The way there: through the cluster's own proxy, else through that of the environment, else straight.
    fn to(base: &Uri, proxy_url: Option<&str>) -> Result<Self, String> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_keepalive(Some(SILENCE));
        let bad = || format!("proxy-url {:?} is not one that can be used", hide_password(proxy_url));
        let matcher = match proxy_url {
            Some(url) => Matcher::builder().all(url.to_owned()).build(),
            None => Matcher::from_env(),
        };
        // As Go has it: this very machine is never behind a proxy of the environment.
        let is_here = matches!(base.host(), Some("localhost" | "[::1]"))
            || base.host().and_then(|host| host.parse().ok()).is_some_and(|ip: std::net::IpAddr| ip.is_loopback());
        let Some(proxy) = matcher.intercept(base).filter(|_| proxy_url.is_some() || !is_here) else {
            return if proxy_url.is_some() { Err(bad()) } else { Ok(Self::Direct(connector)) };
        };
        match proxy.uri().scheme_str() {
            Some("http") => {
                let tunnel = Tunnel::new(proxy.uri().clone(), connector);
                Ok(Self::Tunnel(Box::new(match proxy.basic_auth() {
                    Some(credentials) => tunnel.with_auth(credentials.clone()),
                    None => tunnel,
                })))
            }
            Some(scheme @ ("socks5" | "socks5h")) => {
                let socks = SocksV5::new(proxy.uri().clone(), connector).local_dns(scheme == "socks5");
                Ok(Self::Socks(Box::new(match proxy.raw_auth() {
                    Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
                    None => socks,
                })))
            }
            Some(scheme) => Err(format!("a proxy of scheme {scheme}:// is not supported: http:// and socks5:// are")),
            None => Err(bad()),
        }
    }

    async fn dial(&self, to: &Uri) -> Result<TcpStream, String> {
        let stream = match self {
            Self::Direct(connector) => {
                TowerToHyperService::new(connector.clone()).call(to.clone()).await.map_err(|error| innermost(&error))
            }
            Self::Tunnel(tunnel) => {
                let connected = TowerToHyperService::new((**tunnel).clone()).call(to.clone()).await;
                connected.map_err(|error| format!("through the proxy: {}", innermost(&error)))
            }
            Self::Socks(socks) => {
                let connected = TowerToHyperService::new((**socks).clone()).call(to.clone()).await;
                connected.map_err(|error| format!("through the proxy: {}", innermost(&error)))
            }
        };
        stream.map(TokioIo::into_inner)
    }
}

fn hide_password(url: Option<&str>) -> String {
    let url = url.unwrap_or_default();
    url.rsplit_once('@').map_or(url, |(_, rest)| rest).to_owned()
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tls(cluster: &Cluster, alpn: &[&[u8]]) -> Result<ClientConfig, String> {
    let provider = Arc::new(gate::quick(aws_lc_rs::default_provider()));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = if cluster.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth()
    } else if let Some(pem) = &cluster.authorities {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("certificate-authority: {error}"))?;
            roots.add(certificate).map_err(|error| format!("certificate-authority: {error}"))?;
        }
        if roots.is_empty() {
            return Err("certificate-authority: there is no PEM certificate in it".to_owned());
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        builder.with_platform_verifier().map_err(|error| error.to_string())?.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// `insecure-skip-tls-verify`: the kubeconfig says that anybody may be the API server.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(server: &str, proxy_url: Option<&str>) -> Result<Upstream, String> {
        let cluster = Cluster {
            name: "c".to_owned(),
            server: server.to_owned(),
            insecure: true,
            proxy_url: proxy_url.map(ToOwned::to_owned),
            ..Cluster::default()
        };
        Upstream::new(&cluster).map_err(|error| error.to_string())
    }

    #[test]
    fn tokens_go_nowhere_that_is_not_secure() {
        for server in ["https://a", "https://[2001:db8::1]:6443/k8s", "http://127.0.0.1:8080", "http://localhost:1"] {
            assert!(upstream(server, None).is_ok(), "{server}");
        }
        for server in ["http://a", "a:6443", "ftp://a", "https://", "", "unix:///x"] {
            assert!(upstream(server, None).is_err(), "{server}");
        }
    }

    #[test]
    fn a_cluster_may_have_a_proxy_of_its_own() {
        assert!(matches!(upstream("https://a", Some("http://u:p@p:1")).unwrap().dial, Dial::Tunnel(_)));
        assert!(matches!(upstream("https://127.0.0.1:1", Some("socks5://p:1")).unwrap().dial, Dial::Socks(_)));
        let refused = upstream("https://a", Some("https://u:hunter2@p:1")).unwrap_err();
        assert!(refused.contains("not supported") && !refused.contains("hunter2"), "{refused}");
        assert!(upstream("https://a", Some("")).is_err());
    }

    /// Asks for so many connections at once from somebody who takes them and says nothing; how often it was tried.
    fn tries_of(requests: usize, server: &str, proxy_url: Option<&str>, silent: std::net::TcpListener) -> usize {
        let mut upstream = upstream(server, proxy_url).unwrap();
        upstream.limits = (Duration::from_millis(100), Duration::from_millis(100));
        silent.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let silent = tokio::net::TcpListener::from_std(silent).unwrap();
            let taken = tokio::spawn(async move {
                let mut taken = Vec::new();
                while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::from_secs(2), silent.accept()).await {
                    taken.push(stream);
                }
                taken.len()
            });
            let upstream = Arc::new(upstream);
            let asked: Vec<_> = (0..requests)
                .map(|_| {
                    let upstream = Arc::clone(&upstream);
                    tokio::spawn(async move { upstream.connection().await.err().map(|failure| failure.to_string()) })
                })
                .collect();
            for one in asked {
                let told = one.await.unwrap().unwrap();
                assert!(told.contains("no answer in time"), "{told}");
            }
            taken.await.unwrap()
        })
    }

    #[test]
    fn a_server_that_is_away_is_waited_for_by_all_at_once() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", silent.local_addr().unwrap());
        // Those who came while it was tried first share what came of the second try.
        let tries = tries_of(20, &url, None, silent);
        assert!(tries <= 2, "it was tried {tries} times");
    }

    #[test]
    fn a_proxy_that_says_nothing_is_not_waited_for_for_ever() {
        for scheme in ["http", "socks5"] {
            let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let proxy = format!("{scheme}://{}", silent.local_addr().unwrap());
            assert_eq!(tries_of(1, "https://192.0.2.1", Some(&proxy), silent), 1);
        }
    }

    #[test]
    fn requests_are_addressed_to_the_api_server() {
        let upstream = upstream("https://api:6443/k8s", None).unwrap();
        let request = || {
            let request = Request::get("https://127.0.0.1:9/k8s/api?watch=1").header(HOST, "127.0.0.1:9");
            request.body(super::super::body::Kept::<Incoming>(None).play()).unwrap()
        };
        let http1 = upstream.for_http1(request());
        assert_eq!((http1.uri().to_string().as_str(), &http1.headers()[HOST]), ("/k8s/api?watch=1", &upstream.host));
        let http2 = upstream.for_http2(request());
        assert_eq!(http2.uri(), "https://api:6443/k8s/api?watch=1");
        assert!(!http2.headers().contains_key(HOST));
    }
}
