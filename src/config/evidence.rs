//! `[risk.evidence]`: whether images of some studies are changed and scored again, to see what both models make of it.
//!
//! Neighbours: `serve` samples studies by it, `analyse` changes images, reports tell what `file` says. Left out: what the
//! answers come to (`assess`).

use std::path::PathBuf;
use std::time::Duration;

use super::parse;
use super::raw::{self, Raw};
use super::validate::Check;

/// How evidence is collected and told.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// One study in so many, drawn by its UID; 0: none.
    pub every: u64,
    /// Changed images of a study: each is one pass of each model, beside one of the image as it is.
    pub perturbations: usize,
    /// For one study; what takes longer is given up.
    pub time_max: Duration,
    /// The lines that reports tell, of `sidelight evidence`.
    pub file: Option<PathBuf>,
}

impl Evidence {
    /// Whether this study is of the sample: by its UID alone, so that a restart or another order changes nothing.
    pub fn samples(&self, study: &str) -> bool {
        // FNV-1a, mixed once more: UIDs of one device differ in their last digits.
        let hash =
            study.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let spread = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        self.every > 0 && spread.is_multiple_of(self.every)
    }
}

impl Check<'_> {
    pub(super) fn evidence(&mut self, risk: &raw::Risk) -> Option<Evidence> {
        let raw = &risk.evidence;
        let every = self.get("risk.evidence.every", &raw.every, parse::integer(0..=1_000_000));
        let perturbations = self.get("risk.evidence.perturbations", &raw.perturbations, parse::count(10..=31));
        let seconds = Duration::from_secs;
        let time_max = self.get("risk.evidence.time_max", &raw.time_max, parse::duration(seconds(1)..=seconds(60)));
        let file = self.get("risk.evidence.file", &raw.file, parse::path_if_given);
        if every.is_some_and(|every| every > 0) && parse::switch(&risk.per_study_inference) == Ok(false) {
            let what = "asks for what risk.per_study_inference = false does not compute".to_owned();
            self.contradiction("risk.evidence.every", &raw.every, what, "set it to 0");
        }
        Some(Evidence { every: every?, perturbations: perturbations?, time_max: time_max?, file: file? })
    }

    /// Answers hold race posteriors, of the image itself too: none outlasts those.
    pub(super) fn answers_kept(&mut self, raw: &Raw) {
        let (every, retention) = (parse::integer(1..=i64::MAX)(&raw.risk.evidence.every), &raw.store.retention);
        let kept = |entry| parse::duration_or("forever", Duration::ZERO..=Duration::MAX)(entry);
        let (Ok(answers), Ok(posteriors)) = (kept(&retention.evidence), kept(&retention.posteriors)) else { return };
        // What is kept forever goes with the study's rows.
        let rows = kept(&retention.reports).ok().flatten();
        let [answers, posteriors] = [answers, posteriors].map(|kept| kept.or(rows).unwrap_or(Duration::MAX));
        if every.is_ok() && answers > posteriors {
            let shown = parse::text(&retention.posteriors).unwrap_or_default();
            let what = format!("is longer than store.retention.posteriors ({shown}), and answers hold race posteriors");
            let remedy = "shorten it, or keep posteriors as long";
            self.contradiction("store.retention.evidence", &retention.evidence, what, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn loaded(overrides: &[(&str, &str)]) -> Result<Evidence, String> {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(None, [], &overrides).map(|config| config.risk.evidence).map_err(|error| error.to_string())
    }

    #[test]
    fn no_study_is_sampled_unless_somebody_asks_and_then_one_in_so_many() {
        let count = |evidence: &Evidence| (0..10_000).filter(|n| evidence.samples(&format!("1.2.840.1.{n}"))).count();
        assert_eq!(count(&loaded(&[]).unwrap()), 0);
        assert_eq!(count(&loaded(&[("risk.evidence.every", "1")]).unwrap()), 10_000);
        let tenth = count(&loaded(&[("risk.evidence.every", "10")]).unwrap());
        // 1,000 expected; a standard error is 30.
        assert!((900..1100).contains(&tenth), "{tenth}");
    }

    #[test]
    fn no_battery_takes_more_than_32_passes_and_none_is_run_where_race_is_not_inferred() {
        let rows = [("every", "-1"), ("perturbations", "32"), ("perturbations", "9"), ("time_max", "2m")];
        for (key, value) in rows.map(|(key, value)| (format!("risk.evidence.{key}"), value)) {
            let fault = loaded(&[(&key, value)]).unwrap_err();
            assert!(fault.contains(&key), "{fault}");
        }
        let off = ("risk.per_study_inference", "false");
        assert!(loaded(&[off, ("risk.evidence.every", "5")]).unwrap_err().contains("risk.evidence.every"));
        assert!(loaded(&[off, ("risk.evidence.every", "0")]).is_ok());
    }

    #[test]
    fn answers_outlast_no_posterior() {
        let fault = |every: &str, answers: &str, posteriors: &str, reports: &str| {
            let retention =
                [("evidence", answers), ("posteriors", posteriors), ("reports", reports), ("objects", "7d")];
            let keys = retention.map(|(key, value)| (format!("store.retention.{key}"), value));
            let mut settings = vec![("risk.evidence.every", every)];
            settings.extend(keys.iter().map(|(key, value)| (key.as_str(), *value)));
            loaded(&settings).err()
        };
        for (answers, posteriors, reports) in [("90d", "7d", "forever"), ("forever", "90d", "forever")] {
            let fault = fault("10", answers, posteriors, reports).unwrap();
            assert!(fault.contains("store.retention.evidence") && fault.contains("hold race posteriors"), "{fault}");
        }
        for (every, answers, posteriors, reports) in [
            ("0", "90d", "7d", "forever"),
            ("10", "90d", "90d", "forever"),
            ("10", "90d", "forever", "forever"),
            ("10", "forever", "7d", "7d"),
        ] {
            assert_eq!(fault(every, answers, posteriors, reports), None);
        }
    }
}
