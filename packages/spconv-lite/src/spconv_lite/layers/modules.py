"""Containers: what passes a SparseConvTensor from layer to layer."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .tensor import SparseConvTensor


class SparseModule(nn.Module):
    """A module that takes and gives SparseConvTensor: SparseSequential hands it all of it."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self._sparse_unique_name = ""

    def with_followers(
        self, input: SparseConvTensor, modules: Sequence[nn.Module]
    ) -> tuple[SparseConvTensor, int] | None:
        """The output after the first of `modules`, the modules behind this one, and how many these
        are; None where each is to be called by itself."""
        return None


def is_spconv_module(module: object) -> bool:
    """Whether SparseSequential hands a module the sparse tensor, not its features."""
    return isinstance(module, SparseModule | _OnFeatures)


def is_sparse_conv(module: object) -> bool:
    """Whether a module is a sparse convolution of any kind."""
    return isinstance(module, SparseModule) and hasattr(module, "conv1x1")


def assign_name_for_sparse_modules(module: nn.Module) -> None:
    """Tells every sparse module its path in `module`, as spconv does for its timers."""
    for name, part in module.named_modules():
        if isinstance(part, SparseModule):
            part._sparse_unique_name = name


def _demand_rows(module: nn.Module, features: Tensor) -> None:
    """In a graph whose number of sites is not known: BatchNorm takes 2 rows to train and 1 to
    evaluate, and asks while it is traced. The graph raises where there are fewer."""
    if isinstance(module, _BatchNorm) and torch.compiler.is_compiling():
        torch._check(features.shape[0] >= (2 if module.training else 1))


def apply_to_features(
    call: Callable[[Tensor], Tensor], features: Tensor, module: nn.Module
) -> Tensor:
    """`call`, which is `module` or its forward, on the features (N, C). With no site a BatchNorm
    anywhere in it keeps its statistics, and all parameters get zero gradients: every rank of a
    data-parallel network then has the same gradients to exchange."""
    _demand_rows(module, features)
    if torch.compiler.is_compiling() or features.shape[0] != 0:
        return call(features)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    norms = [m for m in norms if not isinstance(m, nn.SyncBatchNorm)]  # its ranks wait for it
    for norm in norms:
        norm.training = False
    try:
        return call(features)
    finally:
        for norm in norms:
            norm.training = True


class _OnFeatures(nn.Module):
    """Applies a module of torch to the features of a sparse tensor; a dense tensor passes to the
    module as it is."""

    def forward(self, input: SparseConvTensor | Tensor) -> SparseConvTensor | Tensor:
        if not isinstance(input, SparseConvTensor):
            return super().forward(input)
        return input.replace_feature(apply_to_features(super().forward, input.features, self))


class SparseSequential(SparseModule):
    """nn.Sequential for sparse tensors. Modules that are not sparse (BatchNorm1d, ReLU, Linear,
    ...) get the features (N, C), also where N is 0 (a BatchNorm then keeps its statistics).

    Built from modules in order, from one OrderedDict, or from keyword arguments.
    """

    def __init__(self, *args: Any, **kwargs: nn.Module) -> None:
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
        return list(self._modules.values())[place]  # type: ignore[return-value]

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Appends a module; its name defaults to its place."""
        name = str(len(self._modules)) if name is None else name
        if name in self._modules:
            raise ValueError(f"SparseSequential: two modules are named {name!r}")
        self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        modules = [module for module in self._modules.values() if module is not None]
        done = 0
        for place, module in enumerate(modules):
            if place < done:
                continue
            sparse = isinstance(input, SparseConvTensor)
            if sparse and isinstance(module, SparseModule):
                merged = module.with_followers(input, modules[place + 1 : place + 3])
                if merged is not None:
                    input, done = merged[0], place + 1 + merged[1]
                    continue
            if is_spconv_module(module) or not sparse:
                input = module(input)
            else:
                input = input.replace_feature(apply_to_features(module, input.features, module))
        return input


class Identity(nn.Module):
    """Gives back what it gets; spconv's name."""

    def forward(self, input: Any) -> Any:
        return input

    def input_spatial_size(self, out_size: Any) -> Any:
        """spconv's: the size is unchanged."""
        return out_size


class ToDense(SparseModule):
    """SparseConvTensor to the dense tensor (batch, C, ...)."""

    def forward(self, input: SparseConvTensor) -> Tensor:
        return input.dense()


class RemoveGrid(SparseModule):
    """Forgets `grid`; kept for spconv's name."""

    def forward(self, input: SparseConvTensor) -> SparseConvTensor:
        input.grid = None
        return input


class PrintTensorMeta(nn.Module):
    """Prints minimum, maximum and mean of the features, and passes its input on."""

    def forward(self, x: SparseConvTensor | Tensor) -> SparseConvTensor | Tensor:
        features = x.features if isinstance(x, SparseConvTensor) else x
        print(features.min(), features.max(), features.mean())
        return x


class PrintCurrentTime(nn.Module):
    """Prints the seconds since it was made or reset, and passes its input on."""

    def __init__(self) -> None:
        super().__init__()
        self.first_time = time.time()

    def forward(self, x: Any, msg: str = "", reset: bool = False) -> Any:
        if reset:
            self.first_time = time.time()
        print(msg, time.time() - self.first_time)
        return x


class SparseBatchNorm(_OnFeatures, nn.BatchNorm1d):
    """nn.BatchNorm1d over the active sites."""


class SparseSyncBatchNorm(_OnFeatures, nn.SyncBatchNorm):
    """nn.SyncBatchNorm over the active sites of all processes."""


class SparseReLU(_OnFeatures, nn.ReLU):
    """nn.ReLU on the features."""


class SparseIdentity(_OnFeatures, nn.Identity):
    """nn.Identity."""
