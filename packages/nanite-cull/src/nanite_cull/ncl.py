"""The file format .ncl: built assets on disk, checked when read."""

from pathlib import Path

from nanite_cull import _C  # type: ignore[attr-defined]
from nanite_cull._core import open_meshoptimizer
from nanite_cull.asset import Asset


def save(asset: Asset, path: str | Path, *, threads: int = 0) -> Path:
    """Stores an asset as an .ncl file: `asset.save`."""
    return asset.save(path, threads=threads)


def read(path: str | Path, *, threads: int = 0) -> Asset:
    """Reads an .ncl file by mapping it; all but `leaf_source` is what was written, bit for bit.

    Raises ValueError with the reason for a file that is truncated, damaged or of another version,
    FileNotFoundError when there is none.
    """
    open_meshoptimizer()
    if not Path(path).is_file():
        raise FileNotFoundError(f"load: {path} does not exist")
    return Asset(_C.read_ncl(str(path), threads))
