//! Storage commitment beside real peers. Asked of the node by pynetdicom: the result on the association that asked, on
//! a new one, and after a restart. Asked by the node of pynetdicom and Orthanc as archives: kept, not kept, and never
//! said.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::support::orthanc::Orthanc;
use crate::support::{
    Node, NodeOptions, configuration, element, free_port, phantoms, reference_python, run, run_ok, sidelight, storescu,
    wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Stores a file and asks for its commitment and that of an instance that never came; what it hears, line by line.
/// With `leave` it releases at once, and a listener hears the result.
const SCRIPT: &str = "
import sys, threading
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel as Push, StorageCommitmentPushModelInstance as Instance
mode, port, own, out, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
done = threading.Event()
def heard(event):
    info = event.event_information
    failed = sorted(hex(i.FailureReason) for i in info.get('FailedSOPSequence', []))
    # N-EVENT-REPORT-RQ: requestor of the association tells which one it is.
    where = 'new' if event.assoc.is_acceptor else 'same'
    with open(out, 'a') as f:
        f.write(f'{where} {event.request.EventTypeID} {len(info.get(\"ReferencedSOPSequence\", []))} {failed}\\n')
    done.set()
    return 0x0000, None
handlers = [(evt.EVT_N_EVENT_REPORT, heard)]
ae = AE('MODALITY')
ds = dcmread(path)
if mode in ('same', 'leave'):
    ae.add_requested_context(Push); ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate('127.0.0.1', port, ae_title='SIDELIGHT', evt_handlers=handlers)
    assert assoc.send_c_store(ds).Status == 0
    request = Dataset(); request.TransactionUID = generate_uid()
    items = []
    for uid in (ds.SOPInstanceUID, '1.2.3.4'):
        item = Dataset(); item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, uid; items.append(item)
    request.ReferencedSOPSequence = items
    # Without the handler an event that comes before the release is answered with a failure.
    if mode == 'leave': assoc.unbind(evt.EVT_N_EVENT_REPORT, heard)
    status, _ = assoc.send_n_action(request, 1, Push, Instance)
    assert status.Status == 0, status
    if mode == 'same': assert done.wait(30)
    assoc.release()
if mode == 'listen':
    listener = AE('STGCMT'); listener.add_supported_context(Push, scu_role=False, scp_role=True)
    server = listener.start_server(('127.0.0.1', own), block=False, evt_handlers=handlers)
    threading.Event().wait()
";

fn pynetdicom(mode: &str, node: u16, own: u16, out: &Path, file: &Path) -> Command {
    let mut command = Command::new(reference_python());
    command.args(["-c", SCRIPT, mode, &node.to_string(), &own.to_string()]).args([out, file]);
    command
}

/// Killed when dropped.
struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(out: &Path) -> Vec<String> {
    std::fs::read_to_string(out).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn the_result_comes_on_the_association_that_asks_or_on_a_new_one_even_after_a_restart() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "null", 1, 3);
    let (own, out) = (free_port(), folder.path().join("heard"));
    let source = format!(
        "[[sources]]\nae_title = \"MODALITY\"\ncommitment = true\ncommitment_to = \"STGCMT@127.0.0.1:{own}\"\n"
    );
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &[],
        destinations: &[],
        quiet_period: "500ms",
        extra: &source,
    });
    run_ok(&mut pynetdicom("same", node.dicom_port, own, &out, &files[0]));
    assert_eq!(lines(&out), ["same 2 1 ['0x112']"]);

    // Nobody listens yet: the node tries, and is killed before anybody does.
    run_ok(&mut pynetdicom("leave", node.dicom_port, own, &out, &files[0]));
    wait_for("an attempt on a new association", LIMIT, || node.log().contains("a storage commitment was not reported"));
    let config = node.config.clone();
    node.kill();
    let child = pynetdicom("listen", 0, own, &out, &files[0]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let _listener = Listener(child.expect("python starts"));
    let node = Node::restart(&config);
    wait_for("the result on a new association", LIMIT, || lines(&out).len() == 2);
    assert_eq!(lines(&out)[1], "new 2 1 ['0x112']");
    wait_for("it is over", LIMIT, || node.log().contains("storage commitment reported"));
    assert!(!node.log().contains(&element(&files[0], "PatientID")), "the log names a patient");
    assert!(node.stop().success());
}

