"""Activation functions by their Keras names, with Keras' definitions.

`hard_sigmoid` changed its slope: Keras 3 has clip(x/6 + 1/2), Keras 2 had clip(x/5 + 1/2); the old
one is called `hard_sigmoid_keras2` here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: torch.clamp(x / 6 + 0.5, 0, 1),
    "hard_sigmoid_keras2": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "silu": F.silu,
    "gelu": F.gelu,
    "exponential": torch.exp,
    "mish": F.mish,
    "hard_tanh": F.hardtanh,
    "hard_silu": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    "log_sigmoid": F.logsigmoid,
    "tanh_shrink": F.tanhshrink,
}
ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "exp": "exponential"}

# What the native gate kernels know, and the code that they know it by.
NATIVE_CODES = {
    "linear": 0,
    "tanh": 1,
    "sigmoid": 2,
    "hard_sigmoid": 3,
    "hard_sigmoid_keras2": 4,
    "relu": 5,
}

# Which of them have kernels, as `activation` and as `recurrent_activation`: `with_activations` in
# csrc/core/gates.h has the same.
NATIVE_ACTIVATIONS = ("tanh", "relu", "linear", "sigmoid")
NATIVE_RECURRENT = ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2")


def activation_name(name: str | None) -> str:
    """The name as it is kept here; None is "linear", "swish" is "silu"."""
    if name is None:
        return "linear"
    return ALIASES.get(name, name)


def resolve_activation(name: str | None) -> Callable[[Tensor], Tensor]:
    """The function of a Keras activation name. Raises ValueError for a name that is not known."""
    try:
        return ACTIVATIONS[activation_name(name)]
    except (KeyError, TypeError):
        known = ", ".join(sorted(ACTIVATIONS))
        raise ValueError(f"activation must be one of {known}, got {name!r}") from None
