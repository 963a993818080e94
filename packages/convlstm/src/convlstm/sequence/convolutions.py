"""Convolutions on channels-last frames (N, size..., C), and their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _C  # type: ignore[attr-defined]
from .reference import CONV
from .spec import flat_pads

Pads = Sequence[tuple[int, int]]

# The largest kernel that is cut into parts.
WINOGRAD_KERNEL = 7
# The products of tiles must be so few beside those of what is simpler.
GAIN = 0.8


class Tile(NamedTuple):
    """Winograd's filtering in tiles of outputs x outputs pixels for kernels cut into parts of
    taps x taps (csrc/cpu/tiles.h)."""

    outputs: int
    taps: int


WINDOWS = Tile(1, 1)  # of pixels: a convolution as it is defined


def _fewest_tiles(isa: str) -> dict[Tile, tuple[int, int]]:
    """How many of each kind pay (at each call, over all calls), measured with
    benchmarks/bench_shapes.py. The weights' transform costs once, their way through the cache at
    each call; products are saved for each tile. Weights are 16 times a kernel of 3x3, 36, and 64 in
    place of four parts of 3x3 or nine. Narrow vectors gain sooner: their products last longer."""
    each, once = (12, 60) if isa == "avx512" else (8, 8)
    return {
        Tile(2, 3): (each, once),
        Tile(4, 3): (12, 60),
        Tile(4, 5): (12, 60),
        Tile(2, 7): (each // 2, once // 2),
    }


FEWEST_TILES = _fewest_tiles(_C.isa())
# With fewer channels the transforms of tiles of 7x7 cost more than their products save.
CHANNELS_OF_7 = 32


def tile_of(
    x: Tensor, size: Sequence[int], kernel: Sequence[int], calls: int, most: int = 7
) -> Tile:
    """The way in which a stride-1 convolution of frames like x (N, H, W, C) to (N, *size, K),
    called `calls` times with one kernel, is fastest on this processor, in parts of at most `most`
    taps: 5 for weights' gradients, which those of 7 round too much."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or len(kernel) != 2:
        return WINDOWS
    if not min(kernel) >= 2 or max(kernel) > WINOGRAD_KERNEL:
        return WINDOWS
    if x.dtype != torch.float32:
        most = 3
    elif x.shape[-1] < CHANNELS_OF_7:
        most = min(most, 5)
    return _fewest_products(x.shape[0], *size, *kernel, calls, most)


@lru_cache(maxsize=1024)
def _fewest_products(
    frames: int, height: int, width: int, rows: int, columns: int, calls: int, most: int
) -> Tile:
    """tile_of so many frames (height, width) for a kernel (rows, columns), of tiles of at most so
    many taps; of 3, bfloat16's, of 2x2 alone."""
    best, fewest = WINDOWS, frames * height * width * rows * columns
    for tile, (each, once) in FEWEST_TILES.items():
        out, taps = tile
        unknown = taps > most or (most == 3 and out > 2)
        if unknown or (taps > 3 and not 3 < min(rows, columns) <= max(rows, columns) <= taps):
            continue
        tiles = frames * -(-height // out) * -(-width // out)
        products = tiles * (out + taps - 1) ** 2 * -(-rows // taps) * -(-columns // taps)
        if products < GAIN * fewest and tiles >= each + once / max(1, calls):
            best, fewest = tile, products
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
        tile = tile_of(x, x.shape[1:-1], kernel, 1, most=5) if same else WINDOWS
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
