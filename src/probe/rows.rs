//! Rows from predictions: which figures each row of the catalogue comes to.
//!
//! Figures are of images and, where a study has several, of studies too. Pure. Neighbours: `metrics` measures, `tables`
//! of covariates are `confounders`', `page` tells. Left out: what needs a network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::catalogue::{Changed, Kind, Row};
use super::cohort::{Cohort, Image, label};
use super::manifest::{Manifest, Model};
use super::metrics::{self, Estimate, Level, PATIENTS_MIN, Scored, distinct};
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
    /// Values that it is of, and their patients; not told where fewer than eleven patients are, or where such a number
    /// could be had from this one by subtracting.
    pub count: Option<usize>,
    pub patients: Option<usize>,
    /// `None` where too few patients stand for it.
    pub estimate: Option<Estimate>,
    /// Of an AUC under a change: by how much it differs from that of the same images as they are.
    pub change: Option<Estimate>,
    /// Of a gap: how often chance alone gives as much.
    pub p: Option<f64>,
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
            Kind::Detection => self.race(row, ORIGINAL, &everything(), true),
            Kind::Strata(columns) => columns.iter().flat_map(|column| self.of_strata(row, column)).collect(),
            Kind::NoFinding => {
                let stratum = no_finding(self.cohort);
                let is_told = !self.hidden(std::slice::from_ref(&stratum))[0];
                self.race(row, ORIGINAL, &stratum, is_told)
            }
            Kind::Changed(Changed::Acquisition) => [self.changed(row), self.shifts(row)].concat(),
            Kind::Changed(_) => self.changed(row),
            _ => Vec::new(),
        }
    }

    /// What figures of a row leave out, in words.
    pub fn left_out(&self, row: &Row) -> Vec<String> {
        let Kind::Strata(columns) = row.kind else { return Vec::new() };
        columns.iter().filter_map(|column| self.strata(column)?.1).collect()
    }

    /// Race figures of one variant.
    pub(super) fn of_variant(&self, row: &Row, variant: &str) -> Vec<Figure> {
        self.race(row, variant, &everything(), true)
    }

    fn of_strata(&self, row: &Row, column: &str) -> Vec<Figure> {
        let strata = self.strata(column).map(|(strata, _)| strata).unwrap_or_default();
        let hidden = self.hidden(&strata);
        let told = strata.iter().zip(hidden);
        told.flat_map(|(stratum, is_hidden)| self.race(row, ORIGINAL, stratum, !is_hidden)).collect()
    }

    /// Whose numbers of patients are not told, of parts of what a race model saw.
    fn hidden(&self, strata: &[Stratum<'_>]) -> Vec<bool> {
        let mut all = vec![false; strata.len()];
        for (m, _) in self.manifest.of_purpose(Purpose::Race) {
            let patients = |is_in: &dyn Fn(usize, &Image) -> bool| self.scored(m, ORIGINAL, is_in).0.patients();
            let counts: Vec<usize> = strata.iter().map(|(_, is_in)| patients(&**is_in)).collect();
            let rest = patients(&|place, image| !strata.iter().any(|(_, is_in)| is_in(place, image)));
            all.iter_mut().zip(metrics::hidden(&counts, rest)).for_each(|(all, own)| *all |= own);
        }
        all
    }

    /// Race and clinical figures of the image itself and of every variant of a row.
    fn changed(&self, row: &Row) -> Vec<Figure> {
        let mut names = vec![ORIGINAL.to_owned()];
        names.extend(variants::of_row(row, self.manifest.form, self.manifest.seed).into_iter().map(|v| v.name));
        // A mask or a salient box is not in every image: what is compared is of those that have it.
        let having = matches!(row.kind, Kind::Changed(Changed::Masks | Changed::Peak));
        let kept = self.having(if having { &names[1..] } else { &[] });
        let all: Stratum<'_> = (String::new(), Box::new(move |place, _| kept[place]));
        let is_told = !self.hidden(std::slice::from_ref(&all))[0];
        let of = |name: &String| [self.race(row, name, &all, is_told), self.clinical(row, name, &all)].concat();
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

    /// AUCs of the race models within a stratum, whose numbers are told or not.
    fn race(&self, row: &Row, variant: &str, stratum: &Stratum<'_>, is_told: bool) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (m, model) in self.manifest.of_purpose(Purpose::Race) {
            let (images, places) = self.scored(m, variant, &*stratum.1);
            let before = self.before(m, variant, &places);
            let mut levels = vec![(Level::Image, images.clone())];
            let studies = self.cohort.studies();
            let own: Vec<usize> = places.iter().map(|place| studies[*place]).collect();
            let merged = images.by_study(&own);
            if merged.len() < images.len() && variant == ORIGINAL {
                levels.push((Level::Study, merged));
            }
            for (level, scored) in levels {
                let own = race_figures(row, &self.manifest.groups, model, &scored, before.as_ref());
                figures.extend(own.map(|f| Figure {
                    level,
                    stratum: stratum.0.clone(),
                    variant: variant.to_owned(),
                    count: f.count.filter(|_| is_told),
                    patients: f.patients.filter(|_| is_told),
                    ..f
                }));
            }
        }
        figures
    }

    /// What a model said of the same images without the variant; `None` of the image itself, and where it has not been
    /// asked of all of them.
    fn before(&self, model: usize, variant: &str, places: &[usize]) -> Option<Scored> {
        if variant == ORIGINAL {
            return None;
        }
        let (original, of) = self.scored(model, ORIGINAL, &|place, _| places.binary_search(&place).is_ok());
        (of == places).then_some(original)
    }

    /// AUCs and gaps of miss rates of the clinical models' findings.
    fn clinical(&self, row: &Row, variant: &str, stratum: &Stratum<'_>) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (m, model) in self.manifest.of_purpose(Purpose::Clinical) {
            let (scored, places) = self.scored(m, variant, &*stratum.1);
            let before = self.before(m, variant, &places);
            for (f, finding) in model.outputs.iter().enumerate() {
                let Some(column) = self.cohort.column(finding) else { continue };
                let truth: Vec<Option<bool>> = places.iter().map(|place| truth(column[*place])).collect();
                let known: Vec<usize> = (0..truth.len()).filter(|row| truth[*row].is_some()).collect();
                let scores = scored.column(f);
                let pick = |values: &[f64]| known.iter().map(|row| values[*row]).collect::<Vec<f64>>();
                let patients: Vec<usize> = known.iter().map(|row| scored.patient[*row]).collect();
                let positive: Vec<bool> = known.iter().map(|row| truth[*row] == Some(true)).collect();
                let auc = metrics::auc(&pick(&scores), &positive, &patients);
                let change = before.as_ref().and_then(|before| {
                    metrics::auc_change(&pick(&scores), &pick(&before.column(f)), &positive, &patients)
                });
                let threshold = model.thresholds.get(f).copied().unwrap_or(0.5);
                let seed = self.manifest.seed;
                let gap = metrics::miss_gap(&scores, &truth, &scored.group, &scored.patient, threshold, seed);
                let told = gap.map(|gap| Estimate { value: gap.value, lower: gap.lower, upper: gap.upper });
                let of = |wanted: &[Option<bool>]| -> Vec<usize> {
                    (0..truth.len()).filter(|row| wanted.contains(&truth[*row])).collect()
                };
                let people = |rows: &[usize]| distinct(rows.iter().map(|row| scored.patient[*row]));
                let (with, without, unknown) = (of(&[Some(true)]), of(&[Some(false)]), of(&[None]));
                let hidden = [
                    metrics::hidden(&[people(&known)], people(&unknown))[0],
                    metrics::hidden(&[people(&with), people(&without)], people(&unknown))[0],
                ];
                let figure = |quantity, estimate, rows: &[usize], is_hidden: bool| Figure {
                    row: row.name.to_owned(),
                    model: model.name.clone(),
                    quantity,
                    of: finding.clone(),
                    level: Level::Image,
                    stratum: String::new(),
                    variant: variant.to_owned(),
                    count: counted(rows.len(), people(rows)).filter(|_| !is_hidden),
                    patients: counted(people(rows), people(rows)).filter(|_| !is_hidden),
                    estimate,
                    change: None,
                    p: None,
                };
                figures.push(Figure { change, ..figure(Quantity::FindingAuc, auc, &known, hidden[0]) });
                let p = gap.map(|gap| gap.p);
                figures.push(Figure { p, ..figure(Quantity::MissGap, told, &with, hidden[1]) });
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
                // Groups make up the whole.
                let group_of = |image: usize| self.cohort.images[image].group;
                let of_group = |g: usize| pairs.iter().filter(move |p| group_of(p.0) == g).map(|p| patients[p.0]);
                let people: Vec<usize> = (0..groups.len()).map(|g| distinct(of_group(g))).collect();
                let hidden = metrics::hidden(&people, 0);
                for (of, score) in model.outputs.iter().enumerate() {
                    for (own, group) in groups.iter().enumerate() {
                        let rows: Vec<&(usize, &[f32], &[f32])> =
                            pairs.iter().filter(|(image, ..)| group_of(*image) == own).collect();
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
                            count: Some(values.len()).filter(|_| !hidden[own]),
                            patients: Some(people[own]).filter(|_| !hidden[own]),
                            estimate: metrics::mean(&values, &patient),
                            change: None,
                            p: None,
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

    /// Strata of a column, and what they leave out: ages and body mass indices by the paper's bounds, values of others as
    /// they are. `None` without the column.
    fn strata(&self, column: &str) -> Option<(Vec<Stratum<'static>>, Option<String>)> {
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
        let lacking = self.cohort.images.iter().filter(|image| number(image).is_none()).count();
        let all = self.cohort.images.len();
        let said = format!("{} of {all} test images have no {column} that is a number.", small(lacking));
        Some((strata.collect(), (lacking > 0).then_some(said)))
    }

    /// The most frequent values of a column as strata.
    fn values(&self, column: &str, place: usize) -> (Vec<Stratum<'static>>, Option<String>) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for image in &self.cohort.images {
            *counts.entry(image.values[place].as_str()).or_default() += 1;
        }
        let lacking = counts.remove("").unwrap_or(0);
        let mut values: Vec<(&str, usize)> = counts.into_iter().collect();
        values.sort_by_key(|(value, count)| (std::cmp::Reverse(*count), *value));
        let mut said = Vec::new();
        if lacking > 0 {
            said.push(format!("{} of {} test images have no {column}.", small(lacking), self.cohort.images.len()));
        }
        if values.len() > STRATA_MAX {
            said.push(format!("The {STRATA_MAX} most frequent of {} values of {column} are shown.", values.len()));
        }
        let strata = values.into_iter().take(STRATA_MAX).map(|(value, _)| {
            let (name, value) = (format!("{column} {value}"), value.to_owned());
            let is_in = move |_: usize, image: &Image| image.values[place] == value;
            (name, Box::new(is_in) as Box<dyn Fn(usize, &Image) -> bool>)
        });
        (strata.collect(), Some(said.join(" ")).filter(|said| !said.is_empty()))
    }
}

/// Values of a column that become strata; the most frequent ones.
const STRATA_MAX: usize = 50;

/// AUCs of each group against the others, and their mean. `before`: of the same rows without what was changed.
pub fn race_figures(
    row: &Row,
    groups: &[String],
    model: &Model,
    scored: &Scored,
    before: Option<&Scored>,
) -> impl Iterator<Item = Figure> {
    let figure = |quantity, of: &str, estimate, change| Figure {
        row: row.name.to_owned(),
        model: model.name.clone(),
        quantity,
        of: of.to_owned(),
        level: Level::Image,
        stratum: String::new(),
        variant: ORIGINAL.to_owned(),
        count: counted(scored.len(), scored.patients()),
        patients: counted(scored.patients(), scored.patients()),
        estimate,
        change,
        p: None,
    };
    let mut figures: Vec<Figure> = Vec::new();
    for (g, group) in groups.iter().enumerate() {
        let member = scored.members(g);
        let column = |of: &Scored| if of.is_empty() { Vec::new() } else { of.column(g) };
        let auc = metrics::auc(&column(scored), &member, &scored.patient);
        let change = |before| metrics::auc_change(&column(scored), &column(before), &member, &scored.patient);
        figures.push(figure(Quantity::RaceAuc, group, auc, before.and_then(change)));
    }
    // With two groups both have the same.
    if groups.len() > 2 {
        let can_be_told: Vec<usize> = (0..groups.len()).filter(|g| figures[*g].estimate.is_some()).collect();
        let of: Vec<&str> = can_be_told.iter().map(|g| groups[*g].as_str()).collect();
        let of = if of.len() == groups.len() { "all groups".to_owned() } else { of.join(" and ") };
        let mean = metrics::macro_auc(scored, &can_be_told);
        let change = before.and_then(|before| metrics::macro_change(scored, before, &can_be_told));
        figures.push(figure(Quantity::MacroAuc, &of, mean, change));
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

/// A number of images, in words, that is not told where it is small.
pub(super) fn small(count: usize) -> String {
    if (1..PATIENTS_MIN).contains(&count) { format!("Fewer than {PATIENTS_MIN}") } else { count.to_string() }
}
