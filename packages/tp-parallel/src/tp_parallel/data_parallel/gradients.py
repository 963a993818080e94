"""Completes the gradients across ranks: after the backward pass and, for the data axis, during it.

Gradients lie in flat buckets, filled in the order in which the backward pass produces them; the sum
of a bucket over the data axis starts when its last gradient is there and travels while earlier
layers are still at work (Li et al., 2020, arXiv 2006.15704, section 3.2).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from ..grid.axis import Axis, Done, Pending
from ..grid.context import ParallelContext
from ..layers.layout import Placed, held, is_sharded, placed_parameters
from ..layers.precision import gradient_dtype, widen_gradients
from ..layers.sharding import GroupShard

BUCKET_ELEMENTS = 6 << 20  # 24 MB of float32, torch's DDP default


class _Bucket:
    """Parameters whose gradients are views into one flat tensor."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        first = parameters[0]
        size = sum(p.numel() for p in parameters)
        widen_gradients(parameters)
        self.flat = torch.zeros(size, dtype=gradient_dtype(first), device=first.device)
        pieces = self.flat.split([p.numel() for p in parameters])
        self.views = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
        self.missing = 0
        self.started = False

    def zero(self) -> None:
        self.started = False
        self.flat.zero_()
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view


class GradientBuckets:
    """Sums gradients over the data axis while the backward pass still runs.

    Give it to `run_schedule` and to `finish_gradients`, and call `zero()` before each step in place
    of setting gradients to None; otherwise the next sum raises RuntimeError. Parameters that
    require no gradient are left out, and those that FSDP2 has cut, which it sums itself. Without a
    data axis it does nothing but that.

    Args:
        models: the stages this rank holds.
        elements: values a bucket holds at most (a larger parameter has one of its own).
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        context: ParallelContext,
        *,
        elements: int = BUCKET_ELEMENTS,
    ) -> None:
        self._axis, self._models = context.dp, list(models)
        self._buckets: list[list[_Bucket]] = []  # of each model, in the order they are filled
        self._open: list[_Bucket] = []  # of the model in its last backward pass, not yet started
        self._pending: list[Pending | Done] = []
        if self._axis.size == 1:
            return
        for model in self._models:
            placed = placed_parameters([model], context)
            wanted = [p for _, p, _ in placed if p.requires_grad and not is_sharded(p)]
            backwards = wanted[::-1]
            self._buckets.append([_Bucket(group) for group in _groups(backwards, elements)])
        for bucket in (b for buckets in self._buckets for b in buckets):
            for parameter in bucket.parameters:
                # weak: a circle through a tensor's hooks is never collected
                hook = partial(_arrived, weakref.ref(self), weakref.ref(bucket))
                parameter.register_post_accumulate_grad_hook(hook)

    def zero(self) -> None:
        """Clears every gradient."""
        if self._axis.size == 1:
            for model in self._models:
                model.zero_grad(set_to_none=True)
        for buckets in self._buckets:
            for bucket in buckets:
                bucket.zero()

    @contextmanager
    def last_backward(self, chunk: int) -> Iterator[None]:
        """Around the last backward pass through model number `chunk`: full buckets start at once,
        in the same order on every rank; at the end those start that the pass did not fill.
        """
        self._open = list(self._buckets[chunk]) if self._buckets else []
        for bucket in self._open:
            bucket.missing = len(bucket.parameters)
        try:
            yield
            for bucket in self._open:
                bucket.missing = 0
            self._start_full()
        finally:
            self._open = []

    def wait(self) -> None:
        """Starts the sums that no `last_backward` has started; returns when all may be read."""
        for bucket in (b for buckets in self._buckets for b in buckets):
            if not bucket.started:
                self._start(bucket)
        for pending in self._pending:
            pending.wait()
        self._pending.clear()

    def _arrived(self, bucket: _Bucket) -> None:
        if bucket in self._open:
            bucket.missing -= 1
            self._start_full()

    def _start_full(self) -> None:
        while self._open and self._open[0].missing == 0:
            self._start(self._open.pop(0))

    def _start(self, bucket: _Bucket) -> None:
        pairs = zip(bucket.parameters, bucket.views, strict=True)
        if bucket.started or any(parameter.grad is not view for parameter, view in pairs):
            raise RuntimeError(
                "GradientBuckets: zero() must be called before each step, but the gradients are "
                "those of the last step or lie elsewhere; call it in place of zero_grad()"
            )
        bucket.started = True
        label = "GradientBuckets: data parallel"
        self._pending.append(self._axis.all_reduce_async(bucket.flat, label=label, kind="gradient"))


def _arrived(
    buckets: weakref.ref[GradientBuckets], bucket: weakref.ref[_Bucket], _: torch.Tensor
) -> None:
    """A parameter's hook: its gradient is there. Buckets that nobody holds hear of nothing."""
    there, its = buckets(), bucket()
    if there is not None and its is not None:
        there._arrived(its)


