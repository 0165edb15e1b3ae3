//! What became of the objects of a STOW-RS request, and how that is told (PS3.18 10.5.3, Annex I.2).
//!
//! Neighbours: `stow` notes outcomes. Left out: warnings, since the node changes no object.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::dicom::{MetaError, Status};
use crate::domain::Uid;
use crate::store::StoreError;

use super::respond::dicom_json;

/// One object.
#[derive(Debug)]
pub(super) struct Outcome {
    /// SOP class and instance, where its head could be read.
    pub(super) object: Option<(Uid, Uid)>,
    pub(super) result: Result<(), Failure>,
}

/// Why an object was not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the part is not application/dicom")]
    MediaType,
    #[error("{0}")]
    Head(MetaError),
    #[error("the part holds no data set")]
    NoObject,
    #[error("SOP class not accepted here")]
    SopClassNotSupported,
    #[error("transfer syntax not accepted here")]
    TransferSyntaxNotSupported,
    #[error("the object exceeds the limit of {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    #[error("a different object with this UID exists; this one is kept aside")]
    Conflict,
    #[error("{0}")]
    Store(StoreError),
}

impl Failure {
    /// Failure Reason (0008,1197): the statuses that C-STORE answers, and C122H of PS3.18 table I.2-2.
    fn reason(&self) -> Status {
        match self {
            Failure::MediaType | Failure::Head(_) | Failure::NoObject => Status::CANNOT_UNDERSTAND,
            Failure::SopClassNotSupported => Status::SOP_CLASS_NOT_SUPPORTED,
            Failure::TransferSyntaxNotSupported => Status(0xc122),
            Failure::TooLarge { .. } => Status::OUT_OF_RESOURCES,
            Failure::Store(cause) if cause.is_passing() => Status::OUT_OF_RESOURCES,
            Failure::Conflict => Status::DUPLICATE_SOP_INSTANCE,
            Failure::Store(_) => Status::PROCESSING_FAILURE,
        }
    }

    /// Whether the same object may well be stored later.
    fn passes(&self) -> bool {
        matches!(self, Failure::Store(cause) if cause.is_passing())
    }
}

/// The answer to a request that was read to its end: 200 for all, 202 for some, and where none was stored why that is
/// so of all, else 409 (PS3.18 table 10.5.3-1).
pub(super) fn answer(outcomes: &[Outcome]) -> Response {
    dicom_json(status(outcomes), body(outcomes))
}

fn status(outcomes: &[Outcome]) -> StatusCode {
    let failures: Vec<&Failure> = outcomes.iter().filter_map(|o| o.result.as_ref().err()).collect();
    if failures.is_empty() {
        StatusCode::OK
    } else if failures.len() < outcomes.len() {
        StatusCode::ACCEPTED
    } else if failures.iter().all(|f| f.passes()) {
        StatusCode::SERVICE_UNAVAILABLE
    } else if failures.iter().all(|f| matches!(f, Failure::TooLarge { .. })) {
        StatusCode::PAYLOAD_TOO_LARGE
    } else if failures.iter().all(|f| matches!(f, Failure::MediaType)) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        StatusCode::CONFLICT
    }
}

/// The Store Instances Response Module (table I.1-1). Retrieve URL is empty: what the node takes in it does not give
/// out.
fn body(outcomes: &[Outcome]) -> Value {
    let (mut stored, mut failed, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for Outcome { object, result } in outcomes {
        let reason = |failure: &Failure| json!({"vr": "US", "Value": [failure.reason().0]});
        match (object, result) {
            (Some((class, instance)), result) => {
                let mut item = json!({
                    "00081150": {"vr": "UI", "Value": [class.as_str()]},
                    "00081155": {"vr": "UI", "Value": [instance.as_str()]},
                });
                match result {
                    Ok(()) => {
                        item["00081190"] = json!({"vr": "UR"});
                        stored.push(item);
                    }
                    Err(failure) => {
                        item["00081197"] = reason(failure);
                        failed.push(item);
                    }
                }
            }
            (None, Err(failure)) => unknown.push(json!({"00081197": reason(failure)})),
            // An object is stored under its UIDs or not at all.
            (None, Ok(())) => {}
        }
    }
    let mut body = json!({"00081190": {"vr": "UR"}});
    for (tag, items) in [("00081199", stored), ("00081198", failed), ("0008119A", unknown)] {
        if !items.is_empty() {
            body[tag] = json!({"vr": "SQ", "Value": items});
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn outcome(result: Result<(), Failure>) -> Outcome {
        let uid = |text| Uid::parse(text).expect("a valid uid");
        Outcome { object: Some((uid("1.2.840.10008.5.1.4.1.1.2"), uid("1.2.3"))), result }
    }

    fn full() -> Failure {
        Failure::Store(StoreError::OutOfRoom { dir: PathBuf::from("/data"), detail: "full".into() })
    }

    #[test]
    fn the_status_tells_how_many_were_stored_and_whether_to_come_back() {
        let large = || Failure::TooLarge { bytes_max: 1 };
        let rows: Vec<(Vec<Result<(), Failure>>, u16)> = vec![
            (vec![Ok(())], 200),
            (vec![Ok(()), Ok(())], 200),
            (vec![Ok(()), Err(Failure::Conflict)], 202),
            (vec![Err(Failure::Conflict)], 409),
            (vec![Err(full())], 503),
            (vec![Err(Failure::Store(StoreError::Closing))], 503),
            (vec![Err(Failure::Store(StoreError::Busy))], 503),
            (vec![Err(Failure::Store(StoreError::ReadOnly("/data".into()))), Err(full())], 503),
            (vec![Err(Failure::Store(StoreError::Distrusted("sync of /data".into())))], 503),
            (vec![Err(Failure::Store(StoreError::Contents("x".into())))], 409),
            (vec![Err(full()), Err(Failure::Conflict)], 409),
            (vec![Err(large()), Err(large())], 413),
            (vec![Err(Failure::MediaType)], 415),
            (vec![Err(Failure::NoObject)], 409),
        ];
        for (results, expected) in rows {
            let shown = format!("{results:?}");
            let outcomes: Vec<Outcome> = results.into_iter().map(outcome).collect();
            assert_eq!(status(&outcomes).as_u16(), expected, "{shown}");
        }
    }

    #[test]
    fn each_object_is_told_with_its_reason() {
        let rows = [
            (Failure::Head(MetaError::NotDicom), 0xc000),
            (Failure::SopClassNotSupported, 0x0122),
            (Failure::TransferSyntaxNotSupported, 0xc122),
            (full(), 0xa700),
            (Failure::Store(StoreError::ReadOnly("/data".into())), 0xa700),
            (Failure::Store(StoreError::Busy), 0xa700),
            (Failure::Store(StoreError::Distrusted("sync of /data".into())), 0xa700),
            (Failure::Store(StoreError::Closing), 0xa700),
            (Failure::Store(StoreError::Contents("x".into())), 0x0110),
            (Failure::Conflict, 0x0111),
        ];
        for (failure, reason) in rows {
            let told = body(&[outcome(Ok(())), outcome(Err(failure))]);
            assert_eq!(told["00081199"]["Value"][0]["00081155"]["Value"][0], "1.2.3");
            assert_eq!(told["00081198"]["Value"][0]["00081197"]["Value"][0], reason);
            assert_eq!(told.get("0008119A"), None);
        }
        let told = body(&[Outcome { object: None, result: Err(Failure::NoObject) }]);
        assert_eq!(told["0008119A"]["Value"][0]["00081197"]["Value"][0], 0xc000);
        assert!(!told.to_string().contains("/data"));
    }
}
