"""ONNX export. Needs the extra `onnx` (onnx, onnxscript); the library itself does not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import replacing
from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet, input_channels

INPUT, OUTPUT = "images", "logits"


def export_onnx(
    model: ResNet,
    path: str | Path,
    *,
    size: int | Sequence[int] = 224,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    fold: bool = True,
) -> Path:
    """Write `model` as one ONNX file: input "images" (N, C, H, W), output "logits".

    Args:
        model: in evaluation mode; exported in float32.
        path: ends in .onnx; written aside and renamed.
        size: height and width of the images, one number or two.
        dynamic_batch: any N (named "batch"); else N = 1.
        dynamic_size: any height and width (named "height" and "width"). The export itself is
            proven from 33 on, where the last map has more than one row.
        fold: fold the batch norms first.

    Raises ValueError in train mode, RuntimeError without the packages.
    """
    path = Path(path)
    if model.training:
        raise ValueError("export_onnx: the model must be in evaluation mode; cure: model.eval()")
    if path.suffix != ".onnx":
        raise ValueError(f"export_onnx: path must end in .onnx, got {path}")
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise RuntimeError(
            f"export_onnx: the package {error.name} is missing; cure: pip install resnet-zoo[onnx]"
        ) from error
    model = fold_batchnorm(model) if fold else copy.deepcopy(model)
    model = model.float().cpu()
    height, width = (size, size) if isinstance(size, int) else size
    example = torch.zeros(2 if dynamic_batch else 1, input_channels(model), height, width)
    dimensions: dict[int, Any] = {}
    if dynamic_batch:
        dimensions[0] = torch.export.Dim("batch", min=1)
    if dynamic_size:
        dimensions[2] = torch.export.Dim("height", min=33)
        dimensions[3] = torch.export.Dim("width", min=33)
    with warnings.catch_warnings():  # torch's exporter warns about torch's own old spelling
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"x": dimensions} if dimensions else None,
            verbose=False,
        )
    with replacing(path) as aside:
        onnx.save(program.model_proto, str(aside))
        onnx.checker.check_model(str(aside))
    return path


def __getattr__(name: str) -> Any:
    """`OnnxRuntimeModel` stood here in earlier versions."""
    if name == "OnnxRuntimeModel":
        from .engines import OnnxRuntimeModel

        return OnnxRuntimeModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
