"""Frames decoded in this process by PyAV, with the manners of `pipe.Pipe`: the engine "av".

The filters are those of the pipe, put together one by one; turned pictures are put upright as
FFmpeg's own program does (fftools/ffmpeg_filter.c, `configure_input_video_filter`).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ..ffmpeg import FfmpegError
from .crops import crop_of
from .damage import not_whole
from .endings import unfinished
from .hdr import Step
from .overheard import EAR
from .pipe import BARE, EXACT, First, Shown
from .probing import is_cover
from .reach import for_av
from .sources import Source

NO_TIME = -(1 << 63)  # AV_NOPTS_VALUE


def require_av(where: str) -> Any:
    """The module `av`. Raises FfmpegError, code "no-av", where it is not installed."""
    try:
        import av
    except ImportError:
        raise FfmpegError(
            f"{where}: engine='av' needs PyAV: `pip install av`, or take engine='pipe'", "no-av"
        ) from None
    return av


# Counter-clockwise degrees, as PyAV says them -> what puts such a picture upright
_turns: dict[int, list[Step]] = {
    90: [("transpose", "cclock")],
    180: [("hflip", ""), ("vflip", "")],
    270: [("transpose", "clock")],
}


def upright(frame: Any) -> list[Step]:
    """The filters that undo a frame's display matrix."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # it has data of a kind that is newer than this PyAV
        matrix = None
    if matrix is None:
        return _turns.get(round(frame.rotation) % 360, [])
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(matrix))
    turned = round(-_degrees(a, b, c, d)) % 360
    if turned == 90:
        return [("transpose", "cclock_flip" if c > 0 else "clock")]
    if turned == 180:
        return [*([("hflip", "")] if a < 0 else []), *([("vflip", "")] if d < 0 else [])]
    if turned == 270:
        return [("transpose", "clock_flip" if c < 0 else "cclock")]
    return [("vflip", "")] if turned == 0 and d < 0 else []


def _degrees(a: int, b: int, c: int, d: int) -> float:
    """`av_display_rotation_get`: counter-clockwise."""
    scale = np.hypot(a, c), np.hypot(b, d)
    if not all(scale):
        return 0.0
    return float(-np.degrees(np.arctan2(b / scale[1], a / scale[0])))


def cut(source: Source) -> FfmpegError | None:
    """The error of a file that is not whole; None for one that is, or does not tell."""
    found = unfinished(source.content) if source.content else None
    return not_whole("read_frames", source.name, found) if found else None


