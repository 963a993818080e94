"""Every grid and schedule trains to the same gradients and parameters as the unsplit model."""

import pytest
import torch

from tp_parallel import (
    AdamW,
    GPTConfig,
    GPTModel,
    ParallelContext,
    finish_gradients,
    gradient_norm,
    reference,
)
from tp_parallel.pipeline import build_stages, layers_of_stage, run_schedule
from tp_parallel.schedules import make_schedule

SHAPE = {"vocab_size": 37, "hidden": 16, "layers": 4, "heads": 4, "max_positions": 8,
         "dtype": "float64"}  # fmt: skip
ROWS, LENGTH, STEPS, LR = 8, 8, 5, 1e-2


def batch(step):
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(SHAPE["vocab_size"], (ROWS, LENGTH + 1), generator=generator)
    labels = ids[:, 1:].clone()
    # unequal numbers of valid tokens between data ranks and micro-batches
    labels[0, :5] = -100
    labels[5, 2] = -100
    return ids[:, :-1], labels


def train_unsplit(changes):
    config = GPTConfig(**SHAPE | changes)
    model = GPTModel(config, context=ParallelContext(device="cpu"))
    state = {k: v.requires_grad_() for k, v in model.gather_full().items()}
    optimizer = torch.optim.AdamW(state.values(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
    losses, first = [], None
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = reference.gpt_loss(config, state, *batch(step))
        loss.backward()
        losses.append(loss.item())
        first = first or {k: v.grad.clone() for k, v in state.items()}
        optimizer.step()
    return losses, first, {k: v.detach() for k, v in state.items()}


def train_split(tp, pp, dp, schedule, chunks, micro, changes):
    """This rank's losses (last stage), gathered first gradients, their norm, final parameters."""
    context = ParallelContext(tp, pp, dp, device="cpu")
    config = GPTConfig(**SHAPE | changes)
    models = build_stages(config, context, chunks=chunks)
    optimizer = AdamW(models, context, lr=LR, clip_grad=None)
    plan = make_schedule(schedule, pp, ROWS // dp // micro, chunks)
    losses, first, norm = [], None, None
    for step in range(STEPS):
        ids, labels = batch(step)
        tokens = (labels != -100).sum()
        mine = ids.chunk(dp)[context.dp.rank].split(micro)
        targets = labels.chunk(dp)[context.dp.rank].split(micro)
        optimizer.zero_grad()
        parts = run_schedule(
            plan, models, list(mine), lambda m, x, n, t=targets, c=tokens: m.loss_sum(x, t[n]) / c,
            context=context, shape=(micro, LENGTH),
        )  # fmt: skip
        finish_gradients(models, context)
        total = torch.stack([*parts, torch.zeros((), dtype=torch.float64)]).sum().reshape(1)
        losses.append(context.dp.all_reduce(total, label="test").item())
        if first is None:
            first = gathered(models, True)
            norm = gradient_norm(models, context).item()
        optimizer.step()
    tied = [p.detach() for m in models for n, p in m.named_parameters()
            if hasattr(p, "tied_to") or hasattr(p, "tied_from")]  # fmt: skip
    return losses, first, norm, gathered(models), tied, context.last_stage


def gathered(models, gradients=False):
    return {k: v for model in models for k, v in model.gather_full(gradients).items()}


def check(world, tp, pp, dp, schedule="1f1b", chunks=1, micro=2, **changes):
    losses, gradients, parameters = train_unsplit(changes)
    norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt().item()
    results = world(tp * pp * dp, train_split, tp=tp, pp=pp, dp=dp, schedule=schedule,
                    chunks=chunks, micro=micro, changes=changes)  # fmt: skip
    seen = set()
    for got_losses, got_gradients, got_norm, got_parameters, _, last in results:
        if last:
            assert got_losses == pytest.approx(losses, abs=1e-10)
        assert got_norm == pytest.approx(norm, rel=1e-10)
        for got, want in ((got_gradients, gradients), (got_parameters, parameters)):
            for name, value in got.items():
                scale = max(1.0, float(want[name].abs().max()))
                assert float((value - want[name]).abs().max()) <= 1e-10 * scale, name
        seen |= got_parameters.keys()
    assert seen == parameters.keys()
    copies = [copy for result in results for copy in result[4]]
    if pp > 1 and tp == 1 and copies:
        assert all(torch.equal(copy, copies[0]) for copy in copies), "tied copies differ"


@pytest.mark.parametrize(
    ("tp", "pp", "dp"),
    [(1, 1, 2), (1, 2, 1), (1, 2, 2), (2, 2, 1), (2, 1, 2), (1, 4, 1), (1, 1, 4), (1, 3, 1)],
)
def test_every_grid_equals_the_unsplit_model(world, tp, pp, dp):
    check(world, tp, pp, dp)


@pytest.mark.parametrize(
    ("schedule", "chunks"), [("gpipe", 1), ("interleaved", 2), ("zero_bubble", 1)]
)
@pytest.mark.parametrize(("tp", "pp"), [(1, 2), (2, 2)])
def test_every_schedule_equals_the_unsplit_model(world, schedule, chunks, tp, pp):
    check(world, tp, pp, 1, schedule, chunks)


def test_sequence_parallel_recompute_untied_swiglu_over_a_zero_bubble_pipeline(world):
    check(
        world, 2, 2, 1, "zero_bubble", sequence_parallel=True, recompute=True, tie_embeddings=False,
        activation="swiglu", norm="rmsnorm", position="rotary", kv_heads=2,
    )  # fmt: skip


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
