//! The group signal of worlds that plant it in one place and nowhere else: a band of frequencies, one patch, or what is
//! bright.
//!
//! It goes into the finished picture, on the scale of the stored values, so that no device bends it and nothing is cut
//! where it stands. Each group has waves of its own direction, of which mirroring an image leaves all as they are.
//! Places and cycles are relative to the picture, so a contract that crops to a square moves them by its aspect ratio.
//! Neighbours: `world` holds it, `mod` plants it. Left out: habitus, which is drawn (`pa`, `lateral`).

use std::f32::consts::{PI, TAU};

use serde::{Deserialize, Serialize};

use super::canvas::{Canvas, smooth};
use super::device::Device;

/// What tells the groups apart, and where. Amplitudes are parts of the range from black to white.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "place", deny_unknown_fields)]
pub enum Signal {
    /// Waves of so many cycles per image side, over the whole picture.
    Everywhere { cycles: f64, amplitude: f64 },
    /// In the middle of one cell of the 3 × 3 grid, 0 to 8 row by row.
    Cell { cell: u8, cycles: f64, amplitude: f64 },
    /// Where the picture is brighter than this part of its range, which it stays.
    Bright { above: f64, cycles: f64, amplitude: f64 },
}

/// Half the side of the part of a cell that holds waves, in parts of the image: what is left around it keeps them in the
/// cell where a picture of 640 × 512 is cropped to a square.
const CELL_REACH: f32 = 0.13;
/// Over so much of the range waves rise to their full height.
const RISE: f32 = 0.05;
/// Cycles along a side of so many pixels leave more than two of them for each.
const CYCLES_PER_PIXEL_MAX: f64 = 0.45;

impl Signal {
    /// The rule that it breaks, if any.
    pub fn fault(&self) -> Option<String> {
        let (Self::Everywhere { cycles, amplitude }
        | Self::Cell { cycles, amplitude, .. }
        | Self::Bright { cycles, amplitude, .. }) = self;
        if !(1.0..=1000.0).contains(cycles) || !(0.0..=0.2).contains(amplitude) {
            return Some("signal: cycles lie between 1 and 1000, amplitude between 0 and 0.2".into());
        }
        match self {
            Self::Cell { cell: 9.., .. } => Some("signal: cell is 0 to 8".into()),
            Self::Bright { above, .. } if !(0.0..=1.0).contains(above) => {
                Some("signal: above lies between 0 and 1".into())
            }
            _ => None,
        }
    }

    /// Whether a picture of this size shows its waves.
    pub fn fits(&self, (rows, cols): (u32, u32)) -> bool {
        let (Self::Everywhere { cycles, .. } | Self::Cell { cycles, .. } | Self::Bright { cycles, .. }) = self;
        *cycles <= CYCLES_PER_PIXEL_MAX * f64::from(rows.min(cols))
    }

    /// Plants what group `group` of `groups` has into a picture that `device` will store.
    pub fn plant(&self, canvas: &mut Canvas, device: &Device, group: usize, groups: usize) {
        let (rows, cols, gamma) = (canvas.rows, canvas.cols, device.gamma as f32);
        let waves = Waves::of(self, group, groups);
        let place = |at: usize, count: usize| (at as f32 + 0.5) / count as f32;
        let columns: Vec<(f32, f32)> = (0..cols).map(|col| waves.along(0, place(col, cols))).collect();
        for (row, line) in canvas.values.chunks_mut(cols).enumerate() {
            let (down, shown) = waves.along(1, place(row, rows));
            for (value, (across, reach)) in line.iter_mut().zip(&columns) {
                let stored = value.clamp(0.0, 1.0).powf(gamma);
                *value = self.planted(stored, down * across, shown * reach).powf(1.0 / gamma);
            }
        }
    }

    /// A stored value, 0..1, with a wave that stands at `wave`, −1..1, and of which so much is shown here, 0..1.
    #[inline]
    fn planted(&self, value: f32, wave: f32, shown: f32) -> f32 {
        match *self {
            // Room for the waves at both ends, whether there are any or not.
            Self::Everywhere { amplitude, .. } | Self::Cell { amplitude, .. } => {
                let amplitude = amplitude as f32;
                value * (1.0 - 2.0 * amplitude) + amplitude * (1.0 + wave * shown)
            }
            Self::Bright { above, amplitude, .. } => {
                let rise = smooth(value - above as f32 - RISE / 2.0, RISE);
                (value + amplitude as f32 * rise * shown * (0.5 + 0.5 * wave)).min(1.0)
            }
        }
    }
}

/// Waves of one group.
struct Waves {
    /// Cycles per side along columns and rows.
    cycles: [f32; 2],
    /// Where they are highest, and how far they reach from there to either side.
    middle: [f32; 2],
    reach: f32,
}

impl Waves {
    fn of(signal: &Signal, group: usize, groups: usize) -> Self {
        let (cycles, middle, reach) = match *signal {
            Signal::Everywhere { cycles, .. } | Signal::Bright { cycles, .. } => (cycles, [0.5; 2], 0.5),
            Signal::Cell { cell, cycles, .. } => {
                let third = |at: u8| (f32::from(at) + 0.5) / 3.0;
                (cycles, [third(cell % 3), third(cell / 3)], CELL_REACH)
            }
        };
        // From upright waves to level ones.
        let turn = PI / 2.0 * group as f32 / (groups.max(2) - 1) as f32;
        Self { cycles: [cycles as f32 * turn.cos(), cycles as f32 * turn.sin()], middle, reach }
    }

    /// Height of the wave along one axis, and how much of it is shown: nothing at its ends.
    fn along(&self, axis: usize, place: f32) -> (f32, f32) {
        let off = place - self.middle[axis];
        let shown = (PI / 2.0 * (off / self.reach).clamp(-1.0, 1.0)).cos().powi(2);
        ((TAU * self.cycles[axis] * off).cos(), shown)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "signal_tests.rs"]
mod tests;
