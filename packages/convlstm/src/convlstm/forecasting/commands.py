"""The commands of `convlstm` that train models and use them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..keras.exporting import export_onnx
from ..keras.h5 import is_hdf5
from . import (
    advection,
    data,
    ensembles,
    forecasters,
    losses,
    matching,
    metrics,
    models,
    pictures,
    rollout,
    training,
)


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


def source_of(
    name: str,
    size: tuple[int, int],
    steps: int,
    channels: int,
    scale: data.Scale | None = None,
) -> data.Source:
    """The source that a name means: digits, squares, cells, or a path to the user's frames.

    scale: that of the checkpoint, so that a forecast is of the quantity that was trained on."""
    if name == "digits":
        digit = max(6, min(size) // 2)
        return data.MovingDigits(steps, size, digit=digit, colour=channels == 3)
    if name == "cells":
        if channels == 3:
            raise ValueError("train: cells are grey; use --data digits for --colour")
        return data.MovingCells(steps, size)
    if name == "squares":
        if channels == 3:
            raise ValueError("train: squares are grey; use --data digits for --colour")
        return data.MovingSquares(steps, size)
    recordings, used = data.open_recordings(name, size, channels, scale=scale)
    return data.Frames(recordings, steps, used)


def load_model(path: str) -> models.KerasModel:
    """A model from a checkpoint (file or folder) or a Keras file."""
    named = path.lower().endswith((".keras", ".h5"))
    if named or (Path(path) / "saved_model.pb").exists() or is_hdf5(path):
        return models.load_keras(path)
    return training.load_checkpoint(path)


def model_size(model: models.KerasModel) -> tuple[int, int]:
    h, w = model.input_shape[2:4]
    return (h or 32, w or 32)


SOURCES = (
    "digits (handwritten digits of scikit-learn, moving), squares, cells (like a rain radar's), or "
    "the path of a folder of pictures, an array (.npy, .npz), a GIF, a video, or NetCDF and Zarr "
    "(file.nc::variable)"
)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", default="digits", metavar="SOURCE", help=f"{SOURCES} (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of data and weights (default: 0)")


# What makes a run what it is, with its defaults: a run that goes on takes them from its checkpoint.
RUN = {
    "data": "digits", "preset": "small", "size": None, "filters": None, "colour": False,
    "keras_example": False, "frames": 12,
}  # fmt: skip
TRAINING = {
    "seed": 0, "batch": 4, "lr": 6e-3, "decay": True, "loss": "mse", "optimizer": "adam",
    "every": 50, "patience": 0, "ahead": 4, "warmup": 0, "clip": 0.0, "rollout": 0,
    "curve": "linear", "accumulate": 1, "ema": 0.0,
}  # fmt: skip


def add_train(commands) -> None:
    p = commands.add_parser(
        "train", help="train a next-frame model",
        description="Trains a model that predicts the next frame, and keeps checkpoints in OUT: "
        "checkpoint.pt is the last state, best.pt that of the best validation. A validation "
        "forecasts held-out sequences frame by frame from what was given, as predict does. A run "
        "that goes on (--resume) takes the options of its checkpoint.",
        epilog="example: convlstm train --data digits --preset small --minutes 10 --out run",
    )  # fmt: skip
    defaults = {**RUN, **TRAINING}

    def add(name: str, about: str, **options) -> None:
        shown = defaults[name.replace("-", "_")]
        if shown not in (None, False, True):
            about += f" (default: {shown})"
        p.add_argument(f"--{name}", help=about, default=None, **options)

    p.add_argument("-o", "--out", required=True, help="folder of checkpoints and logs")
    add("data", SOURCES, metavar="SOURCE")
    add("seed", "of data and weights", type=int)
    add(
        "preset",
        "the model; forecaster: half of a sequence's frames from the other half, at once",
        choices=[FORECASTER, *sorted(models.PRESETS)],
    )
    add("size", "frames as HEIGHTxWIDTH (default: the preset's)", type=size_of)
    add("filters", "filters of each layer (default: the preset's)", type=int)
    add("colour", "RGB: Conv2D head, one next frame", action="store_true")
    add(
        "keras-example",
        "the head of Keras' example, which sees the frame that it predicts: its training numbers "
        "leak the answer, its forecasts are worse (seed and moving-mnist)",
        action="store_true",
    )
    add("frames", "frames of a sequence", type=int)
    p.add_argument(
        "--steps", type=int, help="updates (default: 1000, or as many as fit into --minutes)"
    )
    p.add_argument("--minutes", type=float, default=0, help="stop after so long in all (0: never)")
    add("batch", "sequences in an update", type=int)
    add("lr", "learning rate", type=float)
    add(
        "decay", "let lr fall to a fiftieth over the steps or the minutes",
        action=argparse.BooleanOptionalAction,
    )  # fmt: skip
    add("curve", "how lr falls with --decay", choices=sorted(training.CURVES))
    add("accumulate", "batches whose mean gradient makes one update", type=int)
    add("ema", "what the average of the weights keeps at an update; 0: no average", type=float)
    add("warmup", "updates over which lr rises from 0", type=int)
    add("clip", "largest norm of the gradients; 0: any", type=float)
    add("loss", "what is minimised", choices=sorted(training.LOSSES))
    add("optimizer", "torch's Adam, or with Keras' epsilon", choices=["adam", "keras-adam"])
    add("rollout", "frames that a training forecast runs on its own output", type=int)
    add("ahead", "frames that a validation forecasts", type=int)
    add("every", "updates between validations", type=int)
    add("patience", "validations without a better forecast before it stops; 0: never", type=int)
    p.add_argument("--tensorboard", action="store_true", help="write TensorBoard files to OUT")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--resume", action="store_true", help="go on from OUT's checkpoint")
    which.add_argument("--overwrite", action="store_true", help="start anew in place of OUT's run")
    p.add_argument("--json", action="store_true", help="the result as JSON")
    p.set_defaults(run=run_train)


FORECASTER = "forecaster"


def _new_model(run: dict[str, Any]) -> models.KerasModel:
    """The model of a run's facts (RUN)."""
    if run["preset"] != FORECASTER:
        return models.next_frame(
            run["preset"], size=run["size"], filters=run["filters"], colour=run["colour"],
            keras_example=run["keras_example"],
        )  # fmt: skip
    if run["keras_example"]:
        raise ValueError("train: --keras-example is of seed and moving-mnist, not of forecaster")
    ahead = run["frames"] // 2
    return forecasters.forecaster(
        run["size"], given=run["frames"] - ahead, ahead=ahead,
        channels=3 if run["colour"] else 1, filters=run["filters"] or 16,
    )  # fmt: skip


