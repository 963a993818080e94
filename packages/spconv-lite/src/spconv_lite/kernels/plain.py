"""The operators in plain torch, on any device: sort and searchsorted for the rulebook, then gather,
matrix product and scatter for each kernel offset (spconv's "native" algorithm).

What layers on CUDA run by default. Rulebooks have the compact form. Within one offset no row occurs
twice, on either side, so that the scatter-adds meet no conflict: results are the same in every run.
Every operator waits for the device at least once, for sizes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..geometry import (
    SUBMANIFOLD,
    TRANSPOSED,
    Geometry,
    Rulebook,
    compact,
    outside_grid,
    pair_offsets,
    pair_rows,
    raise_duplicate,
    raise_outside,
    row_major,
    sites_of,
)
from .cpu import explain
from .reads import demand_reads, note_reads

MERGES: frozenset[torch.dtype] = frozenset()
WAITS = frozenset(
    {
        "get_indice_pairs",
        "subm_rulebook",
        "rulebook",
        "transpose_rulebook",
        "conv",
        "conv_input_grad",
        "conv_norm",
        "conv_weight_grad",
        "max_pool",
        "select_sum",
    }
)
_NARROW = (torch.float16, torch.bfloat16)

# ---------------------------------------------------------------------------------- rulebooks


def _sorted_sites(sites: Tensor, g: Geometry) -> tuple[Tensor, Tensor]:
    """Keys of the input sites (int64) in order, and the row of each; refuses sites outside the grid
    and duplicates."""
    outside = outside_grid(sites, g.batch_size, g.in_shape)
    keys, order = row_major(sites.unbind(1), [g.batch_size, *g.in_shape]).sort(stable=True)
    again = keys[1:] == keys[:-1]
    wrong = torch.stack([outside.any(), again.any()]).tolist()
    if wrong[0]:
        raise_outside(
            "get_indice_pairs", sites, int(outside.nonzero()[0]), g.batch_size, g.in_shape
        )
    if wrong[1]:
        raise_duplicate("get_indice_pairs", sites, int(order[1:][again].min()))
    return keys, order


def _reached(sites: Tensor, g: Geometry, offset: Sequence[int]) -> Tensor:
    """The key of the output cell that each input site reaches through one kernel offset, or -1."""
    settings = zip(offset, g.dilation, g.padding, g.stride, strict=True)
    step = [(k * d, p, s) for k, d, p, s in settings]
    if g.kind == TRANSPOSED:
        shift = torch.tensor([kd - p for kd, p, _ in step], device=sites.device)
        cells = sites[:, 1:] * torch.tensor(g.stride, device=sites.device) + shift
        hits = cells >= 0
    else:
        scaled = sites[:, 1:] + torch.tensor([p - kd for kd, p, _ in step], device=sites.device)
        stride = torch.tensor(g.stride, device=sites.device)
        cells = scaled.div(stride, rounding_mode="floor")
        hits = (scaled >= 0) & (cells * stride == scaled)
    hits = (hits & (cells < torch.tensor(g.out_shape, device=sites.device))).all(1)
    key = row_major([sites[:, 0], *cells.unbind(1)], [g.batch_size, *g.out_shape])
    return torch.where(hits, key, -1)


def _pairs(indices: Tensor, g: Geometry) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output sites; input row, output row and offset of every pair, by offset and input row."""
    sites = indices.long()
    keys, order = _sorted_sites(sites, g)
    offsets = itertools.product(*map(range, g.kernel))
    reached = torch.stack([_reached(sites, g, offset) for offset in offsets])
    if g.kind == SUBMANIFOLD:
        out_indices = indices
    else:
        keys = torch.unique(reached[reached >= 0])
        out_indices = sites_of(keys, g.out_shape)
        order = torch.arange(len(keys), device=keys.device)
    if len(keys) == 0:
        none = keys.new_empty((0,))
        return out_indices, none, none, none
    place = torch.searchsorted(keys, reached).clamp_(max=len(keys) - 1)
    offset, rows_in = (keys[place] == reached).nonzero().unbind(1)
    return out_indices, rows_in, order[place[offset, rows_in]], offset


