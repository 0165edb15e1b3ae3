"""Images whose header says more than how their pixels are coded: units, windows, tables, padding, shutters, sides.

Written by make.py beside the encoded ones, as NAME_pydicom_explicit.dcm; those of `ENCODED` in other transfer syntaxes
too. Some contradict themselves, and must be refused.
"""

import itertools
import subprocess

import numpy as np
import pydicom
from phantom import COLUMNS, ROWS, dataset, picture
from pydicom.dataset import Dataset

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
# in which the VR of tables and padding is not written, or bytes are exchanged
ENCODED = ("float", "double", "enhanced", "padding", "voi", "presentation", "modality")
# big endian floating point is not supported: two files show it
REFUSED_ALIKE = [f"{kind}-{name}" for kind in ("float", "double") for name in ("padding", "padding-range", "window")]


def grey(bits=12, signed=False, photometric="MONOCHROME2", pixels=None, **attributes):
    """One frame, with the window that `dataset` gives it and more attributes."""
    pixels = picture(bits, signed, seed=50) if pixels is None else pixels
    allocated = 8 if bits <= 8 else 16
    pixels = pixels.astype(f"<{'i' if signed else 'u'}{allocated // 8}")
    return attributed(dataset(0, photometric, 1, allocated, bits, signed, 1, pixels), attributes)


def attributed(ds, attributes):
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def item(**attributes):
    return attributed(Dataset(), attributes)


def floating():
    """Float and Double Float Pixel Data; what is no number is padding wherever it is."""
    for name, kind, keyword in [("float", "<f4", "Float"), ("double", "<f8", "DoubleFloat")]:
        values = picture(16, seed=51) / 7.0 - 3000
        values[3:9, 5:11], values[20, 20], values[21, 21], values[22, :30] = np.nan, np.inf, -np.inf, -1e6
        values[30, :30], values[31, :30] = -1e6 - 1, -1e6 - 2

        def image(**attributes):
            ds = grey()
            for absent in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"):
                del ds[absent]
            ds.BitsAllocated = 8 * np.dtype(kind).itemsize
            setattr(ds, keyword + "PixelData", values.astype(kind).tobytes())
            return attributed(ds, attributes)

        padding, limit = keyword + "PixelPaddingValue", keyword + "PixelPaddingRangeLimit"
        yield f"{name}-nan", image()
        yield f"{name}-padding", image(**{padding: -1e6})
        yield f"{name}-padding-range", image(**{padding: -1e6, limit: -1e6 - 2})
        yield f"{name}-window", image(**{padding: -1e6}, WindowCenter=1500, WindowWidth=4000, RescaleSlope=2)


def enhanced():
    """Three frames, each with a rescale and window of its own; those of the image itself must not count."""
    rescales = [(1, -1024), (0.5, -300), (2, 10)]
    windows = [(40, 1500, "LINEAR"), (300, 1000, "LINEAR_EXACT"), (4000, 3000, "SIGMOID")]

    def value(i):
        slope, intercept = rescales[i]
        rescale = item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")
        return {"PixelValueTransformationSequence": [rescale]}

    def voi(i):
        center, width, function = windows[i]
        return {"FrameVOILUTSequence": [item(WindowCenter=center, WindowWidth=width, VOILUTFunction=function)]}

    def image(shared, per_frame):
        frames = np.stack([picture(12, seed=52 + i) for i in range(3)]).astype("<u2")
        ds = dataset(0, "MONOCHROME2", 1, 16, 12, False, 3, frames)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
        ds.Modality = "CT"
        ds.RescaleSlope, ds.RescaleIntercept = 7, 7
        ds.SharedFunctionalGroupsSequence = [item(**shared)]
        ds.PerFrameFunctionalGroupsSequence = [item(**of_frame) for of_frame in per_frame]
        return ds

    own = [value(i) | voi(i) for i in range(3)]
    yield "enhanced-shared", image(own[1], [{}, {}, {}])
    yield "enhanced-per-frame", image({}, own)
    yield "enhanced-per-frame-over-shared", image(own[0], own[::-1])
    yield "enhanced-per-frame-windows", image(value(2), [voi(2), voi(0), voi(1)])
    yield "enhanced-per-frame-rescales", image(voi(0), [value(2), value(0), value(1)])
    yield "enhanced-one-frame-over-shared", image(own[0], [{}, own[1], {}])
    yield "enhanced-one-frame-without", image({}, [own[0], {}, own[2]])
    shutters = [
        item(ShutterShape="CIRCULAR", CenterOfCircularShutter=[30, 24], RadiusOfCircularShutter=20),
        item(ShutterShape="RECTANGULAR", **rectangle("Shutter")),
        item(ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=POLYGON),
    ]
    shutters = [{"FrameDisplayShutterSequence": [shutter]} for shutter in shutters]
    measures = {"PixelMeasuresSequence": [item(PixelSpacing=[0.6, 0.4])]}
    sides = [{"FrameAnatomySequence": [item(FrameLaterality=side)]} for side in "LRL"]
    yield "enhanced-frame-shutters", image(own[0] | measures, shutters)
    yield "enhanced-shared-shutter", image(own[0] | shutters[0], [{}, shutters[1], {}])
    ds = image(own[0] | measures, sides)
    del ds.ImageLaterality
    yield "enhanced-frame-sides", ds


