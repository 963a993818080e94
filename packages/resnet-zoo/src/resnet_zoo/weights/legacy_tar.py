"""Weight files of 2016 and 2017: torch.save wrote a tar of three streams then.

`storages`: a count, then for each (key, location, storage type), an int64 length and the raw bytes;
after them the views of storages. `tensors`: a count, then for each (key, storage key, type), the
rank as int64, sizes, strides and the offset as int64. `pickle`: the object, whose tensors are
persistent ids. (torch/serialization.py, `legacy_load`; today's torch reads it with
`weights_only=False` alone.) Only containers, storages and tensors are taken: no code runs.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
}


def is_legacy_tar(path: Path) -> bool:
    """Whether the file is such a tar, which is never compressed."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {"storages", "tensors", "pickle"} <= set(tar.getnames())
    except tarfile.TarError:
        return False


def read_legacy_tar(path: Path) -> Any:
    """The object in the file, on the CPU.

    Raises pickle.UnpicklingError for one that needs more than tensors and containers; EOFError,
    ValueError, KeyError, struct.error for a damaged one.
    """
    with tarfile.open(path, "r:") as tar:
        streams = {name: _member(tar, name) for name in ("storages", "tensors", "pickle")}
    storages = _storages(streams["storages"])
    tensors = _tensors(streams["tensors"], storages)
    return _Reader(streams["pickle"], tensors).load()


def _member(tar: tarfile.TarFile, name: str) -> BinaryIO:
    file = tar.extractfile(name)
    if file is None or tar.getmember(name).issparse():  # which unpacks to any size
        raise ValueError(f"{name} is no plain file in the archive")
    return io.BytesIO(file.read())


def _storages(file: BinaryIO) -> dict[Any, Tensor]:
    """Flat tensors by storage key."""
    storages: dict[Any, Tensor] = {}
    for _ in range(_Reader(file).load()):
        key, _, kind = _Reader(file).load()
        (length,) = struct.unpack("<q", _exactly(file, 8))
        data = _exactly(file, length * kind.dtype.itemsize)
        storages[key] = torch.frombuffer(bytearray(data) or bytearray(8), dtype=kind.dtype)[:length]
    for target, root, offset, length in _Reader(file).load():
        storages[target] = storages[root][offset : offset + length]
    return storages


def _tensors(file: BinaryIO, storages: dict[Any, Tensor]) -> dict[int, Tensor]:
    tensors: dict[int, Tensor] = {}
    for _ in range(_Reader(file).load()):
        key, storage, _ = _Reader(file).load()
        (rank,) = struct.unpack("<q", _exactly(file, 8))
        numbers = struct.unpack(f"<{2 * rank + 1}q", _exactly(file, 8 * (2 * rank + 1)))
        size, stride, offset = numbers[:rank], numbers[rank:-1], numbers[-1]
        base = storages[storage]
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min(size, default=1) > 0 and not 0 <= offset <= last < len(base):
            raise ValueError(f"tensor {key} reaches outside its storage")
        if math.prod(size) > len(base):  # by strides of 0
            raise ValueError(f"tensor {key} has more numbers than its storage")
        tensors[int(key)] = torch.as_strided(base, size, stride, offset).clone()
    return tensors


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count) if count >= 0 else b""
    if len(data) != count:
        raise EOFError(f"{count} bytes were expected, {len(data)} are there")
    return data


class _Kind:
    """A storage or tensor type of torch, by its dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Reader(pickle._Unpickler):  # the one in C takes memory by the numbers in a memo
    """Knows OrderedDict and the names of torch's storage and tensor types; nothing else."""

    def __init__(self, file: BinaryIO, tensors: dict[int, Tensor] | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self.tensors = tensors or {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        for suffix in ("Storage", "Tensor"):
            if module in ("torch", "torch.cuda") and name.removesuffix(suffix) in _DTYPES:
                return _Kind(_DTYPES[name.removesuffix(suffix)])
        raise pickle.UnpicklingError(f"unsupported global: {module}.{name}")

    def persistent_load(self, saved: Any) -> Tensor:
        return self.tensors[int(saved)]
