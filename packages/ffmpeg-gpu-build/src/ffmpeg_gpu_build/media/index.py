"""Which frames a video has, and when: from its packets, or by decoding all of it.

Packets are read fast and are nearly always one a frame. Where they do not say their times (AVI), or
the first frame is not that of the first packet, the frames themselves are counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

from ..ffmpeg import Ffmpeg
from .damage import nothing_came
from .inprocess import NO_TIME, InProcess, first_of_av
from .pipe import EXACT, LAST, First, Pipe, first_shown
from .sources import Source

# AV_PKT_FLAG_KEY and AV_PKT_FLAG_DISCARD of libavcodec/packet.h
KEY, DISCARD = 1, 4
_PACKET = re.compile(
    rb"^0, +-?\d+, +(-?\d+), +-?\d+, +[1-9]\d*, 0x\w+(?:, F=0x(\w+))?", re.MULTILINE
)  # muxer framecrc: stream, dts, pts, duration, size if any, sum, flags if not KEY


@dataclass(frozen=True)
class Index:
    """The presentation times of all frames in order, in seconds, None where there is none, and the
    numbers of the key frames. `exact` is false where packets were counted and no frame was looked
    at.
    """

    pts: tuple[Fraction | None, ...]
    keys: frozenset[int]
    exact: bool

    @cached_property
    def rising(self) -> tuple[Fraction, ...]:
        """The times, if each frame has one and it is after that of the frame before, so that a time
        names a frame; else nothing (joined recordings, two frames at one time).
        """
        known = [pts for pts in self.pts if pts is not None]
        rises = all(a < b for a, b in pairwise(known))
        return tuple(known) if rises and len(known) == len(self.pts) else ()


def of_packets(program: Ffmpeg, source: Source, stream: int) -> Index | None:
    """The index by packets; None where they do not tell."""
    given = source.given(program.demuxers)
    done = program.run(
        "-nostdin", "-v", "error", "-copyts", *given,
        "-map", f"0:V:{stream}", "-c", "copy", "-copyinkf", "-f", "framecrc", "pipe:1",
        timeout=3600,
    )  # fmt: skip
    base = re.search(rb"^#tb 0: (\d+)/(\d+)", done.out, re.M)
    if not done.ok or not base:
        return None
    tick = Fraction(int(base[1]), int(base[2]))
    rows = [(int(m[1]), int(m[2], 16) if m[2] else KEY) for m in _PACKET.finditer(done.out)]
    first = first_shown(program, given, f"0:V:{stream}", source.descriptors)
    return _of_rows(rows, tick, first)


def of_packets_av(source: Source, stream: int) -> Index | None:
    """The same by PyAV."""
    run = InProcess(source, stream, [("null", "")])
    try:
        rows, tick = run.packets()
    finally:
        run.close()
    return _of_rows(rows, tick, first_of_av(source, stream))


def _of_rows(rows: list[tuple[int, int]], tick: Fraction, first: First) -> Index | None:
    """The index of packets, (pts, flags) each; None where they do not tell."""
    if first.bare:
        return None
    rows = sorted(row for row in rows if not row[1] & DISCARD)
    ticks = [pts for pts, _ in rows]
    if not ticks or ticks[0] == NO_TIME or len(set(ticks)) != len(ticks):
        return None
    if first.shown is None or first.shown.pts != ticks[0] * tick:
        return None
    keys = frozenset(i for i, (_, flags) in enumerate(rows) if flags & KEY)
    return Index(tuple(t * tick for t in ticks), keys, False)


def of_frames(program: Ffmpeg, source: Source, stream: int, engine: str = "pipe") -> Index:
    """The index by decoding everything. Raises FfmpegError where nothing is decoded."""
    arguments = [
        "-copyts", *EXACT, *source.given(program.demuxers), "-map", f"0:V:{stream}",
        "-vf", LAST, *program.every_frame, "-f", "null", "-",
    ]  # fmt: skip
    run: Pipe | InProcess
    if engine == "av":
        run = InProcess(source, stream, [("null", "")])
    else:
        run = Pipe(program, arguments, descriptors=source.descriptors)
    found: list[tuple[Fraction | None, bool]] = []
    try:
        while (shown := run.next()) is not None:
            found.append((shown.pts, shown.key))
        code = run.end()
    finally:
        run.close()
    if not found:
        raise nothing_came("Video", source, run.log, code)
    keys = frozenset(i for i, (_, key) in enumerate(found) if key)
    return Index(tuple(pts for pts, _ in found), keys, True)


def _is_gif(source: Source) -> bool:
    """A GIF's packets are not its frames: a comment after the last picture is one too."""
    if source.content is None:
        return False
    with source.content.open("rb") as file:
        return file.read(4) == b"GIF8"


_KEPT: dict[Any, Index] = {}


def index(
    program: Ffmpeg, source: Source, stream: int, exact: bool = False, engine: str = "pipe"
) -> Index:
    """The index of a stream, made once for a file that does not change; `exact` decodes it."""
    key = (engine, program.path, source.stamp, stream)
    known = _KEPT.get(key) if source.stamp else None
    if known is None or (exact and not known.exact):
        if exact or _is_gif(source):
            known = None
        elif engine == "av":
            known = of_packets_av(source, stream)
        else:
            known = of_packets(program, source, stream)
        known = known or of_frames(program, source, stream, engine)
        if source.stamp:
            if len(_KEPT) > 64:
                _KEPT.clear()
            _KEPT[key] = known
    return known
