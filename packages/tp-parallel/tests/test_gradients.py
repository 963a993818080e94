"""Gradient sums over the data axis travel during the backward pass; optimizer states are shared."""

import gc
import weakref

import pytest
import torch

from tp_parallel import AdamW, GPTConfig, GradientBuckets, ParallelContext, finish_gradients
from tp_parallel.pipeline import build_stages, run_schedule
from tp_parallel.pipeline.schedules import make_schedule

SHAPE = {"vocab_size": 37, "hidden": 16, "layers": 4, "heads": 4, "max_positions": 8}
STEPS = 2


def train(schedule, chunks, elements, dtype="float32", zero=False, pp=1):
    """Gradients after two steps, events of the last backward pass, optimizer values held here."""
    context = ParallelContext(pp=pp, dp=2, device="cpu")
    # a tied embedding over two stages is summed over the stages too, in another order
    config = GPTConfig(**SHAPE, dtype=dtype, tie_embeddings=pp == 1)
    models = build_stages(config, context, chunks=chunks)
    optimizer = AdamW(models, context, lr=1e-2, zero=zero)
    buckets = GradientBuckets(models, context, elements=elements) if elements else None
    events = watch(models, context.dp)
    ids = torch.randint(37, (8, 8), generator=torch.Generator().manual_seed(0))
    mine = ids.chunk(2)[context.dp.rank].split(2)
    for _ in range(STEPS):
        (optimizer.zero_grad if buckets is None else buckets.zero)()
        events.clear()
        run_schedule(
            make_schedule(schedule, pp, 2, chunks), models, list(mine),
            lambda m, x, n: m.loss_sum(x, mine[n]) / 64, context=context, shape=(2, 8),
            buckets=buckets,
        )  # fmt: skip
        events.append("end of the backward pass")
        finish_gradients(models, context, buckets)
        optimizer.step()
    held = sum(v.numel() for state in optimizer.moments().values() for v in state.values())
    values = [(p.grad.clone(), p.detach().clone()) for m in models for p in m.parameters()]
    return values, list(events), held, dict(context.traffic.bytes)


def watch(models, axis):
    """A list that records gradient sums as they start and layers as their backward pass ends."""
    events = []
    original = axis.all_reduce_async

    def recorded(tensor, *more, **options):
        if options.get("kind") == "gradient":
            events.append("sum")
        return original(tensor, *more, **options)

    axis.all_reduce_async = recorded
    for model in models:
        for name, layer in model.layers.items():
            weight = layer.attention_norm.weight  # the first layer to run is the last to be done
            weight.register_post_accumulate_grad_hook(lambda _, n=name: events.append(n))
    return events


def forgotten():
    """Whether a trained model, its buckets and its context are gone once nobody holds them."""
    context = ParallelContext(dp=2, device="cpu")
    models = build_stages(GPTConfig(**SHAPE), context)
    buckets = GradientBuckets(models, context)
    buckets.zero()
    models[0].loss_sum(torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8).long()).backward()
    finish_gradients(models, context, buckets)
    there = [weakref.ref(each) for each in (context, models[0], buckets)]
    del context, models, buckets
    gc.collect()
    return [each() is None for each in there]


def test_models_with_buckets_are_given_back_when_nobody_holds_them(world):
    assert world(2, forgotten) == [[True, True, True]] * 2


def test_sums_start_while_earlier_layers_are_still_at_work(world):
    for _, events, _, _ in world(2, train, schedule="1f1b", chunks=1, elements=4000):
        # two micro-batches: the first backward pass sends nothing
        assert events[:4] == ["3", "2", "1", "0"]
        assert "sum" in events[events.index("3", 4) : events.index("0", 4)]
        assert events.count("sum") > 3
        assert events[-1] == "end of the backward pass"


