#!/usr/bin/env python3
"""The changes of the probe's battery, alone and before the network that sees them, beside numpy, scipy and PyTorch.

usage: probe.py BINARY [FOLDER [IMAGES [ROUNDS [THREADS]]]]

Filters of rows 18 and 19 on one thread, at 224 and 320 pixels: numpy and scipy transform an image once, and back once for
each filter, as complex numbers in 64 bits (what the paper's code does) and as real ones in 32 with half the spectrum; masks
are ready. Then, where FOLDER holds resnet34_race3 as TorchScript (see benches/scoring.py), the whole battery over IMAGES
images through the engine, as many planes that nothing is done to, and where SIDELIGHT_BENCH_PYTHON names a Python with
PyTorch and numpy: bare forward passes at the best batch, and a loop that changes images with numpy and asks the network,
one plane at a time and in batches of an image's battery. Medians over rounds, interleaved, and ratios within a round.
"""
import json
import os
import statistics
import subprocess
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

FOURIER = r"""
import json, sys, time
import numpy as np, scipy.fft
side = int(sys.argv[1])
RADII = [10, 25, 50, 75, 100, 125, 150]
LOW = [1, 5, 10, 25, 50, 75, 100, 125, 150, 200]
y, x = np.mgrid[:side, :side]
square = np.fft.ifftshift((y - side // 2) ** 2 + (x - side // 2) ** 2)
rings = [(a, b) for i, a in enumerate(RADII) for b in RADII[i + 1:]]
low = [square < r * r for r in LOW]
masks = low + [~m for m in low]
for a, b in rings:
    ring = (square >= a * a) & (square < b * b)
    masks += [ring, ~ring]
half = [np.ascontiguousarray(m[:, : side // 2 + 1]) for m in masks]
at = np.arange(side * side)
images = [np.abs(np.sin((at % 1973 + 31 * i) * .003)).astype(np.float32).reshape(side, side) for i in range(4)]
shape = (side, side)
def numpy_complex(image, masks):
    s = np.fft.fft2(image.astype(np.float64))
    for m in masks: np.fft.ifft2(s * m).real
def scipy_complex(image, masks):
    s = scipy.fft.fft2(image.astype(np.float64))
    for m in masks: scipy.fft.ifft2(s * m, overwrite_x=True).real
def numpy_real(image, masks):
    s = np.fft.rfft2(image)
    for m in masks: np.fft.irfft2(s * m, s=shape)
def scipy_real(image, masks):
    s = scipy.fft.rfft2(image)
    for m in masks: scipy.fft.irfft2(s * m, s=shape, overwrite_x=True)
WAYS = {"numpy, complex 64": (numpy_complex, masks), "scipy, complex 64": (scipy_complex, masks),
        "numpy, real 32": (numpy_real, half), "scipy, real 32": (scipy_real, half)}
print(json.dumps({"filters": len(masks), "numpy": np.__version__, "scipy": scipy.__version__}), flush=True)
for _ in sys.stdin:
    answer = {}
    for name, (way, of) in WAYS.items():
        start = time.perf_counter()
        for image in images: way(image, of)
        filters = (time.perf_counter() - start) / len(images)
        start = time.perf_counter()
        for m in range(10):
            for image in images: way(image, of[m:m + 1])
        answer[name] = {"filters": filters, "one": (time.perf_counter() - start) / len(images) / 10}
    print(json.dumps(answer), flush=True)
"""

