//! Whether groups differ at all: patients are given each other's groups.
//!
//! A rate is hits over cases, both sums over patients; a calibration intercept is, to first order, residuals over
//! variances, which are sums too. Differences are studentised, so that groups of other sizes and spreads do not make a
//! small p (Janssen 1997; Chung & Romano 2013). Left out: how large a gap is.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::stats::Tally;

/// p values of the same ratio in all groups.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Permuted {
    /// By the largest difference of two groups in standard errors.
    pub(super) omnibus: f64,
    /// Of each group against all others together.
    pub(super) against_rest: Vec<f64>,
}

/// What the ratio and its error follow from.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    hits: f64,
    cases: f64,
    hits_hits: f64,
    hits_cases: f64,
    cases_cases: f64,
    clusters: f64,
}

/// `tallies` of patients with a case, in groups `0..groups`. The permutation that is seen counts too, so no p is 0.
pub(super) fn permuted(tallies: &[Tally], groups: usize, draws: u64, seed: u64) -> Option<Permuted> {
    if groups < 2 || tallies.iter().any(|t| t.group >= groups) {
        return None;
    }
    let own: Vec<u8> = tallies.iter().map(|t| t.group as u8).collect();
    let (seen, against) = statistics(tallies, &own, groups)?;
    let one = |draw: u64| -> Vec<u64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(draw);
        let mut own = own.clone();
        own.shuffle(&mut rng);
        let drawn = statistics(tallies, &own, groups);
        // Where there is nothing to compare it counts as extreme.
        let Some((omnibus, rest)) = drawn else { return vec![1; groups + 1] };
        let as_large = |drawn: f64, seen: f64| u64::from(drawn >= seen - 1e-12);
        let rest = rest.iter().zip(&against).map(|(drawn, seen)| as_large(*drawn, *seen));
        std::iter::once(as_large(omnibus, seen)).chain(rest).collect()
    };
    let add = |a: Vec<u64>, b: Vec<u64>| a.into_iter().zip(b).map(|(a, b)| a + b).collect();
    let counts = (0..draws).into_par_iter().map(one).reduce(|| vec![0; groups + 1], add);
    let p: Vec<f64> = counts.into_iter().map(|count| (count + 1) as f64 / (draws + 1) as f64).collect();
    Some(Permuted { omnibus: p[0], against_rest: p[1..].to_vec() })
}

/// The largest |t| of two groups, and |t| of each against the rest.
fn statistics(tallies: &[Tally], group: &[u8], groups: usize) -> Option<(f64, Vec<f64>)> {
    let mut sums = vec![Sums::default(); groups];
    for (tally, &group) in tallies.iter().zip(group) {
        sums[usize::from(group)].add(tally);
    }
    let all = sums.iter().fold(Sums::default(), |a, b| a.plus(b, 1.0));
    let of: Vec<(f64, f64)> = sums.iter().map(Sums::ratio).collect::<Option<_>>()?;
    let t = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() / (a.1 + b.1).sqrt().max(f64::MIN_POSITIVE);
    let pairs = (0..groups).flat_map(|a| (a + 1..groups).map(move |b| (a, b)));
    let omnibus = pairs.map(|(a, b)| t(of[a], of[b])).fold(0.0, f64::max);
    let rest = sums.iter().zip(&of).map(|(own, ratio)| Some(t(*ratio, all.plus(own, -1.0).ratio()?)));
    Some((omnibus, rest.collect::<Option<_>>()?))
}

impl Sums {
    fn add(&mut self, tally: &Tally) {
        self.hits += tally.hits;
        self.cases += tally.cases;
        self.hits_hits += tally.hits * tally.hits;
        self.hits_cases += tally.hits * tally.cases;
        self.cases_cases += tally.cases * tally.cases;
        self.clusters += 1.0;
    }

    fn plus(self, other: &Self, sign: f64) -> Self {
        Self {
            hits: self.hits + sign * other.hits,
            cases: self.cases + sign * other.cases,
            hits_hits: self.hits_hits + sign * other.hits_hits,
            hits_cases: self.hits_cases + sign * other.hits_cases,
            cases_cases: self.cases_cases + sign * other.cases_cases,
            clusters: self.clusters + sign * other.clusters,
        }
    }

    /// The ratio and its variance (linearised), which is not below that of one hit more than none.
    fn ratio(&self) -> Option<(f64, f64)> {
        if self.cases <= 0.0 {
            return None;
        }
        let ratio = self.hits / self.cases;
        let squares = self.hits_hits - 2.0 * ratio * self.hits_cases + ratio * ratio * self.cases_cases;
        Some((ratio, squares.max(1.0 / self.clusters.max(1.0)) / (self.cases * self.cases)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    fn tallies(rates: &[f64], sizes: &[usize], seed: u64) -> Vec<Tally> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tallies = Vec::new();
        for (group, (rate, size)) in rates.iter().zip(sizes).enumerate() {
            for _ in 0..*size {
                let cases = rng.random_range(1..=3);
                let is_hit = rng.random_bool(*rate);
                let hits = if is_hit { f64::from(cases) } else { 0.0 };
                tallies.push(Tally { group, hits, cases: f64::from(cases) });
            }
        }
        tallies
    }

    #[test]
    fn without_a_gap_one_of_twenty_is_found_and_a_gap_is() {
        let found = |rates: &[f64]| {
            let p = |seed| permuted(&tallies(rates, &[40, 80, 200], seed), 3, 199, seed).unwrap();
            let p: Vec<Permuted> = (0..200).map(p).collect();
            let share = |of: &dyn Fn(&Permuted) -> f64| p.iter().filter(|p| of(p) <= 0.05).count();
            [share(&|p| p.omnibus), share(&|p| p.against_rest[0]), share(&|p| p.against_rest[2])]
        };
        // Three standard errors above 10 of 200.
        let none = found(&[0.2, 0.2, 0.2]);
        assert!(none.iter().all(|count| *count <= 19), "{none:?}");
        let gap = found(&[0.5, 0.2, 0.2]);
        assert!(gap[0] >= 180 && gap[1] >= 180, "{gap:?}");
    }

    #[test]
    fn two_groups_of_single_cases_have_fishers_p() {
        // Of 12 and 12 patients 9 and 2 are hits: scipy.stats.fisher_exact([[9, 3], [2, 10]]) has p = 0.012302.
        let one = |group: usize, hit: bool| Tally { group, hits: f64::from(u8::from(hit)), cases: 1.0 };
        let all: Vec<Tally> = (0..12).map(|i| one(0, i < 9)).chain((0..12).map(|i| one(1, i < 2))).collect();
        let p = permuted(&all, 2, 20_000, 3).unwrap();
        assert!((p.omnibus - 0.0123).abs() < 0.003, "{p:?}");
        assert_eq!(p.omnibus, p.against_rest[0]);
        assert_eq!(permuted(&all, 1, 10, 1), None);
    }
}
