"""Training of a GPT on text or tokens, on any grid of processes.

    python -m tp_parallel.pretrain --data book.txt
    torchrun --nproc-per-node 4 -m tp_parallel.pretrain --data book.txt --tp 2 --pp 2

`pretrain(settings)` is the same from Python; `model_provider` builds another model.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ..data_parallel.gradients import GradientBuckets, finish_gradients
from ..data_parallel.optimizer import AdamW, learning_rate
from ..grid.context import ParallelContext
from ..layers.config import GPTConfig
from ..layers.context_parallel import cut_sequence
from ..models.gpt import GPTModel
from ..pipeline.run import evaluate_schedule, run_schedule
from ..pipeline.schedules import make_schedule
from ..pipeline.stages import build_stages
from . import checkpoint
from .async_save import AsyncSaver
from .data import TextData, make_tokenizer
from .metrics import Callback, Logger, flops_per_token
from .plan import Plan, plan_run
from .settings import Settings, check_settings, cut_batch, parse
from .tokens import Batch, TokenData

__all__ = [
    "Report",
    "Settings",
    "build_stages",
    "check_settings",
    "dry_run",
    "fields",
    "flops_per_token",
    "parse",
    "pretrain",
]

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
    callbacks: Sequence[Callback] = (),
) -> Report:
    """Trains, logs, evaluates and saves as `settings` say; resumes if `settings.save` holds a run.

    model_provider: (config, context, chunks) -> this rank's stages; default `build_stages`.
    context: None makes one from the settings and closes it at the end.
    callbacks: called on rank 0 with each row of metrics, a dictionary of numbers: after each step
        and each evaluation (`callbacks=[wandb.log]`).

    Every rank calls it with the same settings (checked). Raises ValueError for settings that do not
    fit together, before any training.
    """
    check_settings(settings)
    own = context is None
    if context is None:
        context = ParallelContext(
            settings.tp, settings.pp, settings.dp, cp=settings.cp, order=settings.order,
            seed=settings.seed, timeout=settings.timeout,
        )  # fmt: skip
    try:
        return _Trainer(settings, context, model_provider, callbacks).run()
    except BaseException as error:
        context.report(error)
        raise
    finally:
        if own:
            context.close()


class _Trainer:
    def __init__(
        self, settings: Settings, context: ParallelContext, provider: ModelProvider | None,
        callbacks: Sequence[Callback],
    ) -> None:  # fmt: skip
        context.check_equal("pretrain settings", asdict(settings))
        self.settings, self.context = settings, context
        tokenizer = make_tokenizer(settings.tokenizer)
        self.config = settings.model(tokenizer.vocab_size)
        self.rows, self.micro = cut_batch(settings, context.dp.size, context.pp.size)
        self.data = _data(settings, tokenizer, context)
        self.models = (provider or self._build)(self.config, context, settings.chunks)
        self.origin: dict[str, Any] | None = None  # config.json of the model before
        self.aside: Path | None = None
        if settings.load:
            self._load(settings.load)
        self.optimizer = AdamW(
            self.models, context, lr=settings.lr, weight_decay=settings.weight_decay,
            clip_grad=settings.clip_grad, zero=settings.zero,
        )  # fmt: skip
        self.buckets = GradientBuckets(self.models, context)
        self.schedule = make_schedule(settings.schedule, context.pp.size, self.rows // self.micro,
                                      settings.chunks)  # fmt: skip
        self.report = Report()
        self.stop_asked = False
        self.saver = AsyncSaver(context) if settings.save and settings.async_save else None
        self.samples = 0  # given to the training so far
        self.logger = Logger(settings, self.config, context, callbacks)

    def _build(self, config: GPTConfig, context: ParallelContext, chunks: int) -> list[GPTModel]:
        new = {"init_mode": self.settings.init, "initialize": not self.settings.load}
        return build_stages(config, context, chunks=chunks, **new)

    def _load(self, path: str) -> None:
        """The weights of a checkpoint, for a run that begins with them."""
        drop = ("dropout", "attention_dropout", "embedding_dropout")
        found = checkpoint.latest(path) or path
        manifest = checkpoint.load(found, self.models, context=self.context, allow=drop)
        self.origin, self.aside = (
            manifest["extra"].get("huggingface"),
            Path(found) / checkpoint.ASIDE,
        )

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
            if self.saver is not None:
                self.saver.wait()
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
            self.logger.close()
        return report

    def _step(self, step: int) -> tuple[float, float, float]:
        settings, context = self.settings, self.context
        batch = self._mine(self.data.part(step, self.samples, settings.batch, *self._place()))
        self.samples += settings.batch
        tokens = context.dp.all_reduce((batch.labels != -100).sum().to(torch.float64).reshape(1),
                                       label="tokens", kind="control")  # fmt: skip
        inputs, targets, positions = self._micro_batches(batch)
        for model in self.models:
            model.train()
        self.buckets.zero()
        losses = run_schedule(
            self.schedule, self.models, list(inputs),
            lambda model, x, n: _loss_sum(model, x, targets, positions, n)
            / tokens.to(torch.float32)[0],
            context=context, shape=self._shape(), buckets=self.buckets,
            positions=positions,
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

    def _place(self) -> tuple[int, int]:
        """Which of how many shares of the batch this rank sees; ranks of a cp axis see the same."""
        dp, cp = self.context.dp, self.context.cp
        return dp.rank // cp.size, dp.size // cp.size

    def _mine(self, batch: Batch) -> Batch:
        """This rank's tokens of its share, on the device."""
        device, cp = self.context.device, self.context.cp
        return Batch(*(x if x is None else cut_sequence(x, cp).to(device) for x in batch))

    def _shape(self) -> tuple[int, int]:
        """Rows and tokens of a micro-batch on this rank."""
        return self.micro, self.settings.seq // self.context.cp.size

    def _micro_batches(self, batch: Batch):
        """ids, labels and positions (or None), a list of micro-batches each."""
        return [x if x is None else list(x.split(self.micro)) for x in batch]

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
        valid = torch.zeros(1, dtype=torch.float64, device=context.device)
        for index in range(settings.eval_batches):
            batch = self._mine(self.data.evaluation_part(index, settings.batch, *self._place()))
            valid += (batch.labels != -100).sum()
            inputs, targets, positions = self._micro_batches(batch)
            losses += evaluate_schedule(
                self.schedule, self.models, inputs,
                lambda model, x, n, t=targets, p=positions: _loss_sum(model, x, t, p, n),
                context=context, shape=self._shape(), positions=positions,
            )  # fmt: skip
        context.dp.all_reduce(valid, label="tokens", kind="control")
        return self._mean(losses) / float(valid)

    def _save(self, step: int) -> Path:
        extra = {"config": self.config.to_dict(), "settings": asdict(self.settings),
                 "skipped": self.report.skipped, "samples": self.samples,
                 "data": self.data.facts()}  # fmt: skip
        if self.origin is not None:
            extra["huggingface"] = self.origin
        root, more = self.settings.save, {"keep": self.settings.keep, "aside": self.aside}
        assert root is not None
        if self.saver is None:
            return checkpoint.save(root, step, self.models, self.optimizer, context=self.context,
                                   extra=extra, **more)  # fmt: skip
        self.saver.save(root, step, self.models, self.optimizer, extra=extra, **more)
        return Path(root) / f"step_{step:08d}"

    def _resume(self) -> int:
        if not self.settings.save:
            return 0
        found = checkpoint.latest(self.settings.save)
        if found is not None and self.context.rank == 0:
            size = sum(file.stat().st_size for file in found.iterdir()) / 2**30
            print(f"resuming from {found}, {size:.2f} GiB", file=sys.stderr, flush=True)
        allow = [name for name in self.settings.allow.split(",") if name not in ("", "data")]
        manifest = checkpoint.resume(
            self.settings.save, self.models, self.optimizer, context=self.context, allow=allow
        )
        if manifest is None:
            return 0
        extra, step = manifest["extra"], int(manifest["step"])
        self._check_data(extra.get("data", {}))
        self.report.skipped = list(extra.get("skipped", []))
        self.samples = int(extra.get("samples", step * self.settings.batch))
        return step

    def _check_data(self, saved: dict[str, int]) -> None:
        """Raises ValueError if the windows to go on with are not those of the checkpoint."""
        mine = self.data.facts()
        other = [f"{name} {saved[name]} there, {value} here" for name, value in mine.items()
                 if saved.get(name, value) != value]  # fmt: skip
        if len(other) > 1:  # the content differs with any of the others
            other = [text for text in other if not text.startswith("content")]
        if other and "data" not in self.settings.allow.split(","):
            raise ValueError(
                "pretrain: the checkpoint to resume from is of other data: "
                f"{'; '.join(other)}; resume with the data of before, or allow it (--allow data)"
            )

    def _ask_stop(self, *_: object) -> None:
        self.stop_asked = True

    def _all_stop(self) -> bool:
        """Whether any rank was asked to stop; all ranks stop after the same step."""
        flag = torch.tensor([int(self.stop_asked)], dtype=torch.int32, device=self.context.device)
        return bool(self.context.world.all_reduce(flag, "max", label="stop", kind="control"))


