"""Big cases on a device: sizes at which 32-bit offsets and grid-stride loops of one pass fail.

Each case has a line of its own and is judged against plain torch on the same device, on rows that
are drawn at random and on the last ones. A case that raises does not stop the next.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

CASES: list[Callable[[], str]] = []


def case(function: Callable[[], str]) -> Callable[[], str]:
    CASES.append(function)
    return function


def sites_of(rows: int, batch_size: int, length: int) -> torch.Tensor:
    """`rows` different sites int32 (rows, 4) of a cube, in a random order."""
    keys = torch.randperm(batch_size * length**3, device="cuda")[:rows]
    columns = []
    for _ in range(3):
        columns.append(keys % length)
        keys = keys // length
    return torch.stack([keys, *reversed(columns)], 1).int()


def submanifold(kernels: str, rows: int, channels: int, dtype: torch.dtype) -> float:
    """Largest relative difference of sampled output rows from a gather and a product in float64."""
    from spconv_lite import ops

    ops.set_kernels("cuda", kernels)
    indices = sites_of(rows, 4, 128)
    book = ops.subm_rulebook(indices, 4, [128] * 3, [3] * 3, [1] * 3)
    x = torch.randn(rows, channels, device="cuda", dtype=dtype)
    weight = torch.randn(channels, 3, 3, 3, channels, device="cuda", dtype=dtype)
    y = ops.conv(x, weight, None, *book, rows, 1, True)
    sample = torch.cat([torch.randint(0, rows, (200,)), torch.arange(rows - 56, rows)]).cuda()
    stride = torch.tensor([128**3, 128**2, 128, 1], device="cuda")
    keys, order = (indices.long() * stride).sum(1).sort()
    want = torch.zeros(len(sample), channels, device="cuda", dtype=torch.float64)
    w = weight.double().reshape(channels, 27, channels)
    for k, shift in enumerate(torch.cartesian_prod(*[torch.arange(-1, 2)] * 3).cuda()):
        site = indices[sample].long()
        site[:, 1:] += shift
        inside = ((site[:, 1:] >= 0) & (site[:, 1:] < 128)).all(1)
        key = (site * stride).sum(1)
        place = torch.searchsorted(keys, key).clamp_(max=rows - 1)
        has = inside & (keys[place] == key)
        want[has] += x[order[place[has]]].double() @ w[:, k].T
    return float((y[sample].double() - want).norm() / want.norm())


def judged(kernels: str, rows: int, channels: int, dtype: torch.dtype, limit: float) -> str:
    error = submanifold(kernels, rows, channels, dtype)
    if not error <= limit:
        raise AssertionError(f"{kernels}: relative error {error:.2e}, allowed {limit:.0e}")
    return f"{kernels}, {rows} rows of {channels} channels: relative error {error:.1e}"


@case
def native_kernels_with_a_million_rows() -> str:
    return judged("native", 1_000_000, 64, torch.bfloat16, 1e-2)


@case
def triton_kernels_with_a_million_rows() -> str:
    return judged("triton", 1_000_000, 64, torch.bfloat16, 1e-2)


@case
def native_kernels_with_features_beyond_2_to_the_31_elements() -> str:
    return judged("native", 4_300_000, 512, torch.bfloat16, 1e-2)


@case
def triton_kernels_with_features_beyond_2_to_the_31_elements() -> str:
    return judged("triton", 4_300_000, 512, torch.bfloat16, 1e-2)


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA device answers")
        return 3
    failed = 0
    for function in CASES:
        started = time.monotonic()
        try:
            outcome, detail = "passed", function()
        except Exception:
            outcome, detail = "failed", traceback.format_exc()[-1500:]
            failed += 1
        torch.cuda.empty_cache()
        line = {"kind": "test", "run": os.environ.get("GPU_CHECK_RUN", ""), "id": function.__name__}
        line |= {"outcome": outcome, "detail": detail, "seconds": time.monotonic() - started}
        print(f"{function.__name__}: {outcome}: {detail}", flush=True)
        if target := os.environ.get("GPU_CHECK_RESULTS"):
            with Path(target).open("a") as file:
                file.write(json.dumps(line) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
