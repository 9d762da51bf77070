//! A fake API server: TLS, HTTP/1.1 and HTTP/2; it tells what it was asked, echoes, streams, refuses and upgrades.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub uri: String,
    pub version: hyper::Version,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn token(&self) -> &str {
        self.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
    }
}

/// Decides about a request whose body has been read.
type Judge = dyn Fn(&Asked) -> Response<BoxBody<Bytes, hyper::Error>> + Send + Sync;

pub struct ApiServer {
    pub address: SocketAddr,
    pub certificate: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _runtime: Runtime,
}

impl ApiServer {
    pub fn start(judge: impl Fn(&Asked) -> Response<BoxBody<Bytes, hyper::Error>> + Send + Sync + 'static) -> Self {
        Self::speaking(&[b"h2", b"http/1.1"], judge)
    }

    pub fn speaking(
        alpn: &[&[u8]],
        judge: impl Fn(&Asked) -> Response<BoxBody<Bytes, hyper::Error>> + Send + Sync + 'static,
    ) -> Self {
        Self::built(alpn, usize::MAX, judge)
    }

    /// Each connection is closed, politely, after so many requests.
    pub fn that_goes_away_after(
        requests: usize,
        judge: impl Fn(&Asked) -> Response<BoxBody<Bytes, hyper::Error>> + Send + Sync + 'static,
    ) -> Self {
        Self::built(&[b"h2"], requests, judge)
    }

    fn built(
        alpn: &[&[u8]],
        requests: usize,
        judge: impl Fn(&Asked) -> Response<BoxBody<Bytes, hyper::Error>> + Send + Sync + 'static,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned(), "api.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let tls = TlsAcceptor::from(Arc::new(config));
        runtime.spawn(serve(listener, tls, requests, Arc::new(judge), Arc::clone(&asked)));
        Self { address, certificate: cert.pem(), asked, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    requests: usize,
    judge: Arc<Judge>,
    asked: Arc<Mutex<Vec<Asked>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, judge, asked) = (tls.clone(), Arc::clone(&judge), Arc::clone(&asked));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let served = Arc::new(Semaphore::new(0));
            let service = service_fn({
                let served = Arc::clone(&served);
                move |request| {
                    served.add_permits(1);
                    answer(request, Arc::clone(&judge), Arc::clone(&asked))
                }
            });
            let io = TokioIo::new(stream);
            let _ = if is_http2 {
                let connection =
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service);
                tokio::pin!(connection);
                let enough = u32::try_from(requests).unwrap_or(1 << 28);
                tokio::select! {
                    end = &mut connection => end,
                    _ = served.acquire_many(enough) => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            } else {
                hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
            };
        });
    }
}

async fn answer(
    mut request: Request<Incoming>,
    judge: Arc<Judge>,
    asked: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, hyper::Error> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let mut call = Asked {
        method: parts.method.to_string(),
        uri: parts.uri.to_string(),
        version: parts.version,
        headers: parts.headers,
        body: Vec::new(),
    };
    // What comes in goes out, as it comes.
    if call.uri.ends_with("/echo") {
        asked.lock().unwrap().push(call);
        return Ok(Response::new(body.boxed()));
    }
    // A refusal may come before the request has been read.
    if !call.uri.contains("/early") || call.token().starts_with("elevated-") {
        call.body = body.collect().await?.to_bytes().to_vec();
    }
    asked.lock().unwrap().push(call.clone());
    let answer = judge(&call);
    if answer.status() == 101 {
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let mut stream = TokioIo::new(upgraded);
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                let _ = stream.write_all(&buffer[..length]).await;
            }
            let _ = stream.shutdown().await;
        });
    }
    Ok(answer)
}

pub fn plain(status: u16, kind: &str, body: impl Into<Bytes>) -> Response<BoxBody<Bytes, hyper::Error>> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    Response::builder().status(status).header(CONTENT_TYPE, kind).body(body).unwrap()
}

/// As the API server words what the authorization webhook said.
pub fn step_up_required(action: &str, rule: &str) -> Response<BoxBody<Bytes, hyper::Error>> {
    let message = format!(
        "forbidden: step-up required to {action} (rule {rule}): type \"kubectl stepup elevate\", then repeat the command"
    );
    status(403, "Forbidden", &message)
}

pub fn status(code: u16, reason: &str, message: &str) -> Response<BoxBody<Bytes, hyper::Error>> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    });
    plain(code, "application/json", body.to_string())
}
