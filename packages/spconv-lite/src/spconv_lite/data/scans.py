"""Point clouds from files: .npy, .bin of KITTI (4 floats a point) and nuScenes (5, and a name that
ends in .pcd.bin), ascii or binary little-endian .ply, ascii or binary .pcd.

Files are data from outside: sizes in headers are checked against the file before memory is taken.
"""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np

_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "<i2", "int16": "<i2",
    "ushort": "<u2", "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4",
    "float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8",
}  # fmt: skip
_PCD_KINDS = {"F": "f", "I": "i", "U": "u"}
_LONGEST_HEADER = 1 << 16


def read_points(path: str | Path, columns: int | None = None) -> np.ndarray:
    """Points (N, 3 or 4) float32: x, y, z and the intensity if the file has one.

    Args:
        columns: floats a point of a .bin, which does not say it. None takes 5 for a name that ends
            in .pcd.bin (nuScenes: the fifth is the ring), else 4 (KITTI), and refuses a file that
            could be either and has no intensities of KITTI.

    Raises: ValueError naming the file and what is wrong with it.
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".ply": _read_ply, ".pcd": _read_pcd}
    if path.suffix != ".bin" and path.suffix not in readers:
        raise ValueError(f"{path}: a scan must end in .npy, .bin, .ply, .pcd")
    if path.suffix == ".bin":
        points = _read_bin(path, columns)
    elif columns is not None:
        raise ValueError(f"{path}: columns is for .bin files; a {path.suffix} says its own")
    else:
        try:
            points = readers[path.suffix](path)
        except Exception as error:  # of a damaged header int, zip, dtype and numpy raise many kinds
            if str(error).startswith(str(path)):
                raise
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise OSError(error.errno, error.strerror, str(path)) from error  # the system's
            told = str(error).splitlines() or [type(error).__name__]
            raise ValueError(f"{path}: damaged, or no {path.suffix}: {told[0]:.200}") from error
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
        return np.ascontiguousarray(points, dtype=np.float32)


def _read_npy(path: Path) -> np.ndarray:
    points = np.load(path, mmap_mode="r", allow_pickle=False)  # no memory for what is not there
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind != "f":
        raise ValueError(
            f"{path}: points must be floating (N, 3 or more), got {points.dtype} {points.shape}"
        )
    return points[:, :4]


def _read_bin(path: Path, columns: int | None) -> np.ndarray:
    asked = columns is not None
    if columns is None:
        columns = 5 if path.name.endswith(".pcd.bin") else 4
    if columns < 3:
        raise ValueError(f"{path}: columns must be at least 3, got {columns}")
    size = path.stat().st_size
    if size % (4 * columns):
        kind = {4: "KITTI scan", 5: "nuScenes scan"}.get(columns, f"scan of {columns} floats")
        raise ValueError(
            f"{path}: a {kind} is {4 * columns} bytes a point, got {size} bytes; say columns= "
            "(KITTI 4, nuScenes 5)"
        )
    points = np.fromfile(path, dtype="<f4").reshape(-1, columns)
    fits_both = not asked and columns == 4 and size % 20 == 0
    if fits_both and not np.all((points[:, 3] >= 0) & (points[:, 3] <= 1)):
        raise ValueError(
            f"{path}: this could be 4 floats a point or 5 (nuScenes): intensities of KITTI lie "
            "between 0 and 1, and the fourth numbers do not; say columns=4 or columns=5"
        )
    return points[:, :4]


def _columns(path: Path, table: np.ndarray) -> np.ndarray:
    present = table.dtype.names or ()
    names: list[str] = [name for name in ("x", "y", "z") if name in present]
    if len(names) != 3:
        raise ValueError(f"{path}: fields x, y and z are missing, found {present}")
    names += [name for name in ("intensity", "reflectance") if name in present][:1]
    return np.stack([table[name].astype(np.float32) for name in names], 1)


def _table(path: Path, body: bytes, dtype: np.dtype, count: int, ascii_rows: bool) -> np.ndarray:
    if count < 0 or not dtype.itemsize:
        raise ValueError(f"{path}: {count} points of {dtype.itemsize} bytes are promised")
    if ascii_rows:
        rows = body.decode("ascii", errors="replace").splitlines()[:count]
        if len(rows) < count:
            raise ValueError(f"{path}: {count} points are promised, {len(rows)} are there")
        names = list(dtype.names or ())
        numbers = np.array([row.split()[: len(names)] for row in rows], dtype=np.float64)
        return np.rec.fromarrays([*numbers.reshape(count, len(names)).T], names=names)
    if len(body) < count * dtype.itemsize:
        raise ValueError(
            f"{path}: {count} points of {dtype.itemsize} bytes are promised, {len(body)} bytes "
            "are there"
        )
    return np.frombuffer(body, dtype=dtype, count=count)


def _split(path: Path, end: bytes) -> tuple[list[list[str]], bytes]:
    content = path.read_bytes()
    at = content.find(end, 0, _LONGEST_HEADER)
    stop = content.find(b"\n", at)
    if at < 0 or stop < 0:
        raise ValueError(f"{path}: the header has no end")
    lines = content[: stop + 1].decode("ascii", errors="replace").splitlines()
    return [line.split() for line in lines if line.strip()], content[stop + 1 :]


def _read_ply(path: Path) -> np.ndarray:
    header, body = _split(path, b"end_header")
    if header[0] != ["ply"] or header[1][1] not in ("ascii", "binary_little_endian"):
        raise ValueError(f"{path}: must be an ascii or binary_little_endian ply")
    elements = [words for words in header if words[0] == "element"]
    if not elements or elements[0][1] != "vertex":
        raise ValueError(f"{path}: the first element must be vertex")
    fields, inside = [], False
    for words in header:
        inside = words[1] == "vertex" if words[0] == "element" else inside
        if words[0] == "property" and inside:
            if words[1] not in _PLY_TYPES:
                raise ValueError(f"{path}: vertex property {' '.join(words[1:])} is not a number")
            fields.append((words[2], _PLY_TYPES[words[1]]))
    count = int(elements[0][2])
    return _columns(path, _table(path, body, np.dtype(fields), count, header[1][1] == "ascii"))


def _read_pcd(path: Path) -> np.ndarray:
    lines, body = _split(path, b"DATA")
    header = {words[0]: words[1:] for words in lines if words[0] != "#"}
    missing = {"FIELDS", "SIZE", "TYPE", "POINTS", "DATA"} - set(header)
    if missing or header["DATA"][0] not in ("ascii", "binary"):
        raise ValueError(f"{path}: must be an ascii or binary pcd; missing: {sorted(missing)}")
    columns = zip(
        header["FIELDS"], header["TYPE"], header["SIZE"],
        header.get("COUNT", ["1"] * len(header["FIELDS"])), strict=True,
    )  # fmt: skip
    fields: list[tuple] = []
    for name, letter, size, number in columns:
        kind = f"<{_PCD_KINDS[letter]}{int(size)}"
        fields.append((name, kind) if int(number) == 1 else (name, kind, (int(number),)))
    count, as_text = int(header["POINTS"][0]), header["DATA"][0] == "ascii"
    return _columns(path, _table(path, body, np.dtype(fields), count, as_text))
