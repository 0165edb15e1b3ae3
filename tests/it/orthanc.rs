//! Orthanc as the PACS: an autorouting rule forwards a study, the report returns and sits under the same study.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::orthanc::Orthanc;
use crate::support::{Node, NodeOptions, element, free_port, phantoms, storescu, wait_for};

/// Forwards every instance that did not come from sidelight itself.
const RULE: &str = "
function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin['RequestOrigin'] == 'DicomProtocol' and origin['RemoteAet'] ~= 'SIDELIGHT' then
    SendToModality(instanceId, 'sidelight')
  end
end
";

#[test]
fn orthanc_forwards_a_study_and_finds_the_report_under_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 2, 41);
    let dicom_port = free_port();
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["ORTHANC"],
        destinations: &[("pacs", "ORTHANC", dicom_port, true, "withheld")],
        quiet_period: "2s",
        extra: "",
    });
    let rule = folder.path().join("route.lua");
    fs::write(&rule, RULE).expect("writable");
    let settings = json!({
        "DicomPort": dicom_port, "LuaScripts": [rule],
        "DicomModalities": {"sidelight": ["SIDELIGHT", "127.0.0.1", node.dicom_port]},
    });
    let orthanc = Orthanc::start(&folder.path().join("orthanc"), &settings, &[]);
    let sent = storescu(orthanc.dicom_port, &[], &files);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));

    let studies = |orthanc: &Orthanc| -> Vec<Value> {
        let ids = orthanc.get("/studies").unwrap_or_default();
        let ids = ids.as_array().cloned().unwrap_or_default();
        ids.iter().filter_map(|id| orthanc.get(&format!("/studies/{}", id.as_str()?))).collect()
    };
    let report_series = |orthanc: &Orthanc, study: &Value| -> Vec<Value> {
        let series = study["Series"].as_array().cloned().unwrap_or_default();
        series
            .iter()
            .filter_map(|id| orthanc.get(&format!("/series/{}", id.as_str()?)))
            .filter(|s| s["MainDicomTags"]["Modality"] == "SR")
            .collect()
    };
    wait_for("each study in Orthanc has a report", Duration::from_secs(90), || {
        let found = studies(&orthanc);
        found.len() == 2 && found.iter().all(|s| !report_series(&orthanc, s).is_empty())
    });
    wait_for("every study is delivered", Duration::from_secs(30), || {
        node.studies().iter().all(|s| s["state"] == "delivered")
    });
    let uids: Vec<String> = files.iter().map(|f| element(f, "StudyInstanceUID")).collect();
    for study in studies(&orthanc) {
        let uid = study["MainDicomTags"]["StudyInstanceUID"].as_str().expect("a UID").to_owned();
        assert!(uids.contains(&uid), "the report opened no study of its own");
        let reports = report_series(&orthanc, &study);
        assert_eq!(reports.len(), 1, "one report series per study");
        assert_eq!(reports[0]["MainDicomTags"]["Manufacturer"], "sidelight");
    }
}
