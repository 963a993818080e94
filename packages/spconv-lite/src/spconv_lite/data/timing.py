"""How fast this build is on this machine: rulebooks and convolutions on a street."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ..kernels import ops
from ..layers import SparseConvTensor, SubMConv3d
from . import street


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Milliseconds of wall time: the median of `repeats` calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def three_digits(figure: float) -> float:
    """A slow machine's rate is small, never 0.0."""
    return float(f"{figure:.3g}")


def measure(sites: int, channels: int, repeats: int) -> dict[str, float]:
    """Milliseconds of the steps of one 3x3x3 layer on `sites` voxels of a street, with the threads
    that torch has, and the rate of its forward pass."""
    indices = torch.from_numpy(street.voxel_sites(sites))
    layer = SubMConv3d(channels, channels, 3, bias=False, indice_key="a")
    features = torch.randn(sites, channels, requires_grad=True)
    x = SparseConvTensor(features, indices, street.SHAPE, 1)
    x.indice_dict = layer(x).indice_dict
    pairs = len(x.indice_dict["a"].rulebook.pair_out)
    ones, threes = [1] * 3, [3] * 3

    @torch.no_grad()
    def forward() -> None:
        layer(x)

    def both() -> None:
        layer(x).features.sum().backward()

    def subm() -> None:
        ops.subm_rulebook(indices, 1, street.SHAPE, threes, ones)

    def strided() -> None:
        ops.rulebook(indices, 1, street.SHAPE, threes, [2] * 3, ones, ones, [0] * 3, False)

    forward_ms = median_ms(forward, repeats)
    return {
        "pairs": pairs,
        "submanifold rulebook, ms": three_digits(median_ms(subm, repeats)),
        "stride 2 rulebook, ms": three_digits(median_ms(strided, repeats)),
        "forward, ms": three_digits(forward_ms),
        "forward + backward, ms": three_digits(median_ms(both, repeats)),
        "forward, GFLOP/s": three_digits(2 * pairs * channels**2 / forward_ms / 1e6),
    }
