"""Whether `optimize(engine="auto")` chooses the same ten times beside a busy core.

ResNet-18 and -50, batch 1, one thread and two; each choice is made in a process of its own, as a
user's would be. Only engines that are installed take part. "Equally fast" ones may rightly change
places: the times are kept with the choices.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

from engines import keep_other_cases, versions
from measure import Bench

CHOICES = 10
CHOOSE = """
import json, sys, torch, resnet_zoo
name, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = resnet_zoo.get_model(name).train()
with torch.no_grad():
    model(torch.randn(4, 3, 64, 64))
report = resnet_zoo.optimize(model.eval(), "fast", engine="auto").report
times = {trial.name: trial.milliseconds for trial in report.trials if trial.milliseconds}
print(json.dumps({"kept": report.kept, "times": times}))
"""


def choose(name: str, threads: int) -> dict:
    """What one process chooses, with the times it saw, in ms."""
    command = [sys.executable, "-c", CHOOSE, name, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    installed = versions("torch", "onnxruntime", "openvino")
    bench = Bench("resnet-zoo stable choice", "nobody", versions=installed)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for name in ("resnet18", "resnet50"):
            for threads in (1, 2):
                case = f"{name}, batch 1, {threads} threads"
                if not bench.wants(case):
                    continue
                begin = time.perf_counter()
                made = [choose(name, threads) for _ in range(CHOICES)]
                seconds = (time.perf_counter() - begin) / CHOICES
                counts = collections.Counter(each["kept"] for each in made)
                best = {
                    engine: round(min(m["times"].get(engine, float("inf")) for m in made), 2)
                    for engine in {engine for m in made for engine in m["times"]}
                }
                bench.fact(
                    f"{case}, beside a busy core",
                    {"kept": dict(counts), "least ms": best, "seconds each": round(seconds, 1)},
                )
    finally:
        busy.kill()
    keep_other_cases(bench)
    bench.finish()


if __name__ == "__main__":
    main()
