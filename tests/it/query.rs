//! Archives and viewers that ask for the node's reports: dcmtk's findscu and getscu, and pynetdicom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::road::check_report;
use crate::support::{Node, NodeOptions, Pacs, element, phantoms, reference_python, run, run_ok, storescu, wait_for};

const REPORT_LIMIT: Duration = Duration::from_secs(60);
const VIEWER: &str = "[[sources]]\nae_title = \"VIEWER\"\nhosts = [\"127.0.0.1\"]\nquery = true\naudit = true\n";

/// A node with a report on each of some studies, in both forms, and what it was sent by study.
struct Reported {
    node: Node,
    studies: BTreeMap<String, Vec<PathBuf>>,
    _disclosed: Pacs,
}

impl Reported {
    fn new(folder: &Path, patients: u32) -> Self {
        let files = phantoms(&folder.join("phantoms"), "biased", patients, 17);
        let disclosed = Pacs::start(&folder.join("disclosed"));
        let node = Node::start(&NodeOptions {
            data_dir: &folder.join("data"),
            sources: &["STORESCU"],
            destinations: &[("research", "PACS", disclosed.port, true, "probabilities")],
            quiet_period: "500ms",
            extra: VIEWER,
        });
        let sent = storescu(node.dicom_port, &[], &files);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        let mut studies: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for file in files {
            let images = studies.entry(element(&file, "StudyInstanceUID")).or_default();
            if matches!(element(&file, "ViewPosition").as_str(), "PA" | "AP") {
                images.push(file);
            }
        }
        wait_for("every study is delivered", REPORT_LIMIT, || {
            let rows = node.studies();
            rows.len() == studies.len() && rows.iter().all(|s| s["state"] == "delivered")
        });
        Self { node, studies, _disclosed: disclosed }
    }

    /// A dcmtk tool against the node, as VIEWER: its success and all it said.
    fn dcmtk(&self, tool: &str, calling: &str, arguments: &[&str]) -> (bool, String) {
        let output = run(Command::new(tool)
            .args(["-v", "-S", "-aet", calling, "-aec", "SIDELIGHT", "127.0.0.1", &self.node.dicom_port.to_string()])
            .args(arguments));
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Runs a pynetdicom script with the node's port; what it printed.
    fn pynetdicom(&self, script: &str, arguments: &[&str]) -> String {
        let head = "
import sys
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import *
port = int(sys.argv[1])
def asked(level, **keys):
    ds = Dataset(); ds.QueryRetrieveLevel = level
    for key, value in keys.items(): setattr(ds, key, value)
    return ds
";
        let port = self.node.dicom_port.to_string();
        run_ok(Command::new(reference_python()).args(["-c", &format!("{head}{script}"), &port]).args(arguments))
    }
}

/// The answers of findscu: one file each.
fn found(reported: &Reported, folder: &Path, keys: &[&str]) -> Vec<PathBuf> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).expect("writable");
    let out = folder.display().to_string();
    let mut arguments = vec!["-X", "-od", &out];
    keys.iter().for_each(|key| arguments.extend(["-k", key]));
    let (done, said) = reported.dcmtk("findscu", "VIEWER", &arguments);
    assert!(done && said.contains("Received Final Find Response (Success)"), "{said}");
    let mut files: Vec<_> = fs::read_dir(folder).expect("readable").flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[test]
