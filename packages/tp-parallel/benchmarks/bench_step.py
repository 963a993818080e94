"""One training step of a GPT at tensor-parallel size 2, beside DTensor's parallelize_module.

hidden 512, 8 heads, 4 layers, sequence 256, batch 4, vocabulary 50,304, untied, float32; forward
and backward, one thread a rank. The peer is the same model in plain modules with separate query,
key and value, its linear layers split by ColwiseParallel and RowwiseParallel, its loss under
loss_parallel.
"""

from __future__ import annotations

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
from torch import nn

from tp_parallel import GPTConfig, GPTModel, ParallelContext

HIDDEN, HEADS, LAYERS, LENGTH, BATCH, VOCABULARY = 512, 8, 4, 256, 4, 50304


class Layer(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.head_dim = hidden // heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.q, self.k, self.v = (nn.Linear(hidden, hidden) for _ in range(3))
        self.out = nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                   for f in (self.q, self.k, self.v))  # fmt: skip
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Plain(nn.Module):
    """A GPT in plain modules."""

    def __init__(self, hidden: int, heads: int, layers: int, length: int, vocabulary: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, hidden)
        self.position = nn.Embedding(length, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.word(ids) + self.position.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def dtensor_model(context: ParallelContext) -> nn.Module:
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    torch.manual_seed(0)
    model = Plain(HIDDEN, HEADS, LAYERS, LENGTH, VOCABULARY)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, 0, 0.02)
    plan = {"word": RowwiseParallel(input_layouts=Replicate()),
            "head": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)}  # fmt: skip
    for i in range(LAYERS):
        plan |= {f"layers.{i}.{n}": ColwiseParallel() for n in ("q", "k", "v", "up")}
        plan |= {f"layers.{i}.{n}": RowwiseParallel() for n in ("out", "down")}
    return parallelize_module(model, context.tp_mesh(), plan)


def main() -> None:
    other = two_ranks.start()
    torch.set_num_threads(1)
    bench = Bench("step", f"DTensor of torch {torch.__version__}",
                  versions={"torch": torch.__version__}, repeats=5)  # fmt: skip
    context = ParallelContext(tp=2, device="cpu")
    config = GPTConfig(vocab_size=VOCABULARY, hidden=HIDDEN, layers=LAYERS, heads=HEADS,
                       max_positions=LENGTH, tie_embeddings=False)  # fmt: skip
    mine = GPTModel(config, context=context, init_mode="local")
    theirs = dtensor_model(context)
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))

    def clear() -> None:
        for model in (mine, theirs):
            for parameter in model.parameters():
                parameter.grad = None

    def ours() -> None:
        (mine(ids, ids).sum() / ids.numel()).backward()

    def chunked() -> None:
        (mine.loss_sum(ids, ids) / ids.numel()).backward()

    def peer() -> None:
        from torch.distributed.tensor.parallel import loss_parallel

        with loss_parallel():
            F.cross_entropy(theirs(ids).flatten(0, 1), ids.flatten()).backward()

    bench.compare("step, tp 2", ours, peer, setup=clear)
    bench.compare("step with the chunked loss, tp 2", chunked, peer, setup=clear, repeats=3)
    extra = {}
    for name, call in (("ours", ours), ("ours, chunked loss", chunked), ("DTensor", peer)):
        clear()
        extra[name] = two_ranks.peak_extra(call)
        bench.fact(f"extra peak MB of a step, {name}", round(extra[name], 1))
    for name in ("ours", "ours, chunked loss"):
        bench.fact(f"extra peak memory, {name} / DTensor", round(extra[name] / extra["DTensor"], 3))
    context.world.barrier(label="end")
    context.close()
    if other is not None:
        bench.finish()
        other.wait(60)


if __name__ == "__main__":
    main()
