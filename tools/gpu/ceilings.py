"""The ceilings of the device, which every later figure is held against: copy, bf16 and tf32 GEMM.

Each line is written at once. Times are of CUDA events, the median of ten after three warm-ups.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gpu import lines


def write(label: str, value: float, unit: str) -> None:
    print(f"{label}: {value:.4g} {unit}", flush=True)
    lines.write("ceiling", label=label, value=float(f"{value:.4g}"), unit=unit)


def seconds(call: Callable[[], object]) -> float:
    times = []
    for turn in range(13):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        begin.record()
        call()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_rate() -> float:
    """Bytes read and written in a second by a copy of 4 GiB."""
    source = torch.empty(2**30, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source))


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA device answers")
        return 3
    write("copy", copy_rate() / 1e12, "TB/s")
    small = torch.empty(1, device="cuda")
    write("launch of a small kernel", seconds(lambda: small.fill_(1.0)) * 1e6, "us")
    n = 8192
    for name, dtype, tf32 in (("bf16", torch.bfloat16, False), ("tf32", torch.float32, True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in "ab")
        took = seconds(lambda a=a, b=b: a @ b)
        write(f"{name} GEMM {n}", 2 * n**3 / took / 1e12, "TFLOP/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
