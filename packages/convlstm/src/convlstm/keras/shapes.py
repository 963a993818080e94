"""Keras' layers that move values without computing: reshape, repeat, pad, crop, enlarge."""

from __future__ import annotations

import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..sequence.spec import flat_pads, to_tuple
from .base import KerasModule, Shape
from .pooling import _Spatial, ranked


class Flatten(KerasModule):
    """(B, ...) to (B, N); channels_first inputs are flattened as Keras does: channels last."""

    keras_class = "Flatten"
    options: ClassVar = {"data_format": None}

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_first" and x.dim() > 2:
            x = x.movedim(1, -1)
        return x.reshape(x.shape[0], -1)

    def output_shape(self, *shapes: Shape) -> Shape:
        rest = shapes[0][1:]
        return (shapes[0][0], None if None in rest else math.prod(rest))  # type: ignore[arg-type]


class Reshape(KerasModule):
    keras_class = "Reshape"
    options: ClassVar = {"target_shape": ()}

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.target_shape)

    def output_shape(self, *shapes: Shape) -> Shape:
        rest, target = shapes[0][1:], list(self.target_shape)
        if -1 in target:
            known = -math.prod(target)
            free = None if None in rest else math.prod(rest) // known  # type: ignore[arg-type]
            target[target.index(-1)] = free
        return (shapes[0][0], *target)


class Permute(KerasModule):
    keras_class = "Permute"
    options: ClassVar = {"dims": ()}

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, *self.dims)

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], *(shapes[0][d] for d in self.dims))


class RepeatVector(KerasModule):
    """(B, C) to (B, n, C)."""

    keras_class = "RepeatVector"
    options: ClassVar = {"n": 1}

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1).expand(-1, self.n, *x.shape[1:])

    def output_shape(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], self.n, *shapes[0][1:])


class UpSampling(_Spatial):
    """Repeats positions, or interpolates between them (two dimensions, "bilinear", "bicubic")."""

    options: ClassVar = {"size": 2, "data_format": None, "interpolation": "nearest"}

    def build(self, *shapes: Shape) -> None:
        self.size = to_tuple(self.size, self.rank, "size", self.keras_class)
        known = ("nearest", "bilinear") if self.rank == 2 else ("nearest",)
        if self.interpolation not in known:
            raise ValueError(
                f"{self.keras_class}: interpolation must be one of {known}, got "
                f"{self.interpolation!r}"
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self._first(x)
        if self.interpolation == "nearest":
            for axis, times in enumerate(self.size):
                y = y.repeat_interleave(times, 2 + axis)
        else:
            wanted = [n * k for n, k in zip(y.shape[2:], self.size, strict=True)]
            y = F.interpolate(y, size=wanted, mode=self.interpolation, align_corners=False)
        return self._back(y)

    def output_shape(self, *shapes: Shape) -> Shape:
        size, _ = self._split(shapes[0])
        larger = [None if n is None else n * k for n, k in zip(size, self.size, strict=True)]
        return self._joined(shapes[0], larger)

    def keras_options(self) -> dict:
        options = super().keras_options()
        if self.rank != 2:
            del options["interpolation"]
        return options if self.rank > 1 else {"size": self.size[0]}


def _pairs(value, rank: int, name: str) -> list[tuple[int, int]]:
    """(before, after) of each axis, from the ways in which Keras lets one say it."""
    if isinstance(value, int):
        return [(value, value)] * rank
    if rank == 1 and len(value) == 2 and all(isinstance(v, int) for v in value):
        return [(value[0], value[1])]
    pairs = [(v, v) if isinstance(v, int) else tuple(v) for v in value]
    if len(pairs) != rank or any(len(p) != 2 or min(p) < 0 for p in pairs):
        raise ValueError(f"{name}: must be a number, {rank} of them or {rank} pairs, got {value!r}")
    return pairs


class ZeroPadding(_Spatial):
    options: ClassVar = {"padding": 1, "data_format": None}

    def build(self, *shapes: Shape) -> None:
        self.pairs = _pairs(self.padding, self.rank, f"{self.keras_class}: padding")

    def forward(self, x: Tensor) -> Tensor:
        return self._back(F.pad(self._first(x), flat_pads(self.pairs)))

    def output_shape(self, *shapes: Shape) -> Shape:
        size, _ = self._split(shapes[0])
        axes = zip(size, self.pairs, strict=True)
        return self._joined(shapes[0], [None if n is None else n + a + b for n, (a, b) in axes])


class Cropping(_Spatial):
    options: ClassVar = {"cropping": 1, "data_format": None}

    def build(self, *shapes: Shape) -> None:
        self.pairs = _pairs(self.cropping, self.rank, f"{self.keras_class}: cropping")

    def forward(self, x: Tensor) -> Tensor:
        y = self._first(x)
        for axis, (before, after) in enumerate(self.pairs):
            y = y.narrow(2 + axis, before, y.shape[2 + axis] - before - after)
        return self._back(y)

    def output_shape(self, *shapes: Shape) -> Shape:
        size, _ = self._split(shapes[0])
        axes = zip(size, self.pairs, strict=True)
        return self._joined(shapes[0], [None if n is None else n - a - b for n, (a, b) in axes])

    def keras_options(self) -> dict:
        options = super().keras_options()
        if self.rank == 1:  # Keras' has no format
            del options["data_format"]
        return options


CLASSES = [
    Flatten,
    Permute,
    RepeatVector,
    Reshape,
    *ranked(UpSampling, "UpSampling{}D"),
    *ranked(ZeroPadding, "ZeroPadding{}D"),
    *ranked(Cropping, "Cropping{}D"),
]
