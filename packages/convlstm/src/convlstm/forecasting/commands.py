"""The commands of `convlstm` that train models and use them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from . import data, metrics, models, pictures, rollout, training


def size_of(text: str) -> tuple[int, int]:
    """ "64x64" (height x width) or "64"."""
    parts = text.lower().split("x")
    try:
        sizes = [int(p) for p in parts]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or any(s < 1 for s in sizes):
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH, as 64x64; got {text!r}")
    return (sizes[0], sizes[-1])


def source_of(name: str, size: tuple[int, int], steps: int, channels: int) -> data.Source:
    """The source that a name means: digits, squares, or a path to the user's frames."""
    if name == "digits":
        digit = max(6, min(size) // 2)
        return data.MovingDigits(steps, size, digit=digit, colour=channels == 3)
    if name == "squares":
        if channels == 3:
            raise ValueError("train: squares are grey; use --data digits for --colour")
        return data.MovingSquares(steps, size)
    return data.Frames(data.load_frames(name, size, channels), steps)


def load_model(path: str) -> models.SequenceModel:
    """A model from a checkpoint (file or folder) or a Keras file."""
    if path.endswith((".keras", ".h5")):
        return models.load_keras(path)
    return training.load_checkpoint(path)


def model_size(model: models.SequenceModel) -> tuple[int, int]:
    h, w = model.input_shape[2:4]
    return (h or 32, w or 32)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", default="digits", metavar="SOURCE",
        help="digits (handwritten digits of scikit-learn, moving), squares, or the path of a "
        "folder of pictures, a GIF or a video (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of data and weights (default: 0)")


def add_train(commands) -> None:
    p = commands.add_parser(
        "train", help="train a next-frame model",
        description="Trains a model that predicts the next frame, and keeps checkpoints in OUT.",
        epilog="example: convlstm train --data digits --preset small --minutes 10 --out run",
    )  # fmt: skip
    add_data_arguments(p)
    p.add_argument("--out", required=True, help="folder of checkpoints and logs")
    p.add_argument("--preset", choices=sorted(models.PRESETS), default="small")
    p.add_argument("--size", type=size_of, help="frames as HEIGHTxWIDTH (default: the preset's)")
    p.add_argument("--filters", type=int, help="filters of each layer (default: the preset's)")
    p.add_argument("--colour", action="store_true", help="RGB: Conv2D head, one next frame")
    p.add_argument("--frames", type=int, default=12, help="frames of a sequence (default: 12)")
    p.add_argument(
        "--steps", type=int, help="updates (default: 1000, or as many as fit into --minutes)"
    )
    p.add_argument("--minutes", type=float, default=0, help="stop after so long in all (0: never)")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--lr", type=float, default=6e-3)
    p.add_argument(
        "--decay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let lr fall to a fiftieth over the steps or the minutes",
    )
    p.add_argument("--loss", choices=sorted(training.LOSSES), default="mse")
    p.add_argument("--optimizer", choices=["adam", "keras-adam"], default="adam")
    p.add_argument("--every", type=int, default=50, help="updates between validations")
    p.add_argument("--patience", type=int, default=0, help="validations without a better loss")
    p.add_argument("--tensorboard", action="store_true", help="write TensorBoard files to OUT")
    p.add_argument("--resume", action="store_true", help="go on from OUT's checkpoint")
    p.add_argument("--json", action="store_true", help="the result as JSON")
    p.set_defaults(run=run_train)


def run_train(a: argparse.Namespace) -> int:
    channels = 3 if a.colour else 1
    size = a.size or models.PRESETS[a.preset]["size"]
    torch.manual_seed(a.seed)
    if a.resume and (Path(a.out) / training.CHECKPOINT).exists():
        model = training.load_checkpoint(a.out)
        size = model_size(model)
    else:
        model = models.next_frame(a.preset, size=size, filters=a.filters, colour=a.colour)
    source = source_of(a.data, size, a.frames, channels)
    options = training.TrainOptions(
        steps=a.steps or (10**6 if a.minutes else 1000), batch=a.batch, lr=a.lr, loss=a.loss,
        optimizer=a.optimizer, seed=a.seed,
        every=a.every, patience=a.patience, seconds=60 * a.minutes, decay=a.decay,
    )  # fmt: skip
    trainer = training.Trainer(model, source, options, a.out, a.tensorboard)
    if a.resume and not trainer.resume():
        print(f"train: {a.out} has no checkpoint; starting anew", file=sys.stderr)
    progress = trainer.run()
    last = trainer.history[-1] if trainer.history else {}
    result = {"steps": progress.step, "seconds": round(progress.seconds, 1)}
    result |= {"stopped_early": progress.stopped, **last}
    print(json.dumps(result) if a.json else _lines(result))
    return 0


