//! Every file of the shared corpus, sent as a PACS would: each study ends in a report or in a named refusal.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Node, NodeOptions, Pacs, dicom_files, element, run_ok, shared, sidelight, storescu, wait_for};

/// storescu's option for the transfer syntax that a file is in.
fn proposal(transfer_syntax: &str) -> &'static str {
    match transfer_syntax {
        "1.2.840.10008.1.2" => "-xi",
        "1.2.840.10008.1.2.2" => "-xb",
        "1.2.840.10008.1.2.1.99" => "-xd",
        "1.2.840.10008.1.2.4.50" => "-xy",
        "1.2.840.10008.1.2.4.51" => "-xx",
        "1.2.840.10008.1.2.4.57" | "1.2.840.10008.1.2.4.70" => "-xs",
        "1.2.840.10008.1.2.4.80" => "-xt",
        "1.2.840.10008.1.2.4.81" => "-xu",
        "1.2.840.10008.1.2.4.90" => "-xv",
        "1.2.840.10008.1.2.4.91" => "-xw",
        "1.2.840.10008.1.2.5" => "-xr",
        _ => "-xe",
    }
}

#[test]
fn each_corpus_file_ends_in_a_report_or_a_named_refusal() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
        quiet_period: "1s",
        extra: "",
    });
    let files: Vec<PathBuf> = dicom_files(&shared().join("corpus"));
    assert!(files.len() > 60, "the corpus is there: {} files", files.len());
    let mut accepted = Vec::new();
    let mut refused = Vec::new();
    for file in &files {
        let syntax = element(file, "TransferSyntaxUID");
        let instance = element(file, "SOPInstanceUID");
        let sent = storescu(node.dicom_port, &[proposal(&syntax)], std::slice::from_ref(file));
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        if sent.status.success() { accepted.push(instance) } else { refused.push(name) }
    }
    // storescu itself cannot send some (no meta, HTJ2K unknown to dcmtk 3.6.7), the node negotiates others away.
    eprintln!("accepted {} of {}; not sent or not negotiated: {}", accepted.len(), files.len(), refused.join(" "));
    // The same image under one UID in several syntaxes is a conflict: answered 0111H, kept aside, counted.
    let conflicts = node.metric("sidelight_conflicts").expect("a metric");
    assert!(accepted.len() as u64 + conflicts >= 58, "{} accepted, {conflicts} kept aside", accepted.len());

    wait_for("nothing stays in limbo", Duration::from_secs(240), || {
        let studies = node.studies();
        node.metric("sidelight_instances{state=\"received\"}") == Some(0)
            && !studies.is_empty()
            && studies.iter().all(|s| matches!(s["state"].as_str(), Some("delivered" | "refused")))
    });
    for study in node.studies() {
        if study["state"] == "refused" {
            let code = study["refusal"].as_str().unwrap_or("");
            assert!(!code.is_empty(), "a refusal has a name: {study}");
        }
    }
    // Each acknowledged object is accounted for, by its UID.
    let config = node.config.display().to_string();
    let mut known = BTreeSet::new();
    for study in node.studies() {
        let uid = study["study"].as_str().expect("a UID").to_owned();
        let text = run_ok(&mut sidelight(&["studies", "show", &uid, "--json", "--config", &config]));
        let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let instances = shown["instances"].as_array().expect("a list").clone();
        known.extend(instances.iter().filter_map(|i| i["sop_instance"].as_str().map(str::to_owned)));
    }
    let lost: Vec<_> = accepted.iter().filter(|i| !known.contains(*i)).collect();
    assert!(lost.is_empty(), "acknowledged and not accounted for: {lost:?}");
    assert!(node.stop().success(), "the node survived");
}
