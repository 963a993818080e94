"""Pools over the active sites of each window, with spconv's names.

A window's maximum or mean is that of its active input sites alone: features that are all negative
give a negative maximum, and a mean is not diluted by cells that hold nothing. Inputs that share a
maximum share its gradient. spconv's maximum starts from zero, and each input that shares it takes
the whole gradient: `set_max_pool("spconv")` for networks that were trained so.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ..geometry import Rulebook
from ..kernels import ConvAlgo, ops
from .conv import VOXEL_COUNT
from .modules import SparseModule
from .rulebooks import build_indice_data
from .tensor import Size, SparseConvTensor, expand_nd

_SEMANTICS = ("sites", "spconv")
_semantics = "sites"


def set_max_pool(semantics: str) -> str:
    """What the local max pools compute from now on.

    Args:
        semantics: "sites", the maximum of the active sites of a window, its gradient shared by
            those that have it: the default. "spconv", the larger of that and zero, and the whole
            gradient for each site that has it: as spconv 2.x, for networks trained with it.

    Returns: the choice before. Raises: ValueError for another name.
    """
    global _semantics
    if semantics not in _SEMANTICS:
        raise ValueError(f"set_max_pool: takes one of {_SEMANTICS}, got {semantics!r}")
    before, _semantics = _semantics, semantics
    return before


def _max(features: Tensor, book: Rulebook, rows: int, volume: int) -> Tensor:
    return ops.max_pool(features, *book, rows, volume, _semantics == "spconv")


def _mean(features: Tensor, book: Rulebook, rows: int, volume: int) -> Tensor:
    """Sums in float32 as a depthwise convolution with ones, over the number of sites."""
    narrow = features.dtype in (torch.float16, torch.bfloat16)
    wide = features.float() if narrow else features
    with torch.autocast(features.device.type, enabled=False):
        channels = features.shape[1]
        ones = wide.new_ones((channels, volume, 1))
        sums = ops.conv(wide, ones, None, *book, rows, channels, False)
        one = wide.new_ones((features.shape[0], 1))
        count = ops.conv(one, ones[:1], None, *book, rows, 1, False)
    return (sums / count.clamp(min=1)).to(features.dtype)


_REDUCE = {"amax": _max, "mean": _mean}


class SparsePool(SparseModule):
    """What the local pools share; see SparseMaxPool3d.

    Args:
        kernel_size, padding, dilation: as for torch's pools.
        stride: None means kernel_size.
        indice_key: lets SparseInverseConv undo the pool.
        subm: keeps the input sites; stride and padding have no effect.
        record_voxel_count: keeps the largest number of output sites in a buffer of spconv's name.
        algo: taken for spconv's signature, and without effect.
    """

    _axes: ClassVar[int]
    _reduction: ClassVar[str]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        indice_key: str | None = None,
        algo: ConvAlgo | None = None,
        record_voxel_count: bool = False,
        name: str | None = None,
        subm: bool = False,
    ) -> None:
        super().__init__(name=name)
        self.ndim, self.indice_key, self.subm, self.algo = self._axes, indice_key, subm, algo
        self.kernel_size = expand_nd(self.ndim, kernel_size, "kernel_size")
        stride = self.kernel_size if stride is None else stride
        self.stride = expand_nd(self.ndim, stride, "stride")
        self.padding = expand_nd(self.ndim, padding, "padding")
        self.dilation = expand_nd(self.ndim, dilation, "dilation")
        self.record_voxel_count = record_voxel_count and not subm
        if self.record_voxel_count:
            self.register_buffer(VOXEL_COUNT, torch.zeros(1, dtype=torch.int32))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"

    def get_max_num_voxels(self) -> Tensor | None:
        """The buffer (1,) int32 of `record_voxel_count`, or None."""
        return getattr(self, VOXEL_COUNT) if self.record_voxel_count else None

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        """A SparseConvTensor with the same channels; raises ValueError for a key that is taken."""
        name = type(self).__name__
        input._demand_form(name)
        if input.ndim != self.ndim:
            raise ValueError(
                f"{name}: input must have {self.ndim} spatial axes, got {input.spatial_shape}"
            )
        if input.find_indice_pair(self.indice_key) is not None:
            raise ValueError(
                f"{name}: indice_key {self.indice_key!r} is taken; give this pool its own"
            )
        none = [0] * self.ndim
        data = build_indice_data(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            none,
            self.subm,
            False,
        )
        rows, volume = data.out_indices.shape[0], math.prod(self.kernel_size)
        features = _REDUCE[self._reduction](input.features, data.rulebook, rows, volume)
        out = input.with_sites(features, data.out_indices, data.out_spatial_shape, known=True)
        out.indice_dict = dict(input.indice_dict)
        if self.indice_key is not None:
            data.remember_sites()
            out.indice_dict[self.indice_key] = data
        if self.record_voxel_count:
            getattr(self, VOXEL_COUNT).clamp_(min=rows)
        return out


class SparseGlobalPool(SparseModule):
    """All sites of a sample become one row (batch_size, C); zeros for a sample without sites.
    Raises ValueError for a site outside the grid."""

    _reduction: ClassVar[str]

    def forward(self, input: SparseConvTensor) -> Tensor:
        input.check_sites(type(self).__name__)
        batch, order = input.indices[:, 0].sort(stable=True)
        ends = torch.searchsorted(
            batch, torch.arange(1, input.batch_size + 1, device=batch.device, dtype=batch.dtype)
        )
        count = ends.diff(prepend=ends.new_zeros(1))
        rows = input.features[order]
        narrow = rows.dtype in (torch.float16, torch.bfloat16)
        wide = rows.float() if narrow else rows
        pooled = torch.segment_reduce(wide, self._reduction, lengths=count)
        return torch.where(count[:, None] > 0, pooled, 0).to(rows.dtype)


class SparseGlobalMaxPool(SparseGlobalPool):
    """The maximum over the sites of each sample: (batch_size, C)."""

    _reduction = "max"


class SparseGlobalAvgPool(SparseGlobalPool):
    """The mean over the sites of each sample: (batch_size, C)."""

    _reduction = "mean"


class SparseMaxPool1d(SparsePool):
    """The maximum over the active sites of each window, over 1 axis; see SparsePool."""

    _axes, _reduction = 1, "amax"


class SparseMaxPool2d(SparsePool):
    """The maximum over the active sites of each window, over 2 axes; see SparsePool."""

    _axes, _reduction = 2, "amax"


class SparseMaxPool3d(SparsePool):
    """The maximum over the active sites of each window, over 3 axes; see SparsePool."""

    _axes, _reduction = 3, "amax"


class SparseMaxPool4d(SparsePool):
    """The maximum over the active sites of each window, over 4 axes; see SparsePool."""

    _axes, _reduction = 4, "amax"


class SparseAvgPool1d(SparsePool):
    """The mean over the active sites of each window, over 1 axis; see SparsePool."""

    _axes, _reduction = 1, "mean"


class SparseAvgPool2d(SparsePool):
    """The mean over the active sites of each window, over 2 axes; see SparsePool."""

    _axes, _reduction = 2, "mean"


class SparseAvgPool3d(SparsePool):
    """The mean over the active sites of each window, over 3 axes; see SparsePool."""

    _axes, _reduction = 3, "mean"


class SparseAvgPool4d(SparsePool):
    """The mean over the active sites of each window, over 4 axes; see SparsePool."""

    _axes, _reduction = 4, "mean"
