//! Rows from predictions: which figures each row of the catalogue comes to.
//!
//! Figures are of images and, where a study has several, of studies too. Pure. Neighbours: `metrics` measures, `tables`
//! of covariates are `confounders`', `page` tells. Left out: what needs a network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::catalogue::{Changed, Kind, Row};
use super::cohort::{Cohort, Image, label};
use super::manifest::{Manifest, Model};
use super::metrics::{self, Estimate, Level, PATIENTS_MIN, Scored};
use super::parts::Predictions;
use super::variants::{self, ORIGINAL};
use crate::domain::Purpose;

/// What a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// AUC of a group against all others.
    RaceAuc,
    /// The mean of those.
    MacroAuc,
    /// AUC of a finding.
    FindingAuc,
    /// The largest less the smallest miss rate of groups, of a finding at its threshold.
    MissGap,
    /// By how much the mean of a race score moves.
    ScoreShift,
}

/// A measured figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Name of the row.
    pub row: String,
    /// Who said it: a model's name, or that of a learner on a table.
    pub model: String,
    pub quantity: Quantity,
    /// Key of the group or finding; of a shift, of the score and of the patients' own group.
    pub of: String,
    pub level: Level,
    /// Part of the cohort; empty: all.
    pub stratum: String,
    pub variant: String,
    /// Values that it is of, and their patients; not told where fewer than eleven patients are.
    pub count: Option<usize>,
    pub patients: Option<usize>,
    /// `None` where too few patients stand for it.
    pub estimate: Option<Estimate>,
}

impl Quantity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RaceAuc => "AUC",
            Self::MacroAuc => "mean AUC",
            Self::FindingAuc => "AUC of the finding",
            Self::MissGap => "gap of miss rates",
            Self::ScoreShift => "shift of the mean score",
        }
    }
}

/// Predictions, and what is known of their images.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    pub manifest: &'a Manifest,
    /// The images that were scored.
    pub cohort: &'a Cohort,
    pub predictions: &'a Predictions,
}

/// A part of the cohort by name, and whether an image is of it.
pub type Stratum<'a> = (String, Box<dyn Fn(usize, &Image) -> bool + 'a>);

