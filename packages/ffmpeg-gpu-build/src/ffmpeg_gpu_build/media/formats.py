"""What a file is by its first bytes: a container for which an FFmpeg has no reader is called that,
and not damaged.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from ..ffmpeg import FfmpegError

# First bytes -> FFmpeg's name of the demuxer
MARKS = (
    (rb"GIF8[79]a", "gif"),
    (rb"FLV\x01", "flv"),
    (rb"\x00\x00\x01\xba", "mpeg"),
    (rb"RIFF....AVI ", "avi"),
    (rb"RIFF....WAVE", "wav"),
    (rb"RIFF....WEBPVP8X.{4,1000}?ANIM", "webp_anim"),  # from FFmpeg 9 on
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (rb"....(ftyp|moov|mdat|wide)", "mov"),
    (rb"\x1a\x45\xdf\xa3", "matroska"),
    (rb"OggS", "ogg"),
    (rb"\x06\x0e\x2b\x34", "mxf"),
    (rb"DKIF", "ivf"),
    (rb"G.{187}G.{187}G", "mpegts"),
)


def empty(where: str, called: str) -> FfmpegError:
    """The error of a file without a byte."""
    return FfmpegError(f"{where}: {called!r} is empty: there is no byte in it", "bad-input")


def no_reader(where: str, demuxers: Container[str], file: Path, called: str) -> FfmpegError | None:
    """The error of a file of a known kind that is not among these demuxers; None otherwise."""
    try:
        with file.open("rb") as opened:
            head = opened.read(1024)
    except OSError:
        return None
    if not head:
        return empty(where, called)
    kind = next((name for mark, name in MARKS if re.match(mark, head, re.S)), None)
    if kind is None or kind in demuxers:
        return None
    return FfmpegError(
        f"{where}: this FFmpeg was built without a reader of {kind} files, and "
        f"{called!r} is one: take another, or build one that has it (`ffmpeg-gpu-build build`)",
        "not-built-in",
    )
