"""The activations of an MLP by name.

A gated one (Dauphin et al., 2017; Shazeer, 2020, arXiv 2002.05202) takes two halves of its input,
the gate first: activation(gate) * other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .ops import gate


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


# name: (whether it is gated, the function)
ACTIVATIONS: dict[str, tuple[bool, Callable[[torch.Tensor], torch.Tensor]]] = {
    "gelu": (False, F.gelu),
    "gelu_tanh": (False, _gelu_tanh),
    "relu": (False, F.relu),
    "silu": (False, F.silu),
    "swiglu": (True, F.silu),
    "geglu": (True, F.gelu),
    "geglu_tanh": (True, _gelu_tanh),
    "reglu": (True, F.relu),
}


def is_gated(name: str) -> bool:
    """Whether the activation called `name` halves the last dimension."""
    return ACTIVATIONS[name][0]


def activate(x: torch.Tensor, name: str) -> torch.Tensor:
    """The activation called `name`; a gated one halves the last dimension."""
    gated, function = ACTIVATIONS[name]
    if not gated:
        return function(x)
    if name in ("swiglu", "geglu_tanh"):
        return gate(x, gelu=name == "geglu_tanh")
    a, b = x.chunk(2, -1)
    return function(a) * b
