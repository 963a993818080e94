"""Rulebooks in the table form, with the lists of tiles.py for `block_offset`.

What a table can be asked again for (the table read backwards, its pair lists) is kept with it, so
that a training step makes it once a map and not once a layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from ... import _C
from ...geometry import SUBMANIFOLD, Geometry, Rulebook
from .. import cuda, plain
from ..reads import demand_reads, note_reads
from .tiles import PairLists, list_words, ordered, pair_lists

Made = TypeVar("Made")


def runs(tensor: Tensor) -> bool:
    """Whether this tensor has numbers; else torch.compile or torch.export traces."""
    return not isinstance(tensor, (FakeTensor, FunctionalTensor))


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    here = tensor.is_cuda and runs(tensor)
    return torch.cuda.device(tensor.device) if here else contextlib.nullcontext()


def _kept(name: str, table: Tensor, make: Callable[[], Made]) -> Made:
    """What `make` gives, once a table and stream: on another stream nobody has waited for it. What
    a CUDA graph captures is there only when it is replayed, and is not kept; what was kept before
    the capture is taken on any stream, since a capture begins when the device has ended."""
    made = table.__dict__.setdefault(name, {})
    if table.is_cuda and torch.cuda.is_current_stream_capturing():
        return next(iter(made.values())) if made else make()
    stream = torch.cuda.current_stream(table.device).cuda_stream if table.is_cuda else 0
    if stream not in made:
        made[stream] = make()
    return made[stream]


def _book(table: Tensor, reads: int) -> Rulebook:
    """The rulebook of a table that names rows below `reads`."""
    return note_reads(Rulebook(table, *ordered(table)), reads)


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
    with on_device(indices):
        if indices.is_cuda and _C.cuda_architectures:
            out_indices, table, targets = cuda.neighbour_tables(indices, g)
        else:
            out_indices, book = plain.build(indices, g)
            table, targets = _table_of(book, out_indices.shape[0], g.volume), None
        book, rows = _book(table, indices.shape[0]), table.shape[1]
        if targets is not None and g.kind != SUBMANIFOLD:
            _kept(_turned_name(targets.shape[1]), table, lambda: _book(targets, rows))
        return out_indices, book


def _turned_name(in_rows: int) -> str:
    return f"_spconv_lite_turned_{in_rows}"


def turned_of(book: Rulebook, in_rows: int) -> Rulebook:
    """The rulebook read backwards, for features of `in_rows` rows: all that it reads, or more, as
    of features padded to a fixed size. Kept, and not to be given away. Raises ValueError for fewer
    rows than it was built for."""
    table, rows = book.pair_in, book.pair_in.shape[1]
    demand_reads("transpose_rulebook", in_rows, book)
    with on_device(table):
        return _kept(_turned_name(in_rows), table, lambda: _book(_turned(table, in_rows), rows))


def turn(book: Rulebook, in_rows: int, out_rows: int, volume: int) -> Rulebook:
    """The rulebook read backwards, a copy: a compiled graph takes the memory of what an operator
    gave it for other things."""
    check_book("transpose_rulebook", book.pair_in, book, out_rows)
    return note_reads(Rulebook(*(part.clone() for part in turned_of(book, in_rows))), out_rows)


def _turned(table: Tensor, in_rows: int) -> Tensor:
    """other[k, table[k, i]] = i. Rows without a neighbour go to a column that is cut off."""
    volume, rows = table.shape
    other = table.new_full((volume, in_rows + 1), -1)
    place = torch.where(table >= 0, table, in_rows).long()
    row = torch.arange(rows, device=table.device, dtype=torch.int32)
    other.scatter_(1, place, row.expand(volume, -1))
    return other[:, :in_rows].contiguous()


def pairs_of(table: Tensor) -> PairLists:
    """The pair lists of a contiguous table."""
    with on_device(table):
        return _kept("_spconv_lite_pairs", table, lambda: pair_lists(table))


def check_book(name: str, x: Tensor, book: Rulebook, rows: int) -> None:
    """Raises TypeError for a rulebook of another form, ValueError for one of other rows than `rows`
    or of another device than x."""
    volume, found = book.pair_in.shape if book.is_table else (0, 0)
    if not book.is_table or book.block_offset.shape[0] != list_words(found, volume):
        raise TypeError(
            f"{name}: the rulebook was made by other kernels than Triton's, which are chosen for "
            "this device; build it again, or choose the kernels that made it by set_kernels"
        )
    if found != rows:
        raise ValueError(f"{name}: the rulebook has {found} rows, got {rows}")
    if any(part.device != x.device for part in book):
        raise ValueError(
            f"{name}: the rulebook is on {book.pair_in.device}, the features are on {x.device}"
        )
    if volume > 65535:
        raise ValueError(f"{name}: a kernel must have at most 65535 cells, got {volume}")
