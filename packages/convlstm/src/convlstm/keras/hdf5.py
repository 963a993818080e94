"""Arrays out of HDF5 files that may come from strangers.

HDF5 lets a file point outside itself: external links, raw storage in other files, virtual datasets.
Read as they stand, they bring any file of the user into the weights. It also lets a small file ask
for any amount of memory. Both are refused here, before anything is read or allocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Keras does not compress. A file that was compressed later shrinks its weights a few times, all
# zeros or all ones some hundred times.
MAX_RATIO = 256
# A model of more groups, or of deeper ones, is none that Keras wrote.
MAX_GROUPS = 100_000
MAX_DEPTH = 64
# A configuration larger than this is no configuration.
MAX_TEXT_BYTES = 64 << 20


def h5py() -> Any:
    """The module. Raises RuntimeError with the cure where it is missing."""
    try:
        import h5py as module
    except ImportError:
        raise RuntimeError(
            "Keras files need h5py, which is not installed: pip install h5py (conda install h5py)"
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
    """Reads one open file of `size` bytes, and counts what was read."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size = file, size
        self.groups, self.bytes = 0, 0

    def members(self, group: Any) -> Iterator[tuple[str, Any]]:
        """(name, object) of a group; links that leave the group's own place are refused."""
        module = h5py()
        self.groups += 1
        if self.groups > MAX_GROUPS:
            raise ValueError(f"the file has more than {MAX_GROUPS} groups, or groups in a circle")
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, module.HardLink):
                kind = type(link).__name__
                raise ValueError(
                    f"{group.name}/{name} is an {kind}: it points elsewhere, possibly into other "
                    "files, and is not followed"
                )
            yield name, group[name]

    def item(self, group: Any, path: str) -> Any:
        """The object at a relative path, every step of it a hard link."""
        module = h5py()
        for part in path.strip("/").split("/"):
            link = group.get(part, getlink=True) if isinstance(group, module.Group) else None
            if link is None:
                raise KeyError(f"there is no {path}")
            if not isinstance(link, module.HardLink):
                raise ValueError(f"{path} is an {type(link).__name__}, which is not followed")
            group = group[part]
        return group

    def array(self, dataset: Any) -> np.ndarray:
        """A dataset's numbers. Raises ValueError for what is not stored in this file."""
        module = h5py()
        name = getattr(dataset, "name", "?")
        if not isinstance(dataset, module.Dataset):
            raise ValueError(f"{name} must be an array, it is a {type(dataset).__name__}")
        if dataset.external is not None:
            raise ValueError(f"{name} is stored outside the file ({dataset.external[0][0]!r})")
        if dataset.is_virtual:
            raise ValueError(f"{name} is a virtual dataset, made of other files")
        kind = dataset.dtype
        if (kind.kind not in "fiub" and not _is_bfloat16(kind)) or kind.itemsize > 8:
            raise ValueError(f"{name} must hold numbers of at most 64 bits, it holds {kind}")
        if dataset.shape is None:
            raise ValueError(f"{name} is empty of shape and value")
        stored = dataset.id.get_storage_size()
        wanted = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
        if stored > self.size or wanted > MAX_RATIO * stored:
            raise ValueError(
                f"{name} asks for {wanted:,} bytes of memory, but the file of {self.size:,} bytes "
                f"stores {stored:,} for it"
            )
        self.bytes += wanted
        if self.bytes > MAX_RATIO * self.size:
            raise ValueError("the file asks for far more memory than it has bytes")
        return np.asarray(dataset).astype(kind.newbyteorder("="), copy=False)

    def tree(self, group: Any, depth: int = 0) -> Tree:
        """All weights below a group."""
        module = h5py()
        if depth > MAX_DEPTH:
            raise ValueError(f"groups lie more than {MAX_DEPTH} deep, or in a circle")
        out = Tree()
        for name, item in self.members(group):
            if not isinstance(item, module.Group):
                continue
            if name == "vars":
                out.arrays = self._variables(item)
                out.name = self.text(item, "name") or ""
            elif name != "optimizer":
                out.children[name] = self.tree(item, depth + 1)
        return out

    def _variables(self, group: Any) -> list[np.ndarray]:
        found = dict(self.members(group))
        if not all(name.isdigit() for name in found):
            raise ValueError(f"{group.name} must hold numbered arrays, it has {sorted(found)}")
        return [self.array(found[name]) for name in sorted(found, key=int)]

    def text(self, node: Any, attribute: str) -> str | None:
        """An attribute that is text; None where there is none."""
        values = self.texts(node, attribute)
        return values[0] if values else None

    def texts(self, node: Any, attribute: str) -> list[str]:
        """An attribute of several texts, which Keras splits into name0, name1, ... where it
        exceeds HDF5's 64 KiB."""
        if attribute in node.attrs:
            return self._texts(node, attribute)
        parts: list[str] = []
        number = 0
        while f"{attribute}{number}" in node.attrs:
            parts += self._texts(node, f"{attribute}{number}")
            number += 1
        return parts

    def _texts(self, node: Any, attribute: str) -> list[str]:
        shape, dtype = node.attrs.get_id(attribute).shape, node.attrs.get_id(attribute).dtype
        wanted = int(np.prod(shape, dtype=object)) * max(1, dtype.itemsize)
        if wanted > min(MAX_TEXT_BYTES, MAX_RATIO * self.size):
            raise ValueError(f"the attribute {attribute} asks for {wanted:,} bytes")
        if wanted == 0:
            return []
        value = node.attrs[attribute]
        values = list(value.ravel()) if isinstance(value, np.ndarray) else [value]
        if not all(isinstance(v, bytes | str | np.bytes_ | np.str_) for v in values):
            raise ValueError(f"the attribute {attribute} must be text")
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _is_bfloat16(dtype: np.dtype) -> bool:
    return dtype.name == "bfloat16"
