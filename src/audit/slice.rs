//! Parts of a dataset that are looked at on their own.
//!
//! A dimension splits the studies of a finding into levels; every study is in exactly one, *unknown* among them, so
//! that levels make up the whole, which suppression relies on. Left out: what is measured in a slice.

use std::collections::BTreeMap;

use chrono::Datelike;
use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, Finding, Scored};

/// The level of a study of which the value is not known.
pub const UNKNOWN: &str = "unknown";
/// Limits of age bands in years, and of bands of the body mass index in kg/m² (WHO).
const AGES: [f64; 4] = [18.0, 40.0, 60.0, 80.0];
const BODY_MASS: [f64; 3] = [18.5, 25.0, 30.0];

/// By what a dataset is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    Site,
    Device,
    View,
    Portable,
    AgeBand,
    Sex,
    BodyMass,
    Month,
    /// Of the clinical model.
    Version,
}

impl Dimension {
    pub const ALL: [Self; 9] = [
        Self::Site,
        Self::Device,
        Self::View,
        Self::Portable,
        Self::AgeBand,
        Self::Sex,
        Self::BodyMass,
        Self::Month,
        Self::Version,
    ];
}

/// Studies that have this value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slice {
    pub dimension: Dimension,
    pub level: String,
}

/// Which level each study of a dataset has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sliced {
    /// Ascending.
    pub(super) levels: Vec<String>,
    /// By number of the study.
    pub(super) level: Vec<usize>,
}

impl Dataset {
    /// Levels of a dimension. For a version the finding matters.
    pub(super) fn sliced(&self, dimension: Dimension, finding: usize) -> Sliced {
        let names: Vec<String> = (0..self.studies()).map(|study| self.level(dimension, finding, study)).collect();
        let mut number: BTreeMap<&str, usize> = names.iter().map(|name| (name.as_str(), 0)).collect();
        number.values_mut().enumerate().for_each(|(i, slot)| *slot = i);
        let level = names.iter().map(|name| number[name.as_str()]).collect();
        Sliced { levels: number.keys().map(|name| (*name).to_owned()).collect(), level }
    }

    /// The studies that are in all of these slices; of a version, the scores that it gave.
    pub(super) fn within(&self, slices: &[Slice]) -> Self {
        let (versions, others): (Vec<&Slice>, Vec<&Slice>) =
            slices.iter().partition(|slice| slice.dimension == Dimension::Version);
        let is_in = |study: &usize| others.iter().all(|slice| self.level(slice.dimension, 0, *study) == slice.level);
        let kept: Vec<usize> = (0..self.studies()).filter(is_in).collect();
        let finding = |(f, of): (usize, &Finding)| {
            let counts = |study: usize| versions.iter().all(|s| self.level(s.dimension, f, study) == s.level);
            let scored = |m: &Scored| Scored {
                score: kept.iter().map(|s| m.score[*s].filter(|_| counts(*s))).collect(),
                ..m.clone()
            };
            Finding {
                finding: of.finding.clone(),
                outcome: kept.iter().map(|s| of.outcome[*s]).collect(),
                models: of.models.iter().map(scored).collect(),
            }
        };
        let findings = self.findings.iter().enumerate().map(finding).collect();
        let studies = kept.iter().map(|s| self.studies[*s].clone()).collect();
        self.with(studies, findings)
    }

    fn level(&self, dimension: Dimension, finding: usize, study: usize) -> String {
        let of = &self.studies[study];
        let text = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
        let known = match dimension {
            Dimension::Site => text(&of.site),
            Dimension::Device => text(&of.device),
            Dimension::View => text(&of.view),
            Dimension::Sex => text(&of.sex),
            Dimension::Portable => of.portable.map(|is| if is { "portable" } else { "fixed" }.to_owned()),
            Dimension::AgeBand => of.age_years.map(|age| band(age, &AGES)),
            Dimension::BodyMass => of.bmi.map(|bmi| band(bmi, &BODY_MASS)),
            Dimension::Month => of.date.map(|date| format!("{:04}-{:02}", date.year(), date.month())),
            Dimension::Version => self.counted(finding, study).map(|(m, _)| {
                let model = &self.findings[finding].models[m];
                format!("{} {}", model.model, model.version)
            }),
        };
        known.unwrap_or_else(|| UNKNOWN.to_owned())
    }
}

/// `below 18`, `18 to 40` (its upper limit not in it), `80 and above`.
fn band(value: f64, limits: &[f64]) -> String {
    let above = limits.partition_point(|limit| *limit <= value);
    match (above.checked_sub(1).map(|i| limits[i]), limits.get(above)) {
        (None, Some(upper)) => format!("below {upper}"),
        (Some(lower), Some(upper)) => format!("{lower} to {upper}"),
        (lower, None) => format!("{} and above", lower.unwrap_or(0.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_hold_their_lower_limit() {
        assert_eq!(band(0.0, &AGES), "below 18");
        assert_eq!(band(17.9, &AGES), "below 18");
        assert_eq!(band(18.0, &AGES), "18 to 40");
        assert_eq!(band(80.0, &AGES), "80 and above");
        assert_eq!(band(24.9, &BODY_MASS), "18.5 to 25");
    }
}
