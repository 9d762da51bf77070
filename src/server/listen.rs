//! Connections: TLS, client certificates, limits and the end of them.
//!
//! A client certificate is optional at this level, because people and the API server meet at the same address; which
//! requests need one is for `http` to say, by the [`Peer`] that every request carries.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::config::{Config, Limits, WebhookClients};
use super::metrics::Metrics;

/// How long a connection may be open without a request. Longer than the API server keeps one that it does not use (90 s).
const IDLE: Duration = Duration::from_mins(2);
/// How long a connection that was asked to end may take.
const LINGER: Duration = Duration::from_secs(10);
/// Header fields of a request.
const MAX_HEADERS: usize = 64;
/// Header of a request, in bytes: room for one token of the largest accepted size, and all else.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 250;
/// Pause after a failed `accept`, most often for want of file descriptors: at once again would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection. An extension of every request, as `Arc<Peer>`.
#[derive(Debug)]
pub struct Peer {
    /// Network address.
    pub addr: SocketAddr,
    /// What its certificate says.
    pub webhook_client: WebhookClient,
}

/// Whether a peer may send reviews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookClient {
    /// It showed no certificate.
    NoCertificate,
    /// Its certificate is good and has none of the configured names, but these.
    OtherName(Vec<String>),
    /// It may, under this name.
    Allowed(String),
}

/// Why the server cannot be reached over TLS: a fault in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} {problem}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The TLS side of the configuration, read anew when its files change.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    clients: Option<WebhookClients>,
    current: RwLock<Loaded>,
}

#[derive(Clone, Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    digest: [u8; 32],
}

impl Tls {
    /// Reads the files.
    pub fn open(config: &Config) -> Result<Self, TlsError> {
        let (certificate, key, clients) =
            (config.tls.certificate.clone(), config.tls.key.clone(), config.webhook_clients.clone());
        let current = load(&TlsFiles::read(&certificate, &key, clients.as_ref())?)?;
        Ok(Self { certificate, key, clients, current: RwLock::new(current) })
    }

    /// Reads the files again. `true`: they have changed, and new connections get the new ones. After a failure the old
    /// ones stay.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let files = TlsFiles::read(&self.certificate, &self.key, self.clients.as_ref())?;
        if files.digest() == self.current().digest {
            return Ok(false);
        }
        let loaded = load(&files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }

