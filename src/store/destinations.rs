//! Destinations that are down: their whole queue waits, and one delivery at a time finds out whether they are back.
//!
//! An attempt that did not reach its destination is counted here and not with the delivery, so that an outage costs a
//! row in place of an attempt for every report. Neighbours: `outbox` holds the deliveries. Left out: how long to wait
//! between two attempts, which the caller decides.

use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, Transaction};
use tracing::{info, warn};

use crate::domain::{Timestamp, Uid};

use super::index::{Columns, micros};
use super::outbox::{due, fail};
use super::{DestinationState, DueDestination, GiveUp, Store, StoreError, Unreached};

/// The destinations of pending deliveries, found one after the other in their index.
pub(super) const WAITED_FOR: &str = "WITH RECURSIVE waited_for (name) AS (
    SELECT min(destination) FROM deliveries WHERE state = 'pending'
    UNION ALL SELECT (SELECT min(destination) FROM deliveries WHERE state = 'pending' AND destination > name)
    FROM waited_for WHERE name IS NOT NULL)";

impl Store {
    /// Destinations to which something can be sent now: a delivery is due, and they are not waited for.
    pub async fn due_destinations(&self, now: Timestamp) -> Result<Vec<DueDestination>, StoreError> {
        let due = due();
        let sql = format!(
            "{WAITED_FOR} SELECT w.name, ifnull(s.failures, 0) AS failures FROM waited_for w
             LEFT JOIN destinations s ON s.name = w.name
             WHERE w.name IS NOT NULL AND ifnull(s.next_at, ?1) <= ?1
                 AND EXISTS (SELECT 1 FROM deliveries d WHERE d.destination = w.name AND {due})"
        );
        let rows = sqlx::query(&sql).bind(micros(now)).fetch_all(self.index().read()).await?;
        let due = |row: &SqliteRow| Ok(DueDestination { name: row.text("name")?, failures: row.small("failures")? });
        rows.iter().map(due).collect()
    }

    /// A destination answered that was down: its queue flows again.
    pub async fn destination_reached(&self, name: &str) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        let back = reached(&mut tx, name).await?;
        self.index().commit(tx).await?;
        if back {
            info!(destination = name, "the destination is back; what waited for it is sent");
            self.wake().delivery_due.notify_one();
        }
        Ok(())
    }

    /// An attempt did not reach its destination. All that is for it waits until `next_at`; what waited too long is
    /// given up, and fails its study.
    pub async fn destination_unreached(&self, attempt: Unreached<'_>, give_up: GiveUp) -> Result<(), StoreError> {
        let Unreached { delivery, destination, error, now, next_at } = attempt;
        let mut tx = self.index().write().await?;
        let sql = "UPDATE deliveries SET lease_until = NULL, last_error = ? WHERE id = ?";
        sqlx::query(sql).bind(error).bind(delivery).execute(&mut *tx).await?;
        // Several associations that fail together are one failure.
        let sql = "INSERT INTO destinations (name, failures, down_since, next_at, last_error)
                   VALUES (?1, 1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET
                   failures = failures + (failures = 0 OR ifnull(next_at, ?2) <= ?2),
                   down_since = ifnull(down_since, ?2), next_at = max(ifnull(next_at, ?3), ?3), last_error = ?4
                   RETURNING failures";
        let row = sqlx::query(sql).bind(destination).bind(micros(now)).bind(micros(next_at)).bind(error);
        let failures = row.fetch_one(&mut *tx).await?.small("failures")?;
        let sql = "UPDATE deliveries SET state = 'failed', lease_until = NULL, last_error = ?1
                   WHERE state = 'pending' AND destination = ?2 AND queued_at <= ?3 AND attempts + ?4 >= ?5
                       AND (lease_until IS NULL OR lease_until <= ?6) RETURNING study, report";
        let given_up = sqlx::query(sql)
            .bind(error)
            .bind(destination)
            .bind(micros(give_up.queued_before))
            .bind(failures)
            .bind(give_up.tries_min)
            .bind(micros(now))
            .fetch_all(&mut *tx)
            .await?;
        for row in &given_up {
            let study: Uid = row.parsed("study")?;
            let cause = format!("delivery to {destination} was given up: {error}");
            fail(&mut tx, &study, row.int("report")?, &cause).await?;
        }
        self.index().commit(tx).await?;
        let given_up = given_up.len();
        warn!(destination, failures, error, ?next_at, given_up, "delivery failed: the destination is down");
        self.wake().delivery_due.notify_one();
        Ok(())
    }

    /// Tries every destination that is down at once: somebody changed something.
    pub async fn retry_destinations(&self) -> Result<(), StoreError> {
        let mut tx = self.index().write().await?;
        sqlx::query("UPDATE destinations SET next_at = NULL WHERE next_at IS NOT NULL").execute(&mut *tx).await?;
        self.index().commit(tx).await?;
        self.wake().delivery_due.notify_one();
        Ok(())
    }

    /// Where each destination stands that a report was ever for, by name.
    pub async fn destinations(&self) -> Result<Vec<DestinationState>, StoreError> {
        let sql = "SELECT d.destination, count(*) FILTER (WHERE d.state = 'pending') AS pending,
                       count(*) FILTER (WHERE d.state = 'failed') AS failed,
                       count(*) FILTER (WHERE d.state = 'delivered') AS delivered,
                       count(*) FILTER (WHERE d.commitment = 'asked') AS unconfirmed,
                       max(d.delivered_at) AS delivered_at, ifnull(s.failures, 0) AS failures, s.down_since, s.next_at,
                       s.last_error
                   FROM deliveries d LEFT JOIN destinations s ON s.name = d.destination
                   GROUP BY d.destination ORDER BY d.destination";
        let rows = sqlx::query(sql).fetch_all(self.index().read()).await?;
        let mut states = Vec::with_capacity(rows.len());
        for row in &rows {
            let failures = row.small("failures")?;
            states.push(DestinationState {
                name: row.text("destination")?,
                up: failures == 0,
                failures,
                down_since: row.opt_time("down_since")?,
                next_at: row.opt_time("next_at")?.filter(|_| failures > 0),
                last_error: row.opt_text("last_error")?,
                pending: row.count("pending")?,
                delivered: row.count("delivered")?,
                failed: row.count("failed")?,
                unconfirmed: row.count("unconfirmed")?,
                delivered_at: row.opt_time("delivered_at")?,
            });
        }
        Ok(states)
    }
}

/// Notes that a destination is up; whether it was down.
pub(super) async fn reached(tx: &mut Transaction<'_, Sqlite>, name: &str) -> Result<bool, StoreError> {
    let sql = "UPDATE destinations SET failures = 0, down_since = NULL, next_at = NULL, last_error = NULL
               WHERE name = ? AND failures > 0";
    Ok(sqlx::query(sql).bind(name).execute(&mut **tx).await?.rows_affected() > 0)
}
