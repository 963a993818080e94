"""Stages: which layers they hold, and what happens when two of them disagree."""

import pytest
import torch

from tp_parallel import GPTConfig, ParallelContext
from tp_parallel.pipeline import build_stages, layers_of_stage, run_schedule
from tp_parallel.pipeline.schedules import make_schedule

SHAPE = {"vocab_size": 37, "hidden": 16, "layers": 4, "heads": 4, "max_positions": 8,
         "dtype": "float64"}  # fmt: skip
LENGTH = 8


def test_layers_are_shared_out_evenly_and_too_few_are_refused():
    assert [list(layers_of_stage(5, 3, s)) for s in range(3)] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="3 stages need at least as many layers, got 2"):
        layers_of_stage(2, 3, 0)


def mismatched():
    context = ParallelContext(pp=2, device="cpu", timeout=3)
    models = build_stages(GPTConfig(**SHAPE), context)
    rows = 2 if context.rank == 0 else 3
    plan = make_schedule("1f1b", 2, 1)
    ids = torch.zeros(rows, LENGTH, dtype=torch.int64)
    run_schedule(
        plan,
        models,
        [ids],
        lambda m, x, n: m.loss_sum(x, ids),
        context=context,
        shape=(rows, LENGTH),
    )


def test_a_stage_that_sends_another_shape_is_named_before_the_data_moves(world):
    outcomes = world.outcomes(2, mismatched)
    assert not outcomes[1][0]
    assert (
        "expects send float64 (3, 8, 16) but rank 0 sends send float64 (2, 8, 16)" in outcomes[1][1]
    )
