"""Graphs of layers made by hand, as Keras' functional interface makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .base import Shape, output_shape
from .graph import Call, Ref
from .model import GraphModel
from .registry import build_layer


class GraphBuilder:
    """`x = g.input(shape); y = g.add("Conv2D", x, filters=8, kernel_size=3); g.model(y)`.

    Options have Keras' names and defaults. Shapes have a batch axis; None where a length is free.
    """

    def __init__(self) -> None:
        self.layers: dict[str, nn.Module] = {}
        self.calls: list[Call] = []
        self.inputs: list[tuple[str, Shape]] = []
        self.shapes: dict[Ref, Shape] = {}

    def input(self, shape: Sequence[int | None], name: str = "frames") -> Ref:
        self.inputs.append((name, tuple(shape)))
        ref = Ref(name, 0, 0)
        self.shapes[ref] = tuple(shape)
        return ref

    def add(self, class_name: str, on: Ref | Sequence[Ref], name: str = "", **options: Any) -> Any:
        """Calls a new layer on a tensor, or on several; its output, or a list of them."""
        several = not isinstance(on, Ref)
        given: list[Ref] = list(on) if several else [on]  # type: ignore[list-item]
        seen = [self.shapes[r] for r in given]
        name = name or f"{class_name.lower()}_{len(self.layers)}"
        layer = build_layer(class_name, {**options, "name": name}, seen)
        self.layers[name] = layer
        self.calls.append(Call(name, 0, (given if several else given[0],), {}))
        out = output_shape(layer, *seen)
        shapes = out if isinstance(out, list) else [out]
        refs = [Ref(name, 0, k) for k in range(len(shapes))]
        self.shapes.update(zip(refs, shapes, strict=True))
        return refs if isinstance(out, list) else refs[0]

    def shape(self, ref: Ref) -> Shape:
        return self.shapes[ref]

    def model(self, outputs: Ref | Sequence[Ref] | Mapping[str, Ref]) -> GraphModel:
        return GraphModel(self.layers, self.calls, self.inputs, outputs, self.shapes)
