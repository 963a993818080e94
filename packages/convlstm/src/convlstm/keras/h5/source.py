"""The bytes of an HDF5 file, each reading of them checked."""

from __future__ import annotations

from typing import BinaryIO

# How often a file's bytes may be read on average; a sound file's are read once or twice.
MOST_READS = 16
NOWHERE = 2**64 - 1  # the undefined address
CURE = "save the model again with Keras"


class Source:
    """The bytes of a file. Reading outside of them is a ValueError, and so is reading them again
    and again: whatever leads to whatever, time and memory follow from the file's size."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, 2)
        self.left = (1 << 20) + MOST_READS * self.size

    def read(self, at: int, count: int) -> bytes:
        if at < 0 or count < 0 or at + count > self.size:
            raise ValueError(f"the file of {self.size:,} bytes ends before byte {at + count:,}")
        self.left -= count
        if self.left < 0:
            raise ValueError("its parts lead to each other again and again, or in a circle")
        self.file.seek(at)
        data = self.file.read(count)
        if len(data) != count:
            raise ValueError("the file became shorter while it was read")
        return data

    def signed(self, at: int, count: int, signature: bytes) -> Fields:
        """The fields behind a structure's four letters."""
        fields = Fields(self.read(at, count))
        if fields.take(4) != signature:
            raise ValueError(f"there is no {signature.decode()} at byte {at:,}")
        return fields


class Fields:
    """Bytes taken one field after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError("a structure is shorter than its fields")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def numbers(self, many: int, count: int) -> list[int]:
        return [self.number(count) for _ in range(many)]

    @property
    def left(self) -> int:
        return len(self.data) - self.at
