"""Writes, to greyscale images, twins of the other photometric interpretation that must look the same to a model.

Usage: twins.py OUT < LIST. LIST has one path a line. Each file is answered on standard output by a line of JSON: `shown`
and `units`, the twins in OUT or null, and `why` there is no `shown`. A twin is a plain image of one frame, number
⌊n/2⌋ + 1 of n, in Explicit VR Little Endian; what functional groups say of that frame stands in its data set.

The stored values of both are turned over within the range of the stored bits, v' = low + high − v, and MONOCHROME1 and
MONOCHROME2 are exchanged. What `shown` displays is then the same if its VOI is turned over too, since its modality
values are K − m where m are those of the original. `units`, of images in Hounsfield units, has the modality values of
the original instead (slope and intercept are turned over), so that it is displayed as a negative.
"""

import json
import pathlib
import sys
import warnings

import numpy as np
import pydicom
from normalise import Picture, first
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

OTHER = {"MONOCHROME1": "MONOCHROME2", "MONOCHROME2": "MONOCHROME1", "IDENTITY": "INVERSE", "INVERSE": "IDENTITY"}
GEOMETRY = ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "PatientOrientation"]
GEOMETRY += ["ImageLaterality", "Laterality"]


class NoTwin(Exception):
    """The image has none that could be written down."""


def turned_over(image):
    """A data set with the turned pixels, without modality LUT and VOI; and the sum of an original and its twin."""
    ds, values = image.ds, image.stored
    twin = Dataset()
    twin.file_meta = FileMetaDataset()
    twin.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    twin.SOPClassUID = twin.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = "2.25.7773"
    twin.StudyInstanceUID, twin.SeriesInstanceUID = "2.25.7771", "2.25.7772"
    twin.Modality = ds.get("Modality", "OT")
    twin.SamplesPerPixel, twin.Rows, twin.Columns = 1, *values.shape
    twin.PhotometricInterpretation = OTHER[ds.PhotometricInterpretation]
    if ds.get("PresentationLUTShape"):
        twin.PresentationLUTShape = OTHER[ds.PresentationLUTShape]
    if ds.get("PresentationLUTSequence"):
        raise NoTwin("a presentation table")
    if values.dtype.kind == "f":
        width, total = values.dtype.itemsize, 0
        twin.BitsAllocated = width * 8
        name = "FloatPixelData" if width == 4 else "DoubleFloatPixelData"
        setattr(twin, name, (-values).astype(f"<f{width}").tobytes())
    else:
        allocated = max(ds.BitsAllocated, 8)
        twin.BitsAllocated, twin.BitsStored, twin.HighBit = allocated, ds.BitsStored, ds.BitsStored - 1
        twin.PixelRepresentation = ds.PixelRepresentation
        total = -1 if ds.PixelRepresentation == 1 else 2**ds.BitsStored - 1
        data = (total - values.astype(np.int64)).astype(f"<{'ui'[ds.PixelRepresentation]}{allocated // 8}").tobytes()
        twin.PixelData = data + b"\0" * (len(data) % 2)
        twin["PixelData"].VR = "OB" if allocated == 8 else "OW"
    pad(image, twin, total)
    place(image, twin)
    return twin, total


def pad(image, twin, total):
    if image.padding is None:
        return
    if image.stored.dtype.kind == "f":
        kind = "Float" if image.stored.dtype.itemsize == 4 else "DoubleFloat"
        setattr(twin, kind + "PixelPaddingValue", -image.padding[0])
        setattr(twin, kind + "PixelPaddingRangeLimit", -image.padding[1])
        return
    seen = image.stored[image.is_padding()]
    # padding beyond the stored bits, which no pixel can have, need not be said
    if seen.size:
        vr = "SS" if image.ds.PixelRepresentation == 1 else "US"
        twin.add_new("PixelPaddingValue", vr, total - int(seen.min()))
        twin.add_new("PixelPaddingRangeLimit", vr, total - int(seen.max()))


def place(image, twin):
    """Spacing, sides and shutters, from the functional groups where they say it."""
    shutter = image.group("FrameDisplayShutterSequence")
    for source in [image.ds, image.group("PixelMeasuresSequence"), shutter]:
        if source is None:
            continue
        for element in source:
            if element.keyword in GEOMETRY or "Shutter" in element.keyword or "Collimator" in element.keyword:
                if element.value not in (None, "") and element.VR != "SQ":
                    twin[element.tag] = element
    anatomy = image.group("FrameAnatomySequence")
    if anatomy is not None and anatomy.get("FrameLaterality") and not twin.get("ImageLaterality"):
        twin.ImageLaterality = anatomy.FrameLaterality


