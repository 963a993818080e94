"""The file format .ncl: built assets on disk, checked when read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nanite_cull import _C
from nanite_cull._core import open_meshoptimizer
from nanite_cull._files import existing, reading
from nanite_cull._numbers import whole
from nanite_cull.asset import Asset
from nanite_cull.materials import Material, unpack

PART_DTYPE = np.dtype(
    [(name, "u4") for name in ("group", "cluster_begin", "cluster_count", "page", "slot")]
)


def save(asset: Asset, path: str | Path, *, threads: int = 0) -> Path:
    """Stores an asset as an .ncl file: `asset.save`."""
    return asset.save(path, threads=threads)


def read(path: str | Path, *, threads: int = 0) -> Asset:
    """Reads an .ncl file; all but `leaf_source` is what was written, bit for bit.

    Raises ValueError with the reason for a file that is truncated, damaged or of another version,
    FileNotFoundError when there is none, IsADirectoryError for a folder, TypeError for no path.
    """
    open_meshoptimizer()
    path, count = existing(path, "load"), whole(threads, "load", "threads", 0)
    with reading(path, "read_ncl"):
        core, materials = _C.read_ncl(str(path), count)
        return Asset(core, unpack(materials))


@dataclass(frozen=True, eq=False)
class Part:
    """Some clusters of one group, as a page holds them: complete in themselves.

    group, cluster_begin, cluster_count: as in the asset. Vertices and triangles lie cluster after
    cluster, counts as in `clusters`: positions (n, 3) float32 from the origin; normals (n, 3), uvs
    (n, 2), colors (n, 4) float32 and materials (n,) uint32 or empty; triangles (t, 3) uint8.
    """

    group: int
    cluster_begin: int
    cluster_count: int
    positions: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray
    colors: np.ndarray
    materials: np.ndarray
    triangles: np.ndarray


class File:
    """An .ncl file of version 3 or 4, opened: its header is read and checked, pages when asked for.

    `clusters`, `groups`, `nodes`, `origin` are those of the asset (see `Asset`), so a mesh can be
    culled, and what it needs be asked for, before a triangle is read. The file stays open: renaming
    another over it changes nothing here; what is cut off or written into it is a ValueError of the
    page that it hits. May be used by many threads.
    """

    def __init__(self, path: str | Path, *, threads: int = 0) -> None:
        count = whole(threads, "ncl.open", "threads", 0)
        self._path = existing(path, "ncl.open")
        with reading(self._path, "read_ncl"):
            self._core = _C.NclFile(str(self._path), True, count)

    @cached_property
    def _graph(self) -> Asset:
        return Asset(self._core.graph())

    @property
    def clusters(self) -> np.ndarray:
        """One record for each cluster: `Asset.clusters`."""
        return self._graph.clusters

    @property
    def groups(self) -> np.ndarray:
        """One record for each group: `Asset.groups`."""
        return self._graph.groups

    @property
    def nodes(self) -> np.ndarray:
        """The hierarchy: `Asset.nodes`."""
        return self._graph.nodes

    @property
    def origin(self) -> np.ndarray:
        """(3,) float64: where positions count from."""
        return self._graph.origin

    @cached_property
    def parts(self) -> np.ndarray:
        """One record for each part (see PART_DTYPE): a group, or what of it fits its page. The last
        cluster comes first, so coarse levels lie in the first pages."""
        return np.ascontiguousarray(self._core.parts()).view(PART_DTYPE)[:, 0]

    @property
    def page_bytes(self) -> np.ndarray:
        """(pages,) uint32: bytes of each page, at most 131,072."""
        return self._core.page_sizes()

    def dependencies(self, group: int) -> np.ndarray:
        """Numbers of the groups that draw in the place of `group` while it is not there."""
        return np.array(self._core.dependencies(group), np.uint32)

    def page(self, page: int) -> list[Part]:
        """Reads, checks and decodes one page. Raises ValueError where it is damaged."""
        with reading(self._path, "read_ncl"):
            held = self._core.page(page)
        records = self.parts[self.parts["page"] == page]
        clusters, first = self.clusters, int(records["cluster_begin"].min())

        def part(record: np.void) -> Part:
            begin, count = int(record["cluster_begin"]), int(record["cluster_count"])
            last = clusters[begin + count - 1]

            def rows(what: str) -> slice:  # of the page
                base, name = int(clusters[first][what + "_begin"]), what + "_begin"
                end = int(last[name]) + int(last[what + "_count"])
                return slice(int(clusters[begin][name]) - base, end - base)

            vertices, triangles = rows("vertex"), rows("triangle")
            return Part(
                int(record["group"]), begin, count, held.positions[vertices],
                held.normals[vertices], held.uvs[vertices], held.colors[vertices],
                held.materials[vertices], held.triangles[triangles],
            )  # fmt: skip

        return [part(record) for record in records]

    @cached_property
    def materials(self) -> tuple[Material, ...]:
        """What the materials look like: `Asset.material_table`."""
        with reading(self._path, "read_ncl"):
            return unpack(self._core.materials())

    def load(self) -> Asset:
        """The whole asset, as `load` gives it. Raises ValueError where a page is damaged."""
        with reading(self._path, "read_ncl"):
            return Asset(self._core.load(), self.materials)


def open(path: str | Path, *, threads: int = 0) -> File:
    """Opens an .ncl file by its header: as `read`, but no page is touched until it is asked for.

    Raises as `read` does; a file of version 2 has no such header and is a ValueError.
    """
    return File(path, threads=threads)


def version(path: str | Path) -> int:
    """The version of an .ncl file: from 3 on it can be opened and streamed. 0 for another file."""
    with existing(path, "ncl.version").open("rb") as file:
        head = file.read(12)
    return int.from_bytes(head[8:12], "little") if head[1:4] == b"NCL" else 0
