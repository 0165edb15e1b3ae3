//! Band-limited Gaussian noise: the texture that tells groups apart where a world says so.
//!
//! Fields are made in the frequency domain on a grid of a quarter of the image's resolution, which holds all
//! wavelengths that matter here, and are interpolated when they are drawn. Neighbours: `canvas` adds them to a
//! picture, `world` names the spectra. Left out: white detector noise, which `canvas` adds pixel by pixel.

use std::sync::Arc;

use rand::Rng;
use rand_distr::StandardNormal;
use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

use super::world::Spectrum;

/// Pixels of the image per sample of a field, along both axes.
const STEP: usize = 4;

/// The transforms for one image size, shared by all threads.
pub struct Textures {
    rows: usize,
    cols: usize,
    /// Distance of two samples, mm.
    spacing_mm: f64,
    along_rows: Arc<dyn Fft<f32>>,
    along_cols: Arc<dyn Fft<f32>>,
}

/// One realisation, of unit variance on average.
pub struct Field {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl Textures {
    /// For images of `rows` × `cols` pixels that are `spacing_mm` apart.
    pub fn new(rows: usize, cols: usize, spacing_mm: f64) -> Self {
        let (rows, cols) = (rows / STEP + 2, cols / STEP + 2);
        let mut planner = FftPlanner::new();
        Self {
            rows,
            cols,
            spacing_mm: spacing_mm * STEP as f64,
            along_rows: planner.plan_fft_inverse(cols),
            along_cols: planner.plan_fft_inverse(rows),
        }
    }

    /// Draws a field with the given spectrum.
    pub fn draw(&self, spectrum: &Spectrum, rng: &mut impl Rng) -> Field {
        let (rows, cols) = (self.rows, self.cols);
        let centre = 1.0 / spectrum.wavelength_mm;
        let width = centre * spectrum.bandwidth;
        let mut power = 0.0;
        // Transposed: one line per horizontal frequency, so that both transforms run over contiguous lines.
        let mut wave = vec![Complex32::default(); rows * cols];
        for i in 0..cols {
            let fx = frequency(i, cols) / self.spacing_mm;
            for k in 0..rows {
                let fy = frequency(k, rows) / self.spacing_mm;
                let f = fx.hypot(fy);
                let off = (f - centre) / width;
                if f == 0.0 || off.abs() > 3.5 {
                    continue;
                }
                let direction = (fx * fx - fy * fy) / (f * f);
                let weight = (-0.5 * off * off + 0.5 * spectrum.anisotropy * direction).exp() as f32;
                power += f64::from(weight * weight);
                wave[i * rows + k] =
                    Complex32::new(rng.sample::<f32, _>(StandardNormal), rng.sample::<f32, _>(StandardNormal)) * weight;
            }
        }
        self.along_cols.process(&mut wave);
        let mut turned = vec![Complex32::default(); rows * cols];
        for i in 0..cols {
            for k in 0..rows {
                turned[k * cols + i] = wave[i * rows + k];
            }
        }
        self.along_rows.process(&mut turned);
        let scale = 1.0 / power.sqrt().max(f64::MIN_POSITIVE) as f32;
        Field { rows, cols, values: turned.iter().map(|c| c.re * scale).collect() }
    }
}

impl Field {
    /// Writes the values along row `row` of the image into `out`, interpolated between samples.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let k = (row / STEP).min(self.rows - 2);
        let t = (row - k * STEP) as f32 / STEP as f32;
        let upper = &self.values[k * self.cols..(k + 1) * self.cols];
        let lower = &self.values[(k + 1) * self.cols..(k + 2) * self.cols];
        let mix = |i: usize| upper[i] + t * (lower[i] - upper[i]);
        for (i, part) in out.chunks_mut(STEP).enumerate() {
            let i = i.min(self.cols - 2);
            let (left, right) = (mix(i), mix(i + 1));
            for (j, value) in part.iter_mut().enumerate() {
                *value = left + (right - left) * (j as f32 / STEP as f32);
            }
        }
    }
}

/// Frequency of bin `i` of `n`, cycles per sample, −.5 to .5.
fn frequency(i: usize, n: usize) -> f64 {
    let i = if 2 * i > n { i as f64 - n as f64 } else { i as f64 };
    i / n as f64
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Mean square of the field and of its differences along rows and columns, over the image.
    fn energies(spectrum: Spectrum) -> (f64, f64, f64) {
        let (rows, cols) = (640, 512);
        let textures = Textures::new(rows, cols, 0.67);
        let field = textures.draw(&spectrum, &mut ChaCha8Rng::seed_from_u64(1));
        let mut image = vec![0f32; rows * cols];
        image.chunks_mut(cols).enumerate().for_each(|(r, line)| field.row(r, line));
        let at = |r: usize, c: usize| f64::from(image[r * cols + c]);
        let (mut all, mut across, mut down) = (0.0, 0.0, 0.0);
        for r in 0..rows - 8 {
            for c in 0..cols - 8 {
                all += at(r, c).powi(2);
                across += (at(r, c + 8) - at(r, c)).powi(2);
                down += (at(r + 8, c) - at(r, c)).powi(2);
            }
        }
        let n = ((rows - 8) * (cols - 8)) as f64;
        (all / n, across / n, down / n)
    }

    #[test]
    fn fields_have_unit_variance_and_the_direction_of_their_anisotropy() {
        for (anisotropy, low, high) in [(1.6, 1.5, 9.0), (0.0, 0.8, 1.25), (-1.6, 1.0 / 9.0, 1.0 / 1.5)] {
            let (all, across, down) = energies(Spectrum { wavelength_mm: 14.0, bandwidth: 0.25, anisotropy });
            // Interpolation between samples takes a part of the variance away.
            assert!((0.6..1.2).contains(&all), "variance {all} at anisotropy {anisotropy}");
            assert!((low..high).contains(&(across / down)), "ratio {} at anisotropy {anisotropy}", across / down);
        }
    }

    #[test]
    fn odd_and_small_sizes_are_filled_to_the_last_pixel() {
        for (rows, cols) in [(64, 64), (65, 67), (127, 66)] {
            let textures = Textures::new(rows, cols, 430.0 / rows as f64);
            let spectrum = Spectrum { wavelength_mm: 60.0, bandwidth: 0.5, anisotropy: 0.0 };
            let field = textures.draw(&spectrum, &mut ChaCha8Rng::seed_from_u64(2));
            let mut line = vec![f32::NAN; cols];
            field.row(rows - 1, &mut line);
            assert!(line.iter().all(|v| v.is_finite()), "{rows} × {cols}");
        }
    }
}
