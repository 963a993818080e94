"""Random pipeline schedules, and what becomes of them where a send waits for its receive.

    python packages/tp-parallel/tests/random_schedules.py --count 1000 --json FILE

One gloo process group plays them all; whether the ranks of each end is compared with the verdict of
`validate`. Of one seed comes the same schedule everywhere.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy
import torch
import torch.distributed as dist

from tp_parallel.pipeline import (
    Action,
    Exchange,
    Schedule,
    Transfer,
    communicate,
    make_schedule,
    validate,
)
from tp_parallel.pipeline.communication import groups_of, receiver, sender
from tp_parallel.pipeline.schedules import SCHEDULES, B, F, W

RANKS = 4


def verdict(schedule: Schedule) -> str:
    """ "ends", "deadlocks", or what else `validate` refuses it for."""
    try:
        validate(schedule)
    except ValueError as error:
        return "deadlocks" if "deadlocks" in str(error) else str(error)
    return "ends"


def draw_schedule(seed: int) -> Schedule:
    """One whose messages all have their place, but whose ranks may wait for each other for ever."""
    draw = random.Random(seed)
    while True:
        name = draw.choice(sorted(SCHEDULES))
        stages = draw.randint(2, RANKS)
        chunks = draw.choice((1, 2)) if name == "interleaved" else 1
        batches = stages if name == "interleaved" else draw.randint(1, 4)
        schedule = make_schedule(name, stages, batches, chunks)
        schedule = draw.choice((bare, shuffled, planned, regrouped, regrouped))(schedule, draw)
        if verdict(schedule) in ("ends", "deadlocks"):
            return schedule


def bare(schedule: Schedule, _: random.Random) -> Schedule:
    """Each message right at its action, as NCCL's users write it first."""
    return replace(schedule, exchanges=None)


def planned(schedule: Schedule, draw: random.Random) -> Schedule:
    """Actions in another order, their messages planned where an order ends."""
    mixed = shuffled(schedule, draw)
    with suppress(ValueError):
        return communicate(mixed)
    return mixed


def shuffled(schedule: Schedule, draw: random.Random) -> Schedule:
    """Every rank's actions in another order, forwards before their backwards; bare messages."""
    rows = []
    for row in schedule.ranks:
        left, mixed = list(row), []
        while left:  # the next is one of the first few that need nothing of this rank any more
            free = [a for a in left if not any(_earlier(b, a) for b in left)]
            mixed.append(draw.choice(free[:3]))
            left.remove(mixed[-1])
        rows.append(tuple(mixed))
    return replace(schedule, ranks=tuple(rows), exchanges=None)


def _earlier(a: Action, b: Action) -> bool:
    order = (F, B, W)
    same = (a.batch, a.chunk) == (b.batch, b.chunk)
    return same and order.index(a.kind) < order.index(b.kind)


def regrouped(schedule: Schedule, draw: random.Random) -> Schedule:
    """The planned messages in other groups, receives sooner and sends later than they might be."""
    assert schedule.exchanges is not None
    rows = []
    for rank, row in enumerate(schedule.exchanges):
        single = []
        for transfer, after in ((t, e.after) for e in row for t in e.transfers):
            if draw.random() < 0.1:
                late = sender(schedule, transfer) == rank
                after += draw.randint(1, 3) if late else -draw.randint(1, 3)
            after = min(max(after, 0), len(schedule.ranks[rank]))
            single.append(Exchange(after, (transfer,)))
        draw.shuffle(single)
        single.sort(key=lambda e: e.after)
        groups: list[Exchange] = []
        for each in single:
            if groups and draw.random() < 0.3:
                joined = groups.pop().transfers + each.transfers
                each = Exchange(each.after, joined)
            groups.append(each)
        rows.append(tuple(groups))
    return replace(schedule, exchanges=tuple(rows))


