"""Faster inference, chosen by measuring: the fastest way whose outputs stay within a stated error.

Levels, each with what the one before has:

- "fold": batch norms folded into the convolutions. Nothing is timed.
- "fast": memory layout; on the CPU oneDNN's convolutions with fused bias, add and ReLU, called one
  by one or as its graph. Seconds.
- "max": torch.compile with frozen weights; on CUDA also CUDA graphs. A minute or more.

From "fast" on the model as it was given is timed too. In float32 it is a candidate, so the result
is not slower; in another dtype the report says if it is. `engine="auto"` adds ONNX Runtime and
OpenVINO, where they are installed. `dtype=torch.int8` computes in whole numbers, calibrated on
pictures (int8.py).
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ..models.features import ResNetFeatures
from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet, first_convolution
from . import engines, fused
from .fused import FusedResNet
from .int8 import Int8ResNet
from .onednn_graph import OneDnnGraph
from .trials import EQUAL as EQUAL
from .trials import GIVEN, Report, Trial, attempt, fastest, outputs_of
from .ways import Cast, Compiled, CudaGraph

PATIENCE = 5.0  # seconds after which plain candidates are no longer tried beside better ones
_PLAIN = ("fold", "fold, channels last")
LEVELS = ("fold", "fast", "max")
ENGINES = ("torch", "onnxruntime", "openvino", "auto")
# Largest difference allowed, as a share of the largest output.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01, torch.int8: 0.1}
_Compiled, _CudaGraph, _Cast = Compiled, CudaGraph, Cast  # their names in earlier versions


@dataclass(frozen=True)
class _Inputs:
    """What the model takes: inputs of anything else are refused, as the model itself does."""

    channels: int
    dtypes: tuple[torch.dtype, ...]
    device: torch.device

    def check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"Optimized: the input must be a tensor, got {type(x).__name__}")
        if x.dtype not in self.dtypes:
            raise RuntimeError(
                f"Optimized: the input must be {' or '.join(map(str, self.dtypes))}, got {x.dtype}"
                "; cure: the preprocessing of the weights, or x.to(dtype) if it is normalised"
            )
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise RuntimeError(
                f"Optimized: the input must be (N, {self.channels}, H, W), got {tuple(x.shape)}"
            )
        if x.device != self.device:
            raise RuntimeError(f"Optimized: the input must be on {self.device}, got {x.device}")


class Optimized(nn.Module):
    """Inference only: input as the model's, outputs in float32. `report` says how.

    Refuses inputs that the model refuses (RuntimeError). Outputs are ordinary tensors without
    gradients; those of a picture with a NaN or infinite number are NaN. autocast does not change
    the arithmetic, which is the one that was measured. It can be copied and pickled, and stays in
    evaluation mode inside another module; other devices and dtypes are refused: optimise the
    original model there.
    """

    def __init__(self, run: nn.Module, report: Report, inputs: _Inputs) -> None:
        super().__init__()
        self.run = run
        self.report = report
        self.inputs = inputs
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.check(x)
        # The same modes at each call: what was compiled or captured under them stays valid.
        plain = torch.autocast(x.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), plain:
            # 0 for each picture, or NaN, which the ReLU of the engines would turn into 0. First, so
            # that the picture is in the cache when it is laid out.
            fault = x.sum((1, 2, 3), dtype=torch.float32).mul_(0)
            found = self.run(x)
            for tensor in found if isinstance(found, list) else [found]:
                tensor.add_(fault.view(-1, *[1] * (tensor.ndim - 1)))
            return found

    def train(self, mode: bool = True) -> Optimized:
        """Stays in evaluation mode: a parent's `train()` trains the parent's own parts."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Optimized:
        before = torch.empty(0, dtype=self.inputs.dtypes[0], device=self.inputs.device)
        after = fn(before)
        if (after.dtype, after.device) != (before.dtype, before.device):
            raise RuntimeError(
                f"Optimized: this model is for {before.dtype} on {before.device}, and cannot be "
                f"moved to {after.dtype} on {after.device}; cure: move the original model and "
                "optimize it there"
            )
        return self


