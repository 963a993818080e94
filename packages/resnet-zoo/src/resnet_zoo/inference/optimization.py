"""Faster inference, chosen by measuring: the fastest way whose outputs stay within a stated error.

Levels, each with what the one before has:

- "fold": batch norms folded into the convolutions. Nothing is timed.
- "fast": memory layout; on the CPU oneDNN's convolutions with fused bias, add and ReLU. Seconds.
- "max": torch.compile with frozen weights; on CUDA also CUDA graphs. A minute or more.

From "fast" on the model as it was given is timed too. In float32 it is a candidate, so the result
is not slower; in another dtype the report says if it is.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.fold import fold_batchnorm
from ..models.resnet import ResNet
from .fused import FusedResNet

LEVELS = ("fold", "fast", "max")
ENGINES = ("torch", "onnxruntime")
EQUAL = 1.02  # times this close are noise: then the candidate listed first is kept
# Largest difference allowed, as a share of the largest logit.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}


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


class Optimized(nn.Module):
    """Inference only: input as the model's, output (N, classes) float32. `report` says how."""

    def __init__(self, run: nn.Module, report: Report) -> None:
        super().__init__()
        self.run = run
        self.report = report
        self.eval()

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def train(self, mode: bool = True) -> Optimized:
        if mode:
            raise RuntimeError("Optimized: this model is for inference; train the original one")
        return super().train(False)


class _Cast(nn.Module):
    """A folded model in another layout and dtype, with float32 outputs."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> None:
        super().__init__()
        self.model = model.to(dtype=dtype, memory_format=layout)
        self.dtype, self.layout = dtype, layout

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(self.dtype, memory_format=self.layout)).float()


class _Compiled(_Cast):
    """torch.compile with frozen weights for the shape of `example`; others run as usual."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, example: Tensor) -> None:
        super().__init__(model, dtype, torch.channels_last)
        import torch._inductor.config as inductor  # on request: it costs most of a second

        self.shape = example.shape
        self.compiled = torch.compile(self.model, dynamic=False)
        # The tracer asks this setting, not torch.compile's options, whether weights are constants.
        with inductor.patch(freezing=True), torch.no_grad():
            self(example)

    def forward(self, x: Tensor) -> Tensor:
        run = self.compiled if x.shape == self.shape else self.model
        return run(x.to(self.dtype, memory_format=self.layout)).float()


