"""A submanifold 3x3x3 convolution with its rulebook at hand, beside spconv at lidar 120k: forward
with its share of the sgemm rate of the same run, and forward with backward."""

import peer
import torch
from measure import Bench

import spconv_lite as sp


def calls_of(library, indices: torch.Tensor, channels: int) -> tuple:
    """Forward, forward and backward, and the layer's rulebook."""
    torch.manual_seed(0)
    layer = library.SubMConv3d(channels, channels, 3, bias=False, indice_key="a")
    features = torch.randn(len(indices), channels)
    x = library.SparseConvTensor(features, indices, peer.SHAPE, 1)
    x.indice_dict = layer(x).indice_dict  # the rulebook is at hand from here on

    def forward():
        with torch.no_grad():
            return layer(x).features

    def both():
        leaf = features.requires_grad_()
        out = layer(x.replace_feature(leaf)).features
        torch.autograd.grad(out, (leaf, layer.weight), torch.ones_like(out))

    return forward, both, x.indice_dict["a"]


def one_layer(
    bench: Bench, indices: torch.Tensor, channels: int, threads: int, rate: float
) -> None:
    ours, theirs = (calls_of(library, indices, channels) for library in (sp, peer.spconv))
    if threads == 1 and not torch.allclose(ours[0](), theirs[0](), atol=1e-4):
        raise SystemExit(f"C{channels}: the two libraries give other numbers")
    flop = 2 * len(ours[2].rulebook.pair_out) * channels * channels
    for i, what in enumerate(("forward", "forward + backward")):
        case = f"{what}, lidar 120k C{channels}, {threads} threads"
        row = bench.compare(case, ours[i], theirs[i])
        if row is not None and i == 0:
            share = flop / (row.ours["median_ms"] * 1e6) / rate
            bench.fact(f"C{channels}, {threads} threads, share of the sgemm rate", f"{share:.0%}")


def main() -> None:
    bench = Bench("convolution", peer.NAME, versions=peer.versions(), repeats=7)
    indices = peer.lidar(120_000)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rate = peer.sgemm_rate()
        bench.fact(f"sgemm 2048^3, {threads} threads, GFLOP/s", round(rate, 1))
        for channels in (16, 32, 64):
            one_layer(bench, indices, channels, threads, rate)
    bench.finish()


if __name__ == "__main__":
    main()
