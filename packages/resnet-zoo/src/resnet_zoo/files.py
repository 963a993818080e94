"""Files that a user asks for: written aside and renamed, under the user's umask, through links.

What is no plain file (a device, a FIFO) is written to, never renamed over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to in the block; when that ends well, the file takes the place of `path`.

    A file that was there keeps its permissions; a new one has those that the umask leaves. If the
    block raises, `path` is as it was. Raises OSError.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "a symlink that leads to itself", os.fspath(path))
    if target.exists() and not target.is_file():
        with tempfile.TemporaryDirectory() as folder:
            aside = Path(folder) / "content"
            yield aside
            with open(aside, "rb") as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink)
        return
    aside = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:  # which names a file of ours
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from error
    try:
        permissions = stat.S_IMODE((target if target.exists() else aside).stat().st_mode)
        os.close(handle)
        yield aside
        _flush(aside)
        if stat.S_IMODE(aside.stat().st_mode) != permissions:  # a library made the file anew
            os.chmod(aside, permissions)
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, as `replacing` does."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def system_error(error: BaseException, path: str | os.PathLike[str]) -> OSError | None:
    """Where a file could not be read for lack of a permission, of memory, of descriptors, or by a
    bad disk: that error, naming the file. None for all that tells of what is in the file."""
    if not isinstance(error, OSError) or error.errno in (None, errno.EINVAL):
        return None
    return OSError(error.errno, error.strerror, os.fspath(path))
