//! HTTP, for the identity provider and stepup-server alike: blocking, impatient, honours proxies, trusts the CA it was
//! given, follows no redirects, and never says a URL's query in an error.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use openidconnect::{HttpRequest, HttpResponse, SyncHttpClient};
use reqwest::blocking::{Client, Request, RequestBuilder, Response};
use reqwest::{Certificate, Method, header, redirect};

use crate::client::error::Error;

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
    /// The other side's clock, as the last answer told it.
    date: Mutex<Option<DateTime<Utc>>>,
}

impl HttpClient {
    /// `ca` replaces the system's certificate authorities.
    pub fn new(ca: Option<&Path>, connect: Duration, total: Duration) -> Result<Self, Error> {
        let mut builder = Client::builder()
            .user_agent(concat!("kubectl-stepup/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect)
            .timeout(total)
            // Redirects would carry tokens wherever the answer points.
            .redirect(redirect::Policy::none());
        if let Some(path) = ca {
            let pem = fs::read(path).map_err(Error::file("read", path))?;
            let bad = |problem: String| Error::BadFile { path: path.to_owned(), problem };
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
            if certificates.is_empty() {
                return Err(bad("there is no PEM certificate in it".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| Error::Failed(format!("cannot set up TLS: {}", plain(error))))?;
        Ok(Self { client, date: Mutex::new(None) })
    }

    /// Begins a request.
    pub fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Sends a request and reads the whole answer.
    pub fn send(&self, request: RequestBuilder) -> Result<HttpResponse, Problem> {
        let (client, request) = request.build_split();
        self.answer(client.execute(request.map_err(|error| Problem(plain(error)))?))
    }

    /// The other side's clock, as its last answer told it (`Date`, RFC 9110).
    pub fn date(&self) -> Option<DateTime<Utc>> {
        self.date.lock().ok().and_then(|date| *date)
    }

    fn answer(&self, answer: reqwest::Result<Response>) -> Result<HttpResponse, Problem> {
        let response = answer.map_err(|error| Problem(plain(error)))?;
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok())
            && let Ok(mut last) = self.date.lock()
        {
            *last = Some(date.to_utc());
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        let read = response.take(LARGEST_ANSWER + 1).read_to_end(&mut body);
        read.map_err(|error| Problem(format!("the answer broke off: {error}")))?;
        if body.len() as u64 > LARGEST_ANSWER {
            return Err(Problem(format!("the answer is larger than {LARGEST_ANSWER} bytes")));
        }
        let mut answer = HttpResponse::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

impl SyncHttpClient for HttpClient {
    type Error = Problem;

    fn call(&self, request: HttpRequest) -> Result<HttpResponse, Problem> {
        let request = Request::try_from(request).map_err(|error| Problem(plain(error)))?;
        self.answer(self.client.execute(request))
    }
}

/// What an answer is, where it should have been JSON: for error messages.
pub fn describe(answer: &HttpResponse) -> String {
    let status = answer.status();
    if status.is_redirection() {
        let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
        let to = to.split(['?', '#']).next().unwrap_or_default();
        return format!("it answers {} and points to {to}", status.as_u16());
    }
    let is_html = answer.body().trim_ascii_start().first() == Some(&b'<');
    format!("it answers {}{}", status.as_u16(), if is_html { " and a web page" } else { "" })
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
    if error.is_connect() { format!("cannot connect: {innermost}") } else { innermost.to_string() }
}
