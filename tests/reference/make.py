"""Writes small images in every transfer syntax, photometric interpretation and depth that dcmtk, GDCM, pylibjpeg,
libjxl and OpenJPH can make, for tests/it/conformance.rs and tests/it/tensors.rs. Usage: make.py FOLDER. The same files
every time.

Names are SOURCE_ENCODER_SYNTAX.dcm; what an encoder refuses is left out. What else a header may say is in meanings.py.
"""

import os
import pathlib
import subprocess
import sys
import warnings

import gdcm
import imagecodecs
import jpeg_ls
import meanings
import numpy as np
import openjpeg.utils
import pydicom
from phantom import COLUMNS, ROWS, dataset, picture
from pydicom.pixels import pixel_array

warnings.simplefilter("ignore")


def sources():
    """Name and data set of each uncompressed source."""
    number = 0
    for bits, signed in [(8, False), (10, False), (12, False), (14, False), (16, False), (12, True), (16, True)]:
        allocated = 8 if bits == 8 else 16
        kind = ("i" if signed else "u") + str(allocated // 8)
        for photometric in ["MONOCHROME2", "MONOCHROME1"] if bits in (8, 12) and not signed else ["MONOCHROME2"]:
            number += 1
            stored = picture(bits, signed, seed=number).astype("<" + kind)
            name = f"{photometric.lower()}-{bits}{'s' if signed else 'u'}"
            yield name, dataset(number, photometric, 1, allocated, bits, signed, 1, stored)
    number += 1
    frames = np.stack([picture(12, seed=20 + i) for i in range(3)]).astype("<u2")
    yield "multiframe-12u", dataset(number, "MONOCHROME2", 1, 16, 12, False, 3, frames)
    number += 1
    # the second frame begins at an odd byte
    frames = np.stack([picture(8, seed=20 + i) for i in range(3)]).astype("u1")
    yield "multiframe-8u", dataset(number, "MONOCHROME2", 1, 8, 8, False, 3, frames)
    number += 1
    yield "monochrome2-32u", dataset(number, "MONOCHROME2", 1, 32, 32, False, 1, picture(32, seed=5).astype("<u4"))
    number += 1
    yield "monochrome2-32s", dataset(number, "MONOCHROME2", 1, 32, 32, True, 1, picture(32, True, seed=6).astype("<i4"))
    colour = np.stack([picture(8, seed=30 + i) for i in range(3)], axis=-1).astype("u1")
    for photometric in ["RGB", "YBR_FULL"]:
        number += 1
        yield photometric.lower() + "-8", dataset(number, photometric, 3, 8, 8, False, 1, colour)
    number += 1
    palette = dataset(number, "PALETTE COLOR", 1, 8, 8, False, 1, picture(8, seed=40).astype("u1"))
    for i, colour_name in enumerate(["Red", "Green", "Blue"]):
        setattr(palette, colour_name + "PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = ((np.arange(256) * (i + 1) * 131) % 65536).astype("<u2").tobytes()
        setattr(palette, colour_name + "PaletteColorLookupTableData", table)
    yield "palette-8", palette


def run(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


DCMTK = {
    "implicit": ["dcmconv", "+ti"],
    "explicit": ["dcmconv", "+te"],
    "big-endian": ["dcmconv", "+tb"],
    "deflated": ["dcmconv", "+td"],
    "rle": ["dcmcrle"],
    "rle-many-fragments": ["dcmcrle", "+fs", "1"],
    "baseline": ["dcmcjpeg", "+eb", "+q", "95", "+ua"],
    "baseline-444": ["dcmcjpeg", "+eb", "+q", "95", "+s4", "+ua"],
    "baseline-rgb": ["dcmcjpeg", "+eb", "+q", "95", "+cr", "+ua"],
    "extended": ["dcmcjpeg", "+ee", "+q", "95", "+bt", "+ua"],
    "lossless-14": ["dcmcjpeg", "+el", "+ua"],
    "lossless-14-predictor-5": ["dcmcjpeg", "+el", "+sv", "5", "+ua"],
    "lossless-14-point-transform": ["dcmcjpeg", "+el", "+pt", "2", "+ua"],
    "lossless-sv1": ["dcmcjpeg", "+e1", "+ua"],
    "jpeg-ls": ["dcmcjpls", "+el", "+ua"],
    "jpeg-ls-sample": ["dcmcjpls", "+el", "+is", "+ua"],
    "jpeg-ls-near": ["dcmcjpls", "+en", "+md", "2", "+ua"],
}
GDCM = {
    "rle": gdcm.TransferSyntax.RLELossless,
    "lossless-14": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "lossless-sv1": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "baseline": gdcm.TransferSyntax.JPEGBaselineProcess1,
    "jpeg-ls": gdcm.TransferSyntax.JPEGLSLossless,
    "j2k": gdcm.TransferSyntax.JPEG2000Lossless,
    "j2k-lossy": gdcm.TransferSyntax.JPEG2000,
}
PYDICOM = {
    "rle": ("1.2.840.10008.1.2.5", {"encoding_plugin": "pylibjpeg"}),
    "j2k": ("1.2.840.10008.1.2.4.90", {"encoding_plugin": "pylibjpeg"}),
    "j2k-lossy": ("1.2.840.10008.1.2.4.91", {"encoding_plugin": "pylibjpeg", "j2k_cr": [10]}),
    "jpeg-ls": ("1.2.840.10008.1.2.4.80", {"encoding_plugin": "pyjpegls"}),
    "jpeg-ls-near": ("1.2.840.10008.1.2.4.81", {"encoding_plugin": "pyjpegls", "jls_error": 2}),
}


def with_gdcm(source, target, syntax):
    """In a process of its own: GDCM ends the process where an image does not suit a codec."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        write_gdcm(source, target, syntax)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        target.unlink(missing_ok=True)


def write_gdcm(source, target, syntax):
    gdcm.Trace.WarningOff(), gdcm.Trace.ErrorOff()
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    if not reader.Read():
        return
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    if not change.Change():
        return
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.Write()


def with_pydicom(source, target, uid, options):
    ds = pydicom.dcmread(source)
    try:
        ds.compress(uid, generate_instance_uid=False, **options)
        ds.save_as(target)
    except Exception:  # this encoder has no such format
        target.unlink(missing_ok=True)


def coded_deeper(ds, target, uid, encode):
    """One lossy grey frame coded with all the bits that are allocated, of which fewer are stored."""
    frame = np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2").reshape(ROWS, COLUMNS)
    save(pydicom.dcmread(ds.filename), target, uid, [bytes(encode(frame))])


JPEG_XL = {
    "jpeg-xl": ("1.2.840.10008.1.2.4.110", {"lossless": True}),
    "jpeg-xl-container": ("1.2.840.10008.1.2.4.110", {"lossless": True, "usecontainer": True}),
    "jpeg-xl-lossy": ("1.2.840.10008.1.2.4.112", {"distance": 0.5}),
}


def with_libjxl(source, target, uid, options):
    """JPEG XL (PS3.5 8.2.15): unsigned integers, grey or RGB; a lossy colour image is in XYB."""
    ds = pydicom.dcmread(source)
    lossy = "distance" in options
    if ds.PixelRepresentation == 1 or ds.BitsAllocated > 16 or ds.PhotometricInterpretation.startswith("YBR"):
        return
    if lossy and ds.PhotometricInterpretation == "PALETTE COLOR":
        return
    frames = [pixel_array(ds, index=i, raw=True) for i in range(int(ds.get("NumberOfFrames", 1)))]
    if lossy and ds.SamplesPerPixel == 3:
        ds.PhotometricInterpretation = "XYB"
    encode = imagecodecs.jpegxl_encode
    save(ds, target, uid, [encode(frame, bitspersample=ds.BitsStored, **options) for frame in frames])


def recompressed(source, target):
    """The JPEG Baseline frames of a file as JPEG XL, from which they could be restored to the byte."""
    ds = pydicom.dcmread(source)
    count = int(ds.get("NumberOfFrames", 1))
    frames = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=count)
    save(ds, target, "1.2.840.10008.1.2.4.111", [imagecodecs.jpegxl_encode_jpeg(frame) for frame in frames])


def save(ds, target, uid, frames):
    """Frames as they are, in any encapsulated transfer syntax."""
    ds.file_meta.TransferSyntaxUID = uid
    ds.PixelData = pydicom.encaps.encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.save_as(target, implicit_vr=False, little_endian=True, force_encoding=True)


def deep_j2k(frame):
    return openjpeg.utils.encode_array(frame, bits_stored=16, compression_ratios=[4], photometric_interpretation=2)


def deep_jpeg_ls(frame):
    """Clear of the ends of the range by as much as a sample may change."""
    frame = frame.clip(frame.min() + 2, frame.max() - 2).astype(frame.dtype)
    return jpeg_ls.encode_array(frame.view("<u2"), 2)


def colour_transforms(folder, name):
    """JPEG 2000 with the multiple component transform, and declared without it."""
    ds = pydicom.dcmread(folder / f"{name}_pydicom_explicit.dcm")
    frame = pixel_array(ds, raw=True)
    for syntax, uid, photometric, options in [
        ("j2k-rct", "1.2.840.10008.1.2.4.90", "YBR_RCT", {}),
        ("j2k-rct-in-any", "1.2.840.10008.1.2.4.91", "YBR_RCT", {}),
        ("j2k-ict", "1.2.840.10008.1.2.4.91", "YBR_ICT", {"compression_ratios": [5]}),
        ("j2k-rct-untransformed", "1.2.840.10008.1.2.4.90", "YBR_RCT", {"use_mct": False}),
        ("j2k-ict-untransformed", "1.2.840.10008.1.2.4.91", "YBR_ICT", {"use_mct": False, "compression_ratios": [5]}),
    ]:
        ds.PhotometricInterpretation = photometric
        encoded = openjpeg.utils.encode_array(frame, bits_stored=8, photometric_interpretation=1, **options)
        save(ds, folder / f"{name}_pydicom_{syntax}.dcm", uid, [bytes(encoded)])


HTJ2K = {
    "htj2k": ("1.2.840.10008.1.2.4.201", {"reversible": True}),
    "htj2k-rpcl": ("1.2.840.10008.1.2.4.202", {"reversible": True, "tlm": True}),
    "htj2k-any": ("1.2.840.10008.1.2.4.203", {"reversible": True}),
    "htj2k-lossy": ("1.2.840.10008.1.2.4.203", {"reversible": False, "level": 0.0005}),
}


def with_openjph(source, target, uid, options):
    """HTJ2K, whose packets OpenJPH orders by resolution (RPCL); grey and palettes only, of 8 or 16 bits."""
    ds = pydicom.dcmread(source)
    lossy = not options["reversible"]
    if ds.BitsAllocated > 16 or ds.SamplesPerPixel > 1 or lossy and ds.PhotometricInterpretation == "PALETTE COLOR":
        return
    frames = [pixel_array(ds, index=i, raw=True) for i in range(int(ds.get("NumberOfFrames", 1)))]
    save(ds, target, uid, [bytes(imagecodecs.htj2k_encode(frame, **options)) for frame in frames])


def overlaid(ds, folder, name):
    """Overlay planes in the bits above and below the stored ones (PS3.3 C.9.2, retired)."""
    values = np.frombuffer(ds.PixelData, "<u2") & 0xFFF
    overlay = np.arange(values.size) % 5 == 0
    ds.add_new(0x60000010, "US", ROWS), ds.add_new(0x60000011, "US", COLUMNS)
    ds.add_new(0x60000040, "CS", "G"), ds.add_new(0x60000050, "SS", [1, 1]), ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 13)
    ds.PixelData = (values | overlay * 0x2000).astype("<u2").tobytes()
    ds.save_as(folder / f"{name}_pydicom_overlay-above.dcm")
    ds[0x60000102].value = 2
    ds.HighBit = 15
    ds.PixelData = (values << 4 | overlay * 0x4).astype("<u2").tobytes()
    ds.save_as(folder / f"{name}_pydicom_overlay-below.dcm")


def variants(folder, name):
    """What an encoder does not write but a file may hold: made from files that are there already."""
    source = folder / f"{name}_pydicom_explicit.dcm"
    ds = pydicom.dcmread(source)
    length = ROWS * COLUMNS * ds.SamplesPerPixel * ds.BitsAllocated // 8
    frames = [ds.PixelData[i * length :][:length] for i in range(int(ds.get("NumberOfFrames", 1)))]
    save(pydicom.dcmread(source), folder / f"{name}_pydicom_encapsulated.dcm", "1.2.840.10008.1.2.1.98", frames)
    if ds.SamplesPerPixel == 3:
        values = np.frombuffer(ds.PixelData[: ROWS * COLUMNS * 3], "u1").reshape(ROWS * COLUMNS, 3)
        ds.PlanarConfiguration = 1
        data = values.T.tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)
        ds.save_as(folder / f"{name}_pydicom_planar.dcm")
    if ds.BitsAllocated == 16 and ds.BitsStored == 12 and ds.get("NumberOfFrames", 1) == 1:
        values = np.frombuffer(ds.PixelData, "<u2")
        garbage = (np.arange(values.size) * 7919 & 0xF) << 12
        coded_deeper(ds, folder / f"{name}_pydicom_j2k-lossy-16.dcm", "1.2.840.10008.1.2.4.91", deep_j2k)
        coded_deeper(ds, folder / f"{name}_pydicom_jpeg-ls-near-16.dcm", "1.2.840.10008.1.2.4.81", deep_jpeg_ls)
        ds.PixelData = ((values & 0xFFF) | garbage).astype("<u2").tobytes()
        ds.save_as(folder / f"{name}_pydicom_garbage-above-stored.dcm")
        if ds.PixelRepresentation == 0:
            overlaid(ds, folder, name)
    tables = folder / f"{name}_pydicom_j2k.dcm"
    if tables.exists() and ds.get("NumberOfFrames", 1) > 1:
        encapsulated = pydicom.dcmread(tables)
        frames = list(pydicom.encaps.generate_frames(encapsulated.PixelData, number_of_frames=ds.NumberOfFrames))
        encapsulated.PixelData = pydicom.encaps.encapsulate(frames, has_bot=False)
        encapsulated.save_as(folder / f"{name}_pydicom_j2k-no-offset-table.dcm")
        encapsulated.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=3, has_bot=True)
        encapsulated.save_as(folder / f"{name}_pydicom_j2k-fragments.dcm")
        extended = pydicom.encaps.encapsulate_extended(frames)
        encapsulated.PixelData, encapsulated.ExtendedOffsetTable, encapsulated.ExtendedOffsetTableLengths = extended
        encapsulated.save_as(folder / f"{name}_pydicom_j2k-extended-offset-table.dcm")


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, ds in sources():
        source = folder / f"{name}_pydicom_explicit.dcm"
        ds.save_as(source, enforce_file_format=True)
        for syntax, command in DCMTK.items():
            target = folder / f"{name}_dcmtk_{syntax}.dcm"
            if not run(command[0], *command[1:], str(source), str(target)):
                target.unlink(missing_ok=True)
        for syntax, code in GDCM.items():
            with_gdcm(source, folder / f"{name}_gdcm_{syntax}.dcm", code)
        for syntax, (uid, options) in PYDICOM.items():
            with_pydicom(source, folder / f"{name}_pydicom_{syntax}.dcm", uid, options)
        for syntax, (uid, options) in JPEG_XL.items():
            with_libjxl(source, folder / f"{name}_libjxl_{syntax}.dcm", uid, options)
        for syntax, (uid, options) in HTJ2K.items():
            with_openjph(source, folder / f"{name}_openjph_{syntax}.dcm", uid, options)
        for baseline in sorted(folder.glob(f"{name}_*_baseline*.dcm")):
            recompressed(baseline, folder / f"{baseline.stem}-recompressed.dcm")
        variants(folder, name)
    colour_transforms(folder, "rgb-8")
    meanings.write(folder)


if __name__ == "__main__":
    main(sys.argv[1])
