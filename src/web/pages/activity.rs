//! The activity log, newest first.
//!
//! Left out: whether the chain holds, which reads all of it: `sidelight log verify`.

use askama::Template;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::Pages;
use super::frame::{Frame, moment, page, plain};
use super::guard::{Visitor, failed};

const PAGE: u32 = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    before: String,
}

#[derive(Template)]
#[template(path = "pages/activity.html")]
struct ActivityPage {
    frame: Frame,
    lines: Vec<Line>,
    next: Option<u64>,
    is_first: bool,
}

struct Line {
    number: u64,
    at: String,
    user: String,
    action: String,
    object: String,
    outcome: String,
    digest: String,
}

/// The page.
pub(super) async fn page_of(
    State(pages): State<Pages>,
    Extension(visitor): Extension<Visitor>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let before: Option<u64> = asked.ok().and_then(|Query(asked)| asked.before.parse().ok());
    let lines = match pages.site.store.activity(before, PAGE).await {
        Ok(lines) => lines,
        Err(cause) => return failed(&pages, &visitor, cause),
    };
    let next = lines.last().map(|line| line.number).filter(|number| *number > 1);
    let line = |line: &crate::store::ActivityLine| Line {
        number: line.number,
        at: moment(line.at),
        user: plain(&line.user),
        action: plain(&line.action),
        object: plain(&line.object),
        outcome: plain(&line.outcome),
        digest: line.digest.short().to_owned(),
    };
    let template = ActivityPage {
        frame: Frame::new(&pages, Some(&visitor), "/activity", "Activity log"),
        lines: lines.iter().map(line).collect(),
        next,
        is_first: before.is_none(),
    };
    page(StatusCode::OK, &template)
}
