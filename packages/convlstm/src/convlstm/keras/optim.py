"""Adam with Keras' placement of epsilon, so that training curves can be compared."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class KerasAdam(torch.optim.Optimizer):
    """Adam as Keras 3 computes it: p -= lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps).

    torch adds its epsilon after the bias correction of v, Keras before it; the defaults differ too
    (lr 1e-3 in both, eps 1e-7 here, 1e-8 in torch).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= b < 1 for b in betas):
            raise ValueError(
                f"KerasAdam: lr and eps must not be negative and betas lie in [0, 1), "
                f"got lr {lr}, eps {eps}, betas {betas}"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None):
        """One update; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group) -> None:
        b1, b2 = group["betas"]
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["m"] = torch.zeros_like(p)
                state["v"] = torch.zeros_like(p)
            state["step"] += 1
        grads = [p.grad for p in params]
        m = [self.state[p]["m"] for p in params]
        v = [self.state[p]["v"] for p in params]
        torch._foreach_lerp_(m, grads, 1 - b1)
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, grads, grads, 1 - b2)
        scale = torch._foreach_sqrt(v)
        torch._foreach_add_(scale, group["eps"])
        for p, first, s in zip(params, m, scale, strict=True):
            t = self.state[p]["step"]
            rate = group["lr"] * (1 - b2**t) ** 0.5 / (1 - b1**t)
            p.addcdiv_(first, s, value=-rate)
