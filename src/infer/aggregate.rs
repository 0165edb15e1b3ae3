//! From the scores of a study's images to the study's score. Pure.
//!
//! A mean of probabilities is not calibrated: the card's calibration, and the profile's by group, are those of studies.
//! Left out: which images belong to the study (the caller passes those whose scores count).

use crate::domain::{ImageScore, StudyScore, View};

use super::card::Aggregation;
use super::manifest::Package;

/// One model's score of an image, and what the image shows.
#[derive(Debug, Clone, Copy)]
pub struct StudyImage<'a> {
    pub score: &'a ImageScore,
    pub view: Option<View>,
}

/// The study's score of one model over all its image (or frame) scores, by the card's method and calibration. Scores of
/// other models, other contracts or another width are left out; `None` if none is left. The order of `images` does not
/// matter.
pub fn aggregate(package: &Package, images: &[StudyImage]) -> Option<StudyScore> {
    let mut used = of_package(package, images);
    if used.is_empty() {
        return None;
    }
    // Sums of floating-point numbers depend on their order; arrival order must not.
    used.sort_by(|a, b| {
        let (a, b) = (a.score, b.score);
        a.instance.cmp(&b.instance).then_with(|| compare(&a.outputs, &b.outputs))
    });
    let aggregation = &package.aggregation;
    let weight = |view: Option<View>| view.and_then(|v| aggregation.weights.get(&v)).copied().unwrap_or(1.0);
    let total: f64 = used.iter().map(|i| weight(i.view)).sum();
    let column = |i: usize| used.iter().map(move |image| (weight(image.view), image.score.outputs[i]));
    let mut values: Vec<f64> = (0..package.column_of.len())
        .map(|i| match aggregation.method {
            Aggregation::Mean => column(i).map(|(weight, value)| weight * value).sum::<f64>() / total,
            Aggregation::Max => column(i).map(|(_, value)| value).fold(f64::NEG_INFINITY, f64::max),
        })
        .collect();
    if let Some(calibration) = &package.calibration {
        calibration.apply(&mut values);
    }
    // A weighted mean of ones may exceed one by a rounding.
    values.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
    let mut images: Vec<_> = used.iter().map(|i| i.score.instance.clone()).collect();
    images.dedup();
    Some(StudyScore { model: package.identity.clone(), outputs: package.outputs.clone(), values, images })
}

/// The study's out-of-distribution score: that of the image that is farthest off, since one strange image spoils a
/// mean. `None` where the model has no such score, or no image.
pub fn ood_of(package: &Package, images: &[StudyImage]) -> Option<f64> {
    package.ood.as_ref()?;
    of_package(package, images).iter().filter_map(|i| i.score.outputs.last().copied()).reduce(f64::max)
}

/// The scores that are this package's: probabilities, and the out-of-distribution score where it has one.
fn of_package<'a>(package: &Package, images: &[StudyImage<'a>]) -> Vec<StudyImage<'a>> {
    let width = package.column_of.len() + usize::from(package.ood.is_some());
    let (key, contract) = (package.key(), package.contract.digest());
    let is_own = |s: &ImageScore| s.model == key && s.contract == contract && s.outputs.len() == width;
    images.iter().filter(|i| is_own(i.score)).copied().collect()
}

