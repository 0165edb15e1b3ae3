//! Rows from predictions: which figures each row of the catalogue comes to.
//!
//! Figures are of images and, where a study has several, of studies too. Pure. Neighbours: `metrics` measures, `tables`
//! of covariates are `confounders`', `page` tells. Left out: what needs a network.

use serde::{Deserialize, Serialize};

use super::catalogue::{Changed, Kind, Row};
use super::cohort::{Cohort, Image, label};
use super::manifest::{Manifest, Model};
use super::metrics::{self, Estimate, Level, PATIENTS_MIN, Scored, distinct};
use super::parts::Predictions;
use super::strata::{Stratum, everything, no_finding};
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
    /// Patients of all images that are for tests: these, and those that a row leaves out.
    pub whole: usize,
}

impl Data<'_> {
    /// Figures of a row; none of one that is not of predictions.
    pub fn figures(&self, row: &Row) -> Vec<Figure> {
        match row.kind {
            Kind::Detection => self.whole(row, ORIGINAL),
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
        columns.iter().flat_map(|column| self.strata(column).map(|(_, said)| said).unwrap_or_default()).collect()
    }

    /// Race figures of one variant.
    pub(super) fn of_variant(&self, row: &Row, variant: &str) -> Vec<Figure> {
        self.whole(row, variant)
    }

    /// Race figures of all test images.
    fn whole(&self, row: &Row, variant: &str) -> Vec<Figure> {
        let all = everything();
        let is_told = !self.hidden(std::slice::from_ref(&all))[0];
        self.race(row, variant, &all, is_told)
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
            // Of all that are for tests, whether the model could be asked or not.
            let within = patients(&|place, image| strata.iter().any(|(_, is_in)| is_in(place, image)));
            let cells: Vec<usize> = counts.into_iter().chain([self.whole.saturating_sub(within)]).collect();
            all.iter_mut().zip(metrics::hidden(&cells, 0)).for_each(|(all, own)| *all |= own);
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
        let of =
            |name: &String| [self.race(row, name, &all, is_told), self.clinical(row, name, &all, is_told)].concat();
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

    /// AUCs and gaps of miss rates of the clinical models' findings, of images whose number is told or not.
    fn clinical(&self, row: &Row, variant: &str, stratum: &Stratum<'_>, is_told: bool) -> Vec<Figure> {
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
                let spread = gap.as_ref().map(|gap| gap.spread);
                let told = spread.map(|gap| Estimate { value: gap.value, lower: gap.lower, upper: gap.upper });
                let of = |wanted: &[Option<bool>]| -> Vec<usize> {
                    (0..truth.len()).filter(|row| wanted.contains(&truth[*row])).collect()
                };
                let people = |rows: &[usize]| distinct(rows.iter().map(|row| scored.patient[*row]));
                let (with, without, unknown) = (of(&[Some(true)]), of(&[Some(false)]), of(&[None]));
                // What is told of those with a truth, and of those with the finding, tells of the others too.
                let unseen = self.whole.saturating_sub(scored.patients());
                let compared = gap.as_ref().map_or(0, |gap| gap.patients);
                let left_out = people(&with).saturating_sub(compared);
                let parts = [people(&without), people(&unknown), unseen, compared, left_out];
                let is_told = is_told && !metrics::hidden(&parts, 0).contains(&true);
                let figure = |quantity, estimate, (values, patients): (usize, usize)| Figure {
                    row: row.name.to_owned(),
                    model: model.name.clone(),
                    quantity,
                    of: finding.clone(),
                    level: Level::Image,
                    stratum: String::new(),
                    variant: variant.to_owned(),
                    count: counted(values, patients).filter(|_| is_told),
                    patients: counted(patients, patients).filter(|_| is_told),
                    estimate,
                    change: None,
                    p: None,
                };
                let count = (known.len(), people(&known));
                figures.push(Figure { change, ..figure(Quantity::FindingAuc, auc, count) });
                let count = gap.as_ref().map_or((with.len(), people(&with)), |gap| (gap.values, gap.patients));
                // A gap is of the groups that have enough cases.
                let of = match gap.as_ref().filter(|gap| gap.groups.len() < self.manifest.groups.len()) {
                    Some(gap) => format!("{finding} ({})", self.named(&gap.groups)),
                    None => finding.clone(),
                };
                figures.push(Figure { p: spread.map(|gap| gap.p), of, ..figure(Quantity::MissGap, told, count) });
            }
        }
        figures
    }

    fn named(&self, groups: &[usize]) -> String {
        groups.iter().map(|g| self.manifest.groups[*g].as_str()).collect::<Vec<_>>().join(" and ")
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
}

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

/// A number, in words, that is not told where it is small.
pub(super) fn small(count: usize) -> String {
    if (1..PATIENTS_MIN).contains(&count) { format!("fewer than {PATIENTS_MIN}") } else { count.to_string() }
}
