//! From a finished upload to an acknowledged object, several at a time.
//!
//! One task commits: it takes what is waiting, renames the files, syncs each folder once and records all of them in
//! one transaction. So eight senders share the price of a sync, no two uploads of one SOP instance meet, and a
//! sender that gives up in the middle leaves nothing half done. Neighbours: `spool` for files, `index` for rows.
//! Left out: reading what was received.

use std::fs::File;
use std::time::Duration;

use sqlx::{Sqlite, Transaction};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::domain::{Accepted, ReceivedInstance, Uid};

use super::index::{Columns, Index, micros};
use super::spool::{Sealed, Spool, Upload};
use super::{StoreError, Wake, blocking};

/// Uploads that may wait for the writer; more wait in their associations.
pub(super) const QUEUE_MAX: usize = 256;

/// Objects of one transaction.
const BATCH_MAX: usize = 64;

/// How often the index is asked whether another process wrote.
const FOREIGN_PERIOD: Duration = Duration::from_secs(1);

/// An upload whose bytes are synced, and where the answer goes.
pub(super) struct CommitRequest {
    sealed: Sealed,
    received: ReceivedInstance,
    answer: oneshot::Sender<Result<Accepted, StoreError>>,
}

/// The task that commits.
pub(super) struct Writer {
    pub(super) spool: Spool,
    pub(super) index: Index,
    pub(super) wake: Wake,
    pub(super) stop: CancellationToken,
    /// The folder stays locked until the last object is settled.
    pub(super) _lock: File,
}

/// Syncs the file, then waits its turn and for the result.
pub(super) async fn commit(
    requests: &mpsc::Sender<CommitRequest>,
    upload: Upload,
    received: &ReceivedInstance,
) -> Result<Accepted, StoreError> {
    let sealed = blocking(move || upload.seal()).await?;
    let (answer, result) = oneshot::channel();
    let request = CommitRequest { sealed, received: received.clone(), answer };
    requests.send(request).await.map_err(|_| StoreError::Closing)?;
    result.await.map_err(|_| StoreError::Closing)?
}

impl Writer {
    /// Runs until every sender is gone or `stop` is cancelled, then settles what was already handed over.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<CommitRequest>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut foreign = tokio::time::interval(FOREIGN_PERIOD);
        foreign.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !queue.is_closed() => queue.close(),
                _ = foreign.tick() => self.look_for_foreign_writes(&mut seen).await,
                taken = queue.recv_many(&mut batch, BATCH_MAX) => match taken {
                    0 => return,
                    _ => self.settle(std::mem::take(&mut batch)).await,
                },
            }
        }
    }

    async fn settle(&self, batch: Vec<CommitRequest>) {
        let (jobs, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|request| ((request.sealed, request.received), request.answer)).unzip();
        let results = self.record(&jobs).await;
        if let Err(e) = &results {
            error!(error = %e, objects = jobs.len(), "received objects could not be stored");
            self.take_back(&jobs).await;
        }
        // Whatever still has its temporary name goes before anybody hears the result.
        drop(jobs);
        // A sender that has gone away does not need its answer; the object is kept all the same.
        match results {
            Ok(results) => {
                if results.contains(&Accepted::New) {
                    self.wake.instance_arrived.notify_one();
                }
                for (answer, accepted) in answers.into_iter().zip(results) {
                    let _ = answer.send(Ok(accepted));
                }
            }
            Err(e) => {
                let full = matches!(e, StoreError::OutOfRoom { .. });
                for answer in answers {
                    let _ = answer.send(Err(match full {
                        true => StoreError::OutOfRoom { dir: self.spool.absolute(""), detail: e.to_string() },
                        false => StoreError::Intake(e.to_string()),
                    }));
                }
            }
        }
    }

    /// Rename, folder sync, commit; in this order, all or nothing.
    async fn record(&self, jobs: &[(Sealed, ReceivedInstance)]) -> Result<Vec<Accepted>, StoreError> {
        let mut tx = self.index.write().await?;
        let mut results = Vec::with_capacity(jobs.len());
        let mut moves = Vec::new();
        for (sealed, received) in jobs {
            let (accepted, target) = admit(&mut tx, &self.spool, sealed, received).await?;
            moves.extend(target.map(|to| (sealed.temporary.path().to_owned(), to)));
            results.push(accepted);
        }
        let spool = self.spool.clone();
        blocking(move || spool.settle(&moves)).await?;
        tx.commit().await?;
        Ok(results)
    }

    /// After a failure: files that were renamed and that the index does not know are nobody's.
    async fn take_back(&self, jobs: &[(Sealed, ReceivedInstance)]) {
        let Ok(known) = self.index.paths().await else { return };
        let stray = |path: &String| !known.contains(path);
        for (sealed, received) in jobs {
            let paths = [
                Spool::object_path(&received.sop_instance),
                Spool::conflict_path(&received.sop_instance, &sealed.digest),
            ];
            paths.iter().filter(|path| stray(path)).for_each(|path| self.spool.remove(path));
        }
    }

    async fn look_for_foreign_writes(&self, seen: &mut Option<i64>) {
        match self.index.foreign_version().await {
            Ok(version) if *seen == Some(version) => {}
            Ok(version) => {
                if seen.replace(version).is_some() {
                    debug!("another process changed the index");
                    self.wake.all();
                }
            }
            Err(e) => warn!(error = %e, "the index was not asked for changes"),
        }
    }
}

