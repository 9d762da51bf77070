//! For the tests of this side: a certificate authority, an identity provider that says what it is told to, and tokens of
//! every kind, good and forged.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::config::{
    Audit, Claim, Config, IdentityProvider, Level, Limits, Log, LogFormat, People, Sink, Store, Token, WebhookClients,
    Webhooks,
};
use crate::secret::Secret;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// A certificate and its key, in PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for this common name, and for the DNS names and addresses besides.
    pub fn issue(&self, common_name: &str, names: &[&str]) -> Issued {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

/// Keys of every kind that providers use, and one that they must not.
pub enum SigningKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(Box<rsa::KeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub fn rsa() -> Self {
        Self::Rsa(Box::new(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap()))
    }

    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::P256(pair) | Self::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let encoding: &'static dyn aws_lc_rs::signature::RsaEncoding =
                    if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                pair.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// The public half, as a provider publishes it.
    pub fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::P256(pair) | Self::P384(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if point.len() == 64 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "kid": kid, "use": "sig", "x": text(x), "y": text(y)})
            }
            Self::Rsa(pair) => {
                let public = pair.public_key();
                json!({"kty": "RSA", "kid": kid, "use": "sig",
                    "n": text(public.modulus().big_endian_without_leading_zero()),
                    "e": text(public.exponent().big_endian_without_leading_zero())})
            }
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(pair.public_key().as_ref())})
            }
        }
    }

    /// A token as a provider would make it.
    pub fn token(&self, algorithm: &str, kid: &str, claims: &Value) -> Secret {
        self.token_of(&json!({"alg": algorithm, "kid": kid, "typ": "JWT"}).to_string(), &claims.to_string())
    }

    /// A token of any header and payload, rightly signed.
    pub fn token_of(&self, header: &str, payload: &str) -> Secret {
        let algorithm = serde_json::from_str::<Value>(header).unwrap()["alg"].as_str().unwrap().to_owned();
        assemble(header, payload, |message| self.sign(&algorithm, message))
    }
}

/// A token with any signature.
pub fn assemble(header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Secret {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    Secret::new(format!("{message}.{signature}"))
}

/// What the provider answers on one path.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub date: Option<&'static str>,
}

/// An identity provider behind TLS. It counts what it is asked for.
pub struct FakeProvider {
    pub issuer: String,
    /// File with the authority of its certificate.
    pub ca: std::path::PathBuf,
    pub dir: TempDir,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    hits: Arc<AtomicUsize>,
}

impl FakeProvider {
    /// One that publishes these keys.
    pub async fn start(keys: &[Value]) -> Self {
        Self::start_at("127.0.0.1:0", keys).await
    }

