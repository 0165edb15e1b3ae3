//! How far a rate differs between groups: the largest less the smallest.
//!
//! Of several rates that are equal the largest exceeds the smallest by chance, so the observed gap is too large, and
//! percentiles of its bootstrap, bias-corrected or not, hardly ever reach 0.
//! Here the gap is less its bootstrap bias, its limits are those of all differences of two groups at once (the largest
//! |t| of the bootstrap), and a permutation of clusters says whether there is one at all. Clusters (patients) are the
//! units. Left out: which rate it is.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{ClusterBootstrap, quantile, standard_deviation};

/// Of a cluster: its group, and how many of its cases were hits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tally {
    /// `0..groups`.
    pub group: usize,
    pub hits: f64,
    /// At least `hits`.
    pub cases: f64,
}

/// The gap of a rate over groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The largest rate less the smallest.
    pub observed: f64,
    /// The same less what chance adds to it, at least 0.
    pub value: f64,
    /// 95 % limits; the lower one is 0 where a permutation gives as much in one of 20.
    pub lower: f64,
    pub upper: f64,
    /// Of the same rate in all groups.
    pub p: f64,
}

/// Draws without a case in some group are not used; beyond this share of them there is no result.
const EMPTY_MAX: f64 = 0.1;

/// The gap over `groups` groups, by `draws` of the bootstrap and as many permutations. `None` of fewer than two groups,
/// or where a group has no case, or none in too many draws.
pub fn spread(tallies: &[Tally], groups: usize, draws: u64, seed: u64) -> Option<Spread> {
    if groups < 2 || tallies.iter().any(|t| t.group >= groups) {
        return None;
    }
    let weights = vec![1.0; tallies.len()];
    let rates = rates(tallies, &weights, |at| tallies[at].group, groups)?;
    let observed = gap(&rates);
    let bootstrap = ClusterBootstrap { clusters: tallies.len(), seed };
    let of_draw = |_, weight: &[f64]| self::rates(tallies, weight, |at| tallies[at].group, groups);
    let drawn: Vec<Vec<f64>> = bootstrap.map(draws, of_draw).into_iter().flatten().collect();
    if drawn.is_empty() || (drawn.len() as f64) < draws as f64 * (1.0 - EMPTY_MAX) {
        return None;
    }
    let bias = drawn.iter().map(|rates| gap(rates)).sum::<f64>() / drawn.len() as f64 - observed;
    let pairs: Vec<(usize, usize)> = (0..groups).flat_map(|a| (a + 1..groups).map(move |b| (a, b))).collect();
    let error = |&(a, b): &(usize, usize)| {
        let differences: Vec<f64> = drawn.iter().map(|rates| rates[a] - rates[b]).collect();
        // Of rates near 0 or 1 a bootstrap knows too little (Agresti & Caffo 2000).
        let few = smoothed(tallies, a, rates[a]) + smoothed(tallies, b, rates[b]);
        standard_deviation(&differences).max(few.sqrt())
    };
    let errors: Vec<f64> = pairs.iter().map(error).collect();
    let t = |of: &Vec<f64>| {
        let one = |((a, b), error): (&(usize, usize), &f64)| {
            ((of[*a] - of[*b]) - (rates[*a] - rates[*b])).abs() / error.max(f64::MIN_POSITIVE)
        };
        pairs.iter().zip(&errors).map(one).fold(0.0, f64::max)
    };
    let mut largest: Vec<f64> = drawn.iter().map(t).collect();
    largest.sort_unstable_by(f64::total_cmp);
    let critical = quantile(&largest, 0.95)?.max(super::Z_95);
    let side = |sign: f64| {
        let of = |((a, b), error): (&(usize, usize), &f64)| (rates[*a] - rates[*b]).abs() + sign * critical * error;
        pairs.iter().zip(&errors).map(of).fold(0.0, f64::max).min(1.0)
    };
    let p = permutation(tallies, groups, observed, draws, seed);
    let value = (observed - bias).clamp(0.0, 1.0);
    let lower = if p > 0.05 { 0.0 } else { side(-1.0).min(value) };
    Some(Spread { observed, value, lower, upper: side(1.0), p })
}

/// The share of ways to give clusters their groups whose gap is as large, the one that was seen among them.
fn permutation(tallies: &[Tally], groups: usize, observed: f64, draws: u64, seed: u64) -> f64 {
    let weights = vec![1.0; tallies.len()];
    let as_large = |draw: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // The bootstrap's streams begin at 0.
        rng.set_stream(u64::MAX / 2 + draw);
        let mut own: Vec<usize> = tallies.iter().map(|t| t.group).collect();
        own.shuffle(&mut rng);
        rates(tallies, &weights, |at| own[at], groups).is_none_or(|rates| gap(&rates) >= observed - 1e-12)
    };
    let count = (0..draws).into_par_iter().filter(|draw| as_large(*draw)).count();
    (count + 1) as f64 / (draws + 1) as f64
}

