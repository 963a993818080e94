"""Keras' pooling in one to three dimensions, local and global, with TensorFlow's padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..sequence.spec import flat_pads, same_pads, to_tuple
from .base import KerasModule, Shape

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Spatial(KerasModule):
    """A layer over `rank` spatial axes, in either format."""

    rank: int

    @property
    def channels_last(self) -> bool:
        return (self.data_format or "channels_last") == "channels_last"

    def _first(self, x: Tensor) -> Tensor:
        if x.dim() != self.rank + 2:
            raise ValueError(
                f"{self.keras_class}: x must have {self.rank + 2} axes, got {tuple(x.shape)}"
            )
        return x.movedim(-1, 1) if self.channels_last else x

    def _back(self, y: Tensor) -> Tensor:
        return y.movedim(1, -1) if self.channels_last else y

    def _split(self, shape: Shape) -> tuple[Sequence[int | None], int | None]:
        if self.channels_last:
            return shape[1:-1], shape[-1]
        return shape[2:], shape[1]

    def _joined(self, shape: Shape, size: Sequence[int | None]) -> Shape:
        channels = self._split(shape)[1]
        if self.channels_last:
            return (shape[0], *size, channels)
        return (shape[0], channels, *size)


class _Pooling(_Spatial):
    options: ClassVar = {"pool_size": 2, "strides": None, "padding": "valid", "data_format": None}

    def build(self, *shapes: Shape) -> None:
        name = self.keras_class
        self.pool_size = to_tuple(self.pool_size, self.rank, "pool_size", name)
        strides = self.pool_size if self.strides is None else self.strides
        self.strides = to_tuple(strides, self.rank, "strides", name)
        if self.padding not in ("valid", "same"):
            raise ValueError(f'{name}: padding must be "valid" or "same", got {self.padding!r}')

    def _pads(self, size: Sequence[int]) -> list[int]:
        if self.padding == "valid":
            return [0] * (2 * self.rank)
        axes = zip(size, self.pool_size, self.strides, strict=True)
        return flat_pads([same_pads(n, k, s, 1) for n, k, s in axes])

    def output_shape(self, *shapes: Shape) -> Shape:
        size, _ = self._split(shapes[0])
        out = []
        for n, k, s in zip(size, self.pool_size, self.strides, strict=True):
            span = 1 if self.padding == "same" else k
            out.append(None if n is None else (n - span) // s + 1)
        return self._joined(shapes[0], out)


class MaxPooling(_Pooling):
    def forward(self, x: Tensor) -> Tensor:
        x = self._first(x)
        x = F.pad(x, self._pads(x.shape[2:]), value=float("-inf"))
        return self._back(MAX[self.rank](x, self.pool_size, self.strides))


class AveragePooling(_Pooling):
    """The mean of the positions inside the input: padding does not count, as on TensorFlow and JAX.
    (Keras on torch repeats the border instead where padding is uneven.)"""

    def forward(self, x: Tensor) -> Tensor:
        x = self._first(x)
        pads = self._pads(x.shape[2:])
        pool = AVERAGE[self.rank]
        if not any(pads):
            return self._back(pool(x, self.pool_size, self.strides))
        inside = F.pad(x.new_ones(1, 1, *x.shape[2:]), pads)
        total = pool(F.pad(x, pads), self.pool_size, self.strides)
        return self._back(total / pool(inside, self.pool_size, self.strides))


class _Global(_Spatial):
    options: ClassVar = {"data_format": None, "keepdims": False}

    def _axes(self) -> tuple[int, ...]:
        start = 1 if self.channels_last else 2
        return tuple(range(start, start + self.rank))

    def output_shape(self, *shapes: Shape) -> Shape:
        if self.keepdims:
            return self._joined(shapes[0], (1,) * self.rank)
        return (shapes[0][0], self._split(shapes[0])[1])


class GlobalAveragePooling(_Global):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self._axes(), keepdim=self.keepdims)


class GlobalMaxPooling(_Global):
    def forward(self, x: Tensor) -> Tensor:
        return torch.amax(x, self._axes(), keepdim=self.keepdims)


def ranked(kind: type[KerasModule], stem: str, ranks: Sequence[int] = (1, 2, 3)):
    """A class for each rank, named as Keras names it."""
    return [
        type(
            stem.format(r),
            (kind,),
            {"rank": r, "keras_class": stem.format(r), "__doc__": kind.__doc__},
        )
        for r in ranks
    ]


CLASSES = [
    *ranked(MaxPooling, "MaxPooling{}D"),
    *ranked(AveragePooling, "AveragePooling{}D"),
    *ranked(GlobalAveragePooling, "GlobalAveragePooling{}D"),
    *ranked(GlobalMaxPooling, "GlobalMaxPooling{}D"),
]
