"""torch.ops.spconv_lite: schema, fake and autograd of every operator.

A rulebook is three tensors (geometry/rulebook.py); table.py says which kernels run. A convolution
is bilinear in features and weight, so the derivatives of the three operators `conv`,
`conv_input_grad` and `conv_weight_grad` are these three again: gradients of any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _C as _C
from ..geometry import (
    SUBMANIFOLD,
    Geometry,
    Rulebook,
    block_offsets,
    get_conv_output_size,
    get_deconv_output_size,
    make_geometry,
)
from . import cpu as cpu
from . import cuda as cuda
from . import plain as plain
from .table import _KERNELS as _KERNELS
from .table import _chosen as _chosen
from .table import Kernels, set_kernels

_lib = torch.library.Library("spconv_lite", "DEF")
_tags = (torch.Tag.pt2_compliant_tag,)


def kernels_for(tensor: Tensor) -> Kernels:
    """The kernels that run on the device of a tensor; RuntimeError where there are none."""
    kernels = _chosen.get(tensor.device.type)
    if kernels is None:
        raise RuntimeError(
            f"spconv_lite: there are no kernels for {tensor.device}; move the tensors to the CPU or "
            "to CUDA"
        )
    return kernels


# ---------------------------------------------------------------------------------- rulebooks

_GEOMETRY = "int batch_size, int[] spatial_shape, int[] ksize"
_STRIDED = f"{_GEOMETRY}, int[] stride, int[] padding, int[] dilation, int[] out_padding"

_lib.define(
    f"get_indice_pairs(Tensor indices, {_STRIDED}, bool subm, bool transpose) -> (Tensor, Tensor, "
    "Tensor)",
    tags=_tags,
)
_lib.define(
    f"subm_rulebook(Tensor indices, {_GEOMETRY}, int[] dilation) -> (Tensor, Tensor, Tensor)",
    tags=_tags,
)
_lib.define(
    f"rulebook(Tensor indices, {_STRIDED}, bool transpose) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=_tags,
)
_lib.define(
    "transpose_rulebook(Tensor pair_in, Tensor pair_out, Tensor block_offset, SymInt in_rows, "
    "SymInt out_rows, int volume) -> (Tensor, Tensor, Tensor)",
    tags=_tags,
)


def is_symmetric(ksize: Sequence[int]) -> bool:
    """Whether a submanifold rulebook read backwards is itself with the kernel mirrored."""
    return all(k % 2 == 1 for k in ksize)


def _subm_geometry(indices, batch_size, spatial_shape, ksize, dilation) -> Geometry:
    one, zero = [1] * len(spatial_shape), [0] * len(spatial_shape)
    settings = ksize, one, zero, dilation, zero
    return make_geometry(indices, batch_size, spatial_shape, *settings, True, False)


def _get_indice_pairs(indices, *geometry):
    g = make_geometry(indices, *geometry)
    return kernels_for(indices).padded_pairs(indices.contiguous(), g)


def _subm_rulebook(indices, *geometry):
    g = _subm_geometry(indices, *geometry)
    _, book = kernels_for(indices).build(indices.contiguous(), g)
    return tuple(book)


def _rulebook(indices, *geometry):
    *settings, transpose = geometry
    g = make_geometry(indices, *settings, False, transpose)
    out_indices, book = kernels_for(indices).build(indices.contiguous(), g)
    return (out_indices, *book)


def _transpose_rulebook(pair_in, pair_out, block_offset, in_rows, out_rows, volume):
    book = Rulebook(pair_in, pair_out, block_offset)
    return tuple(kernels_for(pair_in).turn(book, in_rows, out_rows, volume))


def _fake_get_indice_pairs(indices, *geometry):
    g = make_geometry(indices, *geometry)
    rows = indices.shape[0] if g.kind == SUBMANIFOLD else torch.library.get_ctx().new_dynamic_size()
    return (
        indices.new_empty((rows, g.ndim + 1)),
        indices.new_empty((2, g.volume, indices.shape[0])),
        indices.new_empty((g.volume,)),
    )


def _fake_book(like: Tensor, rows, volume: int, pairs=None):
    """A rulebook of `rows` output rows; its pairs are a new size unless they are given."""
    if kernels_for(like) is cuda:
        sizes = (volume, rows), (rows,), (cuda.mask_words(rows, volume),)
        return tuple(like.new_empty(size, dtype=torch.int32) for size in sizes)
    if pairs is None:
        pairs = torch.library.get_ctx().new_dynamic_size()
    return (
        like.new_empty((pairs,), dtype=torch.int32),
        like.new_empty((pairs,), dtype=torch.uint8),
        like.new_empty((block_offsets(rows, volume),), dtype=torch.int64),
    )


def _fake_subm_rulebook(indices, *geometry):
    g = _subm_geometry(indices, *geometry)
    return _fake_book(indices, indices.shape[0], g.volume)


def _fake_rulebook(indices, *geometry):
    *settings, transpose = geometry
    g = make_geometry(indices, *settings, False, transpose)
    rows = torch.library.get_ctx().new_dynamic_size()
    return (indices.new_empty((rows, g.ndim + 1)), *_fake_book(indices, rows, g.volume))


def _fake_transpose_rulebook(pair_in, pair_out, block_offset, in_rows, out_rows, volume):
    return _fake_book(pair_in, in_rows, volume, pair_in.shape[0])


# ---------------------------------------------------------------------------------- convolution

_BOOK = "Tensor pair_in, Tensor pair_out, Tensor block_offset"

_lib.define(
    f"conv(Tensor features, Tensor weight, Tensor? bias, {_BOOK}, SymInt out_rows, int groups, "
    "bool symmetric) -> Tensor",
    tags=_tags,
)
_lib.define(
    f"conv_input_grad(Tensor grad, Tensor weight, {_BOOK}, SymInt in_rows, int groups, bool "
    "symmetric) -> Tensor",
    tags=_tags,
)
_lib.define(
    f"conv_weight_grad(Tensor features, Tensor grad, {_BOOK}, SymInt[] weight_shape, int groups, "
    "bool symmetric) -> Tensor",
    tags=_tags,
)


def _conv(features, weight, bias, a, b, c, out_rows, groups, symmetric):
    return kernels_for(features).conv(features, weight, bias, Rulebook(a, b, c), out_rows, groups)


def _conv_input_grad(grad, weight, a, b, c, in_rows, groups, symmetric):
    book = Rulebook(a, b, c)
    return kernels_for(grad).conv_input_grad(grad, weight, book, in_rows, groups, symmetric)


def _conv_weight_grad(features, grad, a, b, c, weight_shape, groups, symmetric):
    book = Rulebook(a, b, c)
    return kernels_for(features).conv_weight_grad(features, grad, book, weight_shape, groups)


def _save_conv(ctx, inputs, output):
    features, weight, bias, *book, _, ctx.groups, ctx.symmetric = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(features, weight, *book)


def _conv_backward(ctx, grad):
    features, weight, *book = ctx.saved_tensors
    to_x, to_w, to_bias, *_ = ctx.needs_input_grad
    settings = ctx.groups, ctx.symmetric
    x_grad = conv_input_grad(grad, weight, *book, features.shape[0], *settings) if to_x else None
    w_grad = conv_weight_grad(features, grad, *book, weight.shape, *settings) if to_w else None
    bias_grad = grad.sum(0) if ctx.has_bias and to_bias else None
    return x_grad, w_grad, bias_grad, None, None, None, None, None, None


def _save_input_grad(ctx, inputs, output):
    grad, weight, *book, _, ctx.groups, ctx.symmetric = inputs
    ctx.save_for_backward(grad, weight, *book)


def _input_grad_backward(ctx, turned):
    grad, weight, *book = ctx.saved_tensors
    to_grad, to_weight, *_ = ctx.needs_input_grad
    settings = ctx.groups, ctx.symmetric
    grad_grad = conv(turned, weight, None, *book, grad.shape[0], *settings) if to_grad else None
    w_grad = conv_weight_grad(turned, grad, *book, weight.shape, *settings) if to_weight else None
    return grad_grad, w_grad, None, None, None, None, None, None


def _save_weight_grad(ctx, inputs, output):
    features, grad, *book, _, ctx.groups, ctx.symmetric = inputs
    ctx.save_for_backward(features, grad, *book)


def _weight_grad_backward(ctx, turned):
    features, grad, *book = ctx.saved_tensors
    to_x, to_grad, *_ = ctx.needs_input_grad
    settings = ctx.groups, ctx.symmetric
    x_grad = conv_input_grad(grad, turned, *book, features.shape[0], *settings) if to_x else None
    grad_grad = conv(features, turned, None, *book, grad.shape[0], *settings) if to_grad else None
    return x_grad, grad_grad, None, None, None, None, None, None


# ---------------------------------------------------------------------------------- registration

for _name, _run, _fake in (
    ("get_indice_pairs", _get_indice_pairs, _fake_get_indice_pairs),
    ("subm_rulebook", _subm_rulebook, _fake_subm_rulebook),
    ("rulebook", _rulebook, _fake_rulebook),
    ("transpose_rulebook", _transpose_rulebook, _fake_transpose_rulebook),
    (
        "conv",
        _conv,
        lambda features, weight, bias, a, b, c, out_rows, groups, symmetric: features.new_empty(
            (out_rows, weight.shape[0])
        ),
    ),
    (
        "conv_input_grad",
        _conv_input_grad,
        lambda grad, weight, a, b, c, in_rows, groups, symmetric: grad.new_empty(
            (in_rows, weight.shape[-1] * groups)
        ),
    ),
    (
        "conv_weight_grad",
        _conv_weight_grad,
        lambda features, grad, a, b, c, weight_shape, groups, symmetric: features.new_empty(
            weight_shape
        ),
    ),
):
    for _device in ("CPU", "CUDA"):
        _lib.impl(_name, _run, _device)
    torch.library.register_fake(f"spconv_lite::{_name}", _fake, lib=_lib)

for _name, _backward, _save in (
    ("conv", _conv_backward, _save_conv),
    ("conv_input_grad", _input_grad_backward, _save_input_grad),
    ("conv_weight_grad", _weight_grad_backward, _save_weight_grad),
):
    torch.library.register_autograd(
        f"spconv_lite::{_name}", _backward, setup_context=_save, lib=_lib
    )

get_indice_pairs = torch.ops.spconv_lite.get_indice_pairs.default
subm_rulebook = torch.ops.spconv_lite.subm_rulebook.default
rulebook = torch.ops.spconv_lite.rulebook.default
transpose_rulebook = torch.ops.spconv_lite.transpose_rulebook.default
conv = torch.ops.spconv_lite.conv.default
conv_input_grad = torch.ops.spconv_lite.conv_input_grad.default
conv_weight_grad = torch.ops.spconv_lite.conv_weight_grad.default

__all__ = [
    "Rulebook",
    "conv",
    "conv_input_grad",
    "conv_weight_grad",
    "get_conv_output_size",
    "get_deconv_output_size",
    "get_indice_pairs",
    "is_symmetric",
    "rulebook",
    "set_kernels",
    "subm_rulebook",
    "transpose_rulebook",
]