@torch.no_grad()
def finish_gradients(
    models: Iterable[nn.Module], context: ParallelContext, buckets: GradientBuckets | None = None
) -> None:
    """Completes the gradients after the last backward pass of a step.

    Sums over tp what sequence parallelism left partial and the copies of keys and values where
    there are fewer than ranks, adds the two uses of a tied embedding, and sums over dp, or lets
    `buckets` end its sums. The losses must be scaled for a sum: divided by the tokens of the
    whole batch. Parameters that require no gradient get none. What FSDP2 has cut over dp it has
    summed already, if `shard_over_data` called it.
    """
    placed = [each for each in placed_parameters(models, context) if each.parameter.requires_grad]
    widen_gradients(each.parameter for each in placed)
    if buckets is not None:
        buckets.wait()
    partial = [p for _, p, layout in placed if layout.partial_gradient]
    _all_reduce(partial, context.tp, "finish_gradients: sequence parallel")
    _sum_copies(placed, context.tp)
    tied = [p for _, p, layout in placed if layout.tied]
    _all_reduce(tied, context.ends, "finish_gradients: tied embedding")
    if buckets is None:
        own = [p for _, p, _ in placed if not is_sharded(p)]
        _all_reduce(own, context.dp, "finish_gradients: data parallel")


def _sum_copies(placed: list[Placed], axis: Axis) -> None:
    """Adds up the gradients of the rows that several tp ranks hold (`GroupShard`)."""
    rows: list[tuple[torch.Tensor, torch.Tensor]] = []  # mine, and my group's place in a sum of all
    for _, parameter, layout in placed:
        shard = layout.shard
        if not isinstance(shard, GroupShard):
            continue
        if is_sharded(parameter):
            raise ValueError(
                "finish_gradients: FSDP2 has cut keys and values that several tp ranks hold; "
                "choose a tp of at most kv_heads, or --zero instead of shard_over_data"
            )
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter, dtype=parameter.grad_dtype)
        piece = next(p for p in shard.pieces(axis.rank, axis.size) if p.copy is not None)
        mine = parameter.grad.narrow(shard.dim, piece.local, piece.length)
        every = mine.new_zeros(shard.groups, *mine.shape)
        every[piece.group] = mine
        rows.append((mine, every[piece.group]))
        axis.all_reduce(every, label="finish_gradients: key and value copies", kind="gradient")
    for mine, total in rows:
        mine.copy_(total)


def _all_reduce(parameters: list[nn.Parameter], axis: Axis, label: str) -> None:
    """Sums gradients over `axis`, flattened; a missing gradient counts as zero."""
    if axis.size == 1:
        return
    for group in _groups(parameters, BUCKET_ELEMENTS):
        for parameter in group:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter, dtype=parameter.grad_dtype)
        mine = [held(p.grad) for p in group]
        flat = torch.cat([grad.reshape(-1) for grad in mine])
        axis.all_reduce(flat, label=label, kind="gradient")
        for grad, piece in zip(mine, flat.split([g.numel() for g in mine]), strict=True):
            grad.copy_(piece.view_as(grad))


def _groups(parameters: list[nn.Parameter], elements: int) -> Iterator[list[nn.Parameter]]:
    """Consecutive parameters of one dtype, together at most `elements` values."""
    group: list[nn.Parameter] = []
    held = 0
    for parameter in parameters:
        full = held + parameter.numel() > elements
        if group and (full or parameter.dtype != group[0].dtype):
            yield group
            group, held = [], 0
        group.append(parameter)
        held += parameter.numel()
    if group:
        yield group
