//! How long to wait after a failed delivery: exponential, bounded, spread by a seed. Pure.
//!
//! Neighbours: `serve` keeps the attempts and the clock. Left out: giving up, which the configuration decides.

use std::time::Duration;

/// The wait after the `attempt`th failure (1 is the first): `first` doubled with each further failure, at most
/// `max`, then shortened by up to a fifth so that deliveries that failed together do not return together. The same
/// seed (say, the number of the delivery) gives the same wait.
pub fn backoff(attempt: u32, first: Duration, max: Duration, seed: u64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(63);
    let full = u32::try_from(1_u64 << doublings.min(31)).map_or(max, |factor| first.saturating_mul(factor)).min(max);
    let share = mix(seed ^ u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15)) as f64 / u64::MAX as f64;
    full.mul_f64(1.0 - 0.2 * share).min(max)
}

/// The finaliser of SplitMix64: every bit of the seed moves every bit of the result.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let (first, max) = (Duration::from_secs(10), Duration::from_secs(100));
        let rows = [(0, 10), (1, 10), (2, 20), (3, 40), (4, 80), (5, 100), (40, 100), (u32::MAX, 100)];
        for (attempt, seconds) in rows {
            let wait = backoff(attempt, first, max, 7).as_secs_f64();
            assert!((0.8 * seconds as f64..=seconds as f64).contains(&wait), "attempt {attempt}: {wait}");
        }
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_the_limit_or_falls_below_four_fifths_of_the_first(
            attempt: u32, first in 1..100_000_u64, more in 0..10_000_000_u64, seed: u64
        ) {
            let (first, max) = (Duration::from_millis(first), Duration::from_millis(first + more));
            let wait = backoff(attempt, first, max, seed);
            prop_assert!(wait <= max);
            prop_assert!(wait >= first.mul_f64(0.799));
            prop_assert_eq!(wait, backoff(attempt, first, max, seed));
        }

        #[test]
        fn the_wait_never_shrinks_by_more_than_the_spread(attempt in 1..40_u32, seed: u64) {
            let (first, max) = (Duration::from_secs(1), Duration::from_secs(3600));
            let (now, next) = (backoff(attempt, first, max, seed), backoff(attempt + 1, first, max, seed));
            prop_assert!(next >= now.mul_f64(0.799));
        }
    }
}
