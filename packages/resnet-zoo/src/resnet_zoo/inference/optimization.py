"""Faster inference, chosen by measuring: the fastest way whose outputs stay within a stated error.

Levels, each with what the one before has:

- "fold": batch norms folded into the convolutions. Nothing is timed.
- "fast": memory layout; on the CPU oneDNN's convolutions with fused bias, add and ReLU. Seconds.
- "max": torch.compile with frozen weights; on CUDA also CUDA graphs. A minute or more.

From "fast" on the model as it was given is timed too. In float32 it is a candidate, so the result
is not slower; in another dtype the report says if it is. `engine="auto"` adds ONNX Runtime and
OpenVINO, where they are installed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ..models.features import ResNetFeatures
from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet, first_convolution
from . import engines
from .fused import FusedResNet
from .timing import time_interleaved
from .ways import Cast, Compiled, CudaGraph

LEVELS = ("fold", "fast", "max")
ENGINES = ("torch", "onnxruntime", "openvino", "auto")
EQUAL = 1.02  # times this close are noise: then the candidate listed first is kept
# Largest difference allowed, as a share of the largest output.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
_GIVEN = "as given"
_Compiled, _CudaGraph, _Cast = Compiled, CudaGraph, Cast  # their names in earlier versions


@dataclass
class Trial:
    """One candidate: what it is, how fast, how exact; or why it was not used."""

    name: str
    milliseconds: float | None = None
    error: float | None = None
    note: str = ""

    def __str__(self) -> str:
        time_ = "" if self.milliseconds is None else f"{self.milliseconds:.2f} ms"
        error = "" if self.error is None else f"error {self.error:.1e}"
        return f"{self.name:<24} {time_:>12}  {error:<14} {self.note}".rstrip()


@dataclass
class Report:
    """What `optimize` tried, and what it kept."""

    kept: str
    input_shape: tuple[int, ...]
    dtype: torch.dtype
    tolerance: float
    trials: list[Trial]

    def __str__(self) -> str:
        head = (
            f"kept: {self.kept} (input {'x'.join(map(str, self.input_shape))}, {self.dtype}, "
            f"error allowed {self.tolerance:g} of the largest logit)"
        )
        return "\n".join([head, *(f"  {trial}" for trial in self.trials)])


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
    gradients. It can be copied and pickled, and stays in evaluation mode inside another module;
    other devices and dtypes are refused: optimise the original model there.
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
        with torch.inference_mode(False), torch.no_grad():
            return self.run(x)

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
) -> Optimized:
    """A faster model for inference, with a `report` of what was tried, how fast and how exact.

    Args:
        model: a ResNet, or the trunk of one (`features_only`), in evaluation mode, on its device.
            It is not changed.
        level: "fold", "fast" or "max".
        dtype: arithmetic; float32, bfloat16 or float16. Outputs are float32.
        example: an input, or its shape, that candidates are timed and compared on; (1, C, 224, 224)
            by default. Take the batch and size you will use, and real images if the error matters.
        tolerance: largest difference from the model's own outputs, as a share of the largest
            logit; by default 1e-5 for float32, 0.05 for bfloat16, 0.01 for float16.
        engine: "torch"; "onnxruntime" or "openvino", which export the model and run it there (CPU;
            `level` is then not used); "auto" takes the fastest of torch at `level` and the engines
            that are installed.

    Raises ValueError in train mode or for an unknown choice, RuntimeError when no candidate stays
    within the tolerance, or the engine is missing.
    """
    _check(model, level, dtype, engine)
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    x = _example(model, example, 64 if level == "fold" and engine == "torch" else 224)
    other = x.flip(-1) * 0.5  # an engine that plays back its example is found out
    with torch.inference_mode(False), torch.no_grad():
        references = [(x, _outputs(model(x))), (other, _outputs(model(other)))]
        trials: list[Trial] = []
        good: dict[str, nn.Module] = {}
        for name, build in _candidates(model, level, dtype, x, engine).items():
            trial, module = _try(name, build, references, tolerance)
            trials.append(trial)
            if module is not None:
                good[name] = module
        if not good:
            told = "; ".join(str(trial) for trial in trials)
            raise RuntimeError(f"optimize: nothing stayed within {tolerance:g} ({told})")
        kept = next(iter(good))
        if engine == "auto" or (level != "fold" and engine == "torch"):
            kept = _fastest(good, model, x, trials)
    report = Report(kept, tuple(x.shape), dtype, tolerance, trials)
    first = first_convolution(model)
    taken = tuple(dict.fromkeys((first.weight.dtype, dtype)))
    return Optimized(good[kept], report, _Inputs(first.in_channels, taken, first.weight.device))


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
        raise ValueError(
            f"optimize: dtype must be float32, bfloat16 or float16, got {dtype}; other types need "
            "calibration, which this function does not do"
        )


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
    model: ResNet | ResNetFeatures, level: str, dtype: torch.dtype, x: Tensor, engine: str
) -> dict[str, Callable[[], nn.Module]]:
    """Builders by name, in the order in which equals are preferred."""
    if engine in engines.ENGINES:
        return {engine: lambda: engines.ENGINES[engine](model, x, dtype)}
    plain, last = torch.contiguous_format, torch.channels_last
    builders: dict[str, Callable[[], nn.Module]] = {
        "fold": lambda: Cast(fold_batchnorm(model), dtype, plain)
    }
    if level != "fold":
        builders["fold, channels last"] = lambda: Cast(fold_batchnorm(model), dtype, last)
        if dtype is x.dtype is torch.float32:
            builders[_GIVEN] = lambda: copy.deepcopy(model).requires_grad_(False)
        if x.device.type == "cpu":
            builders["fused oneDNN"] = lambda: FusedResNet(model, dtype)
    if level == "max":
        builders["compiled"] = lambda: Compiled(fold_batchnorm(model), dtype, x)
        if x.device.type == "cuda":
            builders["CUDA graph"] = lambda: CudaGraph(Cast(fold_batchnorm(model), dtype, last), x)
    if engine == "auto" and isinstance(model, ResNet):
        for name, kind in engines.ENGINES.items():
            if engines.unavailable(name, dtype, x.device) is None:
                builders[name] = lambda kind=kind: kind(model, x, dtype)
    return builders


def _outputs(found: Any) -> list[Tensor]:
    return [tensor.float() for tensor in (found if isinstance(found, list) else [found])]


def _try(
    name: str,
    build: Callable[[], nn.Module],
    references: list[tuple[Tensor, list[Tensor]]],
    tolerance: float,
) -> tuple[Trial, nn.Module | None]:
    """Build a candidate and compare it; one that cannot run here is noted, not fatal."""
    try:
        module = build().eval()
        errors = [
            ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
            for x, expected in references
            for a, b in zip(_outputs(module(x)), expected, strict=True)
        ]
    except Exception as error:  # compilers and engines raise their own kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Trial(name, note=f"not used: {first}"), None
    worst = max(errors) if all(value == value for value in errors) else float("nan")
    if not worst <= tolerance:  # catches NaN too
        return Trial(name, error=worst, note="not used: outside the error allowed"), None
    return Trial(name, error=worst), module


def _fastest(good: dict[str, nn.Module], model: nn.Module, x: Tensor, trials: list[Trial]) -> str:
    """Time the good candidates beside the model as given, note the times, name the fastest."""
    times = time_interleaved({**good, _GIVEN: good.get(_GIVEN, model)}, x)
    by_name = {trial.name: trial for trial in trials}
    if _GIVEN not in by_name:
        by_name[_GIVEN] = Trial(_GIVEN, note="for comparison; not in the dtype asked for")
        trials.append(by_name[_GIVEN])
    for name, seconds in times.items():
        by_name[name].milliseconds = seconds * 1e3
    best = min(times[name] for name in good)
    kept = next(name for name in good if times[name] <= EQUAL * best)
    if times[kept] > times[_GIVEN]:
        by_name[kept].note = "slower than the model as given: this machine does not gain here"
    return kept
