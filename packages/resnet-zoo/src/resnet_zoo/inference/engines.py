"""Other inference engines behind a module's interface: ONNX Runtime and OpenVINO, on the CPU.

Both run the exported model, with as many threads as torch has when they are made. They are used
only where they are installed.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.resnet import ResNet
from .export import INPUT, OUTPUT, export_onnx

_CURES = {
    "onnxruntime": "pip install resnet-zoo[onnx]",
    "openvino": "pip install resnet-zoo[bench]",
}


def unavailable(engine: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """None if an engine can run here, else the reason."""
    if engine == "onnxruntime" and (device.type != "cpu" or dtype is not torch.float32):
        return "the engine onnxruntime runs in float32 on the CPU here"
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return f"the engine {engine} runs in float32 and bfloat16 on the CPU here"
    for name in (engine, "onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            return (
                f"the engine {engine} needs {name}, which is not installed; cure: {_CURES[engine]}"
            )
    return None


class _Exported(nn.Module):
    """A model as ONNX with any batch, height and width: (N, C, H, W) to (N, classes) float32."""

    def __init__(self, model: ResNet, example: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype, self.threads, self.shape = dtype, torch.get_num_threads(), tuple(example.shape)
        with tempfile.TemporaryDirectory() as folder:
            size = [max(side, 64) for side in example.shape[-2:]]
            path = export_onnx(model, Path(folder) / "m.onnx", size=size, dynamic_size=True)
            self.onnx = path.read_bytes()
        self.sessions: dict[tuple[int, ...], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Sessions cannot be copied: a copy makes its own at its first call."""
        return {**self.__dict__, "sessions": {}}


class OnnxRuntimeModel(_Exported):
    """A ResNet run by ONNX Runtime on the CPU, in float32.

    One session for the shape of `example`, another for all other shapes. Raises RuntimeError
    without the packages, or for another device or dtype.
    """

    def __init__(self, model: ResNet, example: Tensor, dtype: torch.dtype = torch.float32) -> None:
        if reason := unavailable("onnxruntime", dtype, example.device):
            raise RuntimeError(reason)
        super().__init__(model, example, dtype)

    def forward(self, x: Tensor) -> Tensor:
        key = self.shape if tuple(x.shape) == self.shape else ()
        if key not in self.sessions:
            self.sessions[key] = self._session(key)
        feed = {INPUT: x.detach().float().contiguous().numpy()}
        return torch.from_numpy(self.sessions[key].run([OUTPUT], feed)[0])

    def _session(self, shape: tuple[int, ...]) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        if shape:
            for name, size in (("batch", shape[0]), ("height", shape[2]), ("width", shape[3])):
                options.add_free_dimension_override_by_name(name, size)
        return onnxruntime.InferenceSession(self.onnx, options, providers=["CPUExecutionProvider"])


class OpenVinoModel(_Exported):
    """A ResNet run by OpenVINO on the CPU, in float32 or bfloat16; outputs are float32.

    Compiled for the shape of `example`, and once more for all other shapes. Raises RuntimeError
    without the packages, or for another device or dtype.
    """

    def __init__(self, model: ResNet, example: Tensor, dtype: torch.dtype = torch.float32) -> None:
        if reason := unavailable("openvino", dtype, example.device):
            raise RuntimeError(reason)
        super().__init__(model, example, dtype)

    def forward(self, x: Tensor) -> Tensor:
        key = self.shape if tuple(x.shape) == self.shape else ()
        if key not in self.sessions:
            self.sessions[key] = self._compile(key)
        out = self.sessions[key]([x.detach().float().contiguous().numpy()])[0]
        return torch.from_numpy(out.copy())

    def _compile(self, shape: tuple[int, ...]) -> Any:
        import openvino

        network = openvino.Core().read_model(self.onnx, b"")
        if shape:
            network.reshape(list(shape))
        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if self.dtype is torch.bfloat16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        return openvino.compile_model(network, "CPU", options)


ENGINES = {"onnxruntime": OnnxRuntimeModel, "openvino": OpenVinoModel}