def optimize(
    model: ResNet | ResNetFeatures,
    level: str = "fast",
    *,
    dtype: torch.dtype = torch.float32,
    example: Tensor | tuple[int, ...] | None = None,
    tolerance: float | None = None,
    engine: str = "torch",
    calibration: Tensor | Sequence[Tensor] | None = None,
) -> Optimized:
    """A faster model for inference, with a `report` of what was tried, how fast and how exact.

    Args:
        model: a ResNet, or the trunk of one (`features_only`), in evaluation mode, on its device.
            It is not changed.
        level: "fold", "fast" or "max".
        dtype: arithmetic; float32, bfloat16 or float16, or int8 on the CPU, which needs
            `calibration`. Outputs are float32. On a CPU without bfloat16, where torch would be many
            times slower, "fast" and "max" compute in float32; a UserWarning and `report.note` say
            it, and the tolerance is float32's.
        example: an input, or its shape, that candidates are timed and compared on; (1, C, 224, 224)
            by default. Take the batch and size you will use, and real images if the error matters.
        tolerance: largest difference from the model's own outputs, as a share of the largest
            logit; by default 1e-5 for float32, 0.05 for bfloat16, 0.01 for float16, 0.1 for int8.
        engine: "torch"; "onnxruntime" or "openvino", which export the model and run it there (CPU;
            `level` is then not used); "auto" takes the fastest of torch at `level` and the engines
            that are installed.
        calibration: for int8: pictures (N, C, H, W), preprocessed, or batches of them; some
            hundreds of the kind that will come. Error and agreement are stated for them.

    Raises ValueError in train mode or for an unknown choice, RuntimeError when no candidate stays
    within the tolerance, or the engine is missing.
    """
    _check(model, level, dtype, engine)
    pictures = _pictures(calibration, dtype)
    x = _example(model, example, 64 if level == "fold" and engine == "torch" else 224)
    other = x.flip(-1) * 0.5  # an engine that plays back its example is found out
    asked, note = dtype, _not_in(dtype, level, x) if engine in ("torch", "auto") else ""
    if note:
        dtype = torch.float32
        warnings.warn(
            f"resnet-zoo: optimize: {asked} was asked for, but it computes {note}; "
            "dtype=torch.float32 gives the same without this warning",
            stacklevel=2,
        )
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    plain = torch.autocast(x.device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), plain:
        references = [(y, outputs_of(model(y))) for y in pictures or (x, other)]
        builders = _candidates(model, level, dtype, x, engine, pictures)
        trials, good = _tried(builders, references, tolerance)
        if not pictures:  # of two made-up inputs the share says nothing
            for trial in trials:
                trial.agreement = None
        if not good:
            told = "; ".join(str(trial) for trial in trials)
            raise RuntimeError(f"optimize: nothing stayed within {tolerance:g} ({told})")
        kept = next(iter(good))
        if engine == "auto" or (level != "fold" and engine == "torch"):
            kept = fastest(good, model, x, trials)
    report = Report(kept, tuple(x.shape), dtype, tolerance, trials, note)
    first = first_convolution(model)
    taken = (first.weight.dtype, asked) if asked.is_floating_point else (first.weight.dtype,)
    taken = tuple(dict.fromkeys(taken))
    return Optimized(good[kept], report, _Inputs(first.in_channels, taken, first.weight.device))


def _not_in(dtype: torch.dtype, level: str, x: Tensor) -> str:
    """Why a level computes in float32 in place of `dtype`; "" where it does not."""
    if dtype is not torch.bfloat16 or level == "fold" or x.device.type != "cpu":
        return ""
    reason = None if fused.unavailable() else fused.unavailable(dtype)
    return f"in float32: {reason}" if reason else ""


