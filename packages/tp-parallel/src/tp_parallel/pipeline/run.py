"""Runs a pipeline schedule: each action of this rank's row, with the messages it needs.

Sends never block: a message is handed over and its tensor kept until it has left, so that a rank
waits only for what its next action consumes, which is what `schedules.simulate` assumes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from ..data_parallel.gradients import GradientBuckets
from ..grid.axis import Pending
from ..grid.context import ParallelContext
from ..layers.config import GPTConfig
from ..models.gpt import GPTModel
from .schedules import B, F, Schedule, W

LossFunction = Callable[[GPTModel, torch.Tensor, int], torch.Tensor]


@dataclass
class _Run:
    """What one execution keeps: inputs and outputs in flight, losses, messages under way."""

    inputs: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    outputs: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    weights: dict[tuple[int, int], list[Callable[[], None]]] = field(default_factory=dict)
    losses: dict[int, torch.Tensor] = field(default_factory=dict)
    sends: list[Pending] = field(default_factory=list)


def layers_of_stage(layers: int, stages: int, stage: int) -> range:
    """The transformer layers of one stage; the first stages get one more where it does not divide.

    Raises ValueError if there are fewer layers than stages.
    """
    if layers < stages:
        raise ValueError(
            f"layers_of_stage: {stages} stages need at least as many layers, got {layers}"
        )
    base, extra = divmod(layers, stages)
    begin = stage * base + min(stage, extra)
    return range(begin, begin + base + (stage < extra))


def build_stages(
    config: GPTConfig,
    context: ParallelContext,
    *,
    chunks: int = 1,
    model: type[GPTModel] = GPTModel,
    **options,
) -> list[GPTModel]:
    """The stages this rank holds, `chunks` of them, each a `model` with its share of the layers."""
    stages = context.pp.size * chunks
    built = []
    for chunk in range(chunks):
        stage = chunk * context.pp.size + context.pp.rank
        built.append(
            model(
                config, context=context, pre_process=stage == 0, post_process=stage == stages - 1,
                layers=layers_of_stage(config.layers, stages, stage), **options,
            )
        )  # fmt: skip
    return built


def run_schedule(
    schedule: Schedule,
    models: list[GPTModel],
    batches: list[torch.Tensor],
    loss: LossFunction,
    *,
    context: ParallelContext,
    shape: tuple[int, int],
    buckets: GradientBuckets | None = None,
) -> list[torch.Tensor]:
    """Runs forward and backward of all micro-batches; gradients add up in the parameters.

    Args:
        schedule: from `schedules.make_schedule`, for context.pp.size stages.
        models: this rank's chunks, from `build_stages`.
        batches: the input ids of each micro-batch; only the first stage reads them.
        loss: called on the last stage as loss(model, input, micro-batch number); returns the scalar
            to be differentiated.
        shape: (batch, sequence) of every micro-batch.
        buckets: sums gradients over dp during the last backward pass through each chunk (where the
            schedule splits the backward pass, after its last weight gradients).

    Returns the losses in order on the last stage, elsewhere an empty list. Raises ValueError if the
    schedule does not fit; CollectiveError if a neighbour fails.
    """
    if schedule.stages != context.pp.size or len(models) != schedule.chunks:
        raise ValueError(
            f"run_schedule: the schedule is for {schedule.stages} stages of {schedule.chunks} "
            "chunks, "
            f"got pp {context.pp.size} and {len(models)} models"
        )
    run = _Run()
    row = schedule.ranks[context.pp.rank]
    completes = W if schedule.splits_backward else B
    last = {action.chunk: action for action in row if action.kind == completes}
    for action in row:
        key = (action.chunk, action.batch)
        overlap = nullcontext()
        if buckets is not None and action == last[action.chunk]:
            overlap = buckets.last_backward(action.chunk)
        with overlap:
            if action.kind == F:
                _forward(run, schedule, models, batches, loss, context, shape, key)
            elif action.kind == B:
                _backward(run, schedule, context, key)
            else:
                for work in run.weights.pop(key):
                    work()
    for pending in run.sends:
        pending.wait()
    return [run.losses[b] for b in sorted(run.losses)]


def _forward(run, schedule, models, batches, loss, context, shape, key) -> None:
    chunk, batch = key
    model = models[chunk]
    stage = chunk * schedule.stages + context.pp.rank
    if model.pre_process:
        x = batches[batch]
    else:
        like = _activation(model.config, context, shape)
        tag = _tag(schedule, F, batch, stage - 1)
        x = context.pp.receive(
            like, _place(stage - 1, schedule), tag=tag, label=f"activation {batch}"
        )
        x.requires_grad_()
    if model.post_process:
        y = loss(model, x, batch)
        run.losses[batch] = y.detach()
    else:
        y = model(x)
        _send(run, schedule, context, y.detach(), stage, stage + 1, F, batch)
    run.inputs[key], run.outputs[key] = x, y


def _backward(run, schedule, context, key) -> None:
    chunk, batch = key
    stage = chunk * schedule.stages + context.pp.rank
    last = schedule.stages * schedule.chunks - 1
    x, y = run.inputs.pop(key), run.outputs.pop(key)
    grad = None
    if stage != last:
        tag = _tag(schedule, B, batch, stage + 1)
        grad = context.pp.receive(
            torch.empty_like(y), _place(stage + 1, schedule), tag=tag, label=f"gradient {batch}"
        )
    deferred = context.weight_gradients
    deferred.recording = [] if schedule.splits_backward else None
    try:
        torch.autograd.backward(y, grad)
        if schedule.splits_backward:
            run.weights[key] = deferred.recording
    finally:
        deferred.recording = None
    if stage:
        _send(run, schedule, context, x.grad, stage, stage - 1, B, batch)


def _send(run, schedule, context, tensor, stage, to, kind, batch) -> None:
    label = f"{'activation' if kind == F else 'gradient'} {batch}"
    tag = _tag(schedule, kind, batch, stage)
    run.sends.append(
        context.pp.send(tensor.contiguous(), _place(to, schedule), tag=tag, label=label)
    )


def _place(stage: int, schedule: Schedule) -> int:
    return stage % schedule.stages


def _tag(schedule: Schedule, kind: str, batch: int, stage: int) -> int:
    """One number for each message of a schedule, so that messages cannot be taken for each
    other.
    """
    stages = schedule.stages * schedule.chunks
    return ((batch * stages) + stage) * 2 + (kind == B)


def _activation(
    config: GPTConfig, context: ParallelContext, shape: tuple[int, int]
) -> torch.Tensor:
    rows, length = shape
    if config.sequence_parallel:
        length //= context.tp.size
    return torch.empty(rows, length, config.hidden, dtype=config.torch_dtype, device=context.device)


@torch.no_grad()
def evaluate_schedule(
    schedule: Schedule,
    models: list[GPTModel],
    batches: list[torch.Tensor],
    loss: LossFunction,
    *,
    context: ParallelContext,
    shape: tuple[int, int],
) -> list[torch.Tensor]:
    """The forward passes of `schedule` alone, without gradients; arguments as for
    `run_schedule`.
    """
    run = _Run()
    for action in schedule.ranks[context.pp.rank]:
        if action.kind == F:
            key = (action.chunk, action.batch)
            _forward(run, schedule, models, batches, loss, context, shape, key)
            del run.inputs[key], run.outputs[key]
    for pending in run.sends:
        pending.wait()
    return [run.losses[b] for b in sorted(run.losses)]
