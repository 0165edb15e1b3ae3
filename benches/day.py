"""A day of a hospital in one process life: studies of mixed modality, one after the other, as fast as they go.

Usage: benches/run day [STUDIES], which sets up and calls this with a working folder and the binary. Two senders replay
radiographs, CT, MR and mammograms (a few images each, native and compressed), and what is no image or broken; an
archive (storescp) takes the reports. Memory and open files of the node and its workers are sampled all the while.

It fails where a study is in no final state in the end, or where memory or open files of the second half are more than
10 % (and 16 MB, 8 files) above those of the first, whose first tenth is left out as warming up.
"""

import concurrent.futures
import pathlib
import socket
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import pydicom
from node import Node, demo_models
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

SAMPLE_S = 0.25
# name, SOP class, modality, images, side, transfer syntax
KINDS = [
    ("radiograph", "1.2.840.10008.5.1.4.1.1.1", "CR", 2, 512, ExplicitVRLittleEndian),
    ("CT", "1.2.840.10008.5.1.4.1.1.2", "CT", 6, 256, ExplicitVRLittleEndian),
    ("MR", "1.2.840.10008.5.1.4.1.1.4", "MR", 4, 256, ImplicitVRLittleEndian),
    ("mammogram", "1.2.840.10008.5.1.4.1.1.1.2", "MG", 4, 768, RLELossless),
    ("ultrasound", "1.2.840.10008.5.1.4.1.1.6.1", "US", 1, 256, RLELossless),
    ("document", "1.2.840.10008.5.1.4.1.1.88.33", "SR", 1, 0, ExplicitVRLittleEndian),
    ("broken", "1.2.840.10008.5.1.4.1.1.1", "CR", 1, 64, ExplicitVRLittleEndian),
]
STUDY, INSTANCE = "2.25.70000000", "2.25.800000000"


def template(kind):
    """A file whose UIDs are replaced by others of the same length."""
    name, sop_class, modality, _, side, syntax = kind
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, INSTANCE
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, STUDY + ".1"
    ds.PatientName, ds.PatientID, ds.Modality, ds.BodyPartExamined = "PHANTOM", "PHANTOM", modality, "CHEST"
    if side:
        ds.ImageType, ds.ViewPosition = ["ORIGINAL", "PRIMARY"], "PA"
        ds.Rows = ds.Columns = side
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        y, x = np.mgrid[0:1:side * 1j, 0:1:side * 1j]
        noise = np.random.default_rng(side).normal(0, 20, (side, side))
        ds.PixelData = np.clip(2000 * (x + y) / 2 + 500 + noise, 0, 4095).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    if name == "broken":
        # more rows than pixels
        ds.Rows = 4096
    return ds


def templates(folder):
    made = []
    for kind in KINDS:
        path = folder / f"{kind[0]}.dcm"
        template(kind).save_as(path, enforce_file_format=True)
        made.append((kind, path.read_bytes()))
    return made


def studies(made, number, folder):
    """The files of a study, with UIDs of their own."""
    kind, blob = made[number % len(made)]
    files = []
    for image in range(kind[3]):
        uid = f"2.25.8{number:05d}{image:03d}"
        assert len(uid) == len(INSTANCE)
        copy = blob.replace(INSTANCE.encode(), uid.encode()).replace(STUDY.encode(), f"2.25.7{number:07d}".encode())
        files.append(folder / f"{image}.dcm")
        files[-1].write_bytes(copy)
    return files


class Sampler(threading.Thread):
    """RssAnon + RssShmem, and open files, of the node and its workers; with the number of studies sent by then."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.sent, self.rows, self.stop = node, 0, [], threading.Event()

    def run(self):
        while not self.stop.wait(SAMPLE_S):
            memory = handles = 0
            for pid in self.node.processes():
                try:
                    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                        if line.startswith(("RssAnon:", "RssShmem:")):
                            memory += int(line.split()[1]) * 1024
                    handles += len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
                except OSError:
                    continue  # a worker that was replaced just now
            self.rows.append((self.sent, memory, handles))


def main(work, binary, count):
    work = pathlib.Path(work)
    made = templates(work)
    models = demo_models(work / "models")
    archive = work / "archive"
    archive.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pacs = subprocess.Popen(["storescp", "--fork", "-aet", "PACS", "-od", archive, str(port)], stderr=subprocess.DEVNULL)
    more = f"""
[[destinations]]
name = "archive"
kind = "dimse"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
audit = true
"""
    try:
        with Node(work / "node", binary, models, "1s", more) as node:
            sampler = Sampler(node)
            sampler.start()
            begin = time.monotonic()
            lock, numbers = threading.Lock(), iter(range(count))

            def send(sender):
                folder = work / f"sender{sender}"
                folder.mkdir()
                while True:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    # Sent as fast as it is read, so that both are under way all the time.
                    while node.counts()['sidelight_instances{state="received"}'] > 50:
                        time.sleep(0.05)
                    files = studies(made, number, folder)
                    syntax = made[number % len(made)][0][5]
                    node.storescu(files, *(["-xr"] if syntax == RLELossless else []))
                    for file in files:
                        file.unlink()
                    sampler.sent += 1

            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                for done in [pool.submit(send, sender) for sender in range(2)]:
                    done.result()
            sent = time.monotonic() - begin
            deadline = time.monotonic() + 600
            final = ("delivered", "refused", "failed")
            while True:
                counts = node.counts()
                ended = {state: counts[f'sidelight_studies{{state="{state}"}}'] for state in final}
                if sum(ended.values()) == count and counts['sidelight_instances{state="received"}'] == 0:
                    break
                if time.monotonic() > deadline:
                    raise SystemExit(f"after 600 s not every study is in a final state: {counts}")
                time.sleep(0.5)
            total = time.monotonic() - begin
            sampler.stop.set()
            sampler.join()
    finally:
        pacs.terminate()
        pacs.wait()
    print(f"{count} studies sent in {sent:.0f} s, all in a final state after {total:.0f} s: {ended}")
    rows = [row for row in sampler.rows if row[0] >= count / 10]
    halves = [[r for r in rows if r[0] < count * 0.55], [r for r in rows if count * 0.55 <= r[0] < count]]
    bad = []
    for name, column, slack, unit in (("memory", 1, 16e6, 1e6), ("open files", 2, 8, 1)):
        first, second = (statistics.median(r[column] for r in half) for half in halves)
        peak = max(r[column] for r in sampler.rows)
        print(f"{name}: first half {first / unit:.1f}, second half {second / unit:.1f}, peak {peak / unit:.1f} (MB or files)")
        if second > max(first * 1.1, first + slack):
            bad.append(name)
    if bad:
        raise SystemExit(f"not flat: {', '.join(bad)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
