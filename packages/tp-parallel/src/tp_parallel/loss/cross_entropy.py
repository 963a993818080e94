"""Cross entropy over logits cut along the vocabulary, never gathered.

Each rank reduces its columns to four numbers a token; one all-gather of those numbers gives every
rank the same loss, bit for bit (Shoeybi et al., 2019, arXiv 1909.08053, section 3; the online
maximum and sum after Milakov and Gimelshein, 2018, arXiv 1805.02867). With K classes, smoothing e
and weight z:

    loss = lse - (1 - e) x[target] - e / K sum(x) + z lse^2,     lse = log sum exp(x)
    d loss / d x = (1 + 2 z lse) softmax(x) - (1 - e) onehot(target) - e / K

which is torch's smoothing, over all K classes (Megatron-LM spreads it over the K - 1 wrong ones).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..grid.axis import Axis
from ..grid.context import ParallelContext
from ..grid.values import can_read
from . import ops

_MAX, _SUM_EXP, _TARGET, _SUM = range(4)
STATISTICS = 4
_CPU_CHUNK_ELEMENTS = 1 << 20  # a few MB of float32: the temporary stays in the last-level cache
_CUDA_CHUNK_SHARE = 64  # a float32 temporary takes at most this part of the device's memory


@dataclass(frozen=True)
class LossTerms:
    """What defines the loss, beside logits and targets, on this rank."""

    vocab_size: int
    label_smoothing: float
    ignore_index: int
    z_loss: float
    start: int  # first column of this rank
    valid: int  # columns of this rank that are no padding


def vocab_parallel_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    context: ParallelContext,
    vocab_size: int,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    inplace: bool = False,
) -> torch.Tensor:
    """Cross entropy of each token, from logits whose vocabulary is cut over the tensor axis.

    Args:
        logits: [..., columns], this rank's columns [rank * columns, (rank + 1) * columns) of the
            vocabulary; columns at or past vocab_size are padding and are ignored. float64, float32,
            bfloat16 or float16; sums are float32 (float64 for float64).
        target: int64 [...], ids in [0, vocab_size), or ignore_index; the same on every rank.
        vocab_size: classes, K.
        label_smoothing: in [0, 1], torch's definition, spread over all K classes.
        z_loss: weight of lse^2, which keeps the logits from drifting.
        inplace: the backward pass overwrites `logits` with their gradient, so that the loss needs
            no memory of the logits' size. Otherwise `logits` are left as they are.

    Returns the loss [...], float32 (float64 for float64), zero where target is ignore_index; the
    same bits on every rank of the axis. Raises ValueError or TypeError for what does not fit the
    above; synchronises the axis once.
    """
    axis = context.tp
    terms = _check(
        "vocab_parallel_cross_entropy", logits, target, vocab_size, label_smoothing, ignore_index,
        z_loss, axis,
    )  # fmt: skip
    rows = logits.reshape(-1, logits.shape[-1])
    loss = _CrossEntropy.apply(rows, target.reshape(-1), terms, axis, inplace)
    return loss.view(target.shape)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, terms, axis, inplace):
        statistics = local_statistics(logits, target, terms)
        loss, lse = combine(statistics, target, terms, axis)
        ctx.terms, ctx.inplace = terms, inplace
        ctx.save_for_backward(logits, target, lse)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        logits, target, lse = ctx.saved_tensors
        out = logits_gradient(logits.detach(), target, lse, grad, ctx.terms, ctx.inplace)
        return out, None, None, None, None


def local_statistics(logits: torch.Tensor, target: torch.Tensor, terms: LossTerms) -> torch.Tensor:
    """Maximum, sum of exp(x - maximum), target logit and sum of this rank's columns: [tokens,
    4].
    """
    if ops.has_kernel(logits):
        return ops.loss_statistics(
            logits, target, terms.start, terms.valid, terms.ignore_index, terms.label_smoothing > 0
        )
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    out = torch.zeros(len(logits), STATISTICS, dtype=wide, device=logits.device)
    out[:, _MAX] = -torch.inf
    if terms.valid == 0:
        return out
    for begin in range(0, len(logits), _chunk_rows(logits)):
        part = slice(begin, begin + _chunk_rows(logits))
        x = logits[part, : terms.valid].to(wide)
        maximum = x.amax(-1)
        if terms.label_smoothing:
            out[part, _SUM] = x.sum(-1)
        column, own = _own_target(target[part], terms)
        out[part, _TARGET] = x.gather(-1, column).squeeze(-1).masked_fill_(~own, 0.0)
        out[part, _MAX] = maximum
        shift = maximum.masked_fill(maximum == -torch.inf, 0.0)
        out[part, _SUM_EXP] = (x - shift.unsqueeze(-1)).exp_().sum(-1)
    return out


def combine(
    statistics: torch.Tensor, target: torch.Tensor, terms: LossTerms, axis: Axis
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and log-sum-exp of each token over all ranks' columns, from `local_statistics`.

    Every rank adds the same numbers in the same order, so that all get the same bits.
    """
    every = axis.all_gather(
        statistics.unsqueeze(0), 0, label="vocab_parallel_cross_entropy", kind="loss"
    )
    if ops.uses_triton(every):
        settings = terms.ignore_index, terms.label_smoothing, terms.vocab_size, terms.z_loss
        return ops.combine(every.contiguous(), target.contiguous(), *settings)
    maximum = every[..., _MAX].amax(0)
    shift = maximum.masked_fill(maximum == -torch.inf, 0.0)
    total = (every[..., _SUM_EXP] * (every[..., _MAX] - shift).exp()).sum(0)
    lse = shift + total.log()
    smoothing = terms.label_smoothing
    loss = lse - (1.0 - smoothing) * every[..., _TARGET].sum(0)
    if smoothing:
        loss -= smoothing / terms.vocab_size * every[..., _SUM].sum(0)
    if terms.z_loss:
        loss += terms.z_loss * lse.square()
    return loss.masked_fill_(target == terms.ignore_index, 0.0), lse


