"""The states that layers give and keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = tuple[Tensor, Tensor]


def detach(state: Any) -> Any:
    """A state, or any nesting of tuples, lists and dicts of states, cut from its graph."""
    if isinstance(state, torch.Tensor):
        return state.detach()
    if isinstance(state, Mapping):
        return {k: detach(v) for k, v in state.items()}
    if isinstance(state, tuple | list):
        return type(state)(detach(v) for v in state)
    return state
