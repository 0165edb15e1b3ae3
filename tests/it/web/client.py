"""dicomweb-client as a peer of the node. Usage: client.py URL TOKEN COMMAND ARGUMENTS...; answers in JSON.

store FILE...          STOW-RS; how many were stored, and the reasons of the others
search LEVEL KEY=VALUE...   QIDO-RS; the UIDs of the matches at this level
compare STUDY FILE     WADO-RS; whether the study's one report is FILE, and its metadata what pydicom makes of FILE
"""

import json
import sys

import pydicom
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session

url, token, command, *arguments = sys.argv[1:]
session = create_session()
session.headers.update({"Authorization": f"Bearer {token}"})
client = DICOMwebClient(url=url, session=session)


def same(ours, theirs, path):
    """Two members of the JSON model, told where they differ. Numbers are compared as numbers."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        # pydicom writes a sequence without items as an empty list, PS3.18 F.2.5 writes no Value.
        theirs = {key: value for key, value in theirs.items() if value != []}
        found = [f"{path}: only in {'ours' if key in ours else 'theirs'}: {key}" for key in set(ours) ^ set(theirs)]
        return found + [line for key in set(ours) & set(theirs) for line in same(ours[key], theirs[key], f"{path}/{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [line for i, pair in enumerate(zip(ours, theirs)) for line in same(*pair, f"{path}/{i}")]
    return [] if ours == theirs else [f"{path}: {ours!r} is not {theirs!r}"]


if command == "store":
    answer = client.store_instances([pydicom.dcmread(file) for file in arguments])
    failed = [int(item.FailureReason) for item in answer.get("FailedSOPSequence", [])]
    print(json.dumps({"stored": len(answer.get("ReferencedSOPSequence", [])), "failed": failed}))
elif command == "search":
    level, filters = arguments[0], dict(pair.split("=", 1) for pair in arguments[1:])
    search = {"study": client.search_for_studies, "series": client.search_for_series,
              "instance": client.search_for_instances}[level]
    tag = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}[level]
    print(json.dumps([row[tag]["Value"][0] for row in search(search_filters=filters)]))
elif command == "compare":
    study, file = arguments
    held = pydicom.dcmread(file)
    series, instance = held.SeriesInstanceUID, held.SOPInstanceUID
    faults = []
    for files in (client.retrieve_study(study), client.retrieve_series(study, series),
                  [client.retrieve_instance(study, series, instance)]):
        if len(files) != 1 or files[0] != held:
            faults.append(f"{len(files)} files, or another one")
    expected = held.to_json_dict()
    if "00080005" in expected:
        expected["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    for metadata in (client.retrieve_study_metadata(study), client.retrieve_series_metadata(study, series),
                     [client.retrieve_instance_metadata(study, series, instance)]):
        faults += same(metadata[0], expected, "") if len(metadata) == 1 else [f"metadata of {len(metadata)}"]
    print(json.dumps(faults))
else:
    sys.exit(f"unknown command {command}")
