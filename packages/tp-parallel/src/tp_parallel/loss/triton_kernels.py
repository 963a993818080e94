"""The loss by Triton: one read of the logits for its statistics, one for their gradient.

What ops.set_cuda_kernels("triton") chooses. Triton comes with every CUDA build of torch and is
imported here only. Compiled and interpreted, never run on a device.

A program takes a row and walks over blocks of columns with the online maximum and sum of Milakov
and Gimelshein (2018, arXiv 1805.02867); the gradient has a program for each block. All sums are in
float32 and of one order.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = 4096  # columns at a time: 16 of each of 256 threads
WARPS = 8


@triton.jit(do_not_specialize=["start", "ignore_index"])
def row_statistics(
    logits, target, out,
    columns, start, valid, ignore_index,
    WITH_SUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[row] = maximum, sum of exp(x - maximum), target's logit (0 on another rank) and sum."""
    row = tl.program_id(0).to(tl.int64)
    x = logits + row * columns
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    plain = tl.zeros((), tl.float32)
    for begin in range(0, valid, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = column < valid
        # Masked by the row's length, as a rule a multiple of 16 bytes, which are read at once.
        value = tl.load(x + column, mask=column < columns, other=0.0).to(tl.float32)
        value = tl.where(inside, value, float("-inf"))
        higher = tl.maximum(top, tl.max(value, 0))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # -inf - -inf is no number
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(value - shift), 0)
        top = higher
        if WITH_SUM:
            plain += tl.sum(tl.where(inside, value, 0.0), 0)
    label = tl.load(target + row)
    own = label - start
    here = (label != ignore_index) & (own >= 0) & (own < valid)
    to = out + row * 4
    tl.store(to, top)
    tl.store(to + 1, total)
    tl.store(to + 2, tl.load(x + own, mask=here, other=0.0).to(tl.float32))
    tl.store(to + 3, plain)


@triton.jit(do_not_specialize=["tokens", "ignore_index", "ranks"])
def combine_ranks(
    every, target, loss, lse,
    tokens, ranks, ignore_index, smoothing, sum_weight, z_loss,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss and log-sum-exp of each token from the statistics of all ranks (ranks, tokens, 4)."""
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = token < tokens
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    at = every + token * 4
    for _ in range(ranks):
        top = tl.maximum(top, tl.load(at, mask=inside, other=float("-inf")))
        at += tokens.to(tl.int64) * 4
    shift = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros((BLOCK,), tl.float32)
    picked = tl.zeros((BLOCK,), tl.float32)
    plain = tl.zeros((BLOCK,), tl.float32)
    at = every + token * 4
    for _ in range(ranks):
        scale = tl.exp(tl.load(at, mask=inside, other=0.0) - shift)
        total += tl.load(at + 1, mask=inside, other=1.0) * scale
        picked += tl.load(at + 2, mask=inside, other=0.0)
        plain += tl.load(at + 3, mask=inside, other=0.0)
        at += tokens.to(tl.int64) * 4
    value = shift + tl.log(total)
    result = value - (1.0 - smoothing) * picked - sum_weight * plain + z_loss * value * value
    ignored = tl.load(target + token, mask=inside, other=0) == ignore_index
    tl.store(loss + token, tl.where(ignored, 0.0, result), mask=inside)
    tl.store(lse + token, value, mask=inside)


@triton.jit(do_not_specialize=["grad_stride", "start", "ignore_index"])
def row_gradient(
    logits, target, lse, grad, out,
    columns, grad_stride, start, valid, ignore_index, smoothing, sum_weight, z_loss,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out = grad * d loss / d logits, a block of one row; 0 for ignored rows and for padding. May
    be in place."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(target + row)
    scale = tl.load(grad + row * grad_stride).to(tl.float32)
    height = tl.load(lse + row)
    # An ignored row may hold infinities or NaN: zero times those is not zero.
    filled = tl.where((label != ignore_index) & (scale != 0.0), valid, 0)
    inside = column < filled
    at = row * columns + column
    value = tl.load(logits + at, mask=column < columns, other=0.0).to(tl.float32)
    value = tl.exp(value - height) * (scale * (1.0 + 2.0 * z_loss * height)) - scale * sum_weight
    value = tl.where(column == label - start, value - scale * (1.0 - smoothing), value)
    value = tl.where(inside, value, 0.0)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=column < columns)


def _on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def statistics(
    logits: Tensor, target: Tensor, start: int, valid: int, ignore_index: int, with_sum: bool
) -> Tensor:
    """As ops.loss_statistics: float32 (rows, 4). Does not synchronise."""
    rows, columns = logits.shape
    out = torch.empty((rows, 4), dtype=torch.float32, device=logits.device)
    if rows:
        with _on_device(logits):
            row_statistics[(rows,)](
                logits, target, out, columns, start, valid, ignore_index, with_sum, BLOCK,
                num_warps=WARPS,
            )  # fmt: skip
    return out


def combine(
    every: Tensor, target: Tensor, ignore_index: int, smoothing: float, classes: int, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Loss and log-sum-exp float32 (tokens,) from every rank's statistics (ranks, tokens, 4)."""
    ranks, tokens, _ = every.shape
    loss, lse = (every.new_empty((tokens,)) for _ in range(2))
    if tokens:
        with _on_device(every):
            combine_ranks[(triton.cdiv(tokens, 256),)](
                every, target, loss, lse, tokens, ranks, ignore_index,
                float(smoothing), smoothing / classes, float(z_loss), 256,
            )  # fmt: skip
    return loss, lse


def gradient(
    logits: Tensor,
    target: Tensor,
    lse: Tensor,
    grad: Tensor,
    start: int,
    valid: int,
    ignore_index: int,
    smoothing: float,
    z_loss: float,
    classes: int,
    out: Tensor,
) -> None:
    """As ops.loss_gradient, into `out`, which may be `logits`; `grad` may be one expanded number,
    as a sum's is. Does not synchronise."""
    rows, columns = logits.shape
    if rows == 0 or columns == 0:
        return
    with _on_device(logits):
        row_gradient[(rows, triton.cdiv(columns, BLOCK))](
            logits, target, lse, grad, out, columns, grad.stride(0), start, valid, ignore_index,
            float(smoothing), smoothing / classes, float(z_loss), BLOCK, num_warps=WARPS,
        )  # fmt: skip
