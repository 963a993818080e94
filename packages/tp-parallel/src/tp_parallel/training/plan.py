"""A run without its processes: memory a rank, messages a step, waiting, and what would not fit.

One process builds the view of every rank on "meta". Of each kind of pipeline stage it runs one
micro-batch with torch's fake tensors and the "fake" process group: the library's own code says what
it keeps, needs and sends; nothing here is a formula of the model. The schedule says how often.
"""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..data_parallel.gradients import finish_gradients
from ..grid.context import ParallelContext, planned_grid
from ..layers.config import GPTConfig
from ..layers.precision import widen_gradients
from ..models.gpt import GPTModel
from ..pipeline.communication import sender
from ..pipeline.schedule import Schedule, bubble, in_flight, simulate
from ..pipeline.stages import build_stages, layers_of_stage

_UNDER_WAY = 4  # messages of a rank that are in memory: two groups leave, one comes, one is made
Counts = Counter  # (operation, kind) -> calls or bytes


@dataclass
class StagePlan:
    """What one rank of a pipeline stage holds and sends; bytes."""

    stage: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    calls: Counts = field(default_factory=Counter)
    bytes: Counts = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """The most that is held at once."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.working


@dataclass
class Plan:
    """A dry run: one `StagePlan` a pipeline stage (tensor and data ranks of a stage are alike)."""

    grid: dict[str, int]
    elements: int  # of the unsplit model
    batches: int
    waiting: float  # share of the time line, forward 1, backward 2
    stages: list[StagePlan]
    ranks: int  # whose views were built

    def misfits(self, device_bytes: int) -> list[str]:
        """A sentence for each stage that needs more than `device_bytes`."""
        return [
            f"a rank of stage {plan.stage} needs {plan.total / 2**30:.1f} GiB, "
            f"{(plan.total - device_bytes) / 2**30:.1f} more than there are"
            for plan in self.stages
            if plan.total > device_bytes
        ]

    def __str__(self) -> str:
        head = " x ".join(f"{name} {size}" for name, size in self.grid.items())
        lines = [f"{head}: {self.ranks} ranks, {self.elements / 1e9:.2f} B parameters, "
                 f"{self.batches} micro-batches, {self.waiting:.1%} waiting",
                 "GiB a rank: stage   parameters gradients optimizer activations working   total"
                 "   sent a step (calls)"]  # fmt: skip
        for plan in self.stages:
            parts = (plan.parameters, plan.gradients, plan.optimizer, plan.activations,
                     plan.working, plan.total)  # fmt: skip
            numbers = " ".join(f"{part / 2**30:>10.2f}" for part in parts)
            sent = f"{sum(plan.bytes.values()) / 2**30:.2f} ({sum(plan.calls.values())})"
            lines.append(f"{plan.stage:>17} {numbers}   {sent}")
        return "\n".join(lines)


class _Live(TorchDispatchMode):
    """Bytes of the storages that live, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes()

        def gone(_: object) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def plan_run(
    config: GPTConfig,
    *,
    tp: int,
    pp: int,
    dp: int,
    cp: int = 1,
    schedule: Schedule,
    rows: int,
    length: int,
    zero: bool = False,
    model: type[GPTModel] = GPTModel,
) -> Plan:
    """What a training step of `config` on a (tp, pp, dp) grid would need.

    schedule: for `pp` stages. rows, length: sequences and tokens of a micro-batch on a rank.
    zero: the optimizer's state is shared out over dp. Raises ValueError for what does not fit
    together, as the run would. Starts no process and takes no memory for tensors.
    """
    grid = {"tp": tp, "pp": pp, "dp": dp} | ({"cp": cp} if cp > 1 else {})
    held = _every_view(config, grid, schedule.chunks, model)
    flying = in_flight(schedule)
    share = 1.0 / schedule.chunks
    kinds: dict[tuple, StagePlan] = {}
    stages = []
    for stage in range(pp):
        kind = _kind(config, schedule, stage, pp)
        if kind not in kinds:
            kinds[kind] = _one_batch(config, grid, schedule, stage, (rows, length), model)
        one = kinds[kind]
        optimizer = one.optimizer // dp if zero else one.optimizer
        plan = replace(
            one,
            stage=stage,
            optimizer=optimizer,
            calls=Counter(one.calls),
            bytes=Counter(one.bytes),
            activations=one.activations * flying[stage],
        )
        part = length // tp if config.sequence_parallel else length
        message = rows * part * config.hidden * config.torch_dtype.itemsize
        _add_messages(plan, schedule, stage, message)
        plan.working += _UNDER_WAY * message if pp > 1 else 0
        stages.append(plan)
    return Plan(grid, held, schedule.batches, bubble(simulate(schedule, share, 2 * share, share)),
                stages, tp * pp * dp)  # fmt: skip


