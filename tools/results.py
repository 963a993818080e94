"""Committed results of benchmarks: what they measure, and whether the code has changed since.

A package's benchmarks/measures.json names, for each benchmark, the paths whose code it times.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What results on a CPU do not measure.
NOT_MEASURED = ("*.cu", "*.cuh", "**/cuda/**", "**/triton/**", "*.pyi")


def _known(result: Path) -> dict[str, list[str]]:
    return json.loads((result.parents[1] / "measures.json").read_text())


def benchmark_of(result: Path) -> str:
    """The benchmark of a result's file: `grid` of grid-avx2-2026-11-30.json."""
    names = [name for name in _known(result) if f"{result.stem}-".startswith(f"{name}-")]
    if not names:
        raise KeyError(f"{result.name}: measures.json beside benchmarks/ names no benchmark of it")
    return max(names, key=len)


def measured(result: Path) -> list[Path]:
    """The files and folders that a result measures; none where it times other people's code."""
    return [result.parents[2] / path for path in _known(result)[benchmark_of(result)]]


def changed_since(result: Path) -> str:
    """The day (ISO) of the last commit to what a result measures, if it is newer; else ""."""
    facts, package = json.loads(result.read_text()), result.parents[2]
    if not (paths := measured(result)):
        return ""
    left_out = [f":(exclude,glob){package.relative_to(ROOT)}/**/{kind}" for kind in NOT_MEASURED]
    log = ["git", "-C", str(ROOT), "log", "-1", "--format=%cs"]
    where = ["--", *map(str, paths), *left_out]
    try:
        if commit := facts.get("commit"):
            done = subprocess.run([*log, f"{commit}..HEAD", *where], capture_output=True, text=True)
            if done.returncode == 0:
                return done.stdout.strip()
        day = subprocess.run([*log, *where], capture_output=True, text=True).stdout.strip()
    except OSError:  # no git: nobody knows
        return ""
    return day if day > facts["date"] else ""


def newer(result: Path) -> Path | None:
    """The newest later result of the same benchmark, or None where this one is the newest."""
    mine, name = json.loads(result.read_text())["date"], benchmark_of(result)
    others = [path for path in result.parent.glob("*.json") if benchmark_of(path) == name]
    dates = {path: json.loads(path.read_text())["date"] for path in others}
    newest = max(others, key=lambda path: (dates[path], path.stem))
    return newest if dates[newest] > mine else None
