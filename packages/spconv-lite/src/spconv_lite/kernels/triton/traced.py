"""The convolution as torch.compile and torch.export see it: operators whose kernels are visible.

`torch.library.triton_op` keeps an operator whole in an exported program and opens it where it is
compiled. The rest of the package calls `ops.conv` and its gradients, which stay closed; while a
graph is traced these stand in for them, so that the graph says which kernels it was made for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import triton_op

from ...geometry import Rulebook
from ..autograd import bilinear, register
from . import tiles
from .books import on_device
from .operators import conv as _conv
from .operators import conv_input_grad as _conv_input_grad
from .operators import conv_weight_grad as _conv_weight_grad


@triton_op("spconv_lite::triton_conv", mutates_args=())
def conv(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pair_in: Tensor,
    pair_out: Tensor,
    block_offset: Tensor,
    out_rows: int,
    groups: int,
    symmetric: bool,
) -> Tensor:
    book = Rulebook(pair_in, pair_out, block_offset)
    return _conv(features, weight, bias, book, out_rows, groups)


@triton_op("spconv_lite::triton_conv_input_grad", mutates_args=())
def conv_input_grad(
    grad: Tensor,
    weight: Tensor,
    pair_in: Tensor,
    pair_out: Tensor,
    block_offset: Tensor,
    in_rows: int,
    groups: int,
    symmetric: bool,
) -> Tensor:
    book = Rulebook(pair_in, pair_out, block_offset)
    return _conv_input_grad(grad, weight, book, in_rows, groups, symmetric)


@triton_op("spconv_lite::triton_conv_weight_grad", mutates_args=())
def conv_weight_grad(
    features: Tensor,
    grad: Tensor,
    pair_in: Tensor,
    pair_out: Tensor,
    block_offset: Tensor,
    weight_shape: Sequence[int],
    groups: int,
    symmetric: bool,
) -> Tensor:
    book = Rulebook(pair_in, pair_out, block_offset)
    return _conv_weight_grad(features, grad, book, weight_shape, groups)


@torch.library.custom_op("spconv_lite::triton_pair_lists", mutates_args=())
def pair_lists(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with on_device(table):
        return tuple(tiles.pair_lists(table))


@pair_lists.register_fake
def _(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(table), torch.empty_like(table), table.new_empty(table.shape[:1])


VISIBLE = {
    "conv": conv._opoverload,
    "conv_input_grad": conv_input_grad._opoverload,
    "conv_weight_grad": conv_weight_grad._opoverload,
}
for _op, _formula in zip(
    (conv, conv_input_grad, conv_weight_grad), bilinear(*VISIBLE.values()), strict=True
):
    register(_op, _formula)