def _data(settings: Settings, tokenizer: Any, context: ParallelContext) -> TextData | TokenData:
    held_out = settings.held_out if settings.eval_every else 0.0
    prefix = not Path(
        settings.data
    ).exists()  # of a .bin and an .idx, as Megatron's commands take it
    if prefix or Path(settings.data).suffix in (".npy", ".bin", ".idx"):
        return TokenData(settings.data, settings.seq, seed=settings.seed, held_out=held_out,
                         end=settings.end_token, documents=settings.documents)  # fmt: skip
    if settings.documents:
        raise ValueError("pretrain: documents needs a token file (.npy, .bin/.idx) as data")
    return TextData(settings.data, tokenizer, settings.seq, seed=settings.seed, held_out=held_out,
                    context=context)  # fmt: skip


def _loss_sum(
    model: GPTModel, x: torch.Tensor, targets: list[torch.Tensor],
    positions: list[torch.Tensor] | None, number: int,
) -> torch.Tensor:  # fmt: skip
    if positions is None:
        return model.loss_sum(x, targets[number])
    return model.loss_sum(x, targets[number], positions[number])


def dry_run(settings: Settings) -> Plan:
    """What the run of `settings` would need on `settings.world` processes; starts none of them.

    Raises ValueError for settings that the run would refuse.
    """
    check_settings(settings)
    tp, pp = settings.tp, settings.pp
    world = settings.world or tp * pp * (settings.dp or 1)
    if world % (tp * pp) or (settings.dp and settings.dp * tp * pp != world):
        raise ValueError(
            f"pretrain: world must be tp * pp * dp, got {world} for tp {tp}, pp {pp} and "
            f"dp {settings.dp or 'the rest'}"
        )
    dp = world // (tp * pp)
    rows, micro = cut_batch(settings, dp, pp)
    schedule = make_schedule(settings.schedule, pp, rows // micro, settings.chunks)
    config = settings.model(make_tokenizer(settings.tokenizer).vocab_size)
    return plan_run(config, tp=tp, pp=pp, dp=dp, cp=settings.cp, schedule=schedule, rows=micro,
                    length=settings.seq // settings.cp, zero=settings.zero)  # fmt: skip


def _print_plan(settings: Settings) -> int:
    """Exit status 0; 1 where a rank would not fit into the memory of its device."""
    plan = dry_run(settings)
    print(plan)
    misfits = plan.misfits(int(settings.device_gib * 2**30)) if settings.device_gib else []
    for sentence in misfits:
        print(sentence)
    return 1 if misfits else 0


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0; 143 after SIGTERM, once the checkpoint is written."""
    settings = parse(arguments)
    if settings.dry_run:
        return _print_plan(settings)
    report = pretrain(settings)
    return 128 + signal.SIGTERM if report.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
