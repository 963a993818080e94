"""The compiled CPU kernels behind the operators (csrc/cpu): outputs are allocated here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _C
from ..geometry import SUBMANIFOLD, Geometry, Rulebook, block_offsets

WAITS: frozenset[str] = frozenset()
SORTED_ROWS = 4096  # from here on a map is built in site order: fewer rows stay in a cache anyway
_NARROW = (torch.float16, torch.bfloat16)
MERGES = frozenset({torch.float32, torch.float64})


def explain(name: str, first: str, x: Tensor, second: str, w: Tensor, groups: int) -> None:
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


def _build(indices: Tensor, g: Geometry) -> _C.Rulebook:
    return _C.build_rulebook(indices, indices, *g.as_four(), torch.get_num_threads())


def padded_pairs(indices: Tensor, g: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Output sites, `indice_pairs` (2, K, N) and `indice_num` (K,), as spconv lays them out."""
    built = _build(indices, g)
    out_indices = indices.new_empty((built.out_rows, g.ndim + 1))
    indice_pairs = indices.new_empty((2, g.volume, indices.shape[0]))
    indice_num = indices.new_empty((g.volume,))
    built.write_padded(out_indices, indice_pairs, indice_num)
    return out_indices, indice_pairs, indice_num


def build(indices: Tensor, g: Geometry) -> tuple[Tensor, Rulebook]:
    """Output sites (those of the input for a submanifold layer) and the rulebook."""
    order = _site_order(indices, g) if g.kind == SUBMANIFOLD else None
    built = _build(indices if order is None else indices.index_select(0, order), g)
    out_indices = indices
    if g.kind != SUBMANIFOLD:
        out_indices = indices.new_empty((built.out_rows, g.ndim + 1))
    book = Rulebook(
        indices.new_empty((built.pairs + (0 if order is None else len(order)),)),
        indices.new_empty((built.pairs,), dtype=torch.uint8),
        indices.new_empty((built.block_offsets,), dtype=torch.int64),
    )
    pairs = book.pair_in[: built.pairs]
    built.write_compact(None if g.kind == SUBMANIFOLD else out_indices, pairs, *book[1:])
    if order is not None:
        book.pair_in[built.pairs :] = order
    return out_indices, book


def _site_order(indices: Tensor, g: Geometry) -> Tensor | None:
    """The rows int32 (N,) of the sites in row-major order; None where they are in it, where there
    are few, and where one lies outside the grid or occurs twice (which the rulebook then says)."""
    if indices.shape[0] < SORTED_ROWS:
        return None
    key, ordered, rows = (indices.new_empty((len(indices),), dtype=torch.int64) for _ in range(3))
    if _C.site_keys(indices, g.batch_size, g.in_shape, key) >= 0:
        return None
    if _C.sort_keys(key, g.batch_size * math.prod(g.in_shape), ordered, rows):
        return None
    return None if bool((ordered[1:] == ordered[:-1]).any()) else rows.int()


def turn(book: Rulebook, in_rows: int, out_rows: int, volume: int) -> Rulebook:
    """The rulebook read backwards."""
    book = Rulebook(*(t.contiguous() for t in book))
    turned = Rulebook(
        torch.empty_like(book.pair_in),
        torch.empty_like(book.pair_out),
        book.block_offset.new_empty((block_offsets(in_rows, volume),)),
    )
    pairs = len(book.pair_out)
    both = [(b.pair_in[:pairs], b.pair_out, b.block_offset) for b in (book, turned)]
    _C.transpose_rulebook(*both[0], in_rows, out_rows, volume, *both[1], torch.get_num_threads())
    turned.pair_in[pairs:] = book.pair_in[
        pairs:
    ]  # the order, where there is one, is that of both sides
    return turned


def widens(dtype: torch.dtype, weight_shape: Sequence[int], groups: int) -> bool:
    """Whether a layer of this dtype is computed in float32: float16, and bfloat16 where the
    processor does not multiply it (by pairs of channels)."""
    if dtype is not torch.bfloat16:
        return dtype is torch.float16
    channels = weight_shape[-1], weight_shape[0] // max(groups, 1)
    even = all(n % 2 == 0 for n in channels)  # a depthwise layer has one
    return not (even and _C.multiplies_bfloat16())


