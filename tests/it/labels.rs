//! What a site knows of its studies, imported beside a running node: tables, FHIR resources, radiologists' reports.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::elsewhere::write_reports;
use crate::support::{Node, NodeOptions, Pacs, element, phantoms, root, run, sidelight, storescu, wait_for};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A node with studies of this many patients, all reported.
struct Site {
    folder: tempfile::TempDir,
    pacs: Pacs,
    node: Node,
    /// A frontal image of each patient, by Patient ID.
    images: BTreeMap<String, PathBuf>,
}

impl Site {
    fn new(patients: u32) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let files = phantoms(&folder.path().join("phantoms"), "null", patients, 4711);
        let pacs = Pacs::start(&folder.path().join("pacs"));
        let node = Node::start(&NodeOptions {
            data_dir: &folder.path().join("data"),
            sources: &["STORESCU"],
            destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
            quiet_period: "1s",
            extra: "",
        });
        assert!(storescu(node.dicom_port, &[], &files).status.success());
        wait_for("every study is delivered", Duration::from_secs(90), || {
            let studies = node.studies();
            studies.len() == patients as usize && studies.iter().all(|s| s["state"] == "delivered")
        });
        let images = files.into_iter().map(|file| (element(&file, "PatientID"), file)).collect();
        Self { folder, pacs, node, images }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("writable");
        path
    }

    fn ndjson(&self, name: &str, lines: &[Value]) -> PathBuf {
        self.write(name, &lines.iter().map(|line| format!("{line}\n")).collect::<String>())
    }

    /// `labels import` of these files; its answer, and whether nothing was rejected.
    fn import(&self, files: &[&Path], options: &[&str]) -> (Value, bool) {
        let output = run(self.command(options).args(files).arg("--json"));
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
        (answer, output.status.success())
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = sidelight(&["labels", "import", "--config"]);
        command.arg(&self.node.config).args(options);
        command
    }
}

const MAPPING: &str = r#"
[patient]
identifiers = [{ system = "urn:oid:2.16.840.1.113883.19.5" }]
[[observation]]
finding = "pneumothorax"
codes = ["http://snomed.info/sct|36118008"]
present = ["http://snomed.info/sct|52101004"]
absent = ["http://snomed.info/sct|2667000"]
[[observation]]
covariate = "bmi"
codes = ["http://loinc.org|39156-5"]
unit = "kg/m2"
studies = "nearest"
[[sr]]
finding = "pneumothorax"
path = [{ value = "RESULTS", scheme = "99VENDOR" }, { value = "36118008", scheme = "SCT" }, { value = "99RESULT", scheme = "99VENDOR" }]
present = [{ value = "10828004", scheme = "SCT" }]
absent = [{ value = "260385009", scheme = "SCT" }]
"#;

fn patient(n: usize, id: &str, categories: &[&str]) -> Value {
    let category = |code: &&str| {
        let flavor = "http://terminology.hl7.org/CodeSystem/v3-NullFlavor";
        let system = if code.len() < 5 { flavor } else { "urn:oid:2.16.840.1.113883.6.238" };
        json!({"url": "ombCategory", "valueCoding": {"system": system, "code": code}})
    };
    json!({"resourceType": "Patient", "id": format!("p{n}"), "extension": [{
        "url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race",
        "extension": categories.iter().map(category).collect::<Vec<_>>()}],
        "identifier": [{"system": "urn:oid:2.16.840.1.113883.19.5", "value": id}]})
}

fn observation(n: usize, code: (&str, &str), date: &str, value: (&str, Value)) -> Value {
    let mut resource = json!({"resourceType": "Observation", "status": "final", "effectiveDateTime": date,
        "code": {"coding": [{"system": code.0, "code": code.1}]}, "subject": {"reference": format!("Patient/p{n}")}});
    resource[value.0] = value.1;
    resource
}

/// A day so many days after the study of this image.
fn day(image: &Path, later: i64) -> String {
    let date = chrono::NaiveDate::parse_from_str(&element(image, "StudyDate"), "%Y%m%d").expect("a date");
    (date + chrono::TimeDelta::days(later)).to_string()
}

