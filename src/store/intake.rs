//! From a finished upload to an acknowledged object, several at a time.
//!
//! Files are synced side by side, each by its own sender's thread. One task commits: it takes what is waiting and
//! records all of it in one transaction. So eight senders share the price of a sync, no two uploads of one SOP
//! instance meet, and a sender that gives up in the middle leaves nothing half done. Neighbours: `upload` for files,
//! `index` for rows. Left out: reading what was received.

use std::fs::File;
use std::time::Duration;

use sqlx::{Sqlite, Transaction};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::domain::{Accepted, ReceivedInstance, RefusalCode, Uid};

use super::index::{Columns, Index, micros};
use super::spool::Spool;
use super::upload::Sealed;
use super::{StoreError, Wake, blocking};

/// Uploads that may wait for the writer; more wait in their associations.
pub(super) const QUEUE_MAX: usize = 256;

/// Objects of one transaction.
const BATCH_MAX: usize = 64;

/// How often the index is asked whether another process wrote, and its log copied into it.
const TIDY_PERIOD: Duration = Duration::from_secs(1);

/// … or after so many objects: with some 40 KB for each, the log stays within the length that it was given.
const CHECKPOINT_OBJECTS: usize = 128;

/// An upload that is on the disk, and where the answer goes.
pub(super) struct CommitRequest {
    pub(super) sealed: Sealed,
    pub(super) received: ReceivedInstance,
    pub(super) answer: oneshot::Sender<Result<Accepted, StoreError>>,
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

/// What becomes of an arriving object.
struct Admission {
    accepted: Accepted,
    file: Place,
}

enum Place {
    /// It stays where it is. A file that it stands in for goes.
    Keep { instead_of: Option<String> },
    /// It is kept aside.
    Move { to: String },
    /// It is there already.
    Drop,
}

/// Waits its turn and for the result.
pub(super) async fn commit(
    requests: &mpsc::Sender<CommitRequest>,
    sealed: Sealed,
    received: &ReceivedInstance,
) -> Result<Accepted, StoreError> {
    let (answer, result) = oneshot::channel();
    let request = CommitRequest { sealed, received: received.clone(), answer };
    requests.send(request).await.map_err(|_| StoreError::Closing)?;
    result.await.map_err(|_| StoreError::Closing)?
}

impl Writer {
    /// Runs until every sender is gone or `stop` is cancelled, then settles what was already handed over.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<CommitRequest>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut tidy = tokio::time::interval(TIDY_PERIOD);
        tidy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut seen, mut objects) = (None, 0);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !queue.is_closed() => queue.close(),
                _ = tidy.tick() => {
                    self.look_for_foreign_writes(&mut seen).await;
                    objects = CHECKPOINT_OBJECTS;
                }
                taken = queue.recv_many(&mut batch, BATCH_MAX) => match taken {
                    0 => return,
                    _ => {
                        objects += taken;
                        self.settle(std::mem::take(&mut batch)).await;
                    }
                },
            }
            if objects >= CHECKPOINT_OBJECTS {
                objects = 0;
                if let Err(e) = self.index.checkpoint().await {
                    warn!(error = %e, "the index's log was not copied into it; it grows until that succeeds");
                }
            }
        }
    }

    pub(super) async fn settle(&self, batch: Vec<CommitRequest>) {
        let (jobs, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|request| ((request.sealed, request.received), request.answer)).unzip();
        let results = self.record(&jobs).await;
        // A sender that has gone away does not need its answer; the object is kept all the same.
        if self.spool.trust().check().is_err() {
            // The index may know them after the next start, or not: their files stay, and nobody is told Success.
            jobs.into_iter().for_each(|(sealed, _)| sealed.keep());
            for (answer, result) in answers.into_iter().zip(results) {
                let _ = answer.send(result.and_then(|admission| {
                    self.spool.trust().check()?;
                    Ok(admission.accepted)
                }));
            }
            return;
        }
        // Files of those that failed go before anybody hears of it.
        let accepted = self.tidy_up(jobs, results).await;
        if accepted.iter().any(|accepted| matches!(accepted, Ok(Accepted::New))) {
            self.wake.instance_arrived.notify_one();
        }
        for (answer, accepted) in answers.into_iter().zip(accepted) {
            let _ = answer.send(accepted);
        }
    }

    /// Records the objects, each with what becomes of its file. Those that are new, mostly all of them, are recorded by
    /// one statement that is its own transaction; what to do with the others is decided in a second one, whose failure
    /// takes nothing back of the first.
    async fn record(&self, jobs: &[(Sealed, ReceivedInstance)]) -> Vec<Result<Admission, StoreError>> {
        let new = match self.index.insert_instances(&rows(jobs)).await {
            Ok(new) => new,
            Err(e) => return self.failed(jobs.len(), &e),
        };
        let known: Vec<_> = jobs.iter().filter(|(sealed, _)| !new.contains(&sealed.path)).collect();
        let settled = match self.record_known(&known).await {
            Ok(admissions) => admissions.into_iter().map(Ok).collect(),
            Err(e) => self.failed(known.len(), &e),
        };
        let mut settled = settled.into_iter();
        let admission = |(sealed, _): &(Sealed, _)| match new.contains(&sealed.path) {
            true => Ok(Admission { accepted: Accepted::New, file: Place::Keep { instead_of: None } }),
            false => settled
                .next()
                .unwrap_or_else(|| Err(StoreError::Contents("an object that is neither new nor known".into()))),
        };
        jobs.iter().map(admission).collect()
    }

    fn failed(&self, objects: usize, e: &StoreError) -> Vec<Result<Admission, StoreError>> {
        error!(error = %e, objects, "received objects could not be stored");
        (0..objects).map(|_| Err(self.repeat(e))).collect()
    }

    /// Objects whose UID is known already; all or nothing.
    async fn record_known(&self, jobs: &[&(Sealed, ReceivedInstance)]) -> Result<Vec<Admission>, StoreError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.index.write().await?;
        let mut admissions = Vec::with_capacity(jobs.len());
        let mut moves = Vec::new();
        for (sealed, received) in jobs {
            let admission = admit(&mut tx, &self.spool, sealed, received).await?;
            if let Place::Move { to } = &admission.file {
                moves.push((sealed.path.clone(), to.clone()));
            }
            admissions.push(admission);
        }
        if !moves.is_empty() {
            let spool = self.spool.clone();
            blocking(move || spool.settle(&moves)).await?;
        }
        self.index.commit(tx).await?;
        Ok(admissions)
    }

    /// After the commit: files that nobody needs go, and those of objects that were not recorded; the others stay.
    async fn tidy_up(
        &self,
        jobs: Vec<(Sealed, ReceivedInstance)>,
        results: Vec<Result<Admission, StoreError>>,
    ) -> Vec<Result<Accepted, StoreError>> {
        let (mut accepted, mut unneeded, mut replaced) = (Vec::with_capacity(jobs.len()), Vec::new(), Vec::new());
        for ((sealed, _), result) in jobs.into_iter().zip(results) {
            let admission = match result {
                Ok(admission) => admission,
                Err(e) => {
                    unneeded.push(sealed);
                    accepted.push(Err(e));
                    continue;
                }
            };
            accepted.push(Ok(admission.accepted));
            match admission.file {
                Place::Drop => unneeded.push(sealed),
                Place::Move { .. } => sealed.keep(),
                Place::Keep { instead_of } => {
                    sealed.keep();
                    replaced.extend(instead_of);
                }
            }
        }
        if !(unneeded.is_empty() && replaced.is_empty()) {
            let spool = self.spool.clone();
            let removed = blocking(move || {
                drop(unneeded);
                replaced.iter().for_each(|path| spool.remove(path));
                Ok(())
            });
            if let Err(e) = removed.await {
                warn!(error = %e, "files that nobody needs stay until the next start");
            }
        }
        accepted
    }

    /// The same failure for each object of a batch.
    fn repeat(&self, e: &StoreError) -> StoreError {
        match e {
            StoreError::OutOfRoom { .. } => {
                StoreError::OutOfRoom { dir: self.spool.absolute(""), detail: e.to_string() }
            }
            StoreError::ReadOnly(dir) => StoreError::ReadOnly(dir.clone()),
            StoreError::Busy => StoreError::Busy,
            StoreError::Distrusted(cause) => StoreError::Distrusted(cause.clone()),
            // The first to notice says what went wrong; what it means for the others is that.
            _ => self.spool.trust().check().err().unwrap_or_else(|| StoreError::Intake(e.to_string())),
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

/// The rows of received objects, as [`Index::insert_instances`] takes them.
fn rows(jobs: &[(Sealed, ReceivedInstance)]) -> Vec<serde_json::Value> {
    let row = |(sealed, received): &(Sealed, ReceivedInstance)| {
        serde_json::json!([
            received.sop_instance.as_str(),
            received.sop_class.as_str(),
            received.transfer_syntax.as_str(),
            sealed.digest.as_str(),
            sealed.bytes,
            sealed.file_bytes,
            sealed.path,
            received.calling.as_str(),
            received.called.as_str(),
            received.peer.to_string(),
            micros(received.received_at),
            received.study.as_ref().map(Uid::as_str),
        ])
    };
    jobs.iter().map(row).collect()
}

/// Decides on an object whose UID is known.
async fn admit(
    tx: &mut Transaction<'_, Sqlite>,
    spool: &Spool,
    sealed: &Sealed,
    received: &ReceivedInstance,
) -> Result<Admission, StoreError> {
    let uid = &received.sop_instance;
    let sql = "SELECT digest, path, file_bytes FROM instances WHERE sop_instance = ?";
    let row = sqlx::query(sql).bind(uid.as_str()).fetch_one(&mut **tx).await?;
    if row.text("digest")? != sealed.digest.as_str() {
        return conflict(tx, sealed, received).await;
    }
    // Success says that the object is there, so that is looked at: a file that was cut short is none.
    let path = row.opt_text("path")?;
    let file_bytes = row.count("file_bytes")?;
    if path.as_ref().is_some_and(|path| spool.holds(path, file_bytes)) {
        return Ok(Admission { accepted: Accepted::Duplicate, file: Place::Drop });
    }
    // Its object was past its retention, or the file was lost. What is acknowledged is kept, until the retention comes
    // by again; and what could not be read because it was lost is read now.
    let sql = "UPDATE instances SET path = ?1, file_bytes = ?2, replaced_at = ?5,
                   state = iif(refusal_code = ?3, 'received', state), attempts = iif(refusal_code = ?3, 0, attempts)
               WHERE sop_instance = ?4";
    sqlx::query(sql)
        .bind(&sealed.path)
        .bind(sealed.file_bytes.cast_signed())
        .bind(RefusalCode::Lost.as_str())
        .bind(uid.as_str())
        .bind(micros(received.received_at))
        .execute(&mut **tx)
        .await?;
    Ok(Admission { accepted: Accepted::Duplicate, file: Place::Keep { instead_of: path } })
}

async fn conflict(
    tx: &mut Transaction<'_, Sqlite>,
    sealed: &Sealed,
    received: &ReceivedInstance,
) -> Result<Admission, StoreError> {
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
    Ok(Admission { accepted: Accepted::Conflict { kept_aside: path.clone() }, file: Place::Move { to: path } })
}
