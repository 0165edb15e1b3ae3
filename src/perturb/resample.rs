//! Planes at another scale: bilinear between the centres of pixels, means over areas, and cells of a 3 × 3 grid.
//!
//! Beyond the first and last centre the nearest pixel counts. Left out: the resizing of images that arrive (`pixels`).

use super::{Form, Kept, Plane};

/// The part of the plane that begins at `start` and has these lengths, in pixels by rows and columns, brought to the
/// plane's size. Nothing outside `bounds` (from, to) is seen.
pub(super) fn zoomed(plane: &Plane, start: [f64; 2], length: [f64; 2], bounds: [(usize, usize); 2]) -> Vec<f32> {
    let rows = taps(plane.side, start[0], length[0], bounds[0]);
    let columns = taps(plane.side, start[1], length[1], bounds[1]);
    let at = |row: usize, column: usize| f64::from(plane.values[row * plane.side + column]);
    let mut values = Vec::with_capacity(plane.values.len());
    for &(top, bottom, down) in &rows {
        for &(left, right, along) in &columns {
            let upper = at(top, left) * (1.0 - along) + at(top, right) * along;
            let lower = at(bottom, left) * (1.0 - along) + at(bottom, right) * along;
            values.push((upper * (1.0 - down) + lower * down) as f32);
        }
    }
    values
}

/// For each of `count` pixels the two that it lies between, and how far from the first.
fn taps(count: usize, start: f64, length: f64, (from, to): (usize, usize)) -> Vec<(usize, usize, f64)> {
    let last = to.saturating_sub(1).max(from);
    let tap = |index: usize| {
        let place = start + (index as f64 + 0.5) * length / count as f64 - 0.5;
        let place = place.clamp(from as f64, last as f64);
        let first = (place.floor() as usize).min(last);
        (first, (first + 1).min(last), place - first as f64)
    };
    (0..count).map(tap).collect()
}

/// The plane averaged down to `side` pixels and bilinearly up again; as it is where that is no less than its own.
pub(super) fn coarse(plane: &Plane, side: usize) -> Vec<f32> {
    if side >= plane.side {
        return plane.values.clone();
    }
    let from = plane.side;
    let down = areas(from, side);
    // Rows first, then columns.
    let mut rows = vec![0.0; side * from];
    for (row, weights) in rows.chunks_mut(from).zip(&down) {
        for &(source, weight) in weights {
            let line = &plane.values[source * from..(source + 1) * from];
            row.iter_mut().zip(line).for_each(|(sum, v)| *sum += weight * f64::from(*v));
        }
    }
    let mean = |row: &[f64], weights: &[(usize, f64)]| weights.iter().map(|(at, w)| w * row[*at]).sum::<f64>();
    let small: Vec<f64> = rows.chunks(from).flat_map(|row| down.iter().map(move |w| mean(row, w))).collect();
    let up = taps(from, 0.0, side as f64, (0, side));
    let mut values = Vec::with_capacity(from * from);
    for &(top, bottom, low) in &up {
        for &(left, right, along) in &up {
            let at = |row: usize| small[row * side + left] * (1.0 - along) + small[row * side + right] * along;
            values.push((at(top) * (1.0 - low) + at(bottom) * low) as f32);
        }
    }
    values
}

/// For each of `to` areas the pixels of `from` that it covers, with their share of it.
fn areas(from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
    let scale = from as f64 / to as f64;
    let area = |index: usize| {
        let (start, end) = (index as f64 * scale, (index + 1) as f64 * scale);
        let pixels = start.floor() as usize..(end.ceil() as usize).min(from);
        let covered = |pixel: usize| (end.min((pixel + 1) as f64) - start.max(pixel as f64)).max(0.0) / scale;
        pixels.map(|pixel| (pixel, covered(pixel))).collect()
    };
    (0..to).map(area).collect()
}

pub(super) fn patch(plane: &Plane, cell: u8, kept: Kept, form: Form) -> Vec<f32> {
    let side = plane.side;
    let span = |third: usize| match form {
        Form::AsPublished => (third * (side / 3), (third + 1) * (side / 3)),
        Form::Corrected => (third * side / 3, (third + 1) * side / 3),
    };
    let (rows, columns) = (span(usize::from(cell) / 3), span(usize::from(cell) % 3));
    if rows.0 == rows.1 || columns.0 == columns.1 {
        return plane.values.clone();
    }
    match kept {
        Kept::Cell => {
            let length = |(from, to): (usize, usize)| (to - from) as f64;
            let start = [rows.0 as f64, columns.0 as f64];
            zoomed(plane, start, [length(rows), length(columns)], [rows, columns])
        }
        Kept::Rest => {
            let mut values = plane.values.clone();
            for row in values.chunks_mut(side).take(rows.1).skip(rows.0) {
                row[columns.0..columns.1].fill(0.0);
            }
            values
        }
    }
}