/// The variance of a group's rate with one hit and one miss more, by its clusters.
fn smoothed(tallies: &[Tally], group: usize, rate: f64) -> f64 {
    let clusters = tallies.iter().filter(|t| t.group == group && t.cases > 0.0).count() as f64;
    let rate = (rate * clusters + 1.0) / (clusters + 2.0);
    rate * (1.0 - rate) / (clusters + 2.0)
}

/// Of each group; `None` where one has no case.
fn rates(tallies: &[Tally], weights: &[f64], group: impl Fn(usize) -> usize, groups: usize) -> Option<Vec<f64>> {
    let mut sums = vec![(0.0, 0.0); groups];
    for (at, (tally, weight)) in tallies.iter().zip(weights).enumerate() {
        let (hits, cases) = &mut sums[group(at)];
        *hits += weight * tally.hits;
        *cases += weight * tally.cases;
    }
    sums.into_iter().map(|(hits, cases)| (cases > 0.0).then(|| hits / cases)).collect()
}

fn gap(rates: &[f64]) -> f64 {
    let largest = rates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest - rates.iter().copied().fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    /// Patients with up to three cases each, which hang together.
    fn world(sizes: &[usize], rates: &[f64], seed: u64) -> Vec<Tally> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tallies = Vec::new();
        for (group, (size, rate)) in sizes.iter().zip(rates).enumerate() {
            for _ in 0..*size {
                let cases = rng.random_range(1..=3);
                let is_hit = rng.random_bool(*rate);
                let hits = (0..cases).filter(|_| if rng.random_bool(0.5) { is_hit } else { rng.random_bool(*rate) });
                tallies.push(Tally { group, hits: hits.count() as f64, cases: f64::from(cases) });
            }
        }
        tallies
    }

    const WORLDS: u64 = 120;

    /// How often limits hold the truth, how often p is at most .05, and the mean of what was seen and of the value.
    fn tried(sizes: &[usize], rates: &[f64]) -> (u64, u64, f64, f64) {
        let truth = gap(rates);
        let (mut covered, mut found, mut seen, mut value) = (0, 0, 0.0, 0.0);
        for seed in 0..WORLDS {
            let s = spread(&world(sizes, rates, seed), sizes.len(), 300, seed).unwrap();
            covered += u64::from(s.lower <= truth && truth <= s.upper);
            found += u64::from(s.p <= 0.05);
            seen += s.observed / WORLDS as f64;
            value += s.value / WORLDS as f64;
        }
        (covered, found, seen, value)
    }

    #[test]
    fn limits_hold_no_gap_and_a_gap_and_permutations_err_in_one_of_twenty() {
        // Three standard errors below 95 % of 120, and above 5 %.
        let (least, most) = (106, 13);
        let (covered, found, seen, value) = tried(&[40, 80, 160], &[0.2, 0.2, 0.2]);
        assert!(covered >= least && found <= most, "no gap: {covered} and {found} of {WORLDS}");
        assert!(value < 0.8 * seen, "no gap: {seen} was seen, {value} is told");
        let (covered, found, ..) = tried(&[40, 80, 160], &[0.02, 0.02, 0.02]);
        assert!(covered >= least && found <= most, "rare: {covered} and {found} of {WORLDS}");
        let (covered, found, _, value) = tried(&[60, 80, 160], &[0.4, 0.2, 0.15]);
        assert!(covered >= least && found >= 90, "a gap: {covered} and {found} of {WORLDS}");
        assert!((value - 0.25).abs() < 0.02, "{value}");
        let (covered, ..) = tried(&[60, 80], &[0.4, 0.2]);
        assert!(covered >= least, "two groups: {covered} of {WORLDS}");
    }

    #[test]
    fn what_has_no_gap_is_none() {
        let one = |group| Tally { group, hits: 1.0, cases: 1.0 };
        assert_eq!(spread(&[one(0), one(0)], 2, 100, 1), None, "nobody in the second group");
        assert_eq!(spread(&[one(0)], 1, 100, 1), None);
        assert_eq!(spread(&[one(2)], 2, 100, 1), None);
        let all: Vec<Tally> = (0..60).map(|i| one(i % 2)).collect();
        let same = spread(&all, 2, 100, 1).unwrap();
        assert_eq!((same.observed, same.value, same.lower, same.p), (0.0, 0.0, 0.0, 1.0));
        assert!(same.upper > 0.05, "30 patients of each do not show that there is no gap: {same:?}");
        assert_eq!(spread(&all, 2, 100, 1), spread(&all, 2, 100, 1));
    }
}
