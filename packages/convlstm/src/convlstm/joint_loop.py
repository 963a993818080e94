"""The usual loop in plain torch: each step one convolution over input and state side by side.

For sequences so small that an operator's own overhead outweighs what it saves, for weights so large
beside the frames that arranging them anew does, and for training with 1x1 kernels, where there is
nothing to save (measured with benchmarks/bench_shapes.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .convolutions import is_heavy
from .reference import CONV, CellExtras, gates
from .spec import CellSpec, flat_pads

# Training on fewer products than these is dominated by overhead.
FEW_PRODUCTS = 2_000_000


def pays(
    x: Tensor, h: Tensor, weight_hh: Tensor, spec: CellSpec, extras: CellExtras, learns: bool
) -> bool:
    """Whether this loop is faster than the fused operator for x (B, T, C, size...)."""
    one_grid = spec.padding == "same" and max(*spec.stride, *spec.dilation) == 1
    if not one_grid or extras.peephole is not None or x.dtype != torch.float32:
        return False
    pixels = x.shape[1] * h.numel() // max(1, spec.hidden_channels)
    if is_heavy(weight_hh, pixels):
        return True
    taps = math.prod(spec.kernel_size)
    products = pixels * 4 * spec.hidden_channels * (x.shape[2] + spec.hidden_channels) * taps
    return learns and (taps == 1 or products < FEW_PRODUCTS)


def sequence(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    spec: CellSpec,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.sequence`, for padding "same" with stride and dilation 1."""
    weight = torch.cat([weight_ih, weight_hh], 1)
    pads = spec.recurrent_pads()
    even = any(a != b for a, b in pads)
    padding = tuple(0 if even else a for a, _ in pads)
    states = []
    for step in x.unbind(1):
        both = torch.cat([step, h], 1)
        if even:
            both = F.pad(both, flat_pads(pads))
        h, c = gates(CONV[spec.rank](both, weight, bias, padding=padding), c, spec)
        states.append(h)
    return torch.stack(states, 1), h, c
