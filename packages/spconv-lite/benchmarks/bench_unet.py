"""A residual U-Net of SpUNet's size (Pointcept's default: 32 to 256 channels, 23 residual blocks,
four levels down and up) beside spconv at 5k, 20k and 100k voxels, maps included: inference and a
training step at 1 and 2 threads, and the share of the sgemm rate."""

import peer
import torch
from measure import Bench
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import spconv_lite as sp

SITES = (5_000, 20_000, 100_000)
DOWN = ((32, 2), (64, 3), (128, 4), (256, 6))  # channels and blocks of a level
UP = ((256, 2), (128, 2), (96, 2), (96, 2))
CLASSES = 13


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)


def residual(library, c_in: int, c_out: int, key: str) -> nn.Module:
    """Two submanifold layers, and what comes in (through a layer of kernel 1 where channels change)
    added to them."""

    class Residual(library.SparseModule):
        def __init__(self) -> None:
            super().__init__()
            settings = {"kernel_size": 3, "padding": 1, "bias": False, "indice_key": key}
            self.conv1, self.bn1 = library.SubMConv3d(c_in, c_out, **settings), norm(c_out)
            self.conv2, self.bn2 = library.SubMConv3d(c_out, c_out, **settings), norm(c_out)
            self.project = None
            if c_in != c_out:
                same = library.SubMConv3d(c_in, c_out, 1, bias=False)
                self.project = library.SparseSequential(same, norm(c_out))

        def forward(self, x):
            out = self.conv1(x)
            out = out.replace_feature(self.bn1(out.features).relu())
            out = self.conv2(out)
            out = out.replace_feature(self.bn2(out.features))
            kept = x if self.project is None else self.project(x)
            return out.replace_feature((out.features + kept.features).relu())

    return Residual()


def unet(library, c_in: int = 6) -> nn.Module:
    """Stem 5x5x5, levels of strided layers and blocks down, of inverse layers and blocks up; each
    level up joins what came from the same level on the way down."""

    def step(layer, channels: int) -> nn.Module:
        return library.SparseSequential(layer, norm(channels), nn.ReLU())

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem = library.SubMConv3d(c_in, 32, 5, padding=1, bias=False, indice_key="stem")
            self.stem = step(stem, 32)
            self.down, self.encode = nn.ModuleList(), nn.ModuleList()
            self.up, self.decode = nn.ModuleList(), nn.ModuleList()
            channels, kept = 32, [32]
            for level, (wide, blocks) in enumerate(DOWN):
                settings = {"kernel_size": 2, "bias": False, "indice_key": f"down{level}"}
                layer = library.SparseConv3d(channels, wide, stride=2, **settings)
                self.down.append(step(layer, wide))
                parts = [residual(library, wide, wide, f"subm{level + 1}") for _ in range(blocks)]
                self.encode.append(library.SparseSequential(*parts))
                channels = wide
                kept.append(wide)
            for level, (wide, blocks) in zip(reversed(range(4)), UP, strict=True):
                settings = {"kernel_size": 2, "bias": False, "indice_key": f"down{level}"}
                layer = library.SparseInverseConv3d(channels, wide, **settings)
                self.up.append(step(layer, wide))
                joined, key = wide + kept[level], f"subm{level}"
                parts = [
                    residual(library, joined if i == 0 else wide, wide, key) for i in range(blocks)
                ]
                self.decode.append(library.SparseSequential(*parts))
                channels = wide
            self.head = library.SubMConv3d(channels, CLASSES, 1, bias=True)

        def forward(self, x):
            x = self.stem(x)
            kept = []
            for down, encode in zip(self.down, self.encode, strict=True):
                kept.append(x)
                x = encode(down(x))
            for up, decode in zip(self.up, self.decode, strict=True):
                x = up(x)
                x = decode(x.replace_feature(torch.cat([x.features, kept.pop().features], 1)))
            return self.head(x)

    return UNet()


def calls_of(library, indices: torch.Tensor) -> tuple:
    """Inference and a training step."""
    torch.manual_seed(0)
    net, features = unet(library), torch.randn(len(indices), 6)

    def infer():
        net.eval()
        with torch.no_grad():
            return net(library.SparseConvTensor(features, indices, peer.SHAPE, 1))

    def train():
        net.train()
        net.zero_grad()
        x = library.SparseConvTensor(features, indices, peer.SHAPE, 1)
        net(x).features.square().mean().backward()

    return infer, train


def main() -> None:
    bench = Bench("SpUNet", peer.NAME, versions=peer.versions(), repeats=5)
    for sites in SITES:
        indices = peer.lidar(sites)
        ours, theirs = (calls_of(library, indices) for library in (sp, peer.spconv))
        with FlopCounterMode(display=False) as counter:
            ours[0]()
        flop = counter.get_total_flops()
        bench.fact(f"GFLOP of one inference, {sites} sites", round(flop / 1e9, 2))
        for threads in (1, 2):
            torch.set_num_threads(threads)
            rate = peer.sgemm_rate()
            for i, what in enumerate(("inference", "training step")):
                row = bench.compare(f"{what}, {sites} sites, {threads} threads", ours[i], theirs[i])
                if row is not None and i == 0:
                    share = flop / (row.ours["median_ms"] * 1e6) / rate
                    label = f"inference, {sites} sites, {threads} threads, share of the sgemm rate"
                    bench.fact(label, f"{share:.0%} of {rate:.1f} GFLOP/s")
    bench.finish()


if __name__ == "__main__":
    main()
