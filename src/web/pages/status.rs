//! How the node stands: what is wrong, what waits, what flowed, where reports go, how full the disk is.
//!
//! Neighbours: `store::overview` counts. Left out: totals over all time, which `/metrics` has.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;

use crate::domain::Timestamp;
use crate::infer::ModelState;
use crate::store::{DestinationOverview, Overview};

use super::frame::{Frame, ago, moment, moment_if, page, plain, size};
use super::guard::{Visitor, failed};
use super::{Pages, assets};

/// What waits longer than so many minutes is an alarm.
const UNREAD_MINUTES_MAX: i64 = 10;

#[derive(Template)]
#[template(path = "pages/status.html")]
struct StatusPage {
    frame: Frame,
    script: String,
    now: String,
    /// Each with whether somebody has to act now.
    alarms: Vec<Alarm>,
    queue: Vec<(&'static str, String)>,
    throughput: Vec<(&'static str, u64, u64)>,
    destinations: Vec<Line>,
    models: Vec<ModelState>,
    disk: Option<DiskLine>,
}

#[derive(Debug, PartialEq, Eq)]
struct Alarm {
    is_urgent: bool,
    text: String,
}

struct Line {
    name: String,
    is_up: bool,
    state: String,
    waiting: u64,
    given_up: u64,
    delivered_at: String,
    error: String,
}

struct DiskLine {
    free: String,
    size: String,
    floor: String,
    used_percent: u64,
}

/// The page.
pub(super) async fn page_of(pages: &Pages, visitor: &Visitor, now: Timestamp) -> Response {
    let config = pages.site.config();
    let names: Vec<String> = config.destinations.iter().map(|d| d.name.clone()).collect();
    let overview = match pages.site.store.overview(&names, now).await {
        Ok(overview) => overview,
        Err(cause) => return failed(pages, visitor, cause),
    };
    let told = &pages.site.told;
    let models = told.models.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let is_ready = told.ready.load(Ordering::Relaxed);
    let template = StatusPage {
        frame: Frame::new(pages, Some(visitor), "/", "Status"),
        script: assets::script(),
        now: moment(now),
        alarms: alarms(&overview, &models, is_ready, now),
        queue: queue(&overview, now),
        throughput: vec![
            ("Objects received", overview.last_hour.objects_received, overview.last_day.objects_received),
            ("Studies closed", overview.last_hour.studies_closed, overview.last_day.studies_closed),
            ("Reports delivered", overview.last_hour.reports_delivered, overview.last_day.reports_delivered),
        ],
        destinations: overview.destinations.iter().map(line).collect(),
        models,
        disk: overview.disk.as_ref().ok().map(|disk| DiskLine {
            free: size(disk.free),
            size: size(disk.size),
            floor: size(disk.floor),
            used_percent: (disk.size - disk.free.min(disk.size)) * 100 / disk.size.max(1),
        }),
    };
    page(StatusCode::OK, &template)
}

pub(super) async fn page_now(State(pages): State<Pages>, Extension(visitor): Extension<Visitor>) -> Response {
    page_of(&pages, &visitor, Utc::now()).await
}

fn alarms(overview: &Overview, models: &[ModelState], is_ready: bool, now: Timestamp) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut alarm = |is_urgent, text: String| alarms.push(Alarm { is_urgent, text });
    match &overview.disk {
        Err(cause) => alarm(true, format!("Nothing can be stored: {}", plain(cause))),
        Ok(disk) if disk.free < disk.floor => {
            alarm(
                true,
                format!("Nothing more is accepted: {} are free, {} must stay free", size(disk.free), size(disk.floor)),
            );
        }
        Ok(disk) if disk.free / 2 < disk.floor => {
            alarm(
                false,
                format!(
                    "The disk is nearly full: {} are free, at {} nothing more is accepted",
                    size(disk.free),
                    size(disk.floor)
                ),
            );
        }
        Ok(_) => {}
    }
    for model in models.iter().filter(|model| !model.is_sound) {
        alarm(
            true,
            format!("Model {} on {} had no memory for one image; it is tried again", model.model, model.device),
        );
    }
    if !is_ready && models.iter().all(|model| model.is_sound) {
        alarm(true, "The node is starting or stopping".to_owned());
    }
    for destination in &overview.destinations {
        if let Some(since) = destination.down_since {
            let text =
                format!("Destination {} is down since {} ({})", destination.name, moment(since), ago(since, now));
            alarm(true, text);
        }
        if destination.given_up > 0 {
            let text = format!("{} deliveries to {} were given up", destination.given_up, destination.name);
            alarm(false, text);
        }
    }
    if let Some(since) = overview.unread_since.filter(|since| (now - *since).num_minutes() > UNREAD_MINUTES_MAX) {
        alarm(
            false,
            format!(
                "{} objects wait to be read, the oldest since {} ({})",
                overview.unread,
                moment(since),
                ago(since, now)
            ),
        );
    }
    if overview.conflicts > 0 {
        let text =
            format!("{} objects came with a known UID and other content, and were kept aside", overview.conflicts);
        alarm(false, text);
    }
    if overview.failed > 0 {
        alarm(false, format!("{} studies failed", overview.failed));
    }
    alarms
}

fn queue(overview: &Overview, now: Timestamp) -> Vec<(&'static str, String)> {
    let unread = match overview.unread_since {
        Some(since) => format!("{} (the oldest {})", overview.unread, ago(since, now)),
        None => overview.unread.to_string(),
    };
    let waiting: u64 = overview.destinations.iter().map(|d| d.waiting).sum();
    vec![
        ("Objects not read yet", unread),
        ("of those, waiting for a model server", overview.waiting_for_server.to_string()),
        ("Studies still open", overview.open.to_string()),
        ("Reports to be delivered", waiting.to_string()),
        ("Studies that failed", overview.failed.to_string()),
    ]
}

fn line(destination: &DestinationOverview) -> Line {
    let state = match destination.down_since {
        None => "up".to_owned(),
        Some(_) => format!("down, next attempt {}", moment_if(destination.next_at)),
    };
    Line {
        name: destination.name.clone(),
        is_up: destination.down_since.is_none(),
        state,
        waiting: destination.waiting,
        given_up: destination.given_up,
        delivered_at: moment_if(destination.delivered_at),
        error: plain(destination.last_error.as_deref().unwrap_or_default()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{Disk, Throughput};

    #[test]
    fn what_is_wrong_is_an_alarm_and_what_is_not_is_none() {
        let now = Timestamp::from_timestamp(1_700_000_000, 0).unwrap();
        let destination = DestinationOverview {
            name: "pacs".into(),
            down_since: None,
            next_at: None,
            last_error: None,
            waiting: 3,
            given_up: 0,
            delivered_at: None,
        };
        let well = Overview {
            open: 5,
            failed: 0,
            unread: 7,
            unread_since: Some(now),
            waiting_for_server: 0,
            conflicts: 0,
            last_hour: Throughput::default(),
            last_day: Throughput::default(),
            destinations: vec![destination.clone()],
            disk: Ok(Disk { free: 1000, size: 2000, floor: 100 }),
        };
        let model = |is_sound| ModelState { model: "m".into(), device: "cpu".into(), batch_images: 1, is_sound };
        let told = |overview: &Overview, is_sound, is_ready| {
            let found = alarms(overview, &[model(is_sound)], is_ready, now);
            found.into_iter().map(|a| (a.is_urgent, a.text)).collect::<Vec<_>>()
        };
        assert_eq!(told(&well, true, true), []);
        let rows: Vec<(Overview, bool, bool, bool, &str)> = vec![
            (well.clone(), false, false, true, "Model m on cpu"),
            (well.clone(), true, false, true, "starting or stopping"),
            (Overview { disk: Err("read-only".into()), ..well.clone() }, true, true, true, "read-only"),
            (
                Overview { disk: Ok(Disk { free: 99, size: 2000, floor: 100 }), ..well.clone() },
                true,
                true,
                true,
                "Nothing more is accepted",
            ),
            (
                Overview { disk: Ok(Disk { free: 150, size: 2000, floor: 100 }), ..well.clone() },
                true,
                true,
                false,
                "nearly full",
            ),
            (Overview { conflicts: 2, ..well.clone() }, true, true, false, "2 objects came"),
            (Overview { failed: 4, ..well.clone() }, true, true, false, "4 studies failed"),
            (
                Overview { unread_since: Some(now - chrono::Duration::minutes(11)), ..well.clone() },
                true,
                true,
                false,
                "7 objects wait to be read",
            ),
            (
                Overview {
                    destinations: vec![DestinationOverview { down_since: Some(now), ..destination.clone() }],
                    ..well.clone()
                },
                true,
                true,
                true,
                "Destination pacs is down",
            ),
            (
                Overview { destinations: vec![DestinationOverview { given_up: 6, ..destination }], ..well.clone() },
                true,
                true,
                false,
                "6 deliveries to pacs",
            ),
        ];
        for (overview, is_sound, is_ready, is_urgent, text) in rows {
            let found = told(&overview, is_sound, is_ready);
            assert!(found.len() == 1 && found[0].0 == is_urgent && found[0].1.contains(text), "{text}: {found:?}");
        }
    }
}