/// An archive that takes reports and answers requests for commitment as `mode` says: on the `same` association, on a
/// `new` one, never (`silent`). Reports that it `lost` are not kept, those that it is `indexing` not yet. A file of that
/// name in its folder says so. What it was asked and told, line by line.
const ARCHIVE: &str = "
import os, sys, threading, time
from pydicom.dataset import Dataset
from pynetdicom import AE, evt, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel as Push, StorageCommitmentPushModelInstance as Instance
from pynetdicom.sop_class import ComprehensiveSRStorage, Comprehensive3DSRStorage, EnhancedSRStorage
port, node, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
stored = set()
def note(text):
    with open(os.path.join(folder, 'told'), 'a') as f: f.write(text + '\\n')
def mode(name): return os.path.exists(os.path.join(folder, name))
def store(event):
    stored.add(event.request.AffectedSOPInstanceUID)
    return 0
def outcome(information):
    result = Dataset(); result.TransactionUID = information.TransactionUID
    kept, failed = [], []
    for item in information.ReferencedSOPSequence:
        if mode('lost'): item.FailureReason = 0x0119; failed.append(item)
        elif item.ReferencedSOPInstanceUID in stored and not mode('indexing'): kept.append(item)
        else: item.FailureReason = 0x0112; failed.append(item)
    if kept: result.ReferencedSOPSequence = kept
    if failed: result.FailedSOPSequence = failed
    return (2 if failed else 1), result
def report(assoc, event_type, result):
    status, _ = assoc.send_n_event_report(result, event_type, Push, Instance)
    note(f'{event_type} {status.Status:04X}' if 'Status' in status else f'{event_type} none')
def later(assoc, event_type, result):
    if mode('same'):
        time.sleep(0.1)
        return report(assoc, event_type, result)
    while assoc.is_alive(): time.sleep(0.01)
    ae = AE('PACS'); ae.add_requested_context(Push)
    own = ae.associate('127.0.0.1', node, ae_title='SIDELIGHT', ext_neg=[build_role(Push, scp_role=True)])
    if not own.is_established: return note('rejected')
    report(own, event_type, result); own.release()
def action(event):
    event_type, result = outcome(event.action_information)
    note(f'asked {len(event.action_information.ReferencedSOPSequence)}')
    if not mode('silent'):
        threading.Thread(target=later, args=(event.assoc, event_type, result), daemon=True).start()
    return 0x0000, None
ae = AE('PACS')
for c in (ComprehensiveSRStorage, Comprehensive3DSRStorage, EnhancedSRStorage): ae.add_supported_context(c)
ae.add_supported_context(Push, scu_role=True, scp_role=True)
ae.start_server(('127.0.0.1', port), evt_handlers=[(evt.EVT_C_STORE, store), (evt.EVT_N_ACTION, action)])
";

struct Archive {
    _process: Listener,
    folder: PathBuf,
}

impl Archive {
    fn start(folder: &Path, port: u16, node: u16, modes: &[&str]) -> Self {
        std::fs::create_dir_all(folder).expect("writable");
        modes.iter().for_each(|mode| std::fs::write(folder.join(mode), "").expect("writable"));
        let mut command = Command::new(reference_python());
        command.args(["-c", ARCHIVE, &port.to_string(), &node.to_string()]).arg(folder);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("python starts");
        Self { _process: Listener(child), folder: folder.to_owned() }
    }

    fn set(&self, mode: &str, on: bool) {
        let file = self.folder.join(mode);
        if on { std::fs::write(file, "") } else { std::fs::remove_file(file) }.expect("writable");
    }

    fn told(&self) -> Vec<String> {
        lines(&self.folder.join("told"))
    }
}

/// A node that delivers to PACS on `port` and asks for commitment.
fn asking(folder: &Path, port: u16, wait: &str, delivery: &str) -> Node {
    let data = folder.join("data");
    let destination = format!(
        "[[destinations]]\nname = \"archive\"\nae_title = \"PACS\"\nhost = \"localhost\"\nport = {port}\naudit = true\n\
         commitment = true\ncommitment_wait = \"{wait}\"\n"
    );
    let options = NodeOptions {
        data_dir: &data,
        sources: &["STORESCU"],
        destinations: &[],
        quiet_period: "300ms",
        extra: &destination,
    };
    let text = configuration(&options).replace("[delivery]\n", &format!("[delivery]\n{delivery}\n"));
    let config = folder.join("data.toml");
    std::fs::write(&config, text).expect("the test folder is writable");
    Node::restart(&config)
}

/// The only delivery of a study, as soon as there is one: state and commitment.
fn delivery(node: &Node, study: &str) -> (String, String) {
    if node.studies().iter().all(|known| known["study"] != study) {
        return Default::default();
    }
    let shown = node.json(&["studies", "show", study]);
    let text = |key: &str| shown["deliveries"][0][key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("commitment"))
}

fn purge(node: &Node, study: &str) -> Output {
    run(sidelight(&["studies", "purge", study, "--config"]).arg(&node.config))
}

