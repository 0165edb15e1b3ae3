"""Throughput of good images with a hostile sender beside them, on one node, in one run.

Usage: benches/run hostile [ROUNDS], which sets up and calls this with a working folder and the binary. Good images
(JPEG Lossless, 1024 x 1024, 12 bit) go over one association, one after the other; hostile objects go over another, so
many for each good image that was taken. The rate is that of the good images alone: their number over the time from the
first received to the last scored, by the node's own clock. Each round measures alone before and after each kind; a
kind's ratio is the median over rounds of beside / the mean of its two neighbours. Beside it
stands the processor time that node and workers spend for each good image, hostile ones included: on a machine without
a processor to spare its inverse is what throughput can be. Both need a machine that does nothing else.

The kinds: `mutants` are broken corpus files and the bombs of tests/it/pixels.rs, one for each ten good images (what the
issue asks for: at least .8) and one for each; `giants` are sound objects of some MB that unfold to the most samples
that pixels.samples_max allows, each a whole processor for seconds: what they take is what the machine no longer has.
"""

import json
import os
import pathlib
import random
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
from node import ROOT, Node, demo_models
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

GOOD = 120
CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT, DEFLATED, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
LOSSLESS = "1.2.840.10008.1.2.4.70"
SYNTAXES = [EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", DEFLATED, RLE]
SYNTAXES += [f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 203)]
LEAST = 0.8


