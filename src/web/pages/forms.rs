//! Forms: a small body in time, and proof that it comes from a page of ours.
//!
//! Two proofs, both needed: what the browser says of where the request comes from, and a token that only a page of the
//! same session could hold. Neighbours: `guard` and `login` ask. Left out: what is in a form.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Query;
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};
use subtle::ConstantTimeEq;

/// Largest form.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Longest time for a form to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// Name of the field with the token.
pub(super) const TOKEN: &str = "token";

/// The fields of a form.
#[derive(Debug, Clone, Default)]
pub(super) struct Form(HashMap<String, String>);

/// Why a form is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormFault {
    /// Another page sent it, or the browser does not say which.
    Foreign,
    /// Its token is not that of the session.
    Token,
    TooLarge,
    TooSlow,
    /// Not `application/x-www-form-urlencoded`, or not well-formed.
    NotAForm,
}

impl Form {
    /// Reads a body to its end.
    pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Self, FormFault> {
        let declared = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let kind = declared.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(FormFault::NotAForm);
        }
        let read = tokio::time::timeout(BODY_TIME_MAX, to_bytes(body, BODY_BYTES_MAX)).await;
        let bytes = read.map_err(|_| FormFault::TooSlow)?.map_err(|_| FormFault::TooLarge)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| FormFault::NotAForm)?;
        // The query of a URL is written as a form is.
        let uri = Uri::builder().path_and_query(format!("/?{text}")).build().map_err(|_| FormFault::NotAForm)?;
        let Query(fields) = Query::<Vec<(String, String)>>::try_from_uri(&uri).map_err(|_| FormFault::NotAForm)?;
        let mut form = HashMap::new();
        for (name, value) in fields {
            // A field that is there twice has no meaning here.
            if form.insert(name, value).is_some() {
                return Err(FormFault::NotAForm);
            }
        }
        Ok(Self(form))
    }

    /// A field; empty where there is none.
    pub(super) fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Whether the form carries this token.
    pub(super) fn carries(&self, token: &str) -> Result<(), FormFault> {
        if bool::from(self.field(TOKEN).as_bytes().ct_eq(token.as_bytes())) { Ok(()) } else { Err(FormFault::Token) }
    }
}

/// Whether the browser says that a page of this very origin sends the request. Browsers send `Sec-Fetch-Site` to origins
/// that are encrypted or of this machine, which all of ours are; `Origin` is `null` under our own referrer policy. A
/// client that says neither is no browser with our page in it.
pub(super) fn is_ours(headers: &HeaderMap, is_secure: bool) -> Result<(), FormFault> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("?"));
    let own = text(HOST).map(|host| format!("{}://{host}", if is_secure { "https" } else { "http" }));
    let origin_fits = |origin: &str| own.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(origin));
    let ours = match (site, text(ORIGIN)) {
        (Some("same-origin"), None | Some("null")) => true,
        (Some("same-origin") | None, Some(origin)) => origin_fits(origin),
        _ => false,
    };
    if ours { Ok(()) } else { Err(FormFault::Foreign) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        list.iter().map(pair).collect()
    }

    #[test]
    fn a_request_from_another_origin_is_told_apart() {
        let host = ("host", "node.example:8443");
        let rows: &[(&[(&str, &str)], bool)] = &[
            (&[("sec-fetch-site", "same-origin"), ("origin", "null")], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", "https://node.example:8443")], true),
            (&[("origin", "https://node.example:8443")], true),
            (&[("origin", "https://NODE.example:8443")], true),
            (&[], false),
            (&[("origin", "null")], false),
            (&[("origin", "http://node.example:8443")], false),
            (&[("origin", "https://node.example")], false),
            (&[("origin", "https://node.example:8443.evil.example")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], false),
            (&[("sec-fetch-site", "same-site"), ("origin", "https://node.example:8443")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://node.example:8443")], false),
            (&[("sec-fetch-site", "none")], false),
        ];
        for (said, expected) in rows {
            let all = [&[host], *said].concat();
            assert_eq!(is_ours(&headers(&all), true).is_ok(), *expected, "{said:?}");
        }
        assert!(is_ours(&headers(&[("origin", "https://node.example")]), true).is_err(), "no Host");
    }

    #[tokio::test]
    async fn a_form_is_small_typed_and_says_everything_once() {
        let kind = ("content-type", "application/x-www-form-urlencoded");
        let large = format!("a={}", "x".repeat(BODY_BYTES_MAX));
        let rows: &[(&[(&str, &str)], &str, Result<&str, FormFault>)] = &[
            (&[kind], "a=b+c%26%C3%A4&token=t", Ok("b c&ä")),
            (&[("content-type", "application/x-www-form-urlencoded; charset=UTF-8")], "a=1", Ok("1")),
            (&[kind], "", Ok("")),
            (&[kind], "a=1&a=2", Err(FormFault::NotAForm)),
            (&[kind], &large, Err(FormFault::TooLarge)),
            (&[kind], "a=<b>\u{0}", Err(FormFault::NotAForm)),
            (&[("content-type", "text/plain")], "a=1", Err(FormFault::NotAForm)),
            (&[], "a=1", Err(FormFault::NotAForm)),
        ];
        for (said, body, expected) in rows {
            let read = Form::read(&headers(said), Body::from((*body).to_owned())).await;
            assert_eq!(read.as_ref().map(|form| form.field("a")).map_err(|e| *e), *expected, "{said:?} {body:.20}");
        }
    }

    #[test]
    fn the_token_has_to_be_the_right_one() {
        let form = Form(HashMap::from([(TOKEN.to_owned(), "right".to_owned())]));
        assert!(form.carries("right").is_ok() && form.carries("wrong").is_err() && form.carries("").is_err());
        assert!(Form::default().carries("right").is_err());
    }
}
