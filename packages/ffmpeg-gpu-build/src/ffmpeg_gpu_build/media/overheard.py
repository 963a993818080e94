"""What FFmpeg's libraries say while PyAV decodes with them: a suspicion, held against the program.

PyAV throws FFmpeg's log away. It can keep it, but for all readings of the process in one list, and
a decoder's threads do not say for whom they work. So a complaint says only that something is wrong
in one of the files that are read now: the ffmpeg program then reads each of them and decides.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from ..ffmpeg import Ffmpeg
from .damage import complaints
from .pipe import Pipe
from .sources import Source

LEVELS = {0: "panic", 8: "fatal", 16: "error", 24: "warning"}  # libavutil/log.h


class _Ear:
    """The log of all readings, as long as there is one; `count` complaints were in it."""

    def __init__(self) -> None:
        self.count, self.latest = 0, ""
        self._lock, self._readings = threading.Lock(), 0
        self._before: tuple[Any, Any, Any, bool] | None = None

    def open(self, av: Any) -> None:
        """A reading begins: hear warnings too, also those that were said before."""
        with self._lock:
            self._readings += 1
            if self._before is None:
                level, repeated = av.logging.get_level(), av.logging.get_skip_repeated()
                capture = av.logging.Capture(local=False)
                self._before = (capture, capture.__enter__(), level, repeated)
                av.logging.set_skip_repeated(False)
                av.logging.set_level(max(level or 0, av.logging.WARNING))

    def listen(self) -> int:
        """The number of complaints so far. Who asked PyAV for its log gets it."""
        if self._before is not None:
            _, said, level, _ = self._before
            while said:
                number, name, text = said.pop(0)
                line = f"[{name}] [{LEVELS.get(number, 'info')}] {text.strip()}"
                if complaints(line):
                    self.count, self.latest = self.count + 1, line
                if level is not None and number <= level:
                    grade = {16: 40, 24: 30}.get(number, 50 if number < 16 else 20)
                    logging.getLogger(f"libav.{name}").log(grade, text.strip())
        return self.count

    def close(self, av: Any) -> None:
        """A reading has ended."""
        with self._lock:
            self._readings -= 1
            if self._before is not None and not self._readings:
                self.listen()
                capture, _, level, repeated = self._before
                av.logging.set_level(level)
                av.logging.set_skip_repeated(repeated)
                capture.__exit__(None, None, None)
                self._before = None


EAR = _Ear()


def log_of_program(program: Ffmpeg, source: Source, stream: int) -> str | None:
    """What the ffmpeg program says of a whole stream; None where it does not decode it."""
    arguments = [
        *source.given(program.demuxers), "-map", f"0:V:{stream}",
        *program.every_frame, "-f", "null", "-",
    ]  # fmt: skip
    run = Pipe(program, arguments, descriptors=source.descriptors)
    try:
        code = run.end()
    finally:
        run.close()
    return run.log if code == 0 else None
