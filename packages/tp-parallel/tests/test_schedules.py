"""Schedules as data: complete, free of deadlock, with the bubbles and memory the papers state."""

import pytest

from tp_parallel.pipeline.schedules import (
    SCHEDULES,
    Action,
    Schedule,
    bubble,
    in_flight,
    make_schedule,
    simulate,
    validate,
)

GRIDS = [(1, 1), (1, 4), (2, 2), (2, 6), (3, 3), (4, 4), (4, 12), (8, 16)]


@pytest.mark.parametrize(("stages", "batches"), GRIDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_complete_and_free_of_deadlock(name, stages, batches):
    for chunks in (1, 2, 3) if name == "interleaved" else (1,):
        validate(make_schedule(name, stages, batches, chunks))


@pytest.mark.parametrize(("stages", "batches"), [(2, 6), (4, 12), (8, 16)])
def test_bubbles_are_those_of_the_papers(stages, batches):
    classic = (stages - 1) / (batches + stages - 1)
    for name in ("gpipe", "1f1b"):
        assert bubble(simulate(make_schedule(name, stages, batches))) == pytest.approx(classic)
    for chunks in (2, 4):
        slots = simulate(
            make_schedule("interleaved", stages, batches, chunks), 1 / chunks, 2 / chunks
        )
        idle = (stages - 1) / chunks
        assert bubble(slots) == pytest.approx(idle / (batches + idle))
    # ZB-H1: (p - 1)(forward + input gradient - weight gradient) of waiting
    slots = simulate(make_schedule("zero_bubble", stages, batches), 1.0, 2.0, 1.0)
    assert bubble(slots) == pytest.approx((stages - 1) / (3 * batches + stages - 1))


@pytest.mark.parametrize(("stages", "batches"), [(4, 12), (4, 2), (1, 3)])
def test_1f1b_keeps_at_most_stages_minus_rank_micro_batches(stages, batches):
    want = [min(batches, stages - rank) for rank in range(stages)]
    assert in_flight(make_schedule("1f1b", stages, batches)) == want
    assert in_flight(make_schedule("gpipe", stages, batches)) == [batches] * stages
    assert max(in_flight(make_schedule("zero_bubble", stages, batches))) <= stages


def test_a_schedule_that_waits_in_a_circle_is_found_without_processes():
    rows = (
        (Action("B", 0), Action("F", 0)),
        (Action("F", 0), Action("B", 0)),
    )
    with pytest.raises(ValueError, match="deadlocks: rank 0 at B0; rank 1 at F0"):
        validate(Schedule("circle", 2, 1, 1, rows))


def test_a_missing_or_repeated_action_is_named_with_its_rank():
    rows = ((Action("F", 0), Action("B", 0)), (Action("F", 0), Action("F", 0), Action("B", 0)))
    with pytest.raises(ValueError, match=r"rank 1 .* repeated: F0"):
        validate(Schedule("twice", 2, 1, 1, rows))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="multiple of stages 4"):
        make_schedule("interleaved", 4, 6, 2)
    with pytest.raises(ValueError, match="name must be one of"):
        make_schedule("2f2b", 2, 2)
    with pytest.raises(ValueError, match="only 'interleaved' takes chunks"):
        make_schedule("1f1b", 2, 2, 2)
    with pytest.raises(ValueError, match="at least 1"):
        make_schedule("gpipe", 0, 2)


def test_a_schedule_prints_as_one_row_a_rank():
    assert str(make_schedule("1f1b", 2, 2)) == "rank 0: F0 F1 B0 B1\nrank 1: F0 B0 F1 B1"