def number(value):
    return DSfloat(value, auto_format=True)


def rescale(image):
    """Where it is said, slope and intercept."""
    group = image.group("PixelValueTransformationSequence")
    source = image.ds if group is None else group
    slope, intercept = first(source.get("RescaleSlope")), first(source.get("RescaleIntercept"))
    return source, 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def has_table(image):
    return image.group("PixelValueTransformationSequence") is None and bool(image.ds.get("ModalityLUTSequence"))


def mirrored(image, item, total, input_signed, vr):
    """The table upside down and back to front, for input that is `total` less the original's; and its largest entry."""
    first_mapped, entries, top = image.table(item, input_signed)
    start = total - (first_mapped + len(entries) - 1)
    low = -0x8000 if vr == "SS" else 0
    if entries.max() > top:
        raise NoTwin("entries of more bits than the table says")
    if not low <= start < low + 65536:
        raise NoTwin("a table that would begin where none may")
    count, bits = len(entries) % 65536, item.LUTDescriptor[2]
    table = Dataset()
    table.add_new("LUTDescriptor", vr, [count if vr == "US" else np.uint16(count).astype(np.int16).item(), start, bits])
    table.add_new("LUTData", "OW", (top - entries[::-1]).astype("<u2").tobytes())
    if item.get("ModalityLUTType"):
        table.ModalityLUTType = item.ModalityLUTType
    return table, top


def shown(image):
    twin, total = turned_over(image)
    signed = image.may_be_negative()
    if has_table(image):
        item, input_signed = image.ds.ModalityLUTSequence[0], image.ds.PixelRepresentation == 1
        table, k = mirrored(image, item, total, input_signed, "SS" if input_signed else "US")
        twin.ModalityLUTSequence = [table]
    else:
        source, slope, intercept = rescale(image)
        k = slope * total + 2 * intercept
        twin.RescaleSlope, twin.RescaleIntercept = number(slope), number(intercept)
        if source.get("RescaleType"):
            twin.RescaleType = source.RescaleType
    group = image.group("FrameVOILUTSequence")
    if group is None and image.ds.get("VOILUTSequence"):
        item = image.ds.VOILUTSequence[0]
        if not float(k).is_integer() or not np.all(np.mod(image.modality, 1) == 0):
            raise NoTwin("modality values between the entries of a VOI table")
        twin.VOILUTSequence = [mirrored(image, item, int(k), signed, "SS" if signed else "US")[0]]
        return twin
    source = image.ds if group is None else group
    center, width = first(source.get("WindowCenter")), first(source.get("WindowWidth"))
    if center is None or width is None:
        return twin
    function = source.get("VOILUTFunction") or "LINEAR"
    if function == "LINEAR" and width == 1 and np.any(image.modality == center - 0.5):
        raise NoTwin("values on the edge of a window of width 1, which are below it from either side")
    # LINEAR counts from the centre − ½
    twin.WindowCenter, twin.WindowWidth = number(k - center + (function == "LINEAR")), number(width)
    twin.VOILUTFunction = function
    return twin


def units(image):
    if not image.hounsfield() or has_table(image):
        return None
    twin, total = turned_over(image)
    _, slope, intercept = rescale(image)
    twin.RescaleSlope, twin.RescaleIntercept = number(-slope), number(intercept + slope * total)
    twin.RescaleType = "HU"
    return twin


def answer(path, out):
    names = {"shown": None, "units": None, "why": ""}
    try:
        ds = pydicom.dcmread(path, force=True)
        if ds.get("PhotometricInterpretation") not in OTHER:
            raise NoTwin("not greyscale")
        image = Picture(ds, path, int(ds.get("NumberOfFrames") or 1) // 2)
        for name, make in [("units", units), ("shown", shown)]:
            twin = make(image)
            if twin is not None:
                names[name] = f"{out}-{name}.dcm"
                twin.save_as(names[name], enforce_file_format=True)
    except Exception as reason:
        names["why"] = f"{type(reason).__name__}: {reason}"[:300]
    return names


def main(out):
    warnings.simplefilter("ignore")
    pydicom.config.logger.disabled = True
    for number_, path in enumerate(sys.stdin.read().splitlines()):
        print(json.dumps(answer(path, pathlib.Path(out) / str(number_))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
