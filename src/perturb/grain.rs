//! Noise and blur.
//!
//! Noise comes from a counter (SplitMix64, then Box and Muller): a few lines in any language give the same field, which
//! the reference in numpy does. Blur is scipy's `gaussian_filter`: a kernel of ⌊4σ + ½⌋ pixels to either side, edges
//! mirrored with the last pixel repeated.

use super::Plane;

/// Adds the noise field with this number under this seed.
pub(super) fn noisy(values: &[f32], sigma: f64, seed: u64, field: u64) -> Vec<f32> {
    let start = mixed(seed.wrapping_add(mixed(field)));
    let uniform = |counter: u64| (mixed(start.wrapping_add(counter)) >> 11) as f64 / (1u64 << 53) as f64;
    let mut noisy = Vec::with_capacity(values.len());
    for (pair, two) in (0u64..).zip(values.chunks(2)) {
        // Above 0, so that its logarithm is finite.
        let radius = (-2.0 * (1.0 - uniform(2 * pair)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * uniform(2 * pair + 1)).sin_cos();
        noisy.extend(two.iter().zip([cos, sin]).map(|(v, turn)| (f64::from(*v) + sigma * radius * turn) as f32));
    }
    noisy
}

/// SplitMix64's finaliser (Steele 2014) of its counter.
fn mixed(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn blurred(plane: &Plane, sigma: f64) -> Vec<f32> {
    let (side, kernel) = (plane.side, kernel(sigma));
    let reach = kernel.len() - 1;
    // A row with what the mirrors at its ends show.
    let places: Vec<usize> = (0..side + 2 * reach).map(|at| mirrored(at as isize - reach as isize, side)).collect();
    let mut wide = vec![0.0; places.len()];
    let mut rows = vec![0.0; side * side];
    for (row, sums) in plane.values.chunks(side).zip(rows.chunks_mut(side)) {
        wide.iter_mut().zip(&places).for_each(|(to, place)| *to = row[*place]);
        for (distance, weight) in kernel.iter().enumerate() {
            add(sums, *weight, &wide[reach - distance..], &wide[reach + distance..]);
        }
    }
    let mut values = vec![0.0; side * side];
    for (at, sums) in values.chunks_mut(side).enumerate() {
        for (distance, weight) in kernel.iter().enumerate() {
            let row = |place: usize| &rows[places[place] * side..];
            add(sums, *weight, row(reach + at - distance), row(reach + at + distance));
        }
    }
    values
}

/// The same from plane to plane, pixel by pixel; planes of several sides are left as they are.
pub(super) fn blur_across(planes: &mut [Plane], sigma: f64) {
    let Some(side) = planes.first().map(|plane| plane.side) else { return };
    if planes.iter().any(|plane| plane.side != side) {
        return;
    }
    let kernel = kernel(sigma);
    let blurred = |at: usize| {
        let mut sums = vec![0.0; side * side];
        for (distance, weight) in (0isize..).zip(&kernel) {
            let plane = |at: isize| planes[mirrored(at, planes.len())].values.as_slice();
            add(&mut sums, *weight, plane(at as isize - distance), plane(at as isize + distance));
        }
        sums
    };
    let all: Vec<Vec<f32>> = (0..planes.len()).map(blurred).collect();
    planes.iter_mut().zip(all).for_each(|(plane, values)| plane.values = values);
}

/// Adds what lies at the same distance on both sides, as far as there are sums.
fn add(sums: &mut [f32], weight: f32, before: &[f32], after: &[f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(before).zip(after) {
        *sum += weight * (a + b);
    }
}

/// Weights from the centre outwards, each for two pixels, the centre's for itself twice; all of them sum to 1.
fn kernel(sigma: f64) -> Vec<f32> {
    let reach = (4.0 * sigma + 0.5) as usize;
    let mut weights: Vec<f64> = (0..=reach).map(|x| (-0.5 * (x as f64 / sigma).powi(2)).exp()).collect();
    weights[0] /= 2.0;
    let sum = 2.0 * weights.iter().sum::<f64>();
    weights.iter().map(|w| (w / sum) as f32).collect()
}

/// The place within 0..length that a mirror at both ends shows: … c b a | a b c | c b a …
fn mirrored(at: isize, length: usize) -> usize {
    let length = length as isize;
    let within = at.rem_euclid(2 * length);
    (if within < length { within } else { 2 * length - 1 - within }) as usize
}
