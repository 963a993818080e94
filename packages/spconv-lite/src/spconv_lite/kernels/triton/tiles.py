"""What the products walk over, made of a neighbour table int32 (K, M): once a table, nothing waits.

Rows are sorted by their set of offsets as a Gray code, so that neighbours in the order differ in
few offsets; each tile of 64 rows keeps the list of offsets that any of its rows has: int32
(tiles, 1 + K), the count and then the offsets. Pair lists, for the gradient of the weight, are
int32 (K, M) of which the first counts[k] of a row are used.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ROWS = 64
_KEY_BITS = 62  # offsets beyond these do not take part in the order
_BLOCK = 256


def tile_count(rows: int) -> int:
    """Tiles of a table; one more than are full, so that there is one without rows, too, and no size
    of a graph is 0 or 1."""
    return rows // TILE_ROWS + 1


def list_words(rows: int, volume: int) -> int:
    """The length of `block_offset` in this form."""
    return tile_count(rows) * (volume + 1)


@triton.jit(do_not_specialize=["rows", "volume"])
def row_keys(table, keys, rows, volume, KEY_BITS: tl.constexpr, BLOCK: tl.constexpr):
    """keys[i]: the place of row i's set of offsets in the Gray sequence."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < rows
    code = tl.zeros((BLOCK,), dtype=tl.int64)
    for k in range(tl.minimum(volume, KEY_BITS)):
        source = tl.load(table + i, mask=inside, other=-1)
        table += rows
        code |= (source >= 0).to(tl.int64) << k
    for shift in tl.static_range(6):
        code ^= code >> (1 << shift)
    tl.store(keys + i, code.to(keys.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "volume"])
def tile_lists(table, order, lists, rows, volume, BM: tl.constexpr):
    """lists[tile]: how many offsets any row of the tile has, then which."""
    tile = tl.program_id(0)
    place = tile * BM + tl.arange(0, BM)
    inside = place < rows
    row = tl.load(order + place, mask=inside, other=0)
    to = lists + tile.to(tl.int64) * (volume + 1)
    count = 0
    for k in range(volume):
        source = tl.load(table + row, mask=inside, other=-1)
        table += rows
        has = tl.max((source >= 0).to(tl.int32), 0)
        tl.store(to + 1 + count, k, mask=has > 0)
        count += has
    tl.store(to, count)


def ordered(table: Tensor) -> tuple[Tensor, Tensor]:
    """`order` int32 (M,) and the tiles' lists, flat, of a contiguous table. Of a list only the
    offsets that its count says are written."""
    volume, rows = table.shape
    # an int32 is sorted in half the passes of an int64
    keys = table.new_empty((rows,), dtype=torch.int32 if volume < 32 else torch.int64)
    row_keys[(rows // _BLOCK + 1,)](table, keys, rows, volume, _KEY_BITS, _BLOCK)
    order = keys.sort(stable=True).indices.int()
    lists = table.new_empty((list_words(rows, volume),))
    tile_lists[(tile_count(rows),)](table, order, lists, rows, volume, TILE_ROWS)
    return order, lists


# ---------------------------------------------------------------------------------- pair lists


class PairLists(NamedTuple):
    """Input rows and output rows int32 (K, M) of the pairs of each offset; how many, int32 (K,)."""

    pairs_in: Tensor
    pairs_out: Tensor
    counts: Tensor


@triton.jit(do_not_specialize=["rows", "blocks"])
def count_pairs(table, counts, rows, blocks, BLOCK: tl.constexpr):
    """counts[k, block]: how many rows of a block have the offset."""
    block, k = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i = block * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(table + k * rows + i, mask=i < rows, other=-1)
    tl.store(counts + k * blocks + block, tl.sum((source >= 0).to(tl.int32), 0))


@triton.jit(do_not_specialize=["rows", "blocks"])
def write_pairs(table, ends, pairs_in, pairs_out, rows, blocks, BLOCK: tl.constexpr):
    """Moves the pairs of a block behind those of the blocks before it; `ends`: inclusive sums."""
    block, k = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i = block * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(table + k * rows + i, mask=i < rows, other=-1)
    has = (source >= 0).to(tl.int32)
    begin = tl.load(ends + k * blocks + block) - tl.sum(has, 0)
    to = k * rows + begin + tl.cumsum(has, 0) - 1
    tl.store(pairs_in + to, source, mask=has > 0)
    tl.store(pairs_out + to, i, mask=has > 0)


def pair_lists(table: Tensor) -> PairLists:
    """The pairs of a contiguous table by offset and output row: two kernels and a prefix sum."""
    volume, rows = table.shape
    pairs_in, pairs_out = torch.empty_like(table), torch.empty_like(table)
    blocks = rows // _BLOCK + 1
    counts = table.new_empty((volume, blocks))
    count_pairs[(blocks, volume)](table, counts, rows, blocks, _BLOCK)
    ends = counts.cumsum(1, dtype=torch.int32)
    write_pairs[(blocks, volume)](table, ends, pairs_in, pairs_out, rows, blocks, _BLOCK)
    return PairLists(pairs_in, pairs_out, ends[:, -1].contiguous())