impl Data<'_> {
    /// Figures of a row; none of one that is not of predictions.
    pub fn figures(&self, row: &Row) -> Vec<Figure> {
        match row.kind {
            Kind::Detection => self.race(row, ORIGINAL, &everything()),
            Kind::Strata(columns) => {
                let strata = columns.iter().flat_map(|column| self.strata(column)).collect::<Vec<_>>();
                strata.iter().flat_map(|stratum| self.race(row, ORIGINAL, stratum)).collect()
            }
            Kind::NoFinding => self.race(row, ORIGINAL, &no_finding(self.cohort)),
            Kind::Changed(Changed::Acquisition) => [self.changed(row), self.shifts(row)].concat(),
            Kind::Changed(_) => self.changed(row),
            _ => Vec::new(),
        }
    }

    /// Race figures of one variant.
    pub(super) fn of_variant(&self, row: &Row, variant: &str) -> Vec<Figure> {
        self.race(row, variant, &everything())
    }

    /// Race and clinical figures of the image itself and of every variant of a row.
    fn changed(&self, row: &Row) -> Vec<Figure> {
        let mut names = vec![ORIGINAL.to_owned()];
        names.extend(variants::of_row(row, self.manifest.form, self.manifest.seed).into_iter().map(|v| v.name));
        // A mask or a salient box is not in every image: what is compared is of those that have it.
        let having = matches!(row.kind, Kind::Changed(Changed::Masks | Changed::Peak));
        let kept = self.having(if having { &names[1..] } else { &[] });
        let all: Stratum<'_> = (String::new(), Box::new(move |place, _| kept[place]));
        let of = |name: &String| [self.race(row, name, &all), self.clinical(row, name, &all)].concat();
        names.iter().flat_map(of).collect()
    }

    /// Of each image, whether every model has a prediction for all of these variants.
    fn having(&self, variants: &[String]) -> Vec<bool> {
        let mut kept = vec![true; self.cohort.images.len()];
        for variant in variants.iter().filter_map(|name| self.predictions.variant(name)) {
            for model in 0..self.manifest.models.len() {
                kept.iter_mut().zip(self.predictions.of(model, variant)).for_each(|(kept, p)| *kept &= p.is_some());
            }
        }
        kept
    }

    /// AUCs of the race models within a stratum.
    fn race(&self, row: &Row, variant: &str, stratum: &Stratum<'_>) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (m, model) in self.manifest.of_purpose(Purpose::Race) {
            let (images, places) = self.scored(m, variant, &*stratum.1);
            let mut levels = vec![(Level::Image, images.clone())];
            let studies = self.cohort.studies();
            let own: Vec<usize> = places.iter().map(|place| studies[*place]).collect();
            let merged = images.by_study(&own);
            if merged.len() < images.len() && variant == ORIGINAL {
                levels.push((Level::Study, merged));
            }
            for (level, scored) in levels {
                figures.extend(
                    race_figures(row, &self.manifest.groups, model, &scored, self.manifest.seed).map(|f| Figure {
                        level,
                        stratum: stratum.0.clone(),
                        variant: variant.to_owned(),
                        ..f
                    }),
                );
            }
        }
        figures
    }

    /// AUCs and gaps of miss rates of the clinical models' findings.
    fn clinical(&self, row: &Row, variant: &str, stratum: &Stratum<'_>) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (m, model) in self.manifest.of_purpose(Purpose::Clinical) {
            let (scored, places) = self.scored(m, variant, &*stratum.1);
            for (f, finding) in model.outputs.iter().enumerate() {
                let Some(column) = self.cohort.column(finding) else { continue };
                let truth: Vec<Option<bool>> = places.iter().map(|place| truth(column[*place])).collect();
                let known: Vec<usize> = (0..truth.len()).filter(|row| truth[*row].is_some()).collect();
                let scores = scored.column(f);
                let pick = |values: &[f64]| known.iter().map(|row| values[*row]).collect::<Vec<f64>>();
                let patients: Vec<usize> = known.iter().map(|row| scored.patient[*row]).collect();
                let positive: Vec<bool> = known.iter().map(|row| truth[*row] == Some(true)).collect();
                let seed = self.manifest.seed;
                let auc = metrics::auc(&pick(&scores), &positive, &patients, seed);
                let threshold = model.thresholds.get(f).copied().unwrap_or(0.5);
                let gap = metrics::miss_gap(&scores, &truth, &scored.group, &scored.patient, threshold, seed);
                let figure = |quantity, estimate, rows: &[usize]| Figure {
                    row: row.name.to_owned(),
                    model: model.name.clone(),
                    quantity,
                    of: finding.clone(),
                    level: Level::Image,
                    stratum: String::new(),
                    variant: variant.to_owned(),
                    count: counted(rows.len(), distinct(rows.iter().map(|row| scored.patient[*row]))),
                    patients: counted_patients(distinct(rows.iter().map(|row| scored.patient[*row]))),
                    estimate,
                };
                let with: Vec<usize> = known.iter().copied().filter(|row| truth[*row] == Some(true)).collect();
                figures.push(figure(Quantity::FindingAuc, auc, &known));
                figures.push(figure(Quantity::MissGap, gap, &with));
            }
        }
        figures
    }

    /// By how much each variant moves the mean of each race score, by the patients' own group.
    fn shifts(&self, row: &Row) -> Vec<Figure> {
        let mut figures = Vec::new();
        let groups = &self.manifest.groups;
        for (m, model) in self.manifest.of_purpose(Purpose::Race) {
            let Some(original) = self.predictions.variant(ORIGINAL) else { continue };
            let before: Vec<Option<&[f32]>> = self.predictions.of(m, original).collect();
            let patients = self.cohort.patients();
            for variant in variants::of_row(row, self.manifest.form, self.manifest.seed) {
                let Some(v) = self.predictions.variant(&variant.name) else { continue };
                let pairs: Vec<(usize, &[f32], &[f32])> = before
                    .iter()
                    .zip(self.predictions.of(m, v))
                    .enumerate()
                    .filter_map(|(image, (before, after))| Some((image, (*before)?, after?)))
                    .collect();
                for (of, score) in model.outputs.iter().enumerate() {
                    for (own, group) in groups.iter().enumerate() {
                        let rows: Vec<&(usize, &[f32], &[f32])> =
                            pairs.iter().filter(|(image, ..)| self.cohort.images[*image].group == own).collect();
                        let values: Vec<f64> = rows.iter().map(|(_, b, a)| f64::from(a[of] - b[of])).collect();
                        let patient: Vec<usize> = rows.iter().map(|(image, ..)| patients[*image]).collect();
                        figures.push(Figure {
                            row: row.name.to_owned(),
                            model: model.name.clone(),
                            quantity: Quantity::ScoreShift,
                            of: format!("{score} in {group}"),
                            level: Level::Image,
                            stratum: String::new(),
                            variant: variant.name.clone(),
                            count: counted(values.len(), distinct(patient.iter().copied())),
                            patients: counted_patients(distinct(patient.iter().copied())),
                            estimate: metrics::mean(&values, &patient, self.manifest.seed),
                        });
                    }
                }
            }
        }
        figures
    }

    /// What a model said of the images of a stratum, and their places.
    fn scored(&self, model: usize, variant: &str, is_in: &dyn Fn(usize, &Image) -> bool) -> (Scored, Vec<usize>) {
        let Some(variant) = self.predictions.variant(variant) else { return Default::default() };
        let patients = self.cohort.patients();
        let (mut scored, mut places) = (Scored::default(), Vec::new());
        for (place, outputs) in self.predictions.of(model, variant).enumerate() {
            let image = &self.cohort.images[place];
            let Some(outputs) = outputs.filter(|_| is_in(place, image)) else { continue };
            scored.outputs.push(outputs.iter().map(|v| f64::from(*v)).collect());
            scored.group.push(image.group);
            scored.patient.push(patients[place]);
            places.push(place);
        }
        (scored, places)
    }

    /// Strata of a column: ages and body mass indices by the paper's bounds, values of others as they are.
    fn strata(&self, column: &str) -> Vec<Stratum<'static>> {
        let Some(place) = self.cohort.columns.iter().position(|name| name == column) else { return Vec::new() };
        let bounds: &[f64] = match column {
            "age" => &[0.0, 20.0, 40.0, 60.0, 80.0, f64::INFINITY],
            "bmi" => &[0.0, 18.5, 25.0, 30.0, f64::INFINITY],
            _ => {
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                for image in &self.cohort.images {
                    *counts.entry(image.values[place].as_str()).or_default() += 1;
                }
                let mut values: Vec<(&str, usize)> =
                    counts.into_iter().filter(|(value, _)| !value.is_empty()).collect();
                values.sort_by_key(|(value, count)| (std::cmp::Reverse(*count), *value));
                return values
                    .into_iter()
                    .take(STRATA_MAX)
                    .map(|(value, _)| {
                        let (name, value) = (format!("{column} {value}"), value.to_owned());
                        (
                            name,
                            Box::new(move |_: usize, image: &Image| image.values[place] == value)
                                as Box<dyn Fn(usize, &Image) -> bool>,
                        )
                    })
                    .collect();
            }
        };
        let pairs = bounds.windows(2).map(|pair| (pair[0], pair[1]));
        pairs
            .map(|(from, to)| {
                let name = match (from, to) {
                    (from, to) if to.is_infinite() => format!("{column} {from} and more"),
                    (0.0, to) => format!("{column} below {to}"),
                    _ => format!("{column} {from} to below {to}"),
                };
                let number = move |image: &Image| image.values[place].parse::<f64>().ok();
                let is_in = move |_: usize, image: &Image| number(image).is_some_and(|v| from <= v && v < to);
                (name, Box::new(is_in) as Box<dyn Fn(usize, &Image) -> bool>)
            })
            .collect()
    }
}

