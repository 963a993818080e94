"""A ResNet on oneDNN's fused convolutions: bias, residual add and ReLU inside the convolution.

torch carries these operators for its compiler (`torch.ops.mkldnn._convolution_pointwise`); called
directly they need no compilation. Weights are reordered once, for the input size given. The
operators are not public API: `unavailable` says why they cannot be used, and `optimize` checks the
outputs before it relies on them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.fold import fold_batchnorm, norm_pairs
from ..models.resnet import ResNet

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
        self.weight = conv.weight.detach().to(dtype).contiguous(memory_format=_LAYOUT)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.packed = False

    def _pack(self, x: Tensor) -> None:
        if not self.packed:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self.geometry, list(x.shape)
            )
            self.packed = True

    def __call__(self, x: Tensor, tail: str) -> Tensor:
        """tail(conv(x)); `tail` is "relu" or "none"."""
        self._pack(x)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, tail, [], ""
        )

    def add_relu_(self, x: Tensor, residual: Tensor) -> Tensor:
        """relu(conv(x) + residual), written into `residual`."""
        self._pack(x)
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            residual, x, self.weight, self.bias, *self.geometry, "add", 1.0, "relu", [], ""
        )


class FusedResNet(nn.Module):
    """Inference on the CPU: input (N, C, H, W) as the model's, output (N, num_classes) float32.

    Holds packed weights, which cannot be saved: keep the original model. Any input size works; the
    size of the first call is the fastest. Raises RuntimeError where `unavailable` gives a reason.
    """

    def __init__(self, model: ResNet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if reason := unavailable(dtype):
            raise RuntimeError(f"FusedResNet: {reason}")
        folded = fold_batchnorm(model)
        left = [norm for owner, _, norm in norm_pairs(folded) if not _gone(owner, norm)]
        if left:
            raise RuntimeError(f"FusedResNet: {left[0]} is not a batch norm and cannot be folded")
        self.dtype = dtype
        self.stem = _Convolution(folded.conv1, dtype)
        self.maxpool, self.avgpool = folded.maxpool, folded.avgpool
        self.fc = folded.fc.to(dtype)
        self.blocks = [
            (
                [_Convolution(block.get_submodule(name), dtype) for name in _convolutions(block)],
                None if block.downsample is None else _Convolution(block.downsample[0], dtype),
            )
            for block in folded.blocks()
        ]

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype, memory_format=_LAYOUT)
        x = self.maxpool(self.stem(x, "relu"))
        for convolutions, projection in self.blocks:
            out = x
            for convolution in convolutions[:-1]:
                out = convolution(out, "relu")
            residual = x if projection is None else projection(x, "none")
            x = convolutions[-1].add_relu_(out, residual)
        return self.fc(torch.flatten(self.avgpool(x), 1)).float()


def _gone(owner: nn.Module, norm: str) -> bool:
    return isinstance(owner.get_submodule(norm), nn.Identity)


def _convolutions(block: nn.Module) -> list[str]:
    return [name for name in ("conv1", "conv2", "conv3") if hasattr(block, name)]
