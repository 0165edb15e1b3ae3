//! A table that a vendor's system drops: in time, late, missing, twice, contradictory, and decisions without a score.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::check_without_score;
use super::sr::Site;
use crate::road::check_report;
use crate::support::{Node, element, run, run_ok, sidelight, storescu, wait_for};

const LIMIT: Duration = Duration::from_secs(90);

const RESULT: &str = r#"[result]
wait = "4s"
label_only = true
[[result.findings]]
key = "pneumothorax"
name = "PTX"
"#;

/// `results import` of these rows: exit code and answer.
fn import(site: &Site, rows: &str, more: &[&str]) -> (i32, Value) {
    let file = site.folder.path().join("table.csv");
    fs::write(&file, format!("study,accession,instance,finding,score,label,time,version,patient\n{rows}"))
        .expect("writable");
    let mut command = sidelight(&["results", "import"]);
    command.arg(&file).args(["--model", "vendor", "--json", "--config"]).arg(&site.config).args(more);
    let output = run(&mut command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{errors}"));
    (output.status.code().expect("ended"), answer)
}

#[test]
fn a_table_is_the_clinical_result_and_what_it_lacks_is_told() {
    let site = Site::new("result-csv", RESULT, 5);
    let [in_time, late, contradictory, decision, missing] = [0, 1, 2, 3, 4];
    let node = Node::restart(&site.config);
    let uid = |number: usize| site.study(number);
    let instance = element(&site.files[in_time], "SOPInstanceUID");

    // Before the images are here: matched by study and instance as they come.
    let rows = format!(
        "{0},,{instance},PTX,0.9,,2026-03-01T10:15:00Z,3.1\n{0},,,pleural_effusion,2 %,,,\n\
         {1},,,PTX,0.9,,,\n{1},,,PTX,0.1,,,\n{1},,,pleural_effusion,0.02,,,\n\
         {2},,,PTX,,positive,,\n{2},,,pleural_effusion,,negative,,\n\
         {2},,,Edema,0.5,,,\nx,,,PTX,0.5,,,\n",
        uid(in_time),
        uid(contradictory),
        uid(decision)
    );
    let (code, preview) = import(&site, &rows, &["--dry-run"]);
    assert_eq!(
        (code, &preview["imported"]["new"], preview["rejected"].as_array().map(Vec::len)),
        (1, &json!(7), Some(2))
    );
    assert_eq!((&preview["rejected"][0]["line"], &preview["rejected"][1]["line"]), (&json!(9), &json!(10)));
    let (_, imported) = import(&site, &rows, &[]);
    assert_eq!((&imported["imported"], &preview["imported"]["studies_unknown"]), (&preview["imported"], &json!(3)));
    let (_, again) = import(&site, &rows, &[]);
    assert_eq!((&again["imported"]["new"], &again["imported"]["known"]), (&json!(0), &json!(7)));

    assert!(storescu(node.dicom_port, &[], &site.files).status.success());
    wait_for("a report for each study", LIMIT, || (0..5).all(|n| !site.reports(n).is_empty()));
    let found = site.findings(&node, in_time);
    assert_eq!((&found[0]["score"], &found[1]["score"]), (&json!(0.9), &json!(0.02)));
    assert_eq!(site.row(&node, in_time)["complete"], true);
    check_report(&site.reports(in_time)[0], std::slice::from_ref(&site.files[in_time]));

    let found = site.findings(&node, contradictory);
    assert_eq!((&found[0]["reasons"], &found[0]["score"]), (&json!(["IND-CONFLICT"]), &Value::Null));
    assert_eq!(found[1]["score"], 0.02);

    // A decision alone is reported as such, and no risk can be told of it.
    let found = site.findings(&node, decision);
    for (finding, positive) in found.iter().zip([true, false]) {
        assert_eq!((&finding["positive"], &finding["score"]), (&json!(positive), &Value::Null));
        assert_eq!((&finding["level"], &finding["reasons"]), (&json!("indeterminate"), &json!(["IND-NOCAL"])));
    }
    check_without_score(&site.reports(decision)[0], &site.files[decision]);

    for number in [late, missing] {
        for finding in site.findings(&node, number) {
            assert_eq!((&finding["level"], &finding["reasons"]), (&json!("indeterminate"), &json!(["IND-FAILED"])));
        }
    }
    // By its accession number, after the report went out.
    let accession = element(&site.files[late], "AccessionNumber");
    assert!(!accession.is_empty());
    let patient = element(&site.files[late], "PatientID");
    let rows = format!(
        ",{accession},,PTX,0.25,,,,{patient}\n,{accession},,pleural_effusion,0.5,,,\n,nowhere,,PTX,0.5,,,\n\
         ,{accession},,PTX,0.75,,,,somebody else\n"
    );
    let (code, imported) = import(&site, &rows, &[]);
    assert_eq!((code, &imported["imported"]["studies_reopened"]), (1, &json!(1)));
    assert_eq!(imported["rejected"][1]["reason"], "its study is of another patient");
    assert!(imported["rejected"][0]["reason"].as_str().is_some_and(|r| r.contains("accession")), "{imported}");
    wait_for("a second report", LIMIT, || site.reports(late).len() == 2);
    wait_for("its scores", LIMIT, || site.findings(&node, late)[0]["score"] == 0.25);
    assert_eq!(site.row(&node, late)["revision"], 2);
    assert_eq!(site.reports(missing).len(), 1);
    let shown = node.command(&["studies", "show", &site.study(late)]);
    assert!(shown.contains("vendor@3.1") && shown.contains("pneumothorax 25.0 %"), "{shown}");

    // Offline, for a profile: the same table beside the images, and no race model at all.
    let rows = format!("study,finding,score\n{0},PTX,0.9\n{0},pleural_effusion,0.02\n", site.study(in_time));
    let (table, out) = (site.folder.path().join("offline.csv"), site.folder.path().join("offline"));
    fs::write(&table, rows).expect("writable");
    let named = format!("vendor={}", table.display());
    let mut offline = sidelight(&["analyse", "--results", &named, "--json", "--set", "risk.per_study_inference=false"]);
    offline
        .args(["--set", "models.race="])
        .arg("--config")
        .arg(&site.config)
        .arg(&site.files[in_time])
        .arg("--out")
        .arg(&out);
    let document: Value = serde_json::from_str(&run_ok(&mut offline)).expect("JSON");
    let findings = &document["studies"][0]["findings"];
    assert_eq!((&findings[0]["score"], &findings[1]["score"]), (&json!(0.9), &json!(0.02)));
    assert_eq!(site.row(&node, missing)["missing"], json!(["result of vendor"]));
}