fn compare(a: &[f64], b: &[f64]) -> std::cmp::Ordering {
    let differing = a.iter().zip(b).map(|(x, y)| x.total_cmp(y)).find(|o| o.is_ne());
    differing.unwrap_or(std::cmp::Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Uid;
    use crate::infer::manifest::fixtures::clinical_package;

    fn unseen(scores: &[ImageScore]) -> Vec<StudyImage<'_>> {
        scores.iter().map(|score| StudyImage { score, view: None }).collect()
    }

    fn check(method: Aggregation, rows: &[(&str, [f64; 2])], expected: Option<[f64; 2]>) {
        let dir = tempfile::tempdir().unwrap();
        let mut package = clinical_package(dir.path());
        package.aggregation.method = method;
        let mut scores: Vec<ImageScore> = rows
            .iter()
            .map(|(instance, outputs)| ImageScore {
                instance: Uid::parse(instance).unwrap(),
                model: package.key(),
                contract: package.contract.digest(),
                outputs: outputs.to_vec(),
            })
            .collect();
        let forward = aggregate(&package, &unseen(&scores));
        scores.reverse();
        assert_eq!(aggregate(&package, &unseen(&scores)), forward, "order must not matter");
        assert_eq!(forward.map(|s| s.values), expected.map(|e| e.to_vec()));
    }

    #[test]
    fn a_study_is_the_mean_or_the_highest_of_its_images() {
        let rows = [("1.1", [0.1, 0.9]), ("1.2", [0.3, 0.5]), ("1.2", [0.5, 0.1])];
        check(Aggregation::Mean, &rows[..1], Some([0.1, 0.9]));
        check(Aggregation::Mean, &rows[1..], Some([0.4, 0.3]));
        check(Aggregation::Max, &rows, Some([0.5, 0.9]));
        check(Aggregation::Max, &[], None);
    }

    #[test]
    fn scores_of_another_model_or_contract_do_not_count_and_frames_count_one_image() {
        let dir = tempfile::tempdir().unwrap();
        let package = clinical_package(dir.path());
        let own = ImageScore {
            instance: Uid::parse("1.2").unwrap(),
            model: package.key(),
            contract: package.contract.digest(),
            outputs: vec![0.25, 0.75],
        };
        let other_model = ImageScore { model: "other@1#0".into(), ..own.clone() };
        let other_contract = ImageScore { contract: crate::domain::Digest::of(b"x"), ..own.clone() };
        let study = aggregate(&package, &unseen(&[other_model, own.clone(), other_contract, own])).unwrap();
        assert_eq!(study.values, [0.25, 0.75]);
        assert_eq!(study.images.len(), 1);
    }

    #[test]
    fn views_count_as_the_card_says_and_one_by_default() {
        let dir = tempfile::tempdir().unwrap();
        let mut package = clinical_package(dir.path());
        package.aggregation.method = Aggregation::Mean;
        package.aggregation.weights = [(View::Pa, 2.0), (View::Lateral, 0.5)].into();
        let score = |instance: &str, value: f64| ImageScore {
            instance: Uid::parse(instance).unwrap(),
            model: package.key(),
            contract: package.contract.digest(),
            outputs: vec![value, 1.0],
        };
        let scores = [score("1.1", 0.9), score("1.2", 0.3), score("1.3", 0.1), score("1.4", 0.2)];
        let views = [Some(View::Pa), Some(View::Lateral), Some(View::Ap), None];
        let images: Vec<_> = scores.iter().zip(views).map(|(score, view)| StudyImage { score, view }).collect();
        let values = aggregate(&package, &images).unwrap().values;
        assert!((values[0] - (2.0 * 0.9 + 0.5 * 0.3 + 0.1 + 0.2) / 4.5).abs() < 1e-12, "{values:?}");
        assert_eq!(values[1], 1.0);
        // A study of one image is that image, however little it counts.
        assert_eq!(aggregate(&package, &images[1..2]).unwrap().values, [0.3, 1.0]);
    }

    #[test]
    fn the_image_that_is_farthest_off_speaks_for_the_study() {
        let dir = tempfile::tempdir().unwrap();
        let mut package = clinical_package(dir.path());
        let score = |instance: &str, outputs: &[f64]| ImageScore {
            instance: Uid::parse(instance).unwrap(),
            model: package.key(),
            contract: package.contract.digest(),
            outputs: outputs.to_vec(),
        };
        let scores = [score("1.1", &[0.5, 0.5, -3.0]), score("1.2", &[0.7, 0.3, -2.0]), score("1.3", &[0.1, 0.1])];
        assert_eq!(ood_of(&package, &unseen(&scores)), None);
        let card = crate::infer::OodCard::Energy { temperature: 1.0, threshold: -2.5 };
        package.ood = Some(crate::infer::Ood::new(card, dir.path(), package.activation).unwrap());
        assert_eq!(ood_of(&package, &unseen(&scores)), Some(-2.0));
        assert_eq!(ood_of(&package, &unseen(&scores[2..])), None);
        let study = aggregate(&package, &unseen(&scores)).unwrap();
        assert_eq!((study.values, study.images.len()), (vec![0.7, 0.5], 2), "its score is no probability");
    }
}
