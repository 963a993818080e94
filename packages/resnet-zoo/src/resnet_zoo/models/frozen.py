"""Modules that stay in evaluation mode, wherever they are put.

A frozen stage must not go on averaging its norms' statistics, also when it runs inside another
container (feature extractors, Sequential) whose `train()` does not know the model it came from. So
each module of it carries its own `train`.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class _StayInEvaluation:
    """A module's `train` that keeps it, and all inside it, in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return nn.Module.train(self.module, False)


def hold_in_evaluation(part: nn.Module) -> None:
    """Let `part` and all inside it stay in evaluation mode, also after `train()`."""
    for module in part.modules():
        module.__dict__["train"] = _StayInEvaluation(module)
    part.eval()


def release(part: nn.Module) -> None:
    """Undo `hold_in_evaluation`; the mode is set by the next `train()`."""
    for module in part.modules():
        held: Any = module.__dict__.get("train")
        if isinstance(held, _StayInEvaluation):
            del module.__dict__["train"]


def freeze(parts: list[nn.Module]) -> None:
    """Stop `parts` from learning: no gradients, and evaluation mode for good."""
    for part in parts:
        part.requires_grad_(False)
        hold_in_evaluation(part)
