"""A picture of a ResNet's structure, drawn from the live model: SVG, or text.

One column a stage; in it every block with its convolutions, and its shortcut as an arc (dashed
where it projects to another shape). Shapes, kernels and counts come from running the model on the
meta device, not from a table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from ..models.resnet import ResNet
from .trace import Layer, trace

_COLUMN, _WIDTH, _GUTTER, _TOP, _MARGIN = 208, 186, 44, 96, 32
_ROW, _PAD, _GAP, _HEAD = 21, 8, 22, 44
_INK, _SOFT, _LINE, _PAPER = "#1d2733", "#66758a", "#8a98ab", "#ffffff"
_STAGE_COLORS = ("#5b6b7f", "#2f6fb3", "#1f8a70", "#c77d0a", "#b3402f", "#5b6b7f")


@dataclass
class _Block:
    title: str
    rows: list[str]
    shortcut: str | None = None  # None: no shortcut; "": identity; else the projection

    @property
    def height(self) -> int:
        return 2 * _PAD + _ROW * len(self.rows)


@dataclass
class _Column:
    title: str
    shape: str
    note: str
    blocks: list[_Block] = field(default_factory=list)


def _columns(model: ResNet, input_shape: tuple[int, ...]) -> list[_Column]:
    if not isinstance(model, ResNet):
        raise ValueError(
            f"draw: only a ResNet is drawn, got {type(model).__name__}; cure: resnet-zoo summary"
        )
    layers = trace(model, input_shape)
    by_stage: dict[str, list[Layer]] = {}
    for layer in layers:
        by_stage.setdefault(_part(layer.name), []).append(layer)
    columns = []
    for part, members in by_stage.items():
        parameters = sum(layer.parameters for layer in members)
        macs = sum(layer.macs for layer in members)
        note = f"{_count(parameters)} parameters, {_count(macs)}MAC"
        column = _Column(part, _shape(members[-1].out_shape), note)
        if part.startswith("layer"):
            names = dict.fromkeys(layer.name.split(".")[1] for layer in members)
            for name in names:
                inside = [layer for layer in members if layer.name.split(".")[1] == name]
                column.blocks.append(_residual(f"{part}.{name}", inside))
        else:
            rows = [_words(layer) for layer in members if not _silent(layer)]
            column.blocks.append(_Block(part, rows))
        columns.append(column)
    return columns


def _part(name: str) -> str:
    first = name.split(".")[0]
    if first.startswith("layer"):
        return first
    return "head" if first in ("avgpool", "fc") else "stem"


def _residual(title: str, layers: list[Layer]) -> _Block:
    main = [layer for layer in layers if ".downsample" not in layer.name]
    side = [layer for layer in layers if ".downsample" in layer.name and layer.kind == "Conv2d"]
    rows = [_words(layer) for layer in main if layer.kind == "Conv2d"]
    return _Block(title, rows, _words(side[0]) if side else "")


def _silent(layer: Layer) -> bool:
    return layer.kind in ("BatchNorm2d", "ReLU", "Identity")


def _words(layer: Layer) -> str:
    names = {"Conv2d": "conv", "MaxPool2d": "max pool", "AdaptiveAvgPool2d": "average pool"}
    words = f"{names.get(layer.kind, layer.kind.lower())} {layer.detail}".strip()
    return f"{words}, {layer.out_shape[1]}" if layer.kind in ("Conv2d", "Linear") else words


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[1:]))


def _count(number: int) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return f"{number} "


def draw_text(model: ResNet, input_shape: tuple[int, ...] = (1, 3, 224, 224)) -> str:
    """The structure as text, one line a block: `(+)` adds the shortcut and ReLU follows."""
    lines = [f"input  {_shape(input_shape)}"]
    for column in _columns(model, input_shape):
        lines += ["", f"{column.title}  ->  {column.shape}   ({column.note})"]
        for block in column.blocks:
            chain = " -> ".join(block.rows)
            if block.shortcut is None:
                lines.append(f"  {chain}")
            else:
                way = f"shortcut {block.shortcut}" if block.shortcut else "shortcut identity"
                lines.append(f"  {block.title:<10} {chain}  (+) {way}")
    return "\n".join(lines)


def draw_svg(
    model: ResNet, input_shape: tuple[int, ...] = (1, 3, 224, 224), title: str = "ResNet"
) -> str:
    """The structure as an SVG document."""
    columns = _columns(model, input_shape)
    heights = [sum(block.height + _GAP for block in column.blocks) for column in columns]
    width = 2 * _MARGIN + len(columns) * _COLUMN + (len(columns) - 1) * _GUTTER
    height = _TOP + _HEAD + max(heights) + 40
    parameters = sum(p.numel() for p in model.parameters())
    macs = sum(layer.macs for layer in trace(model, input_shape))
    subtitle = f"input {_shape(input_shape)}, {parameters:,} parameters, {macs / 1e9:.2f} GMAC"
    body = [
        _text(_MARGIN, 42, title, size=24, weight=700),
        _text(_MARGIN, 66, subtitle, size=14, color=_SOFT),
        _legend(width - _MARGIN - 310, 60),
    ]
    exit_point: tuple[float, float] | None = None
    for number, (column, color) in enumerate(zip(columns, _colors(len(columns)), strict=True)):
        x = _MARGIN + number * (_COLUMN + _GUTTER)
        body.append(_column_svg(column, x, color))
        top, center = _TOP + _HEAD, x + _WIDTH / 2
        if exit_point is not None:
            body.append(_flow(exit_point, (center, top), x - _GUTTER / 2))
        bottom = top + heights[number] - _GAP
        exit_point = (center, bottom)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" role="img" '
        f'aria-label="{escape(title)}">\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{_LINE}"/>'
        "</marker></defs>\n"
        f'<rect width="{width}" height="{height}" fill="{_PAPER}"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _legend(x: float, y: float) -> str:
    return (
        f'<path d="M{x} {y} h30" stroke="{_SOFT}" stroke-width="1.6"/>'
        + _text(x + 36, y + 4, "shortcut: identity", size=12, color=_SOFT)
        + f'<path d="M{x + 160} {y} h30" stroke="{_SOFT}" stroke-width="1.6" '
        'stroke-dasharray="5 3"/>'
        + _text(x + 196, y + 4, "shortcut: projection", size=12, color=_SOFT)
    )


def _colors(count: int) -> list[str]:
    return [_STAGE_COLORS[min(i, len(_STAGE_COLORS) - 1)] for i in range(count)]


def _column_svg(column: _Column, x: float, color: str) -> str:
    parts = [
        _text(x, _TOP + 4, column.title, size=16, weight=700, color=color),
        _text(x + _WIDTH, _TOP + 4, column.shape, size=13, anchor="end"),
        _text(x, _TOP + 23, column.note, size=11, color=_SOFT),
    ]
    y = _TOP + _HEAD
    for index, block in enumerate(column.blocks):
        if index:
            parts.append(_arrow(x + _WIDTH / 2, y - _GAP, y))
        parts.append(_block_svg(block, x, y, color))
        y += block.height + _GAP
    return "\n".join(parts)


def _block_svg(block: _Block, x: float, y: float, color: str) -> str:
    width, height = _WIDTH, block.height
    parts = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{color}" '
        f'fill-opacity="0.07" stroke="{color}" stroke-opacity="0.55"/>'
    ]
    for index, row in enumerate(block.rows):
        top = y + _PAD + index * _ROW
        parts.append(
            f'<rect x="{x + 8}" y="{top + 1}" width="{width - 16}" height="{_ROW - 3}" rx="4" '
            f'fill="{color}" fill-opacity="{0.30 if "3x3" in row or "7x7" in row else 0.15}"/>'
        )
        parts.append(_text(x + width / 2, top + 14, row, size=11.5, anchor="middle"))
    if block.shortcut is not None:
        dash = ' stroke-dasharray="5 3"' if block.shortcut else ""
        edge, above, below = x + width, y - 9, y + height + 9
        parts.append(
            f'<path d="M{x + _WIDTH / 2} {above} H{edge + 8} q8 0 8 8 V{below - 8} q0 8 -8 8 '
            f'H{x + _WIDTH / 2 + 7}" fill="none" stroke="{color}" stroke-width="1.6"{dash}/>'
        )
        parts.append(_plus(x + _WIDTH / 2, below, color))
        hint = f"shortcut: {block.shortcut}" if block.shortcut else "shortcut: identity"
        parts.insert(0, f"<title>{escape(block.title)}, {escape(hint)}</title>")
    return "<g>" + "".join(parts) + "</g>"


def _plus(x: float, y: float, color: str) -> str:
    return (
        f'<circle cx="{x}" cy="{y}" r="6.5" fill="{_PAPER}" stroke="{color}" stroke-width="1.4"/>'
        f'<path d="M{x - 3.5} {y} H{x + 3.5} M{x} {y - 3.5} V{y + 3.5}" stroke="{color}" '
        'stroke-width="1.4"/>'
    )


def _arrow(x: float, y: float, to: float) -> str:
    return (
        f'<path d="M{x} {y} V{to}" stroke="{_LINE}" stroke-width="1.4" fill="none" '
        'marker-end="url(#tip)"/>'
    )


def _flow(start: tuple[float, float], end: tuple[float, float], gutter: float) -> str:
    """Out of the bottom of one column, up the gutter, into the top of the next."""
    (x, y), (to_x, to_y) = start, end
    return (
        f'<path d="M{x} {y} V{y + 24} H{gutter + 8} V{to_y - 16} H{to_x} V{to_y}" fill="none" '
        f'stroke="{_LINE}" stroke-width="1.4" stroke-linejoin="round" marker-end="url(#tip)"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    weight: int = 400,
    color: str = _INK,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{color}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
