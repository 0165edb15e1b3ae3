//! Parts of a cohort that rows look at: values of a column, images without any finding, all.
//!
//! Neighbours: `rows` measures within them. Left out: predictions.

use std::collections::{BTreeMap, BTreeSet};

use super::cohort::{Cohort, Image, label};
use super::metrics::{self, PATIENTS_MIN, distinct};
use super::rows::{Data, truth};

/// A part of the cohort by name, and whether an image is of it.
pub type Stratum<'a> = (String, Box<dyn Fn(usize, &Image) -> bool + 'a>);

/// Values of a column that become strata; the most frequent ones.
const STRATA_MAX: usize = 50;
/// Letters of a value that are shown.
const NAME_MAX: usize = 60;

impl Data<'_> {
    /// Strata of a column, and what they leave out: ages and body mass indices by the paper's bounds, values of others as
    /// they are. `None` without the column.
    pub(super) fn strata(&self, column: &str) -> Option<(Vec<Stratum<'static>>, Vec<String>)> {
        let place = self.cohort.columns.iter().position(|name| name == column)?;
        let bounds: &[f64] = match column {
            "age" => &[0.0, 20.0, 40.0, 60.0, 80.0, f64::INFINITY],
            "bmi" => &[0.0, 18.5, 25.0, 30.0, f64::INFINITY],
            _ => return Some(self.values(column, place)),
        };
        let number = move |image: &Image| image.values[place].parse::<f64>().ok().filter(|v| *v >= 0.0);
        let pairs = bounds.windows(2).map(|pair| (pair[0], pair[1]));
        let strata = pairs.map(|(from, to)| {
            let name = match (from, to) {
                (from, to) if to.is_infinite() => format!("{column} {from} and more"),
                (0.0, to) => format!("{column} below {to}"),
                _ => format!("{column} {from} to below {to}"),
            };
            let is_in = move |_: usize, image: &Image| number(image).is_some_and(|v| from <= v && v < to);
            (name, Box::new(is_in) as Box<dyn Fn(usize, &Image) -> bool>)
        });
        let strata: Vec<Stratum<'static>> = strata.collect();
        let said = self.lacking(&strata).map(|images| format!("{images} have no {column} that is a number."));
        Some((strata, said.into_iter().collect()))
    }

    /// The most frequent values of a column as strata; one that few patients have is not named.
    fn values(&self, column: &str, place: usize) -> (Vec<Stratum<'static>>, Vec<String>) {
        let patients = self.cohort.patients();
        let mut counts: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (image, patient) in self.cohort.images.iter().zip(patients) {
            counts.entry(image.values[place].as_str()).or_default().insert(patient);
        }
        counts.remove("");
        let all = counts.len();
        let mut values: Vec<(&str, usize)> = counts
            .into_iter()
            .map(|(value, patients)| (value, patients.len()))
            .filter(|(_, n)| *n >= PATIENTS_MIN)
            .collect();
        values.sort_by_key(|(value, count)| (std::cmp::Reverse(*count), *value));
        let strata: Vec<Stratum<'static>> = values
            .into_iter()
            .take(STRATA_MAX)
            .map(|(value, _)| {
                let short: String = value.chars().take(NAME_MAX).collect();
                let (name, value) = (format!("{column} {short}"), value.to_owned());
                let is_in = move |_: usize, image: &Image| image.values[place] == value;
                (name, Box::new(is_in) as Box<dyn Fn(usize, &Image) -> bool>)
            })
            .collect();
        let mut said = Vec::new();
        if strata.len() < all {
            said.push(format!(
                "{} of {all} values of {column} are shown: the most frequent ones that {PATIENTS_MIN} patients have.",
                strata.len()
            ));
        }
        said.extend(self.lacking(&strata).map(|images| format!("{images} have none of them.")));
        (strata, said)
    }

    /// How many images a row leaves out, in words, where that tells of nobody.
    fn lacking(&self, strata: &[Stratum<'_>]) -> Option<String> {
        let patients = self.cohort.patients();
        let is_out = |place: &usize| !strata.iter().any(|(_, is_in)| is_in(*place, &self.cohort.images[*place]));
        let out: Vec<usize> = (0..self.cohort.images.len()).filter(is_out).collect();
        let within = |(_, is_in): &Stratum<'_>| {
            distinct((0..patients.len()).filter(|i| is_in(*i, &self.cohort.images[*i])).map(|i| patients[i]))
        };
        let mut counts: Vec<usize> = strata.iter().map(within).collect();
        counts.push(distinct(out.iter().map(|place| patients[*place])));
        let is_hidden = metrics::hidden(&counts, 0).pop().unwrap_or(true);
        let all = self.cohort.images.len();
        match out.len() {
            0 => None,
            _ if is_hidden => Some("Some test images".to_owned()),
            n => Some(format!("{n} of {all} test images")),
        }
    }
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
