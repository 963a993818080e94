"""Keras' model and weight files, read and written with h5py alone: no Keras, no TensorFlow.

Read: `.keras` (Keras 3), `.weights.h5` (Keras 3) and legacy `.h5` of Keras 2 and 3, with or without
a model in it. Written: the same three, as Keras 3 writes them. The layout of each is in the
functions that read it.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from .._files import replacing

# The Keras whose files these functions write like.
KERAS_VERSION = "3.15.1"
# A configuration larger than this is no configuration.
MAX_CONFIG_BYTES = 64 << 20


@dataclass
class KerasLayer:
    """One layer of a file: Keras' class, its configuration and its weights in Keras' order."""

    class_name: str
    name: str
    config: dict[str, Any]
    weights: list[np.ndarray] = field(default_factory=list)


@dataclass
class KerasFile:
    """What a file holds. `layers` are in model order; `has_config` tells whether their
    configurations came with it (a weights file has names and arrays only)."""

    keras_version: str
    layers: list[KerasLayer]
    has_config: bool
    input_shape: tuple[int | None, ...] | None = None


def _h5py():
    try:
        import h5py
    except ImportError:
        raise RuntimeError(
            "Keras files need h5py, which is not installed: pip install h5py (conda install h5py)"
        ) from None
    return h5py


def read_keras(path: str | os.PathLike[str]) -> KerasFile:
    """Reads a `.keras`, `.weights.h5` or legacy `.h5` file.

    Raises FileNotFoundError, or ValueError for a file that is none of these or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"read_keras: there is no file {path}")
    h5py = _h5py()
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(h5py, path)
        with h5py.File(path, "r") as file:
            if "layer_names" in file.attrs or "model_weights" in file:
                return _read_legacy(file)
            return _read_weights_only(file)
    except (OSError, KeyError, zipfile.BadZipFile, json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"read_keras: {path} is no Keras file, or damaged: {error}") from error


# .keras and .weights.h5


def _read_archive(h5py, path: Path) -> KerasFile:
    """A zip of metadata.json, config.json and model.weights.h5."""
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo("config.json").file_size > MAX_CONFIG_BYTES:
            raise ValueError(f"read_keras: {path}: config.json is larger than 64 MiB")
        config = json.loads(archive.read("config.json"))
        metadata = json.loads(archive.read("metadata.json"))
        data = io.BytesIO(archive.read("model.weights.h5"))
    layers, input_shape = _layers_of_config(config)
    with h5py.File(data, "r") as file:
        _attach_weights(layers, _weight_groups(file))
    return KerasFile(metadata.get("keras_version", "3"), layers, True, input_shape)


def _weight_groups(file) -> list[tuple[str, str, list[np.ndarray]]]:
    """(group, original layer name, arrays) of a Keras 3 weights file.

    Groups are called after the class and numbered anew in model order within it; the layer's own
    name is an attribute of the group's `vars`. Arrays are `vars/0`, `vars/1`, ... and those of
    the cell, the inner layer, or the two directions.
    """
    root = file["layers"] if "layers" in file else file["_layer_checkpoint_dependencies"]
    groups = []
    for group in sorted(root, key=_by_number):
        node = root[group]
        name = group
        if "vars" in node and "name" in node["vars"].attrs:
            name = _text(node["vars"].attrs["name"])
        groups.append((group, name, _arrays_of(node)))
    return groups


def _arrays_of(node) -> list[np.ndarray]:
    arrays = []
    for inner in ("cell", "layer", "forward_layer", "backward_layer"):
        if inner in node:
            arrays += _arrays_of(node[inner])
    if "vars" in node:
        arrays += [np.asarray(node["vars"][k]) for k in sorted(node["vars"], key=int)]
    return arrays


def _by_number(group: str) -> tuple[str, int]:
    stem, _, number = group.rpartition("_")
    return (stem, int(number)) if number.isdigit() and stem else (group, 0)


def _attach_weights(layers: list[KerasLayer], groups) -> None:
    by_name = {name: arrays for _, name, arrays in groups}
    by_group = {group: arrays for group, _, arrays in groups}
    for layer in layers:
        found = by_name.get(layer.name, by_group.get(layer.name))
        if found is not None:
            layer.weights = found


def _read_weights_only(file) -> KerasFile:
    if "layers" not in file and "_layer_checkpoint_dependencies" not in file:
        raise ValueError("read_keras: the HDF5 file has neither layers nor layer_names")
    layers = [
        KerasLayer(_class_of_group(group), name, {}, arrays)
        for group, name, arrays in _weight_groups(file)
    ]
    return KerasFile("3", layers, False)


