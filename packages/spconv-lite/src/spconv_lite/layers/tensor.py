"""SparseConvTensor: features on the active sites of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry import Rulebook
from ..kernels.ops import is_symmetric, transpose_rulebook


@dataclass
class IndiceData:
    """What an `indice_key` remembers: one rulebook and the sites on both sides of it."""

    rulebook: Rulebook
    in_indices: Tensor
    out_indices: Tensor
    in_spatial_shape: list[int]
    out_spatial_shape: list[int]
    ksize: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    is_subm: bool
    transposed: bool = False
    _turned: Rulebook | None = None

    @property
    def symmetric(self) -> bool:
        """Whether the rulebook read backwards is itself with the kernel mirrored."""
        return self.is_subm and is_symmetric(self.ksize)

    def turned(self) -> Rulebook:
        """The rulebook read backwards, from output sites to input sites; made once."""
        if self._turned is None:
            rows = self.in_indices.shape[0], self.out_indices.shape[0]
            self._turned = Rulebook(
                *transpose_rulebook(*self.rulebook, *rows, math.prod(self.ksize))
            )
        return self._turned


class SparseConvTensor:
    """A batch of sparse feature maps.

    Args:
        features: (N, C), any floating dtype.
        indices: (N, 1 + ndim) int32, columns batch index and coordinates in the order of
            `spatial_shape` (z, y, x in 3-D). int64 is accepted and narrowed. Each site at most
            once: layers raise on duplicates, see `spconv_lite.coalesce`.
        spatial_shape: ndim lengths, 1 to 4 of them.
        batch_size: number of samples.
        indice_dict: rulebooks by `indice_key`, shared by the tensors of one network pass.
        grid, voxel_num, benchmark, permanent_thrust_allocator, enable_timer, force_algo: taken for
            spconv's signature, and without effect.

    Raises: TypeError or ValueError for a wrong dtype or shape. Coordinates are checked where a
    rulebook is built.
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        grid: Tensor | None = None,
        voxel_num: Tensor | None = None,
        indice_dict: dict | None = None,
        benchmark: bool = False,
        permanent_thrust_allocator: bool = False,
        enable_timer: bool = False,
        force_algo: object = None,
    ) -> None:
        ndim = len(spatial_shape)
        if not features.dtype.is_floating_point:
            raise TypeError(
                f"SparseConvTensor: features must be floating point, got {features.dtype}"
            )
        if features.ndim != 2:
            raise ValueError(
                f"SparseConvTensor: features must have shape (N, C), got {tuple(features.shape)}"
            )
        if indices.dtype not in (torch.int32, torch.int64):
            raise TypeError(
                f"SparseConvTensor: indices must be int32 or int64, got {indices.dtype}"
            )
        if indices.ndim != 2 or indices.shape[1] != ndim + 1:
            raise ValueError(
                f"SparseConvTensor: indices must have shape (N, {ndim + 1}) for spatial_shape "
                f"{list(spatial_shape)}, got {tuple(indices.shape)}"
            )
        if features.shape[0] != indices.shape[0]:
            raise ValueError(
                f"SparseConvTensor: features and indices must have as many rows, got "
                f"{features.shape[0]} and {indices.shape[0]}"
            )
        if features.device != indices.device:
            raise TypeError(
                "SparseConvTensor: features and indices must be on one device, got "
                f"{features.device} "
                f"and {indices.device}"
            )
        self.features = features
        self.indices = _narrow(indices)
        self.spatial_shape = [int(n) for n in spatial_shape]
        self.batch_size = int(batch_size)
        self.indice_dict: dict[str, IndiceData] = {} if indice_dict is None else indice_dict
        self.grid = grid
        self.voxel_num = voxel_num
        self.benchmark = benchmark

    def __repr__(self) -> str:
        return (
            f"SparseConvTensor({self.features.shape[0]} sites, {self.features.shape[1]} channels, "
            f"spatial_shape={self.spatial_shape}, batch_size={self.batch_size}, "
            f"{self.features.dtype}, {self.features.device})"
        )

    @property
    def ndim(self) -> int:
        return len(self.spatial_shape)

    @property
    def spatial_size(self) -> int:
        return math.prod(self.spatial_shape)

    @property
    def sparity(self) -> float:
        """The share of cells that are active (spconv's spelling)."""
        return self.indices.shape[0] / (self.spatial_size * self.batch_size)

    def replace_feature(self, feature: Tensor) -> SparseConvTensor:
        """The same sites with other features (N, C')."""
        if feature.shape[0] != self.indices.shape[0]:
            raise ValueError(
                f"SparseConvTensor.replace_feature: feature must have {self.indices.shape[0]} "
                "rows, got "
                f"{tuple(feature.shape)}"
            )
        new = self.shadow_copy()
        new.features = feature
        return new

    def shadow_copy(self) -> SparseConvTensor:
        """A new tensor that shares everything with this one."""
        new = SparseConvTensor.__new__(SparseConvTensor)
        new.features = self.features
        new.indices = self.indices
        new.spatial_shape = self.spatial_shape
        new.batch_size = self.batch_size
        new.indice_dict = self.indice_dict
        new.grid = self.grid
        new.voxel_num = self.voxel_num
        new.benchmark = self.benchmark
        return new

    def demand_rows(self, name: str) -> None:
        """Raises ValueError in the name of a layer where `features` was assigned other rows than
        the sites have: an index out of bounds on CUDA ends the process."""
        if self.features.shape[0] != self.indices.shape[0]:
            raise ValueError(
                f"{name}: features and indices must have as many rows, got "
                f"{self.features.shape[0]} and {self.indices.shape[0]}"
            )

    def find_indice_pair(self, key: str | None) -> IndiceData | None:
        """The rulebook stored under an `indice_key`, or None."""
        return None if key is None else self.indice_dict.get(key)

    def __add__(self, other: SparseConvTensor | Tensor) -> SparseConvTensor:
        """Adds features row by row; for tensors of different sites use `AddTableMisaligned`."""
        return self.replace_feature(self.features + _features_of(other, self))

    __radd__ = __add__

    def minus(self) -> SparseConvTensor:
        """The same sites with the features negated."""
        return self.replace_feature(-self.features)

    def select_by_index(self, rows: Tensor) -> SparseConvTensor:
        """The sites of these rows (int64 indices or a bool mask); rulebooks are not kept."""
        return SparseConvTensor(
            self.features[rows], self.indices[rows], self.spatial_shape, self.batch_size
        )

    def select_batch(self, batch: int) -> SparseConvTensor:
        """Sample `batch` alone, as a tensor of batch size 1."""
        if not 0 <= batch < self.batch_size:
            raise ValueError(
                f"SparseConvTensor.select_batch: batch must be in [0, {self.batch_size}), got "
                f"{batch}"
            )
        rows = (self.indices[:, 0] == batch).nonzero().squeeze(1)
        indices = self.indices[rows]
        indices[:, 0] = 0
        return SparseConvTensor(self.features[rows], indices, self.spatial_shape, 1)

    def dense(self, channels_first: bool = True) -> Tensor:
        """The dense tensor with zeros at inactive cells: (batch, C, ...) or, with
        channels_first=False, (batch, ..., C). Differentiable."""
        shape = [self.batch_size, *self.spatial_shape]
        cell = self.indices[:, 0].long()
        for axis, length in enumerate(self.spatial_shape):
            cell = cell * length + self.indices[:, 1 + axis]
        flat = self.features.new_zeros((math.prod(shape), self.features.shape[1]))
        full = flat.index_put((cell,), self.features).view(*shape, self.features.shape[1])
        if not channels_first:
            return full
        return full.permute(0, self.ndim + 1, *range(1, self.ndim + 1)).contiguous()

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseConvTensor:
        """The cells of x (batch, ..., C), channels last, that hold a non-zero channel, in row-major
        order."""
        indices = (x.detach() != 0).any(-1).nonzero()
        features = x[tuple(indices.unbind(1))]
        return cls(features, indices.int(), list(x.shape[1:-1]), x.shape[0])


