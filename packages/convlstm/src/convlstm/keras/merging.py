"""Keras' layers of several inputs: sums, products, means, extremes, concatenation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from .base import KerasModule, Shape


class _Elementwise(KerasModule):
    combine: Callable[[Tensor, Tensor], Tensor]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        rank = max(x.dim() for x in inputs)
        # Keras puts the axes that an input lacks behind its batch axis.
        same = [x.reshape(x.shape[0], *(1,) * (rank - x.dim()), *x.shape[1:]) for x in inputs]
        return reduce(type(self).combine, same)

    def output_shape(self, *shapes: Shape) -> Shape:
        rank = max(map(len, shapes))
        same = [(s[0], *(1,) * (rank - len(s)), *s[1:]) for s in shapes]
        return tuple(_broadcast(axis) for axis in zip(*same, strict=True))


def _broadcast(lengths: Sequence[int | None]) -> int | None:
    large = [n for n in lengths if n not in (None, 1)]
    return large[0] if large else (None if None in lengths else 1)


class Add(_Elementwise):
    keras_class = "Add"
    combine = staticmethod(torch.add)


class Subtract(_Elementwise):
    keras_class = "Subtract"
    combine = staticmethod(torch.sub)


class Multiply(_Elementwise):
    keras_class = "Multiply"
    combine = staticmethod(torch.mul)


class Maximum(_Elementwise):
    keras_class = "Maximum"
    combine = staticmethod(torch.maximum)


class Minimum(_Elementwise):
    keras_class = "Minimum"
    combine = staticmethod(torch.minimum)


class Average(_Elementwise):
    keras_class = "Average"
    combine = staticmethod(torch.add)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return super().forward(inputs) / len(inputs)


class Concatenate(KerasModule):
    keras_class = "Concatenate"
    options: ClassVar = {"axis": -1}

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(inputs), self.axis)

    def output_shape(self, *shapes: Shape) -> Shape:
        lengths = [s[self.axis] for s in shapes]
        out = [_broadcast(axis) for axis in zip(*shapes, strict=True)]
        out[self.axis] = None if None in lengths else sum(lengths)  # type: ignore[arg-type]
        return tuple(out)


CLASSES = [Add, Average, Concatenate, Maximum, Minimum, Multiply, Subtract]