def _class_of_group(group: str) -> str:
    stem, number = _by_number(group)
    stem = stem if f"{stem}_{number}" == group else group
    return SNAKE_CLASSES.get(stem, stem)


# Legacy .h5


def _read_legacy(file) -> KerasFile:
    """Groups named after layers, each with `weight_names`: the paths of its arrays, in order."""
    root = file.get("model_weights", file)
    version = _text(root.attrs.get("keras_version", file.attrs.get("keras_version", b"2")))
    config_text = file.attrs.get("model_config")
    layers: list[KerasLayer] | None = None
    input_shape = None
    if config_text is not None:
        layers, input_shape = _layers_of_config(json.loads(_text(config_text)))
    arrays = {}
    for name in map(_text, _chunked(root.attrs, "layer_names")):
        node = root[name]
        arrays[name] = [np.asarray(node[_text(w)]) for w in _chunked(node.attrs, "weight_names")]
    if layers is None:
        layers = [KerasLayer(_class_of_legacy(n), n, {}, a) for n, a in arrays.items()]
        return KerasFile(version, [x for x in layers if x.weights], False)
    for layer in layers:
        layer.weights = arrays.get(layer.name, [])
    return KerasFile(version, layers, True, input_shape)


def _chunked(attrs, name: str) -> list[Any]:
    """An attribute that Keras splits into name0, name1, ... where it exceeds HDF5's 64 KiB."""
    if name in attrs:
        return list(attrs[name])
    parts: list[Any] = []
    while f"{name}{len(parts)}" in attrs:
        parts.append(list(attrs[f"{name}{len(parts)}"]))
    return [item for part in parts for item in part]


def _class_of_legacy(name: str) -> str:
    stem = re.sub(r"_\d+$", "", name)
    stem = stem.replace("conv_lst_m", "conv_lstm")  # how Keras 2 spelt ConvLSTM2D
    return SNAKE_CLASSES.get(stem, stem)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# Configurations

SNAKE_CLASSES = {
    "conv_lstm1d": "ConvLSTM1D",
    "conv_lstm2d": "ConvLSTM2D",
    "conv_lstm3d": "ConvLSTM3D",
    "batch_normalization": "BatchNormalization",
    "conv1d": "Conv1D",
    "conv2d": "Conv2D",
    "conv3d": "Conv3D",
    "activation": "Activation",
    "dropout": "Dropout",
    "time_distributed": "TimeDistributed",
    "bidirectional": "Bidirectional",
}
CLASS_SNAKES = {v: k for k, v in SNAKE_CLASSES.items()}


def _layers_of_config(config: Mapping[str, Any]) -> tuple[list[KerasLayer], tuple | None]:
    """The layers of a Sequential model, or of a Functional one that is a plain chain, in order."""
    kind, inner = config["class_name"], config["config"]
    entries = inner["layers"] if isinstance(inner, Mapping) else inner
    if kind in ("Functional", "Model"):
        entries = _chain(entries)
    elif kind != "Sequential":
        raise ValueError(f"read_keras: a model must be Sequential or a plain chain, got {kind}")
    input_shape = None
    layers = []
    for entry in entries:
        c = dict(entry["config"])
        shape = c.get("batch_shape", c.get("batch_input_shape"))
        if shape is not None and input_shape is None:
            input_shape = tuple(shape)
        if entry["class_name"] != "InputLayer":
            layers.append(KerasLayer(entry["class_name"], c.get("name", ""), c))
    return layers, input_shape