fn findscu_and_getscu_find_and_pull_every_report_in_its_withheld_form() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let reported = Reported::new(folder.path(), 4);
    let answers = folder.path().join("answers");
    let universal = [
        "QueryRetrieveLevel=STUDY",
        "StudyInstanceUID",
        "PatientID",
        "PatientName",
        "StudyDate",
        "AccessionNumber",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedInstances",
    ];
    let all = found(&reported, &answers, &universal);
    let studies: BTreeSet<String> = all.iter().map(|f| element(f, "StudyInstanceUID")).collect();
    assert_eq!(studies, reported.studies.keys().cloned().collect());
    for answer in &all {
        let source = &reported.studies[&element(answer, "StudyInstanceUID")][0];
        for keyword in ["PatientID", "PatientName", "StudyDate", "AccessionNumber"] {
            assert_eq!(element(answer, keyword), element(source, keyword), "{keyword}");
        }
        assert_eq!(element(answer, "ModalitiesInStudy"), "SR");
        assert_eq!(element(answer, "NumberOfStudyRelatedInstances"), "1");
    }

    // One of them, by each kind of key.
    let (study, images) = reported.studies.first_key_value().expect("studies");
    let patient = element(&images[0], "PatientID");
    let name = element(&images[0], "PatientName").to_lowercase();
    let date = element(&images[0], "StudyDate");
    let only = |key: String| {
        let keys = ["QueryRetrieveLevel=STUDY", "StudyInstanceUID", key.as_str()];
        found(&reported, &answers, &keys).iter().map(|f| element(f, "StudyInstanceUID")).collect::<Vec<_>>()
    };
    assert_eq!(only(format!("PatientID={patient}")), std::slice::from_ref(study));
    assert!(only(format!("PatientName={}*", &name[..name.len() - 1])).contains(study));
    assert!(only(format!("StudyDate={date}-{date}")).contains(study));
    assert_eq!(only("PatientID=NOBODY".into()), Vec::<String>::new());
    assert_eq!(only("StudyDate=19000101-19001231".into()), Vec::<String>::new());

    // Pulled, each is a whole report that tells nothing of groups.
    let pulled = folder.path().join("pulled");
    fs::create_dir_all(&pulled).expect("writable");
    let out = pulled.display().to_string();
    for study in reported.studies.keys() {
        let key = format!("StudyInstanceUID={study}");
        let (done, said) =
            reported.dcmtk("getscu", "VIEWER", &["-od", &out, "-k", "QueryRetrieveLevel=STUDY", "-k", &key]);
        assert!(done, "{said}");
    }
    let files: Vec<PathBuf> = fs::read_dir(&pulled).expect("readable").flatten().map(|entry| entry.path()).collect();
    assert_eq!(files.len(), reported.studies.len());
    for file in &files {
        check_report(file, &reported.studies[&element(file, "StudyInstanceUID")]);
        let dump = run_ok(Command::new("dsrdump").arg(file));
        assert!(!dump.contains("CDCREC") && !dump.contains("EXCESS"), "{dump}");
    }
    // The log tells of queries, and of nobody.
    let log = reported.node.log();
    assert!(log.contains("a query was answered") && log.contains("a retrieval ended"), "{log}");
    assert!(!log.contains(&patient) && !log.to_lowercase().contains(&name), "the log names a patient");
}

#[test]
fn who_is_not_listed_for_it_neither_finds_nor_pulls() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let reported = Reported::new(folder.path(), 1);
    for tool in ["findscu", "getscu"] {
        let (done, said) =
            reported.dcmtk(tool, "STORESCU", &["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID"]);
        assert!(!done && said.to_lowercase().contains("no acceptable presentation contexts"), "{tool}: {said}");
    }
}

#[test]
fn pynetdicom_queries_every_level_and_pulls_what_it_can_take() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let reported = Reported::new(folder.path(), 2);
    let script = "
ae = AE('VIEWER')
ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
assoc = ae.associate('127.0.0.1', port, ae_title='SIDELIGHT')
def ask(identifier):
    answers = []
    for status, ds in assoc.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind):
        answers.append((status.Status, ds))
    return answers
study = sys.argv[2]
series = ask(asked('SERIES', StudyInstanceUID=study, SeriesInstanceUID='', Modality='SR', SeriesDescription=''))
print([hex(s) for s, _ in series], series[0][1].Modality, 'audit' in series[0][1].SeriesDescription)
uid = series[0][1].SeriesInstanceUID
images = ask(asked('IMAGE', StudyInstanceUID=study, SeriesInstanceUID=uid, SOPInstanceUID='', SOPClassUID='', ContentDate=''))
print([hex(s) for s, _ in images], images[0][1].SOPClassUID.name, images[0][1].QueryRetrieveLevel)
both = ask(asked('STUDY', StudyInstanceUID=[study, sys.argv[3], '1.2.3'], ReferringPhysicianName=''))
print([hex(s) for s, _ in both])
print([hex(s) for s, _ in ask(asked('STUDY', StudyInstanceUID='', SliceThickness=''))])
print([hex(s) for s, _ in ask(asked('STUDY', StudyInstanceUID='', Modality='CT'))])
print([hex(s) for s, _ in ask(asked('PATIENT', PatientID=''))])
assoc.release()
print(images[0][1].SOPInstanceUID)
";
    let studies: Vec<&str> = reported.studies.keys().map(String::as_str).collect();
    let said = reported.pynetdicom(script, &studies);
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "['0xff00', '0x0'] SR True",
        "['0xff00', '0x0'] Comprehensive 3D SR Storage IMAGE",
        "['0xff00', '0xff00', '0x0']",
        "['0xff01', '0xff01', '0x0']",
        "['0xff01', '0xff01', '0x0']",
        "['0xa900']",
    ];
    assert_eq!(lines[..6], expected, "{said}");

    // Another class than the preferred, in implicit encoding; a class that the peer does not take; a refusal; a cancel.
    let script = "
