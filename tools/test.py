#!/usr/bin/env python3
"""Test everything: style, native tests, every package, and what crosses packages.

  python tools/test.py                      all packages and tests/
  python tools/test.py spconv-lite          one package
  python tools/test.py --changed            only what differs from the main branch
  python tools/test.py --sanitize           also native tests and packages under sanitizers
  python tools/test.py --coverage           with line coverage of the Python code, as a table
  python tools/test.py --full               also the slow tests

Ends with a table of stages and one line of totals; exit code 0 only if everything passed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import workspace
from workspace import PYTHON, ROOT, VENV, Package

SHARED = ("cmake/", "tools/", "conftest.py", "pyproject.toml", "CMake", "VERSION")
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


@dataclass
class Stage:
    """One command of the run; its counts are read from pytest's or ctest's closing lines."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    code: int | None = None

    def run(self) -> None:
        print(f"\n== {self.name}", flush=True)
        started = time.monotonic()
        process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=workspace.tool_environment(**self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        reader = threading.Thread(target=self._relay, args=(process,), daemon=True)
        reader.start()
        self.code = process.wait()
        reader.join(timeout=5)  # a stray grandchild may hold the pipe open
        self.seconds = time.monotonic() - started
        if self.code == 5 and "pytest" in self.command:
            self.code = 0  # pytest's code for a folder whose tests are all deselected

    def _relay(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            self._count(line)

    def _count(self, line: str) -> None:
        if re.search(r"\bin [\d.]+s", line):  # pytest's closing line
            for number, kind in COUNTS.findall(line):
                kind = "failed" if kind.startswith("error") else kind
                self.counts[kind] = self.counts.get(kind, 0) + int(number)
        elif match := re.match(r"(\d+)% tests passed, (\d+) tests? failed out of (\d+)", line):
            self.counts["failed"] = int(match[2])
            self.counts["passed"] = int(match[3]) - int(match[2])
        elif match := re.match(r"100% tests passed(?:, 0 tests failed)? out of (\d+)", line):
            self.counts["passed"] = int(match[1])


def changed_packages(wanted: list[Package]) -> list[Package]:
    """The packages that the working tree and the commits since origin/main (or HEAD~1) touch."""
    base = "HEAD"
    for candidate in ("origin/main", "main~1"):
        probe = ["git", "merge-base", "HEAD", candidate]
        found = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True)
        if found.returncode == 0:
            base = found.stdout.strip()
            break
    listing = ["git", "diff", "--name-only", base]
    untracked = ["git", "ls-files", "--others", "--exclude-standard"]
    files = [
        line
        for command in (listing, untracked)
        for line in subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
    ]
    if any(name.startswith(SHARED) for name in files):
        return wanted
    folders = {name.split("/")[1] for name in files if name.startswith(("packages/", "recipes/"))}
    return [package for package in wanted if package.name in folders]


def style_stages() -> list[Stage]:
    sources = subprocess.run(
        ["git", "ls-files", "*.h", "*.cpp", "*.cu", "*.cuh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    stages = [
        Stage("style: ruff check", [f"{VENV}/bin/ruff", "check", "."]),
        Stage("style: ruff format", [f"{VENV}/bin/ruff", "format", "--check", "."]),
    ]
    if sources:
        command = [f"{VENV}/bin/clang-format", "--dry-run", "-Werror", *sources]
        stages.append(Stage("style: clang-format", command))
    return stages


def preset_stages(preset: str) -> list[Stage]:
    """Configure, build and ctest one preset of the top-level tree."""
    cmake, ctest = f"{VENV}/bin/cmake", f"{VENV}/bin/ctest"
    return [
        Stage(f"{preset}: configure", [cmake, "--preset", preset]),
        Stage(f"{preset}: build", [cmake, "--build", "--preset", preset]),
        Stage(f"{preset}: ctest", [ctest, "--preset", preset]),
    ]


def pytest_stage(name: str, folder: Path, options: argparse.Namespace) -> Stage:
    command = [str(PYTHON), "-m", "pytest", str(folder.relative_to(ROOT)), "-q"]
    command += ["--full"] if options.full else []
    if options.coverage:
        command[1:3] = ["-m", "coverage", "run", "--parallel-mode", "-m", "pytest"]
    return Stage(name, command)


def sanitized_stage(package: Package) -> Stage:
    """The tests marked `native` of a package, over its module built by the asan preset.

    -S keeps site.py out, so the editable install's import hook cannot bring back the plain module.
    Leaks are looked for in the native tests: Python itself reports hundreds of kilobytes.
    """
    site = ROOT / "build" / "asan" / "site"
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    tests = str((package.folder / "tests").relative_to(ROOT))
    return Stage(
        f"asan: {package.name}",
        [str(PYTHON), "-S", "-m", "pytest", tests, "-q", "-m", "native"],
        {
            "PYTHONPATH": f"{site}:{workspace.site_packages()}",
            "LD_PRELOAD": ":".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0",
            "NATIVE_SANITIZED": "1",
        },
    )


def plan(wanted: list[Package], options: argparse.Namespace) -> list[Stage]:
    whole = not options.package and not options.changed
    native = [package for package in wanted if package.native]
    stages = style_stages() if whole else []
    if whole or native:
        stages += preset_stages("cpu")
    for package in wanted:
        stages.append(pytest_stage(package.name, package.folder / "tests", options))
    if whole:
        stages.append(pytest_stage("across packages", ROOT / "tests", options))
    if options.sanitize and (whole or native):
        stages += preset_stages("asan")
        site = str(ROOT / "build" / "asan" / "site")
        install = [f"{VENV}/bin/cmake", "--install", "build/asan", "--prefix", site]
        stages.append(Stage("asan: install", install))
        stages += [sanitized_stage(package) for package in native]
        if shutil.which("clang++-19"):
            stages += preset_stages("tsan")
        else:
            print("tsan: not run, clang++-19 is missing (Debian: apt install clang-19)")
    if options.coverage:
        stages.append(Stage("coverage", [str(PYTHON), "-m", "coverage", "combine", "-q"]))
        stages.append(Stage("coverage: table", [str(PYTHON), "-m", "coverage", "report"]))
    return stages


def report(stages: list[Stage]) -> int:
    print("\n" + "-" * 78)
    totals = {"passed": 0, "failed": 0, "skipped": 0}
    for stage in stages:
        verdict = "ok" if stage.code == 0 else f"FAILED (exit {stage.code})"
        counts = ", ".join(f"{number} {kind}" for kind, number in stage.counts.items())
        print(f"{stage.name:28} {verdict:20} {stage.seconds:6.1f} s  {counts}")
        for kind in totals:
            totals[kind] += stage.counts.get(kind, 0)
        if stage.code != 0 and not stage.counts.get("failed"):
            totals["failed"] += 1
    seconds = sum(stage.seconds for stage in stages)
    print("-" * 78 + f"\n{seconds / 60:.1f} minutes")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**totals))
    return 1 if totals["failed"] or any(stage.code != 0 for stage in stages) else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", nargs="*", help="only these packages")
    parser.add_argument("--changed", action="store_true", help="only what the change touches")
    parser.add_argument("--sanitize", action="store_true", help="ASan+UBSan and TSan runs as well")
    parser.add_argument("--coverage", action="store_true", help="line coverage of the Python code")
    parser.add_argument("--full", action="store_true", help="the slow tests as well")
    options = parser.parse_args()
    wanted = workspace.packages(options.package)
    if options.changed:
        wanted = changed_packages(wanted)
        print("changed: " + (", ".join(package.name for package in wanted) or "no package"))
    workspace.ensure_system_packages(wanted)
    workspace.ensure_environment(workspace.packages() if not options.package else wanted)
    stages = plan(wanted, options)
    broken_builds = set()
    for stage in stages:
        group = stage.name.split(":")[0]
        if group in broken_builds and group in ("cpu", "asan", "tsan"):
            stage.code = -1  # its build failed above
            continue
        stage.run()
        if stage.code != 0:
            broken_builds.add(group)
    return report(stages)


if __name__ == "__main__":
    sys.exit(main())
