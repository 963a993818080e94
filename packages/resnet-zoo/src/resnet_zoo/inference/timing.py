"""Times of several models in turn, such that their order does not depend on what else runs here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

ROUNDS = 24  # at most
BUDGET = 5.0  # seconds for all together
ENOUGH = 6  # rounds of what is close, though the budget be spent: two would be chance
LONGEST = 8  # times the budget: then two are enough
HURRIED = 1.2  # times the best: dropped after any round once the budget is spent
HOPELESS = {2: 2.0, 5: 1.3, 10: 1.1}  # after so many rounds, times the best: dropped
EQUAL = 1.03  # times this close are equal: then the candidate listed first is chosen
EQUAL_BY_LEAST = 1.02  # the same of the least of few rounds
CLEARLY = 1.07  # as fast, over all rounds: chosen in any case
PARTS = 8  # of the rounds, in all of which but one a later candidate must win

Clock = Callable[[], float]


def time_interleaved(
    modules: dict[str, nn.Module], x: Tensor, clock: Clock | None = None
) -> dict[str, list[float]]:
    """Seconds of the calls of each, a round each; each was called before.

    The calls are interleaved, so that a disturbance meets all; what is clearly slower is dropped
    early, and the rounds go to those that are close. It ends after `ROUNDS` rounds, or `BUDGET`
    seconds of `clock` or three times as many on the wall; of long calls after `ENOUGH` rounds, or
    `LONGEST` times the budget, but not before the second round.

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
        spent = max(clock() - begin, (time.perf_counter() - begin_wall) / 3) / BUDGET
        if rounds >= 2 and spent > (1 if rounds >= ENOUGH else LONGEST):
            break
        limit = HURRIED if rounds >= 2 and spent > 1 else HOPELESS.get(rounds)
        if limit is not None:
            best = min(map(min, times.values()))
            running = [name for name in running if min(times[name]) <= limit * best]
    return times


def lower_quartile(runs: list[float]) -> float:
    """The time that other programs reach least."""
    return statistics.quantiles(runs, n=4, method="inclusive")[0] if len(runs) > 3 else min(runs)


def choose(times: dict[str, list[float]]) -> str:
    """The name that is chosen by the times of `time_interleaved`, of equals the first.

    A later one takes the place of an earlier one where it wins clearly, or by more than `EQUAL` in
    all parts of the rounds but one: what wins in some only is noise, and would change from run to
    run. Of few rounds there are no parts; then it is the first whose least time is about the least.
    """
    most = max(map(len, times.values()))
    last = {name: runs for name, runs in times.items() if len(runs) == most}  # the others are slow
    if most < 2 * PARTS:
        best = min(map(min, last.values()))
        return next(name for name in last if min(last[name]) <= EQUAL_BY_LEAST * best)
    kept, *others = last
    for name in others:
        if _wins(last[name], last[kept]):
            kept = name
    return kept


def _wins(later: list[float], earlier: list[float]) -> bool:
    """Whether a later candidate takes the place of an earlier one, by as many rounds of both."""
    if lower_quartile(earlier) > CLEARLY * lower_quartile(later):
        return True
    parts = [(earlier[part::PARTS], later[part::PARTS]) for part in range(PARTS)]
    won = [lower_quartile(before) > EQUAL * lower_quartile(after) for before, after in parts]
    return sum(won) >= PARTS - 1
