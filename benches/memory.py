"""Peak memory of a node that receives and analyses large studies, above that of the idle node.

Usage: benches/run memory, which sets up and calls this with a working folder and the binary. For each case a node is
started in a folder of its own, storescu sends, and every process of the node is sampled until the study is reported.

What is counted: anonymous and shared memory that is mapped (RssAnon + RssShmem of /proc/PID/status), summed over the
node and its workers, and the hand-over memory between them, which is written and read without being mapped (the blocks
of each memfd). Pages of files are left out: those of libtorch are the same in every process and idle too, those of
received objects are page cache, and the kernel takes both back. The sum of VmHWM, each process's own highest resident
size since its start, is printed beside it as a bound that no sample can miss; it counts shared pages once per process.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pydicom
from node import Node, demo_models
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1

SLICES, FRAMES, SIDE = 2000, 500, 512
LIMIT = 400e6
SAMPLE_S = 0.01


@functools.cache
def slice_of_ct(number):
    """Noise in a body in air, stored values of 16 bit with an intercept of -1024."""
    y, x = np.mgrid[-1:1:SIDE * 1j, -1:1:SIDE * 1j]
    body = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    noise = np.random.default_rng(number).normal(0, 25, (SIDE, SIDE))
    return np.clip(np.where(body, 1064, 24) + noise, 0, 4095).astype("<u2")


def image(study, instance, sop_class):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, instance
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, study + ".1"
    ds.PatientName, ds.PatientID, ds.Modality = "PHANTOM", "PHANTOM", "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = SIDE, SIDE, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    return ds


def send_slices(node, folder):
    """2,000 objects of one slice, made in a few files that are written again with other UIDs and positions."""
    study, batch = "2.25.9001", 250
    ds = image(study, "2.25.90010000", "1.2.840.10008.5.1.4.1.1.2")
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    ds.InstanceNumber, ds.ImagePositionPatient = "1000", ["0", "0", "1000"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.PixelData = slice_of_ct(0).tobytes()
    ds.save_as(folder / "template", enforce_file_format=True)
    template = (folder / "template").read_bytes()
    position, number = b"0\\0\\1000", b"IS\x04\x001000"
    assert template.count(position) == template.count(number) == 1
    pixels = len(template) - SIDE * SIDE * 2
    for first in range(0, SLICES, batch):
        for n in range(first, first + batch):
            at = b"%04d" % n
            head = template[:pixels].replace(b"2.25.90010000", b"2.25.9001" + at)
            head = head.replace(position, b"0\\0\\" + at).replace(number, b"IS\x04\x00" + at)
            (folder / f"{n - first}.dcm").write_bytes(head + slice_of_ct(n % 8).tobytes())
        node.storescu(sorted(folder.glob("*.dcm")))
    return study


def volume(study):
    """500 frames in one object, with functional groups."""
    ds = image(study, study + ".2", "1.2.840.10008.5.1.4.1.1.2.1")
    ds.NumberOfFrames = FRAMES
    transformation, measures, shared = Dataset(), Dataset(), Dataset()
    transformation.RescaleIntercept, transformation.RescaleSlope, transformation.RescaleType = "-1024", "1", "HU"
    measures.PixelSpacing, measures.SliceThickness = ["0.7", "0.7"], "1"
    shared.PixelValueTransformationSequence, shared.PixelMeasuresSequence = [transformation], [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    per_frame = []
    for n in range(FRAMES):
        position, groups = Dataset(), Dataset()
        position.ImagePositionPatient = ["0", "0", str(n)]
        groups.PlanePositionSequence = [position]
        per_frame.append(groups)
    ds.PerFrameFunctionalGroupsSequence = per_frame
    return ds


def encoded(folder, syntax):
    """The encoded frames of eight slices."""
    frames = []
    for n in range(8):
        ds = image("2.25.9000", "2.25.9000.1", "1.2.840.10008.5.1.4.1.1.2")
        ds.PixelData = slice_of_ct(n).tobytes()
        if syntax == JPEG2000Lossless:
            ds.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        else:
            ds.save_as(folder / "plain", enforce_file_format=True)
            subprocess.run(["dcmcjpeg", "+e1", folder / "plain", folder / "jpeg"], check=True)
            ds = pydicom.dcmread(folder / "jpeg")
        frames.append(next(generate_frames(ds.PixelData, number_of_frames=1)))
    return frames


def send_volume(syntax, study, option):
    def send(node, folder):
        ds, path = volume(study), folder / "volume.dcm"
        native = syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
        if native:
            ds.PixelData = b"".join(slice_of_ct(n % 8).tobytes() for n in range(FRAMES))
        else:
            frames = encoded(folder, syntax)
            ds.PixelData = encapsulate([frames[n % 8] for n in range(FRAMES)])
            ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(path, enforce_file_format=True)
        del ds
        node.storescu([path], option)
        return study

    return send


CASES = {
    "CT, 2,000 slices": send_slices,
    "500 frames, native": send_volume(ExplicitVRLittleEndian, "2.25.9002", "-xe"),
    "500 frames, JPEG 2000": send_volume(JPEG2000Lossless, "2.25.9003", "-xv"),
    "500 frames, JPEG Lossless": send_volume(JPEGLosslessSV1, "2.25.9004", "-xs"),
    "500 frames, deflated": send_volume(DeflatedExplicitVRLittleEndian, "2.25.9005", "-xd"),
}


class Sampler(threading.Thread):
    """Looks at a node's processes until it is stopped, and keeps the highest sums and who made them."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.peak, self.bound, self.parts, self.stopped = node, 0, 0, {}, threading.Event()

    def run(self):
        while not self.stopped.wait(SAMPLE_S):
            self.take()

    def take(self):
        parts, bound = {}, 0
        for pid in self.node.processes():
            try:
                lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue  # it has ended
            kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
            kind = "node" if pid == self.node.pid else "workers"
            parts[kind] = parts.get(kind, 0) + (kib.get("RssAnon", 0) + kib.get("RssShmem", 0)) * 1024
            bound += kib.get("VmHWM", 0) * 1024
        parts["hand-over"] = self.handover()
        total = sum(parts.values())
        if total > self.peak:
            self.peak, self.parts = total, parts
        self.bound = max(self.bound, bound)
        return total, parts, bound

    def handover(self):
        held, fds = {}, f"/proc/{self.node.pid}/fd"
        for fd in os.listdir(fds) if os.path.exists(fds) else []:
            fd = f"{fds}/{fd}"
            try:
                if os.readlink(fd).startswith("/memfd:"):
                    status = os.stat(fd)
                    held[status.st_ino] = status.st_blocks * 512
            except OSError:
                continue  # closed meanwhile
        return sum(held.values())


