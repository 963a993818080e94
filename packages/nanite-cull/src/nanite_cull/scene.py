"""What is drawn: instances of assets, kept resident between frames."""

import itertools
import operator
from pathlib import Path
from typing import Any

import numpy as np

from nanite_cull import _C  # type: ignore[attr-defined]
from nanite_cull._arrays import as_numpy
from nanite_cull._numbers import flag, whole
from nanite_cull.asset import Asset
from nanite_cull.mesh_io import load_instances


def _rows(transforms: Any, function: str) -> np.ndarray:
    """Transforms of shape (N, 4, 4), (N, 3, 4), (4, 4) or (3, 4) as contiguous (N, 12) float64."""
    array = as_numpy(transforms, function, "transforms")
    if array.dtype.kind not in "fiubO":
        raise TypeError(f"{function}: transforms must be real numbers, got {array.dtype}")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[1:] not in ((3, 4), (4, 4)):
        raise ValueError(
            f"{function}: transforms must have shape (N, 3, 4) or (N, 4, 4), got {array.shape}"
        )
    if array.shape[1] == 4 and not np.array_equal(
        array[:, 3], np.broadcast_to([0, 0, 0, 1], (len(array), 4))
    ):
        raise ValueError(f"{function}: the last row of a transform must be (0, 0, 0, 1)")
    return np.ascontiguousarray(array[:, :3], dtype=np.float64).reshape(-1, 12)


class Scene:
    """Instances of assets. They stay in the core: a frame uploads nothing, `update` replaces a
    slice.

    Transforms are kept in double precision and taken relative to the eye, so an instance far from
    the world's origin is drawn as one at it. Frames that were rendered before a change stay as they
    are, and any number of threads may render while one changes the scene. Can be pickled and
    copied.
    """

    def __init__(self, *assets: Asset) -> None:
        self._core = _C.Scene()
        self._assets: list[Asset] = []
        for asset in assets:
            self.add(asset)

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> "Scene":
        """Reads a mesh file (glTF, GLB, OBJ, PLY, STL): every mesh becomes an asset, every node
        that uses it an instance, or as many as EXT_mesh_gpu_instancing says. An .ncl file is a
        scene of one.

        `options` go to `build`. Each asset's `material_table` holds what the file says of its
        material. Raises what `load` does.
        """
        scene = cls()
        for asset, transforms in load_instances(path, **options):
            scene.add(asset, transforms)
        return scene

    def __len__(self) -> int:
        return len(self._core)

    @property
    def assets(self) -> list[Asset]:
        """The assets in use, in the order of their first instance."""
        return list(self._assets)

    @property
    def transforms(self) -> np.ndarray:
        """(N, 3, 4) float64: object to world, of every instance; a copy."""
        return self._core.instances()[0].reshape(-1, 3, 4)

    @property
    def asset_of(self) -> np.ndarray:
        """(N,) uint32: of every instance the number of its asset in `assets`; a copy."""
        return self._core.instances()[1]

    def add(self, asset: Asset, transforms: Any = None, *, threads: int = 0) -> slice:
        """Adds instances of `asset` and returns their numbers.

        transforms: affine, object to world, (N, 3, 4) or (N, 4, 4) or one of them; None: one,
        untouched. Single precision, in which instances are culled and drawn, bounds them: placed,
        an asset must lie well within 1e32 of the world's origin, and no direction be scaled by
        less than 1e-32.
        Raises ValueError for one that is singular, not finite or beyond those bounds; the scene
        then is as it was.
        """
        if not isinstance(asset, Asset):
            raise TypeError(f"Scene.add: asset must be an Asset, got {type(asset).__name__}")
        rows = _rows(np.eye(4) if transforms is None else transforms, "Scene.add")
        count = whole(threads, "Scene.add", "threads", 0)
        number, first = self._core.add_with_asset(asset._core, rows, count)
        if number == len(self._assets):
            self._assets.append(asset)
        return slice(first, first + len(rows))

    def update(self, first: int, transforms: Any, *, threads: int = 0) -> None:
        """Replaces the transforms of instances `first` and following, and nothing else.

        Raises ValueError as `add` does, and for instances that do not exist.
        """
        first = whole(first, "Scene.update", "first", 0)
        count = whole(threads, "Scene.update", "threads", 0)
        self._core.update(first, _rows(transforms, "Scene.update"), count)

    def _slice(self, instances: int | slice, function: str) -> tuple[int, int]:
        if isinstance(instances, slice):
            first, last, stride = instances.indices(len(self))
            if stride != 1:
                raise ValueError(f"{function}: a slice must be whole, got step {stride}")
            return first, max(0, last - first)
        try:
            number = operator.index(instances)
        except TypeError:
            raise TypeError(
                f"{function}: instances must be a whole number or a slice, got {instances!r}; "
                "call it once for each of several"
            ) from None
        if not 0 <= number < len(self):
            raise ValueError(
                f"{function}: instance {number} does not exist; the scene has {len(self)}"
            )
        return number, 1

    def hide(self, instances: int | slice, hidden: bool = True) -> None:
        """Leaves instances out of every view, or shows them again; their numbers stay."""
        self._core.hide(*self._slice(instances, "Scene.hide"), flag(hidden, "Scene.hide", "hidden"))

    def remove(self, instances: int | slice) -> None:
        """Takes instances out; the numbers of those after them move down."""
        self._core.remove(*self._slice(instances, "Scene.remove"))

    def __getstate__(self) -> dict[str, Any]:
        transforms, asset_of, hidden = self._core.instances()
        own = {k: v for k, v in self.__dict__.items() if k not in ("_core", "_assets")}
        return {"assets": self._assets, "transforms": transforms, "asset_of": asset_of,
                "hidden": hidden, "own": own}  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state.get("own", {}))  # of a subclass
        self._core, self._assets = _C.Scene(), list(state["assets"])
        for asset in self._assets:
            self._core.add_asset(asset._core)
        asset_of, transforms = state["asset_of"], state["transforms"]
        starts = np.flatnonzero(np.diff(asset_of, prepend=asset_of[:1] + 1)).tolist()
        for first, last in itertools.pairwise([*starts, len(asset_of)]):
            self._core.add(int(asset_of[first]), transforms[first:last], 0)
        for i in np.flatnonzero(state["hidden"]).tolist():
            self._core.hide(i, 1, True)


def load_scene(path: str | Path, **options: Any) -> Scene:
    """Reads a mesh file as a scene: `Scene.from_file`."""
    return Scene.from_file(path, **options)
