//! The gate: does calibration differ by group at all?
//!
//! Likelihood ratio of logit c = α + f(z) + a_g + b_g x against α + f(z), 2(|G| − 1) degrees of freedom. With several
//! studies per patient the chi-square law does not hold, so the null law comes from a score wild cluster bootstrap
//! (Kline & Santos 2012): the statistic's quadratic form at sums over patients of efficient scores under the null,
//! each patient's sum with a random sign. Neighbours: `fit` adjusts the p-values over findings (Holm).

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::curves::ScoreRow;
use crate::stats::loops::dot_wide;
use crate::stats::{ClusterBootstrap, Design, NumericsError, Ridge, expit, logistic};

/// The result for one finding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Twice the difference of the log-likelihoods.
    pub statistic: f64,
    pub df: usize,
    /// By the cluster bootstrap.
    pub p: f64,
    /// After Holm over the findings of the profile.
    pub p_holm: f64,
    /// Whether levels 1 and 2 may be given: `p_holm` ≤ .05.
    pub enabled: bool,
}

/// One study of an admitted group.
pub(super) struct Case<'a> {
    pub(super) at: &'a ScoreRow,
    /// Position among the admitted groups.
    pub(super) group: usize,
    pub(super) outcome: f64,
    pub(super) patient: usize,
}

/// The level of the test after Holm.
pub const ALPHA: f64 = 0.05;

/// Draws of signs for `findings` findings, at first and in all. All of them can give a p of a fortieth of what Holm asks
/// of the smallest one: a finding among many is not held back by how few draws there are.
pub(super) fn draws(bootstrap: usize, findings: usize) -> [u64; 2] {
    let first = 2 * bootstrap as u64;
    [first, first.max((40.0 * findings as f64 / ALPHA) as u64)]
}

