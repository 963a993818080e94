"""Forecasts moving handwritten digits that were never seen, and radar-like rain cells."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from convlstm import data, forecasting, metrics, models, pictures, train

SIZE, GIVEN, AHEAD, SEQUENCES = (24, 24), 8, 8, 64
SOURCES = {
    "digits": data.MovingDigits(GIVEN + AHEAD, SIZE, digit=12),
    "cells": data.MovingCells(GIVEN + AHEAD, SIZE),
}
LOSS = {"digits": "mse", "cells": "balanced"}
RAIN = 0.5  # 25 dBZ, as MovingCells scales it
CODE = """import convlstm
from convlstm.forecasting import forecaster

model = forecaster((24, 24), given=8, ahead=8)      # a ConvLSTM reads, a U-Net draws
# in the shell: convlstm train --preset forecaster --size 24x24 --frames 16 --out run
#               convlstm gif run --out forecast.gif
frames = convlstm.forecast(model, x, steps=8)       # x: (B, 8, 24, 24, 1)
convlstm.save_keras(model, "digits.keras")          # Keras opens it"""


def trained(kind: str, seconds: float) -> tuple[models.GraphModel, int]:
    """(model, updates)."""
    torch.manual_seed(0)
    model = forecasting.forecaster(SIZE, given=GIVEN, ahead=AHEAD)
    options = train.TrainOptions(
        steps=10**6, seconds=seconds, decay=True, curve="cosine", batch=8, lr=2e-3, warmup=50,
        clip=1.0, loss=LOSS[kind], every=10**6,
    )  # fmt: skip
    clock = time.thread_time  # a busy machine takes longer, and learns as much
    progress = train.Trainer(model, SOURCES[kind], options, clock=clock).run()
    return model.eval(), progress.step


def forecasts(model, kind: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """(given, truth, forecasts by name) of held-out sequences."""
    x = torch.from_numpy(SOURCES[kind].batch(1, 0, SEQUENCES, held_out=True))
    given, truth = x[:, :GIVEN], x[:, GIVEN:]
    rows = {
        "ConvLSTM": forecasting.forecast(model, given, AHEAD).clamp(0, 1),
        "optical flow": forecasting.advect_last(given, AHEAD),
        "last frame": forecasting.copy_last(given, AHEAD),
    }
    return given, truth, rows


def draw(out: Path, kind: str, title: str, given, truth, rows) -> None:
    columns = ["t-1", "t"] + [f"t+{k + 1}" for k in range(AHEAD)]
    whole = torch.cat([given[:, -2:], truth], 1)
    pictures.strip(
        {"truth": whole[0].numpy(), **{n: v[0].numpy() for n, v in rows.items()}},
        columns, out / f"{kind}.png", split=2, title=title,
    )  # fmt: skip
    panels = {
        "truth": torch.cat([given, truth], 1),
        "ConvLSTM": torch.cat([given, rows["ConvLSTM"]], 1),
    }
    name = "forecast.gif" if kind == "digits" else f"{kind}.gif"
    pictures.gif({k: v[0].numpy() for k, v in panels.items()}, out / name, given=GIVEN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--seconds", type=float, default=50, help="of CPU time, training (default: 50)"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    scores: dict[str, list[list[float]]] = {}
    updates = {}
    started = time.monotonic()
    for kind, share, title in (
        ("digits", 0.6, "Forecast of handwritten digits never seen in training"),
        ("cells", 0.4, "Forecast of rain cells that drift, grow and decay"),
    ):
        model, updates[kind] = trained(kind, share * options.seconds)
        given, truth, rows = forecasts(model, kind)
        draw(options.out, kind, title, given, truth, rows)
        metric = metrics.mse if kind == "digits" else lambda p, t: metrics.csi(p, t, RAIN)
        scores[kind] = [metrics.by_lead_time(metric, v, truth) for v in rows.values()]
        if kind == "digits":
            keras_file = options.out / "digits.keras"
            models.save_keras(model, keras_file)
            same = forecasting.forecast(models.load_keras(keras_file), given, AHEAD)
            error = (same - forecasting.forecast(model, given, AHEAD)).abs().max().item()
            parameters = models.parameter_count(model)
        print(f"{kind}: {updates[kind]} updates", file=sys.stderr)
    seconds = time.monotonic() - started
    ours, flow, last = scores["digits"]
    rain, rain_flow, rain_last = scores["cells"]
    card = {
        "title": "convlstm",
        "summary": f"A ConvLSTM forecaster of {parameters:,} parameters, trained here for "
        f"{updates['digits']} updates on moving handwritten digits and for {updates['cells']} on "
        f"rain cells ({seconds:.0f} s in all), forecasts eight frames of sequences that it has "
        "never seen; saved as a Keras file and read back.",
        "figures": [
            {"label": "digits, squared error at t+4: model", "value": f"{ours[3]:.1f}"},
            {"label": "optical flow", "value": f"{flow[3]:.1f}"},
            {"label": "last frame copied", "value": f"{last[3]:.1f}"},
            {"label": "rain, hits of all (CSI) at t+4: model", "value": f"{rain[3]:.2f}"},
            {"label": "optical flow, rain", "value": f"{rain_flow[3]:.2f}"},
            {"label": "last frame copied, rain", "value": f"{rain_last[3]:.2f}"},
            {"label": "difference after the Keras file", "value": f"{error:.1g}"},
        ],
        "beside": {"result": "seed_model-2026-11-30.json", "case": "B 5, T 10, 40x40, inference"},
        "pictures": [
            {"file": "forecast.gif", "caption": "Eight frames given, eight forecast at once"},
            {"file": "digits.png", "caption": "Truth, forecast and two baselines, frame by frame"},
            {"file": "cells.gif", "caption": "Rain cells: truth and forecast"},
            {"file": "cells.png", "caption": "Cells that drift, grow and decay"},
        ],
        "code": CODE,
    }  # fmt: skip
    (options.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
