//! Durable objects and the index of what became of them: the node's memory.
//!
//! ```text
//! data_dir/ lock            held while a node runs on the folder
//!           index.sqlite    all states; the truth (`index`, `migrations/`)
//!           incoming/       uploads in progress; emptied at start
//!           spool/ab/UID.NAME.dcm  acknowledged objects (`arrival`, `upload`, `intake`)
//!           conflicts/      another object under a known UID, kept aside
//!           reports/        finished reports, sent as they are
//!           damaged/        what a start or `fsck` set aside; nothing looks for it there
//! ```
//! An object is acknowledged after: file renamed into `spool/` → file and folder synced → index transaction
//! committed. A kill before the last step leaves at most a file that the index does not know; [`Store::open`]
//! sets it aside, though nobody was told that it arrived: the index may be an older one. A sync that fails is never
//! tried again (`trust`): the store then answers nothing with Success, and the start that follows reads back what it
//! acknowledged last (`verify`). Claims of work are leases in the index, lifted by `open`, so a restart continues where
//! the node stopped. [`Wake`] only says that looking into the index is worth while.
//!
//! Neighbours: `domain`, `config`, `dicom` and `assemble` below; the stages, `serve`, `web` and the commands above. All
//! SQL of the project is in this folder. Left out: reading a data set of others (`pixels`) and every decision about a
//! study.

mod activity;
mod arrival;
mod backup;
mod by_hand;
mod catalog;
mod commitments;
mod confirmations;
mod destinations;
mod evidence;
mod facts;
mod fsck;
mod hashing;
mod identities;
mod index;
mod intake;
mod labels;
mod outbox;
mod overview;
mod reading;
mod records;
mod results;
mod retention;
mod salvage;
mod search;
mod spool;
mod studies;
#[cfg(test)]
mod tests;
mod trust;
mod upload;
mod verify;
mod views;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::config;
use crate::domain::{Accepted, AeTitle, Digest, ReceivedInstance, Uid};

use index::{Access, Index};
use intake::CommitRequest;
use spool::Spool;
use upload::{Sealed, Upload};

pub use activity::{Activity, ActivityLine, ChainFault, ChainHead};
pub use arrival::Arrival;
pub use backup::{BackedUp, Files};
pub use catalog::{CatalogCursor, CatalogPage, CatalogReport, ReportVariant};
pub use evidence::KeptResponses;
pub use facts::{AuditOutput, AuditStudy, AuditTable};
pub use fsck::{Examined, FaultKind, FolderFault, Fsck, fsck};
pub use labels::{LabelOptions, StudyLabels};
pub use overview::{DestinationOverview, Disk, Overview, Throughput};
pub use records::{
    Closed, Commitment, Counts, Delivery, DeliveryDetail, DestinationState, DueDestination, Expired, GiveUp, Imported,
    Inquiry, InstanceDetail, LabelsImported, Older, Outcome, OutgoingReport, PendingInstance, PreviousReport, Purged,
    Reading, Recovered, ReportDetail, Resend, Retention, StudyClaim, StudyDetail, StudyFilter, StudyRow, Unreached,
};
pub use search::{Found, SearchCursor, StudyHit, StudyQuery};

