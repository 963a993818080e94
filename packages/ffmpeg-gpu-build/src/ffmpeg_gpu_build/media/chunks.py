"""Files made of chunks, gone through from header to header: one that ends in a chunk is cut, and
where no chunk begins one was hurt. Only headers are read.

FFmpeg's demuxers look for the next chunk that they know, and say nothing of what they pass over.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Read = Callable[[int, int], bytes]  # (offset, length) -> bytes, fewer at the end of the file
LIVE = 0x7FFFF000  # from here on a size of 32 bits was written by one that could not go back to it
_NAME = re.compile(rb"[\x20-\x7e\xa9]{4}")
_OF_AVI = re.compile(rb"\d\d[A-Za-z]{2}|ix\d\d|JUNK|LIST|RIFF|idx1")
W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_ROQ = {0x1001, 0x1002, 0x1011, 0x1012, 0x1013, 0x1020, 0x1021, 0x1030, 0x1084}
ROQ_MARK = b"\x84\x10\xff\xff\xff\xff"
MXF_KEY = b"\x06\x0e\x2b\x34"


@dataclass(frozen=True)
class Form:
    """A kind of file: its name, where its first chunk begins by the head of the file, how long a
    chunk's header is, and how far it is from a header to the next, None where no chunk begins.
    `dense` if nothing else lies between and behind chunks.
    """

    name: str
    first: Callable[[bytes], int]
    header: int
    step: Callable[[bytes], int | None]
    dense: bool = False

    def broken(self, read: Read, size: int) -> str | None:
        """Why a file of `size` bytes is not whole; None if it is, or does not tell."""
        at = self.first(read(0, 64))
        while at < size:
            head = read(at, 32)
            step = self.step(head) if len(head) >= self.header else size - at + 2
            if step is None:
                return f"{self.name} in which no chunk begins at byte {at}" if self.dense else None
            if step == 0:  # to the end
                return None
            if at + step > size + 1:  # the last may lack the byte that makes it even
                return f"{self.name} that ends within a chunk, at byte {at}"
            at += step
        return None


def _even(length: int) -> int:
    return length + (length & 1)


def _riff(head: bytes) -> int | None:
    """RIFF (Microsoft, 1991): a name and a size of 32 bits, little end first."""
    name, length = struct.unpack_from("<4sI", head)
    if not _NAME.fullmatch(name):
        return None
    return 0 if length >= LIVE else 8 + _even(length)


def _iff(head: bytes) -> int | None:
    """EA IFF 85, as AIFF has it: the big end first."""
    name, length = struct.unpack_from(">4sI", head)
    return 8 + _even(length) if _NAME.fullmatch(name) else None


def _caf(head: bytes) -> int | None:
    """Core Audio Format: 64 bits, -1 for the last one of a recording that goes on."""
    name, length = struct.unpack_from(">4sq", head)
    if not _NAME.fullmatch(name):
        return None
    return 0 if length < 0 else 12 + length


def _w64(head: bytes) -> int | None:
    """Sony Wave64: names of 16 bytes, sizes of 64 bits that count the header, multiples of 8."""
    (length,) = struct.unpack_from("<Q", head, 16)
    return -(-length // 8) * 8 if length >= 24 else None


def _voc(head: bytes) -> int | None:
    """Creative Voice: a type and a size of 24 bits; type 0 is the end."""
    return 4 + int.from_bytes(head[1:4], "little") if head[0] else 0


def _ivf(head: bytes) -> int | None:
    """IVF: a size and a time before each frame."""
    return 12 + int.from_bytes(head[:4], "little")


def _roq(head: bytes) -> int | None:
    """Id's RoQ; the signature says how fast it is shown, not a size."""
    name, length = struct.unpack_from("<HI", head)
    return 8 + length if name in _ROQ else None


def _klv(head: bytes) -> int | None:
    """MXF (SMPTE 377-1): a key of 16 bytes, and a length by BER."""
    if not head.startswith(MXF_KEY):
        return None
    more = head[16] & 0x7F if head[16] & 0x80 else 0
    length = int.from_bytes(head[17 : 17 + more], "big") if more else head[16]
    return 17 + more + length if more <= 8 else None


def _dirac(head: bytes) -> int | None:
    """Dirac and VC-2: each data unit says where the next begins, or 0 where it does not know."""
    return int.from_bytes(head[5:9], "big") if head.startswith(b"BBCD") else None


WAVE = Form("a WAV file", lambda head: 12, 8, _riff)
FORMS = (
    (b"caff", Form("a CAF file", lambda head: 8, 12, _caf)),
    (W64_RIFF, Form("a Wave64 file", lambda head: 40, 24, _w64)),
    (b"Creative Voice File\x1a", Form("a VOC file", lambda h: h[20] + 256 * h[21], 1, _voc)),
    (b"DKIF", Form("an IVF file", lambda head: head[6] + 256 * head[7], 12, _ivf)),
    (ROQ_MARK, Form("a RoQ file", lambda head: 8, 8, _roq, dense=True)),
    (MXF_KEY, Form("an MXF file", lambda head: 0, 17, _klv, dense=True)),
    (b"BBCD", Form("a Dirac stream", lambda head: 0, 13, _dirac, dense=True)),
)
AIFF = Form("an AIFF file", lambda head: 12, 8, _iff)


def _wave64_of_riff(read: Read, size: int) -> str | None:
    """RF64 and BW64 (EBU Tech 3306): the sizes are in the chunk ds64."""
    head = read(12, 24)
    if head[:4] != b"ds64" or len(head) < 24:
        return None
    (said,) = struct.unpack_from("<Q", head, 8)
    return f"its header says {said + 8} bytes, {size} are there" if said + 8 > size else None


def _avi(read: Read, size: int) -> str | None:
    """An AVI, whose pictures lie in lists "movi", those behind the first in a RIFF "AVIX" each
    (OpenDML). Some writers leave out the byte that makes a chunk even.
    """
    at, until, evened = 12, 0, 0  # until: the end of the list in which nothing but chunks may lie
    while at + 8 <= size:
        head = read(at, 12)
        if evened and not _OF_AVI.match(head) and _OF_AVI.match(read(at - 1, 4)):
            at, evened = at - 1, 0
            continue
        if not _NAME.fullmatch(head[:4]):
            return f"an AVI file in which no chunk begins at byte {at}" if at < until else None
        name, length, kind = struct.unpack("<4sI4s", head.ljust(12))
        if name in (b"RIFF", b"LIST") and kind in (b"AVIX", b"movi", b"rec "):
            if kind == b"movi":
                until = min(at + 8 + length, size)
            at += 12
        elif at + 8 + length > size:
            return f"an AVI file that ends within a chunk, at byte {at}"
        else:
            evened = length & 1
            at += 8 + length + evened
    return f"an AVI file that ends within a chunk, at byte {at}" if at < until else None


def broken(path: Path) -> str | None:
    """Why a file that is made of chunks is not whole; None if it is, or is no such file."""
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size

        def read(at: int, length: int) -> bytes:
            return os.pread(file, length, at)

        head = read(0, 64)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _avi(read, size)
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            return WAVE.broken(read, size)
        if head[:4] in (b"RF64", b"BW64"):
            return _wave64_of_riff(read, size)
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return AIFF.broken(read, size)
        form = next((form for mark, form in FORMS if head.startswith(mark)), None)
        return form.broken(read, size) if form else None
    finally:
        os.close(file)
