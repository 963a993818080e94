"""Every grid of at most four ranks trains to the numbers of the unsplit definition.

Losses, every gradient, its norm and all parameters after five Adam steps, from weights of standard
deviation 0.02, with unequal numbers of valid tokens. Sequence parallelism, initialisation, tied
embeddings, recomputation, overlapped gradient sums and the sharded optimizer are combined so that
every pair of choices occurs, and every choice on every grid.
"""

import functools
import itertools
from dataclasses import replace

import pytest
import torch

from tp_parallel import (
    AdamW,
    GPTConfig,
    GPTModel,
    GradientBuckets,
    ParallelContext,
    finish_gradients,
    gradient_norm,
    reference,
)
from tp_parallel.layers.layout import placed_parameters
from tp_parallel.layers.rotary import RotaryScaling
from tp_parallel.pipeline import build_stages, run_schedule
from tp_parallel.pipeline.schedules import make_schedule

# divisible by 2, 3 and 4 ranks, except for the vocabulary
SHAPE = {"vocab_size": 37, "hidden": 24, "layers": 4, "heads": 12, "max_positions": 12, "ffn": 48}
ROWS, LENGTH, STEPS = 12, 12, 5
# float32: the bias of the keys has no gradient but rounding, which Adam turns into steps of up to
# the learning rate
LEARNING_RATE = {"float64": 1e-2, "float32": 1e-3}
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}

GRIDS = [grid for grid in itertools.product(range(1, 5), repeat=3)
         if grid[0] * grid[1] * grid[2] <= 4]  # fmt: skip
CHOICES = {
    "sequence_parallel": (False, True),
    "init_mode": ("whole", "local"),
    "tie_embeddings": (True, False),
    "recompute": (False, True),
    "buckets": (False, True),
    "zero": (False, True),
}
# one row a grid, and its complement: columns of a covering array of strength two
PATTERNS = [(0, 0, 0, 0, 0, 0), (0, 1, 1, 0, 1, 0), (1, 0, 1, 1, 0, 0), (0, 0, 1, 0, 0, 1),
            (1, 0, 0, 0, 1, 1), (0, 1, 0, 1, 0, 1)]  # fmt: skip


def cases():
    """(grid, choices, schedule) of each test."""
    pipelines = itertools.cycle(("1f1b", "gpipe", "zero_bubble"))
    for index, grid in enumerate(GRIDS):
        for flip in (0, 1):
            bits = [bit ^ flip for bit in PATTERNS[index % len(PATTERNS)]]
            chosen = {name: values[bit] for (name, values), bit
                      in zip(CHOICES.items(), bits, strict=True)}  # fmt: skip
            yield grid, chosen, next(pipelines) if grid[1] > 1 else "1f1b"


def name_of(case):
    (tp, pp, dp), chosen, schedule = case
    words = [f"tp{tp}pp{pp}dp{dp}", schedule]
    words += [word for word, on in {"sequence": chosen["sequence_parallel"],
                                    "local": chosen["init_mode"] == "local",
                                    "tied": chosen["tie_embeddings"],
                                    "recompute": chosen["recompute"],
                                    "overlap": chosen["buckets"],
                                    "zero": chosen["zero"]}.items() if on]  # fmt: skip
    return "-".join(words)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(SHAPE["vocab_size"], (ROWS, LENGTH + 1), generator=generator)
    labels = ids[:, 1:].clone()
    # unequal numbers of valid tokens between data ranks and micro-batches
    labels[0, :5] = -100
    labels[5, 2] = -100
    return ids[:, :-1], labels


def train_unsplit(config, state):
    """Losses, first gradients and final parameters of the definition, from the weights `state`."""
    state = {k: v.clone().requires_grad_() for k, v in state.items()}
    optimizer = torch.optim.AdamW(
        state.values(), lr=LEARNING_RATE[config.dtype], betas=(0.9, 0.95), weight_decay=0.0
    )
    losses, first = [], None
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = reference.gpt_loss(config, state, *batch(step))
        loss.backward()
        losses.append(loss.item())
        first = first or {k: v.grad.clone() for k, v in state.items()}
        optimizer.step()
    return losses, first, {k: v.detach() for k, v in state.items()}


