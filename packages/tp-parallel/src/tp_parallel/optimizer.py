"""AdamW over a model cut across ranks: one gradient norm, float32 master weights, a schedule.

Loshchilov and Hutter, 2019, arXiv 1711.05101. Parameters below float32 get a float32 copy that the
optimizer works on (Micikevicius et al., 2018, arXiv 1710.03740).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from .context import ParallelContext
from .module import counts_here, named_parameters


@torch.no_grad()
def gradient_norm(models: Iterable[nn.Module], context: ParallelContext) -> torch.Tensor:
    """Euclidean norm of the whole model's gradient, float64, the same on every rank.

    Each distinct value counts once: a split parameter on every tp rank, a copied one on tp rank 0,
    a tied embedding on the first stage. Call it after `finish_gradients`. Synchronises tp and pp.
    """
    total = torch.zeros(1, dtype=torch.float64, device=context.device)
    for _, parameter in named_parameters(models):
        if parameter.grad is not None and counts_here(parameter, context):
            total += parameter.grad.double().square().sum()
    context.tp.all_reduce(total, label="gradient_norm", kind="control")
    context.pp.all_reduce(total, label="gradient_norm", kind="control")
    return total.sqrt_()[0]


class AdamW:
    """torch.optim.AdamW on the local parts, with clipping by the norm over all ranks.

    Args:
        models: the stages this rank holds.
        lr, betas, eps, weight_decay: as torch.optim.AdamW; no decay on vectors (norms, biases).
        clip_grad: largest gradient norm; None does not clip.
    """

    def __init__(
        self,
        models: Iterable[nn.Module],
        context: ParallelContext,
        *,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_grad: float | None = 1.0,
    ) -> None:
        self.models, self.context, self.clip_grad = list(models), context, clip_grad
        self.names = [name for name, _ in named_parameters(self.models)]
        self.parameters = [p for _, p in named_parameters(self.models)]
        self.masters = [_master(p) for p in self.parameters]
        matrices = [m for m in self.masters if m.dim() >= 2]
        vectors = [m for m in self.masters if m.dim() < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay},
                  {"params": vectors, "weight_decay": 0.0}]  # fmt: skip
        self.inner = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps
        )

    @torch.no_grad()
    def step(self) -> float:
        """Clips and updates; returns the gradient norm before clipping.

        Raises FloatingPointError, changing nothing, if the norm is not finite.
        """
        norm = float(gradient_norm(self.models, self.context))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"AdamW.step: rank {self.context.rank}, step {self.context.step}: the gradient "
                "norm "
                f"is {norm}; lower the learning rate or look for bad input"
            )
        scale = 1.0
        if self.clip_grad is not None and norm > self.clip_grad:
            scale = self.clip_grad / norm
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter.grad is None:
                continue
            if master is not parameter:
                master.grad = parameter.grad.float()
            if scale != 1.0:
                master.grad.mul_(scale)
        self.inner.step()
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                master.grad = None
        self.masters_to_parameters()
        return norm

    @torch.no_grad()
    def masters_to_parameters(self) -> None:
        """Rounds the float32 masters into the parameters; nothing where there are no masters."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.copy_(master)

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def set_lr(self, lr: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = lr

    def moments(self) -> dict[str, dict[str, torch.Tensor]]:
        """State of every parameter by name: exp_avg, exp_avg_sq, step and, where kept, master.

        States that do not exist yet are created as zeros, so that a checkpoint can be read into
        them.
        """
        out = {}
        for name, parameter, master in zip(self.names, self.parameters, self.masters, strict=True):
            state = self.inner.state[master]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(master)
                state["exp_avg_sq"] = torch.zeros_like(master)
            out[name] = dict(state)
            if master is not parameter:
                out[name]["master"] = master
        return out


def _master(parameter: nn.Parameter) -> torch.Tensor:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return parameter.detach().float().requires_grad_()


def learning_rate(
    step: int, *, peak: float, warmup: int, total: int, floor: float = 0.1, shape: str = "cosine"
) -> float:
    """Linear warm-up to `peak`, then cosine (or linear, or constant) down to floor * peak at
    `total`.

    `step` counts from 0. Raises ValueError for an unknown shape.
    """
    if shape not in ("cosine", "linear", "constant"):
        raise ValueError(f"learning_rate: shape must be cosine, linear or constant, got {shape!r}")
    if step < warmup:
        return peak * (step + 1) / warmup
    if shape == "constant":
        return peak
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    fall = 0.5 * (1 + math.cos(math.pi * done)) if shape == "cosine" else 1 - done
    return peak * (floor + (1 - floor) * fall)
