"""What tests/it/perturb.rs compares src/perturb with. Usage: perturb.py FOLDER

FOLDER/cases.json lists cases: `side`, and `transforms` as Rust writes them; FOLDER/SIDE.bin holds planes (float32, one
after the other). Writes FOLDER/out-CASE.bin for each case: each transform applied to the planes as one batch, in float64.
Also FOLDER/libjpeg-CASE.bin for the case's JPEG transforms, by Pillow, and FOLDER/bins-CASE.json: how many frequencies
each filter keeps.
"""

import io
import json
import pathlib
import sys

import numpy as np
from PIL import Image

FOLDER = pathlib.Path(sys.argv[1])
FILTERS = ("low-pass", "high-pass", "band-pass", "notch")


def mask(transform, side):
    """The circular mask on the shifted spectrum."""
    y, x = np.mgrid[:side, :side]
    square = (y - side // 2) ** 2 + (x - side // 2) ** 2
    kind = transform["kind"]
    if kind in ("low-pass", "high-pass"):
        radius = transform["diameter"] / (1 if transform["form"] == "as-published" else 2)
        low = square < radius**2
        return low if kind == "low-pass" else ~low
    ring = (square >= transform["inner"] ** 2) & (square < transform["outer"] ** 2)
    return ring if kind == "band-pass" else ~ring


def filtered(plane, transform):
    spectrum = np.fft.fftshift(np.fft.fft2(plane)) * mask(transform, plane.shape[0])
    return np.real(np.fft.ifft2(np.fft.ifftshift(spectrum)))


def bilinear(plane, side, start, length):
    """The square part of the plane at `start` (row, column), `length` long, at `side` pixels."""

    def axis(n, start, length):
        place = np.clip(start + (np.arange(side) + 0.5) * length / side - 0.5, 0, n - 1)
        matrix = np.zeros((side, n))
        for i, p in enumerate(place):
            first = int(np.floor(p))
            matrix[i, first] += 1 - (p - first)
            matrix[i, min(first + 1, n - 1)] += p - first
        return matrix

    rows = axis(plane.shape[0], start[0], length)
    columns = axis(plane.shape[1], start[1], length)
    return rows @ plane @ columns.T


def interpolation(n, side):
    """The same for a whole axis, by numpy's own interpolation."""
    place = np.clip((np.arange(side) + 0.5) * n / side - 0.5, 0, n - 1)
    return np.stack([np.interp(place, np.arange(n), unit) for unit in np.eye(n)], axis=1)


def area(plane, to):
    """Exact means over areas: of each pixel repeated `to` times along both axes."""
    fine = np.repeat(np.repeat(plane, to, axis=0), to, axis=1)
    n = plane.shape[0]
    return fine.reshape(to, n, to, n).mean(axis=(1, 3))


def gaussian(values, sigma, axis):
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    widths = [(0, 0)] * values.ndim
    widths[axis] = (reach, reach)
    padded = np.pad(values, widths, mode="symmetric")
    return np.apply_along_axis(lambda line: np.convolve(line, kernel, mode="valid"), axis, padded)


def mixed(counter):
    """SplitMix64 of a counter."""
    z = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def normal(seed, field, count):
    with np.errstate(over="ignore"):
        start = mixed(np.uint64(seed) + mixed(np.uint64(field)))
        raw = mixed(start + np.arange(count + count % 2, dtype=np.uint64))
    uniform = (raw >> np.uint64(11)).astype(float) / 2.0**53
    radius = np.sqrt(-2 * np.log(1 - uniform[0::2]))
    angle = 2 * np.pi * uniform[1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count]


TABLE = np.array(
    [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29]
    + [51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121]
    + [120, 101, 72, 92, 95, 98, 112, 100, 103, 99]
).reshape(8, 8)


def rounded(values):
    """Halves upwards, whatever a sum's last bit says."""
    return np.floor(values + 0.5 + 1e-9)


def jpeg(plane, quality):
    side = plane.shape[0]
    grey = rounded(np.clip(plane, 0, 1) * 255)
    more = -side % 8
    grey = np.pad(grey, ((0, more), (0, more)), mode="edge") - 128
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = np.clip((TABLE * scale + 50) // 100, 1, 255)
    frequency, place = np.mgrid[:8, :8]
    dct = 0.5 * np.cos((2 * place + 1) * frequency * np.pi / 16)
    dct[0] = np.sqrt(1 / 8)
    out = np.empty_like(grey)
    for r in range(0, side, 8):
        for c in range(0, side, 8):
            coefficients = dct @ grey[r : r + 8, c : c + 8] @ dct.T
            coefficients = rounded(coefficients / table) * table
            out[r : r + 8, c : c + 8] = dct.T @ coefficients @ dct
    return np.clip(rounded(out + 128), 0, 255)[:side, :side] / 255


def libjpeg(plane, quality):
    file = io.BytesIO()
    Image.fromarray(rounded(np.clip(plane, 0, 1) * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).astype(float) / 255


def cell(transform, side):
    """Rows and columns of a cell of the 3 × 3 grid."""
    if transform["form"] == "as-published":
        edges = [side // 3 * i for i in range(4)]
    else:
        edges = [side * i // 3 for i in range(4)]
    row, column = divmod(transform["cell"], 3)
    return slice(edges[row], edges[row + 1]), slice(edges[column], edges[column + 1])


def apply(transform, planes):
    kind, side = transform["kind"], planes.shape[1]
    if kind in FILTERS:
        return np.stack([filtered(plane, transform) for plane in planes])
    if kind == "window":
        return np.clip((planes - transform["level"]) / transform["width"] + 0.5, 0, 1)
    if kind == "field-of-view":
        length = transform["share"] * side
        start = (side - length) / 2
        return np.stack([bilinear(plane, side, (start, start), length) for plane in planes])
    if kind == "noise":
        own = transform["form"] == "corrected"
        fields = [normal(transform["seed"], i if own else 0, side * side) for i in range(len(planes))]
        return planes + transform["sigma"] * np.stack(fields).reshape(planes.shape)
    if kind == "blur":
        axes = (1, 2, 0) if transform["form"] == "as-published" else (1, 2)
        for axis in axes:
            planes = gaussian(planes, transform["sigma"], axis)
        return planes
    if kind == "resolution":
        to = transform["side"]
        if to >= side:
            return planes
        return np.stack([bilinear(area(plane, to), side, (0, 0), to) for plane in planes])
    if kind == "patch":
        rows, columns = cell(transform, side)
        if transform["kept"] == "rest":
            planes = planes.copy()
            planes[:, rows, columns] = 0
            return planes
        part = planes[:, rows, columns]
        across, down = interpolation(part.shape[2], side), interpolation(part.shape[1], side)
        return np.stack([down @ one @ across.T for one in part])
    if kind == "ceiling":
        return np.minimum(planes, transform["level"])
    if kind == "box":
        planes = planes.copy()
        planes[:, transform["top"] : transform["bottom"], transform["left"] : transform["right"]] = 0
        return planes
    if kind == "jpeg":
        return np.stack([jpeg(plane, transform["quality"]) for plane in planes])
    raise ValueError(kind)


for number, case in enumerate(json.loads((FOLDER / "cases.json").read_text())):
    side = case["side"]
    planes = np.fromfile(FOLDER / f"{side}.bin", "<f4").astype(float).reshape(-1, side, side)
    transforms = case["transforms"]
    np.stack([apply(t, planes) for t in transforms]).astype("<f8").tofile(FOLDER / f"out-{number}.bin")
    bins = [int(mask(t, side).sum()) for t in transforms if t["kind"] in FILTERS]
    (FOLDER / f"bins-{number}.json").write_text(json.dumps(bins))
    files = [libjpeg(plane, t["quality"]) for t in transforms if t["kind"] == "jpeg" for plane in planes]
    if files:
        np.stack(files).astype("<f8").tofile(FOLDER / f"libjpeg-{number}.bin")
