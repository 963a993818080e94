"""Sites as keys: the one place where coordinates become numbers, and are checked.

The key of a site is its place in the dense array (batch, spatial_shape...), int64. A coordinate
outside the grid would be the key of another cell, or of another sample: `site_key` refuses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from .. import _C

MOST_CELLS = 2**63 - 1  # of a batch: a key is an int64


def row_major(columns: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """The place of each cell in an array of `shape`, int64; `columns` are its coordinates, one
    vector an axis, which the caller has checked."""
    index = columns[0].long()
    for axis in range(1, len(shape)):
        index = index * shape[axis] + columns[axis]
    return index


def sites_of(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Indices int32 (N, 1 + ndim) of the sites with these keys: `site_key` undone."""
    columns = []
    for length in reversed(shape):
        columns.append(keys % length)
        keys = keys.div(length, rounding_mode="floor")
    return torch.stack([keys, *reversed(columns)], 1).int()


def outside_grid(indices: Tensor, batch_size: int, shape: Sequence[int]) -> Tensor:
    """Which rows (N,) of the indices (N, 1 + ndim) lie outside the batch or the grid."""
    limits = torch.tensor([batch_size, *shape], device=indices.device)
    return ((indices < 0) | (indices >= limits)).any(1)


def _kernels_take(tensor: Tensor) -> bool:
    """Whether the compiled functions may read a tensor: on the CPU, and real."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return type(tensor) is Tensor and tensor.is_cpu


def sort_keys(key: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Keys (N,) int64 in [0, limit) in order, and the row that each had (N,) int64; equal keys stay
    in the order of their rows."""
    if not _kernels_take(key):
        return key.sort(stable=True)
    ordered, rows = torch.empty_like(key), torch.empty_like(key)
    _C.sort_keys(key.contiguous(), limit, ordered, rows)
    return ordered, rows


def site_key(name: str, indices: Tensor, batch_size: int, shape: Sequence[int]) -> Tensor:
    """The key (N,) int64 of each row of indices (N, 1 + ndim). Waits for the device.

    Raises: ValueError in the name of the caller for a row outside the grid, or a grid whose cells
    int64 does not number.
    """
    if batch_size * math.prod(shape) > MOST_CELLS:
        raise ValueError(
            f"{name}: batch_size {batch_size} and spatial_shape {tuple(shape)} have more than "
            "2^63 - 1 cells; use larger voxels"
        )
    if _kernels_take(indices) and indices.dtype is torch.int32:
        key = indices.new_empty((indices.shape[0],), dtype=torch.int64)
        row = _C.site_keys(indices.contiguous(), batch_size, list(shape), key)
        if row >= 0:
            raise_outside(name, indices, row, batch_size, shape)
        return key
    outside = outside_grid(indices, batch_size, shape)
    if bool(outside.any()):
        raise_outside(name, indices, int(outside.nonzero()[0]), batch_size, shape)
    return row_major(indices.unbind(1), [batch_size, *shape])


def check_sites(name: str, indices: Tensor, batch_size: int, shape: Sequence[int]) -> None:
    """Raises ValueError in the name of the caller for a row outside the grid, or the second row of
    a site. Waits for the device; not in a graph that is traced, where only rulebooks check their
    sites."""
    if not torch.compiler.is_compiling():
        key = site_key(name, indices, batch_size, shape)
        sort_unique(name, key, indices, batch_size * math.prod(shape))


def sort_unique(name: str, key: Tensor, indices: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """`sort_keys` of the keys of indices; raises ValueError in the name of the caller if two rows
    have one key."""
    ordered, rows = sort_keys(key, limit)
    again = (ordered[1:] == ordered[:-1]).nonzero()
    if len(again):
        raise_duplicate(name, indices, int(rows[1:][again[:, 0]].min()))
    return ordered, rows


def raise_outside(
    name: str, indices: Tensor, row: int, batch_size: int, shape: Sequence[int]
) -> NoReturn:
    """Says which row of the indices lies outside the grid."""
    raise ValueError(
        f"{name}: indices row {row} is {tuple(indices[row].tolist())}, outside batch_size "
        f"{batch_size} and spatial_shape {tuple(shape)}; drop such points or enlarge the grid"
    )


def raise_duplicate(name: str, indices: Tensor, row: int) -> NoReturn:
    """Says which earlier row of the indices has the site of this one."""
    earlier = int((indices == indices[row]).all(1).nonzero()[0])
    raise ValueError(
        f"{name}: indices rows {earlier} and {row} are both {tuple(indices[row].tolist())}; a site "
        "may occur once: merge duplicates with spconv_lite.coalesce"
    )
