//! Evidence on reliance: answers to changed images, offline and of a running node, what becomes of them, and what there is
//! where race is not inferred.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::road::check_report;
use crate::support::{
    Node, NodeOptions, Pacs, element, phantoms, reference_python, root, run, run_ok, sidelight, storescu, wait_for,
};

const GROUPS: [&str; 3] = ["Asian", "Black", "White"];

fn frontal(files: &[PathBuf]) -> Vec<PathBuf> {
    files.iter().filter(|f| matches!(element(f, "ViewPosition").as_str(), "PA" | "AP")).cloned().collect()
}

/// `sidelight analyse` with the demo's models; `result.json`.
fn analyse(files: &[PathBuf], out: &Path, arguments: &[&str]) -> Value {
    let mut command = sidelight(&["analyse", "--config"]);
    command.arg(root().join("conf/demo.toml")).args(files).arg("--out").arg(out).args(arguments);
    run_ok(&mut command);
    serde_json::from_slice(&fs::read(out.join("result.json")).expect("written")).expect("JSON")
}

/// The images of a report's study.
fn of_study(report: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let study = element(report, "StudyInstanceUID");
    files.iter().filter(|f| element(f, "StudyInstanceUID") == study).cloned().collect()
}

/// What a statement of SQL finds in the index of a node that has stopped, one value.
fn asked(data: &Path, sql: &str) -> i64 {
    let script = "import glob, sqlite3, sys\n\
                  path, = glob.glob(sys.argv[1] + '/index.sqlite')\n\
                  print(sqlite3.connect(path).execute(sys.argv[2]).fetchone()[0])";
    let text = run_ok(Command::new(reference_python()).args(["-c", script]).arg(data).arg(sql));
    text.trim().parse().unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Lines that a person could have approved, for the demo's models: of the groups, the first.
fn approved(path: &Path, models: &Value) {
    let line = |kind: &str, value: [f64; 3]| {
        json!({
            "kind": kind, "model": models["clinical"][0]["key"], "finding": "pleural_effusion", "group": "Black",
            "value": {"lower": value[0], "estimate": value[1], "upper": value[2]}, "p": 0.001, "control": "passed",
            "patients": 412
        })
    };
    let evidence = json!({
        "format": 1, "version": "0.1.0", "site": "a test", "made_at": "2026-01-31T12:00:00Z",
        "race_model": models["race"]["key"],
        "lines": [line("co-movement", [0.1, 0.3, 0.5]), line("dose-response", [0.01, 0.02, 0.03])], "missing": []
    });
    fs::write(path, serde_json::to_vec(&evidence).expect("JSON")).expect("writable");
}

#[test]
fn offline_both_models_answer_to_every_change_and_too_few_patients_give_no_line() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontal(&phantoms(&folder.path().join("phantoms"), "biased", 3, 23));
    let out = folder.path().join("out");
    let settings = ["--with-posteriors", "--evidence", "--set", "risk.evidence.perturbations=12"];
    let result = analyse(&files, &out, &settings);
    for study in result["studies"].as_array().expect("a list") {
        let [of] = &study["responses"].as_array().expect("a list")[..] else { panic!("{study}") };
        let answers = &of["answers"];
        assert_eq!(answers["changes"].as_array().map(Vec::len), Some(12));
        let sum = |a: &Value| a["race"].as_array().expect("a list").iter().map(|p| p.as_f64().unwrap()).sum::<f64>();
        let said = |a: &Value| a["clinical"].as_array().map(Vec::len);
        let mut moved = 0;
        for change in answers["changes"].as_array().expect("a list") {
            assert!((sum(&change["answers"]) - 1.0).abs() < 1e-6 && said(&change["answers"]) == Some(2), "{change}");
            moved += usize::from(change["answers"] != answers["original"]);
        }
        assert_eq!(moved, 12, "every change changes the answers");
        let shared = of["shared_variation"].as_array().expect("a list");
        assert!(shared.iter().all(|r| (0.0..=1.0).contains(&r.as_f64().unwrap_or(0.0))), "{shared:?}");
    }
    // Without the flag there is none, and the flag needs the other one.
    assert!(analyse(&files[..1], &folder.path().join("plain"), &[])["studies"][0].get("responses").is_none());

    let lines = folder.path().join("evidence.json");
    let co_movement = |labels: bool| {
        let mut command = sidelight(&["evidence", "co-movement", "--json", "--config"]);
        command.arg(root().join("conf/demo.toml")).arg("--out").arg(&lines);
        command.arg("--results").arg(out.join("result.json"));
        if labels {
            command.arg("--labels").arg(folder.path().join("phantoms/labels.csv"));
        }
        run(&mut command)
    };
    for labels in [false, true] {
        let output = co_movement(labels);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(
            said["evidence"]["missing"][0].as_str().unwrap().contains("3 patients, at least 50 are needed"),
            "{said}"
        );
    }
    let shown = run_ok(sidelight(&["evidence", "show"]).arg(&lines));
    assert!(shown.contains("no co-movement of demo-clinical"), "{shown}");
}

