//! One study: what happened when, its report as a radiologist reads it, its objects and deliveries, and what may be done.
//!
//! The report is that of a withheld destination, whoever looks: the index keeps nothing else of it. Neighbours: `report`
//! words it, `actions` does what the buttons say. Left out: scores of images, and everything about the patient.

use std::collections::BTreeMap;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use crate::domain::{ClosedBy, CommitmentState, DeliveryState, Disclosure, InstanceState, StudyState, Timestamp, Uid};
use crate::report;
use crate::store::{DeliveryDetail, InstanceDetail, StudyDetail};

use super::Pages;
use super::access::Right;
use super::frame::{self, Frame, moment, moment_if, page, plain, size};
use super::guard::{Visitor, failed};
use super::studies::{Flag, flag};

/// Objects that are listed.
const OBJECTS_MAX: usize = 200;

/// What a button has just led to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Done {
    done: String,
}

#[derive(Template)]
#[template(path = "pages/study.html")]
struct StudyPage {
    frame: Frame,
    study: String,
    log_id: String,
    done: Option<&'static str>,
    facts: Vec<(&'static str, String)>,
    flag: Option<Flag>,
    timeline: Vec<(String, String)>,
    report: Vec<Finding>,
    closing: Vec<String>,
    objects: Vec<ObjectRow>,
    objects_left_out: usize,
    deliveries: Vec<DeliveryRow>,
    /// Names of destinations that something was for.
    destinations: Vec<String>,
    may_act: bool,
    is_open: bool,
    can_resend: bool,
    can_analyse: bool,
}

/// A finding of the report: its heading and what is said of it.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    heading: String,
    lines: Vec<(String, String)>,
}

struct ObjectRow {
    instance: String,
    modality: String,
    arrived: String,
    size: String,
    state: String,
    is_kept: bool,
}

struct DeliveryRow {
    destination: String,
    report: String,
    state: &'static str,
    attempts: u32,
    when: String,
    commitment: &'static str,
    error: String,
}

/// The page.
pub(super) async fn page_of(
    State(pages): State<Pages>,
    Extension(visitor): Extension<Visitor>,
    Path(study): Path<String>,
    done: Result<Query<Done>, QueryRejection>,
) -> Response {
    let Ok(uid) = Uid::parse(&study) else { return unknown(&pages, &visitor) };
    let detail = match pages.site.store.show_study(&uid).await {
        Ok(Some(detail)) => detail,
        Ok(None) => return unknown(&pages, &visitor),
        Err(cause) => return failed(&pages, &visitor, cause),
    };
    let row = &detail.study;
    let (report, closing) = detail
        .assessment
        .as_ref()
        .map_or_else(Default::default, |assessment| read_aloud(&report::render(assessment, &[], Disclosure::Withheld)));
    let mut destinations: Vec<String> = detail.deliveries.iter().map(|d| d.destination.clone()).collect();
    destinations.sort_unstable();
    destinations.dedup();
    let template = StudyPage {
        frame: Frame::new(&pages, Some(&visitor), "/studies", if row.readable { "Study" } else { "Object" }),
        study: uid.to_string(),
        log_id: pages.site.store.log_id(uid.as_str()),
        done: done.ok().and_then(|Query(done)| told(&done.done)),
        facts: facts(&detail),
        flag: row.level.map(flag),
        timeline: timeline(&detail),
        report,
        closing,
        objects: detail.instances.iter().take(OBJECTS_MAX).map(object).collect(),
        objects_left_out: detail.instances.len().saturating_sub(OBJECTS_MAX),
        deliveries: detail.deliveries.iter().map(delivery).collect(),
        may_act: visitor.may(Right::Act),
        is_open: row.state == StudyState::Open,
        can_resend: !destinations.is_empty(),
        can_analyse: detail.instances.iter().all(|i| i.kept),
        destinations,
    };
    page(StatusCode::OK, &template)
}

/// The answer where there is no such study.
pub(super) fn unknown(pages: &Pages, visitor: &Visitor) -> Response {
    let text = "No study with this UID is known here. It may be past its retention.";
    frame::notice(pages, Some(visitor), StatusCode::NOT_FOUND, "Not found", text)
}

fn told(word: &str) -> Option<&'static str> {
    match word {
        "resend" => Some("The current reports are due again; the node sends them now."),
        "analyse" => Some("The study is analysed again from its stored objects."),
        "close" => Some("The study is closed with what has arrived by now."),
        _ => None,
    }
}

fn facts(detail: &StudyDetail) -> Vec<(&'static str, String)> {
    let row = &detail.study;
    let why = match (&row.refusal, &row.error) {
        (Some(refusal), _) => refusal.to_string(),
        (None, Some(error)) => error.clone(),
        (None, None) if !row.missing.is_empty() => format!("incomplete: missing {}", row.missing.join(", ")),
        (None, None) if row.complete == Some(false) => "incomplete".to_owned(),
        (None, None) => String::new(),
    };
    let objects = match (row.instances_refused, row.instances_late) {
        (0, 0) => row.instances.to_string(),
        (refused, 0) => format!("{} ({refused} refused)", row.instances),
        (refused, late) => format!("{} ({refused} refused, {late} late and in no report)", row.instances),
    };
    let mut facts = vec![
        ("State", row.state.as_str().to_owned()),
        ("Source", plain(row.source.as_str())),
        ("Objects", objects),
        ("Revision", row.revision.to_string()),
    ];
    if !why.is_empty() {
        facts.insert(1, ("Why", plain(&why)));
    }
    facts
}

