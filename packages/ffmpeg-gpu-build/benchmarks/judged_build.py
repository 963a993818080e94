"""What a profile comes to: built, every part looked up, every path judged, FFmpeg's own tests run.

    python judged_build.py --profile small --fate --json results/small-DATE.json

Runs the commands `build`, `verify --json` and `fate` as a user would and keeps what they say. A
build that stands already in the work folder is taken up; the result then names the stages that
were done before, and its CPU time is that of the rest. On a busy machine CPU time is the figure to
trust: half of it is what two idle cores need at best.
"""

import argparse
import datetime
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import machine

from ffmpeg_gpu_build import resolve
from ffmpeg_gpu_build.build import builder, make, manifest, toolchain
from ffmpeg_gpu_build.build.description import Plan

TOOL = [sys.executable, "-m", "ffmpeg_gpu_build"]


def run(*arguments: str, may_fail: bool = False) -> tuple[str, dict[str, float]]:
    """A command of ours: what it printed, and its seconds by the clock and of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run([*TOOL, *arguments], stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode and not may_fail:
        sys.exit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = {"wall": round(time.monotonic() - started, 1), "cpu": round(cpu, 1)}
    return done.stdout, {**seconds, "exit_code": done.returncode}


def cache_counts() -> dict[str, int] | None:
    """ccache's hits and misses so far, or None without ccache."""
    if not shutil.which("ccache"):
        return None
    said = subprocess.run(["ccache", "--print-stats"], capture_output=True, text=True, check=True)
    stats = dict(line.split("\t") for line in said.stdout.splitlines() if "\t" in line)
    hits = int(stats["direct_cache_hit"]) + int(stats["preprocessed_cache_hit"])
    return {"hits": hits, "misses": int(stats["cache_miss"])}


def parts(plan: Plan, objects: Path) -> dict[str, dict]:
    """By component: how many settings it asks for, and which of them configure does not have."""
    have, found = make.enabled(objects), {}
    for macro, component in plan.component_macros().items():
        entry = found.setdefault(component, {"asked": 0, "missing": []})
        entry["asked"] += 1
        entry["missing"] += [] if macro in have else [macro]
    return found


def judged(prefix: Path, profile: str) -> dict:
    """The verdicts on the build: counts, floors, and the paths by verdict with their codes."""
    out, cost = run(
        "verify", "--ffmpeg", str(prefix), "--profile", profile, "--json", "-", may_fail=True
    )
    report = json.loads(out)
    by_status: dict[str, dict[str, str]] = {}
    for verdict in report["verdicts"]:
        by_status.setdefault(verdict["status"], {})[verdict["path"]] = verdict["code"]
    facts = {name: report["facts"][name] for name in ("nvenc_driver_floor", "ptx")}
    return {"counts": report["counts"], **facts, "paths": by_status, "cost": cost}


def fate(profile: str, work: Path, jobs: int) -> dict:
    """FFmpeg's own tests that need no samples: counts, and each failure with its reason."""
    out, cost = run(
        "fate", "--profile", profile, "--work", str(work), "--jobs", str(jobs), may_fail=True
    )
    counts = re.search(r"^(\d+) of (\d+) tests passed$", out, re.M)
    if not counts:
        sys.exit(f"fate said no counts:\n{out}")
    failed = dict(re.findall(r"^FAILED (\S+): (.*)$", out, re.M))
    return {"passed": int(counts[1]), "total": int(counts[2]), "failed": failed, "cost": cost}


def compilers(used: dict[str, str], configure: list[str]) -> dict:
    """What compiled it, which of it the CUDA filters, and the other CUDA compiler if it is here."""
    cuda = next(a.partition("=")[2] for a in configure if a.startswith("--nvcc="))
    here = [name for name in (toolchain.find_clang(), shutil.which("nvcc") and "nvcc") if name]
    others = manifest.compilers([f"--nvcc={name}" for name in here if name != cuda])
    others = {name: text for name, text in others.items() if name not in used}
    return {"used": used, "of the CUDA filters": cuda, "not used, on this machine": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="small")
    parser.add_argument("--prefix", type=Path, help="default: beside the work folder")
    parser.add_argument("--work", type=Path, help="default: that of `build`")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--install-deps", action="store_true", help="as in `build`")
    parser.add_argument("--no-ccache", action="store_true", help="as in `build`")
    parser.add_argument("--fate", action="store_true", help="run FFmpeg's own tests too")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    plan = resolve(a.profile)
    work = (a.work or builder.default_work(plan)).absolute()
    prefix = (a.prefix or work.with_name(work.name + "-prefix")).absolute()
    state = work / "state.json"
    before = json.loads(state.read_text()) if state.is_file() else {}
    flags = [*(["--install-deps"] * a.install_deps), *(["--no-ccache"] * a.no_ccache)]
    counts = None if a.no_ccache else cache_counts()
    _, cost = run(
        "build", "--profile", a.profile, "--prefix", str(prefix), "--work", str(work),
        "--jobs", str(a.jobs), *flags,
    )  # fmt: skip
    after = json.loads(state.read_text())  # of another plan: its stages were all done again
    same = before.get("fingerprint") == after["fingerprint"]
    if counts:
        counts = {name: number - counts[name] for name, number in cache_counts().items()}
    papers = json.loads((prefix / manifest.FOLDER / "manifest.json").read_text())
    files = [p for p in prefix.rglob("*") if p.is_file() and not p.is_symlink()]
    result = {
        "benchmark": "judged_build",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "profile": a.profile,
        "ffmpeg": papers["ffmpeg"],
        "licence": papers["licence"],
        "build": {
            "cost": cost,
            "jobs": a.jobs,
            "ccache": counts,
            "stages done before": before["done"] if same else [],
            "installed MiB": round(sum(p.stat().st_size for p in files) / 2**20, 1),
        },
        "compilers": compilers(papers["compilers"], papers["configure"]),
        "libraries": papers["libraries"],
        "unpacked": papers["unpacked"],
        "components": parts(plan, work / "objects"),
        "verify": judged(prefix, a.profile),
        "fate": fate(a.profile, work, a.jobs) if a.fate else "not run",
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if a.json:
        aside = a.json.with_suffix(".part")
        aside.write_text(text)
        aside.replace(a.json)


if __name__ == "__main__":
    main()
