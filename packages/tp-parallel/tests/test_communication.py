"""Messages are planned so that no order of events deadlocks, and the check agrees with reality."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from tp_parallel import GPTConfig, ParallelContext, finish_gradients
from tp_parallel.grid.axis import Arrival, Axis
from tp_parallel.pipeline import (
    Action,
    Exchange,
    Schedule,
    Transfer,
    build_stages,
    communicate,
    evaluate_schedule,
    make_schedule,
    run_schedule,
    validate,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))
import random_schedules

SHAPE = {"vocab_size": 37, "hidden": 16, "layers": 4, "heads": 4, "max_positions": 8,
         "dtype": "float64", "tie_embeddings": False}  # fmt: skip
NAMED = [("gpipe", 4, 8, 1), ("1f1b", 2, 4, 1), ("1f1b", 4, 8, 1), ("interleaved", 2, 4, 2),
         ("interleaved", 4, 8, 3), ("zero_bubble", 4, 8, 1), ("1f1b", 3, 2, 1)]  # fmt: skip


@pytest.mark.parametrize(("name", "stages", "batches", "chunks"), NAMED)
def test_a_planned_schedule_ends_where_every_send_waits_for_its_receive(
    name, stages, batches, chunks
):
    validate(make_schedule(name, stages, batches, chunks))


@pytest.mark.parametrize(("name", "stages", "batches", "chunks"), NAMED[1:6])
def test_bare_sends_and_receives_deadlock_at_the_first_crossing_and_the_circle_is_named(
    name, stages, batches, chunks
):
    bare = replace(make_schedule(name, stages, batches, chunks), exchanges=None)
    with pytest.raises(ValueError, match=r"deadlocks where a send .*: rank \d (sends|awaits) .*; "):
        validate(bare)
    validate(communicate(bare))


def test_a_users_schedule_that_deadlocks_is_refused_before_anything_runs():
    context = ParallelContext(device="cpu")
    models = build_stages(GPTConfig(**SHAPE), context)
    rows = ((Action("B", 0), Action("F", 0)),)
    with pytest.raises(ValueError, match="simulate: backwards deadlocks: rank 0 at B0"):
        run_schedule(
            Schedule("backwards", 1, 1, 1, rows), models, [torch.zeros(1, 8, dtype=torch.int64)],
            lambda m, x, n: m.loss_sum(x, x), context=context, shape=(1, 8),
        )  # fmt: skip


def test_a_message_that_is_missing_or_comes_too_late_is_named():
    good = make_schedule("1f1b", 2, 2)
    rows = list(good.exchanges)
    with pytest.raises(ValueError, match="rank 1 of 1f1b must receive activation 0 of stage 0"):
        validate(replace(good, exchanges=(rows[0], rows[1][1:])))
    late = (*rows[1][:-1], replace(rows[1][-1], after=0))
    with pytest.raises(ValueError, match="rank 1 of 1f1b must send gradient 1"):
        validate(replace(good, exchanges=(rows[0], late)))
    twice = (rows[0], (rows[1][0], *rows[1]))
    with pytest.raises(ValueError, match="rank 1 has activation 0 twice"):
        validate(replace(good, exchanges=twice))


@pytest.mark.parametrize("count", [24, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_verdict_equals_a_run_with_sends_that_wait_for_their_receive(world, tmp_path, count):
    every = [random_schedules.draw_schedule(seed) for seed in range(count)]
    verdicts = [random_schedules.verdict(schedule) for schedule in every]
    assert set(verdicts) == {"ends", "deadlocks"}
    for said in world(4, random_schedules.play, schedules=every, board=str(tmp_path / "board")):
        assert said == verdicts


def test_messages_of_one_pair_in_two_orders_are_refused_since_nccl_has_no_tags():
    plan = make_schedule("gpipe", 2, 2)
    first, second = (Transfer("F", batch, 0) for batch in (0, 1))
    there = (Exchange(2, (second,)), Exchange(2, (first,)))  # one after the other
    here = (Exchange(0, (first, second)),)  # both at once: no circle, and tags would tell them
    rows = [
        tuple(e for e in row if not {first, second} & set(e.transfers)) for row in plan.exchanges
    ]
    crossed = replace(plan, exchanges=(there + rows[0], here + rows[1]))
    with pytest.raises(ValueError, match="sends activation 1 where activation 0 is received"):
        validate(crossed)
    validate(replace(plan, exchanges=(there[::-1] + rows[0], here + rows[1])))


def issued(reverse):
    """What a rank hands to `exchange` of a group whose messages stand in either order."""
    context = ParallelContext(pp=2, device="cpu")
    plan = make_schedule("gpipe", 2, 2)
    both = tuple(Transfer("F", batch, 0) for batch in (0, 1))
    rows = [tuple(e for e in row if not set(both) & set(e.transfers)) for row in plan.exchanges]
    mine = both[::-1] if reverse else both
    plan = replace(plan, exchanges=((Exchange(2, mine), *rows[0]), (Exchange(0, mine), *rows[1])))
    labels, exchange = [], Axis.exchange

    def kept(axis, sends, receives):
        labels.append([label for *_, label in (*sends, *receives)])
        return exchange(axis, sends, receives)

    Axis.exchange = kept
    try:
        ids = torch.zeros(2, 8, dtype=torch.int64)
        run_schedule(
            plan, build_stages(GPTConfig(**SHAPE), context), list(ids.split(1)),
            lambda m, x, n: m.loss_sum(x, ids[:1]), context=context, shape=(1, 8),
        )  # fmt: skip
    finally:
        Axis.exchange = exchange
    return labels[0]


def test_both_ends_issue_a_groups_messages_in_one_order(world):
    for reverse in (False, True):
        assert world(2, issued, reverse=reverse) == [["activation 0", "activation 1"]] * 2


def train(frozen=False, name="1f1b", pp=2):
    context = ParallelContext(pp=pp, device="cpu")
    models = build_stages(GPTConfig(**SHAPE), context)
    if frozen and context.first_stage:
        for parameter in models[0].parameters():
            parameter.requires_grad_(False)
    ids = torch.randint(37, (4, 8), generator=torch.Generator().manual_seed(0))
    batches = list(ids.split(1))
    loss = lambda m, x, n: m.loss_sum(x, batches[n])  # noqa: E731
    options = {"context": context, "shape": (1, 8)}
    plan = make_schedule(name, pp, 4)
    trained = run_schedule(plan, models, batches, loss, **options)
    finish_gradients(models, context)
    evaluated = evaluate_schedule(plan, models, batches, loss, **options)
    grads = {k: v for m in models for k, v in m.gather_full(gradients=True).items()}
    return trained, evaluated, grads


@pytest.mark.parametrize("name", ["1f1b", "zero_bubble", "gpipe"])
def test_a_frozen_first_stage_leaves_the_other_stages_gradients_as_they_are(world, name):
    free, frozen = world(2, train, name=name), world(2, train, frozen=True, name=name)
    assert frozen[0][2] == {}
    assert all(torch.equal(v, free[1][2][k]) for k, v in frozen[1][2].items())
    assert frozen[1][0] == free[1][0] == free[1][1]


def held(batches):
    """How many messages were sent, and the most storages of sent and of received ones that are
    alive at once while `batches` micro-batches run.

    Counted by weak references to the storages: what a process occupies in all moves by tens of MiB
    with the allocator's arenas, far more than the messages that must not be kept.
    """
    context = ParallelContext(pp=2, device="cpu")
    models = build_stages(GPTConfig(**SHAPE), context)
    ids = torch.zeros(batches, 8, dtype=torch.int64)
    sent, received, most = [], [], [0, 0]
    exchange, message = Axis.exchange, Arrival.message

    def counted(axis, sends, receives):
        sent.extend(StorageWeakRef(tensor.untyped_storage()) for tensor, *_ in sends)
        started = exchange(axis, sends, receives)
        for place, references in enumerate((sent, received)):
            alive = sum(not reference.expired() for reference in references)
            most[place] = max(most[place], alive)
        return started

    def noted(arrival):
        buffer = message(arrival)
        received.append(StorageWeakRef(buffer.untyped_storage()))
        return buffer

    Axis.exchange, Arrival.message = counted, noted
    try:
        run_schedule(
            make_schedule("1f1b", 2, batches), models, list(ids.split(1)),
            lambda m, x, n: m.loss_sum(x, ids[:1]), context=context, shape=(1, 8),
        )  # fmt: skip
    finally:
        Axis.exchange, Arrival.message = exchange, message
    return len(sent), most


def test_a_pipeline_rank_holds_no_more_messages_for_more_micro_batches(world):
    few, many = world(2, held, batches=4), world(2, held, batches=32)
    assert [sent for sent, _ in few] == [4, 4]
    assert [sent for sent, _ in many] == [32, 32]
    for (_, before), (_, after) in zip(few, many, strict=True):
        assert 0 < after[0] <= before[0] + 1  # of 28 more messages
        assert after[1] <= before[1]
