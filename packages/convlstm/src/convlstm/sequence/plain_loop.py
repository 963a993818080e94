"""The sequence in plain torch, for what has nothing to gain from native steps: weights so large
beside the frames that arranging them anew costs more than it saves (measured with
benchmarks/bench_shapes.py). The definition is reference.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _C  # type: ignore[attr-defined]
from . import reference
from .reference import CellExtras
from .spec import CellSpec

# Weights with so many times the floats that a state channel has over all steps are heavy: arranging
# them anew costs more than it saves.
HEAVY = 2000
# Without AVX-512 that is so for weights with so many times the floats that all states have, at many
# steps; at one step twice as soon, since torch arranges its own at each.
HEAVY_BESIDE_STATES = 10 if _C.isa() != "avx512" else math.inf


def pays(x: Tensor, h: Tensor, weight_hh: Tensor, spec: CellSpec, extras: CellExtras) -> bool:
    """Whether this loop is faster than the fused operator for x (B, T, C, size...)."""
    one_grid = spec.padding == "same" and max(*spec.stride, *spec.dilation) == 1
    if not one_grid or extras.peephole is not None or x.dtype != torch.float32:
        return False
    steps, weights = x.shape[1], weight_hh.numel()
    states = steps * h.numel()
    pixels = states // max(1, spec.hidden_channels)
    few = weights * (steps + 1) > HEAVY_BESIDE_STATES * states * steps
    return weights > HEAVY * pixels or few


def sequence(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    spec: CellSpec,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.sequence`, for padding "same" with stride and dilation 1.

    The input convolution runs over all steps at once: torch arranges the weights of a convolution
    anew at each call.
    """
    every = reference.input_convolution(x.flatten(0, 1), weight_ih, bias, spec)
    states = []
    for from_input in every.unflatten(0, x.shape[:2]).unbind(1):
        pre = from_input + reference.recurrent_convolution(h, weight_hh, spec)
        h, c = reference.gates(pre, c, spec)
        states.append(h)
    return torch.stack(states, 1), h, c
