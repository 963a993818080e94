"""spconv's functions over `indice_pairs` (2, K, N) and `indice_pair_num` (K,) int32, as its
`get_indice_pairs` gives them. Layers do not come through here: they use the compact rulebook."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..kernels import ops
from ..layers.conv import Activation


def indice_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    algo: object = None,
    timer: object = None,
    bias: Tensor | None = None,
    act_alpha: float = 0.0,
    act_beta: float = 0.0,
    act_type: object = None,
    *,
    inverse: bool = False,
) -> Tensor:
    """A convolution (num_activate_out, out) over the pairs, read from output to input where
    `inverse`: spconv's of `functional`, whose sixth argument is the algorithm, where `ops` has
    `inverse`. algo, timer and act_beta are without effect."""
    pairs = indice_pairs, indice_pair_num
    sums = ops.indice_conv(features, filters, *pairs, num_activate_out, inverse, bias=bias)
    return Activation.of(act_type).apply(sums, act_alpha)


def indice_inverse_conv(*args: Any, **kwargs: Any) -> Tensor:
    """As `indice_conv`, over the pairs read from output to input."""
    return indice_conv(*args, **kwargs, inverse=True)


@torch.no_grad()
def indice_conv_backward(
    features: Tensor,
    filters: Tensor,
    out_bp: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    inverse: bool = False,
    subm: bool = False,
    algo: object = None,
    timer: object = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of features (N, C) and filters (out, k..., C) for `out_bp` (M, out), that of the
    output of `indice_conv`; spconv's, and so without a graph of their own."""
    rows, volume = (features.shape[0], out_bp.shape[0]), math.prod(filters.shape[1:-1])
    pairs = indice_pairs, indice_pair_num
    book = ops.book_of_pairs("indice_conv_backward", *pairs, volume, *rows, inverse)
    return (
        ops.conv_input_grad(out_bp, filters, *book, rows[0], 1, False),
        ops.conv_weight_grad(features, out_bp, *book, filters.shape, 1, False),
    )


def indice_maxpool(
    features: Tensor, indice_pairs: Tensor, indice_pair_num: Tensor, num_activate_out: int
) -> Tensor:
    """The maximum (num_activate_out, C) over the pairs of each output row, and zero: spconv's."""
    volume = indice_pairs.shape[1]
    rows = features.shape[0], num_activate_out
    pairs = indice_pairs, indice_pair_num
    book = ops.book_of_pairs("indice_maxpool", *pairs, volume, *rows, False)
    return ops.max_pool(features, *book, num_activate_out, volume, True)


@torch.no_grad()
def indice_maxpool_backward(
    features: Tensor,
    out_features: Tensor,
    out_bp: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
) -> Tensor:
    """The gradient of the features (N, C) of `indice_maxpool` for `out_bp` (M, C)."""
    rows, volume = (features.shape[0], out_bp.shape[0]), indice_pairs.shape[1]
    pairs = indice_pairs, indice_pair_num
    book = ops.book_of_pairs("indice_maxpool_backward", *pairs, volume, *rows, False)
    return ops.select_sum(out_bp, out_features, features, *book, volume, True)
