//! The ports of HTTP: connections come in, are secured where the port is one for TLS, and are served until they end.
//!
//! Each port has connections of its own, so that a flood of handshakes leaves the other one usable, and a host leaves
//! room for the others until a request of it was authorised, whether it says nothing or asks for /health for ever.
//! Every wait has an end. Neighbours: `mod` says what is served, `auth` who is known, `wire` speaks TLS. Left out: who
//! may ask for what, which hangs by the token of each request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::wire::tls::HandshakeError;
use crate::wire::{Newcomer, Newcomers, Stream, Tls, Wire};

/// A bound port that nobody serves yet.
#[derive(Debug)]
pub(super) struct Port {
    listener: TcpListener,
    pub(super) address: SocketAddr,
    tls: Option<Arc<Tls>>,
}

/// What is served, and how long a peer may take.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) router: Router,
    /// For a handshake, and for the head of a request.
    pub(super) header_timeout: Duration,
    /// For an answer that is not read.
    pub(super) silence_max: Duration,
}

/// Who asks; an extension of every request.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) address: SocketAddr,
    /// The place of the connection among those of which nothing is known.
    place: Arc<Mutex<Option<Newcomer>>>,
}

impl Caller {
    pub(super) fn new(address: SocketAddr, newcomer: Newcomer) -> Self {
        Self { address, place: Arc::new(Mutex::new(Some(newcomer))) }
    }

    /// A request was authorised: the connection is bounded by those of the port alone.
    pub(super) fn is_known(&self) {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Connections of a port at once; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 128;
/// Connections of one host at once on which no request was authorised: a quarter of a port.
pub(super) const OF_ONE_HOST_MAX: usize = CONNECTIONS_MAX / 4;
/// Longest request line with all header fields, bytes; hyper may have read twice as much before it counts.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a client without TLS reads on the port for TLS.
const WITHOUT_TLS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
                           this port speaks HTTPS: write https:// in place of http://\n";

impl Port {
    /// Binds; port 0 takes any free port.
    ///
    /// # Errors
    /// With the key that is at fault.
    pub(super) async fn bind(key: &str, address: SocketAddr, tls: Option<Arc<Tls>>) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, tls })
    }

    /// Takes connections until `cancel`; each is one of `tasks`.
    pub(super) async fn accept(
        self,
        service: Service,
        newcomers: Newcomers,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        while let Some((tcp, peer, permit)) = next(&self.listener, &connections, &cancel).await {
            let Some(newcomer) = newcomers.admit(peer.ip().to_canonical()) else { continue };
            let caller = Caller::new(peer, newcomer);
            let (service, tls, cancel) = (service.clone(), self.tls.clone(), cancel.clone());
            tasks.spawn(async move {
                service.serve(tcp, caller, tls.as_ref(), &cancel).await;
                drop(permit);
            });
        }
    }
}

/// The next connection with its permit; `None` when it is time to stop.
async fn next(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    cancel: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let accept = async {
        let permit = Arc::clone(connections).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return (stream, peer, permit),
                Err(error) => {
                    warn!(%error, "a web connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        accepted = accept => Some(accepted),
    }
}

impl Service {
    /// One connection: its handshake, where there is one, and its requests, one after the other. A head that does not
    /// come in time ends it, also the next one on a connection that is kept alive; a body is timed by whoever reads it.
    async fn serve(self, tcp: TcpStream, caller: Caller, tls: Option<&Arc<Tls>>, cancel: &CancellationToken) {
        // A peer that takes no answer must not hold its place for ever.
        let silence = u32::try_from(self.silence_max.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&tcp, silence) {
            debug!(%error, "no limit on unread answers");
        }
        let _ = tcp.set_nodelay(true);
        let stream = match tls {
            None => Stream::Plain(tcp),
            Some(tls) => {
                let secured = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    secured = secure(tls, tcp, caller.address, Instant::now() + self.header_timeout) => secured,
                };
                let Some(stream) = secured else { return };
                stream
            }
        };
        let service = TowerToHyperService::new(self.router.layer(axum::Extension(caller)));
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.header_timeout).max_buf_size(HEAD_BYTES_MAX);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a web connection failed");
        }
    }
}