    /// The same, at an address of one's own.
    pub async fn start_at(address: &str, keys: &[Value]) -> Self {
        let authority = Authority::new("provider's CA");
        let certificate = authority.issue("provider", &["127.0.0.1", "::1"]);
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, &authority.pem).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind(address).await.unwrap();
        let issuer = format!("https://{}", listener.local_addr().unwrap());
        let (answers, hits) = (Arc::default(), Arc::default());
        let provider = Self { issuer, ca, dir, answers: Arc::clone(&answers), hits: Arc::clone(&hits) };
        provider.publish(keys);
        provider.discovery(&provider.issuer);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, answers, hits) = (tls.clone(), Arc::clone(&answers), Arc::clone(&hits));
                tokio::spawn(async move {
                    let Ok(mut stream) = tls.accept(stream).await else { return };
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => request.push(byte),
                            Err(_) => return,
                        }
                    }
                    hits.fetch_add(1, Ordering::SeqCst);
                    let request = String::from_utf8(request).unwrap();
                    let path = request.split(' ').nth(1).unwrap();
                    let answer: Option<Answer> = Mutex::lock(&answers).unwrap().get(path).cloned();
                    let answer = answer.unwrap_or(Answer { status: 404, body: Vec::new(), date: None });
                    let date = answer.date.map(|date| format!("Date: {date}\r\n")).unwrap_or_default();
                    let head = format!(
                        "HTTP/1.1 {} X\r\n{date}Content-Length: {}\r\nConnection: close\r\n\r\n",
                        answer.status,
                        answer.body.len()
                    );
                    // The reader may be gone: it stops at its limit.
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(&answer.body).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        provider
    }

    /// Requests so far.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// Replaces the key set.
    pub fn publish(&self, keys: &[Value]) {
        self.answer("/jwks", 200, json!({"keys": keys}).to_string());
    }

    /// Replaces the discovery document by one of this issuer.
    pub fn discovery(&self, issuer: &str) {
        let document = json!({"issuer": issuer, "jwks_uri": format!("{}/jwks", self.issuer)});
        self.answer("/.well-known/openid-configuration", 200, document.to_string());
    }

    pub fn answer(&self, path: &str, status: u16, body: impl Into<Vec<u8>>) {
        let answer = Answer { status, body: body.into(), date: Some("Fri, 15 Jan 2027 08:00:00 GMT") };
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// The provider's entry in a configuration.
    pub fn entry(&self) -> IdentityProvider {
        IdentityProvider {
            name: "corp".to_owned(),
            issuer: self.issuer.clone(),
            ca: Some(self.ca.clone()),
            audiences: vec!["kubernetes".to_owned()],
            step_up_audiences: vec!["kubernetes-step-up".to_owned()],
            username: Claim::Named { claim: "sub".to_owned(), prefix: String::new() },
            groups: Some(Claim::Named { claim: "groups".to_owned(), prefix: "oidc:".to_owned() }),
            required_claims: vec![],
            levels: vec![Level { name: "mfa".to_owned(), acr_values: vec!["urn:stepup:mfa".to_owned()] }],
            can_step_up: People { users: vec!["*".to_owned()], groups: Vec::new() },
        }
    }
}

/// Longest that a test waits for what must happen. Only a failure takes that long.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// A server certificate where [`config`] says that it is.
pub fn write_certificate(dir: &std::path::Path, authority: &Authority) {
    let issued = authority.issue("stepup", &["127.0.0.1"]);
    std::fs::write(dir.join("tls.pem"), issued.certificate).unwrap();
    std::fs::write(dir.join("tls.key"), issued.key).unwrap();
}

/// A TLS connection that speaks HTTP/1.1, byte by byte.
pub async fn connect(
    addr: SocketAddr,
    authority: &Authority,
    certificate: Option<&Issued>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(issued) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(addr).await?;
    let name = rustls::pki_types::ServerName::IpAddress(addr.ip().into());
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// All until the server closes.
pub async fn read_all(mut stream: tokio_rustls::client::TlsStream<TcpStream>) -> io::Result<String> {
    let mut answer = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes the connection") {
        Ok(_) => {}
        // Cut rather than closed is closed, too.
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {}
        Err(error) => return Err(error),
    }
    Ok(String::from_utf8(answer).unwrap())
}

/// A configuration with everything under `dir`.
pub fn config(dir: &std::path::Path, identity_providers: Vec<IdentityProvider>) -> Config {
    use std::time::Duration;
    Config {
        file: dir.join("server.yaml"),
        listen: ([127, 0, 0, 1], 0).into(),
        public_url: "https://stepup.example.com".to_owned(),
        tls: super::config::KeyPair { certificate: dir.join("tls.pem"), key: dir.join("tls.key"), ca: None },
        mode: super::config::Mode::Webhooks,
        webhook_clients: Some(WebhookClients { ca: dir.join("client-ca.pem"), names: Vec::new() }),
        identity_providers,
        token: Token {
            audience: "kubernetes".to_owned(),
            keys: dir.join("keys"),
            sign_with: super::config::Algorithm::Es256,
            max_ttl: Duration::from_mins(15),
        },
        store: Store::Sqlite { path: dir.join("store.db") },
        audit: Audit { sinks: vec![Sink::File { path: dir.join("audit.jsonl") }] },
        policy: dir.join("policy.yaml"),
        administrators: People::default(),
        webhooks: Webhooks {
            authorization: true,
            url: "https://stepup.example.com".to_owned(),
            client: None,
            directory: None,
        },
        limits: Limits {
            body_bytes: 64 * 1024,
            connections: 64,
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            pending_challenges_per_user: 50,
            challenge_ttl: Duration::from_mins(10),
        },
        log: Log { format: LogFormat::Json, level: "info".to_owned() },
    }
}

