"""Convolutions on channels-last frames (N, size..., C), and their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _C  # type: ignore[attr-defined]
from .reference import CONV
from .spec import flat_pads

Pads = Sequence[tuple[int, int]]

# Winograd's filtering costs its weights' transform once, their way through the cache at each call;
# it saves products for each tile. With fewer tiles than these a plain convolution is faster, and
# tiles of 2x2 are faster than those of 4x4, whose weights are 2.25 times as many (measured with
# benchmarks/bench_shapes.py).
TILES = 12
TRANSFORM_TILES = 60
# The largest kernel that is cut into parts of 3x3.
WINOGRAD_KERNEL = 7
# The products of tiles must be so few beside those of what is simpler.
GAIN = 0.8


def tile_outputs(x: Tensor, size: Sequence[int], kernel: Sequence[int], calls: int) -> int:
    """How a stride-1 convolution of frames like x (N, H, W, C) to (N, *size, K), called `calls`
    times with one kernel, is fastest: 2 or 4 for Winograd's filtering in tiles of so many outputs
    a side (csrc/cpu/tiles.h), 1 for windows of pixels."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or len(kernel) != 2:
        return 1
    if not min(kernel) >= 2 or max(kernel) > WINOGRAD_KERNEL:
        return 1
    widest = 4 if x.dtype == torch.float32 else 2
    return _fewest_products(x.shape[0], *size, *kernel, calls, widest)


@lru_cache(maxsize=1024)
def _fewest_products(
    frames: int, height: int, width: int, rows: int, columns: int, calls: int, widest: int
) -> int:
    """tile_outputs of so many frames (height, width) for a kernel (rows, columns)."""
    best, fewest = 1, frames * height * width * rows * columns
    for out in range(2, widest + 1, 2):
        tiles = frames * -(-height // out) * -(-width // out)
        products = tiles * (out + 2) ** 2 * -(-rows // 3) * -(-columns // 3)
        if products < GAIN * fewest and tiles >= TILES + TRANSFORM_TILES / max(1, calls):
            best, fewest = out, products
    return best


def channels_last(weight: Tensor) -> Tensor:
    """Weights in the memory format of channels-last convolutions."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if weight.dim() not in formats:
        return weight.contiguous()
    return weight.contiguous(memory_format=formats[weight.dim()])


def first(x: Tensor) -> Tensor:
    """(N, size..., C) seen as (N, C, size...)."""
    return x.movedim(-1, 1)


def last(x: Tensor) -> Tensor:
    """(N, C, size...) as contiguous (N, size..., C)."""
    return x.movedim(1, -1).contiguous()


def convolve(
    x: Tensor,
    weight: Tensor,
    pads: Pads,
    stride: Sequence[int] | int = 1,
    dilation: Sequence[int] | int = 1,
) -> Tensor:
    """(N, size..., C) to contiguous (N, out size..., K); pads are (before, after) of each axis."""
    if math.prod(weight.shape[2:]) == 1 and stride in (1, (1,) * len(pads)):
        flat = x.reshape(-1, x.shape[-1]) @ weight.flatten(1).T
        return flat.view(*x.shape[:-1], weight.shape[0])
    x = first(x)
    if any(a != b for a, b in pads):
        x, padding = F.pad(x, flat_pads(pads)), (0,) * len(pads)
    else:
        padding = tuple(a for a, _ in pads)
    return last(CONV[len(pads)](x, weight, None, stride, padding, dilation))


def turned(weight: Tensor) -> Tensor:
    """The weights (C, K, k...) whose convolution is the transpose of `weight`'s, for stride 1."""
    return weight.flip(tuple(range(2, weight.dim()))).transpose(0, 1)


def turned_pads(pads: Pads, weight: Tensor) -> list[tuple[int, int]]:
    """The pads of that convolution."""
    return [(k - 1 - a, k - 1 - b) for (a, b), k in zip(pads, weight.shape[2:], strict=True)]


def weight_gradient(
    x: Tensor,
    d_out: Tensor,
    weight: Tensor,
    pads: Pads,
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The gradient of `weight` (K, C, k...) from x (N, size..., C) and d_out (N, out..., K)."""
    plain = all(v == 1 for v in (*stride, *dilation))
    rank = len(pads)
    fits = all(a < k for (a, _), k in zip(pads, weight.shape[2:], strict=True))
    if x.device.type == "cpu" and x.dtype == torch.float32 and plain and rank <= 2 and fits:
        if rank == 1:
            x, d_out = x.unsqueeze(1), d_out.unsqueeze(1)
        kernel = (1,) * (2 - rank) + tuple(weight.shape[2:])
        out = x.new_zeros(*weight.shape[:2], *kernel)
        top, left = 0 if rank == 1 else pads[0][0], pads[-1][0]
        same = x.shape[1:-1] == d_out.shape[1:-1]
        tile = tile_outputs(x, x.shape[1:-1], kernel, 1) if same else 1
        _C.weight_gradient(
            x, None, None, d_out, out, None, None, top, left, tile, torch.get_num_threads()
        )
        return out.view(weight.shape)
    x = first(x)
    if any(a != b for a, b in pads):
        x, pads = F.pad(x, flat_pads(pads)), [(0, 0)] * rank
    padding = [a for a, _ in pads]
    return torch.ops.aten.convolution_backward(
        first(d_out), x, weight, None, list(stride), padding, list(dilation), False,
        [0] * rank, 1, [False, True, False],
    )[1]  # fmt: skip


def input_gradient(
    d_out: Tensor,
    x: Tensor,
    weight: Tensor,
    pads: Pads,
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The gradient of x (N, size..., C) from d_out (N, out..., K)."""
    if all(v == 1 for v in (*stride, *dilation)):
        return convolve(d_out, channels_last(turned(weight)), turned_pads(pads, weight))
    return transposed(d_out, first(x), weight, pads, stride, dilation)


def transposed(
    d_out: Tensor,
    padded: Tensor,
    weight: Tensor,
    pads: Pads,
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The gradient (N, size..., C) of an input like `padded` (N, C, size...), by torch."""
    rank, size = len(pads), padded.shape[2:]
    if any(a != b for a, b in pads):
        padded, padding = F.pad(padded, flat_pads(pads)), [0] * rank
    else:
        padding = [a for a, _ in pads]
    d_x = torch.ops.aten.convolution_backward(
        first(d_out), padded, weight, None, list(stride), padding, list(dilation), False,
        [0] * rank, 1, [True, False, False],
    )[0]  # fmt: skip
    if any(a != b for a, b in pads):
        for axis, ((a, _), n) in enumerate(zip(pads, size, strict=True)):
            d_x = d_x.narrow(2 + axis, a, n)
    return last(d_x)
