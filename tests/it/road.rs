//! The whole road with dcmtk as the PACS: studies in, Structured Reports back, checked by the report checker.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::{
    Node, NodeOptions, Pacs, dicom_files, element, phantoms, reference_python, run, run_ok, shared, sidelight,
    storescu, wait_for,
};

const REPORT_LIMIT: Duration = Duration::from_secs(60);

/// The frontal images of each study: those in the demo models' scope.
fn frontal_by_study(files: &[PathBuf]) -> BTreeMap<String, Vec<PathBuf>> {
    let mut studies: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        let images = studies.entry(element(file, "StudyInstanceUID")).or_default();
        if matches!(element(file, "ViewPosition").as_str(), "PA" | "AP") {
            images.push(file.clone());
        }
    }
    studies
}

/// Runs the independent report checker; panics with its lines if one of its checks fails.
pub fn check_report(report: &PathBuf, sources: &[PathBuf]) {
    let checker = shared().join("tools/check_sr.py");
    let output = run(Command::new(reference_python()).arg(checker).arg(report).arg("--source").args(sources));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}:\n{text}{}", report.display(), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("25 passed, 0 failed"), "{text}");
}

#[test]
fn every_study_that_is_sent_comes_back_as_a_report_that_the_checker_accepts() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 5, 11);
    let withheld = Pacs::start(&folder.path().join("withheld"));
    let disclosed = Pacs::start(&folder.path().join("disclosed"));
    let data = folder.path().join("data");
    let node = Node::start(&NodeOptions {
        data_dir: &data,
        sources: &["STORESCU"],
        destinations: &[
            ("archive", "PACS", withheld.port, true, "withheld"),
            ("research", "PACS", disclosed.port, true, "probabilities"),
        ],
        quiet_period: "1s",
        extra: "",
    });
    let up = |model: &str| {
        let on = |device| node.metric(&format!("sidelight_model_up{{model=\"{model}\",device=\"{device}\"}}"));
        ["cpu", "cuda:0"].into_iter().find_map(on)
    };
    assert_eq!((up("demo-race"), up("demo-clinical")), (Some(1), Some(1)));
    let sent = storescu(node.dicom_port, &[], &files);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));

    let studies = frontal_by_study(&files);
    for pacs in [&withheld, &disclosed] {
        wait_for("one report per study", REPORT_LIMIT, || pacs.files().len() >= studies.len());
    }
    wait_for("every study is delivered", REPORT_LIMIT, || node.studies().iter().all(|s| s["state"] == "delivered"));
    for pacs in [&withheld, &disclosed] {
        let reports = pacs.files();
        let answered: BTreeSet<String> = reports.iter().map(|r| element(r, "StudyInstanceUID")).collect();
        assert_eq!(answered, studies.keys().cloned().collect(), "each study has its report");
        for report in &reports {
            check_report(report, &studies[&element(report, "StudyInstanceUID")]);
        }
    }
    // The withheld destination learns nothing of groups, the disclosed one does.
    let dump = |pacs: &Pacs| run_ok(Command::new("dsrdump").args(pacs.files()));
    assert!(!dump(&withheld).contains("CDCREC") && !dump(&withheld).contains("EXCESS"));
    assert!(dump(&disclosed).contains("CDCREC"));
    // Nothing in the log names a group or a patient.
    let log = node.log();
    for word in ["Asian", "Black", "White", "PHANTOM^"] {
        assert!(!log.contains(word), "the log holds {word:?}");
    }
    assert!(node.stop().success(), "SIGTERM ends the node cleanly");
}

#[test]
fn a_late_image_yields_a_new_report_that_names_its_predecessor() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 12, 3);
    let studies = frontal_by_study(&files);
    // A study with more than one image, the last of which arrives late.
    let (study, _) = studies
        .iter()
        .find(|(uid, frontal)| {
            frontal.len() == 1 && files.iter().filter(|f| &element(f, "StudyInstanceUID") == *uid).count() > 1
        })
        .expect("some phantoms have a lateral view as well");
    let images: Vec<_> = files.iter().filter(|f| &element(f, "StudyInstanceUID") == study).cloned().collect();
    let (frontal, lateral): (Vec<_>, Vec<_>) =
        images.into_iter().partition(|f| matches!(element(f, "ViewPosition").as_str(), "PA" | "AP"));

    let pacs = Pacs::start(&folder.path().join("pacs"));
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
        quiet_period: "500ms",
        extra: "",
    });
    assert!(storescu(node.dicom_port, &[], &frontal).status.success());
    wait_for("the first report", REPORT_LIMIT, || pacs.files().len() == 1);
    let first = element(&pacs.files()[0], "SOPInstanceUID");
    assert!(storescu(node.dicom_port, &[], &lateral).status.success());
    wait_for("the second report", REPORT_LIMIT, || pacs.files().len() == 2);
    let second = pacs.files().into_iter().find(|f| element(f, "SOPInstanceUID") != first).expect("a new instance");
    let dump = run_ok(Command::new("dcmdump").args(["+P", "PredecessorDocumentsSequence"]).arg(&second));
    assert!(dump.contains(&first), "the predecessor is named: {dump}");

    // The same image again is one copy, one job: no third report. Another study, sent after it, comes back first if
    // there is one to come.
    assert!(storescu(node.dicom_port, &[], &frontal).status.success());
    let other: Vec<_> = files.iter().filter(|f| &element(f, "StudyInstanceUID") != study).take(1).cloned().collect();
    assert!(storescu(node.dicom_port, &[], &other).status.success());
    wait_for("the other study is closed", REPORT_LIMIT, || {
        let rows = node.studies();
        rows.len() == 2 && rows.iter().all(|s| matches!(s["state"].as_str(), Some("delivered" | "refused")))
    });
    let row = node.studies().into_iter().find(|s| s["study"] == study.as_str()).expect("listed");
    assert_eq!(row["revision"], 2, "{row}");
    let of_study = pacs.files().iter().filter(|f| &element(f, "StudyInstanceUID") == study).count();
    assert_eq!(of_study, 2);
}

