//! What baseline JPEG makes of a grey picture (ITU-T T.81): its losses alone, since its entropy coding has none.
//!
//! 8 bits, blocks of 8 × 8, cosine transform, libjpeg's table at the quality, and back. An exact cosine transform: codecs
//! with integer ones differ from it by a grey level here and there. Halves are rounded up everywhere. Left out: files.

use super::Plane;

/// Table K.1 of the standard, row by row.
const LUMINANCE: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
];

pub(super) fn recompressed(plane: &Plane, quality: u8) -> Vec<f32> {
    let (side, table, cosines) = (plane.side, table(quality), cosines());
    let grey = |row: usize, column: usize| {
        // A last block that the picture does not fill repeats its last row and column.
        let value = plane.values[row.min(side - 1) * side + column.min(side - 1)];
        rounded(f64::from(value).clamp(0.0, 1.0) * 255.0)
    };
    let mut values = vec![0.0; side * side];
    for top in (0..side).step_by(8) {
        for left in (0..side).step_by(8) {
            let mut block = [0.0; 64];
            for (at, value) in block.iter_mut().enumerate() {
                *value = grey(top + at / 8, left + at % 8) - 128.0;
            }
            let mut coefficients = both_ways(&block, |i, j| cosines[i * 8 + j]);
            for (coefficient, step) in coefficients.iter_mut().zip(&table) {
                *coefficient = rounded(*coefficient / step) * step;
            }
            let block = both_ways(&coefficients, |i, j| cosines[j * 8 + i]);
            for (at, value) in block.iter().enumerate() {
                let (row, column) = (top + at / 8, left + at % 8);
                if row < side && column < side {
                    values[row * side + column] = (rounded(value + 128.0).clamp(0.0, 255.0) / 255.0) as f32;
                }
            }
        }
    }
    values
}

/// To the nearest whole number, halves upwards: what is a half but for the rounding of a sum counts as one.
fn rounded(value: f64) -> f64 {
    (value + 0.5 + 1e-9).floor()
}

/// libjpeg's scaling of the table (`jpeg_quality_scaling`, baseline).
fn table(quality: u8) -> [f64; 64] {
    let quality = u32::from(quality.clamp(1, 100));
    let scale = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
    LUMINANCE.map(|entry| f64::from(((u32::from(entry) * scale + 50) / 100).clamp(1, 255)))
}

/// The orthonormal cosine transform of eight values: frequency by place.
fn cosines() -> [f64; 64] {
    std::array::from_fn(|at| {
        let (frequency, place) = ((at / 8) as f64, (at % 8) as f64);
        let norm = if at < 8 { (1.0f64 / 8.0).sqrt() } else { 0.5 };
        norm * ((2.0 * place + 1.0) * frequency * std::f64::consts::PI / 16.0).cos()
    })
}

/// The matrix `of` applied to the rows and to the columns of a block.
fn both_ways(block: &[f64; 64], of: impl Fn(usize, usize) -> f64) -> [f64; 64] {
    let rows: [f64; 64] = std::array::from_fn(|at| (0..8).map(|k| of(at % 8, k) * block[at / 8 * 8 + k]).sum());
    std::array::from_fn(|at| (0..8).map(|k| of(at / 8, k) * rows[k * 8 + at % 8]).sum())
}