    fn current(&self) -> Loaded {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The files with their content.
struct TlsFiles<'p> {
    certificate: (&'p PathBuf, Vec<u8>),
    key: (&'p PathBuf, zeroize::Zeroizing<Vec<u8>>),
    /// Nobody sends reviews where there is none.
    client_ca: Option<(&'p PathBuf, Vec<u8>)>,
}

impl<'p> TlsFiles<'p> {
    fn read(certificate: &'p PathBuf, key: &'p PathBuf, clients: Option<&'p WebhookClients>) -> Result<Self, TlsError> {
        let read = |path: &PathBuf| fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source });
        Ok(Self {
            certificate: (certificate, read(certificate)?),
            key: (key, zeroize::Zeroizing::new(read(key)?)),
            client_ca: match clients {
                Some(clients) => Some((&clients.ca, read(&clients.ca)?)),
                None => None,
            },
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let client_ca = self.client_ca.iter().map(|(_, content)| content);
        for content in [&self.certificate.1, &*self.key.1].into_iter().chain(client_ca) {
            digest.update((content.len() as u64).to_be_bytes());
            digest.update(content);
        }
        digest.finalize().into()
    }
}

fn load(files: &TlsFiles<'_>) -> Result<Loaded, TlsError> {
    let wrong = |path: &PathBuf, problem: String| TlsError::Content { path: path.clone(), problem };
    let provider = Arc::new(aws_lc_rs::default_provider());

    let verifier = match &files.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(client_ca) => {
            let mut authorities = RootCertStore::empty();
            authorities.add_parsable_certificates(certificates(client_ca)?);
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|error| wrong(client_ca.0, format!("cannot be used as a client CA: {error}")))?
        }
    };

    let key = PrivateKeyDer::from_pem_slice(&files.key.1)
        .map_err(|_| wrong(files.key.0, "holds no PEM private key".to_owned()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(files.certificate.0, format!("cannot be used: {error}")))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|error| wrong(files.certificate.0, format!("does not go with {}: {error}", files.key.0.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // No resumption: a client certificate is judged at every connection, by the authorities and the date of that moment.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded { config: Arc::new(config), digest: files.digest() })
}

fn certificates((path, content): &(&PathBuf, Vec<u8>)) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let problem = |problem: &str| TlsError::Content { path: (*path).clone(), problem: problem.to_owned() };
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(content).collect::<Result<_, _>>().map_err(|_| problem("is not PEM"))?;
    if certificates.is_empty() { Err(problem("holds no PEM certificate")) } else { Ok(certificates) }
}

/// What happens to the requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Where connections are counted.
    fn metrics(&self) -> &Metrics;

    /// Answers one request. Its extensions hold the `Arc<Peer>`.
    fn answer(&self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

/// Accepts connections until `stop` says so, and then waits for those that are open, for a bounded time.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    tls: Arc<Tls>,
    limits: &Limits,
    handler: H,
    mut stop: watch::Receiver<bool>,
) {
    // Two pools: whoever has shown the API server's certificate does not queue behind those who have not. Both pass
    // through the handshake, which nobody can draw out beyond `header_timeout`.
    let handshakes = Arc::new(Semaphore::new(limits.connections));
    let pools = Pools {
        webhooks: Arc::new(Semaphore::new(limits.connections)),
        others: Arc::new(Semaphore::new(limits.connections)),
    };
    // Every connection holds a sender; when all are gone, so are the connections.
    let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
    let common = Arc::new(Common { tls, limits: limits.clone(), pools, stop: stop.clone() });
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = admitted(&listener, &handshakes) => accepted,
        };
        let (stream, addr, handshake) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (common, handler, open) = (Arc::clone(&common), handler.clone(), open.clone());
        tokio::spawn(async move {
            connection(&common, stream, addr, handshake, handler).await;
            drop(open);
        });
    }
    drop((listener, open));
    if timeout(common.limits.request_timeout + LINGER, all_closed.recv()).await.is_err() {
        tracing::warn!("connections were still open at the end and are cut");
    }
}

async fn admitted(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(handshakes).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, addr) = listener.accept().await?;
    Ok((stream, addr, permit))
}

struct Common {
    tls: Arc<Tls>,
    limits: Limits,
    pools: Pools,
    stop: watch::Receiver<bool>,
}

struct Pools {
    webhooks: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

async fn connection<H: Handler>(
    common: &Arc<Common>,
    stream: TcpStream,
    addr: SocketAddr,
    handshake: OwnedSemaphorePermit,
    handler: H,
) {
    // Answers are small and each is awaited: nothing is gained by holding them back.
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(common.tls.current().config);
    let stream = match timeout(common.limits.header_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%addr, %error, "TLS handshake failed");
            return handler.metrics().connection_refused("handshake");
        }
        Err(_) => return handler.metrics().connection_refused("handshake_timeout"),
    };
    let webhook_client = webhook_client(&stream, common.tls.clients.as_ref());
    let pool = match webhook_client {
        WebhookClient::Allowed(_) => &common.pools.webhooks,
        _ => &common.pools.others,
    };
    let Ok(_connection) = Arc::clone(pool).try_acquire_owned() else {
        return handler.metrics().connection_refused("too_many");
    };
    drop(handshake);
    handler.metrics().connection_opened();
    requests(common, stream, Arc::new(Peer { addr, webhook_client }), handler.clone()).await;
    handler.metrics().connection_closed();
}

