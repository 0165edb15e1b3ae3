"""Stored values of DICOM images by pydicom and its plugins (JPEG XL: libjxl, HTJ2K without loss: OpenJPH), the reference
of the conformance test.

Usage: stored.py OUT < LIST. LIST has one path a line. OUT/NUMBER.npy (line number from 0) holds one row of stored
values per frame, colour by pixel as decoded; OUT/index.json what each is, or why there is none.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import imagecodecs
import numpy as np
import pydicom
from forms import first_frame, forms, sampling
from pydicom.pixels import pixel_array

warnings.simplefilter("ignore")
pydicom.config.logger.disabled = True
PLUGINS = ["pylibjpeg", "pyjpegls", "pydicom", "gdcm"]


# pylibjpeg fills frames with a point transform with one value, and its 12-bit DCT is off by two.
ORDER = {
    "1.2.840.10008.1.2.4.57": ["gdcm", "dcmtk", "pylibjpeg"],
    "1.2.840.10008.1.2.4.70": ["gdcm", "dcmtk", "pylibjpeg"],
    "1.2.840.10008.1.2.4.51": ["dcmtk", "pylibjpeg", "gdcm"],
    # of other code than OpenJPEG, which sidelight and pylibjpeg have; with loss they round differently
    "1.2.840.10008.1.2.4.201": ["OpenJPH"],
    "1.2.840.10008.1.2.4.202": ["OpenJPH"],
}
JPEG_XL = ["1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111", "1.2.840.10008.1.2.4.112"]


LOSSY = ["1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"]


def decode(ds, path):
    frames = int(ds.get("NumberOfFrames", 1) or 1)
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax in JPEG_XL:
        fragments = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=frames)
        return "libjxl", [imagecodecs.jpegxl_decode(frame) for frame in fragments]
    if not syntax.is_encapsulated:
        return "pydicom", [pixel_array(ds, index=i, raw=True) for i in range(frames)]
    faults = []
    for reader in ORDER.get(syntax, PLUGINS):
        try:
            if reader == "dcmtk":
                return reader, with_dcmtk(path)
            if reader == "OpenJPH":
                return reader, with_openjph(ds)
            return reader, [pixel_array(ds, index=i, raw=True, decoding_plugin=reader) for i in range(frames)]
        except Exception as fault:  # the reader does not know the syntax, or this kind of image
            faults.append(f"{reader}: {fault}")
    raise ValueError("; ".join(faults)[:600])


def plain(ds):
    """What pydicom does not decode: Encapsulated Uncompressed, as Explicit VR Little Endian; a High Bit of its own."""
    low = ds.get("HighBit", 0) + 1 - ds.get("BitsStored", 1)
    if low > 0 and ds.BitsAllocated == 16 and not ds["PixelData"].is_undefined_length:
        words = np.frombuffer(ds.PixelData, "<u2" if ds.original_encoding[1] else ">u2")
        ds.PixelData, ds.HighBit = (words >> low).astype(words.dtype).tobytes(), ds.BitsStored - 1
    if ds.file_meta.get("TransferSyntaxUID") != "1.2.840.10008.1.2.1.98":
        return ds
    frames = int(ds.get("NumberOfFrames", 1) or 1)
    length = ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated // 8
    data = b"".join(f[:length] for f in pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=frames))
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].is_undefined_length = False
    return ds


def with_openjph(ds):
    fragments = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames", 1) or 1))
    return [imagecodecs.htj2k_decode(frame) for frame in fragments]


def with_dcmtk(path):
    """As coded, without colour conversion. A lossy frame may overshoot Bits Stored: values are cut off, not masked."""
    with tempfile.TemporaryDirectory() as folder:
        plain = os.path.join(folder, "plain.dcm")
        subprocess.run(["dcmdjpeg", "+cn", path, plain], stderr=subprocess.DEVNULL, check=True)
        out = pydicom.dcmread(plain)
        if out.PixelRepresentation == 1 or out.BitsAllocated != 16 or out.SamplesPerPixel != 1:
            return [pixel_array(out, index=i, raw=True) for i in range(int(out.get("NumberOfFrames", 1) or 1))]
        size = out.Rows * out.Columns
        values = np.frombuffer(out.PixelData, "<u2").clip(max=2**out.BitsStored - 1)
        return [values[i * size : (i + 1) * size] for i in range(int(out.get("NumberOfFrames", 1) or 1))]


def answer(path, target):
    ds = pydicom.dcmread(path, force=True)
    keys = ["BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel", "Rows", "Columns"]
    facts = {key: int(ds.get(key) or 0) for key in keys}
    facts["photometric"] = str(ds.get("PhotometricInterpretation", ""))
    facts["syntax"] = str(ds.file_meta.get("TransferSyntaxUID", ""))
    facts["float"] = "FloatPixelData" in ds or "DoubleFloatPixelData" in ds
    try:
        facts["forms"], facts["sampling"] = forms(ds), sampling(first_frame(ds))
        plugin, frames = decode(plain(ds), path)
        values = np.stack([frame.reshape(-1) for frame in frames])
        if facts["syntax"] in LOSSY and facts["BitsStored"] < facts["BitsAllocated"]:
            # a lossy frame may overshoot Bits Stored: values are cut off, not masked
            low = -(2 ** (facts["BitsStored"] - 1)) if facts["PixelRepresentation"] else 0
            values = values.clip(low, low + 2 ** facts["BitsStored"] - 1)
        np.save(target, values.astype("<f8" if values.dtype.kind == "f" else "<i8"))
        facts["plugin"] = plugin
    except Exception as fault:
        facts["fault"] = str(fault)[:600]
    return facts


def main(out):
    out = pathlib.Path(out)
    index = []
    for number, path in enumerate(sys.stdin.read().splitlines()):
        # A plugin may end its process: each file has one of its own.
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            facts = answer(path, out / f"{number}.npy")
            os.write(writable, json.dumps(facts).encode())
            os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as pipe:
            text = pipe.read()
        status = os.waitpid(child, 0)[1]
        index.append(json.loads(text) if status == 0 else {"fault": f"the reference reader ended with status {status}"})
    (out / "index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main(sys.argv[1])