#[test]
fn resources_reports_and_tables_are_previewed_imported_once_and_held_against_each_other() {
    let site = Site::new(4);
    let (ids, images): (Vec<&String>, Vec<&PathBuf>) = site.images.iter().unzip();
    let mapping = site.write("mapping.toml", MAPPING);
    let mapping = ["--mapping", mapping.to_str().expect("UTF-8")];
    let with = |more: &[&'static str]| -> Vec<String> {
        mapping.iter().chain(more).map(|option| (*option).to_owned()).collect()
    };
    let import = |files: &[&Path], more: &[&'static str]| {
        let options = with(more);
        site.import(files, &options.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let patients = site.ndjson(
        "Patient.ndjson",
        &[
            patient(0, ids[0], &["2106-3"]),
            patient(1, ids[1], &["2054-5", "2106-3"]),
            patient(2, ids[2], &["ASKU"]),
            patient(3, ids[3], &["UNK"]),
            patient(9, "somebody else", &["2028-9"]),
            json!({"resourceType": "Organization", "id": "1"}),
        ],
    );
    let (ptx, bmi) = (("http://snomed.info/sct", "36118008"), ("http://loinc.org", "39156-5"));
    let present = |code: &str| ("valueCodeableConcept", json!({"coding": [{"system": ptx.0, "code": code}]}));
    let kilos = |value: f64| ("valueQuantity", json!({"value": value, "code": "kg/m2"}));
    let observations = site.ndjson(
        "Observation.ndjson",
        &[
            observation(0, ptx, &day(images[0], 2), present("52101004")),
            // a day too late for the window, and a value that the mapping does not know
            observation(1, ptx, &day(images[1], 3), present("52101004")),
            observation(2, ptx, &day(images[2], 0), present("1")),
            observation(0, bmi, &day(images[0], -2), kilos(24.5)),
            observation(0, bmi, &day(images[0], 1), kilos(25.0)),
        ],
    );
    let report = site.folder.path().join("report.dcm");
    let finding = json!({"code": ["36118008", "SCT", "Pneumothorax"], "label": ["10828004", "SCT", "Positive"]});
    write_reports(&[json!({"out": report, "image": images[3], "kind": "tree", "findings": [finding]})]);
    let files: [&Path; 3] = [&patients, &observations, &report];

    // Nothing is known of codes without a mapping.
    let output = run(site.command(&[]).arg(&patients));
    assert!(!output.status.success() && said(&output).contains("--mapping"), "{}", said(&output));
    let (dry, _) = import(&files, &["--window-days", "2", "--dry-run"]);
    let expected = json!({"outcomes": 2, "groups": 4, "covariates": 1, "known": 0, "studies_complete": 0});
    assert_eq!(dry["imported"], expected, "{dry}");
    assert_eq!(dry["read"]["kinds"]["Patient"], json!({"read": 5, "used": 5}), "{dry}");
    assert_eq!(dry["read"]["kinds"]["Organization"], json!({"read": 1, "used": 0}), "{dry}");
    assert_eq!(dry["read"]["kinds"]["structured report"], json!({"read": 1, "used": 1}), "{dry}");
    assert_eq!(dry["read"]["passed_over"], 1, "the other body mass index is further away: {dry}");
    let rejects = site.folder.path().join("rejects.csv");
    let output = run(site.command(&mapping).args(["--window-days", "2", "--rejects"]).arg(&rejects).args(files));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = fs::read_to_string(&rejects).expect("written");
    let lines: Vec<&str> = told.lines().collect();
    for (line, words) in [
        (1, "Patient.ndjson,5,no study here is of its patient"),
        (2, "Observation.ndjson,2,no study of its patient is within 2 days of its date"),
        (3, "Observation.ndjson,3,its value is none of those in the mapping"),
    ] {
        assert!(lines[line].starts_with(words), "{told}");
    }
    assert_eq!(lines.len(), 4, "{told}");
    for text in [said(&output), told.clone(), site.node.log()] {
        assert!(ids.iter().all(|id| !text.contains(id.as_str())) && !text.contains("somebody"), "no patient: {text}");
        assert!(["2106-3", "2054-5", "White"].iter().all(|race| !text.contains(race)), "no race: {text}");
    }

    // The same again is known, whatever it is in.
    let (again, _) = import(&files, &["--window-days", "2"]);
    let known = json!({"outcomes": 0, "groups": 0, "covariates": 0, "known": 7, "studies_complete": 2});
    assert_eq!(again["imported"], known, "{again}");
    let study = |n: usize| element(images[n], "StudyInstanceUID");
    let same = site.write("same.csv", &format!("study,group,pneumothorax,bmi\n{},White,1,25.0\n", study(0)));
    let (same, clean) = import(&[&same], &[]);
    assert!(clean && same["imported"]["known"] == 3 && same["imported"]["outcomes"] == 0, "{same}");
    // What contradicts is told, and is taken on demand alone.
    let other = site.write("other.csv", &format!("study,race,pneumothorax\n{},White,\n{},,0\n", study(3), study(3)));
    let (refused, clean) = import(&[&other], &[]);
    let reasons: Vec<&str> =
        refused["rejected"].as_array().unwrap().iter().filter_map(|r| r["reason"].as_str()).collect();
    assert!(!clean && reasons[0].contains("another self-reported group by an earlier import"), "{refused}");
    assert!(reasons[1].contains("another outcome of pneumothorax by an earlier import"), "{refused}");
    let (taken, clean) = import(&[&other], &["--replace"]);
    assert!(clean && taken["imported"]["outcomes"] == 1 && taken["imported"]["groups"] == 1, "{taken}");
}

#[test]
fn texts_that_attack_are_values_or_rejected() {
    let site = Site::new(1);
    let study = element(site.images.values().next().expect("an image"), "StudyInstanceUID");
    let texts = [
        "'); DROP TABLE studies; --",
        "{{7*7}}",
        "<script>alert(1)</script>",
        "=cmd|' /C calc'!A0",
        "../../etc/passwd",
    ];
    for (n, text) in texts.into_iter().enumerate() {
        let quoted = text.replace('"', "\"\"");
        let table = site.write("t.csv", &format!("study,device,pneumothorax\n{study},\"{quoted}\",1\n"));
        let (answer, clean) = site.import(&[&table], &["--replace"]);
        assert!(clean && answer["imported"]["covariates"] == 1, "{n}: {answer}");
        for column in ["accession", "patient", "study"] {
            let table = site.write("t.csv", &format!("{column},pneumothorax,date\n\"{quoted}\",1,2026-01-01\n"));
            let (answer, clean) = site.import(&[&table], &[]);
            let reason = answer["rejected"][0]["reason"].as_str().unwrap_or_default().to_owned();
            assert!(!clean && !reason.is_empty() && !reason.contains(text), "{answer}");
        }
    }
    assert_eq!(site.node.studies().len(), 1);
    // A picture is no report, and the node's own report is no truth.
    let mapping = site.write("mapping.toml", MAPPING);
    let mapping = ["--mapping", mapping.to_str().expect("UTF-8")];
    let own = site.pacs.files().remove(0);
    for (file, words) in
        [(site.images.values().next().expect("an image").clone(), "it"), (own, "a report of sidelight")]
    {
        let (answer, clean) = site.import(&[&file], &mapping);
        let reason = answer["rejected"][0]["reason"].as_str().unwrap_or_default().to_owned();
        assert!(!clean && reason.contains(words), "{answer}");
    }
}

#[test]
fn the_mapping_that_is_shipped_can_be_read_and_explains_every_key() {
    let text = fs::read_to_string(root().join("conf/labels.toml")).expect("shipped");
    let findings = ["pneumothorax", "pleural_effusion"].map(str::to_owned);
    let mapping = sidelight::results::Mapping::parse(&text, &findings).expect("a mapping");
    assert!(mapping.covariates().contains(&"bmi".to_owned()) && !mapping.report_rules().is_empty());
    for key in [
        "window_days",
        "identifiers",
        "systems",
        "detailed",
        "covariates",
        "finding",
        "covariate",
        "codes",
        "present",
        "absent",
        "unit",
        "present_from",
        "absent_below",
        "values",
        "studies",
        "clinical",
        "date",
        "path",
    ] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(key)), "{key} is not shown");
    }
}
