"""Whole models of Keras: chains, and graphs with branches, several inputs and shared layers."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers.cell import ConvLSTMBase
from ..layers.initializers import undrawn
from ..layers.stack import Bidirectional
from .base import Shape, Slot, output_shape, own_config, slots
from .entries import exported, model_entry
from .files import KerasFile, KerasLayer, read_keras, write_file
from .graph import Call, Ref, filled, flat, refs
from .recurrent import RANKS
from .registry import build_layer, class_of
from .weights import load_weights

MODEL_CLASSES = ("Sequential", "Functional", "Model")


class KerasModel(nn.Module):
    """What chains and graphs share. `layers` and `names` are in Keras' order, without inputs."""

    keras_class: str
    layers: nn.ModuleList
    names: list[str]
    input_shape: Shape
    carried: dict[str, Any]

    def keras_layers(self) -> list[KerasLayer]:
        """The layers with their configurations and weights, in order."""
        return [
            KerasLayer(class_of(m), n, own_config(m, n), [s.read() for s in slots(m)])
            for m, n in zip(self.layers, self.names, strict=True)
        ]

    def keras_config(self) -> dict[str, Any]:
        """The model's configuration as Keras 3 reads it. Raises ValueError for what it lacks."""
        return exported(self.own_config())

    def own_config(self, name: str = "model") -> dict[str, Any]:
        """The same with activations by our names: what a checkpoint keeps."""
        return model_entry(self, getattr(self, "name", None) or name)

    def slots(self) -> list[Slot]:
        return [slot for layer in self.layers for slot in slots(layer)]

    def keras_weights(self) -> list[np.ndarray]:
        """All weights as copies in Keras' order and layout."""
        return [slot.read() for slot in self.slots()]

    def reset_state(self) -> None:
        """Forgets the states that stateful layers keep."""
        for module in self.modules():
            if isinstance(module, ConvLSTMBase) and hasattr(module, "reset_state"):
                module.reset_state()


class SequenceModel(KerasModel):
    """A chain of layers over (B, T, H, W, C), as in Keras' Sequential.

    layers: modules of this package that Keras knows. names: theirs. input_shape: with batch and
    time, None where free: (None, None, 40, 40, 1). Gives what the last layer gives.
    """

    keras_class = "Sequential"

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
        self.carried = {}

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def output_shape(self, *shapes: Shape) -> Any:
        shape: Any = shapes[0]
        for layer in self.layers:
            shape = output_shape(layer, shape)
        return shape


class GraphModel(KerasModel):
    """Keras' functional model: layers called on each other's outputs.

    inputs: (name, shape) of each input, in the order of the call. outputs: a `Ref`, or a list or a
    dict of them, which the model gives in the same form. calls: in an order that can be run.
    """

    keras_class = "Functional"

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        calls: Sequence[Call],
        inputs: Sequence[tuple[str, Shape]],
        outputs: Any,
        shapes: Mapping[Ref, Shape],
    ) -> None:
        super().__init__()
        self.names = list(layers)
        self.layers = nn.ModuleList(layers.values())
        self.calls, self.inputs, self.outputs = list(calls), list(inputs), outputs
        self.shapes = dict(shapes)
        self.input_shape = self.inputs[0][1]
        # Of a model that takes a dict: its keys, in the order of the inputs.
        self.input_keys: list[str] = []
        self.carried = {}

    def forward(self, *given: Any) -> Any:
        """Takes one tensor for each input: as arguments, as a list, or as a dict by name."""
        values = {Ref(n, 0, 0): x for (n, _), x in zip(self.inputs, self._bound(given))}  # noqa: B905
        modules = dict(zip(self.names, self.layers, strict=True))
        for call in self.calls:
            args, kwargs = (filled(part, values) for part in (call.args, call.kwargs))
            out = _called(modules[call.layer], args, kwargs)
            for k, tensor in enumerate(flat(out)):
                values[Ref(call.layer, call.node, k)] = tensor
        return filled(self.outputs, values)

    def _bound(self, given: Sequence[Any]) -> list[Tensor]:
        names = [name for name, _ in self.inputs]
        if len(given) == 1 and isinstance(given[0], Mapping):
            keys = self.input_keys or names
            tensors = [given[0].get(k, given[0].get(n)) for k, n in zip(keys, names, strict=True)]
        elif len(given) == 1 and isinstance(given[0], list | tuple):
            tensors = list(given[0])
        else:
            tensors = list(given)
        if len(tensors) != len(names) or any(t is None for t in tensors):
            raise ValueError(f"GraphModel: the inputs are {', '.join(names)}; got {len(tensors)}")
        return tensors

    def output_shape(self, *shapes: Shape) -> Any:
        wanted = list(refs(self.outputs))
        found = [self.shapes[r] for r in wanted]
        return found if len(found) > 1 else found[0]


