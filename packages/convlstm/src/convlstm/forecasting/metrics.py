"""Prediction metrics as the video-prediction literature reports them (OpenSTL's definitions).

All take predictions and truth (B, T, H, W, C) in [0, 1] and return one float.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _check(name: str, prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape != truth.shape or truth.dim() != 5:
        raise ValueError(
            f"{name}: prediction and truth must have one shape (B, T, H, W, C), got "
            f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
        )


def mse(prediction: Tensor, truth: Tensor) -> float:
    """Squared error summed over a frame, averaged over frames."""
    _check("mse", prediction, truth)
    return (prediction - truth).square().mean((0, 1)).sum().item()


def mae(prediction: Tensor, truth: Tensor) -> float:
    """Absolute error summed over a frame, averaged over frames."""
    _check("mae", prediction, truth)
    return (prediction - truth).abs().mean((0, 1)).sum().item()


def psnr(prediction: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB for the peak 1, averaged over frames; at most 100."""
    _check("psnr", prediction, truth)
    error = (prediction - truth).square().mean((2, 3, 4)).clamp_min(1e-10)
    return (-10 * error.log10()).mean().item()


def ssim(prediction: Tensor, truth: Tensor) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window 11x11, sigma 1.5, range 1,
    windows inside the frame only, averaged over positions, channels and frames."""
    _check("ssim", prediction, truth)
    if min(truth.shape[2:4]) < 11:
        raise ValueError(f"ssim: frames must be at least 11x11, got {tuple(truth.shape[2:4])}")
    axis = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-axis.square() / (2 * 1.5**2))
    line /= line.sum()
    window = torch.outer(line, line)[None, None]
    a, b = (
        t.detach().double().permute(0, 1, 4, 2, 3).reshape(-1, 1, *t.shape[2:4])
        for t in (prediction, truth)
    )

    def mean(t: Tensor) -> Tensor:
        return F.conv2d(t, window.to(t.device))

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
    covariance = mean(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mu_a * mu_b + c1) * (2 * covariance + c2)
    return (top / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))).mean().item()


METRICS = {"mse": mse, "mae": mae, "ssim": ssim, "psnr": psnr}


def all_metrics(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """Every metric by its name; ssim is left out for frames smaller than its window."""
    small = min(truth.shape[2:4]) < 11
    return {n: f(prediction, truth) for n, f in METRICS.items() if not (small and n == "ssim")}
