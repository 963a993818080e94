"""A run on four gloo ranks (tp 2, pp 2) that is shot at for minutes: its curve is the whole one's.

    python packages/tp-parallel/benchmarks/soak.py --minutes 20 --json FILE

At random times, half of them while a checkpoint is being written, a random rank gets SIGKILL or
SIGSTOP or the launcher SIGTERM. torchrun restarts the ranks; a launcher that has ended is started
again. When the time is up the run goes on undisturbed for some steps, and another one runs as far
without any signal. Losses in float64 must be equal to the last bit; the exit status says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RANKS, TIMEOUT = 4, 15.0
KINDS = ("KILL", "STOP", "TERM")
SHAPE = ["--layers", "2", "--hidden", "16", "--heads", "2", "--seq", "16", "--batch", "8",
         "--warmup", "2", "--eval-every", "0", "--log-every", "100000", "--steps",
         "1000000", "--dtype", "float64"]  # fmt: skip


def command(folder: Path, run: str) -> list[str]:
    launcher = ["--standalone", "--nproc-per-node", str(RANKS), "--max-restarts", "100000"]
    return [sys.executable, "-m", "torch.distributed.run", *launcher, "-m",
            "tp_parallel.pretrain", "--data", str(folder / "text.txt"), *SHAPE, "--tp", "2",
            "--pp", "2", "--save", str(folder / run), "--save-every", "3",
            "--keep", "3", "--timeout", str(TIMEOUT), "--metrics",
            str(folder / f"{run}.jsonl")]  # fmt: skip


def start(folder: Path, run: str) -> subprocess.Popen:
    log = (folder / f"{run}.log").open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(folder, run), stdout=log, stderr=log, env=environment)


def ranks_of(launcher: subprocess.Popen) -> list[int]:
    """Processes of the ranks: the launcher's children."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    try:
        return [int(number) for number in children.read_text().split()]
    except OSError:
        return []


def losses(folder: Path, run: str) -> dict[int, float]:
    """The last loss of each step; a line that a kill has cut is no line."""
    found = {}
    path = folder / f"{run}.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["step"]] = row["loss"]
    return found


def shoot(folder: Path, minutes: float, draw: random.Random) -> tuple[Counter, subprocess.Popen]:
    """Signals for so long; how many of each kind came, and how many of them in a save."""
    shots: Counter = Counter()
    launcher, end = start(folder, "shot"), time.monotonic() + 60 * minutes
    seen = -1
    while time.monotonic() < end:
        if launcher.poll() is not None:
            shots["starts again"] += 1
            launcher = start(folder, "shot")
        now = max(losses(folder, "shot"), default=-1)
        if now == seen:  # it must come on between two shots, or it would be a test of start-up
            time.sleep(0.5)
            continue
        seen = now
        until = time.monotonic() + draw.uniform(0.0, 10.0)
        saving = draw.random() < 0.5
        while time.monotonic() < until or (saving and time.monotonic() < until + 20.0):
            if saving and any((folder / "shot").glob("*.part")):
                break
            time.sleep(0.002)
        victims = ranks_of(launcher)
        if len(victims) < RANKS:
            continue
        kind = draw.choice(KINDS)
        pid = launcher.pid if kind == "TERM" else draw.choice(victims)
        shots[kind] += 1
        shots["in a save"] += any((folder / "shot").glob("*.part"))
        os.kill(pid, getattr(signal, f"SIG{kind}"))
        time.sleep(1.0)
        seen = max(losses(folder, "shot"), default=-1)
    return shots, launcher


def finish(folder: Path, run: str, steps: int) -> None:
    """Lets `run` go on undisturbed until it has made `steps`, then ends it by SIGTERM."""
    launcher = start(folder, run)
    while max(losses(folder, run), default=0) < steps:
        if launcher.poll() is not None:
            raise SystemExit(f"soak: {run} has ended; see {folder / run}.log")
        time.sleep(0.5)
    launcher.send_signal(signal.SIGTERM)
    launcher.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    began = time.monotonic()
    shots, launcher = shoot(folder, options.minutes, random.Random(options.seed))
    for pid in ranks_of(launcher):
        os.kill(pid, signal.SIGKILL)  # a stopped one hears nothing else
    launcher.kill()
    launcher.wait()
    steps = max(losses(folder, "shot"), default=0) + 10
    finish(folder, "shot", steps)
    finish(folder, "whole", steps)
    shot, whole = losses(folder, "shot"), losses(folder, "whole")
    other = [step for step in range(steps) if shot.get(step) != whole.get(step)]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "seed": options.seed,
        "minutes": options.minutes,
        "seconds": round(time.monotonic() - began),
        "steps": steps,
        "shots": dict(shots),
        "steps that differ": other,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    return 1 if other or not shots else 0


if __name__ == "__main__":
    sys.exit(main())