def padding():
    """Value alone, value and limit, limit below value; a block of pixels on and between them, and just outside."""
    for name, bits, signed, photometric, value, limit in [
        ("unsigned", 12, False, "MONOCHROME2", 0, None),
        ("unsigned-range", 12, False, "MONOCHROME2", 0, 40),
        ("unsigned-reversed", 12, False, "MONOCHROME2", 4095, 3990),
        ("white", 12, False, "MONOCHROME1", 4095, 4000),
        ("signed", 16, True, "MONOCHROME2", -32768, None),
        ("signed-range", 16, True, "MONOCHROME2", -32768, -32000),
        ("signed-reversed", 16, True, "MONOCHROME2", -31000, -32768),
        ("signed-around-zero", 12, True, "MONOCHROME2", 100, -100),
        ("8", 8, False, "MONOCHROME2", 255, 250),
    ]:
        pixels = picture(bits, signed, seed=55)
        low, high = sorted([value, value if limit is None else limit])
        block = np.linspace(low - 3, high + 3, 12 * 10).round().astype(int).clip(pixels.min(), pixels.max())
        pixels[4:16, 6:16] = block.reshape(12, 10)
        ds = grey(bits, signed, photometric, pixels, PixelPaddingValue=value)
        if limit is not None:
            ds.PixelPaddingRangeLimit = limit
        yield f"padding-{name}", ds


def table(first, entries, bits, vr="US", data="OW", packed=False, **attributes):
    """A look-up table; `packed`: two entries in a word, as 8-bit entries may be."""
    entries = np.asarray(entries).astype("u1" if packed else "<u2")
    count = len(entries) % 65536
    lut = item(**attributes)
    lut.add_new("LUTDescriptor", vr, [count, first, bits])
    content = entries.tobytes()
    lut.add_new("LUTData", data, entries.tolist() if data == "US" else content + b"\0" * (len(content) % 2))
    return lut


def curve(count, bits, power=0.6):
    return np.round(np.linspace(0, 1, count) ** power * (2**bits - 1))


