"""ONNX export, and running the exported model in ONNX Runtime.

Both need the extra `onnx` (onnx, onnxscript, onnxruntime); the library itself does not.
"""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet

INPUT, OUTPUT = "images", "logits"


def export_onnx(
    model: ResNet,
    path: str | Path,
    *,
    size: int = 224,
    dynamic_batch: bool = True,
    fold: bool = True,
) -> Path:
    """Write `model` as one ONNX file: input "images" (N, C, size, size), output "logits".

    Args:
        model: in evaluation mode; exported in float32.
        path: ends in .onnx; written aside and renamed.
        size: height and width of the images.
        dynamic_batch: any N; else N = 1.
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
    batch = 2 if dynamic_batch else 1
    example = torch.zeros(batch, model.conv1.in_channels, size, size)
    shapes = {"x": {0: torch.export.Dim("batch", min=1)}} if dynamic_batch else None
    with warnings.catch_warnings():  # torch's exporter warns about torch's own old spelling
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            verbose=False,
        )
    aside = path.with_name(path.name + ".tmp")
    onnx.save(program.model_proto, str(aside))
    onnx.checker.check_model(str(aside))
    os.replace(aside, path)
    return path


class OnnxRuntimeModel(nn.Module):
    """A ResNet run by ONNX Runtime on the CPU: (N, C, H, W) float32 to (N, classes) float32.

    Uses as many threads as torch does now. Raises RuntimeError without the packages, or for
    another device or dtype.
    """

    def __init__(self, model: ResNet, example: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if example.device.type != "cpu" or dtype is not torch.float32:
            raise RuntimeError("the engine onnxruntime runs in float32 on the CPU here")
        if example.shape[-1] != example.shape[-2]:
            raise RuntimeError("the engine onnxruntime is set up for square images")
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeError(
                "the engine onnxruntime is not installed; cure: pip install resnet-zoo[onnx]"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            path = export_onnx(model, Path(folder) / "model.onnx", size=example.shape[-1])
            self.session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )

    def forward(self, x: Tensor) -> Tensor:
        feed = {INPUT: x.detach().float().contiguous().numpy()}
        return torch.from_numpy(self.session.run([OUTPUT], feed)[0])
