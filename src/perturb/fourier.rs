//! Filters with a circular mask on the shifted spectrum: fftshift(fft2), mask, inverse, real part; nothing is rescaled.
//!
//! The mask's centre is at ⌊side / 2⌋, where numpy's fftshift puts the mean, so squared distances from it are whole
//! numbers and every mask is made of discs: a ring is a disc less a smaller one, and what a filter takes is the plane less
//! what it leaves. A plane is transformed once, and back once for each disc, whose 10 make the paper's 62 filters.
//! Planes and discs are real: two rows are one complex line, and of the frequencies along rows half is enough. In 32
//! bits, with the mean left out until the end: some 1e-7 of the values. Left out: which radii are worth it.

use std::sync::Arc;

use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

use super::{Form, Plane, Transform};

/// Pairs of rows that are transformed at a time: their lines stay in the nearest cache.
const PAIRS: usize = 8;
/// Discs of a plane that are kept: as many as the paper's filters have, as published and corrected, and no more bytes.
const DISCS_MAX: usize = 16;
const DISC_BYTES_MAX: usize = 64 << 20;

/// Plans for one side, and what is known of the plane that was filtered last.
#[derive(Default)]
pub(super) struct Spectra {
    plans: Option<Plans>,
}

struct Plans {
    side: usize,
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
    scratch: Vec<Complex32>,
    lines: Vec<Complex32>,
    /// The plane.
    of: Vec<f32>,
    mean: f32,
    /// Of the plane less its mean, divided by the number of pixels: a line for each frequency along rows from 0 to
    /// ⌊side / 2⌋, which holds those along columns. At the negative ones the conjugates would be.
    spectrum: Vec<Complex32>,
    columns: Vec<Complex32>,
    /// What nothing leaves.
    nothing: Vec<f32>,
    /// By the square of frequencies that they stop short of; the one that was used last is last.
    discs: Vec<(u64, Vec<f32>)>,
}

/// Frequencies whose squared distance is `inner` at least and below `outer`, or all others.
#[derive(Clone, Copy)]
struct Ring {
    inner: u64,
    outer: u64,
    is_kept: bool,
}

impl Ring {
    /// What a filter keeps; everything, for other transforms.
    fn of(filter: Transform) -> Self {
        // The first whole number that is not below the square: up to it frequencies are within.
        let square = |radius: f64| (radius * radius).ceil() as u64;
        let radius = |diameter: f64, form: Form| if form == Form::AsPublished { diameter } else { diameter / 2.0 };
        match filter {
            Transform::LowPass { diameter, form } => {
                Self { inner: 0, outer: square(radius(diameter, form)), is_kept: true }
            }
            Transform::HighPass { diameter, form } => {
                Self { inner: 0, outer: square(radius(diameter, form)), is_kept: false }
            }
            Transform::BandPass { inner, outer } => Self { inner: square(inner), outer: square(outer), is_kept: true },
            Transform::Notch { inner, outer } => Self { inner: square(inner), outer: square(outer), is_kept: false },
            _ => Self { inner: 0, outer: 0, is_kept: false },
        }
    }

    fn keeps(self, square: u64) -> bool {
        (self.inner <= square && square < self.outer) == self.is_kept
    }
}

