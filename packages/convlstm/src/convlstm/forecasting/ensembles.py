"""Ensembles of forecasts from one model: its dropout left on, or noise on what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..keras.pointwise import AlphaDropout, Dropout, GaussianDropout, GaussianNoise
from .rollout import evaluating, forecast

RANDOM = (AlphaDropout, Dropout, GaussianDropout, GaussianNoise, nn.Dropout)


@torch.no_grad()
def ensemble(
    model: nn.Module, x: Tensor, steps: int, members: int = 8, *, noise: float = 0.0, seed: int = 0
) -> Tensor:
    """`members` forecasts of the `steps` frames after x (B, T, H, W, C): (M, B, steps, H, W, C).

    Each has its own dropout masks (Gal & Ghahramani 2016, arXiv 1506.02142), drawn in the layers
    that stand beside the ConvLSTM; all else is in eval mode. noise: standard deviation of Gaussian
    noise on the given frames, beside or in place of dropout. seed: the same seed gives the same
    members; torch's random state is left as it was. Raises ValueError where nothing is random.
    """
    random = [m for m in model.modules() if isinstance(m, RANDOM)]
    if members < 2:
        raise ValueError(f"ensemble: members must be at least 2, got {members}")
    if not random and noise <= 0:
        raise ValueError(
            "ensemble: the model has no dropout and noise is 0: all members would be one; give "
            "noise, or a model with dropout (forecaster(dropout=0.1))"
        )
    out = []
    with torch.random.fork_rng(devices=[]), evaluating(model), _left_on(random):
        torch.manual_seed(seed)
        for _ in range(members):
            given = x + noise * torch.randn_like(x) if noise > 0 else x
            out.append(forecast(model, given, steps, keep_modes=True))
    return torch.stack(out)


@contextmanager
def _left_on(layers: list[nn.Module]) -> Iterator[None]:
    for layer in layers:
        layer.training = True
    yield
