"""Output layer and loss in one, a few rows at a time, so that the logits never exist.

The logits of a chunk of tokens are computed, turned into their gradient and multiplied into both
gradients, then dropped: the memory is a chunk's, whatever the number of tokens (the idea of
Liger-Kernel, Hsu et al., 2024, arXiv 2410.10989), here with the vocabulary cut over the tensor
axis.
"""

from __future__ import annotations

import torch

from ..grid.context import ParallelContext
from ..grid.mappings import copy_to_region
from ..layers.precision import computed_dtype, product_dtype
from . import liger, ops
from .cross_entropy import LossTerms, combine, local_statistics, logits_gradient, loss_terms

CHUNK_BYTES = 32 << 20  # logits of a chunk
CHUNK_ROWS = 128  # at least: enough rows for an efficient matrix product
LOW_CHUNK_ROWS = 512  # the same where the weight's gradient is wider than the product, added apart
CUDA_CHUNK_ROWS = 1024  # on a device the weight is read from memory again for each chunk


def vocab_parallel_linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    *,
    context: ParallelContext,
    vocab_size: int,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """Cross entropy of `hidden @ weight.T` against `target` without ever holding the logits.

    Args:
        hidden: [..., features], the same on every rank of the tensor axis.
        weight: [ceil(vocab_size / tp), features], this rank's rows of the output embedding.
        target: int64 [...], ids in [0, vocab_size), or ignore_index.
        reduction: "mean" over the tokens that are not ignored (NaN if all are, as in torch), or
            "sum".
        label_smoothing, ignore_index, z_loss: as in vocab_parallel_cross_entropy.
        chunk_rows: tokens at a time; the memory is chunk_rows * ceil(vocab_size / tp) values.
            None: 1024 on CUDA; on the CPU what makes 32 MiB of logits, at least 128 tokens, or 512
            below float32. On a processor that does not multiply bfloat16 the logits are float32.

    Returns a scalar, the same bits on every rank. Both gradients are computed in the forward pass
    when they are needed, so the result can be differentiated once. On CUDA Liger's kernel computes
    it where `ops.set_cuda_kernels` says so and the numbers are the same (`loss.liger`). Raises
    ValueError or TypeError for what does not fit; synchronises the axis once a chunk.
    """
    name = "vocab_parallel_linear_cross_entropy"
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{name}: reduction must be 'mean' or 'sum', got {reduction!r}")
    if target.dtype != torch.int64 or target.shape != hidden.shape[:-1]:
        raise ValueError(
            f"{name}: target must be int64 of shape {tuple(hidden.shape[:-1])}, got {target.dtype} "
            f"of shape {tuple(target.shape)}"
        )
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"{name}: weight must be (vocabulary rows, {hidden.shape[-1]}), got "
            f"{tuple(weight.shape)}"
        )
    terms = loss_terms(
        name, weight.shape[0], target, vocab_size, label_smoothing, ignore_index, z_loss, context.tp
    )
    rows = hidden.reshape(-1, hidden.shape[-1])
    # the gradient of hidden is summed over the axis once, by the conjugate of this copy
    rows = copy_to_region(rows, context.tp, name)
    dtype = product_dtype(rows) or rows.dtype
    if (
        ops.uses_liger(rows)
        and dtype == rows.dtype
        and liger.serves(rows, weight, terms, context.tp)
    ):
        return liger.linear_cross_entropy(rows, weight, target.reshape(-1), terms, reduction)
    if chunk_rows is None:
        computed = computed_dtype(dtype, rows)
        chunk_rows = CUDA_CHUNK_ROWS if hidden.is_cuda else default_rows(len(weight), computed)
    return _LinearCrossEntropy.apply(
        rows, weight, target.reshape(-1), terms, context.tp, reduction, chunk_rows, dtype
    )


def default_rows(columns: int, dtype: torch.dtype) -> int:
    """Rows of `columns` logits of `dtype` that the CPU takes at a time."""
    least = CHUNK_ROWS if dtype.itemsize >= 4 else LOW_CHUNK_ROWS
    fitting = CHUNK_BYTES // (columns * dtype.itemsize)
    return max(least, fitting // CHUNK_ROWS * CHUNK_ROWS)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, target, terms: LossTerms, axis, reduction, chunk_rows, dtype):
        ctx.hidden_dtype, ctx.weight_dtype = hidden.dtype, weight.dtype
        # autocast does not see a product into given memory; its operands are rounded in any case
        for kind in (dtype, computed_dtype(dtype, hidden)):
            hidden, weight = hidden.to(kind), weight.to(kind)
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        count = (target != terms.ignore_index).sum().to(wide)
        scale = 1.0 / count if reduction == "mean" else count.new_ones(())
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # summed in float32: a bfloat16 sum over hundreds of chunks would lose the small ones
        grad_weight = None
        if need_weight:
            grad_weight = torch.empty_like(weight, dtype=wide)
            if not len(hidden):
                grad_weight.zero_()
        total = count.new_zeros(())
        room = hidden.new_empty(min(chunk_rows, len(hidden)), len(weight))
        for begin in range(0, len(hidden), chunk_rows):
            part = slice(begin, begin + chunk_rows)
            x, ids = hidden[part], target[part]
            logits = torch.matmul(x, weight.t(), out=room[: len(x)])
            loss, lse = combine(local_statistics(logits, ids, terms), ids, terms, axis)
            total += loss.sum()
            if not (need_hidden or need_weight):
                continue
            logits_gradient(logits, ids, lse, scale.expand(len(ids)), terms, inplace=True)
            if need_hidden:
                torch.matmul(logits, weight, out=grad_hidden[part])
            if need_weight:
                _accumulate(grad_weight, logits, x, first=begin == 0)
        kept = [grad for grad in (grad_hidden, grad_weight) if grad is not None]
        ctx.save_for_backward(*kept)
        return total * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        kept = list(ctx.saved_tensors)
        grad_hidden = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_hidden = kept.pop(0).mul_(grad).to(ctx.hidden_dtype)
        if ctx.needs_input_grad[1]:  # autograd gives it the dtype that the weight's gradient has
            grad_weight = kept.pop(0).mul_(grad)
        return grad_hidden, grad_weight, None, None, None, None, None, None


def _accumulate(
    total: torch.Tensor, logits_grad: torch.Tensor, x: torch.Tensor, first: bool
) -> None:
    """Adds the share of a chunk; the `first` one is taken as it is."""
    if total.dtype == x.dtype:
        total.addmm_(logits_grad.t(), x, beta=0 if first else 1)
    elif first:
        total.copy_(logits_grad.t().matmul(x))
    else:
        total += logits_grad.t().matmul(x)
