//! The same three models as in `estimate`, refitted under the patient weights of one bootstrap draw, from gradients alone.
//!
//! Rows lie by group and column by column: within a group all that differs between groups is a constant, so a curve's
//! design has four columns in place of ten, and a class is the same for all rows. Patients that a draw left out are
//! left out of its sums. Neighbours: `estimate` gives the start and the second derivatives, and refits what does not
//! get there. Left out: the parameters' meaning (`curves`).

use super::curves::Layout;
use crate::stats::loops::{LANES, dot, exp, expit, linear, sum};
use crate::stats::{NaturalSpline, Ridge};

/// Chunks of rows that are worked on together, so that what is computed of them stays in the nearest cache.
const TILE: usize = 32;

/// Functions of the score and log-ratios of at most 16 groups.
const COLUMNS_MAX: usize = NaturalSpline::DEGREES + 15;

/// Rows of one group that all have log-ratios, or none.
#[derive(Debug, Clone, Default)]
struct Segment {
    group: usize,
    raced: bool,
    /// What a score's row has after its 1; then the race model's log-ratios.
    columns: Vec<Vec<f64>>,
    outcome: Vec<f64>,
    patient: Vec<u32>,
    /// In a draw, how often each row counts. All else is filled up with zeros to whole chunks.
    weight: Vec<f64>,
}

/// All rows of a finding, ready to be weighed.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    layout: Layout,
    segments: Vec<Segment>,
}

/// One row of it.
pub(super) struct Row<'a> {
    pub(super) group: usize,
    /// The score's row without its 1.
    pub(super) terms: &'a [f64],
    pub(super) ratios: Option<&'a [f64]>,
    pub(super) outcome: f64,
    pub(super) patient: usize,
}

/// The rows that a draw has, with their weights; kept from draw to draw.
#[derive(Debug, Clone, Default)]
pub(super) struct Drawn {
    segments: Vec<Segment>,
    chosen: Vec<u32>,
    tile: Vec<[f64; LANES]>,
}

impl Rows {
    pub(super) fn new<'a>(layout: &Layout, rows: impl Iterator<Item = Row<'a>>) -> Self {
        let (terms, ratios) = (layout.terms - 1, layout.groups - 1);
        let empty = |group: usize, raced: bool| Segment {
            group,
            raced,
            columns: vec![Vec::new(); terms + if raced { ratios } else { 0 }],
            ..Segment::default()
        };
        let mut segments: Vec<Segment> = (0..2 * layout.groups).map(|i| empty(i / 2, i % 2 == 1)).collect();
        for row in rows {
            let ratios = row.ratios.filter(|_| layout.race);
            let segment = &mut segments[2 * row.group + usize::from(ratios.is_some())];
            let values = row.terms.iter().chain(ratios.into_iter().flatten());
            segment.columns.iter_mut().zip(values).for_each(|(column, value)| column.push(*value));
            segment.outcome.push(row.outcome);
            segment.patient.push(row.patient as u32);
        }
        Self { layout: layout.clone(), segments }
    }

    /// Takes what a draw has of each group.
    pub(super) fn draw(&self, patients: &[f64], drawn: &mut Drawn) {
        drawn.segments.resize_with(self.segments.len(), Segment::default);
        for (all, own) in self.segments.iter().zip(&mut drawn.segments) {
            let chosen = &mut drawn.chosen;
            chosen.clear();
            chosen.extend((0..all.patient.len() as u32).filter(|&i| patients[all.patient[i as usize] as usize] > 0.0));
            let whole = chosen.len().next_multiple_of(LANES);
            let take = |from: &[f64], to: &mut Vec<f64>| {
                to.clear();
                to.extend(chosen.iter().map(|&i| from[i as usize]));
                to.resize(whole, 0.0);
            };
            (own.group, own.raced) = (all.group, all.raced);
            own.columns.resize_with(all.columns.len(), Vec::new);
            all.columns.iter().zip(&mut own.columns).for_each(|(from, to)| take(from, to));
            take(&all.outcome, &mut own.outcome);
            own.weight.clear();
            own.weight.extend(chosen.iter().map(|&i| patients[all.patient[i as usize] as usize]));
            own.weight.resize(whole, 0.0);
        }
    }

    /// The gradient of the penalised likelihood of the curves.
    pub(super) fn curve_gradient(&self, drawn: &mut Drawn, ridge: &Ridge, beta: &[f64], out: &mut [f64]) {
        penalty(ridge, beta, out);
        pulp::Arch::new().dispatch(CurvePass { layout: &self.layout, drawn, beta, out });
    }

    /// The gradient of the penalised likelihood of the mix, or with `race` of the race part.
    pub(super) fn class_gradient(&self, drawn: &mut Drawn, race: bool, ridge: &Ridge, beta: &[f64], out: &mut [f64]) {
        penalty(ridge, beta, out);
        pulp::Arch::new().dispatch(ClassPass { layout: &self.layout, drawn, race, beta, out });
    }
}

/// One pass over the rows, adding up the gradient of the curves. A type and no closure: what is dispatched has to be
/// inlined into the code that may use AVX2.
struct CurvePass<'a> {
    layout: &'a Layout,
    drawn: &'a mut Drawn,
    beta: &'a [f64],
    out: &'a mut [f64],
}

