//! Worlds at the level of scores: a labelled cohort whose true error by group is known at every score.
//!
//! A world is a table of a TOML file (`worlds.toml` has one for each row of the validation). [`ScoreWorld::draw`] gives
//! studies by seed, `truth` what is true of them: c_g(s), w_g(s), π_g(x), and from these R(s) and D(x). Images are not
//! needed: what is validated begins where two models have scored. Neighbours: `world` is its sibling for pictures;
//! `validate` and the tests of `assess` draw from it. Left out: fitting, and any judgement.
//!
//! The law. A study of group g shows the finding to a degree z* ~ N(mean_g, sd²), and the outcome follows
//! logit P(y = 1) = α + k z* + bend·sin(2 z*) + a_g + b_g z*. The race model sees one number per group, N(d/√2, 1) for
//! the patient's own and N(0, 1) for the others, and reports sharpening × the logits that Bayes' rule gives under the mix
//! it was trained on. Its margin z_r is the number of one group minus the mean of the others. The clinical logit is
//! z = z* + β z_r + (view) Δ: with β = 0 and one view it is z* itself, else it carries what it should not.

mod truth;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::stats::{expit, softmax};

pub use truth::Truth;

/// One world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreWorld {
    pub name: String,
    /// What is planted, in words.
    pub planted: String,
    /// Patients of the labelled cohort, and studies of each.
    #[serde(default = "defaults::patients")]
    pub patients: usize,
    #[serde(default = "defaults::studies")]
    pub studies: usize,
    /// How alike the studies of a patient are, 0..1: correlation of z*, of the race model's view and of the outcome's
    /// latent normal variable.
    #[serde(default)]
    pub within_patient: f64,
    /// Decision threshold of the clinical score, 0..1.
    #[serde(default = "defaults::threshold")]
    pub threshold: f64,
    /// Standard deviation of z*, logit.
    #[serde(default = "defaults::score_sd")]
    pub score_sd: f64,
    #[serde(default)]
    pub outcome: OutcomeLaw,
    #[serde(default)]
    pub race: RaceLaw,
    /// β: what a unit of the race margin adds to the clinical logit.
    #[serde(default)]
    pub shortcut: f64,
    #[serde(default)]
    pub portable: Portable,
    #[serde(default)]
    pub drift: Option<ScoreDrift>,
    pub groups: Vec<ScoreGroup>,
}

/// One self-reported group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreGroup {
    pub group: String,
    /// Relative share of the patients.
    pub share: f64,
    /// Mean of z*, logit: where groups differ in it they differ in prevalence.
    #[serde(default = "defaults::mean")]
    pub mean: f64,
    /// a_g, logit.
    #[serde(default)]
    pub shift: f64,
    /// b_g, logit per logit.
    #[serde(default)]
    pub slope: f64,
    /// Share of studies taken portably, 0..1.
    #[serde(default)]
    pub portable_share: f64,
    /// Probability that a patient's self-report is recorded, 0..1.
    #[serde(default = "defaults::one")]
    pub label_rate: f64,
    /// The same for patients whose result is negative, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_rate_negative: Option<f64>,
}

/// The outcome given z*, common to all groups.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomeLaw {
    /// α, k and the amplitude of the bend.
    pub intercept: f64,
    pub slope: f64,
    #[serde(default)]
    pub bend: f64,
}

/// The race model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaceLaw {
    /// d, the distance of two groups in its eyes: 4.5 gives AUCs near .999, 1 near .76.
    pub separation: f64,
    /// Factor on its logits; above 1 it is too sure of itself.
    pub sharpening: f64,
    /// The mix that it was trained on; the site's own where there is none.
    #[serde(default)]
    pub trained_on: Option<Vec<f64>>,
    /// Index of the group whose margin is z_r.
    #[serde(default)]
    pub margin_of: usize,
}

/// What a portable view does to the two models.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portable {
    /// Added to the clinical logit.
    pub score_shift: f64,
    /// Added to the race model's number of the group `race.margin_of`.
    pub race_shift: f64,
}

/// A change of the clinical model's calibration at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreDrift {
    /// The first month with the change, from 0.
    pub month: u32,
    /// Added to a_g from then on, one number per group.
    pub shift: Vec<f64>,
    /// Studies per month, of all groups.
    pub studies_per_month: usize,
}

/// One study as drawn: what two models said of it, and what nobody is told.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredStudy {
    /// From 0; study counts within the patient.
    pub patient: usize,
    pub study: usize,
    /// Index into [`ScoreWorld::groups`].
    pub group: usize,
    /// Clinical logit and score.
    pub z: f64,
    pub score: f64,
    pub outcome: bool,
    /// The race model's probabilities as it reports them.
    pub posteriors: Vec<f64>,
    /// The numbers that the race model sees, one per group, and its margin z_r.
    pub seen: Vec<f64>,
    pub margin: f64,
    pub portable: bool,
    /// Whether the patient's self-report is recorded.
    pub labelled: bool,
}

