"""The file format .ncl: built assets on disk, checked when read."""

import os
import tempfile
from pathlib import Path

from nanite_cull import _C
from nanite_cull._core import open_meshoptimizer
from nanite_cull.asset import Asset


def save(asset: Asset, path: str | Path, *, threads: int = 0) -> Path:
    """Writes an asset beside `path` and renames it, so that no half file is ever seen.

    The source map (`leaf_source`) is not stored. Raises OSError where the folder cannot be written.
    """
    open_meshoptimizer()
    path = Path(path)
    data = _C.encode_ncl(asset._core, threads)
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
    return path


def read(path: str | Path, *, threads: int = 0) -> Asset:
    """Reads an .ncl file by mapping it; all but `leaf_source` is what was written, bit for bit.

    Raises ValueError with the reason for a file that is truncated, damaged or of another version,
    FileNotFoundError when there is none.
    """
    open_meshoptimizer()
    if not Path(path).is_file():
        raise FileNotFoundError(f"load: {path} does not exist")
    return Asset(_C.read_ncl(str(path), threads))
