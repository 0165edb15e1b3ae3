"""Writes what sound peers send, as inputs to begin with. Usage: seeds.py FOLDER, which gets `pdu`, `command` and
`multipart`."""

import pathlib
import struct
import sys


def pdu(kind, content):
    return struct.pack(">BBI", kind, 0, len(content)) + content


def item(kind, value):
    return struct.pack(">BBH", kind, 0, len(value)) + value


def context(number, abstract, *transfer):
    return item(0x20, bytes([number, 0, 0, 0]) + item(0x30, abstract) + b"".join(item(0x40, t) for t in transfer))


def request(*user):
    fixed = b"\0\1\0\0" + b"SIDELIGHT".ljust(16) + b"PACS".ljust(16) + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1")
    contexts = context(1, CT, b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2"), context(3, ECHO, b"1.2.840.10008.1.2")
    return pdu(1, fixed + b"".join(contexts) + item(0x50, b"".join(user)))


def element(number, value):
    return struct.pack("<HHI", 0, number, len(value)) + value


def us(number, value):
    return element(number, struct.pack("<H", value))


def command(uid, field, *elements):
    body = element(2, uid + b"\0" * (len(uid) % 2)) + us(0x100, field) + b"".join(elements)
    return element(0, struct.pack("<I", len(body))) + body


def data(number, control, value):
    return pdu(4, struct.pack(">IBB", len(value) + 2, number, control) + value)


CT, ECHO = b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.1.1"
LENGTH = item(0x51, struct.pack(">I", 16384))
NAMED = item(0x52, b"1.2.3.4"), item(0x55, b"VERSION")
ROLE = item(0x54, struct.pack(">H", len(CT)) + CT + b"\1\1")
WINDOW = item(0x53, b"\0\1\0\1")
EXTENDED = item(0x56, struct.pack(">H", len(CT)) + CT + b"\1\0\0\1")
COMMON = item(0x57, struct.pack(">H", len(CT)) + CT + struct.pack(">H", 17) + b"1.2.840.10008.4.2" + b"\0\0")
IDENTITY = item(0x58, b"\2\1\0\4user\0\4code")

STORE = command(CT, 1, us(0x110, 7), us(0x700, 0), us(0x800, 1), element(0x1000, b"1.2.3\0"))
COMMANDS = {
    "store": STORE,
    "store-answer": command(CT, 0x8001, us(0x120, 7), us(0x800, 0x101), us(0x900, 0xA700), element(0x902, b"no room ")),
    "echo": command(ECHO, 0x30, us(0x110, 8), us(0x800, 0x101)),
    "cancel": element(0, struct.pack("<I", 30)) + us(0x100, 0xFFF) + us(0x120, 7) + us(0x800, 0x101),
    "find": command(b"1.2.840.10008.5.1.4.1.2.2.1", 0x20, us(0x110, 9), us(0x700, 0), us(0x800, 1)),
    "action": command(b"1.2.840.10008.1.20.1", 0x130, us(0x110, 9), us(0x800, 1), us(0x1008, 1)),
}
STREAMS = {
    "plain": request(LENGTH, *NAMED),
    "negotiating": request(LENGTH, WINDOW, ROLE, EXTENDED, COMMON, IDENTITY, item(0x7F, b"unknown")),
    "storing": request(LENGTH) + data(1, 3, STORE) + data(1, 2, b"\1\2\3\4") + pdu(5, bytes(4)),
    "released": pdu(6, bytes(4)),
    "aborted": request(LENGTH) + pdu(7, b"\0\0\2\6"),
    "rejected": pdu(3, b"\0\1\1\7"),
}


def short(number, vr, value):
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH", 2, number) + vr + struct.pack("<H", len(value)) + value


def part(content, header=b"Content-Type: application/dicom"):
    return b"--b1\r\n" + header + b"\r\n\r\n" + content + b"\r\n"


GROUP = short(2, b"UI", CT) + short(3, b"UI", b"1.2.3") + short(0x10, b"UI", b"1.2.840.10008.1.2.1")
FILE = bytes(128) + b"DICM" + short(0, b"UL", struct.pack("<I", len(GROUP))) + GROUP + b"\x08\0\x60\0CS\2\0CT"
# The first eight bytes say how the body is cut.
BODIES = {
    "one": b"\1\2\3\4\5\6\7\x08" + part(FILE) + b"--b1--",
    "two": bytes([200] * 8) + b"before\r\n" + part(FILE) + part(b"\r\n--b\r\n", b"A: b") + b"--b1--\r\nafter",
    "empty": bytes(8) + b"--b1\r\n\r\n--b1--",
}

for folder, seeds in {"command": COMMANDS, "pdu": STREAMS, "multipart": BODIES}.items():
    path = pathlib.Path(sys.argv[1]) / folder
    path.mkdir(parents=True, exist_ok=True)
    for name, content in seeds.items():
        (path / name).write_bytes(content)
