"""This rank's part of an unsplit tensor, as torch.distributed.checkpoint takes and fills it.

A part is one or more boxes of the whole: tp cuts the tensor (blocks of it, padding left out), FSDP2
may cut that part again over dp. DTensor has no name for such a cut, but DCP asks only for boxes:
`__create_write_items__`, `__create_chunk_list__` and `__get_tensor_shard__`, the three methods of
`torch.distributed._checkpointable`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..grid.context import ParallelContext
from ..layers.layout import held, held_offsets
from ..layers.sharding import Shard


class _Box(NamedTuple):
    offsets: tuple[int, ...]  # in the whole
    values: torch.Tensor  # a view of what this process holds


class _Part(torch.Tensor):
    """Shape and dtype of the whole, memory of this rank's boxes alone."""

    boxes: list[_Box]

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], boxes: list[_Box], like: torch.Tensor) -> _Part:
        part = torch.Tensor._make_wrapper_subclass(
            cls, torch.Size(shape), dtype=like.dtype, device=like.device
        )
        part.boxes = boxes
        return part

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ):
        raise NotImplementedError(f"a part of a checkpoint has no {function}")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"part of {tuple(self.shape)}: {[box.offsets for box in self.boxes]}"

    def __create_write_items__(self, name: str, _: object) -> list[Any]:
        from torch.distributed.checkpoint.metadata import MetadataIndex, TensorProperties
        from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

        return [
            WriteItem(
                index=MetadataIndex(name, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=chunk,
                    properties=TensorProperties.create_from_tensor(box.values),
                    size=self.size(),
                ),
            )
            for box, chunk in zip(self.boxes, self.__create_chunk_list__(), strict=True)
        ]

    def __create_chunk_list__(self) -> list[Any]:
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

        return [
            ChunkStorageMetadata(torch.Size(box.offsets), box.values.shape) for box in self.boxes
        ]

    def __get_tensor_shard__(self, index: Any) -> torch.Tensor:
        return next(box.values for box in self.boxes if box.offsets == tuple(index.offset))


def part_of_whole(local: torch.Tensor, shard: Shard, context: ParallelContext) -> torch.Tensor:
    """`local`, this rank's part of `shard` (or FSDP2's share of that), as DCP is to see it.

    A plain tensor where the part is the whole; a block-wise cut dimension is unflattened.
    """
    mine, start = held(local), held_offsets(local)
    if shard.dim is None:
        whole, boxes = shard.shape, [_Box(start, mine)]
    else:
        whole, boxes = _boxes(mine, start, shard, context)
    if len(boxes) == 1 and boxes[0].values.shape == torch.Size(whole):
        return boxes[0].values
    return _Part(whole, [box for box in boxes if box.values.numel()], mine)


def _boxes(
    mine: torch.Tensor, start: tuple[int, ...], shard: Shard, context: ParallelContext
) -> tuple[tuple[int, ...], list[_Box]]:
    """Shape of the whole and the boxes that `mine`, beginning at `start` of tp's part, covers."""
    axis, dim = context.tp, shard.dim
    assert dim is not None
    length = shard.shape[dim] // shard.blocks
    several = shard.blocks > 1
    whole = [*shard.shape[:dim], *([shard.blocks] if several else []), length,
             *shard.shape[dim + 1 :]]  # fmt: skip
    boxes = []
    for piece in shard.pieces(axis.rank, axis.size):
        low = max(start[dim], piece.local)  # in tp's part, along dim
        high = min(start[dim] + mine.shape[dim], piece.local + piece.length)
        if high <= low:
            continue
        values = mine.narrow(dim, low - start[dim], high - low)
        block, row = divmod(piece.whole + low - piece.local, length)
        offsets = [*start[:dim], *([block] if several else []), row, *start[dim + 1 :]]
        boxes.append(_Box(tuple(offsets), values.unsqueeze(dim) if several else values))
    if several and axis.size == 1 and mine.shape[dim] == shard.shape[dim]:
        return tuple(whole), [_Box((0,) * len(whole), mine.unflatten(dim, (shard.blocks, -1)))]
    return tuple(whole), boxes


def cloned(value: torch.Tensor) -> torch.Tensor:
    """`value` (plain or a part) as it is now, in host memory."""
    if not isinstance(value, _Part):
        return value.detach().to("cpu", copy=True)
    boxes = [_Box(box.offsets, box.values.to("cpu", copy=True)) for box in value.boxes]
    like = boxes[0].values if boxes else torch.empty(0, dtype=value.dtype)
    return _Part(tuple(value.shape), boxes, like)
