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

from ..models.features import ResNetFeatures
from ..models.resnet import ResNet
from .export import INPUT, export_onnx, output_names

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
    for name in (engine, "onnx"):
        if importlib.util.find_spec(name) is None:
            return (
                f"the engine {engine} needs {name}, which is not installed; cure: {_CURES[engine]}"
            )
    return None


class _Exported(nn.Module):
    """A model as ONNX with any batch, height and width: its outputs in float32."""

    engine = ""

    def __init__(
        self,
        model: ResNet | ResNetFeatures,
        example: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if reason := unavailable(self.engine, dtype, example.device):
            raise RuntimeError(reason)
        self.outputs = output_names(model)
        self.trunk = isinstance(model, ResNetFeatures)
        self.dtype, self.threads, self.shape = dtype, torch.get_num_threads(), tuple(example.shape)
        with tempfile.TemporaryDirectory() as folder:
            size = [max(side, 64) for side in example.shape[-2:]]
            path = export_onnx(model, Path(folder) / "m.onnx", size=size, dynamic_size=True)
            self.onnx = path.read_bytes()
        self.sessions: dict[tuple[int, ...], Any] = {}

    def _session(self, shape: tuple[int, ...]) -> Any:
        """What runs inputs of `shape`; of () inputs of any shape."""
        raise NotImplementedError

    def _run(self, session: Any, x: Any) -> list[Any]:
        """The outputs for one array."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        key = self.shape if tuple(x.shape) == self.shape else ()
        if key not in self.sessions:
            self.sessions[key] = self._session(key)
        found = self._run(self.sessions[key], x.detach().float().contiguous().numpy())
        tensors = [torch.from_numpy(array) for array in found]
        return tensors if self.trunk else tensors[0]

    def __getstate__(self) -> dict[str, Any]:
        """Sessions cannot be copied: a copy makes its own at its first call."""
        return {**self.__dict__, "sessions": {}}


class OnnxRuntimeModel(_Exported):
    """A ResNet or a trunk run by ONNX Runtime on the CPU, in float32.

    One session for the shape of `example`, another for all other shapes. Raises RuntimeError
    without the packages, or for another device or dtype.
    """

    engine = "onnxruntime"

    def _run(self, session: Any, x: Any) -> list[Any]:
        return session.run(self.outputs, {INPUT: x})

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
    """A ResNet or a trunk run by OpenVINO on the CPU, in float32 or bfloat16; outputs are float32.

    Compiled for the shape of `example`, and once more for all other shapes. Raises RuntimeError
    without the packages, or for another device or dtype.
    """

    engine = "openvino"

    def _run(self, session: Any, x: Any) -> list[Any]:
        found = session([x])
        return [found[name].copy() for name in self.outputs]

    def _session(self, shape: tuple[int, ...]) -> Any:
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
