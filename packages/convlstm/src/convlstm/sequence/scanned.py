"""The sequence by torch's scan: one loop in an exported graph, whatever the number of steps, as an
ONNX Scan (opset 9 and later). The definition is reference.py."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from . import reference
from .reference import NO_EXTRAS, CellExtras
from .spec import CellSpec


def sequence(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    spec: CellSpec,
    mask: Tensor | None = None,
    extras: CellExtras = NO_EXTRAS,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.sequence`. Raises ValueError for a mask."""
    from torch._higher_order_ops.scan import scan

    if mask is not None:
        raise ValueError('ConvLSTM: plan "scan" takes no mask')
    if extras.peephole is not None:  # three tensors: the loop's inputs must not share memory
        parts = tuple(part.clone() for part in extras.peephole)
        extras = replace(extras, peephole=parts)  # type: ignore[arg-type]

    def one(state: list[Tensor], frame: Tensor) -> tuple[list[Tensor], Tensor]:
        following = reference.step(frame, *state, weight_ih, weight_hh, bias, spec, extras)
        return list(following), following[0].clone()

    (h, c), states = scan(one, [h, c], x.transpose(0, 1))
    return states.transpose(0, 1), h, c
