"""Whole models: chains of layers that Keras reads and writes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..keras.files import CLASS_SNAKES, KerasFile, KerasLayer, model_config, read_keras, write_keras
from ..keras.layers import Activation, BatchNorm, Conv, Dropout, TimeDistributed
from ..layers.cell import KERAS_CLASSES
from ..layers.layer import LAYERS


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
    from ..keras.files import _layers_of_config

    if isinstance(config, str):
        config = json.loads(config)
    layers, shape = _layers_of_config(config)
    channels, modules = shape[-1], []
    for layer in layers:
        module, channels = build_layer(layer.class_name, layer.config, channels)
        modules.append(module)
    return SequenceModel(modules, [layer.name for layer in layers], shape)
