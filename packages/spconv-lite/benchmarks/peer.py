"""spconv 2.3.8 on the CPU as the peer, and the inputs that all benchmarks share."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import spconv.pytorch as spconv
import street
from spconv.core import ConvAlgo
from spconv.pytorch import functional as spconv_functional
from spconv.pytorch import ops as spconv_ops

SHAPE = [41, 1440, 1440]
NAME = "spconv 2.3.8 CPU"

# Its backward asks for a CUDA stream before it looks at the device, which a CPU-only torch refuses.
for _module in (spconv_ops, spconv_functional):
    if hasattr(_module, "get_current_stream"):
        _module.get_current_stream = lambda: 0


def versions() -> dict[str, str]:
    import spconv_lite

    return {
        "torch": torch.__version__,
        "spconv-lite": spconv_lite.__version__,
        "spconv": "2.3.8",
        "instruction set": spconv_lite.ops._C.isa(),
    }


def lidar(count: int) -> torch.Tensor:
    """(count, 4) int32 voxels of merged street scans in the grid SHAPE, in scan order."""
    return torch.from_numpy(street.voxel_sites(count))


def scattered(count: int) -> torch.Tensor:
    """(count, 4) int32 voxels drawn uniformly from the grid."""
    cells = np.random.default_rng(0).choice(np.prod(SHAPE), count, replace=False)
    rows = np.stack([np.zeros_like(cells), *np.unravel_index(cells, SHAPE)], 1)
    return torch.from_numpy(rows.astype(np.int32))


def sgemm_rate(size: int = 2048) -> float:
    """GFLOP/s of torch's float32 matrix product with the threads that are set: best of five."""
    a = torch.randn(size, size)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def peer_pairs(indices: torch.Tensor, stride: int, subm: bool):
    """spconv's rulebook of a 3x3x3 layer: out indices, indice_pairs, indice_num."""
    threes, ones = [3] * 3, [1] * 3
    return spconv_ops.get_indice_pairs(
        indices, 1, SHAPE, ConvAlgo.Native, threes, [stride] * 3, ones, ones, [0] * 3, subm
    )


__all__ = ["NAME", "SHAPE", "lidar", "peer_pairs", "scattered", "sgemm_rate", "spconv", "versions"]
