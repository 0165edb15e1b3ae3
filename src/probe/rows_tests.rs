//! Rows on made-up predictions: what is told of parts of a cohort, and of changes.

use super::catalogue::Row;
use super::cohort::{Cohort, fixtures};
use super::manifest::{FORMAT, Manifest, Model};
use super::parts::{Asked, Predictions};
use super::rows::{Data, Figure, Quantity};
use crate::domain::{Digest, Purpose};
use crate::perturb::Form;

/// A run of one race model and a clinical one that asked these changes of a cohort.
struct Ran {
    manifest: Manifest,
    cohort: Cohort,
    predictions: Predictions,
}

impl Ran {
    /// `says`: of image and variant, the posterior of the second group; the finding's score is the same.
    fn of(cohort: Cohort, variants: &[&str], says: impl Fn(usize, &str) -> f64) -> Self {
        let model = |name: &str, purpose, outputs: &[&str]| Model {
            key: format!("{name}@1#0"),
            name: name.to_owned(),
            purpose,
            outputs: outputs.iter().map(|o| (*o).to_owned()).collect(),
            thresholds: vec![0.5],
            precision: None,
        };
        let models = vec![model("race", Purpose::Race, &["g", "h"]), model("ai", Purpose::Clinical, &["effusion"])];
        let asked = Asked {
            models: models.iter().map(|m| (m.key.clone(), m.outputs.clone())).collect(),
            variants: variants.iter().map(|v| (*v).to_owned()).collect(),
        };
        let mut predictions = Predictions::empty(&asked, cohort.images.len());
        for (v, variant) in variants.iter().enumerate() {
            for image in 0..cohort.images.len() {
                let p = says(image, variant);
                predictions.set(0, v, image, &[1.0 - p, p]);
                predictions.set(1, v, image, &[p]);
            }
        }
        let manifest = Manifest {
            format: FORMAT,
            sidelight: String::new(),
            cohort: "c.csv".to_owned(),
            cohort_digest: Digest::of(b""),
            groups: ["g", "h"].map(str::to_owned).into(),
            models,
            rows: Vec::new(),
            form: Form::Corrected,
            recipe: None,
            seed: 1,
            asked,
            answers: Vec::new(),
            features: Vec::new(),
        };
        Self { manifest, cohort, predictions }
    }

    fn data(&self) -> Data<'_> {
        Data {
            manifest: &self.manifest,
            cohort: &self.cohort,
            predictions: &self.predictions,
            whole: self.cohort.images.len(),
        }
    }

    fn figures(&self, row: &str) -> Vec<Figure> {
        self.data().figures(Row::named(row).unwrap())
    }
}

/// A cohort of so many images with a column of these values, one after the other.
fn with(column: &str, values: &[&str]) -> Cohort {
    let mut cohort = fixtures::cohort(values.len());
    cohort.columns.push(column.to_owned());
    cohort.images.iter_mut().zip(values).for_each(|(image, value)| image.values.push((*value).to_owned()));
    cohort
}

fn repeated<'a>(parts: &[(&'a str, usize)]) -> Vec<&'a str> {
    parts.iter().flat_map(|(value, count)| std::iter::repeat_n(*value, *count)).collect()
}

/// Images of the second group have odd numbers.
fn fair(image: usize) -> f64 {
    if image % 2 == 1 { 0.6 + (image % 7) as f64 / 20.0 } else { 0.3 + (image % 5) as f64 / 10.0 }
}

#[test]
fn a_small_part_is_not_told_nor_had_by_subtracting() {
    let told = |values: &[&str]| -> Vec<(String, Option<usize>)> {
        let ran = Ran::of(with("site", values), &["original"], |image, _| fair(image));
        let figures = ran.figures("device-strata");
        figures.into_iter().filter(|f| f.of == "g").map(|f| (f.stratum, f.patients)).collect()
    };
    let name = |site: &str| format!("site {site}");
    let sure = told(&repeated(&[("a", 60), ("b", 40), ("c", 30)]));
    assert_eq!(sure, [(name("a"), Some(60)), (name("b"), Some(40)), (name("c"), Some(30))]);
    // 104 are told of the whole: with a and b told, the 4 of c were, too, whom nothing names.
    let small = told(&repeated(&[("a", 60), ("b", 40), ("c", 4)]));
    assert_eq!(small, [(name("a"), Some(60)), (name("b"), None)]);
    // With those without a site they are enough.
    let rest = repeated(&[("a", 60), ("b", 40), ("c", 4), ("", 20)]);
    assert_eq!(told(&rest), [(name("a"), Some(60)), (name("b"), Some(40))]);
    let said = |values: &[&str]| {
        let ran = Ran::of(with("site", values), &["original"], |image, _| fair(image));
        ran.data().left_out(Row::named("device-strata").unwrap())
    };
    let shown = "2 of 3 values of site are shown: the most frequent ones that 11 patients have.";
    assert_eq!(said(&rest), [shown, "24 of 124 test images have none of them."]);
    assert_eq!(said(&repeated(&[("a", 60), ("b", 40), ("c", 4)])), [shown, "Some test images have none of them."]);
}

