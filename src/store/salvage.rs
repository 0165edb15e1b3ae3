//! What survives of an index that is damaged: the node's identity and the UIDs of its own reports.
//!
//! Neighbours: `fsck` puts an empty index in its place and receives the objects anew. Left out: everything else in it,
//! since half of a truth is none.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Connection};
use tracing::warn;

use crate::domain::Timestamp;

use super::index::{Access, Index};
use super::spool::Spool;
use super::{StoreError, blocking};

/// Moves the damaged index to `damaged/`, puts a new one in its place and takes over what can be read; gives where the
/// old one is.
pub(super) async fn replace_index(spool: &Spool, now: Timestamp) -> Result<String, StoreError> {
    let path = spool.index_path();
    let old = SqliteConnectOptions::new().filename(&path).read_only(true).connect().await;
    let (mut identity, mut own_reports) = (Vec::new(), Vec::new());
    if let Ok(mut connection) = old {
        identity = readable(&mut connection, "SELECT key, value FROM node").await;
        own_reports = readable(&mut connection, "SELECT sop_instance, '' FROM own_reports").await;
        // What cannot be closed is left to the end of the process.
        let _ = connection.close().await;
    }
    let (folder, stamp) = (spool.clone(), now.format("%Y%m%dT%H%M%SZ").to_string());
    let kept = blocking(move || folder.set_index_aside(&stamp)).await?;
    if identity.is_empty() {
        warn!("the node's Device Observer UID could not be read; it gets a new one");
    }
    let index = Index::open(&path, Access::Own, spool.trust().clone()).await?;
    let mut tx = index.write().await?;
    for (key, value) in identity {
        let sql = "INSERT INTO node (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(key).bind(value).execute(&mut *tx).await?;
    }
    for (uid, _) in own_reports {
        let sql = "INSERT INTO own_reports (sop_instance) VALUES (?) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(uid).execute(&mut *tx).await?;
    }
    index.commit(tx).await?;
    index.close().await;
    Ok(kept)
}

/// The rows of two texts that can be read, up to the first that cannot.
async fn readable(connection: &mut SqliteConnection, sql: &str) -> Vec<(String, String)> {
    use sqlx::Row as _;
    let rows: Vec<SqliteRow> = sqlx::query(sql).fetch_all(connection).await.unwrap_or_default();
    let pair = |row: &SqliteRow| Some((row.try_get(0).ok()?, row.try_get(1).ok()?));
    rows.iter().map_while(pair).collect()
}
