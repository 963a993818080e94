"""Functions on sparse tensors, with spconv's names where it has one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..geometry import row_major, site_key
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
    corner gets zeros. Differentiable in the features. Waits for the device.

    Raises: ValueError for shapes that do not fit or a site outside the grid.
    """
    name, ndim = "voxel_to_point", x.ndim
    if points.ndim != 2 or points.shape[1] != ndim or not points.dtype.is_floating_point:
        raise ValueError(
            f"{name}: points must be floating point of shape (P, {ndim}), got {points.dtype} "
            f"{tuple(points.shape)}"
        )
    if batch is None and x.batch_size != 1:
        raise ValueError(f"{name}: batch must name the sample of each point, got None")
    sample = points.new_zeros(len(points)).long() if batch is None else batch.long()
    keys, order = site_key(name, x.indices, x.batch_size, x.spatial_shape).sort()
    shape = torch.tensor(x.spatial_shape, device=points.device)
    places = points.double() if nearest else points.double() - 0.5
    low = places.floor()
    inside_batch = (sample >= 0) & (sample < x.batch_size)
    features = x.features
    total = features.new_zeros((len(points), features.shape[1]))
    weights = features.new_zeros((len(points), 1))
    corners: Sequence[tuple[int, ...]] = (
        [(0,) * ndim] if nearest else list(itertools.product((0, 1), repeat=ndim))
    )
    for corner in corners:
        step = torch.tensor(corner, device=points.device)
        cell = low + step
        fits = ((cell >= 0) & (cell < shape)).all(1) & inside_batch
        weight = torch.where(step.bool(), places - low, 1 - (places - low)).prod(1)
        if nearest:
            weight = torch.ones_like(weight)
        safe = torch.where(fits[:, None], cell, 0).long()
        key = row_major([sample, *safe.unbind(1)], [x.batch_size, *x.spatial_shape])
        place = torch.searchsorted(keys, key).clamp_(max=max(len(keys) - 1, 0))
        if len(keys) == 0:
            continue
        fits &= keys[place] == key
        share = torch.where(fits, weight, 0).to(features.dtype)[:, None]
        total = total + share * features[order[place]]
        weights = weights + share
    return torch.where(weights > 0, total / weights.clamp(min=1e-12), 0)
