"""HashTable: keys to values, with spconv's interface. Sorted keys and binary search: the same order
in every run, on every device."""

from __future__ import annotations

import torch
from torch import Tensor


class HashTable:
    """A map from integer keys to values.

    Args:
        device: where its tensors are.
        key_dtype: torch.int32 or torch.int64.
        value_dtype: of the values.
        max_size: the largest number of keys; -1 for no limit.

    Raises: ValueError for more keys than max_size, TypeError for tensors of another dtype.
    """

    def __init__(
        self,
        device: torch.device | str,
        key_dtype: torch.dtype,
        value_dtype: torch.dtype,
        max_size: int = -1,
    ) -> None:
        if key_dtype not in (torch.int32, torch.int64):
            raise TypeError(f"HashTable: key_dtype must be int32 or int64, got {key_dtype}")
        self.key_dtype, self.value_dtype, self.max_size = key_dtype, value_dtype, max_size
        self.keys = torch.empty(0, dtype=key_dtype, device=device)
        self.values = torch.empty(0, dtype=value_dtype, device=device)

    def _demand(self, keys: Tensor, values: Tensor | None = None) -> None:
        if keys.dtype != self.key_dtype or keys.ndim != 1:
            raise TypeError(
                f"HashTable: keys must be {self.key_dtype} of shape (N,), got {keys.dtype} "
                f"{tuple(keys.shape)}"
            )
        if values is not None and (values.dtype != self.value_dtype or values.shape != keys.shape):
            raise TypeError(
                f"HashTable: values must be {self.value_dtype} of shape {tuple(keys.shape)}, got "
                f"{values.dtype} {tuple(values.shape)}"
            )

    def insert(self, keys: Tensor, values: Tensor | None = None) -> None:
        """Adds keys (N,), or gives them new values (N,); of equal keys the last one counts. Without
        values new keys have 0, and old ones keep theirs."""
        self._demand(keys, values)
        if values is None:
            _, missing = self.query(keys)
            keys = keys[missing]
            values = torch.zeros_like(keys, dtype=self.value_dtype)
        both, given = torch.cat([self.keys, keys]), torch.cat([self.values, values])
        ordered, order = both.sort(stable=True)
        last = torch.ones_like(ordered, dtype=torch.bool)
        last[:-1] = ordered[1:] != ordered[:-1]
        if 0 <= self.max_size < int(last.sum()):
            raise ValueError(
                f"HashTable: {int(last.sum())} keys are more than max_size {self.max_size}"
            )
        self.keys, self.values = ordered[last], given[order][last]

    def query(self, keys: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The values (N,) of keys (N,), and which of them are missing (N,) bool; a missing key has
        value 0. Writes into `values` where that is given."""
        self._demand(keys, values)
        found = torch.zeros_like(keys, dtype=self.value_dtype)
        missing = torch.ones_like(keys, dtype=torch.bool)
        if len(self.keys):
            place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
            missing = self.keys[place] != keys
            found = torch.where(missing, found, self.values[place])
        if values is not None:
            found = values.copy_(found)
        return found, missing

    def insert_exist_keys(self, keys: Tensor, values: Tensor) -> Tensor:
        """Gives new values to keys that are there; uint8 (N,), 1 where a key is not."""
        self._demand(keys, values)
        _, missing = self.query(keys)
        self.insert(keys[~missing], values[~missing])
        return missing.to(torch.uint8)

    def assign_arange_(self) -> Tensor:
        """Numbers the keys in their order from 0 on; returns how many there are, int64 (1,)."""
        self.values = torch.arange(len(self.keys), device=self.keys.device).to(self.value_dtype)
        return torch.tensor([len(self.keys)], device=self.keys.device)

    def items(self, max_size: int = -1) -> tuple[Tensor, Tensor, Tensor]:
        """Keys in order, their values, and their number int64 (1,)."""
        keys, values = self.keys, self.values
        if max_size >= 0:
            keys, values = keys[:max_size], values[:max_size]
        return keys.clone(), values.clone(), torch.tensor([len(keys)], device=keys.device)
