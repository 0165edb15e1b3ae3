//! A grey picture in the making: geometry in mm, strokes, noise, and the way to stored values.
//!
//! Grey values run from 0 (black, X-rays pass) to 1 (white). Neighbours: `pa` and `lateral` draw on it, `device`
//! gives the grey scale. Left out: anatomy.

use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use super::device::Device;

/// Height of the detector, mm; its width follows from the shape of the image.
pub const FIELD_HEIGHT_MM: f64 = 430.0;

/// An image of grey values, row by row.
pub struct Canvas {
    pub rows: usize,
    pub cols: usize,
    /// Distance of two pixels, mm.
    pub mm: f32,
    pub values: Vec<f32>,
}

/// Smooth step from 0 to 1 while `distance` runs from −`width`/2 to +`width`/2.
#[inline]
pub fn smooth(distance: f32, width: f32) -> f32 {
    let t = (distance * (1.0 / width) + 0.5).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Bell of half width `width` around 0, exactly 0 from 2 `width` on.
#[inline]
pub fn bell(distance: f32, width: f32) -> f32 {
    let t = distance * (0.5 / width);
    let t = (1.0 - t * t).max(0.0);
    t * t
}

impl Canvas {
    pub fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols, mm: (FIELD_HEIGHT_MM / rows as f64) as f32, values: vec![0.0; rows * cols] }
    }

    /// Position of a column's centre, mm right of the middle of the detector.
    #[inline]
    pub fn x(&self, col: usize) -> f32 {
        (col as f32 + 0.5 - self.cols as f32 / 2.0) * self.mm
    }

    /// Position of a row's centre, mm below the upper edge.
    #[inline]
    pub fn y(&self, row: usize) -> f32 {
        (row as f32 + 0.5) * self.mm
    }

    /// The rows from `from` to `to` mm that lie on the detector.
    pub fn row_range(&self, from: f32, to: f32) -> std::ops::Range<usize> {
        span(from / self.mm, to / self.mm, self.rows)
    }

    /// The columns from `from` to `to` mm that lie on the detector.
    pub fn col_range(&self, from: f32, to: f32) -> std::ops::Range<usize> {
        let middle = self.cols as f32 / 2.0;
        span(from / self.mm + middle, to / self.mm + middle, self.cols)
    }

    /// Adds a bone that crosses the columns: `shape(x)` gives the centre y, half height and amplitude there.
    pub fn add_bone(&mut self, from: f32, to: f32, shape: impl Fn(f32) -> (f32, f32, f32)) {
        for col in self.col_range(from, to) {
            let (centre, half, amplitude) = shape(self.x(col));
            if amplitude <= 0.0 {
                continue;
            }
            for row in self.row_range(centre - half - 2.0, centre + half + 2.0) {
                let off = (self.y(row) - centre).abs();
                let t = off / half;
                // The cortex is denser than the marrow, so the edges are brighter than the middle.
                self.values[row * self.cols + col] += amplitude * smooth(half - off, 2.0) * (0.6 + 0.4 * t * t);
            }
        }
    }

    /// Draws a straight piece of a vessel or line; where pieces overlap the brighter one counts.
    pub fn max_line(&mut self, from: (f32, f32), to: (f32, f32), half: f32, amplitude: f32) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length2 = (dx * dx + dy * dy).max(1e-6);
        let reach = 2.0 * half;
        let cols = self.col_range(from.0.min(to.0) - reach, from.0.max(to.0) + reach);
        for row in self.row_range(from.1.min(to.1) - reach, from.1.max(to.1) + reach) {
            let py = self.y(row) - from.1;
            for col in cols.clone() {
                let px = self.x(col) - from.0;
                let t = ((px * dx + py * dy) / length2).clamp(0.0, 1.0);
                let distance = ((px - t * dx).powi(2) + (py - t * dy).powi(2)).sqrt();
                let value = &mut self.values[row * self.cols + col];
                *value = value.max(amplitude * bell(distance, half));
            }
        }
    }

    /// Adds detector noise: nearly Gaussian, stronger where fewer X-rays arrive.
    pub fn add_noise(&mut self, sd: f64, rng: &mut ChaCha8Rng) {
        // The sum of four uniform bytes has variance 4·(256² − 1)/12.
        let unit = (sd / (4.0f64 * 65535.0 / 12.0).sqrt()) as f32;
        let mut line = vec![0u8; self.cols * 4];
        for row in self.values.chunks_mut(self.cols) {
            rng.fill_bytes(&mut line);
            for (value, bytes) in row.iter_mut().zip(line.chunks_exact(4)) {
                let sum = bytes.iter().map(|b| i32::from(*b)).sum::<i32>() - 510;
                *value += sum as f32 * unit * (0.6 + 0.8 * value.clamp(0.0, 1.0));
            }
        }
    }

    /// Blackens everything outside the collimated field, `margin` mm inside the detector's edges.
    pub fn collimate(&mut self, margin: f32) {
        let (rows, cols) = (self.row_range(margin, FIELD_HEIGHT_MM as f32 - margin), {
            let half = self.cols as f32 * self.mm / 2.0;
            self.col_range(margin - half, half - margin)
        });
        for row in 0..self.rows {
            for col in 0..self.cols {
                if !(rows.contains(&row) && cols.contains(&col)) {
                    self.values[row * self.cols + col] = 0.0;
                }
            }
        }
    }

    /// Stamps the lead letter of a side, `R` or `L`, with its upper left corner at (x, y) mm.
    pub fn stamp(&mut self, letter: char, x: f32, y: f32) {
        const R: [u8; 7] = [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001];
        const L: [u8; 7] = [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111];
        const DOT_MM: f32 = 1.8;
        let glyph = if letter == 'R' { R } else { L };
        for (i, bits) in glyph.iter().enumerate() {
            for k in (0..5).filter(|k| bits >> (4 - k) & 1 == 1) {
                let (left, top) = (x + k as f32 * DOT_MM, y + i as f32 * DOT_MM);
                for row in self.row_range(top, top + DOT_MM) {
                    for col in self.col_range(left, left + DOT_MM) {
                        self.values[row * self.cols + col] = 1.0;
                    }
                }
            }
        }
    }

    /// The stored values of this picture as taken with `device`.
    pub fn store(&self, device: &Device) -> Vec<u16> {
        const STEPS: usize = 1 << 14;
        let table: Vec<u16> = (0..=STEPS).map(|i| device.store(i as f32 / STEPS as f32)).collect();
        self.values.iter().map(|v| table[(v.clamp(0.0, 1.0) * STEPS as f32 + 0.5) as usize]).collect()
    }
}

