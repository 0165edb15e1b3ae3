//! Health, readiness and metrics, for orchestrators and monitoring.
//!
//! Counts by state only: no identifier, no score, no group ever appears here. Neighbours: `store` for the counts. Left
//! out: who may ask, since there is nothing to hide; `web.listen` names the network.

use std::fmt::Write as _;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use tracing::error;

use super::Shared;
use crate::infer::ModelState;
use crate::store::DestinationState;

/// 200 once ports are bound, each model on each device scored an image, and the index answers, for as long as inference
/// goes on and no device lacks the memory for one image; 503 otherwise.
pub(super) async fn is_ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if !shared.told.ready.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting, stopping, or a device has no memory\n");
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
pub(super) async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
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
    model_metrics(&mut text, &shared.told.models.lock().unwrap_or_else(PoisonError::into_inner));
    match shared.store.destinations().await {
        Ok(destinations) => destination_metrics(&mut text, &destinations),
        Err(error) => error!(%error, "no metrics of destinations"),
    }
    (StatusCode::OK, [(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// Models of this process, by the names of their packages, which are letters, digits and hyphens.
fn model_metrics(text: &mut String, models: &[ModelState]) {
    type Value = fn(&ModelState) -> usize;
    let gauges: [(&str, &str, Value); 2] = [
        ("sidelight_model_up", "0: the device had no memory for one image.", |m| usize::from(m.is_sound)),
        ("sidelight_model_batch_images", "Images per batch, as memory allows now.", |m| m.batch_images),
    ];
    for (name, help, value) in gauges {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for of in models {
            let _ = writeln!(text, "{name}{{model=\"{}\",device=\"{}\"}} {}", of.model, of.device, value(of));
        }
    }
}

/// By the names of the configuration, which are letters, digits and hyphens.
fn destination_metrics(text: &mut String, destinations: &[DestinationState]) {
    type Value = fn(&DestinationState) -> u64;
    let gauges: [(&str, &str, Value); 4] = [
        ("sidelight_destination_up", "1: the last attempt reached it.", |d| u64::from(d.up)),
        ("sidelight_destination_waiting", "Reports that wait for it.", |d| d.pending),
        ("sidelight_destination_given_up", "Reports that were given up.", |d| d.failed),
        ("sidelight_destination_uncommitted", "Reports that it took and has not committed to keep.", |d| d.unconfirmed),
    ];
    for (name, help, value) in gauges {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for destination in destinations {
            let _ = writeln!(text, "{name}{{destination=\"{}\"}} {}", destination.name, value(destination));
        }
    }
}
