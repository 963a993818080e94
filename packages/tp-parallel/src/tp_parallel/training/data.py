"""Text as tokens, and the batch of a step as a function of the step alone.

Since a batch depends only on (seed, step), a resumed run sees what the uninterrupted one would have
seen, on any grid, with no position to save.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..grid.context import ParallelContext
from ..grid.rng import derive_seed
from .tokens import Batch, fingerprint

_NPY_HEADER = 128  # bytes of a .npy file without a token


class ByteTokenizer:
    """Every byte is a token; 256 ends a text."""

    vocab_size = 257
    end = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_file(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The bytes of a file, mapped: nobody holds a copy."""
        size = os.path.getsize(path)
        return np.memmap(path, np.uint8, "c") if size else np.empty(0, np.uint8)

    def decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")


class FileTokenizer:
    """A `tokenizer.json` of Hugging Face's tokenizers library, which must be installed.

    Raises ImportError, saying what to install, without it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(
                "FileTokenizer: needs the package tokenizers; pip install tokenizers, or use "
                "'bytes'"
            ) from error
        if not Path(path).is_file():
            raise FileNotFoundError(
                "FileTokenizer: path must be 'bytes' or the path of a tokenizer.json, got "
                f"{str(path)!r}"
            )
        try:
            self._tokenizer = Tokenizer.from_file(os.fspath(path))
        except Exception as error:  # the library's own has no other type
            raise ValueError(
                "FileTokenizer: path must be 'bytes' or the path of a tokenizer.json, got "
                f"{str(path)!r} ({error})"
            ) from None
        self.vocab_size = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_file(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The tokens of a text file, int32; for a large one write tokens once (`write_tokens`)."""
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        return np.asarray(self.encode(text), np.int32)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)


def make_tokenizer(name: str) -> ByteTokenizer | FileTokenizer:
    """The tokenizer called "bytes", or that of the tokenizer.json at the path `name`."""
    return ByteTokenizer() if name == "bytes" else FileTokenizer(name)


def shared_tokens(
    path: str | os.PathLike[str], tokenizer: ByteTokenizer | FileTokenizer, context: ParallelContext
) -> np.ndarray:
    """The tokens of a text file, mapped: encoded by one rank of each host into a file that all of
    it map and that has no name any more when this returns. Synchronises all ranks.
    """
    if isinstance(tokenizer, ByteTokenizer) or context.world_size == 1:
        return tokenizer.encode_file(path)
    mine = (socket.gethostname(), os.path.join(tempfile.gettempdir(), f"{uuid.uuid4().hex}.npy"))
    every: list[Any] = [None] * context.world_size
    dist.all_gather_object(every, mine)
    name = next(name for host, name in every if host == mine[0])  # of the host's first rank
    encode = threading.Thread(target=lambda: np.save(name, tokenizer.encode_file(path)))
    if name == mine[1]:
        encode.start()
    working = torch.ones(1, dtype=torch.int32, device=context.device)
    while working:  # encoding may last longer than a collective may wait
        working.fill_(encode.is_alive())
        context.world.all_reduce(working, "max", label="text is encoded", kind="control")
        time.sleep(0.1 * bool(working))
    there = os.path.isfile(name)  # not on another host of the same name, or for a broken text
    if there:
        empty = os.path.getsize(name) <= _NPY_HEADER
        tokens = np.load(name, mmap_mode=None if empty else "c")
    context.world.barrier(label="tokens are mapped")
    if there and name == mine[1]:
        os.unlink(name)
    return tokens if there else tokenizer.encode_file(path)


class TextData:
    """A text cut into random windows.

    Args:
        path: any text file; for a `tokenizer.json` UTF-8 (other bytes are replaced).
        tokenizer: from `make_tokenizer`.
        length: tokens of a window.
        seed: root of the choice of windows.
        held_out: share at the end of the text kept for evaluation.
        context: of several processes that all make it; they share the tokens (`shared_tokens`).

    Raises ValueError if the text is shorter than a window in either part.
    """

    def __init__(
        self, path: str | os.PathLike[str], tokenizer, length: int, *, seed: int = 1234,
        held_out: float = 0.05, context: ParallelContext | None = None,
    ) -> None:  # fmt: skip
        if not 0.0 <= held_out < 1.0:
            raise ValueError(f"TextData: held_out must be in [0, 1), got {held_out}")
        tokens = torch.from_numpy(
            tokenizer.encode_file(path)
            if context is None
            else shared_tokens(path, tokenizer, context)
        )
        cut = len(tokens) - int(len(tokens) * held_out)
        self.train, self.test = tokens[:cut], tokens[cut:]
        self.length, self.seed = length, seed
        if len(self.train) < length + 1 or (held_out and len(self.test) < length + 1):
            raise ValueError(
                f"TextData: {path} has {len(tokens)} tokens, too few for windows of {length} in "
                "both parts; use a longer text, a shorter --seq or another --held-out"
            )

    def batch(self, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, labels) of a training step, int64 [rows, length] each; labels are the next
        tokens.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batch", step))
        starts = torch.randint(len(self.train) - self.length, (rows,), generator=generator)
        return _windows(self.train, starts, self.length)

    def evaluation(self, index: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, labels) number `index` of the held-out part, evenly spread over it."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "evaluation", index))
        starts = torch.randint(len(self.test) - self.length, (rows,), generator=generator)
        return _windows(self.test, starts, self.length)

    def part(self, step: int, first: int, rows: int, place: int, places: int) -> Batch:
        """The rows of data rank `place` of `places` of a training step."""
        return Batch(*(x.chunk(places)[place] for x in self.batch(step, rows)), None)

    def evaluation_part(self, index: int, rows: int, place: int, places: int) -> Batch:
        """The same of batch number `index` for evaluation."""
        return Batch(*(x.chunk(places)[place] for x in self.evaluation(index, rows)), None)

    def facts(self) -> dict[str, int]:
        """By what a checkpoint knows that it goes on with the same windows."""
        return {"tokens": len(self.train) + len(self.test), "length": self.length,
                "seed": self.seed, "held_out": len(self.test),
                "content": fingerprint(self.train.numpy())}  # fmt: skip


def _windows(
    tokens: torch.Tensor, starts: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    both = tokens[starts.unsqueeze(1) + torch.arange(length + 1)].long()
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()
