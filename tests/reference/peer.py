"""pynetdicom as a peer of the node, and pydicom as the judge of what arrived, for tests/it/interop.rs.

peer.py send PORT FILE…           C-ECHO, then each file as it lies there; JSON on standard output
peer.py serve PORT FOLDER SYNTAX… takes every storage class in these transfer syntaxes, keeps objects as they came
peer.py same                      pairs of files on standard input, separated by a tab: "yes" or what differs
"""

import json
import pathlib
import sys

import pydicom
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import Verification

_config.STORE_SEND_CHUNKED_DATASET = True  # a file's bytes, not what pydicom makes of them


def send(port, *files):
    outcome = {"echo": status(lambda a: a.send_c_echo(), port, [(Verification, "1.2.840.10008.1.2")])}
    for file in files:
        meta = pydicom.filereader.read_file_meta_info(file)
        context = [(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)]
        outcome[file] = status(lambda a, file=file: a.send_c_store(pathlib.Path(file)), port, context)
    print(json.dumps(outcome))


def status(request, port, contexts):
    """The status of one request on an association of its own; None where there is none."""
    ae = AE(ae_title="PACS")
    for abstract, transfer in contexts:
        ae.add_requested_context(abstract, transfer)
    association = ae.associate("127.0.0.1", int(port), ae_title="SIDELIGHT")
    if not association.is_established:
        return None
    answer = request(association)
    association.release()
    return answer.Status if "Status" in answer else None


def serve(port, folder, *syntaxes):
    def store(event):
        path = pathlib.Path(folder) / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    ae = AE(ae_title="PACS")
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, list(syntaxes))
    ae.add_supported_context(Verification)
    ae.start_server(("127.0.0.1", int(port)), evt_handlers=[(evt.EVT_C_STORE, store)])


def same():
    for line in sys.stdin:
        ours, theirs = (pydicom.dcmread(path) for path in line.rstrip("\n").split("\t"))
        differing = {tag for tag in {*ours.keys(), *theirs.keys()} if ours.get(tag) != theirs.get(tag)}
        print("yes" if not differing else " ".join(str(tag) for tag in sorted(differing)))


{"send": send, "serve": serve, "same": same}[sys.argv[1]](*sys.argv[2:])
