#!/usr/bin/env python3
"""What a DICOM image becomes under an input contract, computed without sidelight.

The reference of the normalised tensors: pydicom decodes, numpy applies what the Standard says (PS3.4 N.2, PS3.3 C.7.6.3,
C.7.6.11, C.11), Pillow resizes. Pillow's BILINEAR on mode F is what torchvision applies to PIL images, and equals its
antialiased resize of tensors within 1e-5. Written from the Standard and the documented meaning of a contract, not from
the Rust code. Windows and tables are computed here, because pydicom scales windows to a range of stored values and
wraps the input of 8-bit tables around; and functional groups, which it does not read.

    normalise.py IMAGE CONTRACT.json OUT.npy [--frame N]
    normalise.py CONTRACTS.json < LIST

The first is for one tensor; the exit status is 3 and the reason is printed where the contract must not be fulfilled.
The second is for tests/it/tensors.rs: LIST has one path a line, CONTRACTS.json a list of contracts, and three frames
of each file are normalised (see `three`). The answer to each file, on standard output, is a line of JSON, `frames`
(their numbers, from 1), `refused` (contract by contract, frame by frame: null, or the reason why there is none; it
begins with "crashed: " where the reference could not tell) and `reader`, then the tensors in that order as 32-bit
floating point numbers, little endian.

Needs numpy, pydicom, pillow, imagecodecs, pylibjpeg[all], pyjpegls, python-gdcm and dcmtk's dcmdjpeg, as stored.py beside it.
"""

import argparse
import itertools
import json
import os
import sys
import warnings

import numpy as np
import pydicom
import stored
from forms import first_frame, transformed
from PIL import Image
from pydicom.pixels import apply_color_lut, get_decoder


class Refused(Exception):
    """The image cannot be brought to the contract."""


def normalise(path, contract, frame=0):
    """The tensor (channels, size, size) of one frame, counted from 0, as float32."""
    return tensor(Picture(pydicom.dcmread(path, force=True), path, frame), contract)


def tensor(image, contract):
    ds = image.ds
    if contract["range"]["policy"] == "hu-window" and not image.hounsfield():
        raise Refused("no rescale to Hounsfield units")
    hidden = mask(image, contract.get("mask", []))
    unit = unit_range(image, contract["range"], hidden)
    unit, turned = turn(unit, ds, image, contract.get("orientation", "as-stored"))
    aspect = 1.0
    if contract["fit"] != "stretch":
        aspect = 1.0 / image.aspect() if turned else image.aspect()
    square = fit(unit, contract["fit"], aspect)
    small = resize(square, contract["size"], contract.get("filter", "bilinear")).clip(0, 1)
    low, high = contract["low"], contract["high"]
    value = low + (high - low) * small
    channels = [(value - m) / s for m, s in zip(contract["mean"], contract["std"])]
    return np.stack(channels).astype(np.float32)