def settled(sampler):
    """The idle node: the median of samples over two seconds, once its workers have started."""
    time.sleep(1)
    samples = []
    for _ in range(20):
        samples.append(sampler.take())
        time.sleep(0.1)
    samples.sort(key=lambda s: s[0])
    return samples[len(samples) // 2]


def main():
    work, binary, wanted = pathlib.Path(sys.argv[1]), sys.argv[2], " ".join(sys.argv[3:])
    models = demo_models(work / "models", contract="ct-window")
    mb = lambda value: f"{value / 1e6:.0f}"
    rows = []
    for name, send in CASES.items():
        if wanted not in name:
            continue
        folder = work / "objects"
        folder.mkdir()
        with Node(work / "node", binary, models, quiet_period="3s") as node:
            sampler = Sampler(node)
            idle, idle_parts, idle_bound = settled(sampler)
            sampler.peak = sampler.bound = 0
            sampler.start()
            started = time.monotonic()
            study = node.wait_for_end(send(node, folder))
            sampler.stopped.set()
            sampler.join()
            seconds = time.monotonic() - started
        shutil.rmtree(folder)
        refused, why = study["instances_refused"], study.get("refusal_detail") or study.get("error") or ""
        over = sampler.peak - idle
        rows.append((name, idle, sampler.peak, over, sampler.bound - idle_bound, sampler.parts, idle_parts, seconds))
        print(f"{name}: {study['state']}, {study['instances']} objects, {refused} refused {why}", file=sys.stderr)
        if study["state"] not in ("reported", "delivered") or refused:
            sys.exit("memory: not everything was analysed: nothing was measured")
    print("MB | idle | peak | above idle | bound by VmHWM | node | workers | hand-over | s")
    print("---|---|---|---|---|---|---|---|---")
    for name, idle, peak, over, bound, parts, before, seconds in rows:
        shares = [f"{mb(before[k])} to {mb(parts[k])}" for k in ("node", "workers", "hand-over")]
        print(" | ".join([name, mb(idle), mb(peak), mb(over), mb(bound), *shares, f"{seconds:.0f}"]))
    missed = [name for name, _, _, over, *_ in rows if over > LIMIT]
    if missed:
        sys.exit(f"memory: more than {mb(LIMIT)} MB above idle: {'; '.join(missed)}")


main()
