"""Memory for large results.

A tensor of tens of megabytes comes fresh from the system each time, and each of its 4 KiB pages
costs a fault when it is first written: for the logits of a small model nearly as much CPU time as
writing them. Pages of 2 MiB cost next to nothing (on Linux, where the system leaves the choice to
the program).
"""

from __future__ import annotations

import torch

from .. import _C  # type: ignore[attr-defined]
from .values import can_read

LARGE = 32 << 20  # bytes from which on the C library keeps no freed memory


def large_pages(fresh: torch.Tensor) -> torch.Tensor:
    """Asks for large pages for a CPU tensor that nobody has written yet; returns it."""
    if fresh.numel() * fresh.element_size() >= LARGE and can_read(fresh):
        _C.prefer_large_pages(fresh)
    return fresh


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b of [..., k] and [k, n], a large result in large pages."""
    size = a.shape[:-1].numel() * b.shape[-1] * a.element_size()
    if size < LARGE or torch.is_grad_enabled() or not can_read(a):
        return a.matmul(b)
    out = large_pages(a.new_empty((*a.shape[:-1], b.shape[-1])))
    torch.mm(a.reshape(-1, a.shape[-1]), b, out=out.view(-1, b.shape[-1]))
    return out
