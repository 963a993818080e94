"""Embedding cut over the vocabulary, for any vocabulary size.

Shoeybi et al., 2019, arXiv 1909.08053, section 3: each rank looks up the tokens it owns, gives zero
for the others, and the sum over the axis is the embedding. Rank r owns the rows [r c, (r + 1) c)
with c = ceil(vocabulary / tp); rows past the vocabulary are zero and never used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..grid.context import ParallelContext
from ..grid.mappings import reduce_from_region, reduce_scatter_to_region
from ..grid.values import can_read
from .linear import SEQUENCE_DIM, ParallelLayer
from .sharding import Init, Shard, normal


class VocabParallelEmbedding(ParallelLayer):
    """torch.nn.Embedding with the rows of its weight cut over the tensor axis.

    Args:
        num_embeddings: vocabulary size, any; padded inside to a multiple of tp.
        embedding_dim: length of each vector.
        sequence_parallel: give the output split over the sequence.
        init_method: fills (tensor, generator); default N(0, 0.02^2).

    Input int64 [batch, sequence] (any shape without sequence_parallel); output [*, embedding_dim].
    Raises ValueError for an id outside [0, num_embeddings) on the CPU; on CUDA and under
    torch.compile such an id gives zeros (on one rank: torch's own error) rather than a wait.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        context: ParallelContext,
        sequence_parallel: bool = False,
        init_method: Init | None = None,
        initialize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(context)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.sequence_parallel = sequence_parallel and self.axis.size > 1
        shard = Shard((num_embeddings, embedding_dim), 0)
        self.add("weight", shard, init_method or normal(0.02), device, dtype, initialize)
        self.start = self.axis.rank * self.weight.shape[0]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        _check_ids(ids, self.num_embeddings)
        if self.axis.size == 1:
            return F.embedding(ids, self.weight)
        local = ids - self.start
        foreign = (local < 0) | (local >= self.weight.shape[0])
        out = F.embedding(local.masked_fill(foreign, 0), self.weight)
        out = out.masked_fill(foreign.unsqueeze(-1), 0.0)
        if self.sequence_parallel:
            return reduce_scatter_to_region(out, self.axis, SEQUENCE_DIM, "VocabParallelEmbedding")
        return reduce_from_region(out, self.axis, "VocabParallelEmbedding")

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim} over tp {self.axis.size}"


def _check_ids(ids: torch.Tensor, vocabulary: int) -> None:
    if ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"VocabParallelEmbedding: ids must be int64 or int32, got {ids.dtype}")
    if not can_read(ids):
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"VocabParallelEmbedding: ids must lie in [0, {vocabulary}), got {low} to {high}; "
            "check that the tokenizer's vocabulary is the model's"
        )
