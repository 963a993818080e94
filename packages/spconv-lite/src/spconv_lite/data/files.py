"""The one way in which this package writes a file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Writes `content` aside and renames it: no half file is ever seen.

    A new file gets the user's umask, an old one keeps its mode. A link is followed; a device or a
    pipe is written to, never replaced. Raises OSError, naming `path`; the old file then stands.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.is_symlink():
            raise OSError(errno.ELOOP, "a link that leads to itself")
        if target.exists() and not target.is_file():
            with open(target, "wb") as device:
                device.write(content)
        else:
            _replace(target, content)
    except OSError as error:
        told = f"cannot be written: {error.strerror}"
        raise OSError(error.errno, told, os.fspath(path)) from error


def _replace(target: Path, content: bytes) -> None:
    aside = target.with_name(f".{secrets.token_hex(8)}.part")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(handle, "wb") as file:
            if target.exists():
                os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(handle)
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
