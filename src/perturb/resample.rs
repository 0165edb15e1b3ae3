//! Planes at another scale: bilinear between the centres of pixels, means over areas, and cells of a 3 × 3 grid.
//!
//! Beyond the first and last centre the nearest pixel counts. Left out: the resizing of images that arrive (`pixels`).

use super::{Form, Kept, Plane};

/// The part of the plane that begins at `start` and has these lengths, in pixels by rows and columns, brought to the
/// plane's size. Nothing outside `bounds` (from, to) is seen.
pub(super) fn zoomed(plane: &Plane, start: [f64; 2], length: [f64; 2], bounds: [(usize, usize); 2]) -> Vec<f32> {
    let side = plane.side;
    let rows = taps(side, start[0], length[0], bounds[0]);
    let columns = taps(side, start[1], length[1], bounds[1]);
    enlarged(&plane.values, side, &rows, &columns)
}

/// Bilinear between the pixels of rows of this length that the taps name.
fn enlarged<T: Copy + Into<f64>>(values: &[T], length: usize, rows: &[Tap], columns: &[Tap]) -> Vec<f32> {
    let mut line = vec![0.0; length];
    let mut enlarged = Vec::with_capacity(rows.len() * columns.len());
    for &(top, bottom, down) in rows {
        let row = |at: usize| values[at * length..(at + 1) * length].iter();
        for ((mixed, upper), lower) in line.iter_mut().zip(row(top)).zip(row(bottom)) {
            *mixed = (*upper).into() * (1.0 - down) + (*lower).into() * down;
        }
        let at = |&(left, right, along): &Tap| (line[left] * (1.0 - along) + line[right] * along) as f32;
        enlarged.extend(columns.iter().map(at));
    }
    enlarged
}

/// The two pixels that one lies between, and how far from the first.
type Tap = (usize, usize, f64);

/// The taps of `count` pixels.
fn taps(count: usize, start: f64, length: f64, (from, to): (usize, usize)) -> Vec<Tap> {
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
    enlarged(&small, side, &up, &up)
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
        Kept::Rest => without(plane, rows, columns),
    }
}

/// The plane with 0 in these rows and columns (from, to), which it has.
pub(super) fn without(plane: &Plane, rows: (usize, usize), columns: (usize, usize)) -> Vec<f32> {
    let mut values = plane.values.clone();
    for row in values.chunks_mut(plane.side).take(rows.1).skip(rows.0) {
        row[columns.0..columns.1].fill(0.0);
    }
    values
}
