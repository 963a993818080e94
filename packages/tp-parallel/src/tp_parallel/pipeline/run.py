"""Runs a pipeline schedule: each action of this rank's row, and its messages as they are planned.

A rank issues a group of messages as soon as it has run the actions that come before it, and waits
for a message only where an action needs it. A sent tensor is let go two groups later: by then it
has left, since `validate` has shown that the schedule ends even if every group is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from ..data_parallel.gradients import GradientBuckets
from ..grid.axis import Arrival, Pending
from ..grid.context import ParallelContext
from ..layers.layout import is_sharded
from ..layers.precision import widen_gradients
from ..models.gpt import GPTModel
from .communication import communicate, forward_only, needed_by, receiver, sender, sent_by
from .schedule import Action, B, Exchange, F, Schedule, Transfer, W
from .schedules import validate

LossFunction = Callable[[GPTModel, torch.Tensor, int], torch.Tensor]
_UNDER_WAY = 2  # groups whose sent tensors are kept; the next one waits for the oldest to leave


@dataclass
class _Run:
    """One execution: what it was given, and what is in flight."""

    schedule: Schedule
    models: list[GPTModel]
    batches: list[torch.Tensor]
    loss: LossFunction
    context: ParallelContext
    shape: tuple[int, int]
    positions: list[torch.Tensor] | None = None
    inputs: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    outputs: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    weights: dict[tuple[int, int], list[Callable[[], None]]] = field(default_factory=dict)
    losses: dict[int, torch.Tensor] = field(default_factory=dict)
    ready: dict[Transfer, torch.Tensor] = field(default_factory=dict)  # to be sent
    arriving: dict[Transfer, Arrival] = field(default_factory=dict)
    under_way: deque[list[Pending]] = field(default_factory=deque)

    @property
    def rank(self) -> int:
        return self.context.pp.rank

    def stage(self, action: Action) -> int:
        return action.chunk * self.schedule.stages + self.rank

    def run(self, around: Callable[[Action], AbstractContextManager]) -> list[torch.Tensor]:
        """Runs this rank's row, each action inside `around(action)`; the losses in order."""
        assert self.schedule.exchanges is not None
        waiting = deque(self.schedule.exchanges[self.rank])
        for done, action in enumerate(self.schedule.ranks[self.rank]):
            while waiting and waiting[0].after <= done:
                self.issue(waiting.popleft())
            with around(action):
                (self.forward if action.kind == F else self.backward)(action)
        while waiting:
            self.issue(waiting.popleft())
        while self.under_way:
            self.retire()
        return [self.losses[b] for b in sorted(self.losses)]

    # -- messages -----------------------------------------------------------------------------

    def issue(self, exchange: Exchange) -> None:
        """Starts the messages of one group and lets an old one go."""
        while len(self.under_way) >= _UNDER_WAY:
            self.retire()
        sends, receives, coming = [], [], []
        for transfer in sorted(exchange.transfers):  # NCCL has no tags: both ends need one order
            if sender(self.schedule, transfer) == self.rank:
                to = receiver(self.schedule, transfer)
                sends.append((self.ready.pop(transfer), to, self.tag(transfer), str(transfer)))
            else:
                source = sender(self.schedule, transfer)
                receives.append((self.blank(), source, self.tag(transfer), str(transfer)))
                coming.append(transfer)
        exchanged = self.context.pp.exchange(sends, receives)
        self.arriving |= zip(coming, exchanged.arrivals, strict=True)
        if sends:  # not the arrivals: what came is let go by the action that took it
            self.under_way.append(exchanged.started)

    def retire(self) -> None:
        """Returns when the sent tensors of the oldest group have left."""
        for pending in self.under_way.popleft():
            pending.wait()

    def give(self, action: Action, tensor: torch.Tensor) -> None:
        """Makes `tensor` the message of `action`, or hands it over inside this rank."""
        stage = self.stage(action)
        transfer = sent_by(self.schedule, self.rank, action)
        if transfer is None:  # the next stage is here too
            transfer = Transfer(action.kind, action.batch, stage)
        self.ready[transfer] = tensor.contiguous()

    def take(self, action: Action) -> torch.Tensor:
        """The tensor that `action` needs from the neighbouring stage."""
        transfer = needed_by(self.schedule, self.rank, action)
        if transfer is not None:
            return self.arriving.pop(transfer).wait()
        stage = self.stage(action) + (-1 if action.kind == F else 1)
        return self.ready.pop(Transfer(action.kind, action.batch, stage))

    def tag(self, transfer: Transfer) -> int:
        """One number for each message of a schedule, so that none is taken for another."""
        stages = self.schedule.stages * self.schedule.chunks
        return ((transfer.batch * stages) + transfer.stage) * 2 + (transfer.kind == B)

    def blank(self) -> torch.Tensor:
        """Shape, dtype and device of an activation or its gradient; memory comes on arrival."""
        config, (rows, length) = self.models[0].config, self.shape
        if config.sequence_parallel:
            length //= self.context.tp.size
        return torch.empty(rows, length, config.hidden, dtype=config.torch_dtype, device="meta")

    # -- actions ------------------------------------------------------------------------------

    def forward(self, action: Action) -> None:
        key, model = (action.chunk, action.batch), self.models[action.chunk]
        if model.pre_process:
            x = self.batches[action.batch]
        else:
            x = self.take(action)
            x.requires_grad_(torch.is_grad_enabled())
        if model.post_process:
            y = self.loss(model, x, action.batch)
            self.losses[action.batch] = y.detach()
        else:
            at = None if self.positions is None else self.positions[action.batch]
            y = model(x) if at is None else model(x, positions=at)
            self.give(action, y.detach())
        if torch.is_grad_enabled():
            self.inputs[key], self.outputs[key] = x, y

    def backward(self, action: Action) -> None:
        key = action.chunk, action.batch
        if action.kind == W:
            for work in self.weights.pop(key):
                work()
            return
        x, y = self.inputs.pop(key), self.outputs.pop(key)
        grad = None if self.models[action.chunk].post_process else self.take(action)
        deferred = self.context.weight_gradients
        deferred.recording = [] if self.schedule.splits_backward else None
        try:
            if y.requires_grad:  # not where the first stage is frozen
                torch.autograd.backward(y, grad)
            if self.schedule.splits_backward:
                self.weights[key] = deferred.recording or []
        finally:
            deferred.recording = None
        if not self.models[action.chunk].pre_process:
            self.give(action, torch.zeros_like(x) if x.grad is None else x.grad)


