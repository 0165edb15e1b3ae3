"""Writes one small image in each transfer syntax that the node negotiates, each an instance of its own, for
tests/it/interop.rs. Usage: syntaxes.py FOLDER. A file is named after its transfer syntax.
"""

import pathlib
import sys
import tempfile

import make
import pydicom
from phantom import COLUMNS, ROWS, dataset, picture

DCMTK = {
    "1.2.840.10008.1.2": "implicit",
    "1.2.840.10008.1.2.1": "explicit",
    "1.2.840.10008.1.2.2": "big-endian",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.50": "baseline",
    "1.2.840.10008.1.2.4.51": "extended",
    "1.2.840.10008.1.2.4.57": "lossless-14",
    "1.2.840.10008.1.2.4.70": "lossless-sv1",
    "1.2.840.10008.1.2.4.80": "jpeg-ls",
    "1.2.840.10008.1.2.4.81": "jpeg-ls-near",
}
PYDICOM = {"1.2.840.10008.1.2.4.90": "j2k", "1.2.840.10008.1.2.4.91": "j2k-lossy"}
OPENJPH = {
    "1.2.840.10008.1.2.4.201": "htj2k",
    "1.2.840.10008.1.2.4.202": "htj2k-rpcl",
    "1.2.840.10008.1.2.4.203": "htj2k-lossy",
}
LIBJXL = {"1.2.840.10008.1.2.4.110": "jpeg-xl", "1.2.840.10008.1.2.4.112": "jpeg-xl-lossy"}
RECOMPRESSED = "1.2.840.10008.1.2.4.111"
ENCAPSULATED = "1.2.840.10008.1.2.1.98"


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        uids = [*DCMTK, *PYDICOM, *OPENJPH, *LIBJXL, RECOMPRESSED, ENCAPSULATED]
        for number, uid in enumerate(uids, start=100):
            source, target = pathlib.Path(scratch) / f"{number}.dcm", folder / f"{uid}.dcm"
            pixels = picture(8, seed=number).astype("u1")
            dataset(number, "MONOCHROME2", 1, 8, 8, False, 1, pixels).save_as(source, enforce_file_format=True)
            write(uid, source, target)
            assert pydicom.dcmread(target).file_meta.TransferSyntaxUID == uid, uid


def write(uid, source, target):
    if uid in DCMTK:
        command = make.DCMTK[DCMTK[uid]]
        assert make.run(command[0], *command[1:], str(source), str(target)), uid
    elif uid in PYDICOM:
        make.with_pydicom(source, target, *make.PYDICOM[PYDICOM[uid]])
    elif uid in OPENJPH:
        make.with_openjph(source, target, *make.HTJ2K[OPENJPH[uid]])
    elif uid in LIBJXL:
        make.with_libjxl(source, target, *make.JPEG_XL[LIBJXL[uid]])
    elif uid == RECOMPRESSED:
        baseline = source.with_suffix(".jpeg")
        assert make.run("dcmcjpeg", "+eb", "+ua", str(source), str(baseline)), uid
        make.recompressed(baseline, target)
    elif uid == ENCAPSULATED:
        ds = pydicom.dcmread(source)
        make.save(ds, target, uid, [ds.PixelData[: ROWS * COLUMNS]])


main(pathlib.Path(sys.argv[1]))
