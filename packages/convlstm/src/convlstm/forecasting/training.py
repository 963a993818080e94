"""Training of next-frame models, with checkpoints from which a run goes on as if never stopped."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._files import replacing, system_error
from ..keras.model import KerasModel, from_config
from ..keras.optim import KerasAdam
from .data import Scale, Source
from .losses import LOSSES, filled, where_known
from .metrics import by_lead_time, mse
from .rollout import forecast, horizon, roll_out

# How the rate falls: the part of it that is left when so much is done.
CURVES = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
CHECKPOINT, BEST = "checkpoint.pt", "best.pt"


@dataclass
class TrainOptions:
    """How to train.

    steps: updates in all; 0 makes none. batch: sequences in each. loss: a name of `losses.LOSSES`.
    optimizer: "adam" is torch's, "keras-adam" has Keras' epsilon. every: updates between
    validations, checkpoints and log lines. validation: held-out sequences of each. ahead: how many
    frames a validation forecasts, each from the frames before it (at most half of a sequence).
    patience: validations without a better forecast before training stops early; 0 never stops.
    seconds: stop after so much training in all, with what ran before a resume; 0 never. decay: lr
    falls to a fiftieth over the steps, or over the seconds where those end sooner, along `curve`:
    "linear" or "cosine" (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts). warmup:
    lr rises from 0 over so many updates. clip: the largest norm of all gradients together; 0 does
    not clip. rollout: how many frames a training forecast is run on its own
    output (0: every output from true frames alone). accumulate: batches whose mean gradient makes
    one update. ema: what the exponential moving average of the weights keeps of itself at an
    update (Polyak & Juditsky 1992; 0: none); validations and `load_checkpoint` have the average.
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
    ahead: int = 4
    warmup: int = 0
    clip: float = 0.0
    rollout: int = 0
    curve: str = "linear"
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(
                f"TrainOptions: loss must be one of {', '.join(LOSSES)}: {self.loss!r}"
            )
        if self.optimizer not in ("adam", "keras-adam"):
            raise ValueError(
                f'TrainOptions: optimizer must be "adam" or "keras-adam", got {self.optimizer!r}'
            )
        if self.curve not in CURVES:
            raise ValueError(
                f"TrainOptions: curve must be one of {', '.join(CURVES)}: {self.curve!r}"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"TrainOptions: ema must be at least 0 and below 1, got {self.ema}")
        lowest = {"batch": 1, "accumulate": 1, "every": 1, "validation": 1, "ahead": 1}
        lowest |= dict.fromkeys(("steps", "patience", "seconds", "warmup", "clip", "rollout"), 0)
        for name, low in lowest.items():
            if not getattr(self, name) >= low:
                raise ValueError(
                    f"TrainOptions: {name} must be at least {low}, got {getattr(self, name)}"
                )


# What a run that goes on may have otherwise than it began: when it ends and what it reports.
_FREE_ON_RESUME = {"steps", "seconds", "patience", "every"}


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    best: float = float("inf")
    stale: int = 0
    stopped: bool = False
    seconds: float = 0.0
    best_step: int = -1


def refuse_other_options(
    given: Mapping[str, Any], kept: Mapping[str, Any], free: Iterable[str] = ()
) -> None:
    """Raises ValueError, naming each option that differs from that of the run to be resumed."""
    skip = set(free)
    other = [
        f"{k} {given[k]!r} (the run has {kept[k]!r})"
        for k in given
        if k in kept and k not in skip and given[k] != kept[k]
    ]
    if other:
        raise ValueError(
            f"train: --resume goes on with the run's own options; these differ: "
            f"{', '.join(other)}; "
            "leave them out, or start anew in another folder"
        )


def _renamed(former: str, value: Any, name: str, given: Any) -> Any:
    """What an argument is: `given`, or what came under its former name, with a warning."""
    if value is None:
        return given
    warnings.warn(f"Trainer: {former}= is called {name}= now", DeprecationWarning, stacklevel=3)
    return value


