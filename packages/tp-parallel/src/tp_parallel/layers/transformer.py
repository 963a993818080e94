"""MLP and transformer layer, split over the tensor axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..grid.context import ParallelContext
from ..grid.rng import SHARED, TENSOR
from .attention import ParallelSelfAttention
from .cache import KeyValueCache
from .config import GPTConfig
from .linear import ColumnParallelLinear, RowParallelLinear
from .norm import NORMS
from .sharding import normal


class ParallelMLP(nn.Module):
    """hidden to inner width by columns, activation, back by rows; returns (output, bias) unadded.

    "swiglu" (Shazeer, 2020, arXiv 2002.05202) stacks gate and up in one weight of two blocks.
    """

    def __init__(
        self, config: GPTConfig, *, context: ParallelContext, initialize: bool = True,
        device=None, output_std: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        blocks = 2 if config.activation == "swiglu" else 1
        common = {"context": context, "bias": config.bias, "initialize": initialize,
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


def activate(x: torch.Tensor, name: str) -> torch.Tensor:
    """The activation called `name`; "swiglu" halves the last dimension."""
    if name == "swiglu":
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


class ParallelTransformerLayer(nn.Module):
    """norm, attention, add; norm, MLP, add (pre-norm, as GPT-2 and LLaMA).

    Input and output [batch, sequence, hidden], with sequence parallelism [batch, sequence / tp,
    hidden]. `number` is the layer's global index, for the output initialisation std / sqrt(2
    layers).
    """

    def __init__(
        self, config: GPTConfig, *, context: ParallelContext, initialize: bool = True, device=None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.context = config, context
        norm = {"context": context, "eps": config.norm_eps, "initialize": initialize,
                "device": device, "dtype": config.torch_dtype,
                "sequence_parallel": config.sequence_parallel}  # fmt: skip
        part = {"context": context, "initialize": initialize, "device": device,
                "output_std": config.init_std / (2 * config.layers) ** 0.5}  # fmt: skip
        self.attention_norm = NORMS[config.norm](config.hidden, **norm)
        self.attention = ParallelSelfAttention(config, **part)
        self.mlp_norm = NORMS[config.norm](config.hidden, **norm)
        self.mlp = ParallelMLP(config, **part)

    def forward(
        self,
        x: torch.Tensor,
        rotary: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> torch.Tensor:
        y = self.attention(self.attention_norm(x), rotary, cache)
        x = add_residual(x, *y, self.config, self.context, self.training)
        y = self.mlp(self.mlp_norm(x))
        return add_residual(x, *y, self.config, self.context, self.training)


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
    x: torch.Tensor, config: GPTConfig, context: ParallelContext, training: bool
) -> torch.Tensor:
    """Dropout on an activation between split layers: equal on all tp ranks, unless they hold
    different parts of the sequence.
    """
    if not training or config.dropout == 0.0:
        return x
    split = config.sequence_parallel and context.tp.size > 1
    with context.rng.fork(TENSOR if split else SHARED):
        return F.dropout(x, config.dropout)
