"""The one way in which this package writes a file, and what the system says of one that is read."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block succeeds.

    The new file has the permissions of the one that it replaces, or those that the user's umask
    gives a new one. A link stays and the file that it leads to is replaced. A device or a pipe is
    written to, never replaced. Raises FileNotFoundError where the folder does not exist.
    """
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a symlink that leads to itself", os.fspath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in")
    special = path.exists() and not path.is_file()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file to write")
    folder = Path(tempfile.gettempdir()) if special else path.parent
    temporary = folder / f".{path.name[:100]}.{secrets.token_hex(8)}"
    # Not mkstemp's 0600: the system takes the user's umask from these bits.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        if path.exists() and not special:
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        yield temporary
        if special:
            with open(temporary, "rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def system_error(error: BaseException, path: str | os.PathLike[str]) -> OSError | None:
    """Where a file could not be read for lack of a permission, of memory, of descriptors, or by a
    bad disk: that error, naming the file. None for all that tells of what is in the file."""
    own = type(error).__module__ == "builtins"  # PyAV's have numbers of FFmpeg
    if not (own and isinstance(error, OSError)) or error.errno in (None, errno.EINVAL):
        return None
    return OSError(error.errno, error.strerror, os.fspath(path)) if error.errno > 0 else None
