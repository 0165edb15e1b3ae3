//! What all pages have around them, and words that they share.
//!
//! Templates escape (`templates/pages`); [`plain`] takes out what no page may hold, such as signs that turn the direction
//! of writing. Neighbours: every page. Left out: what is between header and footer.

use askama::Template;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use tracing::error;

use crate::config::Mode;
use crate::domain::Timestamp;

use super::access::Right;
use super::guard::Visitor;
use super::{Pages, assets};

/// Header and footer of a page.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) style: String,
    /// Of the installation.
    pub(super) node: String,
    pub(super) shadow: bool,
    pub(super) links: Vec<Link>,
    pub(super) user: Option<String>,
    /// For forms.
    pub(super) token: String,
}

/// An entry of the navigation.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) href: &'static str,
    pub(super) label: &'static str,
    pub(super) is_here: bool,
}

const LINKS: &[(&str, &str, Right)] = &[
    ("/", "Status", Right::Status),
    ("/studies", "Studies", Right::Studies),
    ("/models", "Models", Right::Models),
    ("/configuration", "Configuration", Right::Configuration),
    ("/activity", "Activity", Right::Activity),
];

impl Frame {
    /// `here`: the entry of the navigation that the page belongs to.
    pub(super) fn new(pages: &Pages, visitor: Option<&Visitor>, here: &str, title: impl Into<String>) -> Self {
        let config = pages.site.config();
        let seen = |(_, _, right): &&(&str, &str, Right)| visitor.is_some_and(|v| v.may(*right));
        let link =
            |(href, label, _): &(&'static str, &'static str, Right)| Link { href, label, is_here: *href == here };
        Self {
            title: title.into(),
            style: assets::style(),
            node: plain(&config.node.name),
            shadow: config.node.mode == Mode::Shadow,
            links: LINKS.iter().filter(seen).map(link).collect(),
            user: visitor.and_then(|v| v.name.clone()),
            token: visitor.map(Visitor::form_token).unwrap_or_default(),
        }
    }
}

#[derive(Template)]
#[template(path = "pages/notice.html")]
struct Notice<'a> {
    frame: Frame,
    text: &'a str,
}

/// A page that says one thing.
pub(super) fn notice(
    pages: &Pages,
    visitor: Option<&Visitor>,
    status: StatusCode,
    title: &str,
    text: &str,
) -> Response {
    page(status, &Notice { frame: Frame::new(pages, visitor, "", title), text })
}

/// Where there are no pages.
pub(super) fn nothing_here() -> Response {
    (StatusCode::NOT_FOUND, "nothing is offered here\n").into_response()
}

pub(super) fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response(),
        Err(error) => {
            error!(%error, "a page could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be written\n").into_response()
        }
    }
}

/// Text of others without what controls how the text around it is read.
pub(super) fn plain(text: &str) -> String {
    let is_plain = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().filter(is_plain).take(2_000).collect()
}

/// A moment for people; all times are UTC.
pub(super) fn moment(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// As [`moment`]; empty for none.
pub(super) fn moment_if(at: Option<Timestamp>) -> String {
    at.map(moment).unwrap_or_default()
}

/// Bytes in the largest unit that leaves a whole number before the point.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// How long ago, roughly.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = (now - at).num_seconds().max(0);
    match seconds {
        ..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn signs_that_no_page_may_hold_are_left_out() {
        assert_eq!(plain("a\u{0}\u{1b}[2J\u{202e}b\u{2066}c\u{feff}\r\nd<b>"), "a[2Jbcd<b>");
        assert_eq!(plain("Müller^Änne 山田"), "Müller^Änne 山田");
        assert_eq!(plain(&"x".repeat(9_999)).len(), 2_000);
    }

    #[test]
    fn spans_are_told_roughly() {
        let now = Timestamp::from_timestamp(1_700_000_000, 0).unwrap();
        let told = |seconds| ago(now - chrono::Duration::seconds(seconds), now);
        assert_eq!([told(5), told(300), told(9_000), told(400_000)], ["5 s ago", "5 min ago", "2 h ago", "4 d ago"]);
        assert_eq!(told(-5), "0 s ago");
    }
}
