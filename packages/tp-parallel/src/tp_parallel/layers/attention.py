"""Self-attention with its heads cut over the tensor axis.

Shoeybi et al., 2019, arXiv 1909.08053, section 3: query, key and value in one column-parallel
product, each rank attends with its own heads, a row-parallel product sums the results. The fused
weight stacks one group after another, [q ... q, k, v] per key/value head, so that a plain cut gives
whole groups. Grouped queries after Ainslie et al., 2023; with fewer groups than ranks the ranks of
a group share its queries out and each holds its key and value (`sharding.GroupShard`).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ..grid.context import ParallelContext
from ..grid.rng import TENSOR
from .cache import KeyValueCache
from .config import GPTConfig
from .context_parallel import attend_over_sequence
from .linear import ColumnParallelLinear, RowParallelLinear
from .norm import RMSNorm
from .ops import split_heads
from .rotary import rotate
from .sharding import GroupShard, Shard, normal

# what torch runs for scaled_dot_product_attention, by device and size
ATTENTION_OPERATORS = [
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]


class ParallelSelfAttention(nn.Module):
    """Causal self-attention, [batch, sequence, hidden] to the same, as (output, bias) unadded.

    Each rank holds heads / tp query heads and kv_heads / tp key/value heads, or one of these where
    there are fewer than ranks. `number`: of the layer, which may have a window. Raises ValueError,
    naming both numbers, if the tensor size does not divide heads, or neither divides the other for
    kv_heads.
    """

    def __init__(
        self, config: GPTConfig, *, context: ParallelContext, initialize: bool = True,
        device=None, output_std: float | None = None, number: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.context = config, context
        self.window = config.window(number)
        check_heads("ParallelSelfAttention", config, context, replicate=True)
        part = {"context": context, "initialize": initialize, "device": device,
                "dtype": config.torch_dtype}  # fmt: skip
        common = {**part, "sequence_parallel": config.sequence_parallel}
        width = config.heads * config.head_dim
        self.qkv = ColumnParallelLinear(
            config.hidden, width + 2 * config.groups * config.head_dim, bias=config.has_bias("qkv"),
            init_method=normal(config.init_std), shard=_group_shard(config, context), **common,
        )  # fmt: skip
        self.out = RowParallelLinear(
            width, config.hidden, skip_bias_add=True, bias=config.has_bias("out"),
            init_method=normal(output_std or config.init_std), **common,
        )  # fmt: skip
        self.groups = max(1, config.groups // context.tp.size)
        if config.qk_norm:  # over each rank's own heads: the gradients are shares of a sum
            norm = {**part, "eps": config.norm_eps, "sequence_parallel": True,
                    "zero_centred": config.zero_centred_norm}  # fmt: skip
            self.query_norm = RMSNorm(config.head_dim, **norm)
            self.key_norm = RMSNorm(config.head_dim, **norm)

    def forward(
        self,
        x: torch.Tensor,
        rotary: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
        documents: torch.Tensor | None = None,
    ):
        """`rotary`: a `rotary_table`, or None; `cache`: what was seen before `x`; `documents`:
        int64 [batch, whole sequence], tokens see only those of their own document.
        """
        heads = self.qkv(x).unflatten(-1, (self.groups, -1, self.config.head_dim))
        q, k, v = split_heads(heads, None if self.config.qk_norm else rotary)
        if self.config.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
            if rotary is not None:
                q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        run = partial(
            attend, dropout=self.config.attention_dropout, training=self.training,
            context=self.context, scale=self.config.attention_scale, window=self.window,
            softcap=self.config.attention_softcap,
        )  # fmt: skip
        y = attend_over_sequence(run, q, k, v, self.context.cp, documents)
        return self.out(y.transpose(1, 2).flatten(2))


def _group_shard(config: GPTConfig, context: ParallelContext) -> Shard | None:
    """How the fused weight is cut where a group spans several ranks; None: by equal rows."""
    if config.groups >= context.tp.size:
        return None
    d, per_group = config.head_dim, config.heads // config.groups
    rows = config.groups * (per_group + 2) * d
    return GroupShard((rows, config.hidden), 0, own=per_group * d, shared=2 * d)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float, training: bool,
    context: ParallelContext, *, scale: float | None = None, window: int = 0,
    documents: torch.Tensor | None = None, softcap: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """Causal attention over [batch, heads, sequence, head_dim]; dropout differs between tp ranks.

    Where there are more keys than queries, the queries are the last ones. `scale`, `window`,
    `softcap` as in `GPTConfig`, `documents` as in `ParallelSelfAttention`.
    """
    p = dropout if training else 0.0
    mask = attention_mask(q.shape[2], k.shape[2], window, documents, q.device)
    if softcap is not None:
        run = _attend_softcapped
        options = {"mask": mask, "softcap": softcap, "scale": scale or q.shape[-1] ** -0.5}
    else:
        run = F.scaled_dot_product_attention
        options = {"attn_mask": mask, "is_causal": mask is None and q.shape[2] > 1,
                   "enable_gqa": q.shape[1] != k.shape[1], "scale": scale}  # fmt: skip
    if p == 0.0:
        return run(q, k, v, **options)
    with context.rng.fork(TENSOR):
        return run(q, k, v, dropout_p=p, **options)


def attention_mask(
    queries: int, keys: int, window: int, documents: torch.Tensor | None, device: torch.device
) -> torch.Tensor | None:
    """Which keys each of the last `queries` tokens sees: bool [queries, keys], with documents
    [batch, 1, queries, keys]; None where that is every token up to itself, or all there are.
    """
    wide = not window or window >= keys
    if wide and documents is None and (queries == keys or queries == 1):
        return None
    at = torch.arange(keys, device=device)
    back = at[keys - queries :, None] - at  # how many tokens before the query
    mask = back >= 0 if wide else (back >= 0) & (back < window)
    if documents is None:
        return mask
    return (documents[:, keys - queries :, None] == documents[:, None, :]).unsqueeze(1) & mask


def _attend_softcapped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, mask: torch.Tensor | None,
    scale: float, softcap: float, dropout_p: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Attention with the scores written out: no fused kernel of torch caps them."""
    heads = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(heads, 1) if heads > 1 else x for x in (k, v))
    scores = softcap * torch.tanh(q @ k.transpose(2, 3) * (scale / softcap))
    if mask is None and q.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, -1, dtype=wide).to(q.dtype)
    return F.dropout(weights, dropout_p) @ v


def check_heads(
    layer: str, config: GPTConfig, context: ParallelContext, *, replicate: bool = False
) -> None:
    """Raises ValueError, naming both numbers, if tp does not divide the heads; with `replicate`
    kv_heads may also divide tp.
    """
    for name, number in (("heads", config.heads), ("kv_heads", config.groups)):
        size = context.tp.size
        if number % size and not (replicate and name == "kv_heads" and size % number == 0):
            raise ValueError(
                f"{layer}: {name} must be a multiple of the tensor-parallel size "
                f"{size}, got {number}; choose a tp that divides {number}"
            )