/// Values of a column that become strata; the most frequent ones.
const STRATA_MAX: usize = 50;

/// AUCs of each group against the others, and their mean.
pub fn race_figures(
    row: &Row,
    groups: &[String],
    model: &Model,
    scored: &Scored,
    seed: u64,
) -> impl Iterator<Item = Figure> {
    let figure = |quantity, of: &str, estimate| Figure {
        row: row.name.to_owned(),
        model: model.name.clone(),
        quantity,
        of: of.to_owned(),
        level: Level::Image,
        stratum: String::new(),
        variant: ORIGINAL.to_owned(),
        count: counted(scored.len(), scored.patients()),
        patients: counted_patients(scored.patients()),
        estimate,
    };
    let mut figures: Vec<Figure> = Vec::new();
    for (g, group) in groups.iter().enumerate() {
        let member: Vec<bool> = scored.group.iter().map(|own| *own == g).collect();
        let scores = if scored.is_empty() { Vec::new() } else { scored.column(g) };
        figures.push(figure(Quantity::RaceAuc, group, metrics::auc(&scores, &member, &scored.patient, seed)));
    }
    // With two groups both have the same.
    if groups.len() > 2 {
        let can_be_told: Vec<usize> = (0..groups.len()).filter(|g| figures[*g].estimate.is_some()).collect();
        let of: Vec<&str> = can_be_told.iter().map(|g| groups[*g].as_str()).collect();
        let of = if of.len() == groups.len() { "all groups".to_owned() } else { of.join(" and ") };
        let mean = metrics::macro_auc(scored, &can_be_told, seed);
        figures.push(figure(Quantity::MacroAuc, &of, mean));
    }
    figures.into_iter()
}