def _said(a: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {n: getattr(a, n) for n in names if getattr(a, n) is not None}


def _require_folder(name: str, out: str) -> None:
    """Raises NotADirectoryError, before work begins, where `out` cannot be a folder."""
    held = next((p for p in (Path(out), *Path(out).parents) if p.exists()), None)
    if held is not None and not held.is_dir():
        raise NotADirectoryError(f"{name}: out must be a folder, got {out}: {held} is a file")


def run_train(a: argparse.Namespace) -> int:
    _require_folder("train", a.out)
    said, said_training = _said(a, RUN), _said(a, TRAINING)
    kept = None
    if a.resume and (Path(a.out) / training.CHECKPOINT).exists():
        kept = training.read_checkpoint(a.out)
        model = training.load_checkpoint(a.out)
        run = {**RUN, "size": model_size(model), **kept.get("run", {})}
        run["size"] = tuple(run["size"])
        kept_training = {k: v for k, v in kept.get("options", {}).items() if k in TRAINING}
        free = {"every", "patience"}
        training.refuse_other_options({**said, **said_training}, {**run, **kept_training}, free)
        options = {
            **TRAINING,
            **kept_training,
            **{k: said_training[k] for k in free & set(said_training)},
        }
    else:
        run, options = {**RUN, **said}, {**TRAINING, **said_training}
        plan = models.PRESETS.get(run["preset"], {"size": (32, 32)})
        run["size"] = run["size"] or plan["size"]
        torch.manual_seed(options["seed"])
        model = _new_model(run)
    channels = 3 if run["colour"] else 1
    scale = getattr(model, "scale", None)
    source = source_of(run["data"], run["size"], run["frames"], channels, scale)
    steps = a.steps if a.steps is not None else (10**6 if a.minutes else 1000)
    trainer = training.Trainer(
        model, source, training.TrainOptions(steps=steps, seconds=60 * a.minutes, **options),
        a.out, a.tensorboard, run=run, overwrite=a.overwrite,
    )  # fmt: skip
    leaks = models.sees_ahead(model)
    if leaks:
        print(
            f"train: {', '.join(leaks)} sees the frame that it is to predict: the training loss "
            "leaks the answer; the validation is a forecast and does not",
            file=sys.stderr,
        )
    if a.resume and not trainer.resume():
        print(f"train: {a.out} has no checkpoint; starting anew", file=sys.stderr)
    progress = trainer.run()
    last = trainer.history[-1] if trainer.history else {}
    result: dict[str, Any] = {"steps": progress.step, "seconds": round(progress.seconds, 1)}
    result |= {"stopped_early": progress.stopped, "sees_ahead": leaks, **last}
    print(json.dumps(result) if a.json else _lines(result))
    return 0


def add_predict(commands) -> None:
    p = commands.add_parser(
        "predict", help="forecast held-out sequences; metrics and a PNG strip",
        description="Forecasts held-out sequences and prints metrics beside three baselines: "
        "the last frame copied, moved on by its measured motion, and carried along its optical "
        "flow.",
    )  # fmt: skip
    _add_forecast_arguments(p)
    p.add_argument("--count", type=int, default=32, help="sequences (default: 32)")
    p.add_argument("--strip", metavar="FILE.png", help="write truth and forecast side by side")
    p.add_argument(
        "--members",
        type=int,
        default=0,
        help="also an ensemble of so many forecasts: CRPS, spread and the mean's MSE by lead time",
    )
    p.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="of the ensemble: Gaussian noise on the given frames, beside the model's dropout",
    )
    p.add_argument(
        "--matched",
        action="store_true",
        help="also the forecast with the last frame's values by rank: keeps strong rain",
    )
    p.add_argument("--json", action="store_true", help="the metrics as JSON")
    p.set_defaults(run=run_predict)


