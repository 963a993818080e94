"""torch.ops.spconv_lite: schema, implementation, fake and autograd of every operator.

A rulebook is three tensors (see csrc/cpu/rulebook.h): `pair_in` int32 (P,), `pair_out` uint8 (P,)
and `block_offset` int64 (ceil(out_rows / 256) * K + 1,). A convolution is bilinear in features and
weight, so the derivatives of the three operators `conv`, `conv_input_grad` and `conv_weight_grad`
are these three again: gradients of any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import _C

BLOCK_ROWS = 256  # as block_rows in csrc/cpu/pairs.h
MAX_AXES = 4

_lib = torch.library.Library("spconv_lite", "DEF")
_tags = (torch.Tag.pt2_compliant_tag,)


class Rulebook(NamedTuple):
    """The pairs (input row, output row) of every kernel offset, sorted by block of 256 output rows,
    then by offset."""

    pair_in: Tensor
    pair_out: Tensor
    block_offset: Tensor


# ---------------------------------------------------------------------------------- geometry


def get_conv_output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Spatial shape of a convolution's output, one number an axis; as torch computes it."""
    axes = zip(input_size, kernel_size, stride, padding, dilation, strict=True)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]


def get_deconv_output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> list[int]:
    """Spatial shape of a transposed convolution's output; as torch's, dilation included."""
    axes = zip(input_size, kernel_size, stride, padding, dilation, output_padding, strict=True)
    return [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in axes]


class _Geometry(NamedTuple):
    ndim: int
    batch_size: int
    in_shape: list[int]
    out_shape: list[int]
    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    kind: int  # Kind in csrc/cpu/rulebook.h

    @property
    def volume(self) -> int:
        return math.prod(self.kernel)

    def as_four(self) -> tuple:
        """The arguments of _C.build_rulebook: leading axes of length 1 make every layer 4-D."""
        spare = MAX_AXES - self.ndim
        lists = self.in_shape, self.out_shape, self.kernel, self.stride, self.padding, self.dilation
        fills = 1, 1, 1, 1, 0, 1
        padded = [[fill] * spare + values for values, fill in zip(lists, fills, strict=True)]
        return (self.ndim, self.batch_size, *padded, self.kind)


