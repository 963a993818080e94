"""Whole models: chains of layers that Keras reads and writes, and the examples' presets."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .cell import KERAS_CLASSES
from .keras_files import CLASS_SNAKES, KerasFile, KerasLayer, model_config, read_keras, write_keras
from .keras_layers import Activation, BatchNorm, Conv, Dropout, TimeDistributed
from .layers import LAYERS


class SequenceModel(nn.Module):
    """A chain of layers over (B, T, H, W, C), as in Keras' Sequential.

    layers: modules of this package that Keras knows. names: theirs. input_shape: with batch and
    time, None where free: (None, None, 40, 40, 1). Gives what the last layer gives.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        names: Sequence[str],
        input_shape: Sequence[int | None],
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.names = list(names)
        self.input_shape = tuple(input_shape)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def keras_layers(self) -> list[KerasLayer]:
        """The layers with configurations and weights, as `write_keras` wants them."""
        return [
            KerasLayer(m.keras_class, n, m.keras_config(n), m.keras_weights())
            for m, n in zip(self.layers, self.names, strict=True)
        ]

    def keras_config(self) -> dict[str, Any]:
        """The model's configuration as Keras 3 reads it."""
        return model_config(self.keras_layers(), self.input_shape)

    def reset_state(self) -> None:
        """Forgets the states that stateful layers keep."""
        for layer in self.layers:
            if hasattr(layer, "reset_state"):
                layer.reset_state()


def build_layer(
    class_name: str, config: Mapping[str, Any], in_channels: int, keras_version: str = "3"
) -> tuple[nn.Module, int]:
    """(module, its output channels) of one Keras layer. Raises ValueError for a class that is not
    known here."""
    if class_name in KERAS_CLASSES.values():
        rank = int(class_name[-2])
        layer = LAYERS[rank].from_keras_config(config, in_channels, keras_version)
        return layer, layer.hidden_channels
    if class_name == "BatchNormalization":
        return BatchNorm.from_keras_config(config, in_channels), in_channels
    if class_name in ("Conv1D", "Conv2D", "Conv3D"):
        return Conv.from_keras_config(int(class_name[-2]), config, in_channels), config["filters"]
    if class_name == "Activation":
        return Activation(config["activation"]), in_channels
    if class_name == "ReLU":
        return Activation("relu"), in_channels
    if class_name == "Dropout":
        return Dropout(config["rate"]), in_channels
    if class_name == "TimeDistributed":
        inner = config["layer"]
        layer, channels = build_layer(
            inner["class_name"], inner["config"], in_channels, keras_version
        )
        return TimeDistributed(layer), channels
    known = ", ".join([*CLASS_SNAKES, "ReLU"])
    raise ValueError(f"build_layer: the class must be one of {known}; got {class_name}")


# What a Keras layer's configuration may ask of training alone.
_PENALTIES = ("regularizer", "constraint")


def _warn_of_penalties(layers: Sequence[KerasLayer]) -> None:
    """Says which regularisers and constraints stay behind: outputs do not need them."""
    found = [
        f"{layer.name}: {key}"
        for layer in layers
        for key, value in layer.config.items()
        if key.endswith(_PENALTIES) and value is not None
    ]
    if found:
        warnings.warn(
            f"load_keras: {', '.join(found)}: not taken over; outputs are the same, but training "
            "goes on without them (add the penalty to your loss, or clamp after each step)",
            stacklevel=4,
        )


def from_keras_file(file: KerasFile) -> SequenceModel:
    """The model of a file that carries its configuration, with the file's weights."""
    if not file.has_config:
        raise ValueError(
            "from_keras_file: a weights file has no model in it; build the model (for example "
            "next_frame()) and call load_keras_weights(model, path)"
        )
    shape = file.input_shape
    if shape is None:
        raise ValueError("from_keras_file: the model was never built: it has no input shape")
    _warn_of_penalties(file.layers)
    first_format = file.layers[0].config.get("data_format", "channels_last")
    channels = shape[2] if first_format == "channels_first" else shape[-1]
    modules = []
    for layer in file.layers:
        module, channels = build_layer(layer.class_name, layer.config, channels, file.keras_version)
        module.load_keras_weights(layer.weights)
        modules.append(module)
    return SequenceModel(modules, [layer.name for layer in file.layers], shape)