def add_gif(commands) -> None:
    p = commands.add_parser(
        "gif", help="write a GIF or an MP4 of a forecast beside the truth",
        description="Writes one held-out sequence, truth beside forecast, as a GIF or (with PyAV) "
        "an MP4, by the ending of FILE.",
    )  # fmt: skip
    _add_forecast_arguments(p)
    p.add_argument("-o", "--out", required=True, metavar="FILE", help="FILE.gif or FILE.mp4")
    p.add_argument("--number", type=int, default=0, help="which sequence (default: 0)")
    p.set_defaults(run=run_gif)


def _add_forecast_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", help="a checkpoint (folder or file), or a .keras or .h5 file")
    add_data_arguments(p)
    p.add_argument("--given", type=int, default=8, help="frames that the model sees (default: 8)")
    p.add_argument("--steps", type=int, default=4, help="frames to forecast (default: 4)")


def forecast_held_out(model: models.KerasModel, a: argparse.Namespace, count: int, number: int):
    """(given, truth, forecast), each (B, T, H, W, C)."""
    scale = getattr(model, "scale", None)
    channels = model.input_shape[-1]
    for name in ("given", "steps"):
        if getattr(a, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(a, name)}")
    source = source_of(a.data, model_size(model), a.given + a.steps, channels, scale)
    x = torch.from_numpy(source.batch(a.seed, number, count, held_out=True))
    given, truth = losses.filled(x[:, : a.given]), x[:, a.given :]
    return given, truth, rollout.forecast(model, given, a.steps)


