//! The profile: what a site's labelled cohort says of its deployed models, as one versioned JSON file.
//!
//! Fitted by `fit`, read at the door by [`Profile::parse`], which trusts nothing: sizes are bounded, lengths agree,
//! numbers are finite, and the identifier is the hash of the content, so an edited file is refused. Long vectors
//! are strings of numbers with six significant digits: one line each for people, a third of the size.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::bands::{Critical, GRID};
use super::curves::{Layout, ScoreScale};
use super::ensemble::Ensemble;
use super::gate::Gate;
use super::quality::RaceQuality;
use crate::domain::{Digest, Direction, IndReason, Timestamp};
use crate::stats::NaturalSpline;

/// A site's reference profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Version of this file's layout: 2.
    pub format: u32,
    /// `profile-` and the first 16 digits of the SHA-256 of everything else.
    pub id: String,
    /// The site or cohort in words.
    pub site: String,
    pub fitted_at: Timestamp,
    /// δ for which `elevated` holds.
    pub delta: f64,
    /// Bootstrap draws and their seed.
    pub bootstrap: usize,
    pub seed: u64,
    /// Key of the race model; none where the cohort has no posteriors.
    pub race_model: Option<String>,
    /// Digest of the site's mix by which the posteriors were reweighed, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub race_prior: Option<Digest>,
    /// By key of a model, the digest of what in its card changes scores beside the weights; absent for models whose
    /// scores were written before that was noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cards: BTreeMap<String, Digest>,
    /// Keys of the groups, in the order of the race model's outputs.
    pub groups: Vec<String>,
    pub cohort: CohortDescription,
    pub findings: Vec<FindingProfile>,
}

/// The cohort in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortDescription {
    pub patients: usize,
    pub studies: usize,
    /// Patients per group, in the order of [`Profile::groups`]. Here and below a count is absent if it is from 1 to 10,
    /// or would give such a one away.
    pub group_patients: Vec<Option<usize>>,
    pub first_date: Option<NaiveDate>,
    pub last_date: Option<NaiveDate>,
    /// Studies per combination of views.
    pub views: BTreeMap<String, Option<usize>>,
}

/// One finding of one deployed model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingProfile {
    pub finding: String,
    /// Key of the clinical model.
    pub model: String,
    pub threshold: f64,
    pub studies: usize,
    /// In the order of [`Profile::groups`].
    pub groups: Vec<GroupEvidence>,
    /// Why there are no curves, where there are none.
    pub withheld: Option<IndReason>,
    pub gate: Option<Gate>,
    /// None where the cohort has no posteriors.
    pub race: Option<RaceQuality>,
    /// Who would be at level 2 in the cohort itself, for the people who judge a profile.
    pub elevated: Vec<StratumEvidence>,
    pub curves: Option<Curves>,
}

/// How much one group contributes to one finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupEvidence {
    pub group: String,
    pub patients: Option<usize>,
    /// Patients with at least one study with, and with at least one study without the finding.
    pub events: Option<usize>,
    pub non_events: Option<usize>,
    /// Has a curve.
    pub admitted: bool,
    /// 1 and 99 % quantiles of z = logit s; none without a curve.
    pub z_range: Option<[f64; 2]>,
}

/// The patients of the cohort that would be at level 2, by direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StratumEvidence {
    pub direction: Direction,
    pub patients: Option<usize>,
}

/// The fitted models of one finding and their uncertainty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curves {
    pub scale: ScoreScale,
    /// The scores that every admitted group covers, as z; the grid of 201 points spans them.
    pub z_low: f64,
    pub z_high: f64,
    /// Standard deviations of the priors of a_g and b_g (empirical Bayes).
    pub shift_sd: f64,
    pub slope_sd: f64,
    pub critical: Critical,
    /// Per admitted group: reference patients within ±.5 logit of each grid point; 1–10 are written as 0.
    pub nearby: Vec<Series>,
    /// Parameters: curves, mix, race (see `curves.rs`).
    pub point: Series,
    /// One parameter vector per bootstrap draw.
    pub draws: Vec<Series>,
    /// The draws again, as they are computed with; made when first asked for.
    #[serde(skip)]
    pub(super) prepared: Prepared,
}

