"""torch.ops.spconv_lite: schema, fake and autograd of every operator.

A rulebook is three tensors (geometry/rulebook.py); table.py says which kernels run. A convolution
is bilinear in features and weight, so the derivatives of the three operators `conv`,
`conv_input_grad` and `conv_weight_grad` are these three again: gradients of any order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _C as _C
from ..geometry import (
    SUBMANIFOLD,
    Geometry,
    Rulebook,
    block_offsets,
    compact,
    get_conv_output_size,
    get_deconv_output_size,
    make_geometry,
)
from . import cpu as cpu
from . import cuda as cuda
from . import plain as plain
from .autograd import Formula, bilinear, differentiable
from .norm import Norm
from .table import _KERNELS as _KERNELS
from .table import ConvAlgo as ConvAlgo
from .table import Kernels, set_kernels
from .table import _chosen as _chosen

_lib = torch.library.Library("spconv_lite", "DEF")
# Some kernels of every operator wait for the device: torch.compile keeps them out of CUDA graphs.
_tags = [torch.Tag.pt2_compliant_tag]
if hasattr(torch.Tag, "cudagraph_unsafe"):  # torch 2.9
    _tags.append(torch.Tag.cudagraph_unsafe)


def kernels_for(tensor: Tensor) -> Kernels:
    """The kernels that run on the device of a tensor; RuntimeError where there are none."""
    kernels = _chosen.get(tensor.device.type)
    if kernels is None:
        raise RuntimeError(
            f"spconv_lite: there are no kernels for {tensor.device}; move the tensors to the CPU "
            "or to CUDA"
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
    if hasattr(kernels := kernels_for(like), "mask_words"):
        sizes = (volume, rows), (rows,), (kernels.mask_words(rows, volume),)
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
    book = _fake_book(indices, indices.shape[0], g.volume)
    if hasattr(kernels_for(indices), "mask_words"):
        return book
    with_order = torch.library.get_ctx().new_dynamic_size()  # or without, as the sites come
    return indices.new_empty((with_order,), dtype=torch.int32), *book[1:]


def _fake_rulebook(indices, *geometry):
    *settings, transpose = geometry
    g = make_geometry(indices, *settings, False, transpose)
    rows = torch.library.get_ctx().new_dynamic_size()
    return (indices.new_empty((rows, g.ndim + 1)), *_fake_book(indices, rows, g.volume))


def _fake_transpose_rulebook(pair_in, pair_out, block_offset, in_rows, out_rows, volume):
    book = _fake_book(pair_in, in_rows, volume, pair_out.shape[0])
    return (torch.empty_like(pair_in), *book[1:]) if pair_in.ndim == 1 else book


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


# In inference, with what follows a layer: the BatchNorm of norm.py, and then at least zero;
# rounded once where the kernels do it all. Without derivatives.
_lib.define(
    "conv_norm(Tensor features, Tensor weight, Tensor? bias, Tensor mean, Tensor variance, Tensor? "
    f"gain, Tensor? offset, float eps, {_BOOK}, SymInt out_rows, int groups, bool rectified) -> "
    "Tensor",
    tags=_tags,
)


def _conv_norm(features, weight, bias, *rest):
    *norm, a, b, c, out_rows, groups, rectified = rest
    norm, kernels = Norm(*norm), kernels_for(features)
    call = Rulebook(a, b, c), out_rows, groups
    if hasattr(kernels, "conv_norm") and features.dtype in kernels.MERGES:
        return kernels.conv_norm(features, weight, bias, norm, *call, rectified)
    scale, shift = norm.folded(bias)
    if kernels is cpu:
        return kernels.conv(features, weight, shift, *call, cpu.Ends(scale, rectified))
    out = kernels.conv(features, weight, None, *call) * scale + shift
    return (out.relu() if rectified else out).to(features.dtype)


# ---------------------------------------------------------------------------------- pools

_lib.define(
    f"max_pool(Tensor features, {_BOOK}, SymInt out_rows, int volume, bool from_zero) -> Tensor",
    tags=_tags,
)
_lib.define(
    f"select_sum(Tensor features, Tensor of_features, Tensor of_output, {_BOOK}, int volume, bool "
    "turned) -> Tensor",
    tags=_tags,
)


def _max_pool(features, a, b, c, out_rows, volume, from_zero):
    return kernels_for(features).max_pool(features, Rulebook(a, b, c), out_rows, volume, from_zero)


def _select_sum(features, of_features, of_output, a, b, c, volume, turned):
    marks = of_features, of_output
    return kernels_for(features).select_sum(features, *marks, Rulebook(a, b, c), volume, turned)


def _shares(features, output, book, volume):
    """How many of a window's sites have its maximum, at least 1."""
    ones = torch.ones_like(features)
    return select_sum(ones, features, output, *book, volume, False).clamp(min=1)


