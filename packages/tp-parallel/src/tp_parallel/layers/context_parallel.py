"""Context parallelism: the ranks of the cp axis hold parts of each sequence.

Everything but attention works token by token. For attention the keys and values of all parts are
gathered and each rank attends with its own queries, as for Llama 3 (Dubey et al., 2024, arXiv
2407.21783, section 3.3.2); the gradients of keys and values go back by a reduce-scatter. A sequence
falls into 2 n chunks, of which rank r holds number r and number 2 n - 1 - r: a causal query sees
what is before it, and so each rank computes (r + 1) + (2 n - r) = 2 n + 1 chunks of scores.

The numbers are those of the whole sequence, for any mask that `attend` knows. torch's own
(`torch.distributed.tensor.experimental.context_parallel`) circulates keys and values instead, on
CUDA alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..grid.axis import Axis
from ..grid.mappings import gather_to_split_region

LABEL = "context parallel"


def places(length: int, axis: Axis, device: torch.device | None = None) -> torch.Tensor:
    """Which tokens of a sequence of `length` this rank of the cp axis holds, int64, in order.

    Raises ValueError if the length is no multiple of twice the axis size.
    """
    chunks = 2 * axis.size
    if length % chunks:
        raise ValueError(
            f"context_parallel: the sequence must be a multiple of 2 cp = {chunks} tokens, got "
            f"{length}; pad it or change cp"
        )
    part = length // chunks
    at = torch.arange(part, device=device)
    return torch.cat((axis.rank * part + at, (chunks - 1 - axis.rank) * part + at))


def cut_sequence(x: torch.Tensor, axis: Axis, dim: int = 1) -> torch.Tensor:
    """This rank's tokens of whole sequences, e.g. of ids [batch, sequence]."""
    if axis.size == 1:
        return x
    return x.index_select(dim, places(x.shape[dim], axis, x.device))


def whole_sequence(x: torch.Tensor, axis: Axis, dim: int) -> torch.Tensor:
    """The parts of all ranks in the order of the tokens; the gradient is summed and cut."""
    chunks = gather_to_split_region(x, axis, dim, LABEL).chunk(2 * axis.size, dim)
    return torch.cat((*chunks[::2], *chunks[1::2][::-1]), dim)


def attend_over_sequence(
    attend: Callable[..., torch.Tensor],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    axis: Axis,
    documents: torch.Tensor | None,
) -> torch.Tensor:
    """`attend(q, k, v, documents=...)` of this rank's queries over the keys of all ranks.

    q, k, v: [batch, heads or groups, own tokens, head_dim]; documents: of the whole sequence.
    `attend` takes queries for the last ones of the keys that it gets.
    """
    if axis.size == 1:
        return attend(q, k, v, documents=documents)
    k, v = whole_sequence(torch.stack((k, v)), axis, 3).unbind(0)
    part, out = q.shape[2] // 2, []
    for chunk, own in zip((axis.rank, 2 * axis.size - 1 - axis.rank), q.chunk(2, 2), strict=True):
        seen = (chunk + 1) * part
        before = None if documents is None else documents[:, :seen]
        out.append(attend(own, k[:, :, :seen], v[:, :, :seen], documents=before))
    return torch.cat(out, 2)