/// A handle on one data folder; clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// Wake-ups, one consumer each. They can be late or come for nothing, and what another process changed (a
/// `studies resend`) arrives within a second or so: look into the index, and now and then without being woken.
#[derive(Debug, Clone, Default)]
pub struct Wake {
    /// An object waits to be read.
    pub instance_arrived: Arc<Notify>,
    /// An object was read, or a study opened: ask [`Store::activities`].
    pub study_changed: Arc<Notify>,
    /// The outbox changed.
    pub delivery_due: Arc<Notify>,
    /// A request for storage commitment waits for its report.
    pub commitment_due: Arc<Notify>,
    /// A destination is to be asked for storage commitment.
    pub confirmation_due: Arc<Notify>,
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Refused: out of resources (A700H).
    #[error(
        "there is no room in {}: {detail}; free some space, or lower store.free_bytes_min and store.free_percent_min",
        dir.display()
    )]
    OutOfRoom { dir: PathBuf, detail: String },
    /// As above; so are the next three.
    #[error("the file system of {} is read-only; find out why (the kernel's log), then make it writable", .0.display())]
    ReadOnly(PathBuf),
    #[error("another process keeps the index locked; end that one, or wait for it")]
    Busy,
    #[error(
        "the disk took nothing for {0:?}; it is too slow for what is sent, or the process may start too few threads \
         (TasksMax, a container's limit on processes)"
    )]
    Slow(Duration),
    #[error("the disk failed to keep what it was told to keep ({0}); look at it, then start the node again")]
    Distrusted(String),
    #[error("{} is in use by another sidelight node; stop that one or set another store.data_dir", .0.display())]
    Locked(PathBuf),
    #[error("there is no index in {}; check store.data_dir, or start the node there once", .0.display())]
    NoIndex(PathBuf),
    #[error(
        "the index {} is damaged ({cause}); restore it from a backup together with its folder, or have \
         `sidelight fsck --repair` make a new one from the objects", path.display()
    )]
    Damaged { path: PathBuf, cause: String },
    #[error(
        "the index {} is not of this version of sidelight ({cause}); use the version that wrote it",
        path.display()
    )]
    Version { path: PathBuf, cause: String },
    #[error(
        "{files} files in {} are not in its index, more than a crash leaves behind: is the index an older or a new \
         one? restore the one that belongs here, move the folder away, or have `sidelight fsck --repair` receive them \
         anew",
        dir.display()
    )]
    Strangers { dir: PathBuf, files: usize },
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// What a whole batch of received objects failed by.
    #[error("received objects could not be stored: {0}")]
    Intake(String),
    #[error("the index did not answer: {0}")]
    Index(#[source] sqlx::Error),
    /// A row that this version did not write.
    #[error("the index holds an unexpected value: {0}")]
    Contents(String),
    #[error("study {0} is not known here; `sidelight studies list` shows those that are")]
    UnknownStudy(Uid),
    #[error("{} is not empty; name a folder that is not there yet", .0.display())]
    Occupied(PathBuf),
    #[error(
        "{} is there already: another backup is being taken, or one was cut short; delete it if none is", .0.display()
    )]
    Unfinished(PathBuf),
    #[error("study {0} is still open or being delivered; --force deletes it all the same")]
    InWork(Uid),
    #[error(
        "the node committed to keep objects of study {0}, and their sender may have deleted its own since; --force \
         deletes them all the same"
    )]
    Committed(Uid),
    #[error(
        "a destination that was asked has not committed to keep a report of study {0} (`studies show`); --force \
         deletes it all the same"
    )]
    Unconfirmed(Uid),
    #[error("study {0} is not open; `sidelight studies show` tells what became of it")]
    NotOpen(Uid),
    #[error("objects of study {0} are past store.objects_kept; send the study again")]
    ObjectsGone(Uid),
    #[error("study {0} has no report that could be sent again; `sidelight studies requeue` analyses it anew")]
    NothingToSend(Uid),
    #[error("report {0} is not kept any more")]
    ReportGone(i64),
    #[error(
        "requests for storage commitment by {0} wait for their reports, as many as are taken; it must take some first"
    )]
    TooManyCommitments(AeTitle),
    #[error("the store is closing")]
    Closing,
    #[error("only the node itself takes objects in")]
    Attached,
}

struct Inner {
    spool: Spool,
    index: Index,
    wake: Wake,
    device_uid: Uid,
    log_key: Digest,
    recovered: Recovered,
    opened: Instant,
    /// Files that are read for storage commitment at once.
    judging: Arc<Semaphore>,
    /// Absent where the store is only attached to.
    intake: Option<Intake>,
}

