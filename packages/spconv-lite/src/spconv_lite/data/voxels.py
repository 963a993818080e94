"""Points to voxels: the same voxels in the same order in every run, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import _C
from ..geometry import row_major
from ..kernels.table import cpu_kernels_run

_Array = TypeVar("_Array", Tensor, np.ndarray)


def _cells_between(low: float, high: float, size: float) -> int:
    """The length of an axis as spconv has it: in float32, halves away from zero."""
    low, high, size = map(np.float32, (low, high, size))
    return math.floor(float((high - low) / size) + 0.5)


class PointToVoxel:
    """Cuts a point cloud into voxels. Signature and results as in spconv.

    Args:
        vsize_xyz: voxel size on each axis, x first.
        coors_range_xyz: low corner then high corner, x first.
        num_point_features: columns of the points, the coordinates included.
        max_num_voxels: voxels beyond are dropped; voxels are in the order of their first point.
        max_num_points_per_voxel: points of a voxel beyond are dropped, in the order of the points.
        device: where the points are.

    Attributes:
        grid_size: cells on each axis in the order of the indices (z, y, x): a spatial_shape.

    Raises: ValueError for shapes that do not fit, TypeError for points on another device or of no
    floating dtype. Points outside the range and points that are not finite belong to no voxel.
    """

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.ndim = len(vsize_xyz)
        if len(coors_range_xyz) != 2 * self.ndim:
            raise ValueError(
                f"PointToVoxel: coors_range_xyz must have {2 * self.ndim} numbers, low corner and "
                "high "
                f"corner, got {list(coors_range_xyz)}"
            )
        if num_point_features < self.ndim:
            raise ValueError(
                f"PointToVoxel: num_point_features must be at least {self.ndim}, "
                f"got {num_point_features}"
            )
        if min(max_num_voxels, max_num_points_per_voxel) < 1:
            raise ValueError(
                "PointToVoxel: max_num_voxels and max_num_points_per_voxel must be at least 1, got "
                f"{max_num_voxels} and {max_num_points_per_voxel}"
            )
        if not all(size > 0 for size in vsize_xyz):
            raise ValueError(f"PointToVoxel: vsize_xyz must be positive, got {list(vsize_xyz)}")
        low, high = coors_range_xyz[: self.ndim], coors_range_xyz[self.ndim :]
        cells = [_cells_between(a, b, v) for a, b, v in zip(low, high, vsize_xyz, strict=True)]
        if min(cells) < 1 or math.prod(cells) > 2**63 - 1:
            raise ValueError(f"PointToVoxel: the range must hold 1 to 2^63 - 1 voxels, got {cells}")
        self.vsize, self.low, self.grid_size = list(vsize_xyz), list(low), cells[::-1]
        self.num_point_features = num_point_features
        self.max_num_voxels = max_num_voxels
        self.max_num_points_per_voxel = max_num_points_per_voxel
        self.device = torch.device(device)

    def __call__(
        self, pc: _Array, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[_Array, _Array, _Array]:
        """The first three results of `generate_voxel_with_id`."""
        return self.generate_voxel_with_id(pc, clear_voxels, empty_mean)[:3]

    def generate_voxel_with_id(
        self, pc: _Array, clear_voxels: bool = True, empty_mean: bool = False
    ) -> tuple[_Array, _Array, _Array, _Array]:
        """Args:
            pc: (N, num_point_features), x, y, z first; a tensor or a numpy array of any floating
            dtype. The cells of float16 and bfloat16 points are those of the same numbers in
            float32.
            clear_voxels: taken for spconv's signature; unused places are always zero.
            empty_mean: fills unused places of a voxel with the mean of its points.

        Returns:
            voxels (M, max_num_points_per_voxel, num_point_features), as pc;
            indices (M, ndim) int32 in the order z, y, x;
            num_per_voxel (M,) int32;
            pc_voxel_id (N,) int64, the voxel of each point or -1.
        """
        if isinstance(pc, np.ndarray):
            results = self.generate_voxel_with_id(torch.from_numpy(pc), clear_voxels, empty_mean)
            return tuple(t.numpy() for t in results)
        if pc.ndim != 2 or pc.shape[1] != self.num_point_features:
            raise ValueError(
                f"PointToVoxel: pc must have shape (N, {self.num_point_features}), "
                f"got {tuple(pc.shape)}"
            )
        if not pc.dtype.is_floating_point or pc.device.type != self.device.type:
            raise TypeError(
                f"PointToVoxel: pc must be floating point on {self.device}, "
                f"got {pc.dtype} on {pc.device}"
            )
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        traced = traced or (pc.requires_grad and torch.is_grad_enabled())
        if cpu_kernels_run(pc.device.type) and self.ndim <= 4 and not traced:
            return self._run_kernels(pc.detach().contiguous(), empty_mean)
        cells, valid = self._cells(pc)
        points = valid.nonzero().squeeze(1)
        keys, order = row_major(cells[points].unbind(1), self.grid_size).sort(stable=True)
        points = points[order]  # by cell, those of one cell in their order
        fresh = torch.ones_like(keys, dtype=torch.bool)
        fresh[1:] = keys[1:] != keys[:-1]
        start = fresh.nonzero().squeeze(1)
        group = fresh.cumsum(0) - 1
        number = torch.empty_like(start)
        number[points[start].argsort()] = torch.arange(len(start), device=pc.device)
        voxel, place = number[group], torch.arange(len(points), device=pc.device) - start[group]
        kept = voxel < self.max_num_voxels
        points, voxel, place = points[kept], voxel[kept], place[kept]
        pc_voxel_id = torch.full((pc.shape[0],), -1, dtype=torch.int64, device=pc.device)
        pc_voxel_id[points] = voxel
        return (*self._fill(pc, cells, points, voxel, place, empty_mean), pc_voxel_id)

    def _run_kernels(self, pc: Tensor, empty_mean: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same by the CPU's kernels."""
        spare = [0] * (4 - self.ndim)
        grid = self.ndim, self.low + spare, self.vsize + spare, self.grid_size[::-1] + spare
        narrow = pc.dtype in (torch.float16, torch.bfloat16)
        places = pc[:, : self.ndim].float().contiguous() if narrow else pc
        pc_voxel_id = pc.new_empty((pc.shape[0],), dtype=torch.int64)
        count = _C.number_voxels(places, *grid, self.max_num_voxels, pc_voxel_id)
        indices = pc.new_empty((count, self.ndim), dtype=torch.int32)
        number = pc.new_empty((count,), dtype=torch.int32)
        rows = pc_voxel_id.new_empty((count, self.max_num_points_per_voxel))
        _C.list_voxels(places, *grid, pc_voxel_id, indices, number, rows)
        voxels = pc.new_empty((*rows.shape, pc.shape[1]))
        size = pc.shape[1] * pc.element_size()
        _C.gather_points(
            pc.view(torch.uint8).view(-1, size),
            rows.view(-1),
            voxels.view(torch.uint8).view(-1, size),
        )
        if empty_mean and narrow:
            voxels = _fill_with_mean(voxels, number)
        elif empty_mean:
            _C.fill_means(voxels, number)
        return voxels, indices, number, pc_voxel_id

    def _cells(self, pc: Tensor) -> tuple[Tensor, Tensor]:
        """Cell of each point (N, ndim) int64 in the order z, y, x; whether it is in the grid."""
        places = pc[:, : self.ndim]
        if pc.dtype in (torch.float16, torch.bfloat16):  # whose difference to a corner would round
            places = places.float()
        low, size = places.new_tensor(self.low), places.new_tensor(self.vsize)
        cells = ((places - low) / size).floor().flip(1)
        grid = torch.tensor(self.grid_size, device=pc.device)
        valid = ((cells >= 0) & (cells < grid)).all(1)  # not a number compares false
        return torch.where(valid[:, None], cells, 0).long(), valid

    def _fill(
        self,
        pc: Tensor,
        cells: Tensor,
        points: Tensor,
        voxel: Tensor,
        place: Tensor,
        empty_mean: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = torch.bincount(voxel)
        shape = len(count), self.max_num_points_per_voxel, self.num_point_features
        indices = cells.new_empty((len(count), self.ndim), dtype=torch.int32)
        first = place == 0
        indices[voxel[first]] = cells[points[first]].int()
        kept = place < self.max_num_points_per_voxel
        voxels = pc.new_zeros(shape)
        voxels[voxel[kept], place[kept]] = pc[points[kept]]
        number = count.clamp(max=self.max_num_points_per_voxel)
        if empty_mean:
            voxels = _fill_with_mean(voxels, number)
        return voxels, indices, number.int()


def _fill_with_mean(voxels: Tensor, number: Tensor) -> Tensor:
    """The mean of a voxel's points in its unused places, which hold zeros; sums in float32."""
    empty = torch.arange(voxels.shape[1], device=voxels.device) >= number[:, None]
    narrow = voxels.dtype in (torch.float16, torch.bfloat16)
    total = (voxels.float() if narrow else voxels).sum(1)
    mean = (total / number[:, None]).to(voxels.dtype)
    return torch.where(empty[:, :, None], mean[:, None], voxels)


def gather_features_by_pc_voxel_id(
    seg_res_features: Tensor, pc_voxel_id: Tensor, invalid_value: float = 0
) -> Tensor:
    """Features (N, ...) of the voxel of each point (N,); invalid_value for points of no voxel (a
    negative id). Raises ValueError for an id beyond the features."""
    rows, most = len(seg_res_features), int(pc_voxel_id.max()) if len(pc_voxel_id) else -1
    if pc_voxel_id.ndim != 1 or most >= rows:
        raise ValueError(
            f"gather_features_by_pc_voxel_id: pc_voxel_id must have shape (N,) and values below "
            f"{rows}, got {tuple(pc_voxel_id.shape)} and {most}"
        )
    lost = (pc_voxel_id < 0).view(-1, *[1] * (seg_res_features.ndim - 1))
    if rows == 0:
        found = seg_res_features.new_zeros((len(pc_voxel_id), *seg_res_features.shape[1:]))
    else:  # not by [...], whose gradient differs from run to run with two threads
        found = seg_res_features.index_select(0, pc_voxel_id.clamp(min=0))
    return found.masked_fill(lost, invalid_value)


class Point2VoxelCPU(PointToVoxel):
    """`PointToVoxel` by spconv's C++ name: any number of axes, arguments in its order."""

    def __init__(
        self,
        vsize_xyz: Sequence[float],
        coors_range_xyz: Sequence[float],
        num_point_features: int,
        max_num_voxels: int,
        max_num_points_per_voxel: int,
    ) -> None:
        super().__init__(
            vsize_xyz,
            coors_range_xyz,
            num_point_features,
            max_num_voxels,
            max_num_points_per_voxel,
        )

    def point_to_voxel(self, pc: Tensor, clear_voxels: bool = True) -> tuple[Tensor, ...]:
        """Voxels, indices, points of each voxel; see PointToVoxel."""
        return self(pc, clear_voxels)

    def point_to_voxel_empty_mean(
        self, pc: Tensor, clear_voxels: bool = True
    ) -> tuple[Tensor, ...]:
        """The same with the mean in unused places."""
        return self(pc, clear_voxels, empty_mean=True)


class VoxelGenerator:
    """spconv 1.x's generator over numpy arrays: `generate` gives a tuple.

    Args:
        voxel_size, point_cloud_range: x, y, z; low corner, then high corner.
        max_num_points: of a voxel. max_voxels: of a scan.
        full_mean: fills unused places with the mean.
    """

    def __init__(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        max_num_points: int,
        max_voxels: int = 20000,
        full_mean: bool = False,
    ) -> None:
        self.voxel_size = np.array(voxel_size, dtype=np.float32)
        self.point_cloud_range = np.array(point_cloud_range, dtype=np.float32)
        self.max_num_points_per_voxel, self._max_voxels = max_num_points, max_voxels
        self._full_mean = full_mean
        self._sizes = list(map(float, voxel_size)), list(map(float, point_cloud_range))
        cells = PointToVoxel(*self._sizes, len(self._sizes[0]), max_voxels, max_num_points)
        self.grid_size = np.array(cells.grid_size[::-1], dtype=np.int64)

    def _voxels(self, points: np.ndarray, max_voxels: int | None) -> tuple[np.ndarray, ...]:
        most = self._max_voxels if max_voxels is None else max_voxels
        make = PointToVoxel(*self._sizes, points.shape[1], most, self.max_num_points_per_voxel)
        return make(points, empty_mean=self._full_mean)

    def generate(self, points: np.ndarray, max_voxels: int | None = None) -> Any:
        """points (N, C) float32: voxels (M, max_num_points, C), coordinates (M, 3) z, y, x int32
        and points of each voxel (M,) int32."""
        return self._voxels(points, max_voxels)


class VoxelGeneratorV2(VoxelGenerator):
    """The same with a dictionary for its result."""

    def generate(self, points: np.ndarray, max_voxels: int | None = None) -> Any:
        """A dictionary of `voxels`, `coordinates`, `num_points_per_voxel` and `voxel_num`."""
        voxels, coordinates, number = self._voxels(points, max_voxels)
        return {
            "voxels": voxels,
            "coordinates": coordinates,
            "num_points_per_voxel": number,
            "voxel_num": len(voxels),
        }
