//! The list of studies: found by name or filter, newest first, a page at a time.
//!
//! What is looked for stands in the address, so that a page can be kept and shared. Neighbours: `store::search` finds.
//! Left out: what is in a study (`study`).

use askama::Template;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{Days, NaiveDate};
use serde::Deserialize;

use crate::domain::{AeTitle, Level, StudyState, Timestamp};
use crate::store::{Found, SearchCursor, StudyHit, StudyQuery};

use super::Pages;
use super::frame::{Frame, moment, page, plain};
use super::guard::{Visitor, failed};

/// Studies of one page.
const PAGE: u32 = 50;
/// Longest text that is looked for: a UID has 64 characters, an accession number 16 (some have more).
const NAMED_CHARS_MAX: usize = 128;

/// What the address asks for, as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    named: String,
    state: String,
    source: String,
    level: String,
    from: String,
    to: String,
    after: String,
}

#[derive(Template)]
#[template(path = "pages/studies.html")]
struct StudiesPage {
    frame: Frame,
    asked: Asked,
    fault: Option<String>,
    states: Vec<Choice>,
    levels: Vec<Choice>,
    rows: Vec<Row>,
    next: Option<String>,
    first: Option<String>,
    cut_short: bool,
}

/// An entry of a selection.
struct Choice {
    value: &'static str,
    label: String,
    is_chosen: bool,
}

struct Row {
    study: String,
    accession: String,
    state: &'static str,
    source: String,
    last_at: String,
    objects: u64,
    flag: Option<Flag>,
    why: String,
}

/// A level for people: never by colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) class: &'static str,
    pub(super) label: &'static str,
}

pub(super) const STATES: [StudyState; 5] =
    [StudyState::Open, StudyState::Reported, StudyState::Delivered, StudyState::Refused, StudyState::Failed];
const LEVELS: [(&str, Level); 4] = [
    ("elevated", Level::Elevated),
    ("score-dependent", Level::ScoreDependent),
    ("indeterminate", Level::Indeterminate),
    ("not-elevated", Level::NotElevated),
];

/// The page.
pub(super) async fn page_of(
    State(pages): State<Pages>,
    Extension(visitor): Extension<Visitor>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let (asked, readable) = asked.map_or_else(|_| (Asked::default(), false), |Query(asked)| (asked, true));
    let query = match readable {
        true => asked.query(),
        false => Err("The address is not one of this page; fill in the form.".to_owned()),
    };
    let (found, fault) = match query {
        Ok(query) => match pages.site.store.search_studies(&query, PAGE).await {
            Ok(found) => (found, None),
            Err(cause) => return failed(&pages, &visitor, cause),
        },
        Err(fault) => (Found { studies: Vec::new(), next: None, cut_short: false }, Some(fault)),
    };
    let status = if fault.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let choice =
        |value, label: &str, chosen: &str| Choice { value, label: label.to_owned(), is_chosen: value == chosen };
    let template = StudiesPage {
        frame: Frame::new(&pages, Some(&visitor), "/studies", "Studies"),
        fault,
        states: STATES.iter().map(|s| choice(s.as_str(), s.as_str(), &asked.state)).collect(),
        levels: LEVELS.iter().map(|(value, level)| choice(value, flag(*level).label, &asked.level)).collect(),
        rows: found.studies.iter().map(row).collect(),
        next: found.next.map(|next| asked.address(Some(next))),
        first: (!asked.after.is_empty()).then(|| asked.address(None)),
        cut_short: found.cut_short,
        asked: asked.tamed(),
    };
    page(status, &template)
}

impl Asked {
    /// What is looked for, or what is wrong with how it is written.
    fn query(&self) -> Result<StudyQuery, String> {
        let given = |text: &str| (!text.trim().is_empty()).then(|| text.trim().to_owned());
        let named = given(&self.named);
        if named.as_ref().is_some_and(|text| text.chars().count() > NAMED_CHARS_MAX) {
            return Err(format!("A UID or accession number has at most {NAMED_CHARS_MAX} characters."));
        }
        let state = given(&self.state).map(|text| {
            STATES.into_iter().find(|s| s.as_str() == text).ok_or_else(|| "There is no such state.".to_owned())
        });
        let level = given(&self.level).map(|text| {
            let found = LEVELS.iter().find(|(name, _)| *name == text).map(|(_, level)| *level);
            found.ok_or_else(|| "There is no such flag.".to_owned())
        });
        let source = given(&self.source).map(|text| {
            AeTitle::parse(&text).map_err(|_| "The source is not an AE title: 1 to 16 characters.".to_owned())
        });
        let day = |text: &str, label: &str| {
            let parsed = given(text).map(|text| NaiveDate::parse_from_str(&text, "%Y-%m-%d"));
            parsed.transpose().map_err(|_| format!("{label} is not a day: write it as 2026-01-31."))
        };
        let midnight =
            |day: NaiveDate| day.and_hms_opt(0, 0, 0).map(|at| Timestamp::from_naive_utc_and_offset(at, chrono::Utc));
        let until = day(&self.to, "To")?.and_then(|day| day.checked_add_days(Days::new(1)));
        Ok(StudyQuery {
            named,
            state: state.transpose()?,
            source: source.transpose()?,
            level: level.transpose()?,
            since: day(&self.from, "From")?.and_then(midnight),
            until: until.and_then(midnight),
            after: given(&self.after).map(|text| place(&text)).transpose()?,
        })
    }

