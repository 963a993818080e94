"""A dry run says what a real run then holds and sends."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tp_parallel import GPTConfig, ParallelContext, finish_gradients
from tp_parallel.grid.context import planned_grid
from tp_parallel.pipeline import build_stages, run_schedule
from tp_parallel.pipeline.schedules import SCHEDULES, make_schedule
from tp_parallel.training.plan import _Live, plan_run

SHAPE = {"vocab_size": 37, "hidden": 24, "layers": 4, "heads": 4, "max_positions": 12,
         "kv_heads": 2, "norm": "rmsnorm", "position": "rotary", "activation": "swiglu",
         "bias": False}  # fmt: skip
ROWS, LENGTH, BATCHES = 2, 12, 4


def step(context, config, schedule, length=LENGTH):
    models = build_stages(config, context, chunks=schedule.chunks, initialize=False)
    ids = torch.zeros(ROWS, length, dtype=torch.int64)
    run_schedule(
        schedule, models, [ids] * schedule.batches, lambda m, x, n: m.loss_sum(x, ids),
        context=context, shape=(ROWS, length),
    )  # fmt: skip
    finish_gradients(models, context)


def real_traffic(config, name, chunks):
    context = ParallelContext(tp=2, pp=2, device="cpu")
    step(context, config, make_schedule(name, 2, BATCHES, chunks))
    return context.pp.rank, dict(context.traffic.calls), dict(context.traffic.bytes)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_messages_of_a_plan_are_those_of_a_run(world, name):
    chunks = 2 if name == "interleaved" else 1
    config = GPTConfig(**SHAPE, sequence_parallel=name == "gpipe", tie_embeddings=name != "1f1b",
                       recompute=name == "interleaved")  # fmt: skip
    schedule = make_schedule(name, 2, BATCHES, chunks)
    plan = plan_run(config, tp=2, pp=2, dp=1, schedule=schedule, rows=ROWS, length=LENGTH)
    for stage, calls, sizes in world(4, real_traffic, config=config, name=name, chunks=chunks):
        assert dict(plan.stages[stage].calls) == calls
        assert dict(plan.stages[stage].bytes) == sizes


@pytest.mark.parametrize(("name", "recompute"), [("1f1b", False), ("gpipe", True)])
def test_the_memory_of_a_plan_is_what_a_run_holds(name, recompute):
    config = GPTConfig(**SHAPE | {"hidden": 256, "max_positions": 128, "vocab_size": 1000},
                       recompute=recompute, dtype="bfloat16", tie_embeddings=False)  # fmt: skip
    schedule = make_schedule(name, 4, 8)
    plan = plan_run(config, tp=2, pp=4, dp=1, schedule=schedule, rows=ROWS, length=128)
    for stage in range(4):
        with (
            planned_grid(stage * 2, tp=2, pp=4, dp=1) as context,
            FakeTensorMode(),
            _Live() as all_,
        ):
            step(context, config, schedule, 128)
        one = plan.stages[stage]
        # more where the peak comes before the first gradient
        assert 0.9 * all_.peak < one.total - one.optimizer < 1.2 * all_.peak


def test_every_rank_is_built_and_what_does_not_fit_is_named():
    config = GPTConfig(**SHAPE | {"heads": 8, "hidden": 64})
    plan = plan_run(config, tp=4, pp=4, dp=4, schedule=make_schedule("1f1b", 4, 8), rows=1,
                    length=12, zero=True)  # fmt: skip
    whole = sum(
        p.numel() for p in build_stages(config, ParallelContext(device="cpu"))[0].parameters()
    )
    assert (plan.ranks, plan.elements) == (64, whole)
    assert "tp 4 x pp 4 x dp 4: 64 ranks" in str(plan)
    largest = max(stage.total for stage in plan.stages)
    assert plan.misfits(largest) == []
    assert plan.misfits(largest - 1)[0].startswith("a rank of stage 0 needs")
    assert torch.distributed.is_initialized() is False


@pytest.mark.slow
def test_a_thousand_ranks_of_seventy_billion_parameters_are_planned_in_a_minute():
    config = GPTConfig(
        vocab_size=128256, hidden=8192, layers=80, heads=64, kv_heads=8, ffn=28672,
        max_positions=8192, position="rotary", norm="rmsnorm", activation="swiglu", bias=False,
        tie_embeddings=False, dtype="bfloat16", recompute=True, sequence_parallel=True,
    )  # fmt: skip
    plan = plan_run(config, tp=8, pp=8, dp=16, schedule=make_schedule("1f1b", 8, 16), rows=1,
                    length=8192, zero=True)  # fmt: skip
    assert (plan.ranks, round(plan.elements / 1e9, 2)) == (1024, 70.55)
    assert plan.misfits(80 << 30) == []
    assert len(plan.misfits(8 << 30)) >= 1
