"""Raw frames out of an ffmpeg program, each with what FFmpeg itself says of it.

The `showinfo` filter writes a line for each frame to the log before the frame goes into the pipe:
time stamp, size, key frame, field order. So size, rotation and crop are those of the stream of
frames, and nothing has to be asked of the file before.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ..ffmpeg import Ffmpeg
from ..proc import finished, start, stop

FIRST = "showinfo@first=checksum=0"
# Behind it the frames are numbered: no muxer, not even that of raw frames, takes times that run
# backwards, as they do in joined recordings.
LAST = "showinfo@last=checksum=0,setpts=N/TB"
# libavcodec crops columns at its leisure, to keep rows aligned, unless it is told that it need not
EXACT = ("-flags", "unaligned")
QUIET = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+verbose")
# (FFmpeg's request for a sample of a strange file takes the head of the line that follows it.)
_BASE = re.compile(
    rb"(?:\[showinfo@(\w+) @ [^\]]*\] (?:\[info\] )?)?config in time_base: (\d+)/(\d+)"
)
_FRAME = re.compile(
    rb"\[showinfo@(\w+) @ [^\]]*\] (?:\[info\] )?n: *\d+ pts: *(-?\d+|NOPTS) .*?"
    rb" sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(.) iskey:(\d)"
)
_CODEC = re.compile(rb"Stream #\d+:\d+.*?: Video: (\w+)")
_CONTAINER = re.compile(r"Input #0, (\S+), from")
LOG_LIMIT = 4 << 20


@dataclass(frozen=True)
class Shown:
    """What showinfo says of a frame: `ticks` of `base` seconds, None where FFmpeg has no time."""

    ticks: int | None
    base: Fraction
    size: tuple[int, int]
    key: bool
    interlaced: bool

    @property
    def pts(self) -> Fraction | None:
        """The presentation time that the container gives, in seconds."""
        return None if self.ticks is None else self.ticks * self.base


class Pipe:
    """One run of ffmpeg whose standard output is raw frames.

    `begin` are ticks: `landed` says whether a key frame at or before them was decoded, so that a
    seek lost nothing. Without a seek it is true from the start.
    """

    def __init__(
        self,
        program: Ffmpeg,
        arguments: Sequence[str],
        *,
        descriptors: Sequence[int] = (),
        begin: int | None = None,
        sought: bool = False,
    ) -> None:
        self.command = (os.fspath(program.path), *QUIET, *arguments)
        self.landed, self._begin = not sought, begin
        self.codec: str | None = None
        self.latest: Shown | None = None  # decoded so far, shown or not
        self._begun: int | None = None  # lines of the log before the first frame that is shown
        self._log: list[bytes] = []
        self._size = 0
        self._shown: queue.SimpleQueue[Shown | None] = queue.SimpleQueue()
        self._bases: dict[bytes | None, Fraction] = {}  # None: of a filter whose name was lost
        self.process = start(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **program.env},
            pass_fds=tuple(descriptors),
        )
        assert self.process.stdout is not None
        _widen(self.process.stdout)
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """What ffmpeg said, without the lines on frames; whole once `close` was called."""
        return b"".join(self._log).decode("utf-8", "replace")

    @property
    def container(self) -> str:
        """FFmpeg's name of the demuxer ("matroska,webm"); "" where nothing was opened."""
        found = _CONTAINER.search(self.log)
        return found[1] if found else ""

    @property
    def log_since_first(self) -> str:
        """The log from the first shown frame on: after a seek, what was before is not asked for."""
        return b"".join(self._log[self._begun or 0 :]).decode("utf-8", "replace")

    def _follow(self) -> None:
        assert self.process.stderr is not None
        try:
            for line in self.process.stderr:
                if b"showinfo@" in line or b"config in time_base" in line:
                    self._note(line)
                elif self._size < LOG_LIMIT:
                    self._log.append(line)
                    self._size += len(line)
                    if self.codec is None and (found := _CODEC.search(line)):
                        self.codec = found[1].decode()
        finally:
            self._shown.put(None)

    def _note(self, line: bytes) -> None:
        if found := _BASE.search(line):
            if found[3] != b"0" and found[2] != b"0":
                self._bases[found[1]] = Fraction(int(found[2]), int(found[3]))
            return
        found = _FRAME.search(line)
        if found is None:
            return
        shown = Shown(
            None if found[2] == b"NOPTS" else int(found[2]),
            self._bases.get(found[1]) or self._bases.get(None, Fraction(1)),
            (int(found[5]), int(found[6])),
            found[8] == b"1",
            found[7] in (b"T", b"B"),
        )
        self._say(found[1], shown)

    def _say(self, where: bytes, shown: Shown) -> None:
        """Hand on what was said of a frame, by the filter `last` or, of those before, `first`."""
        if where == b"last":
            if self._begun is None:
                self._begun = len(self._log)
            self._shown.put(shown)
            return
        self.latest = shown
        if shown.key and shown.ticks is not None and self._begin is not None:
            self.landed |= shown.ticks <= self._begin

    def next(self) -> Shown | None:
        """What is said of the next frame; None at the end."""
        return self._shown.get()

    @property
    def code(self) -> int:
        """The exit code of a program that has ended."""
        return self.process.returncode

    def read(self, size: int, _: tuple[int, int] = (0, 0)) -> Any:
        """That frame's bytes; fewer if ffmpeg stops within it."""
        assert self.process.stdout is not None
        memory = np.empty(size, np.uint8)  # not cleared first, and taken again from what was freed
        view, got = memoryview(memory), 0
        while got < size:
            read = self.process.stdout.readinto(view[got:])  # type: ignore[attr-defined]
            if not read:
                return memory[:got]
            got += read
        return memory

    def end(self) -> int:
        """Wait for a program that has come to its end; its exit code."""
        code = self.process.wait()
        self._reader.join()
        return code

    def close(self) -> None:
        """End the program, if it is still there, and free what it took."""
        stop(self.process, patience=0)  # blocked on the pipe, it would not hear SIGTERM
        finished(self.process)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


def _widen(stream: Any) -> None:
    """A pipe of 1 MiB in place of 64 KiB, where the system has that: fewer turns."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)


# Demuxers of streams without a container: they have no times to seek by, and FFmpeg gives those of
# what comes after a seek anew.
BARE = {
    *("h264", "hevc", "vvc", "evc", "mpegvideo", "m4v", "h261", "h263", "dirac", "vc1", "obu"),
    *("mjpeg", "mjpeg_2000", "cavsvideo", "avs2", "avs3", "rawvideo", "jpeg_pipe", "dnxhd"),
}


@dataclass(frozen=True)
class First:
    """What is said of the first frame of a stream, None where there is none; the log and the
    demuxer.
    """

    shown: Shown | None
    log: str
    container: str

    @property
    def bare(self) -> bool:
        """Whether there is no container, and so no seek."""
        return self.container in BARE


def first_shown(
    program: Ffmpeg, source: Sequence[str], stream: str, descriptors: Sequence[int] = ()
) -> First:
    """What is said of the first frame of a stream."""
    arguments = [
        "-copyts", *EXACT, *source, "-map", stream, "-vf", LAST, "-frames:v", "1",
        *program.every_frame, "-f", "null", "-",
    ]  # fmt: skip
    pipe = Pipe(program, arguments, descriptors=descriptors)
    try:
        shown = pipe.next()
        pipe.end()
    finally:
        pipe.close()
    return First(shown, pipe.log, pipe.container)