def _max_pool_backward(inputs, output, needs, grad):
    features, *book, _, volume, from_zero = inputs
    share = grad if from_zero else grad / _shares(features, output, book, volume)
    return (select_sum(share, output, features, *book, volume, True),)


def _max_pool_tangent(inputs, output, tangents):
    features, *book, _, volume, from_zero = inputs
    chosen = select_sum(tangents[0], features, output, *book, volume, False)
    # from zero, the gradient's transpose: each site that shares the maximum counts whole
    return chosen if from_zero else chosen / _shares(features, output, book, volume)


def _select_sum_backward(inputs, output, needs, grad):
    _, of_features, of_output, *book, volume, turned = inputs
    back = select_sum(grad, of_output, of_features, *book, volume, not turned)
    return (back if needs[0] else None,)


def _select_sum_tangent(inputs, output, tangents):
    features, *rest = inputs
    tangent = torch.zeros_like(features) if tangents[0] is None else tangents[0]
    return select_sum(tangent, *rest)


# ---------------------------------------------------------------------------------- registration


def _outside_capture(name, run):
    """`run`, refused while a CUDA graph is captured if its kernels would wait for the device."""

    def guarded(first, *rest):
        if torch.cuda.is_current_stream_capturing() and name in kernels_for(first).WAITS:
            raise RuntimeError(
                f"{name}: these kernels wait for the device, which ends the capture of a CUDA "
                "graph; build rulebooks before the capture, and choose kernels that do not wait"
            )
        return run(first, *rest)

    return guarded