/// Statistic and p-value; `p_holm` and `enabled` are set as if this were the only finding. Where the first draws do not
/// reject, Holm does not either, and the rest is spared.
pub(super) fn test(
    cases: &[Case<'_>],
    groups: usize,
    bootstrap: ClusterBootstrap,
    [first, all]: [u64; 2],
) -> Result<Gate, NumericsError> {
    let terms = cases.first().ok_or(NumericsError::Shape)?.at.0.len();
    let extra = 2 * (groups - 1);
    let (mut null, mut full) = (Design::new(terms), Design::new(terms + extra));
    for case in cases {
        null.push(&case.at.0);
        full.push(&full_row(case, groups));
    }
    let outcomes: Vec<f64> = cases.iter().map(|c| c.outcome).collect();
    let ones = vec![1.0; cases.len()];
    // A trace of ridge, far below anything the data say, keeps an empty corner of the score from being singular.
    let fit =
        |d: &Design, start: Option<&[f64]>| logistic(d, &outcomes, &ones, &Ridge::uniform(d.columns(), 1e-6), start);
    let null_fit = fit(&null, None)?;
    let start = [null_fit.coefficients.as_slice(), &vec![0.0; extra]].concat();
    let full_fit = fit(&full, Some(&start))?;
    let statistic = (2.0 * (full_fit.log_likelihood - null_fit.log_likelihood)).max(0.0);
    let scores = whitened_scores(cases, groups, &full, &null_fit.coefficients, bootstrap.clusters)?;
    let columns: Vec<Vec<f64>> = (0..extra).map(|k| scores.iter().skip(k).step_by(extra).copied().collect()).collect();
    let p = |draws: u64| {
        let is_as_large =
            |signs: &[f64]| columns.iter().map(|column| dot_wide(signs, column).powi(2)).sum::<f64>() >= statistic;
        let as_large = bootstrap.map_signs(draws, is_as_large).into_iter().filter(|larger| *larger).count();
        (1 + as_large) as f64 / (1 + draws) as f64
    };
    let at_first = p(first);
    let p = if at_first > ALPHA || all == first { at_first } else { p(all) };
    Ok(Gate { statistic, df: extra, p, p_holm: p, enabled: p <= ALPHA })
}

/// Common terms, then shift and slope of every group but the first.
fn full_row(case: &Case<'_>, groups: usize) -> Vec<f64> {
    let mut row = case.at.0.clone();
    for g in 1..groups {
        let own = case.group == g;
        row.push(f64::from(u8::from(own)));
        row.push(if own { case.at.x() } else { 0.0 });
    }
    row
}

/// Per patient the efficient score of the group terms under the null, times the inverse root of its information,
/// patient after patient: then the score statistic is the squared length of the sum.
fn whitened_scores(
    cases: &[Case<'_>],
    groups: usize,
    full: &Design,
    null: &[f64],
    patients: usize,
) -> Result<Vec<f64>, NumericsError> {
    let (terms, extra) = (null.len(), 2 * (groups - 1));
    let mut information = DMatrix::<f64>::zeros(terms + extra, terms + extra);
    let fitted: Vec<f64> = cases.iter().map(|c| expit(c.at.0.iter().zip(null).map(|(x, b)| x * b).sum())).collect();
    for (i, p) in fitted.iter().enumerate() {
        let row = DVector::from_row_slice(full.row(i));
        information.ger(p * (1.0 - p), &row, &row, 1.0);
    }
    let common = information.view((0, 0), (terms, terms)).into_owned();
    let cross = information.view((terms, 0), (extra, terms)).into_owned();
    let own = information.view((terms, terms), (extra, extra)).into_owned();
    let projection = cross.clone() * common.try_inverse().ok_or(NumericsError::Singular)?;
    let efficient = own - &projection * cross.transpose();
    let root = efficient.cholesky().ok_or(NumericsError::Singular)?.l();
    let mut sums = vec![0.0; patients * extra];
    for (i, (case, p)) in cases.iter().zip(&fitted).enumerate() {
        let row = full.row(i);
        let score = DVector::from_row_slice(&row[terms..]) - &projection * DVector::from_row_slice(&row[..terms]);
        let target = &mut sums[case.patient * extra..(case.patient + 1) * extra];
        target.iter_mut().zip(score.iter()).for_each(|(t, s)| *t += (case.outcome - p) * s);
    }
    for target in sums.chunks_exact_mut(extra) {
        let solved = root.solve_lower_triangular(&DVector::from_row_slice(target)).ok_or(NumericsError::Singular)?;
        target.copy_from_slice(solved.as_slice());
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    /// p-values of `worlds` cohorts of 400 patients with `copies` identical studies each, shifted by `shift`.
    fn p_values(worlds: u64, copies: usize, shift: f64) -> Vec<Gate> {
        (0..worlds)
            .map(|world| {
                let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(world);
                let studies: Vec<(ScoreRow, usize, f64)> = (0..400)
                    .map(|i| {
                        let (x, group): (f64, usize) = (rng.random_range(-2.0..2.0), i % 3);
                        let c = expit(-0.5 + x + if group == 2 { shift } else { 0.0 });
                        (ScoreRow(vec![1.0, x]), group, f64::from(u8::from(rng.random::<f64>() < c)))
                    })
                    .collect();
                let cases: Vec<Case<'_>> = studies
                    .iter()
                    .enumerate()
                    .flat_map(|(patient, (at, group, outcome))| {
                        (0..copies).map(move |_| Case { at, group: *group, outcome: *outcome, patient })
                    })
                    .collect();
                test(&cases, 3, ClusterBootstrap { clusters: 400, seed: world }, [199; 2]).unwrap()
            })
            .collect()
    }

    fn rejected(gates: &[Gate], p: impl Fn(&Gate) -> f64) -> f64 {
        gates.iter().filter(|g| p(g) <= ALPHA).count() as f64 / gates.len() as f64
    }

    #[test]
    fn keeps_its_level_and_has_power() {
        // 300 null worlds: the standard error of a rejection rate of .05 is .013.
        let rate = rejected(&p_values(300, 1, 0.0), |g| g.p);
        assert!((0.015..=0.09).contains(&rate), "{rate}");
        let power = rejected(&p_values(60, 1, 1.2), |g| g.p);
        assert!(power > 0.9, "{power}");
    }

    #[test]
    fn repeated_studies_of_a_patient_are_no_evidence() {
        let gates = p_values(300, 3, 0.0);
        let (chi_square, bootstrap) =
            (rejected(&gates, |g| crate::stats::chi_square_tail(g.statistic, g.df)), rejected(&gates, |g| g.p));
        assert!(chi_square > 0.3, "{chi_square}");
        assert!(bootstrap <= 0.09, "{bootstrap}");
    }
}
