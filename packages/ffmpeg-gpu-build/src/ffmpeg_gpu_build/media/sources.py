"""What frames are read from: a file, bytes, a file object, a pipe, a camera, a URL if asked for."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..ffmpeg import FfmpegError, file_argument
from .reach import (
    PROTOCOLS,
    is_playlist,
    opening,
    playlist_error,
    protocols,
    refuse_graph,
    refuse_screen,
)
from .session import is_stream

# FFmpeg's input devices that give pictures: "v4l2:/dev/video0", "x11grab::0.0", "lavfi:testsrc2"
DEVICES = ("v4l2", "fbdev", "kmsgrab", "x11grab", "lavfi")
# What such a name may reach beyond this machine, or beyond pictures
REFUSALS = {"x11grab": refuse_screen, "lavfi": refuse_graph}
# The kernel's numbers of character devices (Linux, admin-guide/devices.txt) -> who reads them
MAJORS = {81: "v4l2", 29: "fbdev"}


@dataclass(frozen=True)
class Source:
    """What stands behind -i. `again` is false for what can be read only once; `stamp` is equal for
    equal content, None where that is not known; `file` is None for what has no name; `device` is
    FFmpeg's name of the input device that reads it, "" for what is no device; `urls` whether it may
    name other files and addresses.
    """

    name: str
    argument: str
    protocols: tuple[str, ...] = PROTOCOLS
    again: bool = True
    stamp: tuple[Any, ...] | None = None
    file: Path | None = None
    descriptor: int | None = None
    device: str = ""
    urls: bool = False

    def refused(self, where: str, log: str) -> FfmpegError | None:
        """The error of a playlist that FFmpeg did not open; None for what else it did not open."""
        shut = not (self.urls or self.device) and is_playlist(self.content, log)
        return playlist_error(where, self.name) if shut else None

    def given(self, demuxers: Iterable[str]) -> tuple[str, ...]:
        """The arguments that open it with one of the demuxers of a program; see `opening`."""
        if self.device:
            return (*self.protocols, "-f", self.device, "-i", self.argument)
        return opening(self.argument, demuxers, self.urls, self.protocols)

    @property
    def content(self) -> Path | None:
        """Where what is in it can be looked at beside the reading; None for what is read once."""
        if self.descriptor is not None:
            return Path(f"/dev/fd/{self.descriptor}")
        return self.file if self.again else None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the program inherits."""
        return () if self.descriptor is None else (self.descriptor,)


def _of_device(where: str, kind: str, name: str) -> Source:
    """A device, which is read once; `name` is a node below /dev, or what that device takes."""
    node = name.startswith("/")
    if node and not Path(name).exists():
        there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        raise FileNotFoundError(
            f"{where}: src must be a device, there is none at {name!r}; cameras here: {there}"
        )
    return Source(name, name, again=False, file=Path(name) if node else None, device=kind)


def require_device(where: str, source: Source, demuxers: Container[str], who: str) -> None:
    """Refuse a device for which an FFmpeg, `who`, has no reader: FfmpegError, "not-built-in"."""
    if source.device and source.device not in demuxers:
        raise FfmpegError(
            f"{where}: {source.name!r} is read by FFmpeg's input device {source.device}, without "
            f"which {who} was built: take the distribution's ffmpeg, or build one "
            "(`ffmpeg-gpu-build build` has v4l2)",
            "not-built-in",
        )


def _of_file(where: str, path: Path, urls: bool) -> Source:
    if is_stream(path):
        facts = path.stat()
        kind = MAJORS.get(os.major(facts.st_rdev)) if stat.S_ISCHR(facts.st_mode) else None
        if kind:
            return _of_device(where, kind, os.path.abspath(path))
        name = os.fspath(path)
        return Source(name, file_argument(path), protocols(urls), False, file=path, urls=urls)
    if not path.is_file():
        if os.path.abspath(path).startswith("/dev/") and not path.exists():
            return _of_device(where, "", os.path.abspath(path))
        what = "is a folder" if path.is_dir() else "there is none"
        raise FileNotFoundError(f"{where}: src must be a file, {what} at {os.fspath(path)!r}")
    facts = path.stat()
    identity = (os.path.abspath(path), facts.st_mtime_ns, facts.st_size, facts.st_ino, urls)
    return Source(
        os.fspath(path), file_argument(path), protocols(urls), stamp=identity, file=path, urls=urls
    )


def _of_bytes(data: bytes | bytearray | memoryview, urls: bool) -> Source:
    """The content in a file without a name, which the program may seek in."""
    descriptor = os.memfd_create("ffmpeg-gpu-build")
    view = memoryview(data)
    name = f"{view.nbytes} bytes"
    view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    while view:
        view = view[os.write(descriptor, view) :]
    given = protocols(urls)
    return Source(name, f"file:/dev/fd/{descriptor}", given, descriptor=descriptor, urls=urls)


@contextmanager
def opened(where: str, src: Any, urls: bool = False) -> Iterator[Source]:
    """The source behind an argument of `where`; what had to be made for it goes at the end.

    Raises FileNotFoundError, ValueError for a URL that was not asked for, TypeError.
    """
    kind, colon, rest = src.partition(":") if isinstance(src, str) else ("", "", "")
    if colon and kind in DEVICES and not os.path.exists(src):
        if kind in REFUSALS and not urls:
            REFUSALS[kind](where, rest)
        yield _of_device(where, kind, rest)
        return
    if isinstance(src, str) and "://" in src and not os.path.exists(src):
        if not urls:
            raise ValueError(
                f"{where}: src must be a local file, got the URL {src!r}; urls=True opens it"
            )
        yield Source(src, src, protocols=protocols(urls, src), urls=True)
        return
    if isinstance(src, (str, os.PathLike)):
        yield _of_file(where, Path(src), urls)
        return
    if hasattr(src, "read"):
        file: BinaryIO = src
        src = file.read()
        if isinstance(src, str):
            raise TypeError(f"{where}: src must be opened in binary ('rb'), not as text")
    if not isinstance(src, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"{where}: src must be a path, bytes or a file opened in binary, got "
            f"{type(src).__name__}"
        )
    source = _of_bytes(src, urls)
    try:
        yield source
    finally:
        with contextlib.suppress(OSError):
            os.close(source.descriptors[0])