/// Decides what an object is and records it; gives the place that its file goes to, if it is kept.
async fn admit(
    tx: &mut Transaction<'_, Sqlite>,
    spool: &Spool,
    sealed: &Sealed,
    received: &ReceivedInstance,
) -> Result<(Accepted, Option<String>), StoreError> {
    let uid = &received.sop_instance;
    let path = Spool::object_path(uid);
    let known = sqlx::query("SELECT digest, path FROM instances WHERE sop_instance = ?")
        .bind(uid.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(row) = known else {
        let sql = "INSERT INTO instances (sop_instance, sop_class, transfer_syntax, digest, bytes, path, calling,
                   called, peer, received_at, announced_study, state)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'received')";
        sqlx::query(sql)
            .bind(uid.as_str())
            .bind(received.sop_class.as_str())
            .bind(received.transfer_syntax.as_str())
            .bind(sealed.digest.as_str())
            .bind(sealed.bytes.cast_signed())
            .bind(&path)
            .bind(received.calling.as_str())
            .bind(received.called.as_str())
            .bind(received.peer.to_string())
            .bind(micros(received.received_at))
            .bind(received.study.as_ref().map(Uid::as_str))
            .execute(&mut **tx)
            .await?;
        return Ok((Accepted::New, Some(path)));
    };
    if row.text("digest")? != sealed.digest.as_str() {
        return conflict(tx, sealed, received).await;
    }
    // Success says that the object is there, so that is looked at.
    if row.opt_text("path")?.is_some_and(|path| spool.absolute(&path).is_file()) {
        return Ok((Accepted::Duplicate, None));
    }
    // Its object was past its retention, or the file was lost. What is acknowledged is kept, until the retention comes by again.
    let sql = "UPDATE instances SET path = ? WHERE sop_instance = ?";
    sqlx::query(sql).bind(&path).bind(uid.as_str()).execute(&mut **tx).await?;
    Ok((Accepted::Duplicate, Some(path)))
}

async fn conflict(
    tx: &mut Transaction<'_, Sqlite>,
    sealed: &Sealed,
    received: &ReceivedInstance,
) -> Result<(Accepted, Option<String>), StoreError> {
    let path = Spool::conflict_path(&received.sop_instance, &sealed.digest);
    let sql = "INSERT INTO conflicts (sop_instance, digest, bytes, path, calling, peer, received_at)
               VALUES (?, ?, ?, ?, ?, ?, ?)
               ON CONFLICT (sop_instance, digest) DO UPDATE SET received_at = excluded.received_at";
    sqlx::query(sql)
        .bind(received.sop_instance.as_str())
        .bind(sealed.digest.as_str())
        .bind(sealed.bytes.cast_signed())
        .bind(&path)
        .bind(received.calling.as_str())
        .bind(received.peer.to_string())
        .bind(micros(received.received_at))
        .execute(&mut **tx)
        .await?;
    error!(
        calling = %received.calling,
        peer = %received.peer,
        digest = sealed.digest.short(),
        "an object with a known SOP Instance UID and other contents was kept aside in conflicts/, under its UID and digest; ask its sender which one is right"
    );
    Ok((Accepted::Conflict { kept_aside: path.clone() }, Some(path)))
}