def _geometry(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    ksize: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_padding: Sequence[int],
    subm: bool,
    transpose: bool,
) -> _Geometry:
    ndim = len(spatial_shape)
    if not 1 <= ndim <= MAX_AXES:
        raise ValueError(
            f"get_indice_pairs: spatial_shape must have 1 to {MAX_AXES} axes, got "
            f"{list(spatial_shape)}"
        )
    if indices.ndim != 2 or indices.shape[1] != ndim + 1:
        raise ValueError(
            f"get_indice_pairs: indices must have shape (N, {ndim + 1}), columns batch and {ndim} "
            f"coordinates, got {tuple(indices.shape)}"
        )
    if indices.dtype != torch.int32:
        raise TypeError(
            f"get_indice_pairs: indices must be int32, got {indices.dtype}; use indices.int()"
        )
    if batch_size < 1:
        raise ValueError(f"get_indice_pairs: batch_size must be at least 1, got {batch_size}")
    for name, values, least in (
        ("spatial_shape", spatial_shape, 1),
        ("ksize", ksize, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
        ("out_padding", out_padding, 0),
    ):
        if len(values) != ndim or any(value < least for value in values):
            raise ValueError(
                f"get_indice_pairs: {name} must be {ndim} integers of at least {least}, got "
                f"{list(values)}"
            )
        if name != "spatial_shape" and max(values) > 2**31 - 1:
            raise ValueError(
                f"get_indice_pairs: {name} must be at most 2^31 - 1, got {list(values)}"
            )
    if subm and transpose:
        raise ValueError("get_indice_pairs: a layer is submanifold or transposed, not both")
    in_shape, ksize, dilation = list(spatial_shape), list(ksize), list(dilation)
    stride, padding, out_shape = list(stride), list(padding), in_shape
    if subm:
        stride, padding = [1] * ndim, [k // 2 * d for k, d in zip(ksize, dilation, strict=True)]
    elif transpose:
        out_shape = get_deconv_output_size(
            in_shape, ksize, stride, padding, dilation, list(out_padding)
        )
    else:
        out_shape = get_conv_output_size(in_shape, ksize, stride, padding, dilation)
    if min(out_shape) < 1:
        raise ValueError(
            f"get_indice_pairs: the kernel does not fit: spatial_shape {in_shape} with ksize "
            f"{ksize}, "
            f"padding {padding} and dilation {dilation} gives {out_shape}; enlarge the grid or "
            "the padding"
        )
    for name, shape in (("spatial_shape", in_shape), ("the output shape", out_shape)):
        if batch_size * math.prod(shape) > 2**63 - 1:
            raise ValueError(
                f"get_indice_pairs: batch_size {batch_size} and {name} {shape} have more than "
                "2^63 - 1 "
                "cells; use larger voxels"
            )
        if max(shape) > 2**31 - 1:
            raise ValueError(f"get_indice_pairs: {name} {shape} has an axis longer than 2^31 - 1")
    kind = 0 if subm else 2 if transpose else 1
    return _Geometry(ndim, batch_size, in_shape, out_shape, ksize, stride, padding, dilation, kind)


def is_symmetric(ksize: Sequence[int]) -> bool:
    """Whether a submanifold rulebook read backwards is itself with the kernel mirrored."""
    return all(k % 2 == 1 for k in ksize)


def _offsets(rows: int, volume: int) -> int:
    return (rows + BLOCK_ROWS - 1) // BLOCK_ROWS * volume + 1


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


def _build(indices: Tensor, geometry: _Geometry) -> _C.Rulebook:
    return _C.build_rulebook(indices, indices, *geometry.as_four(), torch.get_num_threads())


def _get_indice_pairs(indices, *geometry):
    g = _geometry(indices, *geometry)
    built = _build(indices.contiguous(), g)
    out_indices = indices.new_empty((built.out_rows, g.ndim + 1))
    indice_pairs = indices.new_empty((2, g.volume, indices.shape[0]))
    indice_num = indices.new_empty((g.volume,))
    built.write_padded(out_indices, indice_pairs, indice_num)
    return out_indices, indice_pairs, indice_num


def _write_compact(indices: Tensor, built: _C.Rulebook, out_indices: Tensor | None) -> Rulebook:
    book = Rulebook(
        indices.new_empty((built.pairs,)),
        indices.new_empty((built.pairs,), dtype=torch.uint8),
        indices.new_empty((built.block_offsets,), dtype=torch.int64),
    )
    built.write_compact(out_indices, *book)
    return book


def _subm_rulebook(indices, batch_size, spatial_shape, ksize, dilation):
    one, zero = [1] * len(spatial_shape), [0] * len(spatial_shape)
    g = _geometry(indices, batch_size, spatial_shape, ksize, one, zero, dilation, zero, True, False)
    return tuple(_write_compact(indices, _build(indices.contiguous(), g), None))


def _rulebook(
    indices, batch_size, spatial_shape, ksize, stride, padding, dilation, out_padding, transpose
):
    g = _geometry(
        indices,
        batch_size,
        spatial_shape,
        ksize,
        stride,
        padding,
        dilation,
        out_padding,
        False,
        transpose,
    )
    built = _build(indices.contiguous(), g)
    out_indices = indices.new_empty((built.out_rows, g.ndim + 1))
    return (out_indices, *_write_compact(indices, built, out_indices))


def _transpose_rulebook(pair_in, pair_out, block_offset, in_rows, out_rows, volume):
    book = pair_in.contiguous(), pair_out.contiguous(), block_offset.contiguous()
    turned = (
        torch.empty_like(book[0]),
        torch.empty_like(book[1]),
        block_offset.new_empty((_offsets(in_rows, volume),)),
    )
    _C.transpose_rulebook(*book, in_rows, out_rows, volume, *turned, torch.get_num_threads())
    return turned


def _fake_get_indice_pairs(indices, *geometry):
    g = _geometry(indices, *geometry)
    rows = indices.shape[0] if g.kind == 0 else torch.library.get_ctx().new_dynamic_size()
    return (
        indices.new_empty((rows, g.ndim + 1)),
        indices.new_empty((2, g.volume, indices.shape[0])),
        indices.new_empty((g.volume,)),
    )


def _fake_book(like: Tensor, pairs, rows, volume: int):
    return (
        like.new_empty((pairs,), dtype=torch.int32),
        like.new_empty((pairs,), dtype=torch.uint8),
        like.new_empty((_offsets(rows, volume),), dtype=torch.int64),
    )


def _fake_subm_rulebook(indices, batch_size, spatial_shape, ksize, dilation):
    pairs = torch.library.get_ctx().new_dynamic_size()
    return _fake_book(indices, pairs, indices.shape[0], math.prod(ksize))


def _fake_rulebook(
    indices, batch_size, spatial_shape, ksize, stride, padding, dilation, out_padding, transpose
):
    context = torch.library.get_ctx()
    rows, pairs = context.new_dynamic_size(), context.new_dynamic_size()
    out_indices = indices.new_empty((rows, len(spatial_shape) + 1))
    return (out_indices, *_fake_book(indices, pairs, rows, math.prod(ksize)))


def _fake_transpose_rulebook(pair_in, pair_out, block_offset, in_rows, out_rows, volume):
    return _fake_book(pair_in, pair_in.shape[0], in_rows, volume)


# ---------------------------------------------------------------------------------- convolution

_BOOK = "Tensor pair_in, Tensor pair_out, Tensor block_offset"

_lib.define(
    f"conv(Tensor features, Tensor weight, Tensor? bias, {_BOOK}, SymInt out_rows, int groups, "
    "bool symmetric) -> Tensor",
    tags=_tags,
)
_lib.define(
    f"conv_input_grad(Tensor grad, Tensor weight, {_BOOK}, SymInt in_rows, int groups, bool "
    "symmetric) "
    "-> Tensor",
    tags=_tags,
)
_lib.define(
    f"conv_weight_grad(Tensor features, Tensor grad, {_BOOK}, SymInt[] weight_shape, int groups, "
    "bool symmetric) -> Tensor",
    tags=_tags,
)

_NARROW = (torch.float16, torch.bfloat16)


def _explain(name: str, first: str, x: Tensor, second: str, w: Tensor, groups: int) -> None:
    """Raises what was wrong in a caller's words, after the native module has refused a call: checks
    that cost nothing while all is well."""
    if x.dtype is not w.dtype or not x.dtype.is_floating_point:
        raise TypeError(
            f"{name}: {first} and {second} must be of one floating dtype, got {x.dtype} and "
            f"{w.dtype}; convert one of them or use torch.autocast"
        ) from None
    if x.ndim != 2:
        raise ValueError(f"{name}: {first} must have shape (N, C), got {tuple(x.shape)}") from None
    if second == "weight" and x.shape[1] != w.shape[-1] * groups:
        raise ValueError(
            f"{name}: {first} must have {w.shape[-1] * groups} channels for a weight of shape "
            f"{tuple(w.shape)} and groups {groups}, got {tuple(x.shape)}"
        ) from None


def _conv(features, weight, bias, pair_in, pair_out, block_offset, out_rows, groups, symmetric):
    dtype = features.dtype
    if dtype is not torch.float32 and dtype in _NARROW:  # sums in float32, one rounding at the end
        features, weight = features.float(), weight.float() if weight.dtype is dtype else weight
        bias = None if bias is None else bias.float()
    out = features.new_empty((out_rows, weight.shape[0]))
    try:
        _C.convolve(
            features.contiguous(),
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            pair_in,
            pair_out,
            block_offset,
            out,
            groups,
            torch.get_num_threads(),
        )
    except (TypeError, ValueError):
        _explain("conv", "features", features, "weight", weight, groups)
        raise
    return out if out.dtype is dtype else out.to(dtype)


def _conv_input_grad(grad, weight, pair_in, pair_out, block_offset, in_rows, groups, symmetric):
    dtype = grad.dtype
    if dtype is not torch.float32 and dtype in _NARROW:
        grad, weight = grad.float(), weight.float() if weight.dtype is dtype else weight
    weight, book = weight.contiguous(), (pair_in, pair_out, block_offset)
    if not symmetric:
        book = _transpose_rulebook(*book, in_rows, grad.shape[0], math.prod(weight.shape[1:-1]))
    out = grad.new_empty((in_rows, weight.shape[-1] * groups))
    try:
        _C.convolve_back(
            grad.contiguous(), weight, *book, symmetric, out, groups, torch.get_num_threads()
        )
    except (TypeError, ValueError):
        _explain("conv_input_grad", "grad", grad, "weight of out channels", weight, groups)
        raise
    return out if out.dtype is dtype else out.to(dtype)


def _conv_weight_grad(
    features, grad, pair_in, pair_out, block_offset, weight_shape, groups, symmetric
):
    dtype = features.dtype
    if dtype is not torch.float32 and dtype in _NARROW:
        features, grad = features.float(), grad.float() if grad.dtype is dtype else grad
    out = features.new_empty(weight_shape)
    try:
        _C.correlate(
            features.contiguous(),
            grad.contiguous(),
            pair_in,
            pair_out,
            block_offset,
            out,
            groups,
            torch.get_num_threads(),
        )
    except (TypeError, ValueError):
        _explain("conv_weight_grad", "features", features, "grad", grad, groups)
        raise
    return out if out.dtype is dtype else out.to(dtype)


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
    _lib.impl(_name, _run, "CPU")
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
