"""`optimize(level="fast")` in float32, without compiling, beside torchvision eager.

Each engine in a process of its own, interleaved; ResNet-18 and -50, batch 1 and 8, 1 and 2 threads.
"""

from __future__ import annotations

import math
import statistics

from engines import Engine, interleaved
from measure import Bench, Row

CASES = [(m, b, t) for t in (1, 2) for m in ("resnet18", "resnet50") for b in (1, 8)]


def main() -> None:
    peer, ours = Engine("torchvision"), Engine("fast")
    bench = Bench("resnet-zoo fast", "torchvision eager", versions=peer.versions, repeats=5)
    for model, batch, threads in CASES:
        case = f"{model}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
        if not bench.wants(case):
            continue
        built = [engine.build(model, batch, threads) for engine in (ours, peer)]
        for a, b in zip(built[0]["logits"], built[1]["logits"], strict=True):
            assert math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3), (case, a, b)
        mine, theirs = interleaved([ours, peer], bench.repeats)
        bench.add(
            Row(
                case,
                mine,
                theirs,
                theirs["median_ms"] / mine["median_ms"],
                theirs["cpu_ms"] / mine["cpu_ms"],
                built[0]["note"],
            )
        )
    if bench.rows:
        wall = statistics.geometric_mean(row.ratio for row in bench.rows)
        cpu = statistics.geometric_mean(row.cpu_ratio for row in bench.rows)
        bench.fact("geometric mean of the ratios", round(wall, 3))
        bench.fact("geometric mean of the ratios by CPU time", round(cpu, 3))
        bench.fact("smallest ratio by CPU time", round(min(r.cpu_ratio for r in bench.rows), 3))
    bench.finish()
    for engine in (peer, ours):
        engine.close()


if __name__ == "__main__":
    main()
