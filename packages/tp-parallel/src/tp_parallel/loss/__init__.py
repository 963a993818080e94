"""The loss over a vocabulary that no rank holds whole; `reference` is its definition."""

from .cross_entropy import vocab_parallel_cross_entropy
from .linear_cross_entropy import vocab_parallel_linear_cross_entropy

__all__ = ["vocab_parallel_cross_entropy", "vocab_parallel_linear_cross_entropy"]
