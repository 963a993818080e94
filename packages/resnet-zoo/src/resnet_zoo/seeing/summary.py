"""A model as a table: shapes, parameters and multiply-accumulates, per layer or per stage."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .trace import Layer, trace

DEPTHS = ("stage", "block", "layer")


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    out_shape: tuple[int, ...]
    parameters: int
    macs: int


def summarize(
    model: nn.Module, input_shape: tuple[int, ...] = (1, 3, 224, 224), depth: str = "block"
) -> list[Row]:
    """Rows in the order of execution, gathered to stages ("layer1"), blocks or single layers."""
    if depth not in DEPTHS:
        raise ValueError(f"summarize: depth must be one of {', '.join(DEPTHS)}, got {depth!r}")
    children = dict(model.named_modules())
    rows: list[Row] = []
    for layer in trace(model, input_shape):
        key = _group(layer.name, depth)
        parameters, macs = layer.parameters, layer.macs
        if rows and rows[-1].name == key and depth != "layer":
            old = rows.pop()
            parameters, macs = parameters + old.parameters, macs + old.macs
        rows.append(Row(key, _kind(layer, key, children), layer.out_shape, parameters, macs))
    return rows


def _group(name: str, depth: str) -> str:
    parts = name.split(".")
    if depth == "layer" or not parts[0].startswith(("layer", "stages")):
        return name
    short, long = (1, 2) if parts[0].startswith("layer") else (2, 4)  # stages.0.blocks.0
    return ".".join(parts[: short if depth == "stage" else long])


def _kind(layer: Layer, key: str, modules: dict[str, nn.Module]) -> str:
    if key == layer.name:
        return f"{layer.kind} {layer.detail}".strip()
    module = modules[key]
    if isinstance(module, nn.Sequential):
        return f"{len(module)} x {type(module[0]).__name__}"
    return type(module).__name__


def summary(
    model: nn.Module, input_shape: tuple[int, ...] = (1, 3, 224, 224), depth: str = "block"
) -> str:
    """The table as text, with a total line."""
    rows = summarize(model, input_shape, depth)
    body = [
        (
            row.name,
            row.kind,
            "x".join(map(str, row.out_shape)),
            f"{row.parameters:,}",
            _mega(row.macs),
        )
        for row in rows
    ]
    parameters = sum(p.numel() for p in model.parameters())
    total = ("total", "", "", f"{parameters:,}", _mega(sum(row.macs for row in rows)))
    head = ("layer", "kind", "output", "parameters", "MMAC")
    widths = [max(len(line[i]) for line in (head, total, *body)) for i in range(5)]
    rule = "-" * (sum(widths) + 8)
    lines = [_line(head, widths), rule, *(_line(line, widths) for line in body), rule]
    return "\n".join([*lines, _line(total, widths)])


def _mega(macs: int) -> str:
    return f"{macs / 1e6:,.1f}" if macs else "-"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    left = [f"{cell:<{width}}" for cell, width in zip(cells[:3], widths[:3], strict=True)]
    right = [f"{cell:>{width}}" for cell, width in zip(cells[3:], widths[3:], strict=True)]
    return "  ".join(left + right)
