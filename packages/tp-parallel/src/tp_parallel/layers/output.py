"""The output layer: logits of this rank's part of the vocabulary."""

from __future__ import annotations

import torch

from ..grid.context import ParallelContext
from ..grid.mappings import gather_from_region
from .linear import parallel_linear


def parallel_lm_logits(
    hidden: torch.Tensor,
    embedding_weight: torch.Tensor,
    *,
    context: ParallelContext,
    gather_output: bool = False,
    sequence_parallel: bool = False,
) -> torch.Tensor:
    """`hidden @ embedding_weight.T`: logits of this rank's rows of the vocabulary.

    Args:
        hidden: [batch, sequence, features], the same on every tp rank; with sequence_parallel
            [batch, sequence / tp, features].
        embedding_weight: [columns, features], this rank's rows of the (tied) embedding.
        gather_output: join the columns of all ranks; the last ones may be padding: cut the result
            to the vocabulary size.

    Returns [batch, sequence, columns], columns = ceil(vocabulary / tp). Raises ValueError if the
    features differ. The gradient of `hidden` is summed over the axis while that of the weight is
    computed.
    """
    if hidden.shape[-1] != embedding_weight.shape[-1]:
        raise ValueError(
            f"parallel_lm_logits: hidden must end in {embedding_weight.shape[-1]} features, got "
            f"shape {tuple(hidden.shape)}"
        )
    logits = parallel_linear(
        hidden, embedding_weight, context, sequence_parallel, "parallel_lm_logits"
    )
    return gather_from_region(logits, context.tp, -1) if gather_output else logits
