"""Objects of an HDF5 file, groups and datasets: their headers, links and attributes.

HDF5 File Format Specification 3.0 (The HDF Group); its section numbers stand below.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

import numpy as np

from .data import Storage, storage_of
from .heaps import ATTRIBUTE_NAMES, LINK_NAMES, in_heap
from .source import CURE, NOWHERE, Fields, Source
from .trees import leaves
from .values import Values, attribute_of, shape_of, texts_of, type_of

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as HDF5 does, whatever its name."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


# Kinds of messages in an object's header (IV.A.2).
SPACE, LINKS, TYPE, LINK, OUTSIDE, LAYOUT, FILTERS, ATTRIBUTE, MORE, TABLE, ATTRIBUTES = (
    0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x0B, 0x0C, 0x10, 0x11, 0x15,
)  # fmt: skip


@dataclass(frozen=True)
class Message:
    kind: int
    flags: int
    body: bytes

    def fields(self) -> Fields:
        if self.flags & 2:
            raise ValueError(f"a message is shared between objects, which is not read; {CURE}")
        return Fields(self.body)


@dataclass
class Object:
    """A group or a dataset, by the messages of its header."""

    source: Source
    address: int
    name: str
    heaps: dict[int, dict[int, bytes]] = field(repr=False)

    @cached_property
    def messages(self) -> list[Message]:
        return list(_messages(self.source, self.address))

    def message(self, kind: int) -> Fields | None:
        found = [m for m in self.messages if m.kind == kind]
        if len(found) > 1:
            raise ValueError(f"{self.name} has {len(found)} messages of kind {kind}")
        return found[0].fields() if found else None

    # Groups

    @property
    def is_group(self) -> bool:
        return any(m.kind in (TABLE, LINKS, LINK) for m in self.messages)

    @cached_property
    def members(self) -> dict[str, int]:
        """Addresses of the objects in a group. Raises ValueError for a link that points anywhere
        but into the file itself, at an object."""
        out: dict[str, int] = {}
        for name, address in self._links():
            if name in out:
                raise ValueError(f"{self.name} has two links named {name!r}")
            out[name] = address
        return out

    def _links(self) -> Iterator[tuple[str, int]]:
        table = self.message(TABLE)
        if table is not None:
            yield from _symbols(self.source, *table.numbers(2, 8))
        links = self.message(LINKS)
        if links is not None:
            _, flags = links.numbers(2, 1)
            links.take(8 if flags & 1 else 0)
            heap, names = links.numbers(2, 8)
            if heap != NOWHERE:
                yield from map(_link, in_heap(self.source, heap, names, LINK_NAMES))
        for m in self.messages:
            if m.kind == LINK:
                yield _link(m.fields())

    def member(self, name: str) -> Object:
        """Raises KeyError where there is none of this name."""
        return Object(self.source, self.members[name], f"{self.name}/{name}", self.heaps)

    # Attributes

    @cached_property
    def attributes(self) -> dict[str, Values]:
        found = [m.fields() for m in self.messages if m.kind == ATTRIBUTE]
        about = self.message(ATTRIBUTES)
        if about is not None:
            _, flags = about.numbers(2, 1)
            about.take(2 if flags & 1 else 0)
            heap, names = about.numbers(2, 8)
            if heap != NOWHERE:
                found += in_heap(self.source, heap, names, ATTRIBUTE_NAMES)
        return dict(map(attribute_of, found))

    def texts(self, attribute: str, most: int) -> list[str]:
        """The strings of an attribute. Raises ValueError where they have more than `most` bytes."""
        return texts_of(self.attributes[attribute], self.source, self.heaps, most)

    # Datasets

    @cached_property
    def values(self) -> Values:
        """What a dataset holds, without its data. Raises ValueError for a group."""
        kind, space = self.message(TYPE), self.message(SPACE)
        if kind is None or space is None:
            raise ValueError(f"{self.name} must be an array, it is a group")
        return Values(type_of(kind), shape_of(space), b"")

    @cached_property
    def storage(self) -> Storage:
        """Where a dataset's data lie. Raises ValueError for data outside of the file."""
        if self.message(OUTSIDE) is not None:
            raise ValueError(f"{self.name} is stored outside the file")
        layout = self.message(LAYOUT)
        if layout is None:
            raise ValueError(f"{self.name} has no layout")
        return storage_of(layout, self.message(FILTERS), self.source, self.values, self.name)

    def array(self) -> np.ndarray:
        """A dataset's numbers. The caller holds `storage.memory` against `storage.size` first."""
        return self.values.numbers(self.storage.data())


