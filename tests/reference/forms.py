"""How pixels are laid down, beyond syntax, photometric interpretation and depth: for stored.py and normalise.py."""

import io

import numpy as np
from pydicom.encaps import generate_frames, parse_basic_offsets, parse_fragments

SOF, SOF_LOSSLESS, SOF_JPEG_LS, SCAN, TILE_PART, SIZE, CODING_STYLE = 0xC0, 0xC3, 0xF7, 0xDA, 0x90, 0x51, 0x52
PROGRESSIONS = ["LRCP", "RLCP", "RPCL", "PCRL", "CPRL"]


def header(frame):
    """The segments of the header of a JPEG, JPEG-LS or JPEG 2000 codestream, by marker."""
    found, at = {}, 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        found[marker] = frame[at + 4 : at + 2 + length]
        if marker in (SCAN, TILE_PART):
            break
        at += 2 + length
    return found


def first_frame(ds):
    """The first encapsulated frame; nothing where there is none."""
    if "PixelData" not in ds or not ds["PixelData"].is_undefined_length:
        return b""
    return next(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1)), b"")


def transformed(frame):
    """Whether a JPEG 2000 codestream has the multiple component transform."""
    return frame.startswith(b"\xff\x4f") and header(frame)[CODING_STYLE][4] == 1


def sampling(frame):
    """4:4:4, 4:2:2 and so on of a JPEG frame of three components coded with DCT; nothing of others."""
    segments = header(frame) if frame.startswith(b"\xff\xd8") else {}
    for content in (segments[marker] for marker in (SOF, SOF + 1) if marker in segments):
        if content[5] == 3:
            factors = content[7], content[10], content[13]
            names = {(0x21, 0x11, 0x11): "4:2:2", (0x22, 0x11, 0x11): "4:2:0"}
            return "4:4:4" if len(set(factors)) == 1 else names.get(factors, "other sampling")
    return None


def of_codestream(ds, frame):
    if frame.startswith(b"\x00\x00\x00\x0cJXL "):
        return ["container"]
    if frame.startswith(b"\xff\x4f"):
        segments = header(frame)
        order, bits = PROGRESSIONS[segments[CODING_STYLE][1]], (segments[SIZE][36] & 127) + 1
        found = ["component transform"] if transformed(frame) else []
        found += [order] if order != "LRCP" else []
        return found + ([f"coded with {bits} bits"] if bits != ds.BitsStored else [])
    if not frame.startswith(b"\xff\xd8"):
        return []
    segments = header(frame)
    first, second, shift = segments[SCAN][-3:]
    if SOF_JPEG_LS in segments:
        return [["by plane", "by line", "by sample"][second]] if ds.SamplesPerPixel == 3 else []
    if SOF_LOSSLESS in segments:
        found = [f"predictor {first}"] if first != 1 else []
        return found + ([f"point transform {shift & 15}"] if shift & 15 else [])
    return [sampling(frame)] if sampling(frame) else []


def of_encapsulation(ds, frames):
    items = io.BytesIO(ds.PixelData)
    table, (fragments, _) = parse_basic_offsets(items), parse_fragments(items)
    found = ["fragments"] if fragments > frames else []
    if "ExtendedOffsetTable" in ds:
        return found + ["extended offset table"]
    if frames > 1:
        found.append("basic offset table" if table else "empty offset table")
    return found


def of_bits(ds, native):
    """What of the bits allocated the stored ones leave to others."""
    stored, allocated = ds.BitsStored, ds.BitsAllocated
    found = [f"high bit {ds.HighBit}"] if ds.get("HighBit", stored - 1) != stored - 1 else []
    overlays = [group for group in range(0x6000, 0x6020, 2) if (group, 0x0102) in ds and (group, 0x3000) not in ds]
    if any(ds[group, 0x0102].value for group in overlays):
        return found + ["overlay bits"]
    if native and not found and stored < allocated == 16 and len(ds.PixelData) % 2 == 0:
        words = np.frombuffer(ds.PixelData, "<u2" if ds.original_encoding[1] else ">u2").astype(np.int64)
        above, sign = words >> stored, words >> stored - 1 & 1 if ds.PixelRepresentation else 0
        found = ["garbage bits"] if np.any(above != sign * ((1 << 16 - stored) - 1)) else []
    return found


def of_groups(ds):
    kinds = {"shared": "SharedFunctionalGroupsSequence", "per-frame": "PerFrameFunctionalGroupsSequence"}
    found = [kind for kind, keyword in kinds.items() if any(len(item) for item in ds.get(keyword) or [])]
    return [" and ".join(found) + " groups"] if found else []


def forms(ds):
    """The list, in words of the table of docs/pixel-conformance.md; empty if there is nothing out of the ordinary."""
    frames = int(ds.get("NumberOfFrames") or 1)
    found = ["multi-frame"] if frames > 1 else []
    found += of_groups(ds)
    if "PixelData" not in ds:
        return found
    native = not ds["PixelData"].is_undefined_length
    if native:
        found += ["planar 1"] if ds.get("PlanarConfiguration") == 1 else []
        samples = frames * ds.Rows * ds.Columns * ds.SamplesPerPixel
        found += ["odd length"] if samples * ds.BitsAllocated // 8 % 2 else []
    else:
        found += of_encapsulation(ds, frames) + of_codestream(ds, first_frame(ds))
    return found + of_bits(ds, native)
