//! A proxy to one API server, on this machine and for this person alone: what asks it for something that needs a step-up
//! gets its answer a little later, whatever program it is.
//!
//! Start at [`forward`], the way of one request. [`gate`] says who may come in, [`step_ups`] in whose name requests go
//! out, [`upstream`] is the API server, [`kubeconfig_file`] leads programs here.

mod body;
mod forward;
mod gate;
pub mod kubeconfig_file;
mod step_ups;
mod upstream;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use self::forward::Forward;
use self::gate::{Gate, Keys};
pub use self::step_ups::StepUps;
use self::upstream::{CONNECTION_WINDOW, STREAM_WINDOW, Upstream};
use crate::client::error::Error;
use crate::client::kubeconfig::Route;

/// As much of a request as is kept to repeat it, unless something else is said: the API server takes no larger object.
pub const REPLAY_LIMIT: usize = 4 << 20;
/// How long somebody may take to show that they know the secret: from connecting to the first request that has it.
const STRANGENESS: Duration = Duration::from_secs(10);
/// Connections of those who have not shown it yet. Who comes when there are more takes the place of the one who has been
/// there for longest: whoever else is on this machine can use them all up, and the owner of the secret is quick.
const STRANGERS: usize = 128;
/// Nobody has to be quicker than this, or a busy moment of the owner's would cost them connections.
const QUICK: Duration = Duration::from_secs(1);
/// How long to wait when the system has no more connections to give.
const BREATHER: Duration = Duration::from_millis(50);
/// Go's clients open another connection when they need more streams than this.
const STREAMS: u32 = 250;

/// A proxy that listens.
pub struct Proxy {
    listener: TcpListener,
    address: SocketAddr,
    tls: TlsAcceptor,
    forward: Arc<Forward>,
    kubeconfig: String,
}

impl Proxy {
    /// Listens on a port of the loopback interface, with keys of its own. `command`: what to call it in messages.
    pub async fn listen(
        route: &Route,
        step_ups: Arc<StepUps>,
        replay_limit: usize,
        command: &'static str,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        let upstream = Upstream::new(&route.cluster)?;
        let keys = Keys::make(now)?;
        let cannot = |error: std::io::Error| Error::Failed(format!("cannot listen on 127.0.0.1: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let prefix = upstream.prefix();
        let kubeconfig =
            kubeconfig_file::text(route, &format!("https://{address}{prefix}"), &keys.authority, &keys.secret);
        let gate = Gate::new(address, &keys.secret, prefix);
        let tls = TlsAcceptor::from(Arc::new(keys.tls));
        let forward = Arc::new(Forward { gate, upstream, step_ups, replay_limit, command });
        Ok(Self { listener, address, tls, forward, kubeconfig })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kubeconfig that leads here. The secret is in it.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// Serves until it is dropped.
    pub async fn serve(self) {
        let mut strangers = VecDeque::new();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    make_room(&mut strangers).await;
                    let serving = tokio::spawn(stranger(stream, self.tls.clone(), Arc::clone(&self.forward)));
                    strangers.push_back((Instant::now(), serving));
                }
                Err(_) => tokio::time::sleep(BREATHER).await,
            }
        }
    }
}

/// Waits until there is room for one more, or turns away who has been there for longest.
async fn make_room(strangers: &mut VecDeque<(Instant, JoinHandle<()>)>) {
    loop {
        strangers.retain(|(_, serving)| !serving.is_finished());
        let Some((since, serving)) = strangers.front().filter(|_| strangers.len() >= STRANGERS) else { return };
        if since.elapsed() >= QUICK {
            serving.abort();
            strangers.pop_front();
            return;
        }
        tokio::time::sleep(BREATHER).await;
    }
}

/// Serves a connection until its client has shown that they know the secret, and hands it over to a task of its own then.
async fn stranger(stream: TcpStream, tls: TlsAcceptor, forward: Arc<Forward>) {
    let is_known = Arc::new(Notify::new());
    let mut serving = Box::pin(connection(stream, tls, forward, Arc::clone(&is_known)));
    tokio::select! {
        () = &mut serving => {}
        () = is_known.notified() => drop(tokio::spawn(serving)),
        () = tokio::time::sleep(STRANGENESS) => {}
    }
}

/// Serves one connection of a client.
async fn connection(stream: TcpStream, tls: TlsAcceptor, forward: Arc<Forward>, is_known: Arc<Notify>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else { return };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let (forward, is_known) = (Arc::clone(&forward), Arc::clone(&is_known));
        async move { Ok::<_, Infallible>(forward.answer(request, &is_known).await) }
    });
    // How a connection ends is the client's business.
    let _ = if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(64 << 10);
        builder.serve_connection(io, service).await
    } else {
        http1::Builder::new().header_read_timeout(None).serve_connection(io, service).with_upgrades().await
    };
}