/// A cache, which is no part of what a profile is.
#[derive(Debug, Clone, Default)]
pub(super) struct Prepared(OnceLock<Ensemble>);

impl PartialEq for Prepared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Numbers in one string, separated by spaces.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Series(Vec<f64>);

/// Why a file is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("the profile has {0} bytes, more than the {max} allowed", max = Profile::BYTES_MAX)]
    TooLarge(usize),
    #[error("the profile is not valid JSON of the expected layout: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the profile has format {0}, this version reads format {FORMAT}: fit it again")]
    Format(u32),
    #[error("the profile is inconsistent: {0}; fit it again")]
    Inconsistent(String),
    #[error("the profile's content does not match its identifier {0:?}: it was edited; fit it again")]
    Edited(String),
}

const FORMAT: u32 = 2;
const GROUPS_MAX: usize = 16;
const FINDINGS_MAX: usize = 64;
/// Bytes of a name.
const NAME_MAX: usize = 1000;

impl Profile {
    /// A larger file is none.
    pub const BYTES_MAX: usize = 32 << 20;

    /// Reads and checks a profile file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProfileError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        if bytes.len() > Self::BYTES_MAX {
            return Err(ProfileError::TooLarge(bytes.len()));
        }
        let Head { format } = serde_json::from_slice(bytes)?;
        if format != FORMAT {
            return Err(ProfileError::Format(format));
        }
        let profile: Profile = serde_json::from_slice(bytes)?;
        profile.fault().map_or(Ok(()), |fault| Err(ProfileError::Inconsistent(fault)))?;
        if profile.id != profile.content_id() {
            return Err(ProfileError::Edited(profile.id.chars().take(40).collect()));
        }
        Ok(profile)
    }

    /// The profile as it holds for models with these cards: what was fitted with another card was fitted for another
    /// model, and is stale.
    pub fn for_cards(mut self, cards: &BTreeMap<String, Digest>) -> Self {
        let keys = self.findings.iter_mut().map(|f| &mut f.model).chain(self.race_model.iter_mut());
        keys.filter(|key| is_altered(key, &self.cards, cards)).for_each(|key| key.push_str(" with another card"));
        self
    }

    /// The day up to which it knows what is true: that of the last study, where the cohort has dates. Old studies that
    /// are fitted again are no younger by that.
    pub fn dated(&self) -> Timestamp {
        let last = self.cohort.last_date.map(|date| date.and_time(chrono::NaiveTime::MIN).and_utc());
        last.map_or(self.fitted_at, |last| last.min(self.fitted_at))
    }

    /// The file's bytes; [`Profile::parse`] gives the same profile again.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a profile holds no map with keys that are not text");
        bytes.push(b'\n');
        bytes
    }

    /// Completes a fitted profile: format and identifier.
    pub(super) fn sealed(mut self) -> Self {
        self.format = FORMAT;
        self.id = self.content_id();
        self
    }

    /// Why no node would take it.
    pub(super) fn refusal(&self) -> Option<String> {
        let bytes = self.to_json().len();
        let large = || format!("it has {bytes} bytes, more than the {} allowed: take fewer draws", Self::BYTES_MAX);
        self.fault().or_else(|| (bytes > Self::BYTES_MAX).then(large))
    }

    fn content_id(&self) -> String {
        let unnamed = Self { id: String::new(), ..self.clone() };
        format!("profile-{}", &Digest::of(&unnamed.to_json()).as_str()[..16])
    }

    /// The first inconsistency, if any.
    fn fault(&self) -> Option<String> {
        let fail = |text: &str| Some(text.to_owned());
        if !(2..=GROUPS_MAX).contains(&self.groups.len()) || self.findings.len() > FINDINGS_MAX {
            return fail("it needs 2 to 16 groups and at most 64 findings");
        }
        if has_repeats(&self.groups) || has_repeats(self.findings.iter().map(|f| &f.finding)) {
            return fail("a group or finding occurs twice");
        }
        if self.cohort.group_patients.len() != self.groups.len() {
            return fail("cohort.group_patients has another length than groups");
        }
        if !are_draws(self.bootstrap) || !(0.0..=1.0).contains(&self.delta) {
            return fail("bootstrap is outside 50..=10000 or delta outside 0..1");
        }
        if !self.names().all(|name| is_plain(name)) {
            return fail("the name of a site, model, group, finding or view is too long, or hides characters");
        }
        self.findings.iter().find_map(|f| {
            f.fault(&self.groups, self.bootstrap)
                .map(|fault| format!("finding {:?}: {fault}", f.finding.chars().take(40).collect::<String>()))
        })
    }
}

