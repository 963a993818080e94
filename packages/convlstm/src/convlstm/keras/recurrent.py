"""How the ConvLSTM layers, `Bidirectional` and `TimeDistributed` stand in Keras' models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..layers.cell import KERAS_CLASSES, ConvLSTMBase, keras_arguments
from ..layers.layer import LAYERS
from ..layers.stack import Bidirectional
from .base import (
    KerasModule,
    Shape,
    Slot,
    is_carried,
    keras_activation,
    kernel_axes,
    output_shape,
    own_config,
    slots,
    split_config,
)
from .normalizations import fold_steps

Build = Callable[[str, Mapping[str, Any], Sequence[Shape], str], nn.Module]

RANKS = {name: rank for rank, name in KERAS_CLASSES.items()}
_FLAGS = ("return_sequences", "return_state", "go_backwards", "stateful", "zero_output_for_mask")
_OPTIONS = dict.fromkeys(
    (
        "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate",
        "activation", "recurrent_activation", "use_bias", "unit_forget_bias", "dropout",
        "recurrent_dropout", *_FLAGS,
    )
)  # fmt: skip


def layer_arguments(
    class_name: str, config: Mapping[str, Any], shapes: Sequence[Shape], keras_version: str
) -> tuple[int, tuple, dict[str, Any], dict[str, Any]]:
    """(rank, arguments, keyword arguments, what is carried along) of a ConvLSTM's configuration."""
    given, carried = split_config(class_name, config, _OPTIONS, {})
    for name in ("activation", "recurrent_activation"):
        if name in given:
            given[name] = keras_activation(given[name], keras_version)
    for flag in ("kernel_initializer", "recurrent_initializer", "bias_initializer"):
        if flag in carried:
            given[flag] = carried[flag]
    args, options = keras_arguments(given, "3")
    options |= {flag: given[flag] for flag in _FLAGS if flag in given}
    rank = RANKS[class_name]
    shape = shapes[0]
    if len(shape) != rank + 3:
        raise ValueError(f"{class_name}: the input must have {rank + 3} axes, got shape {shape}")
    channels = shape[2] if options["data_format"] == "channels_first" else shape[-1]
    if channels is None:
        raise ValueError(f"{class_name}: the number of channels must be known, got {shape}")
    return rank, (channels, *args), options, carried


def build_convlstm(
    class_name: str, config: Mapping[str, Any], shapes: Sequence[Shape], keras_version: str
) -> nn.Module:
    rank, args, options, carried = layer_arguments(class_name, config, shapes, keras_version)
    layer = LAYERS[rank](*args, **options)
    layer.carried = carried
    return layer


@slots.register
def _(module: ConvLSTMBase) -> list[Slot]:
    axes = kernel_axes(module.rank)
    found = [Slot(module, "weight_ih", axes), Slot(module, "weight_hh", axes)]
    return found if module.bias is None else [*found, Slot(module, "bias")]


@own_config.register
def _(module: ConvLSTMBase, name: str) -> dict[str, Any]:
    carried = {k: v for k, v in getattr(module, "carried", {}).items() if is_carried(k)}
    return {**carried, **module._config(name)}


@output_shape.register
def _(module: ConvLSTMBase, *shapes: Shape) -> Any:
    shape = shapes[0]
    last = module.channels_last
    size = shape[2:-1] if last else shape[3:]
    free = [64 * max(module.spec.kernel_size) if n is None else n for n in size]
    state = module.spec.state_size(free)
    state = tuple(None if n is None else m for n, m in zip(size, state, strict=True))
    f = module.hidden_channels
    frame = (*state, f) if last else (f, *state)
    out = (shape[0], shape[1], *frame) if module.return_sequences else (shape[0], *frame)
    if not module.return_state:
        return out
    return [out, (shape[0], *frame), (shape[0], *frame)]


# Bidirectional


def build_bidirectional(
    class_name: str, config: Mapping[str, Any], shapes: Sequence[Shape], keras_version: str
) -> nn.Module:
    inner = config["layer"]
    if inner["class_name"] not in RANKS:
        raise ValueError(
            f"load_keras: Bidirectional is read around ConvLSTM layers, not {inner['class_name']}"
        )
    rank, args, options, carried = layer_arguments(
        inner["class_name"], inner["config"], shapes, keras_version
    )
    backward = config.get("backward_layer")
    if backward is not None:
        other = layer_arguments(backward["class_name"], backward["config"], shapes, keras_version)
        differing = {
            k for k in options if k != "go_backwards" and not is_carried(k)
            and options[k] != other[2].get(k)
        }  # fmt: skip
        if other[:2] != (rank, args) or differing:
            raise ValueError(
                "load_keras: Bidirectional's backward_layer must be built like its layer; they "
                f"differ in {', '.join(sorted(differing)) or 'their sizes'}"
            )
    if options.pop("go_backwards", False):
        raise ValueError("load_keras: Bidirectional's layer must not go backwards itself")
    layer = Bidirectional(rank, *args, merge=config.get("merge_mode", "concat"), **options)
    layer.concat_axis = -1
    for one in (layer.forward_layer, layer.backward_layer):
        one.carried = carried
    return layer


@slots.register
def _(module: Bidirectional) -> list[Slot]:
    return slots(module.forward_layer) + slots(module.backward_layer)


@own_config.register
def _(module: Bidirectional, name: str) -> dict[str, Any]:
    if module.merge == "concat" and module.concat_axis != -1:
        raise ValueError(
            f"save_keras: {name!r} joins the channels of both directions, which come first; Keras' "
            "Bidirectional joins the last axis: use channels last, or merge=None"
        )
    entries = {}
    for key, layer in (("layer", module.forward_layer), ("backward_layer", module.backward_layer)):
        prefix = "forward" if key == "layer" else "backward"
        inner = own_config(layer, f"{prefix}_{name}")
        inner["return_state"] = module.return_state
        entries[key] = {"class_name": KERAS_CLASSES[module.rank], "config": inner}
    return {"name": name, "merge_mode": module.merge, **entries}


@output_shape.register
def _(module: Bidirectional, *shapes: Shape) -> Any:
    one = output_shape(module.forward_layer, *shapes)
    out, states = one[0], one[1:]
    if module.merge is None:
        outs = [out, out]
    elif module.merge == "concat":
        wide = list(out)
        length = wide[module.concat_axis]
        wide[module.concat_axis] = None if length is None else 2 * length
        outs = [tuple(wide)]
    else:
        outs = [out]
    if module.return_state:
        outs += [*states, *states]
    return outs if len(outs) > 1 else outs[0]


# TimeDistributed


class TimeDistributed(KerasModule):
    """Keras' TimeDistributed: the inner layer on each step of (B, T, ...)."""

    keras_class = "TimeDistributed"

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y, unfold = fold_steps(x)
        return unfold(self.layer(y))

    def slots(self) -> list[Slot]:
        return slots(self.layer)

    def output_shape(self, *shapes: Shape) -> Shape:
        batch, steps, *rest = shapes[0]
        inner = output_shape(self.layer, (batch, *rest))
        return (inner[0], steps, *inner[1:])
