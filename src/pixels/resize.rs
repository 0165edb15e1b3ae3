//! Resize: antialiased bilinear, equal to `torchvision.transforms.functional.resize(antialias=True)` on float images,
//! or by area.
//!
//! Separable, down first, then across, a row at a time: values go through the cache once. Bilinear: a triangle filter
//! as wide as the scale (at least one pixel to each side). Area: each output pixel is the mean of what it covers, parts
//! of pixels by their part, which is OpenCV's `INTER_AREA` where both axes shrink or both grow. The source is seen
//! through a window, which crops it or pads it with 0 without a copy. The loops are compiled for AVX2 as well, which is
//! used where the processor has it; sums are in the same order and the results are the same.

use std::collections::VecDeque;

use crate::domain::Filter;

/// The part of an image that is resized: may start before the image or end behind it; there the value is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub top: isize,
    pub left: isize,
    pub rows: usize,
    pub columns: usize,
}

/// Resizes the window of an image of `rows` × `columns` to `size` × `size`. `line` writes the values of a row; it is
/// asked for every row that matters once, from the first to the last, so that no more of the image need exist at a
/// time.
pub fn resize(
    rows: usize,
    columns: usize,
    window: Window,
    size: usize,
    filter: Filter,
    mut line: impl FnMut(usize, &mut [f32]),
) -> Vec<f32> {
    let across = weights(window.left, window.columns, columns, size, filter);
    let down = weights(window.top, window.rows, rows, size, filter);
    let mut resized = vec![0.0; size * size];
    // output rows that see something of the image, in order; their first and last source rows ascend as well
    let mut waiting = down.iter().zip(resized.chunks_exact_mut(size)).filter(|(w, _)| !w.values.is_empty()).peekable();
    let first = waiting.peek().map_or(0, |(w, _)| w.start);
    let last = down.iter().map(Taps::end).max().unwrap_or(0);
    let mut values = vec![0.0; columns];
    let mut sums: VecDeque<(&Taps, &mut [f32], Vec<f32>)> = VecDeque::new();
    let mut spare = Vec::new();
    let simd = pulp::Arch::new();
    for row in first..last {
        line(row, &mut values);
        while let Some((taps, target)) = waiting.next_if(|(w, _)| w.start <= row) {
            let mut sum: Vec<f32> = spare.pop().unwrap_or_default();
            sum.clear();
            sum.resize(columns, 0.0);
            sums.push_back((taps, target, sum));
        }
        for (taps, _, sum) in &mut sums {
            if let Some(weight) = taps.values.get(row - taps.start) {
                simd.dispatch(|| sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += weight * value));
            }
        }
        while let Some((_, target, sum)) = sums.pop_front_if(|(taps, _, _)| taps.end() <= row + 1) {
            simd.dispatch(|| {
                for (out, w) in target.iter_mut().zip(&across) {
                    *out = dot(&sum[w.start..w.start + w.values.len()], &w.values);
                }
            });
            spare.push(sum);
        }
    }
    resized
}

/// Sum of products, in four sums side by side.
fn dot(values: &[f32], weights: &[f32]) -> f32 {
    let (values, rest) = values.as_chunks::<4>();
    let (weights, rest_weights) = weights.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (v, w) in values.iter().zip(weights) {
        for i in 0..4 {
            sums[i] += v[i] * w[i];
        }
    }
    let rest: f32 = rest.iter().zip(rest_weights).map(|(v, w)| v * w).sum();
    (sums[0] + sums[2]) + (sums[1] + sums[3]) + rest
}

/// The source pixels of one output pixel, those outside the image left out.
struct Taps {
    start: usize,
    values: Vec<f32>,
}

impl Taps {
    fn end(&self) -> usize {
        self.start + self.values.len()
    }
}

