"""Types and values of HDF5 files: numbers, and texts in place or in a global heap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .source import CURE, Fields, Source

MAX_RANK = 32

# Types, shapes and attributes (IV.A.2.b, d, m)


@dataclass(frozen=True)
class Type:
    """numbers: their numpy type; "bfloat16" has none there. text: strings, in place or, of size 16,
    as references to a heap."""

    size: int
    numbers: np.dtype | None = None
    is_bfloat16: bool = False
    text: str = ""  # "fixed", "variable"
    label: str = ""


def type_of(fields: Fields) -> Type:
    first, bits, size = fields.number(1), fields.number(3), fields.number(4)
    kind = first & 15
    order = ">" if bits & 1 else "<"
    if kind == 0 and size in (1, 2, 4, 8):
        if fields.numbers(2, 2) == [0, 8 * size]:
            return Type(size, np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"))
    elif kind == 1 and not bits & 0x40:
        offset, precision, *parts = fields.numbers(2, 2) + fields.numbers(4, 1)
        shape = (size, offset, precision, *parts, fields.number(4))
        known = {
            (2, 0, 16, 10, 5, 0, 10, 15): "f2",
            (4, 0, 32, 23, 8, 0, 23, 127): "f4",
            (8, 0, 64, 52, 11, 0, 52, 1023): "f8",
        }
        if shape in known:
            return Type(size, np.dtype(order + known[shape]))
        if shape == (2, 0, 16, 7, 8, 0, 7, 127):
            return Type(size, np.dtype(order + "u2"), is_bfloat16=True)
    elif kind == 3:
        return Type(size, text="fixed", label="text")
    elif kind == 8:  # how h5py writes truth values
        inner = type_of(fields)
        if inner.size == size == 1 and inner.numbers is not None:
            return Type(1, np.dtype(bool))
    elif kind == 9 and bits & 15 == 1 and size == 16:
        return Type(size, text="variable", label="text")
    kinds = "integers floats times text bits opaque compounds references enums sequences arrays"
    name = (kinds.split() + ["?"] * 5)[kind]
    return Type(size, label=f"{name} of {size} bytes")


def shape_of(fields: Fields) -> tuple[int, ...]:
    version, rank, _ = fields.numbers(3, 1)
    null = fields.number(1) == 2 if version == 2 else bool(fields.take(5)) and False
    if version not in (1, 2) or rank > MAX_RANK or null:
        raise ValueError("an array is empty of shape and value, or of too many axes")
    return tuple(fields.numbers(rank, 8))


@dataclass(frozen=True)
class Values:
    """What an attribute or a dataset holds; data: of an attribute, its bytes."""

    type: Type
    shape: tuple[int, ...]
    data: bytes

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.count * self.type.size

    def numbers(self, data: bytes) -> np.ndarray:
        """The numbers of these bytes; bfloat16 as float32, which holds them exactly."""
        kind = self.type.numbers
        if kind is None:
            raise ValueError(f"it must hold numbers of at most 64 bits, it holds {self.type.label}")
        if not self.count:
            return np.empty(self.shape, kind.newbyteorder("="))
        array = np.frombuffer(data, kind, self.count).reshape(self.shape)
        if self.type.is_bfloat16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(kind.newbyteorder("="))


def attribute_of(fields: Fields) -> tuple[str, Values]:
    version, flags = fields.numbers(2, 1)
    lengths = fields.numbers(3, 2)
    if version not in (1, 2, 3) or (version > 1 and flags & 3):
        raise ValueError(f"an attribute is of a kind that is not read; {CURE}")
    fields.take(1 if version == 3 else 0)
    padded = [-(-n // 8) * 8 if version == 1 else n for n in lengths]
    name, kind, space = (fields.take(n) for n in padded)
    values = Values(type_of(Fields(kind)), shape_of(Fields(space)), b"")
    if values.size > fields.left:
        raise ValueError("an attribute is shorter than its values")
    return name.split(b"\0")[0].decode(), Values(
        values.type, values.shape, fields.take(values.size)
    )


def texts_of(values: Values, source: Source, heaps: dict, most: int) -> list[str]:
    kind = values.type
    if not values.count:
        return []
    if not kind.text or not kind.size:
        raise ValueError(f"an attribute must be text, it holds {kind.label or kind.numbers}")
    fields = Fields(values.data)
    out: list[str] = []
    for _ in range(values.count):
        data = fields.take(kind.size)
        if kind.text == "variable":
            reference = Fields(data)
            length, address, number = (reference.number(n) for n in (4, 8, 4))
            data = _from_heap(source, heaps, address, number)[:length] if length else b""
        most -= len(data)
        if most < 0:
            raise ValueError("an attribute has far more text than the file has bytes")
        out.append(data.rstrip(b"\0").decode())
    return out


def _from_heap(source: Source, heaps: dict, address: int, number: int) -> bytes:
    """An object of a global heap (III.E)."""
    if address not in heaps:
        head = source.signed(address, 16, b"GCOL")
        head.take(4)
        size = head.number(8)
        fields = Fields(source.read(address + 16, size - 16))
        found: dict[int, bytes] = {}
        while fields.left >= 16:
            own = fields.number(2)
            fields.take(6)
            length = fields.number(8)
            if not own:  # free from here on
                break
            found[own] = fields.take(length)
            fields.take(min(-length % 8, fields.left))
        heaps[address] = found
    if number not in heaps[address]:
        raise ValueError("a text lies in a heap that does not have it")
    return heaps[address][number]
