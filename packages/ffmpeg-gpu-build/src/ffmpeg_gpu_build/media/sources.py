"""What frames are read from: a file, bytes, a file object, a pipe, a URL if that is asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..ffmpeg import file_argument
from .probing import PROTOCOLS
from .session import is_stream

NETWORK = ("-protocol_whitelist", "file,pipe,fd,data,crypto,http,https,tcp,tls,httpproxy")


@dataclass(frozen=True)
class Source:
    """What stands behind -i. `again` is false for what can be read only once; `stamp` is equal for
    equal content, None where that is not known; `file` is None for what has no name.
    """

    name: str
    argument: str
    protocols: tuple[str, ...] = PROTOCOLS
    again: bool = True
    stamp: tuple[Any, ...] | None = None
    file: Path | None = None
    descriptor: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the program inherits."""
        return () if self.descriptor is None else (self.descriptor,)


def _of_file(where: str, path: Path) -> Source:
    if is_stream(path):
        return Source(os.fspath(path), file_argument(path), again=False, file=path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is none"
        raise FileNotFoundError(f"{where}: src must be a file, {what} at {os.fspath(path)!r}")
    facts = path.stat()
    stamp = (os.path.abspath(path), facts.st_mtime_ns, facts.st_size, facts.st_ino)
    return Source(os.fspath(path), file_argument(path), stamp=stamp, file=path)


def _of_bytes(data: bytes | bytearray | memoryview) -> Source:
    """The content in a file without a name, which the program may seek in."""
    descriptor = os.memfd_create("ffmpeg-gpu-build")
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
    name = f"{len(data)} bytes"
    return Source(name, f"file:/dev/fd/{descriptor}", descriptor=descriptor)


@contextmanager
def opened(where: str, src: Any, urls: bool = False) -> Iterator[Source]:
    """The source behind an argument of `where`; what had to be made for it goes at the end.

    Raises FileNotFoundError, ValueError for a URL that was not asked for, TypeError.
    """
    if isinstance(src, str) and "://" in src and not Path(src).exists():
        if not urls:
            raise ValueError(
                f"{where}: src must be a local file, got the URL {src!r}; urls=True opens it"
            )
        yield Source(src, src, protocols=NETWORK)
        return
    if isinstance(src, (str, os.PathLike)):
        yield _of_file(where, Path(src))
        return
    if hasattr(src, "read"):
        file: BinaryIO = src
        src = file.read()
    if not isinstance(src, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"{where}: src must be a path, bytes or a file opened in binary, got "
            f"{type(src).__name__}"
        )
    source = _of_bytes(src)
    try:
        yield source
    finally:
        with contextlib.suppress(OSError):
            os.close(source.descriptors[0])
