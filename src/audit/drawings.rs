//! Plots of a finding: rates by group with their limits, and how they would be at other thresholds.
//!
//! Neighbours: `report` shows them. Left out: numbers that are not told.

use super::finding::FindingAudit;
use super::performance::{Figure, Metric};
use super::thresholds::Curve;
use super::words::named;
use crate::plot::{Forest, ForestGroup, ForestRow, Lines, Panel, Point, Scale, Series, Svg};

/// A name for files, a caption, and the plot.
pub(super) fn of_finding(finding: &FindingAudit) -> Vec<(&'static str, String, Svg)> {
    let mut all =
        vec![("rates", "Rates of errors by group with 95 % limits; n is studies.".to_owned(), rates(finding))];
    all.push(("gaps", "Each group less all others, with 95 % limits.".to_owned(), gaps(finding)));
    if finding.curves.iter().any(|curve| curve.points.len() > 1) {
        let caption = "What rates would be if studies were positive from another score on.".to_owned();
        all.push(("thresholds", caption, thresholds(finding)));
        all.push(("roc", "Receiver operating characteristic by group.".to_owned(), roc(finding)));
    }
    all
}

fn rates(finding: &FindingAudit) -> Svg {
    let groups = [Metric::FalseNegativeRate, Metric::FalsePositiveRate].map(|metric| {
        let row = |block: &super::finding::Block| {
            let told = block.metrics.get(&metric).and_then(Figure::told);
            ForestRow {
                label: block.group.clone().unwrap_or_else(|| "all".to_owned()),
                estimate: told.map(|e| e.value),
                interval: told.and_then(|e| e.lower.zip(e.upper)),
                n: block.counts.studies.map(|n| n as u64),
                reference: None,
            }
        };
        let rows = std::iter::once(&finding.overall).chain(&finding.groups).map(row).collect();
        ForestGroup { heading: named(metric).to_owned(), rows }
    });
    Forest {
        title: format!("{}: errors by group", finding.finding),
        description: String::new(),
        value: "rate".to_owned(),
        reference: String::new(),
        range: None,
        rule: None,
        decimals: 3,
        groups: groups.into(),
    }
    .svg()
}

fn gaps(finding: &FindingAudit) -> Svg {
    let group = |gap: &super::gaps::Gap| {
        let row = |of: &super::gaps::AgainstRest| {
            let told = of.difference.told();
            ForestRow {
                label: of.group.clone(),
                estimate: told.map(|e| e.value),
                interval: told.and_then(|e| e.lower.zip(e.upper)),
                n: None,
                reference: None,
            }
        };
        ForestGroup { heading: named(gap.metric).to_owned(), rows: gap.against_rest.iter().map(row).collect() }
    };
    Forest {
        title: format!("{}: groups less the rest", finding.finding),
        description: String::new(),
        value: "difference".to_owned(),
        reference: String::new(),
        range: None,
        rule: Some(0.0),
        decimals: 3,
        groups: finding.gaps.primary.iter().map(group).collect(),
    }
    .svg()
}

fn thresholds(finding: &FindingAudit) -> Svg {
    let panel = |y: &str, of: fn(&super::thresholds::CurvePoint) -> f64| Panel {
        y: y.to_owned(),
        range: Some((0.0, 1.0)),
        series: finding.curves.iter().map(|curve| series(curve, |p| (p.threshold, of(p)))).collect(),
        ..Panel::default()
    };
    let panels = vec![
        panel("miss rate", |p| p.false_negative_rate),
        panel("false alarm rate", |p| p.false_positive_rate),
        panel("share of positives", |p| p.flag_rate),
    ];
    Lines {
        title: format!("{}: other thresholds", finding.finding),
        x: "score from which on a study is positive".to_owned(),
        scale: Scale::Linear,
        panels,
        ..Lines::default()
    }
    .svg()
}

fn roc(finding: &FindingAudit) -> Svg {
    let of = |curve: &Curve| series(curve, |p| (p.false_positive_rate, 1.0 - p.false_negative_rate));
    let panel = Panel {
        y: "sensitivity".to_owned(),
        range: Some((0.0, 1.0)),
        series: finding.curves.iter().map(of).collect(),
        ..Panel::default()
    };
    Lines {
        title: format!("{}: ROC by group", finding.finding),
        x: "false alarm rate".to_owned(),
        scale: Scale::Linear,
        panels: vec![panel],
        ..Lines::default()
    }
    .svg()
}

fn series(curve: &Curve, at: impl Fn(&super::thresholds::CurvePoint) -> (f64, f64)) -> Series {
    let mut points: Vec<(f64, f64)> = curve.points.iter().map(at).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let point = |(x, y): (f64, f64)| Point { x, y, limits: None };
    Series::joined(curve.group.clone().unwrap_or_else(|| "all".to_owned()), points.into_iter().map(point).collect())
}