class Picture:
    """One frame: stored values (grey, or the luminance of colour) and what they mean."""

    def __init__(self, ds, path, frame):
        if not any(name in ds for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise Refused("no pixel data")
        ds = stored.plain(ds) if "TransferSyntaxUID" in ds.file_meta else ds
        self.ds, self.frame = ds, frame
        syntax = ds.file_meta.get("TransferSyntaxUID") or pydicom.uid.ImplicitVRLittleEndian
        coded, photometric, self.reader = samples(ds, syntax, path, frame)
        if ds.SamplesPerPixel == 3 and syntax in JPEG_2000:
            named = ds.PhotometricInterpretation
            if named != "RGB" and (named in ("YBR_RCT", "YBR_ICT")) != transformed(first_frame(ds)):
                raise Refused("photometric interpretation contradicts the component transform")
        self.padding = None
        self.colour_max = None
        self.inverted = False
        if ds.SamplesPerPixel == 3:
            self.colour_max = 2.0 ** ds.BitsStored - 1
            coded = coded.astype(np.float64)
            self.stored = coded[..., 0] if photometric.startswith("YBR_FULL") else luma(coded)
        elif photometric == "PALETTE COLOR":
            self.colour_max = 2.0 ** ds.RedPaletteColorLookupTableDescriptor[2] - 1
            self.stored = luma(apply_color_lut(coded, with_little_endian_tables(ds)))
        else:
            # pydicom does not know JPEG XL
            lossy = syntax not in stored.JPEG_XL and syntax.is_compressed and "Lossless" not in syntax.name
            self.stored = self.without_overshoot(coded) if lossy else self.without_high_bits(coded)
            self.padding = self.padding_range()
            self.inverted = self.polarity(photometric)
        self.modality = self.modality_values()

    def without_high_bits(self, stored):
        """Bits outside Bits Stored are not part of the value."""
        if stored.dtype.kind == "f":
            return stored
        ds = self.ds
        bits, shift = ds.BitsStored, ds.get("HighBit", ds.BitsStored - 1) + 1 - ds.BitsStored
        values = (stored.astype(np.int64) >> shift) & ((1 << bits) - 1)
        if ds.PixelRepresentation == 1:
            values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
        return values

    def without_overshoot(self, values):
        """A lossy frame may overshoot Bits Stored: values are cut off, not masked."""
        low = -(2 ** (self.ds.BitsStored - 1)) if self.ds.PixelRepresentation else 0
        return values.astype(np.int64).clip(low, low + 2**self.ds.BitsStored - 1)

    def padding_range(self):
        """Pixel Padding Value and Range Limit, also of floating point."""
        ds = self.ds
        kind = "" if "PixelData" in ds else ("Float" if "FloatPixelData" in ds else "DoubleFloat")
        value = ds.get(kind + "PixelPaddingValue")
        if value is None:
            return None
        limit = ds.get(kind + "PixelPaddingRangeLimit", value)
        if kind == "" and ds.PixelRepresentation == 1:
            value, limit = (v - 65536 if v >= 32768 else v for v in (value, limit))
        return min(value, limit), max(value, limit)

    def polarity(self, photometric):
        """Whether the lowest value is white."""
        white = photometric == "MONOCHROME1"
        shape = self.ds.get("PresentationLUTShape")
        if shape and (shape == "INVERSE") != white:
            raise Refused("photometric interpretation contradicts presentation LUT shape")
        if white and self.ds.get("PresentationLUTSequence"):
            raise Refused("both photometric interpretation and presentation LUT sequence may invert")
        return white

    def group(self, name):
        """The first item of a functional group macro, of the frame before the shared one."""
        per_frame = self.ds.get("PerFrameFunctionalGroupsSequence") or []
        shared = self.ds.get("SharedFunctionalGroupsSequence") or []
        for items in (per_frame[self.frame : self.frame + 1], shared[:1]):
            if items and items[0].get(name):
                return items[0].get(name)[0]
        if name in TRANSFORMS and any(item.get(name) for item in per_frame):
            raise Refused("some frames have a transformation and this frame has none")
        return None

    def table(self, item, signed):
        """First value mapped, entries and largest possible entry (PS3.3 C.11.1.1, C.11.2.1.1)."""
        count, start, bits = (int(v) for v in item.LUTDescriptor)
        if self.ds.original_encoding[0]:
            # the VR is not written: whether the input may be negative decides
            start = (start & 0xFFFF) - (0x10000 if signed and start & 0x8000 else 0)
        count = count & 0xFFFF or 0x10000
        data, big = item.LUTData, not self.ds.original_encoding[1]
        if isinstance(data, bytes):
            words = np.frombuffer(data, ">u2" if big else "<u2")
        else:
            words = np.atleast_1d(np.asarray(data))
        words = words.astype("<u2")
        # 8-bit entries may be two in a word
        entries = words if len(words) >= count else np.frombuffer(words.tobytes(), "u1")
        return start, entries[:count].astype(np.int64), 2**bits - 1

    def looked_up(self, item, values, signed):
        start, entries, _ = self.table(item, signed)
        return entries[(np.round(values).astype(np.int64) - start).clip(0, len(entries) - 1)].astype(np.float64)

    def plane_letters(self):
        """The axes nearest to rows and columns, by Image Orientation (Patient)."""
        plane = self.group("PlaneOrientationSequence")
        cosines = (self.ds if plane is None else plane).get("ImageOrientationPatient")
        if not cosines or len(cosines) != 6:
            return []
        names = [("R", "L"), ("A", "P"), ("F", "H")]
        directions = np.array([float(c) for c in cosines]).reshape(2, 3)
        return [names[int(np.abs(d).argmax())][int(d[np.abs(d).argmax()] > 0)] for d in directions]

    def modality_values(self):
        if self.colour_max is not None:
            return self.stored.astype(np.float64)
        group = self.group("PixelValueTransformationSequence")
        if group is None and self.ds.get("ModalityLUTSequence"):
            return self.looked_up(self.ds.ModalityLUTSequence[0], self.stored, self.ds.PixelRepresentation == 1)
        source = group if group is not None else self.ds
        slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
        slope = 1.0 if slope in (None, "") else float(slope)
        intercept = 0.0 if intercept in (None, "") else float(intercept)
        return self.stored * slope + intercept

    def hounsfield(self):
        if self.colour_max is not None:
            return False
        group = self.group("PixelValueTransformationSequence")
        if group is None and self.ds.get("ModalityLUTSequence"):
            return self.ds.ModalityLUTSequence[0].get("ModalityLUTType") == "HU"
        source = group if group is not None else self.ds
        if source.get("RescaleSlope") in (None, "") or source.get("RescaleIntercept") in (None, ""):
            return False
        kind = source.get("RescaleType")
        return kind == "HU" if kind else self.ds.get("Modality") == "CT"

    def stored_range(self):
        """The range that the stored bits allow, as modality values; none for floating point."""
        ds = self.ds
        if self.colour_max is not None:
            return 0.0, self.colour_max
        if self.stored.dtype.kind == "f":
            return None
        if self.group("PixelValueTransformationSequence") is None and ds.get("ModalityLUTSequence"):
            return 0.0, 2.0 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        low, high = (0, 2**ds.BitsStored - 1)
        if ds.PixelRepresentation == 1:
            low, high = -(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1
        source = self.group("PixelValueTransformationSequence")
        source = ds if source is None else source
        slope, intercept = float(source.get("RescaleSlope") or 1), float(source.get("RescaleIntercept") or 0)
        ends = low * slope + intercept, high * slope + intercept
        return min(ends), max(ends)

    def may_be_negative(self):
        ends = self.stored_range()
        return ends is None or ends[0] < 0

    def is_padding(self):
        padding = ~np.isfinite(self.stored)
        if self.padding:
            padding |= (self.stored >= self.padding[0]) & (self.stored <= self.padding[1])
        return padding

    def voi(self):
        """The image's own VOI as 0..1, before clipping, or none."""
        if self.colour_max is not None:
            return self.modality / self.colour_max
        group = self.group("FrameVOILUTSequence")
        if group is None and self.ds.get("VOILUTSequence"):
            table = self.ds.VOILUTSequence[0]
            values = self.looked_up(table, self.modality, self.may_be_negative())
            return values / (2.0 ** table.LUTDescriptor[2] - 1)
        source = self.ds if group is None else group
        center, width = first(source.get("WindowCenter")), first(source.get("WindowWidth"))
        if center is None or width is None:
            return None
        function = source.get("VOILUTFunction") or "LINEAR"
        if width < 1 and function == "LINEAR" or width <= 0:
            return None
        x = self.modality
        if function == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (x - center) / width))
        if function == "LINEAR_EXACT":
            return (x - center) / width + 0.5
        if width == 1:
            return (x > center - 0.5).astype(np.float64)
        return (x - (center - 0.5)) / (width - 1) + 0.5

    def aspect(self):
        """Height of a pixel over its width."""
        measures = self.group("PixelMeasuresSequence")
        spacings = [measures.get("PixelSpacing") if measures is not None else None]
        names = "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"
        spacings += [self.ds.get(name) for name in names]
        for spacing in spacings:
            if not spacing:
                continue
            height, width = (float(v) for v in spacing)
            if height == 0 or width == 0:
                continue
            if not (height > 0 and width > 0 and 0.1 <= height / width <= 10):
                raise Refused("pixel spacing")
            ratio = height / width
            return 1.0 if abs(ratio - 1) <= 0.01 else ratio
        return 1.0