LOOP = r"""
import json, sys, time
import numpy as np, torch
folder, images, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
side = 320
network = torch.jit.load(f"{folder}/resnet34_race3.pt").eval()
frozen = torch.jit.load(f"{folder}/resnet34_race3.frozen_cl.pt")
mean = torch.tensor([.485, .456, .406]).view(1, 3, 1, 1)
std = torch.tensor([.229, .224, .225]).view(1, 3, 1, 1)
RADII = [10, 25, 50, 75, 100, 125, 150]
LOW = [1, 5, 10, 25, 50, 75, 100, 125, 150, 200]
y, x = np.mgrid[:side, :side]
square = (y - side // 2) ** 2 + (x - side // 2) ** 2
low = [square < r * r for r in LOW]
rings = [(square >= a * a) & (square < b * b) for a, b in zip(RADII, RADII[1:])]
masks = low + [~m for m in low] + rings + [~m for m in rings]
kernel = np.exp(-.5 * (np.arange(-8, 9) / 2) ** 2)
kernel /= kernel.sum()
def resized(plane, size):
    return torch.nn.functional.interpolate(plane[None, None], size=(size, size), mode="bilinear")[0, 0]
def battery(image):
    for m in masks:
        spectrum = np.fft.fftshift(np.fft.fft2(image)) * m
        yield torch.from_numpy(np.real(np.fft.ifft2(np.fft.ifftshift(spectrum))).astype(np.float32))
    plane = torch.from_numpy(image)
    yield torch.from_numpy((image + np.random.normal(0, .1, image.shape)).astype(np.float32))
    wide = torch.nn.functional.pad(plane[None, None], (8, 8, 8, 8), mode="reflect")
    k = torch.from_numpy(kernel.astype(np.float32))
    yield torch.nn.functional.conv2d(torch.nn.functional.conv2d(wide, k.view(1, 1, 1, -1)), k.view(1, 1, -1, 1))[0, 0]
    for size in (1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 240):
        small = torch.nn.functional.adaptive_avg_pool2d(plane[None, None], size)[0, 0]
        yield resized(small, side)
    third = side // 3
    cells = [(slice(r * third, (r + 1) * third), slice(c * third, (c + 1) * third)) for r in range(3) for c in range(3)]
    for rows, columns in cells:
        yield resized(plane[rows, columns], side)
    for rows, columns in cells:
        rest = plane.clone()
        rest[rows, columns] = 0
        yield rest
at = np.arange(side * side)
planes = [np.abs(np.sin((at % 1973 + 31 * i) * .003)).astype(np.float32).reshape(side, side) for i in range(images)]
def prepared(planes):
    return (torch.stack(planes)[:, None].expand(-1, 3, -1, -1) - mean) / std
count = len(list(battery(planes[0])))
@torch.inference_mode()
def one_by_one():
    for image in planes:
        for changed in battery(image): torch.softmax(network(prepared([changed])), 1).numpy()
@torch.inference_mode()
def in_batches():
    for image in planes: torch.softmax(network(prepared(list(battery(image)))), 1).numpy()
def bare(n, runs):
    x = prepared([torch.from_numpy(planes[0])] * n).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        frozen(x)
        start = time.perf_counter()
        for _ in range(runs): frozen(x)
        return (time.perf_counter() - start) / runs / n
best = min((bare(n, 3), n) for n in (1, 2, 4, 8, 16))[1]
print(json.dumps({"battery": count, "batch": best, "torch": torch.__version__, "numpy": np.__version__}), flush=True)
for _ in sys.stdin:
    answer = {}
    for name, way in (("loop", one_by_one), ("loop, batches", in_batches)):
        start = time.perf_counter()
        way()
        answer[name] = (time.perf_counter() - start) / images
    answer["bare"] = bare(best, max(1, images * count // best)) * count
    print(json.dumps(answer), flush=True)
"""


class Child:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.says = json.loads(self.process.stdout.readline())

    def ask(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def interleaved(children, rounds):
    """Answers of each child, round by round, after one that does not count."""
    for child in children.values():
        child.ask()
    answers = {what: [] for what in children}
    for i in range(rounds):
        for what in list(children)[:: 1 if i % 2 == 0 else -1]:
            answers[what].append(children[what].ask())
    for child in children.values():
        child.end()
    return answers


def line(what, own, theirs):
    ratio = statistics.median(t / o for t, o in zip(theirs, own))
    print(f"  {what:26s} {1e3 * statistics.median(theirs):9.2f} ms   x {ratio:.2f}", flush=True)


def main():
    binary = sys.argv[1]
    folder = sys.argv[2] if len(sys.argv) > 2 else None
    images = sys.argv[3] if len(sys.argv) > 3 else "20"
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    threads = sys.argv[5] if len(sys.argv) > 5 else str(len(os.sched_getaffinity(0)))
    for side in ("224", "320"):
        children = {"own": Child([binary, "changes", side]), "peers": Child([sys.executable, "-c", FOURIER, side])}
        print(f"side {side}, one thread: {children['own'].says}, {children['peers'].says}", flush=True)
        answers = interleaved(children, max(rounds, 5))
        for key, what in (("filters", "all filters of an image"), ("one", "one filter of an image")):
            own = [answer[key] for answer in answers["own"]]
            line(f"{what}: own", own, own)
            for peer in answers["peers"][0]:
                line(f"{what}: {peer}", own, [answer[peer][key] for answer in answers["peers"]])
        own = [answer["battery"] for answer in answers["own"]]
        line("battery of an image: own", own, own)
    if not folder:
        return
    python = os.environ.get("SIDELIGHT_BENCH_PYTHON")
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    os.environ.clear()
    os.environ.update(environment)
    children = {"own": Child([binary, "engine", folder, threads, images])}
    if python:
        children["peers"] = Child([python, "-c", LOOP, folder, images, threads])
    print(f"{images} images, {threads} threads: " + ", ".join(f"{what} {c.says}" for what, c in children.items()), flush=True)
    answers = interleaved(children, rounds)
    own = [answer["changed"] for answer in answers["own"]]
    line("battery, engine", own, own)
    line("nothing changed, engine", own, [answer["plain"] for answer in answers["own"]])
    for peer in answers["peers"][0] if python else ():
        line(f"{peer}, PyTorch", own, [answer[peer] for answer in answers["peers"]])


if __name__ == "__main__":
    main()
