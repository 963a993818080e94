"""Convolutions to few channels, such as a head: one matrix product, then sums of moved planes.

A convolution with one output channel has too little work for each input that it reads to fill a
convolution's register blocks. Here each input pixel is read once, for all taps of the kernel: the
product of the pixels with the weights gives a plane for each (output channel, tap), and the output
is the sum of the planes, each moved by its tap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..sequence import convolutions

# The most (output channels x taps): more planes than these move more memory than they save.
MOST_PLANES = 64
# Of inputs with fewer numbers the calls that move planes take longer than torch's convolution:
# 2 to 3 times of 24x24x16, as long of 20x20x40 (measured).
FEWEST_NUMBERS = 1 << 14


def takes(
    x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> bool:
    """Whether `convolve` does the work of this convolution, and faster."""
    plain = max(*stride, *dilation, groups) == 1
    planes = weight.shape[0] * math.prod(weight.shape[2:])
    return x.device.type == "cpu" and plain and planes <= min(MOST_PLANES, 2 * weight.shape[1])


def convolve(x: Tensor, weight: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
    """(N, size..., C) by weights (K, C, k...) to (N, out..., K), stride 1, zeros outside x.

    Differentiable to any order. Raises ValueError for other channels than the weights have, and for
    frames smaller than the kernel.
    """
    k, c, *kernel = weight.shape
    if x.shape[-1] != c:
        raise ValueError(f"Conv: input must have {c} channels (its last axis), got {x.shape[-1]}")
    out = [n + a + b - j + 1 for n, (a, b), j in zip(x.shape[1:-1], pads, kernel, strict=True)]
    if min(out) < 1:
        raise ValueError(
            f"Conv: input with its padding must be at least as large as the kernel "
            f"{tuple(kernel)}, got size {tuple(x.shape[1:-1])}"
        )
    # (an exported graph is of any size)
    if not torch.compiler.is_exporting() and x.numel() < FEWEST_NUMBERS:
        return convolutions.convolve(x, weight, pads)
    matrix = weight.flatten(2).transpose(1, 2).reshape(-1, c)  # (K taps, C)
    planes = matrix @ x.reshape(-1, c).T
    planes = planes.view(k, math.prod(kernel), *x.shape[:-1])
    return _Gather.apply(planes, tuple(kernel), tuple(a for a, _ in pads), tuple(out))


def _overlaps(kernel, before, size, out) -> Iterator[tuple[int, tuple, tuple]]:
    """(tap, where in a plane, where in the output) for each tap of the kernel."""
    for tap, place in enumerate(itertools.product(*map(range, kernel))):
        shifts = [a - j for a, j in zip(before, place, strict=True)]
        spans = [(max(0, -s), min(n, m - s)) for s, n, m in zip(shifts, size, out, strict=True)]
        if all(low < high for low, high in spans):
            inside = tuple(slice(low, high) for low, high in spans)
            moved = (slice(low + s, high + s) for (low, high), s in zip(spans, shifts, strict=True))
            yield tap, inside, tuple(moved)


class _Gather(torch.autograd.Function):
    """Planes (K, taps, N, size...) to their moved sum (N, out..., K); sums in float32 at least."""

    @staticmethod
    def forward(ctx, planes: Tensor, kernel, before, out) -> Tensor:
        ctx.options = (kernel, before, tuple(planes.shape[3:]))
        n, size = planes.shape[2], planes.shape[3:]
        wide = torch.promote_types(planes.dtype, torch.float32)
        total = planes.new_zeros(planes.shape[0], n, *out, dtype=wide)
        for tap, inside, moved in _overlaps(kernel, before, size, out):
            total[(..., *moved)] += planes[(slice(None), tap, slice(None), *inside)]
        return total.movedim(0, -1).to(planes.dtype).contiguous()

    @staticmethod
    def backward(ctx, d_out: Tensor):
        return _Scatter.apply(d_out, *ctx.options), None, None, None


class _Scatter(torch.autograd.Function):
    """The transpose of _Gather."""

    @staticmethod
    def forward(ctx, d_out: Tensor, kernel, before, size) -> Tensor:
        ctx.options = (kernel, before, tuple(d_out.shape[1:-1]))
        d = d_out.movedim(-1, 0).contiguous()
        planes = d.new_zeros(d.shape[0], math.prod(kernel), d.shape[1], *size)
        for tap, inside, moved in _overlaps(kernel, before, size, d.shape[2:]):
            planes[(slice(None), tap, slice(None), *inside)] = d[(..., *moved)]
        return planes

    @staticmethod
    def backward(ctx, d_planes: Tensor):
        return _Gather.apply(d_planes, *ctx.options), None, None, None
