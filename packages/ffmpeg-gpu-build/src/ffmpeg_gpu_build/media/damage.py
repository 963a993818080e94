"""What a file lost: what FFmpeg's demuxers and decoders complain of, and endings that are missing.

FFmpeg ends with exit code 0 when a file stops in the middle or a frame is made up, and says so in
its log alone. Some containers are cut without even that: their own size or end mark is looked at.
"""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path

from ..ffmpeg import FfmpegError
from .crops import vint
from .sources import Source

# Warnings that mean a lost or made-up picture or sound; every line of level error or fatal does.
WARNINGS = re.compile(
    r"corrupt (input packet|decoded frame)|Packet corrupt|PES packet size mismatch"
    r"|edit unit sync lost|broken or empty index|concealing|File ended prematurely"
    r"|Truncat|truncated|incomplete frame|partial file|EOI missing|overread",
    re.I,
)
# Lines of level error that say nothing of the input: devices, encoders, and what is put right.
ELSEWHERE = re.compile(
    r"\[(AVHW\w+|OpenCL|Vulkan|lib(x264|x265|svtav1|vpx|aom|opus|mp3lame)[\w-]*|\w+_nvenc"
    r"|Parsed_\w+|vost#|aost#|out#|showinfo\w*|vf#|fc#)[^\]]*\]"
    r"|co located POCs unavailable|mmco: unref short failure|number of reference frames"
    r"|Last message repeated|\[error\]\s*$|Cannot load lib|Could not dynamically load"
    r"|invalid TIFF header in EXIF data|Error parsing (Opus packet header|OBU)"
    r"|Failed to (open|load) font|non monotonically increasing dts to muxer"
    r"|first frame is no keyframe"
)
LEVEL = re.compile(r"\[(error|fatal|panic|warning)\]")


def complaints(log: str) -> list[str]:
    """The lines of a log of `-loglevel level+verbose` that tell of lost content, in order."""
    found = []
    for line in log.splitlines():
        level = LEVEL.search(line)
        if level is None or ELSEWHERE.search(line):
            continue
        if level[1] != "warning" or WARNINGS.search(line):
            found.append(re.sub(r" @ 0x[0-9a-f]+", "", line.strip()))
    return found


def _riff(head: bytes, tail: bytes, size: int) -> str | None:
    (said,) = struct.unpack_from("<I", head, 4)
    if head[8:12] in (b"AVI ", b"WEBP", b"WAVE") and 0 < said < 0xFFFFFFFF and said + 8 > size:
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
    """Each tag is followed by its size."""
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
    """Boxes of the top level must end where the file does (ISO/IEC 14496-12, 4.2)."""
    at = 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            (length,) = struct.unpack_from(">I", head)
            if not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", head[4:8]):
                return None  # no box: what follows is not ours to judge
            if length == 0:  # to the end of the file
                return None
            if length == 1 and len(head) == 16:
                (length,) = struct.unpack_from(">Q", head, 8)
            if length < 8:
                return None
            if at + length > size:
                name = head[4:8].decode("latin-1")
                return f"its box {name!r} should end at byte {at + length}, the file has {size}"
            at += length
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


def unfinished(path: Path) -> str | None:
    """Why a container is not whole by its own account; None if it is, or says nothing of its end.

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
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"styp"):
        return _boxes(path, size)
    for mark, look in (
        (b"RIFF", _riff), (b"GIF8", _gif), (b"\x89PNG", _png), (b"OggS", _ogg), (b"FLV", _flv),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _asf), (b"\x1a\x45\xdf\xa3", _matroska),
        (b"\x1f\x07\0", _dv), (b"YUV4MPEG2 ", _y4m),
    ):  # fmt: skip
        if head.startswith(mark):
            return look(head, tail, size)
    if head[4:6] in (b"\x11\xaf", b"\x12\xaf"):
        return _flic(head, tail, size)
    return _grid(head, tail, size)


def sentence(found: list[str]) -> str:
    """The first complaints of a file, for an error or a note."""
    more = f" (and {len(found) - 2} more)" if len(found) > 2 else ""
    return "; ".join(found[:2]) + more


class DamageWarning(UserWarning):
    """Frames were read with `strict=False` from a file that is damaged or not whole."""


def judge(where: str, source: Source, index: int, log: str, strict: bool) -> list[str]:
    """Hold `index` frames that came to what the decoder and the container say: an FfmpegError, code
    "damaged", or, where it is not `strict`, a DamageWarning and the note.
    """
    found = complaints(log)
    cut = unfinished(source.content) if source.content else None
    found += [cut] if cut else []
    if not found:
        return []
    text = f"{source.name!r} is damaged or not whole: {sentence(found)}"
    if strict:
        raise FfmpegError(
            f"{where}: {text}; {index} frames have been read; strict=False takes what is there",
            "damaged",
            log,
        )
    warnings.warn(text, DamageWarning, stacklevel=4)
    return [text]