class InProcess:
    """One reading of a stream by PyAV; see `pipe.Pipe` for what is said of it.

    A packet that does not decode is noted in the log and counted in `refused`; a frame that is
    marked corrupt is noted, and what was overheard, once it is closed.
    """

    codec: str | None
    code = 0

    def __init__(
        self,
        source: Source,
        stream: int,
        steps: Sequence[Step],
        *,
        begin: int | None = None,
        seek: Fraction | None = None,
    ) -> None:
        av = require_av("read_frames")
        self._source = source
        crop = crop_of(source.content, stream) if source.content else None
        self._crop = [crop.filter] if crop else []
        self._av, self._steps, self._begin = av, list(steps), begin
        self.landed, self.latest = seek is None, None
        self._errors: list[str] = []
        self._graph: Any = None
        self._form: tuple[Any, ...] = ()
        self._frame: Any = None
        self._stream: Any = None
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None
        self._own = False
        self._fed = self._came = 0  # packets that hold a picture, and pictures
        self._swift, self.refused = True, 0  # by threads; packets that did not decode
        EAR.open(av)
        self._heard: int | None = EAR.listen()
        try:
            self._file = self._opened()
        except (av.FFmpegError, OSError) as error:
            EAR.close(av)
            raise source.refused("read_frames", str(error)) or cut(source) or FfmpegError(
                f"read_frames: {source.name!r} is damaged or of an unknown format ({error})",
                "bad-input", str(error),
            ) from None  # fmt: skip
        self.container: str = self._file.format.name
        moving = [s for s in self._file.streams.video if not is_cover(s)]
        if stream >= len(moving):
            self.close()
            raise (None if moving else cut(source)) or FfmpegError(
                f"read_frames: {source.name!r} has no such video stream", "bad-input"
            )
        self._stream, self._number, self._seek = moving[stream], moving[stream].index, seek
        context = self._stream.codec_context
        self.codec = context.codec.canonical_name if context else None
        if context is None:  # no decoder, or the file ends before it says its codec
            self.close()
            raise cut(source) or FfmpegError(
                f"read_frames: this PyAV has no decoder of {source.name!r}", "not-built-in"
            )
        self._frames = self._filtered() if self._begins() else iter(())

    def _opened(self) -> Any:
        """The file. Raises what PyAV does."""
        name, form, options = for_av(self._source.given(self._av.formats_available))
        return self._av.open(name, format=form, options=options, metadata_errors="ignore")

    def _begins(self) -> bool:
        """Set up the decoder, and seek; false where the demuxer knows no seek: nothing landed."""
        context = self._stream.codec_context
        context.thread_type = "AUTO" if self._swift else "NONE"
        if not self._swift:
            context.thread_count = 1
        context.options = {EXACT[0].lstrip("-"): EXACT[1]}
        if self._seek is not None:
            try:
                self._file.seek(int(self._seek / self._stream.time_base), stream=self._stream)
            except (self._av.FFmpegError, OSError):
                return False
        return True

    @property
    def log(self) -> str:
        """What went wrong, a line each, as FFmpeg's own log has it."""
        return "\n".join(self._errors)

    log_since_first = log

    @property
    def suspicious(self) -> bool:
        """Whether something may be wrong that the log of the ffmpeg program tells: see `overheard`.
        Pictures may be fewer than packets for good reasons too.
        """
        return bool(self._errors) or self._fed > self._came

    def _packets(self) -> Iterator[Any]:
        """The packets of the demuxer; what ends it early is noted. The last is empty: the decoder
        then gives what it holds.
        """
        try:
            yield from self._file.demux(self._stream)
            return
        except self._av.FFmpegError as error:
            self._errors.append(f"[demuxer] [error] {error}")
        except IndexError:  # older PyAV know only the streams that the file began with
            self._errors.append("[demuxer] [error] a stream appeared in the middle of the file")
        last = self._av.Packet()
        last.stream, last.time_base = self._stream, self._stream.time_base
        yield last

    def _decoded(self) -> Iterator[Any]:
        """The frames of the decoder; what it refuses is noted and passed over. Of several threads
        it loses what was under way: then all is read again by one.
        """
        for packet in self._packets():
            if not packet.size and packet.dts is not None:
                continue  # "the picture before once more" in Ogg: FFmpeg's program skips it too
            self._fed += bool(packet.size) and not packet.is_discard
            if packet.is_corrupt:
                self._errors.append("[demuxer] [warning] Packet corrupt")
            try:
                frames = packet.decode()
            except self._av.FFmpegError as error:
                if self._swift and self._source.again:
                    yield from self._patiently()
                    return
                self._errors.append(f"[{self.codec}] [error] {error}")
                self.refused += 1
                continue
            for frame in frames:
                self._timed(frame, self._came)
                self._came += 1
                if frame.is_corrupt:
                    self._errors.append(f"[{self.codec}] [warning] corrupt decoded frame")
                yield frame
        uneasy = self._fed > self._came and (self._errors or EAR.listen() != self._heard)
        if uneasy and self._swift and self._source.again:
            yield from self._patiently()

    def _patiently(self) -> Iterator[Any]:
        """The frames that are still to come, by a decoder of one thread from the beginning."""
        given, self._swift, self._last = self._came, False, None
        self._fed, self._came, self._errors = 0, 0, []
        self._free()
        self._file = self._opened()
        self._stream = self._file.streams[self._number]
        if self._begins():
            yield from itertools.islice(self._decoded(), given, None)

    def _timed(self, frame: Any, number: int) -> None:
        """Give a frame the time that FFmpeg's program gives it where its container has none: in an
        AVI that of its packet, the last ones that of their turn; in a bare stream of its number;
        else that at which the frame before ends.
        """
        if self.container in BARE:
            rate = self._stream.guessed_rate or self._stream.average_rate or Fraction(25)
            frame.pts = round(number / rate / self._stream.time_base)
        elif self.container == "avi" and frame.dts is not None:
            frame.pts = frame.dts
        elif self.container == "avi" and self._last is not None:
            frame.pts = self._last + 1
        elif frame.pts is None:
            frame.pts = 0 if self._last is None else self._last + self._duration(frame)
        self._last = frame.pts

    def _duration(self, frame: Any) -> int:
        """How long a frame is shown, in ticks; by the rate where it does not say it."""
        rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        return getattr(frame, "duration", 0) or round(1 / rate / self._stream.time_base)

    def _wanted(self) -> Iterator[Any]:
        """From `begin` on; `landed` as in `Pipe`."""
        begun = False
        for frame in self._decoded():
            if self._begin is not None:
                self.latest = self._said(frame)
                if frame.key_frame and frame.pts is not None:
                    self.landed |= frame.pts <= self._begin
                if not begun and (frame.pts is None or frame.pts < self._begin):
                    continue
                begun = True
            yield frame

    def _filtered(self) -> Iterator[Any]:
        """The frames behind the filters. Raises FfmpegError where these do not take them."""
        try:
            yield from self._through()
        except self._av.FFmpegError as error:
            steps = ",".join("=".join(step) for step in self._steps)
            name, said = self._source.name, str(error)
            text = f"read_frames: the filters {steps} do not take a picture of {name!r} ({said})"
            raise FfmpegError(text, "filter-graph", said) from None

    def _through(self) -> Iterator[Any]:
        for frame in self._wanted():
            form = (frame.width, frame.height, frame.format.name)
            if form != self._form:
                if self._graph is not None:
                    yield from self._drained()
                self._build(frame)
                self._form = form
            self._graph.push(frame)
            yield from self._pulled()
        if self._graph is not None:
            yield from self._drained()

    def _drained(self) -> Iterator[Any]:
        self._graph.push(None)
        yield from self._pulled()

    def _pulled(self) -> Iterator[Any]:
        while True:
            try:
                yield self._graph.pull()
            except (BlockingIOError, EOFError):
                return

    def _build(self, frame: Any) -> None:
        """A graph for frames of this form; its last picture has the size of the first one."""
        graph = self._av.filter.Graph()
        context = self._stream.codec_context
        aspect = self._stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(0, 1)
        head = graph.add(
            "buffer", video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name, time_base=str(self._stream.time_base),
            pixel_aspect=f"{aspect.numerator}/{aspect.denominator}",
            colorspace=str(int(frame.colorspace)), range=str(int(frame.color_range)),
        )  # fmt: skip
        steps = [*self._crop, *upright(frame), *self._steps]
        nodes = [graph.add(name, given or None) for name, given in steps]
        graph.link_nodes(head, *nodes, graph.add("buffersink"))
        graph.configure()
        self._graph = graph
        # a picture that the filters made is ours; one that they passed on is also the decoder's
        self._own = f"format={frame.format.name}" != "=".join(self._steps[-1])

    def _said(self, frame: Any) -> Shown:
        size = (frame.width, frame.height)
        base = frame.time_base or self._stream.time_base
        return Shown(frame.pts, base, size, bool(frame.key_frame), frame.interlaced_frame)

    def next(self) -> Shown | None:
        """What is said of the next frame; None at the end."""
        self._frame = next(self._frames, None)
        return None if self._frame is None else self._said(self._frame)

    def read(self, size: int, wide: tuple[int, int]) -> Any:
        """That frame's `size` bytes, scaled to `wide` where it has another size."""
        frame = self._frame
        if (frame.width, frame.height) != wide:
            frame = frame.reformat(*wide, interpolation="BICUBIC")
        plane, row = frame.planes[0], size // wide[1]
        if plane.line_size == row and self._own:
            return memoryview(plane)[:size]
        rows = np.frombuffer(plane, np.uint8, plane.line_size * wide[1])
        return np.ascontiguousarray(rows.reshape(wide[1], -1)[:, :row]).reshape(-1)

    def packets(self) -> tuple[list[tuple[int, int]], Fraction]:
        """All packets as (pts, flags of libavcodec/packet.h), and the time base of the pts."""
        rows = [
            (
                NO_TIME if packet.pts is None else packet.pts,
                int(packet.is_keyframe) | int(packet.is_discard) << 2,
            )
            for packet in self._packets()
            if packet.size
        ]
        if self._errors:
            rows = []  # what cannot be read to its end is counted by decoding
        return rows, self._stream.time_base

    def end(self) -> int:
        """0: what went wrong is in the log."""
        return self.code

    def close(self) -> None:
        """Free the decoder; memory that was given away stays."""
        if self._heard is None:
            return
        self._frames = iter(())
        self._frame = self._graph = None
        self._free()
        if EAR.listen() != self._heard:
            self._errors.append(EAR.latest)
        self._heard = None
        EAR.close(self._av)

    def _free(self) -> None:
        """Close the file and its decoder."""
        if self._stream is not None and self._stream.codec_context is not None:
            # its threads end what they do while they may speak: freed by one that holds the
            # interpreter, they would wait for it, and it for them
            self._stream.codec_context.flush_buffers()
        self._file.close()


def first_of_av(source: Source, stream: int) -> First:
    """What PyAV says of the first frame of a stream."""
    run = InProcess(source, stream, [("null", "")])
    try:
        return First(run.next(), run.log, run.container)
    finally:
        run.close()


def av_demuxers() -> set[str]:
    """The containers that PyAV's FFmpeg reads, by its names."""
    return set(require_av("read_frames").formats_available)


def av_filters() -> set[str]:
    """The filters that PyAV's FFmpeg has."""
    return set(require_av("read_frames").filter.filters_available)
