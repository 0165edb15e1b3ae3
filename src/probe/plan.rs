//! What a run is to do: rows by name, models that fit them, what the cohort lacks, what is trained and kept.
//!
//! Neighbours: `run` does it. Left out: files.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use super::catalogue::{Changed, Kind, ROWS, Row};
use super::cohort::Cohort;
use super::features::Source;
use super::retrain::{self, Training};
use super::run::Options;
use super::scoring::is_race;
use crate::config::Config;
use crate::domain::Purpose;
use crate::infer::{self, Elsewhere, Package};
use crate::train::Part;

/// Rows that say what the images are of: a run has one.
const OF_A_COHORT: [&str; 6] = ["detection", "external", "ct", "hand", "mammography", "spine"];

/// Rows by name or number, in the catalogue's order; `all` is all of them that one cohort and one race model answer.
pub fn rows(names: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    let mut rows: Vec<&'static Row> = Vec::new();
    for name in names {
        if name == "all" {
            rows.extend(ROWS.iter().filter(|row| row.name == "detection" || !OF_A_COHORT.contains(&row.name)));
            rows.retain(|row| row.name != "architectures");
            continue;
        }
        rows.push(Row::named(name).with_context(|| format!("there is no row {name:?}: see `sidelight probe list`"))?);
    }
    rows.sort_by_key(|row| row.number);
    rows.dedup();
    Ok(rows)
}

/// Whether a row's figures are of predictions.
pub(super) fn is_of_predictions(row: &Row) -> bool {
    row.is_of_posteriors() || matches!(row.kind, Kind::Changed(_) | Kind::Saliency)
}

/// Rows of other parts of the body and other sites are of other cohorts, and architectures of several models.
pub(super) fn one_cohort(rows: &[&Row], packages: &[Package]) -> anyhow::Result<()> {
    let own: Vec<&str> = rows.iter().filter(|row| OF_A_COHORT.contains(&row.name)).map(|row| row.name).collect();
    ensure!(own.len() < 2, "rows {} are of different cohorts: run them one by one", own.join(" and "));
    let several = packages.iter().filter(|p| is_race(p)).count() > 1;
    let architectures = rows.iter().any(|row| row.name == "architectures");
    ensure!(several || !architectures, "row architectures compares race models: give --race for each");
    Ok(())
}

/// What a row asks for and the cohort or the configuration has not.
pub(super) fn lacking(row: &Row, cohort: &Cohort, packages: &[Package]) -> Option<String> {
    let has = |name: &str| cohort.columns.iter().any(|column| column == name);
    let no_column = |names: &[&str]| format!("Not run: the cohort has no column {}.", names.join(" or "));
    match row.kind {
        Kind::Covariates(names) if !has(names[0]) => Some(no_column(&names[..1])),
        Kind::Strata(names) if !names.iter().any(|name| has(name)) => Some(no_column(names)),
        Kind::Labels | Kind::NoFinding | Kind::EqualDisease if cohort.labels.is_empty() => {
            Some("Not run: the cohort has no disease labels, which are columns of 0, 1 and -1.".to_owned())
        }
        Kind::Combined if cohort.labels.is_empty() && !["age", "sex", "bmi"].iter().any(|name| has(name)) => {
            Some(no_column(&["age", "sex", "bmi"]))
        }
        Kind::FrozenFeatures if !packages.iter().any(has_features) => {
            Some("Not run: there is no clinical model that is run in this process.".to_owned())
        }
        Kind::Changed(Changed::Masks) if cohort.images.iter().all(|image| image.mask.is_none()) => {
            Some("Not run: no image of the cohort has a lung mask (column mask).".to_owned())
        }
        _ => None,
    }
}

/// Vectors of images that a row learns from.
pub(super) fn sources(row: &Row, packages: &[Package]) -> Vec<Source> {
    let source = |(number, package): (usize, &Package)| Source {
        set: format!("{}-{number}", row.name),
        row: row.name.to_owned(),
        model: package.identity.name.clone(),
    };
    match row.kind {
        Kind::GreyValues => (1..).zip(packages.first()).map(source).collect(),
        Kind::FrozenFeatures => (1..).zip(packages.iter().filter(|p| has_features(p))).map(source).collect(),
        _ => Vec::new(),
    }
}

/// Whether it is a clinical model of this process.
fn has_features(package: &Package) -> bool {
    !is_race(package) && package.elsewhere.is_none()
}

/// Networks to be trained, and by name of the row why nothing can be trained for it.
pub(super) type Trainings = (Vec<Training>, BTreeMap<&'static str, String>);

/// Trainings of all rows; rows that nothing is trained for are left as they are.
pub(super) fn trainings(options: &Options, cohort: &Cohort, groups: usize) -> anyhow::Result<Trainings> {
    let has = |part: Part| cohort.images.iter().any(|image| image.part == part);
    ensure!(
        has(Part::Train) && has(Part::Validation),
        "networks are trained on the parts train and validation of the cohort: it has no such rows (column split)"
    );
    let (mut all, mut cannot) = (Vec::new(), BTreeMap::new());
    for row in options.rows.iter().filter(|row| lacking(row, cohort, &[]).is_none()) {
        match retrain::of_row(row, cohort, groups, options.form, options.seed) {
            Ok(trainings) => all.extend(trainings),
            Err(error) => _ = cannot.insert(row.name, format!("Not trained: {error:#}.")),
        }
    }
    ensure!(!all.is_empty() || !cannot.is_empty(), "nothing is trained for these rows: leave out --retrain");
    Ok((all, cannot))
}

/// Race models first, all with the same groups; clinical ones that score images.
pub(super) fn packages(config: &Config, options: &Options) -> anyhow::Result<Vec<Package>> {
    let models = &config.models;
    let or = |given: &[String], own: Vec<String>| if given.is_empty() { own } else { given.to_vec() };
    let race = or(&options.race, models.race.iter().cloned().collect());
    let clinical = or(&options.clinical, models.clinical.clone());
    ensure!(!race.is_empty(), "there is no race model: set models.race, or give --race");
    let mut packages = infer::load_all(&models.dir, &race)?;
    for package in &packages {
        ensure!(is_race(package), "{} is no race model", package.identity.name);
        let keys = |p: &Package| p.groups().iter().map(|g| g.key.clone()).collect::<Vec<_>>();
        ensure!(
            keys(package) == keys(&packages[0]),
            "{} and {} have other groups, or in another order: run them one by one",
            package.identity.name,
            packages[0].identity.name
        );
    }
    for package in infer::load_all(&models.dir, &clinical)? {
        ensure!(package.purpose == Purpose::Clinical, "{} is no clinical model", package.identity.name);
        if !matches!(package.elsewhere, Some(Elsewhere::Product(_))) {
            packages.push(package);
        } else {
            tracing::warn!(
                model = package.identity.name,
                "a product that scores on its own cannot be asked of changed images"
            );
        }
    }
    Ok(packages)
}