def run_predict(a: argparse.Namespace) -> int:
    if a.noise and not a.members:
        raise ValueError("--noise is of an ensemble: give --members too")
    if a.count < 1:
        raise ValueError(f"--count must be at least 1, got {a.count}")
    model = load_model(a.model)
    given, truth, predicted = forecast_held_out(model, a, a.count, 1)
    rows = {
        "model": predicted,
        "last frame copied": rollout.copy_last(given, a.steps),
        "last frame moved on": rollout.shift_last(given, a.steps),
        "optical flow": advection.advect_last(given, a.steps),
    }
    if a.matched:
        rows["model, matched"] = matching.matched(predicted, given)
    result: dict[str, dict] = {}
    for name, frames in rows.items():
        known = torch.where(truth.isnan(), frames, truth)  # a missing pixel counts as right
        result[name] = metrics.all_metrics(frames, known)
        result[name]["mse_by_lead"] = metrics.by_lead_time(metrics.mse, frames, known)
    if a.members:
        found = ensembles.ensemble(model, given, a.steps, a.members, noise=a.noise, seed=a.seed)
        known = torch.where(truth.isnan(), found.mean(0), truth)
        result["ensemble"] = _ensemble_scores(found, known)
    if a.strip:
        write_strip(a.strip, given[0], truth[0], {k: v[0] for k, v in rows.items()})
    if a.json:
        print(json.dumps(result))
        return 0
    names = [n for n in metrics.METRICS if n in result["model"]]
    print(f"{'':22}" + "".join(f"{n:>10}" for n in names))
    for name in rows:
        print(f"{name:22}" + "".join(f"{result[name][n]:10.3f}" for n in names))
    for name, by_lead in result.get("ensemble", {}).items():
        print(f"{'ensemble, ' + name:22}" + "".join(f"{v:10.4f}" for v in by_lead))
    return 0


def _ensemble_scores(members: torch.Tensor, truth: torch.Tensor) -> dict[str, list[float]]:
    """CRPS, spread and the mean's MSE by lead time."""
    steps = [(members[:, :, k : k + 1], truth[:, k : k + 1]) for k in range(truth.shape[1])]
    return {
        "crps": [metrics.crps(m, t) for m, t in steps],
        "spread": [metrics.spread(m) for m, _ in steps],
        "mse of the mean": metrics.by_lead_time(metrics.mse, members.mean(0), truth),
    }


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
    pictures.animation({k: v[0].numpy() for k, v in panels.items()}, a.out, given=a.given)
    print(a.out)
    return 0


def add_export(commands) -> None:
    p = commands.add_parser(
        "export", help="write a checkpoint as a Keras file or as ONNX",
        description="Writes the model of a checkpoint as .keras, .h5 or .weights.h5, or as .onnx "
        "for any number of sequences and (but for forecasters) of frames.",
    )  # fmt: skip
    p.add_argument("model", help="a checkpoint (folder or file), or a .keras or .h5 file")
    p.add_argument("out", help="FILE.keras, FILE.h5, FILE.weights.h5 or FILE.onnx")
    p.set_defaults(run=run_export)


def run_export(a: argparse.Namespace) -> int:
    model = load_model(a.model)
    if a.out.endswith(".onnx"):
        shape = [n or 8 for n in model.input_shape[1:]]
        free = not rollout.horizon(model)
        export_onnx(model, torch.zeros(1, *shape), a.out, dynamic_steps=free, verbose=False)
    else:
        models.save_keras(model, a.out)
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
    p.add_argument("--overwrite", action="store_true", help="in place of a run that is there")
    p.set_defaults(run=run_import)


def run_import(a: argparse.Namespace) -> int:
    _require_folder("import-keras", a.out)
    model = models.load_keras(a.file)
    trainer = training.Trainer(
        model, data.MovingSquares(), training.TrainOptions(), a.out, overwrite=a.overwrite
    )
    trainer.save()
    print(f"{a.out}: {len(model.layers)} layers, {models.parameter_count(model):,} parameters")
    return 0


def _lines(result: dict) -> str:
    return "\n".join(f"{k:14} {_shown(v)}" for k, v in result.items())


def _shown(value: object) -> str:
    """Numbers to six digits, a list's items one beside the other."""
    if isinstance(value, list):
        return " ".join(_shown(v) for v in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
