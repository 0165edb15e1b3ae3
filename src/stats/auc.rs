//! Area under the ROC curve: Mann–Whitney with ties, and its variance by DeLong, DeLong & Clarke-Pearson (1988).
//!
//! Placement values come from midranks (Sun & Xu 2014), so 40,000 scores take milliseconds. Where a patient has
//! several studies use [`delong_clustered`] (Obuchowski 1997); two scores of the same patients are compared by
//! [`AucInfluence`].

use super::distribution::Z_95;

/// An AUC with its 95 % confidence limits (normal approximation, kept within 0..1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AucEstimate {
    pub auc: f64,
    pub variance: f64,
    pub lower: f64,
    pub upper: f64,
}

/// P(positive score > negative score) + ½ P(equal); `None` unless both classes occur and all scores are numbers.
pub fn auc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    Some(Placements::of(scores, positive)?.auc)
}

/// The AUC with DeLong's variance for independent observations; needs two of each class.
pub fn delong(scores: &[f64], positive: &[bool]) -> Option<AucEstimate> {
    let placed = Placements::of(scores, positive)?;
    if placed.positives < 2 || placed.negatives < 2 {
        return None;
    }
    let (mut s10, mut s01) = (0.0, 0.0);
    for (value, &is_positive) in placed.values.iter().zip(positive) {
        let square = (value - placed.auc).powi(2);
        if is_positive { s10 += square } else { s01 += square }
    }
    let (m, n) = (placed.positives as f64, placed.negatives as f64);
    Some(placed.estimate(s10 / (m - 1.0) / m + s01 / (n - 1.0) / n))
}

/// The AUC with a variance that lets observations of one cluster (patient) depend on one another.
///
/// `cluster` numbers the clusters from 0. Needs two clusters.
pub fn delong_clustered(scores: &[f64], positive: &[bool], cluster: &[usize]) -> Option<AucEstimate> {
    let influence = AucInfluence::of(scores, positive, cluster)?;
    let (variance, (lower, upper)) = (influence.variance()?, influence.limits(0.0, 1.0)?);
    Some(AucEstimate { auc: influence.value, variance, lower, upper })
}

/// An AUC, or a mean or difference of AUCs of the same observations, with what each cluster adds to its error
/// (Obuchowski 1997; of clusters of one it is DeLong's variance).
#[derive(Debug, Clone, PartialEq)]
pub struct AucInfluence {
    pub value: f64,
    /// Of each cluster, by number.
    sums: Vec<f64>,
    clusters: usize,
}

impl AucInfluence {
    /// `cluster` numbers the clusters from 0; both classes have to occur.
    pub fn of(scores: &[f64], positive: &[bool], cluster: &[usize]) -> Option<Self> {
        if cluster.len() != scores.len() {
            return None;
        }
        let placed = Placements::of(scores, positive)?;
        let mut sums = vec![0.0; cluster.iter().max()? + 1];
        let mut seen = vec![false; sums.len()];
        for ((value, &is_positive), &c) in placed.values.iter().zip(positive).zip(cluster) {
            let size = if is_positive { placed.positives } else { placed.negatives };
            sums[c] += (value - placed.auc) / size as f64;
            seen[c] = true;
        }
        let clusters = seen.iter().filter(|&&s| s).count();
        Some(Self { value: placed.auc, sums, clusters })
    }

    /// The mean of AUCs of the same observations.
    pub fn mean(of: &[Self]) -> Option<Self> {
        let first = of.first()?;
        let share = 1.0 / of.len() as f64;
        let mut mean = Self { value: 0.0, sums: vec![0.0; first.sums.len()], clusters: first.clusters };
        for one in of {
            if one.sums.len() != mean.sums.len() {
                return None;
            }
            mean.value += share * one.value;
            mean.sums.iter_mut().zip(&one.sums).for_each(|(sum, own)| *sum += share * own);
        }
        Some(mean)
    }

    /// This less another one of the same observations (DeLong, DeLong & Clarke-Pearson 1988, §2).
    pub fn minus(&self, other: &Self) -> Option<Self> {
        let sums = self.sums.iter().zip(&other.sums).map(|(a, b)| a - b).collect();
        let is_same = self.sums.len() == other.sums.len();
        is_same.then_some(Self { value: self.value - other.value, sums, clusters: self.clusters })
    }