struct Intake {
    requests: mpsc::Sender<CommitRequest>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the folder as the node: locks it, creates or migrates the index, and puts right what an end that was
    /// not orderly left behind (see [`Recovered`]).
    pub async fn open(config: &config::Store) -> Result<Self, StoreError> {
        let settings = config.clone();
        let (spool, lock) = blocking(move || Spool::own(&settings)).await?;
        let index = Index::open(&spool.index_path(), Access::Own, spool.trust().clone()).await?;
        if !index.has_identity().await? {
            // It was just made. Files beside it are of another one, which knew that they are acknowledged.
            let folder = spool.clone();
            let files = blocking(move || Ok(folder.files()?.len())).await?;
            if files > 0 {
                return Err(StoreError::Strangers { dir: config.data_dir.clone(), files });
            }
        }
        spool.show_by(&index.identity().await?.1);
        let mut recovered = index.lift_leases(chrono::Utc::now()).await?;
        recovered.damaged = verify::look(&spool, &index).await?;
        let indexed = index.paths().await?;
        let sweep = spool.clone();
        let swept = blocking(move || sweep.sweep(&indexed)).await?;
        recovered.partial_uploads = swept.partial_uploads;
        recovered.orphans = swept.orphans;
        recovered.missing = swept.missing;
        if recovered.missing > 0 {
            error!(
                files = recovered.missing,
                "indexed files are gone from the data folder; restore them from a backup"
            );
        }
        if recovered.orphans + recovered.partial_uploads + recovered.interrupted > 0 {
            warn!(
                partial_uploads = recovered.partial_uploads,
                orphans = recovered.orphans,
                interrupted = recovered.interrupted,
                "the last run did not end in order; work continues where it stopped"
            );
        }
        let wake = Wake::default();
        // Whoever waits looks first: there may be work from before.
        wake.all();
        let intake = Intake::start(&spool, &index, &wake, lock);
        let store = Self::assemble(spool, index, wake, recovered, Some(intake)).await?;
        store.give_up_lost().await?;
        Ok(store)
    }

    /// Opens the index of a folder beside the node that may run there: for commands and checks. Takes no objects in.
    pub async fn attach(config: &config::Store) -> Result<Self, StoreError> {
        let spool = Spool::at(config);
        let path = spool.index_path();
        if !path.is_file() {
            return Err(StoreError::NoIndex(config.data_dir.clone()));
        }
        let index = Index::open(&path, Access::Attach, spool.trust().clone()).await?;
        Self::assemble(spool, index, Wake::default(), Recovered::default(), None).await
    }

    /// Ends intake after what was already handed over, and closes the index. Commits that come later fail.
    pub async fn close(&self) {
        if let Some(intake) = &self.inner.intake {
            intake.stop.cancel();
            let task = intake.task.lock().await.take();
            if let Some(Err(e)) = match task {
                Some(task) => Some(task.await),
                None => None,
            } {
                error!(error = %e, "the intake did not end in order");
            }
            if self.inner.spool.trust().check().is_err() {
                // The last connection to close would copy the log into the index: only a start may, which checks what
                // it copies. So the connections end with the process.
                std::mem::forget(Arc::clone(&self.inner));
                return;
            }
            if let Err(e) = self.inner.index.note_orderly_end().await {
                warn!(error = %e, "the next start will look for damage");
            }
        }
        self.inner.index.close().await;
    }

    /// Resolves with the cause once the disk is not believed any more: nothing is taken in or acknowledged from then
    /// on, and only another start helps.
    pub async fn distrusted(&self) -> &str {
        self.inner.spool.trust().lost().await
    }

    /// Whether there is room for another object: the floors of free space, and a disk that is writable and believed.
    /// Blocking, but short.
    pub fn room(&self) -> Result<(), StoreError> {
        self.inner.spool.room()
    }

    /// Starts an upload into a temporary file. Blocking.
    fn begin(&self) -> Result<Upload, StoreError> {
        if self.inner.intake.is_none() {
            return Err(StoreError::Attached);
        }
        self.inner.spool.begin()
    }

