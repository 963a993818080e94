"""Forecasts: a model run on its own output, and the baselines that it has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# How far the measured motion may go between two frames, in pixels.
MAX_SHIFT = 4


@torch.no_grad()
def forecast(model: nn.Module, x: Tensor, steps: int) -> Tensor:
    """The `steps` frames after x (B, T, H, W, C), each from all frames before it.

    The model gives the frame after each of its input frames, or (colour models) the one frame
    after the last. Returns (B, steps, H, W, C); sets eval mode for the time of the call.
    """
    if steps < 1:
        raise ValueError(f"forecast: steps must be at least 1, got {steps}")
    training = model.training
    model.eval()
    try:
        frames = x
        for _ in range(steps):
            y = model(frames)
            frame = y[:, -1:] if y.dim() == x.dim() else y[:, None]
            frames = torch.cat([frames, frame.to(x.dtype)], 1)
    finally:
        model.train(training)
    return frames[:, x.shape[1] :]


def copy_last(x: Tensor, steps: int) -> Tensor:
    """The last frame of x (B, T, H, W, C), `steps` times."""
    return x[:, -1:].expand(-1, steps, *x.shape[2:]).clone()


def shift_last(x: Tensor, steps: int) -> Tensor:
    """The last frame of x (B, T, H, W, C) moved on by its measured motion.

    The motion of a sequence is the whole-pixel shift (at most 4 each way) that best takes its last
    but one frame to its last, in squared error; what enters the frame is black.
    """
    if x.shape[1] < 2:
        raise ValueError(f"shift_last: x must have at least 2 frames, got {x.shape[1]}")
    before, last = x[:, -2], x[:, -1]
    shifts = [
        (dy, dx)
        for dy in range(-MAX_SHIFT, MAX_SHIFT + 1)
        for dx in range(-MAX_SHIFT, MAX_SHIFT + 1)
    ]
    errors = torch.stack([(_moved(before, s) - last).square().mean((1, 2, 3)) for s in shifts])
    best = errors.argmin(0)
    out = []
    for k, frame in enumerate(last):
        dy, dx = shifts[int(best[k])]
        out.append(
            torch.stack([_moved(frame[None], (n * dy, n * dx))[0] for n in range(1, steps + 1)])
        )
    return torch.stack(out)


def _moved(frames: Tensor, shift: tuple[int, int]) -> Tensor:
    """(B, H, W, C) moved by (down, right) pixels; black enters."""
    dy, dx = shift
    h, w = frames.shape[1:3]
    out = torch.zeros_like(frames)
    if abs(dy) < h and abs(dx) < w:
        out[:, max(0, dy) : h + min(0, dy), max(0, dx) : w + min(0, dx)] = frames[
            :, max(0, -dy) : h + min(0, -dy), max(0, -dx) : w + min(0, -dx)
        ]
    return out
