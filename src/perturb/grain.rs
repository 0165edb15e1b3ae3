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
    let mut values: Vec<f64> = plane.values.iter().map(|v| f64::from(*v)).collect();
    let mut line = vec![0.0; side];
    for row in values.chunks_mut(side) {
        smooth(&kernel, side, |at| row[at], &mut line);
        row.copy_from_slice(&line);
    }
    for column in 0..side {
        smooth(&kernel, side, |at| values[at * side + column], &mut line);
        line.iter().enumerate().for_each(|(at, v)| values[at * side + column] = *v);
    }
    values.iter().map(|v| *v as f32).collect()
}

/// The same from plane to plane, pixel by pixel; planes of several sides are left as they are.
pub(super) fn blur_across(planes: &mut [Plane], sigma: f64) {
    let count = planes.len();
    let Some(side) = planes.first().map(|plane| plane.side) else { return };
    if planes.iter().any(|plane| plane.side != side) {
        return;
    }
    let (kernel, mut line) = (kernel(sigma), vec![0.0; count]);
    for at in 0..side * side {
        smooth(&kernel, count, |place| f64::from(planes[place].values[at]), &mut line);
        planes.iter_mut().zip(&line).for_each(|(plane, v)| plane.values[at] = *v as f32);
    }
}

/// Weights from the centre outwards; with both sides they sum to 1.
fn kernel(sigma: f64) -> Vec<f64> {
    let reach = (4.0 * sigma + 0.5) as usize;
    let weights: Vec<f64> = (0..=reach).map(|x| (-0.5 * (x as f64 / sigma).powi(2)).exp()).collect();
    let sum = 2.0 * weights.iter().sum::<f64>() - weights[0];
    weights.iter().map(|w| w / sum).collect()
}

fn smooth(kernel: &[f64], length: usize, value: impl Fn(usize) -> f64, out: &mut [f64]) {
    for (at, out) in out.iter_mut().enumerate() {
        let (at, mut sum) = (at as isize, 0.0);
        for (distance, weight) in kernel.iter().enumerate() {
            let distance = distance as isize;
            sum += weight * value(mirrored(at + distance, length));
            if distance > 0 {
                sum += weight * value(mirrored(at - distance, length));
            }
        }
        *out = sum;
    }
}

/// The place within 0..length that a mirror at both ends shows: … c b a | a b c | c b a …
fn mirrored(at: isize, length: usize) -> usize {
    let length = length as isize;
    let within = at.rem_euclid(2 * length);
    (if within < length { within } else { 2 * length - 1 - within }) as usize
}