    /// The address of the same search from another place on.
    fn address(&self, after: Option<SearchCursor>) -> String {
        let mut address = "/studies?".to_owned();
        let fields = [
            ("named", &self.named),
            ("state", &self.state),
            ("source", &self.source),
            ("level", &self.level),
            ("from", &self.from),
            ("to", &self.to),
        ];
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            address.push_str(&format!("{name}={}&", escaped(value)));
        }
        if let Some(SearchCursor { last_at, place }) = after {
            address.push_str(&format!("after={last_at}.{place}"));
        }
        address.trim_end_matches(['&', '?']).to_owned()
    }

    /// As it is shown again.
    fn tamed(&self) -> Self {
        let tame = |text: &String| plain(text).chars().take(NAMED_CHARS_MAX).collect();
        Self {
            named: tame(&self.named),
            source: tame(&self.source),
            from: tame(&self.from),
            to: tame(&self.to),
            ..Self::default()
        }
    }
}

/// `microseconds.place`.
fn place(text: &str) -> Result<SearchCursor, String> {
    let parsed = text.split_once('.').and_then(|(last_at, place)| Some((last_at.parse().ok()?, place.parse().ok()?)));
    let (last_at, place) = parsed.ok_or_else(|| "The address does not say where to go on; search again.".to_owned())?;
    Ok(SearchCursor { last_at, place })
}

/// As it stands in the query of an address.
fn escaped(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub(super) fn flag(level: Level) -> Flag {
    let class = match level {
        Level::NotElevated => "none",
        Level::Indeterminate => "open",
        Level::ScoreDependent => "some",
        Level::Elevated => "high",
    };
    Flag { class, label: level.code().1 }
}

fn row(hit: &StudyHit) -> Row {
    let why = match (&hit.refusal, &hit.error) {
        (Some(refusal), _) => refusal.to_string(),
        (None, Some(error)) => error.clone(),
        (None, None) if !hit.readable => "an object whose study could not be read".to_owned(),
        (None, None) => String::new(),
    };
    Row {
        study: hit.study.to_string(),
        accession: plain(&hit.accession),
        state: hit.state.as_str(),
        source: plain(hit.source.as_str()),
        last_at: moment(hit.last_at),
        objects: hit.objects,
        flag: hit.level.map(flag),
        why: plain(&why),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn asked(change: impl FnOnce(&mut Asked)) -> Asked {
        let mut asked = Asked::default();
        change(&mut asked);
        asked
    }

    #[test]
    fn what_is_written_becomes_a_query_or_a_sentence() {
        let query = asked(|a| {
            a.named = " 1.2.3 ".into();
            a.state = "failed".into();
            a.source = "CT1".into();
            a.level = "elevated".into();
            a.from = "2026-01-31".into();
            a.to = "2026-01-31".into();
            a.after = "5.-7".into();
        });
        let query = query.query().unwrap();
        assert_eq!(query.named.as_deref(), Some("1.2.3"));
        assert_eq!((query.state, query.level), (Some(StudyState::Failed), Some(Level::Elevated)));
        assert_eq!((query.until.unwrap() - query.since.unwrap()).num_hours(), 24, "the whole day");
        assert_eq!(query.after, Some(SearchCursor { last_at: 5, place: -7 }));
        assert_eq!(Asked::default().query(), Ok(StudyQuery::default()));
        let faults: Vec<(fn(&mut Asked), &str)> = vec![
            (|a| a.state = "lost".into(), "no such state"),
            (|a| a.level = "9".into(), "no such flag"),
            (|a| a.source = "SEVENTEEN_LETTERS".into(), "AE title"),
            (|a| a.from = "yesterday".into(), "From is not a day"),
            (|a| a.to = "2026-13-01".into(), "To is not a day"),
            (|a| a.after = "x".into(), "search again"),
            (|a| a.after = "1.99999999999999999999".into(), "search again"),
            (|a| a.named = "1".repeat(129), "at most 128"),
        ];
        for (change, told) in faults {
            let fault = asked(change).query().unwrap_err();
            assert!(fault.contains(told), "{fault}");
        }
        assert!(asked(|a| a.to = "+262142-12-31".into()).query().is_ok_and(|q| q.until.is_none()), "the end of time");
    }

    #[test]
    fn an_address_holds_what_was_asked_for_and_nothing_else() {
        let address = asked(|a| a.named = "a&b=c <d>\"é".into()).address(Some(SearchCursor { last_at: 1, place: 2 }));
        assert_eq!(address, "/studies?named=a%26b%3Dc%20%3Cd%3E%22%C3%A9&after=1.2");
        assert_eq!(Asked::default().address(None), "/studies");
    }
}
