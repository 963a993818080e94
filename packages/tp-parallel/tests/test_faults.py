"""A killed, stopped, raising or mismatched rank ends every rank within the bound, and is named."""

import os
import signal
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from tp_parallel import GPTConfig, ParallelContext
from tp_parallel.grid import faults
from tp_parallel.grid.axis import Axis
from tp_parallel.pipeline import build_stages, run_schedule
from tp_parallel.pipeline.schedules import make_schedule
from tp_parallel.training import checkpoint

TIMEOUT = 4.0  # of a collective
BOUND = 40.0  # start, two steps, time-out, diagnosis, on a busy machine
VICTIM = 1
STEP = 1
SHAPE = {"vocab_size": 32, "hidden": 16, "layers": 2, "heads": 2, "max_positions": 8}
PLACES = ("forward", "backward", "send", "checkpoint")
EVENTS = ("kill", "stop", "raise", "mismatch")


class Planned(Exception):
    """The error of the raising rank."""


def rank_main(rank, port, folder, place, event):
    """One of two ranks: trains and saves two steps; rank VICTIM fails at `place` in step STEP."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=30))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2,
                            timeout=timedelta(seconds=TIMEOUT))  # fmt: skip
    try:
        with ParallelContext(
            **({"pp": 2} if place == "send" else {"tp": 2}), device="cpu", timeout=TIMEOUT,
            monitor=True,
        ) as context:  # fmt: skip
            train(context, folder, place, event if rank == VICTIM else None)
        outcome = "finished"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    (folder / f"outcome{rank}").write_text(outcome)


def train(context, folder, place, event):
    models = build_stages(GPTConfig(**SHAPE), context)
    if event:
        plant(context, models, place, event)
    ids = torch.zeros(2, 8, dtype=torch.int64)
    for step in range(3):
        context.step = step
        run_schedule(
            make_schedule("1f1b", context.pp.size, 1), models, [ids],
            lambda m, x, n: m.loss_sum(x, ids), context=context, shape=(2, 8),
        )  # fmt: skip
        checkpoint.save(folder / "run", step, models, None, context=context)


def plant(context, models, place, event):
    def fail(*_):
        if context.step != STEP:
            return
        if event == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif event == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif event == "raise":
            raise Planned(f"planned in {place}")
        else:
            axis = {"send": context.pp, "checkpoint": context.world}.get(place, context.tp)
            axis.all_reduce(torch.zeros(3), label="planned mismatch")

    if place == "forward":
        models[0].layers["1"].register_forward_pre_hook(fail)
    elif place == "backward":
        models[0].layers["1"].register_full_backward_hook(fail)
    else:
        name = "send" if place == "send" else "barrier"
        original = getattr(Axis, name)

        def wrapped(self, *arguments, label, **more):
            if place == "send" or label == "checkpoint.save: tensors":
                fail()
            return original(self, *arguments, label=label, **more)

        setattr(Axis, name, wrapped)


def provoke(method, folder, place, event):
    """Runs both ranks; returns what the survivor said and how long it all took."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    began = time.monotonic()
    ranks = [method.Process(target=rank_main, args=(r, store.port, folder, place, event))
             for r in range(2)]  # fmt: skip
    try:
        for process in ranks:
            process.start()
        survivor = ranks[1 - VICTIM]
        survivor.join(BOUND)
        assert not survivor.is_alive(), "the survivor hangs"
        if event != "stop":
            ranks[VICTIM].join(BOUND)
            assert not ranks[VICTIM].is_alive(), "the failing rank hangs"
        return (folder / f"outcome{1 - VICTIM}").read_text(), time.monotonic() - began
    finally:
        for process in ranks:
            process.kill()
            process.join()


def check(method, folder, place, event):
    message, _ = provoke(method, folder, place, event)
    assert f"step {STEP}" in message
    assert "rank 0 (dp 0, pp 0, tp 0)" in message
    if event == "mismatch" and place != "send":
        assert "MismatchError" in message
        assert "rank 1: all_reduce float32 (3,)" in message
    elif event == "mismatch":
        assert "Rank 1 was in all_reduce 'planned mismatch' of float32 (3,)" in message
    elif event == "raise":
        assert "Rank 1 raised at step 1" in message
        assert f"Planned: planned in {place}" in message
    else:
        assert "Rank 1 was killed, is stopped or cannot be reached" in message
    committed = checkpoint.latest(folder / "run")
    assert committed.name == "step_00000000"
    checkpoint.verify(committed, ParallelContext(device="cpu"))


