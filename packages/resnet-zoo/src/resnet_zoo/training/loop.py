"""The training loop: epochs of steps, evaluation, checkpoints, metrics.

Several processes (torchrun) share each batch; the first one writes `last.ckpt` (to resume),
`best.safetensors` and `final.safetensors` (to use), and `metrics.jsonl`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..distributed import World, world
from ..files import write_text
from ..models.builders import get_model
from ..models.resnet import ResNet
from ..weights.checkpoint import save_weights
from .augment import mix
from .data import ArraySource, FolderSource, generator_for
from .recipe import Recipe
from .state import (
    Average,
    Position,
    first_not_finite,
    learning_rate,
    load_checkpoint,
    make_optimizer,
    save_checkpoint,
)

Source = ArraySource | FolderSource
LOOK = 50  # steps between looks at the loss on a GPU


@dataclass
class Result:
    """The outcome: accuracies in percent, where the weights are, and the model (averaged, eval)."""

    top1: float
    top5: float
    best_top1: float
    seconds: float
    weights: Path
    model: ResNet


def train(
    source: Source,
    valid: Source,
    recipe: Recipe,
    out: str | Path,
    *,
    device: str = "auto",
    resume: bool = True,
    progress: bool = True,
    stop_after: int | None = None,
) -> Result:
    """Train `recipe.model` on `source`, evaluate on `valid`, write into the folder `out`.

    Args:
        source, valid: see `ArraySource`, `FolderSource`, `open_source`.
        recipe: all choices.
        out: folder for checkpoints, weights and metrics; created.
        device: "auto", "cpu", "cuda" or "cuda:N".
        resume: go on from `out/last.ckpt` if it is there; the result is the same to the last bit
            as without the interruption (on the same machine, with the same number of threads).
        progress: a bar on stderr, if that is a terminal.
        stop_after: leave after so many optimizer steps in total, saving first (to test resuming).

    Raises ValueError for fewer than two classes, an image that cannot be decoded, a checkpoint that
    is damaged or of another recipe, other classes or another number of pictures; RuntimeError if
    the device is not there, or if the loss or a weight is no finite number any more: `last.ckpt`
    then is the last good state.
    """
    with world(device) as here:
        return _Run(source, valid, recipe, Path(out), here, progress).run(resume, stop_after)


class _Run:
    def __init__(
        self, source: Source, valid: Source, recipe: Recipe, out: Path, here: World, progress: bool
    ) -> None:
        self.source, self.valid, self.recipe, self.out, self.here = source, valid, recipe, out, here
        self.progress = progress and here.first and sys.stderr.isatty()
        self.begin = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        if len(source.categories) < 2:
            raise ValueError(f"train: at least 2 classes are needed, got {source.categories}")
        torch.manual_seed(recipe.seed)
        arguments = {"num_classes": len(source.categories), **recipe.model_args}
        if source.channels != 3:
            arguments.setdefault("in_channels", source.channels)
        self.model: ResNet = get_model(recipe.model, weights=recipe.weights, **arguments)
        self.metadata = {
            "model": recipe.model,
            "model_args": arguments,
            "categories": source.categories,
            "transforms": source.transforms(recipe).to_dict(),
        }
        self.data = {"classes": source.categories, "pictures": len(source)}
        if recipe.freeze >= 0:
            self.model.freeze(recipe.freeze)
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model.to(here.device, memory_format=self.layout)
        self.average = Average(self.model, recipe.ema) if recipe.ema else None
        self.optimizer = make_optimizer(self.model, recipe)
        self.dtype = getattr(torch, recipe.precision)
        self.scaler = torch.amp.GradScaler(
            here.device.type, enabled=self.dtype is torch.float16 and here.device.type == "cuda"
        )
        per_step = recipe.batch_size * recipe.accumulate * here.size
        if len(source) < per_step:
            raise ValueError(
                f"train: one step needs {per_step} samples (batch_size {recipe.batch_size} x "
                f"accumulate {recipe.accumulate} x {here.size} processes), got {len(source)}"
            )
        self.steps = len(source) // per_step
        self.writer = _tensorboard(out) if recipe.tensorboard and here.first else None

    def run(self, resume: bool, stop_after: int | None) -> Result:
        position, last = Position(), self.out / "last.ckpt"
        if resume and last.is_file():
            position = load_checkpoint(
                last, self.model, self.average, self.optimizer, self.scaler, self.recipe, self.data
            )
        if self.here.first:
            self._keep_metrics(position.epoch)
        top1 = top5 = float("nan")
        learner: nn.Module = self.model
        if self.here.size > 1:
            index = [self.here.device.index] if self.here.device.type == "cuda" else None
            learner = DistributedDataParallel(self.model, device_ids=index)
        while position.epoch < self.recipe.epochs:
            loss, finished = self._epoch(learner, position, stop_after)
            if not finished:
                break
            position.epoch, position.step = position.epoch + 1, 0
            # Each process has running statistics of its own; all go on with the first one's.
            self.here.copy_from_first(self.model.buffers())
            self.here.copy_from_first(self.average.tensors.values() if self.average else ())
            with self._averaged():
                top1, top5 = evaluate(self.model, self.valid, self.recipe, self.here)
                if self.here.first and top1 > position.best:
                    save_weights(self.model, self.out / "best.safetensors", self.metadata)
            position.best = max(position.best, top1)
            self._report(position, loss, top1, top5)
            self._save(position)
        if self.average is not None:
            self.model.load_state_dict(self.average.tensors)
        if top1 != top1:  # nothing was left to do, or the run was stopped
            top1, top5 = evaluate(self.model, self.valid, self.recipe, self.here)
        weights = self.out / "final.safetensors"
        if self.here.first:
            save_weights(self.model, weights, self.metadata)
        self.here.wait()
        seconds = time.monotonic() - self.begin
        return Result(top1, top5, position.best, seconds, weights, self.model.eval())

    def _epoch(
        self, learner: nn.Module, position: Position, stop_after: int | None
    ) -> tuple[float, bool]:
        """Steps from `position.step` on; the mean loss, and whether the epoch came to its end."""
        recipe, here, epoch = self.recipe, self.here, position.epoch
        learner.train()
        order = torch.randperm(len(self.source), generator=generator_for(recipe.seed, epoch))
        micro = order[: self.steps * recipe.accumulate * here.size * recipe.batch_size]
        mine = micro.view(-1, here.size, recipe.batch_size)[:, here.rank].tolist()
        left = mine[position.step * recipe.accumulate :]
        batches = self.source.batches(left, recipe, epoch, train=True)
        losses = torch.zeros(2, device=here.device)
        bar = tqdm(
            total=self.steps,
            initial=position.step,
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            disable=not self.progress,
            leave=False,
        )
        with bar:
            while position.step < self.steps:
                loss = self._step(learner, batches, position)
                position.step += 1
                if here.device.type == "cpu" or position.step % LOOK == 0:  # looking synchronises
                    self._demand_finite(loss, position)
                losses += torch.stack([loss, torch.ones_like(loss)])
                bar.update()
                done = epoch * self.steps + position.step
                stop = stop_after is not None and done >= stop_after
                every = recipe.checkpoint_steps
                if stop or (every and done % every == 0):
                    self._demand_finite(loss, position, weights=True)
                    self._save(position)
                if stop:
                    return 0.0, False
        self._demand_finite(losses[0], position, weights=True)
        total = here.total(losses)
        return (total[0] / total[1]).item(), True

    def _demand_finite(self, loss: Tensor, position: Position, weights: bool = False) -> None:
        """Stop a run that diverged, before it writes over what is good.

        Raises RuntimeError if the loss, or with `weights` any weight, is NaN or infinite.
        """
        bad = None if loss.isfinite() else f"the loss is {loss.item()}"
        if bad is None and weights and (name := first_not_finite(self.model, self.average)):
            bad = f"{name} is not finite"
        if bad is None:
            return
        kept = self.out / "last.ckpt"
        raise RuntimeError(
            f"train: {bad} in epoch {position.epoch + 1}, step {position.step}; "
            + (f"{kept} is the last good state" if kept.is_file() else "nothing was saved yet")
            + "; cure: a lower lr, a longer warmup_epochs or clip_norm=1, in another folder or "
            "with --overwrite"
        )

    def _step(self, learner: nn.Module, batches: Any, position: Position) -> Tensor:
        """One optimizer step over `accumulate` forwards; the mean loss."""
        recipe, here = self.recipe, self.here
        torch.manual_seed(
            generator_for(recipe.seed, position.epoch, position.step, here.rank, 1).initial_seed()
        )
        factor = learning_rate(recipe, position.epoch + position.step / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * factor * group["factor"]
        total = torch.zeros((), device=here.device)
        for part in range(recipe.accumulate):
            images, labels = next(batches)
            images = images.to(here.device, memory_format=self.layout, non_blocking=True)
            targets = functional.one_hot(labels, len(self.source.categories)).float()
            draws = generator_for(recipe.seed, position.epoch, position.step, here.rank, 2, part)
            images, targets = mix(images, targets.to(here.device), recipe, draws)
            sync = part == recipe.accumulate - 1 or not hasattr(learner, "no_sync")
            with contextlib.nullcontext() if sync else learner.no_sync():
                with self._autocast():
                    loss = functional.cross_entropy(
                        learner(images), targets, label_smoothing=recipe.label_smoothing
                    )
                self.scaler.scale(loss / recipe.accumulate).backward()
            total += loss.detach() / recipe.accumulate
        if recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        return total

    def _autocast(self) -> Any:
        enabled = self.dtype is not torch.float32
        return torch.autocast(
            self.here.device.type, dtype=self.dtype if enabled else None, enabled=enabled
        )

    @contextlib.contextmanager
    def _averaged(self):
        """The model with its averaged weights, for the duration."""
        if self.average is None:
            yield
            return
        own = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.tensors)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def _save(self, position: Position) -> None:
        if self.here.first:
            save_checkpoint(
                self.out / "last.ckpt",
                self.model,
                self.average,
                self.optimizer,
                self.scaler,
                self.recipe,
                self.data,
                position,
            )
        self.here.wait()

    def _keep_metrics(self, epochs: int) -> None:
        """Leave in metrics.jsonl the epochs that this run goes on from, none if it begins anew."""
        file = self.out / "metrics.jsonl"
        if not file.is_file():
            return
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        if len(lines) > epochs:
            write_text(file, "".join(lines[:epochs]))

    def _report(self, position: Position, loss: float, top1: float, top5: float) -> None:
        if not self.here.first:
            return
        row = {
            "epoch": position.epoch,
            "loss": round(loss, 5),
            "top1": round(top1, 3),
            "top5": round(top5, 3),
            "seconds": round(time.monotonic() - self.begin, 1),
        }
        with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.writer is not None:
            for name in ("loss", "top1", "top5"):
                self.writer.add_scalar(name, row[name], position.epoch)
            self.writer.flush()
        if self.progress:
            tqdm.write(
                f"epoch {position.epoch:>3}  loss {loss:.4f}  top-1 {top1:.2f} %", file=sys.stderr
            )


@torch.no_grad()
def evaluate(
    model: nn.Module, source: Source, recipe: Recipe, here: World | None = None
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy in percent over a whole source, shared among the processes.

    Raises RuntimeError if an output is NaN or infinite.
    """
    here = here or World(0, 1, next(model.parameters()).device)
    mode = model.training
    model.eval()
    mine = range(here.rank, len(source), here.size)
    batches = [
        mine[i : i + 2 * recipe.batch_size] for i in range(0, len(mine), 2 * recipe.batch_size)
    ]
    hits = torch.zeros(3, dtype=torch.float64, device=here.device)
    for images, labels in source.batches([list(b) for b in batches], recipe, 0, train=False):
        labels = labels.to(here.device)
        logits = model(images.to(here.device))
        if not logits.isfinite().all():
            raise RuntimeError(
                "evaluate: the model's outputs are not finite: its training diverged"
            )
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        hits += torch.stack([best[:, 0].sum(), best.any(1).sum(), torch.tensor(len(labels))]).to(
            hits
        )
    model.train(mode)
    top1, top5, count = here.total(hits).tolist()
    return 100 * top1 / count, 100 * top5 / count


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RuntimeError(
            "train: tensorboard=true needs the package tensorboard; cure: install it, or leave "
            "that choice out (metrics.jsonl is always written)"
        ) from error
    return SummaryWriter(str(out / "tensorboard"))
