#!/usr/bin/env python3
"""Run the benchmarks of the packages, each beside a named peer in the same run.

Every packages/<name>/benchmarks/bench_*.py prints a table; with --save the results also go to
benchmarks/results/ there, with machine, versions and date. Quiet machine, please: the load average
is written into the result.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys

import workspace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="*", help="only these packages (default: all)")
    parser.add_argument("--only", default="", help="only scripts whose name contains this text")
    parser.add_argument("--quick", action="store_true", help="three repeats in place of many")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/*.json")
    options = parser.parse_args()
    wanted = workspace.packages(options.package)
    workspace.ensure_environment(wanted)
    failed = []
    for package in wanted:
        for script in sorted((package.folder / "benchmarks").glob("bench_*.py")):
            if options.only not in script.stem:
                continue
            command = [str(workspace.PYTHON), str(script)]
            command += ["--quick"] if options.quick else []
            if options.save:
                day = datetime.date.today().isoformat()
                name = f"{script.stem.removeprefix('bench_')}-{day}.json"
                command += ["--json", str(script.parent / "results" / name)]
            print(f"\n== {package.name}: {script.stem}", flush=True)
            if subprocess.run(command, env=workspace.tool_environment()).returncode:
                failed.append(f"{package.name}/{script.name}")
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
