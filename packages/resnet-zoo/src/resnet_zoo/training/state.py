"""What a run must remember to go on exactly: model, averaged weights, optimizer, position.

Randomness and learning rates (`learning_rate`) need none: they follow from (seed, epoch, step).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import replacing, system_error
from .recipe import Recipe


@dataclass
class Position:
    """Where a run stands: the next step to do."""

    epoch: int = 0
    step: int = 0  # within the epoch
    best: float = -1.0


class Average:
    """Exponential moving average of a model's parameters and buffers.

    Early on the decay is (1 + t) / (10 + t) after t steps, so that the first weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.tensors = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.tensors[key].lerp_(value, weight)
            else:
                self.tensors[key].copy_(value)


def first_not_finite(model: nn.Module, average: Average | None) -> str | None:
    """The name of a weight that is NaN or infinite, or None; synchronises the device."""
    tensors = {**model.state_dict()}
    for key, value in (average.tensors if average else {}).items():
        tensors[f"{key} (averaged)"] = value
    floats = {k: v for k, v in tensors.items() if v.is_floating_point()}
    good = torch.stack([v.isfinite().all() for v in floats.values()])
    return None if good.all() else list(floats)[int(good.logical_not().nonzero()[0])]


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Linear warm-up, then half a cosine to zero; `progress` in epochs. A factor of `lr`."""
    warmup = min(recipe.warmup_epochs, recipe.epochs)
    if progress < warmup:
        return max(progress, 0.01 * warmup) / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(recipe.epochs - warmup, 1e-9)))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; norms and biases without weight decay."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim > 1, name.startswith("fc.")), []).append(parameter)
    listed: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "factor": recipe.head_lr if head else 1.0,
        }
        for (decays, head), parameters in groups.items()
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(listed, lr=recipe.lr, fused=True)
    return torch.optim.SGD(
        listed,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


def save_checkpoint(
    path: Path,
    model: nn.Module,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    recipe: Recipe,
    data: Mapping[str, Any],
    position: Position,
) -> None:
    """Write aside, flush to disk, rename: a killed run leaves the previous checkpoint whole.

    `data` says which pictures the run learns from: plain values, compared when it goes on.
    """
    state = {
        "model": model.state_dict(),
        "average": average.tensors if average else None,
        "average_steps": average.steps if average else 0,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "recipe": recipe.to_dict(),
        "data": dict(data),
        "position": {"epoch": position.epoch, "step": position.step, "best": position.best},
    }
    with replacing(path) as aside:
        torch.save(state, aside)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    average: Average | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    recipe: Recipe,
    data: Mapping[str, Any],
) -> Position:
    """Put a saved state into all parts.

    Raises ValueError if the recipe or the data differ, or the file is damaged; OSError where the
    system does not let it be read.
    """
    cure = (
        "cure: the same settings and pictures, another output folder, or --overwrite (resume=False)"
    )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        then_recipe, then_data = dict(state["recipe"]), dict(state.get("data", data))
    except Exception as error:  # torch.load raises many kinds for a damaged file
        if system := system_error(error, path):
            raise system from error
        raise _damaged(path, error, cure) from error
    machinery = {"workers", "checkpoint_steps", "tensorboard"}
    own = {k: v for k, v in recipe.to_dict().items() if k not in machinery}
    for kind, now, then in (
        ("another recipe", own, then_recipe),
        ("other data", data, then_data),  # earlier versions did not note it
    ):
        differing = sorted(k for k in now if now[k] != then.get(k))
        if differing:
            told = "; ".join(f"{k}: {then.get(k)!r} then, {now[k]!r} now" for k in differing)
            raise ValueError(f"train: {path} belongs to {kind} ({told}); {cure}")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        if average is not None:
            average.steps = int(state["average_steps"])
            for key, value in state["average"].items():
                average.tensors[key].copy_(value)
        return _position(state["position"])
    except Exception as error:
        raise _damaged(path, error, cure) from error


def _damaged(path: Path, error: Exception, cure: str) -> ValueError:
    told = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"train: {path} is damaged ({told}); {cure}")


def _position(saved: Any) -> Position:
    position = Position(**saved)
    if not (type(position.epoch) is type(position.step) is int and position.epoch >= 0):
        raise ValueError(f"its position is {saved}")
    return Position(position.epoch, position.step, float(position.best))
