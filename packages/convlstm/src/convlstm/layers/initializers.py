"""Keras' weight initialisers on weights in Keras' layout (k..., in, out).

Fans follow Keras: the receptive field times the last-but-one axis (in) and the last axis (out).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

# Standard deviation of a unit normal truncated at two of its deviations (Keras' constant).
TRUNCATED_STD = 0.87962566103423978

Initializer = str | Mapping[str, Any] | Callable[..., Tensor]


def _fans(shape: Sequence[int]) -> tuple[float, float]:
    if len(shape) < 2:
        return float(shape[0]), float(shape[0])
    field = math.prod(shape[:-2])
    return float(field * shape[-2]), float(field * shape[-1])


def _variance_scaling(
    shape: Sequence[int], scale: float = 1.0, mode: str = "fan_in", distribution: str = "normal"
) -> Tensor:
    fan_in, fan_out = _fans(shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    variance = scale / max(1.0, fan)
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return torch.empty(*shape).uniform_(-limit, limit)
    if distribution == "untruncated_normal":
        return torch.randn(*shape) * math.sqrt(variance)
    return _truncated(shape, std=math.sqrt(variance) / TRUNCATED_STD)


def _truncated(shape: Sequence[int], mean: float = 0.0, std: float = 0.05) -> Tensor:
    out = torch.empty(*shape)
    return torch.nn.init.trunc_normal_(out, mean, std, mean - 2 * std, mean + 2 * std)


def _orthogonal(shape: Sequence[int], gain: float = 1.0) -> Tensor:
    rows, cols = math.prod(shape[:-1]), shape[-1]
    q, r = torch.linalg.qr(torch.randn(max(rows, cols), min(rows, cols)))
    q = q * torch.sign(torch.diagonal(r))
    if rows < cols:
        q = q.T
    return (gain * q).reshape(*shape)


def _scaling(scale: float, mode: str, distribution: str) -> Callable[..., Tensor]:
    return lambda shape: _variance_scaling(shape, scale, mode, distribution)


INITIALIZERS: dict[str, Callable[..., Tensor]] = {
    "zeros": lambda shape: torch.zeros(*shape),
    "ones": lambda shape: torch.ones(*shape),
    "constant": lambda shape, value=0.0: torch.full(tuple(shape), float(value)),
    "glorot_uniform": _scaling(1.0, "fan_avg", "uniform"),
    "glorot_normal": _scaling(1.0, "fan_avg", "normal"),
    "he_uniform": _scaling(2.0, "fan_in", "uniform"),
    "he_normal": _scaling(2.0, "fan_in", "normal"),
    "lecun_uniform": _scaling(1.0, "fan_in", "uniform"),
    "lecun_normal": _scaling(1.0, "fan_in", "normal"),
    "variance_scaling": _variance_scaling,
    "orthogonal": _orthogonal,
    "random_normal": lambda shape, mean=0.0, stddev=0.05: torch.randn(*shape) * stddev + mean,
    "random_uniform": lambda shape, minval=-0.05, maxval=0.05: torch.empty(*shape).uniform_(
        minval, maxval
    ),
    "truncated_normal": lambda shape, mean=0.0, stddev=0.05: _truncated(shape, mean, stddev),
}
# Keras class names, as a saved configuration writes them.
CLASS_NAMES = {
    "".join(part.capitalize() for part in name.split("_")): name for name in INITIALIZERS
}
# Keras 3.0 to 3.6 called this one after itself.
CLASS_NAMES["OrthogonalInitializer"] = "orthogonal"

_draws = ContextVar("convlstm_draws", default=True)


@contextmanager
def undrawn() -> Iterator[None]:
    """Within this, weights get memory but no values: those that are to be loaded need no drawing,
    nor an initialiser that is known here."""
    token = _draws.set(False)
    try:
        yield
    finally:
        _draws.reset(token)


def initialize(initializer: Initializer, shape: Sequence[int]) -> Tensor:
    """A new tensor of `shape` (Keras' layout) drawn by a Keras name, a saved config or a callable.

    Raises ValueError for a name that is not known.
    """
    if not _draws.get():
        return torch.empty(*shape)
    if callable(initializer):
        return initializer(tuple(shape))
    options: dict[str, Any] = {}
    name: str
    if not isinstance(initializer, Mapping):
        name = initializer
    else:
        name = initializer["class_name"]
        skip = ("seed", "dtype", "input_axes", "output_axes")
        options = {k: v for k, v in initializer.get("config", {}).items() if k not in skip}
    name = CLASS_NAMES.get(name, name)
    if name not in INITIALIZERS:
        known = ", ".join(sorted(INITIALIZERS))
        raise ValueError(f"initializer must be one of {known}, got {name!r}")
    if name.startswith(("glorot", "he_", "lecun")):
        options = {}
    return INITIALIZERS[name](shape, **options)