def padded_pairs(indices: Tensor, g: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Output sites, `indice_pairs` (2, K, N) and `indice_num` (K,), as spconv lays them out."""
    out_indices, rows_in, rows_out, offset = _pairs(indices, g)
    begin = torch.searchsorted(offset, torch.arange(g.volume + 1, device=offset.device))
    place = torch.arange(len(offset), device=offset.device) - begin[offset]
    indice_pairs = indices.new_full((2, g.volume, indices.shape[0]), -1)
    indice_pairs[0, offset, place] = rows_in.int()
    indice_pairs[1, offset, place] = rows_out.int()
    if g.kind == SUBMANIFOLD:  # an operator's outputs are not its inputs
        out_indices = indices.clone()
    return out_indices, indice_pairs, begin.diff().int()


def build(indices: Tensor, g: Geometry) -> tuple[Tensor, Rulebook]:
    """Output sites (those of the input for a submanifold layer) and the rulebook."""
    out_indices, rows_in, rows_out, offset = _pairs(indices, g)
    book = compact(rows_in, rows_out, offset, out_indices.shape[0], g.volume)
    return out_indices, note_reads(book, indices.shape[0])


def turn(book: Rulebook, in_rows: int, out_rows: int, volume: int) -> Rulebook:
    """The rulebook read backwards."""
    _check_form("transpose_rulebook", book)
    demand_reads("transpose_rulebook", in_rows, book)
    rows_in, rows_out = pair_rows(book, volume)
    turned = compact(rows_out, rows_in, pair_offsets(book, volume), in_rows, volume)
    return note_reads(turned, out_rows)


# ---------------------------------------------------------------------------------- convolution


def _check_form(name: str, book: Rulebook) -> None:
    if book.is_table:
        raise TypeError(
            f"{name}: the rulebook is a neighbour table of the CUDA kernels, but plain torch "
            "operators are chosen for this device; build it again, or choose "
            'spconv_lite.set_kernels("cuda", "native")'
        )


def _by_offset(book: Rulebook, volume: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Offset, input rows and output rows of the pairs of each offset that has some."""
    if book.is_table:
        for k, rows in enumerate(book.pair_in):
            rows_out = (rows >= 0).nonzero().squeeze(1)
            if len(rows_out):
                yield k, rows[rows_out].long(), rows_out
        return
    order = pair_offsets(book, volume).argsort(stable=True)
    rows = torch.stack(pair_rows(book, volume))[:, order]
    counts = book.block_offset.diff().view(-1, volume).sum(0).tolist()
    for k, (rows_in, rows_out) in enumerate(map(torch.unbind, rows.split(counts, 1))):
        if counts[k]:
            yield k, rows_in, rows_out


def _without_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Autocast has had its say when a layer calls an operator; in here it would narrow the sums."""

    @functools.wraps(function)
    def run(first: Tensor, *args: object) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args)

    return run


def _wide(*tensors: Any) -> list[Any]:
    """float16 and bfloat16 as float32: sums are in float32, with one rounding at the end."""
    return [t.float() if t is not None and t.dtype in _NARROW else t for t in tensors]


def _weights(name: str, weight: Tensor, groups: int) -> Tensor:
    """(K, groups, out, in) of a weight (groups * out, k..., in)."""
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(
            f"{name}: groups must divide the {weight.shape[0]} output channels, got {groups}"
        )
    joined = weight.reshape(groups, weight.shape[0] // groups, -1, weight.shape[-1])
    return joined.permute(2, 0, 1, 3)


@_without_autocast
def conv(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    book: Rulebook,
    out_rows: int,
    groups: int,
) -> Tensor:
    explain("conv", "features", features, "weight", weight, groups)
    _check_form("conv", book)
    demand_reads("conv", features.shape[0], book)
    x, w, b = _wide(features, weight, bias)
    out = x.new_zeros((out_rows, w.shape[0]))
    w = _weights("conv", w, groups)
    for k, rows_in, rows_out in _by_offset(book, len(w)):
        rows = x[rows_in].unflatten(1, (groups, -1))
        out.index_add_(0, rows_out, torch.einsum("pgi,goi->pgo", rows, w[k]).flatten(1))
    return (out if b is None else out + b).to(features.dtype)


@_without_autocast
def conv_input_grad(
    grad: Tensor, weight: Tensor, book: Rulebook, in_rows: int, groups: int, symmetric: bool
) -> Tensor:
    explain("conv_input_grad", "grad", grad, "weight of out channels", weight, groups)
    _check_form("conv_input_grad", book)
    demand_reads("conv_input_grad", in_rows, book)
    g, w = _wide(grad, weight)
    out = g.new_zeros((in_rows, w.shape[-1] * groups))
    w = _weights("conv_input_grad", w, groups)
    for k, rows_in, rows_out in _by_offset(book, len(w)):
        rows = g[rows_out].unflatten(1, (groups, -1))
        out.index_add_(0, rows_in, torch.einsum("pgo,goi->pgi", rows, w[k]).flatten(1))
    return out.to(grad.dtype)


@_without_autocast
def conv_weight_grad(
    features: Tensor, grad: Tensor, book: Rulebook, weight_shape: Sequence[int], groups: int
) -> Tensor:
    explain("conv_weight_grad", "features", features, "grad", grad, groups)
    _check_form("conv_weight_grad", book)
    demand_reads("conv_weight_grad", features.shape[0], book)
    x, g = _wide(features, grad)
    out = x.new_zeros(tuple(weight_shape))
    w = _weights("conv_weight_grad", out, groups)  # a view
    for k, rows_in, rows_out in _by_offset(book, len(w)):
        rows, grads = (t.unflatten(1, (groups, -1)) for t in (x[rows_in], g[rows_out]))
        w[k] = torch.einsum("pgo,pgi->goi", grads, rows)
    return out.to(features.dtype)


# ---------------------------------------------------------------------------------- pools


def max_pool(
    features: Tensor, book: Rulebook, out_rows: int, volume: int, from_zero: bool
) -> Tensor:
    demand_reads("max_pool", features.shape[0], book)
    out = features.new_full((out_rows, features.shape[1]), 0.0 if from_zero else -torch.inf)
    reached = torch.zeros(out_rows, dtype=torch.bool, device=features.device)
    for _, rows_in, rows_out in _by_offset(book, volume):
        out[rows_out] = torch.maximum(out[rows_out], features[rows_in])
        reached[rows_out] = True
    return torch.where(reached[:, None], out, 0)


def select_sum(
    features: Tensor,
    of_features: Tensor,
    of_output: Tensor,
    book: Rulebook,
    volume: int,
    turned: bool,
) -> Tensor:
    demand_reads("select_sum", (of_output if turned else features).shape[0], book)
    (x,) = _wide(features)
    out = torch.zeros_like(of_output, dtype=x.dtype)
    for _, *rows in _by_offset(book, volume):
        source, target = reversed(rows) if turned else rows
        same = of_features[source] == of_output[target]
        out.index_add_(0, target, torch.where(same, x[source], 0))
    return out.to(features.dtype)
