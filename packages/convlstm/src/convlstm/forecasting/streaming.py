"""Frame by frame: a chain of layers that carries its states instead of seeing its past again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..keras import layers as L
from ..keras import pooling, shapes
from ..keras.model import SequenceModel
from ..layers.layer import ConvLSTM1d, ConvLSTM2d, ConvLSTM3d

CONVLSTM = (ConvLSTM1d, ConvLSTM2d, ConvLSTM3d)
# Layers that treat each position of the time axis alike, in eval mode, whatever their options.
_POINTWISE = (
    L.Activation, L.AlphaDropout, L.Dropout, L.ELU, L.GaussianDropout, L.GaussianNoise,
    L.Identity, L.LeakyReLU, L.ReLU, L.Rescaling, L.TimeDistributed, L.Dense,
)  # fmt: skip


def _is_framewise(layer: nn.Module) -> bool:
    """Whether an output (B, T, ...) at a time follows from the input at that time alone."""
    if isinstance(layer, _POINTWISE):
        return True
    if isinstance(layer, L.BatchNorm):
        return layer.axis not in (0, 1)
    if isinstance(layer, L.LayerNorm):
        return not {0, 1} & set(layer.axes)
    if isinstance(layer, L.Conv) and layer.rank == 3 and layer.channels_last:
        return layer.kernel_size[0] == layer.stride[0] == 1
    if isinstance(layer, pooling._Pooling) and layer.rank == 3 and layer.channels_last:
        return layer.pool_size[0] == layer.strides[0] == 1
    if isinstance(layer, shapes.UpSampling) and layer.rank == 3 and layer.channels_last:
        return layer.size[0] == 1
    if isinstance(layer, shapes.ZeroPadding | shapes.Cropping) and layer.rank == 3:
        return layer.channels_last and layer.pairs[0] == (0, 0)
    return False


def why_not_streamed(model: nn.Module) -> str | None:
    """What keeps a model from running frame by frame; None if nothing does."""
    if not isinstance(model, SequenceModel):
        return "only chains of layers are streamed"
    gone = False  # the time axis: behind a layer that gives its last output alone
    for layer, name in zip(model.layers, model.names, strict=True):
        if gone:
            continue
        if isinstance(layer, CONVLSTM):
            if layer.go_backwards or layer.return_state:
                return f"{name} goes backwards or gives its states"
            gone = not layer.return_sequences
        elif not _is_framewise(layer):
            return f"{name} looks at several frames at once"
    return None


class Stream:
    """A model frame by frame: `for frame in camera: ahead = stream.step(frame)`.

    The states start from zeros and live here; the model, which should be in eval mode, is not
    changed. `states` has (h, c) for each ConvLSTM layer, in order. Raises ValueError for a model
    that looks at several frames at once.
    """

    def __init__(self, model: nn.Module) -> None:
        reason = why_not_streamed(model)
        if reason is not None:
            raise ValueError(f"Stream: the model cannot run frame by frame: {reason}")
        self.model = model
        self.states: dict[int, Any] = {}

    @torch.no_grad()
    def step(self, frame: Tensor) -> Tensor:
        """One frame (B, H, W, C) to the model's output for it, (B, H, W, C')."""
        out = self.steps(frame.unsqueeze(1))
        return out[:, 0] if out.dim() == frame.dim() + 1 else out

    @torch.no_grad()
    def steps(self, frames: Tensor) -> Tensor:
        """Several frames (B, T, H, W, C) to the outputs for them, as the model would give them."""
        return self.run(frames)

    def run(self, frames: Tensor) -> Tensor:
        """As `steps`, with gradients through all that came before."""
        x = frames
        for k, layer in enumerate(self.model.layers):
            if isinstance(layer, CONVLSTM):
                x, self.states[k] = layer.run(x, self.states.get(k), keep=False)
            else:
                x = layer(x)
        return x

    def reset(self) -> None:
        """Forgets the states: the next frame is the first."""
        self.states.clear()
