//! Prior shift: the group mix of a new site from posteriors of an old one (Saerens, Latinne & Decaestecker 2002).
//!
//! It assumes that images of a group look alike at both sites, and posteriors that are calibrated under the old mix.
//! Neighbours: `analyse` estimates and reweighs with it, where a site asks for that. Left out: whether it is wanted; a
//! profile that was fitted on the site's own labels knows its mix already.

use super::NumericsError;

/// The new prior by EM from posteriors (rows, one probability per group) that hold under `prior`.
pub fn saerens(posteriors: &[Vec<f64>], prior: &[f64]) -> Result<Vec<f64>, NumericsError> {
    const STEPS: usize = 10_000;
    if posteriors.is_empty() || posteriors.iter().any(|p| p.len() != prior.len()) {
        return Err(NumericsError::Shape);
    }
    if prior.iter().any(|&p| !(p > 0.0 && p <= 1.0)) || posteriors.iter().flatten().any(|p| !p.is_finite()) {
        return Err(NumericsError::NotFinite);
    }
    let mut current = prior.to_vec();
    for _ in 0..STEPS {
        let mut next = vec![0.0; prior.len()];
        for row in posteriors {
            let tilted: Vec<f64> = row.iter().zip(&current).zip(prior).map(|((p, c), q)| p * c / q).collect();
            let sum: f64 = tilted.iter().sum();
            if sum <= 0.0 {
                return Err(NumericsError::NotFinite);
            }
            next.iter_mut().zip(tilted).for_each(|(n, t)| *n += t / sum / posteriors.len() as f64);
        }
        let moved = next.iter().zip(&current).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        current = next;
        // Shares that go to zero do so ever more slowly; none is known to a thousandth.
        if moved < 1e-7 {
            return Ok(current);
        }
    }
    Err(NumericsError::NotConverged(STEPS))
}

/// Posteriors that hold under `from`, as they are under `to`: p · to / from, on a sum of 1. `None` where nothing is left,
/// or lengths differ.
pub fn reweighed(posterior: &[f64], from: &[f64], to: &[f64]) -> Option<Vec<f64>> {
    if posterior.len() != from.len() || posterior.len() != to.len() {
        return None;
    }
    let tilted: Vec<f64> = posterior.iter().zip(from).zip(to).map(|((p, f), t)| p * t / f).collect();
    let sum: f64 = tilted.iter().sum();
    (sum > 0.0 && sum.is_finite()).then(|| tilted.iter().map(|t| t / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mix_of_a_site_whose_groups_look_alike_but_are_otherwise_frequent() {
        // Even priors at the old site; 30 % of the new site is of the first group,
        // so the first kind of image makes up .3·.8 + .7·.2 of it when P(first kind | group) is .8 and .2.
        let kinds = [vec![0.8, 0.2], vec![0.2, 0.8]];
        let share = 0.3 * 0.8 + 0.7 * 0.2;
        let count = (share * 1000.0_f64).round() as usize;
        let rows: Vec<Vec<f64>> = (0..1000).map(|i| kinds[usize::from(i >= count)].clone()).collect();
        let prior = saerens(&rows, &[0.5, 0.5]).unwrap();
        assert!((prior[0] - 0.3).abs() < 1e-5, "{prior:?}");
    }

    /// Three groups whose images are normal around corners of a triangle, half as far apart as makes the posteriors
    /// sure, and a model that was trained on equal shares. The prior's standard error at 2,000 studies is some .012.
    #[test]
    fn recovers_a_known_mix_and_reweighed_posteriors_are_calibrated_under_it() {
        use rand::{Rng as _, SeedableRng as _};
        use rand_distr::{Distribution as _, StandardNormal};
        let corners = [[0.0, 0.0], [2.0, 0.0], [1.0, 1.7]];
        let even = [1.0 / 3.0; 3];
        for (seed, truth) in [(1, [0.1, 0.3, 0.6]), (2, [0.02, 0.18, 0.8]), (3, [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0])] {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let (mut posteriors, mut groups) = (Vec::new(), Vec::new());
            for _ in 0..2000 {
                let u: f64 = rng.random();
                let group = if u < truth[0] { 0 } else { usize::from(u >= truth[0] + truth[1]) + 1 };
                let noise: [f64; 2] = [StandardNormal.sample(&mut rng), StandardNormal.sample(&mut rng)];
                let seen = [corners[group][0] + noise[0], corners[group][1] + noise[1]];
                let likelihood = |c: &[f64; 2]| (-((seen[0] - c[0]).powi(2) + (seen[1] - c[1]).powi(2)) / 2.0).exp();
                let all: Vec<f64> = corners.iter().map(likelihood).collect();
                posteriors.push(all.iter().map(|l| l / all.iter().sum::<f64>()).collect::<Vec<f64>>());
                groups.push(group);
            }
            let found = saerens(&posteriors, &even).unwrap();
            assert!(found.iter().zip(truth).all(|(f, t)| (f - t).abs() < 0.04), "{found:?} for {truth:?}");
            let moved: Vec<Vec<f64>> = posteriors.iter().map(|p| reweighed(p, &even, &found).unwrap()).collect();
            let error = |p: &[Vec<f64>]| crate::stats::classwise_calibration_error(p, &groups, 10).unwrap();
            assert!(error(&moved) < 0.025, "{} for {truth:?}", error(&moved));
            assert!(truth == even || error(&posteriors) > 2.0 * error(&moved), "{truth:?}");
        }
    }

    #[test]
    fn reweighing_keeps_the_simplex_and_says_where_it_cannot() {
        assert_eq!(reweighed(&[0.25, 0.75], &[0.5, 0.5], &[0.5, 0.5]), Some(vec![0.25, 0.75]));
        let found = reweighed(&[0.5, 0.5, 0.0], &[0.5, 0.25, 0.25], &[0.25, 0.5, 0.25]).unwrap();
        assert!((found[0] - 0.2).abs() < 1e-12 && (found[1] - 0.8).abs() < 1e-12 && found[2] == 0.0);
        assert_eq!(reweighed(&[1.0, 0.0], &[0.5, 0.5], &[0.0, 1.0]), None);
        assert_eq!(reweighed(&[1.0], &[0.5, 0.5], &[0.5, 0.5]), None);
    }

    #[test]
    fn refuses_rows_that_do_not_fit_the_prior() {
        assert_eq!(saerens(&[], &[1.0]), Err(NumericsError::Shape));
        assert_eq!(saerens(&[vec![0.5, 0.5]], &[1.0]), Err(NumericsError::Shape));
        assert_eq!(saerens(&[vec![0.5, 0.5]], &[1.0, 0.0]), Err(NumericsError::NotFinite));
    }
}
