"""Who failed: each rank leaves a sign of life and what it is doing, and reads the others' on a
failure.

A collective that fails says only that it failed. Every rank therefore writes to a key-value store,
once a second, a counter and the operation it is in. When an operation fails, a rank waits a moment
and compares: a rank whose counter stands still is gone or stopped; one that is alive but in no
operation hangs in its own code; one that raised has left its error.

The cost does not grow with the world: a rank reads the signs of its own axis, in one request; on a
long axis two ranks read and leave what they found for the others.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

INTERVAL = 1.0  # seconds between signs of life
PATIENCE = 3.5  # seconds without one until a rank counts as gone: three missed signs
ANSWER = 5.0  # seconds the store may take for a handful of keys
LONG_AXIS = 16  # ranks from which two of an axis read for all
MOST_CAUSES = 8  # sentences about a failure that are kept
_STORE_TIMEOUT = timedelta(seconds=2)


class Monitor:
    """Signs of life of all ranks. Made on every rank at the same time; `stop()` ends the thread."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._size = rank, world_size
        self._store = _shared_store(rank)
        self._mine: dict[str, Any] = {"count": 0, "doing": None, "last": None, "step": 0,
                                      "error": None}  # fmt: skip
        self._stopping = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._run, name="tp_parallel monitor", daemon=True)
        self._thread.start()

    def enter(self, what: str, step: int) -> None:
        self._mine.update(doing=what, step=step)

    def leave(self, step: int) -> None:
        self._mine.update(doing=None, last=self._mine["doing"], step=step)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=2 * INTERVAL)

    def report(self, error: BaseException, *, victim: bool = False) -> None:
        """Leaves this rank's error for the others; `victim`: it comes from another rank's
        failure.
        """
        if self._mine["error"] is not None:
            return
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        doing = self._mine["doing"] or self._mine["last"]
        self._mine["error"] = {"victim": victim, "step": self._mine["step"], "doing": doing}

        def leave() -> None:
            self._beat()
            if not victim:
                step = self._mine["error"]["step"]
                self._blame(f"Rank {self._rank} raised at step {step}: {text}.")

        with suppress(RuntimeError):  # nobody is left to read it
            _within(ANSWER, leave)

    def diagnose(self, ranks: tuple[int, ...], error: BaseException) -> str:
        """A sentence about the rank that caused `error` on the axis of `ranks`; waits up to
        `PATIENCE` seconds, and longer where another rank does the reading.

        It reads the signs of its own axis alone, and of a long axis only the first to ask do; what
        is found is left for all, so that a rank whose neighbours are victims hears of it too.
        """
        self.report(error, victim=True)
        try:
            return _within(2 * (PATIENCE + ANSWER), lambda: self._diagnosed(ranks))
        except RuntimeError:
            return (
                "Rank 0, which keeps the record of all ranks, does not answer: it was killed or "
                "stopped, cannot be reached, or has ended after an error of its own. "
            )

    def _diagnosed(self, ranks: tuple[int, ...]) -> str:
        long = len(ranks) > LONG_AXIS
        if long and self._store.add(f"readers {ranks[0]} {ranks[-1]}", 1) > 2:
            until = time.monotonic() + PATIENCE + ANSWER
            while not self._causes() and time.monotonic() < until:
                time.sleep(INTERVAL)
            return self._causes()
        before, now = self._watch(ranks)
        raised = [line for line in self._causes().split(" \n") if " raised at step " in line]
        if raised:
            return " ".join(raised).strip() + " "
        others = [r for r in ranks if r != self._rank and not now[r].get("error")]
        gone = [r for r in others if now[r]["count"] == before[r]["count"]]
        idle = [r for r in others if now[r]["doing"] is None]
        if gone:
            found = [f"Rank {r} was killed, is stopped or cannot be reached, {_where(now[r])}."
                     for r in gone]  # fmt: skip
        else:
            found = [f"Rank {r} is alive but did not take part, {_where(now[r])}." for r in idle]
        if found:
            self._blame(" ".join(found))
            return " ".join(found) + " "
        elsewhere = self._causes()
        if elsewhere:
            return elsewhere.replace("\n", "")
        # nobody is at fault by the above: the ranks wait for each other in different operations
        return "".join(
            f"Rank {r} was in {(now[r].get('error') or now[r])['doing']} at step {now[r]['step']}. "
            for r in ranks
            if r != self._rank
        )

    def _watch(self, ranks: tuple[int, ...] | None = None) -> tuple[dict[int, Any], dict[int, Any]]:
        """The sign of life of each of `ranks` (by default all) now and after `PATIENCE` seconds."""
        ranks = tuple(range(self._size)) if ranks is None else ranks
        before = self._read(ranks)
        time.sleep(PATIENCE)
        return before, self._read(ranks)

    def _blame(self, sentence: str) -> None:
        """Adds to what all ranks read as the causes of the failure."""
        if self._store.add("causes", 1) <= MOST_CAUSES:
            self._store.append("cause", sentence + " \n")

    def _causes(self) -> str:
        return self._store.get("cause").decode() if self._store.check(["cause"]) else ""

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            try:
                self._beat()
            except RuntimeError:
                return  # the store is gone; diagnose() says so

    def _beat(self) -> None:
        self._mine["count"] += 1
        self._store.set(f"alive {self._rank}", json.dumps(self._mine))

    def _read(self, ranks: tuple[int, ...]) -> dict[int, dict[str, Any]]:
        signs = self._store.multi_get([f"alive {rank}" for rank in ranks])
        return {rank: json.loads(sign) for rank, sign in zip(ranks, signs, strict=True)}


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What `ask` returns; RuntimeError if it takes longer, as behind a cut cable it would."""
    box: dict[str, Any] = {}

    def work() -> None:
        try:
            box["answer"] = ask()
        except RuntimeError as error:
            box["error"] = error

    thread = threading.Thread(target=work, name="tp_parallel store", daemon=True)
    thread.start()
    thread.join(seconds)
    if "answer" not in box:
        raise RuntimeError("the store does not answer") from box.get("error")
    return box["answer"]


def _where(state: dict[str, Any]) -> str:
    if state["doing"]:
        return f"in {state['doing']} at step {state['step']}"
    last = f" after {state['last']}" if state["last"] else ""
    return f"in no operation at step {state['step']}{last}"


def _shared_store(rank: int) -> dist.Store:
    """A connection of our own: torchrun's store, which outlives the ranks, or one kept by rank
    0.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and "MASTER_PORT" in os.environ:
        store: dist.Store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            timeout=_STORE_TIMEOUT,
        )  # fmt: skip
        attempt = [os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")]
        dist.broadcast_object_list(attempt, src=0)  # agents of several hosts count apart
        return dist.PrefixStore(f"tp_parallel monitor {attempt[0]}", store)
    where: list[Any] = [None]
    served = None
    if rank == 0:
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        served = dist.TCPStore(
            address, 0, is_master=True, wait_for_workers=False, timeout=_STORE_TIMEOUT
        )
        where = [(address, served.port)]
    dist.broadcast_object_list(where, src=0)
    if served is not None:
        return served
    address, port = where[0]
    return dist.TCPStore(address, port, is_master=False, timeout=_STORE_TIMEOUT)
