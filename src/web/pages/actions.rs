//! What operators may have done to a study: sent again, analysed again, closed.
//!
//! The line of the activity log is written in the transaction that does it; what could not be done has a line of its
//! own. Neighbours: `guard` has checked right and form, `store` does it. Left out: deleting, which needs the command
//! line.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;
use tracing::{error, info};

use crate::domain::Uid;
use crate::store::{Resend, StoreError};

use super::forms::Form;
use super::guard::{Visitor, failed};
use super::login::to;
use super::{Pages, frame, study};

/// Sends current reports again, to one destination or to all that they were for.
pub(super) async fn resend(
    State(pages): State<Pages>,
    Extension(visitor): Extension<Visitor>,
    Path(study): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let Ok(uid) = Uid::parse(&study) else { return study::unknown(&pages, &visitor) };
    let destination = Some(form.field("destination")).filter(|name| !name.is_empty());
    if let Some(name) = destination
        && !pages.site.config().destinations.iter().any(|d| d.name == name)
    {
        let text = "There is no such destination in the configuration. Nothing was done.";
        return frame::notice(&pages, Some(&visitor), StatusCode::BAD_REQUEST, "Nothing was done", text);
    }
    let object = match destination {
        Some(name) => format!("study {} to {name}", pages.site.store.log_id(uid.as_str())),
        None => format!("study {}", pages.site.store.log_id(uid.as_str())),
    };
    let told = visitor.activity("resend", &object, "done");
    let which = Resend { study: Some(&uid), destination, failed_only: false };
    let done = pages.site.store.resend_matching_as(which, Some(&told), Utc::now()).await.map(drop);
    answer(&pages, &visitor, &uid, "resend", &object, done).await
}

/// Analyses a study again from its objects.
pub(super) async fn analyse(
    State(pages): State<Pages>,
    Extension(visitor): Extension<Visitor>,
    Path(study): Path<String>,
) -> Response {
    let Ok(uid) = Uid::parse(&study) else { return study::unknown(&pages, &visitor) };
    let object = format!("study {}", pages.site.store.log_id(uid.as_str()));
    let told = visitor.activity("analyse", &object, "done");
    let done = pages.site.store.requeue_as(&uid, Some(&told), Utc::now()).await;
    answer(&pages, &visitor, &uid, "analyse", &object, done).await
}

/// Closes an open study with what is there.
pub(super) async fn close(
    State(pages): State<Pages>,
    Extension(visitor): Extension<Visitor>,
    Path(study): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let Ok(uid) = Uid::parse(&study) else { return study::unknown(&pages, &visitor) };
    let (complete, how) = match form.field("complete") {
        "yes" => (Some(true), " as complete"),
        "no" => (Some(false), " as incomplete"),
        _ => (None, ""),
    };
    let object = format!("study {}{how}", pages.site.store.log_id(uid.as_str()));
    let told = visitor.activity("close", &object, "done");
    let done = pages.site.store.close_by_hand_as(&uid, complete, Some(&told), Utc::now()).await;
    answer(&pages, &visitor, &uid, "close", &object, done).await
}

async fn answer(
    pages: &Pages,
    visitor: &Visitor,
    study: &Uid,
    action: &str,
    object: &str,
    done: Result<(), StoreError>,
) -> Response {
    let cause = match done {
        Ok(()) => {
            info!(user = visitor.name, action, object, "done by a person");
            return to(&format!("/studies/{study}?done={action}"));
        }
        Err(cause) => cause,
    };
    let (outcome, text) = match &cause {
        StoreError::UnknownStudy(_) => ("refused: unknown", "No study with this UID is known here."),
        StoreError::NotOpen(_) => ("refused: not open", "The study is not open any more. Nothing was done."),
        StoreError::ObjectsGone(_) => {
            ("refused: objects gone", "Objects of the study are past their retention. Have it sent again.")
        }
        StoreError::NothingToSend(_) => {
            ("refused: no report", "The study has no report that could be sent there again. Analyse it again first.")
        }
        _ => ("failed", ""),
    };
    if let Err(error) = pages.note(&visitor.activity(action, object, outcome)).await {
        error!(%error, "what was refused could not be told");
    }
    if text.is_empty() {
        return failed(pages, visitor, cause);
    }
    let status = match cause {
        StoreError::UnknownStudy(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::CONFLICT,
    };
    frame::notice(pages, Some(visitor), status, "Nothing was done", text)
}
