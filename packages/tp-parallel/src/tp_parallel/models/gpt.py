"""GPT as a whole or as one pipeline stage, its weights cut over the tensor axis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..grid.context import ParallelContext
from ..grid.mappings import gather_from_region
from ..grid.rng import recompute
from ..grid.values import can_read
from ..layers.attention import ATTENTION_OPERATORS
from ..layers.cache import KeyValueCache
from ..layers.config import GPTConfig
from ..layers.context_parallel import places, whole_sequence
from ..layers.embedding import VocabParallelEmbedding
from ..layers.layout import Layout, change_layout, set_layout
from ..layers.linear import SEQUENCE_DIM
from ..layers.module import MegatronModule
from ..layers.norm import make_norm
from ..layers.output import parallel_lm_logits
from ..layers.rotary import RotaryScaling, rotary_table
from ..layers.sharding import Shard, normal
from ..layers.transformer import ParallelTransformerLayer, dropout
from ..loss.cross_entropy import vocab_parallel_cross_entropy
from ..loss.linear_cross_entropy import vocab_parallel_linear_cross_entropy


class Embedding(nn.Module):
    """Word and, where positions are learned, position embedding, then dropout.

    Input int64 [batch, sequence] and the positions, int64 [sequence] or [batch, sequence]; output
    [batch, sequence, hidden], with sequence parallelism cut over the sequence.
    """

    def __init__(
        self, config: GPTConfig, *, context: ParallelContext, initialize: bool = True, device=None
    ) -> None:
        super().__init__()
        self.config, self.context = config, context
        self.word = VocabParallelEmbedding(
            config.vocab_size, config.hidden, context=context, initialize=initialize,
            init_method=normal(config.init_std), device=device, dtype=config.torch_dtype,
            sequence_parallel=config.sequence_parallel,
        )  # fmt: skip
        if config.position == "learned":
            shape = (config.max_positions, config.hidden)
            device = context.device if device is None else torch.device(device)
            self.position = nn.Parameter(
                torch.empty(shape, device=device, dtype=config.torch_dtype)
            )
            partial = config.sequence_parallel and context.tp.size > 1
            layout = Layout(Shard(shape), normal(config.init_std), partial)
            set_layout(self, "position", layout)
        else:
            self.register_parameter("position", None)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = self.word(ids)
        if self.config.embedding_scale != 1.0:  # rounded as Gemma's: in the dtype of the weights
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype, device=x.device)
        if self.position is not None:
            position = self.position[positions]
            position = position.unsqueeze(0) if positions.dim() == 1 else position
            if self.word.sequence_parallel:
                position = position.chunk(self.context.tp.size, SEQUENCE_DIM)[self.context.tp.rank]
            x = x + position
        p = self.config.embedding_dropout
        return dropout(x, self.config, self.context, self.training, p)


class GPTModel(MegatronModule):
    """A decoder-only transformer, or the part of it that one pipeline stage holds.

    Args:
        config: its shape.
        context: the process grid.
        pre_process: this stage holds the embedding; its input is token ids.
        post_process: this stage holds the final norm and the output layer; it gives logits or
            losses.
        layers: global indices of the transformer layers held; None takes all.
        initialize: fill the parameters; False leaves them undefined.
        init_mode: "whole" (the same bits for any tp and pp) or "local"; see `sharding.fill`.
        device: "meta" builds without memory; `materialize()` then gives it.

    Parameter names are those of the unsplit model on every stage. Raises ValueError if heads do not
    divide; MismatchError if ranks pass different configs.
    """

    def __init__(
        self,
        config: GPTConfig,
        *,
        context: ParallelContext,
        pre_process: bool = True,
        post_process: bool = True,
        layers: Iterable[int] | None = None,
        initialize: bool = True,
        init_mode: str = "whole",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(config, context)
        context.check_equal("GPTModel config", config.to_dict())
        self.pre_process, self.post_process = pre_process, post_process
        indices = list(range(config.layers)) if layers is None else list(layers)
        if len({*indices}) < len(indices) or not {*indices} <= {*range(config.layers)}:
            raise ValueError(
                f"GPTModel: layers must be different indices below {config.layers}, got {indices}"
            )
        options: dict[str, Any] = {"context": context, "initialize": False, "device": device}
        if pre_process:
            self.embedding = Embedding(config, **options)
            if config.tie_embeddings and not post_process:
                change_layout(self.embedding.word, "weight", tied_from="head.weight")
        self.layers = nn.ModuleDict(
            {str(i): ParallelTransformerLayer(config, number=i, **options) for i in indices}
        )
        if post_process:
            self.add_top(options)
            self.final_norm = make_norm(config, **options)
            self._add_output(options)
        if initialize and str(device) != "meta":
            self.initialize_parameters(init_mode)

    def add_top(self, options: dict) -> None:
        """For models with a layer of another kind above the others: builds it, with `options`."""

    def top(
        self, x: torch.Tensor, rotary: torch.Tensor | None, cache: KeyValueCache | None,
        documents: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """For models with a layer of another kind above the others: runs it."""
        return x

    def _add_output(self, options: dict) -> None:
        """The output layer: the embedding itself, its copy on a later stage, or a matrix of its
        own.
        """
        if self.config.tie_embeddings and self.pre_process:
            return
        self.head = VocabParallelEmbedding(
            self.config.vocab_size, self.config.hidden, dtype=self.config.torch_dtype,
            init_method=normal(self.config.init_std), **options,
        )  # fmt: skip
        if self.config.tie_embeddings:
            change_layout(self.head, "weight", tied_to="embedding.word.weight")

    @property
    def output_weight(self) -> nn.Parameter:
        """[ceil(vocab_size / tp), hidden]: the output layer of a post_process stage."""
        tied_here = self.config.tie_embeddings and self.pre_process
        return self.embedding.word.weight if tied_here else self.head.weight

    @property
    def _kept(self) -> list | None:
        """Operators whose results are stored although the layer is run again."""
        return ATTENTION_OPERATORS if self.config.recompute_keep == "attention" else None

    def elsewhere(self, name: str) -> bool:
        part, _, rest = name.partition(".")
        if part == "layers":
            index = rest.partition(".")[0]
            return index.isdigit() and int(index) < self.config.layers and index not in self.layers
        if part == "embedding":
            return not self.pre_process
        return part in ("top_query", "final_norm", "head") and not self.post_process

    def hidden_states(
        self,
        x: torch.Tensor,
        cache: KeyValueCache | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The stage without its output layer: ids or activations to activations.

        `cache`: `x` continues what it holds; not with sequence parallelism. `positions` as in
        `forward`, not with a cache. Raises ValueError for these.
        """
        start = 0 if cache is None else cache.length
        if cache is not None and self.config.sequence_parallel and self.context.tp.size > 1:
            raise ValueError(
                "GPTModel: a cache needs whole sequences; build the model with "
                "sequence_parallel=False (its parameters are the same)"
            )
        if cache is not None and (positions is not None or self.context.cp.size > 1):
            raise ValueError(
                "GPTModel: a cache needs a context of cp 1, and goes without positions"
            )
        tokens = self._tokens(x)
        length = start + tokens * self.context.cp.size
        if length > self.config.max_positions:
            raise ValueError(
                "GPTModel: the sequence may have at most max_positions "
                f"{self.config.max_positions} tokens, got {length}"
            )
        documents = None
        if positions is not None:
            self._check_positions(x.shape[0], tokens, positions)
            whole = positions
            if self.context.cp.size > 1:
                whole = whole_sequence(positions, self.context.cp, 1)
            documents = (whole == 0).cumsum(-1)
        elif self.context.cp.size > 1:
            positions = places(length, self.context.cp, x.device)
        else:
            positions = torch.arange(start, length, device=x.device)
        if self.pre_process:
            x = self.embedding(x, positions)
        tables = self._rotary(x.dtype, positions, length)
        for layer in self.layers.values():
            rotary = tables[layer.attention.window > 0]
            if self.config.recompute and self.training and cache is None:
                draws = self.config.dropout > 0 or self.config.attention_dropout > 0
                rng = self.context.rng if draws else None
                x = recompute(layer, x, rotary, None, documents, rng=rng, keep=self._kept)
            else:
                x = layer(x, rotary, cache, documents)
        if self.post_process:
            x = self.final_norm(self.top(x, tables[False], cache, documents))
        if cache is not None:
            cache.length += tokens
        return x

    def _tokens(self, x: torch.Tensor) -> int:
        """How many tokens of each sequence the tensor-parallel ranks hold together."""
        cut = self.config.sequence_parallel and not self.pre_process
        return x.shape[1] * (self.context.tp.size if cut else 1)

    def _check_positions(self, rows: int, tokens: int, positions: torch.Tensor) -> None:
        if positions.shape != (rows, tokens) or positions.dtype != torch.int64:
            raise ValueError(
                f"GPTModel: positions must be int64 {(rows, tokens)}, as the tokens, got "
                f"{positions.dtype} "
                f"{tuple(positions.shape)}"
            )
        if positions.numel() and can_read(positions):
            low, high = int(positions.min()), int(positions.max())
            if low < 0 or high >= self.config.max_positions:
                raise ValueError(
                    "GPTModel: positions must lie in [0, max_positions "
                    f"{self.config.max_positions}), got {low} to {high}"
                )

    def forward(
        self,
        x: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        cache: KeyValueCache | None = None,
        positions: torch.Tensor | None = None,
        last_only: bool = False,
        reduction: str = "none",
    ) -> torch.Tensor:
        """Runs the stage.

        x: int64 [batch, sequence] on a pre_process stage, else [batch, sequence, hidden]
            activations.
        cache: `x` continues the tokens it holds, and is added to them.
        positions: int64 [batch, sequence], each token's place in its document, for rows that hold
            several: a 0 begins one, and no token sees another document. None: one document a row.
        last_only: logits of the last token alone.
        reduction: "none", or "sum" for the sum of the token losses without ever holding the logits
            (which a `logit_softcap` needs).
        With a context of cp above 1 each rank gives its own tokens (`cut_sequence`), their labels
        and positions, and gets what belongs to them.
        Returns activations; on a post_process stage logits [batch, sequence, ceil(vocab_size / tp)]
        or, with int64 labels [batch, sequence], the loss of each token, [batch, sequence].
        """
        if reduction not in ("none", "sum") or (reduction == "sum" and labels is None):
            raise ValueError(
                "GPTModel: reduction must be 'none', or 'sum' with labels, got "
                f"{reduction!r} {'without' if labels is None else 'with'} labels"
            )
        x = self.hidden_states(x, cache, positions)
        if not self.post_process:
            return x
        if reduction == "sum" and self.config.logit_softcap is None:
            return self._loss_sum(x, labels)
        x = x[:, -1:] if last_only else x
        logits = parallel_lm_logits(
            x, self.output_weight, context=self.context,
            sequence_parallel=self.config.sequence_parallel,
        )  # fmt: skip
        if self.config.logit_softcap is not None:
            cap = self.config.logit_softcap
            logits = cap * torch.tanh(logits / cap)
        if labels is None:
            return logits
        loss = vocab_parallel_cross_entropy(
            logits, labels, context=self.context, vocab_size=self.config.vocab_size,
            inplace=self.config.logit_softcap is None,
        )  # fmt: skip
        return loss.sum() if reduction == "sum" else loss

    def loss_sum(
        self, x: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sum of the token losses without ever holding the logits; for a post_process stage.

        It calls the model, so that hooks of FSDP2 and torch.compile see it.
        """
        return self(x, labels, positions=positions, reduction="sum")

    def _loss_sum(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        axis = self.context.tp
        if self.config.sequence_parallel and axis.size > 1:
            x = gather_from_region(x, axis, SEQUENCE_DIM, "GPTModel.loss_sum")
        return vocab_parallel_linear_cross_entropy(
            x, self.output_weight, labels, context=self.context,
            vocab_size=self.config.vocab_size, reduction="sum",
        )  # fmt: skip

    def _rotary(
        self, dtype: torch.dtype, positions: torch.Tensor, length: int
    ) -> dict[bool, torch.Tensor | None]:
        """The tables of the layers without (False) and with a window (True)."""
        config = self.config
        if config.position != "rotary":
            return {False: None, True: None}

        def table(base: float, scaling: RotaryScaling | None) -> torch.Tensor:
            return rotary_table(positions, config.rotary_dim, base, dtype, scaling, length)

        whole = table(config.rotary_base, config.rotary_scaling)
        local = config.rotary_base_windowed
        return {False: whole, True: whole if local is None else table(local, None)}