def load_keras(path: str | os.PathLike[str]) -> SequenceModel:
    """The model in a `.keras` or legacy `.h5` file, with its weights, in eval mode."""
    return from_keras_file(read_keras(path)).eval()


def save_keras(model: SequenceModel, path: str | os.PathLike[str]) -> None:
    """Writes `model` as `.keras`, `.h5` or `.weights.h5`, by the ending of `path`."""
    write_keras(path, model.keras_layers(), model.input_shape)


def load_keras_weights(model: SequenceModel, path: str | os.PathLike[str]) -> None:
    """Loads the weights of any Keras file into `model`: layers of one class are matched in order.

    Raises ValueError where classes, counts or shapes differ.
    """
    given: dict[str, list[KerasLayer]] = {}
    for layer in read_keras(path).layers:
        if layer.weights:
            given.setdefault(layer.class_name, []).append(layer)
    wanted: dict[str, list[nn.Module]] = {}
    for module in model.layers:
        if module.keras_weights():
            wanted.setdefault(module.keras_class, []).append(module)
    counts = [{k: len(v) for k, v in sorted(d.items())} for d in (wanted, given)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"load_keras_weights: the model has the layers {counts[0]}, the file {counts[1]}"
        )
    for class_name, modules in wanted.items():
        for module, layer in zip(modules, given[class_name], strict=True):
            module.load_keras_weights(layer.weights)


def from_config(config: Mapping[str, Any] | str) -> SequenceModel:
    """A model with new weights from `SequenceModel.keras_config()` or its JSON text."""
    from .keras_files import _layers_of_config

    if isinstance(config, str):
        config = json.loads(config)
    layers, shape = _layers_of_config(config)
    channels, modules = shape[-1], []
    for layer in layers:
        module, channels = build_layer(layer.class_name, layer.config, channels)
        modules.append(module)
    return SequenceModel(modules, [layer.name for layer in layers], shape)


# Presets

# (filters, kernel, activation) of each ConvLSTM, how many of them a BatchNorm follows, and the
# kernel of the Conv3D head. Keras' head spans three steps, so that all outputs but the last see the
# frame that they predict; "small" has a head of one step and learns from every output.
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
) -> SequenceModel:
    """Keras' next-frame models: (B, T, H, W, C) in [0, 1] to the frame after each step.

    preset: "seed" is Keras' original example (4 x [ConvLSTM2D(40, 3x3, same) + BatchNorm] and a
    Conv3D(1, 3x3x3, sigmoid) head), "moving-mnist" the example of 2021 (64 filters 5x5, 3x3, 1x1,
    relu), "small" two layers of 16 filters 5x5 without BatchNorm and a head of one step, which
    learn in minutes on a processor.
    size: (H, W); by default the preset's own. filters: in place of the preset's.
    colour: the last layer gives its last step alone and the head is a Conv2D with 3 channels:
    (B, T, H, W, 3) to the one next frame (B, H, W, 3).
    """
    if preset not in PRESETS:
        raise ValueError(f"next_frame: preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    plan = PRESETS[preset]
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
    rank, kernel = (2, 3) if colour else (3, plan["head"])
    layers.append(Conv(rank, width, channels, kernel, padding="same", activation="sigmoid"))
    names.append(f"conv{rank}d")
    return SequenceModel(layers, names, (None, None, h, w, channels))


def parameter_count(model: nn.Module) -> int:
    """Parameters and moving statistics, as Keras counts them."""
    return sum(t.numel() for t in [*model.parameters(), *model.buffers()])


def detach(state: Any) -> Any:
    """A state, or any nesting of tuples, lists and dicts of states, cut from its graph."""
    if isinstance(state, torch.Tensor):
        return state.detach()
    if isinstance(state, Mapping):
        return {k: detach(v) for k, v in state.items()}
    if isinstance(state, tuple | list):
        return type(state)(detach(v) for v in state)
    return state
