"""Self-attention with its heads cut over the tensor axis.

Shoeybi et al., 2019, arXiv 1909.08053, section 3: query, key and value in one column-parallel
product, each rank attends with its own heads, a row-parallel product sums the results. The fused
weight stacks one group after another, [q ... q, k, v] per key/value head, so that a plain cut gives
whole groups. Rotary positions after Su et al., 2021, arXiv 2104.09864; grouped queries after
Ainslie et al., 2023.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..grid.context import ParallelContext
from ..grid.rng import TENSOR
from .cache import KeyValueCache
from .config import GPTConfig
from .linear import ColumnParallelLinear, RowParallelLinear
from .sharding import normal


class ParallelSelfAttention(nn.Module):
    """Causal self-attention, [batch, sequence, hidden] to the same, as (output, bias) unadded.

    Each rank holds heads / tp query heads and kv_heads / tp key/value heads. Raises ValueError,
    naming both numbers, if the tensor size does not divide heads or kv_heads.
    """

    def __init__(
        self, config: GPTConfig, *, context: ParallelContext, initialize: bool = True,
        device=None, output_std: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.context = config, context
        check_heads("ParallelSelfAttention", config, context)
        common = {"context": context, "bias": config.bias, "initialize": initialize,
                  "device": device, "dtype": config.torch_dtype,
                  "sequence_parallel": config.sequence_parallel}  # fmt: skip
        width = (config.heads + 2 * config.groups) * config.head_dim
        self.qkv = ColumnParallelLinear(
            config.hidden, width, init_method=normal(config.init_std), **common
        )
        self.out = RowParallelLinear(
            config.hidden, config.hidden, skip_bias_add=True,
            init_method=normal(output_std or config.init_std), **common,
        )  # fmt: skip
        self.groups = config.groups // context.tp.size

    def forward(
        self,
        x: torch.Tensor,
        rotary: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
    ):
        """`rotary`: [sequence, head_dim / 2] angles from `rotary_angles`, or None; `cache`: what
        was seen before `x`.
        """
        q, k, v = self._split_heads(self.qkv(x))
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        y = attend(q, k, v, self.config.attention_dropout, self.training, self.context)
        return self.out(y.transpose(1, 2).flatten(2))

    def _split_heads(self, qkv: torch.Tensor):
        """[batch, sequence, local width] to q, k, v as [batch, heads, sequence, head_dim]."""
        per_group = self.config.heads // self.config.groups
        split = qkv.unflatten(-1, (self.groups, per_group + 2, self.config.head_dim))
        q = split[..., :per_group, :].flatten(2, 3)
        k, v = split[..., per_group, :], split[..., per_group + 1, :]
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float, training: bool,
    context: ParallelContext,
) -> torch.Tensor:  # fmt: skip
    """Causal attention over [batch, heads, sequence, head_dim]; dropout differs between tp ranks.

    Where there are more keys than queries, the queries are the last ones.
    """
    p = dropout if training else 0.0
    grouped = q.shape[1] != k.shape[1]
    new, all_ = q.shape[2], k.shape[2]
    options = {"is_causal": new == all_, "enable_gqa": grouped, "dropout_p": p}
    if 1 < new < all_:
        mask = torch.ones(new, all_, dtype=torch.bool, device=q.device)
        options["attn_mask"] = mask.tril(all_ - new)
    if p == 0.0:
        return F.scaled_dot_product_attention(q, k, v, **options)
    with context.rng.fork(TENSOR):
        return F.scaled_dot_product_attention(q, k, v, **options)


def rotary_angles(
    length: int, head_dim: int, base: float, device: torch.device, start: int = 0
) -> torch.Tensor:
    """Angles [length, head_dim / 2], float64, of position (from `start`) times frequency."""
    frequency = base ** (
        -torch.arange(0, head_dim, 2, device=device, dtype=torch.float64) / head_dim
    )
    positions = torch.arange(start, start + length, device=device, dtype=torch.float64)
    return torch.outer(positions, frequency)


def rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turns the pairs (x[i], x[i + d/2]) of [batch, heads, sequence, d] by `angles`."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def check_heads(layer: str, config: GPTConfig, context: ParallelContext) -> None:
    """Raises ValueError, naming both numbers, if tp does not divide the heads."""
    for name, number in (("heads", config.heads), ("kv_heads", config.groups)):
        if number % context.tp.size:
            raise ValueError(
                f"{layer}: {name} must be a multiple of the tensor-parallel size "
                f"{context.tp.size}, got {number}; choose a tp that divides {number}"
            )
