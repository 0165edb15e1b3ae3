//! What is read of other makers' reports, and what is not: written by pydicom, read as a worker does.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sidelight::domain::{CodeKey, FindingRule, LabelRule, Probability, ReportKind, ReportRules, ResultDocument};
use sidelight::pixels::{Limits, read_result_file};

use crate::support::{phantoms, reference_python, root};

/// Writes the reports of this list.
pub fn write_reports(reports: &[Value]) {
    let mut child = Command::new(reference_python())
        .arg(root().join("tests/reference/vendor.py"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(Value::from(reports.to_vec()).to_string().as_bytes()).expect("a reader");
    drop(input);
    assert!(child.wait().expect("waitable").success());
}

fn key(value: &str, scheme: &str) -> CodeKey {
    CodeKey { value: value.into(), scheme: scheme.into() }
}

fn rules(kind: ReportKind) -> ReportRules {
    let finding = |name: &str, value: &str| FindingRule {
        key: name.into(),
        code: key(value, "SCT"),
        path: match kind {
            ReportKind::Paths => {
                vec![key("RESULTS", "99VENDOR"), key(value, "SCT"), key("111012", "DCM")]
            }
            ReportKind::Tid1500 | ReportKind::ChestCad => Vec::new(),
        },
    };
    ReportRules {
        kind,
        probability: key("111012", "DCM"),
        label: Some(LabelRule {
            concept: key("99RESULT", "99VENDOR"),
            positive: vec![key("10828004", "SCT")],
            negative: vec![key("260385009", "SCT")],
        }),
        findings: vec![finding("ptx", "36118008"), finding("effusion", "60046008")],
    }
}

struct Scene {
    folder: tempfile::TempDir,
    image: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let image = phantoms(&folder.path().join("phantoms"), "null", 1, 1).remove(0);
        Self { folder, image }
    }

    fn write(&self, kind: &str, findings: Value, more: Value) -> PathBuf {
        let out = self.folder.path().join("report.dcm");
        let mut spec = json!({"out": out, "image": self.image, "kind": kind, "findings": findings});
        for (name, value) in more.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        write_reports(&[spec]);
        out
    }

    fn read(&self, file: &Path, kind: ReportKind) -> Result<ResultDocument, String> {
        let read = read_result_file(file, &[rules(kind)], &Limits::default()).map_err(|refusal| refusal.to_string())?;
        read.into_iter().next().expect("an answer for each of the rules")
    }
}

/// Finding, score in percent, decision, number of images.
fn told(document: &ResultDocument) -> Vec<(String, Option<i64>, Option<bool>, usize)> {
    let percent = |p: Probability| (p.get() * 100.0).round() as i64;
    document.said.iter().map(|s| (s.finding.clone(), s.score.map(percent), s.positive, s.images.len())).collect()
}

const PTX: [&str; 3] = ["36118008", "SCT", "Pneumothorax"];
const EFFUSION: [&str; 3] = ["60046008", "SCT", "Pleural effusion"];
const EDEMA: [&str; 3] = ["19242006", "SCT", "Pulmonary edema"];
const POSITIVE: [&str; 3] = ["10828004", "SCT", "Positive"];

#[test]
fn a_report_is_read_by_the_rules_of_its_card() {
    let scene = Scene::new();
    let row = |key: &str, percent, positive, images| (key.to_owned(), percent, positive, images);
    let findings = json!([
        {"code": PTX, "value": 93, "unit": "%", "label": POSITIVE, "images": ["1.2.3", "1.2.4"]},
        {"code": EFFUSION, "value": 0.25, "unit": "1"},
        {"code": EDEMA, "value": 300, "unit": "ml"},
        {"code": PTX, "value": 300, "unit": "ml", "concept": ["118565006", "SCT", "Volume"]},
    ]);
    let file = scene.write("tid1500", findings.clone(), json!({"predecessor": "1.2.9", "time": "101500.25"}));
    let document = scene.read(&file, ReportKind::Tid1500).expect("a result");
    let expected = [row("ptx", Some(93), Some(true), 2), row("effusion", Some(25), None, 0)];
    assert_eq!(told(&document), expected);
    assert_eq!(document.predecessors[0].as_str(), "1.2.9");
    assert_eq!(document.observed_at.expect("a date").to_rfc3339(), "2026-03-01T10:15:00.250+00:00");
    let device = document.device;
    assert_eq!((device.manufacturer.as_str(), device.serial_number.as_str()), ("Example Imaging", "S1"));
    assert_eq!((device.model_name.as_str(), device.software_versions.as_slice()), ("ChestAI", &["3.1".to_owned()][..]));

    let marks = json!([
        {"code": PTX, "value": 40, "images": ["1.2.3"]}, {"code": PTX, "value": 70, "images": ["1.2.3"]},
        {"code": PTX, "value": 10, "images": ["1.2.4"]},
    ]);
    let file = scene.write("chest-cad", marks, json!({}));
    let document = scene.read(&file, ReportKind::ChestCad).expect("a result");
    assert_eq!(told(&document), [row("ptx", Some(70), None, 1), row("ptx", Some(10), None, 1)]);
    let nothing_found = scene.write("chest-cad", json!([]), json!({}));
    assert_eq!(told(&scene.read(&nothing_found, ReportKind::ChestCad).expect("a result")), []);

    // As CAD reports refer to their images: by their place in the image library.
    let marks = json!([
        {"code": PTX, "value": 40, "refers": [[1, 1, 2]]}, {"code": EFFUSION, "value": 10, "refers": [[1, 1, 1], [1, 1, 2]]},
    ]);
    let file = scene.write("chest-cad", marks, json!({"library": ["1.2.3", "1.2.4"]}));
    let document = scene.read(&file, ReportKind::ChestCad).expect("a result");
    assert_eq!(told(&document), [row("effusion", Some(10), None, 2), row("ptx", Some(40), None, 1)]);
    assert_eq!(document.said[1].images[0].as_str(), "1.2.4");

    let file = scene.write("tree", findings, json!({}));
    let document = scene.read(&file, ReportKind::Paths).expect("a result");
    assert_eq!(told(&document), [row("ptx", Some(93), None, 2), row("effusion", Some(25), None, 0)]);
}

#[test]
fn what_is_no_result_is_told_and_hostile_reports_end_early() {
    let scene = Scene::new();
    let check = |kind: &str, findings: Value, more: Value, rules: ReportKind, reason: &str| {
        let file = scene.write(kind, findings, more);
        let error = scene.read(&file, rules).expect_err(reason);
        assert!(error.contains(reason), "{error}");
    };
    let ptx = |value: Value, unit: &str| json!([{"code": PTX, "value": value, "unit": unit}]);
    check("tid1500", json!([{"code": EDEMA, "value": 1}]), json!({}), ReportKind::Tid1500, "no measurement group");
    check("tid1500", ptx(json!(101), "%"), json!({}), ReportKind::Tid1500, "no probability");
    check("tid1500", ptx(json!(-1), "%"), json!({}), ReportKind::Tid1500, "no probability");
    check("tid1500", ptx(json!(5), "1"), json!({}), ReportKind::Tid1500, "no probability");
    check("tid1500", ptx(json!(5), "ml"), json!({}), ReportKind::Tid1500, "neither % nor 1");
    check("tid1500", ptx(json!(5), "%"), json!({}), ReportKind::ChestCad, "not a Chest CAD report");
    check("tree", ptx(json!(5), "%"), json!({"depth": 1}), ReportKind::Paths, "nothing at the paths");
    check("tree", ptx(json!(5), "%"), json!({"depth": 40}), ReportKind::Paths, "deeper than 32");
    let many = Value::from(vec![json!({"code": PTX, "value": 5}); 3000]);
    check("tid1500", many, json!({}), ReportKind::Tid1500, "more than 2000 statements");
    // Little to read, much to say: each of many numbers is about all the images beside it.
    let many = |times: u32, images: u32| {
        let images: Vec<String> = (0..images).map(|n| format!("1.2.3.{n}")).collect();
        json!([{"code": PTX, "value": 5, "times": times, "images": images}])
    };
    check("tree", many(2001, 1), json!({}), ReportKind::Paths, "more than 2000 statements");
    check("tree", many(1900, 1900), json!({}), ReportKind::Paths, "100000 images of all");
    check("tree", many(1, 2001), json!({}), ReportKind::Paths, "more than 2000 images of one");
    // What the finding is about cannot be told: that is not the whole study.
    let refers = |place: Value| json!([{"code": PTX, "value": 5, "refers": [place]}]);
    let library = json!({"library": ["1.2.3"]});
    check("chest-cad", refers(json!([1, 1])), library.clone(), ReportKind::ChestCad, "not IMAGE");
    for place in [json!([1, 1, 2]), json!([2, 1, 1]), json!([1, 0]), json!(0)] {
        check("chest-cad", refers(place), library.clone(), ReportKind::ChestCad, "does not have");
    }

    // Cut short anywhere, or with any byte changed, it is read or refused.
    let file = scene.write("tid1500", ptx(json!(5), "%"), json!({}));
    let whole = fs::read(&file).expect("a report");
    for at in (132..whole.len()).step_by(17) {
        fs::write(&file, &whole[..at]).expect("writable");
        let _ = scene.read(&file, ReportKind::Tid1500);
        let mut changed = whole.clone();
        changed[at] ^= 0xff;
        fs::write(&file, &changed).expect("writable");
        let _ = scene.read(&file, ReportKind::Tid1500);
    }
    let mut long = whole.clone();
    long.resize(17 << 20, 0);
    fs::write(&file, &long).expect("writable");
    let error = scene.read(&file, ReportKind::Tid1500).expect_err("too long");
    assert!(error.contains("too-large"), "{error}");
}
