"""Stages: which layers they hold, and what happens when two of them disagree."""

import pytest
import torch

from tp_parallel import GPTConfig, GPTModel, ParallelContext
from tp_parallel.pipeline import build_stages, layers_of_stage, run_schedule
from tp_parallel.pipeline.schedules import make_schedule

SHAPE = {"vocab_size": 37, "hidden": 16, "layers": 4, "heads": 4, "max_positions": 8,
         "dtype": "float64"}  # fmt: skip
LENGTH = 8


def test_layers_are_shared_out_evenly_and_too_few_are_refused():
    assert [list(layers_of_stage(5, 3, s)) for s in range(3)] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="3 stages need at least as many layers, got 2"):
        layers_of_stage(2, 3, 0)


def alone():
    context = ParallelContext(device="cpu")
    ids = torch.zeros(2, LENGTH, dtype=torch.int64)
    return context, build_stages(GPTConfig(**SHAPE), context), ids


def test_a_schedule_without_gradients_is_refused_and_says_what_to_call():
    context, models, ids = alone()
    plan, options = make_schedule("1f1b", 1, 1), {"context": context, "shape": (2, LENGTH)}
    with torch.no_grad(), pytest.raises(RuntimeError, match="call evaluate_schedule"):
        run_schedule(plan, models, [ids], lambda m, x, n: m.loss_sum(x, ids), **options)


def test_what_a_model_cannot_run_is_named():
    context, (model,), ids = alone()
    for layers in ([0, 4], [1, 1], [-1]):
        with pytest.raises(ValueError, match="layers must be different indices below 4"):
            GPTModel(model.config, context=context, layers=layers)
    for positions, message in (
        (ids[:, :2], r"positions must be int64 \(2, 8\), as the tokens"),
        (ids.int(), r"got torch.int32 \(2, 8\)"),
        (ids - 1, "got -1 to -1"),
        (ids + 8, r"in \[0, max_positions 8\), got 8 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            model(ids, ids, positions=positions)
    with pytest.raises(ValueError, match="reduction must be 'none', or 'sum' with labels"):
        model(ids, ids, reduction="mean")
    with pytest.raises(ValueError, match="got 'sum' without labels"):
        model(ids, reduction="sum")


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