#[test]
fn a_node_collects_answers_from_its_sample_after_the_report_and_tells_approved_lines() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontal(&phantoms(&folder.path().join("phantoms"), "biased", 2, 29));
    let models = analyse(&files[..1], &folder.path().join("models"), &[])["models"].clone();
    let lines = folder.path().join("lines.json");
    approved(&lines, &models);
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let data = folder.path().join("data");
    let extra = format!("[risk.evidence]\nevery = 1\nperturbations = 10\nfile = \"{}\"\n", lines.display());
    let node = Node::start(&NodeOptions {
        data_dir: &data,
        sources: &["PACS"],
        destinations: &[("pacs", "PACS", pacs.port, true, "withheld")],
        quiet_period: "200ms",
        extra: &extra,
    });
    let items = run(sidelight(&["check", "--json", "--config"]).arg(&node.config)).stdout;
    assert!(String::from_utf8_lossy(&items).contains("2 lines on the configured models"), "`check` knows the file");
    assert!(storescu(node.dicom_port, &["-aet", "PACS"], &files).status.success());
    let studies: BTreeSet<String> = files.iter().map(|f| element(f, "StudyInstanceUID")).collect();
    node.delivers_each_once(&studies, Duration::from_secs(60));
    let collected = || node.log().matches("evidence was collected").count();
    wait_for("both studies' answers", Duration::from_secs(60), || collected() == studies.len());
    let log = node.log();
    assert!(GROUPS.iter().all(|group| !log.contains(group)), "no group in the log");

    // Reports tell the approved lines, whoever the patient is, and name no group.
    let reports = pacs.files();
    let told: BTreeSet<String> = reports
        .iter()
        .map(|report| {
            check_report(report, &of_study(report, &files));
            let text = run_ok(Command::new("dsrdump").args(["+Pc", "+Pl"]).arg(report));
            assert!(GROUPS.iter().all(|group| !text.contains(group)), "{text}");
            let lines =
                text.lines().filter(|l| l.contains("COMOVE") || l.contains("CFSHIFT") || l.contains("reliance="));
            lines.map(str::trim).collect::<Vec<_>>().join("\n")
        })
        .collect();
    assert_eq!(told.len(), 1, "studies are told different lines: {told:?}");
    let told = told.first().expect("one");
    assert!(told.contains("reliance=consistent patients=412") && told.contains("COMOVE"), "{told}");

    // The answers are in the index alone, under hashes; reading them is logged.
    let output = run(sidelight(&["evidence", "co-movement", "--config"])
        .arg(&node.config)
        .arg("--out")
        .arg(folder.path().join("own.json")));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("2 patients, at least 50 are needed"), "{said}");
    assert!(said.contains("race scores of changed images were read for lines of evidence"), "{said}");
    assert!(node.stop().success());
    assert_eq!(asked(&data, "SELECT count(*) FROM responses"), 2);
    let patients: BTreeSet<String> = files.iter().map(|f| element(f, "PatientID")).collect();
    for patient in patients {
        assert_eq!(asked(&data, &format!("SELECT count(*) FROM responses WHERE patient LIKE '%{patient}%'")), 0);
    }
}

