"""Sound without a container: frames that say how long they are, one behind the other. A file that
ends within one is cut, which FFmpeg's parsers pass over.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from .chunks import Read

# Kilobits a second by the header's number (ISO/IEC 11172-3, 2.4.2.3; 13818-3): MPEG-1 layers I to
# III, MPEG-2 layer I, MPEG-2 layers II and III
_RATES = (
    (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def mpeg(head: bytes) -> int | None:
    """The length of a frame of MPEG audio, MP1, MP2 or MP3; None where none begins, or one of free
    rate.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate, sampling, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or rate in (0, 15) or sampling == 3:
        return None
    row = layer - 1 if version == 3 else 3 + (layer > 1)
    bits, samples = _RATES[row][rate - 1] * 1000, _SAMPLES[version][sampling]
    if layer == 1:
        return (12 * bits // samples + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // samples + padding


def truehd(head: bytes) -> int | None:
    """The length of an access unit of TrueHD or MLP, in words of 16 bits."""
    length = 2 * (int.from_bytes(head[:2], "big") & 0xFFF)
    return length if length >= 4 else None


def dts(head: bytes) -> int | None:
    """The length of a core frame of DTS, or of the extension behind it (ETSI TS 102 114)."""
    bits = int.from_bytes(head[:14].ljust(14, b"\0"), "big")
    if head.startswith(b"\x7f\xfe\x80\x01"):
        return (bits >> 112 - 60 & 0x3FFF) + 1
    if head.startswith(b"\x64\x58\x20\x25"):
        wide = bits >> 112 - 43 & 1
        return (bits >> 112 - (75 if wide else 67) & (0xFFFFF if wide else 0xFFFF)) + 1
    return None


def _behind_tags(read: Read) -> int:
    """Where ID3v2 tags at the beginning end: their sizes have seven bits a byte."""
    at = 0
    while (head := read(at, 10))[:3] == b"ID3" and len(head) == 10:
        a, b, c, d = (byte & 0x7F for byte in head[6:])
        at += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    return at


def _promised(first: bytes) -> int:
    """How many bytes the sound has by the frame of facts that encoders put first (Xing, Info or
    VBRI); 0 where it does not say it.
    """
    for mark in (b"Xing", b"Info"):
        at = first.find(mark, 0, 64)
        if at > 0 and len(first) >= at + 16:
            (flags,) = struct.unpack_from(">I", first, at + 4)
            place = at + 8 + (4 if flags & 1 else 0)
            return struct.unpack_from(">I", first, place)[0] if flags & 2 else 0
    at = first.find(b"VBRI", 0, 64)
    return struct.unpack_from(">I", first, at + 10)[0] if at > 0 and len(first) >= at + 14 else 0


def _cut(read: Read, size: int) -> str | None:
    at = _behind_tags(read)
    first = read(at, 128)
    if first[4:8] in (b"\xf8\x72\x6f\xba", b"\xf8\x72\x6f\xbb"):
        length, name, dense = truehd, "a TrueHD stream", True
    elif first.startswith(b"\x7f\xfe\x80\x01"):
        behind = dts(read(at + (dts(first) or 0), 14))  # None where frames are padded
        length, name, dense = dts, "a DTS stream", behind is not None
    else:
        length, name, dense = mpeg, "MPEG audio", False
        one = mpeg(first)
        two = None if one is None else mpeg(read(at + one, 4))
        if one is None or two is None or mpeg(read(at + one + two, 4)) is None:
            return None
        said = at + _promised(first)
        if said > size:
            return f"{name} that should end at byte {said}, the file has {size}"
    while at < size:
        step = length(read(at, 14))
        if step is None:  # tags, and what else players pass over
            return f"{name} in which no frame begins at byte {at}" if dense else None
        if at + step > size:
            return f"{name} that ends within a frame, at byte {at}"
        at += step
    return None


def broken_sound(path: Path) -> str | None:
    """Why a file of bare sound is not whole; None if it is, or is none of those known here."""
    file = os.open(path, os.O_RDONLY)
    try:
        return _cut(lambda at, length: os.pread(file, length, at), os.fstat(file).st_size)
    finally:
        os.close(file)