/// Pixel indices whose centres lie between `from` and `to`, clipped to 0..`n`.
fn span(from: f32, to: f32, n: usize) -> std::ops::Range<usize> {
    let clip = |v: f32| (v - 0.5).ceil().clamp(0.0, n as f32) as usize;
    let start = clip(from);
    start..clip(to).max(start)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn noise_has_the_stated_deviation_at_mid_grey() {
        let mut canvas = Canvas::new(200, 200);
        canvas.values.fill(0.5);
        canvas.add_noise(0.02, &mut ChaCha8Rng::seed_from_u64(3));
        let n = canvas.values.len() as f64;
        let mean = canvas.values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let sd = (canvas.values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        // Standard error of the deviation over 40,000 pixels is .35 %; five of them are allowed.
        assert!((mean - 0.5).abs() < 5e-4 && (sd / 0.02 - 1.0).abs() < 0.018, "mean {mean}, sd {sd}");
    }

    #[test]
    fn strokes_beyond_the_edge_are_clipped() {
        let mut canvas = Canvas::new(64, 48);
        canvas.max_line((-900.0, -50.0), (900.0, 700.0), 9.0, 0.5);
        canvas.add_bone(-900.0, 900.0, |x| (x, 12.0, 0.1));
        canvas.stamp('R', 150.0, 425.0);
        canvas.collimate(500.0);
        assert!(canvas.values.iter().all(|v| *v == 0.0));
    }
}