#[test]
fn where_race_is_not_inferred_nothing_of_it_is_computed_kept_or_told_and_the_spread_is() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = frontal(&phantoms(&folder.path().join("phantoms"), "biased", 6, 31));
    let models = analyse(&files[..1], &folder.path().join("models"), &[])["models"].clone();
    let lines = folder.path().join("lines.json");
    approved(&lines, &models);
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let data = folder.path().join("data");
    let node = Node::start(&NodeOptions {
        data_dir: &data,
        sources: &["PACS"],
        destinations: &[("pacs", "PACS", pacs.port, true, "withheld")],
        quiet_period: "200ms",
        extra: "",
    });
    let config = fs::read_to_string(&node.config).expect("written");
    let path = node.config.clone();
    assert!(node.stop().success());
    let off = format!("per_study_inference = false\nevidence.file = \"{}\"\n[log]\n", lines.display());
    fs::write(&path, config.replace("[log]\n", &off)).expect("writable");
    let node = Node::restart(&path);
    assert!(storescu(node.dicom_port, &["-aet", "PACS"], &files).status.success());
    let studies: BTreeSet<String> = files.iter().map(|f| element(f, "StudyInstanceUID")).collect();
    node.delivers_each_once(&studies, Duration::from_secs(60));
    let mut spreads = 0;
    for study in &studies {
        let shown = node.json(&["studies", "show", study]);
        for finding in shown["assessment"]["findings"].as_array().expect("a list") {
            let reasons: Vec<&str> =
                finding["reasons"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
            assert!(reasons.contains(&"IND-OFF"), "D is off: {finding}");
            assert!(finding["disclosed"].is_null() && finding["level"] != "elevated", "{finding}");
            spreads += usize::from(finding["spread"].is_object());
        }
    }
    assert!(spreads > 0, "the spread needs nobody's race");
    for report in pacs.files() {
        check_report(&report, &of_study(&report, &files));
        let text = run_ok(Command::new("dsrdump").args(["+Pc", "+Pl"]).arg(&report));
        for word in GROUPS.iter().chain(&["COMOVE", "CFSHIFT", "GRADALIGN", "reliance=", "PRACE", "demo-race"]) {
            assert!(!text.contains(word), "{word} in\n{text}");
        }
    }
    // An audit of the data set needs a word of its own.
    let audit = |more: &[&str]| {
        let out = folder.path().join("own.json");
        let output =
            run(sidelight(&["evidence", "co-movement", "--config"]).arg(&path).arg("--out").arg(out).args(more));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(audit(&[]).contains("risk.dataset_audit does not permit"), "{}", audit(&[]));
    let granted = audit(&["--set", "risk.dataset_audit=true"]);
    assert!(granted.contains("there are no answers to changed images"), "{granted}");
    for command in [
        &["profile", "prior", "--out", "x.json"][..],
        &["model", "ood-fit", "demo-race", "--method", "energy", "."],
        &["evidence", "features", "x.csv", "--model", "demo-clinical", "--out", "y.csv"],
    ] {
        let output = run(sidelight(command).arg("--config").arg(&path));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("risk.dataset_audit does not permit"), "{command:?}: {said}");
    }
    assert!(node.stop().success());
    assert_eq!(asked(&data, "SELECT count(*) FROM scores WHERE purpose = 'race'"), 0);
    assert_eq!(asked(&data, "SELECT count(*) FROM responses"), 0);
    assert!(asked(&data, "SELECT count(*) FROM scores WHERE purpose = 'clinical'") > 0);
}