class Trainer:
    """Trains `model` on `source`; keeps checkpoints in the folder `out` and goes on from them.

    A batch depends on the seed and its number alone, and checkpoints hold weights, optimizer
    state, torch's random state and progress: a run that was cut off and resumed ends with the
    same bits as one that was not. `checkpoint.pt` is the last state, `best.pt` that of the best
    validation. progress: a bar on stderr; None: a bar on a terminal, lines elsewhere. run: what the
    checkpoint tells about the run besides, such as its data. A folder that holds another run is
    refused with a ValueError, unless `overwrite` says otherwise. clock: what counts the seconds
    (time.process_time: those of the processor). folder, bar: former names of out and progress.
    """

    def __init__(
        self,
        model: KerasModel,
        source: Source,
        options: TrainOptions,
        out: str | os.PathLike[str] | None = None,
        tensorboard: bool = False,
        progress: bool | None = None,
        *,
        run: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        clock: Callable[[], float] = time.monotonic,
        folder: str | os.PathLike[str] | None = None,
        bar: bool | None = None,
    ) -> None:
        out = _renamed("folder", folder, "out", out)
        progress = _renamed("bar", bar, "progress", progress)
        self.clock = clock
        self.model, self.source, self.options = model, source, options
        self.folder = None if out is None else Path(out)
        self.progress = Progress()
        trained = [p for p in model.parameters() if p.requires_grad] or list(model.parameters())
        self.optimizer = (
            torch.optim.Adam(trained, lr=options.lr, fused=True)  # half the time of the loop
            if options.optimizer == "adam"
            else KerasAdam(trained, lr=options.lr)
        )
        self.loss = LOSSES[options.loss]
        self.average: dict[str, Tensor] = {}
        if options.ema:
            self.average = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.bar = sys.stderr.isatty() if progress is None else progress
        self.lines = progress is None and not self.bar
        self.history: list[dict[str, Any]] = []
        self.run_facts = dict(run or {})
        self.overwrite = overwrite
        self._owns_folder = False
        self._board = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        if tensorboard:
            self._board = _summary_writer(self.folder)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _frames(self, number: int, size: int, held_out: bool) -> Tensor:
        frames = self.source.batch(self.options.seed, number, size, held_out)
        return torch.from_numpy(frames).to(self.device)

    def run(self) -> Progress:
        """Trains to the end of the options' steps (or seconds, or patience)."""
        o, p = self.options, self.progress
        started = self.clock() - p.seconds
        if p.step == 0:
            torch.manual_seed(o.seed)
        total, count = 0.0, 0
        with self._locked():
            self._claim()
            while p.step < o.steps and not p.stopped and not (o.seconds and p.seconds >= o.seconds):
                self.model.train()
                self._set_rate(p.seconds)
                loss = self.update()
                p.seconds = self.clock() - started
                total, count = total + loss, count + 1
                self._show(loss, started)
                if p.step % o.every == 0 or p.step == o.steps:
                    self._validate(total / count)
                    total, count = 0.0, 0
                    self.save()
            self._show_end()
            if count or not p.step:
                self.save()
        if self._board is not None:
            self._board.close()
        return p

    def _set_rate(self, seconds: float) -> None:
        o = self.options
        rate = o.lr
        if o.decay:
            done = self.progress.step / o.steps
            if o.seconds:
                done = max(done, min(1.0, seconds / o.seconds))
            rate *= max(0.02, CURVES[o.curve](done))
        if o.warmup:
            rate *= min(1.0, (self.progress.step + 1) / o.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def update(self) -> float:
        """One update; returns its loss, the mean over its batches."""
        o = self.options
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for part in range(o.accumulate):
            x = self._frames(self.progress.step * o.accumulate + part, o.batch, False)
            loss = self._training_loss(x) / o.accumulate
            loss.backward()
            value += loss.item()
        if o.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)
        self.optimizer.step()
        self.progress.step += 1
        self._average_weights()
        if value != value:
            raise RuntimeError(
                f"train: the loss is not a number at step {self.progress.step}; lower lr ({o.lr})"
            )
        return value

    def _training_loss(self, x: Tensor) -> Tensor:
        """Of every output against the frame after it; with `rollout`, of the last frames as the
        model forecasts them from its own output; of a model of many outputs, of those."""
        inputs = filled(x)
        ahead = horizon(self.model)
        if ahead and self.options.rollout:
            raise ValueError(
                "train: rollout is of models that give one frame at a time; this one gives "
                f"{ahead} at once"
            )
        if ahead:
            given = x.shape[1] - ahead
            return where_known(self.loss, self.model(inputs[:, :given]), x[:, given:])
        steps = min(self.options.rollout, x.shape[1] // 2)
        if steps:
            given = x.shape[1] - steps
            outputs = roll_out(self.model, inputs[:, :given], steps)
            truth = x[:, 1:] if outputs.shape[1] == x.shape[1] - 1 else x[:, given:]
            return where_known(self.loss, outputs, truth)
        y = self.model(inputs[:, :-1])
        return where_known(self.loss, y, x[:, 1:] if y.dim() == x.dim() else x[:, -1])

    def _average_weights(self) -> None:
        """Moves the average towards the weights, at first faster: as a plain mean would."""
        keep = min(self.options.ema, 1 - 1 / (self.progress.step + 1))
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if name in self.average:
                    self.average[name].lerp_(weight, 1 - keep)

    @contextmanager
    def _averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights for a while, where there are such."""
        own = {n: p.detach().clone() for n, p in self.model.named_parameters() if self.average}
        try:
            _copy_weights(self.model, self.average)
            yield self.model
        finally:
            _copy_weights(self.model, own)

    def _validate(self, train_loss: float) -> None:
        """Forecasts held-out sequences from the frames that a user would have, and no others."""
        o, p = self.options, self.progress
        x = self._frames(0, o.validation, True)
        ahead = min(o.ahead, x.shape[1] // 2)
        given = x.shape[1] - (horizon(self.model) or ahead)
        truth = x[:, given : given + ahead]
        with self._averaged() as model:
            prediction = forecast(model, filled(x[:, :given]), ahead)
        loss = where_known(self.loss, prediction, truth).item()
        truth = torch.where(truth.isnan(), prediction, truth)
        mae = F.l1_loss(prediction, truth).item()
        if loss < p.best:
            p.best, p.stale, p.best_step = loss, 0, p.step
        else:
            p.stale += 1
        p.stopped = bool(o.patience) and p.stale >= o.patience
        row: dict[str, Any] = {"step": p.step, "loss": train_loss, "val_loss": loss, "val_mae": mae}
        row["val_mse_by_lead"] = by_lead_time(mse, prediction, truth)
        self.history.append(row)
        if self._board is not None:
            for name in ("loss", "val_loss", "val_mae"):
                self._board.add_scalar(name, row[name], p.step)
        if self.lines:
            leads = " ".join(f"{v:.4g}" for v in row["val_mse_by_lead"])
            print(
                f"step {p.step}/{o.steps}  {p.seconds:.0f} s  {o.loss} {train_loss:.5f}  "
                f"forecast {loss:.5f}  mse by lead time {leads}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        if self.folder is not None:
            with open(self.folder / "history.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if p.best_step == p.step:
                self._write(self.folder / BEST)

    # Checkpoints

    def _claim(self) -> None:
        """Refuses a folder that holds a run which this trainer neither wrote nor resumed."""
        if self.folder is None or self._owns_folder:
            return
        file = self.folder / CHECKPOINT
        if file.exists() and not self.overwrite:
            raise ValueError(
                f"train: {self.folder} already holds a run; --resume (Trainer.resume) goes on with "
                "it, --overwrite (overwrite=True) starts anew, or take another folder"
            )
        for name in (CHECKPOINT, BEST, "history.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        self._owns_folder = True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps a second training out of the folder. Raises RuntimeError where one is at work."""
        try:
            import fcntl
        except ImportError:  # not on this system
            yield
            return
        if self.folder is None:
            yield
            return
        with open(self.folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(
                    f"train: another training is at work in {self.folder}; wait for it, or take "
                    "another folder"
                ) from None
            yield  # the file stays: who waits for it elsewhere must not lock one that is gone

    def save(self) -> None:
        """Writes the checkpoint (beside the old one, then in its place)."""
        if self.folder is None:
            return
        if not self._owns_folder:
            with self._locked():
                self._claim()
        self._write(self.folder / CHECKPOINT)

    def _write(self, path: Path) -> None:
        scale = getattr(self.source, "scale", None)
        state = {
            "model": json.dumps(self.model.own_config()),
            "weights": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "progress": asdict(self.progress),
            "options": asdict(self.options),
            "run": self.run_facts,
            "scale": None if scale is None else asdict(scale),
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def resume(self) -> bool:
        """Goes on from the folder's checkpoint; False where there is none.

        Raises ValueError, by name, for options that would make it another run.
        """
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return False
        state = read_checkpoint(self.folder)
        refuse_other_options(asdict(self.options), state.get("options", {}), _FREE_ON_RESUME)
        try:
            self.model.load_state_dict(state["weights"])
        except RuntimeError as error:
            raise ValueError(f"train: --resume: the model is another one: {error}") from None
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = dict(state.get("average", {}))
        torch.set_rng_state(state["random"])
        known = {f.name for f in fields(Progress)}
        self.progress = Progress(**{k: v for k, v in state["progress"].items() if k in known})
        self.progress.stopped = False
        self._owns_folder = True
        return True

    # Progress

    def _show(self, loss: float, started: float) -> None:
        if not self.bar:
            return
        o, p = self.options, self.progress
        seconds = self.clock() - started
        done = int(30 * p.step / max(1, o.steps))
        val = f"  forecast mae {self.history[-1]['val_mae']:.4f}" if self.history else ""
        line = f"\r[{'#' * done}{'.' * (30 - done)}] {p.step}/{o.steps}  {seconds:4.0f} s  {o.loss} {loss:.4f}{val} "  # noqa: E501
        print(line, end="", file=sys.stderr, flush=True)

    def _show_end(self) -> None:
        if self.bar:
            print(file=sys.stderr)


@torch.no_grad()
def _copy_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    named = dict(model.named_parameters())
    for name, weight in weights.items():
        named[name].copy_(weight)


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
        if system := system_error(error, path):
            raise system from error
        raise ValueError(f"read_checkpoint: {path} is no checkpoint, or damaged: {error}") from None
    if missing:
        raise ValueError(f"read_checkpoint: {path} lacks {', '.join(sorted(missing))}")
    return state


def load_checkpoint(path: str | os.PathLike[str]) -> KerasModel:
    """The model of a checkpoint, with its weights (their average where the run kept one), in eval
    mode. Its `scale` is that of the data
    that it was trained on, None where the data were in [0, 1] as they are.

    Raises FileNotFoundError, or ValueError for a damaged file."""
    state = read_checkpoint(path)
    try:
        model = from_config(state["model"], draw=False)
        weights = {**state["weights"], **state.get("average", {})}
        _refuse_repeated(weights)
        model.load_state_dict(weights, assign=True)
        scale = state.get("scale")
        model.scale = None if scale is None else Scale(**scale)
    except Exception as error:  # of a damaged configuration many kinds are raised
        raise ValueError(f"load_checkpoint: {path} is damaged: {error!r}") from error
    return model.eval()


def _refuse_repeated(weights: dict[str, torch.Tensor]) -> None:
    """Raises ValueError for numbers repeated by strides of 0, of which a copy could be any size."""
    for name, value in weights.items():
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(f"{name} has more numbers than are stored")
