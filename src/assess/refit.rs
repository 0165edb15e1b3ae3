//! The same three models as in `estimate`, refitted under the patient weights of one bootstrap draw, from gradients alone.
//!
//! Rows lie by group and column by column: within a group all that differs between groups is a constant, so a curve's
//! design has four columns in place of ten, and a class is the same for all rows. Patients that a draw left out are
//! left out of its sums. Neighbours: `estimate` gives the start and the second derivatives, and refits what does not
//! get there. Left out: the parameters' meaning (`curves`).

use super::curves::Layout;
use crate::stats::Ridge;
use crate::stats::loops::{add_scaled, dot, exp, expit, sum};

/// Rows that are worked on together, so that what is computed of them stays in the nearest cache.
const TILE: usize = 256;

/// The rows of one group.
#[derive(Debug, Clone, Default)]
struct Segment {
    /// What a score's row has after its 1; then, for the first `raced` rows, the race model's log-ratios.
    columns: Vec<Vec<f64>>,
    outcome: Vec<f64>,
    patient: Vec<u32>,
    raced: usize,
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
    weights: Vec<Vec<f64>>,
    chosen: Vec<u32>,
    tile: Vec<f64>,
}

impl Rows {
    /// The rows that have log-ratios come first within their group, all else stays in order.
    pub(super) fn new<'a>(layout: &Layout, rows: impl Iterator<Item = Row<'a>> + Clone) -> Self {
        let ratios = if layout.race { layout.groups - 1 } else { 0 };
        let empty = Segment { columns: vec![Vec::new(); layout.terms - 1 + ratios], ..Segment::default() };
        let mut segments = vec![empty; layout.groups];
        for with in [true, false] {
            for row in rows.clone().filter(|r| (layout.race && r.ratios.is_some()) == with) {
                let segment = &mut segments[row.group];
                let values = row.terms.iter().chain(row.ratios.filter(|_| with).into_iter().flatten());
                segment.columns.iter_mut().zip(values).for_each(|(column, value)| column.push(*value));
                segment.outcome.push(row.outcome);
                segment.patient.push(row.patient as u32);
                segment.raced += usize::from(with);
            }
        }
        Self { layout: layout.clone(), segments }
    }

    /// Takes what a draw has of each group.
    pub(super) fn draw(&self, patients: &[f64], drawn: &mut Drawn) {
        drawn.segments.resize_with(self.segments.len(), Segment::default);
        drawn.weights.resize_with(self.segments.len(), Vec::new);
        for ((all, own), weights) in self.segments.iter().zip(&mut drawn.segments).zip(&mut drawn.weights) {
            let chosen = &mut drawn.chosen;
            chosen.clear();
            chosen.extend((0..all.patient.len() as u32).filter(|&i| patients[all.patient[i as usize] as usize] > 0.0));
            own.raced = chosen.partition_point(|&i| (i as usize) < all.raced);
            let take = |from: &[f64], to: &mut Vec<f64>| {
                to.clear();
                to.extend(chosen.iter().filter_map(|&i| from.get(i as usize)));
            };
            own.columns.resize_with(all.columns.len(), Vec::new);
            all.columns.iter().zip(&mut own.columns).for_each(|(from, to)| take(from, to));
            take(&all.outcome, &mut own.outcome);
            weights.clear();
            weights.extend(chosen.iter().map(|&i| patients[all.patient[i as usize] as usize]));
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
        let Drawn { segments, weights, tile, .. } = drawn;
        tile.resize(TILE, 0.0);
        for (position, &group) in layout.admitted.iter().enumerate() {
            let (rows, weights) = (&segments[group], &weights[group]);
            let shift = layout.terms + position;
            let slope = layout.sloped.iter().position(|&p| p == position);
            let slope = slope.map(|at| layout.terms + layout.admitted.len() + at);
            for from in (0..weights.len()).step_by(TILE) {
                let tile = &mut tile[..TILE.min(weights.len() - from)];
                let own = from..from + tile.len();
                tile.fill(beta[0] + beta[shift]);
                for (j, column) in rows.columns[..layout.terms - 1].iter().enumerate() {
                    // The first function of the score is x itself.
                    let own_slope = slope.filter(|_| j == 0).map_or(0.0, |at| beta[at]);
                    add_scaled(tile, beta[1 + j] + own_slope, &column[own.clone()]);
                }
                let (outcomes, weights) = (&rows.outcome[own.clone()], &weights[own.clone()]);
                for ((value, y), w) in tile.iter_mut().zip(outcomes).zip(weights) {
                    *value = w * (y - expit(*value));
                }
                let total = sum(tile);
                out[0] += total;
                out[shift] += total;
                for (j, column) in rows.columns[..layout.terms - 1].iter().enumerate() {
                    let along = dot(tile, &column[own.clone()]);
                    out[1 + j] += along;
                    if let Some(at) = slope.filter(|_| j == 0) {
                        out[at] += along;
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
        let Drawn { segments, weights, tile, .. } = drawn;
        let others = layout.groups - 1;
        let columns = layout.terms - 1 + if race { others } else { 0 };
        tile.resize((others + 2) * TILE, 0.0);
        for (group, (rows, weights)) in segments.iter().zip(weights).enumerate() {
            let length = if race { rows.raced } else { weights.len() };
            for from in (0..length).step_by(TILE) {
                let size = TILE.min(length - from);
                let (own, weights) = (from..from + size, &weights[from..from + size]);
                let (top, rest) = tile.split_at_mut(TILE);
                let (total, logits) = rest.split_at_mut(TILE);
                let (top, total) = (&mut top[..size], &mut total[..size]);
                top.fill(0.0);
                for (logit, beta) in logits.chunks_exact_mut(TILE).zip(beta.chunks_exact(1 + columns)) {
                    let logit = &mut logit[..size];
                    logit.fill(beta[0]);
                    for (column, b) in rows.columns.iter().zip(&beta[1..]) {
                        add_scaled(logit, *b, &column[own.clone()]);
                    }
                    for (top, logit) in top.iter_mut().zip(&*logit) {
                        *top = if *logit > *top { *logit } else { *top };
                    }
                }
                for (total, top) in total.iter_mut().zip(&*top) {
                    *total = exp(-top);
                }
                for logit in logits.chunks_exact_mut(TILE).take(others) {
                    for ((logit, top), total) in logit[..size].iter_mut().zip(&*top).zip(&mut *total) {
                        *logit = exp(*logit - top);
                        *total += *logit;
                    }
                }
                for (total, w) in total.iter_mut().zip(weights) {
                    *total = w / *total;
                }
                let parts = logits.chunks_exact_mut(TILE).zip(out.chunks_exact_mut(1 + columns));
                for (k, (logit, out)) in parts.enumerate() {
                    let logit = &mut logit[..size];
                    logit.iter_mut().zip(&*total).for_each(|(value, scale)| *value *= -scale);
                    if k + 1 == group {
                        logit.iter_mut().zip(weights).for_each(|(value, w)| *value += w);
                    }
                    out[0] += sum(logit);
                    for (column, out) in rows.columns.iter().zip(&mut out[1..]) {
                        *out += dot(logit, &column[own.clone()]);
                    }
                }
            }
        }
    }
}

/// What the ridge adds to the gradient.
fn penalty(ridge: &Ridge, beta: &[f64], out: &mut [f64]) {
    for (((out, b), precision), center) in out.iter_mut().zip(beta).zip(&ridge.precision).zip(&ridge.center) {
        *out = -precision * (b - center);
    }
}
