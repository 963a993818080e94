"""Configurations as Keras 3 writes them, of models and of their layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from ..layers.stack import Bidirectional
from .base import own_config
from .graph import Call, Ref
from .recurrent import TimeDistributed
from .registry import class_of

if TYPE_CHECKING:
    from .model import GraphModel, KerasModel


def model_entry(model: KerasModel, name: str) -> dict[str, Any]:
    """A model's configuration in Keras 3's form, with activations by our names."""
    if model.keras_class == "Sequential":
        shape = list(model.input_shape)
        first = {"batch_shape": shape, "name": "input_layer"}
        entries = [_entry("InputLayer", first)]
        entries += [layer_entry(m, n) for m, n in zip(model.layers, model.names, strict=True)]
        inner = {"name": name, "layers": entries, "build_input_shape": shape}
        return _whole("keras", "Sequential", {**model.carried, **inner})
    entries = []
    for n, shape in model.inputs:
        c = {"batch_shape": list(shape), "dtype": "float32", "name": n}
        entries.append({**_entry("InputLayer", c), "name": n, "inbound_nodes": []})
    for module, n in zip(model.layers, model.names, strict=True):
        # in the order of their numbers: model.calls are in that of what they need
        mine = sorted((c for c in model.calls if c.layer == n), key=lambda c: c.node)
        nodes = [_node(model, c) for c in mine]
        entries.append({**layer_entry(module, n), "name": n, "inbound_nodes": nodes})
    inner = {
        "name": name,
        "layers": entries,
        "input_layers": _inputs(model),
        "output_layers": _listed(model, model.outputs),
    }
    return _whole("keras.src.models.functional", "Functional", {**model.carried, **inner})


def _is_graph(module: nn.Module) -> bool:
    return getattr(module, "keras_class", None) == "Functional"


def _inputs(model: GraphModel) -> Any:
    each = [[n, 0, 0] for n, _ in model.inputs]
    return dict(zip(model.input_keys, each, strict=True)) if model.input_keys else each


def _listed(model: GraphModel, outputs: Any) -> Any:
    if isinstance(outputs, Ref):
        return [_history(model, outputs, True)]
    if isinstance(outputs, Mapping):
        return {k: _history(model, v, True) for k, v in outputs.items()}
    return [_history(model, r, True) for r in outputs]


def _history(model: GraphModel, ref: Ref, output: bool = False) -> list[Any]:
    """A ref as Keras 3 writes it: calls count from 0, as outputs those of functional models from
    1."""
    calls = sorted(c.node for c in model.calls if c.layer == ref.layer)
    number = calls.index(ref.node) if calls else 0
    if calls and output and _is_graph(model.layers[model.names.index(ref.layer)]):
        number += 1
    return [ref.layer, number, ref.tensor]


def _node(model: GraphModel, call: Call) -> dict[str, Any]:
    def tensors(part: Any) -> Any:
        if isinstance(part, Ref):
            about = {
                "shape": list(model.shapes[part]),
                "dtype": "float32",
                "keras_history": _history(model, part),
            }
            return {"class_name": "__keras_tensor__", "config": about}
        if isinstance(part, Mapping):
            return {k: tensors(v) for k, v in part.items()}
        if isinstance(part, list | tuple):
            return [tensors(v) for v in part]
        return part

    return {"args": tensors(call.args), "kwargs": tensors(call.kwargs)}


def layer_entry(module: nn.Module, name: str) -> dict[str, Any]:
    """A layer's entry in a model's configuration."""
    if getattr(module, "keras_class", None) in ("Sequential", "Functional"):
        return model_entry(module, name)
    config = own_config(module, name)
    if isinstance(module, TimeDistributed):
        inner = getattr(module, "inner_name", f"{name}_inner")
        config["layer"] = layer_entry(module.layer, inner)
    if isinstance(module, Bidirectional):
        for key in ("layer", "backward_layer"):
            config[key] = _entry(config[key]["class_name"], config[key]["config"])
    return _entry(class_of(module), config)


def _entry(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return _whole("keras.layers", class_name, dict(config))


def _whole(module: str, class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def exported(part: Any, class_name: str = "") -> Any:
    """A configuration with Keras 3's activations alone.

    Keras 2's recurrent hard_sigmoid(x) is Keras 3's of 1.2 x: it goes along, and
    `weights.exported_arrays` scales what it is applied to. Raises ValueError where that cannot be.
    """
    if isinstance(part, list):
        return [exported(p) for p in part]
    if not isinstance(part, Mapping):
        return part
    out = {}
    for key, value in part.items():
        if value == "hard_sigmoid_keras2":
            if key != "recurrent_activation":
                raise ValueError(
                    f"save_keras: {part.get('name')!r} has the hard_sigmoid of Keras 2 as its "
                    f"{key}, which Keras 3 does not have; export the weights alone"
                )
            value = "hard_sigmoid"
        out[key] = exported(value)
    return out