class _CudaGraph(nn.Module):
    """Replays a captured forward for the shape it was captured with; other shapes run as usual."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.model = model
        self.input = example.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(self.input)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = model(self.input)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape != self.input.shape:
            return self.model(x)
        self.input.copy_(x)
        self.graph.replay()
        return self.output.clone()


def optimize(
    model: ResNet,
    level: str = "fast",
    *,
    dtype: torch.dtype = torch.float32,
    example: Tensor | tuple[int, ...] | None = None,
    tolerance: float | None = None,
    engine: str = "torch",
) -> Optimized:
    """A faster model for inference, with a `report` of what was tried, how fast and how exact.

    Args:
        model: a ResNet in evaluation mode, on its device. It is not changed.
        level: "fold", "fast" or "max".
        dtype: arithmetic; float32, bfloat16 or float16. Outputs are float32.
        example: an input, or its shape, that candidates are timed and compared on; (1, C, 224, 224)
            by default. Take the batch and size you will use, and real images if the error matters.
        tolerance: largest difference from the model's own outputs, as a share of the largest
            logit; by default 1e-5 for float32, 0.05 for bfloat16, 0.01 for float16.
        engine: "torch", or "onnxruntime", which exports the model and runs it there (CPU; `level`
            is then not used; needs the extra `onnx`).

    Raises ValueError in train mode or for an unknown choice, RuntimeError when no candidate stays
    within the tolerance, or the engine is missing.
    """
    _check(model, level, dtype, engine)
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    x = _example(model, example, 64 if level == "fold" and engine == "torch" else 224)
    with torch.inference_mode():
        reference = model(x).float()
        trials: list[Trial] = []
        good: dict[str, nn.Module] = {}
        for name, build in _candidates(model, level, dtype, x, engine).items():
            trial, module = _try(name, build, x, reference, tolerance)
            trials.append(trial)
            if module is not None:
                good[name] = module
        if not good:
            told = "; ".join(str(trial) for trial in trials)
            raise RuntimeError(f"optimize: nothing stayed within {tolerance:g} ({told})")
        kept = next(iter(good))
        if level != "fold" and engine == "torch":
            kept = _fastest(good, model, x, trials)
    report = Report(kept, tuple(x.shape), dtype, tolerance, trials)
    return Optimized(good[kept], report)


def _check(model: ResNet, level: str, dtype: torch.dtype, engine: str) -> None:
    if not isinstance(model, ResNet):
        raise TypeError(f"optimize: model must be a ResNet, got {type(model).__name__}")
    if model.training:
        raise ValueError("optimize: the model must be in evaluation mode; cure: model.eval()")
    if level not in LEVELS:
        raise ValueError(f"optimize: level must be one of {', '.join(LEVELS)}, got {level!r}")
    if engine not in ENGINES:
        raise ValueError(f"optimize: engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if dtype not in TOLERANCE:
        raise ValueError(
            f"optimize: dtype must be float32, bfloat16 or float16, got {dtype}; other types need "
            "calibration, which this function does not do"
        )


def _example(model: ResNet, example: Tensor | tuple[int, ...] | None, side: int) -> Tensor:
    weight = model.conv1.weight
    if isinstance(example, Tensor):
        return example.to(weight.device, weight.dtype)
    shape = example or (1, model.conv1.in_channels, side, side)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(weight.device, weight.dtype)


def _candidates(
    model: ResNet, level: str, dtype: torch.dtype, x: Tensor, engine: str
) -> dict[str, Callable[[], nn.Module]]:
    """Builders by name, in the order in which equals are preferred."""
    if engine == "onnxruntime":
        from .export import OnnxRuntimeModel

        return {"onnxruntime": lambda: OnnxRuntimeModel(model, x, dtype)}
    plain, last = torch.contiguous_format, torch.channels_last
    builders: dict[str, Callable[[], nn.Module]] = {
        "fold": lambda: _Cast(fold_batchnorm(model), dtype, plain)
    }
    if level == "fold":
        return builders
    builders["fold, channels last"] = lambda: _Cast(fold_batchnorm(model), dtype, last)
    if dtype is x.dtype is torch.float32:
        builders["as given"] = lambda: copy.deepcopy(model).requires_grad_(False)
    if x.device.type == "cpu":
        builders["fused oneDNN"] = lambda: FusedResNet(model, dtype)
    if level == "max":
        builders["compiled"] = lambda: _Compiled(fold_batchnorm(model), dtype, x)
        if x.device.type == "cuda":
            builders["CUDA graph"] = lambda: _CudaGraph(
                _Cast(fold_batchnorm(model), dtype, last), x
            )
    return builders


def _try(
    name: str, build: Callable[[], nn.Module], x: Tensor, reference: Tensor, tolerance: float
) -> tuple[Trial, nn.Module | None]:
    """Build a candidate and compare it; one that cannot run here is noted, not fatal."""
    try:
        module = build().eval()
        output = module(x)
    except ValueError:
        raise
    except Exception as error:  # compilers and engines raise their own kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Trial(name, note=f"not used: {first}"), None
    scale = reference.abs().max().clamp(min=1e-30)
    error = ((output - reference).abs().max() / scale).item()
    if not error <= tolerance:  # catches NaN too
        return Trial(name, error=error, note="not used: outside the error allowed"), None
    return Trial(name, error=error), module


def _fastest(good: dict[str, nn.Module], model: ResNet, x: Tensor, trials: list[Trial]) -> str:
    """Time the good candidates beside the model as given, note the times, name the fastest."""
    given = "as given"
    times = _time({**good, given: good.get(given, model)}, x)
    by_name = {trial.name: trial for trial in trials}
    if given not in by_name:
        by_name[given] = Trial(given, note="for comparison; not in the dtype asked for")
        trials.append(by_name[given])
    for name, seconds in times.items():
        by_name[name].milliseconds = seconds * 1e3
    best = min(times[name] for name in good)
    kept = next(name for name in good if times[name] <= EQUAL * best)
    if times[kept] > times[given]:
        by_name[kept].note = "slower than the model as given: this machine does not gain here"
    return kept


def _time(modules: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Seconds of the least disturbed run of each, interleaved, over at least 5 rounds.

    With one thread the CPU time is taken: the same, without what other programs took meanwhile.
    """
    one_thread = x.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if one_thread else time.perf_counter
    runs: dict[str, list[float]] = {name: [] for name in modules}
    begin = time.perf_counter()
    rounds = 0
    while rounds < 5 or (rounds < 50 and time.perf_counter() - begin < len(modules)):
        for name, module in modules.items():
            start = clock()
            module(x)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            runs[name].append(clock() - start)
        rounds += 1
    return {name: min(times) for name, times in runs.items()}
