//! Maps for a study that is being closed: of the images that are worth it, within the time that they may take.
//!
//! A report never waits longer for its maps, and never fails for want of one. Neighbours: `analyse` makes them, `close`
//! puts them beside the reports. Left out: who may have which (`analyse`).

use std::path::Path;

use tokio::time::timeout;
use tracing::{info, warn};

use super::Node;
use crate::analyse::Explained;
use crate::config::Explain;
use crate::domain::{Disclosure, InstanceHeader, Purpose, ReadyStudy, Uid};
use crate::store::StoreError;

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
    ) -> Result<Vec<Explained>, StoreError> {
        let config = self.config();
        if !config.explain.is_on() || readers.is_empty() {
            return Ok(Vec::new());
        }
        // Nobody computes what nobody may have.
        let wanted = |p: &Purpose| *p == Purpose::Clinical || readers.contains(&Disclosure::Probabilities);
        let purposes = config.explain.purposes.iter().copied().filter(wanted).collect();
        let rules = Explain { purposes, ..config.explain.clone() };
        let files = self.store.object_files(&ready.study).await?;
        let study = self.store.log_id(ready.study.as_str());
        let mut explained = Vec::new();
        let chosen = self.analyser.most_telling(ready, analysed, clinical, rules.images_max);
        let file = |header: &InstanceHeader| files.get(&header.sop_instance);
        let images: Vec<(&Path, &InstanceHeader)> =
            chosen.into_iter().filter_map(|i| Some((file(&i.header)?.as_path(), &i.header))).collect();
        let all = self.analyser.explain(&images, clinical, &rules, &mut explained);
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
        Ok(explained)
    }
}
