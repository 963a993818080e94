"""`optimize(level="max")` in float32 beside torchvision eager, ONNX Runtime and OpenVINO.

Each engine in a process of its own, interleaved, 2 threads. An engine that is not installed is left
out. Compiling takes a minute or more; `--only "resnet18, batch 1"` runs one case.
"""

from __future__ import annotations

import importlib.util
import statistics

from engines import Engine, interleaved
from measure import Bench, Row

CASES = [(model, batch) for model in ("resnet18", "resnet50") for batch in (1, 8)]
THREADS = 2


def main() -> None:
    kinds = ["max", "torchvision", "onnxruntime", "openvino"]
    kinds = [k for k in kinds if k == "max" or importlib.util.find_spec(k)]
    engines = [Engine(kind) for kind in kinds]
    versions = {name: v for engine in engines for name, v in engine.versions.items()}
    bench = Bench("resnet-zoo max", "the engine named", versions=versions, repeats=5)
    ratios: dict[str, list[float]] = {}
    best: list[float] = []
    for model, batch in CASES:
        case = f"{model}, batch {batch}"
        if not bench.wants(case):
            continue
        notes = [engine.build(model, batch, THREADS)["note"] for engine in engines]
        mine, *others = interleaved(engines, bench.repeats)
        for kind, theirs in zip(kinds[1:], others, strict=True):
            ratio = theirs["median_ms"] / mine["median_ms"]
            ratios.setdefault(kind, []).append(ratio)
            cpu = theirs["cpu_ms"] / mine["cpu_ms"]
            bench.add(Row(f"{case}, {kind}", mine, theirs, ratio, cpu, notes[0]))
        rivals = [t["median_ms"] for k, t in zip(kinds[1:], others, strict=True) if k[0] == "o"]
        if rivals:
            best.append(min(rivals) / mine["median_ms"])
    for kind, values in ratios.items():
        bench.fact(f"geometric mean beside {kind}", round(statistics.geometric_mean(values), 3))
    if best:
        bench.fact("smallest ratio to the best other engine", round(min(best), 3))
    bench.finish()
    for engine in engines:
        engine.close()


if __name__ == "__main__":
    main()
