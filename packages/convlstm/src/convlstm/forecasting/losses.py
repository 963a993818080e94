"""What training minimises, of forecasts and truth (..., H, W, C) in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

# Weights by intensity (Shi et al. 2017, arXiv 1706.03458, section 4.2): 1, 2, 5, 10 and 30 from 2,
# 5, 10 and 30 mm/h on, which that paper's Z = 58.53 R^1.56 and [-10, 60] dBZ put at these values.
_BALANCED = ((0.463, 1.0), (0.551, 3.0), (0.618, 5.0), (0.725, 20.0))


def bce(prediction: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy; Keras clips probabilities at its epsilon."""
    return F.binary_cross_entropy(prediction.clamp(1e-7, 1 - 1e-7), truth)


def edges(prediction: Tensor, truth: Tensor) -> Tensor:
    """Squared error and the absolute difference of gradients between neighbouring pixels (Mathieu
    et al. 2016, arXiv 1511.05440, section 3.2, alpha 1), weighted alike."""
    loss = F.mse_loss(prediction, truth)
    for axis in (-3, -2):
        p, t = prediction.diff(dim=axis).abs(), truth.diff(dim=axis).abs()
        loss = loss + (p - t).abs().mean() / 2
    return loss


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Squared error and 0.1 (1 - structural similarity) (Wang et al. 2004; windows of 7x7 with
    equal weights, range 1); frames of less than 7x7 have one window."""
    p, t = (x.movedim(-1, -3).flatten(0, -3).unsqueeze(1) for x in (prediction, truth))
    window = min(7, *p.shape[-2:])

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, 1)

    a, b = mean(p), mean(t)
    var_a, var_b, both = mean(p * p) - a * a, mean(t * t) - b * b, mean(p * t) - a * b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * a * b + c1) * (2 * both + c2) / ((a * a + b * b + c1) * (var_a + var_b + c2))
    return F.mse_loss(prediction, truth) + 0.1 * (1 - similarity.mean())


def balanced(prediction: Tensor, truth: Tensor) -> Tensor:
    """Squared and absolute error with more weight where it rains more (Shi et al. 2017): for dBZ
    scaled from [-10, 60]."""
    weight = torch.ones_like(truth)
    for threshold, more in _BALANCED:
        weight = weight + more * (truth >= threshold)
    error = prediction - truth
    return (weight * (error.square() + error.abs())).mean()


LOSSES: dict[str, Loss] = {
    "mae": F.l1_loss,
    "mse": F.mse_loss,
    "bce": bce,
    "edges": edges,
    "ssim": ssim,
    "balanced": balanced,
}


def where_known(loss: Loss, prediction: Tensor, truth: Tensor) -> Tensor:
    """The loss over what is known: where the truth is missing (NaN) the prediction counts as right,
    and gets no gradient; the mean is that of the known pixels."""
    missing = truth.isnan()
    if not missing.any():
        return loss(prediction, truth)
    known = missing.numel() - int(missing.sum())
    filled = torch.where(missing, prediction.detach(), truth)
    return loss(prediction, filled) * (missing.numel() / max(1, known))


def filled(frames: Tensor) -> Tensor:
    """Frames (B, T, ...) with the last known value of each pixel where one is missing (NaN), 0
    where none came before."""
    if not frames.isnan().any():
        return frames
    steps = []
    before = torch.zeros_like(frames[:, 0])
    for frame in frames.unbind(1):
        before = torch.where(frame.isnan(), before, frame)
        steps.append(before)
    return torch.stack(steps, 1)
