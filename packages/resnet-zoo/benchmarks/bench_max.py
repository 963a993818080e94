"""`optimize(level="max")` beside torchvision eager (float32), ONNX Runtime and OpenVINO.

Each engine in a process of its own, interleaved; ResNet-18 and -50, batch 1 and 8, 1 and 2 threads,
float32 and bfloat16 (which ONNX Runtime has not on the CPU). An engine that is not installed is
left out; OpenVINO comes with the extra `bench`. Compiling takes long: `--only "resnet18, float32"`
measures a part, and the other cases of the --json file are kept.
"""

from __future__ import annotations

import importlib.util

from engines import Engine, built_alike, compare, facts, interleaved, keep_other_cases
from measure import Bench, Row

DTYPES = ("float32", "bfloat16")
CASES = [
    (model, dtype, batch, threads)
    for model in ("resnet18", "resnet50")
    for dtype in DTYPES
    for batch in (1, 8)
    for threads in (1, 2)
]


def _fast_rivals(rows: list[Row]) -> list[Row]:
    """Of each case the row of the fastest other inference engine."""
    best: dict[str, Row] = {}
    for row in rows:
        case, _, kind = row.case.rpartition(", ")
        if kind == "torchvision":
            continue
        if case not in best or row.peer["median_ms"] < best[case].peer["median_ms"]:
            best[case] = row
    return list(best.values())


def main() -> None:
    kinds = ["max", "torchvision", "onnxruntime", "openvino"]
    engines = {k: Engine(k) for k in kinds if k == "max" or importlib.util.find_spec(k)}
    versions = {name: v for engine in engines.values() for name, v in engine.versions.items()}
    bench = Bench("resnet-zoo max", "the engine named", versions=versions, repeats=6)
    for model, dtype, batch, threads in CASES:
        case = f"{model}, {dtype}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
        if not bench.wants(case):
            continue
        used = [k for k in engines if dtype == "float32" or k != "onnxruntime"]
        tolerance = 1e-3 if dtype == "float32" else 0.1
        asked = {"model": model, "batch": batch, "threads": threads, "dtype": dtype}
        built = built_alike(engines, used, case, tolerance, **asked)
        mine, *others = interleaved([engines[kind] for kind in used], bench.repeats)
        for kind, theirs in zip(used[1:], others, strict=True):
            bench.add(compare(f"{case}, {kind}", mine, theirs, built[0]["note"]))
    keep_other_cases(bench)
    for dtype in DTYPES:
        rows = [row for row in bench.rows if f", {dtype}," in row.case]
        if rows:
            eager = [row for row in rows if row.case.endswith("torchvision")]
            facts(bench, f"{dtype} beside torchvision eager float32", eager)
        if rivals := _fast_rivals(rows):
            facts(bench, f"{dtype} beside the fastest other engine", rivals)
    bench.finish()
    for engine in engines.values():
        engine.close()


if __name__ == "__main__":
    main()
