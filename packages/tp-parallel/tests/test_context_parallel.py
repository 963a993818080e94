"""Sequences whose parts are on several ranks give the numbers of the unsplit model."""

import pytest
import torch

from tp_parallel import (
    AdamW,
    CodeGeeXModel,
    GPTConfig,
    GPTModel,
    GradientBuckets,
    ParallelContext,
    cut_sequence,
    finish_gradients,
    gradient_norm,
    shard_over_data,
)
from tp_parallel.layers import KeyValueCache
from tp_parallel.layers.context_parallel import places, whole_sequence
from tp_parallel.layers.rotary import RotaryScaling
from tp_parallel.pipeline import build_stages, evaluate_schedule, run_schedule
from tp_parallel.pipeline.schedules import make_schedule
from tp_parallel.training import pretrain

LENGTH, ROWS = 16, 4
SHAPE = {"vocab_size": 37, "hidden": 16, "layers": 2, "heads": 4, "max_positions": LENGTH,
         "dtype": "float64"}  # fmt: skip
LLAMA = {"position": "rotary", "norm": "rmsnorm", "activation": "swiglu", "bias": False,
         "kv_heads": 2, "tie_embeddings": False}  # fmt: skip
MODELS = {
    "gpt2": {},
    "llama": LLAMA | {"windows": (0, 5)},
    "dynamic": LLAMA | {"rotary_scaling": RotaryScaling("dynamic", 2.0, 8), "recompute": True},
    "gemma": LLAMA | {"attention_softcap": 5.0, "logit_softcap": 3.0, "qk_norm": True,
                      "post_norms": True, "windows": (7, 0)},
}  # fmt: skip
# tp, pp, dp, cp, and whether activations between the split layers are cut over the sequence too
GRIDS = [(1, 1, 2, 2, False), (1, 1, 4, 4, False), (1, 1, 4, 2, False), (2, 1, 2, 2, False),
         (2, 1, 2, 2, True), (1, 2, 2, 2, False)]  # fmt: skip


def batch(documents):
    draw = torch.Generator().manual_seed(3)
    ids, labels = (torch.randint(37, (ROWS, LENGTH), generator=draw) for _ in range(2))
    labels[:, 5] = -100
    at = torch.arange(LENGTH)
    positions = torch.stack([at % (5 + row) for row in range(ROWS)]) if documents else None
    return ids, labels, positions