def _called(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A layer's output; Keras' flat lists of states become ours."""
    state = kwargs.get("initial_state")
    if isinstance(module, ConvLSTMBase | Bidirectional) and state:
        pair = tuple(state)
        kwargs = {**kwargs, "initial_state": (pair[:2], pair[2:]) if len(pair) == 4 else pair}
    return module(*args, **kwargs)


# Configurations


def read_model(
    config: Mapping[str, Any], keras_version: str = "3", inputs: Sequence[Shape] | None = None
) -> KerasModel:
    """The model of a Keras configuration, with weights yet to be loaded.

    inputs: the shapes on which a model inside a model is called. Raises ValueError for layers and
    options that are not known.
    """
    kind, inner = config["class_name"], config["config"]
    entries = inner["layers"] if isinstance(inner, Mapping) else inner
    inner = inner if isinstance(inner, Mapping) else {}
    if kind == "Sequential":
        model: KerasModel = _sequential(entries, inner, keras_version, inputs)
    elif kind in MODEL_CLASSES and "input_layers" in inner:
        model = _chain(_graph(entries, inner, keras_version, inputs))
    else:
        raise ValueError(
            f"load_keras: a model must be Sequential or Functional, got {kind}: a subclass of "
            "Model has its computation in code; save its layers as one of these"
        )
    model.name = inner.get("name")
    if inner.get("trainable", True) is False:
        model.carried = {"trainable": False}
    return model


def _sequential(entries, inner, version: str, inputs) -> SequenceModel:
    shape = inputs[0] if inputs else None
    first = None
    layers, names = [], []
    for entry in entries:
        c = entry["config"]
        given = c.get("batch_shape", c.get("batch_input_shape"))
        if shape is None:
            shape = given or inner.get("build_input_shape") or _built(entry)
            if shape is None:
                raise ValueError("load_keras: the model was never built: it has no input shape")
        if first is None:
            shape = first = tuple(shape)
        if entry["class_name"] == "InputLayer":
            continue
        layer = build_layer(entry["class_name"], c, _shapes(shape), version)
        shape = output_shape(layer, *_shapes(shape))
        layers.append(layer)
        names.append(c.get("name") or f"layer_{len(names)}")
    if first is None:
        raise ValueError("load_keras: the model has no layers")
    return SequenceModel(layers, names, first)


def _built(entry: Mapping[str, Any]) -> Sequence[int | None] | None:
    return (entry.get("build_config") or {}).get("input_shape")


def _shapes(shape: Any) -> list[Shape]:
    return shape if isinstance(shape, list) else [shape]


def _graph(entries, inner, version: str, inputs) -> GraphModel:
    by_name = {e["config"].get("name", e.get("name")): e for e in entries}
    order = [r.layer for r in refs(_refs_of(inner["input_layers"]))]
    shapes: dict[Ref, Shape] = {}
    for k, name in enumerate(order):
        c = by_name[name]["config"]
        shape = inputs[k] if inputs else c.get("batch_shape", c.get("batch_input_shape"))
        shapes[Ref(name, 0, 0)] = tuple(shape)
    outputs = _refs_of(inner["output_layers"])
    if not version.startswith(("1", "2")):
        outputs = _counted_from_0(outputs, by_name)
    waiting = [
        _with_states(Call(name, node, *_arguments(inbound)), entry["class_name"])
        for name, entry in by_name.items()
        if name not in order
        for node, inbound in enumerate(entry.get("inbound_nodes", []))
    ]
    waiting = _as_referred_to(waiting, outputs, by_name)
    layers: dict[str, nn.Module] = {}
    calls: list[Call] = []
    while waiting:
        ready = [c for c in waiting if all(r in shapes for r in refs([c.args, c.kwargs]))]
        if not ready:
            raise ValueError(
                f"load_keras: the layers {', '.join(sorted({c.layer for c in waiting}))} wait for "
                "tensors that nothing gives"
            )
        for call in ready:
            entry = by_name[call.layer]
            seen = [shapes[r] for r in refs(call.args[0])]
            if call.layer not in layers:
                _refuse_operation(entry)
                layers[call.layer] = build_layer(
                    entry["class_name"], entry["config"], seen, version
                )
            out = output_shape(layers[call.layer], *seen)
            for k, shape in enumerate(_shapes(out)):
                shapes[Ref(call.layer, call.node, k)] = shape
            calls.append(call)
        waiting = [c for c in waiting if c not in ready]
    ordered = {name: layers[name] for name in by_name if name in layers}
    missing = [r for r in refs(outputs) if r not in shapes]
    if missing:
        raise ValueError(f"load_keras: the output {missing[0].layer} is no tensor of the model")
    if isinstance(outputs, list) and len(outputs) == 1:
        outputs = outputs[0]
    named = [(name, shapes[Ref(name, 0, 0)]) for name in order]
    model = GraphModel(ordered, calls, named, outputs, shapes)
    if isinstance(inner["input_layers"], Mapping):
        model.input_keys = sorted(inner["input_layers"])
    return model


def _counted_from_0(outputs: Any, entries: Mapping[str, Any]) -> Any:
    """Keras 3's outputs: those of a functional model inside count its calls from 1, inputs from
    0."""
    if isinstance(outputs, Ref):
        inside = entries[outputs.layer]["class_name"] in ("Functional", "Model")
        return outputs._replace(node=outputs.node - 1) if inside and outputs.node else outputs
    if isinstance(outputs, Mapping):
        return {k: _counted_from_0(v, entries) for k, v in outputs.items()}
    return [_counted_from_0(v, entries) for v in outputs]


def _as_referred_to(calls: Sequence[Call], outputs: Any, entries: Mapping[str, Any]) -> list[Call]:
    """Calls with the numbers by which others refer to them: Keras 2 counts the calls of a model
    inside from 1, since its own input is call 0."""
    first: dict[str, int] = {}
    for ref in refs([outputs, *([c.args, c.kwargs] for c in calls)]):
        first[ref.layer] = min(ref.node, first.get(ref.layer, ref.node))
    return [
        Call(c.layer, c.node + first.get(c.layer, 0), c.args, c.kwargs)
        if entries[c.layer]["class_name"] in MODEL_CLASSES
        else c
        for c in calls
    ]


def _with_states(call: Call, class_name: str) -> Call:
    """A call of a recurrent layer with its initial states under their name: Keras 2 lists them
    behind the input."""
    if class_name not in RANKS and class_name != "Bidirectional":
        return call
    first, *rest = call.args
    states: Any = rest[0] if rest else None
    if isinstance(first, list) and not isinstance(first, Ref):
        first, states = first[0], first[1:]
    kwargs = dict(call.kwargs)
    if states is not None and not _says_nothing(states):
        kwargs["initial_state"] = states
    return Call(call.layer, call.node, (first,), kwargs)


def _refuse_operation(entry: Mapping[str, Any]) -> None:
    module = entry.get("module") or ""
    if ".ops" in module or entry["class_name"] in ("TFOpLambda", "SlicingOpLambda"):
        raise ValueError(
            f"load_keras: {entry['config'].get('name')!r} is an operation on tensors "
            f"({entry['class_name']}), not a layer; only layers are read (keras.layers.Add in "
            "place of +, return_sequences=False in place of a slice)"
        )


def _refs_of(part: Any) -> Any:
    """Lists [name, node, tensor] of a configuration as refs, whatever they stand in."""
    if isinstance(part, list | tuple):
        if (
            len(part) >= 3
            and isinstance(part[0], str)
            and all(isinstance(k, int) for k in part[1:3])
        ):
            return Ref(*part[:3])
        return [_refs_of(p) for p in part]
    if isinstance(part, Mapping):
        return {k: _refs_of(v) for k, v in part.items()}
    return part


def _arguments(inbound: Any) -> tuple[tuple, dict[str, Any]]:
    """(args, kwargs) of one inbound node, as Keras 3 or Keras 2 writes it."""
    if isinstance(inbound, Mapping):
        args = tuple(_tensors(a) for a in inbound["args"])
        kwargs = {k: _tensors(v) for k, v in inbound.get("kwargs", {}).items()}
        if not args and "inputs" in kwargs:
            args = (kwargs.pop("inputs"),)
        if not args and "sequences" in kwargs:
            args = (kwargs.pop("sequences"),)
    else:
        if inbound and isinstance(inbound[0], str):
            inbound = [inbound]
        refs = [Ref(*entry[:3]) for entry in inbound]
        args = (refs[0] if len(refs) == 1 else refs,)
        given = inbound[0][3] if len(inbound[0]) > 3 else {}
        kwargs = {k: _refs_of(v) for k, v in given.items()}
    said = {k: v for k, v in kwargs.items() if not _says_nothing(v)}
    unknown = set(said) - {"initial_state", "mask"}
    if unknown:
        key = min(unknown)
        raise ValueError(
            f"load_keras: a layer is called with {key} = {said[key]!r}, which is not known here"
        )
    return args, said


def _says_nothing(value: Any) -> bool:
    """Whether an argument of a call is its default: None, False, or a list or dict of those."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return all(_says_nothing(v) for v in value)
    return value is None or value is False


def _tensors(part: Any) -> Any:
    """Keras 3's arguments with refs in place of serialised tensors."""
    if isinstance(part, Mapping):
        if part.get("class_name") == "__keras_tensor__":
            return Ref(*part["config"]["keras_history"])
        return {k: _tensors(v) for k, v in part.items()}
    if isinstance(part, list | tuple):
        return [_tensors(p) for p in part]
    return part


def _chain(graph: GraphModel) -> KerasModel:
    """A graph that is a chain as one."""
    if len(graph.inputs) != 1 or not isinstance(graph.outputs, Ref):
        return graph
    last = Ref(graph.inputs[0][0], 0, 0)
    for call in graph.calls:
        if call.args != (last,) or call.kwargs:
            return graph
        last = Ref(call.layer, call.node, 0)
    if last != graph.outputs or [c.layer for c in graph.calls] != graph.names:
        return graph
    return SequenceModel(list(graph.layers), graph.names, graph.input_shape)


# Files


# What a Keras layer's configuration may ask of training alone.
_PENALTIES = ("regularizer", "constraint")


def _warnings(config: Any, found: dict[str, list[str]]) -> dict[str, list[str]]:
    """What a configuration asks for that is not done here, by kind."""
    if isinstance(config, list):
        for part in config:
            _warnings(part, found)
    elif isinstance(config, Mapping):
        for key, value in config.items():
            name = config.get("name", "")
            if key.endswith(_PENALTIES) and value is not None:
                found.setdefault("penalties", []).append(f"{name}: {key}")
            elif key == "dtype" and (policy := _policy(value)) not in (None, "float32"):
                found.setdefault("dtypes", []).append(f"{name}: {policy}")
            elif not key.endswith("initializer"):
                _warnings(value, found)
    return found


def _policy(dtype: Any) -> str | None:
    if isinstance(dtype, Mapping):
        dtype = (dtype.get("config") or {}).get("name")
    return dtype if isinstance(dtype, str) else None


def _warn(config: Mapping[str, Any]) -> None:
    found = _warnings(config, {})
    if "penalties" in found:
        warnings.warn(
            f"load_keras: {', '.join(found['penalties'])}: not taken over; outputs are the same, "
            "but training goes on without them (add the penalty to your loss, or clamp after each "
            "step); they go back with save_keras",
            stacklevel=4,
        )
    if "dtypes" in found:
        few = ", ".join(found["dtypes"][:3])
        warnings.warn(
            f"load_keras: {few}{', ...' if len(found['dtypes']) > 3 else ''}: the model computes "
            "in float32 here; use torch.autocast for half precision",
            stacklevel=4,
        )


def _without_memory(config: Mapping[str, Any], keras_version: str) -> KerasModel:
    """A model whose weights take no memory before they are loaded: a configuration may ask for
    any sizes."""
    with torch.device("meta"), undrawn():
        return read_model(config, keras_version)


def from_keras_file(file: KerasFile) -> KerasModel:
    """The model of a file that carries its configuration, with the file's weights."""
    if file.config is None:
        raise ValueError(
            "from_keras_file: a weights file has no model in it; build the model (for example "
            "next_frame()) and call load_keras_weights(model, path)"
        )
    try:
        _warn(file.config)
        model = _without_memory(file.config, file.keras_version)
    except (
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise ValueError(f"load_keras: the configuration is damaged: {error!r}") from error
    load_weights(model, file)
    return model


def load_keras(path: str | os.PathLike[str]) -> KerasModel:
    """The model in a `.keras` or legacy `.h5` file, with its weights, in eval mode.

    A `SequenceModel` for a chain of layers, else a `GraphModel`. Raises FileNotFoundError, and
    ValueError for a file that is damaged, points outside itself, or holds what is not known.
    """
    return from_keras_file(read_keras(path)).eval()


def save_keras(model: KerasModel, path: str | os.PathLike[str]) -> None:
    """Writes `model` as `.keras`, `.h5` or `.weights.h5`, by the ending of `path`."""
    write_file(path, model, None if str(path).endswith(".weights.h5") else model.keras_config())


def load_keras_weights(model: KerasModel, path: str | os.PathLike[str]) -> None:
    """Loads the weights of any Keras file into `model`, matched as Keras matches them: in order
    within each class of layers, or by name where all names of a legacy file are the model's.

    Raises ValueError where classes, counts or shapes differ; then nothing is loaded.
    """
    load_weights(model, read_keras(path))


def from_config(config: Mapping[str, Any] | str, draw: bool = True) -> KerasModel:
    """A model from `keras_config()` or its JSON text, with new weights (without `draw`: weights
    without memory, to be loaded with `load_state_dict(..., assign=True)`)."""
    if isinstance(config, str):
        config = json.loads(config)
    return read_model(config) if draw else _without_memory(config, "3")
