"""Trains a next-frame model on moving handwritten digits and forecasts digits it has never seen."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from convlstm import data, forecasting, metrics, models, pictures, train

SIZE, FRAMES, GIVEN, AHEAD = (24, 24), 9, 8, 4
CODE = """import convlstm

model = convlstm.next_frame("small", size=(24, 24), filters=12)   # ConvLSTM2d x 2 + Conv3D
# in the shell: convlstm train --data digits --size 24x24 --filters 12 --out run
#               convlstm gif run --out forecast.gif
frames = convlstm.forecast(model, x, steps=4)                      # x: (B, T, 24, 24, 1)
convlstm.save_keras(model, "digits.keras")                         # Keras opens it"""


def trained(seconds: float) -> tuple[models.SequenceModel, train.Trainer]:
    source = data.MovingDigits(FRAMES, SIZE, digit=12)
    torch.manual_seed(0)
    model = models.next_frame("small", size=SIZE, filters=12)
    options = train.TrainOptions(
        steps=1500, batch=4, lr=6e-3, loss="mse", every=50, seconds=seconds, decay=True
    )
    trainer = train.Trainer(model, source, options)
    trainer.run()
    return model.eval(), trainer


def draw(out: Path, given, truth, rows) -> None:
    columns = [f"t-{3 - k}" if k < 3 else "t" for k in range(4)]
    columns += [f"t+{k + 1}" for k in range(AHEAD)]
    whole = torch.cat([given[:, -4:], truth], 1)
    for k in range(2):
        pictures.strip(
            {"truth": whole[k].numpy(), **{n: v[k].numpy() for n, v in rows.items()}},
            columns, out / f"strip{k + 1}.png", split=4,
            title="Forecast of handwritten digits never seen in training",
        )  # fmt: skip
    panels = {
        "truth": torch.cat([given, truth], 1),
        "ConvLSTM": torch.cat([given, rows["ConvLSTM"]], 1),
    }
    pictures.gif({k: v[0].numpy() for k, v in panels.items()}, out / "forecast.gif", given=GIVEN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=45, help="of training (default: 45)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    model, trainer = trained(options.seconds)
    seconds = time.monotonic() - started
    print(f"trained {trainer.progress.step} steps in {seconds:.0f} s", file=sys.stderr)

    x = torch.from_numpy(
        data.MovingDigits(GIVEN + AHEAD, SIZE, digit=12).batch(1, 0, 64, held_out=True)
    )
    given, truth = x[:, :GIVEN], x[:, GIVEN:]
    rows = {
        "ConvLSTM": forecasting.forecast(model, given, AHEAD),
        "last frame": forecasting.copy_last(given, AHEAD),
        "moved on": forecasting.shift_last(given, AHEAD),
    }
    errors = {k: metrics.mse(v[:, :1], truth[:, :1]) for k, v in rows.items()}
    draw(options.out, given, truth, rows)
    keras_file = options.out / "digits.keras"
    models.save_keras(model, keras_file)
    error = (models.load_keras(keras_file)(given) - model(given)).abs().max().item()
    card = {
        "title": "convlstm",
        "summary": f"A ConvLSTM of {models.parameter_count(model):,} parameters, trained here for "
        f"{trainer.progress.step} steps ({seconds:.0f} s) on moving handwritten digits, forecasts "
        "digits that it has never seen; saved as a Keras file and read back.",
        "figures": [
            {"label": "next frame, squared error: model", "value": f"{errors['ConvLSTM']:.2f}"},
            {"label": "last frame copied", "value": f"{errors['last frame']:.2f}"},
            {"label": "last frame moved by its motion", "value": f"{errors['moved on']:.2f}"},
            {"label": "difference after the Keras file", "value": f"{error:.1g}"},
        ],
        "pictures": [
            {"file": "forecast.gif", "caption": "Eight frames given, four forecast in turn"},
            {"file": "strip1.png", "caption": "Truth, forecast and two baselines, frame by frame"},
            {"file": "strip2.png", "caption": "Another sequence"},
        ],
        "code": CODE,
    }  # fmt: skip
    (options.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
