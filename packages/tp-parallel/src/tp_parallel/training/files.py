"""The one way in which single files are written (a checkpoint is a folder, see `checkpoint`), and
what the system says of those that are read."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block succeeds.

    A new file gets the user's umask, an old one keeps its mode. A link is followed; a device or a
    pipe is written to, never replaced. Raises OSError; nothing is left of a block that raises.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "a link that leads to itself", os.fspath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    aside = target.with_name(f".{secrets.token_hex(8)}.part")
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        if target.exists():
            aside.chmod(stat.S_IMODE(target.stat().st_mode))
        yield aside
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def system_error(error: BaseException) -> OSError | None:
    """The error, or that of a rank in torch's CheckpointException, which tells of a permission,
    memory, descriptors or a disk that are wanting; None for all that tells of what is in a file."""
    for one in (error, *(found for found, _ in getattr(error, "failures", {}).values())):
        if isinstance(one, OSError) and one.errno not in (None, errno.EINVAL, errno.ENOENT):
            return one
    return None
