"""How many input rows a rulebook was built for, kept with it on the host: features of fewer rows
are refused before a kernel on a device reads beyond them, and nothing waits for the device. A
rulebook that came another way (a file, a compiled graph) is not known, and passes."""

from __future__ import annotations

from ..geometry import Rulebook

_READS = "_spconv_lite_reads"


def note_reads(book: Rulebook, rows: int) -> Rulebook:
    """The rulebook, which names input rows below `rows` only."""
    book.pair_in.__dict__[_READS] = rows
    return book


def demand_reads(name: str, rows: int, book: Rulebook) -> None:
    """Raises ValueError for features of fewer rows than the rulebook was built for."""
    reads = book.pair_in.__dict__.get(_READS)
    if reads is not None and rows < reads:
        raise ValueError(
            f"{name}: the rulebook names rows that these features do not have; build it for these "
            f"indices: it reads {reads} rows, got {rows}"
        )
