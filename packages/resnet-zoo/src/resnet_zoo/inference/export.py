"""ONNX export. Needs the extra `onnx`; the library itself does not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import replacing
from ..models.features import ResNetFeatures
from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet, input_channels
from .known import unknown_part
from .onnx_graph import onnx_graph

INPUT, OUTPUT = "images", "logits"


def output_names(model: ResNet | ResNetFeatures) -> list[str]:
    """ "logits", or of a trunk "map0" to "map4", as chosen."""
    if isinstance(model, ResNetFeatures):
        return [f"map{index}" for index in model.out_indices]
    return [OUTPUT]


def export_onnx(
    model: ResNet | ResNetFeatures,
    path: str | Path,
    *,
    size: int | Sequence[int] = 224,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    fold: bool = True,
) -> Path:
    """Write `model` as one ONNX file: input "images" (N, C, H, W), output "logits".

    Of a trunk the outputs are its maps, "map0" (stem) to "map4". Networks of this package's own
    modules are written directly; what they contain beside them goes through torch's exporter.

    Args:
        model: in evaluation mode; exported in float32.
        path: ends in .onnx; written aside and renamed.
        size: height and width of the images, one number or two.
        dynamic_batch: any N (named "batch"); else N = 1.
        dynamic_size: any height and width (named "height" and "width"). torch's exporter proves
            them from 33 on, where the last map has more than one row.
        fold: fold the batch norms first; without it torch's exporter is taken.

    Raises ValueError in train mode, RuntimeError without the packages.
    """
    path = Path(path)
    if model.training:
        raise ValueError("export_onnx: the model must be in evaluation mode; cure: model.eval()")
    if path.suffix != ".onnx":
        raise ValueError(f"export_onnx: path must end in .onnx, got {path}")
    onnx = _needed("onnx")
    model = fold_batchnorm(model) if fold else copy.deepcopy(model)
    model = model.float().cpu()
    height, width = (size, size) if isinstance(size, int) else size
    if fold and unknown_part(model) is None:
        free: list[int | str] = ["height", "width"] if dynamic_size else [height, width]
        batch: int | str = "batch" if dynamic_batch else 1
        proto = onnx_graph(model, INPUT, output_names(model), [batch, *free])
    else:
        proto = _by_torch(model, (height, width), dynamic_batch, dynamic_size)
    with replacing(path) as aside:
        onnx.save(proto, str(aside))
        onnx.checker.check_model(str(aside))
    return path


def _needed(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise RuntimeError(
            f"export_onnx: the package {error.name} is missing; cure: pip install resnet-zoo[onnx]"
        ) from error


def _by_torch(
    model: ResNet | ResNetFeatures, size: tuple[int, int], dynamic_batch: bool, dynamic_size: bool
) -> Any:
    """The ModelProto that torch's exporter makes."""
    _needed("onnxscript")
    example = torch.zeros(2 if dynamic_batch else 1, input_channels(model), *size)
    dimensions: dict[int, Any] = {}
    if dynamic_batch:
        dimensions[0] = torch.export.Dim("batch", min=1)
    if dynamic_size:
        dimensions[2] = torch.export.Dim("height", min=33)
        dimensions[3] = torch.export.Dim("width", min=33)
    with warnings.catch_warnings():  # torch's exporter warns about torch's own old spelling
        warnings.simplefilter("ignore", FutureWarning)
        return torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=output_names(model),
            dynamic_shapes={"x": dimensions} if dimensions else None,
            verbose=False,
        ).model_proto


def __getattr__(name: str) -> Any:
    """`OnnxRuntimeModel` stood here in earlier versions."""
    if name == "OnnxRuntimeModel":
        from .engines import OnnxRuntimeModel

        return OnnxRuntimeModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