def _features_of(other: SparseConvTensor | Tensor, like: SparseConvTensor) -> Tensor:
    if not isinstance(other, SparseConvTensor):
        return other
    if other.indices is not like.indices and not torch.equal(other.indices, like.indices):
        raise ValueError(
            "SparseConvTensor: + needs tensors with the same sites in the same order; use "
            "AddTableMisaligned"
        )
    return other.features


def _narrow(indices: Tensor) -> Tensor:
    if indices.dtype == torch.int32:
        return indices
    if indices.numel() and bool((indices != indices.int()).any()):
        raise ValueError("SparseConvTensor: indices must fit int32; a coordinate passes 2^31 - 1")
    return indices.int()


def coalesce(x: SparseConvTensor, reduce: str = "sum") -> SparseConvTensor:
    """Merges the rows of equal sites; the result is in row-major order of its sites.

    Args:
        reduce: "sum", "mean", "max" or "first" (the row that comes first). Deterministic: the rows
            of a site are taken in their order.
    """
    if reduce not in ("sum", "mean", "max", "first"):
        raise ValueError(
            f'coalesce: reduce must be "sum", "mean", "max" or "first", got {reduce!r}'
        )
    indices, inverse, count = torch.unique(
        x.indices, dim=0, return_inverse=True, return_counts=True
    )
    order = torch.argsort(inverse, stable=True)
    start = torch.cumsum(count, 0) - count
    if reduce == "first":
        features = x.features[order[start]]
    else:
        features = torch.segment_reduce(x.features[order], reduce, lengths=count)
    return SparseConvTensor(features, indices.contiguous(), x.spatial_shape, x.batch_size)
