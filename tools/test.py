#!/usr/bin/env python3
"""Test everything: style, native tests, every package, and what crosses packages.

  python tools/test.py                      all packages and tests/
  python tools/test.py spconv-lite          one package: its style, its core, its tests
  python tools/test.py --changed            only what differs from the main branch
  python tools/test.py --sanitize           also native tests and packages under sanitizers
  python tools/test.py --coverage           with line coverage of the Python and the native code
  python tools/test.py --full               also the slow tests

Ends with a table of stages, what was skipped and what brings it, and one line of totals; exit code
0 only if everything passed.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import workspace
from workspace import PYTHON, ROOT, VENV, Package

PROSE = ("docs/", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", ".github/")
REPORTS = ROOT / "build" / "reports"
LANES = 2  # groups of stages at a time where all is tested: most stages keep about one core busy


@dataclass
class Stage:
    """One command of the run; pytest and ctest leave their counts in a JUnit file."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    junit: str = ""  # the option that makes the command write a JUnit file
    counts: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    code: int | None = None

    @property
    def group(self) -> str:
        """What must run in order with it: a style or a preset, one package's tests."""
        return self.name.split(":")[0]

    def run(self, aside: bool = False) -> None:
        """Run it; `aside`: others run beside it, so what it says is shown whole at its end."""
        print(f"\n== {self.name}{' begins' if aside else ''}", flush=True)
        report = REPORTS / f"{self.name.replace(': ', '-').replace(' ', '-')}.xml"
        report.unlink(missing_ok=True)
        command = self.command + ([f"{self.junit}={report}"] if self.junit else [])
        started = time.monotonic()
        environment = workspace.tool_environment(**self.environment)
        said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if aside else {}
        done = subprocess.run(command, cwd=ROOT, env=environment, **said)
        self.code = done.returncode
        self.seconds = time.monotonic() - started
        if aside:
            print(f"\n== {self.name}\n{done.stdout.decode(errors='replace')}", end="", flush=True)
        if self.code == 5 and "pytest" in self.command:
            self.code = 0  # pytest's code for a folder whose tests are all deselected
        if report.exists():
            self._read(report)

    def _read(self, report: Path) -> None:
        for case in xml.parse(report).iter("testcase"):
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                self.counts["failed"] += 1
            elif skipped is not None or case.get("status") in ("notrun", "disabled"):
                self.counts["skipped"] += 1
                reason = "" if skipped is None else skipped.get("message", "")
                self.skips[reason.removeprefix("Skipped: ") or case.get("name", "")] += 1
            else:
                self.counts["passed"] += 1


def changed_files() -> list[str]:
    """What differs from origin/main (or the commit before), the working tree included."""
    base = "HEAD"
    for candidate in ("origin/main", "main~1"):
        probe = ["git", "merge-base", "HEAD", candidate]
        found = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True)
        if found.returncode == 0:
            base = found.stdout.strip()
            break
    listings = (
        ["git", "diff", "--name-only", base],
        ["git", "ls-files", "--others", "--exclude-standard"],
    )
    return [
        line
        for command in listings
        for line in subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    ]


def owner(file: str) -> str | None:
    """The package that a file belongs to; "" for prose; None for what all packages share."""
    parts = file.split("/")
    if parts[0] in ("packages", "recipes") and len(parts) > 2:
        return parts[1]
    return "" if file.startswith(PROSE) else None


def changed_packages(wanted: list[Package]) -> list[Package]:
    """The packages that the change touches: all, where it touches what they share."""
    owners = {owner(file) for file in changed_files()}
    return [package for package in wanted if None in owners or package.name in owners]


