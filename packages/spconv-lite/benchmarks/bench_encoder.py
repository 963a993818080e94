"""SECOND's middle encoder at lidar 120k beside spconv, maps included: inference and a training step
at 1 and 2 threads, the share of the sgemm rate, what a second thread gives, and what is left beside
a process that keeps one core busy."""

import subprocess
import sys

import peer
import torch
from measure import Bench
from networks import second_encoder
from torch import nn

import spconv_lite as sp


def flop_of(net: nn.Module, out: sp.SparseConvTensor) -> int:
    """Multiplications and additions of all convolutions of one pass."""
    return sum(
        2
        * len(out.indice_dict[layer.indice_key].rulebook.pair_out)
        * layer.in_channels
        * layer.out_channels
        for layer in net.modules()
        if isinstance(layer, sp.SparseConvolution)
    )


def calls_of(library, indices: torch.Tensor) -> tuple:
    """Inference, a training step, and the network."""
    torch.manual_seed(0)
    net, features = second_encoder(library), torch.randn(len(indices), 4)

    def infer():
        with torch.no_grad():
            net.eval()
            return net(library.SparseConvTensor(features, indices, peer.SHAPE, 1))

    def step():
        net.train()
        net.zero_grad()
        x = library.SparseConvTensor(features, indices, peer.SHAPE, 1)
        net(x).features.square().mean().backward()

    return infer, step, net


def main() -> None:
    bench = Bench("SECOND encoder", peer.NAME, versions=peer.versions(), repeats=5)
    indices = peer.lidar(120_000)
    ours, theirs = (calls_of(library, indices) for library in (sp, peer.spconv))
    flop = flop_of(ours[2], ours[0]())
    bench.fact("GFLOP of one inference, lidar 120k", round(flop / 1e9, 2))
    times = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rate = peer.sgemm_rate()
        for i, what in enumerate(("inference", "training step")):
            row = bench.compare(f"{what}, lidar 120k, {threads} threads", ours[i], theirs[i])
            if row is not None:
                times[what, threads] = row.ours["median_ms"]
        if ("inference", threads) in times:
            floor = flop / rate / 1e6
            share = f"{floor / times['inference', threads]:.0%} of the floor of {floor:.1f} ms"
            bench.fact(f"inference, {threads} threads, at {rate:.1f} GFLOP/s of sgemm", share)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for i, what in enumerate(("inference", "training step")):
            row = bench.compare(f"{what}, 2 threads, one core busy", ours[i], theirs[i], repeats=3)
            if row is not None:
                times[what, "busy"] = row.ours["median_ms"]
    finally:
        busy.kill()
        busy.wait()
    for what in ("inference", "training step"):
        if (what, 2) in times:
            alone, busy_ms = times[what, 2], times[what, "busy"]
            bench.fact(f"{what}, gain of the second thread", f"{times[what, 1] / alone:.2f}x")
            bench.fact(f"{what}, slower beside a busy core", f"{busy_ms / alone:.2f}x")
    bench.finish()


if __name__ == "__main__":
    main()
