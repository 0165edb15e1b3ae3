//! A vendor's own reports, from the modality's network to the audit report: in time, late, missing, twice, contradictory,
//! corrected, and somebody else's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sidelight::assess::Profile;
use sidelight::infer::Package;

use super::reading::write_reports;
use super::server::check_without_score;
use super::*;
use crate::road::check_report;
use crate::support::{Node, Pacs, element, run_ok, sidelight, storescu, wait_for};

const LIMIT: Duration = Duration::from_secs(90);

pub const RESULT: &str = r#"[result]
kind = "tid1500"
wait = "4s"
[result.from]
manufacturer = "Example Imaging"
software_versions = ["3.1"]
ae_titles = ["STORESCU"]
"#;

/// A node that audits the package `vendor`, with the demo profile as if it had been fitted for it.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub files: Vec<PathBuf>,
    pub pacs: Pacs,
    pub config: PathBuf,
}

impl Site {
    pub fn new(format: &str, sections: &str, patients: u32) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let files = frontals(folder.path(), patients, 77);
        let models = models(folder.path(), &[("vendor", &card("vendor", format, sections))]);
        let package = Package::load(&models.join("vendor")).expect("a package");
        let text = fs::read(root().join("models/demo-profile.json")).expect("the demo profile");
        let mut profile = Profile::parse(&text).expect("a profile");
        profile.findings.iter_mut().for_each(|f| f.model = package.key());
        profile.id = String::new();
        profile.id = format!("profile-{}", &sidelight::domain::Digest::of(&profile.to_json()).as_str()[..16]);
        let pacs = Pacs::start(&folder.path().join("pacs"));
        let data = folder.path().join("data");
        let fitted = folder.path().join("profile.json");
        fs::write(&fitted, profile.to_json()).expect("writable");
        let shipped = root().join("models/demo-profile.json").display().to_string();
        let text = configuration(&data, pacs.port, &models, "vendor").replace(&shipped, &fitted.display().to_string());
        let config = data.with_extension("toml");
        fs::write(&config, text).expect("writable");
        Self { folder, files, pacs, config }
    }

    pub fn study(&self, number: usize) -> String {
        element(&self.files[number], "StudyInstanceUID")
    }

    /// Reports of this study that arrived at the archive.
    pub fn reports(&self, number: usize) -> Vec<PathBuf> {
        let study = self.study(number);
        self.pacs.files().into_iter().filter(|f| element(f, "StudyInstanceUID") == study).collect()
    }

    pub fn findings(&self, node: &Node, number: usize) -> Vec<Value> {
        let shown = node.json(&["studies", "show", &self.study(number)]);
        shown["assessment"]["findings"].as_array().cloned().unwrap_or_default()
    }

    pub fn row(&self, node: &Node, number: usize) -> Value {
        let study = self.study(number);
        node.studies().into_iter().find(|s| s["study"] == study.as_str()).unwrap_or_default()
    }

    /// What the demo model says of these images, by the offline command: findings by study.
    pub fn demo(&self, numbers: &[usize]) -> Vec<Value> {
        let out = self.folder.path().join("demo");
        let files = numbers.iter().map(|n| &self.files[*n]);
        run_ok(sidelight(&["analyse", "--config", "conf/demo.toml", "--out"]).arg(&out).args(files));
        let text = fs::read_to_string(out.join("result.json")).expect("a result");
        let document: Value = serde_json::from_str(&text).expect("JSON");
        let studies = document["studies"].as_array().expect("studies").clone();
        let of = |n: &usize| studies.iter().find(|s| s["study"] == self.study(*n).as_str()).expect("analysed").clone();
        numbers.iter().map(of).collect()
    }
}

/// A report on the image with these scores of the two findings.
fn vendor_report(image: &Path, out: &Path, scores: [f64; 2], more: Value) -> (PathBuf, Value) {
    let finding = |code: [&str; 3], score: f64| json!({"code": code, "value": score, "unit": "1", "images": [element(image, "SOPInstanceUID")]});
    let findings =
        [finding(["36118008", "SCT", "Pneumothorax"], scores[0]), finding(["60046008", "SCT", "Effusion"], scores[1])];
    let mut spec = json!({"out": out, "image": image, "kind": "tid1500", "findings": findings});
    for (name, value) in more.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    (out.to_owned(), spec)
}

