//! Searching studies for people: filters, newest first, a page at a time.
//!
//! Every search reads along one index (`migrations/0012_pages.sql`) from where the last page ended, and looks at a bounded
//! number of studies: where several filters together match next to nothing it says how far it looked, and the next page
//! goes on there. So a page costs the same whether there are a thousand studies or a million. Neighbours: `web` asks.
//! Left out: what one study holds (`views`).

use sqlx::sqlite::SqliteRow;

use crate::domain::{AeTitle, Level, Refusal, StudyState, Timestamp, Uid};

use super::index::{Columns, micros, word};
use super::{Store, StoreError};

/// Studies that one search looks at.
const LOOKED_AT_MAX: u32 = 10_000;
/// Studies of one page.
const PAGE_MAX: u32 = 200;
/// Studies that get their accession number in one transaction.
const FILLED_AT_ONCE: u32 = 200;

/// What is looked for; everything given has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StudyQuery {
    /// A Study Instance UID or an accession number, whole.
    pub named: Option<String>,
    pub state: Option<StudyState>,
    pub source: Option<AeTitle>,
    /// Highest level of the last report.
    pub level: Option<Level>,
    /// Something of it arrived at or after this…
    pub since: Option<Timestamp>,
    /// …and nothing at or after this.
    pub until: Option<Timestamp>,
    /// Where the last page ended.
    pub after: Option<SearchCursor>,
}

/// A place in the order of studies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchCursor {
    /// Last arrival, microseconds since 1970.
    pub last_at: i64,
    /// Tells apart those of one microsecond.
    pub place: i64,
}

/// A page of studies.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub studies: Vec<StudyHit>,
    /// Where to go on, if there may be more.
    pub next: Option<SearchCursor>,
    /// Nothing more was found as far as was looked, though there are older studies.
    pub cut_short: bool,
}

/// A study as it stands in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct StudyHit {
    pub study: Uid,
    /// False for an object whose study could not be read.
    pub readable: bool,
    pub state: StudyState,
    pub source: AeTitle,
    pub last_at: Timestamp,
    pub level: Option<Level>,
    /// Empty where the header has none, and as long as it is not known.
    pub accession: String,
    pub objects: u64,
    pub refusal: Option<Refusal>,
    pub error: Option<String>,
}

/// The index that a search goes along, and what it fixes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Along {
    Name,
    State,
    Level,
    Source,
    Time,
}

impl StudyQuery {
    /// The index that leaves least: most studies are delivered, and most sites have few sources.
    fn along(&self) -> Along {
        match self {
            Self { named: Some(_), .. } => Along::Name,
            Self { state: Some(state), .. } if *state != StudyState::Delivered => Along::State,
            Self { level: Some(_), .. } => Along::Level,
            Self { state: Some(_), .. } => Along::State,
            Self { source: Some(_), .. } => Along::Source,
            _ => Along::Time,
        }
    }

    /// Whether everything that is read along the index matches.
    fn is_plain(&self) -> bool {
        let given = [self.state.is_some(), self.source.is_some(), self.level.is_some()];
        let given = given.into_iter().filter(|is| *is).count();
        match self.along() {
            Along::Name => false,
            Along::Time => given == 0,
            Along::State | Along::Level | Along::Source => given == 1,
        }
    }

    /// The rows that are looked at; parameters as [`Store::search_studies`] binds them.
    fn looked_at(&self) -> String {
        let (index, fixed) = match self.along() {
            // Both are looked up; whichever the text is.
            Along::Name => {
                return "SELECT rowid AS place FROM studies WHERE study = ?1
                        UNION SELECT rowid FROM studies WHERE accession = ?1 AND accession <> ''"
                    .to_owned();
            }
            Along::State => ("studies_by_state", "state = ?2 AND"),
            Along::Level => ("studies_by_level", "level = ?4 AND"),
            Along::Source => ("studies_by_source", "source = ?3 AND"),
            Along::Time => ("studies_by_time", ""),
        };
        format!(
            "SELECT rowid AS place FROM studies INDEXED BY {index}
             WHERE {fixed} last_at BETWEEN ?5 AND ?6 AND (last_at < ?6 OR rowid < ?7)
             ORDER BY last_at DESC, rowid DESC LIMIT ?8"
        )
    }