#[test]
fn an_archive_commits_on_either_association_and_what_it_lost_is_sent_again() {
    for (mode, wait) in [("same", "20s"), ("new", "0s")] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let files = phantoms(&folder.path().join("phantoms"), "null", 1, 8);
        let study = element(&files[0], "StudyInstanceUID");
        let port = free_port();
        let node = asking(folder.path(), port, wait, "");
        let archive = Archive::start(&folder.path().join("archive"), port, node.dicom_port, &[mode, "indexing"]);
        assert!(storescu(node.dicom_port, &[], &files[..1]).status.success());
        let times = |what| archive.told().iter().filter(|line| *line == what).count();
        wait_for("what it does not know yet is asked for again", LIMIT, || times("asked 1") >= 2);
        assert!(times("2 0000") >= 1, "{mode}: {:?}", archive.told());
        assert_eq!(delivery(&node, &study), ("delivered".to_owned(), "asked".to_owned()), "{mode}");
        archive.set("lost", true);
        wait_for("what it lost is a failure", LIMIT, || {
            delivery(&node, &study) == ("failed".to_owned(), "failed".to_owned())
        });
        let heard = |what| archive.told().last().is_some_and(|line| line == what);
        wait_for("the node's answer", LIMIT, || heard("2 0000"));
        let listed = node.command(&["studies", "list"]);
        assert!(
            listed.contains("archive took the report, and it does not commit to keep the report: 0119H"),
            "{mode}: {listed}"
        );
        assert_eq!(node.metric("sidelight_destination_given_up{destination=\"archive\"}"), Some(1), "{mode}");
        let refused = purge(&node, &study);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("--force"), "{mode}: {said}");

        archive.set("lost", false);
        archive.set("indexing", false);
        node.command(&["studies", "resend", "--failed"]);
        wait_for("it keeps it", LIMIT, || delivery(&node, &study) == ("delivered".to_owned(), "confirmed".to_owned()));
        wait_for("the node's answer", LIMIT, || heard("1 0000"));
        assert_eq!(node.studies()[0]["state"], "delivered");
        assert!(!node.log().contains(&element(&files[0], "PatientID")), "the log names a patient");
        assert!(purge(&node, &study).status.success(), "{mode}");
    }
}

#[test]
fn an_archive_that_says_nothing_is_asked_again_until_it_answers_or_is_given_up() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut files = phantoms(&folder.path().join("phantoms"), "null", 2, 8);
    let first = element(&files[0], "StudyInstanceUID");
    files.retain(|file| element(file, "StudyInstanceUID") == first);
    let port = free_port();
    let node = asking(folder.path(), port, "100ms", "tries_min = 4\ngive_up_after = \"300ms\"");
    let archive = Archive::start(&folder.path().join("archive"), port, node.dicom_port, &["silent"]);
    assert!(storescu(node.dicom_port, &[], &files[..1]).status.success());
    wait_for("it is asked again", LIMIT, || archive.told().len() >= 2);
    // A restart forgets nothing of it.
    let config = node.config.clone();
    node.kill();
    let node = Node::restart(&config);
    wait_for("it is given up", LIMIT, || delivery(&node, &first) == ("failed".to_owned(), "failed".to_owned()));
    assert!(node.command(&["studies", "show", &first]).contains("it gave no storage commitment after"));
    assert!(archive.told().iter().all(|line| line == "asked 1"), "{:?}", archive.told());
}

#[test]
fn orthanc_commits_to_keep_a_report_on_an_association_of_its_own() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "null", 1, 8);
    let study = element(&files[0], "StudyInstanceUID");
    let port = free_port();
    let destination = format!(
        "[[destinations]]\nname = \"pacs\"\nae_title = \"ORTHANC\"\nhost = \"127.0.0.1\"\nport = {port}\naudit = true\n\
         commitment = true\ncommitment_wait = \"0s\"\n"
    );
    let node = Node::start(&NodeOptions {
        data_dir: &folder.path().join("data"),
        sources: &["STORESCU"],
        destinations: &[],
        quiet_period: "300ms",
        extra: &destination,
    });
    let settings = serde_json::json!({
        "DicomPort": port, "DicomModalities": {"sidelight": ["SIDELIGHT", "127.0.0.1", node.dicom_port]},
    });
    let _orthanc = Orthanc::start(&folder.path().join("orthanc"), &settings, &[]);
    assert!(storescu(node.dicom_port, &[], &files[..1]).status.success());
    wait_for("Orthanc keeps it", LIMIT, || delivery(&node, &study) == ("delivered".to_owned(), "confirmed".to_owned()));
    assert!(node.log().contains("storage commitment was given"));
}