TRANSFORMS = "PixelValueTransformationSequence", "FrameVOILUTSequence"
JPEG_2000 = [f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)]

# 8-bit DCT: pylibjpeg, which the conformance test compares with, may differ by one stored value from the decoders that
# descend from the JPEG group's own, and so by 1/255 of the range. GDCM's is of that family, but of other code than ours.
READERS = stored.ORDER | {"1.2.840.10008.1.2.4.50": ["gdcm"]}


def samples(ds, syntax, path, frame):
    """One frame as coded, its photometric interpretation, and who decoded it."""
    if syntax in stored.JPEG_XL:
        reader, frames = stored.decode(ds, path)
        return frames[frame], "RGB" if ds.SamplesPerPixel == 3 else ds.PhotometricInterpretation, reader
    if not syntax.is_encapsulated:
        values, meta = get_decoder(syntax).as_array(ds, index=frame, raw=True)
        return values, meta["photometric_interpretation"], "pydicom"
    faults = []
    for reader in READERS.get(syntax, stored.PLUGINS):
        try:
            if reader == "dcmtk":
                values = stored.with_dcmtk(path)[frame]
                return values.reshape(ds.Rows, ds.Columns, *values.shape[2:]), ds.PhotometricInterpretation, reader
            if reader == "OpenJPH":
                photometric = "RGB" if ds.SamplesPerPixel == 3 else ds.PhotometricInterpretation
                return stored.with_openjph(ds)[frame], photometric, reader
            values, meta = get_decoder(syntax).as_array(ds, index=frame, raw=True, decoding_plugin=reader)
            return values, meta["photometric_interpretation"], reader
        except Exception as fault:  # the reader does not know the syntax, or this kind of image
            faults.append(f"{reader}: {fault}")
    raise ValueError("; ".join(faults)[:600])


