//! Variants: what is made of each image, by the rows that a run asks for.
//!
//! A variant is a change of the plane that a model sees, or one that depends on the image: its lung mask, or what is
//! salient in it. Rows share variants, so that none is scored twice. Neighbours: `perturb` changes planes, `scoring`
//! applies variants. Left out: models.

use std::collections::BTreeSet;

use super::catalogue::{Changed, Kind, Row};
use crate::perturb::{Form, Kept, Perturbation, Transform, paper};

/// What is made of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Unique among those of a run.
    pub name: String,
    pub how: How,
}

#[derive(Debug, Clone, PartialEq)]
pub enum How {
    /// The image as it is.
    Original,
    Change(Perturbation),
    /// What lies within the lung mask alone, or all but that.
    Lungs {
        within: bool,
    },
    /// All but the bounding box of what is most salient to the race model.
    WithoutPeak,
}

/// Of the image as it is.
pub const ORIGINAL: &str = "original";
pub const LUNGS: &str = "lungs";
pub const WITHOUT_LUNGS: &str = "without lungs";
pub const WITHOUT_PEAK: &str = "without the salient box";

/// Variants of a row besides the image itself; `seed` is of noise, and in no name.
pub fn of_row(row: &Row, form: Form, seed: u64) -> Vec<Variant> {
    let Kind::Changed(changed) = row.kind else { return Vec::new() };
    match changed {
        Changed::Masks => [(LUNGS, true), (WITHOUT_LUNGS, false)]
            .map(|(name, within)| Variant { name: name.to_owned(), how: How::Lungs { within } })
            .into(),
        Changed::Peak => vec![Variant { name: WITHOUT_PEAK.to_owned(), how: How::WithoutPeak }],
        _ => paper::row(row.number, form, seed)
            .into_iter()
            .map(|change| Variant { name: change.name.clone(), how: How::Change(change) })
            .collect(),
    }
}

/// All variants of these rows, the image itself first, each once.
pub fn of_rows(rows: &[&Row], form: Form, seed: u64) -> Vec<Variant> {
    let mut seen = BTreeSet::from([ORIGINAL.to_owned()]);
    let mut variants = vec![Variant { name: ORIGINAL.to_owned(), how: How::Original }];
    variants.extend(rows.iter().flat_map(|row| of_row(row, form, seed)).filter(|v| seen.insert(v.name.clone())));
    variants
}

impl Variant {
    /// What it has in common with variants beside it, and where it stands among them: a diameter, a side, a share.
    pub(super) fn place(&self) -> (String, Option<f64>) {
        let How::Change(change) = &self.how else { return (self.name.clone(), None) };
        let Some(last) = change.chain.last() else { return (self.name.clone(), None) };
        let (family, x) = match *last {
            Transform::LowPass { diameter, .. } => ("low-pass", diameter),
            Transform::HighPass { diameter, .. } => ("high-pass", diameter),
            Transform::Resolution { side } => ("resolution", f64::from(side)),
            Transform::Window { width, .. } => ("window", width),
            Transform::FieldOfView { share } => ("field of view", share),
            Transform::BandPass { .. } => return ("band-pass".to_owned(), None),
            Transform::Notch { .. } => return ("notch".to_owned(), None),
            Transform::Patch { kept: Kept::Cell, .. } if change.chain.len() > 1 => {
                return ("cells after a high-pass".to_owned(), None);
            }
            Transform::Patch { kept: Kept::Cell, .. } => return ("cells".to_owned(), None),
            Transform::Patch { .. } if change.chain.len() > 1 => {
                return ("all but a cell after a high-pass".to_owned(), None);
            }
            Transform::Patch { .. } => return ("all but a cell".to_owned(), None),
            _ => return (self.name.clone(), None),
        };
        (family.to_owned(), Some(x))
    }

    /// The cell of a 3 × 3 grid that it is about.
    pub(super) fn cell(&self) -> Option<usize> {
        let How::Change(change) = &self.how else { return None };
        change
            .chain
            .iter()
            .find_map(|t| if let Transform::Patch { cell, .. } = t { Some(usize::from(*cell)) } else { None })
    }

    /// Whether planes of other images of the part have a say: blur as published.
    pub(super) fn is_of_batch(&self) -> bool {
        let of_batch = |t: &Transform| matches!(t, Transform::Blur { form: Form::AsPublished, .. });
        matches!(&self.how, How::Change(change) if change.chain.iter().any(of_batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::catalogue::ROWS;

    #[test]
    fn variants_of_all_rows_have_names_of_their_own() {
        for form in [Form::AsPublished, Form::Corrected] {
            let rows: Vec<&Row> = ROWS.iter().collect();
            let all = of_rows(&rows, form, 1);
            let names: BTreeSet<&str> = all.iter().map(|v| v.name.as_str()).collect();
            assert_eq!(names.len(), all.len());
            assert_eq!(all[0].how, How::Original);
            for row in &ROWS {
                let own = of_row(row, form, 1);
                assert_eq!(own.is_empty(), !matches!(row.kind, Kind::Changed(_)), "{}", row.name);
                let faults = own.iter().filter_map(|v| match &v.how {
                    How::Change(change) => change.chain.iter().find_map(Transform::fault),
                    _ => None,
                });
                assert_eq!(faults.collect::<Vec<_>>(), Vec::<String>::new());
            }
            assert_eq!(all.iter().filter(|v| v.is_of_batch()).count(), usize::from(form == Form::AsPublished));
        }
    }
}
