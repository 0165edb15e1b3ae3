//! Isotonic regression: the non-decreasing function of a score that is nearest to the outcomes, by pooling adjacent
//! violators (Ayer et al. 1955).
//!
//! With 0 and 1 as outcomes it is the calibration curve that needs no bins (Dimitriadis, Gneiting & Jordan 2021).
//! Neighbours: the diagnostics of `assess` draw it. Left out: interpolation between scores.

/// A non-decreasing step function: one value for each distinct score.
#[derive(Debug, Clone, PartialEq)]
pub struct Isotonic {
    /// Distinct scores, ascending.
    pub scores: Vec<f64>,
    /// The fit at each of them.
    pub values: Vec<f64>,
}

/// Rows with one fitted value.
struct Block {
    sum: f64,
    weight: f64,
    /// Distinct scores in it.
    length: usize,
}

/// The weighted least-squares fit; equal scores get one value. `None` unless all numbers are finite, the slices equally
/// long and not empty, and the weights positive.
pub fn isotonic(scores: &[f64], outcomes: &[f64], weights: &[f64]) -> Option<Isotonic> {
    let finite = scores.iter().chain(outcomes).chain(weights).all(|v| v.is_finite());
    let sizes = scores.len() == outcomes.len() && scores.len() == weights.len() && !scores.is_empty();
    if !(finite && sizes && weights.iter().all(|w| *w > 0.0)) {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let mut distinct: Vec<f64> = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        distinct.push(scores[tied[0]]);
        let weight = tied.iter().map(|&i| weights[i]).sum();
        let mut block = Block { sum: tied.iter().map(|&i| weights[i] * outcomes[i]).sum(), weight, length: 1 };
        while let Some(below) = blocks.pop_if(|below| below.sum * block.weight >= block.sum * below.weight) {
            block = Block {
                sum: below.sum + block.sum,
                weight: below.weight + block.weight,
                length: below.length + block.length,
            };
        }
        blocks.push(block);
    }
    let values = blocks.iter().flat_map(|b| std::iter::repeat_n(b.sum / b.weight, b.length)).collect();
    Some(Isotonic { scores: distinct, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn violators_are_pooled_and_ties_share_a_value() {
        let fitted = isotonic(&[3.0, 1.0, 2.0, 4.0, 4.0], &[0.0, 0.0, 1.0, 1.0, 0.0], &[1.0; 5]).unwrap();
        assert_eq!(fitted.scores, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(fitted.values, [0.0, 0.5, 0.5, 0.5]);
        let weighted = isotonic(&[1.0, 2.0], &[1.0, 0.0], &[1.0, 3.0]).unwrap();
        assert_eq!(weighted.values, [0.25, 0.25]);
        assert!(isotonic(&[], &[], &[]).is_none());
        assert!(isotonic(&[1.0], &[f64::NAN], &[1.0]).is_none());
        assert!(isotonic(&[1.0], &[1.0], &[0.0]).is_none());
    }

    proptest! {
        #[test]
        fn the_fit_ascends_and_keeps_the_mean(rows in prop::collection::vec((0u8..20, any::<bool>()), 1..80)) {
            let scores: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
            let outcomes: Vec<f64> = rows.iter().map(|r| f64::from(u8::from(r.1))).collect();
            let fitted = isotonic(&scores, &outcomes, &vec![1.0; rows.len()]).unwrap();
            prop_assert!(fitted.values.windows(2).all(|w| w[0] <= w[1] + 1e-12));
            let at = |s: f64| fitted.values[fitted.scores.partition_point(|x| *x < s)];
            let sum: f64 = scores.iter().map(|s| at(*s)).sum();
            prop_assert!((sum - outcomes.iter().sum::<f64>()).abs() < 1e-9);
        }
    }
}
