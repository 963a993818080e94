"""What a container cuts from its pictures: PixelCrop of Matroska (RFC 9559, 5.1.4.1.28) and the
clean aperture of MP4 (ISO/IEC 14496-12, 12.1.4).

FFmpeg's program cuts it from 7.1 on; its libraries, and so PyAV, leave that to who calls them. What
a codec crops (H.264, HEVC) is cut by its decoder.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

HEAD = 1 << 20  # bytes in which the tracks of a Matroska file are looked for
LARGEST_MOOV = 1 << 26
_SEGMENT, _TRACKS, _TRACK, _TYPE, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0
_PIXEL_CROP = (0x54CC, 0x54DD, 0x54BB, 0x54AA)  # left, right, top, bottom


@dataclass(frozen=True)
class Crop:
    """Columns and rows that are not shown."""

    left: int
    right: int
    top: int
    bottom: int

    @property
    def filter(self) -> tuple[str, str]:
        """The filter that cuts them off, and its arguments."""
        width, height = self.left + self.right, self.top + self.bottom
        return "crop", f"iw-{width}:ih-{height}:{self.left}:{self.top}:0:1"

    def __str__(self) -> str:
        return f"{self.left} left, {self.right} right, {self.top} above, {self.bottom} below"


def crop_of(path: Path, stream: int) -> Crop | None:
    """What the container cuts from its video stream of this number; None if nothing."""
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith(b"\x1a\x45\xdf\xa3"):
            file.seek(0)
            found = _of_matroska(file.read(HEAD), stream)
        elif head[4:8] in (b"ftyp", b"moov", b"wide", b"free", b"mdat", b"styp"):
            found = _of_mp4(_moov(file), stream)
        else:
            return None
    return found if found and found != Crop(0, 0, 0, 0) else None


def not_cropped(path: Path, stream: int) -> list[str]:
    """What is to be said where an ffmpeg older than 7.1 read the stream."""
    crop = crop_of(path, stream)
    return [f"the container cuts {crop}: this ffmpeg, older than 7.1, shows it"] if crop else []


def vint(data: bytes, at: int) -> tuple[int | None, int]:
    """A size of EBML and its end; None where it is written as unknown (RFC 8794, section 4)."""
    length = 9 - data[at].bit_length()
    bits = 7 * length
    value = int.from_bytes(data[at : at + length], "big") & ((1 << bits) - 1)
    return (None if value == (1 << bits) - 1 else value), at + length


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of an EBML master, (identifier, content) each; of those that are cut short the
    Segment alone, which goes on behind the head.
    """
    at = 0
    while at + 2 <= len(data) and data[at]:
        length = 9 - data[at].bit_length()
        identifier = int.from_bytes(data[at : at + length], "big")
        if at + length >= len(data) or not data[at + length]:
            return
        size, at = vint(data, at + length)
        end = len(data) if size is None else at + size
        if end > len(data) and identifier != _SEGMENT:
            return
        yield identifier, data[at:end]
        at = end


def _number(content: bytes) -> int:
    """An unsigned integer of EBML; 0 for what is longer than one can be (RFC 8794, section 7.2)."""
    return int.from_bytes(content, "big") if len(content) <= 8 else 0


def _of_matroska(data: bytes, stream: int) -> Crop | None:
    segment = next((body for name, body in _elements(data) if name == _SEGMENT), b"")
    tracks = next((body for name, body in _elements(segment) if name == _TRACKS), b"")
    entries = [dict(_elements(body)) for name, body in _elements(tracks) if name == _TRACK]
    videos = [entry for entry in entries if _number(entry.get(_TYPE, b"")) == 1]
    if stream >= len(videos):
        return None
    facts = dict(_elements(videos[stream].get(_VIDEO, b"")))
    return Crop(*(_number(facts.get(name, b"")) for name in _PIXEL_CROP))


def _moov(file: BinaryIO) -> bytes:
    """The content of the box of the tracks; nothing where there is none."""
    at, end = 0, file.seek(0, os.SEEK_END)
    while True:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return b""
        (size,) = struct.unpack_from(">I", head)
        start = at + 8
        if size == 1 and len(head) == 16:
            (size,), start = struct.unpack_from(">Q", head, 8), at + 16
        elif size == 0:
            size = end - at
        if size < start - at:
            return b""
        if head[4:8] == b"moov":
            file.seek(start)
            return file.read(size - (start - at)) if size <= LARGEST_MOOV else b""
        at = min(at + size, end)


def _boxes(data: bytes, at: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """The boxes from a byte on, (type, content) each."""
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield name, data[at + 8 : at + size]
        at += size


def _within(data: bytes, *path: bytes) -> bytes:
    """The content of a box in a box; nothing where it is not there."""
    for wanted in path:
        data = next((body for name, body in _boxes(data) if name == wanted), b"")
    return data


def _of_mp4(moov: bytes, stream: int) -> Crop | None:
    media = [_within(body, b"mdia") for name, body in _boxes(moov) if name == b"trak"]
    videos = [body for body in media if _within(body, b"hdlr")[8:12] == b"vide"]
    if stream >= len(videos):
        return None
    samples = _within(videos[stream], b"minf", b"stbl", b"stsd")
    entry = next((body for _, body in _boxes(samples, 8)), b"")
    clap = next((body for name, body in _boxes(entry, 78) if name == b"clap"), b"")
    if len(clap) < 32:
        return None
    width, height = struct.unpack_from(">2H", entry, 24)
    numbers = struct.unpack(">8i", clap[:32])
    if not all(numbers[1::2]):
        return None
    wide, high, right, down = (a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True))
    left, top = (width - wide) / 2 + right, (height - high) / 2 + down
    sides = [round(n) for n in (left, width - wide - left, top, height - high - top)]
    return Crop(*sides) if min(sides) >= 0 and min(wide, high) > 0 else None