def with_little_endian_tables(ds):
    """pydicom takes palettes for little endian whatever the transfer syntax."""
    if ds.original_encoding[1]:
        return ds
    for colour in ("Red", "Green", "Blue"):
        element = ds[colour + "PaletteColorLookupTableData"]
        element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
    return ds


def luma(rgb):
    """ITU-R BT.601 in whole numbers, halves up."""
    return ((rgb.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000).astype(np.float64)


def first(value):
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value in (None, "") else float(value)


def unit_range(image, policy, hidden):
    x, padding = image.modality, image.is_padding()
    name = policy["policy"]
    unit = None
    if name == "window":
        unit = image.voi()
    elif name in ("fixed", "hu-window"):
        unit = (x - policy["center"]) / policy["width"] + 0.5
    ends = image.stored_range() if name == "stored-bits" else None
    if unit is None:
        if ends is None:
            seen = x[~padding & ~hidden & np.isfinite(x)]
            ends = (seen.min(), seen.max()) if seen.size else (0.0, 0.0)
        low, high = ends
        unit = (x - low) / (high - low) if high > low else np.zeros(x.shape)
    unit = np.clip(np.nan_to_num(unit, nan=0.0), 0, 1)
    table = image.ds.get("PresentationLUTSequence")
    if name == "window" and table:
        _, entries, top = image.table(table[0], False)
        unit = entries[np.floor(unit * (len(entries) - 1) + 0.5).astype(int)] / top
    if image.inverted and name != "hu-window":
        unit = 1 - unit
    return np.where(padding | hidden, 0.0, unit)


def mask(image, names):
    rows, columns = image.stored.shape
    hidden = np.zeros((rows, columns), dtype=bool)
    if "shutter" in names:
        source = image.group("FrameDisplayShutterSequence")
        hidden |= outside(image.ds if source is None else source, "Shutter", image)
        hidden |= outside(image.ds, "Collimator", image)
        if hidden.all():
            raise Refused("nothing visible")
    if "border" in names:
        hidden |= border(np.ma.array(image.stored.astype(np.float64), mask=hidden | image.is_padding()))
    return hidden


def outside(ds, kind, image):
    rows, columns = image.stored.shape
    row, column = np.mgrid[1 : rows + 1, 1 : columns + 1].astype(np.float64)
    visible = np.ones((rows, columns), dtype=bool)
    shapes = ds.get(kind + "Shape") or []
    for shape in [shapes] if isinstance(shapes, str) else shapes:
        if shape == "RECTANGULAR":
            edge = lambda name: float(ds[kind + name].value)
            visible &= (column >= edge("LeftVerticalEdge")) & (column <= edge("RightVerticalEdge"))
            visible &= (row >= edge("UpperHorizontalEdge")) & (row <= edge("LowerHorizontalEdge"))
        elif shape == "CIRCULAR":
            y, x = (float(v) for v in ds["CenterOfCircular" + kind].value)
            radius = float(ds["RadiusOfCircular" + kind].value)
            visible &= ((row - y) * image.aspect()) ** 2 + (column - x) ** 2 <= radius**2
        elif shape == "POLYGONAL":
            points = np.array([float(v) for v in ds["VerticesOfThePolygonal" + kind].value]).reshape(-1, 2)
            inside = np.zeros((rows, columns), dtype=bool)
            for (y0, x0), (y1, x1) in zip(points, np.roll(points, -1, axis=0)):
                crosses = (y0 <= row) != (y1 <= row)
                with np.errstate(divide="ignore", invalid="ignore"):
                    inside ^= crosses & (x0 + (row - y0) / (y1 - y0) * (x1 - x0) <= column)
            visible &= inside
        else:
            raise Refused(f"{kind} shape {shape}")
    return ~visible


def border(values):
    """Rows and columns from the sides inwards that are all near the lowest or all near the highest value."""
    hidden = np.zeros(values.shape, dtype=bool)
    if values.count() == 0 or values.max() == values.min():
        return hidden
    low, high = values.min(), values.max()
    near = (high - low) / 64
    black = np.ma.getmaskarray(values) | np.ma.getdata(values <= low + near)
    white = np.ma.getmaskarray(values) | np.ma.getdata(values >= high - near)
    top, bottom, left, right = 0, values.shape[0], 0, values.shape[1]
    plain = lambda part: black[part].all() or white[part].all()
    before = None
    while before != (top, bottom, left, right):
        before = top, bottom, left, right
        while top < bottom and plain(np.s_[top, left:right]):
            top += 1
        while top < bottom and plain(np.s_[bottom - 1, left:right]):
            bottom -= 1
        while left < right and plain(np.s_[top:bottom, left]):
            left += 1
        while left < right and plain(np.s_[top:bottom, right - 1]):
            right -= 1
        if top >= bottom or left >= right:
            return hidden
    hidden[:] = True
    hidden[top:bottom, left:right] = False
    return hidden


def turn(unit, ds, image, policy):
    """The image as the policy wants it, and whether rows became columns."""
    directions = ds.get("PatientOrientation") or []
    letters = [str(d)[:1] for d in directions]
    if letters and policy != "as-stored" and (len(letters) != 2 or any(c not in "APRLHF" or not c for c in letters)):
        raise Refused("patient orientation")
    if policy == "laterality-left":
        if letters:
            if letters[1] == "H" or letters[0] not in "AP":
                raise Refused("the chest wall is on neither side")
            return (unit[:, ::-1] if letters[0] == "P" else unit), False
        anatomy = image.group("FrameAnatomySequence")
        side = ds.get("ImageLaterality") or (anatomy is not None and anatomy.get("FrameLaterality")) or ds.get("Laterality")
        if side not in ("L", "R"):
            raise Refused("laterality unknown")
        return (unit[:, ::-1] if side == "R" else unit), False
    if policy == "patient-orientation" and not letters:
        letters = image.plane_letters()
    if policy == "patient-orientation" and letters:
        turned = letters[0] in "HFAP"
        if turned:
            unit, letters = unit.T, letters[::-1]
        if letters[0] not in "LR" or letters[1] not in "HFAP":
            raise Refused("no right and left")
        unit = unit[:, ::-1] if letters[0] == "R" else unit
        return (unit[::-1] if letters[1] in "HA" else unit), turned
    return unit, False


def fit(unit, name, aspect):
    rows, columns = unit.shape
    if name == "stretch":
        return unit
    sides = rows * aspect, float(columns)
    side = min(sides) if name == "crop-center" else max(sides)
    # halves away from zero, not to even
    height, width = int(np.floor(side / aspect + 0.5)), int(np.floor(side + 0.5))
    if name == "crop-center":
        top, left = rows // 2 - height // 2, columns // 2 - width // 2
        return unit[top : top + height, left : left + width]
    top, left = (height - rows) // 2, (width - columns) // 2
    return np.pad(unit, ((top, height - rows - top), (left, width - columns - left)))


def resize(unit, size, name):
    if name == "bilinear":
        picture = Image.fromarray(np.ascontiguousarray(unit, dtype=np.float32))
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)
    rows, columns = unit.shape
    return shares(rows, size) @ unit @ shares(columns, size).T