    /// Of the value; needs two clusters.
    pub fn variance(&self) -> Option<f64> {
        let clusters = self.clusters as f64;
        (self.clusters >= 2).then(|| clusters / (clusters - 1.0) * self.sums.iter().map(|s| s * s).sum::<f64>())
    }

    /// 95 % limits by the normal law, kept within these.
    pub fn limits(&self, least: f64, most: f64) -> Option<(f64, f64)> {
        let half = Z_95 * self.variance()?.sqrt();
        Some(((self.value - half).max(least), (self.value + half).min(most)))
    }
}

/// For every observation the share of the other class that it beats (positives) or is beaten by (negatives).
struct Placements {
    values: Vec<f64>,
    positives: usize,
    negatives: usize,
    auc: f64,
}

impl Placements {
    fn of(scores: &[f64], positive: &[bool]) -> Option<Self> {
        let positives = positive.iter().filter(|&&p| p).count();
        let negatives = positive.len() - positives;
        if scores.len() != positive.len() || positives == 0 || negatives == 0 || scores.iter().any(|s| s.is_nan()) {
            return None;
        }
        let class = |wanted: bool| -> Vec<f64> {
            scores.iter().zip(positive).filter(|&(_, &p)| p == wanted).map(|(&s, _)| s).collect()
        };
        let (all, own) = (midranks(scores), [midranks(&class(false)), midranks(&class(true))]);
        let mut next = [0, 0];
        let mut values = Vec::with_capacity(scores.len());
        for (&is_positive, rank) in positive.iter().zip(all) {
            let side = usize::from(is_positive);
            let beaten = rank - own[side][next[side]];
            next[side] += 1;
            values.push(if is_positive { beaten / negatives as f64 } else { 1.0 - beaten / positives as f64 });
        }
        let sum: f64 = values.iter().zip(positive).filter(|&(_, &p)| p).map(|(v, _)| v).sum();
        Some(Self { values, positives, negatives, auc: sum / positives as f64 })
    }

    fn estimate(&self, variance: f64) -> AucEstimate {
        let half = Z_95 * variance.sqrt();
        AucEstimate { auc: self.auc, variance, lower: (self.auc - half).max(0.0), upper: (self.auc + half).min(1.0) }
    }
}

