"""The data of an HDF5 dataset: in its header, in one piece, or in filtered chunks (IV.A.2.i)."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .source import CURE, NOWHERE, Fields, Source
from .trees import leaves
from .values import MAX_RANK, Values

DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3

# Data (IV.A.2.i, l)


@dataclass(frozen=True)
class Storage:
    """Where a dataset's data are. size: bytes in the file. memory: those that reading takes."""

    source: Source
    size: int
    memory: int
    at: int = NOWHERE
    own: bytes | None = None
    chunked: Chunked | None = None

    def data(self) -> bytes:
        if self.own is not None:
            return self.own
        if self.chunked is not None:
            return self.chunked.data()
        return self.source.read(self.at, self.memory) if self.memory else b""


def storage_of(
    layout: Fields, filters: Fields | None, source: Source, values: Values, name: str
) -> Storage:
    version, kind = layout.numbers(2, 1)
    if version not in (3, 4) or kind > 3 or (kind == 2 and version == 4):
        raise ValueError(f"the layout of {name} is not read (version {version}); {CURE}")
    if kind == 3:
        raise ValueError(f"{name} is a virtual dataset, made of other files")
    if kind == 0:
        own = layout.take(layout.number(2))
        return Storage(source, len(own), values.size, own=own)
    if kind == 1:
        at, size = layout.numbers(2, 8)
        size = 0 if at == NOWHERE else size
        return Storage(source, min(size, max(0, source.size - at)), values.size, at)
    rank = layout.number(1) - 1
    tree = layout.number(8)
    *lengths, item = layout.numbers(rank + 1, 4) if 0 <= rank <= MAX_RANK else [0]
    if rank != len(values.shape) or item != values.type.size or 0 in lengths:
        raise ValueError(f"the chunks of {name} do not fit its shape")
    chunked = Chunked(source, values, tuple(lengths), tree, _filters(filters), name)
    memory = values.size + math.prod(lengths) * item
    return Storage(source, chunked.size, memory, chunked=chunked)


def _filters(fields: Fields | None) -> list[int]:
    if fields is None:
        return []
    version, count = fields.numbers(2, 1)
    fields.take(6 if version == 1 else 0)
    out = []
    for _ in range(count):
        kind = fields.number(2)
        length = fields.number(2) if version == 1 or kind >= 256 else 0
        _, values = fields.numbers(2, 2)
        fields.take(-(-length // 8) * 8 if version == 1 else length)
        fields.take(4 * values + (4 if version == 1 and values % 2 else 0))
        out.append(kind)
    unknown = set(out) - {DEFLATE, SHUFFLE, FLETCHER32}
    if unknown:
        raise ValueError(f"it is compressed by filter {min(unknown)}, which is not read; {CURE}")
    return out


@dataclass(frozen=True)
class Chunked:
    """Data in chunks of equal shape, found by a B-tree, each behind the same filters."""

    source: Source
    values: Values
    lengths: tuple[int, ...]
    tree: int
    filters: list[int]
    name: str

    @cached_property
    def chunks(self) -> list[tuple[tuple[int, ...], int, int, int]]:
        """(first position, bytes, mask of filters left out, address) of each."""
        if self.tree == NOWHERE:
            return []
        rank = len(self.lengths)
        out = []
        for key, at in leaves(self.source, self.tree, 1, 8 + 8 * (rank + 1)):
            fields = Fields(key)
            size, mask = fields.numbers(2, 4)
            out.append((tuple(fields.numbers(rank, 8)), size, mask, at))
        return out

    @property
    def size(self) -> int:
        return sum(size for _, size, _, _ in self.chunks)

    def data(self) -> bytes:
        shape, lengths = self.values.shape, self.lengths
        grid = [range(0, n, k) for n, k in zip(shape, lengths, strict=True)]
        places = {place for place, *_ in self.chunks}
        inside = all(p in g for place in places for p, g in zip(place, grid, strict=True))
        if (
            not inside
            or len(places) != math.prod(map(len, grid))
            or len(places) != len(self.chunks)
        ):
            raise ValueError(f"chunks of {self.name} are missing, or lie outside of its shape")
        item = self.values.type.size
        out = np.zeros((*shape, item), np.uint8)
        for place, size, mask, at in self.chunks:
            whole = np.frombuffer(self._unfiltered(self.source.read(at, size), mask), np.uint8)
            whole = whole.reshape(*lengths, item)
            spans = [slice(p, min(p + k, n)) for p, k, n in zip(place, lengths, shape, strict=True)]
            out[tuple(spans)] = whole[tuple(slice(0, s.stop - s.start) for s in spans)]
        return out.tobytes()

    def _unfiltered(self, data: bytes, mask: int) -> bytes:
        item = self.values.type.size
        wanted = math.prod(self.lengths) * item
        for k in reversed(range(len(self.filters))):
            kind = self.filters[k]
            if mask >> k & 1:
                continue
            if kind == FLETCHER32:
                data = data[:-4]
            elif kind == SHUFFLE:
                data = np.frombuffer(data, np.uint8).reshape(item, -1).T.tobytes()
            else:
                data = _inflated(data, wanted + 4)
        if len(data) != wanted:
            raise ValueError(
                f"a chunk of {self.name} must have {wanted:,} bytes, got {len(data):,}"
            )
        return data


def _inflated(data: bytes, most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error as error:
        raise ValueError(f"a chunk is damaged: {error}") from None
