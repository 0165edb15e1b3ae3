//! QIDO-RS (PS3.18 10.6): the node's own reports, found by the keys of a query.
//!
//! What can be found is the store's catalogue: current reports in their withheld form. A study has one of them, so the
//! three levels give the same rows with more or fewer attributes. Neighbours: `store` pages, `dicom` matches and writes
//! JSON. Left out: fuzzy matching and keys within sequences; who asks for them is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::header::{ACCEPT, WARNING};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tracing::info;

use crate::dicom::{DataSet, Key, Tag, VR, attribute_named, tag, to_json};
use crate::domain::Uid;
use crate::store::{CatalogReport, Store};

use super::Shared;
use super::auth::Right;
use super::door::Caller;
use super::media::accepts;
use super::respond::{Problem, dicom_json};

/// The parts of a path that are UIDs.
pub(super) type Uids = std::collections::BTreeMap<String, String>;
type Parameters = Vec<(String, String)>;

/// What a query returns of each match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Study,
    Series,
    Instance,
}

/// A query, understood.
#[derive(Debug, PartialEq)]
struct Asked {
    keys: Vec<Key>,
    /// Attributes beyond those of the level; all that the catalogue has where `None`.
    include: Option<BTreeSet<Tag>>,
    limit: usize,
    offset: usize,
    fuzzy: bool,
}

const LIMIT_MAX: usize = 1_000;
const PARAMETERS_MAX: usize = 100;
/// Longest search: a catalogue of any size is searched in pages, and somebody waits for the answer.
const TIME_MAX: Duration = Duration::from_secs(60);

const RETRIEVE_URL: Tag = 0x0008_1190;

/// PS3.18 tables 10.6.3-3 to 10.6.3-5, as far as a report has these attributes.
const OF_STUDY: [Tag; 17] = [
    0x0008_0005,
    0x0008_0020,
    0x0008_0030,
    0x0008_0050,
    0x0008_0056,
    0x0008_0061,
    0x0008_0062,
    0x0008_0090,
    0x0008_0201,
    0x0008_1030,
    0x0010_0010,
    0x0010_0020,
    0x0010_0030,
    0x0010_0040,
    0x0020_0010,
    0x0020_1206,
    0x0020_1208,
];
const OF_SERIES: [Tag; 8] =
    [0x0008_0005, 0x0008_0021, 0x0008_0031, 0x0008_0060, 0x0008_0201, 0x0008_103e, 0x0020_0011, 0x0020_1209];
const OF_INSTANCE: [Tag; 10] = [
    0x0008_0005,
    0x0008_0016,
    0x0008_0018,
    0x0008_0023,
    0x0008_0033,
    0x0008_0056,
    0x0008_0201,
    0x0020_0013,
    0x0040_a491,
    0x0040_a493,
];

pub(super) async fn studies(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    respond(&shared, &caller, &headers, Level::Study, &Uids::new(), &parameters).await
}

pub(super) async fn series(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(uids): Path<Uids>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    respond(&shared, &caller, &headers, Level::Series, &uids, &parameters).await
}

pub(super) async fn instances(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(uids): Path<Uids>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    respond(&shared, &caller, &headers, Level::Instance, &uids, &parameters).await
}

async fn respond(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    level: Level,
    uids: &Uids,
    parameters: &Parameters,
) -> Response {
    search(shared, caller, headers, level, uids, parameters).await.unwrap_or_else(IntoResponse::into_response)
}

async fn search(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    level: Level,
    uids: &Uids,
    parameters: &Parameters,
) -> Result<Response, Problem> {
    let client = shared.clients.authorize(headers, caller, Right::Query)?;
    let accept = headers.get(ACCEPT).map(|value| value.to_str().unwrap_or_default());
    if !accepts(accept, &[("application/dicom+json", None), ("application/json", None)]) {
        return Err(Problem::NotAcceptable("application/dicom+json"));
    }
    let mut asked = understand(parameters)?;
    asked.keys.extend(keys_of(uids)?);
    let permit = Arc::clone(&shared.queries).try_acquire_owned();
    let permit = permit.map_err(|_| Problem::Busy("too many queries at once"))?;
    let found = tokio::time::timeout(TIME_MAX, find(&shared.store, &asked, Arc::new(permit))).await;
    let (reports, more) = found.map_err(|_| Problem::Busy("the search took too long: ask for less"))??;
    info!(client = client.name, peer = %caller.address.ip(), ?level, found = reports.len(), "QIDO-RS");
    // A path that names the study has told what is of the study.
    let whole = !uids.contains_key("study");
    let rows: Vec<Value> = reports.iter().map(|r| to_json(&row(r, level, whole, asked.include.as_ref()))).collect();
    let mut response = dicom_json(StatusCode::OK, Value::Array(rows));
    if more {
        warn(&mut response, "299 sidelight \"there are more results; ask for them with offset\"");
    }
    if asked.fuzzy {
        warn(
            &mut response,
            "299 sidelight \"the fuzzymatching parameter is not supported; only literal matching has been performed\"",
        );
    }
    Ok(response)
}

fn warn(response: &mut Response, text: &'static str) {
    response.headers_mut().append(WARNING, HeaderValue::from_static(text));
}

