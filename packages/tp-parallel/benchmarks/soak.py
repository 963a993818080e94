"""A run on four gloo ranks (tp 2, pp 2) that is shot at for minutes: its curve is the whole one's.

    python packages/tp-parallel/benchmarks/soak.py --minutes 20 --json FILE

At random times, half of them while a checkpoint is being written, a random rank gets SIGKILL or
SIGSTOP or the launcher SIGTERM. torchrun restarts the ranks; a launcher that has ended is started
again. When the time is up the run goes on undisturbed for some steps, and another one runs without
any signal or save until it has made as many steps or its own time is up. Losses in float64 must be
equal to the last bit, step by step, memory, descriptors and processes stay as they were, and no
process is left; the exit status says so. FILE is written anew after each shot, so that what was
seen is there however this ends.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import commit, machine
from soaking import SAMPLES, Sample, family, look, verdict

import tp_parallel

RANKS, TIMEOUT = 4, 15.0
KINDS = ("KILL", "STOP", "TERM")
CALM = 10  # steps without a shot, at the end
CALM_MINUTES = 4.0  # in which these must be made, a restart included
SHAPE = ["--layers", "2", "--hidden", "16", "--heads", "2", "--seq", "16", "--batch", "8",
         "--warmup", "2", "--eval-every", "0", "--log-every", "100000", "--steps",
         "1000000", "--dtype", "float64"]  # fmt: skip


class Record:
    """What was seen so far, on disk after each change."""

    def __init__(self, path: str | None, **first: object) -> None:
        self.path = Path(path) if path else None
        self.began = time.monotonic()
        self.values: dict[str, object] = {
            "benchmark": "soak", "date": datetime.date.today().isoformat(), "commit": commit(),
            "machine": machine(),
            "versions": {"tp-parallel": tp_parallel.__version__, "torch": torch.__version__},
            **first,
        }  # fmt: skip
        self.samples: list[Sample] = []
        self.shots = dict.fromkeys([*KINDS, "in a save", "starts again"], 0)

    def look(self, every: float) -> None:
        """A sample of this process and all below it, if the last is `every` seconds old."""
        seconds = time.monotonic() - self.began
        if not self.samples or seconds - self.samples[-1].seconds >= every:
            self.samples.append(look(os.getpid(), seconds))

    def write(self, **more: object) -> None:
        seconds = round(time.monotonic() - self.began)
        self.values |= {"seconds": seconds, "shots": self.shots, **more}
        if self.path is not None:
            aside = self.path.with_suffix(".part")
            aside.write_text(json.dumps(self.values, indent=1) + "\n")
            aside.replace(self.path)


class Run:
    """One training under torchrun; as a context, its processes end with it."""

    def __init__(self, folder: Path, name: str, save_every: int) -> None:
        self.folder, self.name, self.save_every = folder, name, save_every
        self.metrics, self.saves = folder / f"{name}.jsonl", folder / name
        self.launcher = self.start()

    def start(self) -> subprocess.Popen:
        launcher = ["--standalone", "--nproc-per-node", str(RANKS), "--max-restarts", "100000"]
        command = [sys.executable, "-m", "torch.distributed.run", *launcher, "-m",
                   "tp_parallel.pretrain", "--data", str(self.folder / "text.txt"), *SHAPE,
                   "--tp", "2", "--pp", "2", "--save", str(self.saves), "--save-every",
                   str(self.save_every), "--keep", "3", "--timeout", str(TIMEOUT), "--metrics",
                   str(self.metrics)]  # fmt: skip
        with (self.folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.launcher.poll() is None:
            self.launcher.send_signal(signal.SIGSTOP)  # it must not start another rank meanwhile
        for pid in (*self.ranks(), self.launcher.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.launcher.wait()

    def ranks(self) -> list[int]:
        """Processes of the ranks: the launcher's children."""
        children = Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children")
        with suppress(OSError):
            return [int(number) for number in children.read_text().split()]
        return []

    def saving(self) -> bool:
        return any(self.saves.glob("*.part"))

    def losses(self) -> dict[int, float]:
        """The last loss of each step; a line that a kill has cut is no line."""
        found = {}
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        for line in lines:
            with suppress(ValueError):
                row = json.loads(line)
                found[row["step"]] = row["loss"]
        return found

    def steps(self) -> int:
        return max(self.losses(), default=-1) + 1

    def reach(self, steps: int, minutes: float) -> bool:
        """Whether it makes `steps` steps in so long, started again where it has ended."""
        end = time.monotonic() + 60 * minutes
        while self.steps() < steps:
            if time.monotonic() > end:
                return False
            if self.launcher.poll() is not None:
                self.launcher = self.start()
            time.sleep(0.5)
        return True


def shoot(run: Run, minutes: float, draw: random.Random, record: Record) -> None:
    """Signals to `run` for so long, each counted in `record`."""
    end, seen = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        record.look(60 * minutes / SAMPLES)
        if run.launcher.poll() is not None:
            record.shots["starts again"] += 1
            run.launcher = run.start()
        if run.steps() == seen:  # it must come on between two shots, or only its start is tested
            time.sleep(0.5)
            continue
        now = time.monotonic()
        at, saving = now + draw.uniform(0.0, 10.0), draw.random() < 0.5
        last = min(end, at + 20.0 if saving else at)
        while time.monotonic() < last and not (saving and run.saving()):
            time.sleep(0.002)
        victims = run.ranks()
        if len(victims) < RANKS or time.monotonic() >= end:
            continue
        kind = draw.choice(KINDS)
        record.shots[kind] += 1
        record.shots["in a save"] += run.saving()
        pid = run.launcher.pid if kind == "TERM" else draw.choice(victims)
        with suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, f"SIG{kind}"))
        time.sleep(1.0)
        seen = run.steps()
        record.write(steps=seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="in which signals are sent")
    parser.add_argument("--rest", type=float, default=10.0, help="minutes of the undisturbed run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its processes end with it
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    record = Record(options.json, seed=options.seed, minutes=options.minutes)
    record.write(phase="under fire")
    with Run(folder, "shot", save_every=3) as run:
        shoot(run, options.minutes, random.Random(options.seed), record)
    record.write(phase="calm")
    with Run(folder, "shot", save_every=3) as run:
        steps = run.steps() + CALM
        calm = run.reach(steps, CALM_MINUTES)
        shot = run.losses()
    record.write(phase="the undisturbed run", steps=len(shot))
    with Run(folder, "whole", save_every=1_000_000) as run:
        run.reach(steps, options.rest)
        whole = run.losses()
    both = sorted(shot.keys() & whole.keys())
    other = [step for step in both if shot[step] != whole[step]]
    missing = [step for step in range(len(shot)) if step not in shot]
    facts, leaks = verdict(record.samples)
    left = len(family(os.getpid())) - 1
    record.write(**facts, **{"phase": "ended", "leaks": leaks, "processes left": left,
                             "went on after the last shot": calm, "steps": len(shot),
                             "steps compared": len(both), "steps that differ": other,
                             "steps that are missing": missing})  # fmt: skip
    print(json.dumps(record.values, indent=1))
    print(f"logs: {folder}")
    every = all(record.shots[kind] for kind in KINDS)
    kept = not other and not missing and not leaks and not left
    return 0 if calm and both and every and kept else 1


if __name__ == "__main__":
    sys.exit(main())
