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
use super::metrics::{Scored, distinct};
use super::rows::{race_figures, small};
use super::tabular::{self, Column, Covariates, Folds, Learner, Search, Table};
use super::vectors;
use crate::domain::Purpose;
use crate::perturb::Form;
use crate::stats::{ClusterBootstrap, Design};
use crate::train::Part;

/// Patients of a group in the training part; with fewer it is not told apart.
const LEARNT_MIN: usize = 2;
/// Of the cross validation within the training part.
const FOLDS: usize = 5;

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
            let names = ["age", "sex", "bmi"];
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
        let missing = covariates.missing.iter();
        told.notes.extend(missing.map(|(name, n)| format!("{} of the images have no {name}", small(*n))));
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
                told.notes.push(format!("{} images cannot be read", small(images - read)));
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
    let group: Vec<usize> = covariates.rows.iter().map(|i| cohort.images[*i].group).collect();
    let cluster: Vec<usize> = covariates.rows.iter().map(|i| patients[*i]).collect();
    let parts = parts(cohort, &patients, seed);
    let is_of = |row: &usize, part: Part| parts[covariates.rows[*row]] == part;
    // A group that hardly anybody of the training part is of cannot be learnt.
    let all = || 0..covariates.rows.len();
    let learnt = |g: usize| distinct(all().filter(|r| is_of(r, Part::Train) && group[*r] == g).map(|r| cluster[r]));
    let told_apart: Vec<usize> = (0..groups.len()).filter(|g| learnt(*g) >= LEARNT_MIN).collect();
    let named = |of: &[usize]| of.iter().map(|g| groups[*g].as_str()).collect::<Vec<_>>().join(", ");
    anyhow::ensure!(
        told_apart.len() >= 2,
        "{}: the training part has enough patients of {} only: a row of models on tables needs two groups",
        asked.name,
        if told_apart.is_empty() { "no group".to_owned() } else { named(&told_apart) }
    );
    if told_apart.len() < groups.len() {
        told.notes.push(format!(
            "{}: of {} alone, who are enough in the training part",
            asked.name,
            named(&told_apart)
        ));
    }
    let place = |row: usize| told_apart.iter().position(|g| *g == group[row]);
    let class: Vec<usize> = all().map(|row| place(row).unwrap_or(0)).collect();
    let of_part = |part: Part| all().filter(|row| is_of(row, part) && place(*row).is_some()).collect::<Vec<usize>>();
    let (train, test) = (of_part(Part::Train), of_part(Part::Test));
    let folds = if form == Form::AsPublished { Folds::ByRow } else { Folds::ByPatient };
    let search = Search { folds, parts: FOLDS, seed };
    let table = Table {
        design: &covariates.design,
        class: &class,
        classes: told_apart.len(),
        cluster: &cluster,
        train: &train,
        test: &test,
    };
    let of_all = |own: &[f64]| -> Vec<f64> {
        let mut outputs = vec![0.0; groups.len()];
        told_apart.iter().zip(own).for_each(|(g, p)| outputs[*g] = *p);
        outputs
    };
    for (name, learner) in &asked.learners {
        let predicted = tabular::fit(&table, learner, &search).with_context(|| format!("{}, {name}", asked.name))?;
        let scored = Scored {
            outputs: predicted.probabilities.chunks(told_apart.len()).map(of_all).collect(),
            group: test.iter().map(|row| group[*row]).collect(),
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
    // Each group by itself, so that small ones are in both halves.
    let mut half = vec![0; patients.iter().max().map_or(0, |m| m + 1)];
    let groups = cohort.images.iter().map(|image| image.group).max().map_or(0, |g| g + 1);
    for g in 0..groups {
        let of_group = cohort.images.iter().zip(patients).filter(|(image, _)| image.group == g);
        let own: std::collections::BTreeSet<usize> = of_group.map(|(_, patient)| *patient).collect();
        let folds = ClusterBootstrap { clusters: own.len(), seed }.folds(2);
        own.into_iter().zip(folds).for_each(|(patient, fold)| half[patient] = fold);
    }
    patients.iter().map(|patient| if half[*patient] == 0 { Part::Train } else { Part::Test }).collect()
}
