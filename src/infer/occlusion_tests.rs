//! Tests of `occlusion`: PyTorch's numbers for the same patches, and that every pixel is covered.

use super::*;
use crate::infer::manifest::fixtures::clinical_with;
use crate::infer::{Engine, EngineOptions, reference};

#[test]
fn every_pixel_is_covered_and_no_patch_leaves_the_image() {
    for (patch, stride, side) in [(0, 0, 128), (0, 0, 8), (5, 3, 32), (7, 9, 30), (64, 64, 32), (1, 1, 9)] {
        let occlusion = Occlusion::of(patch, stride, Fill::Mean, side);
        let mut changes = occlusion.changes(side);
        for place in occlusion.places(side) {
            assert!(place.0.max(place.1) + occlusion.patch <= side, "{occlusion:?} {place:?}");
            changes.note(place, 0.5);
        }
        assert!(changes.map().iter().all(|v| *v == 0.5), "{occlusion:?}");
    }
    assert_eq!(Occlusion::of(0, 0, Fill::Mean, 320).places(320).len(), 225);
}

#[test]
fn a_patch_changes_what_it_covers_and_nothing_else() {
    let contract = Contract::preset("xrv-1024", 8).unwrap();
    let plane = (0..contract.plane_len()).map(|i| i as f32).collect();
    let input = ModelInput { contract: contract.digest(), plane };
    let covered = Occlusion::of(3, 1, Fill::Grey(1.0), 8).covered(&input, &contract, (4, 5));
    for (at, (old, new)) in input.plane.iter().zip(&covered.plane).enumerate() {
        let (row, column) = (at / 8, at % 8);
        let inside = (4..7).contains(&row) && (5..8).contains(&column);
        assert_eq!(*new, if inside { contract.high } else { *old }, "{at}");
    }
    let mean = Occlusion::of(8, 8, Fill::Mean, 8).covered(&input, &contract, (0, 0));
    assert_eq!([mean.plane[0], mean.plane[63]], [31.5, 31.5]);
}

#[test]
fn distributions_are_as_far_apart_as_what_moves_between_groups() {
    assert_eq!(distance(&[1.0, 0.0, 0.0], &[0.0, 0.0, 1.0]), 1.0);
    assert_eq!(distance(&[0.5, 0.25, 0.25], &[0.5, 0.25, 0.25]), 0.0);
    assert_eq!(distance(&[0.5, 0.5], &[0.25, 0.75]), 0.25);
}

/// A network, an image and the maps that PyTorch computes, patch by patch.
#[tokio::test(flavor = "multi_thread")]
async fn maps_are_pytorchs_for_the_same_patches() {
    let folder = reference::run("occlusion.py");
    let cases = std::fs::read(folder.path().join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_slice(&cases).unwrap();
    let floats = |value: &serde_json::Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
    let resized = |card: String| card.replace("size = 8", "size = 24");
    let package = clinical_with(folder.path(), &folder.path().join("network.pt"), resized);
    let (key, contract) = (package.key(), package.contract.clone());
    let options = EngineOptions { batch_max: 8, ..EngineOptions::default() };
    let engine = Engine::start(vec![package], options).unwrap();
    let input = ModelInput { contract: contract.digest(), plane: floats(&cases["image"]) };
    let base = engine.score(&key, input.clone()).await.unwrap();
    for case in cases["maps"].as_array().unwrap() {
        let number = |key: &str| case[key].as_u64().unwrap() as u32;
        let fill = case["fill"].as_f64().map_or(Fill::Mean, |grey| Fill::Grey(grey as f32));
        let occlusion = Occlusion::of(number("patch"), number("stride"), fill, 24);
        let mut changes = occlusion.changes(24);
        let mut running = tokio::task::JoinSet::new();
        for place in occlusion.places(24) {
            let (engine, key, covered) = (engine.clone(), key.clone(), occlusion.covered(&input, &contract, place));
            running.spawn(async move { (place, engine.score_covered(&key, covered).await.unwrap()) });
        }
        while let Some(done) = running.join_next().await {
            let (place, scores) = done.unwrap();
            changes.note(place, base[1] - scores[1]);
        }
        let expected = floats(&case["map"]);
        let largest = expected.iter().fold(0f32, |l, v| l.max(v.abs()));
        let apart = changes.map().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest > 0.01 && apart < 1e-5, "patch {}: {apart} of {largest}", occlusion.patch);
    }
    let (batches, inputs) = (engine.stats().batches, engine.stats().inputs);
    assert!(inputs > 2 * batches, "places share batches: {inputs} in {batches}");
}
