"""Layers over a grid of sites and channels beside spconv: submanifold forward and forward +
backward with the rulebook at hand; strided, inverse and pool with theirs; PointToVoxel; and
shuffled rows beside row-major ones, depthwise beside full layers, bfloat16 beside float32.

The CPU column is the one to read on a shared machine.
"""

import functools

import numpy as np
import peer
import torch
from measure import Bench
from spconv.pytorch.utils import PointToVoxel

import spconv_lite as sp

SITES = (50, 200, 1_000, 5_000, 20_000, 120_000)
CHANNELS = (16, 32, 64, 128, 256, 512)
MOST_WORK = 3e8  # sites x channels^2: beyond it bench_grid_largest.py goes on, for minutes


def dense_block(count: int) -> torch.Tensor:
    """(count, 4) int32 sites that fill a third of a cube, as in the deep layers of a network."""
    side = round((3 * count) ** (1 / 3)) + 1
    cells = np.sort(np.random.default_rng(0).choice(side**3, count, replace=False))
    rows = np.stack([np.zeros_like(cells), *np.unravel_index(cells, [side] * 3)], 1)
    return torch.from_numpy(rows.astype(np.int32))


def cloud(sites: int) -> torch.Tensor:
    return dense_block(sites) if sites <= 5_000 else peer.lidar(sites)


def row_major(indices: torch.Tensor) -> torch.Tensor:
    key = (indices[:, 1].long() * peer.SHAPE[1] + indices[:, 2]) * peer.SHAPE[2] + indices[:, 3]
    return indices[key.argsort()]


def subm_calls(library, indices: torch.Tensor, channels: int, cast: bool = False, **settings):
    """Forward, and forward with backward, the rulebook at hand."""
    torch.manual_seed(0)
    layer = library.SubMConv3d(channels, channels, 3, bias=False, indice_key="a", **settings)
    features = torch.randn(len(indices), channels)
    x = library.SparseConvTensor(features, indices, peer.SHAPE, 1)
    x.indice_dict = layer(x).indice_dict

    def forward():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
            return layer(x).features

    def both():
        leaf = features.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            out = layer(x.replace_feature(leaf)).features
        torch.autograd.grad(out, (leaf, layer.weight), torch.ones_like(out))

    return forward, both


def other_calls(library, indices: torch.Tensor, channels: int) -> dict:
    """Strided and inverse layers and a max pool, rulebooks included."""
    torch.manual_seed(0)
    features = torch.randn(len(indices), channels)
    down = library.SparseConv3d(channels, channels, 3, 2, 1, bias=False, indice_key="d")
    up = library.SparseInverseConv3d(channels, channels, 3, indice_key="d", bias=False)
    pool = library.SparseMaxPool3d(2, 2)

    def run(*layers):
        with torch.no_grad():
            x = library.SparseConvTensor(features, indices, peer.SHAPE, 1)
            for layer in layers:
                x = layer(x)

    return {
        "strided": functools.partial(run, down),
        "strided and inverse": functools.partial(run, down, up),
        "max pool": functools.partial(run, pool),
    }


def repeats_for(sites: int, channels: int) -> int:
    return 9 if sites * channels**2 < 2e7 else 5


def compare_subm(
    bench: Bench, name: str, indices: torch.Tensor, channels: int, repeats: int
) -> None:
    ours, theirs = (subm_calls(lib, indices, channels) for lib in (sp, peer.spconv))
    bench.compare(f"SubM forward, {name}", ours[0], theirs[0], repeats=repeats)
    bench.compare(f"SubM forward + backward, {name}", ours[1], theirs[1], repeats=repeats)


def against_peer(bench: Bench, threads: int) -> None:
    for sites in SITES:
        indices = cloud(sites)
        for channels in CHANNELS:
            if sites * channels**2 > MOST_WORK:
                continue
            repeats = repeats_for(sites, channels)
            name = f"{sites} sites, C{channels}, {threads} threads"
            compare_subm(bench, name, indices, channels, repeats)
            if channels in (16, 64):
                ours, theirs = (other_calls(lib, indices, channels) for lib in (sp, peer.spconv))
                for what, call in ours.items():
                    bench.compare(f"{what}, {name}", call, theirs[what], repeats=repeats)


def points_to_voxels(bench: Bench, threads: int) -> None:
    indices = peer.lidar(120_000)
    torch.manual_seed(0)
    size = torch.tensor([0.05, 0.05, 0.1])
    points = torch.rand(len(indices), 4)
    points[:, :3] = (indices[:, [3, 2, 1]] + points[:, :3]) * size
    high = [n * s for n, s in zip(peer.SHAPE[::-1], size.tolist(), strict=True)]
    for voxel in ([0.05, 0.05, 0.1], [0.2, 0.2, 0.2]):
        settings = voxel, [0, 0, 0, *high], 4, 150_000, 5
        ours, theirs = sp.PointToVoxel(*settings), PointToVoxel(*settings)
        for mean in (False, True):
            bench.compare(
                f"PointToVoxel {voxel}, empty_mean={mean}, {threads} threads",
                lambda: ours(points, empty_mean=mean),  # noqa: B023
                lambda: theirs(points, empty_mean=mean),  # noqa: B023
            )


def against_ourselves(bench: Bench) -> None:
    ordered = row_major(peer.lidar(120_000))
    torch.manual_seed(0)
    shuffled = ordered[torch.randperm(len(ordered))]
    for channels in (16, 64):
        plain = subm_calls(sp, ordered, channels)
        mixed = subm_calls(sp, shuffled, channels)
        deep = subm_calls(sp, ordered, channels, groups=channels)
        narrow = subm_calls(sp, ordered, channels, cast=True)
        for i, what in enumerate(("forward", "forward + backward")):
            name = f"{what}, 120000 sites, C{channels}"
            bench.compare(f"row-major (ours) beside shuffled (peer): {name}", plain[i], mixed[i])
            bench.compare(f"depthwise (ours) beside full (peer): {name}", deep[i], plain[i])
            bench.compare(f"bfloat16 (ours) beside float32 (peer): {name}", narrow[i], plain[i])


def main() -> None:
    bench = Bench("grid", peer.NAME, versions=peer.versions(), repeats=5)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        against_peer(bench, threads)
        points_to_voxels(bench, threads)
    torch.set_num_threads(1)
    against_ourselves(bench)
    bench.finish()


if __name__ == "__main__":
    main()
