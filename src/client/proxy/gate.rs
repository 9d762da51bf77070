//! Who may come in: whoever knows the secret of this run, and no web page.

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use sha2::{Digest, Sha256};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use http_body_util::Full;
use hyper::body::Bytes;

use super::body::Answer;
use crate::client::error::Error;
use crate::secret::Secret;

/// What a client has to present.
#[derive(Debug)]
pub struct Gate {
    /// Digest of the secret: compared in a time that tells nothing of the secret itself.
    digest: [u8; 32],
    /// `127.0.0.1:PORT`, `localhost:PORT`.
    hosts: [String; 2],
    /// What all paths begin with, where the API server is not at the root of its host.
    prefix: String,
}

/// Why a request went no further, as an answer that every Kubernetes client can show.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub reason: &'static str,
    pub message: String,
}

/// What a run makes for itself, and takes with it.
pub struct Keys {
    /// For the listener.
    pub tls: ServerConfig,
    /// For the kubeconfig: the authority that signed the listener's certificate, and nothing else ever (PEM).
    pub authority: String,
    /// For the kubeconfig: the bearer token of this run.
    pub secret: Secret,
}

impl Gate {
    /// For a listener at `address` whose clients know `secret`.
    pub fn new(address: SocketAddr, secret: &Secret, prefix: &str) -> Self {
        let port = address.port();
        Self {
            digest: Sha256::digest(secret.expose()).into(),
            hosts: [format!("{}:{port}", address.ip()), format!("localhost:{port}")],
            prefix: prefix.trim_end_matches('/').to_owned(),
        }
    }

    /// Checks a request, and gives its path as the API server itself knows it, without the prefix.
    pub fn admit<'r, B>(&self, request: &'r Request<B>) -> Result<&'r str, Refusal> {
        let headers = request.headers();
        // A page of evil.example whose name leads here (DNS rebinding) says whose page it is.
        let host = request.uri().authority().map(hyper::http::uri::Authority::as_str);
        let host = host.or_else(|| headers.get(HOST)?.to_str().ok()).unwrap_or_default();
        if !self.is_us(host) {
            return Err(forbidden("the request is for another host than this proxy"));
        }
        // Programs that are no browser send none, or (Python's websocket-client) that of the server they talk to.
        let is_ours = |origin: &HeaderValue| {
            origin.to_str().ok().and_then(|origin| origin.strip_prefix("https://")).is_some_and(|host| self.is_us(host))
        };
        if !headers.get_all(ORIGIN).iter().all(is_ours) {
            return Err(forbidden("this proxy is not for web pages (the request has an Origin)"));
        }
        if !self.knows_secret(headers) {
            return Err(Refusal {
                status: StatusCode::UNAUTHORIZED,
                reason: "Unauthorized",
                message: "kubectl-stepup: this proxy takes only the token of the kubeconfig that was made with it"
                    .to_owned(),
            });
        }
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return Err(Refusal {
                status: StatusCode::METHOD_NOT_ALLOWED,
                reason: "MethodNotAllowed",
                message: format!("kubectl-stepup: no API server knows the method {}", request.method()),
            });
        }
        let not_found = || Refusal {
            status: StatusCode::NOT_FOUND,
            reason: "NotFound",
            message: format!("kubectl-stepup: this proxy is for paths below {}/", self.prefix),
        };
        let path = request.uri().path();
        if self.prefix.is_empty() {
            return Ok(path);
        }
        // The prefix is a border: beyond it are other clusters, or the API of what manages them.
        let inside = path.strip_prefix(&self.prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        inside.filter(|rest| !leads_up(rest)).ok_or_else(not_found)
    }

    fn is_us(&self, host: &str) -> bool {
        self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
    }

    fn knows_secret(&self, headers: &HeaderMap) -> bool {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (all.next(), all.next()) else { return false };
        let bytes = value.as_bytes();
        let Some((scheme, token)) = bytes.split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && <[u8; 32]>::from(Sha256::digest(token)) == self.digest
    }
}

/// Whether a path has segments that a server may take for the directory above.
fn leads_up(path: &str) -> bool {
    let decoded = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    decoded.split(['/', '\\']).any(|segment| segment == "..")
}

fn forbidden(message: &str) -> Refusal {
    Refusal { status: StatusCode::FORBIDDEN, reason: "Forbidden", message: format!("kubectl-stepup: {message}") }
}

impl Refusal {
    /// A Kubernetes `Status`.
    pub fn answer(&self) -> Response<Answer> {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.status.as_u16(),
        });
        let mut answer = Response::new(Answer::Whole(Full::new(Bytes::from(status.to_string()))));
        *answer.status_mut() = self.status;
        answer.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }
}