def _readable(
    dtype: torch.dtype, weight_shape: Sequence[int], groups: int, *features: Tensor
) -> tuple[torch.dtype, list[Tensor]]:
    """For a layer of this dtype that `widens`: the dtype in which the core writes features, and
    those that it reads. It widens and rounds bfloat16 itself, except in a depthwise layer."""
    depthwise = weight_shape[-1] == 1 and weight_shape[0] == groups
    if dtype is torch.bfloat16 and not depthwise:
        return dtype, list(features)
    return torch.float32, [f.float() for f in features]


class Ends(NamedTuple):
    """What becomes of a convolution's sums before they are rounded: times `scale` (out,), which
    leaves the bias to be added after it, and then at least zero where `rectified`."""

    scale: Tensor | None = None
    rectified: bool = False


def conv(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    book: Rulebook,
    out_rows: int,
    groups: int,
    ends: Ends = Ends(),  # noqa: B008
) -> Tensor:
    """(out_rows, out) of the weight's dtype. Features may be float32 beside a bfloat16 weight where
    that `widens`: autocast then need not round what is widened again."""
    dtype = written = weight.dtype
    wide = widens(dtype, weight.shape, groups)
    mixed = wide and dtype is torch.bfloat16 and features.dtype is torch.float32
    if features.dtype is not dtype and not mixed:
        explain("conv", "features", features, "weight", weight, groups)
    if dtype in _NARROW:  # sums in float32, one rounding at the end
        if wide:
            written, (features,) = _readable(dtype, weight.shape, groups, features)
            weight = weight.float()
        bias = None if bias is None else bias.float()
        ends = ends._replace(scale=None if ends.scale is None else ends.scale.float())
    out = features.new_empty((out_rows, weight.shape[0]), dtype=written)
    try:
        _C.convolve(
            features.contiguous(),
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            *book,
            out,
            groups,
            torch.get_num_threads(),
            *ends,
        )
    except (TypeError, ValueError):
        explain("conv", "features", features, "weight", weight, groups)
        raise
    return out if out.dtype is dtype else out.to(dtype)


def conv_input_grad(
    grad: Tensor, weight: Tensor, book: Rulebook, in_rows: int, groups: int, symmetric: bool
) -> Tensor:
    dtype = written = grad.dtype
    if widens(dtype, weight.shape, groups):
        written, (grad,) = _readable(dtype, weight.shape, groups, grad)
        weight = weight.float()
    weight = weight.contiguous()
    if not symmetric:
        book = turn(book, in_rows, grad.shape[0], math.prod(weight.shape[1:-1]))
    out = grad.new_empty((in_rows, weight.shape[-1] * groups), dtype=written)
    try:
        _C.convolve_back(
            grad.contiguous(), weight, *book, symmetric, out, groups, torch.get_num_threads()
        )
    except (TypeError, ValueError):
        explain("conv_input_grad", "grad", grad, "weight of out channels", weight, groups)
        raise
    return out if out.dtype is dtype else out.to(dtype)


def conv_weight_grad(
    features: Tensor, grad: Tensor, book: Rulebook, weight_shape: Sequence[int], groups: int
) -> Tensor:
    dtype = summed = features.dtype
    if widens(dtype, weight_shape, groups):
        _, (features, grad) = _readable(dtype, weight_shape, groups, features, grad)
        summed = torch.float32
    out = features.new_empty(weight_shape, dtype=summed)
    try:
        _C.correlate(
            features.contiguous(), grad.contiguous(), *book, out, groups, torch.get_num_threads()
        )
    except (TypeError, ValueError):
        explain("conv_weight_grad", "features", features, "grad", grad, groups)
        raise
    return out if out.dtype is dtype else out.to(dtype)


def _wide(tensor: Tensor) -> Tensor:
    return (tensor.float() if tensor.dtype in _NARROW else tensor).contiguous()


def max_pool(
    features: Tensor, book: Rulebook, out_rows: int, volume: int, from_zero: bool
) -> Tensor:
    x = _wide(features)
    out = x.new_empty((out_rows, x.shape[1]))
    least = 0.0 if from_zero else -math.inf
    _C.max_pool(x, *book, out, volume, least, torch.get_num_threads())
    return out.to(features.dtype)


def select_sum(
    features: Tensor,
    of_features: Tensor,
    of_output: Tensor,
    book: Rulebook,
    volume: int,
    turned: bool,
) -> Tensor:
    x, a, b = _wide(features), _wide(of_features), _wide(of_output)
    if turned:
        book = turn(book, b.shape[0], x.shape[0], volume)
    out = torch.empty_like(b, dtype=x.dtype)
    _C.select_sum(x, a, b, *book, out, volume, torch.get_num_threads())
    return out.to(features.dtype)
