"""Whether a file is whole by its own account: sizes and end marks that containers have.

FFmpeg ends with exit code 0 where a container is cut between two frames, or a mark is not there.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from .bare_sound import broken_sound
from .chunks import LIVE, broken
from .crops import LARGEST_MOOV, vint


def _riff(head: bytes, tail: bytes, size: int) -> str | None:
    """A RIFF says its size, unless it was written by one that could not go back."""
    (said,) = struct.unpack_from("<I", head, 4)
    live = said in (0, 0x80000024) or LIVE <= said <= 0x7FFFFFFF or said >= 0xFFFFFF00
    if head[8:12] in (b"AVI ", b"WEBP", b"WAVE") and not live and said + 8 > size:
        return f"its header says {said + 8} bytes, {size} are there"
    return None


def _gif(head: bytes, tail: bytes, size: int) -> str | None:
    return None if tail.rstrip(b"\0").endswith(b";") else "a GIF without its end mark"


def _png(head: bytes, tail: bytes, size: int) -> str | None:
    return None if b"IEND" in tail else "a PNG without its end mark"


def _ogg(head: bytes, tail: bytes, size: int) -> str | None:
    """The last page of a stream bears a flag (RFC 3533, section 6)."""
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return "an Ogg file that ends within a page"
    count = tail[at + 26]
    length = 27 + count + sum(tail[at + 27 : at + 27 + count])
    if at + length > len(tail):
        return "an Ogg file that ends within a page"
    return None if tail[at + 5] & 4 else "an Ogg file whose last page is not marked as the last"


def _flv(head: bytes, tail: bytes, size: int) -> str | None:
    """Each tag is followed by its size; the first may say that of the file (FLV 10.1, annex E)."""
    place = head.find(b"\0\x08filesize\0", 0, 4096)
    told = place >= 0 and len(head) >= place + 19
    said = struct.unpack_from(">d", head, place + 11)[0] if told else 0.0
    if size < said < 1 << 53:
        return f"its header says {said:.0f} bytes, {size} are there"
    (last,) = struct.unpack(">I", tail[-4:])
    at = len(tail) - 4 - last
    if at >= 0 and last >= 11 and tail[at] & 0x1F in (8, 9, 18):
        return None
    known = at >= 0 or last > size  # a tag longer than what was read is not judged
    return "an FLV file that ends within a tag" if known else None


def _asf(head: bytes, tail: bytes, size: int) -> str | None:
    """The File Properties Object says the size of the file (ASF specification, 3.2)."""
    at = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if at < 0 or len(head) < at + 48:
        return None
    (said,) = struct.unpack_from("<Q", head, at + 40)
    return f"its header says {said} bytes, {size} are there" if said > size else None


def _au(head: bytes, tail: bytes, size: int) -> str | None:
    """A Sun AU says where its sound begins and how long that is, unless it did not know."""
    first, length = struct.unpack_from(">II", head, 4)
    if length >= LIVE or first + length <= size:
        return None
    return f"its header says {first + length} bytes, {size} are there"


def _swf(head: bytes, tail: bytes, size: int) -> str | None:
    """A Flash file that is not compressed says its size (SWF specification, the header)."""
    (said,) = struct.unpack_from("<I", head, 4)
    return f"its header says {said} bytes, {size} are there" if said > size else None


def _flic(head: bytes, tail: bytes, size: int) -> str | None:
    """An FLI or FLC begins with its own size (Autodesk Animator, file formats)."""
    (said,) = struct.unpack_from("<I", head)
    return f"its header says {said} bytes, {size} are there" if said > size else None


def _matroska(head: bytes, tail: bytes, size: int) -> str | None:
    """The Segment says its size, in a file that is no live stream (RFC 9559, section 5.1)."""
    if not head[4]:
        return None
    length, at = vint(head, 4)
    at += length or 0
    if head[at : at + 4] != b"\x18\x53\x80\x67" or len(head) < at + 13 or not head[at + 4]:
        return None
    length, at = vint(head, at + 4)
    if length is None or at + length <= size:
        return None
    return f"its Segment should end at byte {at + length}, the file has {size}"


def _boxes(path: Path, size: int) -> str | None:
    """Boxes of the top level must end where the file does (ISO/IEC 14496-12, 4.2). Behind fragments
    come further ones: FFmpeg ends without a word where none begins.
    """
    at, names, index = 0, set(), b""
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            (length,) = struct.unpack_from(">I", head)
            if not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", head[4:8]):
                # elsewhere what is no box is not ours to judge
                return f"no box begins at byte {at}, behind fragments" if b"moof" in names else None
            if length == 0:  # to the end of the file
                return None
            if length == 1 and len(head) == 16:
                (length,) = struct.unpack_from(">Q", head, 8)
            if length < 8:
                return None
            if at + length > size:
                name = head[4:8].decode("latin-1")
                return f"its box {name!r} should end at byte {at + length}, the file has {size}"
            if head[4:8] == b"moov":
                index = file.read(min(length, LARGEST_MOOV))
            names.add(head[4:8])
            at += length
        file.seek(at)
        rest = file.read(8)
    if rest and (b"moof" in names or rest.strip(b"\0")):
        return f"it ends within the head of a box, at byte {at}"
    if index and b"mvex" not in index and not names & {b"mdat", b"moof"}:
        return f"it ends behind its index, at byte {at}, before any picture or sound"
    return None


def _dv(head: bytes, tail: bytes, size: int) -> str | None:
    """Raw DV is made of frames of one size, by the number of lines (SMPTE 314M)."""
    frame = 144_000 if head[3] & 0x80 else 120_000
    rest = size % frame
    return f"a DV file that ends within a frame ({rest} bytes)" if rest else None


# The luma samples beside and above one of chroma, by YUV4MPEG2's colours; 0: no chroma
Y4M_COLOURS = re.compile(r"(420|422|444|411|mono)(?:jpeg|mpeg2|paldv|p?(\d+))?")
Y4M_CHROMA = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "411": (4, 1), "mono": (0, 0)}


def _y4m(head: bytes, tail: bytes, size: int) -> str | None:
    """Frames of one size, each behind the word FRAME (yuv4mpeg(5), mjpegtools)."""
    line = head.partition(b"\n")[0]
    words = {word[:1]: word[1:] for word in line.decode("latin-1").split()[1:]}
    colours = Y4M_COLOURS.fullmatch(words.get("C", "420"))
    width, height = words.get("W", ""), words.get("H", "")
    if colours is None or not (width.isdigit() and height.isdigit()):
        return None
    if head[len(line) + 1 :][:6] != b"FRAME\n":  # with parameters, which may differ
        return None
    across, down = Y4M_CHROMA[colours[1]]
    chroma = -(-int(width) // across) * -(-int(height) // down) if across else 0
    frame = (int(width) * int(height) + 2 * chroma) * (2 if int(colours[2] or 8) > 8 else 1)
    rest = (size - len(line) - 1) % (len(b"FRAME\n") + frame)
    return f"a Y4M file that ends within a frame ({rest} bytes)" if rest else None


def _grid(head: bytes, tail: bytes, size: int) -> str | None:
    """A transport stream is made of packets of 188 bytes (192 in M2TS, ISO/IEC 13818-1)."""
    for step, first in ((188, 0), (192, 4)):
        marks = range(first, min(len(head), 20 * step), step)
        if len(marks) > 4 and all(head[at] == 0x47 for at in marks):
            rest = size % step
            return f"a transport stream that ends within a packet ({rest} bytes)" if rest else None
    return None


_MARKS = (
    (b"RIFF", _riff), (b"GIF8", _gif), (b"\x89PNG", _png), (b"OggS", _ogg), (b"FLV", _flv),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _asf), (b"\x1a\x45\xdf\xa3", _matroska),
    (b"\x1f\x07\0", _dv), (b"YUV4MPEG2 ", _y4m), (b".snd", _au), (b"FWS", _swf),
)  # fmt: skip
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"styp", b"skip", b"pnot")


def unfinished(path: Path) -> str | None:
    """Why a file is not whole by its own account; None if it is, or says nothing of its end.

    The log of a decoder does not tell of an AVI, GIF, Ogg, FLV or transport stream that is cut
    between two frames.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 14)
        file.seek(max(0, size - (1 << 17)))
        tail = file.read()
    if len(head) < 64:
        return None
    if head[4:8] in _BOXES:
        return _boxes(path, size)
    for mark, look in _MARKS:
        if head.startswith(mark) and (found := look(head, tail, size)):
            return found
    if head[4:6] in (b"\x11\xaf", b"\x12\xaf"):
        return _flic(head, tail, size)
    return broken(path) or broken_sound(path) or _grid(head, tail, size)
