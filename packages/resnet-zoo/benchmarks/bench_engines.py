"""`optimize(level="fast")` beside every engine for the CPU, in one interleaved run, by CPU time.

torchvision eager, torch.compile with frozen weights, ONNX Runtime, OpenVINO, each in a process of
its own; ResNet-18 and -50, batch 1 and 8, one thread, float32, bfloat16 and int8 (beside `fast` in
float32). On a shared machine wall times say little: read the ratios by CPU time. `--huge` gives our
process huge pages (THP_MEM_ALLOC_ENABLE=1), `--no-compile` leaves out the one that takes minutes,
`--auto` holds what `engine="auto"` chose beside each engine that it chose from.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys

from engines import Engine, built_alike, compare, interleaved, keep_other_cases
from measure import Bench, Row


def _asked(option: str) -> bool:
    """Whether the command line has an option that measure does not know; takes it off."""
    there = option in sys.argv
    if there:
        sys.argv.remove(option)
    return there


HUGE, QUICKLY, AUTO = map(_asked, ("--huge", "--no-compile", "--auto"))
RIVALS = ("torchvision", *([] if QUICKLY else ["compile"]), "onnxruntime", "openvino")
CASES = [
    (model, dtype, batch)
    for dtype in ("float32", "bfloat16", "int8")
    for model in ("resnet18", "resnet50")
    for batch in (1, 8)
]


def named(model: str, dtype: str, batch: int) -> str:
    """The name of a case."""
    return f"{model}, {dtype}, batch {batch}"


def kinds(dtype: str, there: list[str]) -> list[str]:
    """Ours first, then those that have the dtype."""
    if AUTO:
        others = ("onnxruntime", "openvino") if dtype == "float32" else ("openvino",)
        return ["auto", "fast", *(kind for kind in others if kind in there)]
    if dtype == "int8":
        return ["int8", "fast"]
    return [
        kind
        for kind in ("fast", *RIVALS)
        if kind in ("fast", *there)
        and (dtype == "float32" or kind not in ("onnxruntime", "torchvision"))
    ]


def told(bench: Bench, label: str, rows: list[Row]) -> None:
    """Geometric mean and smallest of the ratios by CPU time."""
    if rows:
        ratios = [row.cpu_ratio for row in rows]
        mean = round(statistics.geometric_mean(ratios), 3)
        bench.fact(label, {"geometric mean": mean, "smallest": round(min(ratios), 3)})


def main() -> None:
    environment = {"THP_MEM_ALLOC_ENABLE": "1"} if HUGE else {}
    there = [k for k in RIVALS if k == "compile" or importlib.util.find_spec(k)]
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    needed = {k for m, d, b in CASES if only in named(m, d, b) for k in kinds(d, there)}
    engines = {
        kind: Engine(kind, environment if kind in ("auto", "fast", "int8") else {})
        for kind in ("auto", "fast", "int8", *there)
        if kind in needed
    }
    versions = {name: v for engine in engines.values() for name, v in engine.versions.items()}
    name = "resnet-zoo auto" if AUTO else "resnet-zoo engines"
    bench = Bench(name, "the engine named", versions=versions, repeats=8)
    for model, dtype, batch in CASES:
        case = named(model, dtype, batch)
        if not bench.wants(case) or (AUTO and dtype == "int8"):
            continue
        used = kinds(dtype, there)
        computed = "float32" if dtype == "int8" else dtype
        tolerance = 1e-3 if dtype == "float32" else 0.15
        asked = {"model": model, "batch": batch, "threads": 1, "dtype": computed}
        built = built_alike(engines, used, case, tolerance, **asked)
        mine, *others = interleaved([engines[kind] for kind in used], bench.repeats)
        for kind, theirs in zip(used[1:], others, strict=True):
            bench.add(compare(f"{case}, {kind}", mine, theirs, built[0]["note"]))
    keep_other_cases(bench)
    for dtype in ("float32", "bfloat16", "int8"):
        rows = [row for row in bench.rows if f", {dtype}," in row.case]
        for kind in ("fast", *RIVALS):
            told(bench, f"{dtype} beside {kind}", [r for r in rows if r.case.endswith(kind)])
        best: dict[str, Row] = {}
        for row in rows:
            case = row.case.rpartition(", ")[0]
            if row.case.endswith(("onnxruntime", "openvino", *(("fast",) if AUTO else ()))) and (
                case not in best or row.cpu_ratio < best[case].cpu_ratio
            ):
                best[case] = row
        told(bench, f"{dtype} beside the best other engine", list(best.values()))
    bench.fact("huge pages for our process", HUGE)
    bench.finish()
    for engine in engines.values():
        engine.close()


if __name__ == "__main__":
    main()
