//! Loops over many numbers, written so that the compiler uses vector registers.
//!
//! Sums go over eight lanes in a fixed order and no product is fused with a sum, so that results are the same bits with
//! AVX2 and without. Callers put what they do inside `pulp::Arch::dispatch`, which compiles it for AVX2 too; everything
//! here is inlined there. Neighbours: `assess` refits with it. Left out: shapes and meanings.

/// Numbers that are worked on side by side.
pub const LANES: usize = 8;

/// Σ aᵢ bᵢ over the shorter of both.
#[inline(always)]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a).zip(b).for_each(|((lane, a), b)| *lane += a * b);
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    total(lanes) + rest
}

/// [`dot`], with AVX2 where there is it.
pub fn dot_wide(a: &[f64], b: &[f64]) -> f64 {
    struct Dot<'a>(&'a [f64], &'a [f64]);
    impl pulp::WithSimd for Dot<'_> {
        type Output = f64;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> f64 {
            dot(self.0, self.1)
        }
    }
    pulp::Arch::new().dispatch(Dot(a, b))
}

/// Σ aᵢ.
#[inline(always)]
pub fn sum(a: &[f64]) -> f64 {
    let (chunks, rest) = a.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, a)| *lane += a);
    }
    total(lanes) + rest.iter().sum::<f64>()
}

#[inline(always)]
fn total(lanes: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// to += factor · from.
#[inline(always)]
pub fn add_scaled(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
}

/// base + Σ factorⱼ columnⱼ, for chunks of all columns, which are at least as long as `out`.
#[inline(always)]
pub fn linear(out: &mut [[f64; LANES]], base: f64, factors: &[f64], columns: &[&[[f64; LANES]]]) {
    for (at, out) in out.iter_mut().enumerate() {
        let mut value = [base; LANES];
        for (factor, column) in factors.iter().zip(columns) {
            value.iter_mut().zip(&column[at]).for_each(|(value, x)| *value += factor * x);
        }
        *out = value;
    }
}

/// e^x to within 1e-14 of itself, for |x| ≤ 700; beyond as at ±700.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    use std::f64::consts::LOG2_E;
    /// Adding it leaves the nearest whole number in the last bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts: a multiple of the first by a whole number below 1,024 has no rounding error.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let x = if x < -700.0 { -700.0 } else { x };
    let x = if x > 700.0 { 700.0 } else { x };
    let shifted = x * LOG2_E + SHIFT;
    let whole = shifted - SHIFT;
    let r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    // Taylor to r^11 in pairs; |r| ≤ ½ ln 2, what is cut off is below 7e-15.
    let (r2, r4) = (r * r, (r * r) * (r * r));
    let a = (1.0 + r) + r2 * (1.0 / 2.0 + r * (1.0 / 6.0));
    let b = (1.0 / 24.0 + r * (1.0 / 120.0)) + r2 * (1.0 / 720.0 + r * (1.0 / 5040.0));
    let c = (1.0 / 40_320.0 + r * (1.0 / 362_880.0)) + r2 * (1.0 / 3_628_800.0 + r * (1.0 / 39_916_800.0));
    let value = a + r4 * (b + r4 * c);
    let two_to_whole = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    value * two_to_whole
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub fn expit(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_exponential_is_right_over_its_whole_range() {
        let mut worst = 0.0_f64;
        for i in -700_000..=700_000 {
            let x = f64::from(i) / 1000.0 + 0.000_37;
            worst = worst.max((exp(x) / x.clamp(-700.0, 700.0).exp() - 1.0).abs());
        }
        assert!(worst < 1e-14, "{worst}");
        assert_eq!((exp(0.0), expit(0.0)), (1.0, 0.5));
        assert_eq!((expit(1e9), exp(-1e9) > 0.0, exp(1e9).is_finite()), (1.0, true, true));
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_plain_loop(a in prop::collection::vec(-1e3f64..1e3, 0..100), factor in -2.0f64..2.0) {
            let b: Vec<f64> = a.iter().map(|v| v * 0.37 + 1.0).collect();
            let plain: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            prop_assert!((dot(&a, &b) - plain).abs() <= 1e-9 * (1.0 + plain.abs()));
            prop_assert!((sum(&a) - a.iter().sum::<f64>()).abs() <= 1e-9);
            let mut to = b.clone();
            add_scaled(&mut to, factor, &a);
            prop_assert!(to.iter().zip(&a).zip(&b).all(|((to, a), b)| *to == b + factor * a));
            let (chunks, _) = a.as_chunks::<LANES>();
            let mut out = vec![[0.0; LANES]; chunks.len()];
            linear(&mut out, 0.5, &[factor, 2.0], &[chunks, chunks]);
            prop_assert!(out.as_flattened().iter().zip(&a).all(|(o, a)| *o == 0.5 + factor * a + 2.0 * a));
            // The same bits where the loop is compiled for AVX2.
            prop_assert_eq!(dot_wide(&a, &b).to_bits(), dot(&a, &b).to_bits());
        }
    }
}