def logits_gradient(
    logits: torch.Tensor,
    target: torch.Tensor,
    lse: torch.Tensor,
    grad: torch.Tensor,
    terms: LossTerms,
    inplace: bool,
) -> torch.Tensor:
    """grad * d loss / d logits, in a new tensor or in `logits` itself."""
    if not ops.uses_triton(logits):  # its kernel leaves ignored rows out
        grad = grad.to(lse.dtype).masked_fill(target == terms.ignore_index, 0.0)
    if not ops.has_kernel(logits):
        out = logits if inplace else torch.empty_like(logits)
        _logits_gradient_in_torch(logits, target, lse, grad, terms, out)
        return out
    arguments = (logits, target, lse, grad, terms.start, terms.valid, terms.ignore_index,
                 terms.label_smoothing, terms.z_loss, terms.vocab_size)  # fmt: skip
    if not inplace:
        return ops.loss_gradient(*arguments)
    ops.loss_gradient_(*arguments)
    return logits


def _logits_gradient_in_torch(
    logits: torch.Tensor,
    target: torch.Tensor,
    lse: torch.Tensor,
    grad: torch.Tensor,
    terms: LossTerms,
    out: torch.Tensor,
) -> None:
    for begin in range(0, len(logits), _chunk_rows(logits)):
        part = slice(begin, begin + _chunk_rows(logits))
        scale = grad[part].unsqueeze(-1)
        p = (logits[part, : terms.valid].to(lse.dtype) - lse[part].unsqueeze(-1)).exp_()
        p *= scale * (1.0 + 2.0 * terms.z_loss * lse[part].unsqueeze(-1))
        if terms.label_smoothing:
            p -= scale * (terms.label_smoothing / terms.vocab_size)
        if terms.valid:
            column, own = _own_target(target[part], terms)
            peak = scale * own.unsqueeze(-1) * (terms.label_smoothing - 1.0)
            p.scatter_add_(-1, column, peak)
        # an ignored row may hold infinities or NaN: zero times those is not zero
        p.masked_fill_(scale == 0, 0.0)
        out[part, : terms.valid] = p
        out[part, terms.valid :] = 0.0


def _own_target(target: torch.Tensor, terms: LossTerms) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's column here, [rows, 1], 0 where another rank owns it, and whether it is ours."""
    column = target - terms.start
    own = (column >= 0) & (column < terms.valid) & (target != terms.ignore_index)
    return column.masked_fill(~own, 0).unsqueeze(-1), own


def _chunk_rows(logits: torch.Tensor) -> int:
    """Rows at a time of the torch operators: as many as fit the cache of a CPU; on a device, which
    starts a kernel for each of about 40 operators, as many as its memory has room for."""
    elements = _CPU_CHUNK_ELEMENTS
    if logits.device.type == "cuda":
        memory = torch.cuda.get_device_properties(logits.device).total_memory
        elements = memory // _CUDA_CHUNK_SHARE // 4
    return max(1, elements // max(1, logits.shape[-1]))


def _check(
    name: str,
    logits: torch.Tensor,
    target: torch.Tensor,
    vocab_size: int,
    label_smoothing: float,
    ignore_index: int,
    z_loss: float,
    axis: Axis,
) -> LossTerms:
    if not logits.is_floating_point():
        raise TypeError(f"{name}: logits must be floating point, got {logits.dtype}")
    if target.dtype != torch.int64:
        raise TypeError(f"{name}: target must be int64, got {target.dtype}; pass target.long()")
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"{name}: target must have the shape of logits without the last dimension, "
            f"{tuple(logits.shape[:-1])}, got {tuple(target.shape)}"
        )
    return loss_terms(
        name, logits.shape[-1], target, vocab_size, label_smoothing, ignore_index, z_loss, axis
    )


def loss_terms(
    name: str,
    columns: int,
    target: torch.Tensor,
    vocab_size: int,
    label_smoothing: float,
    ignore_index: int,
    z_loss: float,
    axis: Axis,
) -> LossTerms:
    """Checks the arguments that define the loss and says which columns are this rank's."""
    expected = -(-vocab_size // axis.size)
    if columns != expected:
        hint = "; these look like gathered logits" if columns == vocab_size else ""
        raise ValueError(
            f"{name}: each of {axis.size} ranks must hold ceil(vocab_size {vocab_size} / "
            f"{axis.size}) "
            f"= {expected} columns, got {columns}{hint}; compute them with parallel_lm_logits"
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{name}: label_smoothing must be in [0, 1], got {label_smoothing}")
    if can_read(target):
        seen = target[target != ignore_index]
        if seen.numel() and (int(seen.min()) < 0 or int(seen.max()) >= vocab_size):
            raise ValueError(
                f"{name}: target must hold ids in [0, {vocab_size}) or ignore_index "
                f"{ignore_index}, "
                f"got {int(seen.min())} to {int(seen.max())}"
            )
    start = axis.rank * columns
    valid = max(0, min(columns, vocab_size - start))
    return LossTerms(vocab_size, label_smoothing, ignore_index, z_loss, start, valid)
