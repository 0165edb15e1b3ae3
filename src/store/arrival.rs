//! An object while it arrives: its bytes wait for the disk within one bound of memory, beside the network.
//!
//! A blocking task makes the file at once, hashes and writes the pieces as they come and syncs it at the end, so that
//! the disk works while the network does, and an object of any size costs a few pieces of memory. Neighbours:
//! `upload` is the file, `intake` the index; `receive` and `web` hand in what peers send. Left out: what an object may
//! be, which they judge.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::domain::{Accepted, ReceivedInstance, Uid};

use super::upload::Sealed;
use super::{Store, StoreError};

/// An object on its way in. Dropping it ends the task, which deletes the file.
#[derive(Debug)]
pub struct Arrival {
    store: Store,
    pieces: mpsc::UnboundedSender<Piece>,
    writer: JoinHandle<Result<Option<Sealed>, StoreError>>,
}

#[derive(Debug)]
enum Piece {
    /// With its share of `MEMORY`.
    Data(Vec<u8>, OwnedSemaphorePermit),
    /// The data set is complete.
    End,
}

/// What a piece costs beside its bytes, which a peer may send one by one.
const PIECE_OVERHEAD: usize = 128;

/// Bytes between the network and the disk, of all objects together: who finds no room waits. That ends, since each
/// object that has pieces here has a thread that writes them (the runtime has more than there are associations).
const MEMORY_BYTES: usize = 8 << 20;
static MEMORY: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MEMORY_BYTES)));

/// How long one waits for that.
const PATIENCE: Duration = Duration::from_secs(60);

impl Store {
    /// Begins to take an object in. `meta`: the preamble and the meta group of its file. What is wrong with the disk
    /// is told by [`Arrival::take`] and [`Arrival::commit`].
    pub fn arrive(&self, uid: &Uid, meta: Vec<u8>) -> Arrival {
        let (pieces, queue) = mpsc::unbounded_channel();
        let (store, uid) = (self.clone(), uid.clone());
        let writer = tokio::task::spawn_blocking(move || write(&store, &uid, &meta, queue));
        Arrival { store: self.clone(), pieces, writer }
    }
}

impl Arrival {
    /// The next bytes of the data set. Waits while the disk is slower than the network, to a limit. After an error there is no
    /// use in going on.
    pub async fn take(&mut self, bytes: Vec<u8>) -> Result<(), StoreError> {
        // The share fits, and the semaphore is never closed.
        let share = u32::try_from((bytes.len() + PIECE_OVERHEAD).min(MEMORY_BYTES)).unwrap_or(u32::MAX);
        let share = timeout(PATIENCE, MEMORY.clone().acquire_many_owned(share)).await;
        let share = share.map_err(|_| StoreError::Slow(PATIENCE))?.map_err(|_| StoreError::Closing)?;
        self.send(Piece::Data(bytes, share)).await
    }

    /// Makes the object durable and known. `Ok` means: whatever happens to the process or the machine now, the object
    /// is there.
    pub async fn commit(mut self, received: &ReceivedInstance) -> Result<Accepted, StoreError> {
        self.send(Piece::End).await?;
        let sealed = self.writer.await.map_err(|_| lost())??.ok_or_else(lost)?;
        self.store.commit_sealed(sealed, received).await
    }

    async fn send(&mut self, piece: Piece) -> Result<(), StoreError> {
        if self.pieces.send(piece).is_ok() {
            return Ok(());
        }
        // The writer has given up; its result says why.
        match (&mut self.writer).await {
            Ok(Err(cause)) => Err(cause),
            Ok(Ok(_)) | Err(_) => Err(lost()),
        }
    }
}

fn lost() -> StoreError {
    StoreError::Intake("its writer is gone".into())
}

/// The blocking half: ends with the data set, or without a result where its sender is gone before, which deletes the
/// file.
fn write(
    store: &Store,
    uid: &Uid,
    meta: &[u8],
    mut queue: mpsc::UnboundedReceiver<Piece>,
) -> Result<Option<Sealed>, StoreError> {
    let mut upload = store.begin()?;
    upload.write_meta(meta)?;
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            // Nobody waits for it any more.
            Piece::Data(..) if queue.is_closed() => return Ok(None),
            Piece::Data(bytes, _share) => upload.write_dataset(&bytes)?,
            Piece::End => return upload.seal(uid).map(Some),
        }
    }
    Ok(None)
}