def train_split(grid, config, schedule, init_mode, buckets, zero, chunks, check_shapes):
    """What this rank saw: first weights, losses (last stage), first gradients and their norm, final
    weights, copies of a tied embedding.
    """
    tp, pp, dp = grid
    context = ParallelContext(tp, pp, dp, device="cpu", check_shapes=check_shapes)
    models = build_stages(config, context, chunks=chunks, init_mode=init_mode)
    start = gathered(models)
    optimizer = AdamW(models, context, lr=LEARNING_RATE[config.dtype], clip_grad=None, zero=zero)
    overlapped = GradientBuckets(models, context, elements=2000) if buckets else None
    rows = ROWS // dp
    micro = 3 if rows % 3 == 0 else 2
    plan = make_schedule(schedule, pp, rows // micro, chunks)
    losses, first, norm = [], None, None
    for step in range(STEPS):
        ids, labels = batch(step)
        tokens = (labels != -100).sum()
        mine = ids.chunk(dp)[context.dp.rank].split(micro)
        targets = labels.chunk(dp)[context.dp.rank].split(micro)
        (optimizer.zero_grad if overlapped is None else overlapped.zero)()
        parts = run_schedule(
            plan, models, list(mine), lambda m, x, n, t=targets, c=tokens: m.loss_sum(x, t[n]) / c,
            context=context, shape=(micro, LENGTH), buckets=overlapped,
        )  # fmt: skip
        finish_gradients(models, context, overlapped)
        total = torch.stack([*parts, torch.zeros((), dtype=config.torch_dtype)]).sum().reshape(1)
        losses.append(context.dp.all_reduce(total, label="test").item())
        if first is None:
            first = gathered(models, True)
            norm = gradient_norm(models, context).item()
        optimizer.step()
    tied = [p.detach() for _, p, layout in placed_parameters(models, context) if layout.tied]
    return start, losses if context.last_stage else None, first, norm, gathered(models), tied


def gathered(models, gradients=False):
    return {k: v for model in models for k, v in model.gather_full(gradients).items()}


@functools.cache
def whole(config):
    """The weights of the whole model in one process, and what `train_unsplit` makes of them."""
    start = GPTModel(config, context=ParallelContext(device="cpu")).gather_full()
    return start, train_unsplit(config, start)


def check(world, grid, config, schedule="1f1b", init_mode="whole", buckets=False, zero=False,
          chunks=1, check_shapes=False):  # fmt: skip
    results = world(grid[0] * grid[1] * grid[2], train_split, grid=grid, config=config,
                    schedule=schedule, init_mode=init_mode, buckets=buckets, zero=zero,
                    chunks=chunks, check_shapes=check_shapes)  # fmt: skip
    tolerance = TOLERANCE[config.dtype]
    start = {name: value for result in results for name, value in result[0].items()}
    if init_mode == "whole":
        # how it is split and what it recomputes is nothing to the definition: trained once for all
        drawn, trained = whole(replace(config, sequence_parallel=False, recompute=False))
        assert start.keys() == drawn.keys()
        assert all(torch.equal(start[name], value) for name, value in drawn.items())
    else:
        trained = train_unsplit(config, start)
    losses, gradients, parameters = trained
    norm = torch.stack([g.double().square().sum() for g in gradients.values()]).sum().sqrt()
    for _, got_losses, got_gradients, got_norm, got_parameters, _ in results:
        if got_losses:
            assert got_losses == pytest.approx(losses, abs=tolerance)
        assert got_norm == pytest.approx(norm.item(), rel=tolerance)
        for got, want in ((got_gradients, gradients), (got_parameters, parameters)):
            for name, value in got.items():
                scale = max(1.0, float(want[name].abs().max()))
                assert float((value - want[name]).abs().max()) <= tolerance * scale, name
    assert {name for result in results for name in result[4]} == parameters.keys()
    copies = [copy for result in results for copy in result[5]]
    if grid[0] == 1:  # with tp every rank has another part of them
        assert all(torch.equal(copy, copies[0]) for copy in copies), "tied copies differ"


@pytest.mark.parametrize("case", list(cases()), ids=name_of)
def test_every_grid_equals_the_unsplit_model_in_float64(world, case):
    grid, chosen, schedule = case
    shape = {k: chosen[k] for k in ("sequence_parallel", "tie_embeddings", "recompute")}
    run = {k: chosen[k] for k in ("init_mode", "buckets", "zero")}
    # a message about each message, which doubles the time: on every grid once
    run["check_shapes"] = chosen["init_mode"] == "whole"
    check(world, grid, GPTConfig(**SHAPE, **shape, dtype="float64"), schedule, **run)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_grid_equals_the_unsplit_model_in_float32(world, grid):
    check(world, grid, GPTConfig(**SHAPE), buckets=grid[2] > 1, zero=grid[2] == 2)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zero_bubble", "interleaved"])
@pytest.mark.parametrize("grid", [(1, 2, 1), (2, 2, 1), (1, 2, 2)], ids=str)
def test_every_schedule_equals_the_unsplit_model(world, schedule, grid):
    config = GPTConfig(**SHAPE, dtype="float64")
    check(world, grid, config, schedule, buckets=True, chunks=2 if schedule == "interleaved" else 1)


def test_a_llama_shaped_model_over_a_zero_bubble_pipeline_equals_the_unsplit_model(world):
    config = GPTConfig(
        **SHAPE, dtype="float64", sequence_parallel=True, recompute=True, tie_embeddings=False,
        activation="swiglu", norm="rmsnorm", position="rotary", kv_heads=6, bias=False,
    )  # fmt: skip
    check(world, (2, 2, 1), config, "zero_bubble")


MODERN = {"activation": "swiglu", "norm": "rmsnorm", "position": "rotary", "bias": False,
          "qkv_bias": True, "head_size": 4, "windows": (0, 3, 0, 5), "tie_embeddings": False,
          "dtype": "float64"}  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "more"),
    [((4, 1, 1), {"kv_heads": 2, "sequence_parallel": True}),
     ((4, 1, 1), {"kv_heads": 1, "qk_norm": True, "init_mode": "local"}),
     ((2, 2, 1), {"kv_heads": 1, "qk_norm": True, "recompute": True}),
     ((2, 1, 2), {"kv_heads": 1, "zero": True, "buckets": True, "post_norms": True}),
     ((2, 1, 2), {"kv_heads": 4, "qk_norm": True, "sequence_parallel": True,
                  "parallel_residual": True, "attention_softcap": 4.0, "logit_softcap": 2.0}),
     ((2, 2, 1), {"kv_heads": 2, "zero_centred_norm": True, "embedding_scale": 3.0,
                  "rotary_base_windowed": 100.0, "rotary_fraction": 0.5,
                  "rotary_scaling": RotaryScaling("llama3", 4.0, original=6)})],
    ids=str,
)  # fmt: skip
def test_models_people_have_and_fewer_key_heads_than_ranks_equal_the_unsplit_model(
    world, grid, more
):
    run = {name: more[name] for name in ("init_mode", "zero", "buckets") if name in more}
    shape = {name: value for name, value in more.items() if name not in run}
    check(world, grid, GPTConfig(**SHAPE, **MODERN | shape), **run)


def test_the_cases_cover_every_grid_and_every_pair_of_choices():
    grids = {grid for grid, _, _ in cases()}
    assert len(grids) == 13
    names = list(CHOICES)
    for first, second in itertools.combinations(names, 2):
        wanted = set(itertools.product(CHOICES[first], CHOICES[second]))
        assert {(c[first], c[second]) for _, c, _ in cases()} == wanted
    for name, values in CHOICES.items():
        seen = {(grid, chosen[name]) for grid, chosen, _ in cases()}
        assert seen == set(itertools.product(grids, values))
