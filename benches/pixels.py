"""Decoding and normalising side by side: sidelight, pydicom's plugins, dcmtk and GDCM, each on one processor, in one run.

Usage: benches/run pixels [ROUNDS [SYNTAX…]], which sets up and calls this. One large image per transfer syntax is made, every
reader takes it in turn ROUNDS times, and medians and ratios are printed as a table; only ratios within a run count.

Every reader takes the image once before and then three times in each round, of which the median counts. GDCM's time
contains what its Python binding takes to hand over a buffer. MB are those of the decoded pixels. sidelight is measured three times: the decoder alone, decode to tensor in one
process, and through a decode worker with everything that a node does (open, send, decode, digest, hand over). dcmtk is
a process of its own that reads and writes files in memory (/dev/shm); the time of the same command on an image of
64 × 64 is taken off.

The whole path has two peers in Python. The reference is tests/reference/normalise.py, with which the tests compare every
tensor: it follows the Standard for any image, in double precision. The short one, `normalise_short` below, does what just
this image needs, with the fastest plugin of pydicom, and puts only the small image in its range. dcmj2pnm (dcml2pnm for
JPEG-LS) makes an 8-bit picture of the same size, with dcmtk's default interpolation.

JPEG 2000 and what follows it are made by imagecodecs or pylibjpeg, since dcmtk writes none of them.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import warnings

os.environ.update({name: "1" for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPJ_NUM_THREADS"]})
# GDCM decodes JPEG 2000 with a thread for each processor and takes no number: on one processor all readers are alike.
PROCESSORS = os.sched_getaffinity(0)
os.sched_setaffinity(0, {max(PROCESSORS)})
import gdcm
import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRLittleEndian

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "reference"))
import normalise as reference

warnings.simplefilter("ignore")
ROWS, COLUMNS = 2500, 2048
SIZE = 224


def picture(rows, columns, bits):
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    shape = 0.45 + 0.35 * np.sin(x / 310) * np.cos(y / 270) + 0.08 * np.sin(x / 23 + y / 41) + 0.04 * ((x // 64 + y // 80) % 2)
    noise = np.random.default_rng(1).normal(0, 0.004, (rows, columns)).astype(np.float32)
    return np.round(np.clip(shape + noise, 0, 1) * (2**bits - 1)).astype("u1" if bits == 8 else "<u2")


def write(path, rows, columns, bits):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "2.25.881"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "2.25.882", "2.25.883", "CR"
    ds.PatientName, ds.PatientID = "PHANTOM", "PHANTOM"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    ds.BitsAllocated = 8 if bits == 8 else 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, 0
    ds.PixelData = picture(rows, columns, bits).tobytes()
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    ds.save_as(path, enforce_file_format=True)


def encode(folder, name, rows, columns):
    """The file of a syntax, made from the uncompressed one of its depth."""
    bits, how = SYNTAXES[name][:2]
    suffix = "" if rows == ROWS else "-small"
    source = folder / f"plain{bits}{suffix}.dcm"
    if not source.exists():
        write(source, rows, columns, bits)
    target = folder / f"{name}{suffix}.dcm"
    if how is None:
        target.write_bytes(source.read_bytes())
    elif callable(how):
        ds = pydicom.dcmread(source)
        ds.PixelData = pydicom.encaps.encapsulate([how(ds.pixel_array)])
        ds.file_meta.TransferSyntaxUID = CODED[name]
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        pydicom.dcmwrite(target, ds, implicit_vr=False, little_endian=True, force_encoding=True)
    elif isinstance(how, list):
        subprocess.run([*how, source, target], check=True, stderr=subprocess.DEVNULL)
    else:
        ds = pydicom.dcmread(source)
        ds.compress(how[0], generate_instance_uid=False, encoding_plugin=how[1], **(how[2] if len(how) > 2 else {}))
        ds.save_as(target)
    return target


# What only imagecodecs writes.
CODED = {"htj2k-lossless": "1.2.840.10008.1.2.4.201", "jpeg-xl-lossless": "1.2.840.10008.1.2.4.110"}
# Bits stored, how to encode it, the dcmtk command that decodes it.
SYNTAXES = {
    "implicit-le": (12, ["dcmconv", "+ti"], None),
    "explicit-le": (12, None, None),
    "explicit-be": (12, ["dcmconv", "+tb"], None),
    "deflated": (12, ["dcmconv", "+td"], None),
    "rle": (12, ["dcmcrle"], "dcmdrle"),
    "jpeg-baseline": (8, ["dcmcjpeg", "+eb", "+q", "90"], "dcmdjpeg"),
    "jpeg-extended-12": (12, ["dcmcjpeg", "+ee", "+q", "90", "+bt"], "dcmdjpeg"),
    "jpeg-lossless-57": (12, ["dcmcjpeg", "+el"], "dcmdjpeg"),
    "jpeg-lossless-70": (12, ["dcmcjpeg", "+e1"], "dcmdjpeg"),
    "jpeg-ls": (12, ("1.2.840.10008.1.2.4.80", "pyjpegls"), "dcmdjpls"),
    "jpeg-ls-near": (12, ("1.2.840.10008.1.2.4.81", "pyjpegls", {"jls_error": 2}), "dcmdjpls"),
    "jpeg-2000-lossless": (12, ("1.2.840.10008.1.2.4.90", "pylibjpeg"), None),
    "jpeg-2000-lossy": (12, ("1.2.840.10008.1.2.4.91", "pylibjpeg", {"j2k_cr": [10]}), None),
    "htj2k-lossless": (12, imagecodecs.htj2k_encode, None),
    "jpeg-xl-lossless": (12, lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True, bitspersample=12), None),
}


def once(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def seconds(action):
    """The median of three, after one that does not count."""
    action()
    return statistics.median(once(action) for _ in range(3))


def with_gdcm(path):
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError("GDCM cannot read it")
    reader.GetImage().GetBuffer()


def normalise_short(path, plugin):
    """The preset imagenet-rgb at 224 pixels without a window: observed range."""
    values = pixel_array(pydicom.dcmread(path), decoding_plugin=plugin)
    low, high = np.float32(values.min()), np.float32(values.max())
    resized = Image.fromarray(values.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    small = (np.asarray(resized) - low) / (high - low)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    return (small[None] - mean[:, None, None]) / std[:, None, None]


def sidelight(binary, path, small):
    """The contract, and seconds of the decoder, of decode to tensor, of the same through a worker; what a second worker adds."""
    run = lambda *extra, **how: json.loads(
        subprocess.run([binary, path, *extra], check=True, capture_output=True, text=True, **how).stdout
    )
    on_all = lambda: os.sched_setaffinity(0, PROCESSORS)
    return run(small) | run("--scaling", preexec_fn=on_all)


def readers(name, path, folder):
    """Name and action of each peer that can read the file."""
    ds = pydicom.dcmread(path)
    if name == "jpeg-xl-lossless":
        # pydicom does not know the syntax
        frame = lambda: next(pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))
        yield "imagecodecs", lambda: imagecodecs.jpegxl_decode(frame(), numthreads=1)
    elif ds.file_meta.TransferSyntaxUID.is_encapsulated:
        for plugin in ["pylibjpeg", "pyjpegls", "gdcm"]:
            yield f"pydicom/{plugin}", lambda plugin=plugin: pixel_array(pydicom.dcmread(path), raw=True, decoding_plugin=plugin)
    else:
        yield "pydicom", lambda: pixel_array(pydicom.dcmread(path), raw=True)
    yield "gdcm", lambda: with_gdcm(path)
    tool = SYNTAXES[name][2]
    if tool:
        out, small = folder / "out.dcm", path.with_name(path.stem + "-small.dcm")
        base = lambda file: subprocess.run([tool, file, out], check=True, stderr=subprocess.DEVNULL)
        yield "dcmtk", lambda: seconds(lambda: base(path)) - seconds(lambda: base(small))


def with_dcmtk(path, small, folder):
    """Seconds to a picture of 224 pixels in 8 bits, start-up taken off; none where dcmtk does not read the syntax."""
    tool = "dcml2pnm" if path.stem.startswith("jpeg-ls") else "dcmj2pnm"
    command = [tool, "--min-max-window", "--scale-x-size", str(SIZE), "--write-raw-pnm"]
    picture = lambda file: subprocess.run([*command, file, folder / "out.pgm"], check=True, stderr=subprocess.DEVNULL)
    try:
        return seconds(lambda: picture(path)) - seconds(lambda: picture(small))
    except subprocess.CalledProcessError:
        return None


def main(folder, binary, rounds, names):
    folder = pathlib.Path(folder)
    columns = ["syntax", "sidelight, MB/s", "best peer, MB/s", "ratio", "ratio with hand-over", "all peers, MB/s"]
    columns += ["to tensor, images/s", "through a worker", "Python reference", "ratio", "short Python", "ratio"]
    columns += ["dcmj2pnm", "two workers"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name in names or SYNTAXES:
        path, small = encode(folder, name, ROWS, COLUMNS), encode(folder, name, 64, 64)
        megabytes = ROWS * COLUMNS * (1 if SYNTAXES[name][0] == 8 else 2) / 1e6
        peers, own, whole, short, pnm = {}, [], [], [], []
        candidates = []
        for peer, action in readers(name, path, folder):
            try:
                action()
                candidates.append((peer, action))
            except Exception:  # this peer does not read the syntax
                continue
        for _ in range(rounds):
            own.append(sidelight(binary, path, small))
            for peer, action in candidates:
                took = action() if peer == "dcmtk" else seconds(action)
                peers.setdefault(peer, []).append(took)
            whole.append(seconds(lambda: reference.normalise(path, own[0]["contract"])))
            plugins = [p for p in peers if p.startswith("pydicom")]
            if plugins:
                fastest = min(plugins, key=lambda p: statistics.median(peers[p]))
                short.append(seconds(lambda: normalise_short(path, fastest.partition("/")[2])))
            pnm.append(with_dcmtk(path, small, folder))
        median = lambda key: statistics.median(o[key] for o in own)
        rates = {peer: megabytes / statistics.median(times) for peer, times in peers.items()}
        best = max(rates, key=rates.get)
        mine = megabytes / median("decode")
        rate = lambda times: 1 / statistics.median(times) if times and None not in times else float("nan")
        worker = 1 / median("worker")
        # what a worker costs beside its work: the same in one process is taken off
        handover = megabytes / (median("decode") + max(0, median("worker") - median("tensor")))
        others = ", ".join(f"{peer} {rate:.0f}" for peer, rate in sorted(rates.items(), key=lambda r: -r[1]))
        cells = [name, f"{mine:.0f}", f"{rates[best]:.0f} ({best})", f"{mine / rates[best]:.2f}"]
        cells += [f"{handover / rates[best]:.2f}", others, f"{1 / median('tensor'):.1f}", f"{worker:.1f}"]
        cells += [f"{rate(whole):.1f}", f"{worker / rate(whole):.1f}", f"{rate(short):.1f}", f"{worker / rate(short):.1f}"]
        cells += [f"{rate(pnm):.1f}", f"{median('scaling'):.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
