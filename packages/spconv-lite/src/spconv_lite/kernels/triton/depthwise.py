"""Depthwise layers, one input channel for one output channel: no matrix product. Channels lie side
by side in memory, so that the lanes of a warp are channels and every load is whole."""

import triton
import triton.language as tl

from .products import ended


@triton.jit(do_not_specialize=["rows", "table_pitch", "volume"])
def masked_depthwise(
    x, weight, bias, mean, variance, gain, offset, y,
    table, order, lists,
    rows, table_pitch, volume, eps, channels,
    HAS_BIAS: tl.constexpr, NORM: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_OFFSET: tl.constexpr,
    RECTIFIED: tl.constexpr,
    MIRROR: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """y[i, c] = the end of the sum over k of x[table[k, i], c] weight[c, k].

    x and y (rows, channels), weight (channels, volume). MIRROR: the table's offset k belongs to the
    weight's volume - 1 - k. A program a tile of rows and of channels.
    """
    tile = tl.program_id(0)
    place = tile * BM + tl.arange(0, BM)
    inside = place < rows
    row = tl.load(order + place, mask=inside, other=0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    within = c < channels
    offsets = lists + tile.to(tl.int64) * (volume + 1)
    total = tl.zeros((BM, BC), dtype=tl.float32)
    for step in range(tl.load(offsets)):
        k = tl.load(offsets + 1 + step)
        source = tl.load(table + k.to(tl.int64) * table_pitch + row, mask=inside, other=-1)
        at = source.to(tl.int64)[:, None] * channels + c[None, :]
        a = tl.load(x + at, mask=(source >= 0)[:, None] & within[None, :], other=0.0)
        kw = volume - 1 - k if MIRROR else k
        w = tl.load(weight + c.to(tl.int64) * volume + kw, mask=within, other=0.0)
        total += a.to(tl.float32) * w.to(tl.float32)[None, :]
    total = ended(
        total, bias, mean, variance, gain, offset, eps, c, within,
        HAS_BIAS, NORM, HAS_GAIN, HAS_OFFSET, RECTIFIED,
    )  # fmt: skip
    at = row.to(tl.int64)[:, None] * channels + c[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside[:, None] & within[None, :])


@triton.jit(do_not_specialize=["pitch", "volume", "splits"])
def pair_depthwise(
    x, gradient, partial,
    pairs_in, pairs_out, counts,
    pitch, volume, channels, splits,
    BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """partial[s, c, k] = sum over the pairs p of split s of offset k of
    gradient[pairs_out[k, p], c] x[pairs_in[k, p], c].

    A program a tile of channels, an offset and a split.
    """
    k, split = tl.program_id(1).to(tl.int64), tl.program_id(2)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    within = c < channels
    count = tl.load(counts + k)
    share = tl.cdiv(tl.cdiv(count, BR), splits) * BR
    first = split * share
    last = tl.minimum(first + share, count)
    total = tl.zeros((BR, BC), dtype=tl.float32)
    for begin in range(first, last, BR):
        p = begin + tl.arange(0, BR)
        i = tl.load(pairs_in + k * pitch + p, mask=p < last, other=-1).to(tl.int64)
        o = tl.load(pairs_out + k * pitch + p, mask=p < last, other=-1).to(tl.int64)
        has = (i >= 0)[:, None] & within[None, :]
        g = tl.load(gradient + o[:, None] * channels + c[None, :], mask=has, other=0.0)
        v = tl.load(x + i[:, None] * channels + c[None, :], mask=has, other=0.0)
        total += g.to(tl.float32) * v.to(tl.float32)
    at = (split.to(tl.int64) * channels + c) * volume + k
    tl.store(partial + at, tl.sum(total, 0), mask=within)
