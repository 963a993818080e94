"""Modules that branch, join and add sparse tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .modules import SparseModule
from .tensor import SparseConvTensor, coalesce


def _check_same_sites(name: str, tensors: Sequence[SparseConvTensor]) -> None:
    first = tensors[0]
    for other in tensors[1:]:
        same = other.spatial_shape == first.spatial_shape and other.batch_size == first.batch_size
        if not same or (
            other.indices is not first.indices and not torch.equal(other.indices, first.indices)
        ):
            raise ValueError(
                f"{name}: the tensors must have the same sites in the same order; use "
                "AddTableMisaligned "
                "to add tensors of different sites"
            )


class JoinTable(SparseModule):
    """Joins the channels of tensors with the same sites."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        _check_same_sites("JoinTable", input)
        return input[0].replace_feature(torch.cat([x.features for x in input], 1))


class AddTable(SparseModule):
    """Adds the features of tensors with the same sites."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        _check_same_sites("AddTable", input)
        total = input[0].features
        for other in input[1:]:
            total = total + other.features
        return input[0].replace_feature(total)


class AddTableMisaligned(SparseModule):
    """Adds tensors of one shape and different sites: the result has every site that one of them
    has, in row-major order. Rulebooks are not kept."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        first = input[0]
        for other in input[1:]:
            if other.spatial_shape != first.spatial_shape or other.batch_size != first.batch_size:
                raise ValueError(
                    "AddTableMisaligned: the tensors must have one spatial_shape and batch_size, "
                    "got "
                    f"{first.spatial_shape}, {first.batch_size} and {other.spatial_shape}, "
                    f"{other.batch_size}"
                )
        return coalesce(
            SparseConvTensor(
                torch.cat([x.features for x in input]),
                torch.cat([x.indices for x in input]),
                first.spatial_shape,
                first.batch_size,
            )
        )


class ConcatTable(SparseModule):
    """Gives its input to every module and returns the list of their outputs."""

    def add(self, module: nn.Module) -> ConcatTable:
        """Appends a branch; returns itself."""
        self.add_module(str(len(self._modules)), module)
        return self

    def forward(self, input: SparseConvTensor) -> list[SparseConvTensor]:
        return [module(input) for module in self._modules.values()]
