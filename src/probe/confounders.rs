//! How well groups are told apart without a network: by covariates, disease labels, or grey values of the images.
//!
//! Models learn from the training part and are judged on the test part; a cohort without parts is halved by patient.
//! Neighbours: `tabular` fits, `features` makes vectors of images. Left out: what images show (`scoring`).

use std::ops::Range;
use std::path::Path;

use anyhow::Context;

use super::answers::Told;
use super::catalogue::{Kind, Row};
use super::cohort::{COVARIATES, Cohort};
use super::features::{Source, TISSUE};
use super::manifest::Model;
use super::metrics::Scored;
use super::rows::race_figures;
use super::tabular::{self, Column, Covariates, Folds, Learner, Search, Table};
use super::vectors;
use crate::domain::Purpose;
use crate::perturb::Form;
use crate::stats::{ClusterBootstrap, Design};
use crate::train::Part;

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
    let mut told = Told::default();
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

/// Figures of a row that learns from vectors of images, all of which are kept in this folder.
pub(super) fn of_vectors(setting: &Setting<'_>, folder: &Path, sources: &[&Source]) -> anyhow::Result<Told> {
    let mut told = Told::default();
    for source in sources {
        let logistic = || vec![("logistic regression", Learner::logistic())];
        let boosting = || vec![("gradient boosting", Learner::boosting_from_constant())];
        let sets = match setting.row.kind {
            Kind::GreyValues => vec![
                ("mean grey value".to_owned(), 0..1, logistic()),
                ("mean grey values above thresholds".to_owned(), 0..TISSUE.len(), logistic()),
                ("histogram of 256 bins".to_owned(), TISSUE.len()..usize::MAX, boosting()),
            ],
            _ => {
                let head = Learner::Logistic { inverse_penalty: vec![0.01, 0.1, 1.0] };
                vec![(format!("features of {}", source.model), 0..usize::MAX, vec![("linear head", head)])]
            }
        };
        let images = setting.cohort.images.len();
        for (number, (name, columns, learners)) in sets.into_iter().enumerate() {
            let covariates = covariates(folder, &source.set, images, columns)?;
            let read = covariates.rows.len();
            anyhow::ensure!(read > 0, "no image of the cohort can be read");
            if read < images && number == 0 {
                told.notes.push(format!("{} of {images} images cannot be read", images - read));
            }
            fit(setting, &Asked { name, columns: Vec::new(), learners }, &covariates, &mut told)?;
        }
    }
    Ok(told)
}

/// These columns of a set of vectors as a table, from part after part.
fn covariates(folder: &Path, set: &str, images: usize, columns: Range<usize>) -> anyhow::Result<Covariates> {
    let all: Vec<usize> = (0..images).collect();
    let (mut design, mut rows) = (Design::new(0), Vec::new());
    vectors::each(folder, set, &all, |image, vector| {
        let own = vector.get(columns.start..columns.end.min(vector.len())).unwrap_or_default();
        let own: Vec<f64> = own.iter().map(|v| f64::from(*v)).collect();
        if rows.is_empty() {
            design = Design::new(own.len());
        }
        design.push(&own);
        rows.push(image);
    })?;
    let names = (0..design.columns()).map(|i| i.to_string()).collect();
    Ok(Covariates { names, design, rows, missing: Vec::new() })
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
        told.said.push((model.name, test.iter().map(|row| covariates.rows[*row]).collect(), scored.outputs));
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
