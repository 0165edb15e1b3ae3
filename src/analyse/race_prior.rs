//! The group mix of a site, estimated from its own race posteriors, and posteriors under it (Saerens et al. 2002).
//!
//! A small file holds what was estimated and from what; the node reweighs study posteriors by it where
//! `models.race_prior` names it. A profile is fitted either with or without one: its digest binds the two, and a profile
//! that was fitted otherwise says nothing of individuals. Neighbours: `stats` computes, `scored` applies. Left out: where
//! the posteriors come from.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::domain::{Digest, Purpose, Timestamp};
use crate::infer::Package;
use crate::stats;

/// Fewer studies say too little: at 500 the standard error of a share of one third is .02 for a perfect race model.
pub const STUDIES_MIN: usize = 500;
const FORMAT: u32 = 1;
const BYTES_MAX: usize = 1 << 16;

/// A site's mix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RacePrior {
    format: u32,
    /// Key of the race model whose posteriors they are.
    pub race_model: String,
    /// Keys of its groups, in output order.
    pub groups: Vec<String>,
    /// Shares under which the posteriors hold.
    pub trained: Vec<f64>,
    /// Shares at the site.
    pub site: Vec<f64>,
    pub studies: usize,
    pub estimated_at: Timestamp,
    /// Of the file.
    #[serde(skip)]
    digest: Option<Digest>,
}

impl RacePrior {
    /// Estimates the site's mix from study posteriors by `race`, which was trained on groups in these shares.
    pub fn estimate(
        race: &Package,
        trained: &[f64],
        posteriors: &[Vec<f64>],
        studies_min: usize,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let studies = posteriors.len();
        anyhow::ensure!(
            studies >= studies_min.max(STUDIES_MIN),
            "{studies} studies have race scores of {}, at least {} are needed: wait for more, or lengthen \
             store.retention.race_scores",
            race.key(),
            studies_min.max(STUDIES_MIN)
        );
        let site = stats::saerens(posteriors, trained).context("the mix cannot be estimated")?;
        let mut prior = Self {
            format: FORMAT,
            race_model: race.key(),
            groups: race.groups().iter().map(|g| g.key.clone()).collect(),
            trained: trained.to_vec(),
            // Four digits are more than is known; no group that the model knows is said to be impossible.
            site: site.iter().map(|s| (s * 1e4).round().max(1.0) / 1e4).collect(),
            studies,
            estimated_at: now,
            digest: None,
        };
        let sum: f64 = prior.site.iter().sum();
        prior.site.iter_mut().for_each(|s| *s /= sum);
        Ok(prior)
    }

