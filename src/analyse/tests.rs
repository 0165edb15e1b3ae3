//! The race score must come from the same images as the clinical score; what a report says of its images.

use super::scorers::Unscored;
use super::*;
use crate::domain::{ImageFacts, IndReason, View};
use crate::infer::Scope;

fn header(instance: &str, modality: &str) -> InstanceHeader {
    let header = serde_json::json!({
        "study": "1.2", "series": "1.2.1", "sop_instance": instance, "sop_class": "1.2.840.10008.5.1.4.1.1.1.1",
        "transfer_syntax": "1.2.840.10008.1.2.1", "modality": modality, "body_part": "CHEST", "view": "PA",
        "manufacturer": "", "model_name": "", "rows": 512, "columns": 512, "frames": 1, "bits_allocated": 16,
        "bits_stored": 12, "photometric": "MONOCHROME2", "has_pixels": true, "copied": {}
    });
    serde_json::from_value(header).expect("a header")
}

fn uid(text: &str) -> Uid {
    Uid::parse(text).expect("a UID")
}

/// Images of the demo race model's scope and others, each scored by some model; the race model scored those named.
fn race(images: &[(&str, &str)], scored: Option<&[&str]>) -> Result<usize, IndReason> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-race");
    let package = Package::load(&models).expect("the demo race model");
    let score = |instance: &str| ImageScore {
        instance: uid(instance),
        model: "any".into(),
        contract: package.contract.digest(),
        outputs: vec![0.5],
    };
    let instance = |(instance, modality): &(&str, &str)| ScoredInstance {
        header: header(instance, modality),
        pixel_digest: None,
        scores: vec![score(instance)],
        refusal: None,
    };
    let study = ReadyStudy { study: uid("1.2"), instances: images.iter().map(instance).collect(), results: Vec::new() };
    let of_race = scored.map(|scored| StudyScore {
        model: package.identity.clone(),
        outputs: package.outputs.clone(),
        values: vec![0.2, 0.3, 0.5],
        images: scored.iter().map(|i| uid(i)).collect(),
    });
    race_of(Some(&package), &study, of_race.as_slice()).map(|score| score.images.len())
}

#[test]
fn a_race_score_comes_from_every_image_that_both_models_may_see_or_is_none() {
    let (chest, other) = (("1.2.3", "DX"), ("1.2.4", "MG"));
    let second = ("1.2.5", "DX");
    let rows: [(&[(&str, &str)], Option<&[&str]>, Result<usize, IndReason>); 7] = [
        (&[chest], Some(&["1.2.3"]), Ok(1)),
        (&[chest, other], Some(&["1.2.3"]), Ok(1)),
        (&[chest, second], Some(&["1.2.3", "1.2.5"]), Ok(2)),
        (&[chest, second], Some(&["1.2.3"]), Err(IndReason::Failed)),
        (&[chest], None, Err(IndReason::Failed)),
        (&[other], None, Err(IndReason::Scope)),
        (&[], None, Err(IndReason::Scope)),
    ];
    for (images, scored, expected) in rows {
        assert_eq!(race(images, scored), expected, "{images:?} {scored:?}");
    }
    let study = ReadyStudy { study: uid("1.2"), instances: Vec::new(), results: Vec::new() };
    assert_eq!(race_of(None, &study, &[]), Err(IndReason::Off));
}

