//! How good the race model is at this site: the precondition of every statement about an individual.
//!
//! Discrimination is the one-against-rest AUC of the model's own posteriors, with a variance clustered by patient.
//! Calibration is the classwise error of recalibrated posteriors that were fitted without the patient's fold, since
//! recalibration always looks good on the rows it was fitted on. Neighbours: `fit` stores it, `risk` judges it.

use serde::{Deserialize, Serialize};

use super::curves::{Layout, ScoreScale, log_ratios};
use super::estimate::Observation;
use super::reach::Reach;
use crate::stats::{ClusterBootstrap, NumericsError, classwise_calibration_error, delong_clustered, softmax};

/// The race model measured on the cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaceQuality {
    /// Per group, one against rest; none for groups with too few patients to say.
    pub auc: Vec<Option<Auc>>,
    /// Classwise calibration error after cross-fitted recalibration, 0..1.
    pub calibration_error: f64,
    /// The posteriors that the cohort covers.
    pub reach: Reach,
}

/// An AUC with 95 % limits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auc {
    pub auc: f64,
    pub lower: f64,
    pub upper: f64,
}

/// A race model with a lower AUC bound below this says nothing about individuals here.
pub const AUC_LOWER_MIN: f64 = 0.85;
/// Nor does one that is off by more than this after recalibration.
pub const CALIBRATION_ERROR_MAX: f64 = 0.05;
/// Groups with fewer patients have no AUC of their own.
const PATIENTS_MIN: usize = 30;
const FOLDS: usize = 5;
const BINS: usize = 10;

impl RaceQuality {
    /// Whether posteriors may be used for individuals. `admitted` groups must all have a sufficient AUC.
    pub(super) fn is_sufficient(&self, admitted: &[usize]) -> bool {
        let bound = |g: &usize| self.auc[*g].map_or(f64::NEG_INFINITY, |a| a.lower);
        let discriminates = admitted.iter().all(|g| bound(g) >= AUC_LOWER_MIN);
        let others = self.auc.iter().flatten().all(|a| a.lower >= AUC_LOWER_MIN);
        discriminates && others && self.calibration_error <= CALIBRATION_ERROR_MAX
    }
}

/// Measures the race model on the rows that have posteriors; `None` where fewer than two groups can be told apart.
/// `recalibrate` fits the race part on patients with these weights.
pub(super) fn measure(
    layout: &Layout,
    scale: &ScoreScale,
    observations: &[Observation],
    folds: ClusterBootstrap,
    recalibrate: impl FnMut(&[f64]) -> Result<Vec<f64>, NumericsError>,
) -> Result<Option<RaceQuality>, NumericsError> {
    let rows: Vec<(&Observation, Vec<f64>)> = observations
        .iter()
        .filter_map(|o| o.posteriors.as_deref().and_then(log_ratios).map(|ratios| (o, ratios)))
        .collect();
    let auc: Vec<Option<Auc>> = (0..layout.groups).map(|g| one_against_rest(&rows, g)).collect();
    if auc.iter().flatten().count() < 2 {
        return Ok(None);
    }
    let posteriors = cross_fitted(layout, scale, &rows, folds, recalibrate)?;
    let class: Vec<usize> = rows.iter().map(|(o, _)| o.group).collect();
    let error = classwise_calibration_error(&posteriors, &class, BINS);
    let placed: Vec<(&[f64], usize)> = rows.iter().map(|(o, ratios)| (ratios.as_slice(), o.group)).collect();
    let reach = Reach::of(&placed, layout.groups, PATIENTS_MIN);
    Ok(error.zip(reach).map(|(calibration_error, reach)| RaceQuality { auc, calibration_error, reach }))
}

fn one_against_rest(rows: &[(&Observation, Vec<f64>)], group: usize) -> Option<Auc> {
    let patients = |wanted: bool| {
        let set: std::collections::BTreeSet<usize> =
            rows.iter().filter(|(o, _)| (o.group == group) == wanted).map(|(o, _)| o.patient).collect();
        set.len()
    };
    if patients(true) < PATIENTS_MIN || patients(false) < PATIENTS_MIN {
        return None;
    }
    let scores: Option<Vec<f64>> = rows.iter().map(|(o, _)| o.posteriors.as_ref().map(|p| p[group])).collect();
    let positive: Vec<bool> = rows.iter().map(|(o, _)| o.group == group).collect();
    let cluster: Vec<usize> = rows.iter().map(|(o, _)| o.patient).collect();
    let estimate = delong_clustered(&scores?, &positive, &cluster)?;
    Some(Auc { auc: estimate.auc, lower: estimate.lower, upper: estimate.upper })
}

/// Recalibrated posteriors of every row, from the patients of the other folds.
fn cross_fitted(
    layout: &Layout,
    scale: &ScoreScale,
    rows: &[(&Observation, Vec<f64>)],
    folds: ClusterBootstrap,
    mut recalibrate: impl FnMut(&[f64]) -> Result<Vec<f64>, NumericsError>,
) -> Result<Vec<Vec<f64>>, NumericsError> {
    let fold_of = folds.folds(FOLDS);
    let mut posteriors = vec![vec![0.0; layout.groups]; rows.len()];
    for fold in 0..FOLDS {
        let others: Vec<f64> = fold_of.iter().map(|own| f64::from(u8::from(*own != fold))).collect();
        let fitted = recalibrate(&others)?;
        for ((o, ratios), posterior) in
            rows.iter().zip(&mut posteriors).filter(|((o, _), _)| fold_of[o.patient] == fold)
        {
            let row = layout.race_row(&scale.row(o.z), ratios);
            for (value, beta) in posterior[1..].iter_mut().zip(fitted.chunks_exact(row.len())) {
                *value = row.iter().zip(beta).map(|(x, b)| x * b).sum();
            }
            softmax(posterior);
        }
    }
    Ok(posteriors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_criterion_can_withhold() {
        let auc = |lower| Some(Auc { auc: 0.95, lower, upper: 0.99 });
        let check = |auc: Vec<Option<Auc>>, calibration_error, admitted: &[usize], expected| {
            let rows: Vec<(&[f64], usize)> = vec![(&[0.0], 0), (&[1.0], 0)];
            let reach = Reach::of(&rows, 2, 2).unwrap();
            assert_eq!(RaceQuality { auc, calibration_error, reach }.is_sufficient(admitted), expected);
        };
        check(vec![auc(0.9), auc(0.86)], 0.04, &[0, 1], true);
        check(vec![auc(0.9), auc(0.84)], 0.04, &[0, 1], false);
        check(vec![auc(0.9), auc(0.86)], 0.06, &[0, 1], false);
        check(vec![auc(0.9), auc(0.9), None], 0.04, &[0, 1], true);
        check(vec![auc(0.9), auc(0.9), None], 0.04, &[0, 2], false);
        check(vec![auc(0.9), auc(0.9), auc(0.8)], 0.04, &[0, 1], false);
    }
}
