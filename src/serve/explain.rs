//! Maps for a study that is being closed: of the images that are worth it, within the time that they may take.
//!
//! A report never waits longer for its maps, and never fails for want of one. Neighbours: `analyse` makes them, `close`
//! puts them beside the reports. Left out: who may have which (`analyse`).

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::{info, warn};

use super::Node;
use crate::analyse::Explained;
use crate::config::Explain;
use crate::domain::{Disclosure, InstanceHeader, Purpose, ReadyStudy, Uid};
use crate::store::StoreError;

/// MiB that the maps of all studies which are being closed take together, until they are kept.
pub(super) const MAPS_MIB_MAX: u32 = 512;

/// What was explained, and its share of that memory.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) explained: Vec<Explained>,
    #[allow(dead_code)]
    share: Option<OwnedSemaphorePermit>,
}

impl Node {
    /// What readers of these reports may have explained; nothing where there are none, or `[explain]` is off.
    ///
    /// # Errors
    /// Trouble of the store.
    pub(super) async fn explained(
        &self,
        ready: &ReadyStudy,
        analysed: &[Uid],
        clinical: &[String],
        readers: &[Disclosure],
    ) -> Result<Maps, StoreError> {
        let config = self.config();
        if !config.explain.is_on() || readers.is_empty() {
            return Ok(Maps::default());
        }
        // Nobody computes what nobody may have.
        let wanted = |p: &Purpose| *p == Purpose::Clinical || readers.contains(&Disclosure::Probabilities);
        let purposes = config.explain.purposes.iter().copied().filter(wanted).collect();
        let rules = Explain { purposes, ..config.explain.clone() };
        let files = self.store.object_files(&ready.study).await?;
        let study = self.store.log_id(ready.study.as_str());
        let Maps { mut explained, mut share } = Maps::default();
        let chosen = self.analyser.most_telling(ready, analysed, clinical, rules.images_max);
        let file = |header: &InstanceHeader| files.get(&header.sop_instance);
        let images: Vec<(&Path, &InstanceHeader)> =
            chosen.into_iter().filter_map(|i| Some((file(&i.header)?.as_path(), &i.header))).collect();
        let bytes = self.analyser.map_bytes_max(images.len(), clinical, &rules);
        let all = async {
            share = share_of(&self.maps_room, bytes).await;
            self.analyser.explain(&images, clinical, &rules, &mut explained).await
        };
        let ended = tokio::select! {
            () = self.cancel.cancelled() => Some("the node stops".to_owned()),
            done = timeout(rules.time_max, all) => match done {
                Ok(done) => done.err().map(|error| format!("{error:#}")),
                Err(_) => Some(format!("explain.time_max, {:?}, has passed", rules.time_max)),
            }
        };
        if let Some(reason) = ended {
            let maps: usize = explained.iter().map(|e| e.maps.len()).sum();
            warn!(study, reason, maps, "not every map was made; the report goes with those that were");
            explained.iter_mut().for_each(|one| one.note_unreached(&rules.methods));
        }
        for (method, reason) in explained.iter().flat_map(|e: &Explained| &e.missing) {
            info!(study, method = method.as_str(), reason, "no map");
        }
        Ok(Maps { explained, share })
    }
}

/// Waits until other studies have left so much. One that takes more than there is has all of it.
async fn share_of(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).min(MAPS_MIB_MAX);
    Arc::clone(room).acquire_many_owned(mib).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn studies_share_the_memory_of_their_maps() {
        let room = Arc::new(Semaphore::new(MAPS_MIB_MAX as usize));
        let small = share_of(&room, 12 << 20).await.expect("there is room");
        assert_eq!(room.available_permits(), 500);
        let large = tokio::spawn({
            let room = Arc::clone(&room);
            async move { share_of(&room, usize::MAX).await.expect("it is never closed") }
        });
        tokio::task::yield_now().await;
        assert!(!large.is_finished());
        drop(small);
        let large = large.await.expect("it waits no longer");
        assert_eq!(room.available_permits(), 0);
        drop(large);
        assert_eq!(room.available_permits(), MAPS_MIB_MAX as usize);
    }
}
