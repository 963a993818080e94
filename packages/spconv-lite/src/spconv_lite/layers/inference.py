"""Inference in one pass: a convolution with the BatchNorm behind it and a ReLU behind that. The
kernel ends the sums of a row while they are in a cache; apart, each costs a pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

from ..kernels.norm import Norm
from ..kernels.table import merges


class Followers(NamedTuple):
    """The first `count` modules behind a layer, as what they make of its sums: the BatchNorm
    `norm`, and at least zero where `rectified`."""

    norm: Norm
    rectified: bool
    count: int


def followers_of(
    layer: nn.Module, features: Tensor, modules: Sequence[nn.Module]
) -> Followers | None:
    """The BatchNorm1d, and the ReLU behind it, that lead `modules` behind a convolution of
    `features` (N, C). None where there is no such BatchNorm, or where somebody would see the
    difference: gradients, tangents, hooks, a trace, a forward put in place of a module's own, other
    kernels, another dtype."""
    norm = modules[0] if modules else None
    if type(norm) is not nn.BatchNorm1d or not _may_merge(layer, norm, features):
        return None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    followed = Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    rectified = len(modules) > 1 and type(modules[1]) is nn.ReLU and not _is_watched(modules[1])
    return Followers(followed, rectified, 2 if rectified else 1)


def _may_merge(layer: nn.Module, norm: nn.BatchNorm1d, features: Tensor) -> bool:
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return False
    device, weight = features.device.type, layer.weight
    mean, variance = norm.running_mean, norm.running_var
    if torch.is_autocast_enabled(device) or not merges(device, features.dtype):
        return False
    if norm.training or mean is None or variance is None or mean.shape[0] != weight.shape[0]:
        return False
    tensors = (features, *layer.parameters(), *norm.parameters(), mean, variance)
    if features.shape[0] == 0 or any(
        t.dtype is not features.dtype or t.device != features.device for t in tensors
    ):
        return False
    if any(type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return False
    return not _is_watched(layer) and not _is_watched(norm)


def _is_watched(module: nn.Module) -> bool:
    """Whether a hook waits for what the module gives or gets, or another forward than its class's
    makes it."""
    watchers = (
        module._forward_hooks,
        module._forward_pre_hooks,
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
    )
    return any(watchers) or "forward" in vars(module)