mod defaults {
    pub(super) fn patients() -> usize {
        2400
    }
    pub(super) fn studies() -> usize {
        1
    }
    pub(super) fn threshold() -> f64 {
        0.5
    }
    pub(super) fn score_sd() -> f64 {
        1.2
    }
    pub(super) fn mean() -> f64 {
        -0.2
    }
    pub(super) fn one() -> f64 {
        1.0
    }
}

impl Default for OutcomeLaw {
    fn default() -> Self {
        Self { intercept: -0.2, slope: 1.0, bend: 0.0 }
    }
}

impl Default for RaceLaw {
    fn default() -> Self {
        Self { separation: 4.5, sharpening: 1.4, trained_on: None, margin_of: 1 }
    }
}

/// The file with a world for every row of the validation.
const WORLDS: &str = include_str!("worlds.toml");

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    world: Vec<ScoreWorld>,
}

impl ScoreWorld {
    /// The worlds of a file: tables `[[world]]`. Refuses what no study could be drawn from, with the rule.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
        for world in &file.world {
            if let Some(fault) = world.fault() {
                return Err(format!("world {}: {fault}", world.name));
            }
        }
        Ok(file.world)
    }

    /// The built-in worlds.
    pub fn all() -> Vec<Self> {
        Self::parse(WORLDS).expect("the built-in file is valid, which a test reads")
    }

    /// The built-in world of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|w| w.name == name)
    }

    /// The rule that the world breaks, if any.
    pub fn fault(&self) -> Option<String> {
        let groups = self.groups.len();
        if !(2..=8).contains(&groups) {
            return Some("a world has 2 to 8 groups".into());
        }
        if self.groups.iter().any(|g| !(g.share > 0.0 && g.share.is_finite())) {
            return Some("shares must be greater than 0".into());
        }
        let rates = self
            .groups
            .iter()
            .flat_map(|g| [g.portable_share, g.label_rate, g.label_rate_negative.unwrap_or(g.label_rate)]);
        if rates.chain([self.within_patient, self.threshold]).any(|p| !(0.0..=1.0).contains(&p)) {
            return Some("portable_share, label_rate, within_patient and threshold lie between 0 and 1".into());
        }
        let logits = self.groups.iter().flat_map(|g| [g.mean, g.shift, g.slope]);
        let law = [self.outcome.intercept, self.outcome.slope, self.outcome.bend, self.shortcut];
        let views = [self.portable.score_shift, self.portable.race_shift];
        if logits.chain(law).chain(views).any(|v| v.is_nan() || v.abs() > 10.0) {
            return Some("logits and their factors lie between -10 and 10".into());
        }
        if !(0.05..=10.0).contains(&self.score_sd) || !(0.0..=20.0).contains(&self.race.separation) {
            return Some("score_sd lies between 0.05 and 10, race.separation between 0 and 20".into());
        }
        if !(0.05..=20.0).contains(&self.race.sharpening) || self.race.margin_of >= groups {
            return Some("race.sharpening lies between 0.05 and 20, race.margin_of is the index of a group".into());
        }
        if self
            .race
            .trained_on
            .as_ref()
            .is_some_and(|t| t.len() != groups || t.iter().any(|s| !(*s > 0.0 && *s <= 1.0)))
        {
            return Some("race.trained_on has a share between 0 and 1 for every group".into());
        }
        if self.drift.as_ref().is_some_and(|d| d.shift.len() != groups || d.studies_per_month == 0) {
            return Some("drift.shift has a value for every group, drift.studies_per_month is at least 1".into());
        }
        (self.patients == 0 || self.patients * self.studies > 5_000_000 || self.studies == 0)
            .then(|| "patients and studies are at least 1, and 5,000,000 studies at most".into())
    }

    /// Shares of the groups, on a sum of 1.
    pub fn shares(&self) -> Vec<f64> {
        let total: f64 = self.groups.iter().map(|g| g.share).sum();
        self.groups.iter().map(|g| g.share / total).collect()
    }

    /// The labelled cohort of this seed.
    pub fn cohort(&self, seed: u64) -> Vec<ScoredStudy> {
        self.draw(self.patients, seed)
    }

    /// So many patients with all their studies; more patients do not change the first ones.
    pub fn draw(&self, patients: usize, seed: u64) -> Vec<ScoredStudy> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shares = self.shares();
        (0..patients).flat_map(|patient| self.patient(patient, &shares, &mut rng)).collect()
    }

    /// The world from the month of its drift on; itself where it has none.
    pub fn drifted(&self) -> Self {
        let mut world = self.clone();
        if let Some(drift) = world.drift.take() {
            world.groups.iter_mut().zip(drift.shift).for_each(|(g, shift)| g.shift += shift);
        }
        world
    }

    fn patient(&self, patient: usize, shares: &[f64], rng: &mut ChaCha8Rng) -> Vec<ScoredStudy> {
        let drawn: f64 = rng.random();
        let below = |g: &usize| drawn < shares[..=*g].iter().sum();
        let group = (0..shares.len()).find(below).unwrap_or(shares.len() - 1);
        let of = &self.groups[group];
        let label: f64 = rng.random();
        let mut normals = || -> Vec<f64> { (0..shares.len() + 2).map(|_| rng.sample(StandardNormal)).collect() };
        let common = if self.studies > 1 { normals() } else { Vec::new() };
        let own: Vec<Vec<f64>> = (0..self.studies).map(|_| normals()).collect();
        let views: Vec<bool> = own.iter().map(|_| rng.random::<f64>() < of.portable_share).collect();
        let (shared, alone) = (self.within_patient.sqrt(), (1.0 - self.within_patient).sqrt());
        own.into_iter()
            .zip(views)
            .enumerate()
            .map(|(study, (mut noise, portable))| {
                if self.studies > 1 {
                    noise.iter_mut().zip(&common).for_each(|(n, c)| *n = alone * *n + shared * c);
                }
                self.study((patient, study, group), portable, label, &noise)
            })
            .collect()
    }

    /// A study from standard normal numbers: of z*, of the outcome, then one per group of the race model.
    fn study(
        &self,
        (patient, study, group): (usize, usize, usize),
        portable: bool,
        label: f64,
        noise: &[f64],
    ) -> ScoredStudy {
        let corner = self.race.separation / 2.0_f64.sqrt();
        let mut seen: Vec<f64> = noise[2..].to_vec();
        seen[group] += corner;
        let view = f64::from(u8::from(portable));
        seen[self.race.margin_of] += view * self.portable.race_shift;
        let margin = self.margin(&seen);
        let latent = self.groups[group].mean + self.score_sd * noise[0];
        let z = latent + self.shortcut * margin + view * self.portable.score_shift;
        let outcome = truth::normal_cdf(noise[1]) < self.event_at_latent(group, latent);
        let posteriors = self.reported(&seen);
        let labelled = label < self.label_rate(group, expit(z));
        ScoredStudy { patient, study, group, z, score: expit(z), outcome, posteriors, seen, margin, portable, labelled }
    }

    /// The probability that a patient of this group with this score is labelled.
    pub fn label_rate(&self, group: usize, score: f64) -> f64 {
        let of = &self.groups[group];
        if score < self.threshold { of.label_rate_negative.unwrap_or(of.label_rate) } else { of.label_rate }
    }

    /// What both models say of a study's image that was changed: the clinical logit and the race model's posteriors, where
    /// the change moves what the race model sees by `seen`, a number for each group, and the disease by `latent` (logit).
    pub fn changed(&self, study: &ScoredStudy, seen: &[f64], latent: f64) -> (f64, Vec<f64>) {
        let seen: Vec<f64> = study.seen.iter().zip(seen).map(|(s, moved)| s + moved).collect();
        let z = study.z + latent + self.shortcut * (self.margin(&seen) - study.margin);
        (z, self.reported(&seen))
    }

    /// z_r of what the race model sees.
    fn margin(&self, seen: &[f64]) -> f64 {
        let own = seen[self.race.margin_of];
        own - (seen.iter().sum::<f64>() - own) / (seen.len() as f64 - 1.0)
    }

    /// P(y = 1) given z*.
    fn event_at_latent(&self, group: usize, latent: f64) -> f64 {
        let (law, of) = (&self.outcome, &self.groups[group]);
        expit(law.intercept + law.slope * latent + law.bend * (2.0 * latent).sin() + of.shift + of.slope * latent)
    }

    fn reported(&self, seen: &[f64]) -> Vec<f64> {
        let shares = self.race.trained_on.clone().unwrap_or_else(|| self.shares());
        let corner = self.race.separation / 2.0_f64.sqrt();
        let mut logits: Vec<f64> =
            seen.iter().zip(shares).map(|(s, share)| self.race.sharpening * (share.ln() + corner * s)).collect();
        softmax(&mut logits);
        logits
    }
}

#[cfg(test)]
mod tests;