    pub fn to_json(&self) -> anyhow::Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).context("the prior cannot be written as JSON")
    }

    /// Reads a file that is meant for the race model among `packages`.
    pub(super) fn of(path: &Path, packages: &[Package]) -> anyhow::Result<Self> {
        let prior = Self::read(path)?;
        packages.iter().find(|p| p.purpose == Purpose::Race).map_or(Ok(()), |race| prior.check(race))?;
        Ok(prior)
    }

    /// Reads a file of [`RacePrior::to_json`].
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let remedy = "make one with `sidelight profile prior`, or set models.race_prior = \"\"";
        let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read: {remedy}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} is no race prior: {remedy}", path.display()))
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        anyhow::ensure!(bytes.len() <= BYTES_MAX, "it is larger than {BYTES_MAX} bytes");
        let prior: Self = serde_json::from_slice(bytes)?;
        anyhow::ensure!(prior.format == FORMAT, "it has format {}, this version reads {FORMAT}", prior.format);
        let n = prior.groups.len();
        for shares in [&prior.trained, &prior.site] {
            let fits = shares.len() == n && shares.iter().all(|s| *s > 0.0 && *s <= 1.0);
            anyhow::ensure!(fits && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-3, "its shares do not sum to 1");
        }
        Ok(Self { digest: Some(Digest::of(bytes)), ..prior })
    }

    /// Whether it is this race model's.
    pub fn check(&self, race: &Package) -> anyhow::Result<()> {
        let groups: Vec<&str> = race.groups().iter().map(|g| g.key.as_str()).collect();
        anyhow::ensure!(
            self.race_model == race.key() && self.groups == groups,
            "models.race_prior was estimated for {}, the race model is {}: estimate it again",
            self.race_model,
            race.key()
        );
        Ok(())
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    pub(super) fn reweighed(&self, posterior: &[f64]) -> Option<Vec<f64>> {
        stats::reweighed(posterior, &self.trained, &self.site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"format": 1, "race_model": "race@1#0", "groups": ["a", "b"], "trained": [0.5, 0.5],
        "site": [0.2, 0.8], "studies": 700, "estimated_at": "2026-01-15T00:00:00Z"}"#;

    /// Study posteriors of a site where images of each group come in two kinds, and the model was trained on even shares.
    fn posteriors(site: [f64; 3], studies: usize) -> Vec<Vec<f64>> {
        let kind =
            |g: usize, sure: f64| (0..3).map(|i| if i == g { sure } else { (1.0 - sure) / 2.0 }).collect::<Vec<_>>();
        // Under even shares a posterior of .8 comes to .8 of its group's studies, and to .1 of each other's.
        let share = |g: usize| 0.8 * site[g] + 0.1 * (1.0 - site[g]);
        let of = |g: usize| std::iter::repeat_n(kind(g, 0.8), (share(g) * studies as f64).round() as usize);
        (0..3).flat_map(of).collect()
    }

    #[test]
    fn the_mix_is_recovered_and_too_few_studies_are_refused() {
        let race = Package::load(Path::new("models/demo-race")).unwrap();
        let even = [1.0 / 3.0; 3];
        let estimate = |site, studies, least| {
            let rows = posteriors(site, studies);
            RacePrior::estimate(&race, &even, &rows, least, Timestamp::default())
        };
        let found = estimate([0.1, 0.3, 0.6], 1000, 0).unwrap();
        assert!(found.site.iter().zip([0.1, 0.3, 0.6]).all(|(f, t)| (f - t).abs() < 1e-3), "{:?}", found.site);
        assert_eq!((found.studies, found.groups.len()), (1000, 3));
        found.check(&race).unwrap();
        assert!(RacePrior::parse(&found.to_json().unwrap()).unwrap().digest().is_some());
        // A group that was never seen keeps a share that is not zero.
        let lopsided = estimate([0.0, 0.5, 0.5], 1000, 0).unwrap();
        assert!(lopsided.site[0] > 0.0 && lopsided.site[0] < 1e-3, "{:?}", lopsided.site);
        for (studies, least) in [(490, 0), (490, 10), (700, 800)] {
            let error = estimate([0.1, 0.3, 0.6], studies, least).unwrap_err().to_string();
            let expected = format!("at least {} are needed", least.max(STUDIES_MIN));
            assert!(
                error.contains(&format!("{studies} studies have race scores")) && error.contains(&expected),
                "{error}"
            );
        }
        let other =
            Package { identity: crate::domain::ModelIdentity { version: "2".into(), ..race.identity.clone() }, ..race };
        assert!(found.check(&other).unwrap_err().to_string().contains("estimate it again"));
    }

    #[test]
    fn a_file_is_what_was_written_or_an_error() {
        let prior = RacePrior::parse(FILE.as_bytes()).unwrap();
        assert_eq!(prior.digest(), Some(&Digest::of(FILE.as_bytes())));
        let found = prior.reweighed(&[0.5, 0.5]).unwrap();
        assert!((found[0] - 0.2).abs() < 1e-12 && (found[1] - 0.8).abs() < 1e-12);
        let again = RacePrior::parse(&prior.to_json().unwrap()).unwrap();
        assert_eq!((again.site, again.studies), (prior.site, 700));
        for (from, to, expected) in [
            ("0.2, 0.8", "0.2, 0.9", "do not sum to 1"),
            ("0.2, 0.8", "0.0, 1.0", "do not sum to 1"),
            ("0.2, 0.8", "1.0", "do not sum to 1"),
            ("\"format\": 1", "\"format\": 2", "has format 2"),
            ("700", "700, \"x\": 1", "unknown field"),
            ("{", "", "expected"),
        ] {
            let error = RacePrior::parse(FILE.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
