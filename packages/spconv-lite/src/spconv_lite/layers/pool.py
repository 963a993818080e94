"""Pools over the active sites of each window, with spconv's names.

A window's maximum or mean is that of its active input sites alone: features that are all negative
give a negative maximum, and a mean is not diluted by cells that hold nothing. Inputs that share a
maximum share its gradient. On CUDA, means (and gradients of shared maxima) are added by atomics, as
torch's scatter_reduce does: their last bits may differ from run to run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..geometry import pair_rows
from .conv import _expand, _Size, build_indice_data
from .modules import SparseModule
from .tensor import SparseConvTensor


def _reduce(features: Tensor, rows_out: Tensor, out_rows: int, reduce: str) -> Tensor:
    """Rows of features with one output row, reduced; zeros where there is none. Sums in float32."""
    narrow = features.dtype in (torch.float16, torch.bfloat16) and reduce == "mean"
    wide = features.float() if narrow else features
    index = rows_out[:, None].expand(-1, features.shape[1])
    out = wide.new_zeros((out_rows, features.shape[1]))
    return out.scatter_reduce(0, index, wide, reduce, include_self=False).to(features.dtype)


class SparsePool(SparseModule):
    """What the local pools share; see SparseMaxPool3d.

    Args:
        kernel_size, padding, dilation: as for torch's pools.
        stride: None means kernel_size.
        indice_key: lets SparseInverseConv undo the pool.
        subm: keeps the input sites; stride and padding have no effect.
        algo, record_voxel_count: taken for spconv's signature, and without effect.
    """

    _axes: int
    _reduction: str

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        dilation: _Size = 1,
        indice_key: str | None = None,
        algo: object = None,
        record_voxel_count: bool = False,
        name: str | None = None,
        subm: bool = False,
    ) -> None:
        super().__init__(name=name)
        self.ndim, self.indice_key, self.subm = self._axes, indice_key, subm
        self.kernel_size = _expand("kernel_size", kernel_size, self.ndim)
        self.stride = _expand("stride", self.kernel_size if stride is None else stride, self.ndim)
        self.padding = _expand("padding", padding, self.ndim)
        self.dilation = _expand("dilation", dilation, self.ndim)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        """A SparseConvTensor with the same channels; raises ValueError for a key that is taken."""
        input.demand_rows(type(self).__name__)
        if input.find_indice_pair(self.indice_key) is not None:
            raise ValueError(
                f"{type(self).__name__}: indice_key {self.indice_key!r} is taken; give this pool "
                "its own"
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
        rows_in, rows_out = pair_rows(data.rulebook, math.prod(self.kernel_size))
        out = input.shadow_copy()
        sites = data.out_indices.shape[0]
        out.features = _reduce(input.features[rows_in], rows_out, sites, self._reduction)
        out.indices, out.spatial_shape = data.out_indices, data.out_spatial_shape
        out.indice_dict = dict(input.indice_dict)
        if self.indice_key is not None:
            out.indice_dict[self.indice_key] = data
        return out


class SparseGlobalPool(SparseModule):
    """All sites of a sample become one row (batch_size, C); zeros for a sample without sites."""

    _reduction: str

    def forward(self, input: SparseConvTensor) -> Tensor:
        batch = input.indices[:, 0].long()
        return _reduce(input.features, batch, input.batch_size, self._reduction)


class SparseGlobalMaxPool(SparseGlobalPool):
    """The maximum over the sites of each sample: (batch_size, C)."""

    _reduction = "amax"


class SparseGlobalAvgPool(SparseGlobalPool):
    """The mean over the sites of each sample: (batch_size, C)."""

    _reduction = "mean"


class SparseMaxPool1d(SparsePool):
    """The maximum over the active sites of each window, over 1 axes; see SparsePool."""

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
    """The mean over the active sites of each window, over 1 axes; see SparsePool."""

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
