"""What must not grow: a plan with 1,024 ranks, a sign of life with the world, the memory of a
pipeline rank with the micro-batches, the error of a bfloat16 gradient with how many are added.

Beside them the rows of the chunked loss below float32 by their bytes, against 128 (on a processor
that does not multiply bfloat16 both compute in float32, which a fact says). Each part runs in
processes of its own, one thread each.
"""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import torch.distributed as dist
import two_ranks
from measure import Bench

from tp_parallel import GPTConfig, ParallelContext, vocab_parallel_linear_cross_entropy
from tp_parallel.grid.faults import Monitor
from tp_parallel.pipeline import build_stages, make_schedule, run_schedule
from tp_parallel.training.plan import _Live, plan_run

TESTS = Path(__file__).resolve().parents[1] / "tests"
LLAMA_70B = GPTConfig(
    vocab_size=128256, hidden=8192, layers=80, heads=64, kv_heads=8, ffn=28672,
    max_positions=8192, position="rotary", norm="rmsnorm", activation="swiglu", bias=False,
    tie_embeddings=False, dtype="bfloat16", recompute=True, sequence_parallel=True,
)  # fmt: skip
RANKS = 1024
BEATS = 3
MICRO_BATCHES = (4, 16, 64)


def plan(rank: int, port: int) -> dict[str, float]:
    """A dry run of tp 8 x pp 8 x dp 16: seconds of CPU and of wall time, and peak memory."""
    del rank, port
    began, used = time.perf_counter(), time.process_time()
    found = plan_run(LLAMA_70B, tp=8, pp=8, dp=16, schedule=make_schedule("1f1b", 8, 16), rows=1,
                     length=8192, zero=True)  # fmt: skip
    assert found.ranks == RANKS
    return {
        "wall s": time.perf_counter() - began,
        "CPU s": time.process_time() - used,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def signs(rank: int, port: int) -> dict[str, float]:
    """Milliseconds of CPU of a beat in a world of 1,024 ranks: the rank's and, of rank 0, which
    keeps the store, the store's share for one beat of each."""
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        store.wait(["ready"])
        used = time.process_time()
        store.set("go", "")
        store.wait(["done"])
        spent = time.process_time() - used
        return {"the store's CPU ms for all of a second's": spent / BEATS * 1e3}
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    monitors = []
    for number in range(RANKS):
        monitor = Monitor.__new__(Monitor)
        monitor._rank, monitor._size, monitor._store = number, RANKS, store
        doing = "all_reduce 'GradientBuckets: data parallel' of float32 (6291456,)"
        monitor._mine = {"count": 0, "doing": doing, "last": doing, "step": 3, "error": None}
        monitors.append(monitor)
    store.set("ready", "")
    store.wait(["go"])
    used = time.process_time()
    for _ in range(BEATS):
        for monitor in monitors:
            monitor._beat()
    spent = time.process_time() - used
    store.set("done", "")
    return {"a rank's CPU ms": spent / BEATS / RANKS * 1e3}


def pipeline(rank: int, port: int) -> dict[str, float]:
    """Peak bytes of tensors and of the process during a 1f1b step, of each count over the first."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    config = GPTConfig(vocab_size=64, hidden=512, layers=2, heads=4, ffn=512, max_positions=512,
                       tie_embeddings=False)  # fmt: skip
    found = {}
    with ParallelContext(pp=2, device="cpu") as context:
        models = build_stages(config, context)
        for batches in (MICRO_BATCHES[0], *MICRO_BATCHES):  # the first one warms the allocator
            ids = torch.zeros(batches, 512, dtype=torch.int64)
            schedule = make_schedule("1f1b", 2, batches)

            def step(ids=ids, schedule=schedule) -> None:
                for model in models:
                    model.zero_grad()
                run_schedule(schedule, models, list(ids.split(1)),
                             lambda m, x, n: m.loss_sum(x, ids[:1]), context=context,
                             shape=(1, 512))  # fmt: skip

            with _Live() as live:
                step()
            gc.collect()
            found[f"tensors {batches}"] = live.peak / 2**20
            found[f"process {batches}"] = two_ranks.peak_extra(step)
            context.world.barrier(label="next")
    return found


def added(rank: int, port: int) -> dict[str, float]:
    """Relative error of 256 micro-batches' gradients added by a step, bfloat16 parameters."""
    del rank, port
    spec = importlib.util.spec_from_file_location("precision", TESTS / "test_precision.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {"error": module.accumulated("1f1b", 256, False)}


def _run(part, rank: int, port: int, pipe) -> None:
    torch.set_num_threads(1)
    pipe.send(part(rank, port))


def apart(part, ranks: int = 1) -> list[dict[str, float]]:
    """What `part(rank, port)` returns in each of `ranks` new processes."""
    method, port, pipes = multiprocessing.get_context("spawn"), two_ranks.free_port(), []
    for rank in range(ranks):
        here, there = method.Pipe()
        method.Process(target=_run, args=(part, rank, port, there), daemon=True).start()
        there.close()
        pipes.append(here)
    return [pipe.recv() for pipe in pipes]


def rows(bench: Bench) -> None:
    context = ParallelContext(device="cpu")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1024, 512, generator=generator).bfloat16().requires_grad_()
    weight = (torch.randn(50304, 512, generator=generator) * 0.02).bfloat16().requires_grad_()
    target = torch.randint(50304, (1024,), generator=generator)

    def loss(rows: int | None) -> None:
        hidden.grad = weight.grad = None
        vocab_parallel_linear_cross_entropy(
            hidden, weight, target, context=context, vocab_size=50304, chunk_rows=rows
        ).backward()

    bench.fact("this processor multiplies bfloat16", torch.ops.mkldnn._is_mkldnn_bf16_supported())
    bench.compare("linear 512 to 50,304 and loss, bfloat16, rows by bytes beside 128",
                  lambda: loss(None), lambda: loss(128), repeats=3)  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    bench = Bench("bounds", "itself at the first size", versions={"torch": torch.__version__})
    for name, value in apart(plan)[0].items():
        bench.fact(f"70 B Llama, tp 8 x pp 8 x dp 16, planned: {name}", round(value, 2))
    for found in apart(signs, 2):
        for name, value in found.items():
            bench.fact(f"a sign of life among {RANKS} ranks: {name}", round(value, 4))
    bench.fact(
        "256 micro-batches, bfloat16: relative error of the gradient", apart(added)[0]["error"]
    )
    first, most = MICRO_BATCHES[0], MICRO_BATCHES[-1]
    for rank, found in enumerate(apart(pipeline, 2)):
        for what in ("tensors", "process"):
            for batches in MICRO_BATCHES:
                bench.fact(f"1f1b, pp 2, rank {rank}, {batches} micro-batches: peak MB of {what}",
                           round(found[f"{what} {batches}"], 2))  # fmt: skip
            bench.fact(f"1f1b, pp 2, rank {rank}: {what}, {most} micro-batches over {first}",
                       round(found[f"{what} {most}"] / found[f"{what} {first}"], 4))  # fmt: skip
    rows(bench)
    bench.finish()


if __name__ == "__main__":
    main()
