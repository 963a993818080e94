#!/usr/bin/env python3
"""Harvest all that a GPU can say in one command of under 8 minutes, whatever happens on the way.

    python tools/gpu_check.py --prepare             here: builds what travels, into build/gpu/carry
    python tools/gpu_check.py [--package X]         there: offline, with the python3 that has torch
    python tools/gpu_check.py --after FILES         there: what these results do not have yet
    python tools/gpu_check.py --report FILES        here: results into benchmarks/results and tables

A rehearsal without a GPU, with phases and tests that hang and crash: tests/gpu_rehearsal.py.

The run is a list of phases, each in a process group of its own with a cap: ceilings of the device,
one native build of all packages, the simulator's programs as device binaries, GPU tests (a pytest
process per file and choice of kernels, some side by side, each restarted without the culprit after
a hang or a sticky CUDA error), times of single kernels, benchmarks, and the programs again under
compute-sanitizer, which may take any time. ENDS_S says when each kind has had its share, so that
none starves the next; what one leaves over is the next one's. After every test, row and phase a
line of JSON is appended to OUT/gpu-check.jsonl; OUT is --out, else $OUT, else build/gpu. What the
phases said stands in OUT/gpu-check.log, of each its first and last words.

Exit codes: 0 everything passed, 1 something failed, hung or crashed, 2 nothing failed but something
was skipped or not reached, 3 this machine has no usable GPU.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import workspace
from gpu.lines import STICKY
from workspace import ROOT

TOOLS = Path(__file__).resolve().parent
SITE = ROOT / "build" / "gpu" / "site"  # the packages as built for this GPU
CARRY = ROOT / "build" / "gpu" / "carry"  # what --prepare made and the tree takes along
LIMIT_S = 470  # the whole run
TESTS_AT_ONCE = 6  # files of tests: mostly they import, compile and compare on the CPU
# Seconds after the start at which a kind of phase has had its share.
ENDS_S = {
    "ceilings": 30,
    "build": 170,
    "program": 200,
    "tests": 300,
    "kernels": 350,
    "benchmark": 450,
    "sanitizer": LIMIT_S,
}
TEST_LIMIT_S = 60  # one test: less than half the cap of its phase, so that the rest is run
RESTARTS = 6  # of one file of tests
MOST_WORDS = 200_000  # bytes of a phase in the log: one file comes back up to 16 MiB
SKIPPED = 3  # exit code of a script that lacks what it needs

# Which kernels a package's tests can be told to run, as `pytest -k` selects them.
KERNELS = {"spconv-lite": ("native-cuda", "torch-cuda")}
SCRIPTS = "ceilings.py", "kernels.py"  # in tools/gpu


@dataclass(frozen=True)
class Phase:
    """One command with the seconds it may take; `tests`: it writes a line before and after each of
    its tests, and is restarted after a stop; `end_s`: when its share of the run ends; `at_once`:
    how many phases like this one run side by side."""

    name: str
    command: Sequence[str]
    cap_s: float
    environment: dict[str, str] = field(default_factory=dict)
    tests: bool = False
    end_s: float = LIMIT_S
    at_once: int = 1


class Results:
    """The file of JSON lines that this command and the processes it starts append to."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path, self.log = out / "gpu-check.jsonl", out / "gpu-check.log"
        self.path.write_text("")
        self.log.write_text("")
        self._adding = threading.Lock()

    def add(self, **line: object) -> None:
        with self._adding:
            before = self.path.read_bytes()
            half = bool(before) and not before.endswith(b"\n")  # of a process that was killed
            with self.path.open("a") as file:
                file.write("\n" * half + json.dumps(line) + "\n")

    def add_words(self, phase: Phase, said: str) -> None:
        with self._adding, self.log.open("a") as file:
            file.write(f"\n==== {phase.name}: {' '.join(phase.command)}\n{said}")

    def lines(self) -> list[dict[str, object]]:
        return list(read_lines(self.path))


def read_lines(path: Path) -> Iterator[dict[str, object]]:
    """The lines of a results file; half a line, of a process that was killed, is left out."""
    for line in path.read_text(errors="replace").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


# ---------------------------------------------------------------------------------- running a phase