fn weights(offset: isize, length: usize, available: usize, size: usize, filter: Filter) -> Vec<Taps> {
    let scale = length as f64 / size as f64;
    let support = scale.max(1.0);
    (0..size)
        .map(|i| {
            let center = scale * (i as f64 + 0.5);
            let (low, high) = (scale * i as f64, scale * (i as f64 + 1.0));
            let (from, to) = match filter {
                Filter::Bilinear => ((center - support + 0.5).max(0.0) as usize, (center + support + 0.5) as usize),
                Filter::Area => (low as usize, high.ceil() as usize),
            };
            let to = to.min(length);
            let weight = |j: usize| match filter {
                Filter::Bilinear => (1.0 - ((j as f64 - center + 0.5) / support).abs()).max(0.0),
                Filter::Area => ((j as f64 + 1.0).min(high) - (j as f64).max(low)).max(0.0),
            };
            let total: f64 = (from..to).map(weight).sum();
            let inside = |j: &usize| (0..available as isize).contains(&(*j as isize + offset));
            let kept: Vec<usize> = (from..to).filter(inside).collect();
            let start = kept.first().map_or(0, |j| (*j as isize + offset) as usize);
            Taps { start, values: kept.iter().map(|j| (weight(*j) / total) as f32).collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(rows: usize, columns: usize) -> Window {
        Window { top: 0, left: 0, rows, columns }
    }

    fn resized(image: &[f32], rows: usize, columns: usize, window: Window, size: usize, filter: Filter) -> Vec<f32> {
        let line = |row: usize, out: &mut [f32]| out.copy_from_slice(&image[row * columns..(row + 1) * columns]);
        resize(rows, columns, window, size, filter, line)
    }

    fn image(rows: usize, columns: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32
        };
        (0..rows * columns).map(|_| next()).collect()
    }

    /// libtorch is the reference that torchvision itself calls. Tolerance: libtorch computes the centre of a filter in
    /// single precision, which moves it by up to 6e-5 pixels at the far end of 1,500; here it is computed in double.
    #[test]
    fn equals_libtorch_upsample_bilinear2d_aa() {
        let sizes = [(7, 9, 16), (64, 64, 64), (300, 211, 64), (1024, 1000, 320), (33, 1500, 32), (5, 5, 224)];
        for (rows, columns, size) in sizes {
            let source = image(rows, columns, 1 + rows as u32);
            let got = resized(&source, rows, columns, whole(rows, columns), size, Filter::Bilinear);
            let tensor = tch::Tensor::from_slice(&source).view([1, 1, rows as i64, columns as i64]);
            let side = size as i64;
            let reference = tensor.internal_upsample_bilinear2d_aa([side, side], false, None, None).view([-1]);
            let reference = Vec::<f32>::try_from(reference).expect("a tensor of floats");
            let worst = got.iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-5, "{rows}×{columns} to {size}: {worst}");
        }
    }

    /// Whole-number scales, down and up: there adaptive average pooling and `INTER_AREA` are one.
    #[test]
    fn area_equals_libtorch_adaptive_average_pooling_at_whole_scales() {
        for (rows, columns, size) in [(64, 96, 32), (300, 60, 60), (16, 16, 16), (8, 4, 32)] {
            let source = image(rows, columns, 3);
            let got = resized(&source, rows, columns, whole(rows, columns), size, Filter::Area);
            let tensor = tch::Tensor::from_slice(&source).view([1, 1, rows as i64, columns as i64]);
            let reference = tensor.adaptive_avg_pool2d([size as i64, size as i64]).view([-1]);
            let reference = Vec::<f32>::try_from(reference).expect("a tensor of floats");
            let worst = got.iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-6, "{rows}×{columns} to {size}: {worst}");
        }
    }

    /// Five pixels to two: the third is shared by halves, as in OpenCV.
    #[test]
    fn area_shares_pixels_by_their_part() {
        let source = [1.0, 2.0, 3.0, 4.0, 5.0].repeat(5);
        let got = resized(&source, 5, 5, whole(5, 5), 2, Filter::Area);
        for (got, expected) in got.iter().zip([1.8, 4.2, 1.8, 4.2]) {
            assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
        }
    }

    #[test]
    fn a_window_equals_a_cropped_or_padded_copy() {
        let (rows, columns) = (20, 31);
        let source = image(rows, columns, 5);
        let at = |row: isize, column: isize| {
            let inside = (0..rows as isize).contains(&row) && (0..columns as isize).contains(&column);
            if inside { source[row as usize * columns + column as usize] } else { 0.0 }
        };
        for (top, left, side) in [(0, 5, 20), (-5, 0, 31), (3, 3, 7), (-9, -9, 50)] {
            let window = Window { top, left, rows: side, columns: side };
            let copy: Vec<f32> =
                (0..side * side).map(|i| at(top + (i / side) as isize, left + (i % side) as isize)).collect();
            for filter in [Filter::Bilinear, Filter::Area] {
                let expected = resized(&copy, side, side, whole(side, side), 16, filter);
                let got = resized(&source, rows, columns, window, 16, filter);
                let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-6, "{top} {left} {side} {filter:?}: {worst}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn keeps_constants_and_bounds(rows in 1usize..90, columns in 1usize..90, size in 8usize..40, value in 0f32..1.0) {
            for filter in [Filter::Bilinear, Filter::Area] {
                let even = resized(&vec![value; rows * columns], rows, columns, whole(rows, columns), size, filter);
                prop_assert!(even.iter().all(|v| (v - value).abs() < 1e-6));
                let any = resized(&image(rows, columns, 9), rows, columns, whole(rows, columns), size, filter);
                prop_assert!(any.iter().all(|v| (-1e-6..=1.000_001).contains(v)));
            }
        }
    }
}
