#!/usr/bin/env python3
"""Run the benchmarks of the packages, each beside a named peer in the same run.

Every packages/<name>/benchmarks/bench_*.py prints a table; with --save the results also go to
benchmarks/results/ there, with machine, versions and date. Quiet machine, please: the load average
is written into the result. --stale runs those whose newest result is older than its code.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

import results
import workspace
from measure import instruction_set


def stale(script: Path) -> bool:
    """Whether no result of a script is as new as the code that it measures."""
    name = script.stem.removeprefix("bench_")
    kept = list((script.parent / "results").glob("*.json"))
    mine = [path for path in kept if f"{results.benchmark_of(path)}-".startswith(f"{name}-")]
    newest = [path for path in mine if results.newer(path) is None]
    return not newest or any(results.changed_since(path) for path in newest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="*", help="only these packages (default: all)")
    parser.add_argument("--only", default="", help="only scripts whose name contains this text")
    parser.add_argument("--stale", action="store_true", help="only where the code is newer")
    parser.add_argument("--list", action="store_true", help="name them and run nothing")
    parser.add_argument("--quick", action="store_true", help="three repeats in place of many")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/*.json")
    options = parser.parse_args()
    wanted = workspace.packages(options.package)
    workspace.ensure_environment(wanted)
    failed = []
    for package in wanted:
        for script in sorted((package.folder / "benchmarks").glob("bench_*.py")):
            if options.only not in script.stem or (options.stale and not stale(script)):
                continue
            if options.list:
                print(f"{package.name}: {script.stem}")
                continue
            command = [str(workspace.PYTHON), str(script)]
            command += ["--quick"] if options.quick else []
            if options.save:
                day = datetime.date.today().isoformat()
                name = f"{script.stem.removeprefix('bench_')}-{instruction_set()}-{day}.json"
                command += ["--json", str(script.parent / "results" / name)]
            print(f"\n== {package.name}: {script.stem}", flush=True)
            if subprocess.run(command, env=workspace.tool_environment()).returncode:
                failed.append(f"{package.name}/{script.name}")
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
