"""Modules that branch, join and add sparse tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..geometry import site_key, sort_keys
from .modules import SparseModule
from .tensor import SparseConvTensor, demand_channels, same_sites


def _demand_some(name: str, tensors: Sequence[SparseConvTensor]) -> None:
    if len(tensors) == 0:
        raise ValueError(f"{name}: there must be at least one tensor, got none")


def _demand_same_sites(name: str, tensors: Sequence[SparseConvTensor]) -> None:
    _demand_some(name, tensors)
    for other in tensors[1:]:
        if not same_sites(other, tensors[0]):
            raise ValueError(
                f"{name}: the tensors must have the same sites in the same order; use "
                f"{name}Misaligned for tensors of different sites"
            )


def _demand_one_grid(name: str, tensors: Sequence[SparseConvTensor]) -> None:
    _demand_some(name, tensors)
    first = tensors[0]
    for other in tensors[1:]:
        if other.spatial_shape != first.spatial_shape or other.batch_size != first.batch_size:
            raise ValueError(
                f"{name}: the tensors must have one spatial_shape and batch_size, got "
                f"{first.spatial_shape}, {first.batch_size} and {other.spatial_shape}, "
                f"{other.batch_size}"
            )


def union_of_sites(
    name: str, tensors: Sequence[SparseConvTensor]
) -> tuple[SparseConvTensor, list[Tensor]]:
    """A tensor that has every site that one of these has, and for each of these the rows (N_i,)
    int64 of its sites in it.

    Where one of the tensors has all sites, the result is a shadow of the first such, its rows and
    rulebooks included, so that an inverse layer can follow; else the sites are in row-major order.

    Raises: ValueError for tensors of different grids, sites outside the grid or twice in a tensor.
    """
    _demand_one_grid(name, tensors)
    first, keys = tensors[0], []
    for x in tensors:
        x.demand_rows(name)
        keys.append(site_key(name, x.indices, x.batch_size, x.spatial_shape))
    tensor_of = torch.cat([torch.full_like(key, i) for i, key in enumerate(keys)])
    ordered, place = sort_keys(torch.cat(keys), first.batch_size * first.spatial_size)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    owner = tensor_of[place]
    if bool((~fresh[1:] & (owner[1:] == owner[:-1])).any()):  # equal keys are in order of tensors
        raise ValueError(
            f"{name}: a tensor has a site twice; merge duplicates with spconv_lite.coalesce"
        )
    joined = torch.empty_like(place)
    joined[place] = fresh.cumsum(0) - 1
    rows = list(joined.split([len(key) for key in keys]))
    sites = place[fresh]
    for x, mine in zip(tensors, rows, strict=True):
        if len(mine) == len(sites):
            row = torch.empty_like(mine)
            row[mine] = torch.arange(len(mine), device=mine.device)
            return x.shadow_copy(), [row[other] for other in rows]
    total = SparseConvTensor(
        first.features.new_empty((len(sites), 0)),
        torch.cat([x.indices for x in tensors])[sites],
        first.spatial_shape,
        first.batch_size,
    )
    total.mark_checked()
    return total, rows


def _wide(features: Tensor) -> Tensor:
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def add_misaligned(
    tensors: Sequence[SparseConvTensor], name: str = "AddTableMisaligned"
) -> SparseConvTensor:
    """The sum of tensors of one grid and different sites; see `union_of_sites` for its sites.
    float16 and bfloat16 are summed in float32. Differentiable, and the same bits in every run."""
    demand_channels(name, tensors)
    total, rows = union_of_sites(name, tensors)
    dtype = tensors[0].features.dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.features.dtype)
    wide = _wide(tensors[0].features.new_zeros((), dtype=dtype)).dtype
    sums = tensors[0].features.new_zeros(
        (total.indices.shape[0], tensors[0].features.shape[1]), dtype=wide
    )
    for x, mine in zip(tensors, rows, strict=True):
        sums.index_add_(0, mine, x.features.to(wide))
    return total.replace_feature(sums.to(dtype))


class JoinTable(SparseModule):
    """Joins the channels of tensors with the same sites."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        _demand_same_sites("JoinTable", input)
        return input[0].replace_feature(torch.cat([x.features for x in input], 1))

    def input_spatial_size(self, out_size: Any) -> Any:
        """spconv's: the size is unchanged."""
        return out_size


class JoinTableMisaligned(SparseModule):
    """Joins the channels of tensors of one grid and different sites, zeros where a tensor lacks
    a site; see `union_of_sites` for the sites of the result."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        total, rows = union_of_sites("JoinTableMisaligned", input)
        parts = [
            x.features.new_zeros((total.indices.shape[0], x.features.shape[1])).index_copy(
                0, mine, x.features
            )
            for x, mine in zip(input, rows, strict=True)
        ]
        return total.replace_feature(torch.cat(parts, 1))


class AddTable(SparseModule):
    """Adds the features of tensors with the same sites."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        _demand_same_sites("AddTable", input)
        demand_channels("AddTable", input)
        total = input[0].features
        for other in input[1:]:
            total = total + other.features
        return input[0].replace_feature(total)

    def input_spatial_size(self, out_size: Any) -> Any:
        """spconv's: the size is unchanged."""
        return out_size


class AddTableMisaligned(SparseModule):
    """Adds tensors of one grid and different sites: the result has every site that one of them
    has. Where one has them all, its rows and rulebooks are kept; else rows are in row-major order
    and no rulebook is."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        return add_misaligned(input)

    def input_spatial_size(self, out_size: Any) -> Any:
        """spconv's: the size is unchanged."""
        return out_size


class ConcatTable(SparseModule):
    """Gives its input to every module and returns the list of their outputs."""

    def add(self, module: nn.Module) -> ConcatTable:
        """Appends a branch; returns itself."""
        self.add_module(str(len(self._modules)), module)
        return self

    def forward(self, input: SparseConvTensor) -> list[Any]:
        return [module(input) for module in self._modules.values() if module is not None]

    def input_spatial_size(self, out_size: Any) -> Any:
        """spconv's: that of the first branch."""
        return self._modules["0"].input_spatial_size(out_size)  # type: ignore[union-attr,operator]


class SparsePruning(SparseModule):
    """Keeps the sites that a mask says: what follows a generative transposed convolution."""

    def forward(self, input: SparseConvTensor, keep: Tensor) -> SparseConvTensor:
        """keep: bool (N,), one a site. Rulebooks are not kept."""
        if keep.dtype != torch.bool or tuple(keep.shape) != (input.indices.shape[0],):
            raise ValueError(
                f"SparsePruning: keep must be bool of shape ({input.indices.shape[0]},), got "
                f"{keep.dtype} {tuple(keep.shape)}"
            )
        return input.select_by_index(keep)