/// The whole cohort.
pub(super) fn everything() -> Stratum<'static> {
    (String::new(), Box::new(|_, _| true))
}

/// Images whose disease labels are all 0, −1 or nothing; or those that a column `no_finding` says so of.
pub(super) fn no_finding(cohort: &Cohort) -> Stratum<'static> {
    let named = |name: &&String| ["no_finding", "no finding"].contains(&name.to_ascii_lowercase().as_str());
    let place = |name: &str| cohort.columns.iter().position(|column| column == name);
    if let Some(at) = cohort.columns.iter().find(named).and_then(|name| place(name)) {
        return ("no finding".to_owned(), Box::new(move |_, image| truth(&image.values[at]) == Some(true)));
    }
    let labels: Vec<usize> = cohort.labels.iter().filter_map(|name| place(name)).collect();
    let is_in = move |_: usize, image: &Image| {
        !labels.is_empty() && labels.iter().all(|at| label(&image.values[*at]).ok().flatten() != Some(1.0))
    };
    ("no finding".to_owned(), Box::new(is_in))
}

/// Whether a finding is there; −1 is not known.
pub(super) fn truth(text: &str) -> Option<bool> {
    match label(text) {
        Ok(Some(1.0)) => Some(true),
        Ok(Some(0.0)) => Some(false),
        _ => None,
    }
}

/// Numbers of few people are not told.
fn counted(values: usize, patients: usize) -> Option<usize> {
    (patients >= PATIENTS_MIN).then_some(values)
}

fn counted_patients(patients: usize) -> Option<usize> {
    counted(patients, patients)
}

fn distinct(numbers: impl Iterator<Item = usize>) -> usize {
    numbers.collect::<std::collections::BTreeSet<usize>>().len()
}
