"""Random access to the frames of a file, by number and by time."""

from __future__ import annotations

import math
import operator
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, overload

from ..ffmpeg import Ffmpeg, FfmpegError
from . import arguments as check
from .frames import Frames, read_frames
from .index import Index, index
from .inprocess import require_av
from .sources import opened

# A frame that is at most so far ahead is read up to, not sought: a seek starts a program.
AHEAD = 48


class Video(Sequence[Any]):
    """The frames of a video file: `video[i]`, `video[-1]`, `video[10:20]`, `video.at(t)`,
    `video.between(a, b)`; each frame as `read_frames` gives it, its `index` counted from the first.

    `len(video)` counts frames, by packets at first: `video.exact` says whether the frames were
    looked at, and `video.count_exactly()` does it (it decodes everything). A frame that is not
    where the index says makes it so by itself; a wrong frame is never returned. `times` are seconds
    after the first frame. The arguments are those of `read_frames`; with `engine="av"` a seek
    starts no program. Where times do not rise from frame to frame (joined recordings, frames
    without times) frames are counted from the beginning, and `at` and `between` are errors.

        with Video("clip.mp4", size=(320, 180)) as video:
            last, shown = video[-1], video.at(12.5)

    Raises FileNotFoundError, FfmpegError, IndexError, ValueError. One thread at a time.
    """

    def __init__(
        self,
        src: str | os.PathLike[str],
        *,
        size: tuple[int, int] | None = None,
        pixels: str = "rgb",
        stream: int = 0,
        square: bool = False,
        torch: bool = False,
        engine: str = "pipe",
        hdr: str = "keep",
        urls: bool = False,
        ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None,
    ) -> None:
        self._src, self._program = os.fspath(src), Ffmpeg.at(ffmpeg)
        self._stream = check.whole("Video", "stream", stream, 0)
        self._wish: dict[str, Any] = {
            "size": size, "pixels": pixels, "stream": stream, "square": square, "torch": torch,
            "engine": engine, "hdr": hdr, "urls": urls, "ffmpeg": self._program,
        }  # fmt: skip
        self.engine = engine
        if engine == "av":
            require_av("Video")
        self._reader: Frames | None = None
        self._next = 0  # the number of the frame that the reader gives next
        self._index = self._look(exact=False)

    def _look(self, exact: bool) -> Index:
        with opened("Video", self._src, self._wish["urls"]) as source:
            if not source.again:
                raise ValueError(f"Video: src must be a file, {self._src!r} can be read only once")
            return index(self._program, source, self._stream, exact, self.engine)

    def __len__(self) -> int:
        return len(self._index.pts)

    @property
    def exact(self) -> bool:
        """Whether every frame was decoded to make the index."""
        return self._index.exact

    def count_exactly(self) -> int:
        """Decode everything once; the number of frames."""
        self._index = self._look(exact=True)
        return len(self)

    @property
    def times(self) -> list[float]:
        """When each frame begins, in seconds after the first; not a number where it has no time."""
        return [self._time(number) for number in range(len(self))]

    def _time(self, number: int) -> float:
        pts = self._index.pts[number]
        return math.nan if pts is None else float(pts - (self._index.pts[0] or 0))

    @property
    def keys(self) -> list[int]:
        """The numbers of the frames that were coded by themselves."""
        return sorted(self._index.keys)

    @overload
    def __getitem__(self, which: int) -> Any: ...
    @overload
    def __getitem__(self, which: slice) -> list[Any]: ...
    def __getitem__(self, which: int | slice) -> Any:
        """The frame of this number, or a list of those of a slice."""
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(self)))]
        try:
            number = operator.index(which)
        except TypeError:
            raise TypeError(
                f"Video: index must be a whole number or a slice, got {which!r}"
            ) from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"Video: index must be within {len(self)} frames, got {number}")
        return self._frame(number % len(self))

    def _frame(self, number: int, again: bool = True) -> Any:
        frame = self._read(number)
        wanted = self._index.pts[number]
        if frame is not None and frame.pts == wanted:
            frame.index = number
            frame.time = self._time(number)
            return frame
        self.close()
        if again and not self.exact:
            self.count_exactly()
            if number < len(self):
                return self._frame(number, again=False)
            raise IndexError(f"Video: {self._src!r} has {len(self)} frames, got {number}")
        raise FfmpegError(
            f"Video: frame {number} of {self._src!r} was not found at {self._time(number):g} s",
            "wrong-frame",
        )

    def _read(self, number: int) -> Any:
        """What the reader gives at this number; None past its end. Where times do not name frames
        they are counted from the beginning.
        """
        rising = self._index.rising
        near = self._next + AHEAD if rising else len(self)
        if self._reader is None or not self._next <= number < near:
            self.close()
            start = rising[number] - rising[0] if rising else 0
            self._reader = read_frames(self._src, start=start, strict=False, **self._wish)
            self._next = number if rising else 0
        frame = None
        while self._next <= number:
            try:
                frame = next(self._reader, None)
            except ValueError:  # a start beyond the end
                frame = None
            self._next += 1
            if frame is None:
                break
        return frame

    def _rising(self, where: str) -> tuple[Fraction, ...]:
        if not self._index.rising:
            raise FfmpegError(
                f"{where}: the times of {self._src!r} do not rise from frame to frame (a joined "
                "recording, or frames without times): take frames by number",
                "no-times",
            )
        return self._index.rising

    def at(self, time: float | Fraction) -> Any:
        """The frame that is shown at a time, in seconds after the first frame: the last that has
        begun. Raises ValueError before the start; after the end it is the last frame.
        """
        times = self._rising("Video.at")
        moment = times[0] + check.seconds("Video.at", "time", time)
        return self[bisect_right(times, moment + Fraction(1, 10**6)) - 1]

    def between(self, begin: float | Fraction, end: float | Fraction) -> Iterator[Any]:
        """The frames that begin at or after `begin` and before `end`, in seconds."""
        times = self._rising("Video.between")
        first, small = times[0], Fraction(1, 10**6)
        low = first + check.seconds("Video.between", "begin", begin) - small
        high = first + check.seconds("Video.between", "end", end) - small
        numbers = range(bisect_left(times, low), bisect_left(times, high))
        return (self[number] for number in numbers)

    def close(self) -> None:
        """End the program that reads, if there is one; the next access starts another."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
