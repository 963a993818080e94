"""Draws the pictures of how-it-is-split.md from the library's own data.

python packages/tp-parallel/docs/pictures.py
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.multiprocessing as processes

from tp_parallel import GPTConfig, GPTModel, ParallelContext
from tp_parallel.grid.axis import Message
from tp_parallel.pipeline.schedules import make_schedule
from tp_parallel.training.draw import draw_messages, draw_schedules, draw_shards

HERE = Path(__file__).resolve().parent
TP = 2
SHAPE = {"vocab_size": 8192, "hidden": 512, "layers": 2, "heads": 8, "max_positions": 256,
         "tie_embeddings": False}  # fmt: skip
PIPELINES = (("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zero_bubble", 1))


def shards() -> None:
    """One transformer layer, each parameter to scale and coloured by rank."""
    context = ParallelContext(device="cpu")
    layer = GPTModel(GPTConfig(**SHAPE), context=context, device="meta").layers["0"]
    names = {
        name.removesuffix(".weight").replace(".", "\n"): parameter.shard
        for name, parameter in layer.named_parameters()
        if name.endswith("weight")
    }
    figure, axes = plt.subplots(figsize=(11, 4.6), layout="constrained")
    draw_shards(names, TP, axes)
    save(figure, "shards.png")


def pipelines() -> None:
    figure = plt.figure(figsize=(10, 8), layout="constrained")
    draw_schedules([make_schedule(name, 4, 8, chunks) for name, chunks in PIPELINES], figure)
    save(figure, "schedules.png")


def step(rank: int, port: int, sequence: bool, out: processes.SimpleQueue) -> None:
    """Forward and backward of one step on one of two ranks; rank 0 hands out what it sent."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(TP), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    with ParallelContext(tp=TP, device="cpu") as context:
        model = GPTModel(GPTConfig(**SHAPE, sequence_parallel=sequence), context=context)
        ids = torch.zeros(4, 256, dtype=torch.int64)
        context.traffic.log = []
        loss = model(ids, ids).sum()
        forward = len(context.traffic.log)
        loss.backward()
        if rank == 0:
            out.put((context.traffic.log, forward))
        context.world.barrier(label="end")


def messages(sequence: bool) -> tuple[list[Message], int]:
    """What a step sent, and how much of it in the forward pass."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = processes.get_context("spawn").SimpleQueue()
    processes.spawn(step, args=(port, sequence, out), nprocs=TP)
    return out.get()


def traffic() -> None:
    figure, rows = plt.subplots(2, 1, figsize=(11, 7.5), layout="constrained")
    titles = ("tensor parallel", "with sequence parallelism")
    for axes, sequence, title in zip(rows, (False, True), titles, strict=True):
        draw_messages(*messages(sequence), axes)
        axes.set_title(f"{title}: one step of two layers", loc="left")
    save(figure, "traffic.png")


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(HERE / name, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    shards()
    pipelines()
    traffic()
