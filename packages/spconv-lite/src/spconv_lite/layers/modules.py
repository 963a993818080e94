"""Containers: what passes a SparseConvTensor from layer to layer."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .tensor import SparseConvTensor


class SparseModule(nn.Module):
    """A module that takes and gives SparseConvTensor: SparseSequential hands it all of it."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name


def _demand_rows(module: nn.Module, features: Tensor) -> None:
    """In a graph whose number of sites is not known: BatchNorm takes 2 rows to train and 1 to
    evaluate, and asks while it is traced. The graph raises where there are fewer."""
    if isinstance(module, _BatchNorm) and torch.compiler.is_compiling():
        torch._check(features.shape[0] >= (2 if module.training else 1))


class _OnFeatures:
    """Applies a module of torch to the features of a sparse tensor."""

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        _demand_rows(self, input.features)
        return input.replace_feature(super().forward(input.features))


class SparseSequential(SparseModule):
    """nn.Sequential for sparse tensors. Modules that are not sparse (BatchNorm1d, ReLU, Linear,
    ...) get the features (N, C); with no active site they are skipped, as in spconv (in a
    compiled graph they run: its number of sites is not known).

    Built from modules in order, from one OrderedDict, or from keyword arguments.
    """

    def __init__(self, *args: nn.Module | OrderedDict, **kwargs: nn.Module) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            named = list(args[0].items())
        else:
            named = [(str(place), module) for place, module in enumerate(args)]
        for name, module in (*named, *kwargs.items()):
            if name in self._modules:
                raise ValueError(f"SparseSequential: two modules are named {name!r}")
            self.add_module(name, module)

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, place: int) -> nn.Module:
        return list(self._modules.values())[place]

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Appends a module; its name defaults to its place."""
        self.add_module(str(len(self._modules)) if name is None else name, module)

    def forward(self, input: SparseConvTensor | Tensor) -> SparseConvTensor | Tensor:
        for module in self._modules.values():
            sparse = isinstance(module, SparseModule | _OnFeatures)
            if sparse or not isinstance(input, SparseConvTensor):
                input = module(input)
            elif torch.compiler.is_compiling() or input.features.shape[0] != 0:
                _demand_rows(module, input.features)
                input = input.replace_feature(module(input.features))
        return input


class ToDense(SparseModule):
    """SparseConvTensor to the dense tensor (batch, C, ...)."""

    def forward(self, input: SparseConvTensor) -> Tensor:
        return input.dense()


class RemoveGrid(SparseModule):
    """Forgets `grid`; kept for spconv's name."""

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        input.grid = None
        return input


class SparseBatchNorm(_OnFeatures, nn.BatchNorm1d):
    """nn.BatchNorm1d over the active sites."""


class SparseReLU(_OnFeatures, nn.ReLU):
    """nn.ReLU on the features."""


class SparseIdentity(_OnFeatures, nn.Identity):
    """nn.Identity."""
