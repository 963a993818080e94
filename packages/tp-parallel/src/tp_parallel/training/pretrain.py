"""Pre-training of a GPT on a text file, on any grid of processes.

    python -m tp_parallel.pretrain --data book.txt
    torchrun --nproc-per-node 4 -m tp_parallel.pretrain --data book.txt --tp 2 --pp 2

`pretrain(settings)` is the same from Python; `model_provider` builds another model.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ..data_parallel.gradients import GradientBuckets, finish_gradients
from ..data_parallel.optimizer import AdamW, learning_rate
from ..grid.context import DEFAULT_TIMEOUT, ParallelContext
from ..layers.config import GPTConfig
from ..models.gpt import GPTModel
from ..pipeline.run import evaluate_schedule, run_schedule
from ..pipeline.schedules import SCHEDULES, make_schedule
from ..pipeline.stages import build_stages
from . import checkpoint
from .data import TextData, make_tokenizer

ModelProvider = Callable[[GPTConfig, ParallelContext, int], list[GPTModel]]


@dataclass
class Report:
    """What `pretrain` returns: losses by step, evaluations by step, skipped steps, and where the
    checkpoint is.
    """

    losses: list[float] = field(default_factory=list)
    evaluations: dict[int, float] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    first_step: int = 0
    checkpoint: str | None = None
    interrupted: bool = False


def pretrain(
    settings: Settings,
    model_provider: ModelProvider | None = None,
    context: ParallelContext | None = None,
) -> Report:
    """Trains, logs, evaluates and saves as `settings` say; resumes if `settings.save` holds a run.

    model_provider: (config, context, chunks) -> this rank's stages; default `build_stages`.
    context: None makes one from the settings and closes it at the end.

    Every rank calls it with the same settings (checked). Raises ValueError for settings that do not
    fit together, before any training.
    """
    check_settings(settings)
    own = context is None
    if context is None:
        context = ParallelContext(
            settings.tp, settings.pp, settings.dp, order=settings.order, seed=settings.seed,
            timeout=settings.timeout,
        )  # fmt: skip
    try:
        return _Trainer(settings, context, model_provider).run()
    except BaseException as error:
        context.report(error)
        raise
    finally:
        if own:
            context.close()


class _Trainer:
    def __init__(
        self, settings: Settings, context: ParallelContext, provider: ModelProvider | None
    ) -> None:
        context.check_equal("pretrain settings", asdict(settings))
        self.settings, self.context = settings, context
        tokenizer = make_tokenizer(settings.tokenizer)
        self.config = settings.model(tokenizer.vocab_size)
        self.rows, self.micro = _cut_batch(settings, context)
        held_out = settings.held_out if settings.eval_every else 0.0
        self.data = TextData(
            settings.data, tokenizer, settings.seq, seed=settings.seed, held_out=held_out
        )
        build = provider or (lambda config, ctx, n: build_stages(config, ctx, chunks=n))
        self.models = build(self.config, context, settings.chunks)
        self.optimizer = AdamW(
            self.models, context, lr=settings.lr, weight_decay=settings.weight_decay,
            clip_grad=settings.clip_grad, zero=settings.zero,
        )  # fmt: skip
        self.buckets = GradientBuckets(self.models, context)
        self.schedule = make_schedule(settings.schedule, context.pp.size, self.rows // self.micro,
                                      settings.chunks)  # fmt: skip
        self.report = Report()
        self.stop_asked = False
        self.logger = _Logger(settings, self.config, context)

    def run(self) -> Report:
        settings, report = self.settings, self.report
        start = self._resume()
        report.first_step = start
        if start >= settings.steps and self.context.rank == 0:
            print(f"already at step {start} of {settings.steps}: nothing to do; a larger --steps "
                  "goes on", file=sys.stderr, flush=True)  # fmt: skip
        before = signal.signal(signal.SIGTERM, self._ask_stop) if _in_main_thread() else None
        try:
            for step in range(start, settings.steps):
                self.context.step = step
                began = time.perf_counter()
                loss, norm, rate = self._step(step)
                report.losses.append(loss)
                self.logger.step(step, loss, norm, rate, time.perf_counter() - began)
                done = step + 1
                if settings.eval_every and done % settings.eval_every == 0:
                    report.evaluations[done] = self._evaluate()
                    self.logger.evaluation(done, report.evaluations[done])
                stop = self._all_stop()
                if settings.save and (
                    done % settings.save_every == 0 or done == settings.steps or stop
                ):
                    report.checkpoint = str(self._save(done))
                if stop:
                    report.interrupted = True
                    break
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
            self.logger.close()
        return report

    def _step(self, step: int) -> tuple[float, float, float]:
        settings, context = self.settings, self.context
        ids, labels = self.data.batch(step, settings.batch)
        ids, labels = self._mine(ids), self._mine(labels)
        tokens = context.dp.all_reduce((labels != -100).sum().to(torch.float64).reshape(1),
                                       label="tokens", kind="control")  # fmt: skip
        inputs, targets = ids.split(self.micro), labels.split(self.micro)
        for model in self.models:
            model.train()
        self.buckets.zero()
        losses = run_schedule(
            self.schedule, self.models, list(inputs),
            lambda model, x, n: model.loss_sum(x, targets[n]) / tokens.to(torch.float32)[0],
            context=context, shape=(self.micro, settings.seq), buckets=self.buckets,
        )  # fmt: skip
        finish_gradients(self.models, context, self.buckets)
        rate = learning_rate(step, peak=settings.lr, warmup=settings.warmup, total=settings.steps)
        self.optimizer.set_lr(rate)
        try:
            norm = self.optimizer.step()
        except FloatingPointError as error:  # on every rank: the norm is the whole model's
            if len(self.report.skipped) >= settings.skip_steps:
                raise
            self.report.skipped.append(step)
            norm = math.nan
            if context.rank == 0:
                print(f"step {step} skipped, {len(self.report.skipped)} of at most "
                      f"{settings.skip_steps}: {error}", file=sys.stderr, flush=True)  # fmt: skip
        return self._mean(losses), norm, rate

    def _mine(self, batch: torch.Tensor) -> torch.Tensor:
        """This data rank's rows, on the device."""
        return batch.chunk(self.context.dp.size)[self.context.dp.rank].to(self.context.device)

    def _mean(self, losses: list[torch.Tensor]) -> float:
        """The loss of the whole batch, on every rank, from the last stages' shares."""
        total = torch.zeros(1, dtype=torch.float64, device=self.context.device)
        for loss in losses:
            total += loss.double()
        self.context.dp.all_reduce(total, label="loss", kind="control")
        self.context.pp.all_reduce(total, label="loss", kind="control")
        return float(total)

    @torch.no_grad()
    def _evaluate(self) -> float:
        settings, context = self.settings, self.context
        for model in self.models:
            model.eval()
        losses = []
        scale = settings.batch * settings.seq * settings.eval_batches
        for index in range(settings.eval_batches):
            ids, labels = self.data.evaluation(index, settings.batch)
            inputs = self._mine(ids).split(self.micro)
            targets = self._mine(labels).split(self.micro)
            losses += evaluate_schedule(
                self.schedule, self.models, list(inputs),
                lambda model, x, n, targets=targets: model.loss_sum(x, targets[n]) / scale,
                context=context, shape=(self.micro, settings.seq),
            )  # fmt: skip
        return self._mean(losses)

    def _save(self, step: int) -> Path:
        extra = {"config": self.config.to_dict(), "settings": asdict(self.settings),
                 "skipped": self.report.skipped}  # fmt: skip
        assert self.settings.save is not None
        return checkpoint.save(
            self.settings.save, step, self.models, self.optimizer, context=self.context,
            extra=extra, keep=self.settings.keep,
        )  # fmt: skip

    def _resume(self) -> int:
        if not self.settings.save:
            return 0
        found = checkpoint.latest(self.settings.save)
        if found is not None and self.context.rank == 0:
            size = sum(file.stat().st_size for file in found.iterdir()) / 2**30
            print(f"resuming from {found}, {size:.2f} GiB", file=sys.stderr, flush=True)
        allow = filter(None, self.settings.allow.split(","))
        manifest = checkpoint.resume(
            self.settings.save, self.models, self.optimizer, context=self.context, allow=allow
        )
        if manifest is None:
            return 0
        self.report.skipped = list(manifest["extra"].get("skipped", []))
        return int(manifest["step"])

    def _ask_stop(self, *_: object) -> None:
        self.stop_asked = True

    def _all_stop(self) -> bool:
        """Whether any rank was asked to stop; all ranks stop after the same step."""
        flag = torch.tensor([int(self.stop_asked)], dtype=torch.int32, device=self.context.device)
        return bool(self.context.world.all_reduce(flag, "max", label="stop", kind="control"))


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0; 143 after SIGTERM, once the checkpoint is written."""
    report = pretrain(parse(arguments))
    return 128 + signal.SIGTERM if report.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
