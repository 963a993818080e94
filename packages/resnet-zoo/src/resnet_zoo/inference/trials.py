"""Trials of candidates: each is built, compared with the model, timed; one is kept.

A candidate that cannot run here is noted, not fatal; one that is clearly slower is timed no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .timing import EQUAL as EQUAL
from .timing import choose, lower_quartile, time_interleaved

GIVEN = "as given"
References = list[tuple[Tensor, list[Tensor]]]  # inputs, and what the model says to each


@dataclass
class Trial:
    """One candidate: what it is, how fast, how exact; or why it was not used.

    `agreement` is the share of the pictures compared whose largest output is the same.
    """

    name: str
    milliseconds: float | None = None
    error: float | None = None
    note: str = ""
    agreement: float | None = None

    def __str__(self) -> str:
        time_ = "" if self.milliseconds is None else f"{self.milliseconds:.2f} ms"
        error = "" if self.error is None else f"error {self.error:.1e}"
        same = "" if self.agreement is None else f"same class in {self.agreement:.2%} "
        return f"{self.name:<24} {time_:>12}  {error:<14} {same}{self.note}".rstrip()


@dataclass
class Report:
    """What `optimize` tried, and what it kept; `note` where it is not in the dtype asked for."""

    kept: str
    input_shape: tuple[int, ...]
    dtype: torch.dtype
    tolerance: float
    trials: list[Trial]
    note: str = ""

    def __str__(self) -> str:
        head = (
            f"kept: {self.kept} (input {'x'.join(map(str, self.input_shape))}, {self.dtype}, "
            f"error allowed {self.tolerance:g} of the largest logit)"
        )
        told = [f"  {self.note}"] if self.note else []
        return "\n".join([head, *told, *(f"  {trial}" for trial in self.trials)])


def outputs_of(found: Any) -> list[Tensor]:
    """What a model or trunk gave, as a list of float32 tensors."""
    return [tensor.float() for tensor in (found if isinstance(found, list) else [found])]


def attempt(
    name: str, build: Callable[[], nn.Module], references: References, tolerance: float
) -> tuple[Trial, nn.Module | None]:
    """Build a candidate and compare it. None in place of one that cannot run, or errs too much."""
    try:
        module = build().eval()
        compared = [
            (a, b)
            for x, expected in references
            for a, b in zip(
                expected if name == GIVEN else outputs_of(module(x)), expected, strict=True
            )
        ]
        errors = [
            ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in compared
        ]
    except Exception as error:  # compilers and engines raise their own kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Trial(name, note=f"not used: {first}"), None
    trial = Trial(name, error=max(errors), agreement=_agreement(compared))
    if any(value != value for value in errors):
        trial.error = float("nan")
    if not trial.error <= tolerance:  # catches NaN too
        trial.note = "not used: outside the error allowed"
        return trial, None
    return trial, module


def _agreement(compared: list[tuple[Tensor, Tensor]]) -> float | None:
    """Share of the rows of logits whose largest entry is the same; None for maps."""
    same = [(a.argmax(1) == b.argmax(1)).float() for a, b in compared if b.ndim == 2]
    return torch.cat(same).mean().item() if same else None


def fastest(good: dict[str, nn.Module], model: nn.Module, x: Tensor, trials: list[Trial]) -> str:
    """Time the good candidates beside the model as given, note the times, name the one to keep."""
    times = time_interleaved({**good, GIVEN: good.get(GIVEN, model)}, x)
    by_name = {trial.name: trial for trial in trials}
    if GIVEN not in by_name:
        by_name[GIVEN] = Trial(GIVEN, note="for comparison; not in the dtype asked for")
        trials.append(by_name[GIVEN])
    for name, runs in times.items():
        by_name[name].milliseconds = lower_quartile(runs) * 1e3
    kept = choose({name: times[name] for name in good})
    if by_name[kept].milliseconds > by_name[GIVEN].milliseconds:
        by_name[kept].note = "slower than the model as given: this machine does not gain here"
    return kept