class Sender:
    """A C-STORE SCU that sends whatever bytes it is given: one context for each transfer syntax."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        item = lambda kind, body: struct.pack(">BBH", kind, 0, len(body)) + body
        contexts = b"".join(
            item(0x20, bytes([2 * n + 1, 0, 0, 0]) + item(0x30, CR.encode()) + item(0x40, syntax.encode()))
            for n, syntax in enumerate(SYNTAXES)
        )
        user = item(0x50, item(0x51, struct.pack(">I", 1 << 17)) + item(0x52, b"2.25.9100"))
        head = struct.pack(">HH16s16s32s", 1, 0, b"SIDELIGHT".ljust(16), b"STORESCU".ljust(16), b"")
        self.write(1, head + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user)
        if self.read()[0] != 2:
            raise SystemExit("hostile: the node takes no association")

    def store(self, instance, syntax, dataset):
        """The status of the answer."""
        context = 2 * SYNTAXES.index(syntax) + 1
        even = lambda text: text.encode() + b"\0" * (len(text) % 2)
        elements = [(0x0002, even(CR)), (0x0100, b"\1\0"), (0x0110, b"\1\0"), (0x0700, b"\0\0")]
        elements += [(0x0800, b"\1\0"), (0x1000, even(instance))]
        command = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in elements)
        command = struct.pack("<HHII", 0, 0, 4, len(command)) + command
        value = lambda flags, part: struct.pack(">IBB", len(part) + 2, context, flags) + part
        self.write(4, value(3, command))
        for at in range(0, len(dataset), 1 << 16):
            part = dataset[at : at + (1 << 16)]
            self.write(4, value(2 if at + len(part) >= len(dataset) else 0, part))
        kind, body = self.read()
        found = body.find(struct.pack("<HHI", 0, 0x0900, 2))
        if kind != 4 or found < 0:
            raise SystemExit(f"hostile: PDU {kind} in place of an answer")
        return struct.unpack_from("<H", body, found + 8)[0]

    def write(self, kind, body):
        self.socket.sendall(struct.pack(">BBI", kind, 0, len(body)) + body)

    def read(self):
        head = self.exactly(6)
        return head[0], self.exactly(struct.unpack(">I", head[2:])[0])

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise SystemExit("hostile: the node ended the association")
            data += part
        return data

    def close(self):
        self.write(5, bytes(4))
        self.read()
        self.socket.close()


def split(file):
    """Transfer syntax and data set of a file with a whole group 2, else two empty ones."""
    if file[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        return "", b""
    meta = 144 + struct.unpack_from("<I", file, 140)[0]
    at = file.find(b"\x02\x00\x10\x00UI", 132, meta)
    if at < 0:
        return "", b""
    length = struct.unpack_from("<H", file, at + 6)[0]
    return file[at + 8 : at + 8 + length].rstrip(b"\0 ").decode(), file[meta:]


def radiograph(folder):
    """The data set of a good image; its UIDs are `2.25.9102` + eight digits and `2.25.9101` + two."""
    y, x = np.mgrid[0:1024, 0:1024].astype("f4")
    noise = np.random.default_rng(5).normal(0, 15, (1024, 1024))
    values = np.clip(2000 + 1200 * np.sin(x / 150) * np.cos(y / 170) + noise, 0, 4095).astype("<u2")
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CR, "2.25.910200000000"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "2.25.910100", "2.25.9103", "CR"
    ds.PatientName, ds.PatientID, ds.BodyPartExamined, ds.ViewPosition = "PHANTOM", "PHANTOM", "CHEST", "PA"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 1024, 1024, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = values.tobytes()
    ds.save_as(folder / "plain", enforce_file_format=True)
    subprocess.run(["dcmcjpeg", "+e1", "+un", folder / "plain", folder / "good"], check=True)
    syntax, dataset = split((folder / "good").read_bytes())
    assert syntax == LOSSLESS and dataset.count(b"2.25.910200000000") == dataset.count(b"2.25.910100") == 1
    return dataset


def element(tag, vr, value):
    long = vr in ("OB", "OW", "SQ", "UN")
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))) + value


def header(rows, columns, stored=12, frames=b"1 "):
    us = lambda tag, value: element(tag, "US", struct.pack("<H", value))
    return b"".join(
        [
            element(0x00080016, "UI", CR.encode() + b"\0"),
            element(0x00080018, "UI", b"1.2.3.4\0"),
            element(0x00080060, "CS", b"CR"),
            element(0x00180015, "CS", b"CHEST "),
            element(0x00185101, "CS", b"PA"),
            element(0x0020000D, "UI", b"1.2.3\0"),
            element(0x0020000E, "UI", b"1.2.3.5\0"),
            us(0x00280002, 1),
            element(0x00280004, "CS", b"MONOCHROME2 "),
            element(0x00280008, "IS", frames),
            us(0x00280010, rows),
            us(0x00280011, columns),
            us(0x00280100, 16),
            us(0x00280101, stored),
            us(0x00280102, stored - 1),
            us(0x00280103, 0),
        ]
    )


def encapsulated(rows, columns, fragment):
    item = b"\xfe\xff\x00\xe0"
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + b"\xff" * 4 + item + bytes(4) + item + struct.pack("<I", len(fragment)) + fragment
    return header(rows, columns) + pixels + b"\xfe\xff\xdd\xe0" + bytes(4)


def bombs():
    """Those of tests/it/pixels.rs: transfer syntax and data set."""
    nested = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    pixels = element(0x7FE00010, "OW", bytes(8192))
    oversize = b"\xff\xd8\xff\xc3\0\x0b\x10\xff\xff\xff\xff\1\1\x11\0\xff\xda\0\x08\1\1\0\1\0\0"
    rle = struct.pack("<3I52x", 2, 64, 66) + b"\x81\1\x7f\0"
    return [
        (EXPLICIT, header(64, 64) + nested * 100_000),
        (EXPLICIT, header(64, 64) + b"\xe0\x7f\x10\x00OW\0\0\xf0\xff\xff\xff"),
        (EXPLICIT, header(64, 64, frames=b"2000000000") + pixels),
        (EXPLICIT, header(64, 64, stored=31) + pixels),
        (EXPLICIT, header(65535, 65535) + pixels),
        (LOSSLESS, encapsulated(64, 64, oversize)),
        (RLE, encapsulated(64, 64, rle)),
    ]


def mutant(original, chance):
    """One to four faults, as in tests/it/pixels/hostile.rs: anywhere, or in what a decoder sees."""
    data = bytearray(original)
    pixels = original.rfind(b"\xe0\x7f\x10\x00")
    start, kinds = (pixels + 32, 3) if 0 <= pixels < len(data) - 64 and chance.random() < 0.5 else (0, 6)
    for _ in range(chance.randint(1, 4)):
        at, kind = chance.randrange(start, len(data)), chance.randrange(kinds)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            length = chance.choice([0xFFFFFFFF, 0xFFFFFFFE, 0, 1, 0x80000000, chance.randrange(1 << 32)])
            data[at : at + 4] = struct.pack("<I", length)
        elif kind == 3:
            del data[max(at, start + 8) :]
        elif kind == 4:
            data[at:at] = data[at : at + chance.randrange(1, 200)]
        else:
            del data[at : at + chance.randrange(1, 50)]
        if len(data) < start + 16:
            break
    return bytes(data)


def mutants(made):
    chance = random.Random(3)
    shared = pathlib.Path(os.environ.get("SIDELIGHT_SHARED", ROOT / "../shared"))
    files = sorted(f for f in (shared / "corpus").rglob("*.dcm") if f.stat().st_size < 400_000) + sorted(made.iterdir())
    originals = [original for original in (split(file.read_bytes()) for file in files) if original[0] in SYNTAXES]
    broken = [(syntax, mutant(data, chance)) for syntax, data in (chance.choice(originals) for _ in range(400))]
    # each bomb ten times among them
    mixed = broken + bombs() * 10
    chance.shuffle(mixed)
    return mixed


def giants():
    """2^28 samples of 16 bit in 8 MB of RLE, and deflated in half of one."""
    side = 1 << 14
    plane = b"\x81\x07" * (side * side // 128)
    rle = struct.pack("<3I52x", 2, 64, 64 + len(plane)) + plane + plane
    deflate = zlib.compressobj(9, wbits=-15)
    data = deflate.compress(header(side, side) + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", side * side * 2))
    for _ in range(side * side * 2 >> 20):
        data += deflate.compress(bytes(1 << 20))
    return [(RLE, encapsulated(side, side, rle)), (DEFLATED, data + deflate.flush())]


class Run:
    """Sends one study of good images, with so many hostile objects for each, and says how fast the good ones were."""

    number = objects = 0

    def __init__(self, node, good, hostile=(), share=0.0):
        Run.number += 1
        self.node, self.hostile, self.share, self.taken = node, hostile, share, threading.Semaphore(0)
        self.study = f"2.25.9101{Run.number:02}"
        self.good = good.replace(b"2.25.910100", self.study.encode())

    def rate(self):
        """Good images per second, and seconds of processor time of the node and its workers for each."""
        busy = self.node.processor_seconds()
        beside = threading.Thread(target=self.attack)
        beside.start()
        sender = Sender(self.node.port)
        for n in range(GOOD):
            instance = f"2.25.9102{Run.number:03}{n:05}"
            status = sender.store(instance, LOSSLESS, self.good.replace(b"2.25.910200000000", instance.encode()))
            assert status == 0, f"status {status:04X} for a good image"
            self.taken.release()
        sender.close()
        beside.join()
        while self.node.counts()['sidelight_instances{state="received"}']:
            time.sleep(0.2)
        seconds_each = (self.node.processor_seconds() - busy) / GOOD
        command = [self.node.binary, "studies", "show", self.study, "--json", "--config", self.node.config]
        shown = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)["instances"]
        assert len(shown) == GOOD and all(i["state"] == "scored" for i in shown), "not every good image was scored"
        times = [np.datetime64(i[key].rstrip("Z")) for i in shown for key in ("received_at", "read_at")]
        return GOOD / ((max(times) - min(times)) / np.timedelta64(1, "s")), seconds_each

    def attack(self):
        if not self.share:
            return
        sender, owed, sent = Sender(self.node.port), 0.0, 0
        for _ in range(GOOD):
            self.taken.acquire()
            owed += self.share
            while owed >= 1:
                owed, sent, Run.objects = owed - 1, sent + 1, Run.objects + 1
                syntax, data = self.hostile[Run.objects % len(self.hostile)]
                # whatever comes of it
                sender.store(f"2.25.9199{Run.objects:06}", syntax, data)
        sender.close()


def main():
    work, binary, rounds = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    made = work / "made"
    subprocess.run([sys.executable, ROOT / "tests/reference/make.py", made], check=True, capture_output=True)
    good, broken, large = radiograph(work), mutants(made), giants()
    kinds = {
        "mutants and bombs, 1 for 10 good": (broken, 0.1),
        "mutants and bombs, 1 for 1 good": (broken, 1.0),
        "giants, 1 for 60 good": (large, 1 / 60),
    }
    alone, beside = [], {kind: [] for kind in kinds}
    with Node(work / "node", binary, demo_models(work / "models"), quiet_period="2s") as node:
        Run(node, good).rate()  # warm
        alone.append(Run(node, good).rate())
        for n in range(rounds):
            for kind, (hostile, share) in kinds.items():
                beside[kind].append(Run(node, good, hostile, share).rate())
                alone.append(Run(node, good).rate())
            shown = ", ".join(f"{rates[-1][0]:.1f}" for rates in beside.values())
            print(f"round {n + 1}: {alone[-1][0]:.1f} images/s alone, {shown} beside", file=sys.stderr)
        died = (work / "node" / "log").read_text().count("decode worker replaced")
    print("good images beside | images/s | of alone: median (rounds) | processor time for each, ms | of alone: median")
    print("---|---|---|---|---")
    middle = lambda rates, n: statistics.median(r[n] for r in rates)
    print(f"nothing | {middle(alone, 0):.1f} | 1 | {middle(alone, 1) * 1e3:.0f} | 1")
    ratios = {}
    for place, (kind, rates) in enumerate(beside.items()):
        neighbours = [(alone[i], alone[i + 1]) for i in range(place, len(alone) - 1, len(kinds))]
        each = [2 * b[0] / (before[0] + after[0]) for b, (before, after) in zip(rates, neighbours)]
        ratios[kind] = statistics.median(each)
        work_of = statistics.median(2 * b[1] / (before[1] + after[1]) for b, (before, after) in zip(rates, neighbours))
        rounds_of = ", ".join(f"{r:.2f}" for r in each)
        shown = f"{middle(rates, 0):.1f} | {ratios[kind]:.2f} ({rounds_of}) | {middle(rates, 1) * 1e3:.0f} | {work_of:.2f}"
        print(f"{kind} | {shown}")
    print(f"{os.cpu_count()} processors, 2 decode workers, {Run.objects} hostile objects, {died} workers died of them")
    if next(iter(ratios.values())) < LEAST:
        sys.exit(f"hostile: less than {LEAST} of the rate alone")


if __name__ == "__main__":
    main()
