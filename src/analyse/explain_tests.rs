//! Tests of `explain`: what is planned, chosen and told; maps themselves are tested in `infer` and `tests/it/explain.rs`.

use super::*;
use crate::domain::{Fill, ImageScore, RefusalCode};
use std::time::Duration;

fn uid(text: &str) -> Uid {
    Uid::parse(text).expect("a UID")
}

fn header(instance: &str) -> InstanceHeader {
    let header = serde_json::json!({
        "study": "1.2", "series": "1.2.1", "sop_instance": instance,
        "sop_class": "1.2.840.10008.5.1.4.1.1.1.1", "transfer_syntax": "1.2.840.10008.1.2.1",
        "modality": "DX", "body_part": "CHEST", "view": "PA", "manufacturer": "", "model_name": "",
        "rows": 8, "columns": 8, "frames": 1, "bits_allocated": 16, "bits_stored": 12,
        "photometric": "MONOCHROME2", "has_pixels": true, "copied": {}
    });
    serde_json::from_value(header).expect("a header")
}

/// The demonstration's packages, and rules that ask for everything.
fn demo() -> ([Package; 2], Explain) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let package = |name: &str| Package::load(&folder.join(name)).expect("a package");
    let rules = Explain {
        methods: vec![MapMethod::Gradcam, MapMethod::Occlusion],
        purposes: vec![Purpose::Clinical, Purpose::Race],
        forms: vec![MapForm::SecondaryCapture, MapForm::ParametricMap],
        level_min: None,
        images_max: 16,
        time_max: Duration::from_secs(1),
        patch: 0,
        stride: 0,
        fill: Fill::Mean,
    };
    ([package("demo-clinical"), package("demo-race")], rules)
}

#[test]
fn what_is_refused_and_what_is_not_reached_is_told_for_each_image_model_and_method() {
    let (packages, rules) = demo();
    let (good, bad) = (header("1.2.3"), header("1.2.4"));
    let (packages, path) = (packages.iter().collect::<Vec<_>>(), Path::new("a.dcm"));
    let mut explained = Vec::new();
    let planned = plan(packages.clone(), &[(path, &good), (path, &bad)], &rules, &mut explained, |header| {
        match header.sop_instance == good.sop_instance {
            true => Ok(packages.clone()),
            false => Err(Refusal::new(RefusalCode::OutOfScope, "another view")),
        }
    });
    let places: Vec<_> = planned.iter().map(|p| (p.place, p.image, p.package.purpose)).collect();
    assert_eq!(places, [(0, 0, Purpose::Clinical), (2, 0, Purpose::Race)]);
    // As where time is up before the first map.
    explained.iter_mut().for_each(|one| one.note_unreached(&rules.methods));
    let missing: Vec<_> = explained.iter().flat_map(|e| e.missing.iter().map(|m| (&e.instance, m))).collect();
    assert_eq!(missing.len(), 8, "{missing:?}");
    for (instance, (_, reason)) in missing {
        let expected = if *instance == good.sop_instance { "there was no time for it" } else { "another view" };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn the_highest_scores_have_maps_where_not_all_can() {
    assert_eq!(highest(&[0.1, 0.9, 0.2, 0.8], 2), [1, 3]);
    assert_eq!(highest(&[0.1, 0.9], 5), [0, 1]);
    let ([clinical, _], _) = demo();
    let findings = clinical.findings().len();
    assert!(findings > 1);
    let mut one = Explained {
        instance: uid("1.2.3"),
        frame: 1,
        model: clinical.identity.clone(),
        purpose: Purpose::Clinical,
        picture: Vec::new(),
        aspect: None,
        file_bytes: 0,
        maps: Vec::new(),
        missing: Vec::new(),
    };
    one.take(&clinical, MapMethod::Gradcam, vec![Some(vec![1.0]); findings], &[1]);
    let made: Vec<&str> = one.maps.iter().map(AttributionMap::target_key).collect();
    assert_eq!(made, [clinical.findings()[1].key.as_str()]);
}

#[test]
fn the_memory_of_maps_is_known_before_they_are_made() {
    let ([clinical, race], rules) = demo();
    let (plane, findings) = (clinical.contract.plane_len(), clinical.findings().len());
    // Values, and colours and values as objects for two kinds of destination, by two methods; and the picture.
    assert_eq!(map_bytes_max(&[&clinical], 1, &rules), plane + 2 * findings * plane * (4 + 2 * (3 + 4)));
    assert_eq!(map_bytes_max(&[&clinical], 1000, &rules), 1000 * plane + MAPS_MAX * plane * 18);
    let clinical_only = Explain { purposes: vec![Purpose::Clinical], ..rules };
    assert_eq!(map_bytes_max(&[&race], 1, &clinical_only), 0);
}

#[test]
fn images_are_chosen_by_what_the_report_is_about_and_never_by_an_earlier_race_model() {
    let instance = |instance: &str, scores: &[(&str, f64)]| {
        let score = |(model, output): &(&str, f64)| ImageScore {
            instance: uid(instance),
            model: (*model).to_owned(),
            contract: Contract::preset("minmax-unit", 8).expect("a preset").digest(),
            outputs: vec![*output],
        };
        ScoredInstance {
            header: header(instance),
            pixel_digest: None,
            scores: scores.iter().map(score).collect(),
            refusal: None,
        }
    };
    let instances = vec![
        instance("1.2.3", &[("old clinical", 0.99)]),
        instance("1.2.4", &[("clinical", 0.2), ("old race", 0.98)]),
        instance("1.2.5", &[("clinical", 0.7), ("race", 0.4)]),
        instance("1.2.6", &[("race", 0.97)]),
        instance("1.2.7", &[]),
    ];
    let study = ReadyStudy { study: uid("1.2"), instances, results: Vec::new() };
    let analysed = ["1.2.4", "1.2.5", "1.2.6", "1.2.7"].map(uid);
    let chosen = |images_max: usize| -> Vec<&str> {
        let chosen = most_telling(&study, &analysed, &["clinical".to_owned()], images_max);
        chosen.into_iter().map(|i| i.header.sop_instance.as_str()).collect()
    };
    assert_eq!(chosen(16), ["1.2.5", "1.2.4", "1.2.6"]);
    assert_eq!(chosen(1), ["1.2.5"]);
}