class Player:
    """One rank's part of a schedule: it starts a group's messages at once and goes on to the next
    group when each has been started at its other end, which is when a synchronous send is over.
    """

    def __init__(self, schedule: Schedule, issued: numpy.ndarray, first_tag: int) -> None:
        self.schedule, self.issued, self.rank = schedule, issued, dist.get_rank()
        self.rows = [groups_of(schedule, rank) for rank in range(schedule.stages)]
        self.place = {
            (transfer, rank): number
            for rank, row in enumerate(self.rows)
            for number, group in enumerate(row)
            for transfer in group.transfers
        }
        every = sorted({transfer for transfer, _ in self.place})
        self.tags = {transfer: tag for tag, transfer in enumerate(every, first_tag)}
        self.works: list[tuple[dist.Work, torch.Tensor]] = []

    def run(self) -> Generator[None, None, bool]:
        """Goes on as far as it can between two yields; returns whether this rank comes to its end.
        What was started at one end is started at the other, in a deadlock too.
        """
        row = self.rows[self.rank] if self.rank < self.schedule.stages else []
        for number, group in enumerate(row):
            for transfer in group.transfers:
                self.start(transfer)
            self.issued[self.rank] = number + 1
            while self.waits(self.rank, seen := self.issued.copy()):
                if self.all_wait(seen):
                    for transfer in (t for later in row[number + 1 :] for t in later.transfers):
                        if self.met(transfer, self.rank, seen):
                            self.start(transfer)
                    return False
                yield
        if row:
            self.issued[self.rank] = len(row) + 1
        return True

    def other(self, transfer: Transfer, rank: int) -> int:
        ends = sender(self.schedule, transfer), receiver(self.schedule, transfer)
        return ends[ends[0] == rank]

    def start(self, transfer: Transfer) -> None:
        box, to = torch.zeros(1), self.other(transfer, self.rank)
        go = dist.isend if sender(self.schedule, transfer) == self.rank else dist.irecv
        self.works.append((go(box, to, tag=self.tags[transfer]), box))

    def met(self, transfer: Transfer, rank: int, seen: numpy.ndarray) -> bool:
        other = self.other(transfer, rank)
        return seen[other] > self.place[transfer, other]

    def waits(self, rank: int, seen: numpy.ndarray) -> bool:
        """Whether `rank` is in a group with a message whose other end is not there."""
        at = seen[rank] - 1
        group = self.rows[rank][at].transfers if 0 <= at < len(self.rows[rank]) else ()
        return not all(self.met(transfer, rank, seen) for transfer in group)

    def all_wait(self, seen: numpy.ndarray) -> bool:
        """Whether no rank can move any more: each has ended or waits, and none moved meanwhile,
        however slow the machine.
        """
        ranks = range(self.schedule.stages)
        ended = [seen[rank] > len(self.rows[rank]) for rank in ranks]
        stuck = all(end or self.waits(rank, seen) for rank, end in enumerate(ended))
        return stuck and bool((seen == self.issued).all())


def play(schedules: list[Schedule], board: str) -> list[str]:
    """On each rank of a world: "ends" or "deadlocks" of every schedule's messages, all at once.

    board: path of a file that is not there yet, the same for all ranks. Ranks that a schedule does
    not need look on.
    """
    shape = (len(schedules), RANKS)  # groups that each rank has issued of each schedule
    if dist.get_rank() == 0:
        numpy.memmap(board, numpy.int32, "w+", shape=shape).flush()
    dist.barrier()
    issued = numpy.memmap(board, numpy.int32, "r+", shape=shape)
    players = [Player(s, issued[n], 1000 * n) for n, s in enumerate(schedules)]
    running = {number: player.run() for number, player in enumerate(players)}
    ended = torch.zeros(len(schedules), dtype=torch.int32)
    while running:
        for number, run in list(running.items()):
            try:
                next(run)
            except StopIteration as end:
                ended[number] = end.value
                del running[number]
        time.sleep(0.001)
    dist.all_reduce(ended, dist.ReduceOp.MIN)
    for work, _ in (each for player in players for each in player.works):
        work.wait()
    return ["ends" if end else "deadlocks" for end in ended.tolist()]


def _rank(rank: int, port: int, seeds: range, board: str, pipe) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS,
                            timeout=timedelta(seconds=300))  # fmt: skip
    pipe.send(play([draw_schedule(seed) for seed in seeds], board))
    dist.destroy_process_group()


def _played(seeds: range) -> list[list[str]]:
    """What each of `RANKS` new processes says of the schedules of `seeds`."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes, method = [], multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="schedules-") as folder:
        for rank in range(RANKS):
            here, there = method.Pipe()
            arguments = rank, store.port, seeds, str(Path(folder) / "board"), there
            method.Process(target=_rank, args=arguments, daemon=True).start()
            there.close()
            pipes.append(here)
        return [pipe.recv() for pipe in pipes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began, seeds = time.monotonic(), range(options.count)
    said = _played(seeds)
    wanted = [verdict(draw_schedule(seed)) for seed in seeds]
    other = [seed for seed in seeds if any(each[seed] != wanted[seed] for each in said)]
    result = {
        "benchmark": "schedules",
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2)},
        "versions": {"torch": torch.__version__},
        "schedules drawn": options.count,
        "end": wanted.count("ends"),
        "deadlock": wanted.count("deadlocks"),
        "verdicts that differ from the run": len(other),
        "seeds of these": other,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
