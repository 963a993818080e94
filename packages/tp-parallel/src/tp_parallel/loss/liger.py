"""The output layer and loss by Liger's fused linear cross entropy (Hsu et al., 2024, arXiv
2410.10989).

What ops.set_cuda_kernels("liger") chooses where it computes the same: the vocabulary on this rank
alone and without padding, and a weight gradient of the weight's own dtype (Liger rounds it to that;
the trainer's bfloat16 gradients are float32, and stay with this library). Never run on a device.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ..grid.axis import Axis
from .cross_entropy import LossTerms

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def function() -> Any:
    """Liger's autograd function; RuntimeError where it is missing or cannot sum in float32."""
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
    except ImportError as missing:
        raise RuntimeError(
            f"set_cuda_kernels: Liger is not installed ({missing}); pip install liger-kernel"
        ) from None
    if (
        "accum_dtype"
        not in inspect.signature(LigerFusedLinearCrossEntropyFunction.forward).parameters
    ):
        raise RuntimeError(
            "set_cuda_kernels: this liger-kernel cannot sum the weight's gradient in float32; "
            "install 0.6.3 or later"
        )
    return LigerFusedLinearCrossEntropyFunction


def serves(hidden: torch.Tensor, weight: torch.Tensor, terms: LossTerms, axis: Axis) -> bool:
    """Whether Liger's numbers for these operands are this library's."""
    own_gradient = not weight.requires_grad or weight.grad_dtype in (None, weight.dtype)
    whole = axis.size == 1 and terms.valid == len(weight)
    alike = hidden.dtype == weight.dtype and hidden.dtype in DTYPES
    return whole and alike and own_gradient and len(hidden) > 0


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, terms: LossTerms,
    reduction: str,
) -> torch.Tensor:  # fmt: skip
    """As vocab_parallel_linear_cross_entropy, of hidden [tokens, features], where `serves`. Waits
    for the device once: Liger reads the number of tokens.
    """
    loss = _Once.apply(function().apply(
        hidden, weight, target, None, None, terms.ignore_index, terms.z_loss,
        terms.label_smoothing, reduction, None, False, torch.float32,
    )[0])  # fmt: skip
    if reduction == "mean":  # no tokens: NaN, as in torch, where Liger says 0
        loss = loss / (target != terms.ignore_index).any()
    return loss


class _Once(torch.autograd.Function):
    """Passes a loss on, and one gradient back to it: Liger's backward scales the gradients that it
    has kept in place, and has no derivative.
    """

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        ctx.used = False
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        if ctx.used or torch.is_grad_enabled():  # enabled by create_graph=True
            raise RuntimeError(
                "vocab_parallel_linear_cross_entropy: Liger's loss takes one backward pass and has "
                "no second derivative; cure: compute the loss anew in place of retain_graph=True, "
                "and leave create_graph=True out"
            )
        ctx.used = True
        return grad