impl Profile {
    /// Every text in it that is printed.
    fn names(&self) -> impl Iterator<Item = &String> {
        let of_models = self.race_model.iter().chain(self.cards.keys());
        let of_findings = self.findings.iter().flat_map(|f| [&f.finding, &f.model]);
        of_models.chain(of_findings).chain(&self.groups).chain(self.cohort.views.keys()).chain([&self.site])
    }
}

impl FindingProfile {
    /// Whether it is of this model as it decides now.
    pub(super) fn fits(&self, model: &str, threshold: f64) -> bool {
        self.model == model && (self.threshold - threshold).abs() < 1e-6
    }

    pub(super) fn layout(&self, curves: &Curves) -> Layout {
        let admitted: Vec<usize> = (0..self.groups.len()).filter(|&g| self.groups[g].admitted).collect();
        let (groups, terms, race) = (self.groups.len(), curves.scale.terms(), self.race.is_some());
        Layout { groups, admitted, terms, race }
    }

    fn fault(&self, groups: &[String], bootstrap: usize) -> Option<&'static str> {
        if !self.groups.iter().map(|g| &g.group).eq(groups) {
            return Some("its groups are not the profile's");
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return Some("threshold is outside 0..1");
        }
        if self.race.as_ref().is_some_and(|r| r.auc.len() != groups.len()) {
            return Some("race.auc has another length than groups");
        }
        if let Some(fault) = self.race.as_ref().and_then(|r| r.reach.fault(groups.len())) {
            return Some(fault);
        }
        let Some(curves) = &self.curves else {
            return self.withheld.is_none().then_some("it has neither curves nor a reason for having none");
        };
        if self.withheld.is_some() || self.gate.is_none() {
            return Some("curves come with a gate and without a reason for having none");
        }
        if self.groups.iter().any(|g| g.admitted && g.z_range.is_none()) {
            return Some("an admitted group has no z_range");
        }
        curves.fault(&self.layout(curves), bootstrap)
    }
}

impl Curves {
    /// Reference patients near z, per admitted group.
    pub(super) fn nearby_at(&self, z: f64) -> impl Iterator<Item = f64> {
        let position = (z - self.z_low) / (self.z_high - self.z_low) * (GRID - 1) as f64;
        let index = (position.round().max(0.0) as usize).min(GRID - 1);
        self.nearby.iter().map(move |series| series.0[index])
    }

    pub(super) fn ensemble(&self, layout: &Layout) -> &Ensemble {
        self.prepared.0.get_or_init(|| Ensemble::new(self.draws.iter().map(Series::values), layout.total()))
    }