#[test]
fn an_image_is_changed_only_where_the_race_model_and_a_clinical_one_may_see_it() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let [race, frontal] =
        ["demo-race", "demo-clinical"].map(|name| Package::load(&models.join(name)).expect("a model"));
    let any_view = Package { scope: Scope::default(), ..frontal.clone() };
    let image = |instance: &str, view: View, is_scored: bool| {
        let score = ImageScore {
            instance: uid(instance),
            model: any_view.key(),
            contract: any_view.contract.digest(),
            outputs: vec![0.5],
        };
        let header = InstanceHeader { view: Some(view), ..header(instance, "DX") };
        let scores = if is_scored { vec![score] } else { Vec::new() };
        ScoredInstance { header, pixel_digest: None, scores, refusal: None }
    };
    let instances =
        vec![image("1.2.3", View::Lateral, true), image("1.2.4", View::Pa, true), image("1.2.5", View::Pa, false)];
    let study = ReadyStudy { study: uid("1.2"), instances, results: Vec::new() };
    assert_eq!(study::shared(&race, &[&any_view], &study), [uid("1.2.4")]);
    assert_eq!(study::shared(&any_view, &[&frontal], &study), [uid("1.2.4")]);
    assert_eq!(study::shared(&any_view, &[&frontal, &any_view], &study), ["1.2.3", "1.2.4"].map(uid));
    assert!(study::shared(&race, &[], &study).is_empty(), "where there is no clinical model, nothing is asked");
}

#[test]
fn slices_are_reported_from_one_end_to_the_other_and_cut_frames_are_told() {
    let slice = |instance: &str, z: f64| {
        let axial = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let image = ImageFacts { position: Some([0.0, 0.0, z]), orientation: Some(axial), ..ImageFacts::default() };
        InstanceHeader { image, ..header(instance, "CT") }
    };
    let names = |images: &[&InstanceHeader]| {
        in_slice_order(images).iter().map(|i| i.sop_instance.as_str().to_owned()).collect::<Vec<_>>()
    };
    let (head, foot, plain) = (slice("1.3", 9.0), slice("1.4", -9.0), header("1.5", "CT"));
    assert_eq!(names(&[&head, &foot]), ["1.4", "1.3"]);
    assert_eq!(names(&[&head, &foot, &plain]), ["1.3", "1.4", "1.5"], "not a volume");
    let long = InstanceHeader { frames: 500, ..plain.clone() };
    assert_eq!(frames_seen(&[&plain, &long]).as_deref(), Some("frames=32/500"));
    assert_eq!(frames_seen(&[&plain]), None);
}

#[test]
fn a_contract_fails_alone_and_the_study_is_not_complete() {
    let load = |name: &str| {
        Package::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).expect("a demo model")
    };
    let (race, one) = (load("demo-race"), load("demo-clinical"));
    let mut other = one.clone();
    other.identity.name = "another-clinical".into();
    let refused = |detail: &str| Err(Refusal::new(RefusalCode::Inconsistent, detail));
    let scored = || Ok(vec![vec![0.25], vec![0.75]]);
    let names = |scores: Vec<ImageScore>| scores.into_iter().map(|s| (s.model, s.outputs)).collect::<Vec<_>>();
    let key = |package: &Package| (package.identity.key(), vec![0.5]);
    let packages = [&race, &one, &other];
    let kept = |outputs: [Result<Vec<Vec<f64>>, Refusal>; 3]| {
        kept(&packages, outputs.map(|o| o.map_err(Unscored::Refused)).to_vec(), &uid("1.2.3"), false)
            .map(names)
            .map_err(|refusal| refusal.detail)
    };
    assert_eq!(kept([scored(), scored(), scored()]), Ok(vec![key(&race), key(&one), key(&other)]));
    assert_eq!(kept([scored(), refused("one"), scored()]), Ok(vec![key(&race), key(&other)]));
    assert_eq!(kept([refused("race"), scored(), refused("other")]), Ok(vec![key(&one)]));
    assert_eq!(kept([scored(), refused("one"), refused("other")]), Err("one".into()));

    let score = |package: &Package| ImageScore {
        instance: uid("1.2.3"),
        model: package.identity.key(),
        contract: package.contract.digest(),
        outputs: vec![0.5],
    };
    let lacks = |modality: &str, scored: &[&Package]| {
        let scores = scored.iter().map(|p| score(p)).collect();
        let instance = ScoredInstance { header: header("1.2.3", modality), pixel_digest: None, scores, refusal: None };
        lacks_a_score(&[&race, &one, &other], &instance)
    };
    assert!(!lacks("DX", &[&race, &one, &other]));
    assert!(!lacks("DX", &[&one, &other]), "the race score has a reason of its own");
    assert!(lacks("DX", &[&race, &one]));
    assert!(!lacks("MG", &[&race]), "out of scope");
    assert!(!lacks("DX", &[]), "refused as a whole");
}

