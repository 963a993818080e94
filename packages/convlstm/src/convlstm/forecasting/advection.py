"""Extrapolation of radar echoes along their motion: the baseline of rain nowcasting.

Motion by Lucas & Kanade's local least squares (1981), coarse to fine with warping (Bouguet 2001),
over the whole frame; the last frame is carried along it by the backward semi-Lagrangian scheme
(Germann & Zawadzki 2002, section 3b), as pysteps does it (Pulkkinen et al. 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS, ROUNDS = 3, 3
# Standard deviation of the window in which motion is constant, in pixels of each level.
WINDOW = 3.0


@torch.no_grad()
def advect_last(x: Tensor, steps: int) -> Tensor:
    """The last frame of x (B, T, H, W, C) carried along its optical flow, (B, steps, H, W, C).

    The flow is that of the last three frames (of two where there are no more), of the mean over
    channels. What enters the frame is 0. Raises ValueError for fewer than 2 frames.
    """
    if x.shape[1] < 2:
        raise ValueError(f"advect_last: x must have at least 2 frames, got {x.shape[1]}")
    grey = x[:, -3:].mean(-1)
    flow = optical_flow(grey)
    last = x[:, -1].movedim(-1, 1)
    moved = torch.zeros_like(flow)
    out = []
    for _ in range(steps):
        # where the echo was: a step further back from where it was a step ago
        moved = moved + _sampled(flow, moved, "border")
        out.append(_sampled(last, moved, "zeros").movedim(1, -1))
    return torch.stack(out, 1)


def optical_flow(frames: Tensor) -> Tensor:
    """Motion (B, 2, H, W), down and right in pixels a frame, of frames (B, T, H, W), T >= 2."""
    pairs = [(frames[:, k : k + 1], frames[:, k + 1 : k + 2]) for k in range(frames.shape[1] - 1)]
    smallest = min(frames.shape[-2:])
    levels = max(1, min(LEVELS, int(smallest / 8).bit_length()))
    flow = frames.new_zeros(frames.shape[0], 2, *frames.shape[-2:])
    for level in reversed(range(levels)):
        scale = 2**level
        size = [max(1, n // scale) for n in frames.shape[-2:]]
        ratio = flow.new_tensor([s / n for s, n in zip(size, flow.shape[-2:], strict=True)])
        flow = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
        flow = flow * ratio.view(1, 2, 1, 1)
        small = [[F.adaptive_avg_pool2d(f, size) for f in pair] for pair in pairs]
        for _ in range(ROUNDS):
            flow = _refined(small, flow)
    return flow


def _refined(pairs: list[list[Tensor]], flow: Tensor) -> Tensor:
    """One round of least squares over windows: the flow that takes each first frame to its
    second."""
    sums: list[Tensor] = []
    for before, after in pairs:
        warped = _sampled(before, flow, "border")
        mean = (warped + after) / 2
        d_y, d_x = _slope(mean, 2), _slope(mean, 3)
        d_t = after - warped
        parts = torch.cat([d_y * d_y, d_y * d_x, d_x * d_x, d_y * d_t, d_x * d_t], 1)
        sums.append(parts)
    yy, yx, xx, yt, xt = _blurred(torch.stack(sums).sum(0), WINDOW).unbind(1)
    weight = 1e-3 * (yy + xx).mean((1, 2), keepdim=True) + 1e-8  # keeps flat places where they are
    yy, xx = yy + weight, xx + weight
    determinant = yy * xx - yx * yx
    step = torch.stack([(yx * xt - xx * yt), (yx * yt - yy * xt)], 1) / determinant.unsqueeze(1)
    return _blurred(flow + step.clamp(-1, 1), WINDOW / 2)


def _slope(x: Tensor, axis: int) -> Tensor:
    """Central differences, one-sided at the borders."""
    n = x.shape[axis]
    padded = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, n - 1, 1)], axis)
    return (padded.narrow(axis, 2, n) - padded.narrow(axis, 0, n)) / 2


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian mean over windows of 2 sigma each way, of what lies in the frame."""
    radius = max(1, round(2 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=x.dtype) / sigma) ** 2)
    ones = x.new_ones(1, 1, *x.shape[-2:])
    out = []
    for part in (x.flatten(0, 1).unsqueeze(1), ones):
        part = F.conv2d(part, line.view(1, 1, -1, 1), padding=(radius, 0))
        out.append(F.conv2d(part, line.view(1, 1, 1, -1), padding=(0, radius)))
    return (out[0] / out[1]).view_as(x)


def _sampled(x: Tensor, back: Tensor, outside: str) -> Tensor:
    """x (B, C, H, W) at each pixel less `back` (B, 2, H, W), between pixels linearly."""
    h, w = x.shape[-2:]
    ys = torch.arange(h, dtype=x.dtype).view(1, h, 1) - back[:, 0]
    xs = torch.arange(w, dtype=x.dtype).view(1, 1, w) - back[:, 1]
    grid = torch.stack([(2 * xs + 1) / w - 1, (2 * ys + 1) / h - 1], -1)
    return F.grid_sample(x, grid, padding_mode=outside, align_corners=False)
