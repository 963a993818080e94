"""Tensors in safetensors files, read and written a piece at a time.

A file is the length of its table of contents (8 bytes, little-endian), the table as JSON, and the
values (https://github.com/huggingface/safetensors, "Format"). A rank that needs some rows or
columns of a tensor reads these alone, at most `most` bytes at once.
"""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import torch

READ_BYTES = 64 << 20
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
           "BF16": torch.bfloat16}  # fmt: skip
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MOST_CONTENTS = 100 << 20  # bytes of a table of contents, as the format demands


class TensorFiles:
    """The tensors of all `*.safetensors` of a folder, by name.

    Attributes: `shapes` and `dtypes` by name; `most`: bytes of one read at most, unless one row is
    longer; `largest_read` and `bytes_read`: what was read so far. Raises ValueError for a folder
    without such files, a damaged table of contents or values that cannot be weights.
    """

    def __init__(self, folder: str | os.PathLike[str], most: int = READ_BYTES) -> None:
        self.most, self.largest_read, self.bytes_read = most, 0, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        files = sorted(Path(folder).glob("*.safetensors"))
        if not files:
            raise ValueError(
                f"TensorFiles: {folder} has no *.safetensors; save the model with "
                "save_pretrained(..., safe_serialization=True)"
            )
        for file in files:
            self._add(file)

    def _add(self, file: Path) -> None:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= _MOST_CONTENTS:
                raise ValueError(f"TensorFiles: {file} is no safetensors file, or is damaged")
            try:
                contents = dict(json.loads(stream.read(length)))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(f"TensorFiles: {file} is damaged: {error}") from error
        room = file.stat().st_size - 8 - length
        for name, entry in contents.items():
            if name == "__metadata__":
                continue
            try:
                begin, end = map(operator.index, entry["data_offsets"])
                shape, code = tuple(map(operator.index, entry["shape"])), str(entry["dtype"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"TensorFiles: {file} is damaged at {name!r}: {error!r}"
                ) from error
            dtype = _DTYPES.get(code)
            if dtype is None:
                if name.endswith((".bias", ".masked_bias")):
                    continue  # GPT-2's masks
                raise ValueError(
                    f"TensorFiles: {name!r} of {file} is {code}; weights of "
                    f"{', '.join(_DTYPES)} are read, no quantised ones"
                )
            size = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or end - begin != size or not 0 <= begin <= end <= room:
                raise ValueError(f"TensorFiles: {file} is damaged: {name!r} does not fit into it")
            self.shapes[name], self.dtypes[name] = shape, dtype
            self._places[name] = file, 8 + length + begin

    def read(
        self, name: str, rows: tuple[int, int], columns: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Rows [begin, end) of a tensor and, of a matrix, columns [begin, end); a new tensor."""
        shape, dtype = self.shapes[name], self.dtypes[name]
        width = torch.Size(shape[1:]).numel()
        low, high = columns or (0, width)
        out = torch.empty((rows[1] - rows[0], high - low), dtype=dtype)
        file, start = self._places[name]
        row_bytes = width * dtype.itemsize
        step = max(1, self.most // max(1, row_bytes))
        with open(file, "rb", buffering=0) as stream:
            for begin in range(rows[0], rows[1], step):
                count = min(step, rows[1] - begin)
                stream.seek(start + begin * row_bytes)
                piece = self._values(stream, count * row_bytes, dtype).view(count, width)
                out[begin - rows[0] :][:count] = piece[:, low:high]
        return out if len(shape) > 1 else out.flatten()

    def _values(self, stream: BinaryIO, size: int, dtype: torch.dtype) -> torch.Tensor:
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        while done < size:
            count = stream.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise ValueError(f"TensorFiles: {stream.name} ends too early")
            done += count
        self.largest_read = max(self.largest_read, size)
        self.bytes_read += size
        return torch.frombuffer(buffer, dtype=dtype)


def write_file(
    path: Path,
    tensors: Iterable[tuple[str, tuple[int, ...]]],
    dtype: torch.dtype,
    produce: Callable[[str], torch.Tensor],
) -> None:
    """Writes one safetensors file; `produce(name)` gives each tensor when it is its turn."""
    contents: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end, tensors = 0, list(tensors)
    for name, shape in tensors:
        size = torch.Size(shape).numel() * dtype.itemsize
        contents[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(contents, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # values begin aligned
    with open(path, "wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for name, shape in tensors:
            value = produce(name)
            assert tuple(value.shape) == tuple(shape)
            assert value.dtype == dtype
            stream.write(value.contiguous().view(-1).view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())