def run_schedule(
    schedule: Schedule,
    models: list[GPTModel],
    batches: list[torch.Tensor],
    loss: LossFunction,
    *,
    context: ParallelContext,
    shape: tuple[int, int],
    buckets: GradientBuckets | None = None,
    positions: list[torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """Runs forward and backward of all micro-batches; gradients add up in the parameters.

    Args:
        schedule: from `make_schedule`, for context.pp.size stages, or one of your own. Without
            planned messages it must be free of deadlock as it is; `communicate` plans them.
        models: this rank's chunks, from `build_stages`.
        batches: the input ids of each micro-batch; only the first stage reads them.
        loss: called on the last stage as loss(model, input, micro-batch number); returns the scalar
            to be differentiated.
        shape: (batch, sequence) of every micro-batch.
        buckets: sums gradients over dp during the last backward pass through each chunk (where the
            schedule splits the backward pass, after its last weight gradients).
        positions: of each micro-batch, as `GPTModel.forward` takes them; every stage needs them,
            and `loss` must pass them on the last.

    Gradients of bfloat16 parameters add up in float32. Returns the losses in order on the last
    stage, elsewhere an empty list. Raises ValueError if the schedule does not fit, is not complete
    or would deadlock, naming the circle; CollectiveError if a neighbour fails.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "run_schedule: gradients are switched off; leave torch.no_grad, or call "
            "evaluate_schedule for the losses alone"
        )
    schedule = _checked(schedule, models, batches, context)
    for model in models:
        parameters = list(model.parameters())
        widen_gradients(parameters)
        if schedule.splits_backward and any(map(is_sharded, parameters)):
            raise ValueError(
                f"run_schedule: {schedule.name} puts weight gradients off, which FSDP2 would not "
                "sum; use another schedule, or --zero instead of shard_over_data"
            )
    completes = W if schedule.splits_backward else B
    last = {a.chunk: a for a in schedule.ranks[context.pp.rank] if a.kind == completes}

    def around(action: Action) -> AbstractContextManager:
        if buckets is not None and action == last[action.chunk]:
            return buckets.last_backward(action.chunk)
        return nullcontext()

    return _Run(schedule, models, batches, loss, context, shape, positions).run(around)


@torch.no_grad()
def evaluate_schedule(
    schedule: Schedule,
    models: list[GPTModel],
    batches: list[torch.Tensor],
    loss: LossFunction,
    *,
    context: ParallelContext,
    shape: tuple[int, int],
    positions: list[torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """The forward passes of `schedule` alone, without gradients; arguments as for
    `run_schedule`.
    """
    _checked(schedule, models, batches, context)
    run = _Run(forward_only(schedule), models, batches, loss, context, shape, positions)
    return run.run(lambda _: nullcontext())


def _checked(
    schedule: Schedule,
    models: list[GPTModel],
    batches: list[torch.Tensor],
    context: ParallelContext,
) -> Schedule:
    """`schedule` with its messages planned, once it is known to end."""
    if schedule.stages != context.pp.size or len(models) != schedule.chunks:
        raise ValueError(
            f"run_schedule: the schedule is for {schedule.stages} stages of {schedule.chunks} "
            f"chunks, got pp {context.pp.size} and {len(models)} models"
        )
    if models[0].pre_process and len(batches) != schedule.batches:
        raise ValueError(
            f"run_schedule: the schedule is for {schedule.batches} micro-batches, got "
            f"{len(batches)}"
        )
    if not getattr(schedule, "_valid", False):
        validate(schedule)
        object.__setattr__(schedule, "_valid", True)  # a frozen object, checked once
    return schedule if schedule.exchanges is not None else communicate(schedule)
