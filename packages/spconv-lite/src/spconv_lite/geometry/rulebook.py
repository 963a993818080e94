"""The two forms of a rulebook: three tensors either way, which operators pass on as they are.

compact   what the CPU kernels and the plain torch operators read. Pairs sorted by block of 256
          output rows, then by kernel offset: `pair_in` int32 (P,), `pair_out` uint8 (P,) the row
          in its block, `block_offset` int64 (blocks * K + 1,) where the pairs of a block and
          offset begin.
table     what the CUDA kernels read (csrc/cuda/rulebook.h): `pair_in` int32 (K, M), the input row
          that each output row reads through an offset, or -1; `pair_out` int32 (M,), the rows in
          the order of their sets of offsets; `block_offset` int32, the set of each tile of 64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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
    pairs = book.pair_in.shape[0]
    block = torch.repeat_interleave(blocks, ends.diff(), output_size=pairs)
    return book.pair_in.long(), block * BLOCK_ROWS + book.pair_out


def pair_offsets(book: Rulebook, volume: int) -> Tensor:
    """Kernel offset of every pair of a compact rulebook, int64, in the order of `pair_rows`."""
    counts = book.block_offset.diff()
    offsets = torch.arange(volume, device=counts.device).repeat(counts.shape[0] // volume)
    return torch.repeat_interleave(offsets, counts, output_size=book.pair_in.shape[0])


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
