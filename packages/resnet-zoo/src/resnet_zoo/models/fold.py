"""Folding batch norms into the convolutions before them, for inference.

A norm in evaluation mode is y = (x - mean) * scale + bias with scale = weight / sqrt(var + eps),
one number a channel; so it is absorbed by the convolution's weights and a bias. Only what is
exactly such a norm is folded; what looks like one and is not is refused.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from .blocks import BasicBlock, Bottleneck
from .features import ResNetFeatures
from .resnet import ResNet

Trunk = TypeVar("Trunk", bound=ResNet | ResNetFeatures)
_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
# torchvision's, which is not imported here: fixed numbers, no parameters.
_FROZEN = ("torchvision.ops.misc", "FrozenBatchNorm2d")
_UNWRAP = "; cure: torch.nn.utils.parametrize.remove_parametrizations"


def folded_weights(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals `norm(conv(x))` in evaluation mode.

    Computed in float64 and rounded once to the convolution's dtype.
    """
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = shift * scale + (norm.bias.double() if norm.bias is not None else 0.0)
    return weight.detach().to(conv.weight.dtype), bias.detach().to(conv.weight.dtype)


def norm_pairs(model: ResNet | ResNetFeatures) -> Iterator[tuple[nn.Module, str, str]]:
    """(owner, name of a convolution, name of the norm right after it) through the whole model."""
    if isinstance(model.conv1, nn.Sequential):
        yield from _in_sequence(model.conv1)
        yield model, f"conv1.{len(model.conv1) - 1}", "bn1"
    else:
        yield model, "conv1", "bn1"
    for stage in model.stages:
        for block in stage:
            for number in (1, 2, 3):
                if hasattr(block, f"conv{number}"):
                    yield block, f"conv{number}", f"bn{number}"
            if isinstance(block.downsample, nn.Sequential):
                yield from _in_sequence(block.downsample)


def _in_sequence(parts: nn.Sequential) -> Iterator[tuple[nn.Module, str, str]]:
    for index, (part, after) in enumerate(itertools.pairwise(parts)):
        plain = isinstance(part, nn.Conv2d) and not isinstance(after, nn.Conv2d)
        if plain or is_batch_norm(after) or isinstance(after, _BatchNorm):
            yield parts, str(index), str(index + 1)


def fold_batchnorm(model: Trunk) -> Trunk:
    """A copy of `model` whose batch norms are gone; same outputs up to rounding.

    The copy is for inference only. Folding a folded model returns an equal copy. BatchNorm2d,
    SyncBatchNorm and torchvision's FrozenBatchNorm2d are folded; norms of another kind (GroupNorm)
    stay as they are.

    Raises ValueError, naming the module, for what cannot be folded without other results: a part in
    train mode (its norm depends on the batch), a norm without running statistics, subclasses of the
    norms, blocks and networks that change the forward, hooks, weight norms and other
    parametrizations; TypeError for another network.
    """
    if not isinstance(model, (ResNet, ResNetFeatures)):
        raise TypeError(
            "fold_batchnorm: model must be a ResNet or its features (of a wrapper, the module "
            f"inside), got {type(model).__module__}.{type(model).__name__}"
        )
    if model.training:
        raise ValueError(
            "fold_batchnorm: the model must be in evaluation mode, since a norm in train mode "
            "depends on its batch; cure: model.eval()"
        )
    if reason := _not_foldable(model):
        raise ValueError(f"fold_batchnorm: {reason}")
    folded = copy.deepcopy(model)
    for owner, conv_name, norm_name in norm_pairs(folded):
        conv, norm = owner.get_submodule(conv_name), owner.get_submodule(norm_name)
        if not is_batch_norm(norm):
            continue
        weight, bias = folded_weights(conv, norm)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        owner.register_module(norm_name, nn.Identity())
    return folded.requires_grad_(False).eval()


def is_batch_norm(norm: nn.Module) -> bool:
    """Whether `norm` is exactly a norm that can be folded."""
    kind = type(norm)
    return kind in _BATCH_NORMS or (kind.__module__, kind.__qualname__) == _FROZEN


def runs_as_written(module: nn.Module) -> bool:
    """Whether a module's call is its class's forward: no hooks, no forward of its own."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return not hooks and "forward" not in module.__dict__


def _not_foldable(model: ResNet | ResNetFeatures) -> str | None:
    """Why folding would change what the model computes, or None."""
    names = {id(module): name for name, module in model.named_modules()}
    blocks = [block for stage in model.stages for block in stage]
    sequences = [model.conv1, *(getattr(block, "downsample", None) for block in blocks)]
    for module in (model, *blocks, *(s for s in sequences if isinstance(s, nn.Sequential))):
        if not keeps_the_forward(module):
            name = names[id(module)] or "the model"
            return f"{name} ({type(module).__name__}) has hooks or a forward of its own"
    norms_of: dict[int, int] = {}
    for owner, conv_name, norm_name in norm_pairs(model):
        conv, norm = owner.get_submodule(conv_name), owner.get_submodule(norm_name)
        name = names.get(id(norm), norm_name)
        if norms_of.setdefault(id(conv), id(norm)) != id(norm):
            return f"{names.get(id(conv))} is one convolution in front of several norms"
        if not is_batch_norm(norm):
            if isinstance(norm, _BatchNorm):
                return f"{name} is a {type(norm).__name__}, which may do more than a batch norm"
            continue
        if norm.training:
            return f"{name} is in train mode, where a norm depends on its batch; cure: model.eval()"
        if norm.running_var is None:
            return f"{name} has no running statistics (track_running_stats=False)"
        if type(conv) is not nn.Conv2d:
            return (
                f"{names.get(id(conv), conv_name)} is a {type(conv).__name__}, not a plain Conv2d"
                + _UNWRAP * is_parametrized(conv)
            )
        for part in (conv, norm):
            if not runs_as_written(part):
                return f"{names.get(id(part))} has hooks or a forward of its own; cure: remove them"
    return None


def keeps_the_forward(module: nn.Module) -> bool:
    """Whether a network, block or sequence computes what its class does, subclassed or not."""
    if not runs_as_written(module):
        return False
    kind = type(module)
    if isinstance(module, nn.Sequential):
        return kind.forward is nn.Sequential.forward
    if isinstance(module, ResNetFeatures):
        return kind.forward is ResNetFeatures.forward
    if isinstance(module, ResNet):
        parts = ("forward", "forward_features", "forward_stem", "forward_head")
        return all(getattr(kind, part) is getattr(ResNet, part) for part in parts)
    return kind.forward in (BasicBlock.forward, Bottleneck.forward)