def shares(length, size):
    """Which part of each output pixel each source pixel covers."""
    edges = np.arange(size + 1) * length / size
    source = np.arange(length)
    overlap = np.minimum(edges[1:, None], source + 1) - np.maximum(edges[:-1, None], source)
    return overlap.clip(0) * size / length


def three(count):
    """The first, the middle and the last of so many frames, or all; counted from 0."""
    return range(count) if count <= 3 else [i * (count - 1) // 2 for i in range(3)]


def reason(fault):
    """Why there is no tensor; a fault of the reference or its decoders is no refusal."""
    text = f"refused: {fault}" if isinstance(fault, Refused) else f"crashed: {type(fault).__name__}: {fault}"
    return text[:300]


def answer(path, contracts):
    """What is said of one file, as bytes."""
    refused, tensors, images, frames = [], [], [], [0]
    try:
        ds = pydicom.dcmread(path, force=True)
        frames = three(int(ds.get("NumberOfFrames") or 1))
        images = [Picture(ds, path, frame) for frame in frames]
    except Exception as fault:  # whatever it is that cannot be read
        refused = [reason(fault)] * len(contracts) * len(frames)
    for contract, image in itertools.product(contracts, images):
        try:
            tensors.append(tensor(image, contract).astype("<f4").tobytes())
            refused.append(None)
        except Exception as fault:
            refused.append(reason(fault))
    reader = images[0].reader if images else ""
    line = {"frames": [frame + 1 for frame in frames], "refused": refused, "reader": reader}
    return b"".join([json.dumps(line).encode(), b"\n", *tensors])


def batch(contracts):
    out = sys.stdout.buffer
    for path in sys.stdin.read().splitlines():
        # A decoder may end its process: each file has one of its own, which writes all or nothing.
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            text = answer(path, contracts)
            out.write(text)
            out.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            line = {"frames": [], "refused": ["crashed: the decoder ended its process"] * len(contracts), "reader": ""}
            out.write(json.dumps(line).encode() + b"\n")
            out.flush()


def main():
    warnings.simplefilter("ignore")
    pydicom.config.logger.disabled = True
    if len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        with open(sys.argv[1], encoding="utf-8") as file:
            return batch(json.load(file))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("contract", help="JSON file, the fields of domain::Contract")
    parser.add_argument("out", help=".npy of shape (channels, size, size)")
    parser.add_argument("--frame", type=int, default=1, help="counted from 1")
    options = parser.parse_args()
    with open(options.contract, encoding="utf-8") as file:
        contract = json.load(file)
    try:
        np.save(options.out, normalise(options.image, contract, options.frame - 1))
    except Refused as reason:
        print(f"refused: {reason}")
        sys.exit(3)


if __name__ == "__main__":
    main()
