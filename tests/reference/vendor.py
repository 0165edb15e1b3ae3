"""Writes Structured Reports as other makers' products do, with pydicom. Standard input: a JSON list of reports.

Each: out, image (a file of the study), kind (tid1500, chest-cad or tree), and as given uid, date, time, manufacturer,
model, serial, version, predecessor (a SOP Instance UID), patient, study, findings: a list of code [value, scheme, meaning],
value, unit, label, images (SOP Instance UIDs; none: no reference), refers (places of other items of the report, by
reference), times (how often the value is written). A tree nests `depth` containers; `library` (SOP Instance UIDs) is an
image library before all else.
"""
import json
import sys

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {"tid1500": "1.2.840.10008.5.1.4.1.1.88.33", "chest-cad": "1.2.840.10008.5.1.4.1.1.88.65",
           "tree": "1.2.840.10008.5.1.4.1.1.88.33"}
PREFIX = "1.2.826.0.1.3680043.10.1234."


def code(value, scheme, meaning="x"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def item(relation, kind, name, *children):
    it = Dataset()
    it.RelationshipType, it.ValueType = relation, kind
    it.ConceptNameCodeSequence = code(*name)
    if kind == "CONTAINER":
        it.ContinuityOfContent = "SEPARATE"
    if children:
        it.ContentSequence = Sequence(children)
    return it


def coded(relation, name, value, *children):
    it = item(relation, "CODE", name, *children)
    it.ConceptCodeSequence = code(*value)
    return it


def number(relation, name, value, unit):
    it = item(relation, "NUM", name)
    measured = Dataset()
    measured.NumericValue = str(value)
    measured.MeasurementUnitsCodeSequence = code(unit, "UCUM")
    it.MeasuredValueSequence = Sequence([measured])
    return it


def image(relation, uid, sop_class):
    it = item(relation, "IMAGE", ("121112", "DCM", "Source of Measurement"))
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, uid
    it.ReferencedSOPSequence = Sequence([reference])
    return it


def by_reference(relation, place):
    it = Dataset()
    it.RelationshipType, it.ReferencedContentItemIdentifier = relation, place
    return it


def parts(finding, relation, sop_class):
    children = []
    if finding.get("value") is not None:
        concept = finding.get("concept", ("111012", "DCM", "Certainty of Finding"))
        children += [number(relation, concept, finding["value"], finding.get("unit", "%"))] * finding.get("times", 1)
    if finding.get("label"):
        children.append(coded(relation, ("99RESULT", "99VENDOR", "Result"), finding["label"]))
    children += [image(relation, uid, sop_class) for uid in finding.get("images", [])]
    children += [by_reference("INFERRED FROM", place) for place in finding.get("refers", [])]
    return children


def content(spec, source):
    findings = spec.get("findings", [])
    if spec["kind"] == "tid1500":
        groups = [item("CONTAINS", "CONTAINER", ("125007", "DCM", "Measurement Group"),
                       coded("CONTAINS", ("121071", "DCM", "Finding"), f["code"]), *parts(f, "CONTAINS", source.SOPClassUID))
                  for f in findings]
        return ("126000", "DCM", "Imaging Measurement Report"), [
            item("CONTAINS", "CONTAINER", ("126010", "DCM", "Imaging Measurements"), *groups)]
    if spec["kind"] == "chest-cad":
        marks = [coded("CONTAINS", ("111059", "DCM", "Single Image Finding"), f["code"],
                       *parts(f, "HAS PROPERTIES", source.SOPClassUID)) for f in findings]
        summary = coded("CONTAINS", ("111017", "DCM", "CAD Processing and Findings Summary"), ("111242", "DCM", "All"), *marks)
        return ("112000", "DCM", "Chest CAD Report"), [summary]
    inner = item("CONTAINS", "CONTAINER", ("RESULTS", "99VENDOR", "Results"),
                 *[item("CONTAINS", "CONTAINER", tuple(f["code"]), *parts(f, "CONTAINS", source.SOPClassUID)) for f in findings])
    for _ in range(spec.get("depth", 0)):
        inner = item("CONTAINS", "CONTAINER", ("LEVEL", "99VENDOR", "Level"), inner)
    return ("REPORT", "99VENDOR", "Report"), [inner]


def write(spec):
    source = pydicom.dcmread(spec["image"], stop_before_pixels=True)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CLASSES[spec["kind"]], spec.get("uid") or generate_uid(PREFIX)
    for key in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
                "AccessionNumber", "StudyID", "ReferringPhysicianName"):
        setattr(ds, key, getattr(source, key, ""))
    ds.PatientID = spec.get("patient", ds.PatientID)
    ds.StudyInstanceUID = spec.get("study", ds.StudyInstanceUID)
    ds.SeriesInstanceUID, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = generate_uid(PREFIX), "SR", 7, 1
    ds.Manufacturer = spec.get("manufacturer", "Example Imaging")
    ds.ManufacturerModelName = spec.get("model", "ChestAI")
    ds.DeviceSerialNumber = spec.get("serial", "S1")
    ds.SoftwareVersions = spec.get("version", "3.1")
    ds.ContentDate, ds.ContentTime = spec.get("date", "20260301"), spec.get("time", "101500")
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    if spec.get("predecessor"):
        reference, series, study = Dataset(), Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = ds.SOPClassUID, spec["predecessor"]
        series.SeriesInstanceUID, series.ReferencedSOPSequence = generate_uid(PREFIX), Sequence([reference])
        study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, Sequence([series])
        ds.PredecessorDocumentsSequence = Sequence([study])
    name, children = content(spec, source)
    if spec.get("library"):
        entries = [image("CONTAINS", uid, source.SOPClassUID) for uid in spec["library"]]
        children = [item("CONTAINS", "CONTAINER", ("111028", "DCM", "Image Library"), *entries), *children]
    ds.ValueType, ds.ContinuityOfContent, ds.ConceptNameCodeSequence = "CONTAINER", "SEPARATE", code(*name)
    ds.ContentSequence = Sequence(children)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.save_as(spec["out"], enforce_file_format=True)


for report in json.load(sys.stdin):
    write(report)
