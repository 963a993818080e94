"""Models as ONNX, for any number of sequences and steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._files import replacing
from ..layers.layer import LAYERS
from .model import GraphModel


@contextmanager
def by_scan(model: nn.Module) -> Iterator[None]:
    """The plan "scan" in all ConvLSTM layers for a while."""
    layers = [m for m in model.modules() if isinstance(m, tuple(LAYERS.values()))]
    plans = [layer.plan for layer in layers]
    try:
        for layer in layers:
            layer.plan = "scan"
        yield
    finally:
        for layer, plan in zip(layers, plans, strict=True):
            layer.plan = plan


def export_onnx(
    model: nn.Module,
    x: Tensor,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = True,
    dynamic_steps: bool = True,
    **options: Any,
) -> None:
    """Writes `model`, in eval mode, as ONNX for inputs like x (B, T, ...).

    Batch and steps stay free unless said otherwise (a forecaster of a fixed number of frames needs
    dynamic_steps=False); a layer is one Scan over its steps. options: of `torch.onnx.export`.
    Raises ModuleNotFoundError where onnxscript is missing, and torch's errors for what cannot be
    exported.
    """
    free: dict[int, Any] = {}
    # two or more: torch takes 0 and 1 as lengths that never change
    if dynamic_batch:
        free[0] = torch.export.Dim("batch", min=1)
    if dynamic_steps:
        free[1] = torch.export.Dim("steps", min=1)
    example = torch.cat([x, x]) if dynamic_batch and x.shape[0] < 2 else x
    example = torch.cat([example] * 2, 1) if dynamic_steps and x.shape[1] < 2 else example
    training = model.training
    try:
        model.eval()
        with by_scan(model), torch.no_grad():
            shapes = ((free,),) if isinstance(model, GraphModel) else (free,)
            program = torch.export.export(model, (example,), dynamic_shapes=shapes)
            exported = torch.onnx.export(program, dynamo=True, **options)
    finally:
        model.train(training)
    with replacing(path) as temporary:
        exported.save(temporary)
