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

/// What became of a file that was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sent {
    /// Acknowledged with 0000H.
    Accepted,
    /// The same SOP Instance UID as another file with other bytes: answered 0111H and kept aside.
    Conflict,
    /// Its SOP class is none that the node takes: Parametric Map, RT Dose, Segmentation.
    NotNegotiated,
    /// dcmtk 3.6.7 sends nothing: HTJ2K is unknown to it, there are no UIDs, or the file breaks off.
    Unsendable,
}

/// The files that are not accepted, and why.
const EXCEPTIONS: [(Sent, &[&str]); 3] = [
    (
        Sent::Conflict,
        &[
            "Fake_MONOHR1.dcm",
            "D_CLUNIE_CT1_RLE_FRAGS.dcm",
            "MR_small_padded.dcm",
            "emri_small_RLE.dcm",
            "emri_small_big_endian.dcm",
            "emri_small_jpeg_2k_lossless.dcm",
            "emri_small_jpeg_ls_lossless.dcm",
            "JPGExtended.dcm",
            "SC_ybr_full_uncompressed.dcm",
            "color-px.dcm",
        ],
    ),
    (Sent::NotNegotiated, &["parametric_map_float.dcm", "rtdose.dcm", "liver_nonbyte_aligned.dcm", "seg.dcm"]),
    (
        Sent::Unsendable,
        &[
            "explicit_VR-UN.dcm",
            "MR_truncated.dcm",
            "HTJ2KLossless_08_RGB.dcm",
            "HTJ2K_08_RGB.dcm",
            "JLSL_RGB_ILV0.dcm",
            "JLSL_RGB_ILV1.dcm",
            "JLSL_RGB_ILV2.dcm",
            "UN_sequence.dcm",
            "meta_missing_tsyntax.dcm",
        ],
    ),
];

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
    let mut accepted = Vec::new();
    for file in &files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let instance = element(file, "SOPInstanceUID");
        let conflicts = node.metric("sidelight_conflicts").expect("a metric");
        let sent = storescu(
            node.dicom_port,
            &["-R", proposal(&element(file, "TransferSyntaxUID"))],
            std::slice::from_ref(file),
        );
        let said = String::from_utf8_lossy(&sent.stderr);
        let outcome = if sent.status.success() {
            accepted.push(instance);
            Sent::Accepted
        } else if node.metric("sidelight_conflicts") == Some(conflicts + 1) {
            Sent::Conflict
        } else if said.contains("No presentation context") || said.contains("No Acceptable Presentation Contexts") {
            Sent::NotNegotiated
        } else {
            // The node has not seen it: storescu says why it sent nothing.
            assert!(said.contains("E: ") || said.contains("F: "), "{name}: {said}");
            Sent::Unsendable
        };
        let expected = EXCEPTIONS.iter().find(|(_, names)| names.contains(&name.as_str())).map(|(outcome, _)| *outcome);
        assert_eq!(outcome, expected.unwrap_or(Sent::Accepted), "{name}: {said}");
    }
    assert_eq!((files.len(), accepted.len()), (73, 50));

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