def _check(model: ResNet | ResNetFeatures, level: str, dtype: torch.dtype, engine: str) -> None:
    if not isinstance(model, (ResNet, ResNetFeatures)):
        raise TypeError(
            f"optimize: model must be a ResNet or its features, got {type(model).__name__}"
        )
    training = [
        name or "the model"
        for name, part in model.named_modules()
        if part.training and (part is model or _knows_its_mode(part))
    ]
    if training:
        raise ValueError(
            f"optimize: the model must be in evaluation mode, but {training[0]} is in train mode; "
            "cure: model.eval()"
        )
    if level not in LEVELS:
        raise ValueError(f"optimize: level must be one of {', '.join(LEVELS)}, got {level!r}")
    if engine not in ENGINES:
        raise ValueError(f"optimize: engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if dtype not in TOLERANCE:
        raise ValueError(f"optimize: dtype must be float32, bfloat16, float16 or int8, got {dtype}")
    if dtype is torch.int8 and engine != "torch":
        raise ValueError(f"optimize: int8 is computed by the engine torch, got engine={engine!r}")


def _pictures(calibration: Tensor | Sequence[Tensor] | None, dtype: torch.dtype) -> list[Tensor]:
    """The batches to calibrate on; none but for int8."""
    if (dtype is torch.int8) != (calibration is not None):
        raise ValueError(
            "optimize: dtype=torch.int8 and calibration= (pictures (N, C, H, W) of the kind that "
            f"will come) belong together, got {dtype} and {type(calibration).__name__}"
        )
    if calibration is None:
        return []
    batches = list(calibration.split(16) if isinstance(calibration, Tensor) else calibration)
    wrong = [batch for batch in batches if batch.ndim != 4 or not len(batch)]
    if not batches or wrong:
        got = tuple(wrong[0].shape) if wrong else "none"
        raise ValueError(f"optimize: calibration must be pictures (N, C, H, W), got {got}")
    return batches


def _knows_its_mode(part: nn.Module) -> bool:
    """Whether a module computes something else in train mode."""
    return isinstance(part, (_BatchNorm, _DropoutNd)) or getattr(part, "drop_rate", 0.0) > 0.0


def _example(
    model: ResNet | ResNetFeatures, example: Tensor | tuple[int, ...] | None, side: int
) -> Tensor:
    first = first_convolution(model)
    if isinstance(example, Tensor):
        return example.detach().to(first.weight.device, first.weight.dtype).clone()
    shape = example or (1, first.in_channels, side, side)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(first.weight.device, first.weight.dtype)


def _candidates(
    model: ResNet | ResNetFeatures,
    level: str,
    dtype: torch.dtype,
    x: Tensor,
    engine: str,
    pictures: list[Tensor],
) -> dict[str, Callable[[], nn.Module]]:
    """Builders by name, in the order in which equals are preferred."""
    if dtype is torch.int8:
        return {"int8 oneDNN": lambda: Int8ResNet(model, pictures)}
    if engine in engines.ENGINES:
        return {engine: lambda: engines.ENGINES[engine](model, x, dtype)}
    plain, last = torch.contiguous_format, torch.channels_last
    builders: dict[str, Callable[[], nn.Module]] = {
        "fold": lambda: Cast(fold_batchnorm(model), dtype, plain)
    }
    if level != "fold":
        builders["fold, channels last"] = lambda: Cast(fold_batchnorm(model), dtype, last)
        if dtype is x.dtype is torch.float32:
            builders[GIVEN] = lambda: copy.deepcopy(model).requires_grad_(False)
        if x.device.type == "cpu":
            builders["oneDNN graph"] = lambda: OneDnnGraph(model, x, dtype)
            builders["fused oneDNN"] = lambda: FusedResNet(model, dtype)
    if level == "max":
        builders["compiled"] = lambda: Compiled(fold_batchnorm(model), dtype, x)
        if x.device.type == "cuda":
            builders["CUDA graph"] = lambda: CudaGraph(Cast(fold_batchnorm(model), dtype, last), x)
    if engine == "auto":
        for name, kind in engines.ENGINES.items():
            if engines.unavailable(name, dtype, x.device) is None:
                builders[name] = lambda kind=kind: kind(model, x, dtype)
    return builders


def _tried(
    builders: dict[str, Callable[[], nn.Module]],
    references: list[tuple[Tensor, list[Tensor]]],
    tolerance: float,
) -> tuple[list[Trial], dict[str, nn.Module]]:
    """The trials in the order of `builders`, and the candidates that are good.

    The plain ones come last, and only until `PATIENCE` is over: on a busy machine one forward may
    take seconds, and they are hardly ever kept.
    """
    begin, found = time.perf_counter(), {}
    for name in sorted(builders, key=lambda name: name in _PLAIN):
        found[name] = (Trial(name, note=f"not tried: the others took {PATIENCE:g} s"), None)
        better = any(found[other][1] is not None for other in found if other != GIVEN)
        if name not in _PLAIN or not better or time.perf_counter() - begin < PATIENCE:
            found[name] = attempt(name, builders[name], references, tolerance)
    good = {name: found[name][1] for name in builders if found[name][1] is not None}
    return [found[name][0] for name in builders], good
