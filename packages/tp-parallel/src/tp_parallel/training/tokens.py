"""Token files that are mapped, not read: Megatron's .bin/.idx and plain .npy.

All ranks of a host share the pages that the system keeps of a file; nobody holds a copy. Windows of
a length are numbered, and an epoch visits each once in an order that a function of (seed, epoch)
gives, without a table of the numbers: the whole state of the sampler is how many it has given.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..grid.rng import derive_seed
from .files import replacing

_MAGIC = b"MMIDIDX\x00\x00"  # Megatron-LM, megatron/core/datasets/indexed_dataset.py
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype, sequences, document boundaries
_CODES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_ROUNDS = 4


class Tokens(NamedTuple):
    """A stream of tokens, mapped, and where its documents begin (int64, ascending, from 0)."""

    stream: np.ndarray
    begins: np.ndarray


def open_tokens(path: str | os.PathLike[str], end: int | None = None) -> Tokens:
    """Maps `path`: a .npy of one dimension, or a .bin beside its .idx (either name, or the prefix).

    end: the token that ends a document in a .npy; None: it is one document. Raises ValueError for
    a file that is damaged or of another kind.
    """
    path = Path(path)
    if path.suffix != ".npy":
        return _open_indexed(path.with_suffix("") if path.suffix in (".bin", ".idx") else path)
    try:
        stream = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a damaged header numpy raises several kinds, naming no file
        if isinstance(error, OSError) and error.filename:
            raise
        raise ValueError(f"open_tokens: {path} is damaged or no .npy: {error}") from error
    if stream.ndim != 1 or stream.dtype.kind not in "iu":
        raise ValueError(
            f"open_tokens: {path} must hold integers in one dimension, got {stream.dtype} of shape "
            f"{stream.shape}"
        )
    if end is None:
        return Tokens(stream, np.zeros(1, np.int64))
    step = 1 << 24  # a piece at a time: only the places are kept
    ends = [np.flatnonzero(stream[i : i + step] == end) + i for i in range(0, len(stream), step)]
    begins = np.concatenate([np.zeros(1, np.int64), *(found + 1 for found in ends)])
    return Tokens(stream, begins[begins < len(stream)])


def _open_indexed(prefix: Path) -> Tokens:
    index, binary = (prefix.with_name(prefix.name + end) for end in (".idx", ".bin"))
    for part, other in ((index, binary), (binary, index)):
        if not part.is_file():
            raise FileNotFoundError(
                f"open_tokens: there is no file {part}; tokens are {other.name} and {part.name}, "
                "side by side"
            )
    content = index.read_bytes()
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        raise ValueError(f"open_tokens: {index} is no index of Megatron's indexed data sets")
    _, version, code, sequences, boundaries = _HEADER.unpack_from(content)
    if version != 1 or code not in _CODES:
        raise ValueError(
            f"open_tokens: {index} has version {version} and dtype {code}; version 1 and whole "
            "numbers are read"
        )
    at = _HEADER.size
    if len(content) < at + 12 * sequences + 8 * boundaries:
        raise ValueError(f"open_tokens: {index} is damaged: it ends too early")
    lengths = np.frombuffer(content, "<i4", sequences, at).astype(np.int64)
    pointers = np.frombuffer(content, "<i8", sequences, at + 4 * sequences)
    documents = np.frombuffer(content, "<i8", boundaries, at + 12 * sequences)
    if np.any(lengths < 0) or np.any(documents < 0) or np.any(documents > sequences):
        raise ValueError(
            f"open_tokens: {index} is damaged: its lengths must be at least 0 and its documents "
            f"begin among its {sequences} sequences"
        )
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    item = np.dtype(_CODES[code]).itemsize
    if binary.stat().st_size < starts[-1] * item or np.any(pointers != starts[:-1] * item):
        raise ValueError(f"open_tokens: {binary} does not hold what {index} says, or in gaps")
    stream = np.memmap(binary, _CODES[code], "r", shape=(int(starts[-1]),)) if starts[-1] else (
        np.empty(0, _CODES[code])
    )  # fmt: skip
    begins = np.unique(np.concatenate([starts[:1], starts[documents[:-1]]]))
    return Tokens(stream, begins[begins < len(stream)])


def write_tokens(prefix: str | os.PathLike[str], documents: Iterable[Sequence[int] | bytes],
                 dtype: type[np.integer] = np.int32) -> int:  # fmt: skip
    """Writes `documents` (bytes are tokens) as Megatron's prefix.bin and prefix.idx, one sequence a
    document; returns the number of tokens. dtype: np.uint16 for vocabularies up to 65,536. Raises
    ValueError for a token that does not fit into it; files appear once they are whole.
    """
    code = next(code for code, kind in _CODES.items() if kind == dtype)
    names = [os.fspath(prefix) + end for end in (".bin", ".idx")]
    lengths: list[int] = []
    limits = np.iinfo(dtype)
    with replacing(names[0]) as binary, replacing(names[1]) as index:
        with open(binary, "wb") as stream:
            for document in documents:
                if isinstance(document, bytes):
                    document = np.frombuffer(document, np.uint8)
                values = np.asarray(document, np.int64)
                if values.size and (values.min() < limits.min or values.max() > limits.max):
                    raise ValueError(
                        f"write_tokens: tokens must fit into {np.dtype(dtype)}, got {values.min()} "
                        f"to {values.max()}; pass a wider dtype"
                    )
                stream.write(values.astype(dtype).tobytes())
                lengths.append(len(values))
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        with open(index, "wb") as stream:
            stream.write(_HEADER.pack(_MAGIC, 1, code, len(lengths), len(lengths) + 1))
            stream.write(np.asarray(lengths, "<i4").tobytes())
            stream.write((starts[:-1] * np.dtype(dtype).itemsize).astype("<i8").tobytes())
            stream.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
    return int(starts[-1])


class TokenData:
    """Windows of `length` tokens of a token file, each once an epoch, in shuffled order.

    Args:
        path, end: as for `open_tokens`.
        length: tokens of a window; windows follow each other without a gap.
        seed: root of the order.
        held_out: share of the windows, at the end, for evaluation.
        documents: give positions that begin anew with each document, and no label across one.

    Raises ValueError if there are too few tokens.
    """

    def __init__(
        self, path: str | os.PathLike[str], length: int, *, seed: int = 1234,
        held_out: float = 0.05, end: int | None = None, documents: bool = False,
    ) -> None:  # fmt: skip
        self.tokens = open_tokens(path, end)
        self.length, self.seed, self.documents = length, seed, documents
        windows = (len(self.tokens.stream) - 1) // length
        self.held = int(windows * held_out)
        self.windows = windows - self.held
        if self.windows < 1 or (held_out and not self.held):
            raise ValueError(
                f"TokenData: {path} has {len(self.tokens.stream)} tokens, too few for windows of "
                f"{length} in both parts; use a longer file, a shorter --seq or another --held-out"
            )

    def facts(self) -> dict[str, int]:
        """By what a checkpoint knows that it goes on with the same windows in the same order."""
        return {"tokens": len(self.tokens.stream), "length": self.length, "seed": self.seed,
                "held_out": self.held, "content": fingerprint(self.tokens.stream)}  # fmt: skip

    def samples(self, first: int, rows: int) -> Batch:
        """Training samples number `first` to `first + rows`, counted over all epochs."""
        numbers = []
        for number in range(first, first + rows):
            epoch, place = divmod(number, self.windows)
            numbers.append(shuffled(place, self.windows, derive_seed(self.seed, "epoch", epoch)))
        return self._read(numbers)

    def held_out(self, first: int, rows: int) -> Batch:
        """Windows kept for evaluation, from number `first` on, in order."""
        return self._read([self.windows + (first + i) % self.held for i in range(rows)])

    def part(self, step: int, first: int, rows: int, place: int, places: int) -> Batch:
        """The rows of data rank `place` of `places` of a step whose first sample is `first`."""
        mine = rows // places
        return self.samples(first + place * mine, mine)

    def evaluation_part(self, index: int, rows: int, place: int, places: int) -> Batch:
        """The same of batch number `index` for evaluation."""
        mine = rows // places
        return self.held_out(index * rows + place * mine, mine)

    def _read(self, windows: list[int]) -> Batch:
        length, (stream, begins) = self.length, self.tokens
        rows = np.stack([stream[w * length : w * length + length + 1] for w in windows])
        both = torch.from_numpy(rows.astype(np.int64))
        ids, labels = both[:, :-1].contiguous(), both[:, 1:].contiguous()
        if not self.documents:
            return Batch(ids, labels, None)
        at = np.asarray(windows, np.int64)[:, None] * length + np.arange(length + 1)
        own = np.searchsorted(begins, at, "right") - 1  # number of the document
        start = np.maximum(begins[own], at[:, :1])
        labels[torch.from_numpy(own[:, 1:] != own[:, :-1])] = -100
        return Batch(ids, labels, torch.from_numpy((at - start)[:, :-1]).contiguous())


class Batch(NamedTuple):
    """int64 [rows, length] each: ids, the next tokens (or -100), and positions or None."""

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor | None


def fingerprint(stream: np.ndarray) -> int:
    """A number by which another stream of the same length is told: of 64 pieces of it."""
    digest, piece = hashlib.sha256(), 1024
    for start in np.linspace(0, max(0, len(stream) - piece), 64).astype(np.int64):
        digest.update(np.asarray(stream[start : start + piece], np.int64).tobytes())
    return int.from_bytes(digest.digest()[:6], "little")


def shuffled(place: int, count: int, seed: int) -> int:
    """Where `place` of [0, count) goes in a shuffle that `seed` names, without the others.

    A Feistel network on the next even number of bits, walked until it falls into the range (Black
    and Rogaway, 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (derive_seed(seed, "shuffle", turn, right) & mask)
        place = left << half | right
        if place < count:
            return place
