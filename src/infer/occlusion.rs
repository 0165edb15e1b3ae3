//! Occlusion sensitivity (Zeiler 2014): what a score loses when a part of the image is covered.
//!
//! A square patch moves over the model's input in steps; each place is an image of its own for whatever scores images,
//! here or behind a server, so that places share batches. A pixel's value is the mean change over the patches that covered
//! it. Pure. Neighbours: `analyse` scores what is covered. Left out: Grad-CAM (`explain`).

use crate::domain::{Contract, Fill, ModelInput};

/// How a patch moves, in pixels of the model's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Occlusion {
    pub patch: u32,
    pub stride: u32,
    pub fill: Fill,
}

/// A map in the making.
#[derive(Debug, Clone)]
pub struct Changes {
    patch: usize,
    side: usize,
    sums: Vec<f64>,
    counts: Vec<u32>,
}

impl Occlusion {
    /// For inputs of `side` pixels: a patch of 0 stands for an eighth of the side, a stride of 0 for half of the patch.
    pub fn of(patch: u32, stride: u32, fill: Fill, side: u32) -> Self {
        let patch = if patch == 0 { side.div_ceil(8) } else { patch }.clamp(1, side.max(1));
        let stride = if stride == 0 { patch.div_ceil(2) } else { stride }.clamp(1, patch);
        Self { patch, stride, fill }
    }

    /// Row and column of the patch's first pixel, at each place. Every pixel of the image is covered at least once.
    pub fn places(&self, side: u32) -> Vec<(u32, u32)> {
        let last = side.saturating_sub(self.patch);
        let mut starts: Vec<u32> = (0..=last).step_by(self.stride as usize).collect();
        if starts.last() != Some(&last) {
            starts.push(last);
        }
        starts.iter().flat_map(|row| starts.iter().map(|column| (*row, *column))).collect()
    }

    /// The input with the patch at this place.
    pub fn covered(&self, input: &ModelInput, contract: &Contract, place: (u32, u32)) -> ModelInput {
        let side = contract.size as usize;
        let (top, left, patch) = (place.0 as usize, place.1 as usize, self.patch as usize);
        let mut plane = input.plane.clone();
        let fill = match self.fill {
            Fill::Mean => (plane.iter().map(|v| f64::from(*v)).sum::<f64>() / plane.len().max(1) as f64) as f32,
            Fill::Grey(grey) => contract.low + (contract.high - contract.low) * grey,
        };
        for row in plane.chunks_mut(side.max(1)).skip(top).take(patch) {
            row.iter_mut().skip(left).take(patch).for_each(|v| *v = fill);
        }
        ModelInput { contract: input.contract.clone(), plane }
    }

    pub fn changes(&self, side: u32) -> Changes {
        let side = side as usize;
        Changes { patch: self.patch as usize, side, sums: vec![0.0; side * side], counts: vec![0; side * side] }
    }
}

impl Changes {
    /// Notes by how much the score is less with the patch at this place.
    pub fn note(&mut self, place: (u32, u32), change: f64) {
        let (top, left) = (place.0 as usize, place.1 as usize);
        for row in top..(top + self.patch).min(self.side) {
            for at in row * self.side + left..row * self.side + (left + self.patch).min(self.side) {
                self.sums[at] += change;
                self.counts[at] += 1;
            }
        }
    }

    /// The map, row by row; 0 where nothing was covered.
    pub fn map(&self) -> Vec<f32> {
        self.sums.iter().zip(&self.counts).map(|(sum, n)| (sum / f64::from((*n).max(1))) as f32).collect()
    }
}

/// How far two distributions over the same groups lie apart: total variation, half of the sum of differences. It names no
/// group, and sees a change from one sure answer to another, which a measure of sureness would not.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

#[cfg(test)]
#[path = "occlusion_tests.rs"]
mod tests;
