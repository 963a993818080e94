"""Cross entropy over [1024, 50304] logits at tensor-parallel size 2, beside megatron-core and
torch.

Each figure is one rank's forward and backward, one thread a rank.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import torch.nn.functional as F
import two_ranks
from measure import Bench

from tp_parallel import (
    ParallelContext,
    vocab_parallel_cross_entropy,
    vocab_parallel_linear_cross_entropy,
)

TOKENS, VOCABULARY, FEATURES = 1024, 50304, 512


def peer_loss(context: ParallelContext):
    """megatron-core's vocab-parallel cross entropy on the same group."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import cross_entropy

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    del context
    return cross_entropy.vocab_parallel_cross_entropy


def main() -> None:
    other = two_ranks.start()
    torch.set_num_threads(1)
    version = importlib.metadata.version("megatron-core")
    bench = Bench("loss", f"megatron-core {version}, torch {torch.__version__}",
                  versions={"torch": torch.__version__, "megatron-core": version})  # fmt: skip
    context = ParallelContext(tp=2, device="cpu")
    theirs = peer_loss(context)
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(TOKENS, VOCABULARY // 2, generator=generator)
    target = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    logits = source.clone()

    def fresh() -> None:
        logits.copy_(source)

    def ours(inplace: bool):
        leaf = logits.detach().requires_grad_()
        given = leaf.view_as(leaf)
        loss = vocab_parallel_cross_entropy(
            given, target, context=context, vocab_size=VOCABULARY, inplace=inplace
        )
        loss.sum().backward()

    def peer():
        leaf = logits.detach().requires_grad_()
        theirs(leaf.view_as(leaf).unsqueeze(0), target.unsqueeze(0)).sum().backward()

    bench.compare(
        "inplace=True, fp32, tp 2, beside megatron-core", lambda: ours(True), peer, setup=fresh
    )
    bench.compare(
        "default, fp32, tp 2, beside megatron-core", lambda: ours(False), peer, setup=fresh
    )
    local = source.numel() * 4 / 2**20
    for name, call in (("inplace=True", lambda: ours(True)), ("default", lambda: ours(False)),
                       ("megatron-core", peer)):  # fmt: skip
        fresh()
        extra = two_ranks.peak_extra(call)
        bench.fact(f"extra peak memory, {name}, of the local logits", round(extra / local, 2))
    context.world.barrier(label="end of tp 2")
    if other is not None:
        linear(bench)
    context.close()
    if other is not None:
        bench.finish()
        other.wait(60)


def linear(bench: Bench) -> None:
    """The chunked output layer and loss beside linear then F.cross_entropy, in this process
    alone.
    """
    alone = ParallelContext(device="cpu") if not torch.distributed.is_initialized() else None
    context = alone or _alone()
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, FEATURES, generator=generator).requires_grad_()
    weight = (torch.randn(VOCABULARY, FEATURES, generator=generator) * 0.02).requires_grad_()
    target = torch.randint(VOCABULARY, (TOKENS,), generator=generator)

    def clear() -> None:
        hidden.grad = weight.grad = None

    def ours() -> None:
        vocab_parallel_linear_cross_entropy(
            hidden, weight, target, context=context, vocab_size=VOCABULARY
        ).backward()

    def peer() -> None:
        F.cross_entropy(F.linear(hidden, weight), target).backward()

    bench.compare("linear + cross entropy, beside torch", ours, peer, setup=clear, repeats=3)
    gradients = (weight.numel() + hidden.numel()) * 4 / 2**20
    clear()
    mine = two_ranks.peak_extra(ours) - gradients
    clear()
    torchs = two_ranks.peak_extra(peer) - gradients
    bench.fact("linear + cross entropy, extra MB beside the gradients", round(mine, 1))
    bench.fact("torch's linear and cross entropy, the same", round(torchs, 1))
    bench.fact("share of torch's", round(mine / torchs, 3))


def _alone() -> ParallelContext:
    """A grid of one rank, made after the two-rank part is over."""
    torch.distributed.destroy_process_group()
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    return ParallelContext(device="cpu")


if __name__ == "__main__":
    main()