def end_group(process: subprocess.Popen) -> None:
    """Ends a process and all that it started."""
    for kind, wait_s in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, kind)
            process.wait(wait_s)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        if kind is signal.SIGTERM:
            time.sleep(0.1)  # then the rest of the group


def run_once(phase: Phase, results: Results, cap_s: float) -> tuple[int | None, float, str]:
    """Exit code (None: it hung and was ended), seconds, and what the command said."""
    environment = os.environ | phase.environment
    environment |= {"GPU_CHECK_RESULTS": str(results.path), "GPU_CHECK_RUN": phase.name}
    started = time.monotonic()
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                list(phase.command),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return SKIPPED, 0.0, str(error)
        try:
            code = process.wait(cap_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
        said = ends_of(words)
    results.add_words(phase, said)
    return code, time.monotonic() - started, said


def ends_of(words: IO[bytes]) -> str:
    """What a file holds; beyond MOST_WORDS its first and last words."""
    half, size = MOST_WORDS // 2, words.seek(0, os.SEEK_END)
    words.seek(0)
    said = words.read(half)
    if size > MOST_WORDS:
        said += b"\n[...]\n"
        words.seek(-half, os.SEEK_END)
    return (said + words.read()).decode(errors="replace")


def unfinished(phase: Phase, results: Results) -> list[str]:
    """Tests of a phase that were begun and have no outcome."""
    open_tests: dict[str, None] = {}
    for line in results.lines():
        if line.get("run") == phase.name and line.get("kind") == "test":
            if line["outcome"] == "started":
                open_tests[str(line["id"])] = None
            else:
                open_tests.pop(str(line["id"]), None)
    return list(open_tests)


def run_phase(phase: Phase, results: Results, started: float) -> str:
    """Runs a phase of a run that began at `started` (seconds of the monotonic clock) to its end or
    its cap; returns and writes the verdict."""
    stop = min(started + phase.end_s, time.monotonic() + phase.cap_s)
    if stop - time.monotonic() < 1:
        results.add(kind="phase", name=phase.name, verdict="not reached", seconds=0.0)
        return "not reached"
    seconds, restarts, broken = 0.0, 0, False
    while True:
        code, took, said = run_once(phase, results, max(1.0, stop - time.monotonic()))
        seconds += took
        stopped = unfinished(phase, results) if phase.tests else []
        for test in stopped:
            outcome = "hung" if code is None or "Timeout (" in said else "crashed"
            results.add(kind="test", run=phase.name, id=test, outcome=outcome, detail=said[-600:])
        again = phase.tests and (stopped or code == STICKY)
        if not again or code is None or restarts == RESTARTS or stop - time.monotonic() < 5:
            break
        restarts, broken = restarts + 1, True
    if code is None:
        verdict = "hung"
    elif code == SKIPPED or (phase.tests and code == 5 and not broken):  # 5: pytest ran nothing
        verdict = "skipped"
    elif code < 0 or code in (STICKY, 134, 139):
        verdict = "crashed"
    else:
        verdict = "failed" if code or broken else "passed"
    line = {"kind": "phase", "name": phase.name, "verdict": verdict, "code": code}
    results.add(**line, seconds=round(seconds, 1), restarts=restarts, said=said[-2000:])
    print(f"{phase.name:44} {verdict:12} {seconds:6.1f} s", flush=True)
    return verdict


# ---------------------------------------------------------------------------------- the plan


def device_programs(architecture: str) -> list[Phase]:
    """The simulator's programs as --prepare built them."""
    programs = carried_programs(architecture)
    if not programs:
        reason = "--prepare has made no programs for this device"
        return [Phase("program", ["sh", "-c", f"echo {reason}; exit {SKIPPED}"], 5)]
    end = ENDS_S["program"]
    return [
        Phase(f"program {p.name}", [str(p), "--all", "--seeds", "3"], 20, end_s=end)
        for p in programs
    ]


def carried_programs(architecture: str) -> list[Path]:
    return sorted((CARRY / "programs").glob(f"*-sm_{architecture}"))


def sanitizer_phases(architecture: str) -> list[Phase]:
    """The same programs under compute-sanitizer, tool by tool."""
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    return [
        Phase(
            f"{tool} {program.name}",
            [sanitizer, "--tool", tool, "--error-exitcode", "1", str(program), "--all"],
            12,
        )
        for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
        for program in carried_programs(architecture)
    ]


def has_kernels(package: workspace.Package) -> bool:
    return any((package.folder / "csrc").rglob("*.cu"))


def build_phases(architecture: str, packages: Sequence[workspace.Package]) -> list[Phase]:
    """One ninja graph over the packages with CUDA kernels; what fails does not stop the rest."""
    wanted = [p.name for p in packages if has_kernels(p)]
    if not wanted:
        return []
    tree = str(ROOT / "build" / "gpu" / "tree")
    carried = {"PYTHONPATH": str(CARRY / "python")}
    configure = ["cmake", "-S", str(ROOT), "-B", tree, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    configure += ["-DGPU=ON", "-DNATIVE_TESTS=OFF", f"-DNATIVE_PACKAGES={';'.join(wanted)}"]
    configure += [f"-DCMAKE_CUDA_ARCHITECTURES={architecture}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}"]
    build = ["cmake", "--build", tree, "--", "-k", "0"]
    install, options = ["cmake", "--install"], ["--component", "python", "--prefix", str(SITE)]
    end = ENDS_S["build"]
    phases = [
        Phase("build: configure", configure, 40, carried, end_s=end),
        Phase("build: ninja", build, 110, carried, end_s=end),
    ]
    for name in wanted:  # one by one: what was not built ends the installation that it is part of
        command = [*install, f"{tree}/packages/{name}", *options]
        phases.append(Phase(f"build: install {name}", command, 10, carried, end_s=end + 20))
    return phases


def python_path(packages: Sequence[workspace.Package]) -> dict[str, str]:
    """Native packages as built, the others from their sources; then what was carried."""
    sources = [str(p.folder / "src") for p in packages if not has_kernels(p)]
    path = [str(SITE), *sources, str(CARRY / "python"), str(TOOLS)]
    environment = {"PYTHONPATH": os.pathsep.join(path)}
    if (ffmpeg := CARRY / "ffmpeg").exists():
        environment["FFMPEG"] = str(ffmpeg)
    return environment


def test_phases(packages: Sequence[workspace.Package]) -> list[Phase]:
    """A pytest run for each file with tests marked `gpu`, and each choice of kernels."""
    phases = []
    environment = python_path(workspace.packages(None))
    environment |= {"GPU_CHECK_TEST_LIMIT": str(TEST_LIMIT_S)}
    for package in packages:
        for path in sorted((package.folder / "tests").rglob("test_*.py")):
            text = path.read_text()
            if "mark.gpu" not in text:
                continue
            kernels = KERNELS.get(package.name, ()) if "choices(" in text else ()
            for choice in kernels or ("",):
                command = [sys.executable, "-m", "pytest", "-q", "-p", "gpu.pytest_plugin"]
                command += ["-p", "no:cacheprovider", "--full", "-m", "gpu", str(path)]
                command += ["-k", choice] if choice else []
                name = f"tests {package.name} {path.stem} {choice}".strip()
                big = "many_rows" in path.stem  # takes memory: alone, and last
                phase = Phase(name, command, 150, environment, tests=True, end_s=ENDS_S["tests"])
                phases.append(replace(phase, at_once=1 if big else TESTS_AT_ONCE))
    # those that compile a kernel for every case take longest and begin at once
    return sorted(phases, key=lambda phase: (-phase.at_once, "triton" not in phase.name))


def benchmark_phases(packages: Sequence[workspace.Package]) -> list[Phase]:
    environment, end = python_path(workspace.packages(None)), ENDS_S["benchmark"]
    return [
        Phase(
            f"benchmark {p.name} {path.stem}",
            [sys.executable, str(path)],
            60,
            environment,
            end_s=end,
        )
        for p in packages
        for path in sorted((p.folder / "benchmarks").glob("gpu_*.py"))
    ]


def plan(gpu: dict[str, object], packages: Sequence[workspace.Package]) -> list[Phase]:
    architecture = str(gpu["architecture"])
    limited = python_path(workspace.packages(None)) | {"GPU_CHECK_TEST_LIMIT": "30"}
    ceilings, kernels = ([sys.executable, str(TOOLS / "gpu" / f)] for f in SCRIPTS)
    return [
        Phase("ceilings", ceilings, 30, end_s=ENDS_S["ceilings"]),
        *build_phases(architecture, packages),
        *device_programs(architecture),
        *test_phases(packages),
        Phase("kernels", kernels, 120, limited, tests=True, end_s=ENDS_S["kernels"]),
        *benchmark_phases(packages),
        *sanitizer_phases(architecture),
    ]


def left_over(phases: Sequence[Phase], files: Sequence[Path]) -> list[Phase]:
    """The phases that these results have no end of; the build again, as a machine comes bare."""
    lines = [line for path in files for line in read_lines(path) if line.get("kind") == "phase"]
    done = {line["name"] for line in lines if line["verdict"] not in ("hung", "not reached")}
    return [p for p in phases if p.name not in done or p.name.startswith("build")]


# ---------------------------------------------------------------------------------- the run


def find_gpu() -> dict[str, object]:
    """What the first GPU is; exits with code 3 and the reason where there is none."""
    try:
        import torch
    except ImportError:
        print(f"no GPU check: {sys.executable} has no torch")
        sys.exit(3)
    if not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA (a CPU build)"
        print(f"no GPU check: no CUDA device answers (torch {torch.__version__}, {built})")
        sys.exit(3)
    properties = torch.cuda.get_device_properties(0)
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    return {
        "gpu": properties.name,
        "architecture": f"{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton_version,
    }


def count(lines: Sequence[dict[str, object]]) -> Counter:
    """How many tests and phases ended how; a phase counts for its tests where it has run some."""
    counts: Counter = Counter()
    runs = {line.get("run") for line in lines if line.get("kind") == "test"}
    for line in lines:
        if line.get("kind") == "test" and line["outcome"] != "started":
            counts[str(line["outcome"])] += 1
        elif line.get("kind") == "phase":
            verdict = str(line["verdict"])
            if line["name"] not in runs or verdict in ("hung", "not reached"):
                counts[verdict] += 1
    return counts


def exit_code(counts: Counter) -> int:
    if any(counts[kind] for kind in ("failed", "hung", "crashed", "error")):
        return 1
    return 2 if counts["skipped"] or counts["not reached"] or not counts["passed"] else 0


def run_all(gpu: dict[str, object], phases: Sequence[Phase], out: Path) -> int:
    results = Results(out)
    results.add(kind="machine", date=datetime.date.today().isoformat(), **gpu)
    started = time.monotonic()
    for at_once, group in itertools.groupby(phases, key=lambda p: p.at_once):
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda phase: run_phase(phase, results, started), group))
    counts = count(results.lines())
    results.add(kind="summary", counts=dict(counts))
    print(", ".join(f"{number} {kind}" for kind, number in sorted(counts.items())))
    print(f"written to {results.path}")
    return exit_code(counts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", action="append", help="only this one (may be repeated)")
    parser.add_argument("--out", type=Path, help="for the results (default: $OUT, build/gpu)")
    parser.add_argument("--prepare", action="store_true", help="build what travels to the machine")
    parser.add_argument("--ffmpeg", type=Path, help="with --prepare: a static ffmpeg to take along")
    parser.add_argument("--architecture", default="90", help="with --prepare: of the device (90)")
    parser.add_argument("--after", nargs="+", type=Path, help="results files of earlier runs")
    parser.add_argument("--report", nargs="+", type=Path, help="results files to turn into tables")
    options = parser.parse_args(argv)
    packages = workspace.packages(options.package)
    if options.report:
        from gpu.report import report

        return report(options.report)
    if options.prepare:
        from gpu.prepare import prepare

        return prepare(CARRY, options.architecture, options.ffmpeg)
    out = options.out or Path(os.environ.get("OUT") or ROOT / "build" / "gpu")
    gpu = find_gpu()
    print(f"{gpu['gpu']}, sm_{gpu['architecture']}, torch {gpu['torch']}, CUDA {gpu['cuda']}")
    return run_all(gpu, left_over(plan(gpu, packages), options.after or ()), out)


if __name__ == "__main__":
    sys.exit(main())
