//! Plots of a row: forests of AUCs, curves over a parameter, grids of cells, shifts of scores.
//!
//! Neighbours: `rows` measures, `plot` draws, `page` shows. Left out: files.

use super::catalogue::{Changed, Kind, Row, Said};
use super::metrics::{Estimate, Level};
use super::rows::{Data, Figure, Quantity};
use super::variants::{self, ORIGINAL, Variant};
use crate::perturb::Form;
use crate::plot::{Cell, Cells, Forest, ForestGroup, ForestRow, Grid, Lines, Panel, Point, Rule, Scale, Series, Svg};

/// Plots of a row, each with its caption.
pub(super) fn drawings(row: &Row, data: &Data<'_>, figures: &[Figure]) -> Vec<(String, Svg)> {
    match row.kind {
        Kind::Changed(Changed::Acquisition) => {
            let mut all = curves(row, data, figures);
            all.push(shifts(row, figures));
            all
        }
        Kind::Changed(changed) => {
            let mut all = curves(row, data, figures);
            if changed == Changed::Patches {
                all.extend(grids(row, data, figures));
            }
            all
        }
        Kind::Saliency => Vec::new(),
        _ if figures.is_empty() => Vec::new(),
        _ => vec![forest(row, figures)],
    }
}

fn forest(row: &Row, figures: &[Figure]) -> (String, Svg) {
    let mut groups: Vec<ForestGroup> = Vec::new();
    for figure in figures {
        let level = if figure.level == Level::Study { "studies" } else { "images" };
        let heading =
            [figure.model.as_str(), &figure.stratum, level].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>();
        let heading = heading.join(", ");
        let reference =
            row.published.iter().filter(|p| p.group == Some(figure.of.as_str())).filter_map(|p| match p.value {
                Said::Is(value) => Some(value),
                _ => None,
            });
        let reference: Vec<f64> = reference.collect();
        let row = ForestRow {
            label: figure.of.clone(),
            estimate: figure.estimate.map(|e| e.value),
            interval: figure.estimate.map(|e| (e.lower, e.upper)),
            n: figure.patients.map(|n| n as u64),
            // Several data sets have no one figure.
            reference: (reference.len() == 1).then(|| reference[0]),
        };
        match groups.iter_mut().find(|group| group.heading == heading) {
            Some(group) => group.rows.push(row),
            None => groups.push(ForestGroup { heading, rows: vec![row] }),
        }
    }
    let has_reference = groups.iter().flat_map(|g| &g.rows).any(|r| r.reference.is_some());
    let forest = Forest {
        title: row.title.to_owned(),
        description: String::new(),
        value: "AUC, one group against all others".to_owned(),
        reference: if has_reference { "published".to_owned() } else { String::new() },
        range: Some((0.4, 1.0)),
        rule: Some(0.5),
        decimals: 3,
        groups,
    };
    ("AUCs with 95 % intervals; n is patients.".to_owned(), forest.svg())
}

/// Mean race AUC along each family of changes: over its parameter where it has one, else by name.
fn curves(row: &Row, data: &Data<'_>, figures: &[Figure]) -> Vec<(String, Svg)> {
    let variants = variants::of_row(row, data.manifest.form, data.manifest.seed);
    let mut families: Vec<(String, Vec<&Variant>)> = Vec::new();
    for variant in &variants {
        let family = variant.place().0;
        match families.iter_mut().find(|(name, _)| *name == family) {
            Some((_, own)) => own.push(variant),
            None => families.push((family, vec![variant])),
        }
    }
    let by_name = families.iter().all(|(_, own)| own.len() == 1);
    if by_name {
        families = vec![(row.title.to_owned(), variants.iter().collect())];
    }
    families.iter().map(|(family, own)| curve(row, data, figures, family, own)).collect()
}