for _name, _run, _fake in (
    ("get_indice_pairs", _get_indice_pairs, _fake_get_indice_pairs),
    ("subm_rulebook", _subm_rulebook, _fake_subm_rulebook),
    ("rulebook", _rulebook, _fake_rulebook),
    ("transpose_rulebook", _transpose_rulebook, _fake_transpose_rulebook),
    (
        "conv",
        _conv,
        lambda features, weight, bias, a, b, c, out_rows, groups, symmetric: weight.new_empty(
            (out_rows, weight.shape[0])
        ),
    ),
    (
        "conv_norm",
        _conv_norm,
        lambda features, weight, *rest: weight.new_empty((rest[-3], weight.shape[0])),
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
    (
        "max_pool",
        _max_pool,
        lambda features, a, b, c, out_rows, volume, from_zero: features.new_empty(
            (out_rows, features.shape[1])
        ),
    ),
    (
        "select_sum",
        _select_sum,
        lambda features, of_features, of_output, *rest: features.new_empty(of_output.shape),
    ),
):
    _lib.impl(_name, _run, "CPU")
    _lib.impl(_name, _outside_capture(_name, _run), "CUDA")
    torch.library.register_fake(f"spconv_lite::{_name}", _fake, lib=_lib)

get_indice_pairs = torch.ops.spconv_lite.get_indice_pairs.default
subm_rulebook = torch.ops.spconv_lite.subm_rulebook.default
rulebook = torch.ops.spconv_lite.rulebook.default
transpose_rulebook = torch.ops.spconv_lite.transpose_rulebook.default
conv_norm = torch.ops.spconv_lite.conv_norm.default


def _traced(name, first):
    """The operator that stands in a graph for the one of this name; None for itself."""
    return getattr(kernels_for(first), "VISIBLE", {}).get(name)


def _differentiable(name, formula):
    op = getattr(torch.ops.spconv_lite, name).default
    return differentiable(_lib, name, op, formula, functools.partial(_traced, name))


_of_conv = bilinear(
    lambda *a: conv(*a), lambda *a: conv_input_grad(*a), lambda *a: conv_weight_grad(*a)
)
conv = _differentiable("conv", _of_conv.conv)
conv_input_grad = _differentiable("conv_input_grad", _of_conv.conv_input_grad)
conv_weight_grad = _differentiable("conv_weight_grad", _of_conv.conv_weight_grad)
max_pool = _differentiable("max_pool", Formula(_max_pool_backward, _max_pool_tangent, True))
select_sum = _differentiable("select_sum", Formula(_select_sum_backward, _select_sum_tangent))


def indice_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    inverse: bool = False,
    subm: bool = False,
    algo: ConvAlgo | None = None,
    timer: object = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A convolution over pairs as `get_indice_pairs` gives them; spconv's signature.

    Args:
        features: (N, C). filters: (out, k..., C).
        indice_pairs, indice_pair_num: (2, K, N) and (K,) int32.
        num_activate_out: rows of the result (M, out).
        inverse: reads the pairs from output to input.
        subm, algo, timer: taken for spconv's signature, and without effect.
    """
    volume = math.prod(filters.shape[1:-1])
    book = book_of_pairs(
        "indice_conv",
        indice_pairs,
        indice_pair_num,
        volume,
        features.shape[0],
        num_activate_out,
        inverse,
    )
    return conv(features, filters, bias, *book, num_activate_out, 1, False)


def book_of_pairs(
    name: str,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    volume: int,
    in_rows: int,
    out_rows: int,
    inverse: bool,
) -> Rulebook:
    """The compact rulebook of pairs as `get_indice_pairs` gives them, read from output to input
    where `inverse`. Raises ValueError, in the name of the caller, for pairs of another kernel or
    that name rows which are not there."""
    if indice_pairs.ndim != 3 or tuple(indice_pairs.shape[:2]) != (2, volume):
        raise ValueError(
            f"{name}: indice_pairs must have shape (2, {volume}, N) for a kernel of {volume} "
            f"cells, got {tuple(indice_pairs.shape)}"
        )
    if tuple(indice_pair_num.shape) != (volume,):
        raise ValueError(
            f"{name}: indice_pair_num must have shape ({volume},), got "
            f"{tuple(indice_pair_num.shape)}"
        )
    place = torch.arange(indice_pairs.shape[2], device=indice_pairs.device)
    offset, at = (place < indice_pair_num[:, None]).nonzero().unbind(1)
    rows_in, rows_out = indice_pairs[:, offset, at].long()
    if inverse:
        rows_in, rows_out = rows_out, rows_in
    if len(rows_in) and (
        int(torch.minimum(rows_in, rows_out).min()) < 0
        or int(rows_in.max()) >= in_rows
        or int(rows_out.max()) >= out_rows
    ):
        raise ValueError(f"{name}: the pairs name rows that the features or the output do not have")
    return compact(rows_in, rows_out, offset, out_rows, volume)


__all__ = [
    "ConvAlgo",
    "Rulebook",
    "conv",
    "conv_input_grad",
    "conv_norm",
    "conv_weight_grad",
    "get_conv_output_size",
    "get_deconv_output_size",
    "get_indice_pairs",
    "indice_conv",
    "is_symmetric",
    "max_pool",
    "rulebook",
    "select_sum",
    "set_kernels",
    "subm_rulebook",
    "transpose_rulebook",
]
