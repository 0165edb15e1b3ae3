//! The activity log: what people did and were refused, line by line, each bound to the one before it.
//!
//! A line's digest is SHA-256 over a canonical encoding of the line and the digest of the line before: whoever changes,
//! takes out or puts in a line breaks the chain there. Triggers refuse to change or delete lines; against somebody who
//! owns the file only the chain helps, and against cutting off its end only a number and digest that were noted
//! elsewhere ([`Store::verify_activity`]). A line of something that is done here is written in the same transaction.
//! Neighbours: `web` and the commands say who did what. Left out: patients and studies by name, which outlive no
//! retention here: an object is told by its keyed hash.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, Transaction};

use crate::domain::{Digest, Timestamp};

use super::index::{Columns, from_micros, micros};
use super::{Store, StoreError};

/// What is to be said of one act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Name of a configured user, or of what acted in the place of one; empty where nobody is known.
    pub user: String,
    /// A word or two, e.g. `resend`.
    pub action: String,
    /// What it was done to, without patient data: [`Store::log_id`] stands for a study.
    pub object: String,
    pub outcome: String,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActivityLine {
    /// From 1, without gaps.
    pub number: u64,
    pub at: Timestamp,
    pub user: String,
    pub action: String,
    pub object: String,
    pub outcome: String,
    /// Digest of the line before.
    pub previous: Digest,
    pub digest: Digest,
}

/// A line by which the whole log up to it can be recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainHead {
    /// 0 where there is no line.
    pub number: u64,
    pub digest: Digest,
}

/// The first line that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainFault {
    pub number: u64,
    pub what: &'static str,
}

/// Longest text of a column, characters: names and hashes are short, and what a person typed is not logged.
const TEXT_CHARS_MAX: usize = 200;
/// Lines that are read at a time where all are.
const BATCH: i64 = 10_000;

impl Store {
    /// Adds a line of its own: for what changes nothing else in the index.
    pub async fn note_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        append(&mut tx, activity, now).await?;
        self.index().commit(tx).await
    }

    /// Lines before this number (the newest for `None`), the newest first.
    pub async fn activity(&self, before: Option<u64>, limit: u32) -> Result<Vec<ActivityLine>, StoreError> {
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let sql = "SELECT * FROM activity WHERE number < ? ORDER BY number DESC LIMIT ?";
        let rows = sqlx::query(sql).bind(before).bind(limit).fetch_all(self.index().read()).await?;
        rows.iter().map(line).collect()
    }

    /// Goes through the whole chain. `noted`: a line and its digest as they were told before, and have to be there.
    pub async fn verify_activity(
        &self,
        noted: Option<&ChainHead>,
    ) -> Result<Result<ChainHead, ChainFault>, StoreError> {
        let mut tx = self.index().snapshot().await?;
        let mut head = ChainHead { number: 0, digest: beginning() };
        let mut found = noted.is_none_or(|n| *n == head);
        loop {
            let sql = "SELECT * FROM activity WHERE number > ? ORDER BY number LIMIT ?";
            let after = i64::try_from(head.number).unwrap_or(i64::MAX);
            let rows = sqlx::query(sql).bind(after).bind(BATCH).fetch_all(&mut *tx).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let expected = head.number + 1;
                // A line that cannot be read any more was changed too.
                let Ok(line) = line(row) else {
                    return Ok(Err(ChainFault { number: expected, what: "holds what was never written" }));
                };
                let what = if line.number != expected {
                    Some("is not there")
                } else if line.previous != head.digest {
                    Some("does not follow the line before it")
                } else if digest(&line) != line.digest {
                    Some("is not as it was written")
                } else {
                    None
                };
                if let Some(what) = what {
                    return Ok(Err(ChainFault { number: expected, what }));
                }
                head = ChainHead { number: line.number, digest: line.digest };
                if let Some(noted) = noted.filter(|n| n.number == head.number) {
                    if *noted != head {
                        return Ok(Err(ChainFault { number: head.number, what: "is not the line that was noted" }));
                    }
                    found = true;
                }
            }
        }
        match noted.filter(|_| !found) {
            Some(noted) => Ok(Err(ChainFault { number: noted.number, what: "is not there, though it was noted" })),
            None => Ok(Ok(head)),
        }
    }
}

/// Adds a line within a transaction, with which it comes or does not.
pub(super) async fn append(
    tx: &mut Transaction<'_, Sqlite>,
    activity: &Activity,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "SELECT number, digest FROM activity ORDER BY number DESC LIMIT 1";
    let last = sqlx::query(sql).fetch_optional(&mut **tx).await?;
    let (number, previous) = match last {
        Some(row) => (row.count("number")? + 1, row.parsed("digest")?),
        None => (1, beginning()),
    };
    let short = |text: &str| -> String { text.chars().take(TEXT_CHARS_MAX).collect() };
    let mut line = ActivityLine {
        number,
        at: from_micros(micros(now))?,
        user: short(&activity.user),
        action: short(&activity.action),
        object: short(&activity.object),
        outcome: short(&activity.outcome),
        digest: previous.clone(),
        previous,
    };
    line.digest = digest(&line);
    let sql = "INSERT INTO activity (number, at, user, action, object, outcome, previous, digest)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(i64::try_from(line.number).unwrap_or(i64::MAX))
        .bind(micros(line.at))
        .bind(&line.user)
        .bind(&line.action)
        .bind(&line.object)
        .bind(&line.outcome)
        .bind(line.previous.as_str())
        .bind(line.digest.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// As [`append`], where there is something to tell.
pub(super) async fn tell(
    tx: &mut Transaction<'_, Sqlite>,
    told: Option<&Activity>,
    now: Timestamp,
) -> Result<(), StoreError> {
    match told {
        Some(activity) => append(tx, activity, now).await,
        None => Ok(()),
    }
}

/// What the first line follows.
fn beginning() -> Digest {
    Digest::of(b"sidelight activity log, version 1")
}

/// Every field with its length before it, so that no two lines have one encoding.
fn digest(line: &ActivityLine) -> Digest {
    let mut bytes = Vec::new();
    let number = line.number.to_be_bytes();
    let at = micros(line.at).to_be_bytes();
    let texts = [line.previous.as_str(), &line.user, &line.action, &line.object, &line.outcome];
    for field in [&number[..], &at[..]].into_iter().chain(texts.into_iter().map(str::as_bytes)) {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    Digest::of(&bytes)
}

fn line(row: &SqliteRow) -> Result<ActivityLine, StoreError> {
    Ok(ActivityLine {
        number: row.count("number")?,
        at: row.time("at")?,
        user: row.text("user")?,
        action: row.text("action")?,
        object: row.text("object")?,
        outcome: row.text("outcome")?,
        previous: row.parsed("previous")?,
        digest: row.parsed("digest")?,
    })
}
