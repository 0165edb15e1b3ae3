//! How well groups are told apart without a network: by covariates, disease labels, or grey values of the images.
//!
//! Models learn from the training part and are judged on the test part; a cohort without parts is halved by patient.
//! Neighbours: `tabular` fits. Left out: what images show (`scoring`).

use anyhow::Context;
use rayon::prelude::*;

use super::catalogue::{Kind, Row};
use super::cohort::{COVARIATES, Cohort};
use super::manifest::Model;
use super::metrics::Scored;
use super::rows::{Figure, race_figures};
use super::tabular::{self, Column, Covariates, Folds, Learner, Search, Table};
use crate::domain::{Contract, Purpose};
use crate::perturb::{Form, Plane};
use crate::pixels::{self, Frames, Limits};
use crate::stats::{ClusterBootstrap, Design};
use crate::train::Part;

/// Mean grey values are of pixels above these parts of the range: all tissue, then denser and denser.
const TISSUE: [f32; 7] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
const BINS: usize = 256;

/// What a row of covariates came to.
pub(super) struct Told {
    pub(super) figures: Vec<Figure>,
    pub(super) notes: Vec<String>,
}

/// What is asked, of whom.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) row: &'a Row,
    pub(super) cohort: &'a Cohort,
    pub(super) groups: &'a [String],
    pub(super) form: Form,
    pub(super) seed: u64,
}

/// A set of columns with a name, and who learns from them.
struct Asked {
    name: String,
    columns: Vec<String>,
    learners: Vec<(&'static str, Learner)>,
}

fn learners() -> Vec<(&'static str, Learner)> {
    vec![
        ("logistic regression", Learner::logistic()),
        ("random forest", Learner::forest()),
        ("gradient boosting", Learner::boosting()),
    ]
}

/// Figures of a row that is of the table alone.
///
/// # Errors
/// The cohort has none of the columns.
pub(super) fn of_table(setting: &Setting<'_>) -> anyhow::Result<Told> {
    let Setting { row, cohort, .. } = setting;
    let has = |name: &str| cohort.columns.iter().any(|column| column == name);
    let labels = cohort.labels.clone();
    let logistic = || vec![("logistic regression", Learner::logistic())];
    let sets = match row.kind {
        Kind::Covariates(names) => {
            let there: Vec<String> = names.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect();
            anyhow::ensure!(has(names[0]), "the cohort has no column {}", names[0]);
            // The first alone, then all of them.
            let sets = (1..=there.len()).filter(|n| *n == 1 || *n == there.len());
            sets.map(|n| Asked { name: there[..n].join(" and "), columns: there[..n].into(), learners: logistic() })
                .collect()
        }
        Kind::Labels => {
            vec![Asked { name: "disease labels".to_owned(), columns: labels.clone(), learners: learners() }]
        }
        _ => {
            let names = ["age", "sex", "bmi", "density"];
            let columns =
                names.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).chain(labels.clone()).collect();
            vec![Asked { name: "covariates together".to_owned(), columns, learners: learners() }]
        }
    };
    let mut told = Told { figures: Vec::new(), notes: Vec::new() };
    for asked in sets {
        anyhow::ensure!(!asked.columns.is_empty(), "the cohort has no columns for {}", asked.name);
        let columns =
            asked.columns.iter().map(|name| column(cohort, name, &labels)).collect::<anyhow::Result<Vec<_>>>()?;
        let covariates = tabular::encode(&columns)?;
        let missing =
            covariates.missing.iter().map(|(name, n)| format!("{n} of {} images have no {name}", cohort.images.len()));
        told.notes.extend(missing);
        fit(setting, &asked, &covariates, &mut told)?;
    }
    Ok(told)
}

fn column<'a>(cohort: &'a Cohort, name: &'a str, labels: &[String]) -> anyhow::Result<Column<'a>> {
    let values = cohort.column(name).with_context(|| format!("the cohort has no column {name}"))?;
    let is_label = labels.iter().any(|label| label == name) && !COVARIATES.contains(&name);
    let kind = if is_label { tabular::Kind::Label } else { tabular::Kind::guess(&values) };
    Ok(Column { name, kind, values })
}

/// Figures of mean grey values and histograms, as a model with this contract sees the images. `progress` hears of each.
pub(super) fn of_grey_values(
    setting: &Setting<'_>,
    contract: &Contract,
    progress: &(dyn Fn() + Sync),
) -> anyhow::Result<Told> {
    let read = |image: &super::cohort::Image| {
        let contracts = std::slice::from_ref(contract);
        let seen = pixels::normalise_any_file(&image.file, contracts, Frames::Middle, &Limits::default());
        progress();
        let plane = seen.ok().and_then(|n| Plane::of_input(n.inputs.first()?, contract))?;
        Some(Grey { means: means(&plane), histogram: histogram(&plane) })
    };
    let seen: Vec<Option<Grey>> = setting.cohort.images.par_iter().map(read).collect();
    let rows: Vec<usize> = (0..seen.len()).filter(|i| seen[*i].is_some()).collect();
    anyhow::ensure!(!rows.is_empty(), "no image of the cohort can be read");
    let mut told = Told { figures: Vec::new(), notes: Vec::new() };
    if rows.len() < seen.len() {
        told.notes.push(format!("{} of {} images cannot be read", seen.len() - rows.len(), seen.len()));
    }
    let logistic = vec![("logistic regression", Learner::logistic())];
    let boosting = vec![("gradient boosting", Learner::boosting_from_constant())];
    let sets: [(&str, _, fn(&Grey) -> &[f64]); 3] = [
        ("mean grey value", logistic.clone(), |grey| &grey.means[..1]),
        ("mean grey values above thresholds", logistic, |grey| &grey.means),
        ("histogram of 256 bins", boosting, |grey| &grey.histogram),
    ];
    for (name, learners, of) in sets {
        let values = |i: &usize| seen[*i].as_ref().map(of).unwrap_or_default();
        let width = rows.first().map_or(0, |i| values(i).len());
        let mut design = Design::new(width);
        rows.iter().for_each(|i| design.push(values(i)));
        let names = (0..width).map(|i| i.to_string()).collect();
        let covariates = Covariates { names, design, rows: rows.clone(), missing: Vec::new() };
        let asked = Asked { name: name.to_owned(), columns: Vec::new(), learners };
        fit(setting, &asked, &covariates, &mut told)?;
    }
    Ok(told)
}

