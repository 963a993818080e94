"""A ResNet on oneDNN's fused convolutions: bias, residual add and ReLU inside the convolution.

torch carries these operators for its compiler (`torch.ops.mkldnn._convolution_pointwise`); called
directly they need no compilation. Weights are reordered once, for the input size given. The
operators are not public API: `unavailable` says why they cannot be used, and `optimize` checks the
outputs before it relies on them. Only networks with every part in its place are taken (known.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.blocks import BasicBlock, Bottleneck
from ..models.features import ResNetFeatures
from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet
from .known import unknown_part

_LAYOUT = torch.channels_last
_NEEDED = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")


def unavailable(dtype: torch.dtype = torch.float32) -> str | None:
    """None if the fused operators can run here in `dtype`, else the reason."""
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    missing = [name for name in _NEEDED if not hasattr(torch.ops.mkldnn, name)]
    if missing:
        return f"torch {torch.__version__} has no mkldnn.{missing[0]}"
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN has no fast bfloat16 on this processor (it wants AVX-512)"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"oneDNN's fused convolutions do not take {dtype}"
    return None


class _Convolution:
    """One folded convolution with a fused tail; weights are packed at the first call."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        weight = conv.weight.detach().to(dtype).contiguous(memory_format=_LAYOUT)
        self.kept = weight, False  # in one attribute: several threads may make the first call
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)

    def _packed(self, x: Tensor) -> Tensor:
        weight, packed = self.kept
        if not packed:
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight, *self.geometry, list(x.shape)
            )
            self.kept = weight, True
        return weight

    def __call__(self, x: Tensor, tail: str) -> Tensor:
        """tail(conv(x)); `tail` is "relu" or "none"."""
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._packed(x), self.bias, *self.geometry, tail, [], ""
        )

    def add_relu_(self, x: Tensor, residual: Tensor) -> Tensor:
        """relu(conv(x) + residual), written into `residual`."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            residual, x, self._packed(x), self.bias, *self.geometry, "add", 1.0, "relu", [], ""
        )

    def __getstate__(self) -> dict[str, Any]:
        """Packed weights have no storage to copy: a copy packs its own at its first call."""
        weight, packed = self.kept
        plain = (weight.to_dense() if packed else weight).contiguous(memory_format=_LAYOUT)
        return {**self.__dict__, "kept": (plain, False)}


class _Block:
    """One residual block: its convolutions, its attention, its shortcut."""

    def __init__(self, block: BasicBlock | Bottleneck, dtype: torch.dtype) -> None:
        names = [name for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
        self.convolutions = [_Convolution(block.get_submodule(name), dtype) for name in names]
        self.attention = None if block.se is None else block.se.to(dtype)
        self.pool: nn.Module | None = None
        self.projection: _Convolution | None = None
        if block.downsample is not None:
            *pool, convolution, _ = block.downsample
            self.pool = pool[0] if pool else None
            self.projection = _Convolution(convolution, dtype)

    def __call__(self, x: Tensor, keep: bool) -> Tensor:
        """The block's output; written over `x` where that is its shortcut, unless it is kept."""
        out = x
        for convolution in self.convolutions[:-1]:
            out = convolution(out, "relu")
        residual = x
        if self.projection is not None:
            pooled = x if self.pool is None else self.pool(x)
            residual = self.projection(pooled.contiguous(memory_format=_LAYOUT), "none")
        elif keep:
            residual = x.clone(memory_format=_LAYOUT)
        if self.attention is None:
            return self.convolutions[-1].add_relu_(out, residual)
        out = self.attention(self.convolutions[-1](out, "none"))
        return torch.relu_(out.add_(residual)).contiguous(memory_format=_LAYOUT)


class FusedResNet(nn.Module):
    """Inference on the CPU: input (N, C, H, W) as the model's, output as the model's in float32.

    Of a ResNet: (N, num_classes); of a ResNetFeatures: the list of its maps. Holds packed weights:
    keep the original model. Any input size works; the size of the first call is the fastest. Raises
    RuntimeError where `unavailable` or `unknown_part` gives a reason, ValueError where the batch
    norms cannot be folded.
    """

    def __init__(self, model: ResNet | ResNetFeatures, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if reason := unavailable(dtype):
            raise RuntimeError(f"FusedResNet: {reason}")
        folded = fold_batchnorm(model)
        if reason := unknown_part(folded):
            raise RuntimeError(f"FusedResNet: {reason}")
        self.dtype = dtype
        stem = folded.conv1 if isinstance(folded.conv1, nn.Sequential) else [folded.conv1]
        self.stem = [_Convolution(part, dtype) for part in stem if isinstance(part, nn.Conv2d)]
        self.maxpool = folded.maxpool
        self.stages = [[_Block(block, dtype) for block in stage] for stage in folded.stages]
        self.taken: tuple[int, ...] | None = None
        if isinstance(folded, ResNetFeatures):
            self.taken = folded.out_indices
        else:
            self.avgpool, self.flat = folded.avgpool, folded.global_pool != ""
            self.fc = folded.fc.to(dtype)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        # One step after the other: torch's copy that does both at once takes twice as long.
        x = x.to(self.dtype).contiguous(memory_format=_LAYOUT)
        for convolution in self.stem:
            x = convolution(x, "relu")
        maps = [x]
        x = self.maxpool(x)
        for number, stage in enumerate(self.stages, start=1):
            for index, block in enumerate(stage):
                # A map that is returned must outlive the next block; so must an unpooled stem.
                kept = index == 0 and self.taken is not None and number - 1 in self.taken
                x = block(x, kept)
            maps.append(x)
        if self.taken is not None:
            return [maps[index].float() for index in self.taken]
        x = self.avgpool(x)
        return self.fc(torch.flatten(x, 1) if self.flat else x).float()
