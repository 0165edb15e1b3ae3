//! Health, readiness and metrics over HTTP, for orchestrators and monitoring.
//!
//! Counts by state only: no identifier, no score, no group ever appears here. Neighbours: `store` for the counts,
//! `serve` starts it. Left out: pages and the API for people.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::store::{DestinationState, Store};

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

#[derive(Clone)]
struct Shared {
    store: Store,
    ready: Arc<AtomicBool>,
}

/// Binds `address`; port 0 takes any free port.
pub async fn bind(address: SocketAddr, store: Store, ready: Arc<AtomicBool>) -> anyhow::Result<Server> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("web.listen: cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(is_ready))
        .route("/metrics", get(metrics))
        .with_state(Shared { store, ready });
    Ok(Server { listener, address, router })
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let served = axum::serve(self.listener, self.router).with_graceful_shutdown(cancel.cancelled_owned());
        if let Err(error) = served.await {
            error!(%error, "the web listener ended");
        }
    }
}

/// 200 once ports are bound, models are warm and the index answers; 503 otherwise.
async fn is_ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if !shared.ready.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n");
    }
    match shared.store.counts().await {
        Ok(_) => (StatusCode::OK, "ready\n"),
        Err(error) => {
            error!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the index does not answer\n")
        }
    }
}

/// Prometheus text format, version 0.0.4.
async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let counts = match shared.store.counts().await {
        Ok(counts) => counts,
        Err(error) => {
            error!(%error, "no metrics");
            return (StatusCode::SERVICE_UNAVAILABLE, [(CONTENT_TYPE, "text/plain")], String::new());
        }
    };
    let mut text = String::new();
    for (name, help, by_state) in [
        ("sidelight_instances", "Objects by state.", &counts.instances),
        ("sidelight_studies", "Studies by state.", &counts.studies),
        ("sidelight_deliveries", "Deliveries of reports by state.", &counts.deliveries),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (state, count) in by_state {
            let _ = writeln!(text, "{name}{{state=\"{state}\"}} {count}");
        }
    }
    let _ = writeln!(
        text,
        "# HELP sidelight_conflicts Objects kept aside: known UID, other content.\n# TYPE sidelight_conflicts gauge\n\
         sidelight_conflicts {}",
        counts.conflicts
    );
    match shared.store.destinations().await {
        Ok(destinations) => destination_metrics(&mut text, &destinations),
        Err(error) => error!(%error, "no metrics of destinations"),
    }
    (StatusCode::OK, [(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// By the names of the configuration, which are letters, digits and hyphens.
fn destination_metrics(text: &mut String, destinations: &[DestinationState]) {
    type Value = fn(&DestinationState) -> u64;
    let gauges: [(&str, &str, Value); 3] = [
        ("sidelight_destination_up", "1: the last attempt reached it.", |d| u64::from(d.up)),
        ("sidelight_destination_waiting", "Reports that wait for it.", |d| d.pending),
        ("sidelight_destination_given_up", "Reports that were given up.", |d| d.failed),
    ];
    for (name, help, value) in gauges {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for destination in destinations {
            let _ = writeln!(text, "{name}{{destination=\"{}\"}} {}", destination.name, value(destination));
        }
    }
}
