"""Sound as arrays, frame by frame with their times, through the same pipe as the pictures.

The `ashowinfo` filter says of each frame when it begins, its rate and its samples.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from ..ffmpeg import Ffmpeg
from . import arguments as check
from .damage import judge, nothing_came
from .pipe import Pipe, Shown
from .samples import missing
from .session import failure
from .sources import Source, opened
from .transcoding import LAYOUTS

_SOUND = re.compile(
    rb"\[ashowinfo@(\w+) @ [^\]]*\] (?:\[info\] )?n:\d+ pts:(-?\d+|NOPTS) .*? channels:(\d+) .*?"
    rb"rate:(\d+) nb_samples:(\d+)"
)
# Seconds before the start from which decoding begins: codecs overlap their frames (Opus by 80 ms),
# and a demuxer may land behind its target; then the next is tried, at last the whole.
MARGINS = (2, 30)


class Sound(np.ndarray):
    """Samples as an array (samples, channels) of float32 in -1..1 that knows its time.

    pts    Fraction, seconds: the presentation time that the container gives; None where none is
    time   float, seconds after the first sample of the stream
    rate   int, samples a second
    index  which frame of this reading it is, from 0
    """

    pts: Fraction | None
    time: float
    rate: int
    index: int

    def __array_finalize__(self, other: Any) -> None:
        for name, default in (("pts", None), ("time", 0.0), ("rate", 0), ("index", 0)):
            setattr(self, name, getattr(other, name, default))


class _SoundPipe(Pipe):
    """A run of ffmpeg whose output is float32 samples; `size` of what is shown is (samples,
    channels), `base` one sample.
    """

    def _note(self, line: bytes) -> None:
        found = _SOUND.search(line)
        if found is None:
            return
        shown = Shown(
            None if found[2] == b"NOPTS" else int(found[2]),
            Fraction(1, int(found[4])),
            (int(found[5]), int(found[3])),
            True,
            False,
        )
        self._say(found[1], shown)


def read_audio(
    src: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    rate: int | None = None,
    channels: int | None = None,
    start: float | Fraction = 0.0,
    stream: int = 0,
    strict: bool = True,
    urls: bool = False,
    ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None,
) -> Iterator[Sound]:
    """Yield the sound of a file as the decoder's frames, each a `Sound`: (samples, channels)
    float32; `numpy.concatenate(list(...))` is all of it.

    src       as in `read_frames`
    rate      samples a second, else the stream's; channels: mixed to so many
    start     seconds after the first sample, to the sample
    stream    which sound stream
    strict    a damaged file, or one that is not whole, is an FfmpegError (code "damaged") after
              its last frame; with False a DamageWarning

    Raises FileNotFoundError, TypeError and ValueError for an argument (also for a start beyond the
    end, when the first frame is asked for), FfmpegError (code "bad-input" where there is no such
    stream).
    """
    wished = {
        name: None if value is None else check.whole("read_audio", name, value, 1)
        for name, value in (("rate", rate), ("channels", channels))
    }
    begin = check.seconds("read_audio", "start", start)
    number = check.whole("read_audio", "stream", stream, 0)
    program = Ffmpeg.at(ffmpeg)
    held = contextlib.ExitStack()
    source = held.enter_context(opened("read_audio", src, urls))
    if begin and not source.again:
        raise ValueError(
            f"read_audio: start must be 0 for {source.name!r}, which can be read only once"
        )
    return _sounds(program, source, wished, begin, number, strict, held)


def _run(
    program: Ffmpeg, source: Source, wished: dict[str, int | None], stream: int,
    begin: int | None, coarse: Fraction | None,
) -> _SoundPipe:  # fmt: skip
    """Start ffmpeg; `begin` in samples of the stream's rate, `coarse` in seconds."""
    chain = ["ashowinfo@first", f"atrim=start_pts={begin}"] if begin is not None else []
    if wished["rate"]:
        chain.append(f"aresample={wished['rate']}")
    seek = [] if coarse is None else ["-noaccurate_seek", "-ss", f"{float(coarse):.6f}"]
    form = "aformat=sample_fmts=flt"
    if wished["channels"]:
        count = wished["channels"]
        form += f":channel_layouts={LAYOUTS.get(count, f'{count}c')}"
    command = [
        "-copyts", *seek, *source.given(program.demuxers), "-map", f"0:a:{stream}",
        "-af", ",".join([*chain, form, "ashowinfo@last"]),
        "-f", "f32le", "-c:a", "pcm_f32le", "pipe:1",
    ]  # fmt: skip
    return _SoundPipe(
        program, command, descriptors=source.descriptors, begin=begin, sought=coarse is not None
    )


def _begun(
    program: Ffmpeg, source: Source, wished: dict[str, int | None], begin: Fraction, stream: int
) -> tuple[_SoundPipe, Shown | None, Fraction]:
    """A run that stands before the first wanted frame, what is said of that, and the pts of the
    stream's first sample.
    """
    plain: dict[str, int | None] = {"rate": None, "channels": None}
    pipe = _run(program, source, wished if not begin else plain, stream, None, None)
    shown = pipe.next()
    origin = (shown.pts if shown else None) or Fraction(0)
    if not begin or shown is None:
        return pipe, shown, origin
    pipe.close()
    first = round((origin + begin) / shown.base)
    for margin in (*MARGINS, None):
        coarse = None if margin is None or margin >= begin else begin - margin
        pipe = _run(program, source, wished, stream, first, coarse)
        shown = pipe.next()
        if pipe.landed:
            if shown is None and pipe.end() == 0:
                pipe.close()
                raise _beyond(pipe, origin, begin)
            break
        pipe.close()
    return pipe, shown, origin


def _beyond(pipe: _SoundPipe, origin: Fraction, begin: Fraction) -> ValueError:
    """The error of a start behind the last sample."""
    last = pipe.latest
    end = last.pts + last.size[0] * last.base - origin if last and last.pts is not None else 0
    return ValueError(
        f"read_audio: start must be within the sound, which ends at {float(end):g} seconds, got "
        f"{float(begin):g}"
    )


def _sounds(
    program: Ffmpeg, source: Source, wished: dict[str, int | None], begin: Fraction, stream: int,
    strict: bool, held: contextlib.ExitStack,
) -> Iterator[Sound]:  # fmt: skip
    with held:
        pipe, shown, origin = _begun(program, source, wished, begin, stream)
        index, seconds = 0, begin
        try:
            while shown is not None:
                samples, channels = shown.size
                memory = pipe.read(samples * channels * 4)
                if len(memory) < samples * channels * 4:
                    break
                sound = np.frombuffer(memory, "<f4").reshape(samples, channels).view(Sound)
                sound.pts, sound.rate, sound.index = shown.pts, shown.base.denominator, index
                sound.time = float(shown.pts - origin) if shown.pts is not None else 0.0
                yield sound
                index += 1
                seconds += samples * shown.base
                shown = pipe.next()
            code = pipe.end()
            if index == 0:
                raise nothing_came("read_audio", source, pipe.log, code, program.demuxers)
            if code or shown is not None:
                raise failure(pipe.log, code)
        finally:
            pipe.close()
        log = pipe.log_since_first if begin else pipe.log
        judge("read_audio", source, index, log, strict, missing(source, seconds, wished["rate"]))