    async fn commit_sealed(&self, sealed: Sealed, received: &ReceivedInstance) -> Result<Accepted, StoreError> {
        let intake = self.inner.intake.as_ref().ok_or(StoreError::Attached)?;
        intake::commit(&intake.requests, sealed, received).await
    }

    pub fn wake(&self) -> &Wake {
        &self.inner.wake
    }

    /// The node's Device Observer UID, made once for this data folder.
    pub fn device_uid(&self) -> &Uid {
        &self.inner.device_uid
    }

    /// A stand-in for an identifier of a patient or study in logs: 16 hexadecimal digits of an HMAC-SHA-256 under a
    /// key of this data folder.
    pub fn log_id(&self, identifier: &str) -> String {
        keyed_hash(&self.inner.log_key, identifier)
    }

    /// What [`Store::open`] had to put right.
    pub fn recovered(&self) -> Recovered {
        self.inner.recovered
    }

    async fn assemble(
        spool: Spool,
        index: Index,
        wake: Wake,
        recovered: Recovered,
        intake: Option<Intake>,
    ) -> Result<Self, StoreError> {
        let (device_uid, log_key) = index.identity().await?;
        spool.show_by(&log_key);
        let judging = Arc::new(Semaphore::new(commitments::JUDGING_MAX));
        let opened = Instant::now();
        let inner = Inner { spool, index, wake, device_uid, log_key, recovered, opened, judging, intake };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn index(&self) -> &Index {
        &self.inner.index
    }

    fn spool(&self) -> &Spool {
        &self.inner.spool
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Wake {
    fn all(&self) {
        self.instance_arrived.notify_one();
        self.study_changed.notify_one();
        self.delivery_due.notify_one();
        self.commitment_due.notify_one();
        self.confirmation_due.notify_one();
    }
}

impl Intake {
    fn start(spool: &Spool, index: &Index, wake: &Wake, lock: File) -> Self {
        let (requests, queue) = mpsc::channel(intake::QUEUE_MAX);
        let stop = CancellationToken::new();
        let writer = intake::Writer {
            spool: spool.clone(),
            index: index.clone(),
            wake: wake.clone(),
            stop: stop.clone(),
            _lock: lock,
        };
        let task = tokio::spawn(writer.run(queue));
        Self { requests, stop, task: Mutex::new(Some(task)) }
    }
}

impl StoreError {
    /// Whether the same request may well succeed later, so that whoever asked should come back.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::OutOfRoom { .. }
                | Self::ReadOnly(_)
                | Self::Busy
                | Self::Slow(_)
                | Self::Distrusted(_)
                | Self::Closing
        )
    }

    /// A failed file operation; a full disk or quota is told apart.
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = spool::without_uid(path);
        move |source| match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                Self::ReadOnly(path.parent().map_or_else(PathBuf::new, Path::to_owned))
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let detail = format!("cannot {action} {}: {source}", path.display());
                Self::OutOfRoom { dir: path.parent().map_or_else(PathBuf::new, Path::to_owned), detail }
            }
            _ => Self::File { action, path, source },
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        // SQLITE_FULL (13): the database or the disk is full. SQLITE_READONLY (8), SQLITE_BUSY (5).
        match (index::code(&e).map(|code| code & 0xff), e) {
            (_, sqlx::Error::PoolClosed) => Self::Closing,
            (Some(13), e) => Self::OutOfRoom { dir: PathBuf::from("the index"), detail: e.to_string() },
            (Some(8), _) => Self::ReadOnly(PathBuf::from("the index")),
            (Some(5), _) => Self::Busy,
            (_, e) => Self::Index(e),
        }
    }
}

fn keyed_hash(key: &Digest, identifier: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_str().as_bytes()).expect("HMAC takes keys of any length");
    mac.update(identifier.as_bytes());
    mac.finalize().into_bytes().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Runs file work off the runtime's threads.
async fn blocking<T, F>(work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Closing),
        },
    }
}
