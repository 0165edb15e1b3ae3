//! WADO-RS (PS3.18 10.4): the node's own reports as files in a multipart body, or their attributes as JSON.
//!
//! What can be retrieved is what can be found (`qido`): current reports in their withheld form, the preferred SOP class
//! of each, and another one by its own SOP Instance UID. Neighbours: `store` has the files, `dicom` reads and writes
//! JSON. Left out: rendered forms, bulk data and other transfer syntaxes, which a report has not.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tracing::{error, info};

use crate::dicom::{OwnFileError, read_own, to_json};
use crate::store::CatalogReport;

use super::Shared;
use super::auth::Right;
use super::door::Caller;
use super::media::accepts;
use super::qido::{Uids, keys_of};
use super::respond::{Problem, dicom_json};

const FILES: &[(&str, Option<&str>)] = &[("multipart/related", Some("application/dicom"))];
const JSON: &[(&str, Option<&str>)] = &[("application/dicom+json", None), ("application/json", None)];

/// The files of a study, a series or an instance.
pub(super) async fn retrieve(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(uids): Path<Uids>,
    headers: HeaderMap,
) -> Response {
    let files = files(&shared, &caller, &headers, &uids, FILES, "multipart/related; type=\"application/dicom\"").await;
    match files {
        Ok(files) => multipart(&files),
        Err(problem) => problem.into_response(),
    }
}

/// Their attributes.
pub(super) async fn metadata(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(uids): Path<Uids>,
    headers: HeaderMap,
) -> Response {
    let files = match files(&shared, &caller, &headers, &uids, JSON, "application/dicom+json").await {
        Ok(files) => files,
        Err(problem) => return problem.into_response(),
    };
    let read = |file: &Vec<u8>| Ok(to_json(&read_own(file, None)?));
    match files.iter().map(read).collect::<Result<Vec<Value>, OwnFileError>>() {
        Ok(metadata) => dicom_json(StatusCode::OK, Value::Array(metadata)),
        Err(cause) => {
            error!(%cause, "a report cannot be read; restore it from a backup or analyse its study again");
            Problem::Internal.into_response()
        }
    }
}

async fn files(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    uids: &Uids,
    offers: &[(&str, Option<&str>)],
    offered: &'static str,
) -> Result<Vec<Vec<u8>>, Problem> {
    let client = shared.clients.authorize(headers, caller, Right::Query)?;
    let accept = headers.get(ACCEPT).map(|value| value.to_str().unwrap_or_default());
    if !accepts(accept, offers) {
        return Err(Problem::NotAcceptable(offered));
    }
    let keys = keys_of(uids)?;
    let permit = Arc::clone(&shared.queries).try_acquire_owned();
    let permit = Arc::new(permit.map_err(|_| Problem::Busy("too many queries at once"))?);
    // One page holds them all: every path names a study, which has one report.
    let page = shared.store.catalog(&keys, None, Arc::clone(&permit)).await?;
    let mut files = Vec::with_capacity(page.reports.len());
    for report in &page.reports {
        files.push(file(shared, report).await?);
    }
    if files.is_empty() {
        return Err(Problem::NotFound);
    }
    info!(client = client.name, peer = %caller.address.ip(), reports = files.len(), "WADO-RS");
    Ok(files)
}

async fn file(shared: &Shared, report: &CatalogReport) -> Result<Vec<u8>, Problem> {
    let variant = report.variants.iter().find(|v| v.sop_instance == report.sop_instance).ok_or(Problem::NotFound)?;
    Ok(shared.store.report_bytes(variant).await?)
}

/// Files as a multipart body (PS3.18 8.6.1.2.1). The boundary is random, so that no file holds it.
fn multipart(files: &[Vec<u8>]) -> Response {
    let boundary = uuid::Uuid::new_v4().simple().to_string();
    let mut body = Vec::with_capacity(files.iter().map(Vec::len).sum::<usize>() + 256 * files.len() + 64);
    for file in files {
        let head = format!(
            "--{boundary}\r\nContent-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\n\
             Content-Length: {}\r\n\r\n",
            file.len()
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let media = format!("multipart/related; type=\"application/dicom\"; boundary={boundary}");
    (StatusCode::OK, [(CONTENT_TYPE, media)], Body::from(body)).into_response()
}
