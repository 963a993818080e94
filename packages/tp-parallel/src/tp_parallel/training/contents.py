"""The table of contents of torch.distributed.checkpoint, read as data.

torch pickles it (`.metadata`) and reads it back by `pickle.load`, which runs what a stranger wrote.
Here only the records that it is made of are built, and what they say is held to the folder: files
are those in it, and the boxes of a tensor fill it.
"""

from __future__ import annotations

import math
import pathlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader, filesystem, metadata

from ..grid.errors import CheckpointError
from .files import system_error

_NAME = ".metadata"
Box = list[tuple[int, int]]  # begin and end along each axis
_RECORDS: dict[tuple[str, str], Any] = {
    (kind.__module__, kind.__name__): kind
    for kind in (
        metadata.Metadata, metadata.MetadataIndex, metadata.StorageMeta,
        metadata.TensorStorageMetadata, metadata.ChunkStorageMetadata,
        metadata.BytesStorageMetadata, metadata.TensorProperties, metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo, torch.Size, torch.serialization._get_layout,
        pathlib.PosixPath, pathlib.PurePosixPath,
    )
}  # fmt: skip
_RECORDS |= {
    ("pathlib._local", name): getattr(pathlib, name) for name in ("PosixPath", "PurePosixPath")
}


class _Unpickler(pickle._Unpickler):  # the one in C takes memory by the numbers in a memo
    """Knows the records of a table of contents and torch's dtypes; nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        dtype = getattr(torch, name, None) if module == "torch" else None
        known = dtype if isinstance(dtype, torch.dtype) else _RECORDS.get((module, name))
        if known is None:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no part of a table")
        return known


class Reader(FileSystemReader):
    """torch's reader of a folder, its table of contents read as data, once.

    `read_metadata` raises CheckpointError, naming the file, for a table that is damaged or holds
    anything else, and OSError where the system does not let it be read.
    """

    _table: metadata.Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        if self._table is None:
            self._table = _read(Path(self.path) / _NAME)
        self._table.storage_meta = self._table.storage_meta or metadata.StorageMeta()
        self._table.storage_meta.load_id = self.load_id
        return self._table


def _read(path: Path) -> metadata.Metadata:
    try:
        with open(path, "rb") as file:
            table = _Unpickler(file).load()
        _check(table)
    except Exception as error:
        if system_error(error):
            raise
        raise CheckpointError(
            f"checkpoint: {path} is no table of contents, or damaged: {error}"
        ) from error
    return table


def _overlap(boxes: list[Box]) -> bool:
    """Whether two boxes that are not empty meet: a sweep along the axis with most beginnings."""
    boxes = [box for box in boxes if all(begin < end for begin, end in box)]
    if not boxes or not boxes[0]:
        return len(boxes) > 1
    axis = max(range(len(boxes[0])), key=lambda k: len({box[k][0] for box in boxes}))
    boxes.sort(key=lambda box: box[axis][0])
    for number, box in enumerate(boxes):
        other = number + 1
        while other < len(boxes) and boxes[other][axis][0] < box[axis][1]:
            if all(a < f and b < e for (a, e), (b, f) in zip(box, boxes[other], strict=True)):
                return True
            other += 1
    return False


def _check(table: Any) -> None:
    """Raises ValueError, AttributeError, TypeError or KeyError for a table that is not sound."""
    if not isinstance(table, metadata.Metadata):
        raise ValueError(f"it holds {type(table).__name__}")
    for name, entry in table.state_dict_metadata.items():
        if isinstance(entry, metadata.BytesStorageMetadata):
            continue
        boxes = [
            [(a, a + n) for a, n in zip(chunk.offsets, chunk.sizes, strict=True)]
            for chunk in entry.chunks
        ]
        for box in boxes:
            if not all(0 <= a <= e <= n for (a, e), n in zip(box, entry.size, strict=True)):
                raise ValueError(f"a box of {name!r} lies outside of it")
        filled = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
        if filled != math.prod(entry.size) or _overlap(boxes):
            raise ValueError(f"the boxes of {name!r} do not fill it")
    for index, place in table.storage_data.items():
        if Path(place.relative_path).name != place.relative_path or place.transform_descriptors:
            raise ValueError(
                f"{index.fqn!r} lies in {place.relative_path!r}, no file of the folder"
            )
        if min(place.offset, place.length) < 0:
            raise ValueError(f"{index.fqn!r} lies at {place.offset}, {place.length} bytes")
