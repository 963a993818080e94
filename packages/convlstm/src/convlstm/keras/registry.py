"""All layers that are read, by their Keras class: what builds one from its configuration.

A new layer is a `KerasModule` in the module that it belongs to, named in that module's CLASSES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..layers.cell import KERAS_CLASSES
from ..layers.stack import Bidirectional
from . import convolutions, dense, merging, normalizations, pointwise, pooling, recurrent, shapes
from .base import KerasModule, Shape
from .recurrent import Build, TimeDistributed


def _of_class(cls: type[KerasModule]) -> Build:
    return lambda name, config, inputs, version: cls.from_keras_config(config, inputs, version)


def _convolution(
    class_name: str, config: Mapping[str, Any], inputs: Sequence[Shape], version: str
) -> nn.Module:
    cls, rank = convolutions.KINDS[class_name]
    return convolutions.build(cls, rank, config, inputs, version)


def _time_distributed(
    class_name: str, config: Mapping[str, Any], inputs: Sequence[Shape], version: str
) -> nn.Module:
    batch, _, *rest = inputs[0]
    inner = config["layer"]
    layer = build_layer(inner["class_name"], inner["config"], [(batch, *rest)], version)
    module = TimeDistributed(layer)
    module.inner_name = inner["config"].get("name", "layer")
    return module


REGISTRY: dict[str, Build] = {
    **{
        cls.keras_class: _of_class(cls)
        for wing in (merging, normalizations, pointwise, pooling, shapes)
        for cls in wing.CLASSES
    },
    "Attention": _of_class(dense.Attention),
    "Dense": _of_class(dense.Dense),
    **dict.fromkeys(convolutions.KINDS, _convolution),
    **dict.fromkeys(KERAS_CLASSES.values(), recurrent.build_convlstm),
    "Bidirectional": recurrent.build_bidirectional,
    "TimeDistributed": _time_distributed,
}
_OLD_NAMES = {
    "Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "Convolution3D": "Conv3D",
    "Conv2DTranspose": "Conv2DTranspose", "Deconvolution2D": "Conv2DTranspose",
    "BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization",
}  # fmt: skip
_CURES = {
    "Lambda": "it holds Python code of its writer, which is not run; put its computation into a "
    "layer that is known, or into torch around two models",
    "Masking": "give a mask to the ConvLSTM layers themselves",
}


def build_layer(
    class_name: str,
    config: Mapping[str, Any],
    inputs: Sequence[Shape],
    keras_version: str = "3",
) -> nn.Module:
    """The module of one Keras layer for inputs of these shapes (with the batch axis; None where a
    length is free). Models are layers too. Raises ValueError for a class that is not known."""
    from .model import MODEL_CLASSES, read_model

    if class_name in MODEL_CLASSES:
        return read_model({"class_name": class_name, "config": config}, keras_version, inputs)
    kind = REGISTRY.get(_OLD_NAMES.get(class_name, class_name))
    if kind is None:
        known = ", ".join(sorted(REGISTRY))
        cure = _CURES.get(class_name, f"known are {known}")
        raise ValueError(
            f"load_keras: the layer {config.get('name', '')!r} of class {class_name} is not read: "
            f"{cure}"
        )
    module = kind(_OLD_NAMES.get(class_name, class_name), config, inputs, keras_version)
    if config.get("trainable", True) is False:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    return module


def class_of(module: nn.Module) -> str:
    """The Keras class of a module. Raises TypeError for one that Keras does not know."""
    if isinstance(module, Bidirectional):
        return "Bidirectional"
    name = getattr(module, "keras_class", None)
    if name is None:
        raise TypeError(f"save_keras: Keras knows no {type(module).__name__}")
    return name
