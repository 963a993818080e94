"""The operators over Triton's kernels (products.py, depthwise.py), and their configurations.

The same lines run at once and are traced: `wrap_triton` lets torch.compile see a kernel. What
belongs to a map and not to a layer (a table read backwards, pair lists) stays an operator there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import wrap_triton

from ...geometry import Rulebook
from .. import cuda, plain
from ..cpu import explain
from ..norm import Norm
from ..reads import demand_reads
from .books import check_book, on_device, pairs_of, runs, turned_of
from .depthwise import masked_depthwise, pair_depthwise
from .products import add_splits, masked_product, pair_product
from .tiles import TILE_ROWS, PairLists, tile_count

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MERGES = frozenset(_DTYPES)
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


def depthwise_lanes(channels: int) -> int:
    """Channels of a tile of the depthwise kernels."""
    return max(16, min(64, triton.next_power_of_2(channels)))


PAIR_ROWS = 32  # of a tile of pair_depthwise


def require_kernels() -> None:
    """Raises RuntimeError where a device is older than Triton takes."""
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        raise RuntimeError(
            "set_kernels: the Triton kernels need compute capability 8.0, this device has "
            f'{torch.cuda.get_device_capability()}; choose "native" or "torch"'
        )


def _precision(dtype: torch.dtype) -> str:
    return "tf32" if dtype == torch.float32 and cuda.tf32_products() else "ieee"


def _splits(x: Tensor, rows: int, programs: int, pairs: int) -> int:
    """Into how many parts the pairs of an offset go: enough programs to fill the device, and no
    part without rows. No branch, as a traced number of rows is unknown."""
    if x.is_cuda and torch.cuda.is_available():
        width = torch.cuda.get_device_properties(x.device).multi_processor_count
    else:
        width = 1  # Triton's interpreter
    wanted = min(triton.cdiv(8 * width, programs), _MOST_SPLITS)
    return torch.sym_min(wanted, rows // pairs + 1)


def _check(name: str, first: str, x: Tensor, second: str, w: Tensor, groups: int) -> None:
    explain(name, first, x, second, w, groups)
    if x.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: the Triton kernels take float16, bfloat16 and float32, got {x.dtype}; choose "
            'set_kernels("cuda", "native") or "torch" for it'
        )
    if x.device != w.device:
        raise ValueError(f"{name}: {first} is on {x.device}, {second} on {w.device}")


def _check_groups(name: str, channels: int, groups: int) -> None:
    if not 1 <= groups <= 65535 or channels % groups:
        raise ValueError(
            f"{name}: groups must be at most 65535 and divide the {channels} output channels, got "
            f"{groups}"
        )


# ---------------------------------------------------------------------------------- forward


def _product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    book: Rulebook,
    groups: int,
    *,
    norm: Norm | None = None,
    rectified: bool = False,
    back: bool = False,
    mirror: bool = False,
) -> Tensor:
    """The product of every row of the book, and what follows it; `back`: with the weight seen from
    its other side."""
    volume, rows = book.pair_in.shape
    out, depth = weight.shape[0] // groups, weight.shape[-1]
    c_out, c_in = (depth, out) if back else (out, depth)
    y = x.new_empty((rows, groups * c_out))
    if c_out == 0:
        return y
    if c_in == 0:
        y.zero_()
        shift = bias if norm is None else norm.folded(bias)[1]
        y = y if shift is None else y + shift
        return (y.relu() if rectified else y).to(x.dtype)
    x, weight = x.contiguous(), weight.contiguous()
    *of_norm, eps = (None, None, None, None, 0.0) if norm is None else norm
    behind = [None if t is None else t.contiguous() for t in (bias, *of_norm)]
    flags = behind[0] is not None, norm is not None, *(t is not None for t in behind[3:]), rectified
    pointers = x, weight, *(x if t is None else t for t in behind), y, *book
    if c_in == c_out == 1:
        lanes = depthwise_lanes(groups)
        grid: tuple[int, ...] = tile_count(rows), triton.cdiv(groups, lanes)
        run = masked_depthwise if runs(x) else wrap_triton(masked_depthwise)
        run[grid](
            *pointers, rows, rows, volume, eps, groups, *flags, mirror, TILE_ROWS, lanes,
            num_warps=4,
        )  # fmt: skip
        return y
    config = configuration(c_in, c_out, x.dtype)
    strides = volume * depth, depth, 1  # of an output channel, an offset, an input channel
    w_out, w_offset, w_in = reversed(strides) if back else strides
    run = masked_product if runs(x) else wrap_triton(masked_product)
    run[(tile_count(rows), triton.cdiv(c_out, config.columns), groups)](
        *pointers, rows, rows, volume, eps, c_in, c_out, groups,
        out * strides[0], w_out, w_offset, w_in, *flags, mirror, _precision(x.dtype),
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
    _check_forward("conv", features, weight, book, out_rows, groups, bias=bias)
    with on_device(features):
        return _product(features, weight, bias, book, groups)


def conv_norm(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm,
    book: Rulebook,
    out_rows: int,
    groups: int,
    rectified: bool,
) -> Tensor:
    """One kernel, which folds the BatchNorm from tensors as they are at its launch: folded by torch
    it takes more launches than it saves, and a fold that is kept would be stale where somebody
    writes to `.data`."""
    columns = dict(zip(norm._fields[:-1], norm[:-1], strict=True))
    _check_forward("conv_norm", features, weight, book, out_rows, groups, bias=bias, **columns)
    with on_device(features):
        return _product(features, weight, bias, book, groups, norm=norm, rectified=rectified)


def _check_forward(
    name: str,
    features: Tensor,
    weight: Tensor,
    book: Rulebook,
    out_rows: int,
    groups: int,
    **columns: Tensor | None,
) -> None:
    """`columns`: of what a kernel reads one value an output channel."""
    _check_groups(name, weight.shape[0], groups)
    _check(name, "features", features, "weight", weight, groups)
    check_book(name, features, book, out_rows)
    demand_reads(name, features.shape[0], book)
    for what, column in columns.items():
        if column is None:
            continue
        if column.shape != weight.shape[:1]:
            raise ValueError(
                f"{name}: {what} must have shape ({weight.shape[0]},), got {tuple(column.shape)}"
            )
        if column.device != features.device:
            raise ValueError(f"{name}: features is on {features.device}, {what} on {column.device}")


# ---------------------------------------------------------------------------------- gradients


def conv_input_grad(
    grad: Tensor, weight: Tensor, book: Rulebook, in_rows: int, groups: int, symmetric: bool
) -> Tensor:
    name = "conv_input_grad"
    _check_groups(name, weight.shape[0], groups)
    _check(name, "grad", grad, "weight of out channels", weight, groups)
    check_book(name, grad, book, grad.shape[0])
    if symmetric:  # the table itself is read, mirrored
        demand_reads(name, grad.shape[0], book)
    else:
        turn = turned_of if runs(grad) else _traced_turn
        book = turn(book, in_rows)
    with on_device(grad):
        return _product(grad, weight, None, book, groups, back=True, mirror=symmetric)


def _traced_turn(book: Rulebook, in_rows: int) -> Rulebook:
    volume, rows = book.pair_in.shape
    return Rulebook(*torch.ops.spconv_lite.transpose_rulebook(*book, in_rows, rows, volume))


def _traced_pairs(table: Tensor) -> PairLists:
    return PairLists(*torch.ops.spconv_lite.triton_pair_lists(table))


def conv_weight_grad(
    features: Tensor, grad: Tensor, book: Rulebook, weight_shape: Sequence[int], groups: int
) -> Tensor:
    name = "conv_weight_grad"
    total = features.new_empty(tuple(weight_shape))
    _check_groups(name, total.shape[0], groups)
    _check(name, "features", features, "grad", grad, 1)
    check_book(name, grad, book, grad.shape[0])
    demand_reads(name, features.shape[0], book)
    if total.numel() == 0:
        return total
    features, grad = features.contiguous(), grad.contiguous()
    lists = pairs_of(book.pair_in) if runs(grad) else _traced_pairs(book.pair_in)
    with on_device(features):
        partial = _partial(features, grad, lists, total, groups)
        size, splits = total.numel(), partial.shape[0]
        run = add_splits if runs(grad) else wrap_triton(add_splits)
        run[(triton.cdiv(size, 1024),)](partial, total, size, splits, 1024)
    return total


def _partial(x: Tensor, grad: Tensor, lists: PairLists, total: Tensor, groups: int) -> Tensor:
    """Sums float32 (splits, *total.shape) over parts of the pairs."""
    volume, rows = lists.pairs_in.shape
    c_in, c_out = total.shape[-1], total.shape[0] // groups

    def sums(splits: int) -> Tensor:
        return torch.empty((splits, *total.shape), dtype=torch.float32, device=x.device)

    if c_in == c_out == 1:
        lanes = depthwise_lanes(groups)
        blocks = triton.cdiv(groups, lanes)
        splits = _splits(x, rows, blocks * volume, PAIR_ROWS)
        partial = sums(splits)
        run = pair_depthwise if runs(x) else wrap_triton(pair_depthwise)
        run[(blocks, volume, splits)](
            x, grad, partial, *lists, rows, volume, groups, splits, lanes, PAIR_ROWS, num_warps=4
        )
        return partial
    config = pair_configuration(c_in, c_out, x.dtype)
    blocks = triton.cdiv(c_in, config.channels) * triton.cdiv(c_out, config.columns) * groups
    splits = _splits(x, rows, blocks * volume, config.pairs)
    partial = sums(splits)
    run = pair_product if runs(x) else wrap_triton(pair_product)
    run[(blocks, volume, splits)](
        x, grad, partial, *lists, rows, volume, c_in, c_out, groups, splits,
        _precision(x.dtype), *config, num_warps=4, num_stages=3,
    )  # fmt: skip
    return partial


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
