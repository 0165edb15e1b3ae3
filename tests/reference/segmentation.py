#!/usr/bin/env python3
"""Segmentations as other writers make them, and what their lungs are in the plane of a contract, for
tests/it/pixels/masks.rs.

    segmentation.py FOLDER CONTRACTS.json CORPUS

Writes images and their Segmentations (highdicom's, pydicom's own bits, dcmqi's of the shared corpus) to FOLDER, and a
line of JSON for each to standard output: `name`, `image` and `mask` (paths), `covered` (pixels of the image within the
mask, 0 where it must be refused) and `planes`, contract by contract: null where the contract must be refused, or the
path of an array of 32-bit floating point numbers. The planes come from the numpy array that the writer was given, or
from what pydicom reads, turned, fitted and resampled as in normalise.py.
"""

import json
import pathlib
import sys
import warnings

import highdicom
import numpy as np
import pydicom
from highdicom.seg import SegmentDescription, Segmentation
from normalise import Picture, Refused, fit, resize, turn
from phantom import dataset
from pydicom.pixels import pack_bits
from pydicom.sr.coding import Code
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

warnings.simplefilter("ignore")

ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
RIGHT, LEFT = Code("3341006", "SCT", "Right lung"), Code("44029006", "SCT", "Left lung")
LUNG, HEART = Code("39607008", "SCT", "Lung"), Code("80891009", "SCT", "Heart")
OTHER = Code("1", "99SITE", "Organ")


def image(number, rows, columns, frames=1, **more):
    """An image of nothing much, with what highdicom copies from it."""
    pixels = np.zeros((frames, rows, columns), np.uint8) if frames > 1 else np.zeros((rows, columns), np.uint8)
    ds = dataset(number, "MONOCHROME2", 1, 8, 8, False, frames, pixels)
    ds.Modality, ds.SOPClassUID = "CR", "1.2.840.10008.5.1.4.1.1.1" if frames == 1 else ds.SOPClassUID
    for name in "PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime".split():
        setattr(ds, name, "")
    for name, value in more.items():
        setattr(ds, name, value)
    return ds


