"""The products of sparse convolution on tensor cores.

Masked implicit GEMM, after the sorted implicit GEMM of spconv 2 (Yan) and TorchSparse++ (Tang et
al. 2023, arXiv 2311.12862): rows are sorted by their set of kernel offsets (tiles.py), a tile of 64
rows walks over the offsets that any of them has, gathers the input rows and multiplies. The walk
over offsets and channels is one flat loop, so that Triton pipelines the gathers.

Sums are in float32 and of one order: results are the same bits in every run.
"""

import triton
import triton.language as tl


@triton.jit
def ended(
    total, bias, mean, variance, gain, offset, eps, n, inside,
    HAS_BIAS: tl.constexpr, NORM: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_OFFSET: tl.constexpr,
    RECTIFIED: tl.constexpr,
):  # fmt: skip
    """Sums (rows, n) plus bias[n]; NORM: folded as norm.py does, less mean[n], over the root of
    variance[n] + eps, times gain[n], plus offset[n]; at least zero. What is not a number stays."""
    shift = tl.zeros(n.shape, dtype=tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.load(variance + n, mask=inside, other=1.0).to(tl.float32) + eps)
        if HAS_GAIN:
            scale *= tl.load(gain + n, mask=inside, other=0.0).to(tl.float32)
        shift = (shift - tl.load(mean + n, mask=inside, other=0.0).to(tl.float32)) * scale
        if HAS_OFFSET:
            shift += tl.load(offset + n, mask=inside, other=0.0).to(tl.float32)
        total *= scale[None, :]
    if HAS_BIAS or NORM:
        total += shift[None, :]
    if RECTIFIED:
        total = tl.where(total < 0.0, 0.0, total)
    return total


@triton.jit(do_not_specialize=["rows", "table_pitch", "volume"])
def masked_product(
    x, weight, bias, mean, variance, gain, offset, y,
    table, order, lists,
    rows, table_pitch, volume, eps,
    c_in, c_out, groups,
    w_group, w_out, w_offset, w_in,
    HAS_BIAS: tl.constexpr, NORM: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_OFFSET: tl.constexpr,
    RECTIFIED: tl.constexpr,
    MIRROR: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y[i, g, n] = the end of the sum over k, c of x[table[k, i], g, c] weight[g, n, k, c].

    x (rows read, groups * c_in); weight by its strides w_group, w_out, w_offset and w_in; y (rows,
    groups * c_out). MIRROR: the table's offset k belongs to the weight's volume - 1 - k. A program
    a tile of rows, of output channels and a group.
    """
    tile, group = tl.program_id(0), tl.program_id(2)
    place = tile * BM + tl.arange(0, BM)
    inside = place < rows
    row = tl.load(order + place, mask=inside, other=0)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    offsets = lists + tile.to(tl.int64) * (volume + 1)
    blocks = tl.cdiv(c_in, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(tl.load(offsets) * blocks):
        k = tl.load(offsets + 1 + step // blocks)
        c = (step % blocks) * BK + depth
        source = tl.load(table + k.to(tl.int64) * table_pitch + row, mask=inside, other=-1)
        at = source.to(tl.int64)[:, None] * (groups * c_in) + (group * c_in + c)[None, :]
        a = tl.load(x + at, mask=(source >= 0)[:, None] & (c < c_in)[None, :], other=0.0)
        kw = volume - 1 - k if MIRROR else k
        w = weight + group.to(tl.int64) * w_group + kw.to(tl.int64) * w_offset
        at = c.to(tl.int64)[:, None] * w_in + n.to(tl.int64)[None, :] * w_out
        b = tl.load(w + at, mask=(c < c_in)[:, None] & (n < c_out)[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    channel = group * c_out + n
    total = ended(
        total, bias, mean, variance, gain, offset, eps, channel, n < c_out,
        HAS_BIAS, NORM, HAS_GAIN, HAS_OFFSET, RECTIFIED,
    )  # fmt: skip
    at = row.to(tl.int64)[:, None] * (groups * c_out) + channel[None, :]
    mask = inside[:, None] & (n < c_out)[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["pitch", "volume", "splits"])
def pair_product(
    x, gradient, partial,
    pairs_in, pairs_out, counts,
    pitch, volume, c_in, c_out, groups, splits,
    PRECISION: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """partial[s, g, n, k, c] = sum over the pairs p of split s of offset k of
    gradient[pairs_out[k, p], g, n] x[pairs_in[k, p], g, c].

    A program a tile of output and input channels of one group, an offset and a split.
    """
    across, down = tl.cdiv(c_in, BC), tl.cdiv(c_out, BN)
    block, k, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    c = block % across * BC + tl.arange(0, BC)
    n = block // across % down * BN + tl.arange(0, BN)
    group = block // across // down
    count = tl.load(counts + k)
    share = tl.cdiv(tl.cdiv(count, BR), splits) * BR
    first = split * share
    last = tl.minimum(first + share, count)
    total = tl.zeros((BN, BC), dtype=tl.float32)
    for begin in range(first, last, BR):
        p = begin + tl.arange(0, BR)
        i = tl.load(pairs_in + k * pitch + p, mask=p < last, other=-1).to(tl.int64)
        o = tl.load(pairs_out + k * pitch + p, mask=p < last, other=-1).to(tl.int64)
        at = o[None, :] * (groups * c_out) + (group * c_out + n)[:, None]
        g = tl.load(gradient + at, mask=(o >= 0)[None, :] & (n < c_out)[:, None], other=0.0)
        at = i[:, None] * (groups * c_in) + (group * c_in + c)[None, :]
        v = tl.load(x + at, mask=(i >= 0)[:, None] & (c < c_in)[None, :], other=0.0)
        total = tl.dot(g, v, total, input_precision=PRECISION)
    row = (split * groups + group).to(tl.int64) * c_out + n
    at = (row[:, None] * volume + k) * c_in + c[None, :]
    tl.store(partial + at, total, mask=(n < c_out)[:, None] & (c < c_in)[None, :])


@triton.jit(do_not_specialize=["size", "splits"])
def add_splits(partial, total, size, splits, BLOCK: tl.constexpr):
    """total[i] = the sum of partial[s, i] over the splits, in their order."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    value = tl.zeros((BLOCK,), dtype=tl.float32)
    for _ in range(splits):
        value += tl.load(partial + i, mask=inside, other=0.0)
        partial += size
    tl.store(total + i, value.to(total.dtype.element_ty), mask=inside)
