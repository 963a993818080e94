"""Keras' layers that are matrix products over the last axis: Dense, and dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..layers.initializers import initialize
from .base import KERAS_ACTIVATIONS, KerasModule, Shape, Slot


class Dense(KerasModule):
    """activation(x W + b) over the last axis of an input of any rank."""

    keras_class = "Dense"
    options: ClassVar = {"units": None, "activation": "linear", "use_bias": True}

    def build(self, *shapes: Shape) -> None:
        channels = shapes[0][-1]
        if channels is None:
            raise ValueError(f"Dense: the last axis of the input must be known, got {shapes[0]}")
        self.weight = nn.Parameter(initialize("glorot_uniform", (channels, self.units)))
        self.bias = nn.Parameter(torch.zeros(self.units)) if self.use_bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        if self.bias is not None:
            y = y + self.bias
        return KERAS_ACTIVATIONS[self.activation](y)

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], self.units)

    def slots(self) -> list[Slot]:
        return [Slot(self, "weight")] + ([] if self.bias is None else [Slot(self, "bias")])


class Attention(KerasModule):
    """Keras' Attention by dot products: [query, value] or [query, value, key], (..., T, C)."""

    keras_class = "Attention"
    options: ClassVar = {"use_scale": False, "score_mode": "dot", "dropout": 0.0}

    def build(self, *shapes: Shape) -> None:
        if self.score_mode != "dot":
            raise ValueError(f'Attention: score_mode must be "dot", got {self.score_mode!r}')
        self.scale = nn.Parameter(torch.ones(())) if self.use_scale else None

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        query, value = inputs[0], inputs[1]
        key = inputs[2] if len(inputs) > 2 else value
        scores = query @ key.transpose(-1, -2)
        if self.scale is not None:
            scores = scores * self.scale
        weights = torch.softmax(scores, -1)
        weights = nn.functional.dropout(weights, self.dropout, self.training)
        return weights @ value

    def output_shape(self, *shapes: Shape) -> Any:
        return (*shapes[0][:-1], shapes[1][-1])

    def slots(self) -> list[Slot]:
        return [] if self.scale is None else [Slot(self, "scale")]