/// Serves the requests of one connection.
async fn requests<H: Handler>(common: &Arc<Common>, stream: TlsStream<TcpStream>, peer: Arc<Peer>, handler: H) {
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let activity = Arc::new(Activity::default());
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |request: Request<Incoming>| {
            let (handler, peer, busy) = (handler.clone(), Arc::clone(&peer), activity.begin());
            async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                let response = handler.answer(request).await;
                drop(busy);
                Ok::<_, Infallible>(response)
            }
        })
    };
    let io = TokioIo::new(stream);
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES)
            .keep_alive_interval(IDLE / 4)
            .keep_alive_timeout(LINGER)
            .serve_connection(io, service);
        until_done(common, connection, &activity).await;
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(common.limits.header_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEADER_BYTES as usize)
            .serve_connection(io, service);
        until_done(common, connection, &activity).await;
    }
}

/// Drives a connection until its peer ends it, it has been idle for long, or the server stops.
async fn until_done<C>(common: &Common, connection: C, activity: &Activity)
where
    C: GracefulConnection + Future<Output = Result<(), <C as GracefulConnection>::Error>>,
{
    let mut connection = pin!(connection);
    let mut stop = common.stop.clone();
    let over = async {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = activity.idle_for(IDLE) => {}
        }
    };
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = over => {}
    }
    Pin::as_mut(&mut connection).graceful_shutdown();
    let _ = timeout(common.limits.request_timeout + LINGER, connection).await;
}

/// How many requests a connection has under way, and how many it has had.
#[derive(Debug, Default)]
struct Activity {
    under_way: AtomicUsize,
    begun: AtomicUsize,
}