def _chain(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    names = {e["config"]["name"]: e for e in entries}
    after: dict[str, str] = {}
    start = None
    for name, entry in names.items():
        sources = _sources(entry.get("inbound_nodes", []), names)
        if not sources:
            start = name if start is None else start
        elif len(sources) > 1 or sources[0] in after:
            raise ValueError(f"read_keras: the model branches at {name}; only chains are read")
        else:
            after[sources[0]] = name
    ordered = []
    while start is not None:
        ordered.append(names[start])
        start = after.get(start)
    if len(ordered) != len(names):
        raise ValueError("read_keras: the model is no single chain of layers")
    return ordered


def _sources(node: Any, names: Mapping[str, Any]) -> list[str]:
    """Layer names in an inbound_nodes entry: keras_history of Keras 3, [name, 0, 0, {}] of 2."""
    if isinstance(node, Mapping):
        if "keras_history" in node:
            return [node["keras_history"][0]]
        found = [s for value in node.values() for s in _sources(value, names)]
    elif isinstance(node, list | tuple):
        if node and isinstance(node[0], str) and node[0] in names:
            return [node[0]]
        found = [s for value in node for s in _sources(value, names)]
    else:
        found = []
    return list(dict.fromkeys(found))


# Writing


def write_keras(
    path: str | os.PathLike[str],
    layers: Sequence[KerasLayer],
    input_shape: Sequence[int | None],
    name: str = "sequential",
) -> None:
    """Writes a Sequential model: by the ending of `path`, `.keras`, `.weights.h5` or `.h5`.

    input_shape: with batch and time, (None, None, 40, 40, 1). Raises ValueError for another ending.
    """
    text, h5py = str(path), _h5py()
    if text.endswith(".weights.h5"):
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            _write_weights(file, layers, name)
    elif text.endswith(".h5"):
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            _write_legacy(file, layers, input_shape, name)
    elif text.endswith(".keras"):
        weights = io.BytesIO()
        with h5py.File(weights, "w") as file:
            _write_weights(file, layers, name)
        now = datetime.now().strftime("%Y-%m-%d@%H:%M:%S")
        metadata = {"keras_version": KERAS_VERSION, "date_saved": now}
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr("metadata.json", json.dumps(metadata))
            archive.writestr("config.json", json.dumps(model_config(layers, input_shape, name)))
            archive.writestr("model.weights.h5", weights.getvalue())
    else:
        raise ValueError(f"write_keras: path must end in .keras, .weights.h5 or .h5, got {text}")


def model_config(
    layers: Sequence[KerasLayer], input_shape: Sequence[int | None], name: str = "sequential"
) -> dict[str, Any]:
    """The configuration of a Sequential model as Keras 3 reads it."""
    entries = [_entry("InputLayer", {"batch_shape": list(input_shape), "name": "input_layer"})]
    entries += [_entry(layer.class_name, {**layer.config, "name": layer.name}) for layer in layers]
    inner = {"name": name, "layers": entries, "build_input_shape": list(input_shape)}
    return {"module": "keras", "class_name": "Sequential", "config": inner, "registered_name": None}


def _entry(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": dict(config),
        "registered_name": None,
    }


def _write_weights(file, layers: Sequence[KerasLayer], name: str) -> None:
    counts: dict[str, int] = {}
    root = file.create_group("layers")
    file.create_group("vars").attrs["name"] = name
    for layer in layers:
        stem = CLASS_SNAKES.get(layer.class_name, layer.class_name.lower())
        number = counts.get(stem, 0)
        counts[stem] = number + 1
        node = root.create_group(f"{stem}_{number}" if number else stem)
        node.create_group("vars").attrs["name"] = layer.name
        holder = node["vars"]
        if layer.class_name.startswith("ConvLSTM"):
            holder = node.create_group("cell/vars")
            holder.attrs["name"] = "conv_lstm_cell"
        elif layer.class_name == "TimeDistributed":
            holder = node.create_group("layer/vars")
        for k, array in enumerate(layer.weights):
            holder.create_dataset(str(k), data=array)


def _weight_names(layer: KerasLayer) -> list[str]:
    if layer.class_name.startswith("ConvLSTM"):
        return [f"conv_lstm_cell/{n}" for n in ("kernel", "recurrent_kernel", "bias")]
    if layer.class_name == "BatchNormalization":
        names = ["gamma"] if layer.config.get("scale", True) else []
        names += ["beta"] if layer.config.get("center", True) else []
        return [*names, "moving_mean", "moving_variance"]
    return ["kernel", "bias"]


def _write_legacy(file, layers: Sequence[KerasLayer], input_shape, name: str) -> None:
    file.attrs["backend"] = "torch"
    file.attrs["keras_version"] = KERAS_VERSION
    file.attrs["model_config"] = json.dumps(model_config(layers, input_shape, name)).encode()
    root = file.create_group("model_weights")
    root.attrs["backend"] = "torch"
    root.attrs["keras_version"] = KERAS_VERSION
    root.attrs["layer_names"] = np.array([layer.name.encode() for layer in layers])
    root.create_group("top_level_model_weights").attrs["weight_names"] = np.array([], "S1")
    for layer in layers:
        node = root.create_group(layer.name)
        names = [f"{name}/{layer.name}/{w}" for w in _weight_names(layer)][: len(layer.weights)]
        node.attrs["weight_names"] = np.array([n.encode() for n in names] or [], "S")
        for path, array in zip(names, layer.weights, strict=True):
            node.create_dataset(path, data=array)
