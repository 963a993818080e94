"""A submanifold 3x3x3 convolution with its rulebook at hand, and the SECOND middle encoder."""

import peer
import torch
from measure import Bench
from torch import nn

import spconv_lite as sp


def encoder(library, channels: int = 4) -> nn.Module:
    """SECOND's middle encoder: 4 stages, BatchNorm and ReLU after each of 12 layers."""

    def block(make, c_in, c_out, kernel=3, **settings):
        return make(c_in, c_out, kernel, bias=False, **settings), nn.BatchNorm1d(c_out), nn.ReLU()

    subm, conv = library.SubMConv3d, library.SparseConv3d
    return library.SparseSequential(
        *block(subm, channels, 16, indice_key="1"),
        *block(subm, 16, 16, indice_key="1"),
        *block(conv, 16, 32, stride=2, padding=1),
        *block(subm, 32, 32, indice_key="2"),
        *block(subm, 32, 32, indice_key="2"),
        *block(conv, 32, 64, stride=2, padding=1),
        *block(subm, 64, 64, indice_key="3"),
        *block(subm, 64, 64, indice_key="3"),
        *block(conv, 64, 64, stride=2, padding=[0, 1, 1]),
        *block(subm, 64, 64, indice_key="4"),
        *block(subm, 64, 64, indice_key="4"),
        *block(conv, 64, 128, kernel=(3, 1, 1), stride=(2, 1, 1)),
    )


def one_layer(bench: Bench, name: str, indices: torch.Tensor, channels: int, threads: int) -> None:
    calls = {}
    for library in (sp, peer.spconv):
        torch.manual_seed(0)
        layer = library.SubMConv3d(channels, channels, 3, bias=False, indice_key="a")
        features = torch.randn(len(indices), channels)
        x = library.SparseConvTensor(features, indices, peer.SHAPE, 1)
        x.indice_dict = layer(x).indice_dict  # the rulebook is at hand from here on

        def forward(layer=layer, x=x):
            with torch.no_grad():
                return layer(x).features

        def both(layer=layer, x=x, features=features):
            leaf = features.requires_grad_()
            out = layer(x.replace_feature(leaf)).features
            torch.autograd.grad(out, (leaf, layer.weight), torch.ones_like(out))

        calls[library] = forward, both
    case = f"{name} C{channels}, {threads} threads"
    for i, what in enumerate(("forward", "forward + backward")):
        bench.compare(f"{what}, {case}", calls[sp][i], calls[peer.spconv][i])


def whole_encoder(bench: Bench, name: str, indices: torch.Tensor, threads: int) -> None:
    calls = {}
    for library in (sp, peer.spconv):
        torch.manual_seed(0)
        net = encoder(library)
        features = torch.randn(len(indices), 4)

        def make(library=library, features=features):
            return library.SparseConvTensor(features, indices, peer.SHAPE, 1)

        def infer(net=net, make=make):
            with torch.no_grad():
                net.eval()
                return net(make())

        def step(net=net, make=make):
            net.train()
            net.zero_grad()
            net(make()).features.square().mean().backward()

        calls[library] = infer, step
    for i, what in enumerate(("inference", "training step")):
        ours, theirs = calls[sp][i], calls[peer.spconv][i]
        bench.compare(f"SECOND encoder, {what}, {name}, {threads} threads", ours, theirs, repeats=5)


def main() -> None:
    bench = Bench("convolution", peer.NAME, versions=peer.versions(), repeats=7)
    for name, count in (("lidar 20k", 20_000), ("lidar 120k", 120_000)):
        indices = peer.lidar(count)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for channels in (16, 64):
                one_layer(bench, name, indices, channels, threads)
            whole_encoder(bench, name, indices, threads)
    bench.finish()


if __name__ == "__main__":
    main()