def add_predict(commands) -> None:
    p = commands.add_parser(
        "predict", help="forecast held-out sequences; metrics and a PNG strip",
        description="Forecasts held-out sequences and prints metrics beside two baselines: the "
        "last frame copied, and the last frame moved on by its measured motion.",
    )  # fmt: skip
    _add_forecast_arguments(p)
    p.add_argument("--count", type=int, default=32, help="sequences (default: 32)")
    p.add_argument("--strip", metavar="FILE.png", help="write truth and forecast side by side")
    p.add_argument("--json", action="store_true", help="the metrics as JSON")
    p.set_defaults(run=run_predict)


def add_gif(commands) -> None:
    p = commands.add_parser(
        "gif", help="write a GIF of a forecast beside the truth",
        description="Writes an animated GIF of one held-out sequence: truth beside forecast.",
    )  # fmt: skip
    _add_forecast_arguments(p)
    p.add_argument("--out", required=True, metavar="FILE.gif")
    p.add_argument("--number", type=int, default=0, help="which sequence (default: 0)")
    p.set_defaults(run=run_gif)


def _add_forecast_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", help="a checkpoint (folder or file), or a .keras or .h5 file")
    add_data_arguments(p)
    p.add_argument("--given", type=int, default=8, help="frames that the model sees (default: 8)")
    p.add_argument("--steps", type=int, default=4, help="frames to forecast (default: 4)")


def forecast_held_out(model: models.SequenceModel, a: argparse.Namespace, count: int, number: int):
    """(given, truth, forecast), each (B, T, H, W, C)."""
    source = source_of(a.data, model_size(model), a.given + a.steps, model.input_shape[-1])
    x = torch.from_numpy(source.batch(a.seed, number, count, held_out=True))
    given, truth = x[:, : a.given], x[:, a.given :]
    return given, truth, rollout.forecast(model, given, a.steps)


def run_predict(a: argparse.Namespace) -> int:
    model = load_model(a.model)
    given, truth, predicted = forecast_held_out(model, a, a.count, 1)
    rows = {
        "model": predicted,
        "last frame copied": rollout.copy_last(given, a.steps),
        "last frame moved on": rollout.shift_last(given, a.steps),
    }
    result = {name: metrics.all_metrics(frames, truth) for name, frames in rows.items()}
    if a.strip:
        write_strip(a.strip, given[0], truth[0], {k: v[0] for k, v in rows.items()})
    if a.json:
        print(json.dumps(result))
        return 0
    names = list(result["model"])
    print(f"{'':22}" + "".join(f"{n:>10}" for n in names))
    for name, values in result.items():
        print(f"{name:22}" + "".join(f"{values[n]:10.3f}" for n in names))
    return 0


def write_strip(path, given, truth, rows) -> None:
    """A PNG of one sequence: truth above each row of forecasts."""
    shown = min(4, len(given))
    whole = np.concatenate([given[-shown:].numpy(), truth.numpy()])
    columns = [f"t-{shown - 1 - k}" if k < shown - 1 else "t" for k in range(shown)]
    columns += [f"t+{k + 1}" for k in range(len(truth))]
    pictures.strip(
        {"truth": whole, **{k: v.numpy() for k, v in rows.items()}}, columns, path, split=shown
    )


def run_gif(a: argparse.Namespace) -> int:
    model = load_model(a.model)
    given, truth, predicted = forecast_held_out(model, a, 1, a.number)
    panels = {"truth": torch.cat([given, truth], 1), "model": torch.cat([given, predicted], 1)}
    pictures.gif({k: v[0].numpy() for k, v in panels.items()}, a.out, given=a.given)
    print(a.out)
    return 0


def add_export(commands) -> None:
    p = commands.add_parser(
        "export", help="write a checkpoint as a Keras file",
        description="Writes the model of a checkpoint as .keras, .h5 or .weights.h5.",
    )  # fmt: skip
    p.add_argument("model", help="a checkpoint (folder or file), or a .keras or .h5 file")
    p.add_argument("out", help="FILE.keras, FILE.h5 or FILE.weights.h5")
    p.set_defaults(run=run_export)


def run_export(a: argparse.Namespace) -> int:
    models.save_keras(load_model(a.model), a.out)
    print(a.out)
    return 0


def add_import(commands) -> None:
    p = commands.add_parser(
        "import-keras", help="turn a Keras model into a checkpoint",
        description="Reads a .keras or legacy .h5 model and writes a checkpoint that the other "
        "commands take.",
    )  # fmt: skip
    p.add_argument("file", help="FILE.keras or FILE.h5")
    p.add_argument("out", help="folder of the checkpoint")
    p.set_defaults(run=run_import)


def run_import(a: argparse.Namespace) -> int:
    model = models.load_keras(a.file)
    trainer = training.Trainer(model, data.MovingSquares(), training.TrainOptions(), a.out)
    trainer.save()
    print(f"{a.out}: {len(model.layers)} layers, {models.parameter_count(model):,} parameters")
    return 0


def _lines(result: dict) -> str:
    return "\n".join(
        f"{k:14} {v:.6g}" if isinstance(v, float) else f"{k:14} {v}" for k, v in result.items()
    )
