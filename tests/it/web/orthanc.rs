//! Orthanc's DICOMweb plugin as the archive that reports go to by STOW-RS, and as a sender.

use std::fs;
use std::path::Path;

use super::*;
use crate::support::orthanc::Orthanc;
use crate::support::{free_port, sidelight};

/// Orthanc with its plugin on a port; it knows the node as the DICOMweb server `sidelight`.
fn archive(folder: &Path, port: u16, node: &Node) -> Orthanc {
    let plugin = ["/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins"]
        .iter()
        .map(|place| Path::new(place).join("libOrthancDicomWeb.so"))
        .find(|plugin| plugin.exists())
        .expect("orthanc-dicomweb is installed");
    let settings = json!({
        "HttpPort": port, "Plugins": [plugin],
        "DicomWeb": {"Enable": true, "Root": "/dicom-web/", "Servers": {"sidelight": {
            "Url": format!("http://127.0.0.1:{}/dicomweb", node.web_port),
            "HttpHeaders": {"Authorization": format!("Bearer {TOKEN}")},
        }}},
    });
    Orthanc::start(folder, &settings, &[])
}

#[test]
fn orthanc_takes_reports_and_sends_studies_by_stow() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 2, 46);
    let port = free_port();
    let destination = format!(
        "\n[[destinations]]\nname = \"archive\"\nkind = \"stow\"\nurl = \"http://127.0.0.1:{port}/dicom-web\"\n\
         token_file = \"{}/token\"\naudit = true\n",
        folder.path().display()
    );
    let node = start(folder.path(), &destination, |c| c);
    let first = element(&files[0], "StudyInstanceUID");
    let own: Vec<PathBuf> = files.iter().filter(|f| element(f, "StudyInstanceUID") == first).cloned().collect();
    let sent = storescu(node.dicom_port, &[], &own);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    // Nobody listens there yet: the report waits.
    wait_for("a delivery was tried", Duration::from_secs(60), || node.log().contains("delivery failed"));
    let orthanc = archive(&folder.path().join("orthanc"), port, &node);
    wait_for("the report is delivered", Duration::from_secs(60), || {
        node.studies().iter().any(|s| s["state"] == "delivered")
    });
    let find = |expected: &str| -> Vec<Value> {
        let query = json!({"Level": "Series", "Expand": true, "Query": {"Modality": expected}}).to_string();
        orthanc.post("/tools/find", query.as_bytes()).and_then(|v| v.as_array().cloned()).unwrap_or_default()
    };
    let reports = find("SR");
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!(reports[0]["MainDicomTags"]["Manufacturer"], "sidelight");

    // Orthanc sends the other study, and the report back: the one is analysed, the other known as our own.
    for file in files.iter().filter(|f| !own.contains(f)) {
        orthanc.post("/instances", &fs::read(file).expect("readable")).expect("taken");
    }
    let studies = orthanc.get("/studies").expect("a list");
    let job = json!({"Resources": studies, "Synchronous": true}).to_string();
    orthanc.post("/dicom-web/servers/sidelight/stow", job.as_bytes()).expect("Orthanc's STOW-RS client succeeds");
    wait_for("the second study is delivered too", Duration::from_secs(60), || {
        node.studies().iter().filter(|s| s["state"] == "delivered").count() == 2
    });
    assert_eq!(find("SR").len(), 2);
    assert_eq!(node.metric("sidelight_instances{state=\"refused\"}"), Some(1), "our own report");

    let checked = crate::support::run(
        sidelight(&["check", "--network", "--json", "--config"]).arg(folder.path().join("data.toml")),
    );
    let items: Vec<Value> = serde_json::from_slice(&checked.stdout).expect("JSON");
    let item = |what: &str| items.iter().find(|i| i["what"] == what).cloned().unwrap_or_default();
    assert_eq!(item("destination archive")["note"], "answers QIDO-RS", "{items:?}");
    assert_eq!(item("web_clients")["note"], "2 with their tokens", "{items:?}");
}
