"""Modules that stay in evaluation mode, wherever they are put.

A frozen stage must not go on averaging its norms' statistics, also when it runs inside another
container (feature extractors, Sequential) whose `train()` does not know the model it came from. So
each module of it carries its own `train`. `Freezable` is what networks of a stem and stages share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

Network = TypeVar("Network", bound="Freezable")


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


class Freezable(nn.Module):
    """A network of a stem (`conv1`, `bn1`) and `stages`, whose first parts can be frozen.

    `frozen_stages` is -1 (nothing), 0 (the stem), or the number of stages frozen beside it.
    """

    __jit_unused_properties__ = ("stages",)

    @property
    def stages(self) -> Sequence[nn.Sequential]:
        """The stages in the order of execution."""
        raise NotImplementedError

    def freeze(self: Network, stages: int) -> Network:
        """Stop training of the stem (0), and of the stages up to `stages` (1 to 4); -1 unfreezes.

        Their parameters stop requiring gradients and their norms stay in evaluation mode, also
        after `train()`, and also inside another module that takes them over (a scripted copy alone
        forgets it: TorchScript keeps no `train` of a module's own). Raises ValueError for a stage
        that there is not.
        """
        count = len(self.stages)
        if not -1 <= stages <= count:
            raise ValueError(
                f"freeze: stages must be -1 (nothing), 0 (stem) or 1 to {count}, got {stages}"
            )
        self.frozen_stages = stages
        self.requires_grad_(True)
        release(self)
        for part in self._frozen_parts():
            part.requires_grad_(False)
            hold_in_evaluation(part)
        return self.train(self.training)

    def train(self: Network, mode: bool = True) -> Network:
        """As nn.Module.train, except that frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():  # also a norm that was put in after freezing
            part.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.conv1, self.bn1, *self.stages[: self.frozen_stages]]
