//! How the node stands at a glance: what waits, what flowed lately, which destinations are down, how full the disk is.
//!
//! Everything is counted along an index and over what is recent or waiting, so that a million old studies cost nothing.
//! Neighbours: `web` shows it. Left out: totals over all time (`views`, for metrics), and what is to be done about it.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{Sqlite, Transaction};

use crate::domain::Timestamp;

use super::destinations::WAITED_FOR;
use super::index::{Columns, shifted};
use super::{Store, StoreError, blocking};

/// How the node stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Overview {
    pub open: u64,
    /// Studies that ended without a report that arrived.
    pub failed: u64,
    /// Objects that are not read yet, and since when the oldest of them waits.
    pub unread: u64,
    pub unread_since: Option<Timestamp>,
    /// Objects of those that wait for a model server.
    pub waiting_for_server: u64,
    /// Objects that were kept aside: a known UID with other content.
    pub conflicts: u64,
    pub last_hour: Throughput,
    pub last_day: Throughput,
    pub destinations: Vec<DestinationOverview>,
    /// Why there is none: the disk is read-only, or gone.
    pub disk: Result<Disk, String>,
}

/// What flowed within a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throughput {
    pub objects_received: u64,
    /// Studies that were closed, with a report or without one.
    pub studies_closed: u64,
    pub reports_delivered: u64,
}

/// Where a destination stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationOverview {
    pub name: String,
    /// `None`: it is up.
    pub down_since: Option<Timestamp>,
    pub next_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub waiting: u64,
    pub given_up: u64,
    pub delivered_at: Option<Timestamp>,
}

/// The file system of the data folder, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    pub free: u64,
    pub size: u64,
    /// Below so many free ones nothing more is taken.
    pub floor: u64,
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// One row of the queue.
const QUEUE: &str = "SELECT
    (SELECT count(*) FROM studies WHERE state = 'open') AS open,
    (SELECT count(*) FROM studies WHERE state = 'failed') AS failed,
    (SELECT count(*) FROM instances WHERE state = 'received') AS unread,
    (SELECT min(received_at) FROM instances WHERE state = 'received') AS unread_since,
    (SELECT count(*) FROM instances WHERE state = 'received' AND waiting_since IS NOT NULL) AS waiting_for_server,
    (SELECT count(*) FROM conflicts) AS conflicts";

/// What flowed since `?1`.
const FLOWED: &str = "SELECT
    (SELECT count(*) FROM instances WHERE received_at >= ?1) AS received,
    (SELECT count(*) FROM studies WHERE closed_at >= ?1) AS closed";

/// Of the destination `?1`; what it took since `?2` and `?3`.
const OF_DESTINATION: &str = "SELECT
    (SELECT count(*) FROM deliveries WHERE state = 'pending' AND destination = ?1) AS waiting,
    (SELECT count(*) FROM deliveries WHERE state = 'failed' AND destination = ?1) AS given_up,
    (SELECT max(delivered_at) FROM deliveries WHERE destination = ?1 AND delivered_at IS NOT NULL) AS delivered_at,
    (SELECT count(*) FROM deliveries WHERE destination = ?1 AND delivered_at >= ?2) AS hour,
    (SELECT count(*) FROM deliveries WHERE destination = ?1 AND delivered_at >= ?3) AS day,
    (SELECT down_since FROM destinations WHERE name = ?1 AND failures > 0) AS down_since,
    (SELECT next_at FROM destinations WHERE name = ?1 AND failures > 0) AS next_at,
    (SELECT last_error FROM destinations WHERE name = ?1 AND failures > 0) AS last_error";

impl Store {
    /// How the node stands now. `destinations`: those of the configuration, which are listed whether anything was ever
    /// for them or not.
    pub async fn overview(&self, destinations: &[String], now: Timestamp) -> Result<Overview, StoreError> {
        let spool = self.spool().clone();
        let disk = blocking(move || spool.disk()).await.map_err(|e| e.to_string());
        let mut tx = self.index().snapshot().await?;
        let queue = sqlx::query(QUEUE).fetch_one(&mut *tx).await?;
        let (hour, day) = (shifted(now, HOUR, -1), shifted(now, DAY, -1));
        let mut last_hour = flowed(&mut tx, hour).await?;
        let mut last_day = flowed(&mut tx, day).await?;
        let mut names: BTreeSet<String> = destinations.iter().cloned().collect();
        // Also what waits for one that was taken out of the configuration.
        let sql = format!("{WAITED_FOR} SELECT name FROM waited_for WHERE name IS NOT NULL");
        names.extend(sqlx::query_scalar::<_, String>(&sql).fetch_all(&mut *tx).await?);
        let mut listed = Vec::with_capacity(names.len());
        for name in names {
            let row = sqlx::query(OF_DESTINATION).bind(&name).bind(hour).bind(day).fetch_one(&mut *tx).await?;
            last_hour.reports_delivered += row.count("hour")?;
            last_day.reports_delivered += row.count("day")?;
            listed.push(DestinationOverview {
                name,
                down_since: row.opt_time("down_since")?,
                next_at: row.opt_time("next_at")?,
                last_error: row.opt_text("last_error")?,
                waiting: row.count("waiting")?,
                given_up: row.count("given_up")?,
                delivered_at: row.opt_time("delivered_at")?,
            });
        }
        Ok(Overview {
            open: queue.count("open")?,
            failed: queue.count("failed")?,
            unread: queue.count("unread")?,
            unread_since: queue.opt_time("unread_since")?,
            waiting_for_server: queue.count("waiting_for_server")?,
            conflicts: queue.count("conflicts")?,
            last_hour,
            last_day,
            destinations: listed,
            disk,
        })
    }
}

/// Since a moment in microseconds, without the deliveries, which are counted by destination.
async fn flowed(tx: &mut Transaction<'_, Sqlite>, since: i64) -> Result<Throughput, StoreError> {
    let row = sqlx::query(FLOWED).bind(since).fetch_one(&mut **tx).await?;
    Ok(Throughput {
        objects_received: row.count("received")?,
        studies_closed: row.count("closed")?,
        reports_delivered: 0,
    })
}
