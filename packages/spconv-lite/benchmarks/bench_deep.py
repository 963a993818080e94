"""Layers of few sites and many channels beside spconv, and bfloat16 autocast beside float32: the
forward of a submanifold 3x3x3 convolution with its rulebook at hand, one thread."""

import peer
import torch
from bench_conv import calls_of
from measure import Bench

import spconv_lite as sp

GRID = [20, 40, 40]
DEEP = ((50, 256), (200, 512), (1000, 512), (3000, 256))  # sites, channels


def random_sites(count: int) -> torch.Tensor:
    cells = torch.randperm(GRID[0] * GRID[1] * GRID[2], generator=torch.Generator().manual_seed(0))
    return torch.stack(torch.unravel_index(cells[:count], (1, *GRID)), 1).int()


def autocast(bench: Bench, indices: torch.Tensor, channels: int) -> None:
    wide = calls_of(sp, indices, channels)[0]

    def narrow():
        with torch.autocast("cpu", torch.bfloat16):
            return wide()

    bench.compare(f"bfloat16 beside our float32, lidar 60k C{channels}", narrow, wide)


def main() -> None:
    bench = Bench("deep", peer.NAME, versions=peer.versions(), repeats=15)
    torch.set_num_threads(1)
    for sites, channels in DEEP:
        ours, theirs = (
            calls_of(library, random_sites(sites), channels)[0] for library in (sp, peer.spconv)
        )
        bench.compare(f"{sites} sites C{channels}", ours, theirs)
    indices = peer.lidar(60_000)
    for channels in (16, 32, 64):
        autocast(bench, indices, channels)
    bench.finish()


if __name__ == "__main__":
    main()
