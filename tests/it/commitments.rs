//! Storage commitment by pynetdicom: the result on the association that asked, on a new one, and after a restart.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Node, NodeOptions, element, free_port, phantoms, reference_python, run_ok, wait_for};

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
