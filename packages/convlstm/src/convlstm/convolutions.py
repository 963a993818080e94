"""The convolutions of the fused sequence, on channels-last frames (N, size..., C).

Three ways: Winograd's minimal filtering in native code (`WinogradFilter`), torch's convolution over
both inputs copied side by side (`CatFilter`), and torch's convolution of each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _C
from .reference import CONV
from .spec import flat_pads

Pads = Sequence[tuple[int, int]]

# Winograd's filtering costs its weights' transform once, their way through the cache at each call;
# it saves products for each tile of 2x2 outputs. With fewer tiles than these a plain convolution is
# faster (estimated from the products, the bytes of the weights and the transform, for AVX2).
WINOGRAD_TILES = 12
WINOGRAD_TRANSFORM_TILES = 60
# The largest kernel that is cut into parts of 3x3.
WINOGRAD_KERNEL = 7


def winograd_pays(x: Tensor, size: Sequence[int], kernel: Sequence[int], calls: int) -> bool:
    """Whether a stride-1 convolution of frames like x (N, H, W, C) to (N, *size, K), called `calls`
    times with one kernel, is faster by Winograd's filtering."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or len(kernel) != 2:
        return False
    if not min(kernel) >= 2 or max(kernel) > WINOGRAD_KERNEL:
        return False
    products = 16 * _parts(kernel[0]) * _parts(kernel[1])
    if products >= 0.8 * 4 * math.prod(kernel):
        return False
    tiles = x.shape[0] * -(-size[0] // 2) * -(-size[1] // 2)
    return tiles >= WINOGRAD_TILES + WINOGRAD_TRANSFORM_TILES / max(1, calls)


def _parts(kernel: int) -> int:
    return -(-kernel // 3)


@dataclass(frozen=True)
class WinogradFilter:
    """A stride-1 convolution with its weights transformed once for many calls.

    pads: zeros before the first row and column; the output's size says the rest.
    """

    transformed: Tensor
    parts: tuple[int, int]
    before: tuple[int, int]

    @classmethod
    def make(cls, weight: Tensor, pads: Pads) -> WinogradFilter:
        """weight (K, C, kh, kw), with the channels of both inputs and of both outputs."""
        out, channels, height, width = weight.shape
        down, across = _parts(height), _parts(width)
        padded = F.pad(weight, (0, 3 * across - width, 0, 3 * down - height))
        # (K, C, down, 3, across, 3) to (down, across, C, 3, 3, K)
        parts = padded.reshape(out, channels, down, 3, across, 3).permute(2, 4, 1, 3, 5, 0)
        parts = parts.reshape(down * across * channels, 3, 3, out).contiguous()
        transformed = weight.new_empty(_C.winograd_size(parts.shape[0], out))
        _C.winograd_weights(parts, transformed)
        return cls(transformed, (down, across), (pads[0][0], pads[1][0]))

    def __call__(self, x: Tensor, out: Tensor, x2: Tensor | None = None, out2=None) -> Tensor:
        """(N, H, W, C) to `out`, which is returned; x2 follows x in channels, out2 follows out."""
        threads = torch.get_num_threads()
        _C.winograd(x, x2, self.transformed, out, out2, *self.parts, *self.before, threads)
        return out


@dataclass(frozen=True)
class CatFilter:
    """The same by torch, over both inputs copied side by side; for "same" pads."""

    weight: Tensor
    pads: Pads

    @classmethod
    def make(cls, weight: Tensor, pads: Pads) -> CatFilter:
        return cls(channels_last(weight), pads)

    def __call__(self, x: Tensor, out: Tensor, x2: Tensor | None = None, out2=None) -> Tensor:
        if x2 is not None:
            x = torch.cat([x, x2], -1)
        y = convolve(x, self.weight, self.pads)
        if out2 is None:
            return y
        out.copy_(y[..., : out.shape[-1]])
        out2.copy_(y[..., out.shape[-1] :])
        return out


@dataclass(frozen=True)
class ProductFilter:
    """The same as one matrix product of the windows of a few frames: for small maps, where the
    preparations of a convolution cost more than its products."""

    matrix: Tensor  # (kh kw C, K)
    kernel: tuple[int, int]
    pads: Pads

    @classmethod
    def make(cls, weight: Tensor, pads: Pads) -> ProductFilter:
        matrix = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous()
        return cls(matrix, tuple(weight.shape[2:]), pads)

    def __call__(self, x: Tensor, out: Tensor, x2: Tensor | None = None, out2=None) -> Tensor:
        y = torch.mm(self._windows(x, x2), self.matrix)
        if out2 is None:
            return y.view(*out.shape)
        out.copy_(y[:, : out.shape[-1]].view_as(out))
        out2.copy_(y[:, out.shape[-1] :].view_as(out2))
        return out

    def _windows(self, x: Tensor, x2: Tensor | None) -> Tensor:
        """(N H W, kh kw C): the window of each output, rows of channels side by side."""
        n, height, width, channels = x.shape
        every = channels + (0 if x2 is None else x2.shape[-1])
        (top, bottom), (left, right) = self.pads
        framed = x.new_zeros(n, height + top + bottom, width + left + right, every)
        inside = framed[:, top : top + height, left : left + width]
        inside[..., :channels] = x
        if x2 is not None:
            inside[..., channels:] = x2
        kh, kw = self.kernel
        rows, columns = framed.shape[1] - kh + 1, framed.shape[2] - kw + 1
        a, b, c, d = framed.stride()
        windows = framed.as_strided((n, rows, columns, kh, kw, every), (a, b, c, b, c, d))
        return windows.reshape(n * rows * columns, kh * kw * every)


@dataclass(frozen=True)
class OneFilter:
    """torch's convolution of one input with its weights as they are, or (`back`) its transpose: for
    weights so large beside the frames that arranging them anew costs more than it saves."""

    weight: Tensor  # (K, C, k...)
    pads: Pads
    back: bool

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        if not self.back:
            return convolve(x, self.weight, self.pads)
        ones = (1,) * len(self.pads)
        return transposed(x, out.movedim(-1, 1), self.weight, self.pads, ones, ones)


Filter = WinogradFilter | CatFilter | ProductFilter | OneFilter

# Weights with so many times the floats that a state channel has over all steps stay as they are.
HEAVY = 2000


def is_heavy(weight: Tensor, pixels: int) -> bool:
    """Whether arranging `weight` anew costs more than it saves on so many pixels in all."""
    return weight.numel() > HEAVY * pixels


# The most floats of the windows of one call that are taken as a matrix.
PRODUCT_FLOATS = 1 << 19


def choose_filter(weight: Tensor, pads: Pads, x: Tensor, size: Sequence[int], calls: int) -> Filter:
    """The filter for a stride-1 convolution by `weight` (K, C, k...) of frames on the grid of x
    (N, size..., any) to (N, *size, K), to be called `calls` times."""
    kernel = weight.shape[2:]
    if winograd_pays(x, size, kernel, calls):
        return WinogradFilter.make(weight, pads)
    floats = x.shape[0] * math.prod(size) * math.prod(kernel) * weight.shape[1]
    if x.device.type == "cpu" and len(kernel) == 2 and floats <= PRODUCT_FLOATS:
        return ProductFilter.make(weight, pads)
    return CatFilter.make(weight, pads)


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
        out = x.new_empty(*kernel, x.shape[-1], d_out.shape[-1])
        top = 0 if rank == 1 else pads[0][0]
        _C.weight_gradient(x, d_out, out, top, pads[-1][0], torch.get_num_threads())
        return out.permute(3, 2, 0, 1).reshape(weight.shape)
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
    pixels = d_out.numel() // max(1, d_out.shape[-1])
    if all(v == 1 for v in (*stride, *dilation)) and not is_heavy(weight, pixels):
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
