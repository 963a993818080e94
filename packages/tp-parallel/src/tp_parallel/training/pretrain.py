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


def _option(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass
class Settings:
    """What a run is; every field is an option of the command line."""

    data: str = _option("", "text file to learn")
    tokenizer: str = _option("bytes", "'bytes', or the path of a tokenizer.json")
    layers: int = _option(4, "transformer layers")
    hidden: int = _option(128, "model width")
    heads: int = _option(4, "attention heads")
    kv_heads: int | None = _option(None, "key/value heads (grouped-query attention)", type=int)
    ffn: int | None = _option(None, "inner width of the MLP; default 4 * hidden", type=int)
    position: str = _option("learned", "positions", choices=("learned", "rotary"))
    norm: str = _option("layernorm", "normalisation", choices=("layernorm", "rmsnorm"))
    activation: str = _option("gelu", "MLP", choices=("gelu", "gelu_tanh", "relu", "swiglu"))
    untie: bool = _option(False, "an output layer of its own instead of the tied embedding")
    dropout: float = _option(0.0, "dropout, in attention too")
    dtype: str = _option("float32", "of the parameters", choices=("float32", "bfloat16", "float64"))
    seq: int = _option(128, "tokens of a sequence")
    batch: int = _option(16, "sequences of a step, over all ranks")
    micro_batch: int | None = _option(None, "sequences of a micro-batch; default: as many as "
                                      "give 2 * pp micro-batches", type=int)  # fmt: skip
    steps: int = _option(200, "optimizer steps")
    lr: float = _option(3e-3, "peak learning rate")
    warmup: int = _option(20, "steps of linear warm-up")
    weight_decay: float = _option(0.1, "decay of matrices")
    clip_grad: float = _option(1.0, "largest gradient norm over all ranks")
    seed: int = _option(1234, "root of every random stream")
    tp: int = _option(1, "tensor-parallel size")
    pp: int = _option(1, "pipeline stages")
    dp: int | None = _option(None, "data-parallel size; default: the rest of the world", type=int)
    order: str = _option("tp-dp-pp", "axes from fastest to slowest changing rank")
    schedule: str = _option("1f1b", "pipeline schedule", choices=tuple(SCHEDULES))
    chunks: int = _option(1, "model chunks a rank, for 'interleaved'")
    sequence_parallel: bool = _option(False, "cut activations between split layers too")
    zero: bool = _option(False, "share the optimizer's state out over the data ranks (ZeRO 1)")
    recompute: bool = _option(False, "store only each layer's input, compute it again")
    save: str | None = _option(None, "folder for checkpoints; resumes from the last one in it",
                               type=str)  # fmt: skip
    save_every: int = _option(100, "steps between checkpoints")
    keep: int | None = _option(None, "newest checkpoints to keep; default: all", type=int)
    allow: str = _option("", "fields of the model, separated by commas, that may differ from those "
                         "of the checkpoint to resume from")  # fmt: skip
    skip_steps: int = _option(0, "steps of a run whose gradient may be infinite or NaN: they are "
                              "skipped and counted; one more ends the run")  # fmt: skip
    eval_every: int = _option(50, "steps between evaluations; 0 never")
    held_out: float = _option(0.05, "share at the end of the text kept for evaluation")
    eval_batches: int = _option(4, "batches of an evaluation")
    log_every: int = _option(10, "steps between lines on stderr")
    metrics: str | None = _option(None, "file for one JSON line a step", type=str)
    tensorboard: str | None = _option(None, "folder for TensorBoard", type=str)
    peak_tflops: float | None = _option(None, "of one device, to report MFU", type=float)
    timeout: float = _option(DEFAULT_TIMEOUT, "seconds until a stuck collective raises")

    def model(self, vocab_size: int) -> GPTConfig:
        """The model these settings describe."""
        return GPTConfig(
            vocab_size=vocab_size, hidden=self.hidden, layers=self.layers, heads=self.heads,
            kv_heads=self.kv_heads, ffn=self.ffn, max_positions=self.seq, position=self.position,
            norm=self.norm, activation=self.activation, dropout=self.dropout,
            attention_dropout=self.dropout, tie_embeddings=not self.untie, dtype=self.dtype,
            sequence_parallel=self.sequence_parallel, recompute=self.recompute,
        )  # fmt: skip


_AT_LEAST = {
    0: ("steps", "warmup", "eval_every", "skip_steps", "weight_decay", "lr"),
    1: ("layers", "hidden", "heads", "kv_heads", "ffn", "seq", "batch", "micro_batch", "tp", "pp",
        "dp", "chunks", "save_every", "keep", "eval_batches", "log_every"),
}  # fmt: skip


def check_settings(settings: Settings) -> None:
    """Raises ValueError, naming the setting, for a value that no run can have."""
    for least, names in _AT_LEAST.items():
        for name in names:
            value = getattr(settings, name)
            if value is not None and not value >= least:
                raise ValueError(f"pretrain: {name} must be at least {least}, got {value}")
    for name in ("clip_grad", "timeout", "peak_tflops"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"pretrain: {name} must be above 0, got {value}")
    for name in ("dropout", "held_out"):
        if not 0.0 <= getattr(settings, name) < 1.0:
            raise ValueError(f"pretrain: {name} must be in [0, 1), got {getattr(settings, name)}")
    known = {f.name for f in fields(GPTConfig)}
    for name in filter(None, settings.allow.split(",")):
        if name not in known:
            raise ValueError(f"pretrain: allow must name fields of the model, got {name!r}")


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


class _Logger:
    """Lines on stderr, JSON lines and TensorBoard, from rank 0 alone."""

    def __init__(self, settings: Settings, config: GPTConfig, context: ParallelContext) -> None:
        self.settings, self.active = settings, context.rank == 0
        self.tokens = settings.batch * settings.seq
        self.flops = flops_per_token(config, settings.seq) * self.tokens
        self.devices = context.world_size
        self.file = open(settings.metrics, "a") if self.active and settings.metrics else None  # noqa: SIM115
        self.board = None
        if self.active and settings.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(settings.tensorboard)

    def step(self, step: int, loss: float, norm: float, rate: float, seconds: float) -> None:
        if not self.active:
            return
        tflops = self.flops / seconds / self.devices / 1e12
        row = {"step": step, "loss": loss, "grad_norm": norm, "lr": rate, "seconds": seconds,
               "tokens_per_second": self.tokens / seconds, "tflops_per_device": tflops}  # fmt: skip
        if self.settings.peak_tflops:
            row["mfu"] = tflops / self.settings.peak_tflops
        self._write(row)
        if step % self.settings.log_every == 0 or step == self.settings.steps - 1:
            mfu = f"  mfu {row['mfu']:.1%}" if "mfu" in row else ""
            print(
                f"step {step:>6}/{self.settings.steps}  loss {loss:.4f}  norm {norm:.3f}  "
                f"lr {rate:.2e}  {self.tokens / seconds:,.0f} tokens/s{mfu}",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def evaluation(self, step: int, loss: float) -> None:
        if self.active:
            self._write({"step": step, "evaluation": loss})
            print(f"step {step:>6}/{self.settings.steps}  held-out loss {loss:.4f}",
                  file=sys.stderr, flush=True)  # fmt: skip

    def _write(self, row: dict[str, float]) -> None:
        if self.file:
            finite = {k: v if math.isfinite(v) else None for k, v in row.items()}  # JSON has no NaN
            self.file.write(json.dumps(finite) + "\n")
            self.file.flush()
        if self.board:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self.file:
            self.file.close()
        if self.board:
            self.board.close()


def flops_per_token(config: GPTConfig, length: int) -> float:
    """Floating-point operations of forward and backward for one token: 6 a weight in a matrix
    product, and 12 layers hidden length for attention (Chowdhery et al., 2022, arXiv 2204.02311,
    appendix B).
    """
    gates = 2 if config.activation == "swiglu" else 1
    attention = config.hidden * (2 * config.hidden + 2 * config.groups * config.head_dim)
    mlp = (gates + 1) * config.hidden * config.inner
    matrices = config.layers * (attention + mlp) + config.vocab_size * config.hidden
    return 6.0 * matrices + 12.0 * config.layers * config.hidden * length


def _cut_batch(settings: Settings, context: ParallelContext) -> tuple[int, int]:
    """(rows of this data rank, rows of a micro-batch)."""
    if settings.batch % context.dp.size:
        raise ValueError(
            "pretrain: --batch must be a multiple of the data-parallel size "
            f"{context.dp.size}, got "
            f"{settings.batch}"
        )
    rows = settings.batch // context.dp.size
    micro = settings.micro_batch
    if micro is None:
        wanted = 2 * context.pp.size if context.pp.size > 1 else 1
        micro = max(1, rows // wanted)
    if micro < 1 or rows % micro:
        raise ValueError(
            f"pretrain: the {rows} sequences of a data rank must be a multiple of --micro-batch, "
            f"got {micro}"
        )
    return rows, micro


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from command-line arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tp_parallel.pretrain",
        description="Train a GPT on a text file, in one process or under torchrun.",
    )
    for option in fields(Settings):
        flag = "--" + option.name.replace("_", "-")
        more = dict(option.metadata)
        if isinstance(option.default, bool):
            parser.add_argument(flag, action="store_true", **more)
            continue
        more.setdefault("type", type(option.default))
        if option.name == "data":
            parser.add_argument(flag, required=True, **more)
        else:
            if option.default is not None:
                more["help"] += " (default: %(default)s)"
            parser.add_argument(flag, default=option.default, **more)
    return Settings(**vars(parser.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0; 143 after SIGTERM, once the checkpoint is written."""
    report = pretrain(parse(arguments))
    return 128 + signal.SIGTERM if report.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