/// Ranks from 1, ties share their mean.
fn midranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count();
        for &i in &order[start..start + tied] {
            ranks[i] = start as f64 + (tied as f64 + 1.0) / 2.0;
        }
        start += tied;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The reference folder beside the checkout, or where the environment says.
    fn shared() -> std::path::PathBuf {
        std::env::var_os("SIDELIGHT_SHARED").map_or_else(
            || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
            std::path::PathBuf::from,
        )
    }

    #[test]
    fn reproduces_the_published_aucs_of_the_chexpert_race_posteriors() {
        let path = shared().join("oracle/chexpert_race_posteriors.csv");
        let mut reader = csv::Reader::from_path(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; set SIDELIGHT_SHARED to the reference folder", path.display()));
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 38_240);
        let check = |(column, label): (usize, &str), expected: [f64; 3]| {
            let scores: Vec<f64> = rows.iter().map(|r| r[column].parse().unwrap()).collect();
            let positive: Vec<bool> = rows.iter().map(|r| &r[4] == label).collect();
            let got = delong(&scores, &positive).unwrap();
            for (value, published) in [got.auc, got.lower, got.upper].into_iter().zip(expected) {
                // The published figures have four decimals.
                assert!((value - published).abs() < 1e-4, "{label}: {got:?}");
            }
        };
        check((1, "ASIAN"), [0.9755, 0.9735, 0.9776]);
        check((2, "BLACK/AFRICAN AMERICAN"), [0.9806, 0.9779, 0.9832]);
        check((3, "WHITE"), [0.9737, 0.9719, 0.9754]);
    }

    #[test]
    fn ties_count_half() {
        let check = |scores: &[f64], positive: &[bool], expected| assert_eq!(auc(scores, positive), expected);
        check(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true], Some(0.75));
        check(&[0.5, 0.5, 0.5, 0.5], &[false, true, false, true], Some(0.5));
        check(&[0.1, 0.2, 0.2, 0.9], &[false, false, true, true], Some(0.875));
        check(&[0.1, 0.2], &[true, true], None);
        check(&[f64::NAN, 0.2], &[true, false], None);
    }

    #[test]
    fn clusters_of_one_give_delongs_variance_and_copies_give_no_new_information() {
        let mut scores: Vec<f64> = (0..200).map(|i| f64::from((i * 37) % 101) / 100.0).collect();
        let mut positive: Vec<bool> = (0..200).map(|i| (i * 37) % 101 + (i * 17) % 80 > 90).collect();
        let mut cluster: Vec<usize> = (0..200).collect();
        let (plain, alone) =
            (delong(&scores, &positive).unwrap(), delong_clustered(&scores, &positive, &cluster).unwrap());
        // The finite-sample factors differ (m−1, n−1 against the number of clusters).
        assert!((plain.variance / alone.variance - 1.0).abs() < 0.02, "{plain:?} {alone:?}");
        scores.extend(scores.clone());
        positive.extend(positive.clone());
        cluster.extend(cluster.clone());
        let doubled = delong_clustered(&scores, &positive, &cluster).unwrap();
        assert!((doubled.variance / alone.variance - 1.0).abs() < 1e-9);
        assert!(delong(&scores, &positive).unwrap().variance < 0.6 * doubled.variance);
    }

    #[test]
    fn differences_are_sure_where_scores_agree_and_unsure_where_they_do_not() {
        let scores: Vec<f64> = (0..200).map(|i| f64::from((i * 37) % 101) / 100.0).collect();
        let positive: Vec<bool> = (0..200).map(|i| (i * 37) % 101 + (i * 17) % 80 > 90).collect();
        let cluster: Vec<usize> = (0..200).map(|i| i / 2).collect();
        let one = AucInfluence::of(&scores, &positive, &cluster).unwrap();
        let same = one.minus(&one).unwrap();
        assert_eq!((same.value, same.variance()), (0.0, Some(0.0)));
        // A score that knows nothing: its error is its own.
        let unknowing: Vec<f64> = (0..200).map(|i| f64::from((i * 61) % 199)).collect();
        let other = AucInfluence::of(&unknowing, &positive, &cluster).unwrap();
        let difference = one.minus(&other).unwrap();
        assert!((difference.value - (one.value - other.value)).abs() < 1e-12);
        let (whole, parts) = (difference.variance().unwrap(), one.variance().unwrap() + other.variance().unwrap());
        assert!((whole / parts - 1.0).abs() < 0.35, "{whole} {parts}");
        // The jackknife, which knows nothing of placements.
        let left_out = |c: usize| {
            let rows: Vec<usize> = (0..200).filter(|i| cluster[*i] != c).collect();
            let of = |values: &[f64]| {
                let class: Vec<bool> = rows.iter().map(|i| positive[*i]).collect();
                auc(&rows.iter().map(|i| values[*i]).collect::<Vec<f64>>(), &class).unwrap()
            };
            of(&scores) - of(&unknowing)
        };
        let without: Vec<f64> = (0..100).map(left_out).collect();
        let centre = without.iter().sum::<f64>() / 100.0;
        let jackknife = 0.99 * without.iter().map(|v| (v - centre).powi(2)).sum::<f64>();
        assert!((jackknife / whole - 1.0).abs() < 0.03, "{jackknife} {whole}");
        let mean = AucInfluence::mean(&[one.clone(), one.clone()]).unwrap();
        assert!((mean.variance().unwrap() / one.variance().unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(one.minus(&AucInfluence::of(&[0.1, 0.2], &[true, false], &[0, 1]).unwrap()), None);
    }

    proptest! {
        #[test]
        fn the_auc_is_the_share_of_won_pairs(rows in prop::collection::vec((0u8..20, any::<bool>()), 2..60)) {
            let scores: Vec<f64> = rows.iter().map(|r| f64::from(r.0)).collect();
            let positive: Vec<bool> = rows.iter().map(|r| r.1).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for i in (0..rows.len()).filter(|&i| positive[i]) {
                for j in (0..rows.len()).filter(|&j| !positive[j]) {
                    pairs += 1.0;
                    won += if scores[i] > scores[j] { 1.0 } else if scores[i] == scores[j] { 0.5 } else { 0.0 };
                }
            }
            match auc(&scores, &positive) {
                Some(value) => prop_assert!((value - won / pairs).abs() < 1e-12),
                None => prop_assert_eq!(pairs, 0.0),
            }
        }
    }
}
