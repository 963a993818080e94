"""B-trees of HDF5 files: version 1, for groups and chunks, and version 2, for heaps (III.A)."""

from __future__ import annotations

from collections.abc import Iterator

from .source import Fields, Source


def leaves(source: Source, address: int, kind: int, key: int) -> Iterator[tuple[bytes, int]]:
    """(key, child) of a version 1 B-tree's lowest nodes, each node visited once."""
    waiting: list[tuple[int, int | None]] = [(address, None)]
    seen = set()
    while waiting:
        at, level = waiting.pop()
        if at in seen:
            raise ValueError("a B-tree goes in a circle")
        seen.add(at)
        head = source.signed(at, 24, b"TREE")
        found, own, count = head.number(1), head.number(1), head.number(2)
        if found != kind or (level is not None and own != level - 1):
            raise ValueError("a B-tree's node is of another kind")
        fields = Fields(source.read(at + 24, count * (key + 8)))
        children = [(fields.take(key), fields.number(8)) for _ in range(count)]
        if own:
            waiting += [(child, own) for _, child in reversed(children)]
        else:
            yield from children


def records(source: Source, address: int, kind: int) -> Iterator[bytes]:
    head = source.signed(address, 38, b"BTHD")
    if head.numbers(2, 1) != [0, kind]:
        raise ValueError("a B-tree's records are of another kind")
    node, record, depth = head.number(4), head.number(2), head.number(2)
    head.take(2)
    root, count = head.number(8), head.number(2)
    if depth > 8 or not 0 < record <= 64 or node < 64:
        raise ValueError("a B-tree's sizes are out of bounds")
    # By depth: how many records a node has at most, and the bytes that count all below a child.
    most, below = [(node - 10) // record], [0]
    total = most[0]
    for level in range(1, depth + 1):
        pointer = 8 + bytes_of(most[-1]) + (below[-1] if level > 1 else 0)
        most.append((node - 10 - pointer) // (record + pointer))
        total = most[-1] + (most[-1] + 1) * total
        below.append(bytes_of(total))
    yield from _node(source, root, count, depth, record, most, below, kind)


def _node(source, address, count, depth, record, most, below, kind) -> Iterator[bytes]:
    if not count:
        return
    wide = bytes_of(most[depth - 1]) if depth else 0
    more = below[depth - 1] if depth > 1 else 0
    size = 6 + count * record + ((count + 1) * (8 + wide + more) if depth else 0)
    fields = source.signed(address, size, b"BTIN" if depth else b"BTLF")
    if fields.numbers(2, 1) != [0, kind]:
        raise ValueError("a B-tree's node is of another kind")
    yield from [fields.take(record) for _ in range(count)]
    for _ in range(count + 1 if depth else 0):
        child, own = fields.number(8), fields.number(wide)
        fields.take(more)
        yield from _node(source, child, own, depth - 1, record, most, below, kind)


def bytes_of(most: int) -> int:
    """That a number up to `most` takes."""
    return max(1, -(-max(most, 1).bit_length() // 8))
