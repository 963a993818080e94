"""The process grid: shapes, orders, several contexts at once, and disagreement named by rank."""

import pytest
import torch
import torch.distributed as dist

from tp_parallel import CollectiveError, MismatchError, ParallelContext


def places(order):
    context = ParallelContext(tp=2, pp=2, dp=1, order=order, device="cpu")
    return context.tp.ranks, context.pp.ranks, context.coordinates()


@pytest.mark.parametrize(("order", "tp_ranks", "pp_ranks"), [
    ("tp-dp-pp", [(0, 1), (0, 1), (2, 3), (2, 3)], [(0, 2), (1, 3), (0, 2), (1, 3)]),
    ("pp-tp-dp", [(0, 2), (1, 3), (0, 2), (1, 3)], [(0, 1), (0, 1), (2, 3), (2, 3)]),
])  # fmt: skip
def test_the_order_says_which_ranks_share_an_axis(world, order, tp_ranks, pp_ranks):
    results = world(4, places, order=order)
    assert [r[0] for r in results] == tp_ranks
    assert [r[1] for r in results] == pp_ranks
    assert results[0][2] == "dp 0, pp 0, tp 0"


def several():
    wide = ParallelContext(tp=4, device="cpu")
    deep = ParallelContext(tp=2, dp=2, device="cpu")
    given = ParallelContext(tp=2, dp=2, ranks=[[[3, 1]], [[0, 2]]], device="cpu")
    ones = [torch.ones(1) * (wide.rank + 1) for _ in range(3)]
    sums = [
        int(c.tp.all_reduce(x, label="test"))
        for c, x in zip((wide, deep, given), ones, strict=True)
    ]
    mesh = deep.mesh()
    again = ParallelContext.from_mesh(mesh)
    return sums, given.tp.ranks, tuple(mesh.mesh.shape), again.tp.ranks == deep.tp.ranks


def test_several_contexts_live_in_one_process_and_turn_into_device_meshes(world):
    results = world(4, several)
    assert [r[0] for r in results] == [[10, 3, 4], [10, 3, 6], [10, 7, 4], [10, 7, 6]]
    assert results[3][1] == (3, 1)
    assert all(r[2] == (2, 1, 2) and r[3] for r in results)


def disagree():
    tp = 2 if dist.get_rank() != 3 else 4
    ParallelContext(tp=tp, device="cpu")


def test_ranks_that_want_different_grids_are_named_on_every_rank(world):
    for ok, message in world.outcomes(4, disagree):
        assert not ok
        assert "MismatchError" in message
        assert "tp is 2 on rank 0 and 4 on rank 3" in message


def mismatch(what):
    context = ParallelContext(tp=2, device="cpu")
    context.step = 7
    odd = context.rank == 1
    if what == "shape":
        context.tp.all_reduce(torch.zeros(3 if odd else 4), label="my layer")
    elif what == "dtype":
        context.tp.all_gather(torch.zeros(4, dtype=torch.float64 if odd else torch.float32), 0,
                              label="my layer")  # fmt: skip
    elif odd:
        context.tp.all_reduce(torch.zeros(4), label="my layer")
    else:
        context.tp.all_gather(torch.zeros(4), 0, label="my layer")


@pytest.mark.parametrize(("what", "message"), [
    ("shape", "rank 0: all_reduce float32 (4,); rank 1: all_reduce float32 (3,)"),
    ("dtype", "rank 0: all_gather float32 (4,); rank 1: all_gather float64 (4,)"),
    ("operation", "rank 0: all_gather float32 (4,); rank 1: all_reduce float32 (4,)"),
])  # fmt: skip
def test_a_mismatch_raises_on_every_rank_before_anything_moves(world, what, message):
    for rank, (ok, text) in enumerate(world.outcomes(2, mismatch, what=what)):
        assert not ok
        assert "MismatchError" in text
        assert f"rank {rank} (dp 0, pp 0, tp {rank}), step 7" in text
        assert message in text


def test_a_wrong_world_size_says_how_many_processes_to_start():
    with pytest.raises(ValueError, match=r"world size 1, got 2 \* 1 \* 1 = 2.*start 2 processes"):
        ParallelContext(tp=2, device="cpu")
    with pytest.raises(ValueError, match="tp must be a positive integer, got 0"):
        ParallelContext(tp=0, device="cpu")
    with pytest.raises(ValueError, match="order must be one of"):
        ParallelContext(order="tp-pp", device="cpu")


def test_one_process_needs_no_launcher_and_no_group():
    context = ParallelContext(device="cpu")
    x = torch.ones(2)
    assert context.tp.all_reduce(x, label="test") is x
    assert not dist.is_initialized()
    assert not context.traffic.calls
    with pytest.raises(RuntimeError, match="needs a process group"):
        context.mesh()


def test_errors_are_runtime_errors():
    assert issubclass(MismatchError, CollectiveError)
    assert issubclass(CollectiveError, RuntimeError)