QUICK = {("forward", "stop"), ("backward", "kill"), ("send", "raise"), ("checkpoint", "mismatch")}


@pytest.mark.parametrize(("place", "event"), sorted(QUICK))
def test_the_failing_rank_is_named_and_the_checkpoint_stays_whole(
    forkserver, tmp_path, place, event
):
    check(forkserver, tmp_path, place, event)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "event"), [(p, e) for p in PLACES for e in EVENTS if (p, e) not in QUICK]
)
def test_every_other_fault_at_every_other_place(forkserver, tmp_path, place, event):
    check(forkserver, tmp_path, place, event)


def mute():
    """Rank 1 is alive but comes too late."""
    context = ParallelContext(tp=2, device="cpu", timeout=2, monitor=True)
    with context:
        if context.rank == 1:
            time.sleep(9)
            return
        context.tp.all_reduce(torch.zeros(2), label="my layer")


def test_a_rank_that_hangs_in_its_own_code_is_told_from_one_that_died(world):
    (ok, message), late = world.outcomes(2, mute)
    assert not ok
    assert late[0]
    assert "all_reduce 'my layer' of float32 (2,) over tp ranks [0, 1] failed" in message
    assert "Rank 1 is alive but did not take part" in message


class CountingStore:
    """A store in this process that counts the keys it hands out."""

    def __init__(self):
        self.values, self.read = {}, 0

    def set(self, key, value):
        self.values[key] = value.encode() if isinstance(value, str) else value

    def get(self, key):
        self.read += 1
        return self.values[key]

    def multi_get(self, keys):
        return [self.get(key) for key in keys]

    def check(self, keys):
        self.read += 1
        return all(key in self.values for key in keys)

    def add(self, key, number):
        self.values[key] = self.values.get(key, 0) + number
        return self.values[key]

    def append(self, key, value):
        self.values[key] = self.values.get(key, b"") + value.encode()


def monitors(size, monkeypatch):
    """The monitors of a world of `size` ranks on one store, without threads; rank 5 is dead."""
    monkeypatch.setattr(faults, "PATIENCE", 0.0)
    monkeypatch.setattr(faults, "INTERVAL", 0.0)
    store = CountingStore()
    every = []
    for rank in range(size):
        monitor = faults.Monitor.__new__(faults.Monitor)
        monitor._rank, monitor._size, monitor._store = rank, size, store
        monitor._mine = {"count": 0, "doing": None, "last": None, "step": 3, "error": None}
        monitor._beat()
        every.append(monitor)
    return every, store


def test_the_diagnosis_reads_its_own_axis_and_names_the_dead_rank_to_all(monkeypatch):
    every, store = monitors(1024, monkeypatch)
    row = tuple(range(8))  # tensor ranks of the dead one
    store.read = 0
    said = [every[r].diagnose(row, RuntimeError("closed")) for r in row if r != 5]
    assert all("Rank 5 was killed, is stopped or cannot be reached" in text for text in said)
    assert store.read < 40 * len(said)
    # the data ranks of a victim hear of it, and only the first two of a long axis read it all
    column = tuple(range(0, 1024, 8))
    store.read = 0
    said = [every[r].diagnose(column, RuntimeError("closed")) for r in column[1:]]
    assert all("Rank 5 was killed" in text for text in said[2:])
    assert store.read < 2 * 2 * len(column) + 10 * len(column)


def test_the_first_error_is_named_on_axes_that_do_not_hold_its_rank(monkeypatch):
    every, _ = monitors(64, monkeypatch)
    every[9].report(ValueError("bad batch"))
    assert every[1].diagnose((0, 1), RuntimeError("closed")) == (
        "Rank 9 raised at step 3: ValueError: bad batch. "
    )
