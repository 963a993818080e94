"""Folding batch norms into the convolutions before them, for inference.

A norm in evaluation mode is y = (x - mean) * scale + bias with scale = weight / sqrt(var + eps),
one number a channel; so it is absorbed by the convolution's weights and a bias.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .resnet import ResNet


def folded_weights(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals `norm(conv(x))` in evaluation mode.

    Computed in float64 and rounded once to the convolution's dtype.
    """
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double()
    if norm.affine:
        scale = scale * norm.weight.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = shift * scale + (norm.bias.double() if norm.affine else 0.0)
    return weight.detach().to(conv.weight.dtype), bias.detach().to(conv.weight.dtype)


def norm_pairs(model: ResNet) -> Iterator[tuple[nn.Module, str, str]]:
    """(owner, name of a convolution, name of the norm right after it) through the whole model."""
    yield model, "conv1", "bn1"
    for block in model.blocks():
        for number in (1, 2, 3):
            if hasattr(block, f"conv{number}"):
                yield block, f"conv{number}", f"bn{number}"
        if block.downsample is not None:
            yield block.downsample, "0", "1"


def fold_batchnorm(model: ResNet) -> ResNet:
    """A copy of `model` whose batch norms are gone; same outputs up to rounding.

    The copy is for inference only. Folding a folded model returns an equal copy. Other norm layers
    stay as they are. Raises ValueError in train mode, where a norm depends on its batch, and for a
    norm without running statistics.
    """
    if model.training:
        raise ValueError(
            "fold_batchnorm: the model must be in evaluation mode, since a norm in train mode "
            "depends on its batch; cure: model.eval()"
        )
    folded = copy.deepcopy(model)
    for owner, conv_name, norm_name in norm_pairs(folded):
        conv, norm = owner.get_submodule(conv_name), owner.get_submodule(norm_name)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        if norm.running_var is None:
            raise ValueError(
                f"fold_batchnorm: {norm_name} has no running statistics (track_running_stats=False)"
            )
        weight, bias = folded_weights(conv, norm)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        owner.register_module(norm_name, nn.Identity())
    return folded.requires_grad_(False).eval()
