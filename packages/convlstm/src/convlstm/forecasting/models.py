"""The examples' models, by the names of their presets."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..keras.layers import BatchNorm, Conv
from ..keras.model import (
    GraphModel,
    KerasModel,
    SequenceModel,
    build_layer,
    from_config,
    from_keras_file,
    load_keras,
    load_keras_weights,
    save_keras,
)
from ..layers.layer import LAYERS
from ..layers.stack import Bidirectional
from ..layers.state import detach
from .rollout import horizon

__all__ = [
    "PRESETS",
    "GraphModel",
    "KerasModel",
    "SequenceModel",
    "build_layer",
    "detach",
    "from_config",
    "from_keras_file",
    "load_keras",
    "load_keras_weights",
    "next_frame",
    "parameter_count",
    "save_keras",
    "sees_ahead",
]

# (filters, kernel, activation) of each ConvLSTM, how many of them a BatchNorm follows, and the
# kernel of the Conv3D head in Keras' own example, which spans three steps: there all outputs but
# the last see the frame that they predict. Every other model here has a head of one step.
PRESETS: dict[str, dict[str, Any]] = {
    "seed": {"layers": [(40, 3, "tanh")] * 4, "norms": 4, "head": 3, "size": (40, 40)},
    "moving-mnist": {
        "layers": [(64, 5, "relu"), (64, 3, "relu"), (64, 1, "relu")],
        "norms": 2,
        "head": 3,
        "size": (64, 64),
    },
    "small": {
        "layers": [(16, 5, "tanh"), (16, 5, "tanh")],
        "norms": 0,
        "head": (1, 3, 3),
        "size": (32, 32),
    },
}


def next_frame(
    preset: str = "seed",
    *,
    size: tuple[int | None, int | None] | None = None,
    channels: int = 1,
    filters: int | None = None,
    colour: bool = False,
    keras_example: bool = False,
) -> SequenceModel:
    """Next-frame models: (B, T, H, W, C) in [0, 1] to the frame after each step, from it and those
    before it alone.

    preset: "seed" has the body of Keras' original example (4 x [ConvLSTM2D(40, 3x3, same) +
    BatchNorm]), "moving-mnist" that of 2021 (64 filters 5x5, 3x3, 1x1, relu), "small" two layers of
    16 filters 5x5 without BatchNorm, which learn in minutes on a processor.
    keras_example: the head that Keras' examples have, Conv3D over 3x3x3 instead of 1x3x3. It looks
    one step ahead: output t sees frame t+1, the very frame that it is to predict. Its training and
    one-step numbers are many times better than its forecasts; it is here to be compared with Keras.
    size: (H, W); by default the preset's own. filters: in place of the preset's.
    colour: the last layer gives its last step alone and the head is a Conv2D with 3 channels:
    (B, T, H, W, 3) to the one next frame (B, H, W, 3).
    """
    if preset not in PRESETS:
        raise ValueError(f"next_frame: preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    plan = PRESETS[preset]
    if keras_example and (colour or plan["head"] == (1, 3, 3)):
        raise ValueError(
            "next_frame: keras_example is of the presets seed and moving-mnist without colour; "
            f"the head of {preset}{' in colour' if colour else ''} sees no frame ahead"
        )
    channels = 3 if colour else channels
    h, w = plan["size"] if size is None else size
    layers: list[nn.Module] = []
    names: list[str] = []
    width = channels
    count = len(plan["layers"])
    for k, (own, kernel, activation) in enumerate(plan["layers"]):
        last = k == count - 1
        out = filters or own
        layers.append(
            LAYERS[2](
                width,
                out,
                kernel,
                padding="same",
                data_format="channels_last",
                activation=activation,
                return_sequences=not (last and colour),
            )
        )
        names.append("conv_lstm2d" + (f"_{k}" if k else ""))
        width = out
        if k < plan["norms"]:
            layers.append(BatchNorm(out))
            names.append("batch_normalization" + (f"_{k}" if k else ""))
    head = plan["head"] if keras_example else (1, 3, 3)
    rank, kernel = (2, 3) if colour else (3, head)
    layers.append(Conv(rank, width, channels, kernel, padding="same", activation="sigmoid"))
    names.append(f"conv{rank}d")
    return SequenceModel(layers, names, (None, None, h, w, channels))


def sees_ahead(model: nn.Module) -> list[str]:
    """Names of the layers in a chain through which an output sees frames after its own: trained on
    the frames after each step, such a model is shown the answers."""
    found, gone = [], False
    if horizon(model):  # its outputs lie beyond all that it is given
        return found
    for layer, name in zip(getattr(model, "layers", ()), getattr(model, "names", ()), strict=True):
        if isinstance(layer, Conv) and layer.rank == 3 and layer.channels_last and not gone:
            if layer.kernel_size[0] > 1 and layer.padding == "same":
                found.append(name)
        elif getattr(layer, "go_backwards", False) or isinstance(layer, Bidirectional):
            found.append(name)
        gone = gone or getattr(layer, "return_sequences", True) is False
    return found


def parameter_count(model: nn.Module) -> int:
    """Parameters and moving statistics, as Keras counts them."""
    return sum(t.numel() for t in [*model.parameters(), *model.buffers()])