def root(file: BinaryIO) -> Object:
    """The root group of an HDF5 file (II.A). Raises ValueError for what is none."""
    source = Source(file)
    fields = Fields(source.read(0, min(source.size, 128)))
    if fields.take(8) != SIGNATURE:
        raise ValueError("it does not begin as an HDF5 file")
    version = fields.number(1)
    if version > 3:
        raise ValueError(f"its superblock has version {version}; 0 to 3 are read")
    if version < 2:
        fields.take(4)
    if fields.numbers(2, 1) != [8, 8]:
        raise ValueError("its offsets and lengths must have 8 bytes")
    fields.take({0: 9, 1: 13}.get(version, 1))
    base, *_ = fields.numbers(3 if version > 1 else 4, 8)
    if base:
        raise ValueError("it has a block of a user before its own, which is not read")
    if version < 2:
        fields.take(8)
    return Object(source, fields.number(8), "", {})


# Headers (IV.A.1)


def _messages(source: Source, address: int) -> Iterator[Message]:
    second = source.read(address, 4) == b"OHDR"
    if second:
        fields = source.signed(address, 6, b"OHDR")
        version, flags = fields.numbers(2, 1)
        skip = (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        wide = 1 << (flags & 3)
        start = address + 6 + skip
        size = Fields(source.read(start, wide)).number(wide)
        blocks = [(start + wide, size)]
    else:
        fields = Fields(source.read(address, 16))
        version, flags = fields.number(1), 0
        fields.take(7)
        blocks = [(address + 16, fields.number(4))]
    if version != 1 + second:
        raise ValueError(f"an object's header has version {version}")
    seen = set()
    while blocks:
        at, size = blocks.pop()
        if at in seen:
            raise ValueError("an object's header goes in a circle")
        seen.add(at)
        for m in _block(source.read(at, size), second, bool(flags & 4)):
            if m.kind == MORE:
                where, size = m.fields().numbers(2, 8)
                if second:  # behind its letters, before its checksum
                    source.signed(where, 4, b"OCHK")
                    where, size = where + 4, size - 8
                blocks.append((where, size))
            else:
                yield m


def _block(data: bytes, second: bool, ordered: bool) -> Iterator[Message]:
    fields = Fields(data)
    head = (6 if ordered else 4) if second else 8
    while fields.left >= head:
        kind = fields.number(1 if second else 2)
        size, flags = fields.number(2), fields.number(1)
        fields.take(head - 4 if second else 3)
        yield Message(kind, flags, fields.take(size))


# Links (III.A.1, III.B, III.D, IV.A.2.g)


def _symbols(source: Source, tree: int, heap: int) -> Iterator[tuple[str, int]]:
    """The links of a group of the old kind: names in a heap, found by a B-tree."""
    about = source.signed(heap, 32, b"HEAP")
    about.take(4)
    size, _, where = about.numbers(3, 8)
    names = source.read(where, size)
    for _, node in leaves(source, tree, 0, 8):
        count = source.signed(node, 8, b"SNOD")
        count.take(2)
        entries = Fields(source.read(node + 8, 40 * count.number(2)))
        while entries.left:
            at, address = entries.numbers(2, 8)
            cached = entries.number(4)
            entries.take(20)
            end = names.find(b"\0", at)
            if end < 0:
                raise ValueError("a link's name does not end")
            name = names[at:end].decode()
            if cached == 2:
                raise ValueError(f"{name} is a SoftLink: it points elsewhere, and is not followed")
            yield name, address


def _link(fields: Fields) -> tuple[str, int]:
    version, flags = fields.numbers(2, 1)
    kind = fields.number(1) if flags & 8 else 0
    fields.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
    name = fields.take(fields.number(1 << (flags & 3))).decode()
    if version != 1 or kind:
        kinds = {1: "a SoftLink", 64: "an ExternalLink"}
        raise ValueError(
            f"{name} is {kinds.get(kind, f'a link of kind {kind}')}: it points elsewhere, possibly "
            "into other files, and is not followed"
        )
    return name, fields.number(8)