/// The TLS handshake of a connection, done by `deadline`; `None` where it failed, which was logged, and the peer told.
async fn secure(tls: &Arc<Tls>, mut tcp: TcpStream, peer: SocketAddr, deadline: Instant) -> Option<Stream> {
    let mut first = [0; 1];
    // Monitors connect and leave; that is no event.
    let Ok(Ok(1..)) = timeout_at(deadline, tcp.peek(&mut first)).await else {
        debug!(%peer, "a web connection without a TLS handshake");
        return None;
    };
    // The method of a request; a TLS record begins with 16H.
    if first[0].is_ascii_alphabetic() {
        warn!(%peer, "a client without TLS on web.listen_tls: let it call https, or web.listen");
        if timeout_at(deadline, tcp.write_all(WITHOUT_TLS.as_bytes())).await.is_ok() {
            end(tcp, deadline).await;
        }
        return None;
    }
    match timeout_at(deadline, tls.accept_web(tcp)).await {
        Ok(Ok((stream, certificate))) => {
            debug!(%peer, certificate = certificate.map(tracing::field::display), "TLS connection");
            Some(stream)
        }
        Ok(Err((error, tcp))) => {
            match &error {
                HandshakeError::Broken(_) => debug!(%peer, %error, "no TLS connection"),
                error => warn!(%peer, %error, "no TLS connection"),
            }
            end(tcp, deadline).await;
            None
        }
        Err(_) => {
            debug!(%peer, "no TLS handshake in time");
            None
        }
    }
}

/// Lets the peer read what was said last: a socket that is closed with unread bytes is reset.
async fn end(mut tcp: TcpStream, deadline: Instant) {
    let _ = tcp.shutdown().await;
    if let Ok(wire) = Wire::new(tcp, deadline.saturating_duration_since(Instant::now())) {
        wire.drain().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::Extension;
    use axum::routing::get;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::wire::ThisMachine;

    /// Asks on a connection that stays open; whether there was an answer.
    async fn ask(stream: &mut TcpStream, path: &str) -> bool {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (mut answer, mut bytes) = (Vec::new(), [0; 256]);
        let _ = stream.write_all(request.as_bytes()).await;
        while !answer.ends_with(b"answered") {
            match stream.read(&mut bytes).await {
                Ok(read @ 1..) => answer.extend_from_slice(&bytes[..read]),
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    #[tokio::test]
    async fn a_host_has_so_many_connections_until_a_request_is_authorised() {
        const OF_ONE_HOST_MAX: usize = 3;
        let port = Port::bind("web.listen", "127.0.0.1:0".parse().unwrap(), None).await.unwrap();
        let address = port.address;
        let authorised = |Extension(caller): Extension<Caller>| async move {
            caller.is_known();
            "answered"
        };
        let service = Service {
            router: Router::new().route("/health", get(|| async { "answered" })).route("/studies", get(authorised)),
            header_timeout: Duration::from_secs(60),
            silence_max: Duration::from_secs(60),
        };
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let newcomers = Newcomers::new(OF_ONE_HOST_MAX, ThisMachine::Bounded);
        tasks.spawn(port.accept(service, newcomers, tasks.clone(), cancel.clone()));
        let open = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            ask(&mut stream, "/health").await.then_some(stream)
        };
        let run = async {
            let mut held = Vec::new();
            for _ in 0..OF_ONE_HOST_MAX {
                held.push(open().await.unwrap());
            }
            assert!(open().await.is_none(), "answers make nobody known");
            assert!(ask(&mut held[0], "/studies").await);
            held.push(open().await.unwrap());
            assert!(open().await.is_none(), "one was authorised, the others were not");
            assert!(ask(&mut held[0], "/health").await && ask(&mut held[1], "/health").await);
            drop(held.pop());
            while open().await.is_none() {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
            tasks.close();
            tasks.wait().await;
        };
        tokio::time::timeout(Duration::from_secs(50), run).await.unwrap();
    }
}
