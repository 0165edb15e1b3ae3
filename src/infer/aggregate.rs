//! From the scores of a study's images to the study's score. Pure.
//!
//! A mean of probabilities is not calibrated; `assess` recalibrates at study level. Left out: which images belong
//! to the study (the caller passes those whose scores count).

use crate::domain::{ImageScore, StudyScore};

use super::card::Aggregation;
use super::manifest::Package;

/// The study's score of one model over all its image (or frame) scores, by the card's method. Scores of other
/// models, other contracts or another width are left out; `None` if none is left. The order of `scores` does not
/// matter.
pub fn aggregate(package: &Package, scores: &[ImageScore]) -> Option<StudyScore> {
    let (key, contract, width) = (package.key(), package.contract.digest(), package.column_of.len());
    let mut used: Vec<&ImageScore> =
        scores.iter().filter(|s| s.model == key && s.contract == contract && s.outputs.len() == width).collect();
    if used.is_empty() {
        return None;
    }
    // Sums of floating-point numbers depend on their order; arrival order must not.
    used.sort_by(|a, b| a.instance.cmp(&b.instance).then_with(|| compare(&a.outputs, &b.outputs)));
    let column = |i: usize| used.iter().map(move |s| s.outputs[i]);
    let values = (0..width)
        .map(|i| match package.aggregation {
            Aggregation::Mean => column(i).sum::<f64>() / used.len() as f64,
            Aggregation::Max => column(i).fold(f64::NEG_INFINITY, f64::max),
        })
        .collect();
    let mut images: Vec<_> = used.iter().map(|s| s.instance.clone()).collect();
    images.dedup();
    Some(StudyScore { model: package.identity.clone(), outputs: package.outputs.clone(), values, images })
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

    fn check(method: Aggregation, rows: &[(&str, [f64; 2])], expected: Option<[f64; 2]>) {
        let dir = tempfile::tempdir().unwrap();
        let mut package = clinical_package(dir.path());
        package.aggregation = method;
        let mut scores: Vec<ImageScore> = rows
            .iter()
            .map(|(instance, outputs)| ImageScore {
                instance: Uid::parse(instance).unwrap(),
                model: package.key(),
                contract: package.contract.digest(),
                outputs: outputs.to_vec(),
            })
            .collect();
        let forward = aggregate(&package, &scores);
        scores.reverse();
        assert_eq!(aggregate(&package, &scores), forward, "order must not matter");
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
        let study = aggregate(&package, &[other_model, own.clone(), other_contract, own]).unwrap();
        assert_eq!(study.values, [0.25, 0.75]);
        assert_eq!(study.images.len(), 1);
    }
}
