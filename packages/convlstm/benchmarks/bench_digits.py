"""The digit model: trained for some updates, then held-out digits beside two baselines.

One thread, so that CPU seconds are the time it takes on one idle core. With --out the run goes on
from its checkpoint, with the same bits as one that was never interrupted.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import machine

from convlstm import data, forecasting, metrics, models, train

SIZE, FRAMES, GIVEN, SEQUENCES = (32, 32), 12, 8, 256


def train_model(folder: Path, steps: int) -> tuple[models.SequenceModel, float]:
    """(model, CPU seconds of all runs so far)."""
    torch.manual_seed(0)
    model = models.next_frame("small", size=SIZE)
    options = train.TrainOptions(steps=steps, batch=4, lr=6e-3, loss="mse", every=25, decay=True)
    source = data.MovingDigits(FRAMES, SIZE, digit=16)
    trainer = train.Trainer(model, source, options, folder)
    trainer.resume()
    clock = folder / "cpu_seconds"
    before = float(clock.read_text()) if clock.exists() else 0.0
    started = time.process_time()

    def seconds() -> float:
        return before + time.process_time() - started

    try:
        trainer.run()
    finally:
        clock.write_text(str(seconds()))
    return model.eval(), seconds()


def errors(model) -> dict[str, dict[str, float]]:
    """Metrics of the next frame on held-out digits."""
    source = data.MovingDigits(GIVEN + 1, SIZE, digit=16)
    x = torch.from_numpy(source.batch(1, 0, SEQUENCES, held_out=True))
    given, truth = x[:, :GIVEN], x[:, GIVEN:]
    rows = {
        "model": forecasting.forecast(model, given, 1),
        "last frame copied": forecasting.copy_last(given, 1),
        "last frame moved by its motion": forecasting.shift_last(given, 1),
    }
    return {name: metrics.all_metrics(frames, truth) for name, frames in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result there as well")
    parser.add_argument("--quick", action="store_true", help="30 updates")
    parser.add_argument("--only", default="", help="ignored: there is one case")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="folder of the checkpoint")
    options = parser.parse_args()
    steps = 30 if options.quick else options.steps
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model, seconds = train_model(folder, steps)
    rows = errors(model)
    for name, values in rows.items():
        print(f"{name:32}" + "".join(f"{k} {v:9.3f}  " for k, v in values.items()))
    ratios = {n: v["mse"] / rows["model"]["mse"] for n, v in rows.items() if n != "model"}
    for name, ratio in ratios.items():
        print(f"mse, {name} / model: {ratio:.2f}")
    if options.json is not None:
        result = {
            "benchmark": "convlstm digit model",
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": {"torch": torch.__version__},
            "updates": steps,
            "parameters": models.parameter_count(model),
            "cpu_seconds_of_training": round(seconds, 1),
            "held_out_sequences": SEQUENCES,
            "metrics": rows,
            "mse_ratios": ratios,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
