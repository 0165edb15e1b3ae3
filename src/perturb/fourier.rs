//! Filters with a circular mask on the shifted spectrum: fftshift(fft2), mask, inverse, real part; nothing is rescaled.
//!
//! The mask's centre is at ⌊side / 2⌋, where numpy's fftshift puts the mean, and distances are compared squared. Left
//! out: which radii are worth it.

use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use super::{Form, Plane, Transform};

/// Plans for one side, and the spectrum of the plane that was filtered last.
#[derive(Default)]
pub(super) struct Spectra {
    plans: Option<Plans>,
}

struct Plans {
    side: usize,
    forward: Arc<dyn Fft<f64>>,
    inverse: Arc<dyn Fft<f64>>,
    scratch: Vec<Complex<f64>>,
    /// Of `of`; its columns are the picture's rows of frequencies, which a circular mask does not tell apart.
    spectrum: Vec<Complex<f64>>,
    of: Vec<f32>,
    work: Vec<Complex<f64>>,
}

impl Spectra {
    pub(super) fn filtered(&mut self, filter: Transform, plane: &Plane) -> Vec<f32> {
        if self.plans.as_ref().is_none_or(|plans| plans.side != plane.side) {
            self.plans = Some(Plans::new(plane.side));
        }
        self.plans.as_mut().map_or_else(|| plane.values.clone(), |plans| plans.filtered(filter, &plane.values))
    }
}

impl Plans {
    fn new(side: usize) -> Self {
        let mut planner = FftPlanner::new();
        let (forward, inverse) = (planner.plan_fft_forward(side), planner.plan_fft_inverse(side));
        let zero = Complex::default();
        let scratch = forward.get_inplace_scratch_len().max(inverse.get_inplace_scratch_len());
        let area = side * side;
        Self {
            side,
            forward,
            inverse,
            scratch: vec![zero; scratch],
            spectrum: vec![zero; area],
            of: Vec::new(),
            work: vec![zero; area],
        }
    }

    fn filtered(&mut self, filter: Transform, values: &[f32]) -> Vec<f32> {
        let side = self.side;
        if self.of != values {
            self.spectrum.iter_mut().zip(values).for_each(|(s, v)| *s = Complex::new(f64::from(*v), 0.0));
            self.forward.process_with_scratch(&mut self.spectrum, &mut self.scratch);
            transpose(&mut self.spectrum, side);
            self.forward.process_with_scratch(&mut self.spectrum, &mut self.scratch);
            self.of.clear();
            self.of.extend_from_slice(values);
        }
        let squares: Vec<f64> = (0..side).map(|index| shifted(index, side).powi(2)).collect();
        for ((row, from), y) in self.work.chunks_mut(side).zip(self.spectrum.chunks(side)).zip(&squares) {
            for ((to, from), x) in row.iter_mut().zip(from).zip(&squares) {
                *to = if keeps(filter, y + x) { *from } else { Complex::default() };
            }
        }
        self.inverse.process_with_scratch(&mut self.work, &mut self.scratch);
        transpose(&mut self.work, side);
        self.inverse.process_with_scratch(&mut self.work, &mut self.scratch);
        let area = (side * side) as f64;
        self.work.iter().map(|value| (value.re / area) as f32).collect()
    }
}

/// How many of the side × side frequencies a filter keeps; all by another transform.
pub fn kept_bins(filter: Transform, side: usize) -> usize {
    let squares: Vec<f64> = (0..side).map(|index| shifted(index, side).powi(2)).collect();
    squares.iter().map(|y| squares.iter().filter(|x| keeps(filter, y + *x)).count()).sum()
}

/// The frequency at an index of the unshifted spectrum, as its distance from the centre of the shifted one.
fn shifted(index: usize, side: usize) -> f64 {
    ((index + side / 2) % side) as f64 - (side / 2) as f64
}

/// Whether a frequency at this squared distance from the centre stays.
fn keeps(filter: Transform, square: f64) -> bool {
    let radius = |diameter: f64, form: Form| if form == Form::AsPublished { diameter } else { diameter / 2.0 };
    let within = |inner: f64, outer: f64| inner * inner <= square && square < outer * outer;
    match filter {
        Transform::LowPass { diameter, form } => square < radius(diameter, form).powi(2),
        Transform::HighPass { diameter, form } => square >= radius(diameter, form).powi(2),
        Transform::BandPass { inner, outer } => within(inner, outer),
        Transform::Notch { inner, outer } => !within(inner, outer),
        _ => true,
    }
}

fn transpose(values: &mut [Complex<f64>], side: usize) {
    for row in 0..side {
        for column in row + 1..side {
            values.swap(row * side + column, column * side + row);
        }
    }
}