#[test]
fn a_vendors_own_report_is_the_clinical_result_and_its_absence_is_told() {
    let site = Site::new("result-sr", RESULT, 6);
    let [in_time, late, twice, contradictory, corrected, foreign] = [0, 1, 2, 3, 4, 5];
    let demo = site.demo(&[in_time]);
    let scores = [0, 1].map(|n| demo[0]["findings"][n]["score"].as_f64().expect("a score"));

    let report = |number: usize, name: &str, scores: [f64; 2], more: Value| {
        vendor_report(&site.files[number], &site.folder.path().join(format!("{name}.dcm")), scores, more)
    };
    let reports = [
        report(in_time, "in-time", scores, json!({})),
        report(late, "late", [0.9, 0.02], json!({})),
        report(twice, "twice-1", [0.9, 0.02], json!({"uid": "1.2.3.21"})),
        report(twice, "twice-2", [0.9, 0.02], json!({"uid": "1.2.3.22", "time": "101501"})),
        report(contradictory, "contradictory-1", [0.9, 0.02], json!({"uid": "1.2.3.31"})),
        report(contradictory, "contradictory-2", [0.1, 0.02], json!({"uid": "1.2.3.32"})),
        report(
            contradictory,
            "contradictory-3",
            [0.2, 0.02],
            json!({"predecessor": "1.2.3.31", "uid": "1.2.3.33", "time": "111500"}),
        ),
        report(corrected, "corrected-1", [0.9, 0.02], json!({})),
        report(corrected, "corrected-2", [0.3, 0.02], json!({"time": "101600"})),
        report(foreign, "foreign-1", [0.9, 0.02], json!({"manufacturer": "Another"})),
        report(foreign, "foreign-2", [0.9, 0.02], json!({"version": "2.0"})),
    ];
    write_reports(&reports.iter().map(|(_, spec)| spec.clone()).collect::<Vec<_>>());
    let file = |name: &str| site.folder.path().join(format!("{name}.dcm"));

    let node = Node::restart(&site.config);
    let send = |node: &Node, files: &[PathBuf]| {
        let sent = storescu(node.dicom_port, &["-R"], files);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    };
    // Results before their images, as a product beside the modality may send them.
    send(
        &node,
        &[
            file("in-time"),
            site.files[in_time].clone(),
            site.files[late].clone(),
            file("twice-1"),
            site.files[twice].clone(),
            file("contradictory-1"),
            file("contradictory-2"),
            site.files[contradictory].clone(),
            file("corrected-2"),
            file("corrected-1"),
            site.files[corrected].clone(),
            file("foreign-1"),
            file("foreign-2"),
            site.files[foreign].clone(),
        ],
    );
    wait_for("a report for each study", LIMIT, || (0..6).all(|n| !site.reports(n).is_empty()));

    // In time: the same answer as if the model had run here.
    let found = site.findings(&node, in_time);
    for (found, expected) in found.iter().zip(demo[0]["findings"].as_array().expect("findings")) {
        for key in ["score", "positive", "level", "reasons", "spread"] {
            assert_eq!(found[key], expected[key], "{key}");
        }
        assert_eq!((&found["clinical"]["digest_of"], &found["clinical"]["contract"]), (&json!("card"), &json!("")));
    }
    assert_eq!(site.row(&node, in_time)["complete"], true);
    check_report(&site.reports(in_time)[0], std::slice::from_ref(&site.files[in_time]));

    // Missing, and somebody else's.
    for number in [late, foreign] {
        for finding in site.findings(&node, number) {
            assert_eq!((&finding["level"], &finding["reasons"]), (&json!("indeterminate"), &json!(["IND-FAILED"])));
            assert_eq!(finding["score"], Value::Null);
        }
        assert_eq!(site.row(&node, number)["missing"], json!(["result of vendor"]));
        let report = &site.reports(number)[0];
        assert_eq!(element(report, "CompletionFlagDescription"), "Missing: result of vendor");
        check_without_score(report, &site.files[number]);
    }
    let refused = node.command(&["studies", "show", &site.study(foreign)]);
    assert!(refused.contains("another manufacturer") && refused.contains("another software version"), "{refused}");

    // Contradictory: of the finding that differs; the other one stands.
    let found = site.findings(&node, contradictory);
    assert_eq!((&found[0]["reasons"], &found[0]["score"]), (&json!(["IND-CONFLICT"]), &Value::Null));
    assert_eq!(found[1]["score"], 0.02);
    // Corrected by a newer one, in whatever order they came.
    assert_eq!(site.findings(&node, corrected)[0]["score"], 0.3);
    assert_eq!(site.findings(&node, twice)[0]["score"], 0.9);

    // What was read survives a restart; what comes now is late.
    assert!(node.stop().success());
    let node = Node::restart(&site.config);
    send(&node, &[file("twice-2"), file("late"), file("contradictory-3")]);
    wait_for("a second report of the late one", LIMIT, || site.reports(late).len() == 2);
    wait_for("the late one is delivered", LIMIT, || site.row(&node, late)["state"] == "delivered");
    assert_eq!(site.findings(&node, late)[0]["score"], 0.9);
    assert_eq!((&site.row(&node, late)["revision"], &site.row(&node, late)["complete"]), (&json!(2), &json!(true)));
    // A newer one takes the place of both.
    wait_for("the contradiction is settled", LIMIT, || site.findings(&node, contradictory)[0]["score"] == 0.2);
    // Twice the same is one, and no reason for another report.
    let shown = node.json(&["studies", "show", &site.study(twice)]);
    assert_eq!(shown["results"].as_array().map(Vec::len), Some(2), "both are known");
    assert_eq!((site.row(&node, twice)["revision"].clone(), site.reports(twice).len()), (json!(1), 1));

    // The reports of this node that come back are no results.
    send(&node, &site.reports(in_time));
    wait_for("its own report is told apart", LIMIT, || {
        node.command(&["studies", "show", &site.study(in_time)]).contains("own-report")
    });
    assert_eq!(site.row(&node, in_time)["revision"], 1);
    let log = node.log();
    assert!(!log.contains("PHANTOM^") && !log.contains("Black"), "{log}");
}

