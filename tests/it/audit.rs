//! `audit`: what a node reported, with what is true of it and what people said, as a report that anybody may read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Node, NodeOptions, phantoms, run, run_ok, sidelight, storescu, wait_for};

/// Every file of a folder and those below, by its path within.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            found.extend(files(&path).into_iter().map(|(of, bytes)| (format!("{name}/{of}"), bytes)));
        } else {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            found.insert(name, fs::read(&path).expect("a file"));
        }
    }
    found
}

/// Counts of a JSON document, by their keys.
fn counts(value: &Value, found: &mut Vec<(String, u64)>) {
    const NAMES: [&str; 7] =
        ["studies", "patients", "events", "true_positives", "false_negatives", "false_positives", "true_negatives"];
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found.extend(value.as_u64().filter(|_| NAMES.contains(&key.as_str())).map(|n| (key.clone(), n)));
                counts(value, found);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| counts(value, found)),
        _ => {}
    }
}

#[test]
fn a_span_of_reported_studies_becomes_a_report_that_tells_of_nobody() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let images = phantoms(&folder.path().join("phantoms"), "biased", 90, 77);
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[],
        quiet_period: "1s",
        extra: "",
    });
    assert!(storescu(node.dicom_port, &[], &images).status.success());
    wait_for("every study is closed", Duration::from_secs(120), || {
        let studies = node.studies();
        studies.len() >= 90 && studies.iter().all(|s| s["state"] == "delivered" || s["state"] == "refused")
    });
    let audit = |from: &str, to: &str, out: &str| {
        let mut command = sidelight(&["audit", "--from", from, "--to", to, "--draws", "200", "--config"]);
        command.arg(&node.config).arg("--out").arg(folder.path().join(out));
        command
    };
    // Nothing is true of a study before somebody has said it.
    let refused = run(&mut audit("1990-01-01", "1990-12-31", "none"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no reported study has a Study Date from 1990-01-01"));
    let turned = run(&mut audit("2027-01-01", "2020-01-01", "none"));
    assert!(String::from_utf8_lossy(&turned.stderr).contains("--from 2027-01-01 is after --to 2020-01-01"));
    let labels = folder.path().join("phantoms/labels.csv");
    run_ok(sidelight(&["labels", "import", "--config"]).arg(&node.config).arg(&labels));

    let told = run_ok(&mut audit("2000-01-01", "2100-01-01", "audit"));
    assert!(told.contains("pneumothorax") && told.contains("miss rate (FNR)"), "{told}");
    let first = files(&folder.path().join("audit"));
    for name in ["audit.html", "audit.pdf", "audit.json", "model-card-addendum.md", "use-register.md"] {
        assert!(first.contains_key(name), "{name} of {:?}", first.keys());
    }
    assert!(first.keys().any(|name| name.starts_with("plots/") && name.ends_with(".png")));
    run_ok(&mut audit("2000-01-01", "2100-01-01", "again"));
    assert!(first == files(&folder.path().join("again")), "the same studies give the same bytes");

    let json: Value = serde_json::from_slice(&first["audit.json"]).expect("JSON");
    assert_eq!(json["audit"]["groups"], serde_json::json!(["Asian", "Black", "White"]));
    let patients = json["audit"]["patients"].as_u64().expect("a number");
    assert_eq!(patients, 90);
    let mut all = Vec::new();
    counts(&json["audit"], &mut all);
    assert!(all.len() > 10, "{all:?}");
    let small: Vec<&(String, u64)> = all.iter().filter(|(_, n)| (1..11).contains(n)).collect();
    assert!(small.is_empty(), "{small:?}");
    // No patient, study or image is named anywhere.
    let studies: Vec<String> = node.studies().iter().filter_map(|s| s["study"].as_str().map(str::to_owned)).collect();
    for (name, bytes) in &first {
        let text = String::from_utf8_lossy(bytes);
        assert!(!studies.iter().any(|study| text.contains(study)) && !text.contains("PH-77-"), "{name}");
    }
    assert!(String::from_utf8_lossy(&first["audit.html"]).contains("what chance adds"));

    // What patients say goes with their studies, and what was inferred with its retention; nothing of an audit stays behind.
    assert!(!node.log().contains("PH-77-"), "no patient in the log");
}
