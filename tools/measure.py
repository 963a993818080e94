"""Timing for benchmarks: ours beside a named peer in the same run, interleaved, as a ratio.

A benchmark script builds a `Bench`, adds rows, and ends with `bench.finish()`:

    bench = Bench("rulebook", "spconv 2.3.8 CPU", versions={"torch": torch.__version__})
    bench.compare("lidar 120k, 1 thread", ours=lambda: ..., peer=lambda: ...)
    bench.finish()

`compare` runs ours and the peer in turn, `repeats` times after a warm-up, and keeps wall and CPU
time of every run. The ratio is peer / ours by wall median (above 1: we are faster), with the ratio
by CPU time beside it: on a busy machine the second is the one to trust for single-threaded rows.
The spread is the interquartile range over the median.

Options of every script: --json FILE, --quick (three repeats), --only TEXT.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Timing:
    """Seconds of the repeats of one callable, wall and CPU (all threads of the process)."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self, call: Callable[[], object], setup: Callable[[], object] | None) -> None:
        if setup is not None:
            setup()
        wall, cpu = time.perf_counter(), cpu_time()
        call()
        self.cpu.append(cpu_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def summary(self) -> dict[str, float]:
        """Milliseconds: median, minimum and relative spread of wall time, median of CPU time."""
        quartiles = statistics.quantiles(self.wall, n=4) if len(self.wall) > 1 else [0, 0, 0]
        median = statistics.median(self.wall)
        return {
            "median_ms": median * 1e3,
            "min_ms": min(self.wall) * 1e3,
            "cpu_ms": statistics.median(self.cpu) * 1e3,
            "spread": (quartiles[2] - quartiles[0]) / median if median else 0.0,
            "runs": len(self.wall),
        }


@dataclass
class Row:
    case: str
    ours: dict[str, float]
    peer: dict[str, float] | None = None
    ratio: float | None = None  # peer / ours, wall medians
    cpu_ratio: float | None = None  # peer / ours, CPU medians
    note: str = ""


def cpu_time() -> float:
    """Seconds of CPU of this process and of the programs that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def cpu_fact(name: str) -> str:
    """A line of Linux's own account of the processor, or ""."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []:
        if line.partition(":")[0].strip() == name:
            return line.partition(":")[2].strip()
    return ""


def instruction_set() -> str:
    """The widest vectors of this processor: amx, avx512, avx2 or its architecture."""
    flags = cpu_fact("flags").split()
    known = {"amx_tile": "amx", "avx512f": "avx512", "avx2": "avx2"}
    return next((name for flag, name in known.items() if flag in flags), platform.machine())


def commit() -> str:
    """The repository's commit, or "" where git does not know one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def machine() -> dict[str, object]:
    """Processor, cores, load and interpreter: what a reader needs to judge a figure."""
    return {
        "processor": cpu_fact("model name") or platform.processor(),
        "instruction_set": instruction_set(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


class Bench:
    """A table of rows against one named peer; parses the script's options."""

    def __init__(
        self, name: str, peer: str, *, versions: dict[str, str] | None = None, repeats: int = 9
    ) -> None:
        parser = argparse.ArgumentParser(description=f"{name}: ours beside {peer}")
        parser.add_argument("--json", type=Path, help="write the result there as well")
        parser.add_argument("--quick", action="store_true", help="three repeats in place of many")
        parser.add_argument("--only", default="", help="only the cases that contain this text")
        self.options = parser.parse_args()
        self.name, self.peer, self.versions = name, peer, versions or {}
        self.repeats = 3 if self.options.quick else repeats
        self.rows: list[Row] = []
        self.facts: dict[str, object] = {}
        self._load_at_start, self._commit = os.getloadavg()[0], commit()

    def wants(self, case: str) -> bool:
        return self.options.only in case

    def compare(
        self,
        case: str,
        ours: Callable[[], object],
        peer: Callable[[], object] | None = None,
        *,
        setup: Callable[[], object] | None = None,
        repeats: int | None = None,
        warmup: int = 1,
        note: str = "",
    ) -> Row | None:
        """Time ours and the peer in turn; `setup` runs untimed before each call."""
        if not self.wants(case):
            return None
        calls = [ours] if peer is None else [ours, peer]
        timings = [Timing() for _ in calls]
        for call in calls:
            for _ in range(warmup):
                if setup is not None:
                    setup()
                call()
        for _ in range(
            min(repeats or self.repeats, 3) if self.options.quick else repeats or self.repeats
        ):
            for call, timing in zip(calls, timings, strict=True):
                timing.run(call, setup)
        row = Row(case, timings[0].summary(), note=note)
        if peer is not None:
            row.peer = timings[1].summary()
            row.ratio = row.peer["median_ms"] / row.ours["median_ms"]
            row.cpu_ratio = row.peer["cpu_ms"] / max(row.ours["cpu_ms"], 1e-9)
        self.add(row)
        return row

    def add(self, row: Row) -> None:
        """Add a row that was timed elsewhere (in a process of its own, say) and print it."""
        if not self.rows:
            print(f"{self.name}: ours beside {self.peer}")
            header = ("ours ms", "peer ms", "  ratio", " by CPU", " spread")
            print(f"{'case':44}", *(f"{title:>{max(7, len(title))}}" for title in header))
        self.rows.append(row)
        self._harvest(kind="row", **asdict(row))
        peer = f"{row.peer['median_ms']:9.3f}" if row.peer else f"{'':9}"
        ratio = f"{row.ratio:6.2f}x" if row.ratio else f"{'':7}"
        cpu = f"{row.cpu_ratio:6.2f}x" if row.cpu_ratio else f"{'':7}"
        print(
            f"{row.case:44} {row.ours['median_ms']:9.3f} {peer} {ratio} {cpu} "
            f"{row.ours['spread']:6.0%}  {row.note}",
            flush=True,
        )

    def fact(self, label: str, value: object) -> None:
        """A figure that is not a time (bytes, FLOP, a count); printed and kept in the JSON."""
        print(f"{label}: {value}", flush=True)
        self.facts[label] = value
        self._harvest(kind="fact", label=label, value=value)

    def _harvest(self, **line: object) -> None:
        """Under gpu_check every row is kept at once, whatever becomes of the script."""
        if target := os.environ.get("GPU_CHECK_RESULTS"):
            head = {"run": os.environ.get("GPU_CHECK_RUN", ""), "benchmark": self.name}
            head |= {"peer_name": self.peer, "versions": self.versions}
            with open(target, "a") as file:
                file.write(json.dumps(_rounded(head | line), default=str) + "\n")

    def finish(self) -> None:
        """Write the JSON, if it was asked for, aside and renamed."""
        if self.options.json is None:
            return
        result = {
            "benchmark": self.name,
            "peer": self.peer,
            "date": datetime.date.today().isoformat(),
            "commit": self._commit,
            "machine": machine() | {"load_average_before": round(self._load_at_start, 2)},
            "versions": self.versions,
            "rows": [asdict(row) for row in self.rows],
            "facts": self.facts,
        }
        path: Path = self.options.json
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(path.suffix + ".part")
        aside.write_text(json.dumps(_rounded(result), indent=1) + "\n")
        aside.replace(path)
        print(f"written to {path}")


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
