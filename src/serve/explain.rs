//! Maps for a study that is being closed: of the images that are worth it, within the time that they may take.
//!
//! A report never waits longer for its maps, and never fails for want of one. Neighbours: `analyse` makes them, `close`
//! puts them beside the reports. Left out: who may have which (`analyse`).

use tokio::time::timeout;
use tracing::{info, warn};

use super::Node;
use crate::analyse::{Explained, most_telling};
use crate::config::Explain;
use crate::domain::{Disclosure, Purpose, ReadyStudy};
use crate::store::StoreError;

impl Node {
    /// What readers of these reports may have explained; nothing where there are none, or `[explain]` is off.
    ///
    /// # Errors
    /// Trouble of the store.
    pub(super) async fn explained(
        &self,
        ready: &ReadyStudy,
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
        let all = async {
            for instance in most_telling(ready, &self.analyser, rules.images_max) {
                let Some(file) = files.get(&instance.header.sop_instance) else { continue };
                let done = self.analyser.explain(file, &instance.header, clinical, &rules, &mut explained);
                if let Err(error) = done.await {
                    warn!(study, error = format!("{error:#}"), "an image is not explained");
                }
            }
        };
        if timeout(rules.time_max, all).await.is_err() {
            let limit = rules.time_max;
            warn!(
                study,
                ?limit,
                "not every map was made in the time of explain.time_max; the report goes without those"
            );
        }
        for (method, reason) in explained.iter().flat_map(|e: &Explained| &e.missing) {
            info!(study, method = method.as_str(), reason, "no map");
        }
        Ok(explained)
    }
}
