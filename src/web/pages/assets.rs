//! The one style sheet and the one script, under names that change with their contents, so that they are kept for long.
//!
//! Left out: pictures and fonts, of which there are none.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};

use crate::domain::Digest;

const STYLE: &str = include_str!("../../../templates/pages/style.css");
const SCRIPT: &str = include_str!("../../../templates/pages/refresh.js");

static STYLE_NAME: LazyLock<String> = LazyLock::new(|| format!("{}.css", Digest::of(STYLE.as_bytes()).short()));
static SCRIPT_NAME: LazyLock<String> = LazyLock::new(|| format!("{}.js", Digest::of(SCRIPT.as_bytes()).short()));

/// Where the style sheet is.
pub(super) fn style() -> String {
    format!("/assets/{}", *STYLE_NAME)
}

/// Where the script is.
pub(super) fn script() -> String {
    format!("/assets/{}", *SCRIPT_NAME)
}

/// Either of both.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    let (kind, text) = match name {
        name if name == *STYLE_NAME => ("text/css; charset=utf-8", STYLE),
        name if name == *SCRIPT_NAME => ("text/javascript; charset=utf-8", SCRIPT),
        _ => return (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
    };
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=31536000, immutable")], text).into_response()
}
