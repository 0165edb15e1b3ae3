"""pynetdicom as a peer of the node, and pydicom as the judge of what arrived, for tests/it/interop.rs.

peer.py send PORT FILE…           C-ECHO, then each file as it lies there; JSON on standard output
peer.py pull PORT STUDY FOLDER    C-FIND and C-GET of the study's report, as VIEWER; the UIDs that were found, in JSON
peer.py serve PORT FOLDER SYNTAX… takes every storage class in these transfer syntaxes, keeps objects as they came
peer.py same FILE FILE            "yes" or what differs

With "tls CERTIFICATE KEY AUTHORITY" before the command all of it goes over TLS.
"""

import json
import pathlib
import ssl
import sys

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, _config, build_role, evt
from pynetdicom.sop_class import Comprehensive3DSRStorage as Report
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get
from pynetdicom.sop_class import Verification

_config.STORE_SEND_CHUNKED_DATASET = True  # a file's bytes, not what pydicom makes of them

files = sys.argv[2:5] if sys.argv[1] == "tls" else None
command, *arguments = sys.argv[5:] if files else sys.argv[1:]


def tls(purpose):
    if not files:
        return None
    certificate, key, authority = files
    context = ssl.create_default_context(purpose, cafile=authority)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def associate(ae, port, **options):
    context = tls(ssl.Purpose.SERVER_AUTH)
    if context:
        options["tls_args"] = (context, "localhost")
    return ae.associate("127.0.0.1", int(port), ae_title="SIDELIGHT", **options)


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
    association = associate(ae, port)
    if not association.is_established:
        return None
    answer = request(association)
    association.release()
    return answer.Status if "Status" in answer else None


def pull(port, study, folder):
    def store(event):
        path = pathlib.Path(folder) / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    ae = AE(ae_title="VIEWER")
    ae.add_requested_context(Find)
    ae.add_requested_context(Get)
    ae.add_requested_context(Report, "1.2.840.10008.1.2.1")
    roles = [build_role(Report, scp_role=True)]
    association = associate(ae, port, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, store)])
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study
    found = [answer.StudyInstanceUID for _, answer in association.send_c_find(keys, Find) if answer]
    last = [status.Status for status, _ in association.send_c_get(keys, Get)][-1]
    association.release()
    print(json.dumps({"found": found, "status": last}))


def serve(port, folder, *syntaxes):
    def store(event):
        path = pathlib.Path(folder) / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    ae = AE(ae_title="PACS")
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, list(syntaxes))
    ae.add_supported_context(Verification)
    ssl_context = tls(ssl.Purpose.CLIENT_AUTH)
    ae.start_server(("127.0.0.1", int(port)), evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=ssl_context)


def same(*pair):
    ours, theirs = (pydicom.dcmread(path) for path in pair)
    differing = {tag for tag in {*ours.keys(), *theirs.keys()} if ours.get(tag) != theirs.get(tag)}
    print("yes" if not differing else " ".join(str(tag) for tag in sorted(differing)))


{"send": send, "pull": pull, "serve": serve, "same": same}[command](*arguments)