    fn fault(&self, layout: &Layout, bootstrap: usize) -> Option<&'static str> {
        let ascending = |k: [f64; 4]| NaturalSpline::new(k).is_some();
        if layout.admitted.len() < 2 || self.nearby.len() != layout.admitted.len() {
            return Some("curves need two admitted groups, nearby one series for each");
        }
        if self.nearby.iter().any(|s| s.0.len() != GRID) {
            return Some("nearby needs 201 counts");
        }
        // Scores are within ±14 logits; wilder scales could overflow.
        let plausible = (1e-6..=100.0).contains(&self.scale.scale) && self.scale.center.abs() <= 100.0;
        if !(plausible && self.z_low < self.z_high && self.scale.knots.is_none_or(ascending)) {
            return Some("the score scale is empty or its knots do not ascend");
        }
        let c = &self.critical;
        if [c.error, c.spread, c.excess, c.expected].iter().any(|c| !(1.0..=100.0).contains(c)) {
            return Some("a critical value is outside 1..100");
        }
        // Draws that did not converge are left out by the fit, up to one in ten.
        if self.draws.len() > bootstrap || self.draws.len() * 10 < bootstrap * 9 {
            return Some("the number of draws is not that of bootstrap");
        }
        let wrong = |s: &Series| s.0.len() != layout.total() || s.0.iter().any(|v| v.abs() > 1e6);
        (wrong(&self.point) || self.draws.iter().any(wrong)).then_some("a parameter vector has a wrong length or value")
    }
}

impl Series {
    /// Rounded to six significant digits.
    pub(super) fn of(values: &[f64]) -> Self {
        Self(values.iter().map(|&v| significant(v)).collect())
    }

    pub fn values(&self) -> &[f64] {
        &self.0
    }
}

impl From<Series> for String {
    fn from(series: Series) -> Self {
        series.0.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")
    }
}

impl TryFrom<String> for Series {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let parse = |word: &str| word.parse::<f64>().ok().filter(|v| v.is_finite());
        let values: Option<Vec<f64>> = text.split_ascii_whitespace().map(parse).collect();
        values.map(Self).ok_or("a series holds finite numbers separated by spaces")
    }
}

/// Six significant digits; magnitudes below 1e-12 become 0. Short decimals survive JSON exactly.
pub(super) fn significant(value: f64) -> f64 {
    if value.abs() < 1e-12 {
        return 0.0;
    }
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Whether a model's card is another than that of the fit, as far as both are known.
pub(super) fn is_altered(model: &str, then: &BTreeMap<String, Digest>, now: &BTreeMap<String, Digest>) -> bool {
    then.get(model).zip(now.get(model)).is_some_and(|(then, now)| then != now)
}

pub(super) fn are_draws(bootstrap: usize) -> bool {
    i64::try_from(bootstrap).is_ok_and(|draws| crate::config::DRAWS.contains(&draws))
}

/// Whether a person who reads it on a screen reads what is there: nothing in it moves a cursor or turns text around.
fn is_plain(name: &str) -> bool {
    let hides = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    name.len() <= NAME_MAX && !name.contains(hides)
}

fn has_repeats<'a>(names: impl IntoIterator<Item = &'a String>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    !names.into_iter().all(|name| seen.insert(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_series_is_a_line_of_short_numbers() {
        let series = Series::of(&[1.23456789, -0.000012345678, 0.0, 1e-20, 150000.0]);
        let text = String::from(series.clone());
        assert_eq!(text, "1.23457 -0.0000123457 0 0 150000");
        assert_eq!(Series::try_from(text), Ok(series));
        for bad in ["1 x", "inf", "NaN 2", "1e999"] {
            assert!(Series::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn significant_digits_survive_json(value in -1e9f64..1e9) {
            let rounded = significant(value);
            prop_assert!((rounded - value).abs() <= 5e-6 * value.abs() + 1e-12);
            let text = serde_json::to_string(&rounded).unwrap();
            prop_assert_eq!(serde_json::from_str::<f64>(&text).unwrap(), rounded);
        }

        #[test]
        fn arbitrary_bytes_are_no_profile(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Profile::parse(&bytes).is_err());
        }
    }
}
