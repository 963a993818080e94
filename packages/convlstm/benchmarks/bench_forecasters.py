"""Forecasters of 8 frames from 8, each trained for equal CPU seconds of one thread.

The package's direct ConvLSTM, designs after SimVP and PredRNN, the next-frame ConvLSTM, and what
needs no training: the last frame, moved on, or carried along its flow. Moving digits and radar-like
cells.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from baseline_forecasters import PredRNNLike, SimVPLike
from measure import machine
from torch import Tensor, nn

from convlstm import data, forecasting, metrics, train

SIZE, GIVEN, AHEAD, SEQUENCES = (24, 24), 8, 8, 96
SETS: dict[str, Callable[[], data.Source]] = {
    "digits": lambda: data.MovingDigits(GIVEN + AHEAD, SIZE, digit=12),
    "radar-like": lambda: data.MovingCells(GIVEN + AHEAD, SIZE),
}
DIRECT = {"batch": 8, "lr": 2e-3, "curve": "cosine", "warmup": 100, "clip": 1.0}
# The next-frame model as `convlstm train` trains it.
STEP_BY_STEP = {"batch": 4, "lr": 6e-3}
MODELS: dict[str, tuple[Callable[[], nn.Module], dict]] = {
    "ConvLSTM, direct": (lambda: forecasting.forecaster(SIZE), DIRECT),
    "SimVP-like": (SimVPLike, DIRECT),
    "PredRNN-like": (PredRNNLike, DIRECT),
    "ConvLSTM, next frame": (
        lambda: forecasting.next_frame("small", size=SIZE, filters=12),
        STEP_BY_STEP,
    ),
}
# The rain rates of Shi et al. (2017, arXiv 1706.03458, section 4.2), by that paper's
# Z = 58.53 R^1.56 and as `MovingCells` scales dBZ.
THRESHOLDS = {
    f"csi {rate:g} mm/h": (10 * math.log10(58.53 * rate**1.56) + 10) / 70
    for rate in (0.5, 2, 5, 10, 30)
}
# Squared error alone blurs rain until it falls below every threshold.
LOSS = {"digits": "mse", "radar-like": "balanced"}


def trained(name: str, kind: str, seconds: float, steps: int = 10**6) -> tuple[nn.Module, dict]:
    """The model after so many CPU seconds (0: any) or updates of training, and how it went."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build, given = MODELS[name]
    model, source = build(), SETS[kind]()
    given = {**given, "loss": LOSS[kind]}
    options = train.TrainOptions(
        steps=steps, seconds=seconds, decay=True, every=10**6, seed=0, **given
    )
    trainer = train.Trainer(model, source, options, progress=False, clock=time.process_time)
    progress = trainer.run()
    facts = {"parameters": sum(p.numel() for p in model.parameters())}
    facts |= {"updates": progress.step, "cpu_seconds": round(progress.seconds, 1)}
    return model, facts


def held_out(kind: str) -> tuple[Tensor, Tensor]:
    """(given, truth) of sequences that nothing is trained on."""
    x = torch.from_numpy(SETS[kind]().batch(1, 0, SEQUENCES, held_out=True))
    return x[:, :GIVEN], x[:, GIVEN:]


def scores(forecast: Tensor, truth: Tensor, rain: bool) -> dict[str, list[float]]:
    """Every metric by lead time."""
    forecast = forecast.clamp(0, 1)
    found = {n: metrics.by_lead_time(f, forecast, truth) for n, f in metrics.METRICS.items()}
    found["ssim, Gaussian window"] = metrics.by_lead_time(metrics.ssim_gaussian, forecast, truth)
    for name, threshold in THRESHOLDS.items() if rain else ():
        found[name] = metrics.by_lead_time(
            lambda p, t, at=threshold: metrics.csi(p, t, at), forecast, truth
        )
    return {n: [round(v, 4) for v in values] for n, values in found.items()}


def measure(
    kind: str,
    only: str,
    seconds: float,
    updates: int,
    keep: Callable[[dict], None] = lambda rows: None,
) -> dict[str, dict]:
    """All rows of a set; `keep` gets those that there are after each model."""
    given, truth = held_out(kind)
    rows: dict[str, dict] = {}
    for name in MODELS:
        if only and only not in name:
            continue
        model, facts = trained(name, kind, seconds, updates)
        with torch.no_grad():
            forecast = forecasting.forecast(model, given, AHEAD)
        rows[name] = {**facts, **scores(forecast, truth, kind == "radar-like")}
        show(kind, name, rows[name])
        if kind == "radar-like":
            rows[f"{name}, matched"] = scores(forecasting.matched(forecast, given), truth, True)
            show(kind, f"{name}, matched", rows[f"{name}, matched"])
        keep(rows)
    for name, function in {
        "last frame": forecasting.copy_last,
        "last frame moved on": forecasting.shift_last,
        "optical flow": forecasting.advect_last,
    }.items():
        rows[name] = scores(function(given, AHEAD), truth, kind == "radar-like")
        show(kind, name, rows[name])
    return rows


def show(kind: str, name: str, row: dict) -> None:
    """MSE, SSIM and CSI at t+1, t+4 and t+8."""
    told = {k: [round(v[n], 3) for n in (0, 3, 7)] for k, v in row.items() if isinstance(v, list)}
    print(f"{kind:11} {name:30} {row.get('updates', 0):6} updates  {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result there as well")
    parser.add_argument("--quick", action="store_true", help="3 seconds of training each")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--data", choices=sorted(SETS), action="append", help="default: both")
    parser.add_argument("--seconds", type=float, default=180, help="of training each, CPU time")
    parser.add_argument(
        "--updates", type=int, help="so many each instead, however long they take on this processor"
    )
    options = parser.parse_args()
    seconds = 3 if options.quick else 0 if options.updates else options.seconds
    updates = options.updates or 10**6
    every: dict[str, dict] = {}

    def keep(kind: str, rows: dict) -> None:
        every[kind] = rows
        if options.json is not None:
            write(options.json, every, seconds)

    for kind in options.data or SETS:
        rows = measure(
            kind, options.only, seconds, updates, lambda rows, kind=kind: keep(kind, rows)
        )
        keep(kind, rows)


def write(path: Path, rows: dict[str, dict], seconds: float) -> None:
    result = {
        "benchmark": "convlstm forecasters",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {"torch": torch.__version__, "threads": "1"},
        "held_out_sequences": SEQUENCES,
        "cpu_seconds_of_training": seconds,
        "by lead time, t+1 to t+8": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
