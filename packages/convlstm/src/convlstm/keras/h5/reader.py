"""Arrays out of HDF5 files that may come from strangers.

HDF5 lets a file point outside itself: external links, raw storage in other files, virtual datasets.
Read as they stand, they bring any file of the user into the weights. It also lets a small file ask
for any amount of memory. Both are refused here, before anything is read or allocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from .objects import Object, root

# Keras does not compress. A file that was compressed later shrinks its weights a few times, all
# zeros or all ones some hundred times.
MAX_RATIO = 256
# A model of more groups, or of deeper ones, is none that Keras wrote.
MAX_GROUPS = 100_000
MAX_DEPTH = 64
# A configuration larger than this is no configuration.
MAX_TEXT_BYTES = 64 << 20


def h5py() -> Any:
    """The module, which writes files. Raises RuntimeError with the cure where it is missing."""
    try:
        import h5py as module
    except ImportError:
        raise RuntimeError(
            "Keras files are written with h5py, which is not installed: pip install h5py (conda "
            "install h5py)"
        ) from None
    return module


@dataclass
class Tree:
    """A group: its weights in order (`vars/0`, `vars/1`, ...), its layer's name, its groups."""

    arrays: list[np.ndarray] = field(default_factory=list)
    name: str = ""
    children: dict[str, Tree] = field(default_factory=dict)

    def child(self, name: str) -> Tree:
        return self.children.get(name, Tree())


class Reader:
    """Reads one open file, and counts what was read. Raises ValueError for what is damaged."""

    def __init__(self, file: BinaryIO) -> None:
        self.root = root(file)
        self.size = self.root.source.size
        self.groups, self.bytes = 0, 0

    def members(self, group: Object) -> Iterator[tuple[str, Object]]:
        """(name, object) of a group, by name."""
        self.groups += 1
        if self.groups > MAX_GROUPS:
            raise ValueError(f"the file has more than {MAX_GROUPS} groups, or groups in a circle")
        for name in sorted(group.members):
            yield name, group.member(name)

    def item(self, group: Object, path: str) -> Object:
        """The object at a relative path. Raises KeyError where there is none."""
        for part in path.strip("/").split("/"):
            if part not in group.members:
                raise KeyError(f"there is no {path}")
            group = group.member(part)
        return group

    def array(self, dataset: Object) -> np.ndarray:
        """A dataset's numbers. Raises ValueError for what is not stored in this file."""
        name, values, storage = dataset.name, dataset.values, dataset.storage
        stored, wanted = storage.size, max(values.size, storage.memory)
        if stored > self.size or wanted > MAX_RATIO * stored:
            raise ValueError(
                f"{name} asks for {wanted:,} bytes of memory, but the file of {self.size:,} bytes "
                f"stores {stored:,} for it"
            )
        self.bytes += wanted
        if self.bytes > MAX_RATIO * self.size:
            raise ValueError("the file asks for far more memory than it has bytes")
        try:
            return dataset.array()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def tree(self, group: Object, depth: int = 0) -> Tree:
        """All weights below a group."""
        if depth > MAX_DEPTH:
            raise ValueError(f"groups lie more than {MAX_DEPTH} deep, or in a circle")
        out = Tree()
        for name, item in self.members(group):
            if not item.is_group:
                continue
            if name == "vars":
                out.arrays = self._variables(item)
                out.name = self.text(item, "name") or ""
            elif name != "optimizer":
                out.children[name] = self.tree(item, depth + 1)
        return out

    def _variables(self, group: Object) -> list[np.ndarray]:
        found = dict(self.members(group))
        if not all(name.isdecimal() and name.isascii() for name in found):
            raise ValueError(f"{group.name} must hold numbered arrays, it has {sorted(found)}")
        return [self.array(found[name]) for name in sorted(found, key=int)]

    def text(self, node: Object, attribute: str) -> str | None:
        """An attribute that is text; None where there is none."""
        values = self.texts(node, attribute)
        return values[0] if values else None

    def texts(self, node: Object, attribute: str) -> list[str]:
        """An attribute of several texts, which Keras splits into name0, name1, ... where it
        exceeds HDF5's 64 KiB."""
        most = min(MAX_TEXT_BYTES, MAX_RATIO * self.size)
        if attribute in node.attributes:
            return node.texts(attribute, most)
        parts: list[str] = []
        number = 0
        while f"{attribute}{number}" in node.attributes:
            parts += node.texts(f"{attribute}{number}", most)
            number += 1
        return parts
