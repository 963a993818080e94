#!/usr/bin/env python3
"""Run every GPU test and benchmark on this machine's GPU: the proof that a CUDA path works.

Builds the native packages with CUDA for the GPU it finds only, offline, with the python3 that runs
this command (it needs torch with CUDA, nanobind, scikit-build-core, cmake, ninja and pytest); runs
every test marked `gpu` and every benchmarks/gpu_*.py, prints a table and writes JSON.

Exit codes: 0 all passed, 1 something failed, 3 this machine has no usable GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import workspace
from workspace import ROOT, Package

SITE = ROOT / "build" / "gpu" / "site"
LIMIT_S = 540  # the whole check fits in ten minutes


def gpu_or_exit() -> dict[str, str]:
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
    major, minor = torch.cuda.get_device_capability()
    return {
        "gpu": torch.cuda.get_device_name(),
        "architecture": f"{major}{minor}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def install(package: Package, architecture: str) -> float:
    """Build one package for this GPU into build/gpu/site; returns the seconds it took."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--upgrade", "--target", str(SITE), str(package.folder)]
    if package.native:
        command += [f"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES={architecture}"]
    subprocess.run(command, check=True, env=os.environ | {"GPU": "ON"})
    return time.monotonic() - started


def run_tests(package: Package, seconds_left: float) -> dict[str, object]:
    """pytest -m gpu of one package: its counts and, on failure, the end of its output.

    Only files with such tests are read: the others may import peers that this machine lacks.
    """
    tests = sorted((package.folder / "tests").rglob("test_*.py"))
    tests = [str(path) for path in tests if "mark.gpu" in path.read_text()]
    if not tests:
        return {}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(SITE)},
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds_left),
        )
    except subprocess.TimeoutExpired:
        return {"failed": 1, "output": f"not finished within {seconds_left:.0f} s"}
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped)", last)}
    if done.returncode != 0:
        counts["failed"] = max(1, counts.get("failed", 0))
        counts["output"] = (done.stdout + done.stderr)[-4000:]
    return counts


def run_benchmarks(package: Package, out: Path, seconds_left: float) -> dict[str, object]:
    """Every benchmarks/gpu_*.py of one package: exit code or why it was stopped, and its JSON."""
    results: dict[str, object] = {}
    for script in sorted((package.folder / "benchmarks").glob("gpu_*.py")):
        target = out / f"{package.name}-{script.stem}.json"
        command = [sys.executable, str(script), "--json", str(target)]
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": str(SITE)},
                timeout=max(1.0, seconds_left),
            )
        except subprocess.TimeoutExpired:
            results[script.stem] = f"stopped: not finished within {seconds_left:.0f} s"
            continue
        written = json.loads(target.read_text()) if target.exists() else None
        results[script.stem] = written or f"exit code {done.returncode}, no result"
    return results


def check(package: Package, gpu: dict[str, str], out: Path, deadline: float) -> dict[str, object]:
    print(f"== {package.name}", flush=True)
    try:
        built = install(package, gpu["architecture"])
    except subprocess.CalledProcessError as error:
        return {"failed": 1, "output": f"the build failed with exit code {error.returncode}"}
    result = {"build_s": round(built, 1)}
    result |= run_tests(package, deadline - time.monotonic())
    result["benchmarks"] = run_benchmarks(package, out, deadline - time.monotonic())
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", action="append", help="only this one (may be repeated)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="for the JSON")
    options = parser.parse_args()
    gpu = gpu_or_exit()
    print(f"{gpu['gpu']}, sm_{gpu['architecture']}, torch {gpu['torch']}, CUDA {gpu['cuda']}")
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LIMIT_S
    packages = workspace.packages(options.package)
    results = {package.name: check(package, gpu, options.out, deadline) for package in packages}

    print(f"\n{'package':20} {'build s':>8} {'passed':>7} {'failed':>7} {'skipped':>8}")
    for name, result in results.items():
        row = (result.get(key, 0) for key in ("build_s", "passed", "failed", "skipped"))
        print(f"{name:20} " + "{:8} {:7} {:7} {:8}".format(*row))
        if "output" in result:
            print(result["output"])
    summary = options.out / f"gpu-check-{datetime.date.today().isoformat()}.json"
    aside = summary.with_suffix(".part")
    aside.write_text(json.dumps({"machine": gpu, "packages": results}, indent=1) + "\n")
    aside.replace(summary)
    print(f"written to {summary}")
    return 1 if any(result.get("failed") for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
