"""A picture of voxels from above, without a plotting library."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path

import numpy as np

from .files import write_file

# dark violet to yellow, by height
_STOPS = np.array(
    [[38, 20, 72], [86, 35, 122], [160, 48, 112], [226, 88, 74], [248, 156, 58], [250, 232, 120]]
)
_PAPER = (15, 20, 26)


def from_above(cells: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 (rows, columns, 3): the highest voxel of each column of the grid, coloured by its
    height between the 2nd and 98th percentile. cells (N, 3) int, z, y, x; y points up in the
    picture."""
    _, rows, columns = shape
    top = np.full((rows, columns), -1)
    np.maximum.at(top, (cells[:, 1], cells[:, 2]), cells[:, 0])
    seen = top >= 0
    picture = np.empty((rows, columns, 3), np.uint8)
    picture[:] = _PAPER
    if seen.any():
        low, high = np.percentile(top[seen], (2, 98))
        place = np.clip((top[seen] - low) / max(high - low, 1), 0, 1) * (len(_STOPS) - 1)
        channels = [np.interp(place, np.arange(len(_STOPS)), _STOPS[:, c]) for c in range(3)]
        picture[seen] = np.stack(channels, 1).astype(np.uint8)
    return picture[::-1]


def check_name(path: Path) -> None:
    """Raises ValueError for a name that `write` cannot give a picture."""
    ending = path.suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"write: path must be a .png, .jpg or .jpeg, got {path.name!r}")
    if ending != ".png" and importlib.util.find_spec("PIL") is None:
        raise ValueError(
            f"{path.name}: a JPEG needs Pillow; install it (pip install pillow) or write a .png"
        )


def write(path: Path, picture: np.ndarray) -> None:
    """Writes uint8 (rows, columns, 3) in the format that the name says, as `write_file` does.

    Raises: ValueError for another ending than .png, .jpg and .jpeg, or a JPEG without Pillow;
    OSError where the file cannot be written.
    """
    check_name(path)
    write_file(path, _png(picture) if path.suffix.lower() == ".png" else _jpeg(picture))


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, format="JPEG", quality=92)
    return out.getvalue()


def _png(picture: np.ndarray) -> bytes:
    def part(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    rows, columns, _ = picture.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), picture.reshape(rows, -1)], 1)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header)
    return content + part(b"IDAT", zlib.compress(lines.tobytes(), 6)) + part(b"IEND", b"")
