//! A small HTTP server for fakes: plain, on loopback, one thread for each connection.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// A request.
pub struct Request {
    pub method: String,
    pub path: String,
    pub bearer: Option<String>,
    /// The whole `Authorization`.
    pub authorization: Option<String>,
    pub body: Vec<u8>,
}

impl Request {
    /// The body's form fields.
    pub fn form(&self) -> HashMap<String, String> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An answer.
pub struct Response {
    status: u16,
    kind: &'static str,
    body: String,
    date: Option<DateTime<Utc>>,
}

impl Response {
    pub fn new(status: u16, kind: &'static str, body: impl Into<String>) -> Self {
        Self { status, kind, body: body.into(), date: None }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// With a `Date` header.
    pub fn at(self, date: DateTime<Utc>) -> Self {
        Self { date: Some(date), ..self }
    }
}

/// A server that runs until the tests end.
pub struct Server {
    pub url: String,
    hits: Arc<AtomicUsize>,
}

impl Server {
    pub fn start(handler: impl Fn(&str, Request) -> Response + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", handler)
    }

    /// The same, at an address of one's own.
    pub fn start_at(address: &str, handler: impl Fn(&str, Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hits = Arc::new(AtomicUsize::new(0));
        let (handler, base) = (Arc::new(handler), url.clone());
        thread::spawn({
            let hits = Arc::clone(&hits);
            move || {
                for stream in listener.incoming().flatten() {
                    hits.fetch_add(1, Ordering::SeqCst);
                    let (handler, base) = (Arc::clone(&handler), base.clone());
                    thread::spawn(move || {
                        if let Some(request) = read(&stream) {
                            write(stream, &handler(&base, request));
                        }
                    });
                }
            }
        });
        Self { url, hits }
    }

    /// How many connections were made.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let bearer = authorization.as_deref().and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    Some(Request { method, path, bearer, authorization, body })
}

fn write(mut stream: TcpStream, Response { status, kind, body, date }: &Response) {
    let date = date.map_or(String::new(), |date| format!("date: {}\r\n", date.format("%a, %d %b %Y %H:%M:%S GMT")));
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\n{date}content-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
}
