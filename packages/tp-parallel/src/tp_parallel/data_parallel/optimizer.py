"""AdamW over a model cut across ranks: one gradient norm, float32 master weights, learning rates.

Loshchilov and Hutter, 2019, arXiv 1711.05101. Parameters below float32 get a float32 copy that the
optimizer works on (Micikevicius et al., 2018, arXiv 1710.03740).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from ..grid.context import ParallelContext
from ..layers.layout import held, is_sharded, placed_parameters
from ..layers.precision import widen_gradients


@torch.no_grad()
def gradient_norm(models: Iterable[nn.Module], context: ParallelContext) -> torch.Tensor:
    """Euclidean norm of the whole model's gradient, float64, the same on every rank.

    Each distinct value counts once: a split parameter on every tp rank, a copied one on tp rank 0,
    a tied embedding on the first stage, what FSDP2 has cut on every data rank. Call it after
    `finish_gradients`. Synchronises tp and pp, and dp where FSDP2 is used. torch's
    `clip_grad_norm_` knows nothing of this: it sees one rank's part.
    """
    parts: dict[bool, list[torch.Tensor]] = {False: [], True: []}  # by whether FSDP2 has cut them
    sharded = False
    for placed in placed_parameters(models, context):
        cut = is_sharded(placed.parameter)
        sharded |= cut
        if placed.parameter.grad is not None:
            parts[cut] += placed.counted(placed.parameter.grad, context)
    whole, over_data = (_squares(parts[cut], context.device) for cut in (False, True))
    if sharded:
        context.dp.all_reduce(over_data, label="gradient_norm", kind="control")
    whole += over_data
    context.tp.all_reduce(whole, label="gradient_norm", kind="control")
    context.pp.all_reduce(whole, label="gradient_norm", kind="control")
    return whole.sqrt_()[0]


def _squares(parts: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Sum of the squares of all `parts`, float64 [1]; on CUDA a few kernels for all of them."""
    filled = [part for part in parts if part.numel()]
    if not filled:
        return torch.zeros(1, dtype=torch.float64, device=device)
    norms = torch._foreach_norm(filled, 2, dtype=torch.float64)
    return torch.stack(norms).square_().sum().reshape(1)


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

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "masters": self.masters}

    @torch.no_grad()
    def step(self, closure: None = None, *, scale: float = 1.0) -> None:  # type: ignore[override]
        """One update with every gradient times `scale`, multiplied in float32."""
        for parameter, master in self.masters.items():
            if master is not parameter and parameter.grad is not None:
                master.grad = parameter.grad.float()
        grads = [held(m.grad) for m in self.masters.values() if m.grad is not None]
        if scale != 1.0 and grads:
            torch._foreach_mul_(grads, scale)
        super().step()
        for parameter, master in self.masters.items():
            if master is not parameter:
                master.grad = None
        self.masters_to_parameters()

    @torch.no_grad()
    def masters_to_parameters(self) -> None:
        """Rounds the float32 copies into their parameters."""
        copied = [(held(p), held(m)) for p, m in self.masters.items() if m is not p]
        if copied:
            torch._foreach_copy_(*map(list, zip(*copied, strict=True)))

    def state_of(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """exp_avg, exp_avg_sq, step and, where kept, master; zeros where no step was made.

        step lies where torch would have it: the fused kernel counts on the device, the others read
        it on the CPU.
        """
        master = self.masters[parameter]
        state = self.state[master]
        if not state:
            device = master.device if self.defaults["fused"] else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(master, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(master, requires_grad=False)
        return dict(state) if master is parameter else {**state, "master": master.detach()}


class AdamW(torch.optim.Optimizer):
    """torch.optim.AdamW on the local parts, with clipping by the norm over all ranks.

    A torch Optimizer: its `param_groups` are what torch's learning-rate schedulers change and its
    `state_dict` is indexed as torch's. Parameters that require no gradient have no state; gradients
    of bfloat16 parameters are kept in float32 from here on.

    Args:
        models: the stages this rank holds.
        lr, betas, eps, weight_decay: as torch.optim.AdamW; no decay on vectors (norms, biases).
        clip_grad: largest gradient norm; None does not clip.
        zero: each data rank keeps moments and float32 copies of its share of the parameters only,
            updates those and sends them to the others, by torch's ZeroRedundancyOptimizer
            (Rajbhandari et al., 2020, arXiv 1910.02054, stage 1). The same numbers, bit for bit.
        fused: torch's fused kernel; None takes it where all parameters lie on CUDA, elsewhere
            torch's default.
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
        fused: bool | None = None,
    ) -> None:
        if clip_grad is not None and not clip_grad > 0:
            raise ValueError(f"AdamW: clip_grad must be above 0, or None, got {clip_grad}")
        self.models, self.context, self.clip_grad = list(models), context, clip_grad
        placed = [p for p in placed_parameters(self.models, context) if p.parameter.requires_grad]
        self.names = [each.name for each in placed]
        self.parameters = [each.parameter for each in placed]
        widen_gradients(self.parameters)
        matrices = [p for p in self.parameters if p.dim() >= 2]
        vectors = [p for p in self.parameters if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay},
                  {"params": vectors, "weight_decay": 0.0}]  # fmt: skip
        groups = [group for group in groups if group["params"]]
        self.inner: MasterAdamW | None = None
        self._sharded: torch.optim.Optimizer | None = None
        options = {"lr": lr, "betas": betas, "eps": eps}
        fused = fused_by_default(self.parameters) if fused is None else fused
        if not groups:  # a stage whose parameters are all frozen
            groups = [{"params": []}]
        super().__init__([dict(group) for group in groups], {**options, "weight_decay": 0.0})
        if not self.parameters:
            return
        if zero and context.dp.size > 1:
            self._sharded = _sharded(groups, context, {**options, "fused": fused})
            self.inner = self._sharded.optim
        else:
            self.inner = MasterAdamW(groups, **options, fused=fused)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, together with the models: torch's keeps its own fields alone."""
        return {**super().__getstate__(), **{name: getattr(self, name) for name in _OWN}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        widen_gradients(self.parameters)  # a copy of a parameter has torch's dtype again

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while it is built: raises RuntimeError afterwards."""
        if self.inner is not None:
            raise RuntimeError(
                "AdamW.add_param_group: its parameters are those of its models; build a new one"
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], object] | None = None) -> float:  # type: ignore[override]
        """Clips and updates; returns the gradient norm before clipping. Synchronises tp and pp.

        `closure`, if given, runs first and computes the gradients. Raises FloatingPointError,
        changing nothing, if the norm is not finite.
        """
        if closure is not None:
            with torch.enable_grad():
                closure()
        norm = float(gradient_norm(self.models, self.context))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"AdamW.step: rank {self.context.rank}, step {self.context.step}: the gradient "
                f"norm is {norm}; lower the learning rate or look for bad input"
            )
        scale = 1.0
        if self.clip_grad is not None and norm > self.clip_grad:
            scale = self.clip_grad / norm
        self._hand_down()
        if self._sharded is not None:
            update = partial(self._sharded.step, scale=scale)
            self.context.dp.guarded("AdamW.step: updated parameters", update)
        elif self.inner is not None:
            self.inner.step(scale=scale)
        return norm

    def _hand_down(self) -> None:
        """Gives what schedulers have changed in `param_groups` to the optimizer that does it."""
        inner = self._sharded or self.inner
        if inner is None:
            return
        for mine, theirs in zip(self.param_groups, inner.param_groups, strict=True):
            theirs.update({key: mine[key] for key in ("lr", "betas", "eps", "weight_decay")})

    def masters_to_parameters(self) -> None:
        """Rounds the float32 masters into the parameters; nothing where there are no masters."""
        if self.inner is not None:
            self.inner.masters_to_parameters()

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of every group."""
        for group in self.param_groups:
            group["lr"] = lr

    def moments(self) -> dict[str, dict[str, torch.Tensor]]:
        """State by name of the parameters whose state is here: exp_avg, exp_avg_sq, step and, where
        kept, master.

        States that do not exist yet are created as zeros, so that a checkpoint can be read into
        them.
        """
        return {
            name: self.inner.state_of(parameter)
            for name, parameter in zip(self.names, self.parameters, strict=True)
            if self.inner is not None and parameter in self.inner.masters
        }

    def state_dict(self) -> dict[str, Any]:
        """torch's form: "state" by parameter number (with ZeRO only those here), "param_groups"."""
        for parameter in self.inner.masters if self.inner is not None else ():
            self.state[parameter] = self.inner.state_of(parameter)
        return super().state_dict()

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gave, float32 states as they are.

        Raises ValueError, changing nothing, if groups, parameters or shapes differ.
        """
        saved = state_dict["param_groups"]
        sizes, wanted = ([len(g["params"]) for g in gs] for gs in (saved, self.param_groups))
        if sizes != wanted:
            raise ValueError(f"AdamW.load_state_dict: groups must hold {wanted}, got {sizes}")
        pairs = []
        for mine, theirs in zip(self.param_groups, saved, strict=True):
            for number, parameter in zip(theirs["params"], mine["params"], strict=True):
                if self.inner is not None and parameter in self.inner.masters:
                    states = self.inner.state_of(parameter)
                    pairs += _paired(number, states, state_dict["state"].get(number, {}))
        for value, given in pairs:
            value.copy_(given)
        for mine, theirs in zip(self.param_groups, saved, strict=True):
            mine.update({key: value for key, value in theirs.items() if key != "params"})
        self.masters_to_parameters()


# what a copy of AdamW has besides torch's fields
_OWN = ("models", "context", "clip_grad", "names", "parameters", "inner", "_sharded")


def _paired(
    number: int, mine: dict[str, torch.Tensor], given: dict[str, Any]
) -> list[tuple[torch.Tensor, Any]]:
    """Each state of parameter `number` with what is given for it."""
    for key, value in mine.items():
        got = tuple(torch.as_tensor(given[key]).shape) if key in given else "none"
        if got != tuple(value.shape):
            raise ValueError(
                f"AdamW.load_state_dict: parameter {number} needs {key!r} of shape "
                f"{tuple(value.shape)}, got {got}; load a state of the same model on the same grid "
                "(a checkpoint goes to any)"
            )
    return [(value, given[key]) for key, value in mine.items()]


def _sharded(
    groups: list[dict[str, Any]], context: ParallelContext, options: dict[str, Any]
) -> torch.optim.Optimizer:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(
        groups, optimizer_class=MasterAdamW, process_group=context.dp.group, **options
    )


def fused_by_default(parameters: list[nn.Parameter]) -> bool | None:
    """True where one kernel can update all `parameters`; None leaves the choice to torch."""
    return True if parameters and all(p.is_cuda for p in parameters) else None


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