def style_stages(wanted: list[Package], whole: bool) -> list[Stage]:
    """Ruff, clang-format and mypy over the repository, or over the wanted packages."""
    folders = ["."] if whole else [f"packages/{package.name}" for package in wanted]
    patterns = [f"{folder}/*.{end}" for folder in folders for end in ("h", "cpp", "cu", "cuh")]
    listing = ["git", "ls-files", *patterns]
    sources = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True).stdout.split()
    stages = [
        Stage("style: ruff check", [f"{VENV}/bin/ruff", "check", *folders]),
        Stage("style: ruff format", [f"{VENV}/bin/ruff", "format", "--check", *folders]),
    ]
    if sources:
        command = [f"{VENV}/bin/clang-format", "--dry-run", "-Werror", *sources]
        stages.append(Stage("style: clang-format", command))
    if whole:
        stages.append(Stage("style: imports", [f"{VENV}/bin/lint-imports"]))
    typed = [] if whole else [f"packages/{package.name}/src" for package in wanted]
    stages.append(Stage("style: types", [f"{VENV}/bin/mypy", *typed]))
    return stages


def preset_stages(preset: str, package: Package | None = None) -> list[Stage]:
    """Configure, build and ctest one preset: the whole tree, or one package with its own tests."""
    cmake, ctest = f"{VENV}/bin/cmake", f"{VENV}/bin/ctest"
    folder = f"build/{preset}" + (f"-{package.name}" if package else "")
    configure = [cmake, "--preset", preset, "-B", folder]
    configure += [f"-DNATIVE_PACKAGES={package.name}"] if package else []
    name = f"{preset}: {package.name} " if package else f"{preset}: "
    tests = [ctest, "--test-dir", folder, "--output-on-failure", "--timeout", "300"]
    return [
        Stage(f"{name}configure", configure),
        Stage(f"{name}build", [cmake, "--build", folder]),
        Stage(f"{name}ctest", tests, junit="--output-junit"),
    ]


def pytest_stage(name: str, folder: Path, options: argparse.Namespace) -> Stage:
    command = [str(PYTHON), "-m", "pytest", str(folder.relative_to(ROOT)), "-q"]
    command += ["--full"] if options.full else []
    if options.coverage:
        command[1:3] = ["-m", "coverage", "run", "--parallel-mode", "-m", "pytest"]
    return Stage(name, command, junit="--junitxml")


def instrumented_stage(
    preset: str, site: Path, package: Package, more: dict[str, str], full: bool
) -> Stage:
    """The tests marked `native` of a package, over its module in `site`; long ones if `full`.

    -S keeps site.py out, so the editable install's import hook cannot bring back the plain module.
    """
    tests = str((package.folder / "tests").relative_to(ROOT))
    path = {"PYTHONPATH": f"{site}:{workspace.site_packages()}", "NATIVE_SANITIZED": "1"}
    marks = "native" if full else "native and not once"
    command = [str(PYTHON), "-S", "-m", "pytest", tests, "-q", "-m", marks]
    return Stage(f"{preset}: {package.name}", command, path | more, junit="--junitxml")


def instrumented_stages(
    preset: str, native: list[Package], more: dict[str, str], full: bool
) -> list[Stage]:
    """Build a preset and its native tests, then run the packages' tests over its modules."""
    alone = native[0] if len(native) == 1 else None
    folder = ROOT / "build" / (f"{preset}-{alone.name}" if alone else preset)
    install = [f"{VENV}/bin/cmake", "--install", str(folder), "--prefix", str(folder / "site")]
    stages = [*preset_stages(preset, alone), Stage(f"{preset}: install", install)]
    return stages + [instrumented_stage(preset, folder / "site", p, more, full) for p in native]


