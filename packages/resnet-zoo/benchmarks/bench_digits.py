"""Training on the first half of scikit-learn's digits; accuracy beside its SVC on the second."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[3] / "tools")]

import demo  # noqa: E402 (the demo next door has the data and the recipe)
from measure import Bench  # noqa: E402

from resnet_zoo.training import Recipe, train  # noqa: E402


def main() -> None:
    bench = Bench("resnet-zoo digits", "SVC (accuracy, not time)", repeats=1)
    learn, test, svc = demo.digits()
    accuracies: list[float] = []

    def run(seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe.preset("small", **demo.RECIPE, seed=seed)
            accuracies.append(train(learn, test, recipe, folder, progress=False).top1)

    for seed in range(1 if bench.options.quick else 2):
        bench.compare(f"training, seed {seed}", lambda s=seed: run(s), warmup=0, repeats=1)
    bench.fact("SVC, percent", round(svc, 2))
    bench.fact("ResNet, percent, for each seed", [round(value, 2) for value in accuracies])
    bench.finish()


if __name__ == "__main__":
    main()