/// What grey values of an image come to.
struct Grey {
    means: Vec<f64>,
    histogram: Vec<f64>,
}

/// Means of what lies above each threshold; 0 where nothing does.
fn means(plane: &Plane) -> Vec<f64> {
    let mean = |threshold: &f32| {
        let above = plane.values().iter().filter(|v| *v >= threshold);
        let (sum, count) = above.fold((0.0, 0usize), |(sum, n), v| (sum + f64::from(*v), n + 1));
        sum / count.max(1) as f64
    };
    TISSUE.iter().map(mean).collect()
}

/// Shares of the pixels by grey value.
fn histogram(plane: &Plane) -> Vec<f64> {
    let mut bins = vec![0.0; BINS];
    let share = 1.0 / plane.values().len() as f64;
    for value in plane.values() {
        bins[((value.clamp(0.0, 1.0) * BINS as f32) as usize).min(BINS - 1)] += share;
    }
    bins
}

/// A linear head on features of a network, row by row of `places` in the cohort (row 28).
pub(super) fn of_features(
    setting: &Setting<'_>,
    network: &str,
    places: Vec<usize>,
    features: &[Vec<f64>],
) -> anyhow::Result<Told> {
    let mut design = Design::new(features.first().map_or(0, Vec::len));
    features.iter().for_each(|row| design.push(row));
    let names = (0..design.columns()).map(|i| i.to_string()).collect();
    let covariates = Covariates { names, design, rows: places, missing: Vec::new() };
    let learners = vec![("linear head", Learner::Logistic { inverse_penalty: vec![0.01, 0.1, 1.0] })];
    let asked = Asked { name: format!("features of {network}"), columns: Vec::new(), learners };
    let mut told = Told { figures: Vec::new(), notes: Vec::new() };
    fit(setting, &asked, &covariates, &mut told)?;
    Ok(told)
}

fn fit(setting: &Setting<'_>, asked: &Asked, covariates: &Covariates, told: &mut Told) -> anyhow::Result<()> {
    let Setting { row, cohort, groups, form, seed } = *setting;
    let patients = cohort.patients();
    let of = |i: &usize| &cohort.images[*i];
    let class: Vec<usize> = covariates.rows.iter().map(|i| of(i).group).collect();
    let cluster: Vec<usize> = covariates.rows.iter().map(|i| patients[*i]).collect();
    let parts = parts(cohort, &patients, seed);
    let of_part = |part: Part| -> Vec<usize> {
        (0..covariates.rows.len()).filter(|row| parts[covariates.rows[*row]] == part).collect()
    };
    let (train, test) = (of_part(Part::Train), of_part(Part::Test));
    let folds = if form == Form::AsPublished { Folds::ByRow } else { Folds::ByPatient };
    let search = Search { folds, parts: 5, seed };
    let table = Table {
        design: &covariates.design,
        class: &class,
        classes: groups.len(),
        cluster: &cluster,
        train: &train,
        test: &test,
    };
    for (name, learner) in &asked.learners {
        let predicted = tabular::fit(&table, learner, &search).with_context(|| format!("{}, {name}", asked.name))?;
        let scored = Scored {
            outputs: predicted.probabilities.chunks(groups.len()).map(<[f64]>::to_vec).collect(),
            group: test.iter().map(|row| class[*row]).collect(),
            patient: test.iter().map(|row| cluster[*row]).collect(),
        };
        let model = Model {
            key: String::new(),
            name: format!("{}, {name}", asked.name),
            purpose: Purpose::Race,
            outputs: groups.to_vec(),
            thresholds: Vec::new(),
            precision: None,
        };
        told.notes.push(format!("{}: the grid chose {:.3}", model.name, predicted.chosen));
        told.figures.extend(race_figures(row, groups, &model, &scored, None));
    }
    Ok(())
}

/// Parts as the cohort has them; without a training part patients are halved. Validation images train.
fn parts(cohort: &Cohort, patients: &[usize], seed: u64) -> Vec<Part> {
    if cohort.images.iter().any(|image| image.part == Part::Train) {
        let part = |image: &super::cohort::Image| match image.part {
            Part::Test => Part::Test,
            Part::Train | Part::Validation => Part::Train,
        };
        return cohort.images.iter().map(part).collect();
    }
    let clusters = patients.iter().max().map_or(0, |m| m + 1);
    let half = ClusterBootstrap { clusters, seed }.folds(2);
    patients.iter().map(|patient| if half[*patient] == 0 { Part::Train } else { Part::Test }).collect()
}
