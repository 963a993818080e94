"""The fused sequence: all steps by native kernels, in one call where there is one.

native_steps.py runs two-dimensional frames on the CPU; stepwise.py takes the rest: other ranks,
float64, CUDA.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import _C  # type: ignore[attr-defined]
from . import native_steps, stepwise
from .gates import uses_triton
from .problem import KEEP_CHECKPOINTS, KEEP_GATES, KEEP_NOTHING, Gradients, Kept, Problem

__all__ = ["KEEP_CHECKPOINTS", "KEEP_GATES", "KEEP_NOTHING", "Kept", "Problem"]


def forward(p: Problem, keep: int, last_only: bool) -> Kept:
    """Runs all steps. last_only (with KEEP_NOTHING): hs holds the last step alone."""
    if _is_native(p, keep):
        return native_steps.forward(p, keep, last_only)
    if _is_widened(p):
        kept = forward(_in_float32(p), keep, last_only)
        return replace(kept, hs=kept.hs.to(p.x.dtype))
    return stepwise.forward(p, keep, last_only)


def backward(
    p: Problem, kept: Kept, d_hs: Tensor | None, d_c: Tensor | None, need_x: bool
) -> Gradients:
    """Gradients from those of hs (T, B, ..., F) and of the last c (B, ..., F); None is zero."""
    if _is_widened(p):
        kept, d_hs = replace(kept, hs=kept.hs.float()), None if d_hs is None else d_hs.float()
        return backward(_in_float32(p), kept, d_hs, d_c, need_x).rounded(p)
    steps = native_steps if _is_native(p, KEEP_GATES) else stepwise
    return steps.backward(p, kept, d_hs, d_c, need_x)


def _is_widened(p: Problem) -> bool:
    """Whether half precision is computed in float32 from end to end."""
    return p.x.dtype in (torch.bfloat16, torch.float16) and not uses_triton(p.x)


def _is_native(p: Problem, keep: int) -> bool:
    """Whether one native call runs many steps: in two dimensions in float32, or inference in
    bfloat16 on a processor that multiplies it."""
    if not p.on_host or p.spec.rank != 2:
        return False
    if p.x.dtype == torch.bfloat16:
        return keep == KEEP_NOTHING and p.is_joint and _C.has_bfloat16()
    return p.x.dtype == torch.float32


def _in_float32(p: Problem) -> Problem:
    """The same in float32 from end to end: more exact than half precision."""
    names = ("x", "h0", "weight_ih", "weight_hh", "bias", "peephole")
    given = {name: getattr(p, name) for name in names}
    wide: dict[str, Any] = {k: None if t is None else t.float() for k, t in given.items()}
    return replace(p, **wide)
