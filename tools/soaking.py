"""A soak: one kind of work for minutes while memory, descriptors and processes are watched.

    soak = Soak("soak_viewer", {"nanite-cull": nc.__version__})
    while soak.goes_on():            # takes a sample when one is due
        soak.done["pictures"] += draw()
        if wrong: soak.lost.append("frame 7 has a hole")
    sys.exit(soak.finish())          # 1 where something leaked or was lost

Memory is the proportional set size of the process and all that it started: what they share is
counted once. After a warm-up of a quarter of the time a line is laid through the samples (Theil
1950, Sen 1968: the median of the slopes of all pairs). Memory leaks where the line rises by more
than LEAST_MIB and by more than the samples scatter about it; descriptors, threads and processes
where the last quarter's median is above that of the quarter after the warm-up. Less than a minute
says nothing about leaks.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import statistics
import time
from collections import Counter
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from measure import commit, machine

SAMPLES = 120  # at most so many, from the beginning to the end
LEAST_S = 0.1  # between two samples
LEAST_MIB = 4.0  # in quarter of an hour: an allocator's pages come and go by as much
KEPT = 48  # samples in the result, for a reader to plot


@dataclass(frozen=True)
class Sample:
    """What a process and its children have at one moment."""

    seconds: float
    mib: float
    descriptors: int
    threads: int
    processes: int


def family(pid: int) -> list[int]:
    """A process and all that it started and that still runs."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        with suppress(OSError):
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                with suppress(OSError):
                    todo += map(int, (task / "children").read_text().split())
    return found


def look(pid: int, seconds: float) -> Sample:
    """A sample of the family of `pid`; who ends meanwhile counts as nothing."""
    mib, descriptors, threads, alive = 0.0, 0, 0, 0
    for member in family(pid):
        with suppress(OSError):
            folder = Path(f"/proc/{member}")
            rollup = (folder / "smaps_rollup").read_text()
            held, tasks = len(os.listdir(folder / "fd")), len(os.listdir(folder / "task"))
            mib += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1]) / 1024  # type: ignore[index]
            descriptors, threads, alive = descriptors + held, threads + tasks, alive + 1
    return Sample(seconds, mib, descriptors, threads, alive)


def slope(times: list[float], values: list[float]) -> float:
    """The median of the slopes of all pairs of samples; a few that stick out do not move it."""
    pairs = [
        (values[j] - values[i]) / (times[j] - times[i])
        for i in range(len(times))
        for j in range(i + 1, len(times))
        if times[j] > times[i]
    ]
    return statistics.median(pairs) if pairs else 0.0


def verdict(samples: list[Sample]) -> tuple[dict[str, object], list[str]]:
    """What the samples say, and what leaks; the first quarter is warm-up."""
    end = samples[-1].seconds
    counted = [s for s in samples if s.seconds >= end / 4] or samples
    times, memory = [s.seconds for s in counted], [s.mib for s in counted]
    rise, span = slope(times, memory), times[-1] - times[0]
    rest = sorted(value - rise * at for at, value in zip(times, memory, strict=True))
    scatter = rest[len(rest) * 9 // 10] - rest[len(rest) // 10]
    facts: dict[str, object] = {
        "memory_mib": round(statistics.median(memory), 1),
        "memory_kib_a_minute": round(rise * 60 * 1024, 1),
        "memory_rise_mib": round(rise * span, 2),
        "memory_scatter_mib": round(scatter, 2),
    }
    leaks = ["memory"] if rise * span > max(LEAST_MIB, scatter) else []
    early = [s for s in counted if s.seconds <= end / 2] or counted[:1]
    late = [s for s in counted if s.seconds >= end * 3 / 4]
    for name in ("descriptors", "threads", "processes"):
        before, after = (
            statistics.median(getattr(s, name) for s in part) for part in (early, late)
        )
        facts[name] = {"after warm-up": before, "at the end": after}
        if after > before + max(1.0, 0.1 * before):
            leaks.append(name)
    return facts, leaks


class Soak:
    """Parses a soak's options, keeps its time, its samples and its record."""

    def __init__(
        self, name: str, versions: dict[str, str], parser: argparse.ArgumentParser | None = None
    ) -> None:
        parser = parser or argparse.ArgumentParser(description=f"{name}: is anything lost or left?")
        parser.add_argument("--minutes", type=float, default=15.0, help="default: 15")
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--json", type=Path, help="write the result there as well")
        self.options = parser.parse_args()
        self.name, self.versions, self._commit = name, versions, commit()
        self.done: Counter[str] = Counter()
        self.lost: list[str] = []
        self.samples: list[Sample] = []
        self.watched = os.getpid()
        self._begin = 0.0
        self._every = max(LEAST_S, 60 * self.options.minutes / SAMPLES)

    def seconds(self) -> float:
        """Since goes_on was first asked: what was made ready before does not count."""
        self._begin = self._begin or time.monotonic()
        return time.monotonic() - self._begin

    def goes_on(self) -> bool:
        """Whether there is time left; looks at the processes when it is time to."""
        due = len(self.samples) * self._every
        if self.seconds() >= due:
            self.samples.append(look(self.watched, self.seconds()))
        return self.seconds() < 60 * self.options.minutes

    def finish(self) -> int:
        """Prints and writes what was seen; the exit status: 1 where anything leaked or was lost."""
        facts, leaks = verdict(self.samples)
        if self.seconds() < 60:
            leaks = []
        if not self.done:
            self.lost.append("nothing was done")
        every = max(1, len(self.samples) // KEPT)
        result = {
            "benchmark": self.name,
            "date": datetime.date.today().isoformat(),
            "commit": self._commit,
            "machine": machine(),
            "versions": self.versions,
            "minutes": round(self.seconds() / 60, 2),
            "seed": self.options.seed,
            "done": dict(self.done),
            "lost": self.lost,
            "leaks": leaks,
            **facts,
            "samples": {
                field.name: [round(astuple(s)[k], 1) for s in self.samples[::every]]
                for k, field in enumerate(fields(Sample))
            },
        }
        print(json.dumps({k: v for k, v in result.items() if k != "samples"}, indent=1))
        path: Path | None = self.options.json
        if path is not None:
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps(result, indent=1) + "\n")
            aside.replace(path)
        return 1 if leaks or self.lost else 0
