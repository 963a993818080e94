"""AdamW over a model cut across ranks: one gradient norm, float32 master weights, a schedule.

Loshchilov and Hutter, 2019, arXiv 1711.05101. Parameters below float32 get a float32 copy that the
optimizer works on (Micikevicius et al., 2018, arXiv 1710.03740).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from ..grid.context import ParallelContext
from ..layers.module import counts_here, named_parameters


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


class MasterAdamW(torch.optim.AdamW):
    """torch.optim.AdamW that works on a float32 copy of each parameter below float32.

    `masters` maps every parameter to what is updated: its copy, or itself.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **options: Any) -> None:
        self.masters: dict[nn.Parameter, torch.Tensor] = {}
        copies = []
        for group in groups:
            for parameter in group["params"]:
                self.masters[parameter] = _master(parameter)
            copies.append({**group, "params": [self.masters[p] for p in group["params"]]})
        super().__init__(copies, **options)

    @torch.no_grad()
    def step(self, closure: None = None, *, scale: float = 1.0) -> None:
        """One update with every gradient times `scale`, multiplied in float32."""
        for parameter, master in self.masters.items():
            if parameter.grad is None:
                continue
            if master is not parameter:
                master.grad = parameter.grad.float()
            if scale != 1.0:
                master.grad.mul_(scale)
        super().step()
        for parameter, master in self.masters.items():
            if master is not parameter:
                master.grad = None
        self.masters_to_parameters()

    @torch.no_grad()
    def masters_to_parameters(self) -> None:
        """Rounds the float32 copies into their parameters."""
        for parameter, master in self.masters.items():
            if master is not parameter:
                parameter.copy_(master)


class AdamW:
    """torch.optim.AdamW on the local parts, with clipping by the norm over all ranks.

    Args:
        models: the stages this rank holds.
        lr, betas, eps, weight_decay: as torch.optim.AdamW; no decay on vectors (norms, biases).
        clip_grad: largest gradient norm; None does not clip.
        zero: each data rank keeps moments and float32 copies of its share of the parameters only,
            updates those and sends them to the others, by torch's ZeroRedundancyOptimizer
            (Rajbhandari et al., 2020, arXiv 1910.02054, stage 1). The same numbers, bit for bit.
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
        zero: bool = False,
    ) -> None:
        self.models, self.context, self.clip_grad = list(models), context, clip_grad
        self.names = [name for name, _ in named_parameters(self.models)]
        self.parameters = [p for _, p in named_parameters(self.models)]
        matrices = [p for p in self.parameters if p.dim() >= 2]
        vectors = [p for p in self.parameters if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay},
                  {"params": vectors, "weight_decay": 0.0}]  # fmt: skip
        groups = [group for group in groups if group["params"]]
        options = {"lr": lr, "betas": betas, "eps": eps}
        self._sharded: torch.optim.Optimizer | None = None
        if zero and context.dp.size > 1:
            self._sharded = _sharded(groups, context, options)
            self.inner: MasterAdamW = self._sharded.optim
        else:
            self.inner = MasterAdamW(groups, **options)

    @torch.no_grad()
    def step(self) -> float:
        """Clips and updates; returns the gradient norm before clipping.

        Raises FloatingPointError, changing nothing, if the norm is not finite.
        """
        norm = float(gradient_norm(self.models, self.context))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"AdamW.step: rank {self.context.rank}, step {self.context.step}: the gradient "
                f"norm is {norm}; lower the learning rate or look for bad input"
            )
        scale = 1.0
        if self.clip_grad is not None and norm > self.clip_grad:
            scale = self.clip_grad / norm
        if self._sharded is None:
            self.inner.step(scale=scale)
        else:
            update = partial(self._sharded.step, scale=scale)
            self.context.dp.guarded("AdamW.step: updated parameters", update)
        return norm

    def masters_to_parameters(self) -> None:
        """Rounds the float32 masters into the parameters; nothing where there are no masters."""
        self.inner.masters_to_parameters()

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def set_lr(self, lr: float) -> None:
        for group in (self._sharded or self.inner).param_groups:
            group["lr"] = lr

    def moments(self) -> dict[str, dict[str, torch.Tensor]]:
        """State by name of the parameters whose state is here: exp_avg, exp_avg_sq, step and, where
        kept, master.

        States that do not exist yet are created as zeros, so that a checkpoint can be read into
        them.
        """
        out = {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if parameter not in self.inner.masters:
                continue
            master = self.inner.masters[parameter]
            state = self.inner.state[master]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(master)
                state["exp_avg_sq"] = torch.zeros_like(master)
            out[name] = dict(state)
            if master is not parameter:
                out[name]["master"] = master
        return out


def _sharded(
    groups: list[dict[str, Any]], context: ParallelContext, options: dict[str, Any]
) -> torch.optim.Optimizer:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(
        groups, optimizer_class=MasterAdamW, process_group=context.dp.group, **options
    )


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