@pytest.mark.parametrize(
    ("schedule", "pp", "chunks"),
    [("1f1b", 1, 1), ("zero_bubble", 2, 1), ("interleaved", 2, 2)],
)
def test_overlap_changes_no_bit(world, schedule, pp, chunks):
    options = {"schedule": schedule, "chunks": chunks, "pp": pp}
    plain = world(2 * pp, train, elements=0, **options)
    early = world(2 * pp, train, elements=4000, **options)
    for (want, *_, sent), (got, *_, sent_early) in zip(plain, early, strict=True):
        for both in zip(want, got, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))
        assert sent_early["all_reduce", "gradient"] == sent["all_reduce", "gradient"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sharded_optimizer_holds_half_the_state_and_gives_the_same_bits(world, dtype):
    options = {"schedule": "1f1b", "chunks": 1, "elements": 4000, "dtype": dtype}
    whole = world(2, train, **options)
    sharded = world(2, train, zero=True, **options)
    for (want, _, _, _), (got, _, _, _) in zip(whole, sharded, strict=True):
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(want, got, strict=True))
    assert sum(result[2] for result in sharded) == whole[0][2]
    assert max(result[2] for result in sharded) < 0.6 * whole[0][2]


def shared_and_fused():
    context = ParallelContext(dp=2, device="cpu")
    optimizer = AdamW(build_stages(GPTConfig(**SHAPE), context), context, zero=True, fused=True)
    return optimizer.inner.defaults["fused"]  # which says where its states are made


def test_the_choice_of_the_kernel_reaches_the_shared_optimizer(world):
    assert world(2, shared_and_fused) == [True, True]


def test_without_a_data_axis_zero_sets_gradients_to_none():
    context = ParallelContext(device="cpu")
    models = build_stages(GPTConfig(**SHAPE), context)
    buckets = GradientBuckets(models, context)
    models[0].loss_sum(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4).long()).backward()
    assert models[0].final_norm.weight.grad is not None
    buckets.zero()
    assert all(p.grad is None for p in models[0].parameters())


def sums_without_a_schedule(frozen):
    """Gradients of a plain loop, that never enters `last_backward`, with and without buckets."""
    context = ParallelContext(dp=2, device="cpu")
    models = build_stages(GPTConfig(**SHAPE, dtype="float64"), context)
    models[0].embedding.requires_grad_(not frozen)
    ids = torch.full((1, 4), context.rank)
    results = []
    for buckets in (None, GradientBuckets(models, context, elements=2000)):
        models[0].zero_grad() if buckets is None else buckets.zero()
        models[0].loss_sum(ids, ids).backward()
        finish_gradients(models, context, buckets)
        grads = {name: p.grad for name, p in models[0].named_parameters()}
        results.append({name: g if g is None else g.clone() for name, g in grads.items()})
    return results


@pytest.mark.parametrize("frozen", [False, True])
def test_buckets_sum_also_what_no_schedule_has_started_and_leave_frozen_parameters(world, frozen):
    for plain, bucketed in world(2, sums_without_a_schedule, frozen=frozen):
        for name, want in plain.items():
            if frozen and name.startswith("embedding"):
                assert want is None
                assert bucketed[name] is None
            else:
                torch.testing.assert_close(bucketed[name], want, rtol=1e-12, atol=1e-12)


def forgets_zero(how):
    context = ParallelContext(dp=2, device="cpu")
    models = build_stages(GPTConfig(**SHAPE), context)
    buckets = GradientBuckets(models, context)
    ids = torch.zeros(1, 4, dtype=torch.int64)
    buckets.zero()
    for _ in range(2):
        if how == "other zero":
            models[0].zero_grad()
        run_schedule(
            make_schedule("1f1b", 1, 1), models, [ids], lambda m, x, n: m.loss_sum(x, ids),
            context=context, shape=(1, 4), buckets=buckets,
        )  # fmt: skip
        finish_gradients(models, context, buckets)


@pytest.mark.parametrize("how", ["no zero", "other zero"])
def test_gradients_outside_the_buckets_are_an_error_and_not_left_unsummed(world, how):
    for ok, message in world.outcomes(2, forgets_zero, how=how):
        assert not ok
        assert "zero() must be called before each step" in message
