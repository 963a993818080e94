"""MLP and transformer layer, split over the tensor axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..grid.context import ParallelContext
from ..grid.rng import SHARED, TENSOR
from .activation import activate, is_gated
from .attention import ParallelSelfAttention
from .cache import KeyValueCache
from .config import GPTConfig
from .linear import ColumnParallelLinear, RowParallelLinear
from .norm import make_norm
from .sharding import normal


class ParallelMLP(nn.Module):
    """hidden to inner width by columns, activation, back by rows; returns (output, bias) unadded.

    A gated activation has gate and up stacked in one weight of two blocks.
    """

    def __init__(
        self, config: GPTConfig, *, context: ParallelContext, initialize: bool = True,
        device=None, output_std: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        blocks = 2 if is_gated(config.activation) else 1
        common = {"context": context, "bias": config.has_bias("mlp"), "initialize": initialize,
                  "device": device, "dtype": config.torch_dtype,
                  "sequence_parallel": config.sequence_parallel}  # fmt: skip
        self.activation = config.activation
        self.up = ColumnParallelLinear(
            config.hidden, blocks * config.inner, blocks=blocks,
            init_method=normal(config.init_std), **common,
        )  # fmt: skip
        self.down = RowParallelLinear(
            config.inner, config.hidden, skip_bias_add=True,
            init_method=normal(output_std or config.init_std), **common,
        )  # fmt: skip

    def forward(self, x: torch.Tensor):
        return self.down(activate(self.up(x), self.activation))


class ParallelTransformerLayer(nn.Module):
    """norm, attention, add; norm, MLP, add (pre-norm, as GPT-2 and LLaMA).

    With `post_norms` each output passes a norm before it is added (Gemma 2); with
    `parallel_residual` attention and MLP read the same input (GPT-NeoX). Input and output [batch,
    sequence, hidden], with sequence parallelism [batch, sequence / tp, hidden]. `number` is the
    layer's index in the whole model.
    """

    def __init__(
        self, config: GPTConfig, *, context: ParallelContext, initialize: bool = True, device=None,
        number: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.context = config, context
        build = {"context": context, "initialize": initialize, "device": device}
        part = {**build, "output_std": config.init_std / (2 * config.layers) ** 0.5}
        self.attention_norm = make_norm(config, **build)
        self.attention = ParallelSelfAttention(config, number=number, **part)
        self.mlp_norm = make_norm(config, **build)
        self.mlp = ParallelMLP(config, **part)
        if config.post_norms:
            self.attention_post_norm = make_norm(config, **build)
            self.mlp_post_norm = make_norm(config, **build)

    def forward(
        self,
        x: torch.Tensor,
        rotary: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
        documents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        y = self.attention(self.attention_norm(x), rotary, cache, documents)
        if self.config.parallel_residual:
            x, z = self._add(x, *y, "attention"), self.mlp(self.mlp_norm(x))
            return self._add(x, *z, "mlp")
        x = self._add(x, *y, "attention")
        return self._add(x, *self.mlp(self.mlp_norm(x)), "mlp")

    def _add(
        self, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None, part: str
    ) -> torch.Tensor:
        if self.config.post_norms:
            y = getattr(self, f"{part}_post_norm")(y if bias is None else y + bias)
            bias = None
        return add_residual(x, y, bias, self.config, self.context, self.training)


def add_residual(
    x: torch.Tensor,
    y: torch.Tensor,
    bias: torch.Tensor | None,
    config: GPTConfig,
    context: ParallelContext,
    training: bool,
) -> torch.Tensor:
    """x + dropout(y + bias), the dropout from the stream that fits the cut of the activation."""
    y = y if bias is None else y + bias
    return x + dropout(y, config, context, training)


def dropout(
    x: torch.Tensor, config: GPTConfig, context: ParallelContext, training: bool,
    p: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """Dropout on an activation between split layers: equal on all tp ranks, unless they hold
    different parts of the sequence. `p`: its share; None: the config's.
    """
    p = config.dropout if p is None else p
    if not training or p == 0.0:
        return x
    split = config.sequence_parallel and context.tp.size > 1
    with context.rng.fork(TENSOR if split else SHARED):
        return F.dropout(x, p)
