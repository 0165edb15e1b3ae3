//! The calibration of one finding by group as a drawing.
//!
//! Neighbours: `diagnostics` says what is in it, `crate::plot` draws.

use super::diagnostics::GroupPlot;
use super::profile::FindingProfile;
use crate::domain::Interval;
use crate::plot::{Lines, Panel, Point, Rule, Series, Shape, Svg};

/// The picture: a group's curve with its band and its bins share a colour.
pub(super) fn calibration(finding: &FindingProfile, plots: &[GroupPlot<'_>]) -> Svg {
    let label = |plot: &GroupPlot<'_>| match plot.curve.is_empty() {
        true => format!("{}, no curve", plot.group),
        false => plot.group.to_owned(),
    };
    let point = |x: f64, i: &Interval| Point { x, y: i.estimate, limits: Some((i.lower, i.upper)) };
    let curve = |plot: &GroupPlot<'_>| {
        Series::curve(label(plot), plot.curve.iter().map(|(score, share)| point(*score, share)).collect())
    };
    let bins = |plot: &GroupPlot<'_>| {
        Series::dots(label(plot), plot.bins.iter().map(|bin| point(bin.score, &bin.observed)).collect())
    };
    Lines {
        title: finding.finding.clone(),
        description: format!(
            "Calibration by group: the share of studies with the finding over the score, as curves with simultaneous 95 % bands \
             and as bins with 95 % intervals; the threshold is at {:.3}.",
            finding.threshold
        ),
        x: "score".into(),
        shape: Shape::Square,
        panels: vec![Panel {
            y: "share with the finding".into(),
            range: Some((0.0, 1.0)),
            series: plots.iter().flat_map(|plot| [curve(plot), bins(plot)]).collect(),
            uprights: vec![Rule { at: finding.threshold, label: "threshold".into() }],
            has_diagonal: true,
            ..Panel::default()
        }],
        ..Lines::default()
    }
    .svg()
}
