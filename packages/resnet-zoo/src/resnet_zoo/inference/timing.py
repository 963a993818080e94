"""Times of several models in turn, such that their order does not depend on what else runs here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

ROUNDS = 24  # at most
BUDGET = 3.0  # seconds for all together, after two rounds
HOPELESS = {2: 2.0, 5: 1.3, 10: 1.1}  # after so many rounds, times the best: dropped

Clock = Callable[[], float]


def time_interleaved(
    modules: dict[str, nn.Module], x: Tensor, clock: Clock | None = None
) -> dict[str, float]:
    """Seconds of one call of each; each was called before.

    The calls are interleaved, so that a disturbance meets all; what is clearly slower is dropped
    early, and the rounds go to those that are close. Of the times the lower quartile is taken,
    which other programs reach least. It ends after `ROUNDS` rounds or `BUDGET` seconds of `clock`
    or three times as many on the wall, but not before the second round.

    Args:
        modules: what is called with `x`.
        x: input.
        clock: seconds so far; by default the process's CPU time for one thread on the CPU, without
            what other programs took, else the time on the wall.
    """
    one_thread = x.device.type == "cpu" and torch.get_num_threads() == 1
    clock = clock or (time.process_time if one_thread else time.perf_counter)
    times: dict[str, list[float]] = {name: [] for name in modules}
    running = list(modules)
    begin, begin_wall = clock(), time.perf_counter()
    for rounds in range(1, ROUNDS + 1):
        for name in running if rounds % 2 else reversed(running):
            start = clock()
            modules[name](x)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            times[name].append(clock() - start)
        late = clock() - begin > BUDGET or time.perf_counter() - begin_wall > 3 * BUDGET
        if rounds >= 2 and late:
            break
        if rounds in HOPELESS:
            best = min(map(min, times.values()))
            running = [n for n in running if min(times[n]) <= HOPELESS[rounds] * best]
    return {name: _low(runs) for name, runs in times.items()}


def _low(runs: list[float]) -> float:
    """The lower quartile."""
    return statistics.quantiles(runs, n=4, method="inclusive")[0] if len(runs) > 3 else min(runs)
