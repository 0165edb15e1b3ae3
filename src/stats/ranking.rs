//! How well a number finds what goes wrong: average precision, and error of the flagged beside their like.
//!
//! Neighbours: `auc` has the area under the ROC curve. Left out: which number flags, and what an error is.

/// Area under the precision-recall curve as average precision, Σ (recall_k − recall_{k−1})·precision_k over the distinct
/// values from the highest down; `None` without a positive, or with a score that is no number.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let positives = positive.iter().filter(|&&p| p).count();
    if scores.len() != positive.len() || positives == 0 || scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut area, mut found, mut seen) = (0.0, 0, 0);
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let hits = tied.iter().filter(|&&i| positive[i]).count();
        (found, seen) = (found + hits, seen + tied.len());
        area += hits as f64 / positives as f64 * found as f64 / seen as f64;
    }
    Some(area)
}

/// Error of flagged units, and of unflagged ones that were matched to them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatchedLift {
    /// Flagged units in strata that have unflagged ones too.
    pub matched: usize,
    /// Share of errors among them.
    pub flagged: f64,
    /// The same for unflagged units, each stratum weighed by its flagged ones.
    pub unflagged: f64,
}

impl MatchedLift {
    /// Ratio of the two; infinite where no unflagged unit is wrong.
    pub fn ratio(&self) -> f64 {
        self.flagged / self.unflagged
    }
}

/// Compares within `stratum` (an index from 0): direct standardisation to the flagged. Strata with fewer than `least` of
/// either kind are left out. `None` where nothing is left.
pub fn matched_lift(flagged: &[bool], wrong: &[bool], stratum: &[usize], least: usize) -> Option<MatchedLift> {
    if flagged.len() != wrong.len() || flagged.len() != stratum.len() {
        return None;
    }
    // Per stratum: flagged, wrong among them, unflagged, wrong among them.
    let mut cells = vec![[0usize; 4]; stratum.iter().max()? + 1];
    for ((&f, &w), &s) in flagged.iter().zip(wrong).zip(stratum) {
        let from = if f { 0 } else { 2 };
        cells[s][from] += 1;
        cells[s][from + 1] += usize::from(w);
    }
    let (mut matched, mut own, mut others) = (0, 0.0, 0.0);
    for [flagged, flagged_wrong, rest, rest_wrong] in cells {
        if flagged < least.max(1) || rest < least.max(1) {
            continue;
        }
        matched += flagged;
        own += flagged_wrong as f64;
        others += flagged as f64 * rest_wrong as f64 / rest as f64;
    }
    let n = matched as f64;
    (matched > 0).then(|| MatchedLift { matched, flagged: own / n, unflagged: others / n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_precision_agrees_with_scikit_learn() {
        let check = |scores: &[f64], positive: &[u8], expected: f64| {
            let positive: Vec<bool> = positive.iter().map(|p| *p == 1).collect();
            let got = average_precision(scores, &positive).unwrap();
            assert!((got - expected).abs() < 1e-9, "{got}");
        };
        // The example of sklearn.metrics.average_precision_score's documentation, printed there as 0.83.
        check(&[0.1, 0.4, 0.35, 0.8], &[0, 0, 1, 1], 0.5 + 0.5 * 2.0 / 3.0);
        // Ties: the two in the middle are one threshold.
        check(&[0.9, 0.5, 0.5, 0.1], &[0, 1, 0, 1], 0.5 / 3.0 + 0.5 * 0.5);
        check(&[0.3; 5], &[1, 0, 0, 1, 0], 0.4);
        assert_eq!(average_precision(&[0.1], &[false]), None);
        assert_eq!(average_precision(&[f64::NAN], &[true]), None);
    }

    #[test]
    fn the_lift_compares_within_strata_only() {
        // Stratum 0: 2 of 4 flagged and 1 of 4 others wrong; stratum 1: 1 of 1 against 0 of 2; stratum 2 has no others.
        let flagged = [vec![true; 4], vec![false; 4], vec![true], vec![false; 2], vec![true; 3]].concat();
        let wrong = [
            [true, true, false, false].to_vec(),
            [true, false, false, false].to_vec(),
            [true].to_vec(),
            [false; 2].to_vec(),
            [true; 3].to_vec(),
        ]
        .concat();
        let stratum = [vec![0; 8], vec![1; 3], vec![2; 3]].concat();
        let lift = matched_lift(&flagged, &wrong, &stratum, 1).unwrap();
        assert_eq!((lift.matched, lift.flagged, lift.unflagged), (5, 3.0 / 5.0, 1.0 / 5.0));
        assert!((lift.ratio() - 3.0).abs() < 1e-12);
        let fewer = matched_lift(&flagged, &wrong, &stratum, 2).unwrap();
        assert_eq!((fewer.matched, fewer.ratio()), (4, 2.0));
        assert_eq!(matched_lift(&flagged, &wrong, &stratum, 9), None);
        assert_eq!(matched_lift(&[], &[], &[], 1), None);
    }
}
