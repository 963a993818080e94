"""A pipeline schedule as data, and its time line.

A schedule is a list of actions for each stage rank and, beside it, the messages between them in the
order in which each rank issues them (`communication.communicate`). Nothing here touches a process.
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


@dataclass(frozen=True, order=True)
class Transfer:
    """One message: what stage `stage` of the model gives its neighbour for micro-batch `batch`, the
    activation to the next stage (`kind` F) or the gradient to the one before (B).
    """

    kind: str
    batch: int
    stage: int

    @property
    def to(self) -> int:
        """The stage that receives it."""
        return self.stage + 1 if self.kind == F else self.stage - 1

    def __str__(self) -> str:
        return f"{'activation' if self.kind == F else 'gradient'} {self.batch}"


@dataclass(frozen=True)
class Exchange:
    """Messages that a rank issues together, once it has run `after` actions of its row."""

    after: int
    transfers: tuple[Transfer, ...]


@dataclass(frozen=True)
class Schedule:
    """Actions of each rank; stage `chunk * stages + rank` of the model is chunk `chunk` of `rank`.

    Where `splits_backward` is set, B computes input gradients only and each B has a later W.
    `exchanges` are each rank's messages; None: each receive stands right before the action that
    needs it, each send right after the action that gives it.
    """

    name: str
    stages: int
    batches: int
    chunks: int
    ranks: tuple[tuple[Action, ...], ...]
    splits_backward: bool = False
    exchanges: tuple[tuple[Exchange, ...], ...] | None = None

    def __str__(self) -> str:
        rows = (f"rank {r}: " + " ".join(map(str, row)) for r, row in enumerate(self.ranks))
        return "\n".join(rows)


@dataclass(frozen=True)
class Slot:
    """An action with its place in time, from `simulate`."""

    action: Action
    start: float
    end: float


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
