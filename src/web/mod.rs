//! HTTP: health, readiness and metrics for orchestrators, and the DICOMweb services (PS3.18) for peers that have a
//! token.
//!
//! ```text
//! listener ─▶ connection (bounded) ─▶ router ─┬─▶ probes
//!                                             └─▶ auth ─▶ stow (in) · qido, wado (own reports, out)
//! ```
//! DICOMweb is off unless `web.dicomweb` says otherwise, and then open to `[[web_clients]]` only. The network side
//! parses no data set here either: `stow` reads the head of a file, `wado` answers with what `report` wrote.
//! Neighbours: `store` keeps and finds, `dicom` reads heads and matches, `serve` starts it. Left out: pages for people.

mod auth;
mod media;
mod multipart;
mod outcome;
mod probes;
mod qido;
mod respond;
mod stow;
mod wado;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::config::{self, Config};
use crate::store::Store;

pub use auth::{Clients, Gate};
pub use multipart::{HEADER_BYTES_MAX, Multipart, MultipartError, Next, PartHeader};

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    clients: Gate,
    header_timeout: Duration,
    silence_max: Duration,
}

/// What all requests share.
#[derive(Clone)]
struct Shared {
    store: Store,
    ready: Arc<AtomicBool>,
    node: Arc<config::Node>,
    clients: Gate,
    uploads: Arc<Semaphore>,
    queries: Arc<Semaphore>,
}

/// Connections at once; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 128;
/// STOW-RS requests at once: each keeps one object in flight. Further ones are asked to come back.
const UPLOADS_MAX: usize = 16;
/// Queries and retrievals at once.
const QUERIES_MAX: usize = 8;
/// Longest request line with all header fields, bytes; hyper may have read twice as much before it counts.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds `address`; port 0 takes any free port. Reads the tokens of the clients.
pub async fn bind(
    address: SocketAddr,
    config: &Config,
    store: Store,
    ready: Arc<AtomicBool>,
) -> anyhow::Result<Server> {
    let clients = Gate::new(Clients::of(&config.web)?);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("web.listen: cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    if config.web.dicomweb && !address.ip().is_loopback() {
        warn!(%address, "DICOMweb without TLS: tokens and objects can be read on the way; put a proxy with TLS before it");
    }
    let shared = Shared {
        store,
        ready,
        node: Arc::new(config.node.clone()),
        clients: clients.clone(),
        uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        queries: Arc::new(Semaphore::new(QUERIES_MAX)),
    };
    let mut router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(probes::is_ready))
        .route("/metrics", get(probes::metrics));
    if config.web.dicomweb {
        router = router.nest("/dicomweb", dicomweb());
    }
    Ok(Server {
        listener,
        address,
        router: router.with_state(shared),
        clients,
        header_timeout: config.node.negotiation_timeout,
        silence_max: config.node.idle_timeout,
    })
}

/// What is to be said of the clients that may use DICOMweb, or the first fault of their token files.
pub fn check_clients(config: &Config) -> anyhow::Result<String> {
    anyhow::ensure!(!config.web.clients.is_empty(), "nobody may use DICOMweb: list its clients under [[web_clients]]");
    Clients::read(&config.web.clients)?;
    Ok(format!("{} with their tokens", config.web.clients.len()))
}

/// The resources of PS3.18 10.1, as far as they are offered.
fn dicomweb() -> Router<Shared> {
    const STUDY: &str = "/studies/{study}";
    const SERIES: &str = "/studies/{study}/series/{series}";
    const INSTANCE: &str = "/studies/{study}/series/{series}/instances/{instance}";
    let metadata = |resource: &str| format!("{resource}/metadata");
    Router::new()
        .route("/studies", post(stow::store).get(qido::studies))
        .route(STUDY, post(stow::store).get(wado::retrieve))
        .route(SERIES, get(wado::retrieve))
        .route(INSTANCE, get(wado::retrieve))
        .route(&metadata(STUDY), get(wado::metadata))
        .route(&metadata(SERIES), get(wado::metadata))
        .route(&metadata(INSTANCE), get(wado::metadata))
        .route("/series", get(qido::series))
        .route("/studies/{study}/series", get(qido::series))
        .route("/instances", get(qido::instances))
        .route("/studies/{study}/instances", get(qido::instances))
        .route("/studies/{study}/series/{series}/instances", get(qido::instances))
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// To change who may use DICOMweb while the server runs.
    pub fn gate(&self) -> Gate {
        self.clients.clone()
    }

    /// Serves until `cancel`; requests that have begun are answered.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { listener, router, header_timeout, silence_max, .. } = self;
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        while let Some((stream, peer, permit)) = next(&listener, &connections, &cancel).await {
            let (router, cancel) = (router.clone(), cancel.clone());
            tasks.spawn(async move {
                serve(stream, peer, router, header_timeout, silence_max, &cancel).await;
                drop(permit);
            });
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }
}

/// The next connection with its permit; `None` when it is time to stop.
async fn next(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    cancel: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
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

/// One connection: its requests, one after the other. A head that does not come in time ends it, also the next one on
/// a connection that is kept alive; a body is timed by whoever reads it.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    header_timeout: Duration,
    silence_max: Duration,
    cancel: &CancellationToken,
) {
    // A peer that takes no answer must not hold its place for ever.
    let silence = u32::try_from(silence_max.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, silence) {
        debug!(%error, "no limit on unread answers");
    }
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router.layer(axum::Extension(ConnectInfo(peer))));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(HEAD_BYTES_MAX);
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
