//! HTTP, for the identity provider and stepup-server alike: blocking, impatient, honours proxies, trusts the CA it was
//! given, follows no redirects, and never says a URL's query in an error.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use openidconnect::{HttpRequest, HttpResponse, SyncHttpClient};
use reqwest::blocking::{Client, ClientBuilder, Request, RequestBuilder, Response};
use reqwest::{Certificate, Method, header, redirect};
use serde::de::IgnoredAny;
use url::Url;

use crate::client::error::Error;
use crate::client::kubeconfig::Cluster;
use crate::client::profile::secure_url;

/// More than any answer that we can have a use for.
const LARGEST_ANSWER: u64 = 4 << 20;

/// What was wrong with a request or its answer. No secret and no query string is in it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

/// An HTTP client.
#[derive(Debug)]
pub struct HttpClient {
    client: Client,
    /// For what is not encrypted and does not leave this machine: no proxy of the environment gets to see it.
    here: OnceLock<Client>,
    connect: Duration,
    /// Longest wait for a whole answer.
    total: Duration,
    /// The other side's clock, as the last answer told it.
    date: Mutex<Option<DateTime<Utc>>>,
}

impl HttpClient {
    /// `ca` replaces the system's certificate authorities.
    pub fn new(ca: Option<&Path>, connect: Duration, total: Duration) -> Result<Self, Error> {
        let mut builder = builder(connect, total);
        if let Some(path) = ca {
            let pem = fs::read(path).map_err(Error::file("read", path))?;
            let bad = |problem: String| Error::BadFile { path: path.to_owned(), problem };
            builder = builder.tls_certs_only(certificates(&pem).map_err(bad)?);
        }
        Self::built(builder, connect, total)
    }