/// A study of instances that are nothing but their patient: ID, issuer, and why they hold no score.
fn of_patients(instances: &[(&str, &str, Option<RefusalCode>)]) -> Option<RefusalCode> {
    let instance = |(n, (id, issuer, refusal)): (usize, &(&str, &str, Option<RefusalCode>))| {
        let text = |text: &str| crate::domain::Attribute {
            vr: "LO".into(),
            value: crate::domain::AttributeValue::Bytes(text.as_bytes().to_vec()),
        };
        let mut header = header(&format!("1.2.{n}"), "DX");
        header.copied = [(0x0010_0020, text(id)), (0x0010_0021, text(issuer))].into();
        let refusal = refusal.map(|code| Refusal::new(code, "x"));
        ScoredInstance { header, pixel_digest: None, scores: Vec::new(), refusal }
    };
    let instances = instances.iter().enumerate().map(instance).collect();
    patient_mismatch(&ReadyStudy { study: uid("1.2"), instances, results: Vec::new() }).map(|r| r.code)
}

#[test]
fn what_counts_in_a_study_is_of_one_patient() {
    let (result, other) = (Some(RefusalCode::ClinicalResult), Some(RefusalCode::OutOfScope));
    let mismatch = Some(RefusalCode::PatientMismatch);
    // Images count although no model of this process scored them.
    assert_eq!(of_patients(&[("A", "H", None), ("A", "H", result)]), None);
    assert_eq!(of_patients(&[("A", "H", None), ("B", "H", result)]), mismatch);
    assert_eq!(of_patients(&[("A", "H", None), ("B", "H", None)]), mismatch);
    assert_eq!(of_patients(&[("A", "H", None), ("A", "G", None)]), mismatch);
    assert_eq!(of_patients(&[("A", "H", None), ("B", "H", other)]), None);
    // A product that leaves the issuer out says nothing of it; one that names another does.
    assert_eq!(of_patients(&[("A", "H", None), ("A", "", result)]), None);
    assert_eq!(of_patients(&[("A", "H", None), ("A", "G", result)]), mismatch);
    assert_eq!(of_patients(&[("A", "H", None), ("A", "", None)]), mismatch);
    assert_eq!(of_patients(&[("A", "H", None), ("", "H", result)]), mismatch);
}

/// The demo model as one whose results come from elsewhere.
fn elsewhere(section: &str) -> Package {
    let folder = tempfile::tempdir().expect("temporary folder");
    let demo = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-clinical/model.toml"));
    let demo = demo.expect("the demo card");
    let (_, rest) = demo.split_once("[[output.findings]]").expect("findings");
    let (rest, _) = rest.split_once("[golden]").expect("its own answers, at the end");
    let card = format!(
        "name = \"there\"\nversion = \"1\"\nmanufacturer = \"M\"\npurpose = \"clinical\"\ndevice_uid = \"2.25.1\"\n\
         {section}\n[output]\nactivation = \"sigmoid\"\n[[output.findings]]{rest}"
    );
    let dir = folder.path().join("there");
    std::fs::create_dir(&dir).expect("writable");
    std::fs::write(dir.join("model.toml"), card).expect("writable");
    Package::load(&dir).expect("a package")
}

/// Two images in scope, and what products said of them.
fn two_images(results: Vec<ClinicalResult>) -> ReadyStudy {
    let instance = |instance: &str| ScoredInstance {
        header: header(instance, "DX"),
        pixel_digest: None,
        scores: Vec::new(),
        refusal: None,
    };
    ReadyStudy { study: uid("1.2"), instances: ["1.2.3", "1.2.4"].map(instance).into(), results }
}

