"""The named pipeline schedules, and the check that any schedule must pass.

gpipe           all forwards, then all backwards      Huang et al., 2018, arXiv 1811.06965
1f1b            one forward, one backward             Narayanan et al., 2019 (PipeDream-Flush)
interleaved     1f1b over several chunks a rank       Narayanan et al., 2021, arXiv 2104.04473
zero_bubble     weight gradients fill the gaps (H1)   Qi et al., 2023, arXiv 2401.10241
"""

from __future__ import annotations

from .communication import communicate, rendezvous
from .schedule import (
    Action,
    B,
    Exchange,
    F,
    Schedule,
    Slot,
    Transfer,
    W,
    bubble,
    dependencies,
    in_flight,
    simulate,
)

__all__ = [
    "SCHEDULES",
    "Action",
    "B",
    "Exchange",
    "F",
    "Schedule",
    "Slot",
    "Transfer",
    "W",
    "bubble",
    "communicate",
    "dependencies",
    "gpipe",
    "in_flight",
    "interleaved",
    "make_schedule",
    "one_forward_one_backward",
    "simulate",
    "validate",
    "zero_bubble",
]  # fmt: skip


def gpipe(stages: int, batches: int) -> Schedule:
    """All forwards, then all backwards: simple, keeps every micro-batch's activations."""
    _check("gpipe", stages, batches)
    row = tuple(Action(F, b) for b in range(batches)) + tuple(Action(B, b) for b in range(batches))
    return communicate(Schedule("gpipe", stages, batches, 1, (row,) * stages))


def one_forward_one_backward(stages: int, batches: int) -> Schedule:
    """1F1B: rank r keeps at most stages - r micro-batches; the bubble is GPipe's."""
    _check("1f1b", stages, batches)
    rows = []
    for rank in range(stages):
        warm = min(batches, stages - rank - 1)
        row = [Action(F, b) for b in range(warm)]
        for b in range(batches - warm):
            row += [Action(F, warm + b), Action(B, b)]
        row += [Action(B, b) for b in range(batches - warm, batches)]
        rows.append(tuple(row))
    return communicate(Schedule("1f1b", stages, batches, 1, tuple(rows)))


def interleaved(stages: int, batches: int, chunks: int = 2) -> Schedule:
    """1F1B with `chunks` stages a rank: the bubble shrinks by that factor, for more messages.

    Raises ValueError if batches is no multiple of stages.
    """
    _check("interleaved", stages, batches)
    if chunks < 1 or batches % stages:
        raise ValueError(
            f"interleaved: batches must be a multiple of stages {stages} and chunks at least "
            "1, got "
            f"{batches} and {chunks}; change the number of micro-batches"
        )
    total = batches * chunks
    rows = []
    for rank in range(stages):
        warm = min(total, (stages - rank - 1) * 2 + (chunks - 1) * stages)
        forward = [_interleaved_at(F, i, stages, chunks) for i in range(total)]
        backward = [_interleaved_at(B, i, stages, chunks) for i in range(total)]
        row = forward[:warm]
        for i in range(total - warm):
            row += [forward[warm + i], backward[i]]
        rows.append(tuple(row + backward[total - warm :]))
    return communicate(Schedule("interleaved", stages, batches, chunks, tuple(rows)))


def zero_bubble(stages: int, batches: int) -> Schedule:
    """ZB-H1: 1F1B whose weight gradients wait for the gaps; keeps no more activations than 1F1B."""
    _check("zero_bubble", stages, batches)
    rows = []
    for rank in range(stages):
        warm = min(batches, stages - rank - 1)
        row = [Action(F, b) for b in range(warm)]
        done = 0
        for b in range(batches - warm):
            row += [Action(F, warm + b), Action(B, b)]
            if b >= rank:
                row.append(Action(W, done))
                done += 1
        for b in range(batches - warm, batches):
            row.append(Action(B, b))
            if b >= rank:
                row.append(Action(W, done))
                done += 1
        row += [Action(W, b) for b in range(done, batches)]
        rows.append(tuple(row))
    return communicate(
        Schedule("zero_bubble", stages, batches, 1, tuple(rows), splits_backward=True)
    )


SCHEDULES = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zero_bubble": zero_bubble,
}


def make_schedule(name: str, stages: int, batches: int, chunks: int = 1) -> Schedule:
    """The schedule called `name`. Raises ValueError for an unknown name or chunks it cannot use."""
    if name not in SCHEDULES:
        raise ValueError(f"make_schedule: name must be one of {sorted(SCHEDULES)}, got {name!r}")
    if name == "interleaved":
        return interleaved(stages, batches, chunks)
    if chunks != 1:
        raise ValueError(f"make_schedule: only 'interleaved' takes chunks, got {name!r}, {chunks}")
    return SCHEDULES[name](stages, batches)


def validate(schedule: Schedule) -> None:
    """Checks that every stage runs F and B (and W) of every micro-batch once, in an order that
    ends, even if every send waits for its receive (see `communication.rendezvous`).

    Raises ValueError naming the rank and action or message, and the circle in which ranks would
    wait for each other for ever.
    """
    kinds = (F, B, W) if schedule.splits_backward else (F, B)
    wanted = {
        Action(kind, b, c)
        for kind in kinds
        for b in range(schedule.batches)
        for c in range(schedule.chunks)
    }
    if len(schedule.ranks) != schedule.stages:
        raise ValueError(
            f"validate: {schedule.name} has {len(schedule.ranks)} rows for {schedule.stages} stages"
        )
    for rank, row in enumerate(schedule.ranks):
        seen = set(row)
        if seen != wanted or len(row) != len(wanted):
            odd = sorted(wanted ^ seen) or sorted(a for a in seen if row.count(a) > 1)
            raise ValueError(
                f"validate: rank {rank} of {schedule.name} must run each action once; missing, "
                "foreign "
                f"or repeated: {', '.join(map(str, odd[:5]))}"
            )
    simulate(schedule)
    rendezvous(schedule)


def _interleaved_at(kind: str, index: int, stages: int, chunks: int) -> Action:
    """The index-th forward (or backward) of a rank: `stages` batches through chunk 0, then 1,
    ...
    """
    turn, within = divmod(index, stages * chunks)
    chunk, offset = divmod(within, stages)
    return Action(kind, turn * stages + offset, chunk if kind == F else chunks - 1 - chunk)


def _check(name: str, stages: int, batches: int) -> None:
    if stages < 1 or batches < 1:
        raise ValueError(
            f"{name}: stages and batches must be at least 1, got {stages} and {batches}"
        )
