"""Who sends what when, planned so that no order of events can make ranks wait in a circle.

NCCL's rule is the strict one: what a rank issues runs in order on one stream, and a send ends only
when its receive runs (NCCL user guide, point-to-point communication). So a rank that sends an
activation to its neighbour while that one sends a gradient back would wait for ever, unless both
issue the two messages as one group.

`communicate` gives every message a time, the end of its action on a time line where all actions
take the same, and makes one group of what a rank sends and receives at one time. All ranks issue
their groups in the order of time. That cannot deadlock: of the groups that have not ended take
those of the earliest time; whatever their actions needed came earlier, so all of them are issued,
and as both ends of each message belong to that time, they end.

`rendezvous` is the check of any schedule, ours or a user's: it plays the rule, each group holding
its rank up until every message in it has met its other end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from .schedule import Action, B, Exchange, F, Schedule, Transfer, dependencies, simulate


def sender(schedule: Schedule, transfer: Transfer) -> int:
    """The stage rank that sends `transfer`."""
    return transfer.stage % schedule.stages


def receiver(schedule: Schedule, transfer: Transfer) -> int:
    """The stage rank that receives `transfer`."""
    return transfer.to % schedule.stages


def sent_by(schedule: Schedule, rank: int, action: Action) -> Transfer | None:
    """The message that `action` on `rank` gives to another rank."""
    stage, last = action.chunk * schedule.stages + rank, schedule.stages * schedule.chunks - 1
    if schedule.stages == 1 or action.kind not in (F, B):
        return None
    if stage == (last if action.kind == F else 0):
        return None
    return Transfer(action.kind, action.batch, stage)


def needed_by(schedule: Schedule, rank: int, action: Action) -> Transfer | None:
    """The message from another rank that `action` on `rank` waits for."""
    stage = action.chunk * schedule.stages + rank
    for kind, batch, source in dependencies(schedule, rank, action):
        if source != stage and schedule.stages > 1:
            return Transfer(kind, batch, source)
    return None


def communicate(schedule: Schedule) -> Schedule:
    """`schedule` with the messages of every rank planned; raises ValueError if no order of its
    actions ends.
    """
    unit = 2.0 if schedule.splits_backward else 1.0  # every action then takes 1
    groups: list[dict[float, list[Transfer]]] = [{} for _ in range(schedule.stages)]
    places: dict[Transfer, int] = {}  # of the action that gives it, in the sender's row
    for rank, row in enumerate(simulate(schedule, 1.0, unit, 1.0)):
        for index, slot in enumerate(row):
            transfer = sent_by(schedule, rank, slot.action)
            if transfer is not None:
                places[transfer] = index
                for end in (rank, receiver(schedule, transfer)):
                    groups[end].setdefault(slot.end, []).append(transfer)
    rows = []
    for rank, group in enumerate(groups):
        after, exchanges = 0, []
        for _, transfers in sorted(group.items()):
            own = [places[t] + 1 for t in transfers if sender(schedule, t) == rank]
            after = max([after, *own])
            exchanges.append(Exchange(after, tuple(sorted(transfers))))
        rows.append(tuple(exchanges))
    return replace(schedule, exchanges=tuple(rows))


def forward_only(schedule: Schedule) -> Schedule:
    """The forward passes of `schedule`, their messages planned anew."""
    rows = tuple(tuple(a for a in row if a.kind == F) for row in schedule.ranks)
    return communicate(replace(schedule, ranks=rows, splits_backward=False, exchanges=None))


def groups_of(schedule: Schedule, rank: int) -> list[Exchange]:
    """The groups that `rank` issues, in order; without a plan, each message is one."""
    if schedule.exchanges is not None:
        return list(schedule.exchanges[rank])
    groups = []
    for index, action in enumerate(schedule.ranks[rank]):
        need, gives = needed_by(schedule, rank, action), sent_by(schedule, rank, action)
        groups += [Exchange(index, (need,))] if need else []
        groups += [Exchange(index + 1, (gives,))] if gives else []
    return groups


def rendezvous(schedule: Schedule) -> None:
    """Raises ValueError if some message has no place, or if ranks would wait in a circle, naming
    it, when every send waits for its receive and every group for all its messages; or if two ranks
    issue their messages in different orders.
    """
    rows = [groups_of(schedule, rank) for rank in range(schedule.stages)]
    _check_places(schedule, rows)
    issued: set[tuple[Transfer, int]] = set()
    at = [0] * schedule.stages
    awake = deque(range(schedule.stages))
    while awake:
        rank = awake.popleft()
        while at[rank] < len(rows[rank]):
            transfers = rows[rank][at[rank]].transfers
            for transfer in transfers:
                if (transfer, rank) not in issued:
                    issued.add((transfer, rank))
                    awake.append(_other(schedule, transfer, rank))
            if any((t, _other(schedule, t, rank)) not in issued for t in transfers):
                break
            at[rank] += 1
    stuck = [rank for rank in range(schedule.stages) if at[rank] < len(rows[rank])]
    if not stuck:
        return _check_order(schedule, rows)
    path: list[int] = []
    waits, rank = {}, stuck[0]
    while rank not in path:
        path.append(rank)
        group = rows[rank][at[rank]].transfers
        open_ = next(t for t in group if (t, _other(schedule, t, rank)) not in issued)
        verb = "sends" if sender(schedule, open_) == rank else "awaits"
        rank = _other(schedule, open_, rank)
        word = "to" if verb == "sends" else "from"
        waits[path[-1]] = f"rank {path[-1]} {verb} {open_} {word} rank {rank}"
    circle = "; ".join(waits[r] for r in path[path.index(rank) :])
    raise ValueError(
        f"rendezvous: {schedule.name} deadlocks where a send waits for its receive: {circle}; let "
        "`communicate(schedule)` plan the messages"
    )


def _other(schedule: Schedule, transfer: Transfer, rank: int) -> int:
    ends = sender(schedule, transfer), receiver(schedule, transfer)
    return ends[1] if ends[0] == rank else ends[0]


def _check_order(schedule: Schedule, rows: list[list[Exchange]]) -> None:
    """The messages of one rank to another in the same order at both ends, a group's sorted: NCCL
    has no tags and would give one message the other's data.
    """
    lines: list[dict[tuple[int, int], list[Transfer]]] = [{} for _ in rows]
    for line, groups in zip(lines, rows, strict=True):
        for transfer in (t for group in groups for t in sorted(group.transfers)):
            ends = sender(schedule, transfer), receiver(schedule, transfer)
            line.setdefault(ends, []).append(transfer)
    for (source, to), sent in ((ends, sent) for line in lines for ends, sent in line.items()):
        for mine, other in zip(sent, lines[to][source, to], strict=True):
            if mine != other:
                raise ValueError(
                    f"rendezvous: rank {source} of {schedule.name} must send its messages to rank "
                    f"{to} in the order in which that receives them, but sends {mine} where "
                    f"{other} is received; let `communicate(schedule)` plan the messages"
                )


def _check_places(schedule: Schedule, rows: list[list[Exchange]]) -> None:
    """Every message once at both ends, after its action and before the action that needs it."""
    if len(rows) != schedule.stages:
        raise ValueError(f"rendezvous: {schedule.name} must plan messages for every rank")
    for rank, groups in enumerate(rows):
        places: dict[Transfer, int] = {}
        for group in groups:
            for transfer in group.transfers:
                if transfer in places:
                    raise ValueError(f"rendezvous: rank {rank} has {transfer} twice")
                places[transfer] = group.after
        for index, action in enumerate(schedule.ranks[rank]):
            need, gives = needed_by(schedule, rank, action), sent_by(schedule, rank, action)
            if need is not None and places.pop(need, len(schedule.ranks[rank])) > index:
                raise ValueError(
                    f"rendezvous: rank {rank} of {schedule.name} must receive {need} of stage "
                    f"{need.stage} before {action}, its action number {index}"
                )
            if gives is not None and places.pop(gives, -1) <= index:
                raise ValueError(
                    f"rendezvous: rank {rank} of {schedule.name} must send {gives} of stage "
                    f"{gives.stage} after {action}, its action number {index}"
                )
        if places:
            raise ValueError(
                f"rendezvous: rank {rank} of {schedule.name} has no use for {next(iter(places))}"
            )
        if [g.after for g in groups] != sorted(g.after for g in groups):
            raise ValueError(
                f"rendezvous: rank {rank} of {schedule.name} must issue its messages in the order "
                "of its actions"
            )
