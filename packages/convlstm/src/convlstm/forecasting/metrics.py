"""Prediction metrics as the video-prediction literature reports them (OpenSTL's definitions).

All take predictions and truth (B, T, H, W, C) in [0, 1] and return one float.
"""

from __future__ import annotations

from collections.abc import Callable

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
    """Structural similarity as OpenSTL prints it: scikit-image's `structural_similarity` of floats.

    Windows of 7x7 with equal weights inside the frame, unbiased variances, and the range 2 that
    scikit-image takes for floats; averaged over positions, channels and frames.
    """
    _check("ssim", prediction, truth)
    if min(truth.shape[2:4]) < 7:
        raise ValueError(f"ssim: frames must be at least 7x7, got {tuple(truth.shape[2:4])}")
    window = torch.full((1, 1, 7, 7), 1 / 49, dtype=torch.float64)
    return _similarity(prediction, truth, window, data_range=2.0, unbiased=49 / 48)


def ssim_gaussian(prediction: Tensor, truth: Tensor) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window 11x11, sigma 1.5, range 1,
    windows inside the frame only, averaged over positions, channels and frames."""
    _check("ssim_gaussian", prediction, truth)
    if min(truth.shape[2:4]) < 11:
        raise ValueError(
            f"ssim_gaussian: frames must be at least 11x11, got {tuple(truth.shape[2:4])}"
        )
    axis = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-axis.square() / (2 * 1.5**2))
    line /= line.sum()
    window = torch.outer(line, line)[None, None]
    return _similarity(prediction, truth, window, data_range=1.0, unbiased=1.0)


def _similarity(
    prediction: Tensor, truth: Tensor, window: Tensor, data_range: float, unbiased: float
) -> float:
    a, b = (
        t.detach().double().permute(0, 1, 4, 2, 3).reshape(-1, 1, *t.shape[2:4])
        for t in (prediction, truth)
    )

    def mean(t: Tensor) -> Tensor:
        return F.conv2d(t, window.to(t.device))

    mu_a, mu_b = mean(a), mean(b)
    var_a = unbiased * (mean(a * a) - mu_a**2)
    var_b = unbiased * (mean(b * b) - mu_b**2)
    covariance = unbiased * (mean(a * b) - mu_a * mu_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mu_a * mu_b + c1) * (2 * covariance + c2)
    return (top / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))).mean().item()


# Events: what lies at or above a threshold (Wilks 2011, chapter 8; Roberts & Lean 2008 for FSS).


def contingency(prediction: Tensor, truth: Tensor, threshold: float) -> dict[str, int]:
    """hits, misses, false_alarms and rejections of values at or above the threshold."""
    _check("contingency", prediction, truth)
    p, t = prediction >= threshold, truth >= threshold
    pairs = {"hits": p & t, "misses": ~p & t, "false_alarms": p & ~t, "rejections": ~p & ~t}
    return {name: int(cells.sum()) for name, cells in pairs.items()}


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else float("nan")


def csi(prediction: Tensor, truth: Tensor, threshold: float) -> float:
    """Critical success index: hits / (hits + misses + false alarms); NaN without any event."""
    n = contingency(prediction, truth, threshold)
    return _ratio(n["hits"], n["hits"] + n["misses"] + n["false_alarms"])


def pod(prediction: Tensor, truth: Tensor, threshold: float) -> float:
    """Probability of detection: hits / (hits + misses)."""
    n = contingency(prediction, truth, threshold)
    return _ratio(n["hits"], n["hits"] + n["misses"])


def far(prediction: Tensor, truth: Tensor, threshold: float) -> float:
    """False alarm ratio: false alarms / (hits + false alarms)."""
    n = contingency(prediction, truth, threshold)
    return _ratio(n["false_alarms"], n["hits"] + n["false_alarms"])


def hss(prediction: Tensor, truth: Tensor, threshold: float) -> float:
    """Heidke skill score: 2 (ad - bc) / ((a + c)(c + d) + (a + b)(b + d))."""
    n = contingency(prediction, truth, threshold)
    a, b, c, d = n["hits"], n["false_alarms"], n["misses"], n["rejections"]
    return _ratio(2 * (a * d - b * c), (a + c) * (c + d) + (a + b) * (b + d))


def fss(prediction: Tensor, truth: Tensor, threshold: float, window: int = 5) -> float:
    """Fractions skill score over windows of `window` x `window` pixels (zeros outside)."""
    _check("fss", prediction, truth)
    p, t = (
        F.avg_pool2d(
            (x >= threshold).double().permute(0, 1, 4, 2, 3).flatten(0, 2).unsqueeze(1),
            window, 1, window // 2,
        )
        for x in (prediction, truth)
    )  # fmt: skip
    return 1 - _ratio((p - t).square().sum().item(), (p * p + t * t).sum().item())


def crps(members: Tensor, truth: Tensor) -> float:
    """Continuous ranked probability score of an ensemble (M, B, T, H, W, C): the mean of
    |member - truth| less half the mean |member - member'| (Gneiting & Raftery 2007, eq. 21)."""
    for member in members:
        _check("crps", member, truth)
    error = (members - truth).abs().mean().item()
    spread = (members.unsqueeze(0) - members.unsqueeze(1)).abs().mean().item()
    return error - spread / 2


def spread(members: Tensor) -> float:
    """How far the members of an ensemble (M, B, T, H, W, C) lie apart: the root of the mean of
    their variance, unbiased (Fortin et al. 2014, eq. 15). A reliable ensemble has that of the root
    mean squared error of its mean, times sqrt(M / (M + 1))."""
    if members.dim() != 6 or members.shape[0] < 2:
        raise ValueError(
            f"spread: members must be (M, B, T, H, W, C) with M >= 2, got {tuple(members.shape)}"
        )
    return members.var(0, unbiased=True).mean().sqrt().item()


def by_lead_time(
    metric: Callable[[Tensor, Tensor], float], prediction: Tensor, truth: Tensor
) -> list[float]:
    """A metric of each forecast frame by itself: t+1, t+2, ..."""
    return [metric(prediction[:, k : k + 1], truth[:, k : k + 1]) for k in range(truth.shape[1])]


METRICS = {"mse": mse, "mae": mae, "ssim": ssim, "psnr": psnr}


def all_metrics(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """Every metric by its name; ssim is left out for frames smaller than its window."""
    small = min(truth.shape[2:4]) < 7
    return {n: f(prediction, truth) for n, f in METRICS.items() if not (small and n == "ssim")}
