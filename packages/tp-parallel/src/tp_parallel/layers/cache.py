"""Keys and values of the tokens seen so far, so that generation runs each token once."""

from __future__ import annotations

import torch
from torch import nn


class KeyValueCache:
    """What every attention layer keeps of the past: keys and values, [batch, groups, tokens, head].

    Hand the same cache to each `GPTModel.forward` of a sequence; it grows by the tokens given.
    `length` counts the tokens that all layers have seen.

    Args:
        capacity: tokens it can hold; memory is taken for all of them at the first call.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._entries: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def extend(
        self, layer: nn.Module, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the new tokens' keys and values of `layer`; returns those of all tokens so far.

        Raises ValueError if they do not fit.
        """
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"KeyValueCache: holds {self.capacity} tokens, got {end}; make it larger"
            )
        if layer not in self._entries:
            shape = (*k.shape[:2], self.capacity, k.shape[3])
            self._entries[layer] = (k.new_empty(shape), v.new_empty(shape))
        for kept, new in zip(self._entries[layer], (k, v), strict=True):
            kept[:, :, self.length : end] = new
        keys, values = self._entries[layer]
        return keys[:, :, :end], values[:, :, :end]
