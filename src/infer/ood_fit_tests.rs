//! Tests of `ood_fit`: numpy's estimate, who is in which half, and percentiles that nobody can know.

use super::*;
use crate::infer::card::Activation;
use crate::infer::manifest::fixtures::clinical_package;
use crate::infer::reference;

fn frame(patient: usize, image: u32, outputs: Vec<f64>) -> KnownFrame {
    let study = format!("1.2.{}", patient + 1);
    let image = Uid::parse(&format!("{study}.{image}")).unwrap();
    KnownFrame { patient: format!("P{patient}"), study: Uid::parse(&study).unwrap(), image, outputs }
}

#[test]
fn mean_and_precision_are_numpys_with_ledoits_and_wolfs_shrinkage() {
    let (_folder, cases) = reference::study_level();
    let case = |name: &str| cases["ledoit_wolf"][name].clone();
    let rows: Vec<Vec<f64>> = serde_json::from_value(case("features")).unwrap();
    let expected: Vec<Vec<f64>> = serde_json::from_value(case("precision")).unwrap();
    let mean: Vec<f64> = serde_json::from_value(case("mean")).unwrap();
    let shrinkage = case("shrinkage").as_f64().unwrap();
    assert!(rows.len() < expected.len() && (0.05..0.9).contains(&shrinkage), "fewer images than features");
    let found = gaussian(&rows).unwrap();
    assert!(found.means.iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-12));
    let scale = expected.concat().iter().fold(0.0_f64, |a, v| a.max(v.abs()));
    let apart = found.precision.iter().zip(expected.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-9 * scale, "{apart} of {scale}");
    assert!(matches!(gaussian(&vec![vec![1.0, 2.0]; 30]), Err(OodFitError::Constant)));
}

#[test]
fn the_threshold_is_a_percentile_of_studies_by_their_farthest_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut package = clinical_package(dir.path());
    package.activation = Activation::LogitsSigmoid;
    let outputs = package.column_of.len();
    let energy = |value: f64| [vec![0.5; outputs], vec![value]].concat();
    // Each study has two images, the second one farther by the mean of its two frames, as a node computes it.
    let mut frames: Vec<KnownFrame> = (0..100).map(|i| frame(i, 1, energy(-1000.0))).collect();
    frames.extend((0..100).flat_map(|i| [-50.0, 50.0].map(|off| frame(i, 2, energy(i as f64 + off)))));
    let fit = fit_ood(&package, OodMethod::Energy, &frames, 95.0).unwrap();
    assert_eq!((fit.studies, fit.threshold, fit.median), (100, 94.0, 50.0));
    assert_eq!(fit.card, OodCard::Energy { temperature: 1.0, threshold: 94.0 });
    let error = fit_ood(&package, OodMethod::Energy, &frames, 99.5).unwrap_err().to_string();
    assert!(error.contains("100 studies are there") && error.contains("needs 200"), "{error}");
    assert!(matches!(fit_ood(&package, OodMethod::Energy, &frames, 100.0), Err(OodFitError::Percentile(_))));
    package.activation = Activation::Sigmoid;
    let error = collecting(&package, OodMethod::Energy).unwrap_err().to_string();
    assert!(error.contains("needs logits"), "{error}");
}

#[test]
fn a_fit_is_written_into_the_card_and_another_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let package = clinical_package(dir.path());
    let outputs = package.column_of.len();
    // Three features; that of odd patients lies elsewhere, so that both halves are needed.
    let features = |i: usize| {
        let wave = |k: usize| ((i * (7 + 4 * k)) as f64 * 0.37).sin();
        [vec![0.5; outputs], vec![wave(0), 2.0 * wave(1), 5.0 + wave(2)]].concat()
    };
    let frames: Vec<KnownFrame> = (0..200).map(|i| frame(i, 1, features(i))).collect();
    let fit = fit_ood(&package, OodMethod::Mahalanobis, &frames, 99.0).unwrap();
    assert_eq!((fit.studies, fit.frames), (100, 100));
    assert!((1.0..6.0).contains(&fit.median) && fit.threshold > fit.median, "{fit:?}");
    let beside = |name: &str| std::fs::read_dir(&package.dir).unwrap().flatten().any(|e| e.file_name() == *name);
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    let card = package.dir.join("model.toml");
    let before = text(&card);
    write_ood(&package.dir, &fit).unwrap();
    let with = Package::load(&package.dir).unwrap();
    let ood = with.ood.clone().unwrap();
    let near = ood.score(&[], &[0.1, 0.2, 5.1]).unwrap();
    let far = ood.score(&[], &[0.1, 0.2, 9.0]).unwrap();
    assert!(!ood.is_beyond(near) && ood.is_beyond(far), "{near} {far} {}", fit.threshold);
    assert_eq!(with.scoring, package.scoring, "it changes no score");
    let OodCard::Mahalanobis { file, .. } = &fit.card else { panic!("{fit:?}") };
    assert!(beside(file));
    let energy = OodFit { card: OodCard::Energy { temperature: 1.0, threshold: -2.5 }, sidecar: None, ..fit.clone() };
    std::fs::write(&card, text(&card) + "\n# kept\n[golden]\nfile = \"g\"\n").unwrap();
    write_ood(&package.dir, &energy).unwrap();
    let expected = format!(
        "{}\n\n# kept\n[golden]\nfile = \"g\"\n\n[ood]\nmethod = \"energy\"\ntemperature = 1.0\nthreshold = -2.5\n",
        before.trim_end()
    );
    assert_eq!(text(&card), expected);
    assert!(!beside(file), "nobody names it any more");
    // Written otherwise than as a section of its own: by hand, then.
    std::fs::write(&card, "ood = { method = \"energy\", threshold = 1.0 }\n").unwrap();
    assert!(write_ood(&package.dir, &energy).unwrap_err().to_string().contains("remove ood"));

    let few = fit_ood(&package, OodMethod::Mahalanobis, &frames[..30], 50.0).unwrap_err();
    assert!(matches!(few, OodFitError::Frames(15)), "{few}");
}
