"""The door to the computation of whole sequences: picks a plan and runs it."""

from __future__ import annotations

from torch import Tensor

from . import reference
from .reference import CellExtras
from .spec import CellSpec

PLANS = ("auto", "fused", "loop")


def sequence(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    spec: CellSpec,
    *,
    mask: Tensor | None = None,
    extras: CellExtras = reference.NO_EXTRAS,
    plan: str = "auto",
    recompute: bool = False,
    every_step: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, C, size...) to the states (B, T, F, size...), the last h and the last c."""
    return reference.sequence(x, h, c, weight_ih, weight_hh, bias, spec, mask, extras)