def tables():
    """VOI and modality tables; the window that is there too does not count."""
    wave = np.round((0.5 + 0.5 * np.sin(np.arange(4096) / 300)) * 4095)
    yield "voi-12-bits", grey(VOILUTSequence=[table(0, wave, 12)])
    yield "voi-us", grey(VOILUTSequence=[table(0, curve(4096, 16), 16, data="US")])
    yield "voi-short", grey(VOILUTSequence=[table(700, curve(1500, 10), 10)])
    yield "voi-short-8-bits", grey(VOILUTSequence=[table(700, curve(1500, 8), 8)])
    yield "voi-signed", grey(12, True, VOILUTSequence=[table(-1800, curve(3000, 16), 16, "SS")])
    yield "voi-65536", grey(16, VOILUTSequence=[table(0, curve(65536, 16), 16)])
    yield "voi-65536-signed", grey(16, True, VOILUTSequence=[table(-32768, curve(65536, 12), 12, "SS")])
    yield "voi-packed", grey(8, VOILUTSequence=[table(0, curve(256, 8), 8, packed=True)])
    yield "voi-packed-odd", grey(8, VOILUTSequence=[table(3, curve(201, 8), 8, packed=True)])
    yield "voi-packed-12u", grey(VOILUTSequence=[table(100, curve(3001, 8), 8, packed=True)])
    several = [table(0, wave, 12, LUTExplanation="FIRST"), table(0, wave[::-1], 12, LUTExplanation="SECOND")]
    yield "voi-several", grey(VOILUTSequence=several)
    rescaled = {"RescaleSlope": 0.5, "RescaleIntercept": -600, "RescaleType": "US"}
    yield "voi-after-rescale", grey(**rescaled, VOILUTSequence=[table(-600, curve(2048, 14), 14, "SS")])
    steep = {"RescaleSlope": 3, "RescaleIntercept": 1000, "RescaleType": "US"}
    yield "voi-after-steep-rescale", grey(**steep, VOILUTSequence=[table(1500, curve(9000, 12), 12)])
    yield "voi-white", grey(photometric="MONOCHROME1", VOILUTSequence=[table(0, wave, 12)])
    units = {"ModalityLUTType": "US"}
    yield "modality-table", grey(ModalityLUTSequence=[table(0, curve(4096, 14, 1.7), 14, **units)])
    packed = table(0, curve(256, 8, 1.7), 8, packed=True, **units)
    yield "modality-packed", grey(8, ModalityLUTSequence=[packed])
    signed = grey(12, True, ModalityLUTSequence=[table(-2000, curve(4000, 12), 12, "SS", ModalityLUTType="HU")])
    del signed.RescaleSlope, signed.RescaleIntercept, signed.RescaleType
    yield "modality-signed", signed
    chain = [table(0, curve(4096, 10, 1.7), 10, **units)]
    yield "modality-voi", grey(ModalityLUTSequence=chain, VOILUTSequence=[table(50, curve(900, 12), 12)])


def shown():
    """Windows, and what comes after: MONOCHROME1 with IDENTITY or a table contradicts, and so MONOCHROME2 with INVERSE."""
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        windows = {"WindowCenter": [1200, 3000], "WindowWidth": [1700, 300], "VOILUTFunction": function}
        yield f"windows-two-{function.lower().replace('_', '-')}", grey(**windows)
    yield "windows-two-white", grey(photometric="MONOCHROME1", WindowCenter=[1200, 3000], WindowWidth=[1700, 300])
    presentation = {"PresentationLUTSequence": [table(0, curve(1024, 12), 12)]}
    for shade, photometric in [("white", "MONOCHROME1"), ("black", "MONOCHROME2")]:
        yield f"presentation-inverse-{shade}", grey(photometric=photometric, PresentationLUTShape="INVERSE")
        yield f"presentation-identity-{shade}", grey(photometric=photometric, PresentationLUTShape="IDENTITY")
        yield f"presentation-table-{shade}", grey(photometric=photometric, **presentation)
    yield "presentation-table-us", grey(PresentationLUTSequence=[table(0, curve(256, 16, 2), 16, data="US")])


POLYGON = [3, 24, 30, 44, 58, 20, 25, 4]


def rectangle(kind):
    edges = {"LeftVerticalEdge": 6, "RightVerticalEdge": 41, "UpperHorizontalEdge": 9, "LowerHorizontalEdge": 52}
    return {kind + name: position for name, position in edges.items()}


