"""Forecasts: a model run on its own output, and the baselines that it has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ..keras.graph import Ref
from ..keras.model import GraphModel
from ..sequence.spec import is_integer
from .streaming import CONVLSTM, Stream, why_not_streamed

# How far the measured motion may go between two frames, in pixels.
MAX_SHIFT = 4


@torch.no_grad()
def forecast(model: nn.Module, x: Tensor, steps: int, *, keep_modes: bool = False) -> Tensor:
    """The `steps` frames after x (B, T, H, W, C), each from all frames before it.

    The model gives the frame after each of its input frames, or (colour models) the one frame
    after the last; a model of many outputs (`horizon`) gives that many at once, from the last
    frames that it takes. Where every output
    follows from the frames before it (`why_not_streamed`), each frame is computed once and the
    states are carried; else the whole history runs again for each step. The sequence starts from
    zero states, and neither the states that stateful layers keep nor any module's training flag
    are changed. keep_modes: as the modules are, in place of eval mode. Returns (B, steps, H, W, C).
    """
    if not is_integer(steps) or steps < 1:
        raise ValueError(f"forecast: steps must be a whole number of at least 1, got {steps!r}")
    if not isinstance(x, Tensor):
        raise TypeError(f"forecast: x must be a tensor, got {type(x).__name__}")
    if x.dim() < 4 or x.shape[1] == 0:
        raise ValueError(f"forecast: x must be (B, T, ..., C) with T >= 1, got {tuple(x.shape)}")
    with nullcontext() if keep_modes else evaluating(model):
        if horizon(model):
            return _blocks_ahead(model, x, steps)
        if why_not_streamed(model) is None:
            stream = Stream(model)
            frames = [_last_frame(stream.steps(x), x)]
            while len(frames) < steps:
                frames.append(_last_frame(stream.steps(frames[-1]), x))
            return torch.cat(frames, 1)
        history = x
        for _ in range(steps):
            with _fresh_states(model):
                history = torch.cat([history, _last_frame(model(history), x)], 1)
    return history[:, x.shape[1] :]


# What a model's last layer is called that gives all frames ahead at once.
FRAMES_AHEAD = "frames_ahead"


def horizon(model: nn.Module) -> int:
    """How many frames after its input a model gives at once; 0 for one that gives the frame after
    each of its input frames.

    A `GraphModel` whose output comes from a layer named "frames_ahead", or any module with an
    attribute `horizon`, which takes `input_shape[1]` frames.
    """
    if isinstance(model, GraphModel):
        out = model.outputs
        named = isinstance(out, Ref) and out.layer == FRAMES_AHEAD
        return model.shapes[out][1] or 0 if named else 0
    return int(getattr(model, "horizon", 0))


def _blocks_ahead(model: nn.Module, x: Tensor, steps: int) -> Tensor:
    """Forecasts of many frames at a time, each block from the frames before it."""
    takes = model.input_shape[1] or x.shape[1]  # type: ignore[union-attr,index]
    if x.shape[1] < takes:
        raise ValueError(f"forecast: the model takes {takes} frames, x has {x.shape[1]}")
    history = x
    while history.shape[1] < x.shape[1] + steps:
        history = torch.cat([history, model(history[:, -takes:]).to(x.dtype)], 1)  # type: ignore[operator]
    return history[:, x.shape[1] : x.shape[1] + steps]


def roll_out(model: nn.Module, x: Tensor, steps: int) -> Tensor:
    """As `forecast`, with gradients and in the model's own mode, for training on one's own output.

    Gives the outputs for all of x and the `steps` - 1 frames after it, (B, T + steps - 1, H, W, C)
    or, of a model that gives the last frame alone, (B, steps, H, W, C).
    """
    if why_not_streamed(model) is None:
        stream = Stream(model)
        y = stream.run(x)
        outputs = [y if y.dim() == x.dim() else y[:, None]]
        for _ in range(steps - 1):
            outputs.append(_last_frame(stream.run(outputs[-1][:, -1:]), x))
        return torch.cat(outputs, 1)
    outputs, history = [], x
    for _ in range(steps):
        outputs.append(_last_frame(model(history), x))
        history = torch.cat([history, outputs[-1]], 1)
    return torch.cat(outputs, 1)


def _last_frame(y: Tensor, x: Tensor) -> Tensor:
    """The frame after the last one, (B, 1, H, W, C), of a model's output for inputs like x."""
    frame = y[:, -1:] if y.dim() == x.dim() else y[:, None]
    if frame.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"forecast: to be run on its own output a model must give frames like its input, "
            f"{tuple(x.shape[2:])}; it gives {tuple(frame.shape[2:])}"
        )
    return frame.to(x.dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; each module's own training flag comes back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _fresh_states(model: nn.Module) -> Iterator[None]:
    """No kept states for a while; those of before come back."""
    layers = [m for m in model.modules() if isinstance(m, CONVLSTM) and m.stateful]
    kept = [(layer, layer._state, layer._batch) for layer in layers]
    for layer in layers:
        layer._state = layer._batch = None
    try:
        yield
    finally:
        for layer, state, batch in kept:
            layer._state, layer._batch = state, batch


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
