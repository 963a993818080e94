"""How one parameter is cut over the tensor axis, and how it is filled.

A `Shard` says which dimension is cut and, where a parameter stacks several matrices (gate and up of
a SwiGLU), into how many blocks that dimension falls, each cut alone. A length that does not divide
is padded with zeros up to ceil(length / size) on each rank, the same cut as torch.chunk's, so that
any length can move between any two sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..grid.axis import Axis
from ..grid.rng import derive_seed

Init = Callable[[torch.Tensor, torch.Generator], object]


class Piece(NamedTuple):
    """A run of a cut dimension: where it begins in the whole and in a rank's part, how long it is.
    `copy`: which copy of it this is, of those on the ranks of group `group`; None: the only one.
    """

    whole: int
    local: int
    length: int
    copy: int | None = None
    group: int = 0


@dataclass(frozen=True)
class Shard:
    """How a parameter is cut: `shape` of the unsplit tensor; `dim` that is cut, or None;
    `blocks`.
    """

    shape: tuple[int, ...]
    dim: int | None = None
    blocks: int = 1

    def local_length(self, size: int) -> int:
        """Length of the cut dimension on each rank, padding included."""
        assert self.dim is not None
        return self.blocks * -(-self.shape[self.dim] // self.blocks // size)

    def local_shape(self, size: int) -> tuple[int, ...]:
        """Shape on each of `size` ranks."""
        if self.dim is None:
            return self.shape
        return (*self.shape[: self.dim], self.local_length(size), *self.shape[self.dim + 1 :])

    def pieces(self, rank: int, size: int) -> list[Piece]:
        """What place `rank` of `size` holds, along the cut dimension, in the order of its part."""
        assert self.dim is not None
        whole, part = self.shape[self.dim] // self.blocks, self.local_length(size) // self.blocks
        valid = max(0, min(whole, (rank + 1) * part) - rank * part)
        return [Piece(block * whole + rank * part, block * part, valid)
                for block in range(self.blocks) if valid]  # fmt: skip


@dataclass(frozen=True)
class GroupShard(Shard):
    """A cut where several ranks hold one group: `own` rows of each group are shared out among its
    ranks, the `shared` rows after them are copies on each. For sizes that are a multiple of the
    number of groups; elsewhere a plain `Shard` of the same shape is the same whole tensor.

    The copies get only their rank's part of the gradient; `finish_gradients` sums them.
    """

    own: int = 0
    shared: int = 0

    @property
    def groups(self) -> int:
        assert self.dim is not None
        return self.shape[self.dim] // (self.own + self.shared)

    def local_length(self, size: int) -> int:
        return self.own * self.groups // size + self.shared

    def pieces(self, rank: int, size: int) -> list[Piece]:
        ranks = size // self.groups
        group, place = divmod(rank, ranks)
        start, part = group * (self.own + self.shared), self.own // ranks
        return [
            Piece(start + place * part, 0, part),
            Piece(start + self.own, part, self.shared, copy=place, group=group),
        ]


def split(full: torch.Tensor, shard: Shard, rank: int, size: int) -> torch.Tensor:
    """The slice of `full` for place `rank` of `size`, zero-padded, a new tensor.

    Raises ValueError if `full` has not the shape `shard.shape`.
    """
    if tuple(full.shape) != shard.shape:
        raise ValueError(
            f"split: full must have the unsplit shape {shard.shape}, got {tuple(full.shape)}"
        )
    if shard.dim is None:
        return full.clone()
    local = full.new_zeros(shard.local_shape(size))
    for piece in shard.pieces(rank, size):
        values = full.narrow(shard.dim, piece.whole, piece.length)
        local.narrow(shard.dim, piece.local, piece.length).copy_(values)
    return local


def merge(parts: list[torch.Tensor], shard: Shard) -> torch.Tensor:
    """The unsplit tensor from every rank's slice, in order, padding removed."""
    if shard.dim is None:
        return parts[0].clone()
    full = parts[0].new_empty(shard.shape)
    for rank, part in enumerate(parts):
        for piece in shard.pieces(rank, len(parts)):
            values = part.narrow(shard.dim, piece.local, piece.length)
            full.narrow(shard.dim, piece.whole, piece.length).copy_(values)
    return full


def gather_full(tensor: torch.Tensor, shard: Shard, axis: Axis) -> torch.Tensor:
    """The unsplit tensor, on every rank, of something cut like `shard`: a weight or its
    gradient.
    """
    if shard.dim is None:
        return tensor.detach().clone()
    stacked = axis.all_gather(tensor.detach().unsqueeze(0), 0, label="gather_full", kind="control")
    return merge(list(stacked.unbind(0)), shard)


@dataclass(frozen=True)
class normal:
    """Fills with N(0, std^2). A class and not a closure, so that a model can be pickled."""

    std: float

    def __call__(self, tensor: torch.Tensor, generator: torch.Generator) -> object:
        return tensor.normal_(0.0, self.std, generator=generator)


@dataclass(frozen=True)
class constant:
    """Fills with one value."""

    value: float

    def __call__(self, tensor: torch.Tensor, generator: torch.Generator) -> object:
        return tensor.fill_(self.value)


@torch.no_grad()
def drawn(
    parameter: torch.Tensor, shard: Shard, init: Init, name: str, seed: int, axis: Axis,
    mode: str = "whole",
) -> torch.Tensor:  # fmt: skip
    """What `init` fills this rank's part of `shard` with, from a stream derived from `seed` and the
    unsplit `name`; shape, dtype and device are those of `parameter`.

    "whole": every rank draws the unsplit tensor on the host and keeps its slice; slices gather to
    the same bits for any axis size, at the cost of one whole parameter in memory. "local": each
    rank draws its slice on the device from a stream of its own. Raises ValueError for another mode.
    """
    if mode == "whole":
        generator = torch.Generator().manual_seed(derive_seed(seed, "init", name))
        full = torch.empty(shard.shape, dtype=torch.float32)
        if parameter.dtype == torch.float64:
            full = full.double()
        init(full, generator)
        return split(full, shard, axis.rank, axis.size)
    if mode == "local":
        place = (axis.rank, axis.size) if shard.dim is not None else ()
        generator = torch.Generator(parameter.device)
        generator.manual_seed(derive_seed(seed, "init", name, *place))
        local = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        init(local, generator)
        for piece in () if shard.dim is None else shard.pieces(axis.rank, axis.size):
            if piece.copy is not None:  # the same on every rank of the group
                generator.manual_seed(derive_seed(seed, "init", name, "group", piece.group))
                init(local.narrow(shard.dim, piece.local, piece.length), generator)
        clear_padding(local, shard, axis)
        return local
    raise ValueError(f"drawn: mode must be 'whole' or 'local', got {mode!r}")


@torch.no_grad()
def clear_padding(parameter: torch.Tensor, shard: Shard, axis: Axis) -> None:
    """Zeroes what lies past the end of the unsplit tensor: it takes part in matrix products."""
    if shard.dim is None:
        return
    end = 0
    for piece in (*shard.pieces(axis.rank, axis.size), Piece(0, parameter.shape[shard.dim], 0)):
        parameter.narrow(shard.dim, end, piece.local - end).zero_()
        end = piece.local + piece.length
