//! STOW-RS as a client (PS3.18 10.5): a report to a DICOMweb service, and what its answer means.
//!
//! A report counts as delivered only where the answer names it among the stored instances: a status alone is no proof,
//! since 200 and 202 are sent with failures too by some. Neighbours: `wire` asks, `error` says when to try again. Left
//! out: several reports in one request, since each attempt is for one.

use std::path::Path;

use hyper::{Method, StatusCode};
use serde_json::Value;
use tracing::{info, warn};

use crate::config::{Destination, ServiceUrl, read_secret_text};
use crate::dicom::Status;
use crate::domain::Uid;
use crate::wire::{Answer, Ask, Bounds, Trust, request};

use super::error::DeliverError;
use super::{ReportFile, Sent};

const TOKEN_FILE_BYTES_MAX: u64 = 4_096;
/// Longest answer that is read, bytes. One to a single report has some hundreds.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const JSON: &str = "application/dicom+json";

/// Sends the first of `alternatives` whose SOP class the service takes.
pub(super) async fn send(
    service: &ServiceUrl,
    token_file: Option<&Path>,
    destination: &Destination,
    alternatives: &[ReportFile<'_>],
) -> Result<Sent, DeliverError> {
    let mut refused = DeliverError::NothingToSend;
    for (index, alternative) in alternatives.iter().enumerate() {
        let (content_type, body) = multipart(alternative.file);
        let ask = Ask {
            method: Method::POST,
            resource: "/studies",
            accept: JSON,
            content_type: Some(content_type),
            token: token_file.map(token).transpose()?,
            body,
        };
        let answer = ask_once(service, ask, destination.timeout).await?;
        match judge(service, alternative.sop_instance, &answer) {
            Ok(status) => {
                match status {
                    Status::SUCCESS => info!(destination = %destination.name, "report delivered"),
                    _ => warn!(destination = %destination.name, %status, "report delivered with a remark"),
                }
                let (sop_class, sop_instance) = (alternative.sop_class.clone(), alternative.sop_instance.clone());
                return Ok(Sent { index, sop_class, sop_instance, status });
            }
            Err(DeliverError::Status { status: Status::SOP_CLASS_NOT_SUPPORTED, .. }) => {
                refused = DeliverError::NotAccepted { peer: service.to_string() };
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// Asks whether the service is there and lets us in; gives what to tell of it.
pub(super) async fn probe(
    service: &ServiceUrl,
    token_file: Option<&Path>,
    timeout: std::time::Duration,
) -> Result<&'static str, DeliverError> {
    let token = token_file.map(token).transpose()?;
    let (method, resource) = (Method::GET, "/studies?limit=1");
    let ask = Ask { method, resource, accept: JSON, content_type: None, token, body: Vec::new() };
    let Answer { status, .. } = ask_once(service, ask, timeout).await?;
    match status.as_u16() {
        200..=299 => Ok("answers QIDO-RS"),
        // Offering STOW-RS alone is allowed.
        404 | 405 | 406 | 501 => Ok("answers, and offers no QIDO-RS; whether it takes reports shows at the first one"),
        _ => Err(failed(service, status)),
    }
}

/// A connection is for one request, as an association is for one report.
async fn ask_once(service: &ServiceUrl, ask: Ask<'_>, timeout: std::time::Duration) -> Result<Answer, DeliverError> {
    Ok(request(service, &Trust::Machine, ask, Bounds { timeout, answer_bytes_max: ANSWER_BYTES_MAX }).await?)
}

fn token(file: &Path) -> Result<String, DeliverError> {
    let fault = |cause: String| DeliverError::Token { file: file.display().to_string(), cause };
    let text = read_secret_text(file, TOKEN_FILE_BYTES_MAX).map_err(|e| fault(format!("it {e}")))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(fault("it holds no token of visible ASCII characters".into()));
    }
    Ok(token.to_owned())
}

/// Content type and body of one file (PS3.18 8.6.1.2.1). The boundary is random, so that the file does not hold it.
fn multipart(file: &[u8]) -> (String, Vec<u8>) {
    let boundary = uuid::Uuid::new_v4().simple().to_string();
    let head = format!("--{boundary}\r\nContent-Type: application/dicom\r\n\r\n");
    let body = [head.as_bytes(), file, format!("\r\n--{boundary}--\r\n").as_bytes()].concat();
    (format!("multipart/related; type=\"application/dicom\"; boundary={boundary}"), body)
}

/// What an answer says of the instance: stored, perhaps with a remark, or why not.
fn judge(service: &ServiceUrl, instance: &Uid, answer: &Answer) -> Result<Status, DeliverError> {
    let told = serde_json::from_slice::<Value>(&answer.body).ok();
    // Some servers answer with the data set in a list.
    let told = told.map(|told| if let Value::Array(mut list) = told { list.pop().unwrap_or_default() } else { told });
    let item = |sequence: &str| {
        let items = told.as_ref()?.get(sequence)?.get("Value")?.as_array()?;
        items.iter().find(|item| item["00081155"]["Value"][0].as_str().map(str::trim) == Some(instance.as_str()))
    };
    let code = |item: &Value, tag: &str| item[tag]["Value"][0].as_u64().and_then(|code| u16::try_from(code).ok());
    if let Some(failed) = item("00081198") {
        let status = Status(code(failed, "00081197").unwrap_or(Status::PROCESSING_FAILURE.0));
        // The bytes under this UID never change: a duplicate is the trace of an attempt whose answer was lost.
        if status == Status::DUPLICATE_SOP_INSTANCE {
            return Ok(status);
        }
        return Err(DeliverError::Status { peer: service.to_string(), status, comment: None });
    }
    if !answer.status.is_success() {
        return Err(failed(service, answer.status));
    }
    match item("00081199") {
        Some(stored) => Ok(Status(code(stored, "00081196").unwrap_or(Status::SUCCESS.0))),
        None => Err(DeliverError::Broken {
            peer: service.to_string(),
            cause: format!("it answered {} without naming the report among the stored instances", answer.status),
        }),
    }
}

fn failed(service: &ServiceUrl, status: StatusCode) -> DeliverError {
    DeliverError::Http { peer: service.to_string(), status: status.as_u16() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Retry;
    use serde_json::json;

    fn service() -> ServiceUrl {
        ServiceUrl { https: false, host: "h".into(), port: 80, path: "/dicom-web".into() }
    }

    fn check(status: u16, body: &str, expected: Result<u16, Retry>) {
        let status = StatusCode::from_u16(status).expect("a status");
        let answer = Answer { status, body: body.as_bytes().to_vec() };
        let uid = Uid::parse("1.2.3").expect("a valid uid");
        let judged = judge(&service(), &uid, &answer);
        assert_eq!(judged.as_ref().map(|s| s.0).map_err(DeliverError::retry), expected, "{status} {body}: {judged:?}");
    }

    #[test]
    fn only_an_answer_that_names_the_report_is_success() {
        let stored = json!({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2.3"]}}]}});
        let other = json!({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2.4"]}}]}});
        let remark = json!({"00081199": {"vr": "SQ", "Value": [
            {"00081155": {"vr": "UI", "Value": ["1.2.3"]}, "00081196": {"vr": "US", "Value": [0xb000]}}]}});
        let failed = |reason: u16| {
            let item =
                json!({"00081155": {"vr": "UI", "Value": ["1.2.3"]}, "00081197": {"vr": "US", "Value": [reason]}});
            json!({"00081198": {"vr": "SQ", "Value": [item]}}).to_string()
        };
        let rows: Vec<(u16, String, Result<u16, Retry>)> = vec![
            (200, stored.to_string(), Ok(0)),
            (200, json!([stored]).to_string(), Ok(0)),
            (202, remark.to_string(), Ok(0xb000)),
            (409, failed(0x0111), Ok(0x0111)),
            // A status is no proof.
            (200, String::new(), Err(Retry::Soon)),
            (200, "<NativeDicomModel/>".into(), Err(Retry::Soon)),
            (200, "{}".into(), Err(Retry::Soon)),
            (200, other.to_string(), Err(Retry::Soon)),
            (200, failed(0xa700), Err(Retry::Soon)),
            (202, failed(0xc000), Err(Retry::Later)),
            (409, failed(0x0110), Err(Retry::Soon)),
            (409, failed(0x0122), Err(Retry::Later)),
            (409, String::new(), Err(Retry::Later)),
            (400, String::new(), Err(Retry::Later)),
            (401, String::new(), Err(Retry::Later)),
            (403, String::new(), Err(Retry::Later)),
            (302, String::new(), Err(Retry::Later)),
            (408, String::new(), Err(Retry::Soon)),
            (429, String::new(), Err(Retry::Soon)),
            (500, String::new(), Err(Retry::Soon)),
            (503, String::new(), Err(Retry::Soon)),
            (500, stored.to_string(), Err(Retry::Soon)),
        ];
        for (status, body, expected) in rows {
            check(status, &body, expected);
        }
    }
}