def _every_view(config: GPTConfig, grid: dict[str, int], chunks: int, model: type[GPTModel]) -> int:
    """Builds the stages of every rank on "meta"; returns the elements of the unsplit model, which
    all ranks of one data rank together must hold, each once.
    """
    names: dict[str, int] = {}
    for rank in range(grid["tp"] * grid["pp"] * grid["dp"]):
        with planned_grid(rank, **grid) as context:
            for each in build_stages(config, context, chunks=chunks, model=model, device="meta"):
                for placed in each.placed():
                    names[placed.source] = torch.Size(placed.layout.shard.shape).numel()
    return sum(names.values())


def _kind(config: GPTConfig, schedule: Schedule, stage: int, pp: int) -> tuple:
    """Stages of one kind hold as much and send as much."""
    whole = pp * schedule.chunks
    own = [layers_of_stage(config.layers, whole, chunk * pp + stage)
           for chunk in range(schedule.chunks)]  # fmt: skip
    windows = tuple(tuple(sorted(config.window(i) for i in layers)) for layers in own)
    return stage == 0, stage == pp - 1, tuple(len(layers) for layers in own), windows


def _one_batch(
    config: GPTConfig, grid: dict[str, int], schedule: Schedule, stage: int,
    shape: tuple[int, int], model: type[GPTModel],
) -> StagePlan:  # fmt: skip
    """One micro-batch through the chunks of a rank of `stage`, on fake tensors."""
    rank = _rank_of(grid, stage)
    with planned_grid(rank, **grid) as context, FakeTensorMode(), _Live() as live:
        models = build_stages(config, context, chunks=schedule.chunks, model=model,
                              initialize=False)  # fmt: skip
        parameters = [p for each in models for p in each.parameters()]
        plan = StagePlan(stage, sum(map(_bytes, parameters)), 0, 0, 0, 0)
        widen_gradients(parameters)
        traffic = context.traffic
        for each in models:
            _through(each, context, live, shape)  # now the gradients are there, as in most passes
        plan.gradients = sum(_bytes(p.grad) for p in parameters if p.grad is not None)
        traffic.reset()
        for each in models:
            saved, working = _through(each, context, live, shape)
            plan.activations = max(plan.activations, saved)
            plan.working = max(plan.working, working)
        for name, count in traffic.calls.items():
            plan.calls[name] = count * schedule.batches
            plan.bytes[name] = traffic.bytes[name] * schedule.batches
        traffic.reset()
        finish_gradients(models, context)
        plan.calls.update(traffic.calls)
        plan.bytes.update(traffic.bytes)
        wide = [p.numel() * max(4, p.element_size()) for p in parameters]
        copies = [n for n, p in zip(wide, parameters, strict=True) if p.element_size() < 4]
        plan.optimizer = 2 * sum(wide) + sum(copies)
    return plan


def _rank_of(grid: dict[str, int], stage: int) -> int:
    """The first rank of a pipeline stage, in the order of `ParallelContext`."""
    return stage * grid["tp"] * grid["dp"]


def _through(
    model: GPTModel, context: ParallelContext, live: _Live, shape: tuple[int, int]
) -> tuple[int, int]:
    """Bytes that one forward pass leaves for its backward pass, and what both need besides."""
    config, (rows, length) = model.config, shape
    ids = torch.zeros(rows, length, dtype=torch.int64)
    before = live.peak = live.now
    if model.pre_process:
        x = ids
    else:
        part = length // context.tp.size if config.sequence_parallel else length
        x = torch.zeros(rows, part, config.hidden, dtype=config.torch_dtype, requires_grad=True)
    y = model.loss_sum(x, ids) if model.post_process else model(x)
    saved = live.now - before
    y.backward(None if model.post_process else torch.zeros_like(y))
    return saved, live.peak - before - saved


def _add_messages(plan: StagePlan, schedule: Schedule, rank: int, size: int) -> None:
    """The messages that `rank` sends to its neighbours in a step."""
    assert schedule.exchanges is not None
    for exchange in schedule.exchanges[rank]:
        for transfer in exchange.transfers:
            if sender(schedule, transfer) == rank:
                plan.calls["send", "pipeline"] += 1
                plan.bytes["send", "pipeline"] += size


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
