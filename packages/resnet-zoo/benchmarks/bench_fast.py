"""`optimize(level="fast")` in float32, without compiling, beside torchvision eager.

Each engine in a process of its own, interleaved; ResNet-18 and -50, batch 1 and 8, 1 and 2 threads.
`--only "resnet18"` measures a part; the other cases of the --json file are kept.
"""

from __future__ import annotations

import math

from engines import Engine, compare, facts, interleaved, keep_other_cases
from measure import Bench

CASES = [(m, b, t) for m in ("resnet18", "resnet50") for b in (1, 8) for t in (1, 2)]


def main() -> None:
    peer, ours = Engine("torchvision"), Engine("fast")
    bench = Bench("resnet-zoo fast", "torchvision eager", versions=peer.versions, repeats=9)
    for model, batch, threads in CASES:
        case = f"{model}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
        if not bench.wants(case):
            continue
        built = [engine.build(model, batch, threads) for engine in (ours, peer)]
        for a, b in zip(built[0]["logits"], built[1]["logits"], strict=True):
            assert math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3), (case, a, b)
        mine, theirs = interleaved([ours, peer], bench.repeats)
        bench.add(compare(case, mine, theirs, built[0]["note"]))
    keep_other_cases(bench)
    if bench.rows:
        facts(bench, "beside torchvision eager", bench.rows)
    bench.finish()
    for engine in (peer, ours):
        engine.close()


if __name__ == "__main__":
    main()