#[test]
fn those_with_and_without_a_finding_are_told_where_neither_is_small() {
    let patients = |labels: &[&str]| -> Vec<Option<usize>> {
        let ran = Ran::of(with("effusion", labels), &["original"], |image, _| fair(image));
        let figures = ran.figures("blur");
        let clinical = figures.iter().filter(|f| f.model == "ai" && f.variant == "original");
        clinical.map(|f| f.patients).collect()
    };
    assert_eq!(patients(&repeated(&[("1", 200), ("0", 50), ("", 100)])), [Some(250), Some(200)]);
    // 205 less 200 are 5.
    assert_eq!(patients(&repeated(&[("1", 200), ("0", 5), ("", 100)])), [None, None]);
    assert_eq!(patients(&repeated(&[("1", 200), ("0", 50), ("", 5)])), [None, None]);
}

#[test]
fn what_strata_leave_out_is_said() {
    let said = |column: &str, values: &[&str], row: &str| {
        let ran = Ran::of(with(column, values), &["original"], |image, _| fair(image));
        ran.data().left_out(Row::named(row).unwrap())
    };
    let ages = repeated(&[("30", 40), ("adult", 15), ("", 5)]);
    assert_eq!(said("age", &ages, "age-sex-strata"), ["20 of 60 test images have no age that is a number."]);
    let sites: Vec<String> = (0..660).map(|i| format!("s{}", i % 60)).collect();
    let sites: Vec<&str> = sites.iter().map(String::as_str).collect();
    let shown = "50 of 60 values of site are shown: the most frequent ones that 11 patients have.";
    assert_eq!(said("site", &sites, "device-strata"), [shown, "110 of 660 test images have none of them."]);
    assert!(said("site", &repeated(&[("a", 30), ("b", 30)]), "device-strata").is_empty());
}

#[test]
fn changes_are_beside_the_same_images_as_they_are() {
    let labels: Vec<&str> = (0..160).map(|i| if i % 2 == 1 { "1" } else { "0" }).collect();
    let mut cohort = with("effusion", &labels);
    // The group of a patient has nothing to do with the finding.
    cohort.images.iter_mut().enumerate().for_each(|(i, image)| image.group = i / 2 % 2);
    let blurred = Row::named("blur").unwrap();
    let names: Vec<String> = super::variants::of_row(blurred, Form::Corrected, 1).into_iter().map(|v| v.name).collect();
    let all: Vec<&str> = std::iter::once("original").chain(names.iter().map(String::as_str)).collect();
    // What the change leaves knows nothing.
    let ran =
        Ran::of(cohort, &all, |image, v| if v == "original" { fair(image) } else { (image * 37 % 101) as f64 / 101.0 });
    let figures = ran.figures("blur");
    let of = |quantity, variant: &str| {
        figures.iter().find(|f| f.quantity == quantity && f.variant == variant).cloned().unwrap()
    };
    let (before, after) = (of(Quantity::FindingAuc, "original"), of(Quantity::FindingAuc, &names[0]));
    let change = after.change.unwrap();
    assert!(before.change.is_none());
    let values = (before.estimate.unwrap().value, after.estimate.unwrap().value);
    assert!((change.value - (values.1 - values.0)).abs() < 1e-9 && change.upper < 0.0, "{change:?} {values:?}");
    let gap = of(Quantity::MissGap, "original");
    let (e, p) = (gap.estimate.unwrap(), gap.p.unwrap());
    assert!(e.lower == 0.0 && p > 0.05 && gap.patients == Some(80), "groups are treated alike: {gap:?}");
}
