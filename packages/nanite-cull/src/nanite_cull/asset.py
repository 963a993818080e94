"""Built meshes: what `build` and `load` return and a scene draws."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanite_cull import _C  # type: ignore[attr-defined]
from nanite_cull._arrays import as_numpy, floats, indices
from nanite_cull._arrays import colors as rgba
from nanite_cull._core import open_meshoptimizer
from nanite_cull._files import existing, reading, write_file
from nanite_cull._numbers import flag, point, real, whole
from nanite_cull.materials import Material, pack, surfaces, unpack

NONE = 0xFFFFFFFF

CLUSTER_DTYPE = np.dtype(
    [
        ("vertex_begin", "u4"),
        ("triangle_begin", "u4"),
        ("vertex_count", "u2"),
        ("triangle_count", "u2"),
        ("group", "u4"),
        ("source_group", "u4"),
        ("level", "u4"),
        ("longest_edge", "f4"),
        ("lo", "f4", 3),
        ("hi", "f4", 3),
        ("centre", "f4", 3),
        ("radius", "f4"),
        ("error", "f4"),
    ]
)
GROUP_DTYPE = np.dtype(
    [
        ("centre", "f4", 3),
        ("radius", "f4"),
        ("error", "f4"),
        ("cluster_begin", "u4"),
        ("cluster_count", "u4"),
        ("level", "u4"),
    ]
)


@dataclass(frozen=True)
class Level:
    """One pass of the build: its clusters and triangles, and how full the clusters are."""

    level: int
    clusters: int
    triangles: int
    fill: float
    ratio: float  # triangles of this level / of the one before; 1 for the leaves


def _restored(data: bytes, leaf_source: list[int], materials: tuple[Material, ...]) -> "Asset":
    open_meshoptimizer()
    return Asset(_C.decode_ncl(data, leaf_source), materials)


class Asset:
    """A mesh as a graph of clusters with a hierarchy over it. Immutable; made by `build`, `load` or
    `open`. Can be pickled and copied; a shallow or a deep copy is the asset itself.

    One that `open` made is streamed: graph and hierarchy are in memory, vertices and triangles are
    read as frames need them, and the properties that would hold them all raise RuntimeError.
    """

    def __init__(
        self,
        core: _C.Asset,
        material_table: tuple[Material, ...] = (),
        path: Path | None = None,
    ) -> None:
        self._core = core
        self._path = path
        self._materials = material_table
        drawn = surfaces(material_table, textured=core.has_uvs)
        if drawn is not None:
            core.set_surfaces(drawn)

    @property
    def material_table(self) -> tuple[Material, ...]:
        """What its materials look like, by material id; may be empty."""
        return self._materials

    @property
    def streamed(self) -> bool:
        """Vertices and triangles are read from a file as frames need them."""
        return self._path is not None

    def _whole(self, what: str) -> _C.Asset:
        """The core of an asset that is all in memory."""
        if self.streamed:
            raise RuntimeError(
                f"Asset.{what}: the asset is streamed from {self._path} and never whole in memory; "
                "nanite_cull.load reads all of it"
            )
        return self._core

    def __reduce__(self) -> tuple[Any, ...]:
        if self.streamed:
            return open, (self._path,)
        open_meshoptimizer()
        data = _C.encode_ncl(self._core, 0)
        return _restored, (data, self.leaf_source.tolist(), self.material_table)

    def __copy__(self) -> "Asset":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Asset":
        return self

    @property
    def origin(self) -> np.ndarray:
        """(3,) float64: where positions count from; zero unless the mesh lies far from zero."""
        return np.array(self._core.origin)

    @property
    def positions(self) -> np.ndarray:
        """(V, 3) float32, read-only: every vertex, from `origin`, on the mesh grid.

        Vertices on open borders keep the very floats of the source where the origin is zero, so
        that assets which share a border meet exactly.
        """
        return self._whole("positions").positions

    @property
    def normals(self) -> np.ndarray:
        """(V, 3) float32, or (0, 3) when the mesh came without, or with each triangle's own."""
        return self._whole("normals").normals

    @property
    def uvs(self) -> np.ndarray:
        """(V, 2) float32, or (0, 2)."""
        return self._whole("uvs").uvs

    @property
    def colors(self) -> np.ndarray:
        """(V, 4) float32, or (0, 4)."""
        return self._whole("colors").colors

    @property
    def materials(self) -> np.ndarray:
        """(V,) uint32, or empty. A triangle's material is that of its first corner."""
        return self._whole("materials").materials

    @property
    def vertex_refs(self) -> np.ndarray:
        """(R,) uint32: the vertices of each cluster, one cluster after the other."""
        return self._whole("vertex_refs").vertex_refs

    @property
    def local_triangles(self) -> np.ndarray:
        """(T, 3) uint8: corners as positions in the cluster's part of `vertex_refs`."""
        return self._whole("local_triangles").triangles

    @property
    def leaf_source(self) -> np.ndarray:
        """(<= T,) uint32: the input face behind each leaf triangle; 2**32 - 1 behind others."""
        return self._whole("leaf_source").leaf_source

    @cached_property
    def clusters(self) -> np.ndarray:
        """One record for each cluster (see CLUSTER_DTYPE); `error` and `centre` are its own
        bounds."""
        column = self._core.cluster_column
        out = np.empty(len(column("group")), CLUSTER_DTYPE)
        for name in (CLUSTER_DTYPE.names or ())[:8]:
            out[name] = column(name)
        for axis, letter in enumerate("xyz"):
            out["lo"][:, axis] = column("lo_" + letter)
            out["hi"][:, axis] = column("hi_" + letter)
            out["centre"][:, axis] = column(letter)
        out["radius"], out["error"] = column("r"), column("error")
        return out

    @cached_property
    def groups(self) -> np.ndarray:
        """One record for each group (see GROUP_DTYPE): the parent bounds of its clusters."""
        column = self._core.group_column
        out = np.empty(len(column("error")), GROUP_DTYPE)
        for axis, letter in enumerate("xyz"):
            out["centre"][:, axis] = column(letter)
        out["radius"] = column("r")
        for name in ("error", "cluster_begin", "cluster_count", "level"):
            out[name] = column(name)
        return out

    @property
    def nodes(self) -> np.ndarray:
        """(nodes, 13, 8) uint32: eight children side by side; rows 0-11 are float32 bits."""
        return self._core.nodes

    @property
    def step(self) -> float:
        """The mesh grid: positions are integers times this power of two."""
        return self._core.step

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of the mesh, float64, world (`origin` added)."""
        lo, hi = self._core.box
        return np.array(lo) + self.origin, np.array(hi) + self.origin

    @property
    def has_colors(self) -> bool:
        """Vertices have colours."""
        return self._core.has_colors

    @property
    def has_textures(self) -> bool:
        """Some material has an albedo texture, and vertices have coordinates for it."""
        return self._core.has_uvs and any(m.albedo is not None for m in self._materials)

    @cached_property
    def radius(self) -> float:
        """Of the sphere around the middle of the box that holds every vertex; of a streamed asset
        one that holds the spheres of the leaf clusters: a little larger."""
        lo, hi = (np.array(corner) for corner in self._core.box)
        unit = float((hi - lo).max()) or 1.0  # squares of tiny meshes would vanish in float32
        leaves = self.clusters[self.clusters["source_group"] == NONE] if self.streamed else None
        points = self.positions if leaves is None else leaves["centre"]
        offset = (points - ((lo + hi) / 2).astype(np.float32)) / np.float32(unit)
        distance = np.sqrt(np.einsum("va,va->v", offset, offset))
        if leaves is not None:
            distance += leaves["radius"] / np.float32(unit)
        return float(distance.max()) * unit

    @property
    def sphere(self) -> tuple[np.ndarray, float]:
        """Centre and radius of a sphere around every LOD sphere: a little more than the mesh."""
        *centre, radius = self._core.sphere
        return np.array(centre) + self.origin, radius

    @property
    def report(self) -> _C.BuildReport:
        """Counts and seconds of the build."""
        return self._core.report

    def levels(self) -> list[Level]:
        """Clusters and triangles of each level, leaves first."""
        level = self.clusters["level"]
        clusters = np.bincount(level)
        triangles = np.bincount(level, self.clusters["triangle_count"]).astype(int)
        return [
            Level(i, int(c), int(t), float(t / c), float(t / triangles[i - 1]) if i else 1.0)
            for i, (c, t) in enumerate(zip(clusters, triangles, strict=True))
            if c
        ]

    def statistics(self) -> dict[str, Any]:
        """Figures of the whole asset, ready for JSON."""
        count = self.clusters["triangle_count"]
        leaf = self.clusters["source_group"] == NONE
        root = ~np.isfinite(self.groups["error"][self.clusters["group"]])
        return {
            "source_triangles": int(count[leaf].sum()),
            "triangles": int(count.sum()),
            "vertices": self._core.vertex_count,
            "clusters": len(count),
            "fill": float(count.mean()),
            "groups": len(self.groups),
            "levels": len(self.levels()),
            "nodes": len(self.nodes),
            "tree_depth": self._core.depth,
            "roots": int(root.sum()),
            "root_triangles": int(count[root].sum()),
            "max_error": float(self.clusters["error"].max()),
            "grid_step": self.step,
        }

    def faces(self, cluster: int) -> np.ndarray:
        """(n, 3) vertex indices of one cluster's triangles."""
        record = self.clusters[cluster]
        first, begin = int(record["vertex_begin"]), int(record["triangle_begin"])
        local = self.local_triangles[begin : begin + int(record["triangle_count"])]
        return self.vertex_refs[first + local.astype(np.int64)]

    def validate(self, limit: int = 20) -> list[str]:
        """Checks every structural promise: ranges, levels, errors, spheres, boxes, the hierarchy.

        Returns at most `limit` sentences that name what is broken; an empty list when all holds.
        Of a streamed asset every page is read, and damage is a ValueError.
        """
        return self._core.whole().validate(limit)

    def save(self, path: str | Path, *, threads: int = 0) -> Path:
        """Stores the asset as an .ncl file, its materials and their textures with it, aside and
        then renamed; `load` reads it.

        The source map (`leaf_source`) is not stored. Raises OSError where it cannot be written.
        """
        open_meshoptimizer()
        count = whole(threads, "save", "threads", 0)
        materials = pack(self._materials)
        return write_file(path, _C.encode_ncl(self._core.whole(), count, materials=materials))

    def __repr__(self) -> str:
        s = self.statistics()
        counts = f"{s['source_triangles']:,} triangles, {s['clusters']:,} clusters"
        return f"Asset({counts}, {s['levels']} levels)"


