"""Forecasters of many frames at once: a ConvLSTM reads what was given, a U-Net draws what follows.

Direct multi-output forecasting: no frame is made from a forecast one, so that errors do not feed on
themselves. The recurrent part is Shi et al.'s encoder (2015, arXiv 1506.04214); in place of their
unrolled decoder one pass of convolutions at two scales gives all frames, as in SimVP (Gao et al.
2022, arXiv 2206.05099). All layers are Keras': such a model goes to Keras files and back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..keras.builder import GraphBuilder
from ..keras.graph import Ref
from ..keras.model import GraphModel
from .rollout import FRAMES_AHEAD


def forecaster(
    size: Sequence[int] = (24, 24),
    *,
    given: int = 8,
    ahead: int = 8,
    channels: int = 1,
    filters: int = 16,
    width: int = 64,
    blocks: int = 3,
    dropout: float = 0.0,
) -> GraphModel:
    """A model of frames (B, given, H, W, C) in [0, 1] to the `ahead` frames after them, at once.

    Frames are cut into patches of 2x2 (a strided convolution), a ConvLSTM of `filters` reads them,
    and its last states with the last two frames go through convolutions at a half (`width`) and a
    quarter (2 `width`) of the size, `blocks` residual blocks deep. dropout: in those blocks, for
    `ensemble`. The output is linear: clamp it to [0, 1] to show it. Raises ValueError for a size
    that is no multiple of 4 and for fewer than 2 given frames.
    """
    h, w = size
    if h % 4 or w % 4 or min(h, w) < 4:
        raise ValueError(f"forecaster: size must be multiples of 4, got {tuple(size)}")
    if given < 2 or ahead < 1:
        raise ValueError(
            f"forecaster: given must be at least 2 and ahead at least 1, got {given} and {ahead}"
        )
    g = GraphBuilder()
    frames = g.input((None, given, h, w, channels))
    patches = g.add(
        "Conv3D", frames, "patches", filters=8 * channels, kernel_size=[1, 2, 2],
        strides=[1, 2, 2], kernel_initializer="orthogonal",
    )  # fmt: skip
    _, hidden, cell = g.add(
        "ConvLSTM2D", patches, "memory", filters=filters, kernel_size=3, padding="same",
        return_state=True,
    )  # fmt: skip
    last = g.add("Cropping3D", patches, cropping=[[given - 2, 0], [0, 0], [0, 0]])
    last = g.add("Permute", last, dims=[2, 3, 1, 4])
    last = g.add("Reshape", last, target_shape=[h // 2, w // 2, 16 * channels])
    state = g.add("Concatenate", [last, hidden, cell])
    fine = _convolved(g, state, width, "relu")
    coarse = _convolved(g, fine, 2 * width, "relu", strides=2)
    for _ in range(blocks):
        coarse = _residual(g, coarse, 2 * width, dropout)
    coarse = g.add("Activation", coarse, activation="relu")
    up = g.add(
        "Conv2DTranspose", coarse, filters=width, kernel_size=2, strides=2, activation="relu"
    )
    fine = _convolved(g, g.add("Concatenate", [up, fine]), width, "relu")
    out = g.add("Conv2DTranspose", fine, filters=ahead * channels, kernel_size=4, strides=2,
                padding="same")  # fmt: skip
    out = g.add("Reshape", out, target_shape=[h, w, ahead, channels])
    return g.model(g.add("Permute", out, FRAMES_AHEAD, dims=[3, 1, 2, 4]))


def _convolved(g: GraphBuilder, x: Ref, filters: int, activation: str, strides: int = 1) -> Ref:
    return g.add(
        "Conv2D", x, filters=filters, kernel_size=3, strides=strides, padding="same",
        activation=activation, kernel_initializer="he_normal",
    )  # fmt: skip


def _residual(g: GraphBuilder, x: Ref, filters: int, dropout: float) -> Ref:
    """x + two convolutions of it, the second from zero: at first the block is not there."""
    y = _convolved(g, g.add("Activation", x, activation="relu"), filters, "relu")
    if dropout:
        y = g.add("Dropout", y, rate=dropout)
    y = g.add("Conv2D", y, filters=filters, kernel_size=3, padding="same")
    with torch.no_grad():
        g.layers[y.layer].weight.zero_()  # type: ignore[operator,union-attr]
    return g.add("Add", [x, y])