impl pulp::WithSimd for CurvePass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { layout, drawn, beta, out } = self;
        let Drawn { segments, tile, .. } = drawn;
        let terms = layout.terms - 1;
        tile.resize(TILE, [0.0; LANES]);
        for rows in segments {
            let Some(position) = layout.admitted.iter().position(|g| *g == rows.group) else { continue };
            let shift = layout.terms + position;
            let slope = shift + layout.admitted.len();
            let mut factors = [0.0; NaturalSpline::DEGREES];
            factors[..terms].copy_from_slice(&beta[1..layout.terms]);
            // The first function of the score is x itself.
            factors[0] += beta[slope];
            let all: [&[[f64; LANES]]; NaturalSpline::DEGREES] =
                std::array::from_fn(|j| if j < terms { chunks(&rows.columns[j]) } else { &[] });
            let (outcome, weight) = (chunks(&rows.outcome), chunks(&rows.weight));
            for from in (0..weight.len()).step_by(TILE) {
                let own = from..weight.len().min(from + TILE);
                let residual = &mut tile[..own.len()];
                let columns = all.map(|column| if column.is_empty() { column } else { &column[own.clone()] });
                linear(residual, beta[0] + beta[shift], &factors[..terms], &columns);
                let residual = residual.as_flattened_mut();
                let known = outcome[own.clone()].as_flattened().iter().zip(weight[own.clone()].as_flattened());
                for (value, (y, w)) in residual.iter_mut().zip(known) {
                    *value = w * (y - expit(*value));
                }
                let total = sum(residual);
                out[0] += total;
                out[shift] += total;
                for (j, column) in columns[..terms].iter().enumerate() {
                    let along = dot(residual, column.as_flattened());
                    out[1 + j] += along;
                    if j == 0 {
                        out[slope] += along;
                    }
                }
            }
        }
    }
}

/// The same for the mix, or with `race` for the race part.
struct ClassPass<'a> {
    layout: &'a Layout,
    drawn: &'a mut Drawn,
    race: bool,
    beta: &'a [f64],
    out: &'a mut [f64],
}

impl pulp::WithSimd for ClassPass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { layout, drawn, race, beta, out } = self;
        let Drawn { segments, tile, .. } = drawn;
        let others = layout.groups - 1;
        let used = layout.terms - 1 + if race { others } else { 0 };
        tile.resize((others + 1) * TILE, [0.0; LANES]);
        let mut largest = [0.0_f64; LANES];
        for rows in segments.iter().filter(|rows| rows.raced || !race) {
            let mut columns: [&[[f64; LANES]]; COLUMNS_MAX] = [&[]; COLUMNS_MAX];
            let weight = chunks(&rows.weight);
            for from in (0..weight.len()).step_by(TILE) {
                let own = from..weight.len().min(from + TILE);
                for (to, column) in columns.iter_mut().zip(&rows.columns[..used]) {
                    *to = &chunks(column)[own.clone()];
                }
                let columns = &columns[..used];
                let weight = weight[own.clone()].as_flattened();
                let (total, logits) = tile.split_at_mut(TILE);
                let total = &mut total[..own.len()];
                total.fill([1.0; LANES]);
                for (logit, beta) in logits.chunks_exact_mut(TILE).zip(beta.chunks_exact(1 + used)) {
                    let logit = &mut logit[..own.len()];
                    linear(logit, beta[0], &beta[1..], columns);
                    for (value, total) in logit.as_flattened_mut().iter_mut().zip(total.as_flattened_mut()) {
                        *value = exp(*value);
                        *total += *value;
                    }
                }
                for chunk in &*total {
                    for (largest, value) in largest.iter_mut().zip(chunk) {
                        *largest = if *value > *largest { *value } else { *largest };
                    }
                }
                let scale = total.as_flattened_mut();
                scale.iter_mut().zip(weight).for_each(|(value, w)| *value = w / *value);
                let parts = logits.chunks_exact_mut(TILE).zip(out.chunks_exact_mut(1 + used));
                for (k, (logit, out)) in parts.enumerate() {
                    let residual = logit[..own.len()].as_flattened_mut();
                    residual.iter_mut().zip(&*scale).for_each(|(value, scale)| *value *= -scale);
                    if k + 1 == rows.group {
                        residual.iter_mut().zip(weight).for_each(|(value, w)| *value += w);
                    }
                    out[0] += sum(residual);
                    for (column, out) in columns.iter().zip(&mut out[1..]) {
                        *out += dot(residual, column.as_flattened());
                    }
                }
            }
        }
        // Exponentials end at e^700: what is beyond is left to Newton's method, which takes the largest first.
        if largest.iter().any(|value| *value > 1e300) {
            out.fill(f64::NAN);
        }
    }
}

/// A whole number of chunks.
#[inline(always)]
fn chunks(values: &[f64]) -> &[[f64; LANES]] {
    values.as_chunks().0
}

/// What the ridge adds to the gradient.
fn penalty(ridge: &Ridge, beta: &[f64], out: &mut [f64]) {
    for (((out, b), precision), center) in out.iter_mut().zip(beta).zip(&ridge.precision).zip(&ridge.center) {
        *out = -precision * (b - center);
    }
}