/// A product whose reports have another layout: in time, nothing found, and two that contradict each other.
fn check_layout(kind: &str, sections: &str, written: &str) {
    let from = RESULT.split_once("[result.from]").expect("who says it").1;
    let sections = format!("[result]\nkind = \"{kind}\"\nwait = \"2s\"\n[result.from]{from}{sections}");
    let site = Site::new("result-sr", &sections, 3);
    let [in_time, nothing, contradictory] = [0, 1, 2];
    let report = |number: usize, name: &str, ptx: Option<f64>| {
        let image = &site.files[number];
        let uid = element(image, "SOPInstanceUID");
        let finding = |code: [&str; 3], value: f64| match written {
            // by its place in the image library
            "chest-cad" => json!({"code": code, "value": value, "unit": "1", "refers": [[1, 1, 1]]}),
            _ => json!({"code": code, "value": value, "unit": "1", "images": [uid]}),
        };
        let said = |ptx| [finding(["36118008", "SCT", "x"], ptx), finding(["60046008", "SCT", "x"], 0.02)];
        let said: Vec<Value> = ptx.map(said).into_iter().flatten().collect();
        let library: &[&str] = if written == "chest-cad" { &[&uid] } else { &[] };
        let out = site.folder.path().join(format!("{name}.dcm"));
        let spec = json!({"out": out, "image": image, "kind": written, "findings": said, "library": library});
        (out, spec)
    };
    let reports = [
        report(in_time, "in-time", Some(0.9)),
        report(nothing, "nothing", None),
        report(contradictory, "one", Some(0.9)),
        report(contradictory, "other", Some(0.1)),
    ];
    write_reports(&reports.iter().map(|(_, spec)| spec.clone()).collect::<Vec<_>>());
    let node = Node::restart(&site.config);
    let files: Vec<PathBuf> = site.files.iter().cloned().chain(reports.map(|(out, _)| out)).collect();
    assert!(storescu(node.dicom_port, &["-R"], &files).status.success());
    wait_for("a report for each study", LIMIT, || (0..3).all(|n| !site.reports(n).is_empty()));
    let found = site.findings(&node, in_time);
    assert_eq!((&found[0]["score"], &found[1]["score"]), (&json!(0.9), &json!(0.02)), "{kind}");
    assert_eq!(site.row(&node, in_time)["complete"], true);
    assert_eq!(site.row(&node, nothing)["missing"], json!(["result of vendor"]));
    let found = site.findings(&node, contradictory);
    assert_eq!((&found[0]["reasons"], &found[1]["score"]), (&json!(["IND-CONFLICT"]), &json!(0.02)), "{kind}");
}

#[test]
fn a_chest_cad_report_and_one_read_by_paths_are_clinical_results() {
    check_layout("chest-cad", "", "chest-cad");
    let path = |key: &str, code: &str| {
        format!(
            "[[result.findings]]\nkey = \"{key}\"\npath = [{{ value = \"RESULTS\", scheme = \"99VENDOR\" }}, \
             {{ value = \"{code}\", scheme = \"SCT\" }}, {{ value = \"111012\", scheme = \"DCM\" }}]\n"
        )
    };
    let paths = [path("pneumothorax", "36118008"), path("pleural_effusion", "60046008")].concat();
    check_layout("paths", &paths, "tree");
}
