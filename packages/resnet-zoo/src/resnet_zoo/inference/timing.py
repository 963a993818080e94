"""Times of several models in turn, such that their order does not depend on what else runs here."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

ROUNDS = 7  # at least, unless one round takes a second
BUDGET = 0.8  # seconds for each model
HOPELESS = 1.3  # times the best: dropped after the first rounds


def time_interleaved(modules: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Seconds of one call of each.

    The calls are interleaved, so that a disturbance meets all; what is clearly slow is dropped
    early, and the rounds go to those that are close. Of the times the lower quartile is taken,
    which other programs reach least. With one thread it is CPU time: without what they took.
    """
    one_thread = x.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if one_thread else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in modules}
    running = list(modules)
    begin, rounds = time.perf_counter(), 0
    budget = BUDGET * len(modules)
    while True:
        for name in running if rounds % 2 else reversed(running):
            start = clock()
            modules[name](x)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            times[name].append(clock() - start)
        rounds += 1
        spent = time.perf_counter() - begin
        if rounds in (3, ROUNDS):
            best = min(map(min, times.values()))
            running = [name for name in running if min(times[name]) < HOPELESS * best]
        if (rounds >= ROUNDS and (spent > budget or rounds >= 60)) or (
            rounds >= 3 and spent > 4 * budget
        ):
            break
    return {name: _low(runs) for name, runs in times.items()}


def _low(runs: list[float]) -> float:
    """The lower quartile, without the first call."""
    later = runs[1:] or runs
    return statistics.quantiles(later, n=4)[0] if len(later) > 3 else min(later)
