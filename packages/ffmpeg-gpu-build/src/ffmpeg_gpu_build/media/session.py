"""One run of ffmpeg under supervision: progress, cancelling, a result that appears whole or not
at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import watchdog
from ..doctor.failures import diagnose, last_lines
from ..ffmpeg import Ffmpeg, FfmpegError
from ..proc import finished, start, stop


class Cancelled(FfmpegError):
    """The run was cancelled or took longer than it may; nothing was left behind."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `fraction` is None where the length is not known; `speed` is times
    real time.
    """

    frame: int
    fps: float
    speed: float
    seconds: float
    fraction: float | None


@dataclass(frozen=True)
class Run:
    """What a run of ffmpeg left: the frames it wrote, and its log."""

    frames: int
    log: str


@contextmanager
def written_aside(destination: Path, overwrite: bool) -> Iterator[Path]:
    """A name beside `destination` to write to; renamed to it on success, removed on any failure,
    also if this process is killed.

    A symlink is followed: the file that it names is written, be it there already or not. A pipe or
    a device is written to as it is. Raises FileExistsError if the destination is there and may not
    be replaced, FileNotFoundError if its folder is not, IsADirectoryError.
    """
    if is_stream(destination):
        yield destination
        return
    if destination.is_dir():
        raise IsADirectoryError(f"{os.fspath(destination)!r} is a folder: name a file in it")
    if destination.exists() and not overwrite:
        raise FileExistsError(
            f"{os.fspath(destination)!r} is there already; pass overwrite=True (--overwrite) to "
            f"replace it"
        )
    try:
        final = destination.resolve()
        if final.is_symlink():  # what Python 3.13 gives of a circle
            raise OSError("a symlink that leads to itself")
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{os.fspath(destination)!r} leads nowhere: {error}") from None
    if not final.parent.is_dir():
        raise FileNotFoundError(f"no folder {os.fspath(final.parent)!r} to write into")
    part = final.parent / f".part-{secrets.token_hex(6)}{destination.suffix}"
    with watchdog.unfinished(part):
        try:
            yield part
            if not overwrite:
                _claim(part, final)
            part.replace(final)
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()


def is_stream(path: Path) -> bool:
    """Whether this is a pipe, a socket or a device: written to or read once, never renamed over."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _claim(part: Path, destination: Path) -> None:
    """Take the name; FileExistsError if another run has put a file there meanwhile. Where the file
    system has no hard links (FAT, many shares) an empty file holds the name for a moment.
    """
    try:
        os.link(part, destination)
    except FileExistsError:
        raise
    except OSError:
        destination.touch(exist_ok=False)


def _number(text: str) -> float:
    try:
        return float(text.strip().rstrip("x"))
    except ValueError:
        return 0.0


def _read_progress(
    stream: Iterable[bytes], total: int | None, tell: Callable[[Progress], None] | None
) -> int:
    """Follow `-progress`; returns the number of frames at the end."""
    values: dict[str, str] = {}
    frame = 0
    for line in stream:
        key, _, value = line.decode("utf-8", "replace").strip().partition("=")
        values[key] = value
        if key == "progress":
            frame = int(_number(values.get("frame", "0")))
            if tell:
                seconds = _number(values.get("out_time_us", "0")) / 1e6
                fraction = min(1.0, frame / total) if total else None
                speed = _number(values.get("speed", "0"))
                tell(Progress(frame, _number(values.get("fps", "0")), speed, seconds, fraction))
    return frame


def _feed(process: subprocess.Popen[bytes], chunks: Iterable[bytes]) -> None:
    """Write to ffmpeg in the caller's own thread, where its `torch.no_grad()`, its CUDA device and
    Ctrl-C hold for what makes the chunks.
    """
    assert process.stdin is not None
    try:
        for chunk in chunks:
            try:
                process.stdin.write(chunk)
            except BrokenPipeError:
                return  # ffmpeg ended early: its own message is the cause
    except BaseException:
        stop(process)
        raise
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()


def supervise(
    ffmpeg: Ffmpeg,
    arguments: list[str],
    *,
    total: int | None = None,
    tell: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    timeout: float | None = None,
    chunks: Iterable[bytes] | None = None,
) -> Run:
    """Run ffmpeg to the end: the number of frames written, and what it said.

    `chunks` are bytes for its stdin. Raises FfmpegError with the recognised cause if it fails, and
    Cancelled if `cancel` is set or `timeout` seconds pass. KeyboardInterrupt ends ffmpeg too.
    """
    command = [
        os.fspath(ffmpeg.path), "-hide_banner", *(["-nostdin"] if chunks is None else []),
        "-nostats", "-loglevel", "repeat+level+verbose", "-progress", "pipe:1", *arguments,
    ]  # fmt: skip
    why: list[str] = []
    problem: list[BaseException] = []
    frames: list[int] = []

    def follow() -> None:
        try:
            assert process.stdout is not None
            frames.append(_read_progress(process.stdout, total, tell))
        except BaseException as error:
            problem.append(error)
            stop(process)

    with tempfile.TemporaryFile() as log:
        process = start(
            command,
            stdin=subprocess.DEVNULL if chunks is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **ffmpeg.env},
        )
        watch = threading.Thread(target=_watch, args=(process, cancel, timeout, why), daemon=True)
        watch.start()
        follower = threading.Thread(target=follow, daemon=True)
        try:
            if chunks is None:
                follow()
            else:
                follower.start()
                _feed(process, chunks)
                follower.join()
            process.wait()
        except BaseException:
            stop(process)
            raise
        finally:
            if chunks is not None:
                follower.join()
            watch.join()
            if process.stdout:
                process.stdout.close()
            finished(process)
        log.seek(0)
        text = log.read().decode("utf-8", "replace")
        whole = _takes_more(log.fileno())
    if problem:
        raise problem[0]
    if why:
        raise Cancelled(f"ffmpeg was ended: {why[0]}", "cancelled", text)
    if not whole:
        raise FfmpegError(
            f"ffmpeg: no room is left in {tempfile.gettempdir()!r}, the folder of temporary files: "
            "what it said is not whole, and nobody knows whether the source is; free some, or set "
            "TMPDIR",
            "disk-full",
            text,
        )
    if process.returncode != 0:
        raise failure(text, process.returncode)
    return Run(frames[0], text)


def _takes_more(log: int) -> bool:
    """Whether more can be written behind what was read: tried, since not every file system says how
    much room it has, nor the same for every user.
    """
    try:
        for _ in range(2):  # the first may fill what is left of a block
            os.write(log, bytes(4096))
    except OSError:
        return False
    return True


def _watch(
    process: subprocess.Popen[bytes],
    cancel: threading.Event | None,
    timeout: float | None,
    why: list[str],
) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    while process.poll() is None:
        if cancel is not None and cancel.is_set():
            why.append("cancelled")
        elif end is not None and time.monotonic() > end:
            why.append(f"not done after {timeout:g} seconds")
        if why:
            stop(process)
            return
        time.sleep(0.05)


def failure(log: str, code: int) -> FfmpegError:
    """The error of a run that ended with `code`: the known cause and cure, or its last lines."""
    found = diagnose(log)
    if found:
        return FfmpegError(
            f"ffmpeg: {found.sentence} ({found.line}); {found.cure}", found.code, log
        )
    return FfmpegError(f"ffmpeg ended with exit code {code}:\n{last_lines(log)}", "unknown", log)