def open(path: str | Path) -> Asset:
    """An .ncl file as an asset whose pages come as frames ask for them: the header is read now,
    the rest when it is seen, under the `budget` of the Renderer that draws it.

    The file stays open: renaming another over it changes nothing here, what is cut off or written
    into it is a ValueError of the frame that needs it. Raises ValueError for a file that is
    damaged or of version 2 (`load` reads that one), FileNotFoundError when there is none,
    IsADirectoryError for a folder, TypeError for what is no path.
    """
    path = existing(path, "open")
    with reading(path, "read_ncl"):
        core = _C.open_asset(str(path))
        return Asset(core, unpack(core.stored_materials()), path=path.absolute())


def _lock_mask(lock: Any, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray | None:
    """What `build(lock=...)` may be, as (N,) uint8."""
    if lock is None:
        return None
    if isinstance(lock, str):
        if lock != "border":
            raise ValueError(
                f"build: lock must be 'border', an array, a plane or a box, got {lock!r}"
            )
        return _border_mask(vertices, faces)
    array = as_numpy(lock, "build", "lock")
    if array.dtype == bool and array.shape == (len(vertices),):
        return np.ascontiguousarray(array, dtype=np.uint8)
    out = np.zeros(len(vertices), np.uint8)
    plane = array.dtype.kind == "f" and array.shape == (4,)
    if array.dtype.kind == "f" and (np.isnan(array) | (plane & np.isinf(array))).any():
        raise ValueError(f"build: lock must hold numbers, got {array.tolist()}")
    if array.dtype.kind in "iu" and array.shape == (4,) and len(np.unique(array)) < 4:
        raise ValueError(
            "build: lock must name a vertex once, or be a plane of 4 floats, got the integers "
            f"{array.tolist()}; write a plane as (1.0, 0.0, 0.0, 0.0)"
        )
    if array.dtype.kind in "iu" and array.ndim == 1:
        if array.size and not 0 <= int(array.min()) <= int(array.max()) < len(vertices):
            raise ValueError(
                f"build: lock must name vertices 0 to {len(vertices) - 1}, "
                f"got {array.min()} to {array.max()}"
            )
        out[array] = 1
    elif plane:  # n . p + d = 0
        length = np.linalg.norm(array[:3])
        if not length > 0:
            raise ValueError(f"build: lock: a plane (a, b, c, d) needs a normal, got {array}")
        used = vertices[np.unique(faces)]
        extent = float((used.max(0) - used.min(0)).max()) if len(used) else 0.0
        out[np.abs(vertices @ array[:3] + array[3]) / length <= 1e-6 * extent] = 1
    elif array.shape == (2, 3):  # box: lower and upper corner
        if (array[0] > array[1]).any():
            raise ValueError(
                f"build: lock: the lower corner of a box must come first, got {array.tolist()}"
            )
        out[((vertices >= array[0]) & (vertices <= array[1])).all(1)] = 1
    else:
        raise ValueError(
            "build: lock must be 'border', (N,) bool, vertex numbers, a plane of 4 floats or a box "
            f"of shape (2, 3), got {array.dtype} {array.shape}"
        )
    return out


def _materials(materials: Any) -> tuple[Material, ...]:
    """What `build(materials=...)` may be."""
    found = tuple(materials) if isinstance(materials, Iterable) else (materials,)
    for material in found:
        if not isinstance(material, Material):
            raise TypeError(
                f"build: materials must be a sequence of Material, got {type(material).__name__}"
            )
    if found and found[0] is materials:
        raise TypeError("build: materials must be a sequence of Material: put the one into a list")
    return found


def _border_mask(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Vertices on edges that one triangle alone has, where equal coordinates are one vertex."""
    _, ids = np.unique(vertices, axis=0, return_inverse=True)
    ids = ids.ravel()
    corners = ids[faces.astype(np.int64)]
    edges = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]), 1)
    edges, count = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0, return_counts=True)
    return np.isin(ids, edges[count == 1]).astype(np.uint8)


def _with_base_colors(
    mesh: tuple[Any, ...], ids: np.ndarray | None, materials: Sequence[Material]
) -> tuple[Any, ...]:
    """A mesh (vertices, faces, normals, uvs, colors, lock mask) whose colours are multiplied by the
    materials' base colours; where two materials with different ones meet, vertices are split."""
    if materials and ids is not None and len(ids) and int(ids.max()) >= len(materials):
        raise ValueError(
            f"build: material_ids must be 0 to {len(materials) - 1} (there are {len(materials)} "
            f"materials), got {int(ids.max())}"
        )
    used = materials if ids is not None else materials[:1]
    base = np.array([m.base_color for m in used], np.float32)
    if (base == 1).all():
        return mesh
    vertices, faces, normals, uvs, colors, mask = mesh
    tints, tint_of = np.unique(base, axis=0, return_inverse=True)
    face_tint = np.zeros(len(faces), np.int64) if ids is None else tint_of.ravel()[ids]
    corners = faces.astype(np.int64) * len(tints) + face_tint[:, None]
    pairs, new_faces = np.unique(corners, return_inverse=True)
    source = pairs // len(tints)
    if len(source) == len(np.unique(source)):  # nothing to split
        tint = np.ones((len(vertices), 4), np.float32)
        tint[source] = tints[pairs % len(tints)]
        return vertices, faces, normals, uvs, tint if colors is None else colors * tint, mask
    split = [None if a is None else np.ascontiguousarray(a[source]) for a in
             (vertices, normals, uvs, colors, mask)]  # fmt: skip
    tint = tints[pairs % len(tints)]
    split[3] = tint if split[3] is None else split[3] * tint
    return (split[0], new_faces.reshape(-1, 3).astype(faces.dtype), *split[1:])


def build(
    vertices: Any,
    faces: Any,
    *,
    normals: Any = None,
    uvs: Any = None,
    colors: Any = None,
    material_ids: Any = None,
    materials: Sequence[Material] = (),
    lock: Any = None,
    step: float | None = None,
    origin: Any = None,
    vanishing: str = "error",
    max_triangles: int = 128,
    group_size: int = 16,
    width: int = 8,
    position_bits: int = 0,
    keep_source: bool = True,
    threads: int = 0,
    progress: bool | None = None,
) -> Asset:
    """Builds the cluster graph of a triangle mesh.

    vertices: (N, 3) numbers; float64 is taken as it is. faces: (M, 3) integers. Optional: normals
    (N, 3), uvs (N, 2), colors (N, 3) or (N, 4), floats in 0 to 1 or uint8, material_ids (M,)
    integers, materials: what each id looks like (without ids the first is everywhere); their
    base_color multiplies the vertices' colours. colors are a display's (sRGB) without materials,
    with them what each Material.vertex_colors says, "linear" unless given; levels of detail weigh
    their errors as a display shows them. uvs count from the lower left corner of a picture. Arrays
    are numpy, torch (cpu) or DLPack.

    Positions are snapped to a power-of-two grid and welded, so a soup of separate triangles gives
    what the welded mesh gives. The grid follows from the extent of what faces use and from the
    short edges; `step` (a power of two) or `position_bits` (bits across the mesh) set it by hand,
    `origin` (3 numbers, multiples of the step) where it counts from: tiles that are built apart
    with one step and one origin share the bits of their borders. A triangle with an area that the
    grid has no room for is an error that names the step which keeps it; vanishing="drop" leaves
    such triangles out, "warn" says so (RuntimeWarning).

    `lock`: vertices that stay where they are at every level, so that tiles never crack: (N,) bool,
    vertex numbers, a plane (a, b, c, d), a box (2, 3) of corners, or "border" for all open borders.

    Normals that are each triangle's own (a facetted mesh) are not stored: pictures show the same.
    `max_triangles` is the size of a cluster, `group_size` how many are simplified together
    (smaller: finer steps), `width` the children of a hierarchy node (4 or 8). The result has the
    same bytes for any number of `threads` (0: all). `progress` shows a bar; None: on a terminal
    only.

    Raises ValueError for a mesh or an option that cannot be built, TypeError for the wrong kind of
    array or number, RuntimeError when meshoptimizer is missing. KeyboardInterrupt stops it between
    passes.
    """
    open_meshoptimizer()
    if vanishing not in ("error", "warn", "drop"):
        raise ValueError(f"build: vanishing must be 'error', 'warn' or 'drop', got {vanishing!r}")
    double = getattr(as_numpy(vertices, "build", "vertices"), "dtype", None) != np.float32
    v = floats(vertices, "build", "vertices", 3, dtype=np.float64 if double else np.float32)
    f = indices(faces, "build", "faces", (None, 3))
    n, t = (
        None if array is None else floats(array, "build", name, wide, len(v))
        for name, array, wide in (("normals", normals, 3), ("uvs", uvs, 2))
    )
    c = None if colors is None else rgba(colors, "build", "colors", len(v))
    materials = _materials(materials)
    ids = (
        None if material_ids is None else indices(material_ids, "build", "material_ids", (len(f),))
    )
    options = _C.BuildOptions()
    for name in ("max_triangles", "group_size", "width", "position_bits"):
        setattr(options, name, whole(locals()[name], "build", name))
    options.threads = whole(threads, "build", "threads", 0)
    options.keep_source = flag(keep_source, "build", "keep_source")
    options.drop_vanishing = vanishing != "error"
    if step is not None:
        step = real(step, "build", "step")
        if not step > 0:
            raise ValueError(f"build: step must be a positive power of two, got {step}")
        options.step = step
    if origin is not None:
        options.set_origin(*point(origin, "build", "origin"))
    if len(f) and len(v) and int(f.max()) < len(v):
        mask = _lock_mask(lock, v, f)
        v, f, n, t, c, mask = _with_base_colors((v, f, n, t, c, mask), ids, materials)
        options.set_linear_colors([m.vertex_colors == "linear" for m in materials])
    else:
        mask = None  # the core says what is wrong

    from tqdm import tqdm

    with tqdm(
        total=100, desc="build", unit="%", disable=None if progress is None else not progress
    ) as bar:

        def show(share: float, step: str) -> None:  # also where Ctrl-C is noticed
            bar.set_postfix_str(step, refresh=False)
            bar.update(round(share * 100) - bar.n)

        core = _C.build(
            None if double else v, v if double else None, f, n, t, c, ids, mask, options, show
        )
    if vanishing == "warn" and core.report.vanished_triangles:
        warnings.warn(
            f"build: {core.report.vanished_triangles} triangles with an area have no room on the "
            f"mesh grid (step {core.step:.3g}) and were left out",
            RuntimeWarning,
            stacklevel=2,
        )
    return Asset(core, tuple(materials))