#[test]
fn its_own_report_is_kept_but_never_processed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "null", 1, 5);
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
        quiet_period: "500ms",
        extra: "",
    });
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("the report", REPORT_LIMIT, || pacs.files().len() == 1);
    wait_for("the study is delivered", REPORT_LIMIT, || node.studies()[0]["state"] == "delivered");
    // dcmtk does not propose Comprehensive 3D SR by itself: -R proposes what the files need.
    let sent = storescu(node.dicom_port, &["-R"], &pacs.files());
    assert!(sent.status.success(), "a report is accepted: {}", String::from_utf8_lossy(&sent.stderr));
    let own = element(&pacs.files()[0], "SOPInstanceUID");
    let study = element(&files[0], "StudyInstanceUID");
    wait_for("the report is refused by name", REPORT_LIMIT, || {
        let shown = run(sidelight(&["studies", "show", &study, "--json", "--config"]).arg(&node.config));
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        text.contains(&own) && text.contains("own-report")
    });
    wait_for("the study stays delivered", REPORT_LIMIT, || node.studies()[0]["state"] == "delivered");
    assert_eq!(pacs.files().len(), 1, "no report about a report");
}

#[test]
fn a_destination_that_is_down_gets_its_report_when_it_is_back() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "null", 1, 6);
    let port = crate::support::free_port();
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", port, true, "withheld")],
        quiet_period: "300ms",
        extra: "",
    });
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("a failed attempt", REPORT_LIMIT, || node.log().contains("delivery failed"));
    assert_eq!(node.studies()[0]["state"], "reported");
    let pacs = Pacs::start_on(&folder.path().join("pacs"), port);
    wait_for("the report after the peer is back", REPORT_LIMIT, || pacs.files().len() == 1);
    wait_for("the study is delivered", REPORT_LIMIT, || node.studies()[0]["state"] == "delivered");
}

#[test]
fn shadow_mode_refuses_a_destination_that_is_no_audit_archive() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = folder.path().join("node.toml");
    std::fs::write(
        &config,
        "[[sources]]\nae_title = \"PACS\"\n[[destinations]]\nname = \"reading\"\nkind = \"dimse\"\nae_title = \"READ\"\n\
         host = \"127.0.0.1\"\nport = 104\naudit = false\n",
    )
    .expect("writable");
    let output = run(sidelight(&["serve", "--config"]).arg(&config));
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("destinations") && text.contains("audit") && text.contains("shadow"), "{text}");
}

#[test]
fn the_offline_command_gives_the_same_answer_as_the_node() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 3, 21);
    let pacs = Pacs::start(&folder.path().join("pacs"));
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[("archive", "PACS", pacs.port, true, "withheld")],
        quiet_period: "300ms",
        extra: "",
    });
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("the reports", REPORT_LIMIT, || pacs.files().len() == 3);
    let out = folder.path().join("offline");
    run_ok(
        sidelight(&["analyse", "--config"])
            .arg(&node.config)
            .arg(folder.path().join("phantoms"))
            .arg("--out")
            .arg(&out),
    );
    // The content of both reports, but for UIDs and times.
    let content = |files: Vec<PathBuf>| -> BTreeMap<String, Vec<String>> {
        let lines = |f: &PathBuf| {
            run_ok(Command::new("dsrdump").arg(f))
                .lines()
                .skip_while(|l| !l.trim_start().starts_with('<'))
                .filter(|l| !l.contains("UIDREF"))
                .map(str::to_owned)
                .collect()
        };
        files.iter().map(|f| (element(f, "StudyInstanceUID"), lines(f))).collect()
    };
    let (online, offline) = (content(pacs.files()), content(dicom_files(&out)));
    assert_eq!(online.len(), 3);
    assert_eq!(online, offline);
}