    /// To an API server, as a kubeconfig has it.
    pub fn to_cluster(cluster: &Cluster, connect: Duration, total: Duration) -> Result<Self, Error> {
        let failed = |problem: String| Error::Failed(format!("{}: {problem}", cluster.server));
        let url = Url::parse(&cluster.server).map_err(|error| failed(format!("not a URL: {error}")))?;
        secure_url("the API server", &url).map_err(failed)?;
        if cluster.insecure || cluster.tls_server_name.is_some() {
            return Err(failed("its certificate is not verified by its name".to_owned()));
        }
        let mut builder = builder(connect, total);
        if let Some(pem) = &cluster.authorities {
            builder = builder.tls_certs_only(certificates(pem).map_err(failed)?);
        }
        if let Some(proxy) = &cluster.proxy_url {
            builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(|error| failed(plain(error)))?);
        }
        let http = Self::built(builder, connect, total)?;
        if cluster.proxy_url.is_some() {
            // This one was named for this very cluster.
            let _ = http.here.set(http.client.clone());
        }
        Ok(http)
    }

    fn built(builder: ClientBuilder, connect: Duration, total: Duration) -> Result<Self, Error> {
        let client = builder.build().map_err(|error| Error::Failed(format!("cannot set up TLS: {}", plain(error))))?;
        Ok(Self { client, here: OnceLock::new(), connect, total, date: Mutex::new(None) })
    }

    /// Begins a request.
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.client_for(url).request(method, url)
    }

    fn client_for(&self, url: &str) -> &Client {
        if !url.starts_with("http://") {
            return &self.client;
        }
        // `secure_url` lets http go to this machine only, where there are no certificates to look for.
        let plain = || builder(self.connect, self.total).no_proxy().tls_certs_only([]);
        self.here.get_or_init(|| plain().build().unwrap_or_else(|_| self.client.clone()))
    }

    /// Sends a request and reads the whole answer.
    pub fn send(&self, request: RequestBuilder) -> Result<HttpResponse, Problem> {
        let (client, request) = request.build_split();
        let request = request.map_err(|error| Problem(plain(error)))?;
        let begun = Instant::now();
        self.answer(client.execute(request), begun)
    }

    /// The other side's clock, as its last answer told it (`Date`, RFC 9110).
    pub fn date(&self) -> Option<DateTime<Utc>> {
        self.date.lock().ok().and_then(|date| *date)
    }

    fn answer(&self, answer: reqwest::Result<Response>, begun: Instant) -> Result<HttpResponse, Problem> {
        let response = answer.map_err(|error| Problem(plain(error)))?;
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok())
            && let Ok(mut last) = self.date.lock()
        {
            *last = Some(date.to_utc());
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let (mut body, mut piece, mut rest) = (Vec::new(), [0; 16 << 10], response.take(LARGEST_ANSWER + 1));
        loop {
            let length = rest.read(&mut piece).map_err(|error| Problem(format!("the answer broke off: {error}")))?;
            if length == 0 {
                break;
            }
            body.extend_from_slice(&piece[..length]);
            // The limit of the library is for each read anew: an answer could drip for ever.
            if begun.elapsed() > self.total {
                return Err(Problem("no whole answer in time".to_owned()));
            }
        }
        if body.len() as u64 > LARGEST_ANSWER {
            return Err(Problem(format!("the answer is larger than {LARGEST_ANSWER} bytes")));
        }
        let mut answer = HttpResponse::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

fn builder(connect: Duration, total: Duration) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("kubectl-stepup/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect)
        .timeout(total)
        // Redirects would carry tokens wherever the answer points.
        .redirect(redirect::Policy::none())
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    match Certificate::from_pem_bundle(pem) {
        Ok(certificates) if certificates.is_empty() => Err("there is no PEM certificate in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

/// An answer that is not in JSON, where everything is: of what stands before the provider, more often than of itself.
#[derive(Debug)]
pub struct Page {
    /// What it is, without secrets.
    pub description: String,
    /// Whether the same request may be answered better in a moment (5xx).
    pub may_pass: bool,
}

impl HttpClient {
    /// Sends a request of the OpenID Connect library; the inner error is an answer that is not JSON.
    pub fn ask(&self, request: HttpRequest) -> Result<Result<HttpResponse, Page>, Problem> {
        let sent: Vec<String> =
            url::form_urlencoded::parse(request.body()).map(|(_, value)| value.into_owned()).collect();
        let request = Request::try_from(request).map_err(|error| Problem(plain(error)))?;
        let begun = Instant::now();
        let answer = self.answer(self.client_for(request.url().as_str()).execute(request), begun)?;
        if serde_json::from_slice::<IgnoredAny>(answer.body()).is_ok() {
            return Ok(Ok(answer));
        }
        Ok(Err(Page { description: described(&answer, &sent), may_pass: answer.status().is_server_error() }))
    }
}

impl SyncHttpClient for HttpClient {
    type Error = Problem;

    fn call(&self, request: HttpRequest) -> Result<HttpResponse, Problem> {
        self.ask(request)?.map_err(|page| Problem(page.description))
    }
}

/// What an answer is, where it should have been JSON: for error messages.
pub fn describe(answer: &HttpResponse) -> String {
    described(answer, &[])
}

/// The same, without any of what was `sent`: some pages repeat it.
fn described(answer: &HttpResponse, sent: &[String]) -> String {
    let status = answer.status();
    if status.is_redirection() {
        let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
        let to = to.split(['?', '#']).next().unwrap_or_default();
        return format!("it answers {} and points to {to}", status.as_u16());
    }
    let status = status.as_u16();
    let text = String::from_utf8_lossy(answer.body());
    let is_page = text.trim_start().starts_with('<');
    match (is_page, first_words(&text, sent)) {
        (true, words) if words.is_empty() => format!("it answers {status} and a web page"),
        (true, words) => format!("it answers {status} and a web page ({words:?})"),
        (false, _) => format!("it answers {status}"),
    }
}

/// What a page says first, if that is no secret: neither something that was `sent`, nor as long as tokens are.
fn first_words(page: &str, sent: &[String]) -> String {
    const ENOUGH: usize = 60;
    const LIKE_A_TOKEN: usize = 20;
    let is_secret = |word: &str| {
        word.len() >= LIKE_A_TOKEN || sent.iter().any(|sent| sent.len() >= 6 && word.contains(sent.as_str()))
    };
    let mut words = String::new();
    for word in visible(page).split_whitespace() {
        let word = if is_secret(word) { "…" } else { word };
        if words.len() + word.len() > ENOUGH {
            break;
        }
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    words
}

/// The text of a page, without its markup, scripts and styles.
fn visible(page: &str) -> String {
    let mut text = String::new();
    let mut rest = page;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        let skipped = ["script", "style"]
            .into_iter()
            .find(|name| tag.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)));
        // ASCII letters alone change, so that positions stay.
        let end = skipped.and_then(|name| tag.to_ascii_lowercase().find(&format!("</{name}")));
        let tag = end.map_or(tag, |end| &tag[end..]);
        rest = tag.split_once('>').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    text
}

/// The message of the innermost cause, without URLs.
fn plain(error: reqwest::Error) -> String {
    let error = error.without_url();
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let cause = innermost.to_string();
    if cause.contains("UnknownIssuer") {
        return "its certificate is signed by an authority that is not trusted here; name a private one with kubectl \
                stepup setup (--issuer-ca, --server-ca)"
            .to_owned();
    }
    if error.is_connect() { format!("cannot connect: {cause}") } else { cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str, sent: &[&str]) -> String {
        let mut answer = HttpResponse::new(body.as_bytes().to_vec());
        *answer.status_mut() = status.try_into().unwrap();
        described(&answer, &sent.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_page_is_told_by_its_status_and_first_words() {
        let page =
            "<html><head><TITLE>502 Bad Gateway</TITLE><style>p{}</style></head><script>if (a<b) {}</SCRIPT>nginx";
        assert_eq!(said(502, page, &[]), r#"it answers 502 and a web page ("502 Bad Gateway nginx")"#);
        assert_eq!(said(200, "<html></html>", &[]), "it answers 200 and a web page");
        assert_eq!(said(200, "<", &[]), "it answers 200 and a web page");
        assert_eq!(said(500, "oops", &[]), "it answers 500", "this could be anything");
        let long = format!("<p>{}", "word ".repeat(100));
        assert!(said(500, &long, &[]).len() < 120);
    }

    #[test]
    fn a_page_that_repeats_secrets_is_not_repeated() {
        let page = "<p>You sent token=refresh-0; and eyJhbGciOiJFUzI1NiJ9.eyJzdWIi and short</p>";
        let told = said(400, page, &["refresh-0", "short"]);
        assert_eq!(told, r#"it answers 400 and a web page ("You sent … and … and short")"#);
    }
}
