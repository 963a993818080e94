"""The operators over Triton's kernels (products.py, tiles.py), and which configuration they take.

Rulebooks have the table form, with the lists of tiles.py for `block_offset`. What a table can be
asked again for (the table read backwards, its pair lists) is kept with it, so that a training step
makes it once a map and not once a layer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ... import _C
from ...geometry import SUBMANIFOLD, Geometry, Rulebook
from .. import cuda, plain
from ..cpu import explain
from .products import add_splits, masked_product, pair_product
from .tiles import TILE_ROWS, PairLists, list_words, ordered, pair_lists

WAITS = frozenset({"get_indice_pairs", "subm_rulebook", "rulebook", "max_pool", "select_sum"})
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_MOST_SPLITS = 64


class Configuration(NamedTuple):
    """Columns and depth of a tile of masked_product, and how Triton runs it."""

    columns: int
    depth: int
    warps: int
    stages: int


def configuration(c_in: int, c_out: int, dtype: torch.dtype) -> Configuration:
    """One of three, by the output channels; the depth by the bytes of an element."""
    depth = 64 if dtype.itemsize == 2 else 32
    depth = max(16, min(depth, triton.next_power_of_2(c_in)))
    if c_out <= 32:
        return Configuration(32 if c_out > 16 else 16, depth, 4, 4)
    return Configuration(64, depth, 4, 4) if c_out <= 64 else Configuration(128, depth, 8, 3)


class PairConfiguration(NamedTuple):
    """Output channels, input channels and pairs of a tile of pair_product."""

    columns: int
    channels: int
    pairs: int


def pair_configuration(c_in: int, c_out: int, dtype: torch.dtype) -> PairConfiguration:
    side = [max(16, min(64, triton.next_power_of_2(c))) for c in (c_out, c_in)]
    return PairConfiguration(*side, 64 if dtype.itemsize == 2 else 32)


def require_kernels() -> None:
    """Raises RuntimeError where a device is older than Triton takes."""
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        raise RuntimeError(
            "set_kernels: the Triton kernels need compute capability 8.0, this device has "
            f'{torch.cuda.get_device_capability()}; choose "native" or "torch"'
        )


def _on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _precision(dtype: torch.dtype) -> str:
    return "tf32" if dtype == torch.float32 and cuda.tf32_products() else "ieee"


def _multiprocessors(tensor: Tensor) -> int:
    if not tensor.is_cuda:
        return 1  # Triton's interpreter
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


# ---------------------------------------------------------------------------------- rulebooks


def _book(table: Tensor) -> Rulebook:
    return Rulebook(table, *ordered(table))


def _table_of(book: Rulebook, out_rows: int, volume: int) -> Tensor:
    """The neighbour table of a compact rulebook; needs no order of the pairs."""
    from ...geometry.rulebook import pair_offsets, pair_rows

    table = book.pair_in.new_full((volume, out_rows), -1)
    rows_in, rows_out = pair_rows(book, volume)
    table[pair_offsets(book, volume), rows_out] = rows_in.int()
    return table


def padded_pairs(indices: Tensor, g: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """As of the compiled kernels where this build has them, else of plain torch."""
    maker = cuda if indices.is_cuda and _C.cuda_architectures else plain
    return maker.padded_pairs(indices, g)


def build(indices: Tensor, g: Geometry) -> tuple[Tensor, Rulebook]:
    """Output sites (those of the input for a submanifold layer) and the rulebook. Tables come from
    the compiled kernels where this build has them, else from plain torch."""
    with _on_device(indices):
        if indices.is_cuda and _C.cuda_architectures:
            out_indices, table, targets = cuda.neighbour_tables(indices, g)
        else:
            out_indices, book = plain.build(indices, g)
            table, targets = _table_of(book, out_indices.shape[0], g.volume), None
        book = _book(table)
        if targets is not None and g.kind != SUBMANIFOLD:
            book.pair_in._spconv_lite_turned = _book(targets)
        return out_indices, book


def turn(book: Rulebook, in_rows: int, out_rows: int, volume: int) -> Rulebook:
    """The rulebook read backwards."""
    _check_form("transpose_rulebook", book)
    kept = getattr(book.pair_in, "_spconv_lite_turned", None)
    if kept is None or kept.pair_in.shape[1] != in_rows:
        with _on_device(book.pair_in):
            kept = _book(_turned(book.pair_in, in_rows))
        book.pair_in._spconv_lite_turned = kept
    return kept


def _turned(table: Tensor, in_rows: int) -> Tensor:
    """other[k, table[k, i]] = i. Rows without a neighbour go to a column that is cut off."""
    volume, rows = table.shape
    other = table.new_full((volume, in_rows + 1), -1)
    place = torch.where(table >= 0, table, in_rows).long()
    row = torch.arange(rows, device=table.device, dtype=torch.int32)
    other.scatter_(1, place, row.expand(volume, -1))
    return other[:, :in_rows].contiguous()


def _pairs(book: Rulebook) -> PairLists:
    kept = getattr(book.pair_in, "_spconv_lite_pairs", None)
    if kept is None:
        kept = book.pair_in._spconv_lite_pairs = pair_lists(book.pair_in)
    return kept


def _check_form(name: str, book: Rulebook) -> None:
    volume, rows = book.pair_in.shape if book.is_table else (0, 0)
    if not book.is_table or book.block_offset.shape[0] != list_words(rows, volume):
        raise TypeError(
            f"{name}: the rulebook was made by other kernels than Triton's, which are chosen for "
            "this device; build it again, or choose the kernels that made it by set_kernels"
        )


# ---------------------------------------------------------------------------------- convolution


def _check(name: str, first: str, x: Tensor, second: str, w: Tensor, groups: int) -> None:
    explain(name, first, x, second, w, groups)
    if x.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: the Triton kernels take float16, bfloat16 and float32, got {x.dtype}; choose "
            'set_kernels("cuda", "native") or "torch" for it'
        )
    if groups < 1 or w.shape[0] % groups:
        raise ValueError(
            f"{name}: groups must divide the {w.shape[0]} output channels, got {groups}"
        )


def _product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    book: Rulebook,
    groups: int,
    back: bool,
    mirror: bool,
) -> Tensor:
    volume, rows = book.pair_in.shape
    w = weight.contiguous().view(weight.shape[0], volume, weight.shape[-1])
    out, depth = weight.shape[0] // groups, weight.shape[-1]
    strides = w.stride(0), w.stride(1), w.stride(2)
    c_out, c_in = (depth, out) if back else (out, depth)
    w_out, w_offset, w_in = reversed(strides) if back else strides
    y = x.new_empty((rows, groups * c_out))
    if rows == 0 or c_out == 0:
        return y
    if c_in == 0:
        return y.zero_() if bias is None else y.copy_(bias.expand_as(y))
    x = x.contiguous()
    if bias is not None:
        bias = bias.contiguous()
    config = configuration(c_in, c_out, x.dtype)
    grid = triton.cdiv(rows, TILE_ROWS), triton.cdiv(c_out, config.columns), groups
    with _on_device(x):
        masked_product[grid](
            x, w, x if bias is None else bias, y,
            *book, rows, rows, volume, c_in, c_out, groups, out * strides[0], w_out, w_offset, w_in,
            bias is not None, mirror, _precision(x.dtype),
            TILE_ROWS, config.columns, config.depth,
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return y


def conv(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    book: Rulebook,
    out_rows: int,
    groups: int,
) -> Tensor:
    _check("conv", "features", features, "weight", weight, groups)
    _check_form("conv", book)
    return _product(features, weight, bias, book, groups, back=False, mirror=False)


def conv_input_grad(
    grad: Tensor, weight: Tensor, book: Rulebook, in_rows: int, groups: int, symmetric: bool
) -> Tensor:
    _check("conv_input_grad", "grad", grad, "weight of out channels", weight, groups)
    _check_form("conv_input_grad", book)
    if not symmetric:
        book = turn(book, in_rows, grad.shape[0], math.prod(weight.shape[1:-1]))
    return _product(grad, weight, None, book, groups, back=True, mirror=symmetric)


def conv_weight_grad(
    features: Tensor, grad: Tensor, book: Rulebook, weight_shape: Sequence[int], groups: int
) -> Tensor:
    total = features.new_empty(tuple(weight_shape))
    _check("conv_weight_grad", "features", features, "grad", grad, 1)
    _check_form("conv_weight_grad", book)
    if total.numel() == 0 or book.pair_in.shape[1] == 0:
        return total.zero_()
    volume, c_in, c_out = book.pair_in.shape[0], total.shape[-1], total.shape[0] // groups
    config = pair_configuration(c_in, c_out, features.dtype)
    blocks = triton.cdiv(c_in, config.channels) * triton.cdiv(c_out, config.columns) * groups
    wanted = triton.cdiv(8 * _multiprocessors(features), blocks * volume)
    splits = max(1, min(wanted, _MOST_SPLITS, triton.cdiv(book.pair_in.shape[1], config.pairs)))
    features, grad = features.contiguous(), grad.contiguous()
    with _on_device(features):
        lists = _pairs(book)
        partial = torch.empty((splits, *total.shape), dtype=torch.float32, device=features.device)
        pair_product[(blocks, volume, splits)](
            features, grad, partial, *lists,
            lists.pairs_in.shape[1], volume, c_in, c_out, groups, splits,
            _precision(features.dtype), *config, num_warps=4, num_stages=3,
        )  # fmt: skip
        size = total.numel()
        add_splits[(triton.cdiv(size, 1024),)](partial, total, size, splits, 1024)
    return total


# ---------------------------------------------------------------------------------- pools


def max_pool(
    features: Tensor, book: Rulebook, out_rows: int, volume: int, from_zero: bool
) -> Tensor:
    return plain.max_pool(features, book, out_rows, volume, from_zero)


def select_sum(
    features: Tensor,
    of_features: Tensor,
    of_output: Tensor,
    book: Rulebook,
    volume: int,
    turned: bool,
) -> Tensor:
    return plain.select_sum(features, of_features, of_output, book, volume, turned)
