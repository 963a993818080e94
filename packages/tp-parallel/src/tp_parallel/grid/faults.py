"""Who failed: each rank leaves a sign of life and what it is doing, and reads the others' on a
failure.

A collective that fails says only that it failed. Every rank therefore writes to a key-value store,
once a second, a counter and the operation it is in. When an operation fails, a rank waits a moment
and compares: a rank whose counter stands still is gone or stopped; one that is alive but in no
operation hangs in its own code; one that raised has left its error.
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
_STORE_TIMEOUT = timedelta(seconds=2)


class Monitor:
    """Signs of life of all ranks. Made on every rank at the same time; `stop()` ends the thread."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._size = rank, world_size
        self._store = _shared_store(rank)
        self._mine: dict[str, Any] = {"count": 0, "doing": None, "last": None, "step": 0}
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
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        doing = self._mine["doing"] or self._mine["last"]
        record = {"text": text, "victim": victim, "step": self._mine["step"], "doing": doing}

        def leave() -> None:
            if not self._store.check([f"error {self._rank}"]):
                self._store.set(f"error {self._rank}", json.dumps(record))

        with suppress(RuntimeError):  # nobody is left to read it
            _within(ANSWER, leave)

    def diagnose(self, ranks: tuple[int, ...], error: BaseException) -> str:
        """A sentence about the rank of `ranks` that caused `error`; waits up to `PATIENCE`
        seconds.
        """
        self.report(error, victim=True)
        try:
            before, now, errors = _within(PATIENCE + ANSWER, self._watch)
        except RuntimeError:
            return (
                "Rank 0, which keeps the record of all ranks, does not answer: it was killed or "
                "stopped, cannot be reached, or has ended after an error of its own. "
            )
        raised = [r for r in now if errors[r] and not errors[r]["victim"]]
        if raised:
            return (
                " ".join(
                    f"Rank {r} raised at step {errors[r]['step']}: {errors[r]['text']}."
                    for r in raised
                )
                + " "
            )
        others = [r for r in now if r != self._rank and not errors[r]]
        gone = [r for r in others if now[r]["count"] == before[r]["count"]]
        if gone:
            return (
                " ".join(
                    f"Rank {r} was killed, is stopped or cannot be reached, {_where(now[r])}."
                    for r in gone
                )
                + " "
            )
        idle = [r for r in others if r in ranks and now[r]["doing"] is None]
        if idle:
            return (
                " ".join(
                    f"Rank {r} is alive but did not take part, {_where(now[r])}." for r in idle
                )
                + " "
            )
        # nobody is at fault by the above: the ranks wait for each other in different operations
        other = [r for r in ranks if r != self._rank]
        return "".join(
            f"Rank {r} was in {(errors[r] or now[r])['doing']} at step {now[r]['step']}. "
            for r in other
        )

    def _watch(self) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
        """Every rank's sign of life now and after `PATIENCE` seconds, and its error."""
        before = {r: self._read(r) for r in range(self._size)}
        time.sleep(PATIENCE)
        now = {r: self._read(r) for r in range(self._size)}
        return before, now, {r: self._error(r) for r in range(self._size)}

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            try:
                self._beat()
            except RuntimeError:
                return  # the store is gone; diagnose() says so

    def _beat(self) -> None:
        self._mine["count"] += 1
        self._store.set(f"alive {self._rank}", json.dumps(self._mine))

    def _read(self, rank: int) -> dict[str, Any]:
        return json.loads(self._store.get(f"alive {rank}"))

    def _error(self, rank: int) -> dict[str, Any] | None:
        key = f"error {rank}"
        return json.loads(self._store.get(key)) if self._store.check([key]) else None


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
