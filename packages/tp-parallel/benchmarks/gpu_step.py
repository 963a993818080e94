"""One training step of a 1.3 B-shaped GPT on one GPU in bfloat16, beside plain PyTorch, and last,
as that takes minutes, beside plain PyTorch with torch.compile.

hidden 2048, 24 layers, 16 heads, sequence 1024, batch 8, vocabulary 50,304, untied; forward,
backward and AdamW with float32 masters. MFU counts `pretrain.flops_per_token` against the dense
bfloat16 peak of the card. Without a GPU it says so and ends with exit code 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import torch.nn.functional as F
from bench_step import Plain
from measure import Bench

from tp_parallel import AdamW, GPTConfig, GPTModel, ParallelContext
from tp_parallel.data_parallel.optimizer import MasterAdamW
from tp_parallel.training.pretrain import flops_per_token

# dense bfloat16 TFLOP/s in NVIDIA's data sheets
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "B200": 2250}
BATCH = 8
SHAPE = {"vocab_size": 50304, "hidden": 2048, "layers": 24, "heads": 16, "max_positions": 1024,
         "tie_embeddings": False, "dtype": "bfloat16"}  # fmt: skip


def our_step(config: GPTConfig, ids: torch.Tensor, chunked: bool) -> Callable[[], None]:
    context = ParallelContext(device=str(ids.device))
    model = GPTModel(config, context=context, init_mode="local")
    optimizer = AdamW([model], context, lr=1e-4, clip_grad=None)

    def step() -> None:
        optimizer.zero_grad()
        loss = model.loss_sum(ids, ids) if chunked else model(ids, ids).sum()
        (loss / ids.numel()).backward()
        optimizer.step()
        wait(ids)

    return step


def plain_step(config: GPTConfig, ids: torch.Tensor, compiled: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = Plain(config.hidden, config.heads, config.layers, config.max_positions,
                  config.vocab_size).to(ids.device, config.torch_dtype)  # fmt: skip
    groups = [{"params": list(model.parameters()), "weight_decay": 0.0}]
    optimizer = MasterAdamW(groups, lr=1e-4, betas=(0.9, 0.95))
    run = torch.compile(model) if compiled else model

    def step() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(run(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
        wait(ids)

    return step


def wait(ids: torch.Tensor) -> None:
    if ids.is_cuda:
        torch.cuda.synchronize()


def measure(
    bench: Bench, device: str, shape: dict, batch: int, compiled: bool, peak: float | None
) -> None:
    config = GPTConfig(**shape)
    ids = torch.randint(config.vocab_size, (batch, config.max_positions), device=device)
    flops = flops_per_token(config, config.max_positions) * ids.numel()
    peer_name = "plain PyTorch, torch.compile" if compiled else "plain PyTorch"
    peer = plain_step(config, ids, compiled)
    for chunked in (False, True):
        ours = our_step(config, ids, chunked)
        name = "step with the chunked loss" if chunked else "step"
        name += ", beside torch.compile" if compiled else ""
        row = bench.compare(name, ours, peer, warmup=2, repeats=7)
        if row is None:
            continue
        for who, timing in (("ours", row.ours), (peer_name, row.peer)):
            seconds = timing["median_ms"] / 1e3
            bench.fact(f"{name}, {who}: tokens/s", round(ids.numel() / seconds))
            if peak:
                bench.fact(f"{name}, {who}: MFU", round(flops / seconds / peak / 1e12, 3))
        memory(bench, f"{name}, ours", ours, ids)
        del ours
    memory(bench, peer_name, peer, ids)


def memory(bench: Bench, name: str, step: Callable[[], None], ids: torch.Tensor) -> None:
    """Peak of a step beyond what lies there before it (weights, optimizer)."""
    if not ids.is_cuda:
        return
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    extra = (torch.cuda.max_memory_allocated() - before) / 2**30
    bench.fact(f"{name}: peak GB beyond the memory before the step", round(extra, 2))


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU benchmark: no CUDA device answers")
        return 3
    bench = Bench("gpu_step", f"plain torch {torch.__version__}, as it is and with torch.compile",
                  versions={"torch": torch.__version__})  # fmt: skip
    card = torch.cuda.get_device_name()
    bench.fact("GPU", card)
    peak = next((tflops for name, tflops in PEAK_TFLOPS.items() if name in card), None)
    for compiled in (False, True):
        measure(bench, "cuda", SHAPE, BATCH, compiled, peak)
    bench.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