fn curve(row: &Row, data: &Data<'_>, figures: &[Figure], family: &str, variants: &[&Variant]) -> (String, Svg) {
    let numbers: Option<Vec<f64>> = variants.iter().map(|v| v.place().1).collect();
    let mut places: Vec<(String, f64)> = vec![];
    if numbers.is_none() {
        places.push((ORIGINAL.to_owned(), 0.0));
    }
    for (i, variant) in variants.iter().enumerate() {
        let x = numbers.as_ref().map_or((i + 1) as f64, |numbers| numbers[i]);
        places.push((variant.name.clone(), x));
    }
    let is_race = |f: &&Figure| f.quantity == Quantity::RaceAuc;
    let mut labels: Vec<(String, String)> =
        figures.iter().filter(is_race).map(|f| (f.model.clone(), f.of.clone())).collect();
    labels.sort();
    labels.dedup();
    let series = |(model, of): &(String, String)| {
        let found = |name: &str| {
            let own = |f: &&Figure| f.variant == name && f.model == *model && f.of == *of && f.level == Level::Image;
            figures.iter().filter(is_race).find(own).and_then(|f| f.estimate)
        };
        let points = places.iter().filter_map(|(name, x)| Some(point(*x, found(name)?))).collect();
        let label = format!("{model}: {of}");
        if numbers.is_some() { Series::joined(label, points) } else { Series::dots(label, points) }
    };
    let whole =
        figures.iter().filter(|f| f.variant == ORIGINAL && f.quantity == Quantity::MacroAuc).find_map(|f| f.estimate);
    let mut rules = vec![0.5.into()];
    rules.extend(whole.filter(|_| numbers.is_some()).map(|e| Rule { at: e.value, label: "whole image".to_owned() }));
    let lines = Lines {
        title: format!("{}: {family}", row.title),
        x: x_of(family, data.manifest.form).to_owned(),
        scale: match &numbers {
            Some(_) if ["window", "field of view"].contains(&family) => Scale::Linear,
            Some(_) => Scale::Log,
            None => Scale::Names(places.iter().map(|(name, _)| name.clone()).collect()),
        },
        panels: vec![Panel {
            y: "AUC".to_owned(),
            range: Some((0.4, 1.0)),
            series: labels.iter().map(series).collect(),
            rules,
            ..Panel::default()
        }],
        ..Lines::default()
    };
    (format!("AUC of each group against all others, {family}."), lines.svg())
}

fn x_of(family: &str, form: Form) -> &'static str {
    match family {
        "low-pass" | "high-pass" if form == Form::AsPublished => {
            "\"diameter\" of the paper's code, a radius, cycles per side of 224 pixels"
        }
        "low-pass" | "high-pass" => "diameter, cycles per side",
        "resolution" => "pixels a side",
        _ => "",
    }
}

/// Mean race AUCs in 3 × 3 grids, a panel for each family and model.
fn grids(row: &Row, data: &Data<'_>, figures: &[Figure]) -> Option<(String, Svg)> {
    let mut panels: Vec<Cells> = Vec::new();
    let quantity = if data.manifest.groups.len() > 2 { Quantity::MacroAuc } else { Quantity::RaceAuc };
    for variant in variants::of_row(row, data.manifest.form, data.manifest.seed) {
        let Some(cell) = variant.cell().filter(|cell| *cell < 9) else { continue };
        let family = variant.place().0;
        for figure in figures.iter().filter(|f| f.variant == variant.name && f.quantity == quantity) {
            let heading = format!("{family}, {}", figure.model);
            let at = panels.iter().position(|p| p.heading == heading).unwrap_or_else(|| {
                panels.push(Cells { heading, cells: vec![Cell::default(); 9] });
                panels.len() - 1
            });
            if let Some(e) = figure.estimate {
                panels[at].cells[cell] =
                    Cell { value: Some(e.value), note: format!("{:.2}–{:.2}", e.lower, e.upper) };
            }
        }
    }
    let grid = Grid {
        title: "Where in the image".to_owned(),
        description: String::new(),
        value: "mean AUC".to_owned(),
        columns: ["left", "middle", "right"].map(str::to_owned).into(),
        rows: ["top", "middle", "bottom"].map(str::to_owned).into(),
        range: Some((0.5, 1.0)),
        decimals: 3,
        panels,
    };
    (!grid.panels.is_empty())
        .then(|| ("Mean AUC by cell of a 3 × 3 grid, with 95 % limits; left of the picture.".to_owned(), grid.svg()))
}

fn shifts(row: &Row, figures: &[Figure]) -> (String, Svg) {
    let mut groups: Vec<ForestGroup> = Vec::new();
    for figure in figures.iter().filter(|f| f.quantity == Quantity::ScoreShift) {
        let heading = format!("{}, {}", figure.model, figure.variant);
        let row = ForestRow {
            label: figure.of.clone(),
            estimate: figure.estimate.map(|e| e.value),
            interval: figure.estimate.map(|e| (e.lower, e.upper)),
            n: figure.patients.map(|n| n as u64),
            reference: None,
        };
        match groups.iter_mut().find(|group| group.heading == heading) {
            Some(group) => group.rows.push(row),
            None => groups.push(ForestGroup { heading, rows: vec![row] }),
        }
    }
    let forest = Forest {
        title: row.title.to_owned(),
        description: String::new(),
        value: "shift of the mean score".to_owned(),
        reference: String::new(),
        range: None,
        rule: Some(0.0),
        decimals: 4,
        groups,
    };
    ("Mean score with the change less that without, by the patients' own group.".to_owned(), forest.svg())
}

pub(super) fn point(x: f64, e: Estimate) -> Point {
    Point { x, y: e.value, limits: Some((e.lower, e.upper)) }
}
