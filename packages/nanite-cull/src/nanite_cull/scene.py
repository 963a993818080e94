"""What is drawn: instances of assets, kept resident between frames."""

from typing import Any

import numpy as np

from nanite_cull import _C
from nanite_cull._arrays import as_numpy
from nanite_cull.asset import Asset


def _rows(transforms: Any, function: str) -> np.ndarray:
    """Transforms of shape (N, 4, 4), (N, 3, 4), (4, 4) or (3, 4) as contiguous (N, 12) float32."""
    array = as_numpy(transforms, function, "transforms")
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
    return np.ascontiguousarray(array[:, :3], dtype=np.float32).reshape(-1, 12)


class Scene:
    """Instances of assets. They stay in the core: a frame uploads nothing, `update` replaces a
    slice."""

    def __init__(self, *assets: Asset) -> None:
        self._core = _C.Scene()
        self._assets: list[Asset] = []
        for asset in assets:
            self.add(asset)

    def __len__(self) -> int:
        return len(self._core)

    @property
    def assets(self) -> list[Asset]:
        """The assets in use, in the order of their first instance."""
        return list(self._assets)

    def add(self, asset: Asset, transforms: Any = None, *, threads: int = 0) -> slice:
        """Adds instances of `asset` and returns their numbers.

        transforms: affine, object to world, (N, 3, 4) or (N, 4, 4) or one of them; None: one,
        untouched.
        Raises ValueError for one that is singular or not finite.
        """
        if not isinstance(asset, Asset):
            raise TypeError(f"Scene.add: asset must be an Asset, got {type(asset).__name__}")
        rows = _rows(np.eye(4) if transforms is None else transforms, "Scene.add")
        number = self._core.add_asset(asset._core)
        if number == len(self._assets):
            self._assets.append(asset)
        first = self._core.add(number, rows, threads)
        return slice(first, first + len(rows))

    def update(self, first: int, transforms: Any, *, threads: int = 0) -> None:
        """Replaces the transforms of instances `first` and following, and nothing else."""
        self._core.update(first, _rows(transforms, "Scene.update"), threads)
