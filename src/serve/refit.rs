//! Fits the profile again now and then, beside the one in force: a candidate that nothing uses until a person approves it.
//!
//! The labels of the index are what it is fitted on: without newer ones there is no new fit. It takes one processor, and an
//! attempt that fails leaves everything as it is. Neighbours: `analyse` gathers the cohort, `assess` fits; `sidelight
//! profile approve` lets the candidate in. Left out: whether the new profile is better.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::{TimeDelta, Utc};
use tracing::{error, info};

use super::Node;
use crate::analyse::{candidate_path, labelled, read_profile, write_whole};
use crate::assess::{FitOptions, fit, join_cohort};
use crate::config::Config;
use crate::domain::Timestamp;

/// How often is looked whether it is time.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const SEED: u64 = 1;

impl Node {
    pub(super) async fn refit_loop(self: Arc<Self>) {
        let mut last: Option<Timestamp> = None;
        while !self.cancel.is_cancelled() {
            let (config, now) = (self.config(), Utc::now());
            if let Some((path, every)) = config.risk.profile.as_deref().zip(config.risk.refit.every)
                && let Some(labels) = self.newest_label().await
                && is_due(path, every, last, labels, now)
            {
                last = Some(now);
                match self.refit(&config, path, now).await {
                    Ok(None) => return,
                    Ok(Some(candidate)) => info!(
                        candidate,
                        "the profile was fitted again; `sidelight profile approve` shows what changes, and lets it in"
                    ),
                    Err(error) => error!(error = format!("{error:#}"), "the profile could not be fitted again"),
                }
            }
            self.pause(&tokio::sync::Notify::new(), LOOK_EVERY).await;
        }
    }

    async fn newest_label(&self) -> Option<Timestamp> {
        let newest = self.store.labels_imported_at().await;
        newest.inspect_err(|error| error!(%error, "nobody knows whether there are new labels to fit on")).ok().flatten()
    }

    /// The identifier of the candidate; `None` if the node ends first.
    async fn refit(&self, config: &Config, path: &Path, now: Timestamp) -> anyhow::Result<Option<String>> {
        let (document, labels) = labelled(config, &self.store).await?;
        let options = FitOptions {
            site: config.node.name.clone(),
            bootstrap: config.risk.refit.bootstrap,
            seed: SEED,
            delta: config.risk.delta,
            fitted_at: now,
        };
        let place = candidate_path(path);
        let work = move || -> anyhow::Result<String> {
            let cohort = join_cohort(&serde_json::to_vec(&document)?, None, labels)?;
            // One thread: images that arrive meanwhile have the others.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().context("no thread can be started")?;
            let profile = pool.install(|| fit(&cohort, &options))?;
            write_whole(&place, &profile.to_json())?;
            Ok(profile.id)
        };
        let fitting = tokio::task::spawn_blocking(work);
        tokio::select! {
            () = self.cancel.cancelled() => Ok(None),
            fitted = fitting => fitted.context("the fit ended early")?.map(Some),
        }
    }
}

/// Whether as long as `every` has gone by since the profile, its candidate, and the last attempt, and there are newer
/// labels than those that the profile and its candidate were fitted on.
fn is_due(path: &Path, every: Duration, last: Option<Timestamp>, labels: Timestamp, now: Timestamp) -> bool {
    // One that cannot be read counts as fitted long ago.
    let age = |path: &Path| read_profile(path).map_or(Timestamp::UNIX_EPOCH, |profile| profile.fitted_at);
    let fitted = |path: &Path| path.exists().then(|| age(path));
    // Without any there is nothing to fit anew: the first profile is made by a person.
    let Some(newest) = fitted(path).max(fitted(&candidate_path(path))) else { return false };
    let since = now - last.map_or(newest, |last| last.max(newest));
    labels > newest && TimeDelta::from_std(every).is_ok_and(|every| since >= every)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_fit_is_due_after_the_newest_of_profile_candidate_and_attempt_where_there_are_new_labels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.json");
        let month = Duration::from_secs(30 * 86_400);
        assert!(!is_due(&path, month, None, Utc::now(), Utc::now()), "no profile");
        fs::copy("models/demo-profile.json", &path).unwrap();
        let fitted = read_profile(&path).unwrap().fitted_at;
        let after = |days: i64| fitted + TimeDelta::days(days);
        let due = |last: Option<i64>, days| is_due(&path, month, last.map(after), after(5), after(days));
        assert!(!due(None, 29) && due(None, 30));
        assert!(!due(Some(10), 39) && due(Some(10), 40));
        assert!(!is_due(&path, month, None, after(0), after(300)), "the labels that it was fitted on");
        fs::copy(&path, candidate_path(&path)).unwrap();
        assert!(due(None, 30));
        // What cannot be read, such as a profile of an earlier version, is no reason to wait.
        fs::write(&path, "{}").unwrap();
        assert!(!due(None, 29) && due(None, 30), "the candidate is young");
        fs::remove_file(candidate_path(&path)).unwrap();
        assert!(due(None, 1) && !due(Some(0), 1));
    }
}