    fn sql(&self) -> String {
        let looked_at = self.looked_at();
        format!(
            "SELECT s.rowid AS place, s.study, s.kind, s.state, s.source, s.last_at, s.level, s.accession,
                 s.refusal_code, s.refusal_detail, s.error,
                 (SELECT count(*) FROM instances i WHERE i.study = s.study) AS objects
             FROM ({looked_at}) l CROSS JOIN studies s ON s.rowid = l.place
             WHERE (?2 IS NULL OR s.state = ?2) AND (?3 IS NULL OR s.source = ?3) AND (?4 IS NULL OR s.level = ?4)
                 AND s.last_at BETWEEN ?5 AND ?6 AND (s.last_at < ?6 OR s.rowid < ?7)
             ORDER BY s.last_at DESC, s.rowid DESC LIMIT ?9"
        )
    }
}

impl Store {
    /// The studies that match, the one with the last arrival first.
    pub async fn search_studies(&self, query: &StudyQuery, limit: u32) -> Result<Found, StoreError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let looked_at = if query.is_plain() { limit + 1 } else { LOOKED_AT_MAX };
        let mut tx = self.index().snapshot().await?;
        let sql = query.sql();
        let rows = bound(&sql, query, looked_at)?.bind(limit + 1).fetch_all(&mut *tx).await?;
        let more = rows.len() > limit as usize;
        let rows = &rows[..rows.len().min(limit as usize)];
        let studies = rows.iter().map(hit).collect::<Result<Vec<_>, _>>()?;
        let mut next = rows.last().filter(|_| more).map(cursor).transpose()?;
        let mut cut_short = false;
        if !more && !query.is_plain() && query.along() != Along::Name {
            // Older ones were not looked at: the next page begins at the last that was.
            let sql = format!(
                "SELECT s.rowid AS place, s.last_at FROM ({}) l CROSS JOIN studies s ON s.rowid = l.place
                 LIMIT 1 OFFSET ?9",
                query.looked_at()
            );
            let last = bound(&sql, query, looked_at)?.bind(looked_at - 1).fetch_optional(&mut *tx).await?;
            next = last.as_ref().map(cursor).transpose()?;
            cut_short = next.is_some();
        }
        Ok(Found { studies, next, cut_short })
    }

    /// Looks for the accession numbers of some studies that an older version has read; whether there are more.
    pub async fn fill_accessions(&self) -> Result<bool, StoreError> {
        let sql = "SELECT study, (SELECT i.header FROM instances i WHERE i.study = s.study AND i.header IS NOT NULL
                       LIMIT 1) AS header FROM studies s WHERE s.accession IS NULL LIMIT ?";
        let rows = sqlx::query(sql).bind(FILLED_AT_ONCE).fetch_all(self.index().read()).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let mut tx = self.index().write_lazily().await?;
        for row in &rows {
            let header: Option<crate::domain::InstanceHeader> = row.opt_json("header")?;
            let number = header.and_then(|h| h.accession_number()).unwrap_or_default();
            let sql = "UPDATE studies SET accession = ? WHERE study = ? AND accession IS NULL";
            sqlx::query(sql).bind(number).bind(row.text("study")?).execute(&mut *tx).await?;
        }
        self.index().commit(tx).await?;
        Ok(rows.len() == FILLED_AT_ONCE as usize)
    }
}

type Bound<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments<'q>>;

/// Binds parameters 1 to 8; a statement may leave some of them out.
fn bound<'q>(sql: &'q str, query: &'q StudyQuery, looked_at: u32) -> Result<Bound<'q>, StoreError> {
    let until = query.until.map_or(i64::MAX, |until| micros(until) - 1);
    let (from, place) = match query.after {
        Some(after) if after.last_at <= until => (after.last_at, after.place),
        // Also those of the very last microsecond.
        _ => (until, i64::MAX),
    };
    Ok(sqlx::query(sql)
        .bind(&query.named)
        .bind(query.state.map(|state| state.as_str()))
        .bind(query.source.as_ref().map(AeTitle::as_str))
        .bind(query.level.map(|level| word(&level)).transpose()?)
        .bind(query.since.map_or(i64::MIN, micros))
        .bind(from)
        .bind(place)
        .bind(looked_at))
}

fn cursor(row: &SqliteRow) -> Result<SearchCursor, StoreError> {
    Ok(SearchCursor { last_at: row.int("last_at")?, place: row.int("place")? })
}

fn hit(row: &SqliteRow) -> Result<StudyHit, StoreError> {
    Ok(StudyHit {
        study: row.parsed("study")?,
        readable: row.text("kind")? == "study",
        state: row.word("state")?,
        source: row.parsed("source")?,
        last_at: row.time("last_at")?,
        level: row.opt_word("level")?,
        accession: row.opt_text("accession")?.unwrap_or_default(),
        objects: row.count("objects")?,
        refusal: row.refusal()?,
        error: row.opt_text("error")?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "search_tests.rs"]
mod tests;
