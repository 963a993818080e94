"""Functions on sparse tensors, with spconv's names where it has one."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..geometry import row_major, site_key, sort_unique
from .tables import add_misaligned
from .tensor import SparseConvTensor


def sparse_add(*tens: SparseConvTensor) -> SparseConvTensor:
    """The sum of tensors of one grid and different sites. Where one of them has all sites, its rows
    and rulebooks are kept, so that an inverse layer can follow."""
    return add_misaligned(tens, "sparse_add")


sparse_add_hash_based = sparse_add


def voxel_to_point(
    x: SparseConvTensor, points: Tensor, batch: Tensor | None = None, nearest: bool = False
) -> Tensor:
    """Features (P, C) at points between the sites, by trilinear weights (any number of axes).

    Args:
        points: (P, ndim), floating, in cells: a site's centre is at its coordinates + 0.5. Axes in
            the order of the indices (z, y, x).
        batch: (P,) integer, the sample of each point; None for a batch of one.
        nearest: takes the cell that holds the point alone.

    The weights of the corners that are active are scaled to sum to 1; a point without an active
    corner gets zeros. Differentiable, the same bits in every run. Waits for the device.

    Raises: ValueError for shapes that do not fit, a site outside the grid or twice, a point of a
    sample that is not there; TypeError for a `batch` that is not of integers.
    """
    name, ndim = "voxel_to_point", x.ndim
    if points.ndim != 2 or points.shape[1] != ndim or not points.dtype.is_floating_point:
        raise ValueError(
            f"{name}: points must be floating point of shape (P, {ndim}), got {points.dtype} "
            f"{tuple(points.shape)}"
        )
    sample = _samples(name, x, points, batch)
    shape = [x.batch_size, *x.spatial_shape]
    keys = site_key(name, x.indices, x.batch_size, x.spatial_shape)
    keys, order = sort_unique(name, keys, x.indices, math.prod(shape))
    features = x.features
    if len(keys) == 0:
        return features.new_zeros((len(points), features.shape[1]))
    limits = torch.tensor(shape[1:], device=points.device)
    places = points.double() - (0.0 if nearest else 0.5)
    low = places.floor()
    rows, weights = [], []
    for corner in itertools.product((0,) if nearest else (0, 1), repeat=ndim):
        step = torch.tensor(corner, device=points.device)
        cell = low + step
        inside = ((cell >= 0) & (cell < limits)).all(1)
        key = row_major([sample, *torch.where(inside[:, None], cell, 0).long().unbind(1)], shape)
        place = torch.searchsorted(keys, key).clamp_(max=len(keys) - 1)
        part = torch.where(step.bool(), places - low, 1 - (places - low)).prod(1)
        weight = torch.ones_like(part) if nearest else part
        weights.append(torch.where(inside & (keys[place] == key), weight, 0))
        rows.append(order[place])
    whole = sum(weights).clamp(min=torch.finfo(torch.double).tiny)
    wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    total = wide.new_zeros((len(points), wide.shape[1]))
    for row, weight in zip(rows, weights, strict=True):
        # index_select: its gradient adds in the order of the rows, that of wide[row] in any
        total = total + (weight / whole).to(wide.dtype)[:, None] * wide.index_select(0, row)
    return total.to(features.dtype)


def _samples(name: str, x: SparseConvTensor, points: Tensor, batch: Tensor | None) -> Tensor:
    if batch is None:
        if x.batch_size != 1:
            raise ValueError(f"{name}: batch must name the sample of each point, got None")
        return torch.zeros(len(points), dtype=torch.int64, device=points.device)
    if batch.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: batch must be int32 or int64, got {batch.dtype}")
    if tuple(batch.shape) != (len(points),):
        raise ValueError(
            f"{name}: batch must have shape ({len(points)},), got {tuple(batch.shape)}"
        )
    outside = (batch < 0) | (batch >= x.batch_size)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"{name}: batch[{row}] is {int(batch[row])}, outside batch_size {x.batch_size}"
        )
    return batch.long()
