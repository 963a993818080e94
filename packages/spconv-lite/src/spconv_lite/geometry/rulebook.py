"""The two forms of a rulebook: three tensors either way, which operators pass on as they are.

compact   what the CPU kernels and the plain torch operators read. Pairs sorted by block of 256
          output rows, then by kernel offset: `pair_in` int32 (P,), `pair_out` uint8 (P,) the row
          in its block, `block_offset` int64 (blocks * K + 1,) where the pairs of a block and
          offset begin. Where a submanifold's sites come in no order, blocks are made of the sites
          in row-major order: `pair_in` is then (P + M,), the pairs followed by the row of each of
          the sorted sites, and pairs name places among these in the place of rows.
table     what the CUDA kernels read (csrc/cuda/rulebook.h): `pair_in` int32 (K, M), the input row
          that each output row reads through an offset, or -1; `pair_out` int32 (M,), the rows in
          the order of their sets of offsets; `block_offset` int32, the set of each tile of 64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sites import row_major, site_key, sort_unique

BLOCK_ROWS = 256  # as block_rows in csrc/cpu/pairs.h


class Rulebook(NamedTuple):
    """The pairs (input row, output row) of every kernel offset, in one of the two forms."""

    pair_in: Tensor
    pair_out: Tensor
    block_offset: Tensor

    @property
    def is_table(self) -> bool:
        return self.pair_in.ndim == 2


def block_offsets(rows: int, volume: int) -> int:
    """The length of `block_offset` in the compact form."""
    return (rows + BLOCK_ROWS - 1) // BLOCK_ROWS * volume + 1


def pair_rows(book: Rulebook, volume: int) -> tuple[Tensor, Tensor]:
    """Input row and output row of every pair, int64, by blocks of output rows. Waits for the
    device where the form is a table."""
    if book.is_table:
        rows_out, offset = (book.pair_in.T >= 0).nonzero().unbind(1)
        return book.pair_in[offset, rows_out].long(), rows_out
    ends = book.block_offset[::volume]
    blocks = torch.arange(ends.shape[0] - 1, device=ends.device)
    pairs = book.pair_out.shape[0]
    block = torch.repeat_interleave(blocks, ends.diff(), output_size=pairs)
    places = block * BLOCK_ROWS + book.pair_out
    rows_in, order = book.pair_in[:pairs].long(), book.pair_in[pairs:].long()
    return (order[rows_in], order[places]) if len(order) else (rows_in, places)


def pair_offsets(book: Rulebook, volume: int) -> Tensor:
    """Kernel offset of every pair, int64, in the order of `pair_rows`."""
    if book.is_table:
        return (book.pair_in.T >= 0).nonzero()[:, 1]
    counts = book.block_offset.diff()
    offsets = torch.arange(volume, device=counts.device).repeat(counts.shape[0] // volume)
    return torch.repeat_interleave(offsets, counts, output_size=book.pair_out.shape[0])


def compact(
    rows_in: Tensor, rows_out: Tensor, offset: Tensor, out_rows: int, volume: int
) -> Rulebook:
    """The compact form of pairs (int64 vectors of one length) in any order; within a block and
    offset they are sorted by output row."""
    bucket = rows_out // BLOCK_ROWS * volume + offset
    key, order = (bucket * BLOCK_ROWS + rows_out % BLOCK_ROWS).sort()
    starts = torch.arange(block_offsets(out_rows, volume), device=key.device) * BLOCK_ROWS
    return Rulebook(
        rows_in[order].int(),
        (key % BLOCK_ROWS).to(torch.uint8),
        torch.searchsorted(key, starts),
    )


def identity_book(rows: int, device: torch.device) -> Rulebook:
    """The compact rulebook of a kernel of one cell that joins every row with itself."""
    row = torch.arange(rows, device=device, dtype=torch.int32)
    blocks = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    starts = torch.arange(blocks + 1, device=device) * BLOCK_ROWS
    return Rulebook(row, (row % BLOCK_ROWS).to(torch.uint8), starts.clamp(max=rows))


def restrict_outputs(
    name: str,
    book: Rulebook,
    volume: int,
    out_indices: Tensor,
    coordinates: Tensor,
    batch_size: int,
    shape: Sequence[int],
) -> Rulebook:
    """The compact rulebook with `coordinates` (M, 1 + ndim) for output sites, in their order: the
    pairs of sites that are not among them go.

    Raises: ValueError in the name of the caller for coordinates outside the output's grid or twice.
    """
    cells = batch_size * math.prod(shape)
    key = site_key(name, coordinates, batch_size, shape)
    mine, order = sort_unique(name, key, coordinates, cells)
    theirs = row_major(out_indices.unbind(1), [batch_size, *shape])
    if len(mine):
        place = torch.searchsorted(mine, theirs).clamp_(max=len(mine) - 1)
        row = torch.where(mine[place] == theirs, order[place], -1)
    else:
        row = torch.full_like(theirs, -1)
    rows_in, rows_out = pair_rows(book, volume)
    offset = pair_offsets(book, volume)
    kept = row[rows_out] >= 0
    return compact(rows_in[kept], row[rows_out][kept], offset[kept], len(mine), volume)