/// What happened when, in order.
fn timeline(detail: &StudyDetail) -> Vec<(String, String)> {
    let row = &detail.study;
    let mut events: Vec<(Timestamp, String)> = Vec::new();
    let arrivals = || detail.instances.iter().map(|i| i.received_at);
    if let (Some(first), Some(last)) = (arrivals().min(), arrivals().max()) {
        events.push((first, format!("The first object arrived from {}", plain(row.source.as_str()))));
        if last > first {
            events.push((last, format!("The last of {} objects arrived", detail.instances.len())));
        }
    }
    if let Some(read) = detail.instances.iter().filter_map(|i| i.read_at).max() {
        events.push((read, "The last object was read".to_owned()));
    }
    if row.revision > 1 {
        events.push((row.first_at, format!("Revision {} began", row.revision)));
    }
    for result in &detail.results {
        let product = plain(result.model.split('#').next().unwrap_or_default());
        events.push((result.received_at, format!("A result of {product} arrived")));
    }
    let mut written: BTreeMap<u32, Timestamp> = BTreeMap::new();
    for report in &detail.reports {
        written.entry(report.revision).or_insert(report.created_at);
    }
    events.extend(
        written.into_iter().map(|(revision, at)| (at, format!("The report of revision {revision} was written"))),
    );
    if let Some(at) = row.closed_at {
        events.push((at, closed(detail)));
    }
    for delivery in &detail.deliveries {
        let name = plain(&delivery.destination);
        events.extend(delivery.delivered_at.map(|at| (at, format!("{name} took a report"))));
        events.extend(delivery.next_at.map(|at| (at, format!("{name}: next attempt"))));
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(at, text)| (moment(at), text)).collect()
}

fn closed(detail: &StudyDetail) -> String {
    let row = &detail.study;
    let because = match row.closed_by {
        Some(ClosedBy::Quiet) => ": nothing arrived for the quiet period",
        Some(ClosedBy::Cap) => ": the time limit (study.cap)",
        Some(ClosedBy::Hand) => ": by hand",
        None => "",
    };
    let complete = match row.complete {
        Some(true) => ", complete",
        Some(false) => ", incomplete",
        None => "",
    };
    match row.state {
        StudyState::Refused => "The study was refused".to_owned(),
        StudyState::Failed if row.current_reports == 0 => "The study failed".to_owned(),
        _ => format!("The study was closed{because}{complete}"),
    }
}

/// The report's text as findings, each with what is said of it, and what is said of all. Wording and order stay those of
/// the text; a label ends at its colon.
fn read_aloud(text: &str) -> (Vec<Finding>, Vec<String>) {
    let mut paragraphs = text.split("\n\n").map(|p| p.lines().collect::<Vec<_>>());
    // The title is that of the section.
    paragraphs.next();
    let (mut findings, mut closing) = (Vec::new(), Vec::new());
    for lines in paragraphs {
        let is_finding = lines.get(1).is_some_and(|line| line.starts_with("  "));
        match lines.split_first() {
            Some((heading, rest)) if is_finding => {
                let pair = |line: &&str| match line.trim().split_once(": ") {
                    Some((label, said)) => (plain(label), plain(said)),
                    None => (String::new(), plain(line.trim())),
                };
                findings.push(Finding { heading: plain(heading), lines: rest.iter().map(pair).collect() });
            }
            _ => closing.extend(lines.into_iter().filter(|line| !line.is_empty()).map(plain)),
        }
    }
    (findings, closing)
}

fn object(detail: &InstanceDetail) -> ObjectRow {
    let state = match (&detail.refusal, detail.state) {
        _ if detail.late => "late, in no report".to_owned(),
        (Some(refusal), _) => plain(&refusal.to_string()),
        (None, InstanceState::Received) => "waits to be read".to_owned(),
        (None, InstanceState::Scored) => "scored".to_owned(),
        (None, InstanceState::Refused) => "refused".to_owned(),
    };
    ObjectRow {
        instance: detail.sop_instance.to_string(),
        modality: plain(detail.modality.as_deref().unwrap_or_default()),
        arrived: moment(detail.received_at),
        size: size(detail.bytes),
        state,
        is_kept: detail.kept,
    }
}

fn delivery(detail: &DeliveryDetail) -> DeliveryRow {
    let (state, when) = match detail.state {
        DeliveryState::Pending => {
            ("waits", detail.next_at.map_or_else(String::new, |at| format!("next {}", moment(at))))
        }
        DeliveryState::Delivered => ("delivered", moment_if(detail.delivered_at)),
        DeliveryState::Failed => ("given up", String::new()),
        DeliveryState::Superseded => ("replaced by a newer report", String::new()),
    };
    let commitment = match detail.commitment {
        None => "",
        Some(CommitmentState::Asked) => "asked",
        Some(CommitmentState::Confirmed) => "confirmed",
        Some(CommitmentState::Failed) => "not given",
    };
    let error = detail.last_error.as_deref().or(detail.commitment_error.as_deref()).unwrap_or_default();
    DeliveryRow {
        destination: plain(&detail.destination),
        report: detail.report.to_string(),
        state,
        attempts: detail.attempts,
        when,
        commitment,
        error: plain(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_split_where_its_text_is() {
        let text = "Race-dependent error risk of AI results\n\nPneumothorax: AI result POSITIVE\n  Flag: None (RDER-NONE)\n  \
                    Score 12 %, decision threshold 50 %\n\nEffusion: no AI result\n  Flag: x\n\nHighest flag: None\nLimits: of it\n";
        let (findings, closing) = read_aloud(text);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[0].heading, "Pneumothorax: AI result POSITIVE");
        assert_eq!(
            findings[0].lines,
            [pair("Flag", "None (RDER-NONE)"), pair("", "Score 12 %, decision threshold 50 %")]
        );
        assert_eq!(closing, ["Highest flag: None", "Limits: of it"]);
        assert_eq!(read_aloud(""), (vec![], vec![]));
    }
}
