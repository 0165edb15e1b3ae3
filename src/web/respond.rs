//! Answers: cause → HTTP status, the only such table of this room (RFC 9110, PS3.18 8.5).
//!
//! Texts go to peers: they hold neither paths nor patient data. Neighbours: the services return [`Problem`]s. Left out:
//! the outcome of single objects, which `stow` answers with.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tracing::error;

use crate::store::StoreError;

use super::multipart::MultipartError;

/// Why a request as a whole was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("a bearer token is needed")]
    Unauthorized,
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Multipart(#[from] MultipartError),
    #[error("nothing here has these UIDs")]
    NotFound,
    #[error("{0} is what is offered here; accept it")]
    NotAcceptable(&'static str),
    #[error("{0}")]
    UnsupportedMedia(&'static str),
    #[error("an object exceeds the limit of {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    #[error("the body did not come in time")]
    Timeout,
    #[error("{0}; try again later")]
    Busy(&'static str),
    #[error("the node could not answer")]
    Internal,
}

/// What a busy node asks for, seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("30");

impl Problem {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Problem::Unauthorized => StatusCode::UNAUTHORIZED,
            Problem::Forbidden(_) => StatusCode::FORBIDDEN,
            Problem::BadRequest(_) | Problem::Multipart(_) => StatusCode::BAD_REQUEST,
            Problem::NotFound => StatusCode::NOT_FOUND,
            Problem::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Problem::UnsupportedMedia(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Problem::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::Timeout => StatusCode::REQUEST_TIMEOUT,
            Problem::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Problem::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(cause: StoreError) -> Self {
        match cause {
            StoreError::OutOfRoom { .. } => Problem::Busy("out of disk space"),
            StoreError::Closing => Problem::Busy("the node is shutting down"),
            passing if passing.is_passing() => {
                error!(error = %passing, "a web request has to come back");
                Problem::Busy("the store cannot answer now")
            }
            other => {
                error!(error = %other, "a web request failed");
                Problem::Internal
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, format!("{self}\n")).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sidelight\""));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }
}

/// An answer in the DICOM JSON Model.
pub(super) fn dicom_json(status: StatusCode, value: Value) -> Response {
    let mut response = (status, Json(value)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/dicom+json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    response
}