/// A whole server on a free port, with its provider, its certificate authorities and its files.
pub struct World {
    pub provider: FakeProvider,
    pub key: SigningKey,
    pub servers: Authority,
    pub clients: Authority,
    pub addr: SocketAddr,
    stop: tokio::sync::watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

/// Namespace `prod` may be deleted, once, after a sign-in with a second factor.
pub const POLICY: &str = r#"
rules:
- name: delete-namespace
  description: Deleting a namespace that matters
  actions:
  - verbs: [delete]
    apiGroups: [""]
    resources: [namespaces]
    names: [prod]
  require: {acr: [mfa], maxAge: 5m}
  grant: {ttl: 5m, uses: 1, covers: object}
"#;

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let key = SigningKey::p256();
        let provider = FakeProvider::start(&[key.jwk("k1")]).await;
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let dir = provider.dir.path();
        write_certificate(dir, &servers);
        std::fs::write(dir.join("client-ca.pem"), &clients.pem).unwrap();
        std::fs::write(dir.join("policy.yaml"), POLICY).unwrap();
        let mut config = config(dir, vec![provider.entry()]);
        let ca = dir.join("client-ca.pem");
        config.webhook_clients = Some(WebhookClients { ca, names: vec!["kube-apiserver".to_owned()] });
        change(&mut config);
        let running = super::serve::Running::start(config, chrono::Utc::now()).await.unwrap();
        let addr = running.addr().unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let serving = tokio::spawn(running.until(stopped));
        Self { provider, key, servers, clients, addr, stop, serving }
    }

    pub fn dir(&self) -> &std::path::Path {
        self.provider.dir.path()
    }

    /// An HTTP client with this certificate, or with none.
    pub fn client(&self, certificate: Option<&Issued>) -> reqwest::Client {
        let ca = reqwest::Certificate::from_pem(self.servers.pem.as_bytes()).unwrap();
        let mut client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy();
        if let Some(issued) = certificate {
            let pem = format!("{}{}", issued.certificate, issued.key);
            client = client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        client.build().unwrap()
    }

    /// The HTTP client of the API server.
    pub fn api_server(&self) -> reqwest::Client {
        self.client(Some(&self.clients.issue("kube-apiserver", &[])))
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }

    /// Claims of a token that alice's provider makes at this moment.
    pub fn claims(&self, audience: &str) -> Value {
        let now = chrono::Utc::now().timestamp();
        json!({
            "iss": self.provider.issuer, "aud": audience, "sub": "alice", "iat": now, "exp": now + 300, "auth_time": now,
            "acr": "urn:stepup:mfa", "jti": "base-1",
        })
    }

    pub fn token(&self, audience: &str) -> Secret {
        self.key.token("ES256", "k1", &self.claims(audience))
    }

    /// The audit log so far.
    pub fn audit_log(&self) -> String {
        std::fs::read_to_string(self.dir().join("audit.jsonl")).unwrap_or_default()
    }

    pub async fn metrics(&self) -> String {
        self.client(None).get(self.url("/metrics")).send().await.unwrap().text().await.unwrap()
    }

    /// Stops the server and waits until it has.
    pub async fn stop(self) -> FakeProvider {
        self.stop.send(true).unwrap();
        timeout(PATIENCE, self.serving).await.unwrap().unwrap();
        self.provider
    }
}

/// Waits until `is_so`, and fails when that takes too long.
pub async fn eventually(mut is_so: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !is_so().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it becomes so in time");
}
