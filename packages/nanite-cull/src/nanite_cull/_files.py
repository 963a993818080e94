"""Files that people share: named where they are none; written whole or not at all, with the user's
umask."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


def existing(path: str | Path, function: str) -> Path:
    """The file at `path`. Raises TypeError for what is no path, IsADirectoryError for a folder,
    FileNotFoundError where there is nothing, OSError for a device or a pipe."""
    try:
        path = Path(path)
    except TypeError:
        raise TypeError(
            f"{function}: path must be a str or a pathlib.Path, got {type(path).__name__}; give "
            "the name of a file"
        ) from None
    if path.is_dir():
        raise IsADirectoryError(
            f"{function}: path must be a file, got the folder {path}; name a file in it"
        )
    if not path.exists():
        raise FileNotFoundError(f"{function}: {path} does not exist")
    if not path.is_file():
        raise OSError(
            f"{function}: path must be a file, got the device or pipe {path}; copy it into a file"
        )
    return path


@contextlib.contextmanager
def reading(path: Path, function: str, *more: type[Exception]) -> Iterator[None]:
    """Errors of the block name the file at `path` that it reads: a ValueError, and one of the kinds
    `more`, becomes a ValueError that does; what the machine lacks passes."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except (ValueError, *more) as error:
        if isinstance(error, (ValueError, OSError)) and str(path) in str(error):
            raise
        told = str(error).removeprefix(f"{function}: ")
        if not isinstance(error, ValueError):
            told = f"it is damaged ({type(error).__name__}: {told})"
        raise ValueError(f"{function}: {path} cannot be read: {told}") from error


def write_file(path: str | Path, data: bytes) -> Path:
    """Writes `data` beside `path` and renames it: no half file is ever seen. Returns `path`.

    A new file gets the user's umask, an old one keeps its mode. A symlink is followed, a device or
    a FIFO is written to. Raises OSError where that cannot be done; the old file then stands.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "a symlink that leads to itself", os.fspath(path))
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        with open(target, "wb", buffering=0) as file:
            _write_all(file.fileno(), data)
        return path
    aside = target.parent / f".{secrets.token_hex(8)}.part"
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write: {error.strerror}", str(path)) from None
    try:
        try:
            if mode is not None:
                os.fchmod(handle, stat.S_IMODE(mode))
            _write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(aside, target)
    except BaseException:
        os.unlink(aside)
        raise
    return path


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
