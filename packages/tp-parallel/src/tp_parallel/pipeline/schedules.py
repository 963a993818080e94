"""Pipeline schedules as data: who runs what in which order.

A schedule is a list of actions for each stage rank. Nothing here touches a process: schedules are
printed, validated, timed and drawn from the same lists that `pipeline.run_schedule` executes.

    gpipe           all forwards, then all backwards      Huang et al., 2018, arXiv 1811.06965
    1f1b            one forward, one backward             Narayanan et al., 2019 (PipeDream-Flush)
    interleaved     1f1b over several chunks a rank       Narayanan et al., 2021, arXiv 2104.04473
    zero_bubble     weight gradients fill the gaps (H1)   Qi et al., 2023, arXiv 2401.10241
"""

from __future__ import annotations

from dataclasses import dataclass

F, B, W = "F", "B", "W"


@dataclass(frozen=True, order=True)
class Action:
    """One step of one rank: `kind` F (forward), B (backward) or W (weight gradients alone) of
    micro-batch `batch` through the rank's chunk `chunk`.
    """

    kind: str
    batch: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.batch}" + (f".{self.chunk}" if self.chunk else "")


@dataclass(frozen=True)
class Schedule:
    """Actions of each rank; stage `chunk * stages + rank` of the model is chunk `chunk` of `rank`.

    Where `splits_backward` is set, B computes input gradients only and each B has a later W.
    """

    name: str
    stages: int
    batches: int
    chunks: int
    ranks: tuple[tuple[Action, ...], ...]
    splits_backward: bool = False

    def __str__(self) -> str:
        rows = (f"rank {r}: " + " ".join(map(str, row)) for r, row in enumerate(self.ranks))
        return "\n".join(rows)


@dataclass(frozen=True)
class Slot:
    """An action with its place in time, from `simulate`."""

    action: Action
    start: float
    end: float


def gpipe(stages: int, batches: int) -> Schedule:
    """All forwards, then all backwards: simple, keeps every micro-batch's activations."""
    _check("gpipe", stages, batches)
    row = tuple(Action(F, b) for b in range(batches)) + tuple(Action(B, b) for b in range(batches))
    return Schedule("gpipe", stages, batches, 1, (row,) * stages)


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
    return Schedule("1f1b", stages, batches, 1, tuple(rows))


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
    return Schedule("interleaved", stages, batches, chunks, tuple(rows))


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
    return Schedule("zero_bubble", stages, batches, 1, tuple(rows), splits_backward=True)


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
    ends.

    Raises ValueError naming the rank and action, also if ranks would wait for each other for ever.
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


def simulate(
    schedule: Schedule,
    forward: float = 1.0,
    backward: float = 2.0,
    weight: float = 1.0,
    message: float = 0.0,
) -> list[list[Slot]]:
    """When each action runs, if actions take the given times and messages arrive after `message`.

    Times are for one chunk; with `splits_backward`, B takes backward - weight. Raises ValueError,
    naming what each rank waits for, if no rank can go on.
    """
    cost = {F: forward, B: backward - weight if schedule.splits_backward else backward, W: weight}
    ends: dict[tuple[str, int, int], float] = {}  # kind, batch, stage of the model
    clock = [0.0] * schedule.stages
    at = [0] * schedule.stages
    slots: list[list[Slot]] = [[] for _ in range(schedule.stages)]
    while any(at[r] < len(schedule.ranks[r]) for r in range(schedule.stages)):
        moved = False
        for rank, row in enumerate(schedule.ranks):
            while at[rank] < len(row):
                action = row[at[rank]]
                needs = dependencies(schedule, rank, action)
                if any(need not in ends for need in needs):
                    break
                stage = action.chunk * schedule.stages + rank
                ready = [ends[need] + (message if need[2] != stage else 0.0) for need in needs]
                start = max([clock[rank], *ready])
                clock[rank] = start + cost[action.kind]
                ends[action.kind, action.batch, stage] = clock[rank]
                slots[rank].append(Slot(action, start, clock[rank]))
                at[rank] += 1
                moved = True
        if not moved:
            waiting = "; ".join(
                f"rank {r} at {row[at[r]]}"
                for r, row in enumerate(schedule.ranks)
                if at[r] < len(row)
            )
            raise ValueError(f"simulate: {schedule.name} deadlocks: {waiting}")
    return slots


def dependencies(schedule: Schedule, rank: int, action: Action) -> list[tuple[str, int, int]]:
    """What must have ended before `action`, as (kind, batch, stage of the model)."""
    stage, last = action.chunk * schedule.stages + rank, schedule.stages * schedule.chunks - 1
    if action.kind == F:
        return [(F, action.batch, stage - 1)] if stage else []
    if action.kind == W:
        return [(B, action.batch, stage)]
    own = (F, action.batch, stage)
    return [own] if stage == last else [own, (B, action.batch, stage + 1)]


def bubble(slots: list[list[Slot]]) -> float:
    """Share of the ranks' time in which they wait, from first start to last end."""
    span = max(row[-1].end for row in slots) - min(row[0].start for row in slots)
    busy = sum(slot.end - slot.start for row in slots for slot in row)
    return 1.0 - busy / (span * len(slots))


def in_flight(schedule: Schedule) -> list[int]:
    """Largest number of micro-batch chunks whose activations each rank holds at once."""
    release = W if schedule.splits_backward else B
    peaks = []
    for row in schedule.ranks:
        held = peak = 0
        for action in row:
            held += (action.kind == F) - (action.kind == release)
            peak = max(peak, held)
        peaks.append(peak)
    return peaks


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