def pull(classes, identifier, statuses=0x0000, syntax='1.2.840.10008.1.2'):
    ae = AE('VIEWER')
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    roles = []
    for c in classes:
        ae.add_requested_context(c, syntax); roles.append(build_role(c, scp_role=True))
    got = []
    def store(event):
        got.append((event.dataset.SOPClassUID.name, event.dataset.StudyInstanceUID, len(event.dataset.ContentSequence)))
        return statuses
    assoc = ae.associate('127.0.0.1', port, ae_title='SIDELIGHT', ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, store)])
    last = []
    for status, ds in assoc.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet):
        last = [hex(status.Status), status.get('NumberOfRemainingSuboperations'), status.get('NumberOfCompletedSuboperations'),
                status.get('NumberOfFailedSuboperations'), status.get('NumberOfWarningSuboperations')]
        if ds is not None and 'FailedSOPInstanceUIDList' in ds: last.append(ds['FailedSOPInstanceUIDList'].VM)
    assoc.release()
    return last, sorted({(name, n > 0) for name, _, n in got})
both = asked('STUDY', StudyInstanceUID=[sys.argv[2], sys.argv[3]])
print(pull([Comprehensive3DSRStorage], both, syntax='1.2.840.10008.1.2.1'))
print(pull([EnhancedSRStorage, ComprehensiveSRStorage], both))
print(pull([CTImageStorage], both))
print(pull([Comprehensive3DSRStorage], both, statuses=0xA700))
print(pull([Comprehensive3DSRStorage], both, statuses=0xB000))
print(pull([Comprehensive3DSRStorage], asked('IMAGE', SOPInstanceUID=sys.argv[4])))
print(pull([EnhancedSRStorage], asked('IMAGE', SOPInstanceUID=sys.argv[4])))
print(pull([Comprehensive3DSRStorage], asked('STUDY', StudyInstanceUID='1.2.3')))
print(pull([Comprehensive3DSRStorage], asked('STUDY', StudyInstanceUID='')))
";
    let said = reported.pynetdicom(script, &[studies[0], studies[1], lines[6]]);
    let expected = [
        "(['0x0', None, 2, 0, 0], [('Comprehensive 3D SR Storage', True)])",
        "(['0x0', None, 2, 0, 0], [('Comprehensive SR Storage', True)])",
        "(['0xa702', None, 0, 2, 0, 2], [])",
        "(['0xa702', None, 0, 2, 0, 2], [('Comprehensive 3D SR Storage', True)])",
        "(['0xb000', None, 0, 0, 2], [('Comprehensive 3D SR Storage', True)])",
        "(['0x0', None, 1, 0, 0], [('Comprehensive 3D SR Storage', True)])",
        "(['0xa702', None, 0, 1, 0, 1], [])",
        "(['0x0', None, 0, 0, 0], [])",
        "(['0xa900', None, 0, 0, 0], [])",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{said}");
}

#[test]
fn a_cancel_ends_a_retrieval_that_is_under_way() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let reported = Reported::new(folder.path(), 3);
    let script = "
ae = AE('VIEWER')
ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
ae.add_requested_context(Comprehensive3DSRStorage)
assoc = None
def store(event):
    # The cancel overtakes the answer to the first sub-operation.
    assoc.send_c_cancel(7, None, StudyRootQueryRetrieveInformationModelGet)
    return 0
roles = [build_role(Comprehensive3DSRStorage, scp_role=True)]
assoc = ae.associate('127.0.0.1', port, ae_title='SIDELIGHT', ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, store)])
last = None
for status, ds in assoc.send_c_get(asked('STUDY', StudyInstanceUID=sys.argv[2:]), StudyRootQueryRetrieveInformationModelGet, msg_id=7):
    last = (hex(status.Status), status.get('NumberOfRemainingSuboperations'), status.get('NumberOfCompletedSuboperations'))
print(last)
assoc.release()
";
    let studies: Vec<&str> = reported.studies.keys().map(String::as_str).collect();
    assert_eq!(reported.pynetdicom(script, &studies).trim(), "('0xfe00', 2, 1)");
}
