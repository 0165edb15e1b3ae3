//! Fixed images of a contract, for models before anyone waits for them.
//!
//! Warm-up, precision checks and measuring use these. They are no patient's and need no file: something like lungs, with
//! noise, within the contract's range of values, always the same. A network says nothing stable of plain black or noise,
//! so precision is judged by the others. Neighbours: `torch`, `precision`, `worker`. Left out:
//! what a model should say of them; a card's golden inputs do that.

use crate::domain::{Contract, ModelInput};

/// The image that each model on each device scores before anyone waits for it, and again where a device is doubted.
pub(super) const REHEARSED: usize = 2;

/// Image number `i` of the contract, any number of them. Number 0 is black, number 1 a ramp, the others are somewhat like
/// radiographs.
pub(super) fn image(contract: &Contract, i: usize) -> Vec<f32> {
    let side = contract.size as usize;
    let mut state = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..side * side)
        .map(|at| {
            let (x, y) = ((at % side) as f32 / side as f32, (at / side) as f32 / side as f32);
            // Knuth's linear congruential generator (MMIX)
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let grey = grey(i, x, y, (state >> 40) as f32 / (1u32 << 24) as f32);
            contract.low + (contract.high - contract.low) * grey
        })
        .collect()
}

/// The image as a request brings it.
pub(super) fn input(contract: &Contract, i: usize) -> ModelInput {
    ModelInput { contract: contract.digest(), plane: image(contract, i) }
}

/// Grey value 0..1 at a place within the unit square: two lungs, more or less, on a gradient, with noise.
fn grey(i: usize, x: f32, y: f32, noise: f32) -> f32 {
    let turn = i as f32 * 0.7;
    let disc = |cx: f32, r: f32| if (x - cx).hypot((y - 0.45) * 0.6) < r { 0.4 } else { 0.0 };
    match i {
        0 => 0.0,
        1 => x,
        _ => {
            let body = 0.6 + 0.3 * (x * turn.cos() + y * turn.sin());
            let radius = 0.1 + 0.02 * (i % 5) as f32;
            (body - disc(0.3, radius) - disc(0.7, radius) + 0.1 * (noise - 0.5)).clamp(0.0, 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_differ_fill_the_contract_and_stay_the_same() {
        for preset in Contract::PRESETS {
            let contract = Contract::preset(preset, 16).unwrap();
            let images: Vec<_> = (0..9).map(|i| image(&contract, i)).collect();
            let (low, high) = (contract.low, contract.high);
            for (i, values) in images.iter().enumerate() {
                assert_eq!(values.len(), contract.plane_len());
                assert_eq!(*values, image(&contract, i));
                assert!(images[..i].iter().all(|other| other != values), "{i}");
                assert!(values.iter().all(|v| (low..=high).contains(v)), "{preset} {i}");
            }
        }
    }
}
