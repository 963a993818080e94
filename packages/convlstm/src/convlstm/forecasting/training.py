"""Training of next-frame models, with checkpoints from which a run goes on as if never stopped."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .._files import replacing
from ..keras.optim import KerasAdam
from .data import Source
from .models import SequenceModel, from_config

CHECKPOINT = "checkpoint.pt"


@dataclass
class TrainOptions:
    """How to train.

    steps: updates in all. batch: sequences in each. loss: "mae", "mse" or "bce" (metric is MAE
    always). optimizer: "adam" is torch's, "keras-adam" has Keras' epsilon. every: updates between
    validations, checkpoints and log lines. patience: validations without a better loss before
    training stops early; 0 never stops. seconds: stop after so much training in all, with what ran
    before a resume; 0 never. decay: lr falls to a fiftieth in a straight line over the steps, or
    over the seconds where those end sooner.
    """

    steps: int = 1000
    batch: int = 8
    lr: float = 1e-3
    loss: str = "mae"
    optimizer: str = "adam"
    seed: int = 0
    every: int = 50
    validation: int = 16
    patience: int = 0
    seconds: float = 0.0
    decay: bool = False

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(
                f"TrainOptions: loss must be one of {', '.join(LOSSES)}: {self.loss!r}"
            )
        if self.optimizer not in ("adam", "keras-adam"):
            raise ValueError(
                f'TrainOptions: optimizer must be "adam" or "keras-adam", got {self.optimizer!r}'
            )
        for name in ("steps", "batch", "every", "validation"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"TrainOptions: {name} must be at least 1, got {getattr(self, name)}"
                )


def _bce(prediction: Tensor, truth: Tensor) -> Tensor:
    # Keras clips probabilities at its epsilon.
    return F.binary_cross_entropy(prediction.clamp(1e-7, 1 - 1e-7), truth)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": F.l1_loss,
    "mse": F.mse_loss,
    "bce": _bce,
}


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    best: float = float("inf")
    stale: int = 0
    stopped: bool = False
    seconds: float = 0.0


class Trainer:
    """Trains `model` on `source`; with `folder`, keeps checkpoints there and goes on from them.

    A batch depends on the seed and its number alone, and checkpoints hold weights, optimizer
    state, torch's random state and progress: a run that was cut off and resumed ends with the
    same bits as one that was not.
    """

    def __init__(
        self,
        model: SequenceModel,
        source: Source,
        options: TrainOptions,
        folder: str | os.PathLike[str] | None = None,
        tensorboard: bool = False,
        bar: bool | None = None,
    ) -> None:
        self.model, self.source, self.options = model, source, options
        self.folder = None if folder is None else Path(folder)
        self.progress = Progress()
        kind = torch.optim.Adam if options.optimizer == "adam" else KerasAdam
        self.optimizer = kind(model.parameters(), lr=options.lr)
        self.loss = LOSSES[options.loss]
        self.bar = sys.stderr.isatty() if bar is None else bar
        self.history: list[dict[str, float]] = []
        self._board = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        if tensorboard:
            self._board = _summary_writer(self.folder)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _pair(self, number: int, size: int, held_out: bool) -> tuple[Tensor, Tensor]:
        """Frames and the frames after them; for colour models the one frame after the last."""
        frames = self.source.batch(self.options.seed, number, size, held_out)
        x = torch.from_numpy(frames).to(self.device)
        one = self.model.layers[-1].keras_class == "Conv2D"
        return x[:, :-1], (x[:, -1] if one else x[:, 1:])

    def run(self) -> Progress:
        """Trains to the end of the options' steps (or seconds, or patience)."""
        o, p = self.options, self.progress
        started = time.monotonic() - p.seconds
        if p.step == 0:
            torch.manual_seed(o.seed)
        self.model.train()
        total = 0.0
        while p.step < o.steps and not p.stopped and not (o.seconds and p.seconds >= o.seconds):
            self._set_rate(p.seconds)
            loss = self.update()
            p.seconds = time.monotonic() - started
            total += loss
            self._show(loss, started)
            if p.step % o.every == 0 or p.step == o.steps:
                self._validate(total / ((p.step - 1) % o.every + 1))
                total = 0.0
                self.save()
        self._show_end()
        if p.step % o.every:
            self.save()
        if self._board is not None:
            self._board.close()
        return p

    def _set_rate(self, seconds: float) -> None:
        o = self.options
        if o.decay:
            done = self.progress.step / o.steps
            if o.seconds:
                done = max(done, min(1.0, seconds / o.seconds))
            for group in self.optimizer.param_groups:
                group["lr"] = o.lr * max(0.02, 1 - done)

    def update(self) -> float:
        """One update; returns its loss."""
        x, y = self._pair(self.progress.step, self.options.batch, False)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.progress.step += 1
        value = loss.item()
        if value != value:
            raise RuntimeError(
                f"train: the loss is not a number at step {self.progress.step}; lower lr "
                f"({self.options.lr})"
            )
        return value

    def _validate(self, train_loss: float) -> None:
        o, p = self.options, self.progress
        x, y = self._pair(0, o.validation, True)
        self.model.eval()
        with torch.no_grad():
            prediction = self.model(x)
            loss = self.loss(prediction, y).item()
            mae = F.l1_loss(prediction, y).item()
        self.model.train()
        if loss < p.best:
            p.best, p.stale = loss, 0
        else:
            p.stale += 1
        p.stopped = bool(o.patience) and p.stale >= o.patience
        row = {"step": p.step, "loss": train_loss, "val_loss": loss, "val_mae": mae}
        self.history.append(row)
        if self._board is not None:
            for name in ("loss", "val_loss", "val_mae"):
                self._board.add_scalar(name, row[name], p.step)
        if self.folder is not None:
            with open(self.folder / "history.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    # Checkpoints

    def save(self) -> None:
        """Writes the checkpoint (beside the old one, then in its place)."""
        if self.folder is None:
            return
        state = {
            "model": json.dumps(self.model.keras_config()),
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "progress": asdict(self.progress),
            "options": asdict(self.options),
        }
        with replacing(self.folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)

    def resume(self) -> bool:
        """Goes on from the folder's checkpoint; False where there is none."""
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return False
        state = read_checkpoint(self.folder)
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.progress = Progress(**state["progress"])
        self.progress.stopped = False
        return True

    # Progress

    def _show(self, loss: float, started: float) -> None:
        if not self.bar:
            return
        o, p = self.options, self.progress
        seconds = time.monotonic() - started
        done = int(30 * p.step / o.steps)
        val = f"  val mae {self.history[-1]['val_mae']:.4f}" if self.history else ""
        line = f"\r[{'#' * done}{'.' * (30 - done)}] {p.step}/{o.steps}  {seconds:4.0f} s  {o.loss} {loss:.4f}{val} "  # noqa: E501
        print(line, end="", file=sys.stderr, flush=True)

    def _show_end(self) -> None:
        if self.bar:
            print(file=sys.stderr)


def _summary_writer(folder: Path | None):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RuntimeError(
            "train: TensorBoard is not installed: pip install tensorboard, or train without it"
        ) from None
    return SummaryWriter(None if folder is None else str(folder / "tensorboard"))


def read_checkpoint(path: str | os.PathLike[str]) -> dict:
    """The contents of a checkpoint file, or of the one in a folder.

    Raises FileNotFoundError, or ValueError for a damaged file.
    """
    path = Path(path)
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"read_checkpoint: there is no {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"model", "weights", "optimizer", "random", "progress"} - set(state)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise ValueError(f"read_checkpoint: {path} is no checkpoint, or damaged: {error}") from None
    if missing:
        raise ValueError(f"read_checkpoint: {path} lacks {', '.join(sorted(missing))}")
    return state


def load_checkpoint(path: str | os.PathLike[str]) -> SequenceModel:
    """The model of a checkpoint, with its weights, in eval mode."""
    state = read_checkpoint(path)
    model = from_config(state["model"])
    model.load_state_dict(state["weights"])
    return model.eval()