/// How many of the side × side frequencies a filter keeps; all by another transform.
pub fn kept_bins(filter: Transform, side: usize) -> usize {
    let ring = Ring::of(filter);
    let squares: Vec<u64> = (0..side).map(|index| (index.abs_diff(side / 2) as u64).pow(2)).collect();
    squares.iter().map(|y| squares.iter().filter(|x| ring.keeps(y + *x)).count()).sum()
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
        let zero = Complex32::default();
        let scratch = forward.get_inplace_scratch_len().max(inverse.get_inplace_scratch_len());
        let half = (side / 2 + 1) * side;
        Self {
            side,
            forward,
            inverse,
            scratch: vec![zero; scratch],
            lines: vec![zero; PAIRS * side],
            of: Vec::new(),
            mean: 0.0,
            spectrum: vec![zero; half],
            columns: vec![zero; half],
            nothing: vec![0.0; side * side],
            discs: Vec::new(),
        }
    }

    fn filtered(&mut self, filter: Transform, values: &[f32]) -> Vec<f32> {
        if self.of != values {
            self.see(values);
        }
        let ring = Ring::of(filter);
        for below in [ring.inner, ring.outer] {
            self.make_disc(below);
        }
        let pairs = self.disc(ring.outer).iter().zip(self.disc(ring.inner));
        if ring.is_kept {
            return pairs.map(|(outer, inner)| outer - inner).collect();
        }
        values.iter().zip(pairs).map(|(value, (outer, inner))| (value - outer) + inner).collect()
    }

    /// What is left of the plane where frequencies stay whose square is below this.
    fn disc(&self, below: u64) -> &[f32] {
        match below {
            0 => &self.nothing,
            _ if below > self.square_max() => &self.of,
            _ => self.discs.iter().find(|(of, _)| *of == below).map_or(&self.nothing, |(_, disc)| disc),
        }
    }

    fn square_max(&self) -> u64 {
        2 * (self.side as u64 / 2).pow(2)
    }

    fn make_disc(&mut self, below: u64) {
        if below == 0 || below > self.square_max() {
            return;
        }
        if let Some(place) = self.discs.iter().position(|(of, _)| *of == below) {
            return self.discs[place..].rotate_left(1);
        }
        // A ring needs two at once.
        let most = (DISC_BYTES_MAX / (4 * self.of.len())).clamp(2, DISCS_MAX);
        let mut disc = if self.discs.len() < most { vec![0.0; self.of.len()] } else { self.discs.remove(0).1 };
        self.invert(below, &mut disc);
        self.discs.push((below, disc));
    }

    /// Transforms a plane.
    fn see(&mut self, values: &[f32]) {
        let side = self.side;
        self.discs.clear();
        self.of.clear();
        self.of.extend_from_slice(values);
        self.mean = (values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64) as f32;
        let (mean, scale) = (self.mean, 1.0 / values.len() as f32);
        for (first, rows) in (0..).step_by(2 * PAIRS).zip(values.chunks(2 * PAIRS * side)) {
            let pairs = rows.len().div_ceil(2 * side);
            for (line, pair) in self.lines.chunks_mut(side).zip(rows.chunks(2 * side)) {
                let (one, other) = pair.split_at(side);
                // An odd side leaves its last row alone.
                let other = if other.is_empty() { &self.nothing[..side] } else { other };
                for ((value, a), b) in line.iter_mut().zip(one).zip(other) {
                    *value = Complex32::new((a - mean) * scale, (b - mean) * scale);
                }
            }
            self.forward.process_with_scratch(&mut self.lines[..pairs * side], &mut self.scratch);
            for (k, line) in self.spectrum.chunks_mut(side).enumerate() {
                let mirror = (side - k) % side;
                for (pair, to) in line[first..side.min(first + 2 * PAIRS)].chunks_mut(2).enumerate() {
                    let (z, w) = (self.lines[pair * side + k], self.lines[pair * side + mirror].conj());
                    let (sum, difference) = ((z + w) * 0.5, (z - w) * 0.5);
                    to[0] = sum;
                    if let Some(other) = to.get_mut(1) {
                        *other = Complex32::new(difference.im, -difference.re);
                    }
                }
            }
        }
        self.forward.process_with_scratch(&mut self.spectrum, &mut self.scratch);
    }

    /// Transforms back what a disc keeps.
    fn invert(&mut self, below: u64, disc: &mut [f32]) {
        let (side, half) = (self.side, self.side / 2);
        let mut kept = 0;
        let lines = self.spectrum.chunks(side).zip(self.columns.chunks_mut(side));
        for ((from, to), k) in lines.zip(0u64..) {
            let Some(rest) = below.checked_sub(k * k + 1) else { break };
            // Frequencies along the column up to this, of both signs.
            let reach = usize::try_from(rest.isqrt()).unwrap_or(half);
            let (up, down) = (reach.min((side - 1) / 2) + 1, side - reach.min(half));
            to[..up].copy_from_slice(&from[..up]);
            to[up..down].fill(Complex32::default());
            to[down..].copy_from_slice(&from[down..]);
            kept += 1;
        }
        self.inverse.process_with_scratch(&mut self.columns[..kept * side], &mut self.scratch);
        let i_times = |z: Complex32| Complex32::new(-z.im, z.re);
        for (first, rows) in (0..).step_by(2 * PAIRS).zip(disc.chunks_mut(2 * PAIRS * side)) {
            let pairs = rows.len().div_ceil(2 * side);
            self.lines[..pairs * side].fill(Complex32::default());
            for (k, line) in self.columns.chunks(side).enumerate().take(kept) {
                let mirror = (side - k) % side;
                for (pair, from) in line[first..side.min(first + 2 * PAIRS)].chunks(2).enumerate() {
                    let (one, other) = (from[0], from.get(1).copied().unwrap_or_default());
                    self.lines[pair * side + mirror] = one.conj() + i_times(other.conj());
                    self.lines[pair * side + k] = one + i_times(other);
                }
            }
            self.inverse.process_with_scratch(&mut self.lines[..pairs * side], &mut self.scratch);
            for (line, pair) in self.lines.chunks(side).zip(rows.chunks_mut(2 * side)) {
                let (one, other) = pair.split_at_mut(side);
                one.iter_mut().zip(line).for_each(|(to, from)| *to = from.re + self.mean);
                other.iter_mut().zip(line).for_each(|(to, from)| *to = from.im + self.mean);
            }
        }
    }
}
