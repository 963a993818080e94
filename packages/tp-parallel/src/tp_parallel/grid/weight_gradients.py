"""Weight gradients that a schedule can put off.

A zero-bubble schedule (Qi et al., 2023, arXiv 2401.10241) splits the backward pass: the input
gradient at once, since the previous stage waits for it, the weight gradient when there is time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


class WeightGradients:
    """Weight-gradient work put off by a zero-bubble schedule, to be run in its own slot.

    While `recording` is a list, the backward of a parallel linear layer appends its weight-gradient
    product to it instead of running it.
    """

    def __init__(self) -> None:
        self.recording: list[Callable[[], None]] | None = None


def weight_gradient(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, deferred: WeightGradients
) -> torch.Tensor | None:
    """grad^T x over all leading dimensions; None if a schedule has put it off."""
    grad, x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    if deferred.recording is None:
        return grad.t().matmul(x)

    @torch.no_grad()
    def later() -> None:
        if weight.grad is None:
            weight.grad = grad.t().matmul(x).to(weight.grad_dtype or weight.dtype)
        elif weight.grad.dtype == x.dtype:
            weight.grad.addmm_(grad.t(), x)
        else:
            weight.grad += grad.t().matmul(x)

    deferred.recording.append(later)
    return None
