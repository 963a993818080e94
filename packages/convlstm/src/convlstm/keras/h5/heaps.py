"""Links and attributes of HDF5 files that are kept in fractal heaps: where a group has more than
eight and the file was written for HDF5 1.8 or newer.

HDF5 File Format Specification 3.0: version 2 B-trees (III.A.2), fractal heaps (III.G).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .source import Fields, Source
from .trees import bytes_of, records

# What a B-tree's records are (III.A.2): where in one the reference into the heap begins.
LINK_NAMES, ATTRIBUTE_NAMES = 5, 8
_REFERENCE_AT = {LINK_NAMES: 4, ATTRIBUTE_NAMES: 0}


def in_heap(source: Source, heap: int, tree: int, kind: int) -> Iterator[Fields]:
    """The objects of a heap to which a B-tree of this kind refers."""
    opened = Heap.open(source, heap)
    for record in records(source, tree, kind):
        at = _REFERENCE_AT[kind]
        yield opened.object(record[at : at + opened.reference])


@dataclass(frozen=True)
class Heap:
    """reference: bytes of a reference to an object. wide: bytes of an offset in the heap."""

    source: Source
    reference: int
    wide: int
    length: int
    width: int
    start: int
    most: int
    root: int
    rows: int

    @classmethod
    def open(cls, source: Source, address: int) -> Heap:
        head = source.signed(address, 142, b"FRHP")
        version, reference, filters = head.number(1), head.number(2), head.number(2)
        head.take(1)
        managed = head.number(4)
        head.take(12 * 8)
        width, start, most = head.number(2), head.number(8), head.number(8)
        bits, _ = head.numbers(2, 2)
        root, rows = head.number(8), head.number(2)
        powers = all(n and not n & (n - 1) for n in (width, start, most))
        if version or filters or not powers or most < start or not 0 < bits <= 64 or rows > 64:
            raise ValueError("a heap is of a kind that is not read")
        length = min(bytes_of(most), bytes_of(managed))
        return cls(source, reference, -(-bits // 8), length, width, start, most, root, rows)

    def object(self, reference: bytes) -> Fields:
        fields = Fields(reference)
        kind = fields.number(1)
        if kind >> 4 == 2:  # in the reference itself
            return Fields(fields.take((kind & 15) + 1))
        if kind >> 4:
            raise ValueError("an object of a heap is larger than its blocks, which is not read")
        at, length = fields.number(self.wide), fields.number(self.length)
        block, inside = self._block(at)
        return Fields(self.source.read(block + inside, length))

    def _block(self, at: int) -> tuple[int, int]:
        """(address of the block that holds a byte of the heap, the byte's place in it)."""
        address, rows = self.root, self.rows
        while rows:
            row, column, at = self._place(at, rows)
            size = self._size(row)
            number = row * self.width + column
            # its letters, version, the heap's address and the block's offset stand before
            entry = self.source.signed(address, 4, b"FHIB") and address + 13 + self.wide
            address = int.from_bytes(self.source.read(entry + 8 * number, 8), "little")
            inner = size // (self.start * self.width)
            rows = inner.bit_length() if size > self.most else 0
        self.source.signed(address, 4, b"FHDB")
        return address, at

    def _size(self, row: int) -> int:
        return self.start << max(0, row - 1)

    def _place(self, at: int, rows: int) -> tuple[int, int, int]:
        """(row, column, place in the block) of a byte of a block of blocks."""
        for row in range(rows):
            size = self._size(row)
            if at < size * self.width:
                return row, at // size, at % size
            at -= size * self.width
        raise ValueError("an object lies outside of its heap")
