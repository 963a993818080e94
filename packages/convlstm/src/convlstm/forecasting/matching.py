"""Probability matching: a forecast's pattern with the values of what was seen last.

A forecast of least error blurs what it is not sure of, so that strong rain disappears and drizzle
spreads. Each of its frames gets the last observed frame's values by rank (Ebert 2001, Monthly
Weather Review 129, 2461-2480; pysteps' `probmatching_method="cdf"`, Pulkkinen et al. 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .losses import filled


@torch.no_grad()
def matched(forecast: Tensor, given: Tensor) -> Tensor:
    """Frames (B, T, H, W, C) of a forecast, each with the values of the last of the frames `given`
    (B, S, H, W, C) in the order of its own: same shape, dtype of `given`.

    The largest value of a frame becomes the largest that was seen, and so on, channel by channel:
    areas above a threshold stay what they were. Better scores at thresholds (CSI) where a forecast
    is unsure, more squared error. Give the forecast as the model made it: clamped values are alike
    and have no order. Missing values (NaN) of `given` count as the last known ones. Raises
    ValueError for other shapes.
    """
    if forecast.dim() != 5 or given.dim() != 5 or (
        (forecast.shape[0], *forecast.shape[2:]) != (given.shape[0], *given.shape[2:])
    ):  # fmt: skip
        raise ValueError(
            f"matched: forecast and given must be (B, T, H, W, C) that differ in T alone, got "
            f"{tuple(forecast.shape)} and {tuple(given.shape)}"
        )
    ranks = forecast.flatten(2, 3).argsort(dim=2, stable=True).argsort(dim=2)
    values = filled(given)[:, -1:].flatten(2, 3).sort(2).values
    return values.expand(-1, forecast.shape[1], -1, -1).gather(2, ranks).view_as(forecast)
