//! Prior shift: the group mix of a new site from posteriors of an old one (Saerens, Latinne & Decaestecker 2002).
//!
//! It assumes that images of a group look alike at both sites. A profile is fitted on the site's own labels and
//! does not need it; it serves sites that watch how their mix moves away from the profile's.

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
        if moved < 1e-9 {
            return Ok(current);
        }
    }
    Err(NumericsError::NotConverged(STEPS))
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

    #[test]
    fn refuses_rows_that_do_not_fit_the_prior() {
        assert_eq!(saerens(&[], &[1.0]), Err(NumericsError::Shape));
        assert_eq!(saerens(&[vec![0.5, 0.5]], &[1.0]), Err(NumericsError::Shape));
        assert_eq!(saerens(&[vec![0.5, 0.5]], &[1.0, 0.0]), Err(NumericsError::NotFinite));
    }
}
