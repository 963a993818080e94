"""What a run writes: stderr, JSON lines, TensorBoard, callbacks; and its FLOPs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence

from ..grid.context import ParallelContext
from ..layers.activation import is_gated
from ..layers.config import GPTConfig
from .settings import Settings

Callback = Callable[[dict[str, float]], object]


class Logger:
    """Lines on stderr, JSON lines, TensorBoard and callbacks, from rank 0 alone."""

    def __init__(
        self, settings: Settings, config: GPTConfig, context: ParallelContext,
        callbacks: Sequence[Callback] = (),
    ) -> None:  # fmt: skip
        self.callbacks = list(callbacks)
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
        for callback in self.callbacks:
            callback(dict(row))
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
    product, and 12 heads head_dim a layer for each token that it sees (Chowdhery et al., 2022,
    arXiv 2204.02311, appendix B; a window is what it sees). What recomputation repeats is not
    counted.
    """
    gates = 2 if is_gated(config.activation) else 1
    width = config.heads * config.head_dim
    attention = 2 * config.hidden * (width + config.groups * config.head_dim)
    mlp = (gates + 1) * config.hidden * config.inner
    matrices = config.layers * (attention + mlp) + config.vocab_size * config.hidden
    seen = sum(min(config.window(i) or length, length) for i in range(config.layers))
    return 6.0 * matrices + 12.0 * width * seen
