"""CodeGeeX: a GPT whose last layer asks with a learned vector for each position.

Zheng et al., 2023, arXiv 2303.17568, section 2.2: above the transformer layers sits a top query
layer, whose queries come from an embedding of the position to be predicted instead of from the
hidden states.
"""

from __future__ import annotations

import torch
from torch import nn

from ..grid.context import ParallelContext
from ..layers.attention import attend, check_heads
from ..layers.cache import KeyValueCache
from ..layers.config import GPTConfig
from ..layers.layout import Layout, set_layout
from ..layers.linear import ColumnParallelLinear, RowParallelLinear
from ..layers.norm import make_norm
from ..layers.rotary import rotate
from ..layers.sharding import Shard, normal
from ..layers.transformer import ParallelMLP, add_residual
from .gpt import GPTModel

_NOT_HERE = ("head_size", "qk_norm", "post_norms", "parallel_residual", "windows",
             "attention_scale", "attention_softcap", "qkv_bias", "out_bias")  # fmt: skip


class TopQueryLayer(nn.Module):
    """norm, attention with position queries, add; norm, MLP, add.

    Input and output [batch, sequence, hidden], with sequence parallelism [batch, sequence / tp,
    hidden].
    """

    def __init__(
        self, config: GPTConfig, *, context: ParallelContext, initialize: bool = True, device=None
    ) -> None:
        super().__init__()
        check_heads("TopQueryLayer", config, context)
        odd = [name for name in _NOT_HERE if getattr(config, name) not in (None, False)]
        if odd:
            raise ValueError(f"TopQueryLayer: is not computed with {', '.join(odd)}")
        if context.cp.size > 1:
            raise ValueError(
                f"TopQueryLayer: is not computed with cp above 1, got {context.cp.size}"
            )
        self.config, self.context = config, context
        build = {"context": context, "initialize": initialize, "device": device,
                 "dtype": config.torch_dtype}  # fmt: skip
        split = {**build, "bias": config.bias, "sequence_parallel": config.sequence_parallel}
        plain = {"context": context, "initialize": initialize, "device": device}
        std = config.init_std / (2 * config.layers) ** 0.5
        shape = (config.max_positions, config.hidden)
        place = context.device if device is None else torch.device(device)
        self.position = nn.Parameter(torch.empty(shape, device=place, dtype=config.torch_dtype))
        set_layout(self, "position", Layout(Shard(shape), normal(config.init_std)))
        self.attention_norm = make_norm(config, **plain)
        # the positions are whole on every rank, whatever the hidden states are
        self.query = ColumnParallelLinear(
            config.hidden, config.hidden, init_method=normal(config.init_std),
            **{**split, "sequence_parallel": False},
        )  # fmt: skip
        self.key_value = ColumnParallelLinear(
            config.hidden, 2 * config.groups * config.head_dim,
            init_method=normal(config.init_std), **split,
        )  # fmt: skip
        self.out = RowParallelLinear(
            config.hidden, config.hidden, skip_bias_add=True, init_method=normal(std), **split
        )
        self.mlp_norm = make_norm(config, **plain)
        self.mlp = ParallelMLP(config, output_std=std, **plain)

    def forward(
        self,
        x: torch.Tensor,
        rotary: torch.Tensor | None = None,
        cache: KeyValueCache | None = None,
        documents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        config, head_dim = self.config, self.config.head_dim
        key_value = self.key_value(self.attention_norm(x)).unflatten(-1, (-1, 2, head_dim))
        k, v = (part.transpose(1, 2) for part in key_value.unbind(-2))
        seen = 0 if cache is None else cache.length
        asked = self.position[seen : seen + k.shape[2]]
        q = self.query(asked.unsqueeze(0)).unflatten(-1, (-1, head_dim))
        q = q.transpose(1, 2).expand(len(x), -1, -1, -1)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        y = attend(q, k, v, config.attention_dropout, self.training, self.context,
                   documents=documents)  # fmt: skip
        y = self.out(y.transpose(1, 2).flatten(2))
        x = add_residual(x, *y, config, self.context, self.training)
        y = self.mlp(self.mlp_norm(x))
        return add_residual(x, *y, config, self.context, self.training)


class CodeGeeXModel(GPTModel):
    """`GPTModel` with a `TopQueryLayer` before the final norm, on the last stage."""

    def add_top(self, options: dict) -> None:
        self.top_query = TopQueryLayer(self.config, **options)

    def top(
        self, x: torch.Tensor, rotary: torch.Tensor | None, cache: KeyValueCache | None,
        documents: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        return self.top_query(x, rotary, cache, documents)