impl Keys {
    /// New ones.
    pub fn make(now: DateTime<Utc>) -> Result<Self, Error> {
        let provider = aws_lc_rs::default_provider();
        let secret = random(&provider, 32)?;
        let cannot = |error: rcgen::Error| Error::Failed(format!("cannot make a certificate: {error}"));
        let (from, until) = (now - TimeDelta::days(1), now + TimeDelta::days(366));
        let day = |year, month: u32, day: u32| {
            date_time_ymd(year, u8::try_from(month).unwrap_or(1), u8::try_from(day).unwrap_or(1))
        };
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.not_before = day(from.year(), from.month(), from.day());
            params.not_after = day(until.year(), until.month(), until.day());
            params
        };
        // An authority of its own for one certificate: Python (VERIFY_X509_STRICT) takes no self-signed one for a server's.
        let mut authority = params("kubectl-stepup, this run");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(cannot)?;
        let authority_pem = authority.self_signed(&authority_key).map_err(cannot)?.pem();
        let issuer = Issuer::new(authority, authority_key);
        let mut server = params("kubectl-stepup");
        server.subject_alt_names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::DnsName("localhost".try_into().map_err(cannot)?),
        ];
        server.use_authority_key_identifier_extension = true;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(cannot)?;
        let certificate = server.signed_by(&key, &issuer).map_err(cannot)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let failed = |error: rustls::Error| Error::Failed(format!("cannot set up TLS: {error}"));
        let mut tls = ServerConfig::builder_with_provider(Arc::new(quick(provider)))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(failed)?;
        tls.ignore_client_order = true;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { tls, authority: authority_pem, secret: Secret::new(secret) })
    }
}

/// Prefers AES-128 to AES-256, as Go does: everything is encrypted twice on its way, once on this very machine.
pub fn quick(mut provider: CryptoProvider) -> CryptoProvider {
    let is_other = |suite: &rustls::SupportedCipherSuite| !format!("{:?}", suite.suite()).contains("AES_128");
    provider.cipher_suites.sort_by_key(is_other);
    provider
}

/// Random bytes in letters that fit headers and file names.
pub fn random(provider: &CryptoProvider, length: usize) -> Result<String, Error> {
    let mut bytes = vec![0; length];
    let filled = provider.secure_random.fill(&mut bytes);
    filled.map_err(|_| Error::Failed("the system gives no random numbers".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Headers that are between two neighbours (RFC 9110, section 7.6.1) leave the message. `TE: trailers` is one that
/// HTTP/2 knows, and true of us.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const BETWEEN_NEIGHBOURS: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "transfer-encoding",
        "upgrade",
        "te",
    ];
    let named: Vec<HeaderName> = headers
        .get_all("connection")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let takes_trailers = headers.get("te").is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named {
        headers.remove(name);
    }
    for name in BETWEEN_NEIGHBOURS {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert("te", HeaderValue::from_static("trailers"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(prefix: &str) -> Gate {
        Gate::new(([127, 0, 0, 1], 4242).into(), &Secret::new("s3cret"), prefix)
    }

    fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn code(gate: &Gate, path: &str, headers: &[(&str, &str)]) -> u16 {
        gate.admit(&request(path, headers)).map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:4242");
    const KNOWS: (&str, &str) = ("authorization", "Bearer s3cret");

    #[test]
    fn only_the_secret_opens() {
        let gate = gate("");
        assert_eq!(code(&gate, "/api", &[HERE, KNOWS]), 200);
        assert_eq!(code(&gate, "/api", &[HERE, ("authorization", "bearer s3cret")]), 200);
        for token in
            ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret", "Bearer  s3cret"]
        {
            assert_eq!(code(&gate, "/api", &[HERE, ("authorization", token)]), 401, "{token:?}");
        }
        assert_eq!(code(&gate, "/api", &[HERE]), 401);
        assert_eq!(code(&gate, "/api", &[HERE, KNOWS, ("authorization", "Bearer other")]), 401);
    }

    #[test]
    fn no_web_page_comes_in_whatever_it_knows() {
        let gate = gate("");
        for host in ["evil.example:4242", "127.0.0.1", "127.0.0.1:4243", "", "127.0.0.1:4242.evil.example"] {
            assert_eq!(code(&gate, "/api", &[("host", host), KNOWS]), 403, "{host}");
        }
        assert_eq!(code(&gate, "/api", &[KNOWS]), 403);
        assert_eq!(code(&gate, "https://evil.example/api", &[HERE, KNOWS]), 403, "HTTP/2 says it in the target");
        for origin in
            ["https://evil.example", "null", "", "http://127.0.0.1:4242", "https://127.0.0.1:4242.evil.example"]
        {
            assert_eq!(code(&gate, "/api", &[HERE, KNOWS, ("origin", origin)]), 403, "{origin}");
        }
        assert_eq!(code(&gate, "/api", &[HERE, KNOWS, ("origin", "https://127.0.0.1:4242")]), 200);
        assert_eq!(code(&gate, "/api", &[("host", "LOCALHOST:4242"), KNOWS]), 200);
    }

    #[test]
    fn a_prefix_is_a_border() {
        let gate = gate("/k8s/c-1/");
        for (path, inside) in [("/k8s/c-1/api/v1?x", Some("/api/v1")), ("/k8s/c-1", Some("")), ("/k8s/c-1/", Some("/"))]
        {
            assert_eq!(gate.admit(&request(path, &[HERE, KNOWS])).ok(), inside, "{path}");
        }
        for path in [
            "/v3",
            "/k8s/c-11/api",
            "/k8s/c-1/../c-2/api",
            "/k8s/c-1/%2e%2E/c-2",
            "/k8s/c-1/x%2f..%2fy",
            "/k8s/c-1/..%5Cx",
        ] {
            assert_eq!(code(&gate, path, &[HERE, KNOWS]), 404, "{path}");
        }
        assert_eq!(code(&self::gate(""), "/api/v1/namespaces/a/services/b/proxy/x/../y", &[HERE, KNOWS]), 200);
    }

    #[test]
    fn what_is_between_neighbours_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("impersonate-user", "bob"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "impersonate-user", "te"]);
    }
}