/// The matches that were asked for, and whether there are more. The work keeps the permit, also where it is given up.
async fn find(
    store: &Store,
    asked: &Asked,
    permit: Arc<OwnedSemaphorePermit>,
) -> Result<(Vec<CatalogReport>, bool), Problem> {
    let (mut found, mut skipped, mut after) = (Vec::new(), 0, None);
    loop {
        let page = store.catalog(&asked.keys, after, Arc::clone(&permit)).await?;
        for report in page.reports {
            if skipped < asked.offset {
                skipped += 1;
            } else if found.len() < asked.limit {
                found.push(report);
            } else {
                return Ok((found, true));
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok((found, false));
        }
    }
}

/// The keys that a path sets.
pub(super) fn keys_of(uids: &Uids) -> Result<Vec<Key>, Problem> {
    let tags = [("study", tag::STUDY), ("series", tag::SERIES), ("instance", tag::INSTANCE)];
    let named = tags.iter().filter_map(|(name, tag)| Some((*tag, uids.get(*name)?)));
    let key = |(tag, text): (Tag, &String)| {
        let uid = Uid::parse(text).map_err(|_| Problem::BadRequest("the path holds an invalid UID".into()))?;
        Ok(Key::of_uid(tag, &uid))
    };
    named.map(key).collect()
}

fn understand(parameters: &Parameters) -> Result<Asked, Problem> {
    let bad = |name: &str, what: &dyn std::fmt::Display| {
        Problem::BadRequest(format!("{}: {what}", name.chars().take(64).collect::<String>().escape_debug()))
    };
    if parameters.len() > PARAMETERS_MAX {
        return Err(Problem::BadRequest(format!("a query has at most {PARAMETERS_MAX} parameters")));
    }
    let mut asked =
        Asked { keys: Vec::new(), include: Some(BTreeSet::new()), limit: LIMIT_MAX, offset: 0, fuzzy: false };
    for (name, value) in parameters {
        let number = || value.parse::<usize>().map_err(|_| bad(name, &"a number is expected"));
        match name.as_str() {
            "limit" => asked.limit = number()?.min(LIMIT_MAX),
            "offset" => asked.offset = number()?,
            "fuzzymatching" => asked.fuzzy = value == "true",
            "includefield" => {
                for field in value.split(',') {
                    match (field, attribute_named(field), &mut asked.include) {
                        ("all", ..) => asked.include = None,
                        (_, Some((tag, _)), Some(include)) => {
                            include.insert(tag);
                        }
                        (_, Some(_), None) => {}
                        (_, None, _) => return Err(bad(field, &"no attribute of the Standard")),
                    }
                }
            }
            _ => {
                let (tag, vr) = attribute_named(name)
                    .ok_or_else(|| bad(name, &"no attribute of the Standard; sequences are not searched"))?;
                // Lists of UIDs are joined by commas here (8.3.4.1), by backslashes in DIMSE.
                let value = if vr == VR::UI { value.replace(',', "\\") } else { value.clone() };
                asked.keys.push(Key::parse(tag, vr, &value).map_err(|e| bad(name, &e))?);
                if let Some(include) = &mut asked.include {
                    include.insert(tag);
                }
            }
        }
    }
    Ok(asked)
}

/// The attributes of a match: those of its level, of the levels above where the path does not name them, and what was
/// asked for besides.
fn row(report: &CatalogReport, level: Level, whole: bool, include: Option<&BTreeSet<Tag>>) -> DataSet {
    let wanted = |tag: Tag| {
        let of_study = OF_STUDY.contains(&tag) && (level == Level::Study || whole);
        let of_series = OF_SERIES.contains(&tag) && (level == Level::Series || (level == Level::Instance && whole));
        let of_instance = OF_INSTANCE.contains(&tag) && level == Level::Instance;
        of_study || of_series || of_instance || include.is_none_or(|tags| tags.contains(&tag))
    };
    let mut row = report.elements.clone();
    row.retain(wanted);
    let (study, series, instance) = (&report.study, &report.series, &report.sop_instance);
    let mut url = format!("/dicomweb/studies/{study}");
    row.put(tag::STUDY, b"UI", study.as_str());
    if level != Level::Study {
        url = format!("{url}/series/{series}");
        row.put(tag::SERIES, b"UI", series.as_str());
    }
    if level == Level::Instance {
        url = format!("{url}/instances/{instance}");
    }
    // A reference that is resolved against that of the request: proxies give the node other names.
    row.put(RETRIEVE_URL, b"UR", url);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &[(&str, &str)]) -> Result<Asked, Problem> {
        understand(&query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn parameters_are_keys_by_name_or_number() {
        let found = asked(&[
            ("PatientName", "DOE*"),
            ("0020000D", "1.2,1.3"),
            ("limit", "5"),
            ("offset", "10"),
            ("includefield", "00081030,PatientAge"),
        ])
        .expect("a valid query");
        let uids = Key::parse(tag::STUDY, VR::UI, "1.2\\1.3").expect("a valid key");
        assert_eq!(found.keys, [Key::parse(0x0010_0010, VR::PN, "DOE*").expect("a valid key"), uids]);
        assert_eq!((found.limit, found.offset), (5, 10));
        assert_eq!(found.include, Some(BTreeSet::from([0x0008_1030, 0x0010_0010, 0x0010_1010, tag::STUDY])));
        assert_eq!(asked(&[("includefield", "all")]).expect("a valid query").include, None);
        assert_eq!(asked(&[("limit", "99999999")]).expect("a valid query").limit, LIMIT_MAX);
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        let rows: &[&[(&str, &str)]] = &[
            &[("PatientNaem", "DOE")],
            &[("limit", "-1")],
            &[("limit", "many")],
            &[("offset", "")],
            &[("includefield", "PatientNaem")],
            &[("StudyDate", "yesterday")],
            &[("StudyInstanceUID", "1.2*")],
            // What a percent-encoded byte becomes that is no UTF-8.
            &[("PatientName", "*\u{fffd}ller*")],
            &[("RequestAttributesSequence", "x")],
            &[("00400275.00401001", "x")],
        ];
        for query in rows {
            assert_eq!(asked(query).expect_err("no valid query").status(), StatusCode::BAD_REQUEST, "{query:?}");
        }
    }
}