struct Busy(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Busy {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Returns when no request has been under way for `span`, give or take as much: a look at every `span` costs the
    /// requests nothing.
    async fn idle_for(&self, span: Duration) {
        let mut seen = self.begun.load(Ordering::Relaxed);
        loop {
            sleep(span).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == seen && self.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            seen = begun;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the verified certificate says. rustls has checked its chain, its dates and that it is for clients.
fn webhook_client(stream: &TlsStream<TcpStream>, clients: Option<&WebhookClients>) -> WebhookClient {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let (Some(certificate), Some(WebhookClients { names: allowed, .. })) = (certificate, clients) else {
        return WebhookClient::NoCertificate;
    };
    let names = names_of(certificate);
    match names.iter().find(|name| allowed.is_empty() || allowed.contains(name)) {
        Some(name) => WebhookClient::Allowed(name.clone()),
        None if allowed.is_empty() => WebhookClient::Allowed(String::new()),
        None => WebhookClient::OtherName(names),
    }
}

/// Common names and DNS names.
fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let dns = alternative.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    common.chain(dns).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;
    use tokio_rustls::client;

    use super::*;
    use crate::server::testing::{Authority, Issued, PATIENCE, config, connect, read_all, write_certificate};

    /// Answers with who asks; `/wait` waits to be let go.
    #[derive(Clone, Default)]
    struct Echo {
        metrics: Arc<Metrics>,
        waiting: Arc<Notify>,
        go: Arc<Notify>,
    }

    impl Handler for Echo {
        fn metrics(&self) -> &Metrics {
            &self.metrics
        }

        async fn answer(&self, request: Request<Body>) -> Response<Body> {
            if request.uri().path() == "/wait" {
                self.waiting.notify_one();
                self.go.notified().await;
            }
            let peer = request.extensions().get::<Arc<Peer>>().unwrap();
            Response::new(Body::from(format!("{:?} {:?}", request.version(), peer.webhook_client)))
        }
    }

    struct World {
        dir: tempfile::TempDir,
        servers: Authority,
        clients: Authority,
        tls: Arc<Tls>,
        addr: SocketAddr,
        handler: Echo,
        stop: watch::Sender<bool>,
        serving: JoinHandle<()>,
    }

    impl World {
        async fn new() -> Self {
            Self::with(|_| {}).await
        }

        async fn with(change: impl FnOnce(&mut Config)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
            write_certificate(dir.path(), &servers);
            fs::write(dir.path().join("client-ca.pem"), &clients.pem).unwrap();
            let mut config = config(dir.path(), Vec::new());
            change(&mut config);
            let tls = Arc::new(Tls::open(&config).unwrap());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let handler = Echo::default();
            let (stop, stopped) = watch::channel(false);
            let serving = {
                let (tls, handler) = (Arc::clone(&tls), handler.clone());
                tokio::spawn(async move { serve(listener, tls, &config.limits, handler, stopped).await })
            };
            Self { dir, servers, clients, tls, addr, handler, stop, serving }
        }

        async fn connect(&self, certificate: Option<&Issued>) -> io::Result<client::TlsStream<TcpStream>> {
            connect(self.addr, &self.servers, certificate).await
        }

        /// What the server says of a caller with this certificate.
        async fn seen(&self, certificate: Option<&Issued>) -> io::Result<String> {
            let mut stream = self.connect(certificate).await?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
            read_all(stream).await
        }
    }

    #[tokio::test]
    async fn a_caller_without_certificate_is_served_and_known_to_have_none() {
        let world = World::new().await;
        let seen = world.seen(None).await.unwrap();
        assert!(seen.ends_with("HTTP/1.1 NoCertificate"), "{seen}");
    }

    #[tokio::test]
    async fn the_api_server_is_known_by_common_name_or_dns_name() {
        for (allowed, certificate, expected) in [
            (vec![], ("kube-apiserver", vec![]), "Allowed(\"kube-apiserver\")"),
            (vec!["kube-apiserver"], ("kube-apiserver", vec![]), "Allowed(\"kube-apiserver\")"),
            (vec!["api.example.com"], ("x", vec!["api.example.com"]), "Allowed(\"api.example.com\")"),
            (vec!["kube-apiserver"], ("kubelet", vec!["node-1"]), "OtherName([\"kubelet\", \"node-1\"])"),
            (vec!["kube-apiserver"], ("KUBE-APISERVER", vec![]), "OtherName([\"KUBE-APISERVER\"])"),
            (vec!["kube"], ("kube-apiserver", vec!["*"]), "OtherName([\"kube-apiserver\", \"*\"])"),
        ] {
            let names = allowed.iter().map(ToString::to_string).collect();
            let world = World::with(|config| config.webhook_clients.as_mut().unwrap().names = names).await;
            let certificate = world.clients.issue(certificate.0, &certificate.1);
            let seen = world.seen(Some(&certificate)).await.unwrap();
            assert!(seen.ends_with(expected), "{seen}");
        }
    }

    #[tokio::test]
    async fn a_certificate_of_another_authority_does_not_get_through_the_handshake() {
        let world = World::new().await;
        for authority in [Authority::new("clients"), Authority::new("other")] {
            let forged = authority.issue("kube-apiserver", &[]);
            let outcome = world.seen(Some(&forged)).await;
            assert!(!outcome.is_ok_and(|seen| seen.contains("HTTP/1.1")));
        }
        assert!(world.handler.metrics.encode().contains("stepup_connections_refused_total{code=\"handshake\"} 2"));
    }

    #[tokio::test]
    async fn http2_is_offered() {
        let world = World::new().await;
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(world.servers.pem.as_bytes()).unwrap()])
            .build()
            .unwrap();
        let response = http.get(format!("https://{}", world.addr)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.text().await.unwrap().starts_with("HTTP/2.0"));
    }

    #[tokio::test]
    async fn who_does_not_finish_a_header_or_a_handshake_is_cut_off() {
        let world = World::with(|config| config.limits.header_timeout = Duration::from_millis(50)).await;
        let mut stream = world.connect(None).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        let answer = read_all(stream).await.unwrap();
        assert!(!answer.contains("200 OK"), "{answer}");

        let mut silent = TcpStream::connect(world.addr).await.unwrap();
        let mut nothing = Vec::new();
        timeout(PATIENCE, silent.read_to_end(&mut nothing)).await.unwrap().ok();
        assert!(world.handler.metrics.encode().contains("code=\"handshake_timeout\"} 1"));
    }

    #[tokio::test]
    async fn headers_have_a_bound_in_number_and_size() {
        let world = World::new().await;
        let many = "X-Many: y\r\n".repeat(200);
        let large = format!("X-Large: {}\r\n", "y".repeat(100_000));
        for header in [many, large] {
            let mut stream = world.connect(None).await.unwrap();
            // The server may close before it has read all of it.
            let _ = stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n").as_bytes()).await;
            let answer = read_all(stream).await.unwrap_or_default();
            assert!(!answer.contains("200 OK"), "{answer}");
        }
        assert!(world.seen(None).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_not_http_is_closed() {
        let world = World::new().await;
        let mut stream = world.connect(None).await.unwrap();
        stream.write_all(b"\x00\x01\x02 nonsense\r\n\r\n").await.unwrap();
        let answer = read_all(stream).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");

        let mut plain = TcpStream::connect(world.addr).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, plain.read_to_end(&mut answer)).await.unwrap().ok();
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn too_many_connections_are_closed_and_leave_room_for_the_api_server() {
        let world = World::with(|config| config.limits.connections = 2).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut stream = world.connect(None).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            stream.read_u8().await.unwrap();
            open.push(stream);
        }
        assert!(!world.seen(None).await.is_ok_and(|seen| seen.contains("200 OK")));
        let api_server = world.clients.issue("kube-apiserver", &[]);
        assert!(world.seen(Some(&api_server)).await.unwrap().contains("200 OK"));
        assert!(world.handler.metrics.encode().contains("stepup_connections_refused_total{code=\"too_many\"} 1"));
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_before_the_end() {
        let world = World::new().await;
        let mut busy = world.connect(None).await.unwrap();
        busy.write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut idle = world.connect(None).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        idle.read_u8().await.unwrap();
        timeout(PATIENCE, world.handler.waiting.notified()).await.unwrap();
        world.stop.send(true).unwrap();
        read_all(idle).await.unwrap();
        assert!(!world.serving.is_finished());
        world.handler.go.notify_one();
        assert!(read_all(busy).await.unwrap().starts_with("HTTP/1.1 200 OK"));
        timeout(PATIENCE, world.serving).await.unwrap().unwrap();
        assert!(TcpStream::connect(world.addr).await.is_err());
    }

    #[tokio::test]
    async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
        let world = World::new().await;
        assert!(!world.tls.refresh().unwrap());
        fs::write(world.dir.path().join("tls.pem"), "rubbish").unwrap();
        let problem = world.tls.refresh().unwrap_err().to_string();
        assert!(problem.contains("tls.pem"), "{problem}");
        assert!(world.seen(None).await.is_ok());

        let new = Authority::new("new servers");
        write_certificate(world.dir.path(), &new);
        assert!(world.tls.refresh().unwrap());
        assert!(world.connect(None).await.is_err());
        assert!(connect(world.addr, &new, None).await.is_ok());
    }

    #[test]
    fn wrong_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("servers");
        let config = config(dir.path(), Vec::new());
        write_certificate(dir.path(), &authority);
        for (file, content, told) in [
            ("client-ca.pem", "", "client-ca.pem holds no PEM certificate"),
            ("client-ca.pem", authority.pem.as_str(), ""),
            ("tls.key", authority.pem.as_str(), "tls.key holds no PEM private key"),
            ("tls.key", &authority.issue("x", &[]).key, "tls.pem does not go with"),
        ] {
            fs::write(dir.path().join(file), content).unwrap();
            let problem = Tls::open(&config).map(|_| ()).map_or_else(|error| error.to_string(), |()| String::new());
            assert!(problem.contains(told) && problem.is_empty() == told.is_empty(), "{problem}");
        }
        fs::remove_file(dir.path().join("tls.key")).unwrap();
        assert!(Tls::open(&config).unwrap_err().to_string().starts_with("cannot read"));
    }
}