#[test]
fn what_is_known_of_some_images_is_not_the_studys() {
    let server = elsewhere(
        "format = \"open-inference\"\n[input]\ncontract = \"minmax-unit\"\nsize = 64\n[server]\n\
         url = \"http://127.0.0.1:1\"\nmodel = \"m\"\ninput = \"i\"\noutputs = [\"o\"]",
    );
    let study = two_images(Vec::new());
    let score = |images: &[&str]| StudyScore {
        model: server.identity.clone(),
        outputs: server.outputs.clone(),
        values: vec![0.5, 0.5],
        images: images.iter().map(|i| uid(i)).collect(),
    };
    let scores = |images: &[&str]| whole(vec![score(images)], &[&server], &study);
    let (both, one) = (scores(&["1.2.3", "1.2.4"]), scores(&["1.2.3"]));
    assert_eq!((both.len(), one.len()), (1, 0));
    let results = study::results(&[&server], &study, &one);
    assert!(results.len() == 1 && is_missing(&results[0]), "{results:?}");
    // A model of this process says of each image why it has none, and the report is partial.
    assert_eq!(whole(vec![score(&["1.2.3"])], &[], &study).len(), 1);

    let product = elsewhere("format = \"result-csv\"\n[result]\nwait = \"1s\"");
    let result = |source: &str, images: &[&str], findings: usize| ClinicalResult {
        study: uid("1.2"),
        model: product.key(),
        source: source.into(),
        observed_at: None,
        received_at: Timestamp::UNIX_EPOCH,
        version: String::new(),
        predecessors: Vec::new(),
        said: product.findings()[..findings]
            .iter()
            .map(|finding| crate::domain::Said {
                finding: finding.key.clone(),
                images: images.iter().map(|i| uid(i)).collect(),
                score: crate::domain::Probability::new(0.25).ok(),
                positive: None,
            })
            .collect(),
    };
    let missing = |results: Vec<ClinicalResult>| {
        let results = study::results(&[&product], &two_images(results), &[]);
        assert_eq!(results.len(), 1);
        is_missing(&results[0])
    };
    assert!(missing(Vec::new()));
    assert!(missing(vec![result("a", &["1.2.3"], 2)]), "the other image is waited for");
    assert!(missing(vec![result("a", &[], 0)]), "a report without a statement");
    assert!(missing(vec![result("a", &[], 1)]), "one of two findings");
    assert!(!missing(vec![result("a", &["1.2.3"], 2), result("b", &["1.2.4"], 2)]));
    assert!(!missing(vec![result("a", &[], 2)]));
}

#[test]
fn a_report_that_cannot_be_read_is_nobodys_result() {
    let code = |code| product::unread(Refusal::new(code, "x")).code;
    for of_the_object in [RefusalCode::Malformed, RefusalCode::TooLarge, RefusalCode::Inconsistent] {
        assert_eq!(code(of_the_object), RefusalCode::NotAnImage);
    }
    for of_the_worker in [RefusalCode::WorkerDied, RefusalCode::WorkerUnavailable] {
        assert_eq!(code(of_the_worker), of_the_worker);
    }
    assert!(!is_loss(&product::unread(Refusal::new(RefusalCode::Malformed, "x"))));
}

#[test]
fn clinical_models_are_asked_by_name_and_the_race_model_always() {
    let load = |name: &str| {
        Package::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).expect("a demo model")
    };
    let (race, one) = (load("demo-race"), load("demo-clinical"));
    let mut other = one.clone();
    other.identity.name = "another-clinical".into();
    let packages = [race, one, other];
    let names = |clinical: &[&str]| {
        let clinical: Vec<String> = clinical.iter().map(|name| (*name).to_owned()).collect();
        asked(&packages, &clinical).into_iter().map(|p| p.identity.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["demo-race", "demo-clinical", "another-clinical"]);
    assert_eq!(names(&["another-clinical"]), ["demo-race", "another-clinical"]);
    assert_eq!(names(&["gone"]), ["demo-race"]);
}