def hidden():
    """Shutters and collimators of every shape; borders that are part of the pixels."""
    for kind in ("Shutter", "Collimator"):
        circle = {f"CenterOfCircular{kind}": [30, 24], f"RadiusOfCircular{kind}": 20}
        polygon = {f"VerticesOfThePolygonal{kind}": POLYGON}
        shape, low = f"{kind}Shape", kind.lower()
        yield f"{low}-rectangle", grey(**{shape: "RECTANGULAR"}, **rectangle(kind))
        yield f"{low}-circle", grey(**{shape: "CIRCULAR"}, **circle)
        for name, spacing in [("tall", [0.4, 0.25]), ("wide", [0.25, 0.4])]:
            yield f"{low}-circle-{name}", grey(**{shape: "CIRCULAR"}, **circle, PixelSpacing=spacing)
        yield f"{low}-circle-ratio", grey(**{shape: "CIRCULAR"}, **circle, PixelAspectRatio=[5, 4])
        yield f"{low}-polygon", grey(**{shape: "POLYGONAL"}, **polygon)
        every = {shape: ["RECTANGULAR", "CIRCULAR", "POLYGONAL"]} | rectangle(kind) | circle | polygon
        yield f"{low}-combined", grey(**every, PixelSpacing=[0.3, 0.2])
        yield f"{low}-combined-white", grey(photometric="MONOCHROME1", **every)
        yield f"{low}-nothing-left", grey(**{shape: "CIRCULAR"}, **(circle | {f"CenterOfCircular{kind}": [900, 900]}))
    yield "shutter-bitmap", grey(ShutterShape="BITMAP", ShutterOverlayGroup=0x6000)
    both = {"ShutterShape": "RECTANGULAR", "CollimatorShape": "POLYGONAL", "VerticesOfThePolygonalCollimator": POLYGON}
    yield "shutter-and-collimator", grey(**both, **rectangle("Shutter"), PixelPaddingValue=0)
    rng = np.random.default_rng(56)
    for name, bits, signed, photometric, noise, levels in [
        ("black", 12, False, "MONOCHROME2", 50, "bbbb"),
        ("white", 12, False, "MONOCHROME2", 50, "wwww"),
        ("of-monochrome1", 12, False, "MONOCHROME1", 50, "wwww"),
        ("two-kinds", 12, False, "MONOCHROME2", 30, "bwbw"),
        ("one-side", 12, False, "MONOCHROME2", 30, "..b."),
        ("too-noisy", 12, False, "MONOCHROME2", 400, "bbbb"),
        ("8-bits", 8, False, "MONOCHROME2", 3, "bbww"),
        ("signed", 16, True, "MONOCHROME2", 900, "bbbb"),
    ]:
        pixels = picture(bits, signed, seed=57)
        low, high = pixels.min(), pixels.max()
        sides = [np.s_[:5, :], np.s_[-7:, :], np.s_[:, :4], np.s_[:, -6:]]
        for side, level in zip(sides, levels):
            grain = rng.integers(0, noise, pixels.shape)
            if level != ".":
                pixels[side] = (low + grain if level == "b" else high - grain)[side]
        pixels[30, 20], pixels[31, 21] = low, high
        yield f"border-{name}", grey(bits, signed, photometric, pixels)
    framed = picture(12, seed=58)
    framed[:9], framed[:, :9] = 0, 4095
    yield "border-within-shutter", grey(pixels=framed, ShutterShape="RECTANGULAR", **rectangle("Shutter"))
    yield "border-and-padding", grey(pixels=framed, PixelPaddingValue=4095)


def sides():
    """Every laterality with each orientation of a lateral or turned view, and with none."""
    orientations = [["P", "F"], ["A", "R"], ["F", "L"], ["A", "FL"], ["PR", "HL"], ["L", "F"], ["R", "H"], []]
    for orientation, side in itertools.product(orientations, ["L", "R", "B", None]):
        ds = grey(Modality="MG", PatientOrientation=orientation, PixelSpacing=[0.2, 0.3])
        del ds.ImageLaterality
        if side:
            ds.ImageLaterality = side
        yield f"side-{'-'.join(orientation or ['unsaid']).lower()}-{(side or 'none').lower()}", ds
    ds = grey(Laterality="R")
    del ds.ImageLaterality
    yield "side-of-series", ds
    yield "side-of-image-before-series", grey(ImageLaterality="L", Laterality="R")
    yield "side-one-direction", grey(PatientOrientation="P")
    yield "side-no-letter", grey(PatientOrientation=["X", "F"])
    planes = {"axial": [1, 0, 0, 0, 1, 0], "coronal": [-1, 0, 0, 0, 0, -1], "turned": [0, 1, 0, -1, 0, 0]}
    for name, cosines in planes.items():
        yield f"side-{name}", grey(ImageOrientationPatient=cosines, ImagePositionPatient=[0, 0, 0])


def write(folder):
    groups = [floating, enhanced, padding, tables, shown, hidden, sides]
    for number, (name, ds) in enumerate(itertools.chain(*(group() for group in groups)), 100):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.777{number}"
        source = folder / f"{name}_pydicom_explicit.dcm"
        ds.save_as(source, enforce_file_format=True)
        if not name.startswith(ENCODED):
            continue
        for syntax, option in [("implicit", "+ti"), ("big-endian", "+tb")]:
            if syntax == "big-endian" and name in REFUSED_ALIKE:
                continue
            subprocess.run(["dcmconv", option, source, folder / f"{name}_dcmtk_{syntax}.dcm"], check=True)
        if "PixelData" in ds:
            encoded = pydicom.dcmread(source)
            encoded.compress("1.2.840.10008.1.2.4.90", encoding_plugin="pylibjpeg", generate_instance_uid=False)
            encoded.save_as(folder / f"{name}_pydicom_j2k.dcm")
