"""What a file lost: what FFmpeg's demuxers and decoders complain of, and what `endings` finds.

FFmpeg ends with exit code 0 when a file stops in the middle or a frame is made up, and says so in
its log alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Container, Sequence
from pathlib import Path

from ..doctor.failures import diagnose
from ..ffmpeg import FfmpegError
from .endings import unfinished
from .formats import no_reader
from .session import failure
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


READ = re.compile(r"\] \[verbose\] Statistics: (\d+) bytes read")


def complaints(log: str, file: Path | None = None) -> list[str]:
    """The lines of a log of `-loglevel level+verbose` that tell of lost content, in order.

    Older demuxers call the end of a `file` an error of reading: where all of it was read, none was.
    """
    read = max(map(int, READ.findall(log)), default=-1)
    end = file is not None and read >= file.stat().st_size
    found = []
    for line in log.splitlines():
        level = LEVEL.search(line)
        if level is None or ELSEWHERE.search(line):
            continue
        if end and line.endswith(": Input/output error"):
            continue
        if level[1] != "warning" or WARNINGS.search(line):
            found.append(re.sub(r" @ 0x[0-9a-f]+", "", line.strip()))
    return found


def sentence(found: list[str]) -> str:
    """The first complaints of a file, for an error or a note."""
    more = f" (and {len(found) - 2} more)" if len(found) > 2 else ""
    return "; ".join(found[:2]) + more


class DamageWarning(UserWarning):
    """Frames were read with `strict=False` from a file that is damaged or not whole."""


def judge(
    where: str, source: Source, index: int, log: str, strict: bool, more: Sequence[str] = ()
) -> list[str]:
    """Hold `index` frames that came to what the decoder and the container say, and to what `more`
    was found: an FfmpegError, code "damaged", or, where it is not `strict`, a DamageWarning and the
    note.
    """
    found = complaints(log, source.content)
    cut = unfinished(source.content) if source.content else None
    found += [*([cut] if cut else []), *more]
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


# What names a decoder or a reader that was not built in: no damage, whatever else is wrong
_LACKING = ("no-decoder", "not-built-in")


def nothing_came(
    where: str, source: Source, log: str, code: int = 1, demuxers: Container[str] | None = None
) -> FfmpegError:
    """The error of a source of which no frame came, from a run that ended with `code`: a playlist,
    a file that is not whole, a reader that is not among `demuxers`, no such stream, no frame.
    """
    if source.content and demuxers is not None:
        absent = no_reader(where, demuxers, source.content, source.name)
        if absent:
            return absent
    refused = source.refused(where, log)
    if refused:
        return refused
    kind = "Audio" if where == "read_audio" else "Video"
    named = "audio" if kind == "Audio" else "video"
    known = re.search(rf"Stream #0:\d+.*?: {kind}: (?!none)", log) is not None
    nowhere = "matches no streams" in log
    lost = diagnose(log)
    nameless = "codec none" in log or "found for: none" in log  # of a track that is cut away
    lacking = lost is not None and lost.code in _LACKING and not nameless
    if source.content and not lacking and not (known and nowhere):
        cut = unfinished(source.content)
        if cut:
            return not_whole(where, source.name, cut, log)
    if nowhere:
        return FfmpegError(f"{where}: {source.name!r} has no such {named} stream", "bad-input", log)
    found = complaints(log, source.content)
    if code:
        return failure(log, code)
    if found:
        text = f"{where}: no frame of {source.name!r} can be decoded: {sentence(found)}"
        return FfmpegError(text, "damaged", log)
    text = f"{where}: {source.name!r} has a stream of {named}, but no frame in it"
    return FfmpegError(text, "no-frames", log)


def not_whole(where: str, name: str, cut: str, log: str = "") -> FfmpegError:
    """The error of a file of which nothing came, since it is cut."""
    text = f"{where}: {name!r} is damaged or not whole: {cut}; no frame came out of it"
    return FfmpegError(text, "damaged", log)