def step(tp, pp, dp, cp, split, model, documents=False, schedule="1f1b", fsdp=False):
    """Losses by row sum, evaluation, gradients, norm, and parameters after a step of Adam."""
    context = ParallelContext(tp, pp, dp, cp=cp, device="cpu")
    config = GPTConfig(**SHAPE, **MODELS[model], sequence_parallel=split)
    models = build_stages(config, context)
    if fsdp:
        models = [shard_over_data(each, context) for each in models]
    buckets = GradientBuckets(models, context)
    optimizer = AdamW(models, context, lr=1e-2)
    place, shares = context.dp.rank // cp, dp // cp
    ids, labels, positions = (
        None if x is None else cut_sequence(x.chunk(shares)[place], context.cp).split(1)
        for x in batch(documents)
    )
    tokens = (batch(documents)[1] != -100).sum()

    def loss(stage, x, n):
        at = None if positions is None else positions[n]
        return stage.loss_sum(x, labels[n], at) / tokens

    options = {"context": context, "shape": (1, LENGTH // cp),
               "positions": None if positions is None else list(positions)}  # fmt: skip
    plan = make_schedule(schedule, pp, ROWS // shares)
    evaluated = evaluate_schedule(plan, models, list(ids), loss, **options)
    buckets.zero()
    losses = run_schedule(plan, models, list(ids), loss, buckets=buckets, **options)
    finish_gradients(models, context, buckets)
    totals = torch.stack([sum(each, torch.zeros(())).double() for each in (losses, evaluated)])
    for axis in (context.dp, context.pp):
        axis.all_reduce(totals, label="loss")
    gradients = {k: v for each in models for k, v in each.gather_full(gradients=True).items()}
    norm = float(gradient_norm(models, context))
    optimizer.step()
    whole = {k: v for each in models for k, v in each.gather_full().items()}
    return totals, norm, gradients, whole


def assert_equal(results, want):
    for totals, norm, gradients, parameters in results:
        torch.testing.assert_close(totals, want[0], rtol=1e-10, atol=0)
        assert norm == pytest.approx(want[1], rel=1e-10)
        for got, whole in ((gradients, want[2]), (parameters, want[3])):
            for name, value in got.items():
                torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_grid_equals_the_unsplit_model(world, grid, model):
    want = step(1, 1, 1, 1, False, model)
    assert_equal(world(grid[0] * grid[1] * grid[2], step, **arguments(grid), model=model), want)


def arguments(grid):
    return dict(zip(("tp", "pp", "dp", "cp", "split"), grid, strict=True))


@pytest.mark.parametrize("grid", [GRIDS[0], GRIDS[4], GRIDS[5]], ids=str)
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_documents_do_not_see_each_other_across_ranks(world, grid, model):
    want = step(1, 1, 1, 1, False, model, documents=True)
    more = {"model": model, "documents": True}
    assert_equal(world(grid[0] * grid[1] * grid[2], step, **arguments(grid), **more), want)


def test_it_goes_with_fsdp2_and_with_split_backward_passes(world):
    want = step(1, 1, 1, 1, False, "llama")
    assert_equal(world(4, step, **arguments(GRIDS[2]), model="llama", fsdp=True), want)
    more = {"model": "llama", "schedule": "zero_bubble"}
    assert_equal(world(4, step, **arguments(GRIDS[5]), **more), want)


def parts(length, cp):
    context = ParallelContext(dp=cp, cp=cp, device="cpu")
    x = torch.arange(2.0 * length, requires_grad=True).reshape(2, length)
    own = cut_sequence(x, context.cp)
    whole = whole_sequence(own, context.cp, 1)
    return places(length, context.cp).tolist(), own.tolist(), torch.equal(whole, x)


def test_each_rank_holds_an_early_and_a_late_chunk_and_they_join_to_the_whole(world):
    got = world(2, parts, length=8, cp=2)
    assert [at for at, _, _ in got] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert [own[1] for _, own, _ in got] == [[8.0, 9.0, 14.0, 15.0], [10.0, 11.0, 12.0, 13.0]]
    assert all(same for _, _, same in got)
    held = world(4, parts, length=24, cp=4)
    assert sorted(place for at, _, _ in held for place in at) == list(range(24))


def refusals():
    context = ParallelContext(dp=2, cp=2, device="cpu")
    config = GPTConfig(**SHAPE)
    model = GPTModel(config, context=context)
    ids, texts = torch.zeros(1, 5, dtype=torch.int64), []
    for attempt in (
        lambda: ParallelContext(dp=2, cp=3, device="cpu"),
        lambda: cut_sequence(torch.zeros(1, 6), context.cp),
        lambda: model(ids),
        lambda: model(ids.repeat(1, 2)),
        lambda: model(ids[:, :4], cache=KeyValueCache(8)),
        lambda: CodeGeeXModel(config, context=context),
    ):
        try:
            attempt()
        except ValueError as error:
            texts.append(str(error))
    return texts


def test_what_does_not_go_with_it_is_refused(world):
    for got in world(2, refusals):
        cp, cut, odd, long, cache, other = got
        assert "cp must divide the data size 2, got 3" in cp
        assert "must be a multiple of 2 cp = 4 tokens, got 6" in cut
        assert "must be a multiple of 2 cp = 4 tokens, got 10" in odd
        assert "at most max_positions 16 tokens, got 20" in long
        assert "a cache needs a context of cp 1" in cache
        assert "not computed with cp above 1" in other


def train(folder, cp=1, dp=None, **more):
    settings = pretrain.Settings(
        data=str(folder / "t.txt"), layers=2, hidden=16, heads=2, seq=16, batch=4, steps=4,
        warmup=1, eval_every=2, eval_batches=1, dtype="float64", cp=cp, dp=dp, **more,
    )  # fmt: skip
    report = pretrain.pretrain(settings)
    return report.losses, list(report.evaluations.values())


@pytest.mark.parametrize(("size", "options"), [(2, {"cp": 2}), (4, {"cp": 2, "pp": 2}),
                                               (4, {"cp": 2, "zero": True})])  # fmt: skip
def test_the_trainer_gives_the_curve_of_one_process(world, tmp_path, size, options):
    (tmp_path / "t.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    want = train(tmp_path)
    for losses, evaluations in world(size, train, folder=tmp_path, **options):
        assert losses == pytest.approx(want[0], rel=1e-10)
        assert evaluations == pytest.approx(want[1], rel=1e-10)


def test_settings_that_do_not_fit_and_a_dry_run():
    with pytest.raises(ValueError, match="--cp must divide the data-parallel size 3"):
        pretrain.dry_run(pretrain.Settings(dry_run=True, world=3, cp=2))
    with pytest.raises(ValueError, match="multiple of 2 cp, got cp 4 and seq 12"):
        pretrain.dry_run(pretrain.Settings(dry_run=True, world=4, cp=4, seq=12))
    one = pretrain.dry_run(pretrain.Settings(dry_run=True, world=4, seq=512, batch=4))
    cut = pretrain.dry_run(pretrain.Settings(dry_run=True, world=4, seq=512, batch=1, cp=4))
    assert cut.grid == {"tp": 1, "pp": 1, "dp": 4, "cp": 4}
    assert cut.stages[0].activations < 0.5 * one.stages[0].activations