def shapes(rows, columns, count, seed):
    """So many ellipses that may overlap, as booleans."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    found = []
    for _ in range(count):
        center, radius = random.uniform(0.25, 0.75, 2) * (rows, columns), random.uniform(0.15, 0.4, 2) * (rows, columns)
        found.append(((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 <= 1)
    # no symmetry, and bits that are set at each end
    noise = random.random((count, rows, columns)) < 0.03
    return np.stack(found) ^ noise


def segmentation(sources, pixels, segments, kind="BINARY", **more):
    """As highdicom writes it; `pixels` by frame, row, column and segment; `segments`: label and code."""
    described = [
        SegmentDescription(i + 1, label, ANATOMY, code, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL)
        for i, (label, code) in enumerate(segments)
    ]
    uid = "2.25.88800" + sources[0].SOPInstanceUID.rsplit(".", 1)[1]
    return Segmentation(sources, pixels, kind, described, uid + "1", 1, uid + "2", 1, "M", "M", "1", "1", **more)


def stack(masks):
    """A frame for highdicom, segments last."""
    return np.moveaxis(masks, 0, -1)[np.newaxis].astype(np.uint8)


def cases(corpus):
    """Name, image, Segmentation, and the mask as booleans; None where there is none."""
    three = [("a", RIGHT), ("b", HEART), ("c", LEFT)]
    masks = shapes(47, 47, 3, 1)
    source = image(1, 47, 47, PatientOrientation=["L", "F"])
    united = masks[0] | masks[2]
    # 2,209 bits a frame: the second begins within a byte
    yield "highdicom binary", source, segmentation([source], stack(masks), three), united
    deflated = segmentation([source], stack(masks), three)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    yield "highdicom binary, deflated", source, deflated, united

    labels = [("Lung, right", OTHER), ("left lung", OTHER), ("Heart", OTHER)]
    masks = shapes(61, 47, 3, 2)
    for number, lies in enumerate((["R", "F"], ["F", "L"], ["H", "R"], ["P", "F"])):
        source = image(10 + number, 61, 47, PatientOrientation=lies, PixelSpacing=[0.2, 0.15], SliceThickness=1)
        binary = segmentation([source], stack(masks), labels, transfer_syntax_uid=ImplicitVRLittleEndian)
        yield "highdicom binary by label, " + "/".join(lies), source, binary, masks[0] | masks[1]

    random = np.random.default_rng(3)
    for number, syntax in enumerate((ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless)):
        source = image(20 + number, 48, 61, ImageLaterality="LR"[number % 2])
        # GDCM, which encodes RLE, ends the process where a frame has an odd number of pixels
        share = np.kron(random.random((2, 10, 13)), np.ones((5, 5)))[:, :48, :61]
        maximum = (255, 200, 100, 1)[number]
        fractional = segmentation(
            [source],
            np.moveaxis(share, 0, -1)[np.newaxis],
            [("a", LUNG), ("b", HEART)],
            "FRACTIONAL",
            max_fractional_value=maximum,
            transfer_syntax_uid=syntax,
        )
        # what is stored has been rounded
        within = 2 * np.around(share[0] * maximum) > maximum
        yield f"highdicom fractional, {maximum}, {syntax.name}", source, fractional, within

    slices = [
        image(
            30 + i,
            40,
            40,
            Modality="CT",
            SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
            FrameOfReferenceUID="2.25.1",
            ImageOrientationPatient=[-1, 0, 0, 0, -1, 0],
            ImagePositionPatient=[10, 20, 5 * i],
            PixelSpacing=[1, 1],
            SliceThickness=5,
        )
        for i in range(5)
    ]
    volume = np.stack([shapes(40, 40, 2, 40 + i) for i in range(5)])
    pixels = np.moveaxis(volume, 1, -1).astype(np.uint8)
    ct = segmentation(slices, pixels, [("a", LEFT), ("b", RIGHT)])
    for i in (0, 2, 4):
        yield f"highdicom volume, slice {i + 1}", slices[i], ct, volume[i].any(axis=0)
    stranger = image(39, 40, 40, PatientOrientation=["L", "F"])
    yield "highdicom volume, another image", stranger, ct, None
    labelmap = segmentation(slices, pixels[..., 0], [("a", LUNG)], "LABELMAP")
    yield "highdicom labels", slices[0], labelmap, None
    # the same planes with rows where columns were
    turned = highdicom.PlaneOrientationSequence("PATIENT", [0, -1, 0, -1, 0, 0])
    places = [highdicom.PlanePositionSequence("PATIENT", s.ImagePositionPatient) for s in slices]
    moved = segmentation(slices, pixels, [("a", LEFT), ("b", RIGHT)], plane_orientation=turned, plane_positions=places)
    yield "highdicom, turned against its image", slices[0], moved, None

    yield by_hand()
    for name in ("seg.dcm", "liver_nonbyte_aligned.dcm"):
        ds = pydicom.dcmread(corpus / "SEG" / name)
        frames = ds.pixel_array
        sources = [g.DerivationImageSequence[0].SourceImageSequence[0] for g in ds.PerFrameFunctionalGroupsSequence]
        assert len(ds.SegmentSequence) == 1
        for i in (0, ds.NumberOfFrames // 2, ds.NumberOfFrames - 1):
            uid = sources[i].ReferencedSOPInstanceUID
            within = np.any([f for f, s in zip(frames, sources) if s.ReferencedSOPInstanceUID == uid], axis=0)
            source = image(50, ds.Rows, ds.Columns, SOPInstanceUID=uid, PatientOrientation=["L", "F"])
            yield f"dcmqi {name}, frame {i + 1}", source, ds, within


def by_hand():
    """Of the third of five frames: two segments of each, packed by pydicom."""
    source = image(60, 23, 29, frames=5, PatientOrientation=["L", "P"])
    masks = shapes(23, 29, 10, 60)
    ds = dataset(61, "MONOCHROME2", 1, 8, 8, False, 10, masks.astype(np.uint8))
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0
    ds.PixelData = pack_bits(masks.astype(np.uint8))
    ds.SegmentationType = "BINARY"
    ds.SegmentSequence, ds.PerFrameFunctionalGroupsSequence = [], []
    for number in (3, 9):
        segment = pydicom.Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, f"Lung {number}"
        ds.SegmentSequence.append(segment)
    for frame in range(10):
        group, which, derivation, of = (pydicom.Dataset() for _ in range(4))
        which.ReferencedSegmentNumber = (3, 9)[frame % 2]
        of.ReferencedSOPClassUID, of.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        of.ReferencedFrameNumber = frame // 2 + 1
        derivation.SourceImageSequence = [of]
        group.SegmentIdentificationSequence, group.DerivationImageSequence = [which], [derivation]
        ds.PerFrameFunctionalGroupsSequence.append(group)
    return "pydicom, the middle of five frames", source, ds, masks[4] | masks[5]


def plane(picture, within, contract):
    unit, turned = turn(within.astype(np.float64), picture.ds, picture, contract.get("orientation", "as-stored"))
    aspect = 1.0
    if contract["fit"] != "stretch":
        aspect = 1.0 / picture.aspect() if turned else picture.aspect()
    return resize(fit(unit, contract["fit"], aspect), contract["size"], "area").astype(np.float32)


def main():
    folder, contracts, corpus = pathlib.Path(sys.argv[1]), json.load(open(sys.argv[2])), pathlib.Path(sys.argv[3])
    for number, (name, source, mask, within) in enumerate(cases(corpus)):
        paths = {kind: str(folder / f"{number}.{kind}.dcm") for kind in ("image", "mask")}
        source.save_as(paths["image"], enforce_file_format=True)
        mask.save_as(paths["mask"])
        planes = []
        picture = Picture(pydicom.dcmread(paths["image"]), paths["image"], 0)
        for i, contract in enumerate(contracts if within is not None else []):
            try:
                np.save(folder / f"{number}.{i}.npy", np.ascontiguousarray(plane(picture, within, contract)))
                planes.append(str(folder / f"{number}.{i}.npy"))
            except Refused:
                planes.append(None)
        covered = 0 if within is None else int(within.sum())
        print(json.dumps({"name": name, **paths, "covered": covered, "planes": planes}))


if __name__ == "__main__":
    main()
