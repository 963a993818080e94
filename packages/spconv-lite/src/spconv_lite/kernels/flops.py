"""FLOP formulas of the operators, for torch.utils.flop_counter: two for each pair, input channel of
a group and output channel. A neighbour table (CUDA) counts every row at every offset, which is what
its size allows: an upper bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from . import ops as ops  # registers them

Shape = Sequence[int]


def _flops(weight: Shape, pair_in: Shape, pair_out: Shape) -> int:
    pairs = math.prod(pair_in) if len(pair_in) == 2 else pair_out[0]
    return 2 * pairs * weight[0] * weight[-1]


@register_flop_formula(torch.ops.spconv_lite.conv)
def conv_flops(
    features: Shape,
    weight: Shape,
    bias: Shape | None,
    pair_in: Shape,
    pair_out: Shape,
    *_: Any,
    **__: Any,
) -> int:
    """Of the forward pass; the bias is not counted, as torch does not count it."""
    return _flops(weight, pair_in, pair_out)


@register_flop_formula(torch.ops.spconv_lite.conv_norm)
def conv_norm_flops(
    features: Shape,
    weight: Shape,
    bias: Shape | None,
    mean: Shape,
    variance: Shape,
    gain: Shape | None,
    offset: Shape | None,
    eps: float,
    pair_in: Shape,
    pair_out: Shape,
    *_: Any,
    **__: Any,
) -> int:
    """Of the forward pass; BatchNorm is not counted, as torch does not count it."""
    return _flops(weight, pair_in, pair_out)


@register_flop_formula(torch.ops.spconv_lite.conv_input_grad)
def conv_input_grad_flops(
    grad: Shape, weight: Shape, pair_in: Shape, pair_out: Shape, *_: Any, **__: Any
) -> int:
    """Of the gradient of the features."""
    return _flops(weight, pair_in, pair_out)


@register_flop_formula(torch.ops.spconv_lite.conv_weight_grad)
def conv_weight_grad_flops(
    features: Shape,
    grad: Shape,
    pair_in: Shape,
    pair_out: Shape,
    block_offset: Shape,
    weight_shape: Shape,
    *_: Any,
    **__: Any,
) -> int:
    """Of the gradient of the weight."""
    return _flops(weight_shape, pair_in, pair_out)
