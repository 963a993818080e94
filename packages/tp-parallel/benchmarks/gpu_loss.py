"""Losses over [8192, 50304] logits on one GPU: the CUDA kernels and Triton's beside torch, and
Liger if it is there; the chunked output layer and loss beside linear then F.cross_entropy.

Forward and backward, bfloat16 and float32; peak memory beyond what was there before. The kernels'
numbers are compared with torch's first. Without a GPU it says so and ends with exit code 3.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
import torch.nn.functional as F
from measure import Bench

from tp_parallel import (
    ParallelContext,
    ops,
    vocab_parallel_cross_entropy,
    vocab_parallel_linear_cross_entropy,
)

TOKENS, VOCABULARY, FEATURES = 8192, 50304, 2048


def kernels(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each token and its gradient by the native kernels, called as the losses would."""
    terms = (0, logits.shape[1], -100)
    statistics = ops.loss_statistics(logits, target, *terms, False)
    lse = statistics[:, 0] + statistics[:, 1].log()
    grad = ops.loss_gradient(logits, target, lse, torch.ones_like(lse), *terms, 0.0, 0.0,
                             logits.shape[1])  # fmt: skip
    return lse - statistics[:, 2], grad


def of_torch(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.detach().requires_grad_()
    loss = F.cross_entropy(leaf, target, reduction="none")
    loss.sum().backward()
    return loss.detach(), leaf.grad


def check(logits: torch.Tensor, target: torch.Tensor) -> float:
    """Largest difference of the kernels from float64, loss and gradient; exits if it is large."""
    rows = slice(0, 256)
    loss, grad = kernels(logits[rows].contiguous(), target[rows])
    want_loss, want_grad = of_torch(logits[rows].double(), target[rows])
    difference = max(float((loss.double() - want_loss).abs().max()),
                     float((grad.double() - want_grad).abs().max()))  # fmt: skip
    if not difference < 2e-2:
        sys.exit(f"the kernels differ from torch by {difference}")
    return difference


def measure(bench: Bench, device: str, tokens: int, vocabulary: int, features: int) -> None:
    context = ParallelContext(device=device)
    generator = torch.Generator(device).manual_seed(0)
    target = torch.randint(vocabulary, (tokens,), generator=generator, device=device)
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        logits = torch.randn(tokens, vocabulary, generator=generator, device=device).to(dtype)
        bench.fact(f"{name}: largest difference from float64", check(logits, target))

        def ours(inplace: bool, logits=logits) -> None:
            leaf = logits.detach().requires_grad_()
            vocab_parallel_cross_entropy(
                leaf.view_as(leaf), target, context=context, vocab_size=vocabulary, inplace=inplace
            ).sum().backward()

        torchs = timed(lambda logits=logits: of_torch(logits, target), device)
        native = timed(lambda logits=logits: kernels(logits, target), device)
        bench.compare(f"{name}: native kernels, beside torch", native, torchs)
        default = timed(lambda ours=ours: ours(False), device)
        bench.compare(f"{name}: the library's loss, beside torch", default, torchs)
        calls = {"native kernels": native, "the library's loss": default, "torch": torchs}
        if importlib.util.find_spec("triton"):
            calls["Triton's kernels"] = timed(lambda ours=ours: by_triton(ours), device)
            bench.compare(
                f"{name}: Triton's kernels, beside torch", calls["Triton's kernels"], torchs
            )
        for label, call in calls.items():
            extra = peak(call, device) / (logits.numel() * logits.element_size())
            bench.fact(f"{name}: extra peak memory, {label}, of the logits", round(extra, 2))
        del logits
    linear(bench, context, target, vocabulary, features)


def by_triton(ours: Callable[[bool], None]) -> None:
    """The library's loss by Triton's kernels; on the CPU as ever."""
    before = ops.set_cuda_kernels("triton")
    try:
        ours(False)
    finally:
        ops.set_cuda_kernels(before)


def linear(
    bench: Bench, context: ParallelContext, target: torch.Tensor, vocabulary: int, features: int
) -> None:
    device = str(context.device)
    options = {"device": device, "dtype": torch.bfloat16}
    hidden = torch.randn(len(target), features, **options).requires_grad_()
    weight = (torch.randn(vocabulary, features, **options) * 0.02).requires_grad_()

    def ours() -> None:
        vocab_parallel_linear_cross_entropy(
            hidden, weight, target, context=context, vocab_size=vocabulary, chunk_rows=1024
        ).backward()

    def torchs() -> None:
        F.cross_entropy(F.linear(hidden, weight), target).backward()

    calls = {"chunked": timed(ours, device), "torch": timed(torchs, device)}
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused = LigerFusedLinearCrossEntropyLoss()
        calls["Liger"] = timed(lambda: fused(weight, hidden, target).backward(), device)
    for name in list(calls)[1:]:
        bench.compare(f"linear + cross entropy, bfloat16, beside {name}", calls["chunked"],
                      calls[name])  # fmt: skip
    for name, call in calls.items():
        hidden.grad = weight.grad = None
        bench.fact(f"linear + cross entropy, {name}: peak MB", round(peak(call, device) / 2**20))


def timed(call: Callable[[], object], device: str) -> Callable[[], None]:
    """`call`, ended only when the device has done its work."""

    def run() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def peak(call: Callable[[], object], device: str) -> int:
    """Bytes by which `call` raises the device's memory; 0 on the CPU."""
    if device == "cpu":
        call()
        return 0
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU benchmark: no CUDA device answers")
        return 3
    bench = Bench("gpu_loss", f"torch {torch.__version__}", versions={"torch": torch.__version__})
    bench.fact("GPU", torch.cuda.get_device_name())
    measure(bench, "cuda", TOKENS, VOCABULARY, FEATURES)
    bench.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