def sanitizer_stages(native: list[Package], full: bool) -> list[Stage]:
    """ASan with UBSan, and TSan. Leaks are looked for in the native tests: Python has its own."""
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    preloaded = {"LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    stages = instrumented_stages("asan", native, preloaded, full)
    if shutil.which("clang++-19"):
        stages += preset_stages("tsan")
    elif os.environ.get("CI"):  # where it could not be installed, nothing goes unseen
        stages.append(Stage("tsan: clang++-19", ["sh", "-c", "clang++-19 --version"]))
    else:
        print("tsan: not run, clang++-19 is missing: on Debian apt-get install clang-19")
    return stages


def coverage_stages(wanted: list[Package], native: list[Package]) -> list[Stage]:
    """What the run covered of the Python code, then of the native code of `native`."""
    python = [str(PYTHON), "-m", "coverage"]
    sources = [f"packages/{package.name}/src/*" for package in wanted]
    stages = [
        Stage("coverage: combine", [*python, "combine", "-q"]),
        Stage("coverage: Python", [*python, "report", "--include", ",".join(sources)]),
    ]
    if native:
        filters = [w for p in native for w in ("--filter", f"packages/{p.name}/csrc/")]
        report = [f"{VENV}/bin/gcovr", "--root", ".", *filters, "build", "--txt"]
        report += ["--fail-under-line", "85", "--merge-lines"]
        stages += instrumented_stages("coverage", native, {}, full=True)
        stages.append(Stage("coverage: C++", report))
    return stages


def plan(wanted: list[Package], options: argparse.Namespace) -> list[Stage]:
    """All stages; of a run of everything the long groups first, so that the lanes end together."""
    whole = len(wanted) == len(workspace.packages())
    native = [package for package in wanted if package.native]
    stages = style_stages(wanted, whole) if wanted else []
    if whole:
        stages.append(pytest_stage("across packages", ROOT / "tests", options))
        stages += preset_stages("cpu")
    else:
        stages += [stage for package in native for stage in preset_stages("cpu", package)]
    if options.sanitize and native:
        stages += sanitizer_stages(native, options.full)
    for package in wanted:
        stages.append(pytest_stage(package.name, package.folder / "tests", options))
    if options.coverage:
        stages += coverage_stages(wanted, native)
    return stages


def run_all(stages: list[Stage], lanes: int) -> None:
    """Some groups at a time, each in order; last the coverage, which reads what the others left."""
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(stage.group, []).append(stage)
    last = groups.pop("coverage", [])
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(functools.partial(run_group, aside=lanes > 1), groups.values()))
    run_group(last)


def run_group(stages: list[Stage], aside: bool = False) -> None:
    """In order; what stands on a build that failed is not run and counts as failed."""
    broken = False
    for stage in stages:
        if broken and stage.group in ("cpu", "asan", "tsan", "coverage"):
            stage.code = -1
            continue
        stage.run(aside)
        broken = broken or stage.code != 0


def report(stages: list[Stage], wanted: list[Package], seconds: float) -> int:
    print("\n" + "-" * 78)
    totals, skips = Counter(), Counter()
    for stage in stages:
        verdict = "ok" if stage.code == 0 else f"FAILED (exit {stage.code})"
        counts = ", ".join(f"{number} {kind}" for kind, number in sorted(stage.counts.items()))
        print(f"{stage.name:28} {verdict:20} {stage.seconds:6.1f} s  {counts}")
        totals += stage.counts
        skips += stage.skips
        if stage.code != 0 and not stage.counts["failed"]:
            totals["failed"] += 1
    if skips:
        print("-" * 78 + "\nskipped, and why:")
        for reason, number in skips.most_common():
            print(f"{number:6}  {' '.join(reason.split())}")
        if missing := workspace.missing_system_packages(wanted):
            print(f"what a Debian system lacks of this: apt-get install {' '.join(missing)}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = (used.ru_utime + used.ru_stime) / 60
    print("-" * 78 + f"\n{seconds / 60:.1f} minutes, {processor:.1f} of a processor's time")
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return 1 if totals["failed"] or any(stage.code != 0 for stage in stages) else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", nargs="*", help="only these packages")
    parser.add_argument("--changed", action="store_true", help="only what the change touches")
    parser.add_argument("--sanitize", action="store_true", help="ASan+UBSan and TSan runs as well")
    parser.add_argument("--coverage", action="store_true", help="line coverage, Python and C++")
    parser.add_argument("--full", action="store_true", help="the slow tests as well")
    options = parser.parse_args()
    wanted = workspace.packages(options.package)
    if options.changed:
        wanted = changed_packages(wanted)
        print("changed: " + (", ".join(package.name for package in wanted) or "no package"))
    workspace.ensure_system_packages(wanted)
    workspace.ensure_environment(wanted)
    REPORTS.mkdir(parents=True, exist_ok=True)
    stages = plan(wanted, options)
    started = time.monotonic()
    run_all(stages, LANES if len(wanted) == len(workspace.packages()) else 1)
    return report(stages, wanted, time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
