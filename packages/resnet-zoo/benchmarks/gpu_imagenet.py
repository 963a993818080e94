"""ImageNet-shaped throughput on a GPU: this package beside the usual ways to run the same network.

The network is torchvision's to the last bit (tests/test_resnet.py), so torchvision itself is not
needed. Inference: `optimize(level="fast")` beside eager, and last, as compilers take minutes,
`optimize(level="max")` beside eager and torch.compile, in the same dtype. Training: a step as
`resnet_zoo.training` takes it (channels last, autocast) beside eager in torch's default layout, as
torchvision's reference script trains, and beside torch.compile. Without a CUDA device it says so
and ends with exit code 3.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

from resnet_zoo import ResNet, get_model, optimize

MODEL, CLASSES = "resnet50", 1000
INFERENCE = [(dtype, batch) for dtype in (torch.float16, torch.bfloat16) for batch in (1, 256)]
TRAINING = [(torch.float16, 128), (torch.bfloat16, 128)]
Call = Callable[[], Tensor]


def network(name: str, device: torch.device | str) -> ResNet:
    """Random weights with calibrated norms, so that no number overflows in half precision."""
    torch.manual_seed(0)
    model = get_model(name).to(device).train()
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64, device=device))
    return model.eval()


def inference(
    model: ResNet, x: Tensor, dtype: torch.dtype, compiled: bool = True
) -> dict[str, Call]:
    """Ways to classify the batch `x`, by name; "ours" first."""
    half = copy.deepcopy(model).to(dtype=dtype, memory_format=torch.channels_last)
    batch = x.to(dtype=dtype, memory_format=torch.channels_last)
    ours = optimize(model, "max" if compiled else "fast", dtype=dtype, example=x)
    print(ours.report, flush=True)
    calls: dict[str, Call] = {"ours": lambda: ours(batch), "eager": lambda: half(batch)}
    if compiled:
        graph = torch.compile(half)
        calls["torch.compile"] = lambda: graph(batch)
    return calls


def training(
    model: ResNet, x: Tensor, dtype: torch.dtype, compiled: bool = True
) -> dict[str, Call]:
    """Ways to take one SGD step on the batch `x`, by name; each returns its loss."""
    labels = torch.arange(len(x), device=x.device) % CLASSES
    calls = {
        "ours": _step(copy.deepcopy(model), x, labels, dtype, torch.channels_last),
        "eager": _step(copy.deepcopy(model), x, labels, dtype, torch.contiguous_format),
    }
    if compiled:
        calls["torch.compile"] = _step(
            torch.compile(copy.deepcopy(model)), x, labels, dtype, torch.channels_last
        )
    return calls


def _step(
    model: nn.Module, x: Tensor, labels: Tensor, dtype: torch.dtype, layout: torch.memory_format
) -> Call:
    model.to(memory_format=layout).train()
    batch, kind = x.to(memory_format=layout), x.device.type
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler(kind, enabled=kind == "cuda" and dtype is torch.float16)

    def step() -> Tensor:
        with torch.autocast(kind, dtype=dtype):
            loss = nn.functional.cross_entropy(model(batch), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def measure(bench: Bench, case: str, calls: dict[str, Call], batch: int) -> None:
    """A row for each peer, and the images a second of all as a fact."""

    def timed(call: Call) -> Call:
        def run() -> Tensor:
            out = call()
            if out.is_cuda:
                torch.cuda.synchronize()
            return out

        return run

    ours = timed(calls.pop("ours"))
    rates: dict[str, float] = {}
    for name, call in calls.items():
        row = bench.compare(f"{case}, {name}", ours, timed(call), warmup=5)
        if row is not None and row.peer is not None:
            rates.setdefault("ours", round(batch / row.ours["median_ms"] * 1e3))
            rates[name] = round(batch / row.peer["median_ms"] * 1e3)
    if rates:
        bench.fact(f"{case}, images/s", rates)


def main() -> int:
    if not torch.cuda.is_available():
        print(f"no GPU benchmark: torch {torch.__version__} sees no CUDA device")
        return 3
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda or ""}
    bench = Bench("resnet-zoo on a GPU", "the way named", versions=versions, repeats=15)
    bench.fact("GPU", torch.cuda.get_device_name())
    model = network(MODEL, "cuda")
    for compiled in (False, True):
        every_case(bench, model, compiled)
    bench.finish()
    return 0


def every_case(
    bench: Bench, model: ResNet, compiled: bool, device: str = "cuda", side: int = 224
) -> None:
    """Inference and training beside eager or, `compiled`, beside the compiler too."""
    with_ = ", compiled" if compiled else ""
    for dtype, batch in INFERENCE:
        case = f"inference, {MODEL}, {str(dtype)[6:]}, batch {batch}{with_}"
        if bench.wants(case):
            x = torch.randn(batch, 3, side, side, device=device)
            with torch.inference_mode():
                measure(bench, case, inference(model, x, dtype, compiled), batch)
    for dtype, batch in TRAINING:
        case = f"training step, {MODEL}, {str(dtype)[6:]}, batch {batch}{with_}"
        if bench.wants(case):
            x = torch.randn(batch, 3, side, side, device=device)
            measure(bench, case, training(model, x, dtype, compiled), batch)


if __name__ == "__main__":
    sys.exit(main())
